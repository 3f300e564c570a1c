"""Every upload is answered with its code, and 100 only when it is on disk."""

import errno
import hashlib
import io
import json
import os
import pickle
import re
from datetime import datetime
from functools import partial
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from support import CLUSTER, PASSWORD, RECORDINGS, STATION, waiting_in, write_config

from datastore.batch import decode_batch
from datastore.config import ConfigError
from datastore.event import parse_event
from datastore.python2 import in_python_2_order, pickled_as_python_2
from datastore.spool import Spool
from datastore.suspicious import Suspicious
from datastore.upload_id import upload_id
from wsgi import outcomes, wsgi_app
from wsgi.protocol0 import EventReader
from wsgi.rcodes import TransactionFailed
from wsgi.repetition import Repetition

NOT_MINE = 'hunter2 & more'  # a password, but not the station's

BEFORE_EARLIEST = datetime(2015, 12, 31, 23, 59, 59)
COLD_START = datetime(2019, 4, 7, 1, 2, 3)
FAR_FUTURE = datetime(2999, 1, 1)

pytestmark = pytest.mark.usefixtures('new_process')


def fields_of(event_list, **changed):
    """Return the form of a good upload, some fields changed, or None for missing.

    `event_list` may also be bytes, which are sent instead of a pickle.
    """
    pickled = event_list
    if not isinstance(event_list, bytes):
        pickled = pickle.dumps(event_list, protocol=2)
    fields = {
        'station_id': STATION,
        'password': PASSWORD,
        'data': pickled,
        'checksum': hashlib.md5(pickled).hexdigest(),
    } | changed
    return {name: value for name, value in fields.items() if value is not None}


def environ_of(body, **changed):
    return {
        'REQUEST_METHOD': 'POST',
        'CONTENT_LENGTH': str(len(body)),
        'REMOTE_ADDR': '192.0.2.7',
        'wsgi.input': io.BytesIO(body),
        'wsgi.errors': io.StringIO(),
    } | changed


def answer_to(environ, configfile):
    """Return the number that a station reads in the answer."""
    started = []
    body = wsgi_app.application(
        environ,
        lambda status, headers: started.append((status, headers)),
        configfile=configfile,
    )
    answer = b''.join(body)
    assert re.fullmatch(b'[0-9]{3}', answer)
    headers = [('Content-Type', 'text/plain'), ('Content-Length', '3')]
    assert started == [('200 OK', headers)]
    return int(answer)


@pytest.fixture
def post(configfile):
    """Post a form and return the answer; keywords change the environ."""

    def post(fields, configfile=configfile, **changed):
        body = urlencode(fields).encode('ascii')
        return answer_to(environ_of(body, **changed), configfile)

    return post


@pytest.fixture
def upload(post):
    """Upload an event list and return the answer; keywords change the form."""

    def upload(event_list, configfile=None, **changed):
        where = {'configfile': configfile} if configfile else {}
        return post(fields_of(event_list, **changed), **where)

    return upload


@pytest.fixture
def spooled(data_dir):
    """Return the batches in the spool, decoded."""

    def spooled(data_dir=data_dir):
        spool = Spool(data_dir)
        waiting = spool.pending()
        return [decode_batch(spool.get(n)) for names in waiting.values() for n in names]

    return spooled


@pytest.fixture
def kept(data_dir):
    """Return the documents of suspicious events."""

    def kept(data_dir=data_dir):
        suspicious = Suspicious(data_dir)
        return [suspicious.get(name) for name in suspicious.names()]

    return kept


@pytest.fixture
def log(tmp_path):
    """Return what this process has logged."""

    def log(directory=tmp_path):
        return (directory / 'log' / f'hisparc-wsgi.{os.getpid()}').read_text()

    return log


def files_in(data_dir):
    """Return the files that hold events."""
    return [
        path
        for path in data_dir.rglob('*')
        if path.is_file() and data_dir / 'status' not in path.parents
    ]


@pytest.fixture
def fail(monkeypatch):
    """Make a function that the endpoint calls raise."""

    def fail(name, error):
        def failing(*arguments, **keywords):
            raise error

        monkeypatch.setattr(wsgi_app, name, failing)

    return fail


