"""The spool: batches that are safe on disk and wait for the writer.

Two halves: the endpoint appends, the writer consumes.  The directory is the
state: `incoming/` has the batches that are durable, most of them in segments and
some in files of their own, `rejected/` those that could not be read.  Nothing
else in the system knows that the spool is a directory, and the spool knows
nothing of what a batch holds.

A spool file is, little-endian: the magic, a uint32 CRC-32 of all that
follows it, a uint64 length, and that many bytes.
"""

import calendar
import contextlib
import errno
import itertools
import os
import re
import stat
import struct
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from datastore import durable, segment
from datastore.upload_id import new_upload_id

MAGIC = b'HSPOOL1\n'  # the 1 is the format's version
_HEADER = struct.Struct('<8sIQ')
_CHECKSUM = struct.Struct('<I')
_LENGTH = struct.Struct('<Q')

# When it came, in UTC to the microsecond, then the station, then the upload's id.
_NAME = re.compile(
    r'(?P<year>[1-9][0-9]{3})(?P<month>0[1-9]|1[0-2])(?P<day>0[1-9]|[12][0-9]|3[01])T'
    r'(?P<hour>[01][0-9]|2[0-3])(?P<minute>[0-5][0-9])(?P<second>[0-5][0-9])'
    r'\.[0-9]{6}-(?P<station>[0-9]{1,10})-[0-9a-f]{8}\.batch'
)
_TIME = ('year', 'month', 'day', 'hour', 'minute', 'second')
_REJECTED_NAME = re.compile(rf'(?P<name>{_NAME.pattern})(\.\d+)?')

_PIECE, _MAX_PIECE = 2**14, 2**24  # bytes that are read at first, and after

_MAX_STEM = 60  # characters of a rejected file's name that are kept
DEBRIS_AGE = 3600  # seconds after which a file in tmp/ is debris of a crash


# Nobody can tell that from a disk that has lost a part of a batch: it is kept.
TORN = (
    'a part of it is not on the disk; if the power was cut as it came, its station '
    'was not answered 100, and sends it again'
)


class SpoolFileError(Exception):
    """The spool file is truncated, corrupt, or not ours."""


class Backlog(NamedTuple):
    """What waits: batches, their bytes, and when the oldest came.

    `oldest` is in s since the epoch; None if nothing waits.  Of `unreadable` files
    the disk does not give what waits in them.
    """

    batches: int
    size: int
    oldest: int | None
    unreadable: int = 0


class Waiting(NamedTuple):
    """What is in `incoming/`.

    `batches` has the names of each station's, oldest first.  `strangers` cannot
    be batches; why not stands beside their names.  `unreadable` is what the disk
    does not give.
    """

    batches: dict[int, list[str]]
    strangers: dict[str, str]
    unreadable: list[OSError]


def measure_backlog(data_dir: Path) -> Backlog:
    """Return what waits for the writer; takes a second for some 200,000 batches.

    Nothing is created.  Raises OSError if there is no spool in `data_dir`, or
    it cannot be read.
    """
    incoming, names, size = _Incoming(data_dir / 'incoming'), [], 0
    for name in incoming.files:
        if _NAME.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):  # stored just now
                size += os.lstat(f'{incoming.path}/{name}').st_size
                names.append(name)
    for name, places in incoming.places.items():
        if _NAME.fullmatch(name):
            size += places[0].length or 0
            names.append(name)
    unreadable = len(incoming.unreadable)
    if not names:
        return Backlog(0, 0, None, unreadable)
    oldest = _NAME.fullmatch(min(names))
    assert oldest
    moment = tuple(map(int, oldest.group(*_TIME)))
    return Backlog(len(names), size, calendar.timegm(moment), unreadable)


def remove_batches(data_dir: Path, names: Iterable[str]) -> None:
    """Remove batches that are in the archive, or that were removed before.

    Nothing is created: who only reads an archive removes what a replay finds
    to be stored, and otherwise leaves everything as it is.  A crash before
    this leaves the batches to be stored again.
    """
    _remove(data_dir / 'incoming', names, {})


def _remove(
    directory: Path, names: Iterable[str], places: dict[str, list[segment.Place]]
) -> None:
    """Remove batches, in files or in segments; those at `places` are known."""
    known, lost = [], []
    for name in names:
        if name in places:
            known += places.pop(name)
        else:
            try:
                os.unlink(f'{os.fspath(directory)}/{name}')
            except FileNotFoundError:
                lost.append(name)
    if lost:
        found = _Incoming(directory).places
        for name in lost:
            known += found.get(name, [])
    segment.remove(known)


