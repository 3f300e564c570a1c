"""/metrics is what Prometheus reads: counts of all processes, and the spool."""

import logging
import os
import re
import time
from types import SimpleNamespace

import pytest
from support import PROJECT, samples_in

from datastore.config import read_config
from datastore.event import Event
from datastore.series import in_series
from datastore.spool import Spool
from datastore.tally import Tally
from wsgi.metrics import MetricsPage

NOON = 1_714_737_600  # 2024-05-03T12:00:00Z, in s since the epoch


@pytest.fixture
def clock():
    return SimpleNamespace(monotonic=0.0, now=NOON + 60.0)


def samples_of(page):
    return samples_in(page.render().decode())


@pytest.fixture
def make_page(make_config, clock):
    def make(**status):
        config = read_config(make_config(Status=status))
        Spool(config.data_dir)
        return MetricsPage(config, lambda: clock.monotonic, lambda: clock.now)

    return make


@pytest.fixture
def tally(data_dir):
    """Make the tally of a process that has just started."""
    return lambda: Tally(data_dir, logging.getLogger('test'), lambda: NOON)


def events(*event_types):
    return in_series(
        Event(event_type, NOON, 0, 0, (), ()) for event_type in event_types
    )


def names_in(document):
    """Return the metrics that a table of docs/ names, whole or by their endings."""
    names = []
    for cell in re.findall(r'^\| (`datastore_.*?) \|', document, re.MULTILINE):
        whole, *endings = re.findall(r'`([a-z_]+)', cell)
        stem = whole.removesuffix('_batches')
        names += [whole, *(e if e.startswith('data') else stem + e for e in endings)]
    return names


def test_every_metric_is_documented_and_has_its_type_and_help(make_page):
    text = make_page(per_station_metrics='yes').render().decode()

    helped = re.findall(r'^# HELP (\w+) .+\.$', text, re.MULTILINE)
    typed = re.findall(r'^# TYPE (\w+) (\w+)$', text, re.MULTILINE)
    documented = names_in((PROJECT / 'docs' / 'metrics.md').read_text())
    assert sorted(helped) == sorted(documented) == sorted(name for name, _ in typed)
    for name, kind in typed:
        assert name.startswith('datastore_')
        assert name.endswith('_total') == (kind == 'counter')


def test_values_that_are_known_are_zero_from_the_start(make_page):
    found = samples_of(make_page())

    assert found['datastore_uploads_total', '203'] == 0
    assert found['datastore_events_total', 'CIC'] == 0
    assert found['datastore_suspicious_events_total', 'writer'] == 0
    assert found['datastore_sweep_seconds_bucket', '+Inf'] == 0
    assert found['datastore_commits_total',] == 0


def test_last_sweep_is_not_told_before_there_was_one(make_page, tally):
    page = make_page()
    name = 'datastore_last_sweep_timestamp_seconds'
    assert (name,) not in samples_of(page)

    tally().swept(0.2)

    assert samples_of(page)[name,] == NOON


def test_counts_of_all_stations_and_senders_and_processes_add_up(make_page, tally):
    endpoint, other, writer = tally(), tally(), tally()
    endpoint.taken(501, 100, events('CIC', 'SIN'), 2, 0.1)
    other.taken(501, 10, events('CIC'), 0, 0.1)
    other.taken(502, 1, events('CIC'), 0, 0.1)
    other.refused(501, 203, 0.1)
    other.refused(None, 203, 0.1)
    writer.appended(501, 4, 1, 3)
    writer.appended(502, 1, 0, 0)
    writer.committed(501)
    writer.committed(502)
    writer.replayed()
    writer.rejected()

    found = samples_of(make_page())

    assert {key: value for key, value in found.items() if key in COUNTED} == COUNTED
    assert found['datastore_upload_seconds_count',] == 5
    assert found['datastore_upload_seconds_sum',] == pytest.approx(0.5)


COUNTED = {
    ('datastore_uploads_total', '100'): 3,
    ('datastore_uploads_total', '203'): 2,
    ('datastore_upload_bytes_total',): 111,
    ('datastore_events_total', 'CIC'): 3,
    ('datastore_events_total', 'SIN'): 1,
    ('datastore_suspicious_events_total', 'endpoint'): 2,
    ('datastore_suspicious_events_total', 'writer'): 3,
    ('datastore_stored_events_total',): 5,
    ('datastore_duplicate_events_total',): 1,
    ('datastore_commits_total',): 2,
    ('datastore_journal_replays_total',): 1,
    ('datastore_rejected_batches_total',): 1,
}


def test_buckets_of_a_histogram_are_cumulative(make_page, tally):
    counting = tally()
    for seconds in (0.0005, 0.002, 0.002, 99.0):
        counting.refused(501, 203, seconds)

    found = samples_of(make_page())

    name = 'datastore_upload_seconds'
    buckets = [v for key, v in found.items() if key[0] == f'{name}_bucket']
    assert buckets == [1, 3, *[3] * 11, 4]
    assert found[f'{name}_bucket', '+Inf'] == found[(f'{name}_count',)] == 4
    assert found[(f'{name}_sum',)] == pytest.approx(99.0045)


def test_series_of_stations_are_shown_if_they_are_asked_for(make_page, tally):
    counting = tally()
    counting.taken(501, 100, events('CIC'), 2, 0.1)
    counting.refused(501, 203, 0.1)
    counting.refused(None, 206, 0.1)

    asked, not_asked = (
        samples_of(make_page(per_station_metrics=text)) for text in ('yes', 'no')
    )

    assert {key: v for key, v in asked.items() if '_station_' in key[0]} == {
        ('datastore_station_uploads_total', '100', '501'): 1,
        ('datastore_station_uploads_total', '203', '501'): 1,
        ('datastore_station_events_total', '501'): 3,
    }
    assert [key for key in not_asked if '_station_' in key[0]] == []


def test_spool_is_shown_with_the_age_of_its_oldest_batch(
    make_page, data_dir, monkeypatch
):
    page = make_page()
    spool = Spool(data_dir)
    for moment in (NOON + 30, NOON, NOON + 59):
        monkeypatch.setattr(time, 'time_ns', lambda moment=moment: moment * 10**9)
        spool.put(510, bytes(100))
    (data_dir / 'incoming' / 'stranger').touch()

    found = samples_of(page)

    assert found['datastore_spool_batches',] == 3
    assert found['datastore_spool_bytes',] == spool.size()
    assert found['datastore_spool_oldest_seconds',] == 60


def test_empty_spool_has_no_age(make_page):
    found = samples_of(make_page())

    assert found['datastore_spool_batches',] == 0
    assert found['datastore_spool_oldest_seconds',] == 0


def test_spool_is_looked_through_again_after_five_seconds(make_page, data_dir, clock):
    page = make_page()
    samples_of(page)
    Spool(data_dir).put(510, b'')
    clock.monotonic = 4.9
    assert samples_of(page)['datastore_spool_batches',] == 0

    clock.monotonic = 5.0
    assert samples_of(page)['datastore_spool_batches',] == 1


def test_free_space_is_that_of_data_dir(make_page, monkeypatch):
    page = make_page()
    disk = SimpleNamespace(f_bavail=3, f_frsize=4096)
    monkeypatch.setattr(os, 'statvfs', lambda path: disk)

    assert samples_of(page)['datastore_free_bytes',] == 12288
