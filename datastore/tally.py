"""What happens to each station, counted by every process of both programs.

Each process counts in a file of its own, `<data_dir>/status/<n>.tally`, see
`datastore.counts_file`, with a record for each station.  Station 0 stands for
uploads of stations that are not listed, or that could not be told, and for what
the writer does that is no station's.  What a station did is the sum over all
files: of `last_*` and `*_at` the latest, of `*_today` those of the latest `day`.
"""

import functools
import logging
import math
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datastore.counts_file import CountsFile, Layout, read_counts
from datastore.heartbeat import status_directory
from datastore.series import Series
from datastore.upload_codes import EVENT_TYPES

NOBODY = 0  # no station's number: whoever is not listed, or could not be told
REFUSALS = (201, 203, 205, 206, 208, 400)


class Durations(NamedTuple):
    """Fields that say how long something took: their sum, and a histogram.

    `bounds` are the upper ones of its buckets, in s, of which the last has none.
    """

    name: str
    bounds: tuple[float, ...]

    @property
    def total(self) -> str:
        """The field of the sum, in us: integers add up exactly."""
        return f'{self.name}_microseconds'

    @property
    def buckets(self) -> list[str]:
        """The fields that count what took up to a bound, and more than the last."""
        return [f'{self.name}_within_{bound:g}' for bound in self.bounds]


UPLOAD_DURATIONS = Durations(
    'uploads',
    (
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
        *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf),
    ),
)
SWEEP_DURATIONS = Durations(
    'sweeps', (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, math.inf)
)

# Everything is a count but `day`, in days since 1970, UTC, and times, in s since
# the epoch.  `last_event` is by the station's clock, the others by ours.
FIELDS = (
    'station',
    # By the endpoint.
    'uploads',
    'bytes',
    'last_upload',
    'last_event',
    'suspicious_endpoint',
    *(f'refused_{rcode}' for rcode in REFUSALS),
    *(f'refused_{rcode}_at' for rcode in REFUSALS),
    *(f'events_{event_type}' for event_type in EVENT_TYPES),
    'day',
    *(f'events_{event_type}_today' for event_type in EVENT_TYPES),
    UPLOAD_DURATIONS.total,
    *UPLOAD_DURATIONS.buckets,
    # By the writer.
    'stored',
    'duplicates',
    'suspicious_writer',
    'commits',
    'replays',
    'rejected',
    'last_sweep',
    SWEEP_DURATIONS.total,
    *SWEEP_DURATIONS.buckets,
)
_AT = {name: position for position, name in enumerate(FIELDS)}
_TODAY = [at for name, at in _AT.items() if name.endswith('_today')]
_LATEST = [
    at
    for name, at in _AT.items()
    if name in ('station', 'day') or name.startswith('last_') or name.endswith('_at')
]
_COUNTS = sorted(set(_AT.values()) - set(_TODAY) - set(_LATEST))

_DAY = 86400  # s

Counts = dict[str, int]  # of one station, by field


def _never_failing(count: Callable[..., None]) -> Callable[..., None]:
    """Log, once, that a count cannot be kept, instead of raising."""

    @functools.wraps(count)
    def guarded(self: 'Tally', *arguments: Any) -> None:
        try:
            count(self, *arguments)
        except Exception as error:
            # Nothing narrower: an upload does not fail because of its count.
            self._file.complain(error)

    return guarded


