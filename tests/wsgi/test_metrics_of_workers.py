"""What real workers and a real writer count and log is exactly what was sent."""

import hashlib
import os
import pickle
import select
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support import PASSWORD, STATION, run_writer, samples_in, waiting_in

from datastore.upload_id import upload_id

GOOD, WRONG, UNKNOWN, BROKEN = 22, 9, 5, 4


@pytest.fixture
def post(uwsgi, make_event):
    """Upload the nth batch, of a singles and two cosmic events; return the answer."""

    def post(number, **changed):
        events = [make_event('SIN', nanoseconds=3 * number)]
        events += [make_event(nanoseconds=3 * number + n) for n in (1, 2)]
        pickled = pickle.dumps(events, 2)
        form = {
            'station_id': STATION,
            'password': PASSWORD,
            'data': pickled,
            'checksum': hashlib.md5(pickled).hexdigest(),
        }
        response = requests.post(uwsgi.url, data=form | changed, timeout=30)
        return int(response.text), len(pickled)

    return post


@pytest.fixture
def counts(uwsgi):
    """Return what is on /metrics, by name and labels' values."""

    def counts():
        response = requests.get(uwsgi.url + 'metrics', timeout=30)
        assert response.status_code == 200
        return samples_in(response.text)

    return counts


def test_what_two_workers_and_the_writer_count_is_exactly_what_was_sent(
    uwsgi, post, counts
):
    changes = [{}] * GOOD + [{'password': 'no'}] * WRONG
    changes += [{'station_id': 999}] * UNKNOWN + [{'checksum': '0'}] * BROKEN
    with ThreadPoolExecutor(8) as senders:
        answers = list(senders.map(lambda n: post(n, **changes[n]), range(40)))
    assert run_writer(uwsgi.configfile).returncode == 0

    found = counts()

    answered = Counter(rcode for rcode, _ in answers)
    assert answered == {100: GOOD, 203: WRONG, 206: UNKNOWN, 201: BROKEN}
    for rcode in (100, 201, 203, 205, 206, 208, 400):
        assert found['datastore_uploads_total', str(rcode)] == answered[rcode]
    assert found['datastore_upload_seconds_count',] == 40
    assert found['datastore_upload_bytes_total',] == sum(
        size for rcode, size in answers if rcode == 100
    )
    assert found['datastore_events_total', 'SIN'] == GOOD
    assert found['datastore_events_total', 'CIC'] == 2 * GOOD
    assert found['datastore_stored_events_total',] == 3 * GOOD
    assert found['datastore_commits_total',] == 1
    assert found['datastore_sweep_seconds_count',] == 1
    assert found['datastore_spool_batches',] == 0


def test_worker_that_is_killed_takes_no_count_with_it(uwsgi, post, counts):
    assert [post(number)[0] for number in range(3)] == [100] * 3
    for worker in uwsgi.workers:
        process = os.pidfd_open(worker)
        os.kill(worker, signal.SIGKILL)
        # One that is dying could still take a connection, and drop it.
        select.select([process], [], [], 30)
        os.close(process)

    assert post(3)[0] == 100

    assert counts()['datastore_uploads_total', '100'] == 4
    files = os.listdir(uwsgi.data_dir / 'status')
    assert len(files) <= 2  # one of each worker


def test_id_of_an_upload_finds_its_answer_and_its_commit_in_the_logs(uwsgi, post):
    assert post(1)[0] == 100
    (name,) = waiting_in(uwsgi.data_dir)
    assert run_writer(uwsgi.configfile).returncode == 0

    story = [
        line
        for log in sorted((uwsgi.configfile.parent / 'log').iterdir(), reverse=True)
        for line in log.read_text().splitlines()
        if upload_id(name) in line
    ]
    answer, commit = story
    assert f' INFO station {STATION}: 3 events in ' in answer
    assert f' INFO station {STATION}: 3 events stored from 1 batches' in commit
