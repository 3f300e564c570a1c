"""What Python 2 stations pickle is read from the text, as unpickling reads it."""

import random
import re
from datetime import datetime
from typing import Any

import pytest
from support import RECORDINGS, events_of

from datastore.event import Event, InvalidEvent, parse_event
from datastore.python2 import in_python_2_order, pickled_as_python_2
from datastore.simulation import Simulation
from wsgi.protocol0 import EventReader
from wsgi.rcodes import NotAnEventList
from wsgi.unpickle import load_event_list

EVENTS = Simulation(datetime(2020, 5, 17, 9, 30), seed=1).take(60)


def read_by(reader: EventReader, pickled: bytes) -> list[Event] | None:
    """Return the events as the reader reads them; None if it does not."""
    series = reader.read(pickled)
    return None if series is None else events_of(series)


def unpickled(pickled: bytes) -> list[Event] | None:
    """Return the events as unpickling reads them; None if it refuses or flags any."""
    try:
        event_list = load_event_list(pickled)
        return [parse_event(event) for event in event_list]
    except (NotAnEventList, InvalidEvent):
        return None


def with_other_orders(event: dict[str, Any]) -> dict[str, Any]:
    return {
        'datalist': [dict(reversed(entry.items())) for entry in event['datalist']],
        'header': dict(reversed(event['header'].items())),
    }


@pytest.mark.parametrize('arrange', [in_python_2_order, with_other_orders])
def test_a_batch_is_read_as_unpickling_reads_it(arrange):
    pickled = pickled_as_python_2([arrange(event) for event in EVENTS])

    events = read_by(EventReader(), pickled)

    assert events is not None
    assert events == unpickled(pickled)
    assert repr(events) == repr(unpickled(pickled))  # types of numbers as well


@pytest.mark.recording
def test_a_recorded_batch_is_read_as_unpickling_reads_it():
    pickled = (RECORDINGS / 'py2_s510_100events').read_bytes()

    events = read_by(EventReader(), pickled)

    assert events is not None
    assert repr(events) == repr(unpickled(pickled))


VALUES = [
    None,
    True,
    False,
    0,
    -7,
    10**17,
    -(10**17),
    0.1,
    -1e300,
    5e-324,
    '',
    'x' * 1000,
]


def test_values_of_every_kind_are_read():
    entries = [
        {'data_uploadcode': f'X{number}', 'data': value}
        for number, value in enumerate(VALUES)
    ]
    pickled = pickled_as_python_2(
        [{**in_python_2_order(EVENTS[0]), 'datalist': entries}]
    )

    events = read_by(EventReader(), pickled)

    assert events is not None
    assert repr(events[0].values) == repr(tuple(VALUES))


@pytest.mark.parametrize(
    'unusual',
    [
        {'data_uploadcode': 'PH1', 'data': 10**18},
        {'data_uploadcode': 'PH1', 'data': 'a\tb'},
        {'data_uploadcode': 'PH1', 'data': float('inf')},
        {'data_uploadcode': 'PH1', 'data': "it's"},
        {'data_uploadcode': 'PH1', 'data': 'two\nlines'},
        {'data_uploadcode': 'PH1', 'data': 'back\\slash'},
        {'data_uploadcode': 'PH1', 'data': 'x' * 1001},
        {'data_uploadcode': 'PH1', 'data': []},
        {'data_uploadcode': 'PH1', 'data': 5, 'more': 1},
        {'data_uploadcode': 'not a code', 'data': 5},
        {'data_uploadcode': 5, 'data': 5},
        {'data': 5},
    ],
    ids=repr,
)
def test_an_unusual_entry_is_left_to_the_unpickler(unusual):
    event = in_python_2_order(EVENTS[0])
    pickled = pickled_as_python_2(
        [event, {**event, 'datalist': [*event['datalist'][:2], unusual]}]
    )

    assert read_by(EventReader(), pickled) is None


@pytest.mark.parametrize(
    'change',
    [
        {'eventtype_uploadcode': 'XYZ'},
        {'nanoseconds': -1},
        {'nanoseconds': 0.5},
        {'datetime': '2020-05-17'},
        {'date': 'yesterday'},
        {'extra': 1},
    ],
    ids=repr,
)
def test_an_unusual_header_is_left_to_the_unpickler(change):
    event = in_python_2_order(EVENTS[0])
    pickled = pickled_as_python_2([{**event, 'header': event['header'] | change}])

    assert read_by(EventReader(), pickled) is None


