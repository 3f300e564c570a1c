"""Programs that are killed at random moments while stations upload."""

import os
import signal

from chaos.bench import Bench
from chaos.fault import Fault, repeat
from chaos.load import Load

# s after its start that a writer is killed; it sweeps after some 0.15 s.
LATEST = 0.6


def kill_writer(bench: Bench, *, resends: bool = False) -> None:
    """Kill the writer again and again, and start it each time."""
    bench.start_uwsgi()
    load = Load(bench, resends=resends)
    for _ in range(12 if bench.run.long else 4):
        bench.start_writer()
        bench.run.pause(bench.rng.uniform(0, LATEST))
        bench.kill_writer()
        bench.happened['kills'] += 1
    load.finish()
    bench.drain()


def kill_writer_and_resend(bench: Bench) -> None:
    """Kill the writer while everything is sent twice and in other cuts."""
    kill_writer(bench, resends=True)


def kill_workers(bench: Bench) -> None:
    """Kill all of uWSGI's workers at once; its master starts others."""
    bench.start_uwsgi()
    bench.start_writer()
    load = Load(bench, pace=0)
    for _ in range(8 if bench.run.long else 3):
        # After a few in a row uWSGI takes its time to start others.
        bench.run.wait_for(bench.workers, 'uWSGI has workers')
        bench.run.pause(bench.rng.uniform(0, 0.2))
        for worker in bench.workers():
            os.kill(worker, signal.SIGKILL)
            bench.happened['kills'] += 1
    load.finish()
    bench.happened['failed uploads'] += bench.ledger.failures.total()
    bench.drain()


def kill_all(bench: Bench) -> None:
    """Kill everything at once, as when a machine is reset, and start it again."""
    bench.start_uwsgi()
    load = Load(bench)
    for _ in range(8 if bench.run.long else 3):
        bench.start_writer()
        bench.run.pause(bench.rng.uniform(0.1, 0.8))
        bench.kill_writer()
        bench.kill_uwsgi()
        bench.happened['kills'] += 1
        bench.start_uwsgi()
    load.finish()
    bench.happened['failed uploads'] += bench.ledger.failures.total()
    bench.drain()


FAULTS = (
    Fault(
        'kill-writer',
        'The writer is killed at random moments while stations upload.',
        lambda run: repeat(run, kill_writer, short=2, long=8),
    ),
    Fault(
        'kill-workers',
        "uWSGI's workers are killed in the middle of requests; stations retry.",
        lambda run: repeat(run, kill_workers, short=2, long=8),
    ),
    Fault(
        'kill-all',
        'uWSGI, master and workers, and the writer are killed and started again.',
        lambda run: repeat(run, kill_all, short=2, long=8),
    ),
    Fault(
        'kill-writer-resend',
        'The writer is killed while everything is sent twice and in other cuts.',
        lambda run: repeat(run, kill_writer_and_resend, short=2, long=6),
    ),
)
