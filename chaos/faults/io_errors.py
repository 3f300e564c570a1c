"""Disks that answer EIO for a while."""

import functools

from chaos import strace
from chaos.bench import Bench
from chaos.commits import Commit, trials_at_calls
from chaos.fault import Fault, Trial, sample
from chaos.load import Load
from chaos.run import Run


def errors_while_uploading(
    program: str, calls: tuple[str, ...], when: str, bench: Bench
) -> None:
    """Have calls of a running program fail for a while, again and again."""
    bench.start_uwsgi()
    bench.start_writer()
    load = Load(bench)
    for attempt in range(4 if bench.run.long else 2):
        bench.run.pause(bench.rng.uniform(0.1, 0.4))
        pids = bench.workers() if program == 'uwsgi' else [bench.supervise().pid]
        log = bench.directory / f'calls-{attempt}'
        with strace.attached(bench.run, pids, calls, f'error=EIO:when={when}', log):
            bench.run.pause(bench.rng.uniform(0.3, 0.8))
        bench.happened['errors'] += strace.injected(log)
    load.finish()
    bench.happened['failed uploads'] += bench.ledger.failures.total()
    _drain(bench)


_RENAME = ('rename', 'renameat', 'renameat2')
_UNLINK = ('unlink', 'unlinkat')
_PWRITEV = ('pwritev', 'pwritev2')
_FAILING = {
    'uwsgi': (
        ('fdatasync',),
        ('pwrite64',),
        ('fsync', 'write', *_RENAME),
        ('fdatasync', 'pwrite64', 'fsync', 'write', *_RENAME),
    ),
    'writer': (
        ('fsync',),
        ('write', 'writev'),
        (*_PWRITEV, 'ftruncate'),
        ('pwrite64',),
        _UNLINK,
        _RENAME,
    ),
}


def _live_trials(run: Run) -> list[Trial]:
    trials = []
    for program, sets in _FAILING.items():
        for calls in sets:
            # All of them, or every third.
            for when in ('1+', '2+3'):
                name = f'{program}:{"+".join(calls)}:{when}'
                trial = functools.partial(errors_while_uploading, program, calls, when)
                trials.append(Trial(name, trial))
    return sample(run, 'io-errors', trials, short=3)


def error_at(commit: Commit, call: str, number: int, bench: Bench) -> None:
    """Have one call of the writer fail; it goes on by itself."""
    commit.lay_out(bench)
    log = bench.directory / 'calls'
    prefix = strace.prefix(log, f'{call}:error=EIO:when={number}')
    writer = bench.start_writer(prefix)
    bench.run.wait_for(
        lambda: writer.status is not None or not bench.waiting(),
        'the writer empties the spool, or ends',
    )
    _drain(bench)
    bench.happened['errors'] += strace.injected(log)


def _drain(bench: Bench) -> None:
    bench.drain()
    if bench.journals():
        # One that could not be removed stays until its file is written to
        # again, or the writer is started again.
        bench.sweep_once()


def _commit_trials(run: Run) -> list[Trial]:
    return trials_at_calls(run, 'io-errors-at-call', error_at, short=6)


FAULTS = (
    Fault(
        'io-errors',
        'Calls of uWSGI, or the writer, fail with EIO while stations upload.',
        _live_trials,
        needs=(strace.cannot_attach,),
    ),
    Fault(
        'io-errors-at-call',
        'Each write, fsync, pwrite, ... of a commit fails once with EIO.',
        _commit_trials,
        needs=(strace.missing,),
    ),
)