def test_an_upload_code_that_is_sent_twice_is_left_to_the_unpickler():
    event = in_python_2_order(EVENTS[0])
    twice = {**event, 'datalist': event['datalist'][:1] * 2}

    assert EventReader().read(pickled_as_python_2([twice])) is None


@pytest.mark.parametrize('minute', [39, 34, 92 // 2, 10, 13])
def test_times_whose_bytes_are_quotes_or_ends_of_lines_are_read(minute):
    moment = datetime(2020, 5, 17, 9, minute, 10, 0x22_27_5C % 10**6)
    event = in_python_2_order(EVENTS[0])
    pickled = pickled_as_python_2(
        [{**event, 'header': event['header'] | {'datetime': moment}}]
    )

    events = read_by(EventReader(), pickled)

    assert events is not None
    assert events == unpickled(pickled)


def with_state(quoted: bytes) -> bytes:
    """Return the pickle of an event, the state of its datetime written thus."""
    pickled = pickled_as_python_2([in_python_2_order(EVENTS[0])])
    changed, count = re.subn(
        rb'(?<=\n\(S)[^\n]{12,42}(?=\n)', lambda _: quoted, pickled
    )
    assert count == 1
    return changed


def test_last_microsecond_of_a_day_is_read():
    pickled = with_state(rb"'\x07\xe4\x05\x11\x17\x3b\x3b\x0f\x42\x3f'")

    assert read_by(EventReader(), pickled) == unpickled(pickled) != []


@pytest.mark.parametrize(
    'state',
    [
        pytest.param(rb'\x07\xe4\x05\x11\x18\x00\x00\x00\x00\x00', id='hour 24'),
        pytest.param(rb'\x07\xe4\x05\x11\xff\x00\x00\x00\x00\x00', id='hour 255'),
        pytest.param(rb'\x07\xe4\x05\x11\x00\x3c\x00\x00\x00\x00', id='minute 60'),
        pytest.param(rb'\x07\xe4\x05\x11\x00\x00\x3c\x00\x00\x00', id='second 60'),
        pytest.param(
            rb'\x07\xe4\x05\x11\x00\x00\x00\x0f\x42\x40', id='microsecond 1000000'
        ),
        pytest.param(rb'\x07\xe4\x0d\x11\x00\x00\x00\x00\x00\x00', id='month 13'),
    ],
)
def test_a_time_that_is_on_no_clock_is_left_to_the_unpickler(state):
    pickled = with_state(b"'%b'" % state)

    assert read_by(EventReader(), pickled) is unpickled(pickled) is None


@pytest.mark.parametrize('quotes', ['xx', '\'"', '"\'', "x'", "'x"])
def test_a_time_that_is_not_quoted_is_left_to_the_unpickler(quotes):
    first, last = quotes.encode()
    state = rb'\x07\xe4\x05\x11\x09\x1e\x00\x00\x00\x00'
    pickled = with_state(b'%c%b%c' % (first, state, last))

    assert read_by(EventReader(), pickled) is unpickled(pickled) is None


@pytest.mark.parametrize('end', [b'', b'N', b'..'])
def test_an_upload_that_does_not_end_as_pickles_do_is_not_read(end):
    pickled = pickled_as_python_2([in_python_2_order(EVENTS[0])])

    assert EventReader().read(pickled) is not None
    assert EventReader().read(pickled[:-1] + end) is None


@pytest.mark.parametrize(('entries', 'is_read'), [(100, True), (101, False)])
def test_an_event_of_more_entries_than_any_has_is_left_to_the_unpickler(
    entries, is_read
):
    datalist = [{'data_uploadcode': f'X{n}', 'data': n} for n in range(entries)]
    event = {**in_python_2_order(EVENTS[0]), 'datalist': datalist}
    pickled = pickled_as_python_2([event])

    assert (EventReader().read(pickled) is not None) == is_read


def test_a_type_of_another_event_with_these_upload_codes_is_seen():
    event = in_python_2_order(EVENTS[0])
    other = {**event, 'header': event['header'] | {'eventtype_uploadcode': 'ERR'}}
    pickled = pickled_as_python_2([event, other])

    events = read_by(EventReader(), pickled)

    assert events is not None
    assert events == unpickled(pickled)


def test_more_shapes_than_are_kept_are_read_all_the_same():
    reader = EventReader()
    event = in_python_2_order(EVENTS[0])
    for number in range(100):
        entry = {'data_uploadcode': f'X{number}', 'data': number}
        pickled = pickled_as_python_2([{**event, 'datalist': [entry]}])
        assert read_by(reader, pickled) == unpickled(pickled)
    assert len(reader._shapes) == 64


def test_an_upload_of_ever_new_shapes_is_left_to_the_unpickler():
    event = in_python_2_order(EVENTS[0])
    upload = [
        {**event, 'datalist': [{'data_uploadcode': f'X{number}', 'data': number}]}
        for number in range(10)
    ]

    assert EventReader().read(pickled_as_python_2(upload)) is None


@pytest.mark.parametrize(
    ('event', 'found', 'replacement'),
    [
        pytest.param(
            0, rb'cdatetime\ndatetime\np[0-9]+', b'g9', id='the first uses it'
        ),
        pytest.param(
            1, rb'g[0-9]+\n(?=\(S)', b'g9\n', id='another uses another number'
        ),
        pytest.param(
            1,
            rb'g[0-9]+\n(?=\(S)',
            b'cdatetime\ndatetime\np999\n',
            id='another gives another number',
        ),
    ],
)
def test_another_numbering_of_datetime_is_left_to_the_unpickler(
    event, found, replacement
):
    pickled = pickled_as_python_2([in_python_2_order(event) for event in EVENTS[:2]])
    starts = [
        match.start() for match in re.finditer(rb'cdatetime|g[0-9]+\n\(S', pickled)
    ]
    changed = pickled[: starts[event]] + re.sub(
        found, replacement, pickled[starts[event] :], count=1
    )
    assert changed != pickled

    assert read_by(EventReader(), pickled) is not None
    assert read_by(EventReader(), changed) is None


def test_an_upload_that_is_too_large_to_unpickle_is_not_read_either():
    codes = [f'{number:02}' for number in range(100)]
    event = in_python_2_order(EVENTS[0])
    event['datalist'] = [{'data': 0, 'data_uploadcode': code} for code in codes]
    small, large = (pickled_as_python_2([event] * number) for number in (50, 500))

    assert read_by(EventReader(), small) == unpickled(small)
    assert read_by(EventReader(), small) is not None
    assert unpickled(large) is None
    assert read_by(EventReader(), large) is None


def numbered_twice(pickled: bytes) -> bool:
    numbers = re.findall(rb'p([0-9]+)\n', pickled)
    return len(set(map(int, numbers))) < len(numbers)


def mutant(pickled: bytes, randomly: random.Random) -> bytes:
    """Return the bytes with a few changes at random places."""
    changed = bytearray(pickled)
    for _ in range(randomly.randint(1, 3)):
        place = randomly.randrange(len(changed))
        match randomly.randrange(5):
            case 0:
                changed[place] = randomly.randrange(256)
            case 1:
                del changed[place : place + randomly.choice([1, 2, 20])]
            case 2:
                fragments = [
                    b"'",
                    b'\n',
                    b'\\',
                    b'0',
                    b'-',
                    b'e',
                    b'sa',
                    b'g5\n',
                    b'I1\n',
                ]
                changed[place:place] = randomly.choice(fragments)
            case 3:
                start = randomly.randrange(len(changed))
                changed[place:place] = changed[start : start + randomly.randrange(60)]
            case 4:
                lines = bytes(changed).split(b'\n')
                line = randomly.randrange(len(lines))
                lines[line] = randomly.choice(lines)
                changed = bytearray(b'\n'.join(lines))
    return bytes(changed)


@pytest.mark.filterwarnings('ignore:invalid escape sequence')
def test_whatever_is_read_of_a_damaged_upload_is_what_unpickling_reads():
    randomly = random.Random(1)
    seeds = [
        pickled_as_python_2([arrange(event) for event in EVENTS[:2]])
        for arrange in (in_python_2_order, with_other_orders)
    ]
    reader = EventReader()
    read = 0
    for _ in range(2000):
        pickled = mutant(randomly.choice(seeds), randomly)
        events = read_by(reader, pickled)
        if events is not None and not numbered_twice(pickled):
            read += 1
            assert repr(events) == repr(unpickled(pickled)), pickled
    assert read > 100
