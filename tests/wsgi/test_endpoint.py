"""The endpoint over HTTP, on a real uWSGI that runs what `examples/` holds."""

import contextlib
import hashlib
import http.client
import os
import pickle
import shutil
import signal
import socket
import time
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from support import PASSWORD, STATION, start_uwsgi, stop, waiting_in

from datastore.passwords import hash_password
from datastore.simulation import Simulation
from datastore.station import Station, utc_now

# One event as a Python 2 station pickles it, written by hand: protocol 0, text
# as byte strings, booleans as I01.  2020-02-03 04:05:06.
PYTHON_2_EVENT = b"""\
(lp1
(dp2
S'header'
p3
(dp4
S'eventtype_uploadcode'
p5
S'CIC'
p6
sS'nanoseconds'
p7
I123456789
sS'datetime'
p8
cdatetime
datetime
p9
(S'\\x07\\xe4\\x02\\x03\\x04\\x05\\x06\\x00\\x00\\x00'
p10
tRp11
ssS'datalist'
p12
(lp13
(dp14
S'data_uploadcode'
p15
S'RED'
p16
sS'data'
p17
I01
sa(dp18
g15
S'PH1'
p19
sg17
I345
sa(dp20
g15
S'EVENTRATE'
p21
sg17
F0.5
sa(dp22
g15
S'TR1'
p23
sg17
S'eJwz0DHUMdIx1jHRMdUx0zHXsdCxBAAjaAOa'
p24
sasa."""


def md5(content):
    return hashlib.md5(content).hexdigest()


def fields(data=PYTHON_2_EVENT, **changed):
    """The four fields of a good upload, some of them changed, or None for none."""
    pickled = data.encode('latin-1') if isinstance(data, str) else data
    good = {
        'station_id': STATION,
        'password': PASSWORD,
        'data': data,
        'checksum': md5(pickled),
    }
    return {k: v for k, v in (good | changed).items() if v is not None}


@pytest.fixture(scope='module')
def server(module_configfile):
    server = start_uwsgi(module_configfile)
    yield server
    stop(server.process)


@pytest.fixture
def post(server):
    """POST a body; answers are checked to be the bare number, as text."""

    def post(body, **arguments):
        response = requests.post(server.url, data=body, timeout=30, **arguments)
        assert response.status_code == 200
        assert response.headers['Content-Type'] == 'text/plain'
        return response.text

    return post


@pytest.fixture
def waiting(server):
    """Count the batches in the spool."""
    return lambda: len(waiting_in(server.data_dir))


READINGS = {
    'raw bytes': PYTHON_2_EVENT,
    'latin-1 text as UTF-8': PYTHON_2_EVENT.decode('latin-1'),
    'binary pickle as raw bytes': pickle.dumps([{'header': {}, 'datalist': []}], 4),
    'binary pickle as UTF-8': pickle.dumps([{'header': {}, 'datalist': []}], 4).decode(
        'latin-1'
    ),
}


@pytest.mark.parametrize('data', READINGS.values(), ids=READINGS.keys())
def test_good_upload_answers_100(post, data):
    assert post(fields(data)) == '100'


def test_good_upload_is_in_the_spool_when_100_is_read(post, waiting):
    before = waiting()
    assert post(fields()) == '100'
    assert waiting() == before + 1


REFUSED = {
    'checksum of something else': ('201', fields(checksum=md5(b'another'))),
    'checksum that is none': ('201', fields(checksum='none')),
    'empty checksum': ('201', fields(checksum='')),
    'wrong password': ('203', fields(password='wrong')),
    'empty password': ('203', fields(password='')),
    'unknown station': ('206', fields(station_id=999)),
    'data that is no pickle': ('208', fields(b'no pickle')),
    'no data': ('208', fields(b'')),
    'pickle of something else': ('208', fields(pickle.dumps({'a': 1}))),
    'list of something else': ('208', fields(pickle.dumps([1, 2]))),
    'pickle that names a function': ('208', fields(b'cos\nsystem\n(S"true"\ntR.')),
    'empty body': ('400', b''),
    'body that is no form': ('400', b'\x00\xff' * 50),
    'form without values': ('400', b'station_id&password&data&checksum'),
    'no station_id': ('400', fields(station_id=None)),
    'no password': ('400', fields(password=None)),
    'no data field': ('400', fields() | {'data': None}),
    'no checksum': ('400', fields(checksum=None)),
    'station_id=abc': ('400', fields(station_id='abc')),
    'negative station_id': ('400', fields(station_id=-510)),
    'empty station_id': ('400', fields(station_id='')),
    'station_id twice': ('400', urlencode(fields()) + '&station_id=511'),
}


