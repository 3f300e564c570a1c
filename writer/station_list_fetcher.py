"""Fetches the station list again and again, beside the sweeps of the writer.

One place does, and it is the writer: a worker of uWSGI runs no threads, and
several would each fetch for themselves.  The endpoint follows the file.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from datastore.config import Config
from datastore.station_list_url import FetchError, StationListUrl

logger = logging.getLogger(__name__)

# A network that is not up yet when we start is tried again soon.
_RETRY = 60.0  # s, or the interval if that is shorter

# What stays wrong is said again, for who looks at today's log.
_SAY_AGAIN = 3600.0  # s

_FAREWELL = 1.0  # s for a fetch in progress; what it writes is whole or not there


class StationListFetcher:
    """Fetches on an interval until `stop` is set."""

    def __init__(
        self,
        source: StationListUrl,
        interval: float,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._interval = interval
        self._stop = stop
        self._clock = clock
        self._complaint = ''
        self._said = 0.0

    def run(self) -> None:
        """Fetch now, and then after every pause."""
        while not self._stop.wait(self.fetch()):
            pass

    def fetch(self) -> float:
        """Fetch once, say in the log what came of it, and return the pause."""
        try:
            changes = self._source.fetch()
        except FetchError as error:
            self._complain(str(error))
            return min(_RETRY, self._interval)
        except Exception:
            # Nothing narrower: without this thread the list would stand still
            # for as long as the writer runs.
            logger.exception('fetching the station list: internal error')
            return self._interval
        if any(changes) or self._complaint:
            logger.info('station list fetched from %s, %s', self._source.shown, changes)
        self._complaint = ''
        return self._interval

    def _complain(self, complaint: str) -> None:
        now = self._clock()
        if complaint != self._complaint or now - self._said >= _SAY_AGAIN:
            self._complaint = complaint
            self._said = now
            logger.error('the station list stays as it is: %s', complaint)


@contextlib.contextmanager
def fetching(config: Config) -> Iterator[None]:
    """Fetch the station list in here, if the configuration names a URL.

    Raises ConfigError if it cannot be fetched from at all.
    """
    if config.url is None:
        yield
        return
    stop = threading.Event()
    fetcher = StationListFetcher(StationListUrl(config), config.interval, stop)
    thread = threading.Thread(target=fetcher.run, name='station list', daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_FAREWELL)
