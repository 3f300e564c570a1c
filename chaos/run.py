"""What all trials of one run share: where, how random, and whether to go on."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chaos.janitor import Janitor
from chaos.readers import Readers

PROJECT = Path(__file__).parents[1]


class Cancelled(Exception):
    """The run was interrupted."""


class Stuck(Exception):
    """Something did not happen in the time it should take."""


class Run:
    """One run of the harness.

    `directory` holds all its files; `seed` decides all its choices; a `long`
    run tries everything, a short one samples.
    """

    def __init__(self, directory: Path, seed: int, *, long: bool) -> None:
        self.directory = directory
        self.seed = seed
        self.long = long
        self.janitor = Janitor()
        self.readers = Readers(self.janitor)
        self._cancelled = threading.Event()

    def close(self) -> None:
        """End what the trials shared, and have the janitor look for the rest."""
        self.readers.close()
        self.janitor.close()

    def cancel(self) -> None:
        """Make every wait of every trial raise Cancelled."""
        self._cancelled.set()

    def random(self, *what: object) -> random.Random:
        """Return random choices that the seed and `what` decide."""
        return random.Random('/'.join(map(str, (self.seed, *what))))

    def pause(self, seconds: float) -> None:
        """Wait; raises Cancelled if the run is interrupted."""
        if self._cancelled.wait(seconds):
            raise Cancelled

    def wait_for(
        self, condition: Callable[[], object], what: str, seconds: float = 30
    ) -> None:
        """Wait until `condition` is true.

        Raises Stuck, saying `what` was waited for, if it takes longer.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise Stuck(f'not within {seconds:g} s: {what}')
            self.pause(0.01)
