"""Uploaded bytes become an event list, or NotAnEventList, and nothing else."""

import json
import pickle
import re
import signal
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import PROJECT, RECORDINGS

from datastore.simulation import Simulation
from tests.wsgi import hostile_pickles
from wsgi.rcodes import NotAnEventList
from wsgi.unpickle import decode_object, load_event_list

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = {dict, list, str, int, float, bool, type(None), datetime}

# The same event in all that follow, as Python 2.7 pickled it.
PYTHON_2_EVENTS = [
    {
        'datalist': [
            {'data': True, 'data_uploadcode': 'RED'},
            {'data': -7, 'data_uploadcode': 'PH1'},
            {'data': 5000000000, 'data_uploadcode': 'IN1'},
            {'data': 0.1, 'data_uploadcode': 'EVENTRATE'},
            {'data': 'x\x9c\xff\n', 'data_uploadcode': 'TR1'},
            {'data': "it's", 'data_uploadcode': 'ERRMSG'},
            {'data': 'caf\xe9 \u20ac\n', 'data_uploadcode': 'CFG_BUFFER'},
            {'data': None, 'data_uploadcode': 'PH2'},
        ],
        'header': {
            'nanoseconds': 123456789,
            # Its state, as text, holds a single quote and is in double ones.
            'datetime': datetime(2017, 2, 26, 13, 39, 30, 656000),
            'eventtype_uploadcode': 'CIC',
        },
    }
]
PYTHON_2_PICKLES = {
    'cPickle_protocol_0': (
        b"(lp1\n(dp2\nS'datalist'\np3\n(lp4\n(dp5\nS'data'\np6\nI01\n"
        b"sS'data_uploadcode'\np7\nS'RED'\np8\nsa(dp9\ng6\nI-7\nsg7\nS'PH1'\np10\n"
        b"sa(dp11\ng6\nL5000000000L\nsg7\nS'IN1'\np12\nsa(dp13\ng6\n"
        b"F0.10000000000000001\nsg7\nS'EVENTRATE'\np14\nsa(dp15\ng6\n"
        b"S'x\\x9c\\xff\\n'\np16\nsg7\nS'TR1'\np17\nsa(dp18\ng6\nS\"it's\"\np19\n"
        b"sg7\nS'ERRMSG'\np20\nsa(dp21\ng6\nVcaf\xe9 \\u20ac\\u000a\np22\n"
        b"sg7\nS'CFG_BUFFER'\np23\nsa(dp24\ng6\nNsg7\nS'PH2'\np25\nsasS'header'\n"
        b"p26\n(dp27\nS'nanoseconds'\np28\nI123456789\nsS'datetime'\np29\n"
        b'cdatetime\ndatetime\np30\n(S"\\x07\\xe1\\x02\\x1a\\r\'\\x1e\\n\\x02\\x80"\n'
        b"tRp31\nsS'eventtype_uploadcode'\np32\nS'CIC'\np33\nssa."
    ),
    'cPickle_protocol_1': (
        b']q\x01}q\x02(U\x08datalistq\x03]q\x04(}q\x05(U\x04dataq\x06I01\n'
        b'U\x0fdata_uploadcodeq\x07U\x03REDq\x08u}q\t(h\x06J\xf9\xff\xff\xff'
        b'h\x07U\x03PH1q\nu}q\x0b(h\x06L5000000000L\nh\x07U\x03IN1q\x0cu}q\r(h\x06'
        b'G?\xb9\x99\x99\x99\x99\x99\x9ah\x07U\tEVENTRATEq\x0eu}q\x0f(h\x06'
        b'U\x04x\x9c\xff\nq\x10h\x07U\x03TR1q\x11u}q\x12(h\x06'
        b"U\x04it'sq\x13h\x07U\x06ERRMSGq\x14u}q\x15(h\x06"
        b'X\n\x00\x00\x00caf\xc3\xa9 \xe2\x82\xac\nq\x16h\x07U\nCFG_BUFFERq\x17u'
        b'}q\x18(h\x06Nh\x07U\x03PH2q\x19ueU\x06headerq\x1a}q\x1b('
        b'U\x0bnanosecondsq\x1cJ\x15\xcd[\x07U\x08datetimeq\x1dcdatetime\ndatetime\n'
        b"q\x1e(U\n\x07\xe1\x02\x1a\r'\x1e\n\x02\x80tRq\x1f"
        b'U\x14eventtype_uploadcodeq U\x03CICq!uua.'
    ),
    'cPickle_protocol_2': (
        b'\x80\x02]q\x01}q\x02(U\x08datalistq\x03]q\x04(}q\x05(U\x04dataq\x06\x88'
        b'U\x0fdata_uploadcodeq\x07U\x03REDq\x08u}q\t(h\x06J\xf9\xff\xff\xff'
        b'h\x07U\x03PH1q\nu}q\x0b(h\x06\x8a\x05\x00\xf2\x05*\x01h\x07'
        b'U\x03IN1q\x0cu}q\r(h\x06G?\xb9\x99\x99\x99\x99\x99\x9ah\x07'
        b'U\tEVENTRATEq\x0eu}q\x0f(h\x06U\x04x\x9c\xff\nq\x10h\x07'
        b"U\x03TR1q\x11u}q\x12(h\x06U\x04it'sq\x13h\x07U\x06ERRMSGq\x14u}q\x15(h\x06"
        b'X\n\x00\x00\x00caf\xc3\xa9 \xe2\x82\xac\nq\x16h\x07U\nCFG_BUFFERq\x17u'
        b'}q\x18(h\x06Nh\x07U\x03PH2q\x19ueU\x06headerq\x1a}q\x1b('
        b'U\x0bnanosecondsq\x1cJ\x15\xcd[\x07U\x08datetimeq\x1dcdatetime\ndatetime\n'
        b"q\x1eU\n\x07\xe1\x02\x1a\r'\x1e\n\x02\x80\x85Rq\x1f"
        b'U\x14eventtype_uploadcodeq U\x03CICq!uua.'
    ),
    'pickle_protocol_0': (
        b"(lp0\n(dp1\nS'datalist'\np2\n(lp3\n(dp4\nS'data'\np5\nI01\n"
        b"sS'data_uploadcode'\np6\nS'RED'\np7\nsa(dp8\ng5\nI-7\nsg6\nS'PH1'\np9\n"
        b"sa(dp10\ng5\nL5000000000L\nsg6\nS'IN1'\np11\nsa(dp12\ng5\nF0.1\n"
        b"sg6\nS'EVENTRATE'\np13\nsa(dp14\ng5\nS'x\\x9c\\xff\\n'\np15\n"
        b"sg6\nS'TR1'\np16\nsa(dp17\ng5\nS\"it's\"\np18\nsg6\nS'ERRMSG'\np19\n"
        b"sa(dp20\ng5\nVcaf\xe9 \\u20ac\\u000a\np21\nsg6\nS'CFG_BUFFER'\np22\n"
        b"sa(dp23\ng5\nNsg6\nS'PH2'\np24\nsasS'header'\np25\n(dp26\n"
        b"S'nanoseconds'\np27\nI123456789\nsS'datetime'\np28\ncdatetime\ndatetime\n"
        b'p29\n(S"\\x07\\xe1\\x02\\x1a\\r\'\\x1e\\n\\x02\\x80"\np30\ntp31\nRp32\n'
        b"sS'eventtype_uploadcode'\np33\nS'CIC'\np34\nssa."
    ),
    'pickle_protocol_1': (
        b']q\x00}q\x01(U\x08datalistq\x02]q\x03(}q\x04(U\x04dataq\x05I01\n'
        b'U\x0fdata_uploadcodeq\x06U\x03REDq\x07u}q\x08(h\x05J\xf9\xff\xff\xff'
        b'h\x06U\x03PH1q\tu}q\n(h\x05L5000000000L\nh\x06U\x03IN1q\x0bu}q\x0c(h\x05'
        b'G?\xb9\x99\x99\x99\x99\x99\x9ah\x06U\tEVENTRATEq\ru}q\x0e(h\x05'
        b'U\x04x\x9c\xff\nq\x0fh\x06U\x03TR1q\x10u}q\x11(h\x05'
        b"U\x04it'sq\x12h\x06U\x06ERRMSGq\x13u}q\x14(h\x05"
        b'X\n\x00\x00\x00caf\xc3\xa9 \xe2\x82\xac\nq\x15h\x06U\nCFG_BUFFERq\x16u'
        b'}q\x17(h\x05Nh\x06U\x03PH2q\x18ueU\x06headerq\x19}q\x1a('
        b'U\x0bnanosecondsq\x1bJ\x15\xcd[\x07U\x08datetimeq\x1ccdatetime\ndatetime\n'
        b"q\x1d(U\n\x07\xe1\x02\x1a\r'\x1e\n\x02\x80q\x1etq\x1fRq "
        b'U\x14eventtype_uploadcodeq!U\x03CICq"uua.'
    ),
    'pickle_protocol_2': (
        b'\x80\x02]q\x00}q\x01(U\x08datalistq\x02]q\x03(}q\x04(U\x04dataq\x05\x88'
        b'U\x0fdata_uploadcodeq\x06U\x03REDq\x07u}q\x08(h\x05J\xf9\xff\xff\xff'
        b'h\x06U\x03PH1q\tu}q\n(h\x05\x8a\x05\x00\xf2\x05*\x01h\x06'
        b'U\x03IN1q\x0bu}q\x0c(h\x05G?\xb9\x99\x99\x99\x99\x99\x9ah\x06'
        b'U\tEVENTRATEq\ru}q\x0e(h\x05U\x04x\x9c\xff\nq\x0fh\x06'
        b"U\x03TR1q\x10u}q\x11(h\x05U\x04it'sq\x12h\x06U\x06ERRMSGq\x13u}q\x14(h\x05"
        b'X\n\x00\x00\x00caf\xc3\xa9 \xe2\x82\xac\nq\x15h\x06U\nCFG_BUFFERq\x16u'
        b'}q\x17(h\x05Nh\x06U\x03PH2q\x18ueU\x06headerq\x19}q\x1a('
        b'U\x0bnanosecondsq\x1bJ\x15\xcd[\x07U\x08datetimeq\x1ccdatetime\ndatetime\n'
        b"q\x1dU\n\x07\xe1\x02\x1a\r'\x1e\n\x02\x80q\x1e\x85q\x1fRq "
        b'U\x14eventtype_uploadcodeq!U\x03CICq"uua.'
    ),
}

