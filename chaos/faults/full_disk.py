"""Disks that are full for a while."""

import functools

from chaos.bench import Bench
from chaos.commits import Commit, commits
from chaos.disks import FillingDisk, no_tmpfs
from chaos.fault import Fault, Trial, repeat, sample
from chaos.load import Load
from chaos.run import Run

MIB = 2**20


def full_while_uploading(bench: Bench) -> None:
    """Fill the disk under both programs, to the last page and almost, then free it."""
    disk = FillingDisk(bench, 24 * MIB)  # there is room for two segments
    bench.start_uwsgi()
    bench.start_writer()
    load = Load(bench)
    bench.run.pause(0.3)
    for _ in range(100 if bench.run.long else 50):
        disk.leave_free(bench.rng.choice((0, 0, 0, 1, 2, 5, 15, 40)))
        bench.run.pause(0.02)
    bench.run.wait_for(bench.ledger.refusals, 'a station is answered 205')
    disk.free_all()
    load.finish()
    bench.happened['answers 205'] += bench.ledger.refusals()
    bench.drain()


def full_spool(bench: Bench) -> None:
    """Let the spool fill the disk while no writer runs, then free some."""
    disk = FillingDisk(bench, 2 * MIB)  # there is room for none
    bench.start_uwsgi()
    disk.leave_free(100)
    load = Load(bench, pace=0.005)
    bench.run.wait_for(lambda: bench.ledger.refusals() > 20, 'the spool is full')
    bench.start_writer()  # which has no room either
    bench.run.pause(1)
    disk.free_all()
    load.finish()
    bench.happened['answers 205'] += bench.ledger.refusals()
    bench.drain()


def _upload_trials(run: Run) -> list[Trial]:
    return [
        *repeat(run, full_while_uploading, short=1, long=6),
        *(
            trial._replace(name=f'spool-{trial.name}')
            for trial in repeat(run, full_spool, short=1, long=4)
        ),
    ]


def full_while_committing(commit: Commit, pages: int, bench: Bench) -> None:
    """Leave the writer so many pages, and the rest after it has failed."""
    disk = FillingDisk(bench, 24 * MIB)
    commit.lay_out(bench)
    disk.leave_free(pages)
    bench.sweep_once()
    bench.look_at_files('while the disk is full')
    if bench.waiting():
        bench.happened['sweeps without room'] += 1
    disk.free_all()
    bench.drain()


def full_while_running(commit: Commit, pages: int, bench: Bench) -> None:
    """As above, with a writer that goes on running."""
    disk = FillingDisk(bench, 24 * MIB)
    commit.lay_out(bench)
    disk.leave_free(pages)
    bench.start_writer()
    bench.run.pause(0.5)
    if bench.waiting():
        bench.happened['sweeps without room'] += 1
    disk.free_all()
    bench.drain()


# More than any of the commits take: a new file of 200 KB, or the journal.
MOST_PAGES = 64


def _commit_trials(run: Run) -> list[Trial]:
    trials = []
    for commit in commits(run).values():
        for pages in range(MOST_PAGES):
            # One in four by a writer that has to recover in the same process.
            trial = full_while_running if pages % 4 == 0 else full_while_committing
            trials.append(
                Trial(
                    f'{commit.name}:{pages}',
                    functools.partial(trial, commit, pages),
                )
            )
    return sample(run, 'full-disk-commit', trials, short=6)


FAULTS = (
    Fault(
        'full-disk-upload',
        'The disk is full, or almost, while stations upload and the writer sweeps.',
        _upload_trials,
        needs=(no_tmpfs,),
    ),
    Fault(
        'full-disk-commit',
        'A commit finds 0, 1, 2, ... free pages, so that each of its steps fails.',
        _commit_trials,
        needs=(no_tmpfs,),
    ),
)
