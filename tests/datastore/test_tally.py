"""Counts say what became of each upload, and are nobody's failure."""

import logging

import pytest
from support import STATION

from datastore.event import Event
from datastore.series import in_series
from datastore.tally import NOBODY, REFUSALS, UPLOAD_DURATIONS, Tally, read_tallies
from wsgi import rcodes

OTHER = 511
NOON = 1_580_731_200  # 2020-02-03 12:00 UTC, in s
DAY = 86400  # s
SECONDS = 0.002  # from a request to its answer


@pytest.fixture
def make_tally(data_dir):
    """Make the tally of a process that has just started."""

    def make_tally(now=NOON, data_dir=data_dir):
        return Tally(data_dir, logging.getLogger('test'), clock=lambda: now)

    return make_tally


def events(*event_types, timestamp=NOON):
    return in_series(
        Event(event_type, timestamp + number, 0, 0, (), ())
        for number, event_type in enumerate(event_types)
    )


def test_upload_that_is_taken_is_counted(make_tally, data_dir):
    counting = make_tally()
    counting.taken(STATION, 1000, events('CIC', 'SIN', 'CIC'), 2, SECONDS)
    counting.taken(STATION, 500, events('CIC', timestamp=NOON - DAY), 0, SECONDS)

    counts = read_tallies(data_dir)[STATION]
    assert {name: count for name, count in counts.items() if count} == {
        'station': STATION,
        'uploads': 2,
        'bytes': 1500,
        'last_upload': NOON,
        'last_event': NOON + 2,
        'suspicious_endpoint': 2,
        'events_CIC': 3,
        'events_SIN': 1,
        'day': NOON // DAY,
        'events_CIC_today': 3,
        'events_SIN_today': 1,
        'uploads_microseconds': 4000,
        'uploads_within_0.0025': 2,
    }


def test_every_code_that_refuses_an_upload_has_a_count_of_its_own(make_tally, data_dir):
    answers = {error.rcode for error in rcodes.UploadError.__subclasses__()}
    answers |= {rcodes.INTERNAL_ERROR}
    assert answers == set(REFUSALS)
    counting = make_tally()
    for rcode in REFUSALS:
        counting.refused(STATION, rcode, SECONDS)

    counts = read_tallies(data_dir)[STATION]
    assert [counts[f'refused_{rcode}'] for rcode in REFUSALS] == [1] * len(REFUSALS)
    assert {counts[f'refused_{rcode}_at'] for rcode in REFUSALS} == {NOON}


def test_uploads_of_nobody_in_particular_are_counted_together(make_tally, data_dir):
    counting = make_tally()
    counting.refused(None, 206, SECONDS)
    counting.refused(None, 400, SECONDS)

    counts = read_tallies(data_dir)
    assert counts.keys() == {NOBODY}
    assert (counts[NOBODY]['refused_206'], counts[NOBODY]['refused_400']) == (1, 1)


def test_what_the_writer_made_of_events_is_counted_beside_uploads(make_tally, data_dir):
    endpoint, writer = make_tally(), make_tally()
    endpoint.taken(STATION, 1000, events('CIC'), 1, SECONDS)
    writer.appended(STATION, 10, 3, 2)

    counts = read_tallies(data_dir)[STATION]
    assert (counts['stored'], counts['duplicates']) == (10, 3)
    assert (counts['suspicious_endpoint'], counts['suspicious_writer']) == (1, 2)
    assert counts['events_CIC'] == 1


def test_what_the_writer_does_for_no_station_is_counted_for_nobody(
    make_tally, data_dir
):
    writer = make_tally()
    writer.rejected()
    writer.replayed()
    writer.swept(0.25)
    writer.swept(301)

    counts = read_tallies(data_dir)
    assert counts.keys() == {NOBODY}
    assert {name: count for name, count in counts[NOBODY].items() if count} == {
        'rejected': 1,
        'replays': 1,
        'last_sweep': NOON,
        'sweeps_microseconds': 301_250_000,
        'sweeps_within_0.5': 1,
        'sweeps_within_inf': 1,
    }


def test_upload_is_in_the_first_bucket_that_is_not_below_its_time(make_tally, data_dir):
    counting = make_tally()
    for seconds in (0.0, 0.001, 0.0011, 10.0, 11.0):
        counting.refused(STATION, 203, seconds)

    counts = read_tallies(data_dir)[STATION]
    assert [counts[bucket] for bucket in UPLOAD_DURATIONS.buckets] == [
        *(2, 1, 0, 0, 0, 0),
        *(0, 0, 0, 0, 0, 0, 1, 1),
    ]
    assert counts['uploads_microseconds'] == 21_002_100


def test_new_day_of_arrival_starts_from_zero_and_totals_go_on(make_tally, data_dir):
    evening, morning = make_tally(NOON), make_tally(NOON + DAY)
    evening.taken(STATION, 10, events('CIC', 'CIC'), 0, SECONDS)
    morning.taken(STATION, 10, events('CIC'), 0, SECONDS)

    counts = read_tallies(data_dir)[STATION]
    assert (counts['events_CIC'], counts['events_CIC_today']) == (3, 1)

    evening.close()
    make_tally(NOON + DAY).taken(STATION, 10, events('SIN'), 0, SECONDS)
    counts = read_tallies(data_dir)[STATION]
    assert (counts['events_CIC'], counts['events_CIC_today']) == (3, 1)
    assert counts['events_SIN_today'] == 1


@pytest.mark.parametrize('days', [(1, 0), (0, 1)], ids=['newer first', 'older first'])
def test_what_another_process_counted_on_an_older_day_is_not_of_today(
    make_tally, data_dir, days
):
    # Each process has a file of its own, and they are read in no order.
    processes = [make_tally(NOON + day * DAY) for day in days]
    for counting in processes:
        counting.taken(STATION, 10, events('CIC'), 0, SECONDS)

    counts = read_tallies(data_dir)[STATION]
    assert (counts['day'], counts['events_CIC']) == (NOON // DAY + 1, 2)
    assert counts['events_CIC_today'] == 1


@pytest.mark.parametrize('hours', [(2, 1), (1, 2)], ids=['newer first', 'older first'])
def test_last_times_are_the_latest_of_all_processes(make_tally, data_dir, hours):
    processes = [make_tally(NOON + hour * 3600) for hour in hours]
    for hour, counting in zip(hours, processes, strict=True):
        counting.taken(STATION, 10, events('CIC', timestamp=NOON + hour), 0, SECONDS)
        counting.refused(STATION, 203, SECONDS)
        counting.swept(1.0)

    counts = read_tallies(data_dir)
    assert counts[STATION]['last_upload'] == NOON + 2 * 3600
    assert counts[STATION]['last_event'] == NOON + 2
    assert counts[STATION]['refused_203_at'] == NOON + 2 * 3600
    assert counts[NOBODY]['last_sweep'] == NOON + 2 * 3600


def test_count_of_something_impossible_does_not_raise(make_tally, data_dir, caplog):
    counting = make_tally()
    counting.taken(STATION, 2**70, ['no series'], 0, SECONDS)
    counting.refused(STATION, 999, SECONDS)

    assert len(caplog.records) == 1
    counting.taken(OTHER, 10, [], 0, SECONDS)
    assert read_tallies(data_dir)[OTHER]['uploads'] == 1
