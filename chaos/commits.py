"""Spools whose next sweep is to be broken at every point, one after the other.

Made once, by real uploads, and copied for each trial.
"""

import functools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from chaos import dying, strace
from chaos.bench import Bench
from chaos.events import STATIONS, Feed
from chaos.fault import Trial, sample
from chaos.ledger import Ledger
from chaos.load import upload
from chaos.run import Run


@dataclass(frozen=True)
class Commit:
    """A spool that waits for a sweep, as it is on disk and in the ledger.

    `calls` is how often the sweep makes each system call that writes.
    """

    name: str
    data_dir: Path
    ledger: Ledger
    calls: Counter[str]

    def lay_out(self, bench: Bench) -> None:
        """Make it the state of a fresh bench."""
        shutil.copytree(self.data_dir, bench.data_dir, dirs_exist_ok=True)
        bench.ledger = self.ledger.copy()

    def points(self, calls: Sequence[str] | None = None) -> Iterator[tuple[str, int]]:
        """Yield each point to break at: the name of a call, and which of them."""
        for call, times in sorted(self.calls.items()):
            if calls is None or call in calls:
                for number in range(1, times + 1):
                    yield call, number


def _new_file(bench: Bench, feed: Feed) -> None:
    """The first batches of a day."""
    upload(bench, feed, feed.batch(4), feed.batch(1))


def _append(bench: Bench, feed: Feed) -> None:
    """More batches for a day that has a file."""
    upload(bench, feed, feed.batch(4))
    bench.drain()
    # Some of the first batch come again, with new ones.
    upload(bench, feed, feed.batch(4), feed.batch(3))


def _two_days(bench: Bench, feed: Feed) -> None:
    """A batch of two days, of which the first has a file."""
    upload(bench, feed, feed.batch(3))
    bench.drain()
    upload(bench, feed, feed.around_midnight(12))


def _both_days(bench: Bench, feed: Feed) -> None:
    """A batch of two days that both have files, and more of the second."""
    before = feed.batch(3)
    events = feed.around_midnight(24)
    upload(bench, feed, before, events[::2])
    bench.drain()
    # Half of it was stored before.
    upload(bench, feed, events, feed.batch(5))


_STATES: dict[str, Callable[[Bench, Feed], None]] = {
    'new-file': _new_file,
    'append': _append,
    'two-days': _two_days,
    'both-days': _both_days,
}


@functools.cache
def commits(run: Run) -> dict[str, Commit]:
    """Return the spools to break a sweep of, by name."""
    return {name: _make(run, name, prepare) for name, prepare in _STATES.items()}


def trials_at_calls(
    run: Run,
    what: str,
    break_at: Callable[[Commit, str, int, Bench], object],
    short: int,
) -> list[Trial]:
    """Return trials of each call of each commit, so many of them in a short run."""
    trials = [
        Trial(
            f'{commit.name}:{call}:{number}',
            functools.partial(break_at, commit, call, number),
        )
        for commit in commits(run).values()
        for call, number in commit.points()
    ]
    return sample(run, what, trials, short)


def _make(run: Run, name: str, prepare: Callable[[Bench, Feed], None]) -> Commit:
    directory = run.directory / 'commits' / name
    with Bench(run, directory, run.random(name)) as bench:
        bench.start_uwsgi()
        prepare(bench, Feed(STATIONS[0], bench.rng))
    commit = Commit(name, bench.data_dir, bench.ledger, Counter())
    with Bench(run, directory / 'counting', run.random(name)) as counting:
        commit.lay_out(counting)
        log = counting.directory / 'calls'
        if strace.missing():
            counting.sweep_once(dying.prefix(log))
            calls = dying.count(log)
        else:
            counting.sweep_once(strace.prefix(log))
            calls = strace.count(log)
        assert not counting.waiting(), counting.logs()
    return replace(commit, calls=calls)
