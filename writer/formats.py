"""Writes selected rows as CSV, TSV, npz or Parquet, as they come.

Integers stay exact in all of them.  Each format is a class that is given a
binary stream, which need not be seekable, then parts, then closed.
"""

import csv
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from datastore.upload_codes import Column
from writer.export import Part, elements, samples

_ZIP: Any = {'compression': zipfile.ZIP_DEFLATED, 'compresslevel': 3}
_BATCH = 2**25  # bytes of a Parquet row group, uncompressed


class MissingLibrary(Exception):
    """A format needs a library that is not installed; names it."""


class Format(Protocol):
    """What the formats have in common."""

    def write(self, part: Part) -> None: ...
    def close(self) -> None: ...


class Text:
    """A line for each row, between columns a `delimiter`.

    A column of four detectors becomes four columns, `pulseheights_1` and so
    on; true is 1; a trace is its samples with commas between them; a blob that
    is missing is an empty text.
    """

    def __init__(
        self,
        stream: IO[bytes],
        columns: Sequence[Column],
        delimiter: str,
        comments: Iterable[str],
    ) -> None:
        """`comments` are lines for the top, which get a `# ` before them."""
        self._columns = columns
        self._lines = io.TextIOWrapper(stream, 'utf-8', newline='')
        self._lines.writelines(f'# {comment}\n' for comment in comments)
        self._writer = csv.writer(_LineEnds(self._lines), delimiter=delimiter)
        self._writer.writerow(name for c in columns for name in elements(c))

    def write(self, part: Part) -> None:
        cells: list[Sequence[Any]] = []
        for column in self._columns:
            if column.is_blob:
                found: Any = part.blobs[column.name]
                cells += zip(*found, strict=True) if column.shape else [found]
                continue
            values = part.rows[column.name]
            if values.dtype.kind == 'f':
                # The shortest text that reads as the same number again.
                values = values.astype(str)
            cells += values.T.tolist() if column.shape else [values.tolist()]
        self._writer.writerows(zip(*cells, strict=True))

    def close(self) -> None:
        self._lines.flush()
        self._lines.detach()


class _LineEnds:
    r"""Ends a line with `\n` that csv.writer ends with `\r\n`.

    Before Python 3.13 it puts quotes around a text with `\r` or `\n` only if its
    own lines end so; who reads the file ends a row at either.
    """

    def __init__(self, lines: IO[str]) -> None:
        self._lines = lines

    def write(self, line: str) -> None:
        self._lines.write(f'{line[:-2]}\n')


class Npz:
    """An array for each column, as numpy.load reads them; shape (n,) or (n, 4).

    Blobs, which differ in length, stand one after the other in an array:
    int32 samples, or uint8 of latin-1 text; `<name>_offsets` says where each
    begins and ends, four to a row where a column has four detectors.
    """

    def __init__(
        self, stream: IO[bytes], columns: Sequence[Column], scratch: Path | None
    ) -> None:
        """`scratch` is where columns are kept until all rows are known."""
        self._stream = stream
        self._columns = columns
        self._arrays: dict[str, _GrowingArray] = {}
        for column in columns:
            if column.is_blob:
                dtype = 'int32' if column.encoding == 'base64' else 'uint8'
                self._arrays[column.name] = _GrowingArray(dtype, (), scratch)
                offsets = _GrowingArray('int64', (), scratch)
                offsets.append(np.zeros(1))
                self._arrays[f'{column.name}_offsets'] = offsets
            else:
                array = _GrowingArray(column.dtype, column.shape, scratch)
                self._arrays[column.name] = array

    def write(self, part: Part) -> None:
        for column in self._columns:
            array = self._arrays[column.name]
            if not column.is_blob:
                array.append(part.rows[column.name])
                continue
            begin = array.length
            arrays = [_numbers(column, blob) for blob in _flat(column, part)]
            lengths = [len(each) for each in arrays]
            array.append(np.concatenate(arrays))
            self._arrays[f'{column.name}_offsets'].append(begin + np.cumsum(lengths))

    def close(self) -> None:
        with zipfile.ZipFile(_Counting(self._stream), 'w', **_ZIP) as archive:
            for name, array in self._arrays.items():
                with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
                    array.write_to(file)


