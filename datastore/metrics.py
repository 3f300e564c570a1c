"""Counts what the programs do, for /metrics.

Each process counts in memory, and in a file that outlives it: the processes of
both programs add up, and a worker that is replaced takes nothing with it.  A
process takes the first file of its directory that no living process has
locked, and goes on from the counts in it.  So there are never more files than
there were processes at a time, and counts go on over restarts.

The files are written, not mapped into memory: the write to a page that a full
disk does not take raises OSError, where it would kill a process that had
mapped it.  A file has its full size from the start; what the disk refuses is
written the next time.  Nothing in here raises for a disk that fails.

A file is a magic and records, little-endian: a float64, the uint32 length of
a key, and the key, a JSON list of the metric's name and its labels' values,
padded with spaces to a multiple of 8 bytes.
"""

import contextlib
import errno
import fcntl
import io
import json
import math
import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datastore import durable
from datastore.upload_codes import EVENT_TYPES

Key = tuple[str, ...]  # the name of a metric, and the values of its labels
Counts = dict[Key, float]

MAGIC = b'HMETER1\n'  # the 1 is the version, of the format and of the buckets
_RECORD = struct.Struct('<dI')
_VALUE = struct.Struct('<d')
_ALIGNMENT = 8
_MAX_FILES = 1000


class Metric(NamedTuple):
    """One metric: `kind` is counter, histogram or gauge.

    `labels` are the names of its labels; `known` the values of its only label
    that are shown before they occur; `buckets` a histogram's upper bounds.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


RCODES = ('100', '201', '203', '205', '206', '208', '400')

UPLOADS = Metric(
    'datastore_uploads_total',
    'counter',
    'Uploads answered, by the code of the answer.',
    ('rcode',),
    RCODES,
)
EVENTS = Metric(
    'datastore_events_total',
    'counter',
    'Events that the endpoint spooled, by type.',
    ('type',),
    tuple(EVENT_TYPES),
)
UPLOAD_BYTES = Metric(
    'datastore_upload_bytes_total',
    'counter',
    'Bytes of the event lists that were answered 100.',
)
UPLOAD_SECONDS = Metric(
    'datastore_upload_seconds',
    'histogram',
    'Time from the start of a request to its answer.',
    buckets=(
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
        *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    ),
)
SUSPICIOUS_EVENTS = Metric(
    'datastore_suspicious_events_total',
    'counter',
    'Events kept in suspicious/, by the program that flagged them.',
    ('where',),
    ('endpoint', 'writer'),
)
STATION_UPLOADS = Metric(
    'datastore_station_uploads_total',
    'counter',
    'Uploads of listed stations, by the code of the answer.',
    ('station', 'rcode'),
)
STATION_EVENTS = Metric(
    'datastore_station_events_total',
    'counter',
    'Events in uploads of a station that were answered 100.',
    ('station',),
)
STORED_EVENTS = Metric(
    'datastore_stored_events_total', 'counter', 'Events that the writer archived.'
)
DUPLICATE_EVENTS = Metric(
    'datastore_duplicate_events_total',
    'counter',
    'Events that the archive held already, or that came twice at a time.',
)
COMMITS = Metric(
    'datastore_commits_total', 'counter', 'Commits of the writer to day files.'
)
JOURNAL_REPLAYS = Metric(
    'datastore_journal_replays_total',
    'counter',
    'Commits that a crash or a disk interrupted and the writer finished.',
)
REJECTED_BATCHES = Metric(
    'datastore_rejected_batches_total',
    'counter',
    'Spool files that the writer could not read and moved to rejected/.',
)
SWEEP_SECONDS = Metric(
    'datastore_sweep_seconds',
    'histogram',
    'Time of a sweep of the spool.',
    buckets=(0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0),
)
LAST_SWEEP = Metric(
    'datastore_last_sweep_timestamp_seconds',
    'gauge',
    'When the writer last finished a sweep, in seconds since the epoch.',
)

ENDPOINT_METRICS = (
    UPLOADS,
    EVENTS,
    UPLOAD_BYTES,
    UPLOAD_SECONDS,
    SUSPICIOUS_EVENTS,
    STATION_UPLOADS,
    STATION_EVENTS,
)
WRITER_METRICS = (
    STORED_EVENTS,
    DUPLICATE_EVENTS,
    SUSPICIOUS_EVENTS,
    COMMITS,
    JOURNAL_REPLAYS,
    REJECTED_BATCHES,
    SWEEP_SECONDS,
    LAST_SWEEP,
)
METRICS = tuple(dict.fromkeys(ENDPOINT_METRICS + WRITER_METRICS))
PROGRAMS = {'wsgi': ENDPOINT_METRICS, 'writer': WRITER_METRICS}
_GAUGES = {metric.name for metric in METRICS if metric.kind == 'gauge'}


class Metrics:
    """What this process has counted, and those before it in its file."""

    def __init__(self, data_dir: Path, program: str) -> None:
        """Go on from a file of `program` that no living process counts in."""
        self._directory = _directory(data_dir, program)
        self._file: io.FileIO | None = None
        # Where processes have threads, they count one after the other.
        self._lock = threading.Lock()
        self._content = bytearray(MAGIC)
        self._offsets: dict[Key, int] = {}
        self._unwritten = range(len(MAGIC))
        for metric in PROGRAMS[program]:
            for key in _keys_at_start(metric):
                self._append(key)
        self.write()

    def count(self, metric: Metric, amount: float = 1, *labels: str) -> None:
        """Add to a counter."""
        self._add((metric.name, *labels), amount)

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a histogram."""
        bucket = bisect_left(metric.buckets, value)
        bound = metric.buckets[bucket] if bucket < len(metric.buckets) else math.inf
        self._add((metric.name, repr(bound)), 1)
        self._add((metric.name, 'sum'), value)

    def set(self, metric: Metric, value: float) -> None:
        """Set a gauge."""
        with self._lock:
            self._put((metric.name,), value)

    def write(self) -> bool:
        """Write what has changed to the file; return whether the disk took it."""
        # A disk that does not take it now is asked again the next time.
        with self._lock, contextlib.suppress(OSError):
            if self._file is None:
                self._file = self._open()
            start, stop = self._unwritten.start, self._unwritten.stop
            changed = self._content[start:stop]
            self._file.seek(start)
            if self._file.write(changed) == stop - start:
                self._unwritten = range(0)
        return not self._unwritten

    def close(self) -> None:
        """Leave the file to another process; nothing is to be counted after."""
        self.write()
        if self._file is not None:
            self._file.close()

    def _add(self, key: Key, amount: float) -> None:
        with self._lock:
            offset = self._offsets.get(key)
            present = 0.0 if offset is None else self._value(offset)
            self._put(key, present + amount)

    def _value(self, offset: int) -> float:
        value: float = _VALUE.unpack_from(self._content, offset)[0]
        return value

    def _put(self, key: Key, value: float) -> None:
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._append(key)
        _VALUE.pack_into(self._content, offset, value)
        self._mark(offset, offset + _VALUE.size)

    def _append(self, key: Key) -> int:
        encoded = json.dumps(key).encode('ascii')
        encoded += b' ' * (-(_RECORD.size + len(encoded)) % _ALIGNMENT)
        offset = self._offsets[key] = len(self._content)
        self._content += _RECORD.pack(0.0, len(encoded)) + encoded
        self._mark(offset, len(self._content))
        return offset

    def _mark(self, start: int, stop: int) -> None:
        """Have these bytes of the content written, and all between such bytes."""
        if self._unwritten:
            start = min(start, self._unwritten.start)
            stop = max(stop, self._unwritten.stop)
        self._unwritten = range(start, stop)

    def _open(self) -> io.FileIO:
        """Take a file and return it, and add what was counted there before."""
        durable.make_directory(self._directory)
        for number in range(_MAX_FILES):
            path = self._directory / f'{number}.counts'
            descriptor = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, durable.FILE_MODE
            )
            file = io.FileIO(descriptor, 'r+')
            try:
                # A child that inherits the descriptor holds the lock, too, until
                # it ends; no other process is led to the same file.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._go_on_from(dict(_read(file.read())))
                if os.fstat(descriptor).st_size > len(self._content):
                    # A crash before this leaves a torn record at the end.
                    os.ftruncate(descriptor, len(self._content))
            except BlockingIOError:
                file.close()
                continue
            except BaseException:
                file.close()
                raise
            return file
        raise OSError(errno.EMFILE, 'too many processes', str(self._directory))

    def _go_on_from(self, found: Counts) -> None:
        """Add what was counted before.

        The records keep their places: a process that is killed while it
        writes them leaves old values or new ones.
        """
        counted = {key: self._value(offset) for key, offset in self._offsets.items()}
        self._content = bytearray(MAGIC)
        self._offsets = {}
        for key in dict.fromkeys([*found, *counted]):
            self._put(key, _sum(key, found.get(key, 0.0), counted.get(key, 0.0)))
        self._mark(0, len(self._content))


