"""Turns uploaded bytes into an event list, admitting only what stations send.

A pickle is a program.  These bytes come from whoever knows a station's
password, so four fences stand between them and this process, each for an
attack that got through the others in trials:

1. A scan of the opcodes, before anything is built: only those that stations'
   pickles use, with bounds on how many, on memo indices (nine bytes can ask
   for 4 GB of memo) and on integers (dict keys of equal hash take quadratic
   time).  A tuple may only stand right before what consumes it, so tuples
   cannot nest (hashing a million nested tuples overflows the C stack).
2. `find_class` is an exact table of inert stand-ins.  They hold no state, call
   nothing, and cannot be changed by BUILD.
3. Scalars of numpy are decoded by a stand-in, never by numpy's own unpickling
   (71 bytes can ask for a dtype of 3.8 GB).
4. The result is walked before anyone uses it: exact types, bounded depth, and
   bounded size with every shared reference counted each time it is reached
   (references to references to lists expand a few bytes to 10^7 objects).

Opcodes and their arguments: CPython, Lib/pickletools.py.
"""

import io
import operator
import pickle
import re
import struct
import sys
from collections.abc import Collection
from datetime import datetime
from itertools import chain
from typing import Any

from wsgi.rcodes import NotAnEventList

# The events of the recorded batches count as 300 to 800 opcodes, by protocol; a
# station sends 100 events at a time, and one that sends 1,000 is not to be refused
# for ever.  Each opcode builds at most about 100 bytes.
MAX_OPCODES = 1_000_000
# Flagging and keeping events costs more than decoding them.
MAX_EVENTS = 10_000
# Bytes of one text; as wide characters it takes four times that.
MAX_LENGTH = 4 * 2**20
# List, event, datalist, entry, value, and one level for what should not be.
MAX_DEPTH = 6
# Bytes of a text that may be there twice, times opcodes: a key of a dict is compared
# with an equal one byte for byte, as often as there are opcodes.
MAX_COMPARED = 2 * 10**9
# Text reached through shared references, each time counted: a `max_upload` of
# it, and the keys.  To keep it as JSON takes up to 14 times as much memory.
MAX_TEXT = 17 * 2**20


def load_event_list(pickled: bytes) -> list[dict[str, Any]]:
    """Return the event list that a station pickled, with Python 2 or 3.

    Its dicts, lists, text, numbers and datetimes are of exactly those types:
    text of Python 2 is decoded as latin-1, scalars of numpy become Python's.

    Raises NotAnEventList for anything else, whatever it is.
    """
    opcodes = _scan(pickled)
    unpickler = _Unpickler(pickled, opcodes)
    try:
        loaded = unpickler.load()
    except Exception as error:
        # Nothing narrower: malformed pickles raise all that the constructors
        # and the unpickler's own checks can, and it is all the sender's fault.
        # What is raised may quote what was sent, all of it.
        reason = ascii(str(error)[:200])
        raise NotAnEventList(f'the data cannot be unpickled: {reason}') from error
    if unpickler.rest():
        # It may hold events, which 100 would have the station delete.
        raise NotAnEventList('the data goes on after the end of its pickle')
    if not _is_usual(loaded, opcodes) and _admit(loaded, opcodes):
        loaded = decode_object(loaded)
    if type(loaded) is not list or not set(map(type, loaded)) <= {dict}:
        raise NotAnEventList('the data is not a list of events')
    if len(loaded) > MAX_EVENTS:
        raise NotAnEventList(f'the data has over {MAX_EVENTS} events')
    return loaded


def decode_object(o: Any) -> Any:
    """Recursively decode all byte strings in an object, as latin-1.

    Returns a copy in which every bytes is a str, in dicts (keys as well),
    lists and tuples.  Latin-1 keeps every byte.
    """
    if isinstance(o, bytes):
        return o.decode('latin-1')
    if isinstance(o, dict):
        return {decode_object(key): decode_object(item) for key, item in o.items()}
    if isinstance(o, list):
        return [decode_object(item) for item in o]
    if isinstance(o, tuple):
        return tuple(decode_object(item) for item in o)
    return o