class _GrowingArray:
    """An array in a temporary file, of which the length is not known yet."""

    def __init__(
        self, dtype: str, shape: tuple[int, ...], scratch: Path | None
    ) -> None:
        self._dtype = np.dtype(dtype)
        self._shape = shape
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115
        self.length = 0

    def append(self, values: np.ndarray[Any, Any]) -> None:
        self._file.write(np.ascontiguousarray(values, dtype=self._dtype).tobytes())
        self.length += len(values)

    def write_to(self, file: IO[bytes]) -> None:
        header = {
            'descr': np.lib.format.dtype_to_descr(self._dtype),
            'fortran_order': False,
            'shape': (self.length, *self._shape),
        }
        np.lib.format.write_array_header_1_0(file, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 2**20)
        self._file.close()


class Parquet:
    """A column for each column, of lists where it has four detectors.

    Text blobs are strings; traces are lists of int32 in a list of four; what
    is missing is null.  The metadata of a column has its unit.
    """

    def __init__(self, stream: IO[bytes], columns: Sequence[Column]) -> None:
        """Raises MissingLibrary without pyarrow."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingLibrary('parquet needs pyarrow: pip install pyarrow') from None
        self._arrow = pyarrow
        self._columns = columns
        self._schema = pyarrow.schema([self._field(column) for column in columns])
        self._writer = pyarrow.parquet.ParquetWriter(_Counting(stream), self._schema)
        self._pending: list[Any] = []

    def _field(self, column: Column) -> Any:
        arrow = self._arrow
        if column.is_blob:
            is_trace = column.encoding == 'base64'
            kind = arrow.list_(arrow.int32()) if is_trace else arrow.string()
        else:
            kind = arrow.from_numpy_dtype(np.dtype(column.dtype))
        if column.shape:
            kind = arrow.list_(kind)
        unit = {'unit': column.unit} if column.unit else None
        return arrow.field(column.name, kind, metadata=unit)

    def write(self, part: Part) -> None:
        arrays = [self._array(column, part) for column in self._columns]
        self._pending.append(self._arrow.record_batch(arrays, schema=self._schema))
        if sum(batch.nbytes for batch in self._pending) >= _BATCH:
            self._flush()

    def _array(self, column: Column, part: Part) -> Any:
        arrow = self._arrow
        if not column.is_blob:
            values = np.ascontiguousarray(part.rows[column.name], dtype=column.dtype)
            if not column.shape:
                return arrow.array(values)
            ends = np.arange(len(values) + 1, dtype='i4') * column.shape[0]
            return arrow.ListArray.from_arrays(ends, arrow.array(values.ravel()))
        if column.encoding != 'base64':
            return arrow.array(part.blobs[column.name], type=arrow.string())
        traces = _flat(column, part)
        arrays = [_numbers(column, trace) for trace in traces]
        # A list that begins nowhere is null.
        ends = np.cumsum([0, *map(len, arrays)])
        begins = arrow.array(ends, type=arrow.int32(), mask=_missing(traces))
        lists = arrow.ListArray.from_arrays(begins, np.concatenate(arrays))
        rows = np.arange(len(part.rows) + 1, dtype='i4') * column.shape[0]
        return arrow.ListArray.from_arrays(rows, lists)

    def _flush(self) -> None:
        if self._pending:
            table = self._arrow.Table.from_batches(self._pending)
            self._writer.write_table(table)
            self._pending.clear()

    def close(self) -> None:
        self._flush()
        self._writer.close()


class _Counting(io.RawIOBase):
    """A stream that knows its position, even of a pipe, and never seeks."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, buffer: Any) -> int:
        view = memoryview(buffer).cast('B')
        self._stream.write(view)
        self._position += len(view)
        return len(view)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Leave it to the stream."""


def _flat(column: Column, part: Part) -> list[str | None]:
    blobs: Any = part.blobs[column.name]
    return [blob for row in blobs for blob in row] if column.shape else blobs


def _missing(blobs: list[str | None]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([*(blob is None for blob in blobs), False])


def _numbers(column: Column, blob: str | None) -> np.ndarray[Any, Any]:
    if blob is None:
        return np.empty(0, dtype='i4' if column.encoding == 'base64' else 'u1')
    if column.encoding == 'base64':
        return samples(blob)
    return np.frombuffer(blob.encode('latin-1'), dtype='u1')
