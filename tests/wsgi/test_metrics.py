"""/metrics is what Prometheus reads: counts of all processes, and the spool."""

import os
import time
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from datastore.config import read_config
from datastore.metrics import (
    LAST_SWEEP,
    METRICS,
    STATION_UPLOADS,
    UPLOAD_SECONDS,
    UPLOADS,
    Metrics,
)
from datastore.spool import Spool
from wsgi.metrics import MetricsPage

NOON = 1_714_737_600  # 2024-05-03T12:00:00Z, in s since the epoch


@pytest.fixture
def clock():
    return SimpleNamespace(monotonic=0.0, now=NOON + 60.0)


@pytest.fixture
def make_page(make_config, clock):
    def make(**status):
        config = read_config(make_config(Status=status))
        Spool(config.data_dir)
        return MetricsPage(config, lambda: clock.monotonic, lambda: clock.now)

    return make


def samples(page):
    """Return the samples that Prometheus finds, by name and labels' values."""
    text = page.render().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_metric_has_its_type_and_help(make_page):
    text = make_page(per_station_metrics='yes').render().decode()

    for metric in METRICS:
        assert f'# TYPE {metric.name} {metric.kind}\n' in text
        assert f'# HELP {metric.name} {metric.help}\n' in text


def test_counts_of_both_programs_are_shown(make_page, data_dir):
    page = make_page()
    endpoint, other, writer = (
        Metrics(data_dir, program) for program in ('wsgi', 'wsgi', 'writer')
    )
    endpoint.count(UPLOADS, 3, '100')
    other.count(UPLOADS, 4, '100')
    writer.set(LAST_SWEEP, 1234.5)
    for metrics in (endpoint, other, writer):
        metrics.close()

    found = samples(page)

    assert found[UPLOADS.name, '100'] == 7
    assert found[UPLOADS.name, '203'] == 0
    assert found[(LAST_SWEEP.name,)] == 1234.5


def test_buckets_of_a_histogram_are_cumulative(make_page, data_dir):
    metrics = Metrics(data_dir, 'wsgi')
    for seconds in (0.0005, 0.002, 0.002, 99.0):
        metrics.observe(UPLOAD_SECONDS, seconds)
    metrics.close()

    found = samples(make_page())

    name = UPLOAD_SECONDS.name
    buckets = [v for key, v in found.items() if key[0] == f'{name}_bucket']
    assert buckets == [1, 3, *[3] * 11, 4]
    assert found[f'{name}_bucket', '+Inf'] == found[(f'{name}_count',)] == 4
    assert found[(f'{name}_sum',)] == pytest.approx(99.0045)


def test_series_of_stations_are_shown_if_they_are_asked_for(make_page, data_dir):
    metrics = Metrics(data_dir, 'wsgi')
    metrics.count(STATION_UPLOADS, 5, '501', '100')
    metrics.close()

    asked, not_asked = (
        samples(make_page(per_station_metrics=text)) for text in ('yes', 'no')
    )

    assert [v for key, v in asked.items() if '501' in key] == [5]
    assert [v for key, v in not_asked.items() if '501' in key] == []


def test_spool_is_shown_with_the_age_of_its_oldest_batch(
    make_page, data_dir, monkeypatch
):
    page = make_page()
    spool = Spool(data_dir)
    for moment in (NOON + 30, NOON, NOON + 59):
        monkeypatch.setattr(time, 'time_ns', lambda moment=moment: moment * 10**9)
        spool.put(510, bytes(100))
    (data_dir / 'incoming' / 'stranger').touch()

    found = samples(page)

    assert found['datastore_spool_batches',] == 3
    assert found['datastore_spool_bytes',] == spool.size()
    assert found['datastore_spool_oldest_seconds',] == 60


def test_empty_spool_has_no_age(make_page):
    found = samples(make_page())

    assert found['datastore_spool_batches',] == 0
    assert found['datastore_spool_oldest_seconds',] == 0


def test_spool_is_looked_through_again_after_five_seconds(make_page, data_dir, clock):
    page = make_page()
    samples(page)
    Spool(data_dir).put(510, b'')
    clock.monotonic = 4.9
    assert samples(page)['datastore_spool_batches',] == 0

    clock.monotonic = 5.0
    assert samples(page)['datastore_spool_batches',] == 1


def test_free_space_is_that_of_data_dir(make_page, monkeypatch):
    page = make_page()
    disk = SimpleNamespace(f_bavail=3, f_frsize=4096)
    monkeypatch.setattr(os, 'statvfs', lambda path: disk)

    assert samples(page)['datastore_free_bytes',] == 12288
