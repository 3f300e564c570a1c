"""Reads at once what Python 2 stations pickle: an event, a regular expression.

Most stations pickle with protocol 0, which is text, and each sends few shapes
of events: the same upload codes in the same order, with other values.  A shape
that was seen becomes a regular expression whose groups are the values.  Events
of known shapes are read with it, which takes a quarter of the time: no opcode is
interpreted, and nothing is built that would be taken apart again.  Whatever
differs by a byte is left to `wsgi.unpickle`, which reads all of this too, and
alike.

An entry of a datalist looks like this, with a line end for each blank:

    (dp38 g5 S'PH2' p39 sg7 I923 sa

`g5` and `g7` are its keys.  They stood in the event's first entry as texts, and
were numbered there, with `p5` and `p7`.  Picklers count: no number is given
twice, and it is not looked for.

Opcodes: CPython, Lib/pickletools.py.
"""

import codecs
import math
import re
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from datastore.event import EPOCH
from datastore.series import Series
from datastore.upload_codes import EVENT_TYPES
from wsgi.unpickle import MAX_OPCODES

# Beyond this the bounds of `wsgi.unpickle` decide, and below it nothing reaches
# them: an opcode has a byte at least.  100 events have 140 kB.
_MAX_SIZE = MAX_OPCODES
# A network has some tens of shapes: types of events, times how many detectors.
# One takes some ms to learn.
_MAX_SHAPES = 64
_FEW_SHAPES = 4  # among which the order does not matter
_MAX_LEARNED = 4  # from one upload
_MAX_ENTRIES = 100  # of an event; a CFG has some 90

# Possessive: without a memory of where it could go back to, as it never has to.
# Python 3.10 lacks that, and takes longer.
_ONCE = '+' if sys.version_info >= (3, 11) else ''
_NUMBER = rf'[0-9]{{1,6}}{_ONCE}'  # of something that is remembered
_PUT = rf'p{_NUMBER}\n'
_DICT = rf'\(d{_PUT}'
_LIST = rf'\(l{_PUT}'
_DATALIST = rf"{_DICT}S'datalist'\n{_PUT}{_LIST}"

# Values by opcode.  The integers are what an int64 holds.
_VALUES = {
    'N': 'N()',
    'I0': r'I0([01])\n',  # how booleans are written
    'I': rf'I(0|-?[1-9][0-9]{{0,17}}{_ONCE})\n',
    'F': rf'F([-+.0-9a-z]{{1,32}}{_ONCE})\n',
    # Any character but one is found fastest; `_text` sees to what is in it.
    'S': rf"S'([^']{{0,1000}}{_ONCE})'\n{_PUT}",
}
_HEADER_VALUES = {
    'date': rf"S'[-0-9]{{0,10}}'\n{_PUT}",
    'time': rf"S'[:.0-9]{{0,15}}'\n{_PUT}",
    'nanoseconds': r'I(?P<nanoseconds>0|[1-9][0-9]{0,17})\n',
    'datetime': (
        rf'(?:cdatetime\ndatetime\np(?P<defines>{_NUMBER})|g(?P<uses>{_NUMBER}))\n'
        rf'\(S(?P<state>[^\n]{{12,42}})\n{_PUT}tp{_NUMBER}\nR{_PUT}'
    ),
}
# The state of a datetime.
_STATE = struct.Struct('>4sBBBBH')  # date, hour, minute, second, microseconds
_DATE = struct.Struct('>HBB')

_Column = tuple[Any, ...]
_Converter = Callable[[_Column], Sequence[int | float | str | None]]
# Where the events of a shape stood, and the groups of each of them.
_Found = tuple[list[int], list[tuple[str, ...]]]

_match_list = re.compile(_LIST).match


class _UnusualError(Exception):
    """Not what stations send; `wsgi.unpickle` is to say what it is."""


@dataclass(frozen=True, eq=False)
class _Shape:
    """What the events look like that have these upload codes.

    `pick` takes, of all groups of `match`, those with a value for each code;
    then datetime.datetime's number, where it gets it or has it, the event's
    datetime, and its nanoseconds.
    """

    match: Callable[[str, int], re.Match[str] | None]
    pick: Callable[[tuple[_Column, ...]], tuple[_Column, ...]]
    event_type: str
    codes: tuple[str, ...]
    converters: tuple[_Converter, ...]