@pytest.fixture
def make_application(tmp_path):
    """Make a configuration in a directory of its own, with one station."""

    def make(name, station=STATION, cluster=CLUSTER, password=PASSWORD, **sections):
        directory = tmp_path / name
        directory.mkdir()
        configfile = write_config(directory, **sections)
        (directory / 'station_list.csv').write_text(
            f'{station}, {cluster}, {password}\n'
        )
        return configfile

    return make


# Uploads that are taken.


def test_good_batch_answers_100_and_is_spooled(upload, make_event, spooled, kept):
    event_list = [make_event(PH1=1), make_event('SIN', nanoseconds=0, MAS_CH1_LOW=9)]

    assert upload(event_list) == 100

    (batch,) = spooled()
    assert (batch.station, batch.cluster) == (STATION, CLUSTER)
    assert batch.events == tuple(map(parse_event, event_list))
    assert kept() == []


def test_batch_is_stamped_with_its_arrival(upload, make_event, spooled, monkeypatch):
    arrival = 1_700_000_000_123_456_789
    monkeypatch.setattr('time.time_ns', lambda: arrival)

    upload([make_event()])

    assert [batch.received for batch in spooled()] == [arrival]


def test_empty_event_list_answers_100_and_spools_nothing(upload, data_dir):
    assert upload([]) == 100

    assert files_in(data_dir) == []


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize(
    'read',
    [
        pytest.param(lambda pickled: pickled, id='as bytes'),
        pytest.param(lambda pickled: pickled.decode('latin-1'), id='as text'),
    ],
)
def test_pickle_of_any_protocol_is_taken_as_bytes_or_as_text(
    upload, make_event, spooled, protocol, read
):
    event = make_event(PH1=345, EVENTRATE=0.5, RED=True, TR1='é\xff')
    pickled = pickle.dumps([event], protocol)

    assert upload(pickled, data=read(pickled)) == 100

    (batch,) = spooled()
    assert batch.events == (parse_event(event),)


@pytest.mark.recording
@pytest.mark.parametrize(
    ('name', 'types'),
    [
        ('py2_s510_100events', {'CIC': 36, 'SIN': 64}),
        ('py2event', {'CIC': 1}),
        ('suspicious_event', {'CIC': 1}),
        ('py2_pysparc_config', {'CFG': 1}),
        ('py3event', {'CIC': 1}),
    ],
)
@pytest.mark.parametrize('encoding', [None, 'latin-1'], ids=['as bytes', 'as text'])
def test_recorded_upload_is_taken(
    upload, make_config, spooled, kept, name, types, encoding
):
    make_config(Suspicion={'earliest': '1999-01-01'})
    pickled = (RECORDINGS / name).read_bytes()

    assert upload(pickled, data=pickled.decode(encoding) if encoding else pickled) == (
        100
    )

    good = [event for batch in spooled() for event in batch.events]
    flagged = [each['event'] for document in kept() for each in document['events']]
    found = [event.event_type for event in good]
    found += [event['header']['eventtype_uploadcode'] for event in flagged]
    assert {event_type: found.count(event_type) for event_type in found} == types


def test_upload_is_logged_in_one_line(upload, make_event, log):
    upload([make_event(), make_event(nanoseconds=8)])

    *_, line = log().splitlines()
    assert re.search(
        rf'INFO station {STATION}: 2 events in \d+ bytes, answered 100 after ', line
    )


def test_same_batch_again_is_taken_again(upload, make_event, spooled):
    # A station that did not read our answer; the writer knows the events again.
    assert [upload([make_event()]) for _ in range(2)] == [100, 100]

    first, second = spooled()
    assert first.events == second.events


# Suspicious events.


def as_read_at_once(event_list):
    """Return the pickle of Python 2 stations, which is not unpickled."""
    pickled = pickled_as_python_2([in_python_2_order(event) for event in event_list])
    assert EventReader().read(pickled) is not None
    return pickled


# What reads them must not decide whether they are looked at.
of_each_python = pytest.mark.parametrize(
    'pickled',
    [
        pytest.param(partial(pickle.dumps, protocol=2), id='unpickled'),
        pytest.param(as_read_at_once, id='read at once'),
    ],
)


