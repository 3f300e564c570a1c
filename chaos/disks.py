"""Disks that fill up, and disks whose power is cut.  Both take root to mount."""

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import random
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from chaos.bench import Bench
from chaos.janitor import Janitor

PAGE = 4096  # bytes; a tmpfs gives out space in these

# include/uapi/linux/fs.h (ext4.h in older kernels): _IOR('X', 125, __u32)
FS_IOC_SHUTDOWN = 0x8004587D
# What happens to what is not on the disk yet when the power is cut.
LOG_FLUSHED = 1  # the file system's journal is written, files' contents are not
NOTHING_FLUSHED = 2

# sync_file_range(2), which the standard library does not have: it writes pages
# that have a place on the disk, and nothing of the file system's own.
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_uint,
]
_WRITE_AND_WAIT = 1 | 2 | 4


@functools.cache
def no_tmpfs() -> str | None:
    """Return why no tmpfs can be mounted, None if one can."""
    if os.geteuid() != 0:
        return 'not root'
    with tempfile.TemporaryDirectory(prefix='chaos-probe-') as directory:
        if _fails('mount', '-t', 'tmpfs', 'tmpfs', directory):
            return 'mounting is not permitted'
        _unmount(Path(directory))
    return None


@functools.cache
def no_power_switch() -> str | None:
    """Return why the power of a disk cannot be cut, None if it can."""
    if os.geteuid() != 0:
        return 'not root'
    if shutil.which('mkfs.ext4') is None:
        return 'no mkfs.ext4'
    with tempfile.TemporaryDirectory(prefix='chaos-probe-') as directory:
        image, mount = Path(directory, 'image'), Path(directory, 'mount')
        mount.mkdir()
        _make_image(image)
        if _fails('mount', '-o', 'loop', str(image), str(mount)):
            return 'no loop devices, or mounting is not permitted'
        try:
            _shut_down(mount, NOTHING_FLUSHED)
        except OSError as error:
            return f'no FS_IOC_SHUTDOWN: {error.strerror}'
        finally:
            _unmount(mount)
    return None


class FillingDisk:
    """A small tmpfs at the bench's data directory, with ballast."""

    def __init__(self, bench: Bench, size: int) -> None:
        self._path = bench.data_dir
        self._ballast = self._path / 'ballast'
        _mount(bench, self._path, '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs')

    @property
    def free_pages(self) -> int:
        """How many pages nobody uses."""
        return os.statvfs(self._path).f_bfree

    def leave_free(self, pages: int) -> None:
        """Grow or shrink the ballast until so many pages are free, for a moment."""
        with self._ballast.open('ab') as file:
            used = os.fstat(file.fileno()).st_blocks * 512 // PAGE
            wanted = max(0, used + self.free_pages - pages)
            if wanted < used:
                os.ftruncate(file.fileno(), wanted * PAGE)
                return
            try:
                os.posix_fallocate(file.fileno(), 0, max(1, wanted * PAGE))
            except OSError as error:
                if error.errno != errno.ENOSPC:  # somebody else was faster
                    raise

    def free_all(self) -> None:
        """Throw the ballast out."""
        self._ballast.unlink(missing_ok=True)


class CuttableDisk:
    """An ext4 file system in a file, whose power can be cut."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._path = bench.directory / 'disk'
        self._image = bench.directory / 'disk.ext4'
        _make_image(self._image)
        # Below the root of the disk, where mkfs has a directory of its own.
        bench.data_dir = self._path / 'data'
        self.mount()

    def mount(self) -> None:
        """Mount it; the file system replays its journal."""
        # Longer than the 5 s after which ext4 would write what nobody asked for.
        options = 'loop,commit=300'
        _mount(self._bench, self._path, '-o', options, str(self._image))

    def cut(self, flag: int = NOTHING_FLUSHED) -> None:
        """Cut the power: from now on nothing reaches the disk, all calls fail."""
        _shut_down(self._path, flag)

    def write_some(self, rng: random.Random) -> None:
        """Write some of what was not asked for, as the kernel does when it likes.

        Of each file some pages reach the disk, in no order, and others do not.
        """
        for path in self._path.rglob('*'):
            if path.is_file():
                with path.open('rb') as file:
                    size = os.fstat(file.fileno()).st_size
                    for start in range(0, size, PAGE):
                        if rng.random() < 0.5:
                            _sync_file_range(
                                file.fileno(), start, PAGE, _WRITE_AND_WAIT
                            )

    def unmount(self) -> None:
        """Unmount it; programs that use it must be gone."""
        _unmount(self._path, self._bench.run.janitor)


def _make_image(image: Path) -> None:
    with image.open('wb') as file:
        file.truncate(128 * 2**20)  # sparse: takes what is written to it
    subprocess.run(['mkfs.ext4', '-q', '-J', 'size=4', str(image)], check=True)


def _shut_down(path: Path, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack('I', flag))
    finally:
        os.close(descriptor)


def _fails(*command: str) -> bool:
    result = subprocess.run(command, capture_output=True, check=False)
    return result.returncode != 0


def _mount(bench: Bench, path: Path, *arguments: str) -> None:
    path.mkdir(exist_ok=True)
    bench.run.janitor.watch_mount(path)
    bench.on_close(lambda: _unmount(path, bench.run.janitor))
    subprocess.run(['mount', *arguments, str(path)], check=True)


def _unmount(path: Path, janitor: Janitor | None = None) -> None:
    """Unmount `path`, if anything is mounted there; its loop device goes along."""
    deadline = time.monotonic() + 5
    while os.path.ismount(path):
        late = time.monotonic() > deadline
        command = ['umount', *(['--lazy'] if late else []), str(path)]
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
            break
        time.sleep(0.02)
    if janitor:
        janitor.forget_mount(path)
