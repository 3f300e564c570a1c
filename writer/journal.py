"""Makes a file's changes atomic: they happen together at commit, or not at all.

HDF5 writes in place and in an order of its own, so a process or a machine
that stops in the middle leaves a file that does not open, or blobs that
cannot be read.  Here its writes are kept in memory and overlaid on its reads.
`commit` writes them to a journal beside the file first:

    write the journal, fsync it, fsync the directory   <- the commit point
    write the changes into the file, fsync it
    remove the journal

A crash before the commit point leaves an incomplete journal, which is thrown
away.  After it, the journal is whole, and is replayed, as often as it takes,
before anyone opens the file for writing.

It is replayed into the very file it was written for, and no other: somebody may
have put an older one in its place, or written to it since the crash.  Then there
are sectors of 512 bytes that are neither what they were nor what they are to be,
which no crash leaves: disks write them at once.  Such a journal is set aside.

The journal is, little-endian: the magic, a uint32 CRC-32 of all that follows
it, and MessagePack of the file's size, its changes as [offset, bytes], the names
of the spool files they came from, the file's size before, and, of each sector
that was there and changes, and of the last one that is not zeros, [offset, CRC-32
before, CRC-32 after].
"""

import contextlib
import errno
import fcntl
import io
import logging
import os
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from datastore import durable
from datastore.upload_id import uploads_in_lines

logger = logging.getLogger(__name__)

# Removes batches, by name, from the spool.
Finish = Callable[[Sequence[str]], None]

MAGIC = b'HSJRNL2\n'  # the 2 is the format's version
_HEADER = struct.Struct('<8sI')
_BIN_32 = struct.Struct('>BI')  # what MessagePack puts before so many bytes
_AT_ONCE = 1024  # pieces in a system call; IOV_MAX of Linux

PAGE = 4096  # bytes; changes are kept in pages of the file system's size
_SECTOR = 512  # bytes; what a disk writes at once, or more
_LOOK = 2**16  # bytes that are looked at together for the last that are not zeros


class FileBusy(Exception):
    """Another program reads the file, or writes to it; try again later."""


Identity = tuple[int, int, int, int]

_Bytes = bytes | bytearray | memoryview


class JournalRecord(NamedTuple):
    """One commit: what it changes in the file, and the batches it stores.

    A change is an offset and what is written there, in pieces.  `size` and
    `size_before` are the file's, in bytes; `sectors` has, of those that were there
    before and change, and of the last, the offset and the CRC-32 before and after.
    """

    size: int
    changes: list[tuple[int, list[_Bytes]]]
    covers: list[str]
    size_before: int
    sectors: list[tuple[int, int, int]]


def journal_path(path: Path) -> Path:
    """Return where the journal of the file `path` is."""
    return path.with_name(f'{path.name}.journal')