@of_each_python
def test_good_events_of_a_mixed_batch_are_spooled_and_the_others_kept(
    upload, make_event, spooled, kept, log, pickled
):
    good = [make_event(nanoseconds=n, PH1=1) for n in (1, 2)]
    early = make_event(moment=BEFORE_EARLIEST, PH1=1)
    cold = make_event(moment=COLD_START, nanoseconds=10**9, PH1=1)

    assert upload(pickled([early, good[0], cold, good[1]])) == 100

    (batch,) = spooled()
    assert batch.events == tuple(map(parse_event, good))
    (document,) = kept()
    assert (document['station'], document['cluster']) == (STATION, CLUSTER)
    assert document['received'] == batch.received
    assert [each['event'] for each in document['events']] == [early, cold]
    assert [each['reasons'] for each in document['events']] == [
        ['2015-12-31 23:59:59 is before 2016-01-01'],
        [
            '2019-04-07 is a date of GPS receivers that do not know the date',
            'nanoseconds are 1000000000, not within a second',
        ],
    ]
    assert re.search(
        rf'WARNING station {STATION}: 2 of 4 events are suspicious, kept in '
        rf'{STATION}-[0-9a-f]+\.json; the first: 2015-12-31 23:59:59 is before',
        log(),
    )


def test_event_of_an_unknown_type_is_kept_as_it_came(upload, make_event, spooled, kept):
    good, unknown = make_event(), make_event('XYZ', ABC=1)

    assert upload([good, unknown]) == 100

    assert [batch.events for batch in spooled()] == [(parse_event(good),)]
    (document,) = kept()
    assert document['events'] == [
        {'event': unknown, 'reasons': ["unknown event type 'XYZ'"]}
    ]


@of_each_python
def test_batch_of_suspicious_events_alone_answers_100_and_spools_nothing(
    upload, make_event, spooled, kept, pickled
):
    assert upload(pickled([make_event(moment=FAR_FUTURE, PH1=1)])) == 100

    assert spooled() == []
    (document,) = kept()
    assert document['events'][0]['reasons'] == ['2999-01-01 00:00:00 is in the future']


@pytest.mark.parametrize(
    ('tolerance', 'suspicious'), [('59 s', True), ('60 s', False)], ids=['59s', '60s']
)
@of_each_python
def test_future_starts_with_the_tolerance_from_our_clock(
    upload, make_config, make_event, kept, monkeypatch, pickled, tolerance, suspicious
):
    make_config(Suspicion={'future_tolerance': tolerance})
    monkeypatch.setattr('time.time', lambda: 1_580_702_706.0)  # 2020-02-03 04:05:06

    event = make_event(moment=datetime(2020, 2, 3, 4, 6, 6), PH1=1)

    assert upload(pickled([event])) == 100

    assert bool(kept()) == suspicious


@pytest.mark.parametrize(
    'event',
    [
        {},
        {'header': None},
        {'header': {}, 'datalist': {'a': [1.5, None]}},
        {'$dict': 1},
    ],
    ids=str,
)
def test_event_without_form_is_kept_as_it_came(upload, kept, event):
    assert upload([event]) == 100

    (document,) = kept()
    assert document['events'][0]['event'] == event


# Uploads that are refused.

PICKLED_NUMBER = pickle.dumps(7)


@pytest.mark.parametrize(
    ('rcode', 'changed'),
    [
        pytest.param(201, {'checksum': '0' * 32}, id='201 other checksum'),
        pytest.param(201, {'checksum': ''}, id='201 no checksum'),
        pytest.param(201, {'data': 'other'}, id='201 other data'),
        pytest.param(201, {'data': b'\xff'}, id='201 other bytes'),
        pytest.param(203, {'password': NOT_MINE}, id='203 other password'),
        pytest.param(203, {'password': ''}, id='203 empty password'),
        pytest.param(206, {'station_id': 511}, id='206 other station'),
        pytest.param(206, {'station_id': 0}, id='206 station 0'),
        pytest.param(400, {'station_id': None}, id='400 no station'),
        pytest.param(400, {'password': None}, id='400 no password'),
        pytest.param(400, {'data': None}, id='400 no data'),
        pytest.param(400, {'checksum': None}, id='400 no checksum'),
        pytest.param(400, {'station_id': 'five'}, id='400 station in letters'),
        pytest.param(
            203, {'password': NOT_MINE, 'checksum': ''}, id='203 goes before 201'
        ),
        pytest.param(
            206, {'station_id': 511, 'password': NOT_MINE}, id='206 goes before 203'
        ),
    ],
)
def test_refused_form_spools_nothing(upload, make_event, data_dir, log, rcode, changed):
    assert upload([make_event(), make_event('XYZ')], **changed) == rcode

    assert files_in(data_dir) == []
    *_, line = log().splitlines()
    assert ' WARNING ' in line
    assert f': answered {rcode}: ' in line


