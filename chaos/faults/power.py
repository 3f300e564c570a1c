"""Power cuts: what is not on the disk at that moment is gone."""

import functools

from chaos import strace
from chaos.bench import Bench
from chaos.commits import Commit, commits
from chaos.disks import LOG_FLUSHED, NOTHING_FLUSHED, CuttableDisk, no_power_switch
from chaos.fault import Fault, Trial, repeat, sample
from chaos.load import Load
from chaos.run import Run

# What reaches the disk of what nobody has asked for, by the end of a trial's name.
_WRITTEN = {
    'nothing': (False, NOTHING_FLUSHED),
    'log': (False, LOG_FLUSHED),
    'pages': (True, NOTHING_FLUSHED),
    'log+pages': (True, LOG_FLUSHED),
}


def cut_while_uploading(bench: Bench) -> None:
    """Cut the power under both programs, and start them on what is left."""
    disk = CuttableDisk(bench)
    load = None
    for cycle in range(6 if bench.run.long else 3):
        bench.start_uwsgi()
        if cycle % 3 < 2:  # else nothing is swept between the acknowledgements
            bench.start_writer()
        load = load or Load(bench)
        bench.run.pause(bench.rng.uniform(0.2, 1.0))
        some_pages, flag = bench.rng.choice(tuple(_WRITTEN.values()))
        if some_pages:
            disk.write_some(bench.rng)
        disk.cut(flag)
        bench.kill_writer(may_have_ended=True)
        bench.kill_uwsgi()
        bench.happened['cuts'] += 1
        disk.unmount()
        disk.mount()
    bench.start_uwsgi()
    assert load
    load.finish()
    bench.drain()


def cut_after(commit: Commit, call: str, number: int, kind: str, bench: Bench) -> None:
    """Cut the power when the writer has just made a call."""
    some_pages, flag = _WRITTEN[kind]
    disk = CuttableDisk(bench)
    commit.lay_out(bench)
    disk.unmount()  # to have it all on the disk
    disk.mount()
    log = bench.directory / 'calls'
    writer = bench.child(
        [
            *strace.prefix(log, f'{call}:signal=STOP:when={number}'),
            *bench.writer_command('--once'),
        ],
        'writer-0',
    )

    def stands_still() -> bool:
        return writer.status is not None or (
            log.exists() and 'stopped by SIGSTOP' in log.read_text(errors='replace')
        )

    bench.run.wait_for(stands_still, 'the writer gets to the call')
    if writer.status is None:
        bench.happened['cuts'] += 1
    else:
        bench.trouble.append('the writer did not stop; there was no such call')
    if some_pages:
        disk.write_some(bench.rng)
    disk.cut(flag)
    writer.kill()
    disk.unmount()
    disk.mount()
    bench.drain()


def _commit_trials(run: Run) -> list[Trial]:
    trials = []
    for commit in commits(run).values():
        for call, number in commit.points():
            for kind in _WRITTEN:
                name = f'{commit.name}:{call}:{number}:{kind}'
                trial = functools.partial(cut_after, commit, call, number, kind)
                trials.append(Trial(name, trial))
    return sample(run, 'power-cut-at-call', trials, short=9)


FAULTS = (
    Fault(
        'power-cut',
        'The power is cut while stations upload and the writer sweeps.',
        lambda run: repeat(run, cut_while_uploading, short=2, long=10),
        needs=(no_power_switch,),
    ),
    Fault(
        'power-cut-at-call',
        'The power is cut after each write, fsync, rename, ... of a commit.',
        _commit_trials,
        needs=(no_power_switch, strace.missing),
    ),
)
