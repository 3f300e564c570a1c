"""The pages for machines: what they say, and to whom."""

import contextlib
import hashlib
import io
import json
import os
import pickle
import signal
import socket
from urllib.parse import urlencode, urlsplit

import pytest
import requests
from support import CLUSTER, PASSWORD, STATION, start_uwsgi, stop

from datastore import cli
from datastore.heartbeat import put_heartbeat
from datastore.spool import Spool
from datastore.tally import read_tallies
from writer.writer_app import writer
from wsgi import status_pages, wsgi_app

ALIVE = {'pid': 1}

pytestmark = pytest.mark.usefixtures('new_process')


def ask(configfile, path, method='GET', address='127.0.0.1', **changed):
    """Return status, headers and body of the answer of this process."""
    environ = {
        'REQUEST_METHOD': method,
        'PATH_INFO': path,
        'REMOTE_ADDR': address,
        'wsgi.input': io.BytesIO(),
        'wsgi.errors': io.StringIO(),
    } | changed
    started = []
    body = wsgi_app.application(
        environ, lambda *arguments: started.append(arguments), configfile
    )
    ((status, headers),) = started
    return status, dict(headers), b''.join(body)


@pytest.fixture
def health(configfile, data_dir):
    """Return the status of /healthz and the reasons, beside a writer that lives."""
    put_heartbeat(data_dir, ALIVE)

    def health(configfile=configfile):
        status, _, body = ask(configfile, '/healthz')
        document = json.loads(body)
        assert document['healthy'] is (not document['reasons'])
        return status, document['reasons']

    return health


def test_all_is_well(health):
    assert health() == ('200 OK', [])


def test_asking_leaves_nothing_behind(health, configfile, data_dir):
    wsgi_app.do_init(configfile)
    before = sorted(data_dir.rglob('*'))

    health()

    assert sorted(data_dir.rglob('*')) == before


def test_writer_that_has_never_run_is_unhealthy(configfile):
    status, _, body = ask(configfile, '/healthz')

    assert status == '503 Service Unavailable'
    assert json.loads(body)['reasons'] == ['the writer has never run here']


def test_writer_that_is_silent_is_unhealthy(health, data_dir):
    os.utime(data_dir / 'status' / 'writer.json', (0, 0))

    status, (reason,) = health()
    assert status == '503 Service Unavailable'
    assert 'said nothing for' in reason


def test_writer_that_sleeps_long_may_be_silent_long(make_config, health, data_dir):
    path = data_dir / 'status' / 'writer.json'
    hour_ago = path.stat().st_mtime - 3600
    os.utime(path, (hour_ago, hour_ago))

    assert health(make_config(Writer={'sleep': '1 hour'})) == ('200 OK', [])


def test_writer_that_cannot_read_the_spool_is_unhealthy(health, data_dir):
    put_heartbeat(data_dir, ALIVE | {'fault': 'Input/output error'})

    status, (reason,) = health()
    assert status == '503 Service Unavailable'
    assert 'Input/output error' in reason


def test_uploads_that_would_be_held_back_are_unhealthy(make_config, health):
    status, (reason,) = health(make_config(General={'min_free_space': '1024 TiB'}))

    assert status == '503 Service Unavailable'
    assert 'answered 205' in reason
    assert 'min_free_space' in reason


def test_spool_that_is_gone_is_unhealthy(health, data_dir):
    assert health() == ('200 OK', [])
    (data_dir / 'incoming').rename(data_dir / 'elsewhere')

    status, (reason,) = health()
    assert status == '503 Service Unavailable'
    assert str(data_dir / 'incoming') in reason


def test_station_list_without_stations_is_unhealthy(health, tmp_path):
    (tmp_path / 'station_list.csv').write_text('# none\n')

    status, (reason,) = health()
    assert status == '503 Service Unavailable'
    assert 'no station is listed' in reason


def test_station_list_that_was_spoiled_is_unhealthy_before_a_restart(
    health, tmp_path, monkeypatch
):
    monkeypatch.setattr('wsgi.following._SETTLING', 0)
    assert health() == ('200 OK', [])
    (tmp_path / 'station_list.csv').write_text(f'{STATION}, {CLUSTER}\n')

    status, (reason,) = health()
    assert status == '503 Service Unavailable'
    assert 'station_list.csv, line 1' in reason


