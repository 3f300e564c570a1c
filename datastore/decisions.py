"""What a person decided about suspicious events: a record that only grows.

`suspicious/decisions.jsonl` holds one JSON object a line.  It tells that events
were released, discarded, restored or purged, by whom and why they had been
flagged, and does not repeat the events.
"""

import contextlib
import fcntl
import json
import os
import pwd
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from datastore import durable

NAME = 'decisions.jsonl'  # not *.json: it is no document of events


class OthersDecide(Exception):
    """Somebody else is deciding about suspicious events at this moment."""


class Decisions:
    """The record beside the documents in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / NAME

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep others from deciding meanwhile; raises OthersDecide if they do.

        The kernel frees the lock of a program that dies.
        """
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OthersDecide(
                    'another `datastore suspicious` is at work; try again after it'
                ) from None
            yield
        finally:
            os.close(descriptor)

    def append(self, decision: dict[str, Any]) -> None:
        """Add a decision, stamped with when and who, durable when this returns.

        Only under `alone`.  Raises OSError, with nothing added, if the disk
        does not take it.
        """
        stamp = {'when': _now(), 'who': login_name()}
        line = json.dumps(stamp | decision).encode('ascii') + b'\n'
        is_new = not self._path.exists()
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        descriptor = os.open(self._path, flags, durable.FILE_MODE)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b'\n':
                line = b'\n' + line  # a crash tore the last line
            try:
                durable.write_all(descriptor, line)
                os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            durable.fsync_directory(self._directory)

    def all(self) -> list[dict[str, Any]]:
        """Return the decisions, oldest first, without lines that a crash tore."""
        try:
            lines = self._path.read_bytes().split(b'\n')
        except FileNotFoundError:
            return []
        decisions = []
        for line in lines:
            with contextlib.suppress(ValueError):
                decision = json.loads(line)
                if isinstance(decision, dict):
                    decisions.append(decision)
        return decisions


def login_name() -> str:
    """Return who works here: the name logged in with, also under sudo."""
    with contextlib.suppress(OSError):
        return os.getlogin()
    user = os.getuid()
    try:
        own = pwd.getpwuid(user).pw_name
    except KeyError:
        own = str(user)
    return os.environ.get('SUDO_USER', own)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec='seconds')