class JournaledFile(io.RawIOBase):
    """An existing file whose changes happen together at commit.

    A file-like object for `h5py.File(obj)`.  While changes are collected it
    holds the lock that HDF5 takes to read, so others may read, and none may
    write; while they are made, the lock that HDF5 takes to write.  Closing it
    without a commit discards the changes.
    """

    def __init__(
        self,
        path: Path,
        finish: Finish,
        on_replay: Callable[[], None] = lambda: None,
    ) -> None:
        """Open `path`, after replaying a journal that was left over.

        `finish` removes a batch, by name, that a replay finds to be stored;
        `on_replay` is told of a replay.
        Raises FileBusy if another program writes to the file, or reads it
        where a journal is to be replayed; OSError if it cannot be opened.
        """
        self._path = path
        self._finish = finish
        self._pages: dict[int, bytearray] = {}
        self._position = 0
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            journal = journal_path(path)
            self._lock(fcntl.LOCK_SH)
            # Only now: before, a writer could begin a commit, and die in it.
            while journal.exists():
                self._lock(fcntl.LOCK_EX)
                if _replay(self._descriptor, journal, finish):
                    on_replay()
                self._lock(fcntl.LOCK_SH)
            self._found = os.fstat(self._descriptor)
            self._size = self._unchanged = self._found.st_size
        except BaseException:
            self.close()
            raise

    @property
    def identity(self) -> Identity:
        """What the file was when it was opened, or after the commit."""
        return identity_of(self._found)

    def _lock(self, operation: int) -> None:
        try_lock(self._descriptor, self._path, operation)

    def close(self) -> None:
        """Unlock the file; changes that were not committed are gone."""
        if not self.closed:
            super().close()
            if self._descriptor != -1:
                os.close(self._descriptor)

    # What h5py needs of a file: seek, tell, readinto, write, truncate, flush.

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        self._position = start[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast('B')
        start = self._position
        stop = min(start + len(view), self._size)
        if stop <= start:
            return 0
        wanted = view[: stop - start]
        self._read_from_disk(start, wanted)
        for page in range(start // PAGE, -(-stop // PAGE)):
            if page in self._pages:
                first, last = max(start, page * PAGE), min(stop, (page + 1) * PAGE)
                changed = memoryview(self._pages[page])
                wanted[first - start : last - start] = changed[
                    first - page * PAGE : last - page * PAGE
                ]
        self._position = stop
        return len(wanted)

    def write(self, buffer: Any) -> int:
        view = memoryview(buffer).cast('B')
        if not view:
            return 0
        start = self._position
        stop = start + len(view)
        for page in range(start // PAGE, -(-stop // PAGE)):
            first, last = max(start, page * PAGE), min(stop, (page + 1) * PAGE)
            if last - first == PAGE:
                self._pages[page] = bytearray(view[first - start : last - start])
                continue
            if page not in self._pages:
                self._pages[page] = self._page_on_disk(page)
            self._pages[page][first - page * PAGE : last - page * PAGE] = view[
                first - start : last - start
            ]
        self._size = max(self._size, stop)
        self._position = stop
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        # What is cut off reads as zeros if the file grows again.
        self._unchanged = min(self._unchanged, self._size)
        for page in [page for page in self._pages if page * PAGE >= self._size]:
            del self._pages[page]
        if (last := self._size // PAGE) in self._pages:
            kept = self._pages[last][: self._size % PAGE]
            self._pages[last] = kept + bytearray(PAGE - len(kept))
        return self._size

    def flush(self) -> None:
        """Do nothing: HDF5 flushes in the middle of its changes."""

    def _page_on_disk(self, page: int) -> bytearray:
        content = bytearray(PAGE)
        self._read_from_disk(page * PAGE, memoryview(content))
        return content

    def _read_from_disk(self, start: int, view: memoryview) -> None:
        """Fill `view` from the file; past what is left of it are zeros."""
        done, stop = 0, max(0, min(len(view), self._unchanged - start))
        while done < stop:
            got = os.preadv(self._descriptor, [view[done:stop]], start + done)
            if not got:
                break
            done += got
        view[done:] = bytes(len(view) - done)

    def commit(self, covers: Sequence[str]) -> None:
        """Make all changes, durably and at once, and unlock the file.

        `covers` names the batches that are stored for good with these
        changes; they are removed.

        Raises FileBusy if somebody reads the file, OSError if the disk does
        not take the changes.  Then either nothing was changed, or the journal
        stays to be replayed.
        """
        record = JournalRecord(
            self._size,
            self._changes(),
            list(covers),
            self._found.st_size,
            [*self._changing_sectors(), *self._last_sector()],
        )
        journal = journal_path(self._path)
        self._lock(fcntl.LOCK_EX)
        # One lock is given up before the other is granted.
        if identity_of(os.stat(self._path)) != identity_of(self._found):
            raise FileBusy(f'{self._path} was changed by another program')
        try:
            self._reserve(record.size)
            _write_journal(journal, record)  # the commit point is inside
        except OSError:
            os.ftruncate(self._descriptor, self._found.st_size)
            self._found = os.fstat(self._descriptor)
            raise
        _apply(self._descriptor, record)
        self._found = os.fstat(self._descriptor)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        _finish(journal, record, self._finish)

    def _changes(self) -> list[tuple[int, list[_Bytes]]]:
        """Return what was written, neighbouring pages together."""
        # What was cut off, and is there again, reads as zeros, and so is written.
        again = min(self._size, self._found.st_size)
        for page in range(self._unchanged // PAGE, -(-again // PAGE)):
            if page not in self._pages and self._unchanged < again:
                self._pages[page] = self._page_on_disk(page)
        changes: list[tuple[int, list[_Bytes]]] = []
        stop = -1  # where the last of them ends
        for page in sorted(self._pages):
            offset = page * PAGE
            if offset >= self._size:
                break
            if offset != stop:
                changes.append((offset, []))
            changes[-1][1].append(memoryview(self._pages[page])[: self._size - offset])
            stop = offset + PAGE
        return changes

    def _changing_sectors(self) -> Iterator[tuple[int, int, int]]:
        """Yield offset and CRC-32, before and after, of sectors that change.

        Of those that are in the file and stay there, whole.
        """
        stop = min(self._size, self._found.st_size) - _SECTOR
        for page, after in sorted(self._pages.items()):
            if page * PAGE > stop:
                break
            before = os.pread(self._descriptor, PAGE, page * PAGE)
            if before == after:
                continue
            for start in range(0, min(PAGE, stop - page * PAGE + 1), _SECTOR):
                old, new = (p[start : start + _SECTOR] for p in (before, after))
                if old != new:
                    yield page * PAGE + start, zlib.crc32(old), zlib.crc32(new)

    def _last_sector(self) -> Iterator[tuple[int, int, int]]:
        """Yield the same of the last sector that is not zeros, changed or not.

        A copy of the file that was cut short has another.  Of those that are whole
        before and after: a power cut may undo a size in the middle of a sector.
        """
        stop = min(self._size, self._found.st_size) // _SECTOR * _SECTOR
        while stop:
            start = (stop - 1) // _LOOK * _LOOK
            content = os.pread(self._descriptor, stop - start, start).rstrip(b'\0')
            if content:
                offset = start + (len(content) - 1) // _SECTOR * _SECTOR
                after = bytearray(_SECTOR)
                self.seek(offset)
                self.readinto(after)
                before = os.pread(self._descriptor, _SECTOR, offset)
                yield offset, zlib.crc32(before), zlib.crc32(after)
                return
            stop = start

    def _reserve(self, size: int) -> None:
        """Take the disk space for growing to `size`, before the commit point.

        A disk that fills up afterwards would leave half of the changes made.
        HDF5 does not mind zeros past the end it knows of.
        """
        present = self._found.st_size
        if size > present:
            os.posix_fallocate(self._descriptor, present, size - present)


def try_lock(descriptor: int, path: Path, operation: int) -> None:
    """Lock a file at once; raises FileBusy if another program has.

    HDF5 takes this very lock: shared to read, exclusive to write.
    """
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileBusy(f'{path} is in use') from error


def replay_journal(
    journal: Path,
    finish: Finish,
    on_replay: Callable[[], None] = lambda: None,
) -> None:
    """Replay a journal that was left over beside its file.

    Raises FileBusy if another program holds the lock on the file, OSError if
    the disk fails or the file is gone; the journal stays.
    """
    path = journal.with_name(journal.name.removesuffix('.journal'))
    JournaledFile(path, finish, on_replay).close()


def identity_of(status: os.stat_result) -> Identity:
    """Return what differs from one content of a file to the next."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _replay(descriptor: int, journal: Path, finish: Finish) -> bool:
    """Make the changes of a whole journal; return whether it was whole."""
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return False
    record = _decode(content, journal)
    if record is None:
        # The crash came before the commit point: nothing was changed, and the
        # batches are still in the spool.
        journal.unlink(missing_ok=True)
        logger.warning('threw away %s, which a crash left incomplete', journal)
        return False
    if not _is_of_this_file(descriptor, record):
        # The batches are in the spool still; what of them the file holds is
        # recognised.
        set_aside(journal, 'is of another file, or of this one as it was before')
        return False
    _apply(descriptor, record)
    _finish(journal, record, finish)
    uploads, *others = uploads_in_lines(record.covers)
    logger.warning(
        'replayed %s, left over by a crash', journal, extra={'uploads': uploads}
    )
    for uploads in others:
        logger.warning('more uploads of that journal', extra={'uploads': uploads})
    return True


def _is_of_this_file(descriptor: int, record: JournalRecord) -> bool:
    """Return whether a file is what a commit, or a part of it, makes of its own."""
    longest = max(record.size_before, record.size)
    if os.fstat(descriptor).st_size > longest:
        return False
    for offset, *either in record.sectors:
        # A power cut may undo a size that was there before: zeros past the end.
        found = os.pread(descriptor, _SECTOR, offset).ljust(_SECTOR, b'\0')
        if zlib.crc32(found) not in either:
            return False
    return True


def set_aside(journal: Path, reason: str) -> None:
    """Rename a journal that is not to be replayed, for a person."""
    aside = journal.with_name(f'{journal.name}.{time.time_ns()}.orphan')
    journal.rename(aside)
    durable.fsync_directory(journal.parent)
    logger.error('%s %s, kept as %s', journal, reason, aside.name)


def _write_journal(journal: Path, record: JournalRecord) -> None:
    body = list(_encode(record))
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    # One that is there already is not ours to remove.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    descriptor = os.open(journal, flags, durable.FILE_MODE)
    try:
        try:
            _write_pieces(descriptor, [_HEADER.pack(MAGIC, checksum), *body])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        durable.fsync_directory(journal.parent)
    except OSError:
        # Not committed, so it must not be replayed either.
        with contextlib.suppress(OSError):
            journal.unlink()
        raise


def _apply(descriptor: int, record: JournalRecord) -> None:
    # A crash in here leaves the file torn until the journal is replayed.
    for offset, content in record.changes:
        _write_pieces(descriptor, content, offset)
    os.ftruncate(descriptor, record.size)
    os.fsync(descriptor)


def _write_pieces(
    descriptor: int, pieces: Sequence[_Bytes], offset: int | None = None
) -> None:
    """Write pieces one after the other, at `offset` or where the file is.

    Many at a time, and without joining them, which takes as much memory again.
    """
    rest = [memoryview(piece) for piece in pieces]
    first = 0
    while first < len(rest):
        some = rest[first : first + _AT_ONCE]
        if offset is None:
            written = os.writev(descriptor, some)
        else:
            written = os.pwritev(descriptor, some, offset)
            offset += written
        # A disk that fills up takes less, without an error.
        while first < len(rest) and written >= len(rest[first]):
            written -= len(rest[first])
            first += 1
        if written:
            rest[first] = rest[first][written:]


def _finish(journal: Path, record: JournalRecord, finish: Finish) -> None:
    """Remove the batches that are stored, and the journal when none is left."""
    finish(record.covers)
    # A crash before this replays changes that are made already: the same bytes.
    # Another process may have done so since the file was unlocked.
    journal.unlink(missing_ok=True)


def _encode(record: JournalRecord) -> Iterator[_Bytes]:
    """Yield the record as MessagePack, in pieces, without a copy of its changes."""
    packer = msgpack.Packer()
    yield packer.pack_array_header(len(record))
    yield packer.pack(record.size)
    yield packer.pack_array_header(len(record.changes))
    for offset, content in record.changes:
        yield packer.pack_array_header(2) + packer.pack(offset)
        yield _BIN_32.pack(0xC6, sum(map(len, content)))
        yield from content
    yield packer.pack(record.covers)
    yield packer.pack(record.size_before)
    yield packer.pack(record.sectors)


def _decode(content: bytes, journal: Path) -> JournalRecord | None:
    """Return the record in a journal; None if it is not whole.

    Raises OSError if it is, and of another version.
    """
    if len(content) < _HEADER.size:
        return None
    magic, checksum = _HEADER.unpack_from(content)
    body = memoryview(content)[_HEADER.size :]
    if checksum != zlib.crc32(body) or not re.fullmatch(rb'HSJRNL[0-9]\n', magic):
        return None
    if magic != MAGIC:
        raise OSError(
            errno.ENOTSUP,
            'another version of the writer wrote this journal; start that once',
            str(journal),
        )
    size, changes, *rest = msgpack.unpackb(body)
    return JournalRecord(size, [(offset, [new]) for offset, new in changes], *rest)