def test_configuration_that_cannot_be_used_is_unhealthy_and_not_shown(tmp_path):
    status, _, body = ask(tmp_path / 'none.ini', '/healthz')

    assert status == '503 Service Unavailable'
    assert b'none.ini' not in body


def test_status_of_a_directory_that_has_gone_is_answered_503(configfile, data_dir):
    assert ask(configfile, '/status.json')[0] == '200 OK'
    data_dir.rename(data_dir.with_name('elsewhere'))

    assert ask(configfile, '/healthz')[0] == '503 Service Unavailable'


@pytest.mark.parametrize('path', status_pages.PAGES)
def test_head_is_answered_as_get_without_its_body(configfile, path):
    status, headers, body = ask(configfile, path, method='HEAD')

    assert (status, body) == (ask(configfile, path)[0], b'')
    assert int(headers['Content-Length']) > 0


@pytest.mark.parametrize('path', status_pages.PAGES)
def test_upload_to_the_path_of_a_page_is_an_upload(configfile, path):
    assert ask(configfile, path, method='POST') == (
        '200 OK',
        {'Content-Type': 'text/plain', 'Content-Length': '3'},
        b'400',
    )


@pytest.mark.parametrize('path', ['/', '/healthz/', '/status', '/metrics.json', ''])
def test_get_of_another_path_is_answered_as_stations_expect(configfile, path):
    assert ask(configfile, path)[2] == b'400'


NETWORKS = {
    # allow, who asks, whether that is allowed
    'loopback': (None, '127.0.0.1', True),
    'loopback of IPv6': (None, '::1', True),
    'IPv4 on a socket for both': (None, '::ffff:127.0.0.1', True),
    'stranger': (None, '192.0.2.1', False),
    'stranger on a socket for both': (None, '::ffff:192.0.2.1', False),
    'stranger of IPv6': (None, '2001:db8::1', False),
    'unix socket': (None, '', False),
    'nonsense': (None, 'localhost', False),
    'network that is named': ('192.0.2.0/24, 2001:db8::/32', '192.0.2.200', True),
    'network of IPv6': ('192.0.2.0/24, 2001:db8::/32', '2001:db8::7', True),
    'loopback that is not named': ('192.0.2.0/24', '127.0.0.1', False),
    'nobody': ('off', '127.0.0.1', False),
}


@pytest.mark.parametrize(
    ('allow', 'address', 'is_allowed'), NETWORKS.values(), ids=NETWORKS.keys()
)
@pytest.mark.parametrize('path', status_pages.PAGES)
def test_only_networks_that_are_allowed_are_told(
    make_config, data_dir, path, allow, address, is_allowed
):
    put_heartbeat(data_dir, ALIVE)
    configfile = make_config(Status={'allow': allow})
    status, _, body = ask(configfile, path, address=address)

    assert status == ('200 OK' if is_allowed else '404 Not Found')
    if not is_allowed:
        assert body == b'not found\n'


@pytest.mark.parametrize('header', ['X_FORWARDED_FOR', 'X_REAL_IP', 'FORWARDED'])
@pytest.mark.parametrize('address', ['127.0.0.1', '192.0.2.1'])
def test_nobody_is_told_through_a_web_server_or_as_if(configfile, header, address):
    headers = {f'HTTP_{header}': '127.0.0.1'}

    assert ask(configfile, '/healthz', address=address, **headers)[0] == '404 Not Found'


def test_error_of_ours_is_not_taken_for_good_health(configfile, monkeypatch, tmp_path):
    def fail(_):
        raise RuntimeError('a fault of ours')

    monkeypatch.setitem(status_pages.PAGES, '/healthz', fail)

    status, _, body = ask(configfile, '/healthz')
    assert (status, body) == ('500 Internal Server Error', b'see the log\n')
    log = (tmp_path / 'log' / f'hisparc-wsgi.{os.getpid()}').read_text()
    assert 'a fault of ours' in log


def test_long_spool_is_gone_through_now_and_then_only(
    configfile, data_dir, monkeypatch
):
    monkeypatch.setattr('datastore.status._SCAN_INTERVAL', 3600.0)
    endpoint = wsgi_app.do_init(configfile)
    assert json.loads(status_pages.status_json(endpoint).body)['spool']['batches'] == 0
    Spool(data_dir).put(STATION, b'a batch')
    assert json.loads(status_pages.status_json(endpoint).body)['spool']['batches'] == 0