# 1. The scan.  All opcodes but those whose argument has a length of its own are
# one regular expression, so that most of the scan runs in C.  It is possessive:
# it never has to go back, and the matcher need not remember where it could.
# Python 3.10 lacks that; there it remembers, and bounded repetition bounds that.
# Up to 3.11.4 a possessive group ends in the middle of what it tried last, which
# refused long texts (https://github.com/python/cpython/issues/106052).

_GREEDY = b'+' if sys.version_info >= (3, 11) else b''
_GREEDY_GROUP = b'+' if sys.version_info >= (3, 11, 5) else b''
_STEP = 1000  # alternatives that are matched at a time
_SHORT = 1000  # bytes of text on one line that the regular expression takes


def _up_to(most: int) -> bytes:
    return b'{1,%d}%s' % (most, _GREEDY)


# PUT and GET in all their forms, the index below 10^6.
_INDEX = b'[0-9]' + _up_to(6) + b'\n'
_MEMO = rb'(?:[qh].|[pg]' + _INDEX + rb'|[rj]..[\x00-\x07]\x00|\x94)'
# Python 2 writes text on one line; the unpickler sees to its quotes.
_LINE = rb'[^\n]{0,%d}%s\n' % (_SHORT, _GREEDY)
# Integers stay below 10^20: few enough of these share a hash.
_INTEGER = b'I-?[0-9]' + _up_to(20) + b'\n'
# What most of an upload of a Python 2 station is, in front, so that it is found
# at once: an entry of a datalist, text that is memoized, an integer.  Of each
# there are at most 1 + 2 opcodes for each end of a line.
_FREQUENT = (
    rb'\(dp' + _INDEX + b'g' + _INDEX + b'S' + _LINE + b'p' + _INDEX + b'sg' + _INDEX
    # The value of the entry, where it is short.
    + rb'(?:' + _INTEGER + b'|S' + _LINE + b'p' + _INDEX + b')sa'
    + rb'|S' + _LINE + b'p' + _INDEX + b's?'
    + rb'|' + _INTEGER + b'sa?'
)  # fmt: skip
_OPCODES = (
    _FREQUENT
    + rb'|[(\]}ldsaeuN.\x88\x89\x93Rb]'
    + rb'|' + _MEMO
    + rb'|[SV]' + _LINE
    + rb'|' + _INTEGER
    + rb'|L-?[0-9]' + _up_to(20) + b'L?\n'
    + rb'|K.|M..|J....|G.{8}'
    + rb'|F[-+.0-9a-z]' + _up_to(32) + b'\n'
    # A tuple, memoized or not, is consumed at once by REDUCE or BUILD.
    + rb'|[)t\x85\x86\x87]' + _MEMO + b'?[Rb]'
    + rb'|c[a-zA-Z_.]' + _up_to(40) + b'\n[a-z]' + _up_to(20) + b'\n'
    + rb'|\x80[\x01-\x05]'
)  # fmt: skip
_match_opcodes = re.compile(
    b'(?:%s){0,%d}%s' % (_OPCODES, _STEP, _GREEDY_GROUP), re.DOTALL
).match

# Opcode -> how many bytes hold the length of its argument.
_LENGTHS = {
    ord('U'): 1,  # SHORT_BINSTRING
    ord('T'): 4,  # BINSTRING
    ord('X'): 4,  # BINUNICODE
    0x8C: 1,  # SHORT_BINUNICODE
    ord('C'): 1,  # SHORT_BINBYTES
    ord('B'): 4,  # BINBYTES
    0x8A: 1,  # LONG1
}
_LONG1, _FRAME = 0x8A, 0x95
_LINES = b'SV'


