"""Pickles that attack whoever unpickles them, each named after its attack.

Run as a program, it decodes the attacks named on its standard input, each with
little memory and time, and says what came of each.

Opcodes and their arguments: CPython, Lib/pickletools.py.  What the opcodes do,
and where that is not what they say: CPython, Modules/_pickle.c.
"""

import json
import math
import pickle
import resource
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

from wsgi.rcodes import NotAnEventList
from wsgi.unpickle import load_event_list

MAX_UPLOAD = 16 * 2**20  # bytes, of a body
# What decoding may take, beyond what the process and the body have already.
# The largest text, of 16 MiB in UTF-8, is 64 MiB in memory, and copied.
MEMORY = 144 * 2**20  # bytes of address space
SECONDS = 2  # of CPU time

# Name -> what makes the pickle: some are large.
ATTACKS: dict[str, Callable[[], bytes]] = {}


def attack(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Add a pickle, under the name of what makes it."""
    ATTACKS[make.__name__] = make
    return make


def attacks(family: str, pickles: dict[str, bytes]) -> None:
    """Add several small pickles that do the same thing."""
    for name, pickled in pickles.items():
        ATTACKS[f'{family}-{name}'] = lambda pickled=pickled: pickled


# Pieces of pickles.


def u4(number: int) -> bytes:
    return struct.pack('<I', number)


def u8(number: int) -> bytes:
    return struct.pack('<Q', number)


def text(content: str | bytes) -> bytes:
    """BINUNICODE."""
    if isinstance(content, str):
        content = content.encode('utf-8', 'surrogatepass')
    return b'X' + u4(len(content)) + content


def binary(content: bytes) -> bytes:
    """BINBYTES."""
    return b'B' + u4(len(content)) + content


def name(module: str, attribute: str) -> bytes:
    """GLOBAL."""
    return f'c{module}\n{attribute}\n'.encode()


def long1(number: int) -> bytes:
    encoded = number.to_bytes(number.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(encoded)]) + encoded


def event_list(of_value: bytes) -> bytes:
    """An event list with one value, which these opcodes make."""
    entry = b'}' + text('data_uploadcode') + text('PH1') + b's' + text('data')
    return b'](}' + text('datalist') + b'](' + entry + of_value + b'sese.'


DATETIME = name('datetime', 'datetime')
ENCODE = name('_codecs', 'encode')
BYTES = name('__builtin__', 'bytes')
SCALAR = name('numpy.core.multiarray', 'scalar')
DTYPE = name('numpy', 'dtype')
FLOAT64 = DTYPE + text('f8') + b'K\x00K\x01\x87R'
FLOAT64_STATE = b'(K\x03' + text('<') + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t'
STATE = binary(b'\x07\xe4\x02\x03\x04\x05\x06\x00\x00\x07')
NAMES = {
    'datetime': DATETIME,
    'encode': ENCODE,
    'bytes': BYTES,
    'scalar': SCALAR,
    'dtype': DTYPE,
}
# The opcodes up to a name that stations call, and those that then call it.
CALLS = {
    'datetime': (DATETIME, STATE + b'\x85R'),
    'encode': (ENCODE, text('a') + text('latin1') + b'\x86R'),
    'bytes': (BYTES, b')R'),
    'scalar': (SCALAR, FLOAT64 + FLOAT64_STATE + b'b' + binary(bytes(8)) + b'\x86R'),
    'dtype': (
        SCALAR + DTYPE,
        FLOAT64.removeprefix(DTYPE)
        + FLOAT64_STATE
        + b'b'
        + binary(bytes(8))
        + b'\x86R',
    ),
}

# What stations send, and calls everything that they may call.
GOOD = b''.join(
    [
        b'\x80\x02]}(',
        text('datetime') + DATETIME + ENCODE,
        text('\x07\xe4\x02\x03\x04\x05\x06\x00\x00\x07') + text('latin1'),
        b'\x86R\x85R',
        text('nothing') + BYTES + b')R',
        text('scalar') + SCALAR + FLOAT64 + FLOAT64_STATE + b'b',
        binary(struct.pack('<d', 0.1)) + b'\x86R',
        b'ua.',
    ]
)
GOOD_EVENTS = [
    {'datetime': datetime(2020, 2, 3, 4, 5, 6, 7), 'nothing': '', 'scalar': 0.1}
]


# Calling what is not for stations to call.

# Each would be noticed: it ends the process.
_FATAL = {
    'os.system': ('os', 'system', text('kill -9 $PPID')),
    'posix.system': ('posix', 'system', text('kill -9 $PPID')),
    'os._exit': ('os', '_exit', b'Kc'),
    'subprocess.call': (
        'subprocess',
        'call',
        b'](' + text('sh') + text('-c') + text('kill -9 $PPID') + b'e',
    ),
    'builtins.eval': ('builtins', 'eval', text('__import__("os")._exit(99)')),
    '__builtin__.eval': ('__builtin__', 'eval', text('__import__("os")._exit(99)')),
    'builtins.exec': ('builtins', 'exec', text('import os; os._exit(99)')),
    'timeit.timeit': ('timeit', 'timeit', text('import os; os._exit(99)')),
    'pickle.loads': ('pickle', 'loads', binary(b'cos\n_exit\nKc\x85R.')),
    '_pickle.loads': ('_pickle', 'loads', binary(b'cos\n_exit\nKc\x85R.')),
    'signal.raise_signal': ('signal', 'raise_signal', b'K\x09'),
    'ctypes.string_at': ('ctypes', 'string_at', b'K\x01'),
}
for _fatal, (_module, _attribute, _argument) in _FATAL.items():
    _global = name(_module, _attribute)
    _stack_global = text(_module) + text(_attribute) + b'\x93'
    _inst = b'i' + _global[1:]
    attacks(
        _fatal,
        {
            'by_global_and_reduce': _global + _argument + b'\x85R.',
            'by_global_and_mark_tuple': _global + b'(' + _argument + b'tR.',
            'by_stack_global': _stack_global + _argument + b'\x85R.',
            'by_memoized_names': text(_module)
            + b'\x94'
            + text(_attribute)
            + b'\x94h\x00h\x01\x93'
            + _argument
            + b'\x85\x94R.',
            'by_inst': b'(' + _argument + _inst + b'.',
            'by_obj': b'(' + _global + _argument + b'o.',
            'by_newobj': _global + _argument + b'\x85\x81.',
            'by_newobj_ex': _global + _argument + b'\x85}\x92.',
            'in_event': event_list(_global + _argument + b'\x85R'),
        },
    )

attacks(
    'naming',
    {
        f'{module}.{attribute}': event_list(
            text(module) + text(attribute) + b'\x93' + STATE + b'\x85R'
        )
        for module, attribute in [
            ('datetime', 'datetime.now'),
            ('datetime', 'datetime.__class__.__base__.__subclasses__'),
            ('datetime', 'sys.modules'),
            ('datetime', 'date'),
            ('datetime', 'timezone'),
            ('datetime', 'bytes'),
            ('_codecs', 'decode'),
            ('_codecs', 'lookup'),
            ('_codecs', 'datetime'),
            ('codecs', 'encode'),
            ('builtins', 'getattr'),
            ('builtins', 'bytearray'),
            ('builtins', 'bytes.fromhex'),
            ('builtins', 'len'),
            ('__builtin__', 'str'),
            ('builtins', 'list'),
            ('collections', 'OrderedDict'),
            ('copyreg', '_reconstructor'),
            ('copy_reg', '_reconstructor'),
            ('numpy', 'ndarray'),
            ('numpy', 'load'),
            ('numpy', 'core.multiarray.scalar'),
            ('numpy.core.multiarray', '_reconstruct'),
            ('time', 'datetime'),
            ('wsgi.unpickle', 'MAX_DEPTH'),
            ('wsgi.unpickle', 'datetime'),
            ('', ''),
            ('', 'datetime'),
            ('DATETIME', 'datetime'),
            ('datetime', 'datetime '),
            ('datetime', 'datetime\0'),
        ]
    },
)
attacks(
    'extension_registry',
    {'ext1': b'\x82\x01.', 'ext2': b'\x83\x01\x00.', 'ext4': b'\x84' + u4(1) + b'.'},
)
attacks(
    'persistent_id', {'line': b'Pcos.system\n.', 'stack': text('os.system') + b'Q.'}
)
attacks(
    'names_not_on_the_stack_as_text',
    {
        'bytes': binary(b'os') + binary(b'system') + b'\x93.',
        'numbers': b'NN\x93.',
        'one': text('os') + b'\x93.',
        'none': b'\x93.',
    },
)
attacks(
    'name_with',
    {
        'carriage_return': b'cdatetime\r\ndatetime\r\n.',
        'nul': b'cdatetime\0\ndatetime\n.',
        'space': b'c datetime\ndatetime\n.',
        'letters_beyond_ascii': 'cdatet\u0131me\ndatetime\n.'.encode(),
        'invalid_utf_8': b'cdatetime\xff\ndatetime\n.',
        'no_module': b'c\ndatetime\n.',
        'no_attribute': b'cdatetime\n\n.',
        'no_end': b'cdatetime\ndatetime',
    },
)

# Changing what a pickle may name, for every later upload.

for _name, (_up_to_name, _call) in CALLS.items():
    attacks(
        f'build_on_{_name}',
        {
            name: event_list(_up_to_name + state + b'b' + _call)
            for name, state in {
                'dict': b'}' + text('__call__') + b'Ns',
                'slots': b'(N}' + text('_budget') + b'Nst',
                'dtype_state': FLOAT64_STATE,
                'text': text('_order'),
                'empty_dict': b'}',
                'none': b'N',
            }.items()
        },
    )
for _name, _stand_in in NAMES.items():
    attacks(
        f'{_name}_as',
        {
            'result': _stand_in + b'.',
            'event': b']' + _stand_in + b'a.',
            'value': event_list(_stand_in),
            'key': event_list(b'}' + _stand_in + b'Ns'),
            'list': b']' + _stand_in + b'(NNe.',
            'appended_to': _stand_in + b'Na.',
            'extended': _stand_in + b'(NNe.',
            'assigned_to': _stand_in + text('__call__') + b'Ns.',
            'class': _stand_in + b')\x81.',
        },
    )
attacks(
    'build_on',
    {
        'list': b']}' + text('append') + b'Nsb.',
        'dict': b'}}' + text('get') + b'Nsb.',
        'text': text('') + b'}' + text('x') + b'Nsb.',
        'none_with_slots': b'NN}' + text('x') + b'Ns\x86b.',
        'nothing': b'b.',
    },
)

# Calling what may be called, but not as stations do.

attacks(
    'datetime_of',
    {
        name: event_list(DATETIME + binary(state) + b'\x85R')
        for name, state in {
            'year_0': b'\x00\x00\x01\x01\x00\x00\x00\x00\x00\x00',
            'year_10000': b'\x27\x10\x01\x01\x00\x00\x00\x00\x00\x00',
            'year_65535': b'\xff\xff\x01\x01\x00\x00\x00\x00\x00\x00',
            'month_0': b'\x07\xe4\x00\x01\x00\x00\x00\x00\x00\x00',
            'month_13': b'\x07\xe4\x0d\x01\x00\x00\x00\x00\x00\x00',
            'month_0_folded': b'\x07\xe4\x80\x01\x00\x00\x00\x00\x00\x00',
            'month_13_folded': b'\x07\xe4\x8d\x01\x00\x00\x00\x00\x00\x00',
            'month_127': b'\x07\xe4\x7f\x01\x00\x00\x00\x00\x00\x00',
            'day_0': b'\x07\xe4\x01\x00\x00\x00\x00\x00\x00\x00',
            'day_32': b'\x07\xe4\x01\x20\x00\x00\x00\x00\x00\x00',
            'day_255': b'\x07\xe4\x01\xff\x00\x00\x00\x00\x00\x00',
            '30_february': b'\x07\xe4\x02\x1e\x00\x00\x00\x00\x00\x00',
            'hour_24': b'\x07\xe4\x01\x01\x18\x00\x00\x00\x00\x00',
            'hour_255': b'\x07\xe4\x01\x01\xff\x00\x00\x00\x00\x00',
            'minute_60': b'\x07\xe4\x01\x01\x00\x3c\x00\x00\x00\x00',
            'second_60': b'\x07\xe4\x01\x01\x00\x00\x3c\x00\x00\x00',
            'microsecond_1000000': b'\x07\xe4\x01\x01\x00\x00\x00\x0f\x42\x40',
            'microsecond_16777215': b'\x07\xe4\x01\x01\x00\x00\x00\xff\xff\xff',
            'no_bytes': b'',
            '9_bytes': b'\x07\xe4\x01\x01\x00\x00\x00\x00\x00',
            '11_bytes': b'\x07\xe4\x01\x01\x00\x00\x00\x00\x00\x00\x00',
            'a_million_bytes': b'\x01' * 10**6,
        }.items()
    },
)
attacks(
    'datetime_called_with',
    {
        name: event_list(DATETIME + arguments + b'R')
        for name, arguments in {
            'nothing': b')',
            'numbers': b'M\xe4\x07K\x01K\x01\x87',
            'none': b'N\x85',
            'list': b']\x85',
            'dict': b'}\x85',
            'number': b'K\x0a\x85',
            'text_beyond_latin_1': text('\u20ac' * 10) + b'\x85',
            'a_time_zone': binary(b'\x07\xe4\x01\x01' + bytes(6)) + b'N\x86',
            'itself': DATETIME + b'\x85',
            'what_is_not_a_tuple': b']',
            'no_tuple': b'N',
        }.items()
    },
)
attacks(
    'encode_to',
    {
        encoding: event_list(ENCODE + text('0' * 64) + text(encoding) + b'\x86R')
        for encoding in [
            *('hex', 'zip', 'zlib', 'bz2', 'base64', 'rot13', 'utf-32', 'utf-7'),
            *('idna', 'punycode', 'unicode_escape', 'undefined', 'ascii', 'LATIN1'),
            *('latin-1', 'latin1\0', '', '../../latin1', 'x' * 1000),
        ]
    },
)
attacks(
    'encode_called_with',
    {
        name: event_list(ENCODE + arguments + b'R')
        for name, arguments in {
            'nothing': b')',
            'text': text('a') + b'\x85',
            'errors': text('a') + text('latin1') + text('ignore') + b'\x87',
            'bytes': binary(b'a') + text('latin1') + b'\x86',
            'number': b'K\x01' + text('latin1') + b'\x86',
            'encoding_none': text('a') + b'N\x86',
            'encoding_bytes': text('a') + binary(b'latin1') + b'\x86',
            'text_beyond_latin_1': text('\u20ac') + text('latin1') + b'\x86',
            'surrogate': text('\udc80') + text('latin1') + b'\x86',
        }.items()
    },
)
attacks(
    'bytes_called_with',
    {
        name: event_list(BYTES + argument + b'\x85R')
        for name, argument in {
            'a_huge_number': b'J\xff\xff\xff\x7f',
            'a_number': b'K\x05',
            'a_list': b'](K\x01e',
            'text': text('a'),
        }.items()
    },
)
attacks(
    'dtype',
    {
        name: event_list(
            SCALAR
            + DTYPE
            + text(name)
            + b'K\x00K\x01\x87R'
            + FLOAT64_STATE
            + b'b'
            + binary(bytes(8))
            + b'\x86R'
        )
        for name in [
            *('V2000000000', 'S2000000000', 'U2000000000', 'V8', 'O', 'O8', 'i', 'd'),
            *('M8[ns]', 'm8', 'f16', 'c8', 'c16', 'i16', 'f8,f8', '(1000000000,)f8'),
            *('', 'f8 ', '<f8', 'F8', 'f8\0'),
        ]
    },
)
attacks(
    'dtype_called_with',
    {
        name: event_list(
            SCALAR + DTYPE + arguments + b'R' + binary(bytes(8)) + b'\x86R'
        )
        for name, arguments in {
            'nothing': b')',
            'a_code_alone': text('f8') + b'\x85',
            'code_none': b'NK\x00K\x01\x87',
            'code_bytes': binary(b'f8') + b'K\x00K\x01\x87',
            'code_number': b'K\x08K\x00K\x01\x87',
            'code_list': b']K\x00K\x01\x87',
            'code_stand_in': DTYPE + b'K\x00K\x01\x87',
            'flags_of_text': text('f8') * 3 + b'\x87',
            'flags_of_lists': text('f8') + b']]\x87',
        }.items()
    },
)
_STATES = {
    'an_item_of_2_gb': b'(K\x03' + text('|') + b'NNNJ\xff\xff\xff\x7fK\x01K\x00t',
    'a_subarray': b'(K\x03' + text('<') + b'](K\x01eNNJ\xff\xff\xff\xffK\x01K\x00t',
    'fields': b'(K\x03' + text('<') + b'NN}J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t',
    'metadata': FLOAT64_STATE[:-1] + b'}t',
    'flags': FLOAT64_STATE[:-3] + b'K\x3ft',
    'version_5': FLOAT64_STATE.replace(b'K\x03', b'K\x05'),
    'version_none': FLOAT64_STATE.replace(b'K\x03', b'N'),
    'order_=': FLOAT64_STATE.replace(b'<', b'='),
    'order_@': FLOAT64_STATE.replace(b'<', b'@'),
    'order_none': FLOAT64_STATE.replace(text('<'), b'N'),
    'order_bytes': FLOAT64_STATE.replace(text('<'), binary(b'<')),
    'nothing': b')',
    'none': b'N',
    'a_dict': b'}' + text('_format') + text('1000000000s') + b's',
    'slots': b'N}' + text('_format') + text('1000000000s') + b's\x86',
}
attacks(
    'dtype_built_with',
    {
        name: event_list(SCALAR + FLOAT64 + state + b'b' + binary(bytes(8)) + b'\x86R')
        for name, state in _STATES.items()
    },
)
attacks(
    'scalar_of',
    {
        name: event_list(SCALAR + arguments + b'R')
        for name, arguments in {
            'nothing': b')',
            'a_dtype_alone': FLOAT64 + b'\x85',
            'no_bytes': FLOAT64 + binary(b'') + b'\x86',
            '7_bytes': FLOAT64 + binary(bytes(7)) + b'\x86',
            '9_bytes': FLOAT64 + binary(bytes(9)) + b'\x86',
            'a_million_bytes': FLOAT64 + binary(bytes(10**6)) + b'\x86',
            'text_beyond_latin_1': FLOAT64 + text('\u20ac' * 8) + b'\x86',
            'none': FLOAT64 + b'N\x86',
            'list': FLOAT64 + b']\x86',
            'a_dtype_that_is_not_called': DTYPE + binary(bytes(8)) + b'\x86',
            'a_dtype_that_is_text': text('f8') + binary(bytes(8)) + b'\x86',
            'a_scalar_called_dtype': SCALAR + binary(bytes(8)) + b'\x86',
            'three_arguments': FLOAT64 + binary(bytes(8)) + b'N\x87',
        }.items()
    },
)
attacks(
    'calling',
    {
        'none': b'N)R.',
        'text': text('os.system') + b')R.',
        'a_number': b'K\x01)R.',
        'a_list': b'])R.',
        'a_dtype': FLOAT64 + b')R.',
        'a_datetime': DATETIME + binary(b'\x07\xe4\x01\x01' + bytes(6)) + b'\x85R)R.',
        'nothing': b')R.',
        'the_tuple_below': b')p0\nbg0\n)R.',
        'by_obj': event_list(b'(' + DATETIME + STATE + b'o'),
        'by_inst': event_list(b'(' + STATE + b'i' + DATETIME[1:]),
        'by_newobj': event_list(DATETIME + STATE + b'\x85\x81'),
        'by_newobj_ex': event_list(DATETIME + STATE + b'\x85}\x92'),
    },
)


# Asking for memory.


def _u4_lengths(opcode: bytes) -> dict[str, bytes]:
    """A length of four bytes, which is signed in some opcodes of Python 2."""
    return {
        f'{length:#x}_bytes': opcode + u4(length) + b'abc.'
        for length in (5, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
    }


def _u8_lengths(opcode: bytes) -> dict[str, bytes]:
    return {
        f'{length:#x}_bytes': opcode + u8(length) + b'abc.'
        for length in (3, 5, 2**24, 2**31, 2**33, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
    }


attacks('binstring_of', _u4_lengths(b'T'))
attacks('binunicode_of', _u4_lengths(b'X'))
attacks('binbytes_of', _u4_lengths(b'B'))
attacks('long4_of', _u4_lengths(b'\x8b'))
attacks('binunicode8_of', _u8_lengths(b'\x8d'))
attacks('binbytes8_of', _u8_lengths(b'\x8e'))
attacks('bytearray8_of', _u8_lengths(b'\x96'))
attacks('frame_of', _u8_lengths(b'\x95'))
attacks(
    'length_past_the_end',
    {
        'short_binstring': b'U\x05abc.',
        'short_binunicode': b'\x8c\x05abc.',
        'short_binbytes': b'C\x05abc.',
        'long1': b'\x8a\x05abc.',
        'no_length': b'X',
        'half_a_length': b'X\x00\x00',
        'half_a_frame_length': b'\x95\x00\x00\x00',
        'binint': b'J\x00\x00',
        'binfloat': b'G\x00\x00\x00',
        'binget': b'h',
        'proto': b'\x80',
    },
)
for _index in (2**20, 2**29, 2**31 - 1, 2**31, 2**32 - 1):
    attacks(
        f'memo_index_{_index:#x}',
        {
            'long_binput': b']r' + u4(_index) + b'.',
            'put': b']p%d\n.' % _index,
            'long_binget': b']j' + u4(_index) + b'.',
            'get': b']g%d\n.' % _index,
        },
    )
attacks(
    'memo_index_written',
    {
        'negative': b']p-1\n.',
        'with_a_sign': b']p+1\n.',
        'with_a_space': b']p 1\n.',
        'with_underscores': b']p1_0\n.',
        'in_hexadecimal': b']p0x1\n.',
        'in_other_digits': b']p\xd9\xa1\n.',
        'with_2000_digits': b']p' + b'9' * 2000 + b'\n.',
        'with_carriage_return': b']p1\r\n.',
        'with_nul': b']p1\0\n.',
        'not_at_all': b']p\n.',
        'without_an_end': b']p1',
    },
)


@attack
def memoized_16_million_times():
    return b'N' + b'\x94' * (MAX_UPLOAD - 2) + b'.'


@attack
def memoized_at_ever_larger_indices():
    return b'N' + b''.join(b'r' + u4(2**n) for n in range(32)) + b'.'


_FLOODS = {
    'marks': b'(',
    'lists': b']',
    'dicts': b'}',
    'nones': b'N',
    'empty_tuples': b')',
    'empty_sets': b'\x8f',
    'duplicates': b'2',
    'empty_texts': b'U\0',
    'bytes': b'C\1a',
    'integers': b'J\1\1\1\1',
    'large_integers': b'\x8a\x08' + b'1' * 8,
    'floats': b'G' + b'1' * 8,
    'empty_frames': b'\x95' + bytes(8),
    'frames': b'\x95' + u8(1) + b'N',
    'lists_of_one': b']Na',
    'dicts_of_one': b'}NNs',
    'lines': b'V\n',
    'names': DATETIME,
}
for _name, _opcodes in _FLOODS.items():
    ATTACKS[f'16_mb_of_{_name}'] = lambda opcodes=_opcodes: (
        b']' + opcodes * (MAX_UPLOAD // len(opcodes) - 2) + b'.'
    )


@attack
def one_and_a_half_million_dicts():
    return b']' + b'}' * 1_500_000 + b'.'


@attack
def one_and_a_half_million_events():
    return b'](' + b'}' * 1_500_000 + b'e.'


@attack
def a_quarter_of_a_million_events_of_one_value():
    return b'](' + b'}U\1aC\2abs' * 250_000 + b'e.'


@attack
def encoded_to_hexadecimal_again_and_again():
    again = b'q\x00' + ENCODE + b'h\x00' + text('hex') + b'\x86R'
    return binary(b'a') + again * 28 + b'.'


def _encoded_many_times(length: int, times: int) -> bytes:
    first = ENCODE + b'q\x00' + text(bytes(length)) + text('latin1') + b'\x86q\x01R'
    return b'](' + first + b'h\x00h\x01R' * times + b'e.'


@attack
def a_megabyte_encoded_five_hundred_times():
    return _encoded_many_times(10**6, 500)


@attack
def five_kilobytes_encoded_a_hundred_thousand_times():
    return _encoded_many_times(5000, 10**5)


def _shared(leaf: bytes, levels: int, width: int) -> bytes:
    """A list of lists of lists..., each `width` times the same; then the leaf."""
    again = b'h\x00' * (width - 1)
    return b'(' * levels + leaf + b'q\x00' + (again + b'lq\x00') * levels


@attack
def shared_lists_that_unfold_to_ten_million():
    return _shared(b'N', 4, 57) + b'.'


@attack
def shared_events_that_unfold_to_ten_million():
    event = b'}' + text('datalist') + _shared(b'N', 3, 216) + b's'
    return b'](' + event + b'e.'


@attack
def shared_dicts_that_unfold_to_ten_million():
    again = b''.join(text(f'{key}') + b'h\x00' for key in range(56))
    first = b'(' + text('datalist')
    return b']' + first * 4 + b'Nq\x00' + (again + b'dq\x00') * 4 + b'a.'


@attack
def shared_lists_that_unfold_to_2_to_the_300():
    return _shared(b'N', 300, 2) + b'.'


def _padded(opcodes: bytes) -> bytes:
    """The opcodes, and text in front that makes them as long as a body may be."""
    piece = text(bytes(5000))
    return piece * ((MAX_UPLOAD - len(opcodes)) // len(piece)) + opcodes


def _sharing(leaf: bytes, also: bytes = b'') -> bytes:
    """An event list that unfolds to 4000 x 4000 of the leaf: below one a byte."""
    event = b'}' + text('datalist') + _shared(leaf, 1, 4000) + b'sq\x00'
    return _padded(b'](' + event + b'h\x00' * 3999 + also + b'e.')


@attack
def a_padded_body_that_unfolds_to_16_million_nones():
    return _sharing(b'N')


@attack
def a_padded_body_that_unfolds_to_16_million_dicts():
    return _sharing(b'}')


@attack
def a_padded_body_that_unfolds_to_16_million_bytes():
    return _sharing(b'C\1a')


@attack
def a_padded_body_that_unfolds_to_16_million_dicts_to_be_decoded():
    # One bytes anywhere, and everything is copied.
    return _sharing(b'}', also=b'}' + text('datalist') + b'C\1as')


def _unfolding(leaf: bytes, width: int) -> bytes:
    """A small body with as many opcodes as may be, to share as much as may be."""
    event = b'}' + text('datalist') + _shared(leaf, 1, width) + b'sq\x00'
    return b'N' * 385_000 + b'](' + event + b'h\x00' * (width - 1) + b'e.'


@attack
def a_small_body_that_unfolds_to_a_million_dicts():
    return _unfolding(b'}' + text('a') + b'C\1as', 850)


@attack
def a_small_body_that_unfolds_to_a_million_values():
    keys = b''.join(binary(b'key%d' % n) + binary(b'value') for n in range(5))
    return _unfolding(b'}(' + keys + b'u', 500)


@attack
def a_small_body_that_unfolds_to_a_million_lists():
    return _unfolding(b'](' + binary(b'value') * 2 + b'e', 700)


@attack
def shared_text_that_unfolds_to_a_gigabyte():
    return b'](}' + text('a') + text(bytes(2**20)) + b'sq\x00' + b'h\x00' * 1023 + b'e.'


@attack
def shared_bytes_that_unfold_to_a_gigabyte():
    value = binary(bytes(2**20)) + b'q\x00'
    return event_list(b'](' + value + b'h\x00' * 1023 + b'e')


@attack
def shared_keys_that_unfold_to_a_gigabyte():
    event = b'}' + binary(bytes(2**20)) + b'Nsq\x00'
    return b'](' + event + b'h\x00' * 1023 + b'e.'


def _escapes(quote: bytes, end: bool) -> bytes:
    opening, closing = b'S' + quote, quote + b'\n.'
    length = (MAX_UPLOAD - len(opening) - len(closing)) // 2
    return opening + b'\\a' * length + (closing if end else b'')


@attack
def text_of_8_million_escapes():
    return _escapes(b"'", end=True)


@attack
def text_of_8_million_escapes_in_double_quotes():
    return _escapes(b'"', end=True)


@attack
def text_of_8_million_escapes_without_an_end():
    return _escapes(b"'", end=False)


@attack
def texts_of_50000_escapes():
    return b']' + (b"S'" + b'\\a' * 50_000 + b"'\n") * 160 + b'.'


@attack
def text_widened_to_four_bytes_a_character():
    return text(bytes(MAX_UPLOAD - 10) + '\U0001f600'.encode()) + b'.'


@attack
def line_widened_to_four_bytes_a_character():
    return b'V' + b'a' * (MAX_UPLOAD - 13) + b'\\U0001f600\n.'


# What a refusal says goes to a log: it must be neither long nor lines.

_LONG = '\U0001f600' + '\x01' * (MAX_UPLOAD - 100)


@attack
def a_name_of_16_million_characters():
    return text('os') + text(_LONG) + b'\x93.'


@attack
def a_module_of_16_million_characters():
    return text(_LONG) + text('system') + b'\x93.'


@attack
def a_dtype_of_16_million_characters():
    return DTYPE + text(_LONG) + b'K\x00K\x01\x87R.'


attacks(
    'a_line_for_the_log',
    {
        'in_a_module': text('os\n2020-02-03 CRITICAL disk full') + text('a') + b'\x93.',
        'in_a_name': text('os') + text('\r\n2020-02-03 CRITICAL disk full') + b'\x93.',
        'in_escape_codes': text('\x1b[2J') + text('\x9b2J') + b'\x93.',
        'in_separators': text('os\u2028\u2029\x85\x0b') + text('a') + b'\x93.',
        'in_surrogates': text('\ud800') + text('\udfff') + b'\x93.',
        'in_a_dtype': DTYPE + text('\n\ud800') + b'NN\x87R.',
        'in_an_opcode': b'\n.',
    },
)


# Asking for time.


def _nested_arguments(each: bytes, times: int) -> bytes:
    """Call `dtype` with what it was called with before, for nested tuples.

    Memo: 0 is the dtype, 1 a code of it, 2 the tuple.
    """
    first = DTYPE + b'q\x00' + text('f8') + b'q\x01\x88\x88\x87q\x02R'
    return first + (b'h\x00h\x01' + each + b'\x87q\x02R') * times


@attack
def tuples_that_hash_in_exponential_time_as_a_key():
    return _nested_arguments(b'h\x02h\x02', 60) + b'}h\x02Ns.'


@attack
def tuples_that_hash_in_exponential_time_as_an_argument():
    return _nested_arguments(b'h\x02h\x02', 60) + b'h\x00h\x02\x88\x88\x87R.'


@attack
def tuples_20000_deep_hashed_50000_times():
    keys = b'(' + b'h\x02N' * 50_000 + b'u'
    return _nested_arguments(b'h\x02\x88', 20_000) + b'}' + keys + b'.'


@attack
def tuples_50000_deep_as_an_argument():
    return _nested_arguments(b'h\x02\x88', 50_000) + b'h\x00h\x02\x88\x88\x87R.'


@attack
def tuples_50000_deep_as_a_key():
    return _nested_arguments(b'h\x02\x88', 50_000) + b'}h\x02Ns.'


@attack
def tuples_50000_deep_as_the_result():
    return _nested_arguments(b'h\x02\x88', 50_000) + b'h\x02.'


_MILLION_TUPLES = {
    'tuple1': b'\x85' * 10**6,
    'tuple1_memoized': b'\x85\x94' * 10**6,
    'tuple2': b'N\x86' * 10**6,
    'tuple3': b'NN\x87' * 10**6,
    'frozenset_of_tuples': b'\x85' * 10**6 + b'q\x00(h\x00\x91',
}
for _name, _opcodes in _MILLION_TUPLES.items():
    ATTACKS[f'a_million_nested_tuples_as_a_key-{_name}'] = lambda opcodes=_opcodes: (
        b'})' + opcodes + b'Ns.'
    )
ATTACKS['a_million_nested_tuples_as_a_key-mark_tuple'] = lambda: (
    b'}' + b'(' * 10**6 + b't' * 10**6 + b'Ns.'
)


@attack
def tuples_that_hash_in_exponential_time_without_a_call():
    return b'})' + b'q\x00h\x00\x86' * 60 + b'Ns.'


@attack
def frozensets_that_hash_in_exponential_time():
    return b'}N' + b'q\x00(h\x00\x91' * 60 + b'Ns.'


_P = 2**61 - 1  # integers that differ by a multiple of this have equal hash


def _keys(pickles: list[bytes]) -> bytes:
    return event_list(b'}(' + b''.join(key + b'N' for key in pickles) + b'u')


@attack
def integers_of_equal_hash_as_keys_by_long():
    return _keys([b'L%dL\n' % (n * _P) for n in range(50_000)])


@attack
def integers_of_equal_hash_as_keys_by_int():
    return _keys([b'I%d\n' % (n * _P) for n in range(50_000)])


@attack
def integers_of_equal_hash_as_keys_by_long1():
    return _keys([long1(n * _P) for n in range(50_000)])


@attack
def integers_of_equal_hash_as_keys_by_long4():
    def long4(number: int) -> bytes:
        return b'\x8b' + u4(long1(number)[1]) + long1(number)[2:]

    return _keys([long4(n * _P) for n in range(50_000)])


@attack
def negative_integers_of_equal_hash_as_keys():
    return _keys([long1(-n * _P) for n in range(50_000)])


@attack
def floats_of_equal_hash_as_keys():
    floats = [b'G' + struct.pack('>d', 2.0**n) for n in range(-1022, 1024, 61)]
    last = floats[-1] + b'q\x00'
    return _keys([*floats[:-1], last, *[b'h\x00'] * 100_000])


def _equal_keys(first: bytes, second: bytes) -> bytes:
    """A key, and another that is equal but not the same, again and again."""
    again = b'(' + second + b'q\x00N' + b'h\x00N' * 150_000 + b'u'
    return b'](}' + first + b'Ns' + again + b'e.'


@attack
def long_texts_compared_as_keys():
    key = text(bytes(8 * 10**6))
    return _equal_keys(key, key)


@attack
def long_wide_texts_compared_as_keys():
    key = text(bytes(7 * 10**6) + '\U0001f600'.encode())
    return _equal_keys(key, key)


@attack
def long_bytes_compared_as_keys():
    key = binary(bytes(8 * 10**6))
    return _equal_keys(key, key)


@attack
def long_lines_compared_as_keys():
    key = b'V' + b'a' * 8 * 10**6 + b'\n'
    return _equal_keys(key, key)


@attack
def long_quoted_lines_compared_as_keys():
    key = b"S'" + b'a' * 8 * 10**6 + b"'\n"
    return _equal_keys(key, key)


@attack
def long_text_and_line_compared_as_keys():
    return _equal_keys(text(b'a' * 8 * 10**6), b'V' + b'a' * 8 * 10**6 + b'\n')


@attack
def tuples_of_long_texts_compared_as_keys():
    arguments = text(bytes(8 * 10**6)) + text('latin1') + b'\x86'
    call = ENCODE + arguments + b'q%cR'
    first, second = call % 2, call % 3
    keys = b'](}h\x02Ns(h\x03N' + b'h\x03N' * 150_000 + b'ue.'
    return first + second + keys


attacks(
    'number_written',
    {
        name: event_list(opcodes)
        for name, opcodes in {
            'with_21_digits': b'I' + b'9' * 21 + b'\n',
            'with_21_digits_as_long': b'L' + b'9' * 21 + b'L\n',
            'negative_with_21_digits': b'I-' + b'9' * 21 + b'\n',
            'with_5000_digits': b'L' + b'1' * 5000 + b'L\n',
            'with_a_plus_sign': b'I+1\n',
            'with_two_signs': b'I--1\n',
            'with_a_space': b'I 1\n',
            'with_underscores': b'I1_000\n',
            'in_hexadecimal': b'I0x41\n',
            'in_octal_of_python_3': b'I0o17\n',
            'with_digits_beyond_octal': b'I099\n',
            'with_nul': b'I1\x002\n',
            'with_carriage_return': b'I1\r\n',
            'with_nothing': b'I\n',
            'with_a_sign_alone': b'I-\n',
            'with_an_l_alone': b'LL\n',
            'in_9_bytes': long1(2**71 - 1),
            'in_9_bytes_negative': long1(-(2**70)),
            'in_10_bytes': long1(2**72),
            'in_255_bytes': b'\x8a\xff' + b'\x11' * 255,
            'in_4_bytes_of_long4': b'\x8b' + u4(4) + b'abcd',
            'float_of_nothing': b'F\n',
            'float_of_letters': b'Fx\n',
            'float_with_a_space': b'F 1.5\n',
            'float_with_underscores': b'F1_0.5\n',
            'float_with_two_points': b'F1.5.2\n',
            'float_in_hexadecimal': b'F0x1p5\n',
            'float_too_large': b'F1e400\n',
            'float_with_nul': b'F1.5\x00\n',
        }.items()
    },
)


@attack
def integer_of_16_million_digits():
    return b'I' + b'1' * (MAX_UPLOAD - 3) + b'\n.'


@attack
def long_of_16_million_digits():
    return b'L' + b'1' * (MAX_UPLOAD - 4) + b'L\n.'


@attack
def long4_of_16_million_bytes():
    return b'\x8b' + u4(MAX_UPLOAD - 6) + b'\x11' * (MAX_UPLOAD - 6) + b'.'


@attack
def float_of_16_million_digits():
    return b'F' + b'1' * (MAX_UPLOAD - 3) + b'\n.'


# Nesting.


@attack
def lists_nested_a_hundred_thousand_deep():
    return b']' * 10**5 + b'a' * (10**5 - 1) + b'.'


@attack
def lists_nested_eight_million_deep():
    return b']' * (8 * 10**6) + b'a' * (8 * 10**6 - 1) + b'.'


@attack
def dicts_nested_eighty_thousand_deep():
    return event_list((b'}' + text('a')) * 80_000 + b'N' + b's' * 80_000)


@attack
def events_nested_one_level_too_deep():
    return event_list(b'](]e')


attacks(
    'tuple_from_the_memo',
    {
        'as_the_result': BYTES + b')q\x00Rh\x00.',
        'as_an_event': b'](' + BYTES + b')q\x00}h\x00e.',
        'as_a_value': event_list(b'](' + BYTES + b')q\x00Rh\x00e'),
        'as_a_key': event_list(b'}(' + BYTES + b')q\x00RNh\x00Nu'),
        'full_as_a_value': event_list(b'](' + DATETIME + STATE + b'\x85q\x00Rh\x00e'),
    },
)
attacks(
    'recursive',
    {
        'list': b']q\x00h\x00a.',
        'event_list': b']q\x00(}' + text('datalist') + b'h\x00se.',
        'event': b']}q\x00' + text('header') + b'h\x00sa.',
        'value': event_list(b']q\x00h\x00a'),
        'list_of_two': b']q\x00]q\x01h\x00ah\x01a.',
        'list_in_its_own_tuple': b']q\x00' + DATETIME + b'h\x00\x85q\x01Rh\x01a.',
        'list_as_a_key_of_its_own_dict': b'}q\x00]h\x00aNs.',
    },
)


# Opcodes that the scan and the unpickler could read differently.


_AHEAD = 2**17  # bytes that CPython looks ahead


def _beyond_frame(hidden: bytes, start: int = 0, inside: bytes = b'') -> bytes:
    """Hide opcodes from whoever does not heed the ends of frames.

    Text begins as the last three bytes of a frame, with half of its length.
    CPython's unpickler reads a frame at once, forgets what is left of it when
    an opcode needs more, and reads on behind it.  So it takes the four bytes
    there for the length, which leaves out the opcodes behind; who reads the
    length as it stands sees them as part of the text.  The frame is larger
    than CPython looks ahead, or lies across the end of that.
    """
    size = _AHEAD + 3 - (start + 9 if start else 0)
    before = binary(bytes(start - 5)) if start else b''
    inside += binary(bytes(size - len(inside) - 5 - 3)) + b'X\x00\x00'
    pages = len(hidden) // 2**16 + 1
    seen = bytes([pages, 0])  # the upper half, of the length in 64 KiB
    behind = seen + b'\x00\x00' + bytes(pages) + hidden
    behind += b'N' * (pages * 2**16 + 2 - len(behind))
    return before + b'\x95' + u8(size) + inside + behind + b'.'


def _beyond_number(hidden: bytes) -> bytes:
    """Hide a few opcodes so, behind a number that a frame cuts.

    Whoever takes it as it stands sees text next, of which the unpickler takes
    the head as part of the number.
    """
    inside = binary(bytes(_AHEAD)) + b'J\x00\x00\x00'
    behind = b'\x00U' + bytes([len(hidden) + 1]) + b'\x00' + hidden
    return b'\x95' + u8(len(inside)) + inside + behind + b'.'


_HIDDEN = {
    'a_memo_of_4_gb': b'Nr' + u4(2**28) + b'.',
    'eight_million_nested_tuples_as_a_key': b'})' + b'\x85' * 8_000_000 + b'Ns.',
    '15_million_lists': b']' + b']' * 15_000_000 + b'.',
    'an_integer_of_a_million_bytes': event_list(
        b'\x8b' + u4(10**6) + b'\x11' * 10**6,
    ),
    'a_call_by_obj': event_list(b'(' + DATETIME + STATE + b'o'),
    'os.system': name('os', 'system') + text('kill -9 $PPID') + b'\x85R.',
}
for _name, _opcodes in _HIDDEN.items():
    for _where, _hide in {
        'frame': _beyond_frame,
        'small_frame': lambda hidden: _beyond_frame(hidden, start=_AHEAD - 40),
        'frame_with_a_frame_inside': lambda hidden: _beyond_frame(
            hidden, inside=b'\x95' + u8(1) + b'N'
        ),
        'number_in_a_frame': _beyond_number,
    }.items():
        if _hide is not _beyond_number or len(_opcodes) < 250:
            ATTACKS[f'behind_a_{_where}-{_name}'] = (
                lambda hide=_hide, opcodes=_opcodes: hide(opcodes)
            )
attacks(
    'frame_that_ends',
    {
        # The frame starts behind the first three bytes.
        name: b'\x95'.join([pickled[:3], u8(size) + pickled[3:]])
        for name, (size, pickled) in {
            'in_a_number': (3, b'](NJ\x01\x00\x00\x00](e.'),
            'in_a_text': (3, b'](N\x8c\x05abcde](e.'),
            'in_a_line': (3, b'](NVabc\n](e.'),
            'in_a_name': (3, b'](N' + BYTES + b')R](e.'),
            'in_the_next_frame': (12, b'](N\x95' + u8(40) + b'N' * 50 + b'](e.'),
        }.items()
    },
)
attacks(
    'line',
    {
        name: event_list(opcodes)
        for name, opcodes in {
            'without_quotes': b'Sabc\n',
            'with_one_quote': b"S'\n",
            'with_an_open_quote': b"S'abc\n",
            'with_other_quotes': b'S\'abc"\n',
            'with_nothing': b'S\n',
            'with_half_an_escape': b"S'\\x4'\n",
            'with_an_escaped_end': b"S'abc\\'\n",
            'with_carriage_return': b"S'abc'\r\n",
            'with_backslash_alone': b"S'\\",
            'with_no_end': b'Vabc',
            'with_half_a_character': b'V\\u12\n',
            'with_no_character': b'V\\U00110000\n',
        }.items()
    },
)
attacks(
    'changing',
    {
        'a_dict_by_append': event_list(b'}Na'),
        'a_dict_by_appends': event_list(b'}(NNe'),
        'text_by_append': event_list(text('a') + b'Na'),
        'text_by_setitem': event_list(text('a') + b'K\x00Ns'),
        'none_by_setitems': event_list(b'N(NNu'),
        'a_list_past_its_end': event_list(b']K\x05Ns'),
        'a_list_by_text': event_list(b']' + text('a') + b'Ns'),
        'a_dict_by_a_list': event_list(b'}]Ns'),
        'a_dict_by_a_dict': event_list(b'(}Nd'),
    },
)
attacks(
    'text_in',
    {
        'invalid_utf_8': event_list(b'X' + u4(2) + b'\xff\xfe'),
        'overlong_utf_8': event_list(b'X' + u4(2) + b'\xc0\x80'),
        'half_a_character': event_list(b'X' + u4(2) + b'\xe2\x82'),
    },
)
attacks(
    'protocol',
    {
        '6': b'\x80\x06].',
        '255': b'\x80\xff].',
        'alone': b'\x80\x02',
        'without_a_number': b'\x80',
    },
)
_ARGUMENTLESS = b'(.)0123NQR]abdelostu}\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94'
attacks(
    'stack_underflow',
    {
        **{f'{op:#x}': bytes([op]) + b'.' for op in _ARGUMENTLESS if op not in b'N])}'},
        **{f'{op:#x}_above_a_mark': b'](' + bytes([op]) + b'.' for op in b'.aRsb\x93'},
        **{f'{op:#x}_above_none': b'N' + bytes([op]) + b'.' for op in b'aelsudRb\x93'},
        'binget': b'h\x00.',
        'get': b'g0\n.',
        'long_binget': b'j' + u4(0) + b'.',
        'memo_below_a_mark': b'](\x94.',
        'binput_below_a_mark': b'](q\x00.',
        'an_odd_number_of_items': b'](}(Nue.',
        'an_odd_number_in_a_dict': b'](Nd.',
        'no_key': b'](}Nse.',
    },
)
attacks(
    'opcode',
    {
        f'{op:#04x}': b']' + bytes([op]) + b'.'
        for op in range(256)
        if op not in b'.]\x94'
    },
)
attacks(
    'pickle',
    {
        'empty': b'',
        'of_stop_alone': b'.',
        'without_stop': b']',
        'of_nothing_but_zeros': bytes(1000),
        'of_text_that_is_none': b'station_id=501',
        'of_json': b'[{"header": {}}]',
        'that_starts_late': b'\n].',
        'with_carriage_returns': b"(lp0\r\n(dp1\r\nS'a'\r\np2\r\nNsa.",
        'compressed': b'x\x9c\x8b\xd5\x03\x00\x00\xe6\x00\x8c',
    },
)


# Other results than event lists.

_RESULTS = {
    'none': None,
    'text': 'header',
    'bytes': b'header',
    'number': 1,
    'float': 1.5,
    'bool': True,
    'dict': {},
    'event': {'header': {}, 'datalist': []},
    'tuple': (),
    'tuple_of_events': ({},),
    'set': set(),
    'frozenset': frozenset(),
    'datetime': datetime(2020, 2, 3),
    'list_of_none': [None],
    'list_of_lists': [[]],
    'list_of_text': ['header'],
    'list_of_events_and_a_number': [{}, 1],
    'list_of_a_tuple': [({},)],
}
_VALUES = {
    'tuple': (1, 2),
    'empty_tuple': (),
    'set': {1},
    'frozenset': frozenset([1]),
    'bytearray': bytearray(b'a'),
    'complex': 1j,
    'decimal': Decimal('1.5'),
    'fraction': Fraction(1, 3),
    'range': range(3),
    'date': date(2020, 2, 3),
    'time_difference': timedelta(1),
    'time_zone': timezone.utc,
    'datetime_with_time_zone': datetime(2020, 2, 3, tzinfo=timezone.utc),
    'ordered_dict': OrderedDict(a=1),
    'function': len,
    'class': int,
    'exception': ValueError('a'),
    'slice': slice(1),
    'ellipsis': ...,
    'key_integer': {1: 2},
    'key_float': {math.nan: 2},
    'key_none': {None: 2},
    'key_bool': {True: 2},
    'key_tuple': {('a',): 2},
    'key_datetime': {datetime(2020, 2, 3): 2},
    'integer_of_65_bits': 2**65,
    'integer_of_a_thousand_bits': 2**1000,
}
for _protocol in (0, 2, 5):
    attacks(
        f'result_by_protocol_{_protocol}',
        {name: pickle.dumps(result, _protocol) for name, result in _RESULTS.items()},
    )
    attacks(
        f'value_by_protocol_{_protocol}',
        {
            name: pickle.dumps([{'datalist': [{'data': value}]}], _protocol)
            for name, value in _VALUES.items()
            # As text, integers may have twenty digits.
            if (_protocol, name) != (0, 'integer_of_65_bits')
        },
    )


def _attempt(pickled: bytes) -> tuple[str, str]:
    """Return what came of decoding a hostile pickle, and what was said of it."""
    try:
        load_event_list(pickled)
    except NotAnEventList as error:
        if isinstance(error.__cause__, MemoryError):
            return 'ran out of memory', ''
        return 'refused', str(error)
    except MemoryError:
        return 'ran out of memory', ''
    except Exception as error:
        # Anything: that nothing else is raised is what is tested.
        return f'raised {type(error).__name__}', ''
    return 'decoded', ''


def _address_space() -> int:
    with open('/proc/self/statm') as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit(limit: int, most: int | None = None) -> None:
    """Let this process have at most so much, in all; None for no limit of ours."""
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (hard if most is None else most, hard))


def main() -> None:
    """Say what comes of each attack; or be killed for the time it takes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whatever is imported at first use is imported here.
    assert load_event_list(GOOD) == GOOD_EVENTS
    modules = set(sys.modules)
    idle = _address_space()
    for line in sys.stdin:
        pickled = ATTACKS[line.rstrip('\n')]()
        assert len(pickled) <= MAX_UPLOAD
        _limit(resource.RLIMIT_AS, idle + len(pickled) + MEMORY)
        _limit(resource.RLIMIT_CPU, math.ceil(time.process_time()) + SECONDS)
        outcome, message = _attempt(pickled)
        _limit(resource.RLIMIT_AS)
        _limit(resource.RLIMIT_CPU)
        if set(sys.modules) != modules:
            outcome += ', and imported modules'
        if load_event_list(GOOD) != GOOD_EVENTS:
            outcome += ', and changed how others are decoded'
        print(json.dumps([outcome, message]), flush=True)


if __name__ == '__main__':
    main()
