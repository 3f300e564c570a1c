"""What processes count adds up, outlives them, and never gets in their way."""

import io
import multiprocessing
import os
import signal

import pytest

from datastore.metrics import (
    COMMITS,
    EVENTS,
    LAST_SWEEP,
    METRICS,
    STATION_UPLOADS,
    UPLOAD_SECONDS,
    UPLOADS,
    Metrics,
    counts_of,
)

TAKEN = (UPLOADS.name, '100')


@pytest.fixture
def directory(data_dir):
    return data_dir / 'metrics' / 'wsgi'


@pytest.fixture
def counted(data_dir):
    """Return what was counted, without zeros."""

    def counted(*programs):
        counts = counts_of(data_dir, programs or ('wsgi',))
        return {key: value for key, value in counts.items() if value}

    return counted


def count(data_dir, uploads=1):
    metrics = Metrics(data_dir, 'wsgi')
    metrics.count(UPLOADS, uploads, '100')
    metrics.write()
    return metrics


def test_names_of_metrics_follow_the_conventions_of_prometheus():
    for metric in METRICS:
        assert metric.name.startswith('datastore_')
        assert metric.name.endswith('_total') == (metric.kind == 'counter')
        assert metric.help.endswith('.')


def test_values_that_are_known_are_counted_as_zero_from_the_start(data_dir):
    metrics = Metrics(data_dir, 'wsgi')

    counts = counts_of(data_dir, ['wsgi'])

    assert counts[TAKEN] == counts[EVENTS.name, 'CIC'] == 0
    assert not any(name == STATION_UPLOADS.name for name, *_ in counts)
    metrics.close()


def test_nothing_is_counted_where_no_process_was(data_dir):
    assert counts_of(data_dir, ['wsgi', 'writer']) == {}


def test_what_is_counted_is_in_the_file_when_it_is_written(data_dir, counted):
    metrics = Metrics(data_dir, 'wsgi')
    metrics.count(UPLOADS, 1, '100')
    metrics.count(STATION_UPLOADS, 2, '501', '203')
    assert counted() == {}

    metrics.write()

    assert counted() == {TAKEN: 1, (STATION_UPLOADS.name, '501', '203'): 2}


def test_value_is_in_the_first_bucket_that_is_not_below_it(data_dir, counted):
    metrics = Metrics(data_dir, 'wsgi')
    for seconds in (0.0, 0.001, 0.0011, 10.0, 11.0):
        metrics.observe(UPLOAD_SECONDS, seconds)
    metrics.write()

    found = {key[1]: value for key, value in counted().items()}
    assert found.pop('sum') == pytest.approx(21.0021)
    assert found == {'0.001': 2, '0.0025': 1, '10.0': 1, 'inf': 1}


def test_processes_of_a_program_have_a_file_each_and_add_up(
    data_dir, directory, counted
):
    first, second = count(data_dir), count(data_dir, 2)
    first.count(UPLOADS, 1, '100')
    first.write()

    assert counted() == {TAKEN: 4}
    assert len(os.listdir(directory)) == 2
    second.close()


def test_programs_add_up(data_dir, counted):
    count(data_dir)
    writer = Metrics(data_dir, 'writer')
    writer.count(COMMITS, 3)
    writer.write()

    assert counted('wsgi', 'writer') == {TAKEN: 1, (COMMITS.name,): 3}


def test_latest_of_a_gauge_counts_and_survives_a_restart(data_dir, counted):
    for moment in (100.0, 200.0):
        metrics = Metrics(data_dir, 'writer')
        metrics.set(LAST_SWEEP, moment)
        metrics.close()

    assert counted('writer') == {(LAST_SWEEP.name,): 200.0}


def test_file_of_a_process_that_ended_is_gone_on_from(data_dir, directory, counted):
    for _ in range(5):
        count(data_dir).close()

    assert counted() == {TAKEN: 5}
    assert os.listdir(directory) == ['0.counts']


def test_file_of_a_process_that_was_killed_is_gone_on_from(
    data_dir, directory, counted
):
    def killed():
        count(data_dir)
        os.kill(os.getpid(), signal.SIGKILL)

    for _ in range(2):
        process = multiprocessing.get_context('fork').Process(target=killed)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL

    count(data_dir)
    assert counted() == {TAKEN: 3}
    assert os.listdir(directory) == ['0.counts']


def test_child_of_a_process_leaves_its_file_alone(data_dir, directory, counted):
    parent = count(data_dir)
    process = multiprocessing.get_context('fork').Process(target=count, args=[data_dir])
    process.start()
    process.join()

    parent.count(UPLOADS, 1, '100')
    parent.write()

    assert counted() == {TAKEN: 3}
    assert len(os.listdir(directory)) == 2


@pytest.mark.parametrize(
    'spoil',
    [
        pytest.param(lambda whole: b'', id='empty'),
        pytest.param(lambda whole: whole[:5], id='half a magic'),
        pytest.param(lambda whole: bytes(len(whole)), id='zeros'),
        pytest.param(lambda whole: b'\xff' * 3 * len(whole), id='ones'),
        pytest.param(lambda whole: b'HMETER0\n' + 2 * whole[8:], id='older version'),
    ],
)
def test_file_that_is_spoilt_counts_nothing_and_starts_again(
    data_dir, directory, counted, spoil
):
    count(data_dir).close()
    path = directory / '0.counts'
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    assert counted() == {}

    count(data_dir)

    assert counted() == {TAKEN: 1}
    assert len(path.read_bytes()) == len(whole)


def test_file_that_is_torn_anywhere_counts_up_to_there_and_goes_on(
    data_dir, directory, counted
):
    count(data_dir).close()
    path = directory / '0.counts'
    whole = path.read_bytes()
    for end in range(0, 200, 3):
        path.write_bytes(whole[:end])
        assert counted() in ({}, {TAKEN: 1})
    path.write_bytes(whole[:100])

    count(data_dir)

    assert counted() == {TAKEN: 2}


def test_disk_that_is_full_costs_no_exception_and_no_count(
    data_dir, counted, monkeypatch
):
    metrics = count(data_dir)
    with open('/dev/full', 'r+b', buffering=0) as full, monkeypatch.context() as patch:
        patch.setattr(metrics, '_file', full)
        metrics.count(UPLOADS, 1, '100')
        metrics.count(STATION_UPLOADS, 1, '501', '100')
        metrics.write()

    metrics.write()

    assert counted() == {TAKEN: 2, (STATION_UPLOADS.name, '501', '100'): 1}


def test_directory_that_cannot_be_made_is_made_later(data_dir, directory, counted):
    count(data_dir).close()
    aside = data_dir / 'aside'
    (data_dir / 'metrics').rename(aside)
    (data_dir / 'metrics').touch()
    metrics = count(data_dir)
    assert counted() == {}

    (data_dir / 'metrics').unlink()
    aside.rename(data_dir / 'metrics')
    metrics.write()

    assert counted() == {TAKEN: 2}


def test_disk_that_takes_half_is_given_all_of_it_again(data_dir, counted, monkeypatch):
    class Half(io.FileIO):
        def write(self, content):
            return super().write(content[: len(content) // 2])

    metrics = count(data_dir)
    with Half(data_dir / 'metrics/wsgi/0.counts', 'r+') as half:
        with monkeypatch.context() as patch:
            patch.setattr(metrics, '_file', half)
            metrics.count(STATION_UPLOADS, 1, '501', '100')
            metrics.write()
        assert counted() == {TAKEN: 1}

    metrics.write()

    assert counted() == {TAKEN: 1, (STATION_UPLOADS.name, '501', '100'): 1}
