"""What a station uploads is an `Event`, or it is said what is wrong with it."""

import calendar
from datetime import date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastore.event import Event, InvalidEvent, parse_event
from datastore.upload_codes import EVENT_TYPES

MOMENT = datetime(2024, 5, 3, 12, 30, 59)
WITH_NANOSECONDS = ['CIC', 'CMP']


class MyInt(int):
    """A number that is not exactly an int."""


class MyDatetime(datetime):
    """A moment that is not exactly a datetime."""


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=10),
)


@st.composite
def events(draw):
    moment = draw(st.datetimes())
    codes = draw(st.lists(st.text(max_size=5), max_size=5, unique=True))
    return Event(
        draw(st.sampled_from(sorted(EVENT_TYPES))),
        calendar.timegm(moment.timetuple()),
        moment.microsecond,
        draw(st.integers(-(2**63), 2**64 - 1)),
        tuple(codes),
        tuple(draw(values) for _ in codes),
    )


def uploaded(datalist=(), **header):
    """Return an event as it is uploaded, with what is given in its header."""
    full = {'eventtype_uploadcode': 'CIC', 'datetime': MOMENT, 'nanoseconds': 5}
    return {'header': full | header, 'datalist': list(datalist)}


def entry(code='PH1', value=1):
    return {'data_uploadcode': code, 'data': value}


def without(*path):
    """Return an uploaded event in which something is missing."""
    event = uploaded([entry()])
    inner = event
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return event


@settings(deadline=None)
@given(events())
def test_event_is_parsed_from_the_form_it_is_uploaded_in(event):
    assert parse_event(event.as_uploaded()) == event


def test_event_knows_who_it_is_when_it_was_and_its_values(make_event):
    moment = datetime(1970, 1, 2, 0, 0, 1, 250_000)

    event = parse_event(make_event('CIC', moment, 7, PH1=12, TR1='eJw', RED=True))

    assert event == Event(
        'CIC', 86401, 250_000, 7, ('PH1', 'TR1', 'RED'), (12, 'eJw', True)
    )


@pytest.mark.parametrize('event_type', EVENT_TYPES)
def test_every_event_type_of_the_archive_is_known(event_type):
    assert parse_event(uploaded(eventtype_uploadcode=event_type)).event_type == (
        event_type
    )


@pytest.mark.parametrize(
    'moment',
    [
        datetime(1, 1, 1),
        datetime(1969, 12, 31, 23, 59, 59),
        datetime(1969, 12, 31, 23, 59, 59, 999_999),
        datetime(1970, 1, 1),
        datetime(2016, 12, 31, 23, 59, 59),
        datetime(2038, 1, 19, 3, 14, 8),
        datetime.max,
    ],
    ids=str,
)
def test_timestamp_counts_whole_seconds_as_if_utc(moment):
    event = parse_event(uploaded(datetime=moment))

    assert event.timestamp == calendar.timegm(moment.timetuple())
    assert event.microseconds == moment.microsecond
    assert event.as_uploaded()['header']['datetime'] == moment


def test_what_else_a_header_and_an_event_hold_is_not_looked_at():
    event = uploaded(date='not a date', time=None)
    event['extra'] = [entry()]

    assert parse_event(event) == parse_event(uploaded())


def test_what_else_an_entry_holds_is_not_looked_at():
    event = uploaded([entry('PH1', 1) | {'unit': 'mV'}])

    assert parse_event(event) == parse_event(uploaded([entry('PH1', 1)]))


def test_upload_codes_are_not_judged_here():
    event = parse_event(uploaded([entry('no such code', 1), entry('', 2)]))

    assert event.codes == ('no such code', '')


@pytest.mark.parametrize('event_type', sorted(EVENT_TYPES.keys() - WITH_NANOSECONDS))
@pytest.mark.parametrize('header', [{'nanoseconds': None}, {}], ids=['None', 'missing'])
def test_nanoseconds_may_be_missing_where_none_are_stored(event_type, header):
    event = without('header', 'nanoseconds')
    event['header'] |= header | {'eventtype_uploadcode': event_type}

    assert parse_event(event).nanoseconds == 0


@pytest.mark.parametrize(
    'value',
    [None, True, -(2**63), 2**64 - 1, 1.5, float('inf'), '', 'text', '\ud800'],
    ids=ascii,
)
def test_numbers_text_and_nothing_are_values(value):
    (parsed,) = parse_event(uploaded([entry('A', value)])).values

    assert parsed is value


