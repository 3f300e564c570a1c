"""Faults in system calls, by strace: see its manual, "Tampering"."""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos.child import Child
from chaos.run import Run, Stuck

# The calls that change a disk.  Machines differ in which they have of some;
# strace ignores an unknown one after a question mark.
WRITING = (
    'write',
    'pwrite64',
    'writev',
    *('pwritev', 'pwritev2'),
    'fsync',
    'fdatasync',
    'ftruncate',
    'fallocate',
    *('rename', 'renameat', 'renameat2'),
    *('unlink', 'unlinkat'),
    *('mkdir', 'mkdirat'),
)


@functools.cache
def missing() -> str | None:
    """Return why nothing can be traced here, None if it can."""
    if shutil.which('strace') is None:
        return 'no strace'
    result = subprocess.run(['strace', '-f', '-o', '/dev/null', 'true'], check=False)
    return None if result.returncode == 0 else 'strace may not trace'


@functools.cache
def cannot_attach() -> str | None:
    """Return why no running program can be traced here, None if it can."""
    if reason := missing():
        return reason
    with subprocess.Popen(['sleep', '60']) as sleeper:
        try:
            strace = subprocess.Popen(
                ['strace', '-o', '/dev/null', '-p', str(sleeper.pid)],
                stderr=subprocess.PIPE,
                text=True,
            )
            assert strace.stderr
            said = strace.stderr.readline()
            strace.terminate()
            strace.communicate()
        finally:
            sleeper.kill()
    return None if 'attached' in said else 'strace may not attach to programs'


@functools.cache
def _filter() -> list[str]:
    """Return the options that leave calls alone which are not looked at."""
    option = '--seccomp-bpf'
    command = ['strace', '-f', option, '-o', '/dev/null', 'true']
    result = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    return [option] if result.returncode == 0 else []


def _names(calls: Sequence[str]) -> str:
    return ','.join(f'?{call}' for call in calls)


def prefix(log: Path, fault: str = '') -> list[str]:
    """Return what goes before a command line to have its writing calls logged.

    `fault`, as `fsync:error=EIO:when=3`, is injected; calls are counted in
    each process by itself.
    """
    names = _names(WRITING)
    command = ['strace', '-f', '-y', '-o', str(log), '-e', f'trace={names}']
    if 'signal=' not in fault:  # no signal is sent from where a filter stops a call
        command += _filter()
    return [*command, '-e', f'inject={fault}'] if fault else command


_CALL = re.compile(r'(\d+) +(\w+)\(')


def count(log: Path) -> Counter[str]:
    """Return how often each call was made, by the process that made the most."""
    processes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in log.read_text(errors='replace').splitlines():
        if match := _CALL.match(line):
            processes[match[1]][match[2]] += 1
    return max(processes.values(), key=Counter.total, default=Counter())


def injected(log: Path) -> int:
    """Return how many calls were made to fail."""
    return log.read_text(errors='replace').count('(INJECTED)')


@contextlib.contextmanager
def attached(
    run: Run, pids: Sequence[int], calls: Sequence[str], fault: str, log: Path
) -> Iterator[Child]:
    """Inject `fault` into the `calls` of running programs, until the end."""
    names = _names(calls)
    command = ['strace', '-f', '-o', str(log)]
    command += ['-e', f'trace={names}', '-e', f'inject={names}:{fault}']
    for pid in pids:
        command += ['-p', str(pid)]
    strace = Child(run, command, log.with_suffix('.attached'))
    try:

        def is_attached() -> bool:
            ended = strace.status is not None
            # It ends with the programs, which may be killed at once.
            if strace.said().count('attached') >= len(pids):
                return True
            if ended:
                raise Stuck(f'strace does not attach:\n{strace.said()}')
            return False

        run.wait_for(is_attached, 'strace attaches')
        yield strace
    finally:
        # Interrupted, it lets go of the programs; killed, the kernel does.
        if strace.status is None:
            with contextlib.suppress(Stuck):
                os.kill(strace.pid, signal.SIGINT)
                run.wait_for(lambda: strace.status is not None, 'strace ends', 5)
        strace.kill()
