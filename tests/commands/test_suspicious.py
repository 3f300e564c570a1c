"""`datastore suspicious` on what a real endpoint and a real writer flagged."""

import contextlib
import errno
import fcntl
import io
import os
from datetime import datetime
from functools import partial

import h5py
import pytest
from support import CLUSTER, GROUP, PASSWORD, STATION, Crash, waiting_in

from datastore import decisions, durable
from datastore.batch import decode_batch
from datastore.review import Review
from datastore.spool import Spool
from datastore.station import form, pickle_events
from datastore.suspicious import Flagged
from writer.writer_app import writer
from wsgi import wsgi_app

EARLY = datetime(2015, 5, 17, 9, 30)
NEXT_DAY = datetime(2015, 5, 18)
OTHER = 8001  # another station

pytestmark = pytest.mark.usefixtures('new_process')


@pytest.fixture
def upload(configfile):
    """Upload an event list to the WSGI application, which takes it."""

    def upload(*event_list):
        body = form(STATION, PASSWORD, pickle_events(list(event_list)))
        environ = {
            'REQUEST_METHOD': 'POST',
            'CONTENT_LENGTH': str(len(body)),
            'wsgi.input': io.BytesIO(body),
            'wsgi.errors': io.StringIO(),
        }
        answer = wsgi_app.application(environ, lambda *_: None, configfile)
        assert b''.join(answer) == b'100'

    return upload


@pytest.fixture
def put(suspicious, make_event):
    """Keep events of a station, each with one reason, and return the ID."""

    def put(*events, station=STATION, reason='odd', received=1):
        flagged = [Flagged(event, (reason,)) for event in events or [make_event()]]
        return id_of(suspicious.put(station, CLUSTER, received, flagged))

    return put


@pytest.fixture
def run(run_command):
    """Run `datastore suspicious`; return its exit status and what it said."""
    return partial(run_command, 'suspicious')


@pytest.fixture
def ids(suspicious):
    return lambda: [id_of(name) for name in suspicious.names()]


@pytest.fixture
def stored(configfile, data_dir):
    """Run the writer, and return the nanoseconds of the rows of a day."""

    def stored(moment=EARLY):
        writer(configfile, once=True)
        day = f'{moment.year}/{moment.month}/{moment:%Y}_{moment.month}_{moment.day}'
        path = data_dir / day / f'station_{STATION}.h5'
        if not path.exists():
            return []
        with h5py.File(path) as file:
            return file[GROUP]['events']['nanoseconds'].tolist()

    return stored


@pytest.fixture
def decided(run_json):
    """Return what was decided: the decision, the ID and how many events."""

    def decided():
        _, made = run_json('list', '--decisions')
        return [(each['decision'], each['id'], each['events']) for each in made]

    return decided


def id_of(name):
    return name.removesuffix('.json')


def early(make_event, *nanoseconds, **values):
    return [make_event(moment=EARLY, nanoseconds=n, **values) for n in nanoseconds]


def files_in(directory):
    return {
        path.relative_to(directory): path.read_bytes()
        for path in directory.rglob('*')
        if path.is_file()
    }


# List.


def test_nothing_is_listed_where_nothing_is_kept(run, run_json, data_dir):
    data_dir.mkdir()

    status, out, err = run('list')
    assert (status, out.count('\n'), err) == (0, 1, '')
    assert run_json('list') == (0, [])
    assert list(data_dir.iterdir()) == []


def test_list_tells_who_when_and_why(upload, run_json, ids, make_event):
    later = make_event('XYZ', NEXT_DAY)
    upload(*early(make_event, 1, 2), later, make_event())

    status, listed = run_json('list')

    received = listed[0].pop('received')
    assert datetime.fromisoformat(received.removesuffix('Z'))
    assert status == 0
    assert listed == [
        {
            'id': ids()[0],
            'station': STATION,
            'cluster': CLUSTER,
            'events': 3,
            'events_in_file': 3,
            'first': '2015-05-17',
            'last': '2015-05-18',
            'reasons': [
                {'reason': '2015-05-17 09:30:00 is before 2016-01-01', 'events': 2},
                {'reason': "unknown event type 'XYZ'", 'events': 1},
            ],
            'fault': None,
        }
    ]


