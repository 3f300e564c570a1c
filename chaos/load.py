"""Stations that upload at the same time, and never let go of a batch."""

import logging
import threading
from collections.abc import Sequence

from chaos.bench import Bench
from chaos.events import PASSWORD, STATIONS, Feed
from chaos.run import Stuck
from datastore.simulation import Event
from datastore.station import GaveUp, Station

TIMEOUT = 10.0  # s; far longer than any answer takes
RETRY = 0.05  # s between two tries, instead of minutes


class Abandoned(Exception):
    """The station's power was cut as well: it stops trying."""


class _Failures(logging.Handler):
    """Notes why uploads fail, for the station whose thread logs it."""

    def emit(self, record: logging.LogRecord) -> None:
        client = threading.current_thread()
        if isinstance(client, Client) and isinstance(record.args, tuple):
            client.bench.ledger.failed(str(record.args[1]))


_logger = logging.getLogger('datastore.station')
_logger.addHandler(_Failures())
_logger.propagate = False


class Client(threading.Thread):
    """One station, uploading one batch after the other."""

    def __init__(self, bench: Bench, feed: Feed, *, resends: bool, pace: float) -> None:
        super().__init__(name=f'station {feed.station}', daemon=True)
        self.bench = bench
        self.ending = threading.Event()
        self.abandoned = threading.Event()
        self._feed = feed
        self._resends = resends
        self._pace = pace
        self._rng = bench.run.random(bench.directory.name, feed.station)
        self._past: list[Event] = []
        self._station = Station(
            bench.url, feed.station, PASSWORD, timeout=TIMEOUT, sleep=self._retry_later
        )

    def run(self) -> None:
        """Upload until told to end; what was begun is finished."""
        try:
            while not self.ending.is_set():
                events = self._feed.batch()
                self.upload(events)
                if self._resends:
                    self._resend(events)
                self.ending.wait(self._rng.uniform(0, 2 * self._pace))
        except Abandoned:
            pass
        except Exception as error:
            # Nothing narrower: a thread that dies in silence tests nothing.
            self.bench.trouble.append(f'{self.name}: {type(error).__name__}: {error}')

    def upload(self, events: list[Event]) -> None:
        """Upload one batch until it is acknowledged."""
        self.bench.ledger.sending(self._feed.station, events)
        self._station.url = self.bench.url
        try:
            self._station.upload(events)
        except GaveUp as error:
            raise Abandoned from error
        self.bench.ledger.was_acknowledged(self._feed.station, events)

    def _retry_later(self, seconds: float) -> None:
        if self.abandoned.wait(RETRY):
            raise Abandoned
        self._station.url = self.bench.url  # that of a uWSGI started meanwhile

    def _resend(self, events: list[Event]) -> None:
        """Upload a batch again, then events of this and others in other cuts."""
        self.upload(events)
        self._past = (self._past + events)[-200:]
        count = self._rng.randint(1, min(60, len(self._past)))
        self.upload(self._rng.sample(self._past, count))
        start = self._rng.randrange(len(self._past))
        self.upload(self._past[start : start + count])


class Load:
    """All stations of a bench, uploading until told to end.

    With `resends`, everything is sent twice and more; `pace` is the mean
    pause, in s, between two batches of a station.
    """

    def __init__(
        self,
        bench: Bench,
        *,
        resends: bool = False,
        pace: float = 0.03,
        stations: Sequence[int] = STATIONS,
    ) -> None:
        self._bench = bench
        self._clients = []
        for station in stations:
            feed = Feed(
                station, bench.run.random(bench.directory.name, 'feed', station)
            )
            self._clients.append(Client(bench, feed, resends=resends, pace=pace))
        bench.on_halt(self.abandon)
        for client in self._clients:
            client.start()

    def finish(self, seconds: float = 60) -> None:
        """Begin no more batches, and wait until all begun are acknowledged.

        Raises Stuck if that does not happen.
        """
        for client in self._clients:
            client.ending.set()
        try:
            self._bench.run.wait_for(
                lambda: not any(client.is_alive() for client in self._clients),
                'all uploads are acknowledged',
                seconds,
            )
        except Stuck as stuck:
            seen = dict(self._bench.ledger.failures)
            raise Stuck(f'{stuck}; the stations saw {seen}') from None

    def abandon(self) -> None:
        """Make the stations stop where they are."""
        for client in self._clients:
            client.ending.set()
            client.abandoned.set()
        for client in self._clients:
            client.join(2 * TIMEOUT)


def upload(bench: Bench, feed: Feed, *batches: list[Event]) -> None:
    """Upload these batches, one after the other, until all are acknowledged."""
    client = Client(bench, feed, resends=False, pace=0)
    for events in batches:
        client.upload(events)