@pytest.mark.parametrize(('rcode', 'body'), REFUSED.values(), ids=REFUSED.keys())
def test_bad_upload_is_refused_with_its_code_and_spools_nothing(
    post, waiting, rcode, body
):
    if isinstance(body, dict):
        body = {k: v for k, v in body.items() if v is not None}
    before = waiting()
    assert post(body) == rcode
    assert waiting() == before


@pytest.mark.parametrize('method', ['GET', 'PUT', 'DELETE', 'OPTIONS'])
def test_other_methods_answer_400(server, method):
    response = requests.request(method, server.url, timeout=30)
    assert (response.status_code, response.text) == (200, '400')


def test_any_path_takes_uploads(server):
    response = requests.post(server.url + 'hisparc/upload', data=fields(), timeout=30)
    assert response.text == '100'


def test_multipart_form_answers_400(server):
    response = requests.post(server.url, files={'data': b'x'}, timeout=30)
    assert response.text == '400'


def test_body_over_the_limit_answers_400(post, waiting):
    before = waiting()
    assert post(fields(b'x' * (16 * 2**20 + 1))) == '400'
    assert waiting() == before


def test_body_without_a_length_answers_400(server):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.putrequest('POST', '/')
    connection.putheader('Content-Type', 'application/x-www-form-urlencoded')
    connection.endheaders()
    assert connection.getresponse().read() == b'400'


def test_sender_that_hangs_up_costs_nobody_else_an_answer(server, post, waiting):
    before = waiting()
    address = urlsplit(server.url)
    for _ in range(10):  # more than all workers have threads
        with socket.create_connection((address.hostname, address.port)) as sender:
            body = urlencode(fields()).encode()
            sender.sendall(
                b'POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n' % len(body)
                + body[:100]
            )
    assert post(fields()) == '100'
    assert waiting() == before + 1


def test_suspicious_event_answers_100_and_is_kept_with_its_reason(server, post):
    event = pickle.loads(PYTHON_2_EVENT, encoding='latin-1')
    event[0]['header']['nanoseconds'] = -1
    assert post(fields(pickle.dumps(event, 2))) == '100'
    kept = [path.read_text() for path in (server.data_dir / 'suspicious').iterdir()]
    assert any('nanoseconds are -1' in document for document in kept)


def test_what_the_disk_does_not_take_answers_205_until_it_does(
    server, post, waiting, tmp_path
):
    before = waiting()
    incoming = server.data_dir / 'incoming'
    shutil.move(incoming, tmp_path / 'elsewhere')
    incoming.touch()
    try:
        assert post(fields()) == '205'
    finally:
        incoming.unlink()
        shutil.move(tmp_path / 'elsewhere', incoming)
    assert waiting() == before
    assert post(fields()) == '100'
    assert waiting() == before + 1


def test_internal_error_answers_400_and_logs_its_traceback(configfile):
    server = start_uwsgi(
        configfile,
        application=(
            'import functools\n'
            'from wsgi import wsgi_app\n'
            'def fail(pickled):\n'
            '    raise RuntimeError("a fault of ours")\n'
            'wsgi_app.load_event_list = fail\n'
            'application = functools.partial(\n'
            f'    wsgi_app.application, configfile={str(configfile)!r})\n'
        ),
    )
    try:
        response = requests.post(server.url, data=fields(), timeout=30)
    finally:
        stop(server.process)
    assert response.text == '400'
    logs = [path.read_text() for path in (configfile.parent / 'log').iterdir()]
    assert any('Traceback' in log and 'a fault of ours' in log for log in logs)
    assert waiting_in(server.data_dir) == []


def test_each_worker_logs_to_a_file_of_its_own_and_never_the_password(server, post):
    assert post(fields()) == '100'
    assert post(fields(password='a wrong guess')) == '203'
    logs = list((server.configfile.parent / 'log').iterdir())
    processes = {path.name.removeprefix('hisparc-wsgi.') for path in logs}
    assert processes & set(map(str, server.workers))
    text = ''.join(path.read_text() for path in logs)
    assert f'station {STATION}: 1 events' in text
    assert 'sent a wrong password' in text
    assert PASSWORD not in text
    assert 'a wrong guess' not in text


def test_station_that_is_added_is_let_in_without_a_restart(server, post):
    added = fields(station_id=8001, password='another secret')
    assert post(added) == '206'
    path = server.configfile.with_name('station_list.csv')
    hashed = hash_password('another secret')
    path.write_text(f'{path.read_text()}8001, Eindhoven, {hashed}\n')

    deadline = time.monotonic() + 10
    while (answer := post(added)) == '206' and time.monotonic() < deadline:
        pass

    assert answer == '100'
    assert post(fields()) == '100'


