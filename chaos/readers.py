"""Day files as other libraries read them, each library in a process of its own."""

import pickle
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from chaos.janitor import Janitor

PROJECT = Path(__file__).parents[1]
TIMEOUT = 60.0  # s; a library that takes longer over a file is caught in it


class Unreadable(Exception):
    """The library cannot read the file; says what it says."""


class Reader:
    """A process that reads files with one library."""

    def __init__(self, module: str, janitor: Janitor) -> None:
        self._module = module
        self._janitor = janitor
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path) -> Any:
        """Return what the library finds in a file.

        Raises Unreadable if it cannot read it, crashes, or does not return.
        """
        with self._lock:
            process = self._process = self._process or self._start()
            assert process.stdin and process.stdout
            timer = threading.Timer(TIMEOUT, process.kill)
            timer.start()
            try:
                process.stdin.write(f'{path}\n'.encode())
                process.stdin.flush()
                (length,) = struct.unpack('<Q', process.stdout.read(8))
                answer = pickle.loads(process.stdout.read(length))
            except (OSError, struct.error, pickle.UnpicklingError, EOFError):
                self._stop()
                raise Unreadable('the library crashes') from None
            finally:
                timer.cancel()
        if isinstance(answer, str):
            raise Unreadable(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, '-m', self._module],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._janitor.watch_group(process.pid)
        return process

    def _stop(self) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._janitor.forget_group(self._process.pid)
            self._process = None


class Readers:
    """The libraries that archives are read with; `all` of them, by name."""

    def __init__(self, janitor: Janitor) -> None:
        self.all = {
            'PyTables': Reader('chaos.read_with_pytables', janitor),
            'h5py': Reader('chaos.read_with_h5py', janitor),
        }

    def close(self) -> None:
        """End their processes."""
        for reader in self.all.values():
            reader.close()