def _scan(pickled: bytes) -> int:
    """Return how many opcodes there are at most, of those that stations use.

    Raises NotAnEventList unless it is such opcodes from the first byte to the
    last, each with an argument within bounds.
    """
    position = opcodes = 0
    # Two texts that are equal are as long; one alone is compared with nothing.
    longest = second = _SHORT
    end_of_frame = end = len(pickled)
    while position < end:
        start = position
        # Always matches, perhaps nothing.
        match = _match_opcodes(pickled, start, end_of_frame)
        position = match.end()  # type: ignore[union-attr]
        # At most so many: an opcode has a byte or more, and see _FREQUENT.
        lines = pickled.count(b'\n', start, position)
        opcodes += min(position - start, _STEP + 2 * lines)
        if opcodes > MAX_OPCODES:
            raise NotAnEventList(f'the data has over {MAX_OPCODES} opcodes')
        if position == end_of_frame:
            end_of_frame = end
        elif position - start < _STEP:  # stopped by what is none of these
            opcodes += 1
            argument = position
            if pickled[position] == _FRAME and end_of_frame == end:
                position, end_of_frame = _scan_frame(pickled, position)
            else:
                position = _scan_long(pickled, position, end_of_frame)
                second = max(second, min(longest, position - argument))
                longest = max(longest, position - argument)
    if longest > MAX_LENGTH:
        raise NotAnEventList(f'the data has a text of over {MAX_LENGTH} bytes')
    if second * opcodes > MAX_COMPARED:
        raise NotAnEventList(f'the data has texts of {second} bytes among too many')
    return opcodes


def _scan_frame(pickled: bytes, position: int) -> tuple[int, int]:
    """Return where the content of the frame at `position` starts and ends.

    The unpickler reads a frame as a whole, and loses its place if an opcode
    reaches over its end; so none may.  Nor do picklers put one in another.
    """
    content = position + 9
    length = int.from_bytes(pickled[position + 1 : content], 'little')
    if not 0 < length <= len(pickled) - content:
        raise NotAnEventList(f'the data ends inside the frame at byte {position}')
    return content, content + length


def _scan_long(pickled: bytes, position: int, end: int) -> int:
    """Return where the opcode at `position` ends, which holds its own length."""
    opcode = pickled[position]
    if opcode in _LINES:
        stop = pickled.find(b'\n', position, end) + 1
        if stop:
            return stop
    width = _LENGTHS.get(opcode)
    if width is None:
        raise NotAnEventList(
            f'opcode {pickled[position : position + 1]!r} at byte {position}, or its '
            'argument, is not what stations send'
        )
    argument = position + 1 + width
    length = int.from_bytes(pickled[position + 1 : argument], 'little')
    if length > end - argument:
        raise NotAnEventList(f'the data ends inside the opcode at byte {position}')
    stop = argument + length
    # Up to 2^64, whose ninth byte is 0: only 9 such integers share a hash.
    if opcode == _LONG1 and length > 8 and (length > 9 or pickled[stop - 1]):
        raise NotAnEventList(f'the integer at byte {position} is too large')
    return stop


# 2. The stand-ins for what a pickle may name.


class _StandIn:
    """Something a pickle may name, and call, and do nothing else to."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError('BUILD of what is not a dtype')


class _Datetime(_StandIn):
    """`datetime.datetime` of the ten bytes it is pickled as, naive."""

    __slots__ = ()

    def __call__(self, state: bytes | str) -> datetime:
        # Python 2 pickles its state as a byte string, read as latin-1 here.
        encoded = state.encode('latin-1') if isinstance(state, str) else state
        year, month, day, hour, minute, second, high, low = _DATETIME.unpack(encoded)
        # The top bit of the month is `fold`, which naive times do not need.
        # datetime() itself would take the bytes unchecked, and hour 255.
        return datetime(year, month & 0x7F, day, hour, minute, second, high << 16 | low)


_DATETIME = struct.Struct('>HBBBBBBH')


class _Encode(_StandIn):
    """`_codecs.encode(text, 'latin1')`: bytes, in protocols that lack them.

    Encodes at most `budget` characters in all: text that is shared could
    otherwise be multiplied.  Of those over `long` characters, one of each length:
    equal ones would be compared as keys.
    """

    __slots__ = ('_budget', '_long', '_seen')

    def __init__(self, budget: int, long: int) -> None:
        self._budget = budget
        self._long = long
        self._seen: set[int] = set()

    def __call__(self, text: str, encoding: str) -> bytes:
        if type(text) is not str or encoding != 'latin1':
            raise pickle.UnpicklingError('encoding to anything but latin1')
        self._budget -= len(text)
        if self._budget < 0:
            raise pickle.UnpicklingError('more is encoded than was sent')
        if len(text) > self._long:
            if len(text) in self._seen:
                raise pickle.UnpicklingError('long texts are encoded again and again')
            self._seen.add(len(text))
        return text.encode('latin-1')


class _Bytes(_StandIn):
    """`bytes()`: how protocols that lack bytes pickle an empty one."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b''


