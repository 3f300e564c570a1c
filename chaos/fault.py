"""What a fault is: a sentence, what it needs, and trials."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from chaos.bench import Bench
from chaos.run import Run


class Trial(NamedTuple):
    """One way a fault is tried, by a name that is unique within the fault.

    `run` breaks a fresh bench, mends it, and leaves it with nothing running
    and nothing waiting in its spool.
    """

    name: str
    run: Callable[[Bench], object]


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    `trials` returns its trials, fewer for a short run; each of `needs` returns
    why it cannot be run on this machine, or None.
    """

    name: str
    sentence: str
    trials: Callable[[Run], Iterable[Trial]]
    needs: tuple[Callable[[], str | None], ...] = ()

    def cannot_run(self) -> str | None:
        """Return why this machine cannot run it, None if it can."""
        return next((reason for need in self.needs if (reason := need())), None)


def repeat(
    run: Run, trial: Callable[[Bench], object], short: int, long: int
) -> list[Trial]:
    """Return a trial that makes random choices, as often as the run is long."""
    return [Trial(str(n), trial) for n in range(1, (long if run.long else short) + 1)]


def sample(run: Run, what: str, trials: list[Trial], short: int) -> list[Trial]:
    """Return all trials for a long run, and so many, in order, for a short one.

    As many of each kind as of the others, where a trial's kind is the second
    part of its name, the first being where it starts from.
    """
    if run.long or len(trials) <= short:
        return trials
    kinds: dict[str, list[int]] = {}
    for number, trial in enumerate(trials):
        kinds.setdefault(trial.name.split(':')[1], []).append(number)
    rng = run.random('sample', what)
    queues = [rng.sample(numbers, len(numbers)) for numbers in kinds.values()]
    rng.shuffle(queues)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    chosen = [number for number in turns if number is not None][:short]
    return [trials[number] for number in sorted(chosen)]