@pytest.mark.parametrize(
    'data',
    [
        pytest.param(b'', id='nothing'),
        pytest.param(b'not a pickle', id='no pickle'),
        pytest.param(pickle.dumps([{}])[:-1], id='truncated'),
        pytest.param(PICKLED_NUMBER, id='a number'),
        pytest.param(pickle.dumps({}), id='a dict'),
        pytest.param(pickle.dumps([[]]), id='a list of lists'),
        pytest.param(pickle.dumps([{}, None]), id='an event and None'),
        pytest.param(pickle.dumps([{'a': {1}}]), id='a set inside'),
        pytest.param(pickle.dumps([{'a': os.system}]), id='a function inside'),
    ],
)
def test_data_that_is_no_event_list_answers_208_and_spools_nothing(
    upload, data_dir, data
):
    assert upload(data) == 208

    assert files_in(data_dir) == []


def test_nothing_is_unpickled_before_its_sender_and_checksum_are_known(
    upload, make_event, fail
):
    fail('load_event_list', AssertionError('unpickled too early'))

    assert upload([make_event()], password=NOT_MINE) == 203
    assert upload([make_event()], station_id=511) == 206
    assert upload([make_event()], checksum='0') == 201


@pytest.mark.parametrize(
    'changed',
    [
        pytest.param({'REQUEST_METHOD': 'GET'}, id='GET'),
        pytest.param({'CONTENT_LENGTH': ''}, id='no length'),
        pytest.param({'CONTENT_LENGTH': '-1'}, id='negative length'),
        pytest.param({'CONTENT_LENGTH': '99999'}, id='too short a body'),
        pytest.param({'CONTENT_LENGTH': '5'}, id='too short a length'),
    ],
)
def test_refused_request_answers_400_and_spools_nothing(
    post, make_event, data_dir, changed
):
    assert post(fields_of([make_event()]), **changed) == 400

    assert files_in(data_dir) == []


def test_body_over_max_upload_answers_400(upload, make_config, make_event, data_dir):
    make_config(General={'max_upload': 100})

    assert upload([make_event()]) == 400

    assert files_in(data_dir) == []


def test_refusal_names_the_station_or_the_address(upload, make_event, log):
    upload([make_event()], checksum='')
    upload([make_event()], station_id='five')

    assert f' station {STATION}: answered 201: ' in log()
    assert ' a sender at 192.0.2.7: answered 400: ' in log()


# The log.


def uploads_in(text):
    """Return the ids in the lines of a log."""
    return re.findall(r'\(upload ([0-9a-f]{8})\)', text)


def test_id_of_an_upload_is_in_every_line_about_it_and_in_its_files(
    upload, make_event, data_dir, kept, log
):
    upload([make_event(), make_event('XYZ')])

    (name,) = waiting_in(data_dir)
    (document,) = kept()
    assert uploads_in(log()) == [document['upload']] * 2
    assert upload_id(name) == document['upload']


def test_each_upload_has_an_id_of_its_own(upload, make_event, log):
    upload([make_event()])
    upload([make_event()], checksum='')
    upload([make_event()], station_id='five')

    assert len(set(uploads_in(log()))) == 3


