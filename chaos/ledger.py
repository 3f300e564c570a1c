"""What was sent, and what of it was acknowledged."""

import threading
from collections import Counter
from collections.abc import Iterable

from chaos.events import Key, upload_key
from datastore.simulation import Event


class Ledger:
    """The events of one trial, by what they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sent: dict[Key, Event] = {}
        self.acknowledged: set[Key] = set()
        self.failures: Counter[str] = Counter()  # of uploads, by what stations saw

    def sending(self, station: int, events: Iterable[Event]) -> None:
        """Note that a batch is about to be sent."""
        with self._lock:
            self.sent.update({upload_key(station, event): event for event in events})

    def was_acknowledged(self, station: int, events: Iterable[Event]) -> None:
        """Note that a batch was answered with 100."""
        with self._lock:
            self.acknowledged.update(upload_key(station, event) for event in events)

    def failed(self, failure: str) -> None:
        """Note what a station saw instead."""
        with self._lock:
            self.failures[failure] += 1

    def refusals(self) -> int:
        """Return how often 205 was answered."""
        with self._lock:
            return sum(n for text, n in self.failures.items() if ' 205 ' in text)

    def copy(self) -> 'Ledger':
        """Return another ledger that starts with the events of this one."""
        other = Ledger()
        other.sent |= self.sent
        other.acknowledged |= self.acknowledged
        return other
