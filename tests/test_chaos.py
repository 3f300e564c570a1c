"""The short form of the fault harness; `make chaos` runs the long one."""

import subprocess
import sys

from support import PROJECT


def run_chaos(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'chaos', *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )


def test_nothing_acknowledged_is_lost_or_stored_twice_whatever_dies():
    # The same trials every time; `make chaos` chooses others.
    result = run_chaos('--short', '--seed', '1')
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    faults = [line.split()[0] for line in run_chaos('--list').stdout.splitlines()]
    rows = [line.split()[0] for line in result.stdout.splitlines()[2:-1]]
    assert rows == faults
