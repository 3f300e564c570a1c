"""Files that survive a power cut from the moment a call returns.

Written to a temporary name, fsynced, renamed into place, and the directory
fsynced.  Measured by power cuts on ext4: all four steps kept every file that
was acknowledged, without the directory's fsync one of twenty was lost, and
without the file's all of them.
"""

import contextlib
import errno
import os
import time
from pathlib import Path

# What a disk says that is full, over a quota, broken or mounted read-only: it
# may be mended while we run.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)

FILE_MODE = 0o640  # events may hold passwords (CFG); the group may back up
DIRECTORY_MODE = 0o750


def put(
    path: Path,
    content: bytes,
    tmp: Path,
    mode: int = FILE_MODE,
    owner: tuple[int, int] | None = None,
) -> None:
    """Create the file `path`, or replace it, durably.

    `tmp` is a directory on the same file system; a crash before the rename
    leaves debris there, never a torn `path`.  `owner` is the user and the
    group whose file it is to be; the user is left where we may not choose it.
    Raises OSError, leaving nothing behind, if any step fails.
    """
    # Text from here on: pathlib takes as long as half of these system calls.
    target = os.fspath(path)
    replaces = os.path.exists(target)
    draft, descriptor = new_draft(tmp, mode & FILE_MODE)
    try:
        try:
            if owner is not None:
                _give(descriptor, *owner)
                os.fchmod(descriptor, mode)
            write_all(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        # A crash before this line leaves a file in tmp/, removed an hour later.
        os.rename(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    try:
        fsync_directory(os.path.dirname(target))
    except BaseException:
        # Not known to be durable, so it is not there: the caller reports a
        # failure, and the station sends it again.  What was there before is
        # promised to somebody, and the new content replaces it well.
        if not replaces:
            with contextlib.suppress(OSError):
                os.unlink(target)
        raise


def new_draft(tmp: Path, mode: int = FILE_MODE) -> tuple[str, int]:
    """Create a file in the directory `tmp`; return its path and its descriptor."""
    # Not named after what it becomes, whose name may be as long as names can be.
    draft = f'{os.fspath(tmp)}/{new_name()}'
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    try:
        descriptor = os.open(draft, flags, mode)
    except FileNotFoundError:
        # Somebody cleared up, and removed the directory with what was in it.
        make_directory(tmp)
        descriptor = os.open(draft, flags, mode)
    return draft, descriptor


def new_name() -> str:
    """Return a name that no other file has, nor had."""
    return f'{time.time_ns():x}-{os.getpid()}-{os.urandom(4).hex()}'


def place_for_drafts(path: Path, tmp: Path) -> Path:
    """Return `tmp`, or where that is another disk than `path`'s, its directory.

    Old years may have been moved to a disk of their own.  A crash leaves a
    draft there that nobody clears away.
    """
    make_directory(tmp)
    return tmp if tmp.stat().st_dev == path.parent.stat().st_dev else path.parent


def _give(descriptor: int, user: int, group: int) -> None:
    """Make a file somebody's, before there is anything in it to read.

    Raises PermissionError if it cannot have the group, through which programs
    may read it.
    """
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) == (user, group):
        return
    try:
        os.fchown(descriptor, user, group)
    except PermissionError:
        if made.st_gid != group:
            try:
                os.fchown(descriptor, -1, group)
            except PermissionError:
                raise PermissionError(
                    errno.EPERM, 'cannot keep the group of the file; be its owner'
                ) from None


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`; raises OSError where the disk takes less.

    `os.write` on a full disk writes what fits and reports no error.
    """
    rest = memoryview(content).cast('B')
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def fsync_directory(directory: str | Path) -> None:
    """Make renames and removals inside `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create `directory` and its missing parents, durably.

    A directory's name lives in its parent: a file in it is only as durable
    as every name on the way to it.
    """
    if directory.is_dir():
        return
    make_directory(directory.parent)
    try:
        directory.mkdir(DIRECTORY_MODE)
    except FileExistsError:
        if not directory.is_dir():  # made by another process just now
            raise
    try:
        fsync_directory(directory.parent)
    except BaseException:
        # Or the next call would take it for durable.
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise


def check_writable(directory: Path) -> None:
    """Raise OSError if no file can be made in `directory`, or fsynced there.

    The file has no name and is gone when this returns, or crashes.
    """
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY, FILE_MODE)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        # A file system without nameless files: believe its permissions.
        if not os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
            raise PermissionError(
                errno.EACCES, os.strerror(errno.EACCES), str(directory)
            ) from None
        return
    try:
        os.write(descriptor, b'?')
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