SCALARS = [
    np.bool_(True),
    np.int8(-(2**7)),
    np.int16(-(2**15)),
    np.int32(-(2**31)),
    np.int64(-(2**63)),
    np.uint8(2**8 - 1),
    np.uint16(2**16 - 1),
    np.uint32(2**32 - 1),
    np.uint64(2**64 - 1),
    np.float16(0.5),
    np.float32(1.1),
    np.float64(-1.1),
]


def event_with(*values):
    """Return an event list whose one event has these values."""
    return [
        {
            'header': {
                'eventtype_uploadcode': 'CIC',
                'datetime': datetime(2020, 2, 3, 4, 5, 6, 789),
                'nanoseconds': 123456789,
            },
            'datalist': [
                {'data_uploadcode': f'PH{n}', 'data': value}
                for n, value in enumerate(values)
            ],
        }
    ]


def values_of(event_list):
    (event,) = event_list
    return [entry['data'] for entry in event['datalist']]


def as_decoded(value):
    """Return what decoding makes of a value that was pickled."""
    if isinstance(value, bytes):
        return value.decode('latin-1')
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, datetime):
        return value.replace(fold=0)
    if isinstance(value, list):
        return [as_decoded(item) for item in value]
    if isinstance(value, dict):
        return {as_decoded(key): as_decoded(item) for key, item in value.items()}
    return value


