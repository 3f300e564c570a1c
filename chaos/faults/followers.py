"""Programs that read the day files while they are written."""

import json
import sys

from chaos.bench import Bench
from chaos.fault import Fault, repeat
from chaos.load import Load


def read_while_written(bench: Bench) -> None:
    """Read all files with h5py and PyTables, over and over, while they grow."""
    bench.start_uwsgi()
    bench.start_writer()
    load = Load(bench)
    followers = [
        bench.child(
            [sys.executable, '-m', 'chaos.follow', library, str(bench.data_dir)],
            library,
        )
        for library in ('h5py', 'pytables')
    ]
    bench.run.pause(8 if bench.run.long else 3)
    load.finish()
    for follower in followers:
        follower.stop()
        report = json.loads(follower.said().splitlines()[-1])
        bench.happened['reads'] += report['reads']
        bench.happened['locked'] += report['locked']
        bench.unreadable += report['torn']
    bench.drain()


FAULTS = (
    Fault(
        'readers',
        'Other programs read the files while they grow: locked maybe, never torn.',
        lambda run: repeat(run, read_while_written, short=1, long=6),
    ),
)
