"""Segments: files of the spool in which many batches wait.

To make a file for each batch, and to remove it, is most of what an upload costs
the disk: two flushes, and on a file system with a journal two commits of that.
A segment is made once, and full of zeros.  A batch is then written into its
place with one flush, and nothing else changes.  When all of its batches are in
the archive, it is used again.

A segment is 4 MiB in pages of 4096 bytes, little-endian:

    page 0    magic, 16 bytes: the use, and a uint32 CRC-32 of these
    page 1-2  marks, 8 bytes for each page
    page 3-   records, each from the start of a page

A record is the use, a uint32 CRC-32 of the next two, the batch's name in 48
bytes, a uint64 length, and that many bytes: what a spool file of its own would be.
Each of its pages ends in a stamp, the first 8 bytes of the use.

Each use is random.  A record of an earlier one lacks it, and is not there; where
it is zero, the segment is free.  A record is removed by a stamp among the marks, at
the place of its first page.  A process that marks a record late, when the segment
is used again, thereby says nothing.  A power cut may leave a last record some of
whose pages lack their stamps: if they never were on the disk, nobody was told that
the batch is.

Who writes records holds a lock (flock) on the segment for as long.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from datastore import durable

MAGIC = b'HSSEGM1\n'  # the 1 is the format's version
SIZE = 2**22  # bytes
PAGE = 2**12
_FIRST = 3 * PAGE  # where records start
_USE, _STAMP = 16, 8  # bytes
_STAMPED = PAGE - _STAMP  # bytes of a page before its stamp
_FREE = bytes(_USE)
_IDENTITY = struct.Struct('<48sQ')
_RECORD = struct.Struct('<16sI48sQ')

# Bytes of a batch's file that fit.
LARGEST = (SIZE - _FIRST) // PAGE * _STAMPED - _RECORD.size

# With a tilde: what `rsync --backup` makes of one that was there before.
IN_USE = re.compile(r'[0-9a-f]+-[0-9]+-[0-9a-f]{8}\.segment~?')
FREE = re.compile(r'[0-9a-f]+-[0-9]+-[0-9a-f]{8}\.free')
# Free segments that are kept, 256 MB: what a network of some hundred stations
# sends between two sweeps.
_KEPT = 64
# What has to be free on the disk, or there is no segment made nor kept: others
# need room as well, the writer first of all.
_ROOM = 4 * SIZE  # bytes
# What is moved out of a segment, so that it can be used for others.
_FEW = SIZE // 8  # bytes

_PIECE = 2**20  # bytes of zeros that are written together


class SegmentError(Exception):
    """The file is no segment."""


class Place(NamedTuple):
    """Where a batch is: the pages of its record, and how long its file is, in bytes.

    Where a record is damaged, or the segment is cut off, `length` is None.
    """

    path: str
    use: bytes
    page: int
    pages: int
    length: int | None


class Contents(NamedTuple):
    """What waits in a segment: batches by name, and what can be none.

    `error` is what the disk said where it did not give some of it.
    """

    batches: list[tuple[str, Place]]
    damaged: list[Place]
    error: OSError | None


class Segment:
    """A segment that this process writes to, until it is closed."""

    def __init__(self, path: str, descriptor: int, use: bytes) -> None:
        self._path = path
        self._descriptor = descriptor
        self._use = use
        self._end = _FIRST

    def takes(self, length: int) -> bool:
        """Return whether a batch's file of `length` bytes still fits.

        Not if the segment has been taken away, or its directory: what is
        written to it then, nobody finds.  Raises OSError.
        """
        if self._end + _pages(length) * PAGE > SIZE:
            return False
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._descriptor))

    def append(self, name: str, file: bytes) -> None:
        """Write a batch's file, durable when this returns.

        Raises OSError if the disk does not take it; the batch is not there
        then, and nothing more is to be written to this segment.
        """
        identity = _IDENTITY.pack(name.encode('ascii'), len(file))
        checksum = zlib.crc32(identity).to_bytes(4, 'little')
        # Its use comes last: until then there is no record, and who reads now
        # never sees half of one.
        record = b''.join((_FREE, checksum, identity, file))
        stamp = self._use[:_STAMP]
        pieces: list[bytes] = []
        for start in range(0, len(record), _STAMPED):
            pieces += record[start : start + _STAMPED], stamp
        # To the end of a page: it has a stamp there, and the kernel would read
        # the rest of it first.
        pieces.insert(-1, bytes(-len(record) % _STAMPED))
        stamped = b''.join(pieces)
        try:
            _write_at(self._descriptor, stamped, self._end)
            _write_at(self._descriptor, self._use, self._end)
            os.fdatasync(self._descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                _write_at(self._descriptor, _FREE, self._end)
            raise
        self._end += len(stamped)

    def close(self) -> None:
        """Leave the segment to be used again when its batches are stored."""
        os.close(self._descriptor)


def claim(directory: Path) -> Segment | None:
    """Return a free segment of the spool in `directory`; None if there is none."""
    for name in sorted(filter(FREE.fullmatch, os.listdir(directory))):
        # Another process may be faster, and any file may be broken.
        with contextlib.suppress(OSError):
            if claimed := _claimed(directory, f'{os.fspath(directory)}/{name}'):
                return claimed
    return None


def _claimed(directory: Path, path: str) -> Segment | None:
    descriptor = _open(path, os.O_RDWR)
    try:
        if _lock(descriptor) and _is_free(descriptor):
            # All of its records are in the archive, and from here on they are
            # gone.  The first one is written when that is on the disk, and the
            # name as well.
            use = os.urandom(_USE)
            _write_at(descriptor, _head(use), 0)
            os.fdatasync(descriptor)
            # A crash here leaves a file that `tidy` removes.  Never a name that
            # was there before: a rename would replace that file.
            target = f'{os.fspath(directory)}/{durable.new_name()}.segment'
            os.rename(path, target)
            durable.fsync_directory(directory)
            return Segment(target, descriptor, use)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def make(directory: Path, tmp: Path) -> Segment:
    """Make a segment of the spool in `directory`.

    `tmp` is a directory on the same file system, where a crash leaves debris.
    Raises OSError, leaving nothing behind, if the disk has no room for it, and
    something to spare.
    """
    if is_scarce(directory):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))
    target = f'{os.fspath(directory)}/{durable.new_name()}.segment'
    use = os.urandom(_USE)
    draft, descriptor = durable.new_draft(tmp)
    made = draft
    try:
        _lock(descriptor)
        # Written, not only allocated: or the file system would have to note
        # for each page when it was first written.
        for _ in range(0, SIZE, _PIECE):
            durable.write_all(descriptor, bytes(_PIECE))
        _write_at(descriptor, _head(use), 0)
        os.fsync(descriptor)
        os.rename(draft, target)
        made = target
        durable.fsync_directory(directory)
    except BaseException:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            os.unlink(made)
        raise
    return Segment(target, descriptor, use)


def is_scarce(directory: Path) -> bool:
    """Return whether the disk has little room left."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize < _ROOM


