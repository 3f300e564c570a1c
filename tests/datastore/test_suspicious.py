"""Flagged events are kept for a person as they were uploaded, with the reasons."""

import errno
import json
import os
import stat
import tracemalloc
from datetime import datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from datastore.suspicious import DocumentError, Flagged, Suspicious

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
@example('\ud83d\ude00')  # two surrogates, not the character they would make
@example('\x1b\x7f\x85\u2028\xff€')
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


def test_file_is_json_of_a_line_for_each_event(suspicious, directory):
    moments = datetime(2011, 2, 22, 13, 24, 57, 656_000), datetime(2011, 2, 23)
    events = [{'header': {'datetime': moment}} for moment in moments]
    flagged = [Flagged(event, ('odd',)) for event in events]

    name = suspicious.put(510, 'Sciënce Park', RECEIVED, flagged)

    content = (directory / name).read_text(encoding='utf-8')
    first, second = json.loads(content)['events']
    moment = first['event']['header']['datetime']
    assert moment == {'$datetime': '2011-02-22T13:24:57.656000'}
    lines = [line.strip(' ,') for line in content.splitlines()]
    for each in (first, second):
        assert json.dumps(each) in lines
    assert '"Sciënce Park"' in content


def test_binary_text_takes_little_more_than_its_bytes(suspicious, directory):
    text = bytes(range(32, 256)).decode('latin-1') * 100

    name = suspicious.put(510, 'Science Park', RECEIVED, [Flagged(text, ('odd',))])

    assert (directory / name).stat().st_size < 2 * len(text)


def test_large_event_takes_memory_for_a_text_at_a_time(suspicious):
    # As JSON in one piece it would take 24 bytes for each character.
    text = '\0' * 2**19 + '\U0001f600'
    event = {'datalist': [{'data_uploadcode': str(n), 'data': text} for n in range(8)]}

    tracemalloc.start()
    try:
        name = suspicious.put(510, 'Science Park', RECEIVED, [Flagged(event, ('odd',))])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 20 * 8 * len(text)
    (kept,) = suspicious.get(name)['events']
    assert kept['event'] == event


def test_name_is_that_of_the_events_whether_large_or_not(suspicious, monkeypatch):
    name = suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)
    monkeypatch.setattr('datastore.suspicious._LARGE', 0)

    assert suspicious.put(510, 'Science Park', RECEIVED, FLAGGED) == name


def test_documents_in_ascii_are_read_as_well(suspicious, directory):
    event = {'a': 'é€\U0001f600\ud800', 'b': {'$dict': [['$', 'ÿ']]}}
    document = {
        'station': 510,
        'cluster': 'Sciënce Park',
        'received': RECEIVED,
        'events': [{'reasons': ['odd'], 'event': event}],
    }
    (directory / '510-0123456789abcdef.json').write_text(
        json.dumps(document, indent=1), encoding='ascii'
    )

    (name,) = suspicious.names()
    (flagged,) = suspicious.get(name)['events']
    assert flagged['event'] == {'a': 'é€\U0001f600\ud800', 'b': {'$': 'ÿ'}}


def test_name_of_events_in_ascii_is_that_of_earlier_versions(suspicious):
    # Or what a station sends again after an upgrade would stand there twice.
    name = suspicious.put(510, 'Science Park', RECEIVED, FLAGGED)

    assert name == '510-f63857a64b1449e9.json'


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


def test_surrogates_stand_beside_the_character_they_would_make(suspicious):
    for event in ('\ud83d\ude00', '\U0001f600'):
        suspicious.put(510, 'Science Park', RECEIVED, [Flagged(event, ('odd',))])

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


# What a person or a disk may have done to a file.