# 3. numpy's scalars: numpy/_core/src/multiarray, `scalar(dtype, bytes)`.

_FORMATS = {
    'b1': '?',
    'i1': 'b',
    'i2': 'h',
    'i4': 'i',
    'i8': 'q',
    'u1': 'B',
    'u2': 'H',
    'u4': 'I',
    'u8': 'Q',
    'f2': 'e',
    'f4': 'f',
    'f8': 'd',
}


class _ScalarType(_StandIn):
    """A `numpy.dtype` of one of twelve type codes."""

    __slots__ = ('_format', '_order')

    def __init__(self, code: str) -> None:
        if type(code) is not str or len(code) != 2 or code not in _FORMATS:
            raise pickle.UnpicklingError('a dtype that stations do not use')
        self._format = _FORMATS[code]
        self._order = '<'

    def __setstate__(self, state: object) -> None:
        match state:
            case (3 | 4, '<' | '>' | '|' as order, None, None, None, -1, -1, 0):
                self._order = '<' if order == '|' else order
            case _:
                raise pickle.UnpicklingError('BUILD of an unknown dtype')

    def unpack(self, encoded: bytes) -> bool | int | float:
        """Return the scalar that these bytes are."""
        return struct.unpack(self._order + self._format, encoded)[0]


class _Dtype(_StandIn):
    """`numpy.dtype`."""

    __slots__ = ()

    def __call__(self, code: str, align: bool, copy: bool) -> _ScalarType:
        # Exact: an argument that is a tuple would nest in this call's own.
        for flag in (align, copy):
            if type(flag) not in (bool, int):
                raise pickle.UnpicklingError('a flag of a dtype is no flag')
        return _ScalarType(code)


class _Scalar(_StandIn):
    """`numpy.core.multiarray.scalar`."""

    __slots__ = ()

    def __call__(
        self, scalar_type: _ScalarType, encoded: bytes | str
    ) -> bool | int | float:
        if type(scalar_type) is not _ScalarType:
            raise pickle.UnpicklingError('a scalar of no dtype')
        if isinstance(encoded, str):
            encoded = encoded.encode('latin-1')
        return scalar_type.unpack(encoded)


_STAND_INS: dict[tuple[str, str], _StandIn] = {
    ('datetime', 'datetime'): _Datetime(),
    ('__builtin__', 'bytes'): _Bytes(),
    ('builtins', 'bytes'): _Bytes(),
    ('numpy', 'dtype'): _Dtype(),
    ('numpy.core.multiarray', 'scalar'): _Scalar(),
    ('numpy._core.multiarray', 'scalar'): _Scalar(),
}