class EventReader:
    """Reads event lists in shapes that it learns from them."""

    def __init__(self) -> None:
        # The one used last in front.  Replaced as a whole: threads share it.
        self._shapes: tuple[_Shape, ...] = ()

    def read(self, pickled: bytes) -> list[Series] | None:
        """Return the events that a Python 2 station pickled.

        None if these bytes are anything but well-formed events of the usual
        structure; they may be a good event list all the same.
        """
        if not pickled.startswith(b'(l') or len(pickled) > _MAX_SIZE:
            return None
        try:
            return self._series(pickled.decode('latin-1'))
        except (_UnusualError, ValueError, struct.error):
            return None

    def _series(self, text: str) -> list[Series]:
        start = _match_list(text)
        if start is None:
            raise _UnusualError
        position, end = start.end(), len(text) - 1
        learned = place = 0
        shape: _Shape | None = None
        found: dict[_Shape, _Found] = {}
        while position < end:
            # Most events are like the one before.
            if shape is None or (match := shape.match(text, position)) is None:
                known = self._known(text, position)
                if known is None:
                    learned += 1
                    if learned > _MAX_LEARNED:
                        raise _UnusualError
                    known = self._learned(text, position)
                shape, match = known
                places, rows = found.setdefault(shape, ([], []))
            places.append(place)
            rows.append(match.groups())
            position = match.end()
            place += 1
        if text[position:] != '.':
            raise _UnusualError
        return _converted(found)

    def _known(self, text: str, position: int) -> tuple[_Shape, re.Match[str]] | None:
        shapes = self._shapes
        for place, shape in enumerate(shapes):
            match = shape.match(text, position)
            if match is not None:
                if place > _FEW_SHAPES:
                    others = [other for other in shapes if other is not shape]
                    self._shapes = (shape, *others)
                return shape, match
        return None

    def _learned(self, text: str, position: int) -> tuple[_Shape, re.Match[str]]:
        shape = _learn(text, position)
        match = shape.match(text, position)
        if match is None:
            raise _UnusualError
        self._shapes = (shape, *self._shapes[: _MAX_SHAPES - 1])
        return shape, match


def _converted(found: dict[_Shape, _Found]) -> list[Series]:
    """Return the events whose groups these are.

    Raises _UnusualError unless the first one gives datetime.datetime the number
    that all others have it by.
    """
    series = []
    numbers: set[str | None] = {None}
    for shape, (places, rows) in found.items():
        groups = tuple(zip(*rows, strict=True))
        *columns, defines, uses, states, nanoseconds = shape.pick(groups)
        if places[0] == 0 and defines[0] is None:
            raise _UnusualError
        numbers.update(defines, uses)
        timestamps, microseconds = _moments(states)
        series.append(
            Series(
                shape.event_type,
                shape.codes,
                places,
                timestamps,
                microseconds,
                list(map(int, nanoseconds)),
                [
                    convert(column)
                    for convert, column in zip(shape.converters, columns, strict=True)
                ],
            )
        )
    if len(numbers) > 2:
        raise _UnusualError
    return series


def _moments(states: _Column) -> tuple[list[int], list[int]]:
    """Return the s since the epoch, and the microseconds, of datetimes' states."""
    timestamps, microseconds = [], []
    midnights: dict[bytes, int] = {}  # nearly all are of the same day
    for quoted in states:
        if quoted[0] not in '\'"' or quoted[-1] != quoted[0]:
            raise _UnusualError
        state, _ = codecs.escape_decode(quoted[1:-1].encode('ascii'))
        date, hour, minute, second, high, low = _STATE.unpack(state)
        microsecond = high << 16 | low
        if hour > 23 or minute > 59 or second > 59 or microsecond > 999_999:
            raise _UnusualError
        if date not in midnights:
            year, month, day = _DATE.unpack(date)
            midnights[date] = 86400 * (datetime(year, month, day) - EPOCH).days
        timestamps.append(midnights[date] + 3600 * hour + 60 * minute + second)
        microseconds.append(microsecond)
    return timestamps, microseconds


# Most numbers are of a 12-bit ADC, and found in half of the time of int().
_find_small = {str(number): number for number in range(2**12)}.__getitem__


def _integers(column: _Column) -> list[int]:
    try:
        return list(map(_find_small, column))
    except KeyError:
        return list(map(int, column))