WHOLE = {
    'station': 510,
    'cluster': 'Science Park',
    'received': RECEIVED,
    'events': [{'reasons': ['odd'], 'event': {'header': {}}}],
}


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        pytest.param(b'', 'Expecting value', id='empty'),
        pytest.param(b'{"station": 510, "clus', 'not a document', id='torn'),
        pytest.param(b'\xff\xfe\x00', 'not a document', id='not UTF-8'),
        pytest.param(b'[' * 100_000, 'not a document', id='deep'),
        pytest.param(b'7', 'not a document', id='a number'),
        pytest.param(b'[]', 'not a document', id='a list'),
        pytest.param(b'{}', "has no 'station'", id='nothing in it'),
        *(
            pytest.param(json.dumps(WHOLE | wrong).encode(), complaint, id=str(wrong))
            for wrong, complaint in [
                ({'station': '510'}, 'station'),
                ({'station': True}, 'station'),
                ({'station': -1}, 'station'),
                ({'cluster': None}, 'cluster'),
                ({'received': 1.5}, 'arrival'),
                ({'received': 10**20}, 'arrival'),
                ({'events': 7}, 'not a document'),
                ({'events': [[]]}, 'not a document'),
                ({'events': [{'reasons': ['a']}]}, "has no 'event'"),
                ({'events': [{'reasons': [7], 'event': 1}]}, 'reason'),
                ({'events': [{'reasons': 7, 'event': 1}]}, 'not a document'),
            ]
        ),
    ],
)
def test_file_that_is_no_document_says_why(suspicious, directory, content, complaint):
    (directory / '510-0.json').write_bytes(content)

    with pytest.raises(DocumentError, match=complaint):
        suspicious.load('510-0.json')


@pytest.mark.parametrize(
    'event',
    [{'$datetime': 'yesterday'}, {'$datetime': 7}, {'$dict': 7}, {'$dict': [[1]]}],
    ids=str,
)
def test_event_that_we_did_not_write_says_so(suspicious, directory, event):
    document = WHOLE | {'events': [{'reasons': ['odd'], 'event': {'header': event}}]}
    (directory / '510-0.json').write_text(json.dumps(document))
    (kept,) = suspicious.load('510-0.json').events

    with pytest.raises(DocumentError, match='cannot be read'):
        _ = kept.event
    with pytest.raises(DocumentError, match='cannot be read'):
        _ = kept.moment


@pytest.mark.parametrize(
    ('event', 'moment'),
    [
        ({'header': {'datetime': datetime(2011, 2, 22, 1)}}, datetime(2011, 2, 22, 1)),
        (
            {'header': {'datetime': datetime(2011, 2, 22)}, '$': 1},
            datetime(2011, 2, 22),
        ),
        ({'header': {'$': 0, 'datetime': datetime(2011, 2, 2)}}, datetime(2011, 2, 2)),
        ({'header': {'datetime': '2011-02-22'}}, None),
        ({'header': datetime(2011, 2, 22)}, None),
        ({'header': None}, None),
        ({}, None),
        ([1], None),
        (datetime(2011, 2, 22), None),
    ],
    ids=str,
)
def test_moment_is_the_datetime_of_the_header(suspicious, event, moment):
    name = suspicious.put(510, 'Science Park', RECEIVED, [Flagged(event, ('odd',))])

    (kept,) = suspicious.load(name).events
    assert kept.moment == moment


def test_last_written_is_first(suspicious, directory):
    names = [suspicious.put(510 + n, 'A', RECEIVED, FLAGGED) for n in range(3)]
    for name, seconds in zip(names, (20, 30, 10)):
        os.utime(directory / name, (seconds, seconds))

    assert suspicious.newest_first() == [names[1], names[0], names[2]]


def test_moved_document_is_in_the_other_directory_alone(suspicious, directory):
    name = suspicious.put(510, 'A', RECEIVED, FLAGGED)

    suspicious.move(name, suspicious.discarded, name)

    assert suspicious.names() == []
    assert suspicious.discarded.names() == [name]
    assert (directory / 'discarded' / name).exists()


def test_moved_document_is_safe_where_it_went_before_it_is_gone(
    suspicious, directory, fsynced
):
    name = suspicious.put(510, 'A', RECEIVED, FLAGGED)

    suspicious.move(name, suspicious.discarded, name)

    assert fsynced[-2:] == [
        (directory / 'discarded', [name]),
        (directory, ['discarded']),
    ]


def test_removed_document_is_gone_for_good(suspicious, directory, fsynced):
    suspicious.remove(suspicious.put(510, 'A', RECEIVED, FLAGGED))

    assert fsynced[-1] == (directory, [])


def test_free_name_is_of_no_file(suspicious, directory):
    assert suspicious.free_name('510-0.json') == '510-0.json'
    (directory / '510-0.json').touch()
    assert suspicious.free_name('510-0.json') == '510-0.2.json'
    (directory / '510-0.2.json').touch()
    assert suspicious.free_name('510-0.json') == '510-0.3.json'


def test_document_that_was_removed_can_be_removed_again(suspicious):
    name = suspicious.put(510, 'A', RECEIVED, FLAGGED)

    suspicious.remove(name)
    suspicious.remove(name)

    assert suspicious.names() == []