def test_list_is_a_table_for_people(upload, run, ids, make_event):
    upload(*early(make_event, *range(1500)))

    _, out, _ = run('list')

    header, line, total = out.splitlines()
    assert header.split() == ['ID', 'received', '(UTC)', 'events', 'days', 'reasons']
    assert line.startswith(ids()[0])
    assert line.endswith(
        '1,500  2015-05-17  1,500x 2015-05-17 09:30:00 is before 2016-01-01'
    )
    assert total == '1 files, 1,500 events'


def test_reasons_that_differ_in_numbers_are_counted_together(put, run_json, suspicious):
    reasons = ['PH1 is 70000', 'PH1 is -1.5e+20', 'PH2 is 5', 'PH1 is nan']
    suspicious.put(STATION, CLUSTER, 1, [Flagged({}, (text,)) for text in reasons])

    _, (listed,) = run_json('list')

    counts = {each['reason']: each['events'] for each in listed['reasons']}
    assert counts == {'PH1 is 70000': 2, 'PH2 is 5': 1, 'PH1 is nan': 1}


@pytest.mark.parametrize(
    ('filters', 'events'),
    [
        pytest.param([], [3, 1], id='none'),
        pytest.param(['--station', '510'], [3], id='a station'),
        pytest.param(['--station', '510', '--station', '8001'], [3, 1], id='stations'),
        pytest.param(['--station', '51'], [], id='another station'),
        pytest.param(['--from', '2015-05-18'], [1, 1], id='from'),
        pytest.param(['--until', '2015-05-17'], [1], id='until'),
        pytest.param(
            ['--from', '2015-05-17', '--until', '2015-05-18'], [2], id='between'
        ),
        pytest.param(['--reason', 'FUTURE'], [1], id='a reason'),
        pytest.param(['--reason', 'no such'], [], id='another reason'),
        pytest.param(['--received-since', '2017-01-01T00:00:01'], [1], id='received'),
        pytest.param(['--received-since', '2017-01-01'], [3, 1], id='received too'),
        pytest.param(['--limit', '1'], [1], id='the last'),
    ],
)
def test_filters_choose_events(put, run_json, make_event, directory, filters, events):
    moments = EARLY, NEXT_DAY
    first = put(
        *[make_event(moment=moment) for moment in moments],
        {'header': 'none'},
        received=1_483_228_800 * 10**9,  # 2017-01-01
    )
    put(
        make_event(),
        station=OTHER,
        reason='it is in the future',
        received=1_483_228_801 * 10**9,
    )
    os.utime(directory / f'{first}.json', (1, 1))

    status, listed = run_json('list', *filters)

    assert status == 0
    assert [each['events'] for each in listed] == events


@pytest.fixture
def directory(data_dir, suspicious):
    return data_dir / 'suspicious'


def test_file_that_cannot_be_read_is_listed_as_such(put, run, run_json, directory):
    kept = put()
    (directory / '510-bad.json').write_text('{"torn')
    (directory / 'a\x1b[31mb.json').write_text('{}')
    (directory / 'directory.json').mkdir()

    status, listed = run_json('list')
    faults = {each['id']: bool(each['fault']) for each in listed}
    assert status == 1
    assert faults == {
        kept: False,
        '510-bad': True,
        'a\x1b[31mb': True,
        'directory': True,
    }
    status, out, _ = run('list')
    assert status == 1
    assert '\x1b' not in out
    assert out.endswith('4 files, 1 events, 3 files cannot be read\n')