def assert_same(decoded, expected):
    """Assert that values and types are the same: NaN is NaN, and True not 1."""
    assert repr(decoded) == repr(expected)


def assert_plain_event_list(decoded):
    """Assert that there is nothing but events of admitted types."""
    assert type(decoded) is list
    assert {type(event) for event in decoded} <= {dict}
    level = decoded
    for _ in range(6):
        assert {type(item) for item in level} <= PLAIN
        dicts = [item for item in level if type(item) is dict]
        assert {type(key) for item in dicts for key in item} <= {str}
        level = [
            *(inner for item in level if type(item) is list for inner in item),
            *(inner for item in dicts for inner in item.values()),
        ]
    assert not level


def load(pickled):
    """Return the event list, or None if it is refused; nothing else is raised."""
    try:
        decoded = load_event_list(pickled)
    except NotAnEventList:
        return None
    assert_plain_event_list(decoded)
    return decoded


# What stations send.


@pytest.mark.parametrize('pickled', PYTHON_2_PICKLES.values(), ids=PYTHON_2_PICKLES)
def test_event_of_python_2_is_decoded(pickled):
    assert_same(load_event_list(pickled), PYTHON_2_EVENTS)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_event_of_python_3_is_decoded(protocol):
    assert_same(
        load_event_list(pickle.dumps(PYTHON_2_EVENTS, protocol)), PYTHON_2_EVENTS
    )


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_event_pickled_by_pickle_py_is_decoded(protocol):
    pickled = pickle._dumps(PYTHON_2_EVENTS, protocol)
    assert_same(load_event_list(pickled), PYTHON_2_EVENTS)


