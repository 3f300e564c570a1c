"""A program that the harness runs, in a process group that can be killed whole."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from chaos.run import PROJECT, Run, Stuck


class Child:
    """A running program; what it prints goes to the file `output`."""

    def __init__(
        self,
        run: Run,
        command: Sequence[str],
        output: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._run = run
        self.output = output
        with output.open('ab') as file:
            self._process = subprocess.Popen(
                command,
                cwd=PROJECT,
                # This tree, whatever is installed.
                env={**os.environ, 'PYTHONPATH': str(PROJECT), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._closed = False
        run.janitor.watch_group(self.pid)

    @property
    def status(self) -> int | None:
        """The exit status, -9 of one that was killed, None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """Return what the program has printed so far."""
        return self.output.read_text(errors='replace')

    def kill(self) -> None:
        """Kill the whole process group, with SIGKILL."""
        if self._closed:
            return
        self._closed = True
        # Members may outlive their leader, whose number is theirs until then.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._run.janitor.forget_group(self.pid)

    def wait(self, seconds: float = 30) -> int:
        """Return the exit status; what is left of the group is killed.

        Raises Stuck if the program does not end by itself.
        """
        try:
            self._run.wait_for(lambda: self.status is not None, 'it ends', seconds)
        except Stuck as stuck:
            raise Stuck(f'{stuck}\n{self.said()[-2000:]}') from None
        self.kill()
        return self._process.returncode

    def stop(self, seconds: float = 30) -> int:
        """Ask the program to end, with SIGTERM, and return its exit status.

        It is given the time to get ready for that, which Python programs are
        not in their first tenths of a second.
        """
        self._run.wait_for(
            lambda: self.status is not None or self._catches_sigterm(),
            'the program handles SIGTERM',
            seconds,
        )
        if self.status is None:
            # The group: a program that is traced is not the leader of it.
            os.killpg(self.pid, signal.SIGTERM)
        return self.wait(seconds)

    def _catches_sigterm(self) -> bool:
        for pid in (self.pid, *children_of(self.pid)):
            with contextlib.suppress(OSError):
                status = Path(f'/proc/{pid}/status').read_text()
                caught = re.search(r'^SigCgt:\s*([0-9a-f]+)$', status, re.M)
                if caught and int(caught[1], 16) & 1 << (signal.SIGTERM - 1):
                    return True
        return False


def children_of(pid: int) -> list[int]:
    """Return the numbers of a process's children, as /proc shows them now."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # After the name, which may hold anything: state, parent, ...
            fields = stat.read_text(errors='replace').rpartition(')')[2].split()
            if int(fields[1]) == pid and fields[0] != 'Z':
                found.append(int(stat.parent.name))
    return sorted(found)
