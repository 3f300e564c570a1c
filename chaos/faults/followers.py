"""Programs that read the day files while they are written."""

import contextlib
import functools
import json
import sys

from chaos import strace
from chaos.bench import Bench
from chaos.fault import Fault, Trial, repeat
from chaos.load import Load
from chaos.run import Run

SLOW = 3000  # us that each write into a file takes, on a disk that is slow


def read_while_written(bench: Bench, *, slow: bool = False) -> None:
    """Read all files with h5py and PyTables, over and over, while they grow."""
    bench.start_uwsgi()
    writer = bench.start_writer()
    load = Load(bench)
    followers = [
        bench.child(
            [sys.executable, '-m', 'chaos.follow', library, str(bench.data_dir)],
            library,
        )
        for library in ('h5py', 'pytables')
    ]
    with contextlib.ExitStack() as stack:
        if slow:
            log, fault = bench.directory / 'calls', f'delay_enter={SLOW}'
            pids, calls = [writer.pid], ['pwritev', 'pwritev2']
            stack.enter_context(strace.attached(bench.run, pids, calls, fault, log))
        bench.run.pause(8 if bench.run.long else 2.5)
    load.finish()
    for follower in followers:
        follower.stop()
        report = json.loads(follower.said().splitlines()[-1])
        bench.happened['reads'] += report['reads']
        bench.happened['locked'] += report['locked']
        bench.unreadable += report['torn']
    bench.drain()


def _trials(run: Run) -> list[Trial]:
    trials = repeat(run, read_while_written, short=1, long=4)
    if strace.cannot_attach():
        return trials
    slowly = functools.partial(read_while_written, slow=True)
    return trials + [
        trial._replace(name=f'slow-disk-{trial.name}')
        for trial in repeat(run, slowly, short=1, long=4)
    ]


FAULTS = (
    Fault(
        'readers',
        'Other programs read the files while they grow: locked maybe, never torn.',
        _trials,
    ),
)
