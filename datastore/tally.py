"""What happens to each station, counted by every process in a file of its own.

A file `<data_dir>/status/<n>.tally` is a header of 4096 bytes, JSON padded with
spaces, which names the fields; then a record for each station, of as many
64-bit integers, the station's number first.  Station 0 stands for uploads of
stations that are not listed, or that could not be told.  Any program may read
the files at any time; what a station did is the sum over all files (of `last_*`
and `*_at` the latest, of `*_today` those of the latest `day`).

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
import functools
import json
import logging
import os
import sys
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import FileIO
from operator import attrgetter
from pathlib import Path
from typing import Any

from datastore import durable
from datastore.event import Event
from datastore.heartbeat import status_directory
from datastore.upload_codes import EVENT_TYPES

FORMAT = 'datastore tally 1'
HEADER_SIZE = 4096  # bytes
DTYPE = '<i8' if sys.byteorder == 'little' else '>i8'

NOBODY = 0  # no station's number: whoever is not listed, or could not be told
REFUSALS = (201, 203, 205, 206, 208, 400)

# Everything is a count but `day`, in days since 1970, UTC, and times, in s since
# the epoch.  `last_event` is by the station's clock, the others by ours.
FIELDS = (
    'station',
    'uploads',
    'bytes',
    'last_upload',
    'last_event',
    'suspicious',
    'stored',
    'duplicates',
    *(f'refused_{rcode}' for rcode in REFUSALS),
    *(f'refused_{rcode}_at' for rcode in REFUSALS),
    *(f'events_{event_type}' for event_type in EVENT_TYPES),
    'day',
    *(f'events_{event_type}_today' for event_type in EVENT_TYPES),
)
_AT = {name: position for position, name in enumerate(FIELDS)}
_TODAY = [at for name, at in _AT.items() if name.endswith('_today')]
_LATEST = [
    at
    for name, at in _AT.items()
    if name in ('station', 'day') or name.startswith('last_') or name.endswith('_at')
]
_COUNTS = sorted(set(_AT.values()) - set(_TODAY) - set(_LATEST))
_RECORD_SIZE = 8 * len(FIELDS)  # bytes

_DAY = 86400  # s
_MAX_FILES = 1000
_PAUSE = 60.0  # s until a file is looked for again, where none could be had

Counts = dict[str, int]  # of one station, by field

_type_of = attrgetter('event_type')
_time_of = attrgetter('timestamp')


def _never_failing(count: Callable[..., None]) -> Callable[..., None]:
    """Log, once, that a count cannot be kept, instead of raising."""

    @functools.wraps(count)
    def guarded(self: 'Tally', *arguments: Any) -> None:
        try:
            count(self, *arguments)
        except Exception as error:
            # Nothing narrower: an upload does not fail because of its count.
            self.complain(error)

    return guarded


class Tally:
    """What this process counts.  No method raises; each costs some microseconds.

    What the disk does not take is kept in memory and written with a later
    count.  Threads may share one; it is not to be used across a fork.
    """

    def __init__(
        self,
        data_dir: Path,
        logger: logging.Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._logger = logger
        self._directory = status_directory(data_dir)
        self._clock = clock
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._look_again = 0.0
        self._records: dict[int, array[int]] = {}
        self._offsets: dict[int, int] = {}
        self._unwritten: set[int] = set()
        self._has_complained = False

    @_never_failing
    def taken(
        self, station: int, size: int, events: Sequence[Event], suspicious: int
    ) -> None:
        """Count an upload of `size` bytes that was answered 100.

        `events` are its good ones, `suspicious` counts the others.
        """
        now = int(self._clock())
        with self._changing(station) as record:
            if record[_AT['day']] != now // _DAY:
                record[_AT['day']] = now // _DAY
                for at in _TODAY:
                    record[at] = 0
            record[_AT['uploads']] += 1
            record[_AT['bytes']] += size
            record[_AT['last_upload']] = now
            record[_AT['suspicious']] += suspicious
            if events:
                latest = max(map(_time_of, events))
                record[_AT['last_event']] = max(record[_AT['last_event']], latest)
            for event_type, count in Counter(map(_type_of, events)).items():
                record[_AT[f'events_{event_type}']] += count
                record[_AT[f'events_{event_type}_today']] += count

    @_never_failing
    def refused(self, station: int | None, rcode: int) -> None:
        """Count an upload that was answered `rcode`.

        `station` is None unless it is listed: a sender that makes up numbers
        is not to make records.
        """
        with self._changing(NOBODY if station is None else station) as record:
            record[_AT[f'refused_{rcode}']] += 1
            record[_AT[f'refused_{rcode}_at']] = int(self._clock())

    @_never_failing
    def appended(
        self, station: int, stored: int, duplicates: int, suspicious: int
    ) -> None:
        """Count what the writer made of a station's events."""
        with self._changing(station) as record:
            record[_AT['stored']] += stored
            record[_AT['duplicates']] += duplicates
            record[_AT['suspicious']] += suspicious

    def close(self) -> None:
        """Leave the file to another process."""
        with self._lock:
            if self._file is not None:
                with contextlib.suppress(OSError):  # nothing was buffered
                    self._file.close()
            self._file, self._look_again = None, 0.0
            # Another process may count on from them.
            self._records, self._offsets = {}, {}

    def complain(self, error: Exception) -> None:
        """Log why something is not counted, or not written, once."""
        if not self._has_complained:
            self._has_complained = True
            self._logger.warning('not all is counted in %s: %r', self._directory, error)

    @contextlib.contextmanager
    def _changing(self, station: int) -> Iterator['array[int]']:
        """Let a record be changed, and write it."""
        with self._lock:
            self._take_file()
            if station not in self._records:
                self._records[station] = _new_record(station)
            yield self._records[station]
            self._unwritten.add(station)
            if self._file is not None:
                self._write(self._file, station)
                # What a full disk did not take before, until it refuses again.
                for other in list(self._unwritten):
                    self._write(self._file, other)

    def _write(self, file: FileIO, station: int) -> None:
        if station not in self._offsets:
            self._offsets[station] = HEADER_SIZE + _RECORD_SIZE * len(self._offsets)
        _pwrite(file, bytes(self._records[station]), self._offsets[station])
        self._unwritten.discard(station)

    def _take_file(self) -> None:
        """Take the first file that no living process has, and count on from it."""
        if self._file is not None or time.monotonic() < self._look_again:
            return
        self._look_again = time.monotonic() + _PAUSE
        try:
            durable.make_directory(self._directory)
            file = _lock_a_file(self._directory)
            found = file.read()
            records = dict(_parse(found))
            content = _header() + b''.join(map(bytes, records.values()))
            if found != content:
                # It is new, or has the fields of another version, or a power
                # cut spoiled it.  A kill just here would spoil it again.
                _pwrite(file, content, 0)
                file.truncate(len(content))
        except OSError as error:
            self.complain(error)
            return
        self._offsets = {
            number: HEADER_SIZE + _RECORD_SIZE * position
            for position, number in enumerate(records)
        }
        # What was counted before there was a file to write to.
        _add(records, self._records.items())
        self._records = records
        self._file = file