def test_outcome_of_an_upload_is_in_the_fields_of_a_json_line(
    upload, make_config, make_event, log
):
    make_config(General={'log_format': 'json'})
    upload([make_event(), make_event('XYZ')])
    upload([make_event()], password=NOT_MINE)
    _, flagged, taken, refused = map(json.loads, log().splitlines())

    assert flagged['upload'] == taken['upload'] != refused['upload']
    assert (flagged['level'], flagged['suspicious']) == ('WARNING', 1)
    assert (taken['level'], taken['rcode'], taken['events']) == ('INFO', 100, 2)
    assert (refused['level'], refused['rcode']) == ('WARNING', 203)
    for line in (taken, refused):
        assert (line['station'], line['address']) == (STATION, '192.0.2.7')
        assert line['bytes'] > 0
        assert line['milliseconds'] > 0
        assert line['program'] == f'wsgi.{os.getpid()}'


def test_refusals_are_logged_once_and_then_counted(
    upload, make_event, log, monkeypatch
):
    now = 1_700_000_000.0
    monkeypatch.setattr(outcomes, 'Repetition', lambda: Repetition(lambda: now))
    refuse = partial(upload, [make_event()], password=NOT_MINE)
    assert [refuse() for _ in range(5)] == [203] * 5
    assert log().count('answered 203') == 1

    now += 60
    refuse()
    refuse()
    *_, line = log().splitlines()
    since = datetime.fromtimestamp(1_700_000_000).strftime('%H:%M:%S')
    assert f' INFO station {STATION}: answered 203 5 times more since {since}: ' in line

    upload([make_event()])
    *_, line, taken = log().splitlines()
    assert f'{STATION}: answered 203 1 times more since ' in line
    assert ', then this one was taken (upload ' in line
    assert ' answered 100 ' in taken


def test_line_is_not_broken_by_what_a_stranger_sends(post, log):
    for fields in ({'station_id': '5\n2026'}, {'a\nb': 1, 'a\rb': 2}):
        assert post(fields_of([]) | fields) in (100, 400)
    assert post({'a\nb': 1}, REMOTE_ADDR='::1\nforged') == 400

    assert all(re.match(r'\d{4}-', line) for line in log().splitlines())
    assert r'::1\nforged' in log()


def test_internal_errors_are_logged_once_and_then_counted(
    upload, make_event, log, fail
):
    fail('load_event_list', RuntimeError('a fault'))

    assert [upload([make_event()]) for _ in range(3)] == [400] * 3

    assert log().count('Traceback') == 1


# What is counted.


def get(configfile, path, **environ):
    """Return the status and body of the answer to a GET."""
    started = []
    environ = environ_of(b'', REQUEST_METHOD='GET', PATH_INFO=path) | environ
    body = wsgi_app.application(
        environ, lambda status, headers: started.append(status), configfile=configfile
    )
    return started[0], b''.join(body).decode()


def test_uploads_are_counted_by_what_became_of_them(
    upload, make_config, make_event, configfile
):
    make_config(Status={'per_station_metrics': 'yes'})
    upload([make_event(), make_event('SIN'), make_event('SIN'), make_event('XYZ')])
    upload([make_event()], password=NOT_MINE)
    upload([make_event()], station_id=511)
    upload([make_event()], station_id='five')

    status, text = get(configfile, '/metrics', REMOTE_ADDR='127.0.0.1')

    assert status == '200 OK'
    lines = text.splitlines()
    for line in (
        'datastore_uploads_total{rcode="100"} 1.0',
        'datastore_uploads_total{rcode="203"} 1.0',
        'datastore_uploads_total{rcode="206"} 1.0',
        'datastore_uploads_total{rcode="400"} 1.0',
        'datastore_upload_seconds_count 4.0',
        'datastore_events_total{type="CIC"} 1.0',
        'datastore_events_total{type="SIN"} 2.0',
        'datastore_suspicious_events_total{where="endpoint"} 1.0',
        f'datastore_station_events_total{{station="{STATION}"}} 4.0',
        f'datastore_station_uploads_total{{rcode="100",station="{STATION}"}} 1.0',
        f'datastore_station_uploads_total{{rcode="203",station="{STATION}"}} 1.0',
        'datastore_spool_batches 1.0',
    ):
        assert line in lines
    assert 'station="511"' not in text


def test_metrics_are_not_there_for_other_machines(configfile):
    assert get(configfile, '/metrics') == ('404 Not Found', 'not found\n')


