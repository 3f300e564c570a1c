"""Reads day files while the writer writes, without ever seeing one torn.

The lock that HDF5 readers share is held for as long as a file is open here.
While it is, no commit can begin (writer/journal.py), so a journal that stands
beside the file then was left over by a crash, and is replayed first.  The
writer holds its own lock for milliseconds: wait, and try again.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py

from writer.journal import FileBusy, Finish, journal_path, replay_journal, try_lock
from writer.storage import as_damage

_SHORTEST, _LONGEST = 0.01, 0.25  # s; a commit takes milliseconds


class OpenFile(NamedTuple):
    """A file that nobody changes while it is open, and what it was when opened."""

    h5: h5py.File
    status: os.stat_result


class Reading:
    """How files are read that others write to: how long to wait for them."""

    def __init__(
        self,
        finish: Finish,
        patience: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        """`finish` removes batches, by name, that a replay finds to be stored.

        A file that is in use is tried again for `patience` seconds, or until
        `wait` returns true: it was told to stop.
        """
        self._finish = finish
        self._patience = patience
        self._clock = clock
        self._wait = wait

    @contextlib.contextmanager
    def open(self, path: Path) -> Iterator[OpenFile]:
        """Open a file of the archive to read.

        Raises FileBusy if somebody writes to it all the time; DamagedFile if
        it does not open as HDF5; OSError if it is not there or the disk fails.
        """
        descriptor = self.locked(lambda: self._lock(path))
        try:
            with as_damage(path):
                # HDF5 takes the same lock once more, on a descriptor of its own.
                h5 = h5py.File(path, 'r')
            with h5:
                yield OpenFile(h5, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def locked(self, lock: Callable[[], int]) -> int:
        """Return the descriptor that `lock` gives, waiting while it is FileBusy."""
        started = self._clock()
        pause = _SHORTEST
        while True:
            try:
                return lock()
            except FileBusy:
                if self._clock() - started >= self._patience or self._wait(pause):
                    raise
            pause = min(2 * pause, _LONGEST)

    def _lock(self, path: Path) -> int:
        """Return a descriptor that holds the lock on a file that is whole."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try_lock(descriptor, path, fcntl.LOCK_SH)
            # Only now: before, a writer could begin a commit, and die in it.
            journal = journal_path(path)
            if journal.exists():
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                self._replay(journal)
                try_lock(descriptor, path, fcntl.LOCK_SH)
                if journal.exists():
                    raise FileBusy(f'{path} is written to all the time')
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise

    def _replay(self, journal: Path) -> None:
        try:
            replay_journal(journal, self._finish)
        except PermissionError as error:
            # Or the writer, which is done with it, removes it just now.
            raise FileBusy(
                f'{journal} was left over by a crash, and only the user of the '
                'writer can replay it: datastore verify'
            ) from error
