"""How the datastore fares: the document of `datastore status` and /status.json.

All times in it are in seconds since the epoch, UTC, but `last_event`, which is
by the station's own clock.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from datastore.config import Config
from datastore.heartbeat import writer_status
from datastore.spool import Backlog, count_rejected, measure_backlog
from datastore.suspicious import count_suspicious
from datastore.tally import NOBODY, REFUSALS, Counts, no_counts, read_tallies
from datastore.upload_codes import EVENT_TYPES

# In the order in which they are listed.
STATES = ('down', 'late', 'up')

# Going through long directories is repeated only after so many times the time
# it took, or this long.
_SCAN_SHARE = 50
_SCAN_INTERVAL = 5.0  # s

_DAY = 86400  # s


class _Scan(NamedTuple):
    """What takes a walk through directories to know."""

    measured: int  # when, in s since the epoch
    backlog: Backlog
    suspicious: int
    rejected: int


class StatusReport:
    """Makes the document, walking through long directories now and then only."""

    def __init__(
        self, config: Config, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._clock = clock
        self._scan: _Scan | None = None
        self._scan_again = clock()

    def document(self, clusters: Mapping[int, str], now: float) -> dict[str, Any]:
        """Return how everything fares at the moment `now`, ready for JSON.

        `clusters` has the listed stations, by number.  Raises OSError if
        `data_dir` cannot be read.
        """
        config = self._config
        scan = self._scanned(now)
        tallies = read_tallies(config.data_dir)
        stations = [
            _station(number, cluster, tallies.get(number, no_counts()), config, now)
            for number, cluster in clusters.items()
        ]
        stations.sort(key=_silent_first)
        disk = os.statvfs(config.data_dir)
        oldest = scan.backlog.oldest
        return {
            'time': int(now),
            'spool': {
                'measured': scan.measured,
                'batches': scan.backlog.batches,
                'bytes': scan.backlog.size,
                'oldest': oldest,
                'unreadable': scan.backlog.unreadable,
                'oldest_age': None if oldest is None else max(0, int(now) - oldest),
            },
            'writer': writer_status(config, now),
            'disk': {
                'free': disk.f_bavail * disk.f_frsize,
                'min_free_space': config.min_free_space,
            },
            'suspicious_files': scan.suspicious,
            'rejected_files': scan.rejected,
            'counts': {
                state: sum(station['state'] == state for station in stations)
                for state in STATES
            },
            # Uploads of stations that are not listed, or that could not be told.
            'unknown_senders': _refusals(tallies.get(NOBODY, no_counts())),
            'stations': stations,
        }

    def _scanned(self, now: float) -> _Scan:
        started = self._clock()
        if self._scan is None or started >= self._scan_again:
            data_dir = self._config.data_dir
            self._scan = _Scan(
                int(now),
                measure_backlog(data_dir),
                count_suspicious(data_dir),
                count_rejected(data_dir),
            )
            finished = self._clock()
            pause = max(_SCAN_INTERVAL, _SCAN_SHARE * (finished - started))
            self._scan_again = finished + pause
        return self._scan


def _station(
    number: int, cluster: str, counts: Counts, config: Config, now: float
) -> dict[str, Any]:
    is_today = counts['day'] == int(now) // _DAY
    today = {kind: counts[f'events_{kind}_today'] * is_today for kind in EVENT_TYPES}
    totals = {kind: counts[f'events_{kind}'] for kind in EVENT_TYPES}
    return {
        'station': number,
        'cluster': cluster,
        'state': _state(counts['last_upload'], config, now),
        'last_upload': counts['last_upload'] or None,
        'last_event': counts['last_event'] or None,
        'uploads': counts['uploads'],
        'bytes': counts['bytes'],
        # By the day, UTC, on which they arrived, whenever they happened.
        'events_today': {kind: count for kind, count in today.items() if count},
        'events': {kind: count for kind, count in totals.items() if count},
        'suspicious': counts['suspicious_endpoint'] + counts['suspicious_writer'],
        'stored': counts['stored'],
        'duplicates': counts['duplicates'],
        'refusals': _refusals(counts),
    }


def _state(last_upload: int, config: Config, now: float) -> str:
    silence = now - last_upload  # of one that was never heard of, since 1970
    if silence > config.down.total_seconds():
        return 'down'
    return 'late' if silence > config.late.total_seconds() else 'up'


def _silent_first(station: dict[str, Any]) -> tuple[int, int, int]:
    state = STATES.index(station['state'])
    return state, station['last_upload'] or 0, station['station']


def _refusals(counts: Counts) -> dict[str, dict[str, int]]:
    """Return how often each code was answered, and when last."""
    return {
        str(rcode): {
            'count': counts[f'refused_{rcode}'],
            'last': counts[f'refused_{rcode}_at'],
        }
        for rcode in REFUSALS
        if counts[f'refused_{rcode}']
    }
