"""Selects the rows of one station's table across day files, in order of time.

A file is open only while a part of it is read, not while that part is written
to wherever it goes: who pages through an export does not hold up the writer.
Event files only grow, so what a row refers to is still there when its blobs
are read.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from datastore.event import EPOCH
from datastore.layout import station_file, year_directory
from datastore.upload_codes import Column, Table
from writer.heaps import require_whole
from writer.reading import Reading
from writer.storage import DamagedFile, as_damage

_ROWS_AT_ONCE = 2**16  # 6 MB of events
_ROWS_WITH_BLOBS = 2**12  # some 5 MB of traces as text
_GAP = 64  # blobs that nobody asked for, but are read rather than skipped

_SAMPLES = re.compile(rb'-?\d{1,9}(?:,-?\d{1,9})*')  # what a trace unfolds to
_MAX_TRACE = 2**24  # bytes of that; a readout window takes some 10^5

_Rows = np.ndarray[Any, np.dtype[Any]]  # of the table's row dtype
_Indices = np.ndarray[Any, np.dtype[np.intp]]

Blobs = list[str | None] | list[list[str | None]]


class Part(NamedTuple):
    """Some rows, of the table's row dtype, and the content of their blobs.

    `blobs` has for each blob column a list as long as the rows, of text; or
    of lists of it, one a detector.  A trace is text as well, '31,30,28'.
    None is what the station did not send.
    """

    rows: np.ndarray[Any, np.dtype[Any]]
    blobs: dict[str, Blobs]


class Selection:
    """The rows of a station's table from `start` up to `end`.

    Both are naive, as events' own times are, and whole seconds.
    """

    def __init__(
        self,
        data_dir: Path,
        reading: Reading,
        station: int,
        table: Table,
        start: datetime,
        end: datetime,
        with_blobs: bool = False,
    ) -> None:
        self._data_dir = data_dir
        self._reading = reading
        self._station = station
        self.table = table
        self._start, self._end = start, end
        self._with_blobs = with_blobs
        self.undecodable = 0  # traces met so far that are not what they should be
        self.tables_met: set[str] = set()  # tables in the files met so far

    @property
    def columns(self) -> list[Column]:
        """The columns that make sense outside of the file."""
        return [c for c in self.table.columns if self._with_blobs or not c.is_blob]

    def parts(self) -> Iterator[Part]:
        """Yield the rows, day by day, in order of time.

        Raises FileBusy, DamagedFile or OSError where a file cannot be read.
        """
        for path in self._paths():
            groups, rows, origins = self._rows(path)
            at_once = _ROWS_WITH_BLOBS if self._with_blobs else _ROWS_AT_ONCE
            for first in range(0, len(rows), at_once):
                some = slice(first, first + at_once)
                part = rows[some]
                yield Part(part, self._blobs(path, groups, part, origins[some]))

    def _paths(self) -> Iterator[Path]:
        # By exact paths: who may open a file need not be allowed to list them.
        first = self._start.date()
        last = (self._end - timedelta(seconds=1)).date()
        for year in range(first.year, last.year + 1):
            if not _is_there(year_directory(self._data_dir, year)):
                continue  # somebody may ask for everything since the year 1
            # By number: there is no day after the last of the year 9999.
            begin = max(first, date(year, 1, 1)).toordinal()
            end = min(last, date(year, 12, 31)).toordinal()
            for day in map(date.fromordinal, range(begin, end + 1)):
                path = station_file(self._data_dir, day, self._station)
                if _is_there(path):
                    yield path

    def _rows(self, path: Path) -> tuple[list[str], _Rows, _Indices]:
        """Return the groups of one day, its rows, and the group of each row.

        A station that moved to another cluster that day is in two groups.
        """
        start, end = (
            (moment - EPOCH) // timedelta(seconds=1)
            for moment in (self._start, self._end)
        )
        groups: list[str] = []
        found, origins = [np.empty(0, self.table.row_dtype)], [np.empty(0, np.intp)]
        with self._reading.open(path) as file, as_damage(path):
            for cluster in file.h5['hisparc'].values():
                group = cluster.get(f'station_{self._station}', {})
                self.tables_met.update(name for name in group if name != 'blobs')
                if self.table.name not in group:
                    continue
                if group[self.table.name].dtype != self.table.row_dtype:
                    raise ValueError(f'{self.table.name} has other columns')
                rows = group[self.table.name][:]
                times = rows['timestamp']
                found.append(rows[(times >= start) & (times < end)])
                origins.append(np.full(len(found[-1]), len(groups)))
                groups.append(group.name)
        rows = np.concatenate(found)
        # Late data stands at the end.
        keys = [rows['timestamp']]
        if self.table.has_nanoseconds:
            keys.insert(0, rows['nanoseconds'])
        order = np.lexsort(keys)
        return groups, rows[order], np.concatenate(origins)[order]

    def _blobs(
        self, path: Path, groups: list[str], rows: _Rows, origins: _Indices
    ) -> dict[str, Blobs]:
        if not self._with_blobs or not self.table.blob_columns:
            return {}
        contents = {}
        with self._reading.open(path) as file, as_damage(path):
            for origin in np.unique(origins).tolist():
                own = rows[origins == origin]
                indices = [own[name].ravel() for name in self.table.blob_columns]
                wanted = np.unique(np.concatenate(indices))
                path_of_blobs = f'{groups[origin]}/blobs'
                contents[origin] = _read(file.h5, path_of_blobs, wanted[wanted >= 0])
        return {
            column.name: [
                self._decode(column, index, contents[origin])
                for index, origin in zip(rows[column.name].tolist(), origins.tolist())
            ]
            for column in self.table.columns
            if column.is_blob
        }

    def _decode(self, column: Column, indices: Any, contents: dict[int, bytes]) -> Any:
        if isinstance(indices, list):
            return [self._decode(column, index, contents) for index in indices]
        content = contents.get(indices, b'')
        if column.encoding != 'base64':
            return content.decode('latin-1') if indices in contents else None
        if not content:
            return None
        trace = _unfold(content)
        self.undecodable += trace is None
        return trace


def _is_there(path: Path) -> bool:
    """Return whether a path exists; raises OSError if that cannot be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _read(h5: h5py.File, path: str, wanted: np.ndarray[Any, Any]) -> dict[int, bytes]:
    """Return the blobs at these indices, which are in order."""
    if not len(wanted):
        return {}
    if path not in h5 or wanted[-1] >= len(h5[path]):
        raise DamagedFile(f'{h5.filename}: refers to blobs that are not there')
    require_whole(h5[path], Path(h5.filename), wanted.tolist())
    contents = {}
    for run in np.split(wanted, np.flatnonzero(np.diff(wanted) > _GAP) + 1):
        first = int(run[0])
        blobs = h5[path][first : int(run[-1]) + 1]
        for index in run.tolist():
            contents[index] = blobs[index - first].tobytes()
    return contents


def _unfold(content: bytes) -> str | None:
    """Return a compressed trace as text; None if it is not one."""
    unfolder = zlib.decompressobj()
    try:
        text = unfolder.decompress(content, _MAX_TRACE)
    except zlib.error:
        return None
    text = text.rstrip(b', \r\n')
    if not unfolder.eof or not _SAMPLES.fullmatch(text):
        return None
    return text.decode('ascii')


def samples(trace: str) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the samples of a trace, in ADC counts."""
    return np.fromstring(trace, dtype='i4', sep=',')


def elements(column: Column) -> Sequence[str]:
    """Return the names of a column's elements: one a detector, or its own."""
    if not column.shape:
        return (column.name,)
    return [f'{column.name}_{number + 1}' for number in range(column.shape[0])]
