"""Says which failures are news, so that one broken station does not fill the log.

The first failure of a run is to be logged.  Those that follow within a minute
are counted, and the count is said with the first one after it.  A success ends
the run.  Each worker process counts for itself.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

_INTERVAL = 60.0  # s
# A stranger may invent station numbers: beyond so many senders, those whose
# failures lie back the longest are forgotten, with what was counted of them.
_MAX_SENDERS = 1000


class Repeats(NamedTuple):
    """How often a failure came again, unsaid, since the moment it was last said.

    `since` is in s since the epoch; None if the run has just begun.
    """

    more: int
    since: float | None


class Repetition:
    """Counts the failures of each sender, by what failed."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """`clock` tells the s since the epoch; it may be set back."""
        self._clock = clock
        self._lock = threading.Lock()
        self._runs: OrderedDict[Hashable, dict[Hashable, Repeats]] = OrderedDict()

    def failed(self, sender: Hashable, what: Hashable) -> Repeats | None:
        """Return what is to be said of a failure; None if it is only counted.

        The number to be said includes this failure, unless it is the first.
        """
        now = self._clock()
        with self._lock:
            runs = self._runs.setdefault(sender, {})
            self._runs.move_to_end(sender)
            if len(self._runs) > _MAX_SENDERS:
                self._runs.popitem(last=False)
            if what not in runs:
                runs[what] = Repeats(0, now)
                return Repeats(0, None)
            more, since = runs[what]
            if since is not None and 0 <= now - since < _INTERVAL:
                runs[what] = Repeats(more + 1, since)
                return None
            runs[what] = Repeats(0, now)
            return Repeats(more + 1, since)

    def succeeded(self, sender: Hashable) -> list[tuple[Hashable, Repeats]]:
        """End the sender's runs; return those of which something is unsaid."""
        if sender not in self._runs:
            return []
        with self._lock:
            runs = self._runs.pop(sender, {})
        return [(what, repeats) for what, repeats in runs.items() if repeats.more]
