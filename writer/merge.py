"""Makes the one file a day that older programs read, of all station files.

    <Y>/<M>/<Y>_<M>_<D>.h5      /hisparc/cluster_<cluster>/station_<number>/...

It is a view, which can be made again at any time, and never changes: a new
one is written to tmp/ and renamed into place, so a program that has the old
one open reads on in that.  Programs look for files that are newer than their
last run, so a day of which nothing is new keeps its file, or at least the
file's time.

`/ingest/sources` is a table of what each station's file was when it was
merged.  Only stations whose file is another now are read; the others are
copied from the merged file before.  HDF5's own copying takes 0.17 s for a
station of 100 MB, 0.1 s of it for the bytes; reading and writing the blobs
takes 0.7 s, and appending to a copy of the file leaves holes in it where a
group is replaced.  Looking for damaged blobs first takes 0.3 s: HDF5 would read
some for ever, with the lock held.

What is in a merged file is never lost again because of a station file that is
damaged, gone, or shorter than it was: the copy that was merged stays.
"""

import contextlib
import errno
import fcntl
import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5o

from datastore import durable, layout
from datastore.upload_codes import TABLES, Column, Table
from writer.heaps import require_whole
from writer.journal import FileBusy, journal_path, try_lock
from writer.reading import Reading
from writer.storage import (
    DamagedFile,
    append_table,
    as_damage,
    describe_root,
    require_group,
)

_CHILDREN = (*(table.name for table in TABLES), 'blobs')

_SOURCES = Table(
    '',
    'sources',
    'Station files as they were when they were merged',
    (
        Column('station', 'uint64'),
        Column('size', 'uint64', unit='bytes'),
        Column('mtime', 'int64', unit='ns'),
        *(Column(name, 'uint32', unit='rows') for name in _CHILDREN),
    ),
)

_ROWS_AT_ONCE = 2**16  # rows or blobs that are compared together

_DAY_NAME = re.compile(r'(\d{1,4})_(\d{1,2})_(\d{1,2})')
_STATION_NAME = re.compile(r'station_(0|[1-9]\d{0,9})\.h5')


class NotOurs(Exception):
    """The merged file was made by something else, and stays."""


class Stopped(Exception):
    """Told to stop before the day was merged; nothing was changed."""


class Source(NamedTuple):
    """What a station's file was when it was merged, and how much it held.

    `mtime` is in ns; `lengths` are those of each table, and of `blobs`.
    """

    station: int
    size: int
    mtime: int
    lengths: dict[str, int]

    def is_still(self, status: os.stat_result) -> bool:
        """Return whether the file has not been written to since."""
        return (self.size, self.mtime) == (status.st_size, status.st_mtime_ns)


class Merged(NamedTuple):
    """What became of a day.

    `changed` says whether programs find a newer file than before; `replaced`
    is where a file that was not ours went.  Each of `faults` names a station
    that is missing, or not as new as it should be, and says why.
    """

    day: date
    path: Path
    stations: int
    rows: int
    blobs: int
    changed: bool
    seconds: float
    faults: list[str]
    replaced: Path | None = None


class _Previous(NamedTuple):
    """The merged file there is; `sources` by station, `lengths` by child's path."""

    h5: h5py.File | None  # None if it is damaged
    status: os.stat_result
    sources: dict[int, Source]
    lengths: dict[int, dict[str, int]]
    is_ours: bool


class _Fault(Exception):
    """A station's file cannot be merged, says why; its merged copy stays."""

    def __init__(self, station: int, why: object) -> None:
        super().__init__(station, str(why))
        self.station, self.why = station, str(why)


