"""A batch: the good events of one upload, as they wait in the spool.

Encoded with MessagePack, which holds what stations send exactly (64-bit
integers, IEEE doubles, text) and decodes without running anything.  Stations
repeat the same upload codes in every event, so a batch lists each distinct
sequence of codes once.  An event's time and values are packed by themselves:
these bytes, behind its type and codes, are what identifies an event.
"""

from typing import Any, NamedTuple

import msgpack

from datastore.event import Event
from datastore.upload_codes import EVENT_TYPES


class InvalidBatch(Exception):
    """The bytes are not an encoded batch."""


class Batch(NamedTuple):
    """Events of one station that arrived together, in the order they came.

    `received` is the moment of arrival, in ns since the epoch, UTC.
    """

    station: int
    cluster: str
    received: int
    events: tuple[Event, ...]


# What a datetime can hold, in s since the epoch.
_YEAR_1, _YEAR_9999 = -62135596800, 253402300799

# Text decoded from Python 3 pickles may hold lone surrogates.
UNICODE_ERRORS = 'surrogatepass'


def encode_batch(batch: Batch) -> bytes:
    """Return the batch as bytes."""
    pack = msgpack.Packer(unicode_errors=UNICODE_ERRORS).pack
    shapes: dict[tuple[str, tuple[str, ...]], int] = {}
    events = []
    for event in batch.events:
        shape = shapes.setdefault((event.event_type, event.codes), len(shapes))
        moment = (event.timestamp, event.microseconds, event.nanoseconds)
        events.append((shape, pack(moment + event.values)))
    return pack(
        (
            batch.station,
            batch.cluster,
            batch.received,
            [(event_type, *codes) for event_type, codes in shapes],
            events,
        )
    )


def decode_batch(content: bytes) -> Batch:
    """Return the batch that `encode_batch` made `content` from.

    Raises InvalidBatch if the bytes are anything else.
    """
    try:
        station, cluster, received, packed_shapes, packed_events = _unpack(content)
        if (type(station), type(cluster), type(received)) != (int, str, int):
            raise TypeError('its station, cluster or time is of another type')
        shapes = dict(enumerate(map(_decode_shape, packed_shapes)))
        events = tuple(
            _decode_event(*shapes[shape], packed) for shape, packed in packed_events
        )
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InvalidBatch(f'not an encoded batch: {error!r}') from error
    return Batch(station, cluster, received, events)


def salvage_batch(content: bytes) -> tuple[Batch | None, int]:
    """Return what can be read of a damaged batch, and how many events it had.

    The events are those before the damage; None if not even the sender and
    the shapes can be read.  A checksum that does not match may mean that some
    of them hold other values than were sent.
    """
    unpacker = msgpack.Unpacker(
        unicode_errors=UNICODE_ERRORS, max_buffer_size=max(len(content), 1)
    )
    unpacker.feed(content)
    events: list[Event] = []
    try:
        if unpacker.read_array_header() != len(Batch._fields) + 1:
            return None, 0
        station, cluster, received = (unpacker.unpack() for _ in range(3))
        shapes = dict(enumerate(map(_decode_shape, unpacker.unpack())))
        announced = unpacker.read_array_header()
        if (type(station), type(cluster), type(received)) != (int, str, int):
            return None, 0
    except (ValueError, TypeError, msgpack.UnpackException):
        return None, 0
    try:
        for _ in range(announced):
            shape, packed = unpacker.unpack()
            events.append(_decode_event(*shapes[shape], packed))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        pass
    return Batch(station, cluster, received, tuple(events)), announced


def _decode_shape(packed: list[str]) -> tuple[str, tuple[str, ...]]:
    if type(packed) is not list or not set(map(type, packed)) <= {str}:
        raise TypeError('an upload code is not text')
    event_type, *codes = packed
    if event_type not in EVENT_TYPES:
        raise ValueError(f'it holds events of type {event_type!r:.40}')
    return event_type, tuple(codes)


def _decode_event(event_type: str, codes: tuple[str, ...], packed: bytes) -> Event:
    timestamp, microseconds, nanoseconds, *values = _unpack(packed)
    if not (type(timestamp) is type(microseconds) is type(nanoseconds) is int):
        raise TypeError('the time of an event is not in integers')
    if not _YEAR_1 <= timestamp <= _YEAR_9999:
        raise ValueError('the time of an event is in no year')
    if len(values) != len(codes):
        raise ValueError('an event has not as many values as codes')
    return Event(event_type, timestamp, microseconds, nanoseconds, codes, tuple(values))


def _unpack(content: bytes) -> Any:
    return msgpack.unpackb(content, unicode_errors=UNICODE_ERRORS)