def test_file_that_vanishes_is_left_out_of_the_list(
    put, run_json, suspicious, monkeypatch
):
    put(), put(station=OTHER)
    names = suspicious.newest_first()
    monkeypatch.setattr(
        'datastore.suspicious.Documents.newest_first', lambda self: names
    )
    suspicious.remove(names[0])

    status, listed = run_json('list')

    assert status == 0
    assert [each['id'] for each in listed] == [id_of(names[1])]


# Show.


def test_show_prints_what_was_sent_and_why_it_is_kept(upload, run, ids, make_event):
    values = {'PH1': 345, 'TR1': 'x' * 1000, 'a\x1bb': 'é\x1b[31m\ud800', 'T': [1]}
    upload(*early(make_event, 1, 2, **values))

    status, out, _ = run('show', ids()[0], '--event', '2')

    assert status == 0
    assert '\x1b' not in out
    lines = [line.split(maxsplit=1) for line in out.splitlines() if line]
    assert ['Event', '2 of 2'] in lines
    assert ['suspicious:', "'T' is neither a number nor text"] in lines
    assert ['cannot', "be released: 'T' is neither a number nor text"] in lines
    assert ['nanoseconds', '2'] in lines
    assert ['PH1', '345'] in lines
    assert ['TR1', f"'{'x' * 59}... (1,000 characters)"] in lines
    assert ['a\\x1bb', "'é\\x1b[31m\\ud800'"] in lines
    assert 'Event 1' not in out


@pytest.mark.parametrize(
    'event',
    [
        None,
        {},
        {'header': 7, 'datalist': [7]},
        {'header': {'$a': [{}]}, 'datalist': [7, {'data': 1}], 'more': 'said'},
    ],
    ids=str,
)
def test_event_of_any_form_is_shown(put, run, run_json, event):
    kept = put(event)

    status, out, _ = run('show', kept)
    assert status == 0
    assert 'cannot be released: ' in out
    assert ('said' in out) == ('said' in str(event))
    status, shown = run_json('show', kept)
    assert status == 0
    assert shown['events'][0]['reasons'] == ['odd']
    assert len(shown['events'][0]['cannot_be_released']) == 1


def test_shown_json_is_whole(put, run_json, make_event):
    kept = put(make_event(TR1='x' * 1000))

    _, shown = run_json('show', kept)

    (event,) = shown['events']
    assert event['event']['datalist'] == [
        {'data_uploadcode': 'TR1', 'data': 'x' * 1000}
    ]
    assert event['cannot_be_released'] == []
    assert (shown['id'], shown['station']) == (kept, STATION)


@pytest.mark.parametrize('action', ['show', 'release', 'discard', 'restore'])
@pytest.mark.parametrize(
    'wanted',
    [
        '../../secret',
        '../suspicious/510-bad',
        'decisions.jsonl',
        '',
        '/etc/passwd',
        'discarded',
    ],
)
def test_what_is_no_id_is_one_line_with_a_hint(
    put, run, data_dir, directory, action, wanted
):
    put()
    (directory / '510-bad.json').write_text('{}')
    (data_dir / 'secret.json').write_text('{}')
    before = files_in(data_dir)

    status, out, err = run(action, wanted)

    assert (status, out) == (1, '')
    assert err.startswith(f'datastore: nothing is called {wanted!r}; see: ')
    assert err.count('\n') == 1
    assert files_in(data_dir) == before


def test_id_may_be_how_it_starts_if_only_one_does(put, run):
    first, other = put(), put(station=OTHER)

    assert run('show', f'{STATION}-')[0] == 0
    assert first in run('show', first[:6])[1]
    assert first in run('show', f'{first}.json')[1]
    put({})
    status, _, err = run('show', f'{STATION}-')
    assert status == 1
    assert 'may be 2 of those there are' in err
    assert other in run('show', '8001-')[1]


@pytest.mark.parametrize('action', ['show', 'release', 'discard'])
def test_station_is_not_taken_for_how_its_only_file_starts(put, run, ids, action):
    kept = put()

    status, _, err = run(action, str(STATION))

    assert status == 1
    assert f'see: datastore suspicious list --station {STATION}' in err
    assert ids() == [kept]