def test_log_to_standard_error_is_in_the_output_of_uwsgi(make_config):
    configfile = make_config(General={'log': '-'})
    server = start_uwsgi(configfile)
    try:
        requests.post(server.url, data=fields(), timeout=30)
    finally:
        stop(server.process)
    assert f'station {STATION}: 1 events' in server.log.read_text()
    assert not (configfile.parent / 'log').exists()


MISTAKES = {
    'missing key': ({'General': {'data_dir': None}}, 'key data_dir is missing'),
    'unknown key': ({'Writer': {'slep': 5}}, 'unknown key slep in [Writer]'),
    'bad value': ({'Writer': {'sleep': 'long'}}, "sleep in [Writer]: 'long'"),
    'no station list': ({'General': {'station_list': '/nowhere'}}, '/nowhere'),
}


@pytest.mark.parametrize(('sections', 'line'), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistake_in_the_configuration_stops_the_start_with_one_line(
    make_config, sections, line
):
    configfile = make_config(**sections)
    with pytest.raises(RuntimeError, match='uWSGI did not start') as failure:
        start_uwsgi(configfile)
    said = str(failure.value)
    assert line in said
    assert 'Traceback' not in said


def test_upload_of_a_simulated_station_is_taken(server, waiting):
    before = waiting()
    events = Simulation.ending(utc_now(), 100, seed=1).take(100)
    assert Station(server.url, STATION, PASSWORD, tries=1).upload(events) == 1
    assert waiting() == before + 1


def test_worker_killed_in_the_middle_is_replaced(server, waiting):
    before = waiting()
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as sender:
        sender.sendall(b'POST / HTTP/1.0\r\nContent-Length: 1000\r\n\r\n')
        for worker in server.workers:
            os.kill(worker, signal.SIGKILL)
    # A worker that is dying may still take a connection, and drop it.
    station = Station(server.url, STATION, PASSWORD, sleep=lambda seconds: None)
    station.upload_pickle(PYTHON_2_EVENT)
    assert waiting() > before


def written(name, text):
    return lambda directory: (directory / name).write_text(text)


def log_that_is_a_file(directory):
    shutil.rmtree(directory / 'log')
    (directory / 'log').touch()


SINCE_THE_START = {
    'configuration with a mistake': written('config.ini', '[General]\n'),
    'data moved away': lambda d: written(
        'config.ini', (d / 'config.ini').read_text().replace('/data', '/elsewhere')
    )(d),
    'list with a mistake': written('station_list.csv', 'xx, yy\n'),
    'list that lists nothing': written('station_list.csv', ''),
    'list removed': lambda directory: (directory / 'station_list.csv').unlink(),
    'log that cannot be written': log_that_is_a_file,
}


@pytest.mark.parametrize('change', SINCE_THE_START.values(), ids=SINCE_THE_START.keys())
def test_worker_that_has_not_worked_yet_works_as_the_master_was_started(
    configfile, change
):
    server = start_uwsgi(configfile)
    try:
        change(configfile.parent)
        answer = requests.post(server.url, data=fields(), timeout=30).text
    finally:
        stop(server.process)
    assert answer == '100', server.log.read_text()
    assert len(waiting_in(server.data_dir)) == 1
    logs = [*(configfile.parent / 'log').glob('*'), server.log]
    assert any(f'station {STATION}: 1 events' in path.read_text() for path in logs)


def test_configuration_that_no_master_has_read_is_complained_of_in_its_log(configfile):
    server = start_uwsgi(
        configfile,
        application=(
            'import functools\n'
            'from wsgi import wsgi_app\n'
            'application = functools.partial(\n'
            f'    wsgi_app.application, configfile={str(configfile)!r})\n'
        ),
    )
    try:
        configfile.write_text('[General]\n')
        answer = requests.post(server.url, data=fields(), timeout=30).text
        # Said while it runs, not when it ends.
        said = server.log.read_text()
    finally:
        stop(server.process)
    assert answer == '400'
    assert f'{configfile}: key log is missing in [General]' in said


def test_silent_senders_lose_their_workers_after_the_socket_timeout(configfile):
    server = start_uwsgi(configfile, threads=1, **{'socket-timeout': 1})
    address = urlsplit(server.url)
    with contextlib.ExitStack() as silent:
        for _ in server.workers:
            sender = socket.create_connection((address.hostname, address.port))
            silent.enter_context(sender)
            sender.sendall(b'POST / HTTP/1.0\r\nContent-Length: 1000\r\n\r\nstation')
        try:
            response = requests.post(server.url, data=fields(), timeout=30)
        finally:
            stop(server.process)
    assert response.text == '100'
