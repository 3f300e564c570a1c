"""Runs a Python program that is killed at its n-th call of a function of `os`.

What strace does to any program, done to one that calls the system through the
module `os`, where there is no strace:

    python -m chaos.dying LOG [CALL NUMBER] -- python -m MODULE ARGUMENT ...

Each call is written to LOG before it is made.
"""

import os
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Functions of `os`, by the system call that they make.
FUNCTIONS = {
    'write': 'write',
    'pwrite64': 'pwrite',
    'writev': 'writev',
    'pwritev': 'pwritev',
    'fsync': 'fsync',
    'fdatasync': 'fdatasync',
    'ftruncate': 'ftruncate',
    'fallocate': 'posix_fallocate',
    'rename': 'rename',
    'unlink': 'unlink',
    'mkdir': 'mkdir',
}


def prefix(log: Path, call: str = '', number: int = 0) -> list[str]:
    """Return what goes before the command line of a Python program.

    It is killed at call `number`, if there is one.
    """
    at = [call, str(number)] if call else []
    return [sys.executable, '-m', 'chaos.dying', str(log), *at, '--']


def count(log: Path) -> Counter[str]:
    """Return how often each call was made."""
    return Counter(log.read_text().split())


def main() -> None:
    """Become the program, its calls counted."""
    separator = sys.argv.index('--')
    log, *at = sys.argv[1:separator]
    # Not through any of the functions that are counted.
    file = open(log, 'a', buffering=1)  # noqa: SIM115  open until the end
    counts: Counter[str] = Counter()

    def counted(call: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **keywords: Any) -> Any:
            counts[call] += 1
            file.write(f'{call}\n')
            if at == [call, str(counts[call])]:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **keywords)

        return counting

    for call, name in FUNCTIONS.items():
        setattr(os, name, counted(call, getattr(os, name)))
    _, option, module, *arguments = sys.argv[separator + 1 :]
    assert option == '-m'
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name='__main__', alter_sys=True)


if __name__ == '__main__':
    main()