def contents(path: str, flags: int = os.O_RDONLY) -> Contents:
    """Return what waits in a segment, opened with `flags`.

    Raises SegmentError if it is none, OSError if the disk does not give it.
    """
    with _opened(path, flags) as descriptor:
        return _contents(path, descriptor)


def _contents(path: str, descriptor: int) -> Contents:
    head = _read_at(descriptor, _FIRST, 0)
    use = head[len(MAGIC) :][:_USE]
    if len(head) < _FIRST or _is_of_another_version(head):
        raise SegmentError(f'{path} is no segment of this version')
    if not head.startswith(_head(use)):
        # Its first sector is damaged: what its first record is of, it is of.
        record = _record(descriptor, _FIRST // PAGE)
        use = record[:_USE]
        if _parse(record, use, SIZE // PAGE) == (None, None):
            raise SegmentError(f'{path} is no segment')
    found = Contents([], [], None)
    if use == _FREE:
        return found
    for name, place in _records(path, descriptor, use):
        mark = PAGE + _STAMP * place.page
        if head[mark : mark + _STAMP] == use[:_STAMP]:
            continue  # removed
        if isinstance(name, OSError):
            found = found._replace(error=name)
        elif name is None:
            found.damaged.append(place)
        else:
            found.batches.append((name, place))
    return found


def _records(
    path: str, descriptor: int, use: bytes
) -> Iterator[tuple[str | OSError | None, Place]]:
    """Yield all records of a use, removed or not; damaged ones without a name.

    What the disk does not give, with what it said.
    """
    size = os.fstat(descriptor).st_size
    page, end = _FIRST // PAGE, min(-(-size // PAGE), SIZE // PAGE)
    while page < end:
        name: str | OSError | None
        following = None
        try:
            name, length = _parse(_record(descriptor, page), use, end - page)
            if length is None:
                following = _next_record(descriptor, use, page, end)
                # It may have come just now, and the one that follows it as well.
                record = _record(descriptor, page)
                name, length = _parse(record, use, end - page)
            if length is None and following is None and not record.startswith(use):
                break
        except OSError as error:
            name, length = error, None
            following = _next_record(descriptor, use, page, end)
        # Records follow each other, so up to the next one this was one.
        pages = (following or end) - page if length is None else _pages(length)
        yield name, Place(path, use, page, pages, length)
        page += pages
    if end < SIZE // PAGE:
        yield None, Place(path, use, end, 0, None)


def _head(use: bytes) -> bytes:
    """Return what a segment of this use starts with."""
    return MAGIC + use + zlib.crc32(MAGIC + use).to_bytes(4, 'little')


def _is_of_another_version(head: bytes) -> bool:
    magic = head[: len(MAGIC)]
    return magic != MAGIC and re.fullmatch(rb'HSSEGM[0-9]\n', magic) is not None


def _record(descriptor: int, page: int) -> bytes:
    return _read_at(descriptor, _RECORD.size, page * PAGE)


def _parse(record: bytes, use: bytes, room: int) -> tuple[str, int] | tuple[None, None]:
    """Return the name and length of a file that is within `room` pages."""
    if len(record) == _RECORD.size and record.startswith(use):
        _, checksum, name, length = _RECORD.unpack(record)
        if checksum == zlib.crc32(record[-_IDENTITY.size :]) and _pages(length) <= room:
            return name.rstrip(b'\0').decode('ascii'), length
    return None, None


def _pages(length: int) -> int:
    """Return how many pages the record of a file of `length` bytes takes."""
    return -(-(_RECORD.size + length) // _STAMPED)


def _next_record(descriptor: int, use: bytes, page: int, end: int) -> int | None:
    """Return the page of the next record behind `page`; None if there is none."""
    for following in range(page + 1, end):
        if _starts(descriptor, use, following):
            return following
    return None


def _starts(descriptor: int, use: bytes, page: int) -> bool:
    """Return whether a record of this use starts at a page that can be read."""
    try:
        return os.pread(descriptor, _USE, page * PAGE) == use
    except OSError:
        return False


def read(place: Place) -> tuple[bytes, bool]:
    """Return the file of a batch, or of what is damaged all there is.

    With whether a power cut may have come before all of it was on the disk.
    Raises FileNotFoundError if the segment is gone or used for others, OSError if
    the disk does not give it.
    """
    stamp = place.use[:_STAMP]
    pages = range(0, place.pages * PAGE, PAGE)
    with _opened(place.path, os.O_RDONLY) as descriptor:
        stamped = _read_at(descriptor, place.pages * PAGE, place.page * PAGE)
        if place.length is None:
            return stamped, False
        if not stamped.startswith(place.use):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place.path)
        # Where there is one behind it, and where the file is cut off, it was whole.
        is_torn = (
            any(stamped[start + _STAMPED : start + PAGE] != stamp for start in pages)
            and os.fstat(descriptor).st_size == SIZE
            and _next_record(descriptor, place.use, place.page, SIZE // PAGE) is None
        )
    record = b''.join([stamped[start : start + _STAMPED] for start in pages])
    return record[_RECORD.size : _RECORD.size + place.length], is_torn


def remove(places: Iterable[Place]) -> None:
    """Mark records as removed.

    Without a flush: after a crash a batch that is in the archive may wait
    again, and is recognised.
    """
    of_path = defaultdict(list)
    for place in places:
        of_path[place.path].append(place)
    for path, some in of_path.items():
        with (
            contextlib.suppress(FileNotFoundError),
            _opened(path, os.O_WRONLY) as descriptor,
        ):
            for place in some:
                mark = PAGE + _STAMP * place.page
                _write_at(descriptor, place.use[:_STAMP], mark)


def is_to_be_emptied(path: str, places: Iterable[Place]) -> bool:
    """Return whether these batches keep a segment from being used for others.

    They wait longer than most, and others wait for what they wait for.
    """
    few = sum(place.length or 0 for place in places) < _FEW
    return few and is_left(path)


def is_left(path: str) -> bool:
    """Return whether nobody writes to a segment that is in use; nobody will, then."""
    with _opened(path, os.O_RDWR) as descriptor:
        return _lock(descriptor)


def release(path: str) -> None:
    """Let a segment be used again, if nothing waits in it and nobody writes to it.

    Raises OSError, or SegmentError.
    """
    try:
        descriptor = _open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if not _lock(descriptor):
            return
        found = _contents(path, descriptor)
        if found.batches or found.damaged or found.error:
            return
        _write_at(descriptor, _head(_FREE), 0)
        os.rename(path, f'{os.path.dirname(path)}/{durable.new_name()}.free')
    finally:
        os.close(descriptor)


def tidy(directory: Path) -> None:
    """Delete segments that are called free and cannot be used, or are too many.

    A crash leaves some that are claimed, before their first record; after a power
    cut some have a use again whose last record is stored.  None are kept where
    the disk has little room left.  Raises OSError.
    """
    kept = 0 if is_scarce(directory) else _KEPT
    for name in sorted(filter(FREE.fullmatch, os.listdir(directory))):
        path = f'{os.fspath(directory)}/{name}'
        with contextlib.suppress(OSError), _opened(path, os.O_RDWR) as descriptor:
            if _lock(descriptor):
                if kept and _is_free(descriptor):
                    kept -= 1
                else:
                    os.unlink(path)


def _is_free(descriptor: int) -> bool:
    head = _head(_FREE)
    is_whole = os.fstat(descriptor).st_size == SIZE
    return is_whole and _read_at(descriptor, len(head), 0) == head


def _open(path: str, flags: int) -> int:
    # Something else of such a name would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    descriptor = _open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Return whether nobody else writes to the segment; nobody may, then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Return what a file has there; raises OSError if the disk does not give it."""
    content = os.pread(descriptor, length, offset)
    # Short, where the file ends; or at a bad sector, and the error comes next.
    while len(content) < length and (
        rest := os.pread(descriptor, length - len(content), offset + len(content))
    ):
        content += rest
    return content


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    if os.pwrite(descriptor, content, offset) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
