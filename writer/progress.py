"""Hears what the writer does, and tells whoever waits for it.

The heartbeat says it to operators, the tallies count it, and the service manager
hears that the writer is alive.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datastore.heartbeat import put_heartbeat
from datastore.tally import Tally
from writer.service import Pending, Service

logger = logging.getLogger(__name__)

_INTERVAL = 1.0  # s between two heartbeats in a sweep


class Progress:
    """What the writer has done; keeping count of it never raises.

    Nothing is said by a thread, so a sweep that hangs falls silent.
    """

    def __init__(self, data_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._data_dir = data_dir
        self._clock = clock
        self._tally = Tally(data_dir, logger, clock)
        self._service = Service()
        self._sweep: dict[str, Any] | None = None
        self._stored: dict[str, Any] | None = None
        self._current: dict[str, Any] | None = None
        self._once = False
        self._fault: str | None = None
        self._next = 0.0
        self._started = 0.0
        # What the last sweep, and this one, appended of batches that wait on.
        self._counted: set[tuple[str, Hashable]] = set()
        self._counting: set[tuple[str, Hashable]] = set()

    @contextlib.contextmanager
    def running(self, once: bool) -> Iterator[None]:
        """Say that the writer lives, and in the end that it stopped.

        One that dies says nothing, and one that sweeps once may come again;
        what they said last grows old.
        """
        self._once = once
        self._say()
        try:
            yield
        finally:
            self._tally.close()
        self._service.stopping()
        if not once:
            self._say(stopped=True)

    def ready(self) -> None:
        """Say that what a crash left is mended, and that sweeps begin."""
        self._service.ready()

    @contextlib.contextmanager
    def sweeping(self) -> Iterator[None]:
        """Count what is done in here as one sweep."""
        self._started = time.monotonic()
        self._current = {
            'started': self._clock(),
            'seconds': 0.0,
            'batches': 0,
            'events': 0,
            'duplicates': 0,
            'suspicious': 0,
            'rejected': 0,
        }
        self._say()
        try:
            yield
        except OSError as error:
            self._fault = str(error)
            raise
        else:
            self._fault = None
            self._sweep = self._current
            self._sweep['seconds'] = self._seconds()
            if self._sweep['events']:
                self._stored = self._sweep
        finally:
            self._counted, self._counting = self._counting, set()
            self._current = None
            self._say()

    def alive(self) -> None:
        """Say that a sweep gets on; most times this is for nothing."""
        self._service.alive()
        if time.monotonic() >= self._next:
            if self._current is not None:
                self._current['seconds'] = self._seconds()
            self._say()

    def loaded(self, batches: int) -> None:
        """Count batches that were read from the spool."""
        self._count(batches=batches)

    def rejected(self) -> None:
        """Count a spool file that could not be read."""
        self._tally.rejected()
        self._count(rejected=1)

    def replayed(self) -> None:
        """Count a commit that was interrupted and is finished."""
        self._tally.replayed()

    def committed(self, station: int) -> None:
        """Count a commit to a day file of a station."""
        self._tally.committed(station)

    def appended(
        self,
        station: int,
        day: Hashable,
        batches: Sequence[str],
        new: Sequence[str],
        flagged: Sequence[str],
        finished: Sequence[str],
    ) -> None:
        """Count the events of one append: each is given by the name of its batch.

        `batches` has all of them, `new` those that were not in the file, and
        `flagged` those of the new that went to `suspicious/`.  `finished` are
        the batches that leave the spool with this.
        """
        # A batch of two days that waits for a file of the other one comes with
        # every sweep, and is not to be counted with each.
        again = {name for name in set(batches) if (name, day) in self._counted}
        self._counting |= {(name, day) for name in {*batches} - {*finished}}
        total, fresh, suspicious = (
            sum(name not in again for name in names) if again else len(names)
            for names in (batches, new, flagged)
        )
        stored, duplicates = fresh - suspicious, total - fresh
        self._tally.appended(station, stored, duplicates, suspicious)
        self._count(events=stored, duplicates=duplicates, suspicious=suspicious)

    def swept(self, pending: Pending) -> None:
        """Say that this sweep went through the whole spool, and what waits on.

        `pending` returns the waiting batches of each station.
        """
        seconds = time.monotonic() - self._started
        self._tally.swept(seconds)
        self._service.swept(seconds, pending)

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait until `stop` is set, or for seconds; return whether it is."""
        return self._service.wait(stop, seconds)

    def _seconds(self) -> float:
        return round(time.monotonic() - self._started, 3)

    def _count(self, **counts: int) -> None:
        if self._current is not None:
            for name, count in counts.items():
                self._current[name] += count

    def _say(self, stopped: bool = False) -> None:
        self._next = time.monotonic() + _INTERVAL
        put_heartbeat(
            self._data_dir,
            {
                'pid': os.getpid(),
                'once': self._once,
                'stopped': stopped,
                'fault': self._fault,
                'current': self._current,
                'sweep': self._sweep,
                'stored': self._stored,
            },
        )
