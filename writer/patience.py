"""Says when to try again what failed, after pauses that grow."""

import time
from collections.abc import Callable, Hashable

_LONGEST = 300.0  # s; a disk that is mended is found out after this at most


class Patience:
    """Counts the failures of each thing since it last succeeded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[Hashable, int] = {}
        self._due: dict[Hashable, float] = {}

    def is_due(self, thing: Hashable) -> bool:
        """Return whether it may be tried now."""
        return self._clock() >= self._due.get(thing, 0)

    def failed(self, thing: Hashable) -> float:
        """Return for how many seconds it is not to be tried: 1, 2, 4, ... 300."""
        failures = self._failures.get(thing, 0)
        pause = min(2.0**failures, _LONGEST)
        self._failures[thing] = min(failures + 1, 16)
        self._due[thing] = self._clock() + pause
        return pause

    def succeeded(self, thing: Hashable) -> None:
        """Forget its failures."""
        self._failures.pop(thing, None)
        self._due.pop(thing, None)
