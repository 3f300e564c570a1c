"""Clears up after a process that was killed before it could do so itself.

A janitor is a process of its own at the other end of a pipe.  It is told which
process groups run and what is mounted; when the pipe closes, it kills what
still runs and unmounts what is still mounted.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


class Janitor:
    """Holds the pipe; what was not forgotten when it closes is cleared up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
        )

    def watch_group(self, group: int) -> None:
        """Have a process group killed in the end."""
        self._say(f'+ group {group}')

    def forget_group(self, group: int) -> None:
        """Leave a process group alone: it is gone, and its number is free."""
        self._say(f'- group {group}')

    def watch_mount(self, path: Path) -> None:
        """Have `path` unmounted in the end."""
        self._say(f'+ mount {path}')

    def forget_mount(self, path: Path) -> None:
        """Leave `path` alone: it is unmounted."""
        self._say(f'- mount {path}')

    def close(self) -> None:
        """Have everything left cleared up, and wait for it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin
        with self._lock:
            self._process.stdin.write(f'{line}\n')
            self._process.stdin.flush()


def main() -> None:
    """Read what there is to watch until the pipe closes, then clear it up."""
    watched: dict[str, None] = {}  # in the order it came
    for line in sys.stdin:
        sign, _, thing = line.rstrip('\n').partition(' ')
        if sign == '+':
            watched[thing] = None
        else:
            watched.pop(thing, None)
    for wanted in ('group', 'mount'):  # what runs keeps mounts busy
        for thing in reversed(watched):
            kind, _, name = thing.partition(' ')
            if kind != wanted:
                continue
            if kind == 'group':
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(name), signal.SIGKILL)
            else:
                subprocess.run(['umount', '--lazy', name], check=False)


if __name__ == '__main__':
    main()