class Merger:
    """Makes the merged files under `data_dir`."""

    def __init__(
        self,
        data_dir: Path,
        reading: Reading,
        stop: threading.Event,
        min_free_space: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`min_free_space`, in bytes, is left on the disk: uploads come first."""
        self._data_dir = data_dir
        self._reading = reading
        self._stop = stop
        self._min_free_space = min_free_space or 0
        self._clock = clock

    def days(self) -> list[date]:
        """Return the days that the archive has a directory for, in order."""
        found = []
        for path in self._data_dir.glob(layout.DAYS):
            if match := _DAY_NAME.fullmatch(path.name):
                with contextlib.suppress(ValueError):  # 2026_2_30
                    day = date(*map(int, match.groups()))
                    if layout.day_directory(self._data_dir, day) == path:
                        found.append(day)
        return sorted(found)

    def path(self, day: date) -> Path:
        """Return where the merged file of a day is."""
        directory = layout.day_directory(self._data_dir, day)
        return directory.with_name(f'{directory.name}.h5')

    def merge(
        self, day: date, *, rebuild: bool = False, replace: bool = False
    ) -> Merged:
        """Merge a day, if one of its station files has changed since.

        With `rebuild` every station is taken from its file, even if that
        holds less than was merged.  With `replace` a file that is not ours
        goes to `replaced/`; stations that only it holds are copied from it.

        Raises NotOurs; FileBusy if another merge goes on, or somebody writes
        to the merged file; DamagedFile if that cannot be read; Stopped; or
        OSError if the disk fails.  Then nothing was changed.
        """
        started = self._clock()
        target = self.path(day)
        files = _station_files(self._data_dir, day)
        if not files:
            return Merged(day, target, 0, 0, 0, False, 0.0, [])
        with self._only_merge(), self._previous(target, replace) as previous:
            work = _Work(target, files, previous, rebuild)
            self._examine(work)
            changed, replaced = self._write(work)
        lengths = [source.lengths for source in work.sources.values()]
        blobs = sum(each['blobs'] for each in lengths)
        return Merged(
            day=day,
            path=target,
            stations=len(lengths),
            rows=sum(sum(each.values()) for each in lengths) - blobs,
            blobs=blobs,
            changed=changed,
            seconds=round(self._clock() - started, 3),
            faults=[f'station {n}: {why}' for n, why in sorted(work.faults.items())],
            replaced=replaced,
        )

    @contextlib.contextmanager
    def _only_merge(self) -> Iterator[None]:
        """Hold the lock on making merged files, which others may wait for."""
        path = self._data_dir / 'merge.lock'

        def lock() -> int:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(path, flags, durable.FILE_MODE)
            try:
                try_lock(descriptor, path, fcntl.LOCK_EX)
            except BaseException:
                os.close(descriptor)
                raise
            return descriptor

        try:
            descriptor = self._reading.locked(lock)
        except FileBusy:
            raise FileBusy(f'another merge works on {self._data_dir}') from None
        try:
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _previous(self, target: Path, replace: bool) -> Iterator[_Previous | None]:
        """Open the merged file there is, if any."""
        with contextlib.ExitStack() as stack:
            previous = None
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(target)
                try:
                    h5, status = stack.enter_context(self._reading.open(target))
                    with as_damage(target):
                        previous = _describe(h5, status)
                except DamagedFile:
                    previous = _Previous(None, status, {}, {}, is_ours=False)
            if previous and not previous.is_ours and not replace:
                raise NotOurs(
                    f'{target} was not made by `datastore merge`, or is damaged; '
                    '--replace keeps it in replaced/ and makes another'
                )
            yield previous

    def _examine(self, work: '_Work') -> None:
        """Find out which stations are to be copied from their files."""
        for station, path in work.files.items():
            if self._stop.is_set():
                raise Stopped
            try:
                known = work.sources.get(station)
                if (
                    known
                    and not work.rebuild
                    and known.is_still(os.stat(path))
                    and not journal_path(path).exists()
                ):
                    continue
                with self._reading.open(path) as file, as_damage(path):
                    work.compare(station, file.h5)
            except (FileBusy, DamagedFile, OSError) as error:
                work.give_up(station, error)

    def _write(self, work: '_Work') -> tuple[bool, Path | None]:
        """Write the merged file anew, if there is anything to change in it.

        Return whether it is newer, and where one that was not ours went.
        """
        tmp = self._data_dir / 'tmp'
        # Not there in an archive that came from a backup.
        durable.make_directory(tmp)
        for debris in tmp.glob('merge-*'):
            # Of a merge that was killed: while we hold the lock there is no other.
            debris.unlink(missing_ok=True)
        drafts = durable.place_for_drafts(work.target, tmp)
        while work.to_copy:
            self._check_space(work)
            draft = drafts / f'merge-{os.getpid()}-{time.time_ns():x}'
            try:
                sources = self._fill(draft, work)
                replaced = self._set_aside(work)
                _publish(draft, work)
            except _Fault as fault:
                # Found out while copying.  What it left in the draft would
                # stay there, so begin again without it.
                work.give_up(fault.station, fault.why)
            else:
                work.sources = sources
                return work.is_news or replaced is not None, replaced
            finally:
                # A crash before this leaves a file in tmp/, which the next merge
                # removes, or the writer an hour later.
                draft.unlink(missing_ok=True)
        return False, None

    def _check_space(self, work: '_Work') -> None:
        """Raise OSError if the draft would take the space that uploads need."""
        size = sum(path.stat().st_size for path in work.files.values())
        if work.previous:
            kept = sum(work.sources[n].size for n in work.sources.keys() - work.files)
            size += kept
        disk = os.statvfs(self._data_dir)
        if disk.f_bavail * disk.f_frsize - size < self._min_free_space:
            beside = ' beside min_free_space' if self._min_free_space else ''
            raise OSError(
                errno.ENOSPC,
                f'no room for a draft of {size / 1e6:,.0f} MB{beside}',
                str(self._data_dir),
            )

    def _fill(self, path: Path, work: '_Work') -> dict[int, Source]:
        """Write a draft of the merged file; return what it was made of."""
        durable.make_directory(path.parent)
        sources = {}
        with _Draft(path) as draft:
            try:
                with h5py.File(draft, 'w') as h5:
                    describe_root(h5)
                    for station in sorted(work.files.keys() | work.copies.keys()):
                        if self._stop.is_set():
                            raise Stopped
                        if source := self._copy(h5, station, work):
                            sources[station] = source
                        draft.check()
                    rows = _as_rows(sources.values())
                    append_table(require_group(h5, '/ingest'), _SOURCES, rows)
            finally:
                draft.check()  # HDF5 knows nothing of what the disk refused
            os.fsync(draft.fileno())
        return sources

    def _copy(self, h5: h5py.File, station: int, work: '_Work') -> Source | None:
        """Copy a station into a draft, from its file or as it was merged before."""
        if station in work.to_copy:
            path = work.files[station]
            try:
                with self._reading.open(path) as file, as_damage(path):
                    lengths = _lengths(file.h5, station)
                    _copy_children(file.h5, h5, lengths)
                    status = file.status
            except (FileBusy, DamagedFile, OSError) as error:
                raise _Fault(station, error) from error
            size, mtime = status.st_size, status.st_mtime_ns
            return Source(station, size, mtime, _by_child(lengths))
        if station in work.copies:
            assert work.previous
            with as_damage(work.target):
                _copy_children(work.previous.h5, h5, work.copies[station])
            return work.sources[station]
        return None

    def _set_aside(self, work: '_Work') -> Path | None:
        """Keep a merged file that is not ours under another name."""
        if work.previous is None or work.previous.is_ours:
            return None
        directory = self._data_dir / 'replaced'
        durable.make_directory(directory)
        name = f'{work.target.stem}.{time.time_ns():x}.h5'
        # A crash after this leaves it with two names.
        os.link(work.target, directory / name)
        durable.fsync_directory(directory)
        return directory / name


class _Work:
    """What is to be done about a day, while it becomes known."""

    def __init__(
        self,
        target: Path,
        files: dict[int, Path],
        previous: _Previous | None,
        rebuild: bool,
    ) -> None:
        self.target = target
        self.files = files
        self.previous = previous
        self.rebuild = rebuild
        self.sources = dict(previous.sources) if previous else {}
        # Children of each station in the merged file there is, by path.
        self.copies = previous.lengths if previous else {}
        self.to_copy: set[int] = set()
        self.faults: dict[int, str] = {}
        self._news: set[int] = set()
        for station in self.sources.keys() - files.keys():
            # There was none for what another program had merged.
            if self.sources[station].size:
                self.give_up(station, 'its file is gone')

    @property
    def is_news(self) -> bool:
        """Whether something in the merged file will be different."""
        return bool(self._news & self.to_copy)

    def give_up(self, station: int, why: object) -> None:
        """Leave the station as it was merged before."""
        stays = '; what was merged of it stays' if station in self.copies else ''
        self.faults[station] = f'{why}{stays}'
        self.to_copy.discard(station)

    def compare(self, station: int, h5: h5py.File) -> None:
        """Compare a station's file, of another size or time, with what was merged.

        Raises ValueError if the file holds less.
        """
        lengths = _lengths(h5, station)
        merged = self.copies.get(station, {})
        if not lengths:
            raise ValueError('holds nothing of the station')
        if not self.rebuild:
            for name, length in merged.items():
                if lengths.get(name, 0) < length:
                    raise ValueError(
                        f'{name} has {lengths.get(name, 0)} rows, and {length} were '
                        'merged; --rebuild takes it all the same'
                    )
        self.to_copy.add(station)
        if lacking := self._count_lacking(h5, merged):
            self.faults[station] = (
                f'rows of the file before that its own lacks: {lacking}; all are in '
                'the one that is kept in replaced/'
            )
        if self.rebuild or lengths != merged or not self._is_equal(h5, merged):
            self._news.add(station)

    def _count_lacking(self, h5: h5py.File, names: Iterable[str]) -> int:
        """Return how many rows that another program had merged are not in the file."""
        if self.previous is None or self.previous.is_ours:
            return 0
        merged = self.previous.h5
        if merged is None:
            return 0
        with as_damage(self.target):
            return sum(
                _count_others(merged[name], h5.get(name))
                for name in names
                if not name.endswith('/blobs')
            )

    def _is_equal(self, h5: h5py.File, names: Collection[str]) -> bool:
        assert self.previous and self.previous.h5
        merged = self.previous.h5
        blobs = [name for name in names if name.endswith('/blobs')]
        for name in blobs:
            require_whole(h5[name], Path(h5.filename))
        with as_damage(self.target):
            for name in blobs:
                require_whole(merged[name], self.target)
            return all(_same_rows(h5[name], merged[name]) for name in names)


class _Draft(io.FileIO):
    """A new file for HDF5 to write to, that keeps the disk's errors to itself.

    HDF5 makes of them what it will, and does not always close a file that it
    could not write; `check` raises the first.
    """

    def __init__(self, path: Path) -> None:
        def create(name: str, flags: int) -> int:
            return os.open(name, flags, durable.FILE_MODE)

        super().__init__(path, 'x+', opener=create)
        self._error: OSError | None = None

    def write(self, buffer: Any) -> int:
        view = memoryview(buffer).cast('B')
        if self._error is None:
            try:
                durable.write_all(self.fileno(), bytes(view))
            except OSError as error:
                self._error = error
        return len(view)

    def check(self) -> None:
        """Raise the first error of the disk, if there was one."""
        if self._error:
            name = str(self.name)
            raise OSError(self._error.errno, self._error.strerror, name) from None


def _publish(draft: Path, work: _Work) -> None:
    """Put a draft, which is on disk, where programs find it."""
    previous = work.previous.status if work.previous else None
    if previous:
        os.chmod(draft, stat.S_IMODE(previous.st_mode))
    old = previous if not work.is_news else None
    _set_time(draft, old)
    # A crash before this line leaves the file as it was.
    os.rename(draft, work.target)
    # Again: a program that looked for newer files between the two did not see
    # this one, and next time asks for what is newer than that.
    _set_time(work.target, old)
    durable.fsync_directory(work.target.parent)


def _set_time(path: Path, old: os.stat_result | None) -> None:
    if old:
        os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    else:
        os.utime(path)


def _station_files(data_dir: Path, day: date) -> dict[int, Path]:
    """Return the files of a day's stations by number, in order."""
    try:
        names = os.listdir(layout.day_directory(data_dir, day))
    except FileNotFoundError:
        return {}
    matches = (match for match in map(_STATION_NAME.fullmatch, names) if match)
    stations = sorted(int(match[1]) for match in matches)
    return {
        station: layout.station_file(data_dir, day, station) for station in stations
    }


def _describe(h5: h5py.File, status: os.stat_result) -> _Previous:
    is_ours = 'ingest/sources' in h5
    lengths = {}
    for cluster in h5['hisparc'].values() if 'hisparc' in h5 else ():
        for name in cluster:
            if match := re.fullmatch(r'station_(\d{1,10})', name):
                station = int(match[1])
                lengths[station] = _lengths(h5, station)
    # What a file that is not ours was made of, nobody knows.
    sources = {n: Source(n, 0, 0, _by_child(each)) for n, each in lengths.items()}
    for row in h5['ingest/sources'][:] if is_ours else ():
        station = int(row['station'])
        held = {name: int(row[name]) for name in _CHILDREN}
        sources[station] = Source(station, int(row['size']), int(row['mtime']), held)
    return _Previous(h5, status, sources, lengths, is_ours)


def _lengths(h5: h5py.File, station: int) -> dict[str, int]:
    """Return the length of a station's tables and blobs, by path."""
    found = {}
    for cluster in h5['hisparc'].values():
        group = cluster.get(f'station_{station}', ())
        for name in group:
            # Nothing else: consumers take whatever is there for a table.
            if name in _CHILDREN:
                found[group[name].name] = len(group[name])
    return found


def _by_child(lengths: Mapping[str, int]) -> dict[str, int]:
    """Return lengths by name; a station may have been in two clusters."""
    found = dict.fromkeys(_CHILDREN, 0)
    for path, length in lengths.items():
        found[path.rpartition('/')[2]] += length
    return found


def _copy_children(source: h5py.File, target: h5py.File, paths: Iterable[str]) -> None:
    for path in paths:
        parent, _, name = path.rpartition('/')
        if name == 'blobs':
            require_whole(source[path], Path(source.filename))
        group = require_group(target, parent)
        # Bytes as they are, attributes and all: blob indices stay true.
        h5o.copy(source.id, path.encode(), group.id, name.encode())


def _count_others(one: h5py.Dataset, other: h5py.Dataset | None) -> int:
    """Return how many rows of a table are of moments that the other has none of."""
    if other is None:
        return len(one)
    return int((~np.isin(_moments(one), _moments(other))).sum())


def _moments(table: h5py.Dataset) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return when each row was, in ns since the epoch."""
    rows = table[:]
    moments = rows['timestamp'].astype('u8') * np.uint64(10**9)
    if 'nanoseconds' in rows.dtype.names:
        moments += rows['nanoseconds'].astype('u8')
    return moments


def _same_rows(one: h5py.Dataset, other: h5py.Dataset) -> bool:
    """Return whether two tables, or blobs, of the same length are equal."""
    if one.dtype != other.dtype:
        return False
    for start in range(0, len(one), _ROWS_AT_ONCE):
        part, same = (d[start : start + _ROWS_AT_ONCE] for d in (one, other))
        if part.dtype == object:
            if any(a.tobytes() != b.tobytes() for a, b in zip(part, same, strict=True)):
                return False
        # As bytes: a NaN is equal to itself here.
        elif part.tobytes() != same.tobytes():
            return False
    return True


def _as_rows(sources: Iterable[Source]) -> np.ndarray[Any, np.dtype[Any]]:
    rows = [(s.station, s.size, s.mtime, *s.lengths.values()) for s in sources]
    return np.array(rows, dtype=_SOURCES.row_dtype)
