"""A batch comes out of its encoding exactly as it went in."""

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datastore.batch import (
    Batch,
    InvalidBatch,
    _decode_usual_shape,
    decode_batch,
    decode_identified,
    encode_batch,
    encode_series,
    salvage_batch,
)
from datastore.event import Event
from datastore.series import in_series
from datastore.upload_codes import EVENT_TYPES

INT64 = st.integers(-(2**63), 2**63 - 1)

# Any code point, for what stations send may hold half a surrogate pair.
text = st.text(st.characters(exclude_categories=[]), max_size=20)
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=True, allow_infinity=True),
    text,
)


@st.composite
def events(draw):
    codes = draw(st.lists(text, max_size=5, unique=True))
    return Event(
        draw(st.sampled_from(sorted(EVENT_TYPES))),
        draw(st.integers(-62135596800, 253402300799)),  # the years 1 to 9999
        draw(st.integers(0, 999_999)),
        draw(st.integers(-(2**63), 2**64 - 1)),
        tuple(codes),
        tuple(draw(values) for _ in codes),
    )


batches = st.builds(
    Batch,
    st.integers(0, 2**31 - 1),
    text,
    st.integers(0, 2**63),
    st.lists(events(), max_size=5).map(tuple),
)


def make_event(**values):
    return Event('CIC', 1_700_000_000, 0, 5, tuple(values), tuple(values.values()))


BATCH = Batch(510, 'Science Park', 1, (make_event(PH1=1, TR1='eJw'), make_event(PH1=2)))


@settings(deadline=None)
@given(batches)
@example(BATCH._replace(events=(make_event(TR1='\ud800'),)))
@example(BATCH._replace(events=(make_event(**{'\udfff': 1}),)))
def test_batch_of_any_values_comes_back_as_it_was(batch):
    # As text, for it tells True from 1 and -0.0 from 0, and nan from nothing.
    assert repr(decode_batch(encode_batch(batch))) == repr(batch)


def of_codes(number):
    return make_event(**{f'C{n}': n for n in range(number)})


# Where the announced length of a list in MessagePack takes more bytes.
@pytest.mark.parametrize('number', [0, 12, 13, 15, 16, 65532, 65533, 65535, 65536])
def test_identity_of_events_with_many_codes(number):
    events = (make_event(PH1=1), of_codes(number))

    _, (_, identity) = decode_identified(encode_batch(BATCH._replace(events=events)))

    assert identity == msgpack.packb(events[1])


@settings(deadline=None)
@given(batches)
@example(BATCH._replace(events=(make_event(TR1='\ud800'),)))
def test_identity_is_the_whole_event(batch):
    pack = msgpack.Packer(unicode_errors='surrogatepass').pack

    _, identities = decode_identified(encode_batch(batch))

    assert identities == [pack(event) for event in batch.events]


def test_events_keep_their_order():
    batch = BATCH._replace(
        events=tuple(make_event(**{code: n}) for n, code in enumerate('ABABBA'))
    )

    assert decode_batch(encode_batch(batch)) == batch


def test_series_with_the_same_codes_keep_the_order_of_events():
    events = tuple(make_event(A=n) for n in range(3))
    first, second = in_series(events[::2]) + in_series(events[1:2])
    series = [first._replace(places=[0, 2]), second._replace(places=[1])]

    assert decode_batch(encode_series(510, '', 1, series)).events == events


@pytest.mark.parametrize(
    'wrong',
    [
        pytest.param({'places': [0, 0]}, id='two events in one place'),
        pytest.param({'places': [0, 2]}, id='no event in a place'),
        pytest.param({'places': [0]}, id='an event without a place'),
        pytest.param({'timestamps': [1]}, id='an event without a time'),
        pytest.param({'columns': [(1,)]}, id='an event without a value'),
        pytest.param({'columns': [(1, 2, 3)]}, id='a value without an event'),
        pytest.param({'columns': []}, id='a code without values'),
        pytest.param({'columns': [(1, 2), (3, 4)]}, id='values without a code'),
    ],
)
def test_series_that_would_leave_out_an_event_are_refused(wrong):
    (series,) = in_series([make_event(A=1), make_event(A=2)])

    with pytest.raises((ValueError, IndexError)):
        encode_series(510, '', 1, [series._replace(**wrong)])


def test_batch_without_events_comes_back():
    assert decode_batch(encode_batch(BATCH._replace(events=()))).events == ()


def test_codes_and_types_that_events_share_are_written_once():
    batch = BATCH._replace(events=tuple(make_event(TRIGPATTERN=n) for n in range(100)))

    content = encode_batch(batch)

    assert content.count(b'TRIGPATTERN') == content.count(b'CIC') == 1


def test_same_codes_of_another_type_are_told_apart():
    event = make_event(A=1)
    batch = BATCH._replace(events=(event, event._replace(event_type='WTR')))

    assert decode_batch(encode_batch(batch)) == batch


def test_batch_truncated_at_any_byte_is_refused():
    content = encode_batch(BATCH)
    for end in range(len(content)):
        with pytest.raises(InvalidBatch):
            decode_batch(content[:end])


EVENT = msgpack.packb([1, 2, 3, 4])