class _Incoming:
    """What is in the directory of waiting batches, at this moment.

    `files` are the names of all but segments.  `places` has what waits in
    those, by name.  A name has more than one place where a person has copied a
    segment.  Segments are opened with `flags`; `alive` is called before each.
    """

    def __init__(
        self,
        directory: Path,
        flags: int = os.O_RDONLY,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = os.fspath(directory)
        self.files: list[str] = []
        self.segments: list[str] = []  # paths
        self.places: dict[str, list[segment.Place]] = {}
        self.no_segments: dict[str, str] = {}
        self.unreadable: list[OSError] = []
        for name in os.listdir(directory):
            if segment.IN_USE.fullmatch(name):
                alive()
                self._look_into(name, flags)
            elif not segment.FREE.fullmatch(name):
                self.files.append(name)

    def _look_into(self, name: str, flags: int) -> None:
        path = f'{self.path}/{name}'
        try:
            found = segment.contents(path, flags)
        except FileNotFoundError:
            return  # used again, or removed, just now
        except (segment.SegmentError, IsADirectoryError) as error:
            self.no_segments[name] = str(error)
            return
        except OSError as error:
            self.unreadable.append(error)
            return
        self.segments.append(path)
        for batch, place in found.batches:
            self.places.setdefault(batch, []).append(place)
        for place in found.damaged:
            self.places[f'{name}.{place.page}'] = [place]
        if found.error:
            self.unreadable.append(found.error)


def count_rejected(data_dir: Path) -> int:
    """Return how many spool files could not be read.  Raises OSError."""
    names = os.listdir(data_dir / 'rejected')
    return sum(not name.endswith('.error') for name in names)


class SpoolFile(NamedTuple):
    """What a file says of itself, and what it is; for a person.

    `magic`, `checksum` and `length` are what its header says, None where it is
    too short for one; `computed` is the checksum of what it holds, `content`
    what follows the header.
    """

    size: int
    magic: bytes
    checksum: int | None
    computed: int | None
    length: int | None
    content: bytes


class Rejected(NamedTuple):
    """A rejected file.

    `size` is in bytes, None for a directory; `rejected` in s since the epoch;
    `error` is why, empty if nothing says so.  `station` and `arrival`, its day
    as YYYYMMDD in UTC, are known if the name tells.
    """

    name: str
    size: int | None
    rejected: float
    error: str
    station: int | None
    arrival: str | None


class Spool:
    """The batches under `data_dir` that are not in the archive yet."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._tmp = data_dir / 'tmp'
        self._incoming = data_dir / 'incoming'
        self._incoming_path = os.fspath(self._incoming)
        self._rejected = data_dir / 'rejected'
        # Where the batches are that waited in segments when this was looked at.
        self._places: dict[str, list[segment.Place]] = {}
        self._segments: list[str] = []
        # Open, for one thread each.
        self._open: deque[segment.Segment] = deque()
        for directory in (self._tmp, self._incoming, self._rejected):
            durable.make_directory(directory)

    def append(self, station: int, content: bytes, upload: str | None = None) -> str:
        """Store a batch among others, as `put` does, in a fraction of the time.

        Any number of threads may.  What they leave open is for `close`, or the end
        of the process.
        """
        name, spooled = _spooled(station, content, upload)
        opened = self._segment_for(len(spooled))
        if opened is None:
            durable.put(self._incoming / name, spooled, self._tmp)
            return name
        try:
            opened.append(name, spooled)
        except BaseException:
            opened.close()
            raise
        self._open.append(opened)
        return name

    def _segment_for(self, length: int) -> segment.Segment | None:
        """Return a segment that takes a file of `length` bytes, if there can be one."""
        if length > segment.LARGEST:
            return None
        with contextlib.suppress(IndexError):
            opened = self._open.pop()
            try:
                if opened.takes(length):
                    return opened
            except BaseException:
                opened.close()
                raise
            opened.close()
        try:
            claimed = segment.claim(self._incoming)
            return claimed or segment.make(self._incoming, self._tmp)
        except OSError:
            # A disk may have room for a file, or take one; if not, that says why.
            return None

    def close(self) -> None:
        """Leave the segments that were appended to."""
        while self._open:
            self._open.pop().close()

    def put(self, station: int, content: bytes, upload: str | None = None) -> str:
        """Store a batch in a file, durable when this returns, and return its name.

        The name ends in the id of the upload, or in one of its own.  Raises
        OSError, with nothing stored, if the disk does not take it.
        """
        name, spooled = _spooled(station, content, upload)
        durable.put(self._incoming / name, spooled, self._tmp)
        return name

    def waiting(self, alive: Callable[[], None] = lambda: None) -> Waiting:
        """Return what is there, and remember where; for who removes it.

        `alive` is called while it is looked at.  Raises OSError if the directory
        cannot be read.
        """
        # A segment that cannot be written to is not to be stored: it would be
        # again, with every sweep.
        incoming = _Incoming(self._incoming, os.O_RDWR, alive)
        self._places, self._segments = incoming.places, incoming.segments
        stations: dict[int, list[str]] = defaultdict(list)
        strangers = dict(incoming.no_segments)
        for name in sorted({*incoming.files, *incoming.places}):
            if match := _NAME.fullmatch(name):
                stations[int(match['station'])].append(name)
            elif name in incoming.places:
                strangers[name] = 'this part of a segment is damaged, or missing'
            else:
                strangers[name] = 'this is not the name of a spool file'
        return Waiting(dict(stations), strangers, incoming.unreadable)

    def pending(self) -> dict[int, list[str]]:
        """Return the names of the waiting batches of each station, oldest first."""
        return self.waiting().batches

    def get(self, name: str) -> bytes:
        """Return the content of a waiting batch.

        Raises SpoolFileError if the file is not whole, OSError if the disk
        does not give it.
        """
        if name in self._places:
            return self._whole(name)[_HEADER.size :]
        return content_of(self._read(name))

    def _whole(self, name: str) -> bytes:
        """Return the file of a batch from where it is whole; raises as `get`."""
        failures: list[Exception] = []
        for place in self._places[name]:
            try:
                file, is_torn = segment.read(place)
                _check(file)
            except SpoolFileError as error:
                failures.append(SpoolFileError(TORN) if is_torn else error)
            except OSError as error:
                failures.insert(0, error)  # which may pass
            else:
                return file
        raise failures[0]

    def _read(self, name: str) -> bytes:
        # Without pathlib and open(), which take several times what a read does.
        descriptor = os.open(
            f'{self._incoming_path}/{name}', os.O_RDONLY | os.O_CLOEXEC
        )
        try:
            pieces, size = [], _PIECE
            # To its end, as it may be read short at a bad sector too, and the error
            # comes next.
            while piece := os.read(descriptor, size):
                pieces.append(piece)
                size = _MAX_PIECE
            return b''.join(pieces)
        finally:
            os.close(descriptor)

    def remove(self, names: Iterable[str]) -> None:
        """Remove batches that are in the archive, or that were removed before."""
        _remove(self._incoming, names, self._places)

    def recycle(self) -> list[Exception]:
        """Let segments in which nothing waits any more be used again.

        The few batches that wait on in one, for a file that is damaged, say, are
        moved to files of their own: the disk would fill with what was stored
        beside them.  Returns what was in the way; raises OSError if the
        directory cannot be read.
        """
        waiting: dict[str, dict[str, segment.Place]] = defaultdict(dict)
        for name, places in self._places.items():
            for place in places:
                waiting[place.path][name] = place
        trouble: list[Exception] = []
        for path in self._segments:
            try:
                if path not in waiting or self._empty(path, waiting[path]):
                    segment.release(path)
            except (OSError, segment.SegmentError) as error:
                trouble.append(error)
        segment.tidy(self._incoming)
        return trouble

    def _empty(self, path: str, places: dict[str, segment.Place]) -> bool:
        """Move what waits in a segment to files, if that is little and all batches."""
        if not (
            all(map(_NAME.fullmatch, places))
            and segment.is_to_be_emptied(path, places.values())
        ):
            return False
        for name in places:
            try:
                file = self._whole(name)
            except SpoolFileError:
                return False  # it waits to be rejected
            durable.put(self._incoming / name, file, self._tmp)
            # A crash here leaves it in both, to be recognised.
            self.remove([name])
        return True

    def reject(self, name: str, error: str) -> None:
        """Set a file that cannot be read aside, untouched, beside its error.

        Raises OSError if the disk does not take it, or somebody writes to it.
        """
        path = self._incoming / name
        if (
            segment.IN_USE.fullmatch(name)
            and path.is_file()
            and not segment.is_left(str(path))
        ):
            raise BlockingIOError(errno.EAGAIN, 'it is being written to', str(path))
        # Some of these names are not ours: too long to add to, seen before, or
        # what an explanation would be called.
        stem, copies = name[:_MAX_STEM], itertools.count(2)
        if stem.endswith('.error'):
            stem += '.file'
        target = self._rejected / stem
        while target.exists():
            target = self._rejected / f'{stem}.{next(copies)}'
        explanation = target.with_name(f'{target.name}.error')
        durable.put(explanation, f'{error}\n'.encode(), self._tmp)
        # A crash here leaves an explanation without its file; the next sweep
        # writes it again and moves the file.
        if name in self._places:
            file, _ = segment.read(self._places[name][0])
            durable.put(target, file, self._tmp)
            # A crash here leaves it to be rejected once more.
            self.remove([name])
        else:
            os.rename(path, target)
            durable.fsync_directory(self._rejected)

    def rejected(self) -> list[Rejected]:
        """Return the rejected files, by name."""
        files = []
        for name in sorted(os.listdir(self._rejected)):
            if not name.endswith('.error'):
                with contextlib.suppress(FileNotFoundError):  # retried just now
                    files.append(self._rejected_file(name))
        return files

    def _rejected_file(self, name: str) -> Rejected:
        path = self._rejected / name
        status = path.lstat()
        rejected, error = status.st_mtime, ''
        explanation = path.with_name(f'{name}.error')
        with contextlib.suppress(FileNotFoundError):
            rejected = explanation.stat().st_mtime
            error = explanation.read_text(encoding='utf-8', errors='replace').strip()
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        match = _REJECTED_NAME.fullmatch(name)
        station = int(match['station']) if match else None
        arrival = match['name'][:8] if match else None
        return Rejected(name, size, rejected, error, station, arrival)

    def read_rejected(self, name: str) -> bytes:
        """Return the content of a rejected file, whatever it is."""
        return (self._rejected / name).read_bytes()

    def retry(self, name: str, station: int, received: int) -> str:
        """Put a rejected file back among those that wait; return its name there.

        That is the name it came with, or one made of `station` and `received`,
        in ns since the epoch, if that was none of the spool's, or is taken.
        """
        match = _REJECTED_NAME.fullmatch(name)
        target = self._incoming / (match['name'] if match else '')
        if not match or target.exists():
            target = self._incoming / _new_name(station, received, new_upload_id())
        explanation = self._rejected / f'{name}.error'
        before = explanation.stat() if explanation.exists() else None
        # A crash here leaves the file in one directory or in the other.
        os.rename(self._rejected / name, target)
        durable.fsync_directory(self._incoming)
        durable.fsync_directory(self._rejected)
        # A crash here leaves an explanation without its file, which nobody
        # lists.  The writer may have rejected it again by now, and said why.
        with contextlib.suppress(FileNotFoundError):
            if before and os.path.samestat(before, explanation.stat()):
                explanation.unlink()
        return target.name

    def size(self) -> int:
        """Return how many bytes of batches are waiting."""
        return measure_backlog(self._data_dir).size

    def check_writable(self) -> None:
        """Raise OSError if this process may not put a batch; leaves nothing."""
        for directory in (self._tmp, self._incoming):
            durable.check_writable(directory)

    def remove_debris(self) -> int:
        """Delete what a crash left in tmp/ over an hour ago; return how many."""
        oldest = time.time() - DEBRIS_AGE
        removed = 0
        for entry in os.scandir(self._tmp):
            with contextlib.suppress(FileNotFoundError):  # renamed into place
                status = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode) and status.st_mtime < oldest:
                    os.unlink(entry)
                    removed += 1
        return removed


def examine(file: bytes) -> SpoolFile:
    """Return what the content of a file, whole or not, says of itself."""
    magic = file[: len(MAGIC)]
    if len(file) < _HEADER.size:
        return SpoolFile(len(file), magic, None, None, None, b'')
    _, checksum, length = _HEADER.unpack_from(file)
    computed = zlib.crc32(memoryview(file)[_HEADER.size - _LENGTH.size :])
    content = file[_HEADER.size :]
    return SpoolFile(len(file), magic, checksum, computed, length, content)


def content_of(file: bytes) -> bytes:
    """Return the batch in the content of a file; raises SpoolFileError."""
    _check(file)
    return file[_HEADER.size :]


def _check(file: bytes) -> None:
    """Raise SpoolFileError unless a file is whole."""
    if len(file) < _HEADER.size:
        raise SpoolFileError(f'{len(file)} bytes are too few for a header')
    magic, checksum, length = _HEADER.unpack_from(file)
    if magic != MAGIC:
        raise SpoolFileError(f'starts with {magic!r} instead of {MAGIC!r}')
    if length != len(file) - _HEADER.size:
        raise SpoolFileError(
            f'holds {len(file) - _HEADER.size} bytes instead of {length}'
        )
    if checksum != zlib.crc32(memoryview(file)[-length - _LENGTH.size :]):
        raise SpoolFileError('its checksum does not match')


def _spooled(station: int, content: bytes, upload: str | None) -> tuple[str, bytes]:
    """Return a name for a batch that comes now, and its file."""
    name = _new_name(station, time.time_ns(), upload or new_upload_id())
    length = _LENGTH.pack(len(content))
    checksum = _CHECKSUM.pack(zlib.crc32(content, zlib.crc32(length)))
    return name, b''.join((MAGIC, checksum, length, content))


def _new_name(station: int, received: int, upload: str) -> str:
    """Return a name for a batch that came at `received`, in ns since the epoch."""
    seconds, microseconds = divmod(received // 1000, 10**6)
    moment = time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))
    return f'{moment}.{microseconds:06}-{station}-{upload}.batch'