def test_get_of_another_path_is_an_upload_that_is_none(configfile):
    environ = {'REMOTE_ADDR': '127.0.0.1'}

    assert get(configfile, '/metrics/', **environ) == ('200 OK', '400')


def test_counts_that_cannot_be_kept_are_no_reason_to_refuse(
    upload, make_event, data_dir, spooled, log
):
    data_dir.mkdir()
    (data_dir / 'status').touch()

    assert upload([make_event()]) == 100

    assert len(spooled()) == 1
    assert log().count(f'not all is counted in {data_dir}/status') == 1


# Faults of ours.


@pytest.mark.parametrize(
    'name',
    ['read_upload', 'verified_data', 'load_event_list', 'sort_out', 'encode_series'],
)
@pytest.mark.parametrize(
    'error', [RuntimeError('a fault'), MemoryError(), KeyError('k')], ids=repr
)
def test_unexpected_exception_answers_400_and_is_logged_with_a_traceback(
    upload, make_event, data_dir, log, fail, name, error
):
    fail(name, error)

    assert upload([make_event()]) == 400

    assert files_in(data_dir) == []
    said, *traceback = log().splitlines()[1:]
    upload = re.fullmatch(
        r'.* ERROR .*: internal error, answered 400 \(upload (\w{8})\)', said
    )[1]
    assert traceback[0] == f'    {upload} | Traceback (most recent call last):'
    assert traceback[-1].startswith(f'    {upload} | {type(error).__name__}')
    assert all(line.startswith(f'    {upload} | ') for line in traceback)
    assert 'answered 100' not in log()


def test_environ_without_what_a_server_must_give_answers_400(configfile, log):
    environ = environ_of(b'')
    del environ['wsgi.input']

    assert answer_to(environ, configfile) == 400

    assert 'Traceback' in log()


def raise_disk_full(*arguments):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('function', ['write', 'fsync', 'rename'])
@pytest.mark.parametrize('event_type', ['CIC', 'XYZ'], ids=['good', 'suspicious'])
def test_disk_that_does_not_take_the_batch_answers_205_and_leaves_nothing(
    upload, make_event, data_dir, log, monkeypatch, function, event_type
):
    upload([])

    monkeypatch.setattr(os, function, raise_disk_full)

    assert upload([make_event(event_type)]) == 205

    assert files_in(data_dir) == []
    *_, line = log().splitlines()
    assert 'the disk does not take it: [Errno 28] No space left on device; ' in line


@pytest.mark.parametrize(
    'half', [(Spool, 'append'), (Suspicious, 'put')], ids=['good', 'suspicious']
)
def test_mixed_batch_that_is_sent_again_after_205_is_kept_once(
    upload, make_event, spooled, kept, monkeypatch, half
):
    event_list = [make_event(), make_event('XYZ')]
    with monkeypatch.context() as patch:
        patch.setattr(*half, raise_disk_full)
        assert upload(event_list) == 205
    assert spooled() == []

    assert upload(event_list) == 100

    (batch,) = spooled()
    assert len(batch.events) == 1
    (document,) = kept()
    assert len(document['events']) == 1


def test_upload_that_is_held_back_answers_205_and_is_logged_once(
    upload, make_config, make_event, spooled, kept, log
):
    make_config(General={'max_spool_size': '1 B'})
    event_list = [make_event(), make_event('XYZ')]

    assert [upload(event_list) for _ in range(3)] == [205, 205, 205]

    assert spooled() == kept() == []
    assert log().count('max_spool_size is 1; ') == 1
    assert re.search('ERROR uploads: answered 205: ', log())


def test_wrong_password_is_refused_however_full_the_spool_is(
    upload, make_config, make_event
):
    make_config(General={'max_spool_size': '1 B'})

    assert upload([make_event()], password=NOT_MINE) == 203


def test_directory_that_has_gone_answers_205(upload, make_event, data_dir):
    upload([])
    for path in (data_dir / 'incoming', data_dir / 'tmp'):
        path.rmdir()

    assert upload([make_event()]) == 205


# What the log never holds.


