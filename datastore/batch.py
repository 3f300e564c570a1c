"""A batch: the good events of one upload, as they wait in the spool.

Encoded with MessagePack, which holds what stations send exactly (64-bit
integers, IEEE doubles, text) and decodes without running anything.  Stations
repeat the same upload codes in every event, so a batch lists what each series of
events has in common once.  An event's time and values are packed by themselves:
these bytes, behind its type and codes, are what identifies an event.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack

from datastore.event import Event
from datastore.series import Series, count_events, in_series
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
    return encode_series(
        batch.station, batch.cluster, batch.received, in_series(batch.events)
    )


def encode_series(
    station: int, cluster: str, received: int, series: Sequence[Series]
) -> bytes:
    """Return a batch of these events as bytes, each event in its place.

    Raises ValueError or IndexError, rather than leave out an event, if the
    places are not those of all events, or the columns not those of the codes.
    """
    pack = msgpack.Packer(unicode_errors=UNICODE_ERRORS).pack
    events: list[tuple[int, bytes] | None] = [None] * count_events(series)
    for shape, one in enumerate(series):
        for place, packed in zip(one.places, map(pack, one.rows()), strict=True):
            events[place] = shape, packed
    if None in events or any(len(one.columns) != len(one.codes) for one in series):
        raise ValueError('these series do not belong together')
    shapes = [(one.event_type, *one.codes) for one in series]
    return pack((station, cluster, received, shapes, events))


def decode_batch(content: bytes) -> Batch:
    """Return the batch that `encode_batch` made `content` from.

    Raises InvalidBatch if the bytes are anything else.
    """
    batch, _ = decode_identified(content)
    return batch


def decode_identified(content: bytes) -> tuple[Batch, list[bytes]]:
    """Return what `decode_batch` does, and what identifies each event.

    That is its type, time, codes and values in MessagePack, as `Packer().pack`
    would pack the `Event`; put together from the bytes that the batch has of
    them, in less than half of the time.
    """
    try:
        station, cluster, received, packed_shapes, packed_events = _unpack(content)
        if (type(station), type(cluster), type(received)) != (int, str, int):
            raise TypeError('its station, cluster or time is of another type')
        shapes = _decode_shapes(packed_shapes, len(content))
        events, identities = [], []
        for number, packed in packed_events:
            shape = shapes[number]
            events.append(_decode_event(shape, packed))
            identities.append(_identity(shape, packed))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise InvalidBatch(f'not an encoded batch: {error!r}') from error
    return Batch(station, cluster, received, tuple(events)), identities


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
        shapes = _decode_shapes(unpacker.unpack(), len(content))
        announced = unpacker.read_array_header()
        if (type(station), type(cluster), type(received)) != (int, str, int):
            return None, 0
    except (ValueError, TypeError, msgpack.UnpackException):
        return None, 0
    try:
        for _ in range(announced):
            shape, packed = unpacker.unpack()
            events.append(_decode_event(shapes[shape], packed))
    except (ValueError, TypeError, KeyError, msgpack.UnpackException):
        pass
    return Batch(station, cluster, received, tuple(events)), announced


class _Shape(NamedTuple):
    """What all events of one type with the same codes have in common.

    Their time `start`s there in their packed bytes.  In what identifies them,
    `head` stands before the time and `middle` behind it.
    """

    event_type: str
    codes: tuple[str, ...]
    start: int
    head: bytes
    middle: bytes


def _decode_shapes(packed: list[list[str]], size: int) -> dict[int, _Shape]:
    """Return the shapes of a batch of `size` bytes by their numbers."""
    if not set(map(type, packed)) <= {list}:
        raise TypeError('a shape is not a list')
    decode = _decode_usual_shape if size <= _USUAL_SIZE else _decode_shape
    return {number: decode(*shape) for number, shape in enumerate(packed)}


def _decode_shape(event_type: str, *codes: str) -> _Shape:
    if not set(map(type, (event_type, *codes))) <= {str}:
        raise TypeError('an upload code is not text')
    if event_type not in EVENT_TYPES:
        raise ValueError(f'it holds events of type {event_type!r:.40}')
    pack = msgpack.Packer(unicode_errors=UNICODE_ERRORS)
    return _Shape(
        event_type,
        codes,
        start=len(pack.pack_array_header(3 + len(codes))),
        head=pack.pack_array_header(len(Event._fields)) + pack.pack(event_type),
        middle=pack.pack(codes) + pack.pack_array_header(len(codes)),
    )


# A shape takes longer to decode than an event, and stations repeat theirs.
# Those of small batches, for which it matters: codes may be as long as a batch.
_USUAL_SIZE = 16_384  # bytes of a batch
_decode_usual_shape = lru_cache(maxsize=64)(_decode_shape)


def _decode_event(shape: _Shape, packed: bytes) -> Event:
    fields = msgpack.unpackb(packed, unicode_errors=UNICODE_ERRORS, use_list=False)
    timestamp, microseconds, nanoseconds = fields[:3]
    if not (type(timestamp) is type(microseconds) is type(nanoseconds) is int):
        raise TypeError('the time of an event is not in integers')
    if not _YEAR_1 <= timestamp <= _YEAR_9999:
        raise ValueError('the time of an event is in no year')
    values = fields[3:]
    if len(values) != len(shape.codes):
        raise ValueError('an event has not as many values as codes')
    return Event(
        shape.event_type, timestamp, microseconds, nanoseconds, shape.codes, values
    )


def _identity(shape: _Shape, packed: bytes) -> bytes:
    start = stop = shape.start
    for _ in range(3):  # the timestamp, micro- and nanoseconds
        stop += _SIZES.get(packed[stop], 1)
    return b''.join((shape.head, packed[start:stop], shape.middle, packed[stop:]))


# Of integers in MessagePack, by their first byte, where it is not all of it.
_SIZES = {
    first: 1 + size
    for types in (b'\xcc\xcd\xce\xcf', b'\xd0\xd1\xd2\xd3')
    for first, size in zip(types, (1, 2, 4, 8), strict=True)
}


def _unpack(content: bytes) -> Any:
    return msgpack.unpackb(content, unicode_errors=UNICODE_ERRORS)