@pytest.mark.parametrize(
    ('event', 'complaint'),
    [
        pytest.param([], 'the event is not a dict', id='event a list'),
        pytest.param(None, 'the event is not a dict', id='event None'),
        pytest.param({}, 'no header', id='empty event'),
        pytest.param(without('header'), 'no header', id='no header'),
        pytest.param({'header': []}, 'no header', id='header a list'),
        pytest.param(without('datalist'), 'no datalist', id='no datalist'),
        pytest.param(
            uploaded() | {'datalist': {}}, 'no datalist', id='datalist a dict'
        ),
        pytest.param(
            without('header', 'eventtype_uploadcode'),
            'unknown event type None',
            id='no event type',
        ),
        pytest.param(
            uploaded(eventtype_uploadcode='XYZ'),
            "unknown event type 'XYZ'",
            id='unknown event type',
        ),
        pytest.param(
            uploaded(eventtype_uploadcode='cic'),
            "unknown event type 'cic'",
            id='event type in lower case',
        ),
        pytest.param(
            uploaded(eventtype_uploadcode=['CIC']),
            r"unknown event type \['CIC'\]",
            id='event type a list',
        ),
        pytest.param(
            without('header', 'datetime'), 'datetime is None', id='no datetime'
        ),
        pytest.param(
            uploaded(datetime='2024-05-03 12:30:59'),
            "datetime is '2024-05-03 12:30:59'",
            id='datetime as text',
        ),
        pytest.param(uploaded(datetime=1), 'datetime is 1', id='datetime a number'),
        pytest.param(
            uploaded(datetime=date(2024, 5, 3)), 'datetime is', id='datetime a date'
        ),
        pytest.param(
            uploaded(datetime=MOMENT.replace(tzinfo=timezone.utc)),
            'datetime is',
            id='datetime of a time zone',
        ),
        pytest.param(
            uploaded(datetime=MyDatetime(2024, 5, 3)),
            'datetime is',
            id='datetime of a class of its own',
        ),
        pytest.param(
            without('header', 'nanoseconds'),
            'nanoseconds are None',
            id='no nanoseconds',
        ),
        pytest.param(
            uploaded(nanoseconds='5'), "nanoseconds are '5'", id='nanoseconds as text'
        ),
        pytest.param(
            uploaded(nanoseconds=5.0), r'nanoseconds are 5\.0', id='nanoseconds a float'
        ),
        pytest.param(
            uploaded(nanoseconds=True), 'nanoseconds are True', id='nanoseconds a bool'
        ),
        pytest.param(
            uploaded(nanoseconds=2**64), 'nanoseconds are 1844', id='nanoseconds 2^64'
        ),
        pytest.param(
            uploaded(eventtype_uploadcode='WTR', nanoseconds='5'),
            "nanoseconds are '5'",
            id='nanoseconds as text where none are stored',
        ),
        pytest.param(uploaded([7]), 'entry without', id='entry a number'),
        pytest.param(uploaded(['PH1']), 'entry without', id='entry text'),
        pytest.param(uploaded([['PH1', 1]]), 'entry without', id='entry a list'),
        pytest.param(
            without('datalist', 0, 'data'), 'entry without', id='entry without data'
        ),
        pytest.param(
            without('datalist', 0, 'data_uploadcode'),
            'entry without',
            id='entry without upload code',
        ),
        pytest.param(
            uploaded([entry(1)]), 'code that is not text', id='upload code a number'
        ),
        pytest.param(
            uploaded([entry(['PH1'])]), 'code that is not text', id='upload code a list'
        ),
        pytest.param(
            uploaded([entry('PH1', 1), entry('PH2', 1), entry('PH2', 1)]),
            "'PH2' is sent more than once",
            id='upload code twice',
        ),
        pytest.param(
            uploaded([entry('PH1', [1])]), "'PH1' is neither", id='value a list'
        ),
        pytest.param(
            uploaded([entry('PH1', b'1')]), "'PH1' is neither", id='value bytes'
        ),
        pytest.param(
            uploaded([entry('PH1', MOMENT)]), "'PH1' is neither", id='value a datetime'
        ),
        pytest.param(
            uploaded([entry('PH1', MyInt(1))]),
            "'PH1' is neither",
            id='value of a class of its own',
        ),
        pytest.param(
            uploaded([entry('PH1', 2**64)]), "'PH1' is too large", id='value 2^64'
        ),
        pytest.param(
            uploaded([entry('PH1', -(2**63) - 1)]),
            "'PH1' is too large",
            id='value below -2^63',
        ),
    ],
)
def test_what_is_not_an_event_is_named(event, complaint):
    with pytest.raises(InvalidEvent, match=complaint):
        parse_event(event)


LONG = 'x' * 10_000


@pytest.mark.parametrize(
    'event',
    [
        pytest.param(uploaded(eventtype_uploadcode=LONG), id='event type'),
        pytest.param(uploaded(datetime=LONG), id='datetime'),
        pytest.param(uploaded(nanoseconds=LONG), id='nanoseconds'),
        pytest.param(uploaded([entry(LONG), entry(LONG)]), id='upload code twice'),
        pytest.param(uploaded([entry(LONG, [])]), id='value of no type'),
        pytest.param(uploaded([entry(LONG, 2**99)]), id='value too large'),
    ],
)
def test_complaints_are_short_however_long_the_text_is(event):
    with pytest.raises(InvalidEvent) as error_info:
        parse_event(event)

    assert len(str(error_info.value)) < 100


def test_fold_of_a_repeated_hour_tells_no_events_apart():
    folded = MOMENT.replace(fold=1)

    assert parse_event(uploaded(datetime=folded)) == parse_event(uploaded())


def test_microseconds_tell_events_apart():
    later = MOMENT + timedelta(microseconds=1)

    assert parse_event(uploaded(datetime=later)) != parse_event(uploaded())
