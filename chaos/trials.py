"""Runs trials, several at a time, and adds up what came out of them."""

import os
import re
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from chaos.audit import Findings, audit
from chaos.bench import Bench
from chaos.fault import Fault, Trial
from chaos.run import Cancelled, Run, Stuck


@dataclass
class Outcome:
    """What came out of one trial; `debris` is what is kept of a failed one."""

    trial: str
    findings: Findings
    happened: Counter[str]
    seconds: float
    debris: Path | None


@dataclass
class Row:
    """What came out of all trials of a fault."""

    fault: Fault
    not_run: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """The trials in which something was wrong."""
        return [outcome for outcome in self.outcomes if outcome.findings]

    def total(self, kind: str) -> int:
        """Return a sum over all trials, of `lost` or the like."""
        return sum(len(getattr(outcome.findings, kind)) for outcome in self.outcomes)

    @property
    def acknowledged(self) -> int:
        """How many events stations had acknowledged."""
        return sum(outcome.findings.acknowledged for outcome in self.outcomes)

    @property
    def seconds(self) -> float:
        """How long the trials took, as if one had come after the other."""
        return sum(outcome.seconds for outcome in self.outcomes)

    @property
    def happened(self) -> Counter[str]:
        """What happened in the trials, and how often."""
        return sum((outcome.happened for outcome in self.outcomes), Counter())


def run_faults(
    run: Run,
    faults: list[Fault],
    only_trial: str | None,
    progress: Callable[[str], object],
) -> Iterator[Row]:
    """Run the trials of all faults, or one of them; yield each row when complete.

    `progress` is told how far it is.
    """
    # Half of the time a trial waits: for a disk, or for a moment to strike.
    pool = ThreadPoolExecutor(max_workers=2 * (os.cpu_count() or 1))
    try:
        begun: list[tuple[Row, list[Future[Outcome]]]] = []
        for fault in faults:
            row = Row(fault, fault.cannot_run())
            trials = [] if row.not_run else _trials(run, row)
            futures = [
                pool.submit(_run_trial, run, fault, trial)
                for trial in trials
                if only_trial in (None, trial.name)
            ]
            begun.append((row, futures))
        for row, futures in begun:
            for number, future in enumerate(futures):
                progress(f'{row.fault.name}: {number} of {len(futures)} trials')
                row.outcomes.append(future.result())
            yield row
    finally:
        run.cancel()
        pool.shutdown(cancel_futures=True)


def _trials(run: Run, row: Row) -> list[Trial]:
    """Return a fault's trials; none, and trouble, if they cannot be prepared."""
    try:
        return list(row.fault.trials(run))
    except Cancelled:
        raise
    except Exception:
        # Nothing narrower: what fails without any fault is trouble all the more.
        findings = Findings(trouble=[traceback.format_exc()])
        row.outcomes.append(Outcome('preparation', findings, Counter(), 0, None))
        return []


def _run_trial(run: Run, fault: Fault, trial: Trial) -> Outcome:
    started = time.monotonic()
    name = re.sub(r'[^\w.+-]', '-', f'{fault.name}-{trial.name}')
    rng = run.random(fault.name, trial.name)
    bench = Bench(run, run.directory / name, rng)
    try:
        with bench:
            _break(bench, trial)
            findings = audit(bench)
            if findings and os.path.ismount(bench.data_dir):
                shutil.copytree(bench.data_dir, bench.directory / 'data-kept')
    except Cancelled:
        bench.remove()
        raise
    if not findings:
        bench.remove()
    return Outcome(
        trial.name,
        findings,
        bench.happened,
        time.monotonic() - started,
        bench.directory if findings else None,
    )


def _break(bench: Bench, trial: Trial) -> None:
    """Run a trial to its end, whatever that is."""
    try:
        trial.run(bench)
    except Cancelled:
        raise
    except Stuck as stuck:
        bench.trouble.append(str(stuck))
    except Exception:
        # Nothing narrower: a trial that breaks is a row with trouble.
        bench.trouble.append(traceback.format_exc())
    bench.halt()