def test_event_that_a_file_does_not_have_is_said(put, run):
    status, _, err = run('show', put(), '--event', '2')

    assert status == 1
    assert 'has 1 events, no event 2' in err


# Release.


def test_released_events_are_stored_once(upload, run, ids, make_event, stored, decided):
    upload(*early(make_event, 1, 2))
    (kept,) = ids()

    status, out, err = run('release', kept)

    assert (status, err) == (0, '')
    assert out.splitlines()[0] == f'{kept}  2 events released'
    assert ids() == []
    assert stored() == [1, 2]
    assert decided() == [('released', kept, 2)]
    # The station sends one of them again, in another cut.
    upload(*early(make_event, 2, 3))
    assert run('release', '--all', '--yes')[0] == 0
    assert stored() == [1, 2, 3]


def test_batch_of_released_events_is_that_of_the_upload(
    upload, run, run_json, ids, make_event, suspicious, data_dir
):
    upload(*early(make_event, 1, PH1=3))
    document = suspicious.load(f'{ids()[0]}.json')

    _, said = run_json('release', ids()[0])

    ((name,),) = Spool(data_dir).pending().values()
    assert said['documents'][0]['spooled_as'] == name
    batch = decode_batch(Spool(data_dir).get(name))
    assert batch[:3] == document[:3]
    assert [e.as_uploaded() for e in batch.events] == [document.events[0].event]


def test_what_cannot_become_a_row_stays_kept_and_the_others_are_released(
    upload, run_json, ids, make_event, stored, suspicious
):
    (wide,) = early(make_event, 2, PH1=99_999)
    unknown = make_event('XYZ', EARLY)
    upload(*early(make_event, 1), wide, unknown, {}, *early(make_event, 3))

    status, said = run_json('release', *ids())

    assert status == 1
    (document,) = said['documents']
    assert document['events'] == 2
    assert document['held'] == [
        {'number': 2, 'reasons': ['PH1 is 99999, which does not fit int16']},
        {'number': 3, 'reasons': ["unknown event type 'XYZ'"]},
        {'number': 4, 'reasons': ['the event has no header']},
    ]
    assert [document['kept_as']] == ids()
    rest = suspicious.load(f'{ids()[0]}.json').events
    assert [kept.event for kept in rest] == [wide, unknown, {}]
    assert rest[0].reasons == ('2015-05-17 09:30:00 is before 2016-01-01',)
    assert stored() == [1, 3]
    assert len(ids()) == 1


def test_what_the_writer_flagged_cannot_be_released(
    upload, run, ids, make_event, stored, decided, data_dir
):
    moment = datetime(2020, 2, 3)
    upload(make_event(moment=moment, PH1=99_999), make_event(moment=moment))
    assert stored(moment) == [7]
    (kept,) = ids()

    status, out, _ = run('release', kept)

    assert status == 1
    assert 'event 1 cannot be released: PH1 is 99999, which does not fit' in out
    assert ids() == [kept]
    assert waiting_in(data_dir) == []
    assert decided() == []


def test_codes_that_no_column_takes_are_told(put, run, make_event):
    status, out, _ = run('release', put(make_event(PH1=1, ABC=2)))

    assert status == 0
    assert "as no column takes them: the values of 'ABC'" in out


def test_filter_releases_the_events_that_pass_it_alone(
    upload, run, ids, make_event, stored, suspicious
):
    (other,) = early(make_event, 10**9)
    upload(*early(make_event, 1), make_event(moment=NEXT_DAY), other)

    status, _, _ = run('release', '--until', '2015-05-17', '--yes')

    assert status == 0
    assert stored() == [1, 10**9]
    (kept,) = suspicious.load(f'{ids()[0]}.json').events
    assert kept.moment == NEXT_DAY