def read_tallies(data_dir: Path) -> dict[int, Counts]:
    """Return what all processes, living and dead, counted for each station.

    Uploads that are no listed station's are counted for NOBODY.  Raises
    OSError if a file cannot be read.
    """
    total: dict[int, array[int]] = {}
    for path in status_directory(data_dir).glob('*.tally'):
        _add(total, _parse(path.read_bytes()))
    return {
        number: dict(zip(FIELDS, record, strict=True))
        for number, record in total.items()
    }


def no_counts() -> Counts:
    """Return the counts of a station that nothing is known of."""
    return dict.fromkeys(FIELDS, 0)


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


def _header() -> bytes:
    document = {'format': FORMAT, 'dtype': DTYPE, 'fields': FIELDS}
    return json.dumps(document).encode('ascii').ljust(HEADER_SIZE - 1) + b'\n'


def _parse(content: bytes) -> Iterator[tuple[int, 'array[int]']]:
    """Yield the records of a file by their station; of one that is spoiled, none.

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
        if fields != list(FIELDS):
            by_name = dict(zip(fields, record, strict=True))
            record = array('q', [by_name.get(name, 0) for name in FIELDS])
        # A hole that a full disk left reads as zeros.
        if any(record):
            yield record[0], record


def _add(
    total: dict[int, 'array[int]'], records: Iterable[tuple[int, 'array[int]']]
) -> None:
    for number, record in records:
        if number not in total:
            total[number] = _new_record(number)
        sums = total[number]
        is_later_day = record[_AT['day']] > sums[_AT['day']]
        is_earlier_day = record[_AT['day']] < sums[_AT['day']]
        for at in _TODAY:
            if is_later_day:
                sums[at] = 0
            if not is_earlier_day:
                sums[at] += record[at]
        for at in _COUNTS:
            sums[at] += record[at]
        for at in _LATEST:
            sums[at] = max(sums[at], record[at])


def _new_record(station: int) -> 'array[int]':
    record = array('q', bytes(_RECORD_SIZE))
    record[_AT['station']] = station
    return record


def _pwrite(file: FileIO, content: bytes, offset: int) -> None:
    written = os.pwrite(file.fileno(), content, offset)
    if written < len(content):
        raise OSError(f'the disk takes {written} of {len(content)} bytes')