def counts_of(data_dir: Path, programs: Iterable[str]) -> Counts:
    """Return what the processes of these programs have counted, added up.

    Of gauges, the greatest.  A file that cannot be read counts nothing.
    """
    total: Counts = {}
    for program in programs:
        for path in _directory(data_dir, program).glob('*.counts'):
            try:
                content = path.read_bytes()
            except OSError:
                continue
            for key, value in _read(content):
                total[key] = _sum(key, total.get(key, 0.0), value)
    return total


def _directory(data_dir: Path, program: str) -> Path:
    return data_dir / 'metrics' / program


def _sum(key: Key, one: float, other: float) -> float:
    return max(one, other) if key[0] in _GAUGES else one + other


def _keys_at_start(metric: Metric) -> Iterator[Key]:
    if metric.kind == 'histogram':
        for bound in (*map(repr, metric.buckets), repr(math.inf), 'sum'):
            yield metric.name, bound
    elif metric.known:
        for label in metric.known:
            yield metric.name, label
    elif not metric.labels:
        yield (metric.name,)


def _read(content: bytes) -> Iterator[tuple[Key, float]]:
    """Yield what is counted in the content of a file, up to what is torn."""
    if not content.startswith(MAGIC):
        return
    offset = len(MAGIC)
    while offset + _RECORD.size <= len(content):
        value, length = _RECORD.unpack_from(content, offset)
        offset += _RECORD.size
        encoded = content[offset : offset + length]
        offset += length
        try:
            key = json.loads(encoded)
        except ValueError:
            return
        if (
            not isinstance(key, list)
            or set(map(type, key)) != {str}
            or not math.isfinite(value)
        ):
            return
        yield tuple(key), value