@pytest.mark.parametrize('action', ['release', 'discard', 'restore'])
def test_nothing_named_is_called_wrongly(put, run, action, capsys):
    put()

    with pytest.raises(SystemExit) as stopped:
        run(action, '--yes')

    assert stopped.value.code == 2
    assert 'name an ID, or give a filter, or --all' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments',
    [
        ['release', '510-a', '--all'],
        ['discard', '510-a', '--discarded'],
        ['list', '--limit', '0'],
        ['list', '--decisions', '--reason', 'a'],
        ['list', '--decisions', '--discarded'],
        ['list', '--received-since', 'noon'],
        ['show', '510-a', '--event', '0'],
        ['show'],
        [],
    ],
    ids=' '.join,
)
def test_wrong_call_is_status_2(run, arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)

    assert stopped.value.code == 2


@pytest.mark.parametrize('action', ['release', 'discard'])
def test_without_ids_nothing_is_done_before_yes(put, run, data_dir, action):
    put()
    before = files_in(data_dir)

    status, out, err = run(action, '--all')

    assert status == 1
    assert f'1 events would be {action}' in out
    assert err == f'datastore: nothing was done; to {action} these, add --yes\n'
    assert files_in(data_dir) == before


@pytest.mark.parametrize(
    'arguments',
    [
        ['release', '--all', '--yes'],
        ['release', '510-'],
        ['discard', '510-'],
        ['discard', '510-', '--purge'],
        ['discard', '510-', '--reason', 'odd'],
    ],
    ids=' '.join,
)
def test_dry_run_does_nothing(put, run, data_dir, arguments):
    put()
    before = files_in(data_dir)

    status, out, err = run(*arguments, '--dry-run')

    assert (status, err) == (0, '')
    assert '1 events would be' in out
    assert files_in(data_dir) == before


def test_file_that_cannot_be_read_is_a_fault_and_the_others_are_released(
    put, run, ids, directory
):
    put()
    (directory / '510-bad.json').write_text('{"torn')

    status, out, err = run('release', '--all', '--yes')

    assert status == 1
    assert out.startswith('510-')
    assert err.startswith('datastore: 510-bad: not a document')
    assert ids() == ['510-bad']


def test_file_that_vanishes_before_its_release_is_a_fault(
    put, run, suspicious, monkeypatch
):
    gone, there = put(), put(station=OTHER)
    names = suspicious.names()
    monkeypatch.setattr('datastore.suspicious.Documents.names', lambda self: names)
    suspicious.remove(f'{gone}.json')

    status, out, err = run('release', gone, there)

    assert status == 1
    assert err == f'datastore: {gone}: it is gone\n'
    assert f'{there}  1 events released' in out


@pytest.mark.parametrize('name', ['rename', 'fsync', 'write'])
def test_disk_that_takes_nothing_leaves_everything_kept(
    put, run, ids, data_dir, monkeypatch, name
):
    kept = put()
    Spool(data_dir)

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, name, fail)

    status, _, err = run('release', kept)

    assert status == 1
    assert err == f'datastore: {kept}: No space left on device\n'
    assert ids() == [kept]
    assert waiting_in(data_dir) == []


@pytest.fixture
def dying(monkeypatch):
    """Have the process die at the nth call that changes the disk, if there is one."""

    @contextlib.contextmanager
    def dying(point):
        calls = []

        def may_die(call, *arguments, **keywords):
            calls.append(call)
            if len(calls) == point:
                raise Crash
            return call(*arguments, **keywords)

        with monkeypatch.context() as patch:
            for name in ('rename', 'fsync', 'write', 'unlink'):
                patch.setattr(os, name, partial(may_die, getattr(os, name)))
            try:
                yield
            except Crash:
                return
        assert len(calls) < point

    return dying


