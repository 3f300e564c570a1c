"""Programs that are killed at each of their system calls, one after the other."""

import functools
import signal

from chaos import dying, strace
from chaos.bench import Bench
from chaos.commits import Commit, trials_at_calls
from chaos.fault import Fault, Trial, sample
from chaos.load import Load
from chaos.run import Run


def kill_writer_at(commit: Commit, call: str, number: int, bench: Bench) -> None:
    """Kill the writer when it is about to make a call."""
    commit.lay_out(bench)
    log = bench.directory / 'calls'
    if strace.missing():
        prefix = dying.prefix(log, call, number)
    else:
        prefix = strace.prefix(log, f'{call}:signal=KILL:when={number}')
    if bench.sweep_once(prefix) == -signal.SIGKILL:
        bench.happened['kills'] += 1
    else:
        bench.trouble.append('the writer was not killed; there was no such call')
    bench.drain()


def _writer_trials(run: Run) -> list[Trial]:
    return trials_at_calls(run, 'kill-writer-at-call', kill_writer_at, short=12)


# The calls of a worker that takes an upload; counted from when it is traced.
_WORKER_POINTS = (
    *(('fdatasync', number) for number in range(1, 5)),
    *(('pwrite64', number) for number in range(1, 7)),
    *(('fsync', number) for number in (1, 2)),
    ('rename', 1),
    *(('write', number) for number in range(1, 7)),
)


def kill_workers_at(call: str, number: int, bench: Bench) -> None:
    """Kill each worker when it is about to make a call, a few generations of them."""
    bench.start_uwsgi()
    bench.start_writer()
    load = Load(bench)
    for generation in range(3 if bench.run.long else 1):
        workers = bench.workers()
        log = bench.directory / f'calls-{generation}'
        # Workers that are started meanwhile are not traced, and live.
        fault = f'signal=KILL:when={number}'
        with strace.attached(bench.run, workers, [call], fault, log) as tracer:
            bench.run.wait_for(
                lambda tracer=tracer: tracer.status is not None,  # type: ignore[misc]
                'both workers are killed',
            )
        bench.happened['kills'] += log.read_text().count('killed by SIGKILL')
        bench.run.wait_for(lambda: len(bench.workers()) == 2, 'workers are started')
    load.finish()
    bench.drain()


def _worker_trials(run: Run) -> list[Trial]:
    trials = [
        Trial(
            f'upload:{call}:{number}',
            functools.partial(kill_workers_at, call, number),
        )
        for call, number in _WORKER_POINTS
    ]
    return sample(run, 'kill-workers-at-call', trials, short=2)


FAULTS = (
    Fault(
        'kill-writer-at-call',
        'The writer is killed at each write, fsync, rename, ... of a commit.',
        _writer_trials,
    ),
    Fault(
        'kill-workers-at-call',
        "uWSGI's workers are killed at each pwrite, fdatasync, ... of an upload.",
        _worker_trials,
        needs=(strace.cannot_attach,),
    ),
)