def test_passwords_are_never_logged(upload, post, make_event, log, fail):
    for changed in (
        {},
        {'checksum': ''},
        {'password': NOT_MINE},
        {'station_id': 511, 'password': NOT_MINE},
        {'station_id': 'five'},
        {'data': None},
    ):
        upload([make_event()], **changed)
    upload([make_event('CFG', CFG_PASSWORD=NOT_MINE, CFG_BUFFER=[])])
    upload(b'not a pickle')
    post(fields_of([]), REQUEST_METHOD='GET')
    fail('load_event_list', RuntimeError('a fault'))
    upload([make_event()])

    for rcode in (100, 201, 203, 206, 208, 400):
        assert f'answered {rcode}' in log()
    assert 'Traceback' in log()
    for password in (PASSWORD, NOT_MINE):
        for written in (password, urlencode({'': password})[1:]):
            assert written not in log()


# Configurations.


def test_log_of_a_process_is_named_after_it(upload, make_event, tmp_path, monkeypatch):
    upload([make_event()])
    monkeypatch.setattr(os, 'getpid', lambda: 4321)
    upload([make_event()])

    first, second = sorted(
        (tmp_path / 'log').iterdir(), key=lambda path: path.name.endswith('.4321')
    )
    assert second.name == 'hisparc-wsgi.4321'
    assert first.read_text().count('answered 100') == 1
    assert second.read_text().count('answered 100') == 1


def test_log_that_is_a_dash_goes_to_standard_error(
    upload, make_config, make_event, tmp_path, capsys
):
    make_config(General={'log': '-'})

    assert upload([make_event()]) == 100

    assert 'answered 100' in capsys.readouterr().err
    assert not (tmp_path / 'log').exists()


def test_configuration_is_read_once(upload, make_event, configfile):
    upload([])
    configfile.unlink()

    assert upload([make_event()]) == 100


def test_relative_configfile_is_found_after_a_change_of_directory(
    post, make_event, configfile, monkeypatch
):
    monkeypatch.chdir(configfile.parent)
    endpoint = wsgi_app.do_init(configfile.name)

    assert wsgi_app.do_init(str(configfile)) is endpoint
    assert wsgi_app.do_init(configfile) is endpoint


@pytest.mark.parametrize(
    'spoil',
    [
        pytest.param(lambda d: (d / 'config.ini').write_text('?'), id='configuration'),
        pytest.param(lambda d: (d / 'station_list.csv').unlink(), id='station list'),
        pytest.param(lambda d: (d / 'log').touch(), id='log'),
        pytest.param(lambda d: (d / 'data').touch(), id='data directory'),
    ],
)
def test_configuration_that_cannot_be_used_stops_do_init(configfile, tmp_path, spoil):
    spoil(tmp_path)

    with pytest.raises(ConfigError) as error_info:
        wsgi_app.do_init(configfile)

    said = str(error_info.value)
    assert said.startswith(str(tmp_path))
    assert '\n' not in said


def test_configuration_that_cannot_be_used_answers_400_until_it_is_mended(
    configfile, make_config, make_event
):
    configfile.write_text('[General]\n')
    body = urlencode(fields_of([make_event()])).encode()
    environ = environ_of(body)

    assert answer_to(environ, configfile) == 400

    said = environ['wsgi.errors'].getvalue()
    assert said == f'{configfile}: key log is missing in [General]\n'
    make_config()
    assert answer_to(environ_of(body), configfile) == 100


def test_two_applications_in_one_process_do_not_mix(
    upload, make_application, make_event, tmp_path, spooled, kept, log
):
    here = make_application('here', 501, 'Here', 'pass-here')
    there = make_application(
        'there', 502, 'There', 'pass-there', Suspicion={'earliest': '2024-01-01'}
    )
    as_501 = {'station_id': 501, 'password': 'pass-here'}
    as_502 = {'station_id': 502, 'password': 'pass-there'}

    assert upload([make_event()], here, **as_501) == 100
    assert upload([make_event()], there, **as_502) == 100
    assert upload([make_event()], here, **as_502) == 206
    assert upload([make_event()], there, **as_501) == 206
    assert upload([make_event()], here, **as_501) == 100

    assert [b.cluster for b in spooled(tmp_path / 'here' / 'data')] == ['Here'] * 2
    assert kept(tmp_path / 'here' / 'data') == []
    assert spooled(tmp_path / 'there' / 'data') == []
    assert [d['cluster'] for d in kept(tmp_path / 'there' / 'data')] == ['There']
    assert re.findall(r'station (\d+): 1 events', log(tmp_path / 'here')) == ['501'] * 2
    assert re.findall(r'station (\d+): 1 events', log(tmp_path / 'there')) == ['502']


