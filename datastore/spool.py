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
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from datastore import durable
from datastore.upload_id import new_upload_id

MAGIC = b'HSPOOL1\n'  # the 1 is the format's version
_HEADER = struct.Struct('<8sIQ')
_LENGTH = struct.Struct('<Q')

# When it came, in UTC to the microsecond, then the station, then the upload's id.
_NAME = re.compile(
    r'(?P<moment>\d{8}T\d{6}\.\d{6})-(?P<station>\d{1,10})-[0-9a-f]{8}\.batch'
)

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
    moment = datetime.strptime(min(names)[:15], '%Y%m%dT%H%M%S')
    return Backlog(len(names), size, calendar.timegm(moment.timetuple()))


def count_rejected(data_dir: Path) -> int:
    """Return how many spool files could not be read.  Raises OSError."""
    names = os.listdir(data_dir / 'rejected')
    return sum(not name.endswith('.error') for name in names)


class Spool:
    """The batches under `data_dir` that are not in the archive yet."""

    def __init__(self, data_dir: Path) -> None:
        self._tmp = data_dir / 'tmp'
        self._incoming = data_dir / 'incoming'
        self._rejected = data_dir / 'rejected'
        for directory in (self._tmp, self._incoming, self._rejected):
            durable.make_directory(directory)

    def put(self, station: int, content: bytes, upload: str | None = None) -> str:
        """Store a batch, durable when this returns, and return its name.

        The name ends in the id of the upload, or in one of its own.  Raises
        OSError, with nothing stored, if the disk does not take it.
        """
        seconds, microseconds = divmod(time.time_ns() // 1000, 10**6)
        moment = time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))
        upload = upload or new_upload_id()
        name = f'{moment}.{microseconds:06}-{station}-{upload}.batch'
        body = _LENGTH.pack(len(content)) + content
        header = MAGIC + struct.pack('<I', zlib.crc32(body))
        durable.put(self._incoming / name, header + body, self._tmp)
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
        content = (self._incoming / name).read_bytes()
        if len(content) < _HEADER.size:
            raise SpoolFileError(f'{len(content)} bytes are too few for a header')
        magic, checksum, length = _HEADER.unpack_from(content)
        if magic != MAGIC:
            raise SpoolFileError(f'starts with {magic!r} instead of {MAGIC!r}')
        if length != len(content) - _HEADER.size:
            raise SpoolFileError(
                f'holds {len(content) - _HEADER.size} bytes instead of {length}'
            )
        if checksum != zlib.crc32(memoryview(content)[-length - _LENGTH.size :]):
            raise SpoolFileError('its checksum does not match')
        return content[_HEADER.size :]

    def remove(self, name: str) -> None:
        """Remove a batch that is in the archive, or that was removed before.

        A crash before this leaves the batch to be stored again.
        """
        (self._incoming / name).unlink(missing_ok=True)

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