@pytest.mark.recording
@pytest.mark.parametrize(
    'recording',
    [
        'py2event',
        'py3event',
        'py2_pysparc_config',
        'py2_s510_100events',
        'suspicious_event',
    ],
)
def test_recorded_upload_is_decoded_as_pickle_does(recording):
    pickled = (RECORDINGS / recording).read_bytes()
    decoded = load_event_list(pickled)
    assert_same(decoded, as_decoded(pickle.loads(pickled, encoding='latin-1')))
    assert_plain_event_list(decoded)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_empty_event_list_is_decoded(protocol):
    assert load_event_list(pickle.dumps([], protocol)) == []


@pytest.mark.parametrize(
    'value',
    [
        '',
        'a trace',
        'caf\xe9',
        '\u20ac \U0001f600',
        'line\r\nline\x00\x1a\\u0041',
        '\ud800',
        b'',
        b'a trace',
        bytes(range(256)),
        0,
        1,
        255,
        -1,
        2**15,
        -(2**31),
        2**31,
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        0.0,
        -0.0,
        1e-320,
        1.7976931348623157e308,
        float('inf'),
        float('-inf'),
        float('nan'),
        None,
        True,
        False,
        datetime(2020, 2, 3),
        datetime.min,
        datetime.max,
    ],
    ids=ascii,
)
def test_value_is_decoded(value):
    for protocol in PROTOCOLS:
        decoded = load_event_list(pickle.dumps(event_with(value), protocol))
        assert_same(decoded, event_with(as_decoded(value)))


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_repeated_time_at_the_end_of_summer_time_is_decoded(protocol):
    # Protocols 4 and 5 tell it from the first, in the top bit of the month.
    second = datetime(2020, 10, 25, 2, 30, fold=1)
    decoded = load_event_list(pickle.dumps(event_with(second), protocol))
    assert values_of(decoded) == [datetime(2020, 10, 25, 2, 30)]


@pytest.mark.parametrize(
    ('literal', 'number'),
    [
        (b'Fnan', float('nan')),
        (b'Finf', float('inf')),
        (b'F-inf', float('-inf')),
        (b'F-1.5e-07', -1.5e-07),
        (b'F1e+300', 1e300),
        (b'F2', 2.0),
        (b'I00', False),
        (b'I01', True),
        (b'I0', 0),
        (b'I1', 1),
        (b'I-9223372036854775808', -(2**63)),
        (b'L18446744073709551615L', 2**64 - 1),
        (b'L-1L', -1),
    ],
)
def test_number_written_by_python_2_is_decoded(literal, number):
    pickled = b"(lp1\n(dp2\nS'data'\np3\n" + literal + b'\nsa.'
    assert_same(load_event_list(pickled), [{'data': number}])