class Tally:
    """What this process counts.  No method raises; each costs some microseconds.

    Threads may share one; it is not to be used across a fork.
    """

    def __init__(
        self,
        data_dir: Path,
        logger: logging.Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._file = CountsFile(status_directory(data_dir), _LAYOUT, logger)
        self._clock = clock

    @_never_failing
    def taken(
        self,
        station: int,
        size: int,
        good: Sequence[Series],
        suspicious: int,
        seconds: float,
    ) -> None:
        """Count an upload of `size` bytes that was answered 100 after `seconds`.

        `good` are its good events, `suspicious` counts the others.
        """
        now = int(self._clock())
        with self._file.changing(station) as record:
            if record[_AT['day']] != now // _DAY:
                record[_AT['day']] = now // _DAY
                for at in _TODAY:
                    record[at] = 0
            record[_AT['uploads']] += 1
            record[_AT['bytes']] += size
            record[_AT['last_upload']] = now
            record[_AT['suspicious_endpoint']] += suspicious
            for series in good:
                latest = max(series.timestamps)
                record[_AT['last_event']] = max(record[_AT['last_event']], latest)
                count = len(series.places)
                record[_AT[f'events_{series.event_type}']] += count
                record[_AT[f'events_{series.event_type}_today']] += count
            _observe(record, UPLOAD_DURATIONS, seconds)

    @_never_failing
    def refused(self, station: int | None, rcode: int, seconds: float) -> None:
        """Count an upload that was answered `rcode` after `seconds`.

        `station` is None unless it is listed: a sender that makes up numbers
        is not to make records.
        """
        with self._file.changing(NOBODY if station is None else station) as record:
            record[_AT[f'refused_{rcode}']] += 1
            record[_AT[f'refused_{rcode}_at']] = int(self._clock())
            _observe(record, UPLOAD_DURATIONS, seconds)

    @_never_failing
    def appended(
        self, station: int, stored: int, duplicates: int, suspicious: int
    ) -> None:
        """Count what the writer made of a station's events."""
        with self._file.changing(station) as record:
            record[_AT['stored']] += stored
            record[_AT['duplicates']] += duplicates
            record[_AT['suspicious_writer']] += suspicious

    @_never_failing
    def committed(self, station: int) -> None:
        """Count a commit to a day file of a station."""
        with self._file.changing(station) as record:
            record[_AT['commits']] += 1

    @_never_failing
    def replayed(self) -> None:
        """Count a commit that was interrupted and is finished."""
        with self._file.changing(NOBODY) as record:
            record[_AT['replays']] += 1

    @_never_failing
    def rejected(self) -> None:
        """Count a spool file that could not be read."""
        with self._file.changing(NOBODY) as record:
            record[_AT['rejected']] += 1

    @_never_failing
    def swept(self, seconds: float) -> None:
        """Count a sweep that went through the whole spool."""
        with self._file.changing(NOBODY) as record:
            record[_AT['last_sweep']] = int(self._clock())
            _observe(record, SWEEP_DURATIONS, seconds)

    def close(self) -> None:
        """Leave the counts to another process."""
        self._file.close()


def read_tallies(data_dir: Path) -> dict[int, Counts]:
    """Return what all processes, living and dead, counted for each station.

    Uploads that are no listed station's are counted for NOBODY.  Raises
    OSError if a file cannot be read.
    """
    return {
        number: dict(zip(FIELDS, record, strict=True))
        for number, record in read_counts(status_directory(data_dir), _LAYOUT).items()
    }


def no_counts() -> Counts:
    """Return the counts of a station that nothing is known of."""
    return dict.fromkeys(FIELDS, 0)


def _observe(record: 'array[int]', durations: Durations, seconds: float) -> None:
    start = _AT[durations.total]  # the buckets follow it
    record[start] += round(seconds * 1e6)
    record[start + 1 + bisect_left(durations.bounds, seconds)] += 1


def _add(sums: 'array[int]', record: 'array[int]') -> None:
    is_later_day = record[_AT['day']] > sums[_AT['day']]
    is_earlier_day = record[_AT['day']] < sums[_AT['day']]
    for at in _TODAY:
        if is_later_day:
            sums[at] = 0
        if not is_earlier_day:
            sums[at] += record[at]
    for at in _COUNTS:
        sums[at] += record[at]
    for at in _LATEST:
        sums[at] = max(sums[at], record[at])


_LAYOUT = Layout(FIELDS, _add)