@pytest.mark.parametrize('point', range(1, 20))
def test_crash_anywhere_in_a_release_loses_and_doubles_nothing(
    upload, run, ids, make_event, stored, dying, point, suspicious
):
    upload(*early(make_event, 1), make_event('XYZ', EARLY), *early(make_event, 2))
    (kept,) = ids()
    with dying(point):
        run('release', kept)

    # Nothing is told of the first try: whatever is there is released again.
    run('release', '--all', '--yes')
    assert sorted(stored()) == [1, 2]
    (_,) = suspicious.names()
    assert [k.event['header']['eventtype_uploadcode'] for k in get(suspicious)] == [
        'XYZ'
    ]


def get(suspicious):
    (name,) = suspicious.names()
    return suspicious.load(name).events


def test_two_who_decide_do_not_get_in_each_others_way(put, run, ids, directory):
    kept = put()
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        status, _, err = run('release', kept)
    finally:
        os.close(descriptor)

    assert status == 1
    assert 'another `datastore suspicious` is at work' in err
    assert ids() == [kept]
    assert run('release', kept)[0] == 0


def test_root_is_not_to_leave_files_that_the_writer_cannot_read(
    put, run, data_dir, monkeypatch
):
    kept = put()
    monkeypatch.setattr(os, 'geteuid', lambda: 0)
    before = files_in(data_dir)
    os.chown(data_dir, 54321, -1)

    status, _, err = run('release', kept)

    assert status == 1
    assert 'belongs to user #54321' in err
    assert files_in(data_dir) == before


def test_data_dir_that_is_not_there_is_said_and_not_made(run, data_dir):
    for arguments in (['list'], ['show', 'a'], ['release', '--all']):
        status, _, err = run(*arguments)
        assert status == 1
        assert f'data_dir in [General]: {data_dir} is no directory' in err

    assert not data_dir.exists()


# Discard and restore.


def test_discarded_events_can_be_restored_and_released(
    upload, run, ids, make_event, stored, decided, suspicious
):
    upload(*early(make_event, 1, 2))
    (kept,) = ids()
    content = suspicious.read(f'{kept}.json')

    assert run('discard', kept)[0] == 0
    assert ids() == []
    assert kept in run('list', '--discarded')[1]
    assert run('show', kept, '--discarded')[0] == 0
    assert run('restore', kept)[0] == 0
    assert suspicious.read(f'{kept}.json') == content
    assert run('release', kept)[0] == 0

    assert stored() == [1, 2]
    assert decided() == [
        ('discarded', kept, 2),
        ('restored', kept, 2),
        ('released', kept, 2),
    ]


def test_filter_discards_the_events_that_pass_it_alone(
    upload, run_json, ids, make_event, suspicious
):
    upload(*early(make_event, 1), make_event(moment=NEXT_DAY))

    status, said = run_json('discard', '--from', '2015-05-18', '--yes')

    assert status == 0
    (document,) = said['documents']
    (aside,) = suspicious.discarded.load(f'{document["new_id"]}.json').events
    assert aside.moment == NEXT_DAY
    assert [document['kept_as']] == ids()
    assert [kept.moment for kept in get(suspicious)] == [EARLY]


def test_what_was_discarded_twice_stands_beside_the_first(put, run, suspicious):
    for received in (1, 2):
        assert run('discard', put(received=received))[0] == 0

    aside = suspicious.discarded
    assert sorted(aside.load(name).received for name in aside.names()) == [1, 2]


def test_purged_events_are_gone_for_good(put, run, run_json, suspicious, directory):
    kept, aside = put(), put(station=OTHER)
    run('discard', aside)

    assert run('discard', kept, '--purge')[0] == 0
    assert run('discard', '--purge', '--discarded', '--all', '--yes')[0] == 0

    assert suspicious.names() == suspicious.discarded.names() == []
    _, made = run_json('list', '--decisions')
    assert [each['decision'] for each in made] == ['discarded', 'purged', 'purged']
    assert made[0]['sha256'] == made[2]['sha256'] != made[1]['sha256']
    assert made[1]['reasons'] == {'odd': 1}
    assert run_json('list', '--decisions', '--station', str(OTHER), '--limit', '1') == (
        0,
        [made[2]],
    )