class _Unpickler(pickle.Unpickler):
    """Unpickles with the stand-ins for all that a pickle names."""

    def __init__(self, pickled: bytes, opcodes: int) -> None:
        # Buffered, or the bytes of each opcode are asked for one by one.
        self._file = io.BufferedReader(io.BytesIO(pickled), 2**17)
        super().__init__(self._file, encoding='latin-1')
        self._encode = _Encode(len(pickled), MAX_COMPARED // max(1, opcodes))

    def rest(self) -> bytes:
        """Return what follows the pickle that was loaded."""
        return self._file.read()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ('_codecs', 'encode'):
            return self._encode
        try:
            return _STAND_INS[module, name]
        except KeyError:
            named = f'{module[:40]}.{name[:40]}'
            raise pickle.UnpicklingError(f'it names {named}') from None


# 4. The walk.

_TEXT_AND_NUMBERS = frozenset([str, int, float, bool, type(None), datetime])
_ADMITTED = _TEXT_AND_NUMBERS | {dict, list, bytes}

_code_of = operator.itemgetter('data_uploadcode')
_value_of = operator.itemgetter('data')


def _is_usual(loaded: object, max_nodes: int) -> bool:
    """Return whether this is an event list of the shape that stations send.

    Then there are no bytes to decode, and nothing that `_admit` would refuse:
    it looks at the same objects, in a third of the time, because it knows
    what they should be.
    """
    try:
        if type(loaded) is not list or not _are(loaded, dict, 2):
            return False
        headers = [event['header'] for event in loaded]
        datalists = [event['datalist'] for event in loaded]
        if not _are(headers, dict) or not _are(datalists, list):
            return False
        # Counted before it is built: ten bytes may refer to millions.
        entries_sent = sum(map(len, datalists))
        items = sum(map(len, headers))
        nodes = 3 * len(loaded) + items + 3 * entries_sent
        if nodes > max_nodes:
            return False
        entries = list(chain.from_iterable(datalists))
        if not _are(entries, dict, 2):
            return False
        codes = set(map(_code_of, entries))
        values = list(map(_value_of, entries))
    except (KeyError, TypeError):  # something is missing, or cannot be a code
        return False
    for header in headers:
        values += header.values()
    names = set().union(*headers)
    if not set(map(type, values)) <= _TEXT_AND_NUMBERS or not _are(codes | names, str):
        return False
    longest = max(map(len, codes | names), default=0)
    text = sum([len(value) for value in values if type(value) is str])
    return text + longest * (items + entries_sent) <= MAX_TEXT


def _are(found: Collection[Any], admitted: type, length: int | None = None) -> bool:
    """Return whether all are of the type, and of the length if one is given."""
    return set(map(type, found)) <= {admitted} and (
        length is None or set(map(len, found)) <= {length}
    )


def _admit(loaded: object, max_nodes: int) -> bool:
    """Return whether there are bytes to decode in what was unpickled.

    Level by level, so that it runs in C for the most part.  Raises
    NotAnEventList if anything is of a type that is not admitted, too deep, or
    more than `max_nodes` with shared objects counted each time.
    """
    level: list[Any] = [loaded]
    nodes = text = 0
    found: set[type] = set()
    for _ in range(MAX_DEPTH):
        types = set(map(type, level))
        if not types <= _ADMITTED:
            names = ', '.join(sorted(t.__name__ for t in types - _ADMITTED))
            raise NotAnEventList(f'the data holds objects of type {names}')
        found |= types
        text += sum([len(item) for item in level if type(item) in (str, bytes)])
        if text > MAX_TEXT:
            raise NotAnEventList(f'the data unfolds to over {MAX_TEXT} characters')
        lists = [item for item in level if type(item) is list]
        dicts = [item for item in level if type(item) is dict]
        if not lists and not dicts:
            return bytes in found
        # Counted before it is built: ten bytes may refer to millions.
        nodes += sum(map(len, lists)) + sum(map(len, dicts))
        if nodes > max_nodes:
            raise NotAnEventList('the data unfolds to more objects than it builds')
        keys = set(map(type, chain.from_iterable(dicts)))
        if not keys <= {str, bytes}:
            raise NotAnEventList('the data holds a dict whose keys are not text')
        found |= keys
        text += sum(map(len, chain.from_iterable(dicts)))
        level = [*chain.from_iterable(lists)]
        level += chain.from_iterable([d.values() for d in dicts])
    raise NotAnEventList(f'the data is nested more than {MAX_DEPTH} deep')
