"""Turns events into rows and blobs; touches no file.

Events with the same upload codes are converted together, a column at a time.
Only if one of them has a value that does not fit are they looked at one by
one, so that the good ones are not flagged with it.
"""

import base64
import binascii
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from datastore.event import Event, InvalidEvent
from datastore.upload_codes import EVENT_TYPES, Column, Table


class Rows(NamedTuple):
    """Rows to append to one table, and the blobs they refer to.

    `rows` has the table's row dtype, shape (n,).  `event_id` is 0, and blob
    columns count from 0 within `blobs`: where they end up is known only to
    the file.
    """

    table: Table
    rows: np.ndarray[Any, np.dtype[Any]]
    blobs: list[bytes]


class Conversion(NamedTuple):
    """What became of a sequence of events.

    `flagged` pairs the position of an event that cannot become a row with the
    reasons.  `unknown_codes` are those that no column takes; their values
    are not archived.
    """

    tables: list[Rows]
    flagged: list[tuple[int, tuple[str, ...]]]
    unknown_codes: set[str]


def rows_and_blobs(events: Sequence[Event]) -> Conversion:
    """Return the rows and blobs of events; rows in the order the events came."""
    alike: dict[tuple[str, tuple[str, ...]], list[int]] = defaultdict(list)
    for position, event in enumerate(events):
        alike[event.event_type, event.codes].append(position)

    parts: dict[str, list[tuple[list[int], Rows]]] = defaultdict(list)
    flagged = []
    unknown_codes: set[str] = set()
    for (event_type, codes), positions in alike.items():
        table = EVENT_TYPES[event_type]
        unknown_codes.update(codes - table.fields.keys())
        try:
            part = positions, _convert(table, codes, events, positions)
            parts[event_type].append(part)
        except InvalidEvent:
            for position in positions:
                try:
                    part = [position], _convert(table, codes, events, [position])
                    parts[event_type].append(part)
                except InvalidEvent as error:
                    flagged.append((position, error.args))
    tables = [_in_order(parts[name]) for name in parts if parts[name]]
    return Conversion(tables, sorted(flagged), unknown_codes)


def _in_order(parts: list[tuple[list[int], Rows]]) -> Rows:
    """Return the parts as one, their rows in the order of their positions."""
    joined = _concatenated([rows for _, rows in parts])
    if len(parts) == 1:
        return joined
    order = np.argsort(np.concatenate([positions for positions, _ in parts]))
    return joined._replace(rows=joined.rows[order])


def concatenated(parts: Sequence[Rows]) -> list[Rows]:
    """Return the rows and blobs of each table at once, in the order of the parts."""
    of_table: dict[str, list[Rows]] = defaultdict(list)
    for part in parts:
        of_table[part.table.name].append(part)
    return [_concatenated(parts) for parts in of_table.values()]


def _concatenated(parts: list[Rows]) -> Rows:
    table = parts[0].table
    if len(parts) == 1:
        return parts[0]
    rows = np.concatenate([part.rows for part in parts])
    blobs: list[bytes] = []
    start = 0
    for part in parts:
        stop = start + len(part.rows)
        for name in table.blob_columns:
            indices = rows[name][start:stop]
            indices[indices >= 0] += len(blobs)
        blobs += part.blobs
        start = stop
    return Rows(table, rows, blobs)


def _convert(
    table: Table,
    codes: tuple[str, ...],
    events: Sequence[Event],
    positions: list[int],
) -> Rows:
    """Return the rows of the events at `positions`, all with the same codes.

    Raises InvalidEvent, with every reason as an argument of its own, if a
    value of any of them does not fit its column.
    """
    chosen = [events[position] for position in positions]
    rows = np.empty(len(chosen), dtype=table.row_dtype)
    rows[:] = table.empty_row
    _stamp(table, rows, chosen)

    faults = []
    blob_fields = []
    for code, values in zip(codes, zip(*(e.values for e in chosen)), strict=True):
        field = table.fields.get(code)
        if field is None:
            continue
        target: Any = rows[field.column.name]
        if field.detector is not None:
            target = target[:, field.detector]
        try:
            if field.column.is_blob:
                blob_fields.append((target, _blobs(field.column, values)))
            else:
                target[:] = _numbers(field.column, values)
        except InvalidEvent as error:
            faults.append(f'{code} {error}')
    if faults:
        raise InvalidEvent(*faults)

    # The blobs of one event stand together: they are read together.
    for number, (target, _) in enumerate(blob_fields):
        target[:] = np.arange(len(chosen)) * len(blob_fields) + number
    blobs = [blob for event in zip(*(b for _, b in blob_fields)) for blob in event]
    return Rows(table, rows, blobs)