# The functions beside the callable.


def test_store_data_stores_where_do_init_said_last(
    make_application, make_event, tmp_path, spooled, kept
):
    here, there = make_application('here'), make_application('there')
    wsgi_app.do_init(here)
    wsgi_app.store_data(7, 'A', [make_event()])
    wsgi_app.do_init(there)
    wsgi_app.store_data(8, 'B', [make_event(), make_event('XYZ')])
    wsgi_app.do_init(here)
    wsgi_app.store_data(9, 'C', [])

    assert [b.station for b in spooled(tmp_path / 'here' / 'data')] == [7]
    assert [b.cluster for b in spooled(tmp_path / 'there' / 'data')] == ['B']
    assert kept(tmp_path / 'here' / 'data') == []
    assert [d['station'] for d in kept(tmp_path / 'there' / 'data')] == [8]


def test_store_data_is_not_led_astray_by_another_application(
    make_application, upload, make_event, tmp_path, spooled
):
    here, there = make_application('here'), make_application('there')
    wsgi_app.do_init(here)
    upload([], there)

    wsgi_app.store_data(7, 'A', [make_event()])

    assert [b.station for b in spooled(tmp_path / 'here' / 'data')] == [7]
    assert spooled(tmp_path / 'there' / 'data') == []


def test_store_data_raises_where_the_disk_does_not_take_it(
    configfile, make_event, data_dir, monkeypatch
):
    wsgi_app.do_init(configfile)
    monkeypatch.setattr(os, 'write', raise_disk_full)

    with pytest.raises(TransactionFailed, match='No space left'):
        wsgi_app.store_data(STATION, CLUSTER, [make_event()])

    assert files_in(data_dir) == []


def test_data_is_suspicious_by_the_limits_of_the_last_do_init(
    make_application, make_event
):
    here = make_application('here')
    there = make_application('there', Suspicion={'earliest': '2024-01-01'})
    event_list = [make_event()]

    wsgi_app.do_init(here)
    assert wsgi_app.is_data_suspicious(event_list) is False
    wsgi_app.do_init(there)
    assert wsgi_app.is_data_suspicious(event_list) is True


def test_one_suspicious_event_makes_the_data_suspicious(configfile, make_event):
    wsgi_app.do_init(configfile)

    assert not wsgi_app.is_data_suspicious([])
    assert not wsgi_app.is_data_suspicious([make_event(), make_event()])
    assert wsgi_app.is_data_suspicious([make_event(), make_event('XYZ')])


@pytest.mark.parametrize(
    'function',
    [
        pytest.param(lambda: wsgi_app.store_data(1, 'A', []), id='store_data'),
        pytest.param(lambda: wsgi_app.is_data_suspicious([]), id='is_data_suspicious'),
    ],
)
def test_functions_that_need_do_init_say_so(function):
    with pytest.raises(RuntimeError, match='do_init'):
        function()


def test_decode_object_decodes_what_is_inside_and_needs_no_do_init():
    assert wsgi_app.decode_object(
        {b'a\xff': [b'b', ('c', b'\x80'), {'d': b''}], 'e': 1.5, b'f': None}
    ) == {'a\xff': ['b', ('c', '\x80'), {'d': ''}], 'e': 1.5, 'f': None}


# The protocol.


@pytest.mark.parametrize(
    ('method', 'answer'), [('POST', b'100'), ('GET', b'400'), ('HEAD', b'400')]
)
def test_application_keeps_to_wsgi(configfile, make_event, method, answer):
    body = urlencode(fields_of([make_event()])).encode()
    environ = environ_of(body, REQUEST_METHOD=method)
    setup_testing_defaults(environ)
    environ['QUERY_STRING'] = ''
    application = validator(partial(wsgi_app.application, configfile=configfile))

    answered = application(environ, lambda status, headers: lambda data: None)

    assert list(answered) == [answer]
    answered.close()