@pytest.mark.parametrize(
    ('literal', 'text'),
    [
        (b"''", ''),
        (b"'eJxt+/='", 'eJxt+/='),
        (b'"it\'s"', "it's"),
        (b'\'a "quote"\'', 'a "quote"'),
        (b"'it\\'s a \"quote\"'", 'it\'s a "quote"'),
        (b"'back\\\\slash'", 'back\\slash'),
        (b"'ends in one\\\\'", 'ends in one\\'),
        (b"'\\x00\\t\\n\\r\\x7f\\x80\\xff'", '\x00\t\n\r\x7f\x80\xff'),
    ],
)
def test_text_written_by_python_2_is_decoded(literal, text):
    pickled = b"(lp1\n(dp2\nS'data'\np3\nS" + literal + b'\np4\nsa.'
    assert_same(load_event_list(pickled), [{'data': text}])


@pytest.mark.parametrize('scalar', SCALARS, ids=lambda scalar: scalar.dtype.name)
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_scalar_of_numpy_is_decoded(scalar, protocol):
    decoded = load_event_list(pickle.dumps(event_with(scalar), protocol))
    assert_same(values_of(decoded), [scalar.item()])


@pytest.mark.parametrize('scalar', SCALARS, ids=lambda scalar: scalar.dtype.name)
@pytest.mark.parametrize('module', ['numpy.core', 'numpy._core'])
def test_scalar_of_an_older_or_newer_numpy_is_decoded(scalar, module):
    # numpy 2 renamed its core.
    pickled = pickle.dumps(event_with(scalar), 2)
    renamed, count = re.subn(rb'numpy\.\w+\.', f'{module}.'.encode(), pickled)
    assert count == 1
    assert_same(values_of(load_event_list(renamed)), [scalar.item()])


@pytest.mark.parametrize(
    ('code', 'order', 'encoded', 'number'),
    [
        (b'f8', b'<', b'\\x9a\\x99\\x99\\x99\\x99\\x99\\xb9?', 0.1),
        (b'f8', b'>', b'?\\xb9\\x99\\x99\\x99\\x99\\x99\\x9a', 0.1),
        (b'i4', b'<', b'\\xfe\\xff\\xff\\xff', -2),
        (b'i2', b'>', b'\\x01\\x02', 258),
        (b'u1', b'|', b'\\xff', 255),
        (b'b1', b'|', b'\\x01', True),
    ],
)
def test_scalar_of_numpy_on_python_2_is_decoded(code, order, encoded, number):
    pickled = (
        b"(lp1\n(dp2\nS'data'\np3\ncnumpy.core.multiarray\nscalar\np4\n(cnumpy\ndtype\n"
        b"p5\n(S'%s'\np6\nI0\nI1\ntp7\nRp8\n(I3\nS'%s'\np9\nNNNI-1\nI-1\nI0\ntp10\n"
        b"bS'%s'\np11\ntp12\nRp13\nsa."
    ) % (code, order, encoded)
    assert_same(load_event_list(pickled), [{'data': number}])


