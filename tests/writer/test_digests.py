"""Events that were sent before are recognised, and only those."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import event_digests

from datastore.event import Event, parse_event
from writer.digests import DIGEST_SIZE, DigestIndex

EVENT = Event(
    'CIC',
    1_580_702_706,
    656_000,
    123_456_789,
    ('RED', 'PH1', 'EVENTRATE', 'TR1', 'X'),
    (True, 345, 0.5, 'eJwz', None),
)


def digest_of(event):
    (digest,) = event_digests([event])
    return digest


def with_value(code, value):
    values = dict(zip(EVENT.codes, EVENT.values)) | {code: value}
    return EVENT._replace(values=tuple(values.values()))


def test_event_sent_again_has_the_same_digest(make_event):
    uploaded = make_event(RED=True, PH1=-7, IN1=2**40, EVENTRATE=0.1, TR1='eJwz\xff')
    again = pickle.loads(pickle.dumps(uploaded, 0))

    assert digest_of(parse_event(again)) == digest_of(parse_event(uploaded))


def test_event_has_the_same_digest_in_another_batch():
    other = EVENT._replace(timestamp=0, codes=(), values=())

    _, digest = event_digests([other, EVENT])

    assert digest == digest_of(EVENT)


def test_digest_does_not_change_between_versions():
    # Files hold digests of years ago: another digest stores events twice.
    event = Event('CIC', 1_580_702_706, 0, 7, ('PH1', 'TR1'), (345, 'eJwz'))

    assert digest_of(event).hex() == '693e36666c45cbae1969'


@pytest.mark.parametrize(
    'other',
    [
        EVENT._replace(event_type='CMP'),
        EVENT._replace(timestamp=EVENT.timestamp + 1),
        EVENT._replace(microseconds=656_001),
        EVENT._replace(nanoseconds=123_456_788),
        with_value('RED', False),
        with_value('PH1', 346),
        with_value('PH1', '345'),
        with_value('EVENTRATE', 0.5000000000000001),
        with_value('EVENTRATE', None),
        with_value('TR1', 'eJwZ'),
        with_value('X', ''),
        EVENT._replace(codes=('RED', 'PH2', 'EVENTRATE', 'TR1', 'X')),
        EVENT._replace(codes=EVENT.codes[:-1], values=EVENT.values[:-1]),
    ],
    ids=[
        'type',
        'time',
        'microseconds',
        'nanoseconds',
        'bool',
        'integer',
        'text for a number',
        'last bit of a float',
        'nothing for a number',
        'case of a trace',
        'empty text for nothing',
        'upload code',
        'one value less',
    ],
)
def test_event_that_differs_has_another_digest(other):
    assert digest_of(other) != digest_of(EVENT)


def test_digest_of_text_that_is_not_unicode():
    one, other = with_value('TR1', '\udc80'), with_value('TR1', '\udc81')

    assert digest_of(one) != digest_of(other)


# Few heads and few tails, so that many digests share one of them.
HEADS = st.sampled_from([bytes(8), b'\1' + bytes(7), bytes(7) + b'\1', b'\xff' * 8])
TAILS = st.sampled_from([bytes(2), b'\0\1', b'\1\0', b'\xff\xff'])
DIGESTS = st.sets(st.builds(bytes.__add__, HEADS, TAILS))


def index_of(digests):
    joined = np.frombuffer(b''.join(digests), dtype='u1')
    return DigestIndex(joined.reshape(-1, DIGEST_SIZE))


@given(DIGESTS, DIGESTS, DIGESTS)
@settings(deadline=None)
def test_index_holds_what_a_set_would(stored, added, asked):
    index = index_of(stored)
    index.add(added - stored)

    assert len(index) == len(stored | added)
    for digest in stored | added | asked:
        assert (digest in index) == (digest in stored | added)
    everything = sorted(stored | added | asked)
    assert index.lacks(everything) == [d not in stored | added for d in everything]


@pytest.mark.parametrize('at_once', [1, 10_000], ids=['one by one', 'at once'])
def test_index_holds_as_many_as_are_added(at_once):
    digests = [number.to_bytes(DIGEST_SIZE, 'big') for number in range(20_000)]
    stored, others = digests[::2], digests[1::2]
    index = index_of(stored[:100])

    for start in range(100, len(stored), at_once):
        index.add(stored[start : start + at_once])

    assert len(index) == len(stored)
    assert all(digest in index for digest in stored)
    assert not any(digest in index for digest in others)