# On a real uWSGI with two workers.


def form_of(make_event, **changed):
    pickled = pickle.dumps([make_event()], 2)
    return {
        'station_id': STATION,
        'password': PASSWORD,
        'data': pickled,
        'checksum': hashlib.md5(pickled).hexdigest(),
    } | changed


def upload_with_both_workers(server, form):
    """Upload with one worker while the other waits for the rest of an upload."""
    body = urlencode(form).encode('ascii')
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as sender:
        head = b'POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n' % len(body)
        sender.sendall(head + body[:100])
        assert requests.post(server.url, data=form, timeout=30).text == '100'
        sender.sendall(body[100:])
        with sender.makefile('rb') as answer:
            assert answer.read().endswith(b'\r\n\r\n100')


@pytest.fixture
def uwsgi_of_one_thread(configfile):
    """A uWSGI whose worker has time for one upload."""
    server = start_uwsgi(configfile, threads=1)
    yield server
    stop(server.process)


def test_workers_add_up_and_lose_nothing_when_they_are_killed(
    uwsgi_of_one_thread, make_event, data_dir, capsys
):
    uwsgi = uwsgi_of_one_thread
    form = form_of(make_event)
    upload_with_both_workers(uwsgi, form)
    files = sorted(path.name for path in (data_dir / 'status').iterdir())
    assert files == ['1.tally', '2.tally']
    for rcode, changed in (
        ('203', {'password': 'wrong'}),
        ('201', {'checksum': 'wrong'}),
        ('206', {'station_id': 999}),
        ('400', {'station_id': 'none'}),
    ):
        answer = requests.post(uwsgi.url, data=form | changed, timeout=30)
        assert answer.text == rcode
    for worker in uwsgi.workers:
        os.kill(worker, signal.SIGKILL)
    while True:
        # A worker that is dying may still take a connection, and drop it.
        with contextlib.suppress(requests.ConnectionError):
            answer = requests.post(uwsgi.url, data=form, timeout=30)
            break
    assert answer.text == '100'
    writer(uwsgi.configfile, once=True)

    document = requests.get(uwsgi.url + 'status.json', timeout=30).json()
    (station,) = document['stations']
    assert (station['station'], station['cluster']) == (STATION, CLUSTER)
    assert station['state'] == 'up'
    assert station['uploads'] >= 3
    assert station['events'] == {'CIC': station['uploads']}
    assert station['bytes'] == station['uploads'] * len(form['data'])
    assert (station['stored'], station['duplicates']) == (1, station['uploads'] - 1)
    assert {code: n['count'] for code, n in station['refusals'].items()} == {
        '201': 1,
        '203': 1,
    }
    unknown = document['unknown_senders']
    assert {code: n['count'] for code, n in unknown.items()} == {'206': 1, '400': 1}
    assert read_tallies(data_dir).keys() == {0, STATION}

    # The command prints the same document.
    assert cli.main(['status', '--json', '--config', str(uwsgi.configfile)]) == 0
    printed = json.loads(capsys.readouterr().out)
    # But for what goes on meanwhile.
    for moving in ('time', 'disk', 'spool'):
        assert type(printed.pop(moving)) is type(document.pop(moving))
    assert printed == document


def test_health_over_http_is_for_allowed_networks_whatever_the_headers_say(
    make_config, data_dir
):
    put_heartbeat(data_dir, ALIVE)
    server = start_uwsgi(make_config(Status={'allow': '192.0.2.0/24'}))
    try:
        for path in ('healthz', 'status.json'):
            for header in ('X-Forwarded-For', 'X-Real-IP', 'Remote-Addr', 'Forwarded'):
                answer = requests.get(
                    server.url + path, headers={header: '192.0.2.1'}, timeout=30
                )
                assert (answer.status_code, answer.text) == (404, 'not found\n')
    finally:
        stop(server.process)


def test_health_over_http(uwsgi):
    put_heartbeat(uwsgi.data_dir, ALIVE)
    url = uwsgi.url + 'healthz'
    answer = requests.get(url, timeout=30)
    assert (answer.status_code, answer.json()['healthy']) == (200, True)
    assert answer.headers['Content-Type'] == 'application/json'
    assert requests.head(url, timeout=30).status_code == 200
    put_heartbeat(uwsgi.data_dir, ALIVE | {'stopped': True})
    assert requests.get(url, timeout=30).status_code == 503