def _stamp(
    table: Table, rows: np.ndarray[Any, np.dtype[Any]], events: list[Event]
) -> None:
    """Fill in the columns that come from the event's header."""
    try:
        rows['timestamp'] = [event.timestamp for event in events]
        if table.has_nanoseconds:
            rows['nanoseconds'] = [event.nanoseconds for event in events]
            # Python's integers: a float64 cannot hold ns since the epoch.
            rows['ext_timestamp'] = [
                event.timestamp * 10**9 + event.nanoseconds for event in events
            ]
    except OverflowError:
        raise InvalidEvent('its time does not fit the timestamp') from None


@lru_cache
def _bounds(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _numbers(column: Column, values: tuple[Any, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return one column of numbers, of the column's row dtype, shape (n,).

    A fraction is truncated toward zero where the column holds integers.
    Raises InvalidEvent, naming the first value that does not fit.
    """
    types = set(map(type, values))
    if not types <= {int, float, bool}:
        odd = next(v for v in values if type(v) not in (int, float, bool))
        raise InvalidEvent(f'is {_kind(odd)} instead of a number')
    if column.dtype == 'bool':
        for value in values:
            if value not in (0, 1):
                raise InvalidEvent(f'is {value} instead of true or false')
    elif column.row_dtype.kind == 'f':
        return _floats(column, values)
    else:
        if float in types:
            for value in values:
                if not math.isfinite(value):
                    raise InvalidEvent(f'is {value} instead of an integer')
            values = tuple(map(int, values))
        least, most = _bounds(column.dtype)
        if min(values) < least or max(values) > most:
            odd = next(v for v in values if not least <= v <= most)
            raise InvalidEvent(f'is {odd}, which does not fit {column.dtype}')
    return np.array(values, dtype=column.row_dtype)


def _floats(column: Column, values: tuple[Any, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """Return one column of floats; NaN and infinities are floats as well."""
    exact = np.array(values, dtype='f8')
    with np.errstate(over='ignore'):
        rounded = exact.astype(column.row_dtype)
    overflow = np.isinf(rounded) & np.isfinite(exact)
    if overflow.any():
        odd = values[int(overflow.argmax())]
        raise InvalidEvent(f'is {odd}, which does not fit {column.dtype}')
    return rounded


def _blobs(column: Column, values: tuple[Any, ...]) -> list[bytes]:
    """Return one column of blobs.

    Raises InvalidEvent if a value is not text of the column's encoding.
    """
    if set(map(type, values)) != {str}:
        odd = next(value for value in values if type(value) is not str)
        raise InvalidEvent(f'is {_kind(odd)} instead of text')
    if column.encoding != 'base64':
        return list(map(_to_latin1, values))
    try:
        return list(map(_decode_base64, values))
    except ValueError:  # binascii.Error is one
        return list(map(_from_base64, values))


if sys.version_info >= (3, 11):
    _decode_base64 = partial(binascii.a2b_base64, strict_mode=True)
else:
    _decode_base64 = partial(base64.b64decode, validate=True)


def _from_base64(text: str) -> bytes:
    try:
        # Some encoders break lines, which is base64 all the same.
        return _decode_base64(''.join(text.split()))
    except ValueError:
        raise InvalidEvent('is not base64') from None


def _to_latin1(text: str) -> bytes:
    try:
        return text.encode('latin-1')
    except UnicodeEncodeError as error:
        raise InvalidEvent(
            f'holds {text[error.start]!a}, which latin-1 cannot'
        ) from None


def _kind(value: object) -> str:
    """Return what a value is, in words; never its text, which may be private."""
    return _KINDS.get(type(value), 'something else')


_KINDS: dict[type, str] = {
    type(None): 'nothing',
    bool: 'true or false',
    int: 'a number',
    float: 'a number',
    str: 'text',
}
