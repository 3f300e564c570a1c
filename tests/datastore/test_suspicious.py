"""Flagged events are kept for a person as they were uploaded, with the reasons."""

import errno
import json
import os
import stat
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datastore.suspicious import Flagged, Suspicious

RECEIVED = 1_700_000_000_123_456_789

FLAGGED = [Flagged({'header': {}, 'datalist': []}, ('no header', 'no datalist'))]

# What a key may look like that our own marks could be mistaken for.
keys = st.one_of(
    st.text(max_size=5), st.sampled_from(['$', '$datetime', '$dict', '$$dict', '€'])
)
events = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=10),
        st.datetimes().map(lambda moment: moment.replace(fold=0)),
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=15,
)


@pytest.fixture
def suspicious(data_dir):
    return Suspicious(data_dir)


@pytest.fixture
def directory(suspicious, data_dir):
    return data_dir / 'suspicious'


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    """For tests of many examples, which do not mind each other's files."""
    return Suspicious(tmp_path_factory.mktemp('shared'))


@settings(deadline=None)
@given(events)
@example({'$datetime': '2011-02-22T13:24:57'})
@example({'$datetime': datetime(2011, 2, 22), 'a': 1})
@example({'$dict': [['a', 1]], 'b': {'$dict': {}}})
@example([{'a': [{'$': {}}]}])
@example('\ud800')
@example(datetime(1, 1, 1, 0, 0, 0, 1))
def test_event_of_any_shape_comes_back_as_it_was_uploaded(shared, event):
    name = shared.put(510, 'Science Park', RECEIVED, [Flagged(event, ('odd',))])

    (flagged,) = shared.get(name)['events']
    # As text, for it tells True from 1, -0.0 from 0, and the order of keys.
    assert repr(flagged['event']) == repr(event)


def test_document_tells_who_when_and_why(suspicious):
    second = Flagged({'header': None}, ('has no header',))

    flagged = [*FLAGGED, second]

    name = suspicious.put(510, 'Science Park', RECEIVED, flagged, '0123abcd')

    assert suspicious.get(name) == {
        'station': 510,
        'cluster': 'Science Park',
        'received': RECEIVED,
        'upload': '0123abcd',
        'events': [
            {
                'reasons': ['no header', 'no datalist'],
                'event': {'header': {}, 'datalist': []},
            },
            {'reasons': ['has no header'], 'event': {'header': None}},
        ],
    }


def test_file_is_json_of_a_line_for_each_value(suspicious, directory):
    event = {'header': {'datetime': datetime(2011, 2, 22, 13, 24, 57, 656_000)}}

    name = suspicious.put(510, 'Sciënce Park', RECEIVED, [Flagged(event, ('odd',))])

    content = (directory / name).read_text(encoding='ascii')
    (flagged,) = json.loads(content)['events']
    moment = flagged['event']['header']['datetime']
    assert moment == {'$datetime': '2011-02-22T13:24:57.656000'}
    assert content.count('\n') > 10


def test_name_starts_with_the_station(suspicious):
    name = suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)

    assert name.startswith('510-')
    assert suspicious.names() == [name]


def test_same_events_flagged_again_replace_the_first(suspicious):
    first = suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)
    second = suspicious.put(510, 'Science Park', RECEIVED + 1, FLAGGED, '0123abcd')

    assert first == second
    assert suspicious.names() == [second]
    assert suspicious.get(second)['received'] == RECEIVED + 1


@pytest.mark.parametrize(
    ('station', 'cluster', 'flagged'),
    [
        pytest.param(511, 'Science Park', FLAGGED, id='another station'),
        pytest.param(510, 'Nijmegen', FLAGGED, id='another cluster'),
        pytest.param(510, 'Science Park', FLAGGED * 2, id='one event more'),
        pytest.param(
            510,
            'Science Park',
            [FLAGGED[0]._replace(reasons=('no header',))],
            id='other reasons',
        ),
        pytest.param(
            510,
            'Science Park',
            [FLAGGED[0]._replace(event={'header': {}, 'datalist': [None]})],
            id='another event',
        ),
        pytest.param(
            510,
            'Science Park',
            [FLAGGED[0]._replace(event={'$dict': [['header', {}], ['datalist', []]]})],
            id='an event that looks like our own marks',
        ),
    ],
)
def test_others_stand_beside_the_first(suspicious, station, cluster, flagged):
    first = suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)
    second = suspicious.put(station, cluster, RECEIVED, flagged)

    assert suspicious.names() == sorted({first, second})
    assert len(suspicious.names()) == 2


def test_nothing_is_kept_in_a_new_directory(suspicious):
    assert suspicious.names() == []


def test_only_documents_are_listed(suspicious, directory):
    (directory / 'notes.txt').touch()

    assert suspicious.names() == []


def test_document_that_a_person_took_away_is_not_found(suspicious, directory):
    name = suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)
    os.unlink(directory / name)

    with pytest.raises(FileNotFoundError):
        suspicious.get(name)


@pytest.mark.parametrize('function', ['write', 'fsync', 'rename'])
def test_disk_that_fails_keeps_nothing(
    suspicious, directory, data_dir, monkeypatch, function
):
    def fail(*arguments):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, function, fail)

    with pytest.raises(OSError, match='Input/output error'):
        suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)

    assert os.listdir(directory) == os.listdir(data_dir / 'tmp') == []


def test_documents_are_closed_to_others(tmp_path):
    umask = os.umask(0)
    try:
        suspicious = Suspicious(tmp_path / 'data')
        suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)
    finally:
        os.umask(umask)

    for path in (tmp_path / 'data').rglob('*'):
        assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0