def test_scalars_that_share_a_dtype_are_decoded():
    scalars = [np.float32(0.5), np.float32(1.5), np.int16(3), np.float32(2.5)]
    decoded = load_event_list(pickle.dumps(event_with(*scalars)))
    assert_same(values_of(decoded), [0.5, 1.5, 3, 2.5])


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_events_that_share_objects_are_decoded(protocol):
    (event,) = event_with('shared', 'shared', b'shared', 10**12, 10**12)
    decoded = load_event_list(pickle.dumps([event] * 3, protocol))
    assert_same(decoded, [as_decoded(event)] * 3)


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('dumps', [pickle.dumps, pickle._dumps])
def test_five_hundred_events_are_decoded(protocol, dumps):
    # Five times what stations send at once; several frames, where there are.
    events = [
        event_with(*range(n, n + 27), *['eJx' * 300] * 4, 0.5)[0] for n in range(500)
    ]
    assert_same(load_event_list(dumps(events, protocol)), events)


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('dumps', [pickle.dumps, pickle._dumps])
def test_large_texts_are_decoded(protocol, dumps):
    # Beyond 64 KiB, text stands outside the frames.
    events = event_with('a' * 2**16, 'b' * 10**6, b'c' * 10**6, 'd', '\u20ac' * 10**5)
    assert_same(load_event_list(dumps(events, protocol)), as_decoded(events))


def test_keys_are_decoded_where_no_value_is():
    decoded = load_event_list(pickle.dumps([{b'header': {b'nanoseconds': 1}}]))
    assert_same(decoded, [{'header': {'nanoseconds': 1}}])


@pytest.mark.parametrize('call', hostile_pickles.CALLS)
def test_call_that_stations_make_is_decoded(call):
    # The hostile pickles call the same, but for what makes them hostile.
    pickled = hostile_pickles.event_list(b''.join(hostile_pickles.CALLS[call]))
    assert load(pickled) is not None


def test_values_are_decoded_inside_lists_and_dicts():
    nested = [{'datalist': [{b'data': [b'a', 1]}, {'data': {b'b': b'c'}}]}]
    decoded = load_event_list(pickle.dumps(nested))
    assert_same(decoded, [{'datalist': [{'data': ['a', 1]}, {'data': {'b': 'c'}}]}])


# Hypothesis: all that a station could send.

numbers = (
    st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=True)
    | st.sampled_from(SCALARS)
)
texts = st.text(st.characters(exclude_categories=())) | st.binary()
values = st.none() | st.booleans() | numbers | texts
datetimes = st.builds(
    lambda moment, fold: moment.replace(fold=fold), st.datetimes(), st.integers(0, 1)
)
headers = st.fixed_dictionaries(
    {
        'eventtype_uploadcode': texts,
        'datetime': datetimes,
        'nanoseconds': st.integers(0, 10**9 - 1),
    },
    optional={'date': texts, 'time': texts},
)
datalists = st.lists(st.fixed_dictionaries({'data_uploadcode': texts, 'data': values}))
events = st.fixed_dictionaries({'header': headers, 'datalist': datalists})
protocols = st.sampled_from(PROTOCOLS)
dumpers = st.sampled_from([pickle.dumps, pickle._dumps])


@settings(deadline=None)
@given(st.lists(events, max_size=5), protocols, dumpers)
def test_any_event_list_decodes_to_itself(event_list, protocol, dumps):
    decoded = load_event_list(dumps(event_list, protocol))
    assert_same(decoded, as_decoded(event_list))
    assert_plain_event_list(decoded)


# Whatever else is uploaded.


@pytest.fixture(scope='module')
def decoder():
    decoder = Decoder()
    yield decoder
    decoder.stop()


