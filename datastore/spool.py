"""The spool: batches that are safe on disk and wait for the writer.

Two halves: the endpoint puts, the writer consumes.  The directory is the
state: a file in `incoming/` is a durable batch, a file in `rejected/` one
that could not be read.  Nothing else in the system knows that the spool is a
directory, and the spool knows nothing of what a batch holds.

A spool file is, little-endian: the magic, a uint32 CRC-32 of all that
follows it, a uint64 length, and that many bytes.
"""

import calendar
import contextlib
import itertools
import os
import re
import stat
import struct
import time
import zlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from datastore import durable
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


class SpoolFileError(Exception):
    """The spool file is truncated, corrupt, or not ours."""


class Backlog(NamedTuple):
    """What waits: batches, their bytes, and when the oldest came.

    `oldest` is in s since the epoch; None if nothing waits.
    """

    batches: int
    size: int
    oldest: int | None


def measure_backlog(data_dir: Path) -> Backlog:
    """Return what waits for the writer; takes a second for some 200,000 batches.

    Nothing is created.  Raises OSError if there is no spool in `data_dir`, or
    it cannot be read.
    """
    names, size = [], 0
    for entry in os.scandir(data_dir / 'incoming'):
        if _NAME.fullmatch(entry.name):
            with contextlib.suppress(FileNotFoundError):  # stored just now
                size += entry.stat(follow_symlinks=False).st_size
                names.append(entry.name)
    if not names:
        return Backlog(0, 0, None)
    oldest = _NAME.fullmatch(min(names))
    assert oldest
    moment = tuple(map(int, oldest.group(*_TIME)))
    return Backlog(len(names), size, calendar.timegm(moment))


def remove_batch(data_dir: Path, name: str) -> None:
    """Remove a batch that is in the archive, or that was removed before.

    Nothing is created: who only reads an archive removes what a replay finds
    to be stored, and otherwise leaves everything as it is.  A crash before
    this leaves the batch to be stored again.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f'{os.fspath(data_dir)}/incoming/{name}')


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
        for directory in (self._tmp, self._incoming, self._rejected):
            durable.make_directory(directory)

    def put(self, station: int, content: bytes, upload: str | None = None) -> str:
        """Store a batch, durable when this returns, and return its name.

        The name ends in the id of the upload, or in one of its own.  Raises
        OSError, with nothing stored, if the disk does not take it.
        """
        name = _new_name(station, time.time_ns(), upload or new_upload_id())
        length = _LENGTH.pack(len(content))
        checksum = _CHECKSUM.pack(zlib.crc32(content, zlib.crc32(length)))
        spooled = b''.join((MAGIC, checksum, length, content))
        durable.put(self._incoming / name, spooled, self._tmp)
        return name

    def pending(self) -> dict[int, list[str]]:
        """Return the names of the waiting batches of each station, oldest first."""
        stations = defaultdict(list)
        for name in sorted(os.listdir(self._incoming)):
            if match := _NAME.fullmatch(name):
                stations[int(match['station'])].append(name)
        return dict(stations)

    def strangers(self) -> list[str]:
        """Return the names of what waits but cannot be a batch, by its name."""
        return [n for n in os.listdir(self._incoming) if not _NAME.fullmatch(n)]

    def get(self, name: str) -> bytes:
        """Return the content of a waiting batch.

        Raises SpoolFileError if the file is not whole, OSError if the disk
        does not give it.
        """
        return content_of(self._read(name))

    def _read(self, name: str) -> bytes:
        # Without pathlib and open(), which take several times what a read does.
        descriptor = os.open(
            f'{self._incoming_path}/{name}', os.O_RDONLY | os.O_CLOEXEC
        )
        try:
            content = os.read(descriptor, _PIECE)
            if len(content) < _PIECE:  # a file is read short at its end only
                return content
            pieces = [content]
            while piece := os.read(descriptor, _MAX_PIECE):
                pieces.append(piece)
            return b''.join(pieces)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Remove a batch that is in the archive, or that was removed before."""
        remove_batch(self._data_dir, name)

    def reject(self, name: str, error: str) -> None:
        """Set a file that cannot be read aside, untouched, beside its error."""
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
        os.rename(self._incoming / name, target)
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
        total = 0
        for entry in os.scandir(self._incoming):
            with contextlib.suppress(FileNotFoundError):  # stored just now
                total += entry.stat(follow_symlinks=False).st_size
        return total

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
    return file[_HEADER.size :]


def _new_name(station: int, received: int, upload: str) -> str:
    """Return a name for a batch that came at `received`, in ns since the epoch."""
    seconds, microseconds = divmod(received // 1000, 10**6)
    moment = time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))
    return f'{moment}.{microseconds:06}-{station}-{upload}.batch'
