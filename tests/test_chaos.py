"""The short form of the fault harness; `make chaos` runs the long one."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from support import PROJECT

# What a machine lacks that gives such a reason; of others the harness is believed.
LACKING = {
    'no strace': shutil.which('strace') is None,
    'no mkfs.ext4': shutil.which('mkfs.ext4') is None,
    'not root': os.geteuid() != 0,
}


def run_chaos(*arguments):
    return subprocess.run(
        [sys.executable, '-m', 'chaos', *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )


def reasons_by_fault():
    """Return why each fault cannot be tried on this machine, None if it can."""
    reasons = {}
    for line in run_chaos('--list').stdout.splitlines():
        reason = re.search(r' Not here: (.*)\.$', line)
        reasons[line.split()[0]] = reason and reason[1]
    return reasons


def test_every_fault_can_be_tried_here():
    reasons = {fault: why for fault, why in reasons_by_fault().items() if why}

    assert all(LACKING.get(why, True) for why in reasons.values()), reasons
    if reasons:
        pytest.skip(', '.join(f'{fault}: {why}' for fault, why in reasons.items()))


def test_nothing_acknowledged_is_lost_or_stored_twice_whatever_dies():
    # The same trials every time; `make chaos` chooses others.
    result = run_chaos('--short', '--seed', '1')
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = [line.split(maxsplit=1) for line in result.stdout.splitlines()[2:-1]]
    reasons = reasons_by_fault()
    assert [fault for fault, _ in rows] == list(reasons)
    for fault, row in rows:
        if reasons[fault]:
            assert row == f'not run: {reasons[fault]}'
        else:
            trials, acknowledged = map(int, row.split()[:2])
            assert trials > 0 < acknowledged, row