class Decoder:
    """Decodes hostile pickles in a process that may be killed for it."""

    def __init__(self):
        self.process = None

    def decode(self, attack):
        """Return what came of it, and what the refusal says."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, '-m', hostile_pickles.__name__],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        self.process.stdin.write(f'{attack}\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            status = self.stop()
            if status < 0:
                return f'killed by {signal.Signals(-status).name}', ''
            return f'exited {status}', ''
        return json.loads(answer)

    def stop(self):
        """End the process, if there is one, and return its status."""
        if self.process is None:
            return None
        with self.process:
            self.process.stdin.close()
            status = self.process.wait()
        self.process = None
        return status


@pytest.mark.parametrize('attack', hostile_pickles.ATTACKS)
def test_hostile_pickle_is_refused_and_leaves_nothing_behind(attack, decoder):
    outcome, said = decoder.decode(attack)
    assert outcome == 'refused'
    # It goes to a log, on a line of its own.
    assert len(said) <= 1000
    assert said.isprintable()


@pytest.mark.parametrize(
    'pickled',
    [
        *PYTHON_2_PICKLES.values(),
        *(pickle.dumps(event_with(0.5, 'a', b'b', *SCALARS), p) for p in PROTOCOLS),
    ],
    ids=[*PYTHON_2_PICKLES, *(f'python_3_protocol_{p}' for p in PROTOCOLS)],
)
def test_pickle_cut_short_anywhere_is_refused(pickled):
    for end in range(len(pickled)):
        with pytest.raises(NotAnEventList):
            load_event_list(pickled[:end])


@pytest.mark.parametrize(
    'behind',
    [b'r\xff\xff\x07\x00', b'cos\nsystem\n', b')R', pickle.dumps([{}])],
    ids=['memo', 'name', 'call', 'another pickle'],
)
def test_what_follows_a_pickle_is_neither_executed_nor_dropped(behind):
    with pytest.raises(NotAnEventList, match='goes on after'):
        load_event_list(pickle.dumps([], 2) + behind)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_station_may_send_a_thousand_events_and_a_long_text_at_once(protocol):
    events = Simulation(datetime(2020, 5, 17, 9), seed=1).take(1000)
    message = {'data_uploadcode': 'ERRMSG', 'data': 'x' * 50_000}
    events.append({'header': events[0]['header'], 'datalist': [message]})

    assert load_event_list(pickle.dumps(events, protocol)) == events


def encoded_twice(length):
    encode = b'c_codecs\nencode\nq\0X' + length.to_bytes(4, 'little') + b'x' * length
    encode += b'q\1U\6latin1q\2\x86R'
    return encode + b'h\0h\1h\2\x86R'


def test_long_text_is_not_encoded_twice():
    many = b'N' * 50_000
    with pytest.raises(NotAnEventList, match='not a list of events'):
        load_event_list(b'](' + encoded_twice(1000) + many + b'e.')
    with pytest.raises(NotAnEventList, match='again and again'):
        load_event_list(b'](' + encoded_twice(50_000) + many + b'e.')


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b'')
def test_any_bytes_decode_or_are_refused(uploaded):
    load(uploaded)


BASES = [
    *PYTHON_2_PICKLES.values(),
    *(pickle.dumps(event_with(*SCALARS, b'a', b'', 'b', 2**40), p) for p in PROTOCOLS),
    hostile_pickles.GOOD,
]
# All opcodes, with arguments of about the right length.
opcodes = st.builds(
    lambda opcode, argument: bytes([opcode]) + argument,
    st.sampled_from(
        b'()0.12BCFGIJKLMNPQRSTUVX]abcdeghijlopqrstu}' + bytes(range(128, 152))
    ),
    st.binary(max_size=9)
    | st.sampled_from(
        [b'os\nsystem\n', b'1\n', b"'a'\n", b'\x01\x00\x00\x00', bytes(8), b'\xff' * 8]
    ),
)


@st.composite
def mutants(draw):
    """A pickle that stations send, changed in a few places."""
    pickled = bytearray(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(pickled)))
        end = min(start + draw(st.integers(0, 12)), len(pickled))
        other = draw(st.sampled_from(BASES))
        match draw(st.sampled_from(['flip', 'delete', 'insert', 'splice', 'repeat'])):
            case 'flip' if start < len(pickled):
                pickled[start] ^= 1 << draw(st.integers(0, 7))
            case 'delete':
                del pickled[start:end]
            case 'insert':
                pickled[start:end] = draw(opcodes)
            case 'splice':
                cut = draw(st.integers(0, len(other)))
                pickled[start:] = other[cut:]
            case 'repeat':
                pickled[start:start] = pickled[start:end] * draw(st.integers(1, 9))
    return bytes(pickled)


@pytest.mark.filterwarnings('ignore:.*invalid.*escape:DeprecationWarning')
@settings(max_examples=1000, deadline=None)
@given(mutants())
def test_any_mutant_decodes_or_is_refused(mutant):
    load(mutant)


# Decoding of byte strings by itself.


@pytest.mark.parametrize(
    ('encoded', 'decoded'),
    [
        (b'', ''),
        (b'data', 'data'),
        (bytes(range(256)), ''.join(map(chr, range(256)))),
        ({b'key': b'value'}, {'key': 'value'}),
        ({'key': {b'inner': [b'a']}}, {'key': {'inner': ['a']}}),
        ({1: b'a', None: b'b'}, {1: 'a', None: 'b'}),
        ({(b'a', 1): b'b'}, {('a', 1): 'b'}),
        ([b'a', [b'b', (b'c',)]], ['a', ['b', ('c',)]]),
        ((b'a', {b'b': b'c'}), ('a', {'b': 'c'})),
        ([], []),
        ({}, {}),
        ((), ()),
    ],
    ids=ascii,
)
def test_byte_strings_are_decoded_wherever_they_are(encoded, decoded):
    assert_same(decode_object(encoded), decoded)


@pytest.mark.parametrize(
    'other',
    [
        'text',
        'caf\xe9',
        1,
        True,
        None,
        0.5,
        datetime(2020, 2, 3),
        bytearray(b'a'),
        {b'a'},
        np.float32(0.5),
    ],
    ids=repr,
)
def test_what_is_not_a_byte_string_is_left_as_it_is(other):
    assert decode_object(other) is other


def test_what_is_decoded_is_a_copy():
    uploaded = [{'datalist': [b'a']}]
    decode_object(uploaded)
    assert uploaded == [{'datalist': [b'a']}]


def test_ten_thousand_events_are_the_most():
    most = [{}] * 10_000
    assert load_event_list(pickle.dumps([dict(event) for event in most], 4)) == most
    with pytest.raises(NotAnEventList, match='over 10000 events'):
        load_event_list(pickle.dumps([{} for _ in range(10_001)], 4))


@pytest.mark.parametrize('protocol', range(6))
def test_text_of_four_mebibytes_is_the_longest(protocol):
    most = [{'header': 'x' * (4 * 2**20 - 100)}]
    assert load_event_list(pickle.dumps(most, protocol)) == most
    with pytest.raises(NotAnEventList, match='a text of over 4194304 bytes'):
        load_event_list(pickle.dumps([{'header': 'x' * (4 * 2**20 + 1)}], protocol))


@pytest.mark.parametrize(
    ('texts', 'values', 'is_taken'),
    [('x', 200, True), ('xy', 10, True), ('xy', 200, False)],
)
def test_two_long_texts_are_only_taken_among_few_values(texts, values, is_taken):
    events = event_with(*(text * 4 * 10**6 for text in texts), *range(values))
    pickled = pickle.dumps(events, 2)

    if is_taken:
        assert load_event_list(pickled) == events
    else:
        with pytest.raises(NotAnEventList, match='of 4000005 bytes among too many'):
            load_event_list(pickled)


def test_event_that_is_sent_a_thousand_times_by_reference_is_refused():
    # In the structure of stations, which is looked at in a way of its own.
    (event,) = event_with(*range(300))
    with pytest.raises(NotAnEventList, match='unfolds to more objects than it builds'):
        load_event_list(pickle.dumps([event] * 1000))


@pytest.mark.parametrize('where', ['value', 'upload code', 'key of the header'])
def test_text_that_is_shared_counts_each_time(where):
    (event,) = event_with(1)
    text = 'x' * 2**20
    entry = {'data_uploadcode': 'TR1', 'data': 1}
    if where == 'value':
        events = [event | {'datalist': [entry | {'data': text} for _ in range(33)]}]
    elif where == 'upload code':
        entry['data_uploadcode'] = text
        events = [event | {'datalist': [dict(entry) for _ in range(33)]}]
    else:
        events = [event | {'header': {text: n}, 'datalist': []} for n in range(33)]

    with pytest.raises(NotAnEventList, match='unfolds to over 17825792 characters'):
        load_event_list(pickle.dumps(events, 2))