def test_file_that_cannot_be_read_can_be_discarded(run, ids, suspicious, directory):
    (directory / '510-bad.json').write_bytes(b'{"torn')

    assert run('discard', '510-bad', '--reason', 'odd')[0] == 1
    assert ids() == ['510-bad']
    assert run('discard', '510-bad')[0] == 0

    assert ids() == []
    assert suspicious.discarded.read('510-bad.json') == b'{"torn'


@pytest.mark.parametrize('whole', [True, False], ids=['whole', 'in part'])
@pytest.mark.parametrize('point', range(1, 16))
def test_crash_anywhere_in_a_discard_loses_nothing(
    put, run, make_event, dying, suspicious, point, whole
):
    events = [make_event(moment=EARLY), make_event(moment=NEXT_DAY)]
    kept = put(*events)
    with dying(point):
        run('discard', kept, *([] if whole else ['--from', '2015-05-18']))

    found = [
        event.event
        for documents in (suspicious, suspicious.discarded)
        for name in documents.names()
        for event in documents.load(name).events
    ]
    assert all(event in found for event in events)


# The record.


def test_record_tells_when_who_and_what(put, run, run_json, monkeypatch):
    monkeypatch.setattr(decisions, 'login_name', lambda: 'anna')
    kept = put(received=7)

    run('release', kept)

    _, (made,) = run_json('list', '--decisions')
    assert datetime.fromisoformat(made.pop('when')).utcoffset().total_seconds() == 0
    assert len(made.pop('sha256')) == 64
    assert made.pop('spool').endswith('.batch')
    assert made == {
        'who': 'anna',
        'decision': 'released',
        'id': kept,
        'station': STATION,
        'cluster': CLUSTER,
        'received': 7,
        'events': 1,
        'reasons': {'odd': 1},
        'rest': None,
    }
    status, out, _ = run('list', '--decisions')
    assert status == 0
    assert out.splitlines()[1].split()[1:] == [
        'anna',
        'released',
        kept,
        '1',
        '1x',
        'odd',
    ]


def test_record_survives_a_line_that_a_crash_tore(put, run, decided, directory):
    first = put()
    run('discard', first)
    record = directory / 'decisions.jsonl'
    record.write_bytes(record.read_bytes() + b'{"when": "2026')

    second = put(station=OTHER)
    run('discard', second)

    assert decided() == [('discarded', first, 1), ('discarded', second, 1)]


def test_full_disk_leaves_no_torn_line_and_decides_nothing(
    data_dir, put, ids, monkeypatch, directory
):
    kept = put()
    review = Review(data_dir)
    review.decisions.append({'decision': 'none'})
    before = (directory / 'decisions.jsonl').read_bytes()

    def write_half(descriptor, content):
        os.write(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(durable, 'write_all', write_half)
    with pytest.raises(OSError, match='No space left'):
        review.decisions.append({'decision': 'other'})

    assert (directory / 'decisions.jsonl').read_bytes() == before
    assert ids() == [kept]


def test_no_decision_is_told_as_such(run, run_json, data_dir):
    data_dir.mkdir()

    assert run('list', '--decisions') == (0, 'Nothing has been decided.\n', '')
    assert run_json('list', '--decisions') == (0, [])


def test_login_name_is_that_of_the_account_where_nobody_logged_in(monkeypatch):
    def fail():
        raise OSError(errno.ENOTTY, 'Inappropriate ioctl for device')

    monkeypatch.setattr(os, 'getlogin', fail)
    monkeypatch.setattr(os, 'getuid', lambda: 54321)
    monkeypatch.delenv('SUDO_USER', raising=False)
    assert decisions.login_name() == '54321'
    monkeypatch.setenv('SUDO_USER', 'anna')
    assert decisions.login_name() == 'anna'
