"""Files of counts, each of which one process owns and every program may read.

A file `<directory>/<n>.tally` is a header of 4096 bytes, JSON padded with
spaces, which names the fields; then records of as many 64-bit integers.  The
first field is the number of whom a record is about.

A process takes the first file that it can lock, and counts on from what it
finds there.  So nothing is lost when a process is killed, the totals outlive
restarts, there are as many files as there ever were processes at once, and
nothing needs to be folded together, which a crash could do twice.

Records are written with `pwrite`, at 1.0 us; stores into a mapped file took
0.6 us here, but on a full disk, or a file that is cut short, they are answered
with SIGBUS, which kills a worker in the middle of an upload, where `pwrite`
returns an error.  Nothing is fsynced: a power cut takes back half a minute of
counts, and never an event.
"""

import contextlib
import fcntl
import json
import logging
import os
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from datastore import durable

FORMAT = 'datastore tally 1'
HEADER_SIZE = 4096  # bytes
DTYPE = '<i8' if sys.byteorder == 'little' else '>i8'

_MAX_FILES = 1000
_PAUSE = 60.0  # s until a file is looked for again, where none could be had


class Layout(NamedTuple):
    """What the records of a file hold.

    `add` adds the second record to the first, which is of the same number.
    """

    fields: tuple[str, ...]
    add: Callable[['array[int]', 'array[int]'], None]

    def new_record(self, number: int) -> 'array[int]':
        return array('q', [number, *[0] * (len(self.fields) - 1)])


class CountsFile:
    """The records that this process changes; not to be used across a fork.

    What the disk does not take is kept in memory and written with a later
    change.  Threads may share one.
    """

    def __init__(self, directory: Path, layout: Layout, logger: logging.Logger) -> None:
        self._directory = directory
        self._layout = layout
        self._logger = logger
        self._record_size = 8 * len(layout.fields)  # bytes
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._look_again = 0.0
        self._records: dict[int, array[int]] = {}
        self._offsets: dict[int, int] = {}
        self._unwritten: set[int] = set()
        self._has_complained = False

    @contextlib.contextmanager
    def changing(self, number: int) -> Iterator['array[int]']:
        """Let a record be changed, and write it.  Raises OSError."""
        with self._lock:
            self._take_file()
            if number not in self._records:
                self._records[number] = self._layout.new_record(number)
            yield self._records[number]
            self._unwritten.add(number)
            if self._file is not None:
                self._write(self._file, number)
                self._write_rest(self._file)

    def close(self) -> None:
        """Leave the file to another process."""
        with self._lock:
            if self._file is not None:
                with contextlib.suppress(OSError):  # nobody is left to write it
                    self._write_rest(self._file)
                with contextlib.suppress(OSError):  # nothing was buffered
                    self._file.close()
            self._file, self._look_again = None, 0.0
            # Another process may count on from them.
            self._records, self._offsets, self._unwritten = {}, {}, set()

    def complain(self, error: Exception) -> None:
        """Log why something is not counted, or not written, once."""
        if not self._has_complained:
            self._has_complained = True
            self._logger.warning('not all is counted in %s: %r', self._directory, error)

    def _write(self, file: FileIO, number: int) -> None:
        if number not in self._offsets:
            position = len(self._offsets)
            self._offsets[number] = HEADER_SIZE + self._record_size * position
        _pwrite(file, bytes(self._records[number]), self._offsets[number])
        self._unwritten.discard(number)

    def _write_rest(self, file: FileIO) -> None:
        """Write what a full disk did not take before, until it refuses again."""
        for number in list(self._unwritten):
            self._write(file, number)

    def _take_file(self) -> None:
        """Take the first file that no living process has, and count on from it."""
        if self._file is not None or time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + _PAUSE
        try:
            durable.make_directory(self._directory)
            file = _lock_a_file(self._directory)
            found = file.read()
            records = dict(_parse(found, self._layout))
            content = _header(self._layout) + b''.join(map(bytes, records.values()))
            if found != content:
                # It is new, or has the fields of another version, or a power
                # cut spoiled it.  A kill just here would spoil it again.
                _pwrite(file, content, 0)
                file.truncate(len(content))
        except OSError as error:
            self.complain(error)
            return
        self._offsets = {
            number: HEADER_SIZE + self._record_size * position
            for position, number in enumerate(records)
        }
        # What was counted before there was a file to write to.
        _add(records, self._records.items(), self._layout)
        self._records = records
        self._file = file


def read_counts(directory: Path, layout: Layout) -> 'dict[int, array[int]]':
    """Return the sums over the files of all processes, living and dead.

    Raises OSError if a file cannot be read.
    """
    total: dict[int, array[int]] = {}
    for path in directory.glob('*.tally'):
        _add(total, _parse(path.read_bytes(), layout), layout)
    return total


def _lock_a_file(directory: Path) -> FileIO:
    """Return a file that no other process has, which is made if there is none.

    The kernel frees the lock of a process that dies.
    """
    for number in range(1, _MAX_FILES + 1):
        path = directory / f'{number}.tally'
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        file = FileIO(os.open(path, flags, durable.FILE_MODE), 'r+')
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return file
    raise OSError(f'{_MAX_FILES} processes count in {directory}')


def _header(layout: Layout) -> bytes:
    document = {'format': FORMAT, 'dtype': DTYPE, 'fields': layout.fields}
    return json.dumps(document).encode('ascii').ljust(HEADER_SIZE - 1) + b'\n'


def _parse(content: bytes, layout: Layout) -> Iterator[tuple[int, 'array[int]']]:
    """Yield the records of a file by their number; of one that is spoiled, none.

    A file that another version wrote has other fields, by name.
    """
    try:
        header = json.loads(content[:HEADER_SIZE])
        if (header['format'], header['dtype']) != (FORMAT, DTYPE):
            return
        fields = list(header['fields'])
    except (ValueError, TypeError, KeyError):
        return
    size = 8 * len(fields)
    for start in range(HEADER_SIZE, len(content) - size + 1, size):
        record = array('q', content[start : start + size])
        if fields != list(layout.fields):
            by_name = dict(zip(fields, record, strict=True))
            record = array('q', [by_name.get(name, 0) for name in layout.fields])
        # A hole that a full disk left reads as zeros.
        if any(record):
            yield record[0], record


def _add(
    total: 'dict[int, array[int]]',
    records: Iterable[tuple[int, 'array[int]']],
    layout: Layout,
) -> None:
    for number, record in records:
        if number not in total:
            total[number] = layout.new_record(number)
        layout.add(total[number], record)


def _pwrite(file: FileIO, content: bytes, offset: int) -> None:
    written = os.pwrite(file.fileno(), content, offset)
    if written < len(content):
        raise OSError(f'the disk takes {written} of {len(content)} bytes')
