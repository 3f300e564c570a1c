"""One event as a station announces it: who it is, when it was, and its values.

An event arrives as `{'header': {...}, 'datalist': [{'data_uploadcode': 'PH1',
'data': 12}, ...]}`.  An `Event` is the same thing of known shape; whatever
does not have that shape is an `InvalidEvent`, and stays as it came.
"""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from datastore.upload_codes import EVENT_TYPES

EPOCH = datetime(1970, 1, 1)
_DAY = 86400  # s

# What a station may send as a value.  Text that is not in a str was decoded
# before it came here.
VALUE_TYPES = frozenset([type(None), bool, int, float, str])
INT64 = range(-(2**63), 2**64)  # what a column, int64 or uint64, could ever hold


class InvalidEvent(Exception):
    """The event, or one of its values, cannot become a row; says why."""


class Event(NamedTuple):
    """A well-formed event of a known type.

    `timestamp` is the header's `datetime` counted as if it were UTC, in whole
    seconds; `microseconds` the rest of it, which tells events apart but is
    not archived; `nanoseconds` the header's, unchecked.  `values[i]` belongs
    to the upload code `codes[i]`.
    """

    event_type: str
    timestamp: int
    microseconds: int
    nanoseconds: int
    codes: tuple[str, ...]
    values: tuple[Any, ...]

    def as_uploaded(self) -> dict[str, Any]:
        """Return the event in the form a station uploads it in."""
        moment = EPOCH + timedelta(
            seconds=self.timestamp, microseconds=self.microseconds
        )
        return {
            'header': {
                'eventtype_uploadcode': self.event_type,
                'datetime': moment,
                'nanoseconds': self.nanoseconds,
            },
            'datalist': [
                {'data_uploadcode': code, 'data': value}
                for code, value in zip(self.codes, self.values, strict=True)
            ],
        }


def parse_event(uploaded: object) -> Event:
    """Return the `Event` that a station uploaded.

    Raises InvalidEvent, naming the fault, if the header or the datalist is
    not of the form above, or the event type is unknown.
    """
    if type(uploaded) is not dict:
        raise InvalidEvent('the event is not a dict')
    event_type, moment, nanoseconds = _parse_header(uploaded.get('header'))
    codes, values = _parse_datalist(uploaded.get('datalist'))
    since = moment - EPOCH
    whole_seconds = since.days * _DAY + since.seconds
    return Event(
        event_type, whole_seconds, since.microseconds, nanoseconds, codes, values
    )


def _parse_header(header: object) -> tuple[str, datetime, int]:
    if type(header) is not dict:
        raise InvalidEvent('the event has no header')
    event_type = header.get('eventtype_uploadcode')
    if type(event_type) is not str or event_type not in EVENT_TYPES:
        raise InvalidEvent(f'unknown event type {event_type!r:.40}')
    moment = header.get('datetime')
    if type(moment) is not datetime or moment.tzinfo is not None:
        raise InvalidEvent(f"the header's datetime is {moment!r:.40}")
    nanoseconds = header.get('nanoseconds')
    if nanoseconds is None and not EVENT_TYPES[event_type].has_nanoseconds:
        nanoseconds = 0  # nothing would be stored of it
    if type(nanoseconds) is not int or nanoseconds not in INT64:
        raise InvalidEvent(f"the header's nanoseconds are {nanoseconds!r:.40}")
    return event_type, moment, nanoseconds


def _parse_datalist(datalist: object) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    if type(datalist) is not list:
        raise InvalidEvent('the event has no datalist')
    try:
        codes = tuple([entry['data_uploadcode'] for entry in datalist])
        values = tuple([entry['data'] for entry in datalist])
    except (KeyError, TypeError, IndexError):
        raise InvalidEvent(
            'the datalist holds an entry without data_uploadcode and data'
        ) from None
    if not set(map(type, codes)) <= {str}:
        raise InvalidEvent('the datalist holds an upload code that is not text')
    if len(set(codes)) < len(codes):
        twice = Counter(codes).most_common(1)[0][0]
        raise InvalidEvent(f'upload code {twice!r:.40} is sent more than once')
    # All at once; one by one only to name what is wrong.
    numbers = [value for value in values if type(value) is int]
    if (
        not set(map(type, values)) <= VALUE_TYPES
        or min(numbers, default=0) not in INT64
        or max(numbers, default=0) not in INT64
    ):
        _blame_value(codes, values)
    return codes, values


def _blame_value(codes: tuple[str, ...], values: tuple[Any, ...]) -> None:
    for code, value in zip(codes, values, strict=True):
        if type(value) not in VALUE_TYPES:
            raise InvalidEvent(f'{code!r:.40} is neither a number nor text')
        if type(value) is int and value not in INT64:
            raise InvalidEvent(f'{code!r:.40} is too large for any column')