def _texts(column: _Column) -> _Column:
    together = ''.join(column)
    if '\\' in together or '\n' in together:
        raise _UnusualError  # an escape, or not one line
    return column


def _finite(column: _Column) -> list[float]:
    numbers = list(map(float, column))
    if not all(map(math.isfinite, numbers)):
        raise _UnusualError  # or a number that is beyond any float
    return numbers


_CONVERTERS: dict[str, _Converter] = {
    'N': lambda column: [None] * len(column),
    'I0': lambda column: [digit == '1' for digit in column],
    'I': _integers,
    'F': _finite,
    'S': _texts,
}

# What to learn from, told roughly: the shape that comes of it is the judge.
_CODE = r"S'(?P<code>[A-Za-z0-9_]{1,40})'\np[0-9]+\ns?"
_VALUE = r'(?:N|(?P<kind>I0(?=[01]\n)|[IFS])[^\n]*\n(?:p[0-9]+\n)?)s?'
_KEY = r"(?:g|S'[a-z_]+'\np)[0-9]+\n"
_find_datalist = re.compile(
    rf"{_DATALIST}(?P<entries>{_DICT}S'(?P<key>data|data_uploadcode)'\n)"
).match
_ENTRIES = {
    'data_uploadcode': re.compile(rf'{_DICT}{_KEY}{_CODE}{_KEY}{_VALUE}a'),
    'data': re.compile(rf'{_DICT}{_KEY}{_VALUE}{_KEY}{_CODE}a'),
}
_find_header_keys = re.compile(
    rf"S'({'|'.join(_HEADER_VALUES)}|eventtype_uploadcode)'\np"
).findall
_find_type = re.compile(r"S'eventtype_uploadcode'\np[0-9]+\nS'([A-Z]{1,5})'").search


def _learn(text: str, position: int) -> _Shape:
    """Return the shape of the event at `position`.

    Raises _UnusualError if it has none that events of ours can have.
    """
    datalist = _find_datalist(text, position)
    if datalist is None:
        raise _UnusualError
    # Dicts of Python 2 have an order of their own: which key comes first differs
    # between stations, not between entries.
    first = datalist['key']
    entries = []
    position = datalist.start('entries')
    while match := _ENTRIES[first].match(text, position):
        entries.append((match['code'], match['kind'] or 'N'))
        position = match.end()
        if len(entries) > _MAX_ENTRIES:
            raise _UnusualError
    header = text[position : text.find('\nssa', position)]
    header_keys = _find_header_keys(header)
    event_type = _find_type(header)
    codes = tuple([code for code, _ in entries])
    if (
        event_type is None
        or event_type[1] not in EVENT_TYPES
        or len(set(codes)) < len(codes)
        or len(set(header_keys)) < len(header_keys)
        or not {'nanoseconds', 'datetime'} <= set(header_keys)
    ):
        raise _UnusualError

    pattern = _DATALIST
    for number, (code, kind) in enumerate(entries):
        pattern += _entry(first, code, kind, is_first=number == 0)
    pattern += rf"sS'header'\n{_PUT}{_DICT}"
    header_values = _HEADER_VALUES | {
        'eventtype_uploadcode': rf"S'{event_type[1]}'\n{_PUT}"
    }
    for key in header_keys:
        pattern += rf"S'{key}'\n{_PUT}{header_values[key]}s"
    compiled = re.compile(pattern + 'sa')
    named = compiled.groupindex
    values = [n for n in range(compiled.groups) if n + 1 not in named.values()]
    names = ('defines', 'uses', 'state', 'nanoseconds')
    return _Shape(
        compiled.match,
        itemgetter(*values, *(named[name] - 1 for name in names)),
        event_type[1],
        codes,
        tuple([_CONVERTERS[kind] for _, kind in entries]),
    )


def _entry(first_key: str, code: str, kind: str, is_first: bool) -> str:
    """Return what matches an entry with this code, and this kind of value."""
    fields = {'data_uploadcode': rf"S'{code}'\n{_PUT}", 'data': _VALUES[kind]}
    keys = [first_key, *(key for key in fields if key != first_key)]
    pattern = _DICT
    for key, name in zip(keys, ('first', 'second'), strict=True):
        number = rf"S'{key}'\np(?P<{name}>{_NUMBER})" if is_first else f'g(?P={name})'
        pattern += rf'{number}\n{fields[key]}s'
    return pattern + 'a'
