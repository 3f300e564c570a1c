"""Says which events are suspicious, and why.

What is looked at here is who, what and when.  Values that do not fit their
columns show when events become rows.
"""

from datetime import date, timedelta
from itertools import repeat
from typing import Any, NamedTuple

from datastore.config import Config
from datastore.event import EPOCH, Event, InvalidEvent, parse_event
from datastore.series import Series
from datastore.suspicious import Flagged

_DAY = 86400  # s

# GPS receivers that start without knowing the week stamp events with the first
# day of a 1024-week cycle: the first (1999) and the second rollover (2019).
COLD_START_DATES = (date(1999, 8, 22), date(2019, 4, 7))
_COLD_START_DAYS = frozenset(
    (day - EPOCH.date()) // timedelta(days=1) for day in COLD_START_DATES
)


class Limits(NamedTuple):
    """Within which times events are trusted: timestamps, in s, inclusive."""

    earliest: int
    latest: int


def limits(config: Config, now: float) -> Limits:
    """Return the limits at the moment `now`, in s since the epoch, UTC."""
    earliest = (config.earliest - EPOCH.date()) // timedelta(seconds=1)
    return Limits(earliest, int(now + config.future_tolerance.total_seconds()))


def sort_out(
    event_list: list[dict[str, Any]], limits: Limits
) -> tuple[list[Event], list[Flagged]]:
    """Return the good events, and the flagged ones as they were uploaded."""
    good, flagged = [], []
    for uploaded in event_list:
        try:
            event = parse_event(uploaded)
        except InvalidEvent as error:
            flagged.append(Flagged(uploaded, (str(error),)))
            continue
        if found := reasons(event.timestamp, event.nanoseconds, limits):
            flagged.append(Flagged(uploaded, found))
        else:
            good.append(event)
    return good, flagged


def are_good(series: Series, limits: Limits) -> bool:
    """Return whether none of these well-formed events is suspicious."""
    found = map(reasons, series.timestamps, series.nanoseconds, repeat(limits))
    return not any(found)


def reasons(timestamp: int, nanoseconds: int, limits: Limits) -> tuple[str, ...]:
    """Return why a well-formed event of this time is suspicious; empty if not."""
    found = []
    if not limits.earliest <= timestamp <= limits.latest:
        moment = EPOCH + timedelta(seconds=timestamp)
        if timestamp < limits.earliest:
            earliest = EPOCH + timedelta(seconds=limits.earliest)
            found.append(f'{moment} is before {earliest:%Y-%m-%d}')
        else:
            found.append(f'{moment} is in the future')
    if timestamp // _DAY in _COLD_START_DAYS:
        day = EPOCH.date() + timedelta(seconds=timestamp)
        found.append(f'{day} is a date of GPS receivers that do not know the date')
    if not 0 <= nanoseconds < 10**9:
        found.append(f'nanoseconds are {nanoseconds}, not within a second')
    return tuple(found)
