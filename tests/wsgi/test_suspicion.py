"""Events of a wrong time, or of no form, are suspicious, each for its reasons."""

from datetime import date, datetime, timedelta

import pytest

from datastore.config import read_config
from datastore.event import EPOCH, parse_event
from datastore.series import in_series
from datastore.suspicious import Flagged
from wsgi.suspicion import (
    COLD_START_DATES,
    Limits,
    are_good,
    limits,
    reasons,
    sort_out,
)

EARLIEST = datetime(2016, 1, 1)
LATEST = datetime(2024, 5, 3, 12)
SECOND = timedelta(seconds=1)


def since_epoch(moment):
    return (moment - EPOCH) // SECOND


LIMITS = Limits(since_epoch(EARLIEST), since_epoch(LATEST))
ALWAYS = Limits(since_epoch(datetime(1, 1, 1)), since_epoch(datetime(9999, 1, 1)))


@pytest.fixture
def reasons_of(make_event):
    """Return why an event of this header is suspicious."""

    def reasons_of(*, limits=LIMITS, **header):
        event = parse_event(make_event(**header))
        found = reasons(event.timestamp, event.nanoseconds, limits)
        assert are_good(in_series([event])[0], limits) == (not found)
        return found

    return reasons_of


@pytest.mark.parametrize(
    'moment',
    [
        pytest.param(EARLIEST, id='the earliest'),
        pytest.param(EARLIEST + timedelta(days=300), id='in between'),
        pytest.param(LATEST, id='the latest'),
        pytest.param(LATEST + timedelta(microseconds=999_999), id='the last second'),
    ],
)
@pytest.mark.parametrize('nanoseconds', [0, 999_999_999])
def test_event_within_the_limits_is_not_suspicious(reasons_of, moment, nanoseconds):
    assert reasons_of(moment=moment, nanoseconds=nanoseconds) == ()


@pytest.mark.parametrize(
    ('moment', 'reason'),
    [
        (EARLIEST - SECOND, '2015-12-31 23:59:59 is before 2016-01-01'),
        (datetime(1, 1, 1), '0001-01-01 00:00:00 is before 2016-01-01'),
        (LATEST + SECOND, '2024-05-03 12:00:01 is in the future'),
        (datetime.max, '9999-12-31 23:59:59 is in the future'),
    ],
    ids=str,
)
def test_event_outside_the_limits_is_suspicious(reasons_of, moment, reason):
    assert reasons_of(moment=moment) == (reason,)


@pytest.mark.parametrize('day', COLD_START_DATES, ids=str)
@pytest.mark.parametrize('hour', [0, 23])
def test_event_of_a_cold_started_receiver_is_suspicious(reasons_of, day, hour):
    moment = datetime(day.year, day.month, day.day, hour, 59, 59)

    (reason,) = reasons_of(moment=moment, limits=ALWAYS)

    assert reason.startswith(f'{day} is a date of GPS receivers')


@pytest.mark.parametrize('day', COLD_START_DATES, ids=str)
@pytest.mark.parametrize('since', [-SECOND, timedelta(days=1)], ids=['before', 'after'])
def test_event_of_the_days_beside_is_not_suspicious(reasons_of, day, since):
    moment = datetime(day.year, day.month, day.day) + since

    assert reasons_of(moment=moment, limits=ALWAYS) == ()


def test_receivers_start_on_the_first_day_of_a_cycle_of_1024_weeks():
    first = date(1980, 1, 6)

    assert [first + timedelta(weeks=1024 * n) for n in (1, 2)] == list(COLD_START_DATES)


@pytest.mark.parametrize('nanoseconds', [-1, 10**9, 2**64 - 1, -(2**63)])
def test_nanoseconds_of_more_than_a_second_are_suspicious(reasons_of, nanoseconds):
    (reason,) = reasons_of(nanoseconds=nanoseconds)

    assert reason.startswith(f'nanoseconds are {nanoseconds}, ')


def test_every_reason_is_given(reasons_of):
    found = reasons_of(moment=datetime(1999, 8, 22), nanoseconds=-5)

    assert len(found) == 3
    assert 'is before' in found[0]
    assert '1999-08-22 is a date of GPS' in found[1]
    assert 'nanoseconds are -5' in found[2]


# Limits.


def test_limits_are_the_earliest_day_and_so_far_ahead_of_the_clock(make_config):
    config = read_config(
        make_config(
            Suspicion={'earliest': '2016-01-01', 'future_tolerance': '2.5 hours'}
        )
    )

    now = since_epoch(LATEST) + 0.75

    assert limits(config, now) == Limits(
        since_epoch(EARLIEST), since_epoch(LATEST) + 9000
    )


def test_limits_of_the_longest_tolerance_can_be_compared(make_config):
    config = read_config(
        make_config(
            Suspicion={'earliest': '0001-01-01', 'future_tolerance': '36525 days'}
        )
    )

    earliest, latest = limits(config, since_epoch(LATEST))

    assert earliest <= since_epoch(datetime(1, 1, 1))
    assert latest == since_epoch(LATEST) + 36525 * 86400


@pytest.mark.parametrize('place', range(3))
def test_one_suspicious_event_is_seen_among_good_ones(make_event, place):
    events = [parse_event(make_event(nanoseconds=n)) for n in range(3)]
    (good,) = in_series(events)
    assert are_good(good, LIMITS)

    events[place] = parse_event(make_event(moment=EARLIEST - SECOND))
    (series,) = in_series(events)

    assert not are_good(series, LIMITS)


# Sorting out.


def test_good_events_and_flagged_ones_keep_their_order(make_event):
    good = [make_event(nanoseconds=n) for n in (3, 1, 2)]
    early = make_event(moment=EARLIEST - SECOND)
    shapeless = {'header': None}

    sorted_out, flagged = sort_out(
        [good[0], early, good[1], shapeless, good[2]], LIMITS
    )

    assert sorted_out == [parse_event(uploaded) for uploaded in good]
    assert flagged == [
        Flagged(early, ('2015-12-31 23:59:59 is before 2016-01-01',)),
        Flagged(shapeless, ('the event has no header',)),
    ]


@pytest.mark.parametrize('event_type', ['CIC', 'XYZ'], ids=['early', 'unknown type'])
def test_flagged_event_stays_as_it_was_uploaded(make_event, event_type):
    uploaded = make_event(event_type, EARLIEST - SECOND)
    uploaded['header']['date'] = '2015-12-31'

    _, (flagged,) = sort_out([uploaded], LIMITS)

    assert flagged.event is uploaded


def test_nothing_is_sorted_out_of_an_empty_list():
    assert sort_out([], LIMITS) == ([], [])
