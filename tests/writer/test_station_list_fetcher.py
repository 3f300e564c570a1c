"""The writer fetches the station list on an interval, beside its sweeps."""

import logging
import threading

import pytest
from pytest_httpserver import HTTPServer
from support import Clock, write_config

from datastore.config import ConfigError, read_config
from datastore.station_list import Changes
from datastore.station_list_url import FetchError, StationListUrl
from writer.station_list_fetcher import StationListFetcher, fetching
from writer.writer_app import writer

SAME = Changes([], [], [])


class Source:
    """Has one outcome after the other, the last one for ever."""

    shown = 'https://example.org/list'

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def fetch(self):
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def said(caplog):
    """Return the level and text of what was logged since the last call."""
    caplog.set_level(logging.INFO, logger='writer.station_list_fetcher')

    def said():
        records = [(r.levelname, r.getMessage()) for r in caplog.records]
        caplog.clear()
        return records

    # Where an earlier test opened a log of the writer's.
    previous = logging.getLogger('writer').propagate
    logging.getLogger('writer').propagate = True
    yield said
    logging.getLogger('writer').propagate = previous


@pytest.fixture
def fetcher():
    def fetcher(*outcomes, interval=300.0, clock=None):
        source = Source(*outcomes)
        return StationListFetcher(source, interval, threading.Event(), clock or Clock())

    return fetcher


def test_changes_are_told(fetcher, said):
    assert fetcher(Changes([504], [], [501])).fetch() == 300

    assert said() == [
        (
            'INFO',
            'station list fetched from https://example.org/list, '
            'stations: 1 added (504), 1 changed (501)',
        )
    ]


def test_list_that_stays_says_nothing(fetcher, said):
    assert fetcher(SAME).fetch() == 300
    assert said() == []


def test_failure_is_told_once_an_hour_until_it_ends(fetcher, said):
    clock = Clock()
    failing = fetcher(*[FetchError('no route')] * 5, SAME, clock=clock)
    told = []
    for clock.now in (0, 60, 3599, 3600, 3660, 3720):
        failing.fetch()
        told.append([line for _, line in said()])

    complaint = ['the station list stays as it is: no route']
    again = [f'station list fetched from {Source.shown}, no station differs']
    assert told == [complaint, [], [], complaint, [], again]


def test_another_failure_is_told_at_once(fetcher, said):
    failing = fetcher(FetchError('no route'), FetchError('answers 500'))
    failing.fetch()
    failing.fetch()

    assert [level for level, _ in said()] == ['ERROR', 'ERROR']


@pytest.mark.parametrize(('interval', 'pause'), [(300.0, 60.0), (5.0, 5.0)])
def test_failure_is_tried_again_soon(fetcher, interval, pause):
    assert fetcher(FetchError('no route'), interval=interval).fetch() == pause


def test_fault_of_ours_does_not_end_the_fetching(fetcher, said):
    assert fetcher(RuntimeError('ours')).fetch() == 300
    assert said()[0][0] == 'ERROR'


def test_it_fetches_until_it_is_told_to_stop():
    pauses = []

    class Stop:
        def wait(self, seconds):
            pauses.append(seconds)
            return len(pauses) == 3

    source = Source(SAME, FetchError('no route'), SAME)
    StationListFetcher(source, 300.0, Stop(), Clock()).run()

    assert pauses == [300, 60, 300]


# With the writer.


@pytest.fixture(scope='module')
def server():
    with HTTPServer() as server:
        server.expect_request('/list').respond_with_data('501, A, x\n510, B, y\n')
        yield server


class UntilFetched:
    """Stops the writer when the server was asked."""

    def __init__(self, asked):
        self.asked = asked

    def is_set(self):
        return False

    def wait(self, seconds):
        assert self.asked.wait(10)
        return True


def test_writer_fetches_while_it_runs(tmp_path, server, monkeypatch):
    configfile = write_config(tmp_path, Stations={'url': server.url_for('/list')})
    fetched = threading.Event()
    fetch = StationListUrl.fetch

    def fetch_and_tell(source):
        try:
            return fetch(source)
        finally:
            fetched.set()

    monkeypatch.setattr(StationListUrl, 'fetch', fetch_and_tell)

    writer(configfile, stop=UntilFetched(fetched))

    content = (tmp_path / 'station_list.csv').read_text()
    assert content == '501, A, x\n510, B, y\n'
    assert 'station list' not in {thread.name for thread in threading.enumerate()}
    log = (tmp_path / 'log' / 'hisparc-writer').read_text()
    assert f'fetched from {server.url_for("/list")}, stations: 1 added (501)' in log


def test_single_sweep_fetches_nothing(tmp_path, server):
    configfile = write_config(tmp_path, Stations={'url': server.url_for('/list')})

    before = len(server.log)

    writer(configfile, once=True)

    assert len(server.log) == before


def test_authorities_that_cannot_be_read_stop_the_start(tmp_path, server):
    keys = {'url': server.url_for('/list'), 'ca_file': '/nowhere'}
    config = read_config(write_config(tmp_path, Stations=keys))

    with pytest.raises(ConfigError, match='/nowhere'), fetching(config):
        raise AssertionError('started')