@pytest.mark.parametrize(
    'content',
    [
        pytest.param(b'', id='nothing'),
        pytest.param(b'\xc1', id='not MessagePack'),
        pytest.param(encode_batch(BATCH) + b'\0', id='one byte more'),
        pytest.param(encode_batch(BATCH) * 2, id='two batches'),
        pytest.param(b'{"station": 510}', id='JSON'),
        pytest.param(msgpack.packb(None), id='None'),
        pytest.param(msgpack.packb([510, 'x', 1, []]), id='four fields'),
        pytest.param(msgpack.packb([510, 'x', 1, [], [], []]), id='six fields'),
        pytest.param(msgpack.packb([510, 'x', 1, [], 7]), id='events a number'),
        pytest.param(msgpack.packb([510, 'x', 1, [], [7]]), id='event a number'),
        pytest.param(msgpack.packb([510, 'x', 1, [], [[0, EVENT]]]), id='no codes'),
        pytest.param(msgpack.packb([510, 'x', 1, [[]], [[0, EVENT]]]), id='no type'),
        pytest.param(
            msgpack.packb([510, 'x', 1, [['CIC', 'A', 'B']], [[0, EVENT]]]),
            id='more codes than values',
        ),
        pytest.param(
            msgpack.packb([510, 'x', 1, [['CIC']], [[0, EVENT]]]),
            id='more values than codes',
        ),
        pytest.param(
            msgpack.packb([510, 'x', 1, [['CIC']], [[0, msgpack.packb([1, 2])]]]),
            id='no nanoseconds',
        ),
        pytest.param(
            msgpack.packb([510, 'x', 1, [['CIC', 'A']], [[0, EVENT[:-1]]]]),
            id='torn event',
        ),
        pytest.param(b'\x91' * 10_000, id='nested deep'),
    ],
)
def test_bytes_that_are_no_batch_are_refused(content):
    with pytest.raises(InvalidBatch):
        decode_batch(content)


FOREIGN = {
    'shapes in a map': [510, 'A', 1, {0: ['CIC']}, []],
    'shape of no type': [510, 'A', 1, [[]], []],
    'event type of another table': [510, 'A', 1, [['XYZ']], []],
    'station as text': ['510', 'A', 1, [], []],
    'station that is none': [None, 'A', 1, [], []],
    'cluster as a number': [510, 7, 1, [], []],
    'time of arrival as text': [510, 'A', 'x', [], []],
    'shape that is not there': [510, 'A', 1, [['LNS']], [[1, b'\x93\x00\x00\x00']]],
    'shape counted from the end': [
        510, 'A', 1, [['LNS']], [[-1, b'\x93\x00\x00\x00']],
    ],
    'time as text': [510, 'A', 1, [['LNS']], [[0, b'\x93\xa1a\x00\x00']]],
    'time before the year 1': [
        510, 'A', 1, [['LNS']], [[0, msgpack.packb([-62135596801, 0, 0])]],
    ],
    'time after the year 9999': [
        510, 'A', 1, [['LNS']], [[0, msgpack.packb([253402300800, 0, 0])]],
    ],
    'upload code as a number': [510, 'A', 1, [['CIC', 5]], []],
}  # fmt: skip


@pytest.mark.parametrize('content', FOREIGN.values(), ids=FOREIGN.keys())
def test_what_no_endpoint_has_encoded_is_no_batch(content):
    with pytest.raises(InvalidBatch):
        decode_batch(msgpack.packb(content))


@pytest.mark.parametrize('timestamp', [-62135596800, 253402300799])
def test_first_and_last_second_that_have_a_date_come_back(timestamp):
    batch = BATCH._replace(events=(BATCH.events[0]._replace(timestamp=timestamp),))

    assert decode_batch(encode_batch(batch)) == batch


def test_upload_codes_of_large_batches_do_not_stay_in_memory():
    remembered = _decode_usual_shape.cache_info
    _decode_usual_shape.cache_clear()

    decode_batch(encode_batch(BATCH._replace(events=(make_event(**{'A' * 16384: 1}),))))
    assert remembered().currsize == 0

    decode_batch(encode_batch(BATCH))
    assert remembered().currsize > 0


# What can be read of a damaged one.


def test_batch_cut_anywhere_gives_the_events_before_the_cut():
    encoded = encode_batch(BATCH)
    found = []
    for end in range(len(encoded) + 1):
        batch, announced = salvage_batch(encoded[:end])
        if batch is not None:
            assert announced == 2
            assert batch == BATCH._replace(events=BATCH.events[: len(batch.events)])
        found.append(-1 if batch is None else len(batch.events))

    assert found == sorted(found)
    assert set(found) == {-1, 0, 1, 2}


@settings(deadline=None)
@given(st.binary(max_size=60) | st.integers(0, 10**6))
def test_anything_can_be_looked_at_for_events(content):
    if isinstance(content, int):  # a batch with one byte changed
        position, byte = divmod(content, 256)
        damaged = bytearray(encode_batch(BATCH))
        damaged[position % len(damaged)] = byte
        content = bytes(damaged)

    batch, announced = salvage_batch(content)

    assert batch is None or len(batch.events) <= announced
