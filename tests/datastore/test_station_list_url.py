"""A fetched station list replaces the copy only if it is whole and good."""

import base64
import socket
import ssl
from pathlib import Path

import pytest
import trustme
from pytest_httpserver import HTTPServer
from support import write_config
from werkzeug import Response

from datastore import station_list
from datastore.config import ConfigError, read_config
from datastore.station_list import Changes
from datastore.station_list_url import FetchError, StationListUrl

LIST = '# north\n501, A, x\n502, A, y\n503, B, z\n'
SAME = Changes([], [], [])


@pytest.fixture(scope='module')
def running():
    # One for all: it takes half a second to stop.
    with HTTPServer(host='127.0.0.1') as server:
        yield server


@pytest.fixture
def server(running):
    running.clear()
    return running


@pytest.fixture
def path(tmp_path):
    """The copy, which is not there yet."""
    return tmp_path / 'station_list.csv'


@pytest.fixture
def source(tmp_path, server, path):
    """Make what fetches from the server; keywords are keys of [Stations]."""

    def source(clock=lambda: 0.0, **keys):
        keys = {'url': server.url_for('/list')} | keys
        configfile = write_config(tmp_path, Stations=keys)
        path.unlink()
        return StationListUrl(read_config(configfile), clock)

    return source


@pytest.fixture
def serve(server):
    """Have the server answer with a body, from now on; keywords as of Response."""

    def serve(body=LIST, **keywords):
        server.clear_all_handlers()
        server.expect_request('/list').respond_with_data(body, **keywords)

    return serve


@pytest.fixture
def fetched(source, serve):
    """A source that was fetched from once, and so has a copy of LIST."""
    fetched = source()
    serve(headers={'ETag': '"one"'})
    fetched.fetch()
    return fetched


def refusal(source):
    with pytest.raises(FetchError) as error_info:
        source.fetch()
    said = str(error_info.value)
    assert '\n' not in said
    return said


# Lists that are taken.


def test_list_is_copied_as_it_is(source, serve, path):
    serve()

    assert source().fetch() == Changes([501, 502, 503], [], [])
    assert path.read_text() == LIST


def test_list_that_changed_replaces_the_copy(fetched, serve, path):
    serve(LIST.replace('503, B', '504, B').replace('x', 'other'))

    assert fetched.fetch() == Changes([504], [503], [501])
    assert list(station_list.read_stations(path)) == [501, 502, 504]


def test_copy_that_is_the_same_is_not_written_again(fetched, serve, path):
    before = path.stat().st_ino
    serve()

    assert fetched.fetch() == SAME
    assert path.stat().st_ino == before


def test_copy_keeps_its_mode(fetched, serve, path):
    path.chmod(0o600)
    serve(LIST + '504, B, x\n')

    fetched.fetch()

    assert path.stat().st_mode & 0o777 == 0o600


def test_copy_that_was_spoiled_is_replaced(fetched, serve, path):
    path.write_text('?')

    serve()
    fetched.fetch()

    assert path.read_text() == LIST


# Conditional requests.


@pytest.mark.parametrize(
    ('header', 'text', 'asked'),
    [
        ('ETag', '"abc"', 'If-None-Match'),
        ('ETag', 'W/"abc"', 'If-None-Match'),
        ('Last-Modified', 'Sat, 21 Nov 2026 10:00:00 GMT', 'If-Modified-Since'),
    ],
)
def test_server_is_asked_whether_the_list_changed(
    source, server, serve, path, header, text, asked
):
    serve(headers={header: text})
    source().fetch()
    copy = path.read_bytes()
    server.clear()
    server.expect_oneshot_request('/list', headers={asked: text}).respond_with_data(
        status=304
    )

    # Another process, with what the first one left on disk.
    again = source()
    path.write_bytes(copy)

    assert again.fetch() == SAME
    server.check_assertions()
    assert path.read_text() == LIST


@pytest.mark.parametrize(
    'spoil',
    [
        pytest.param(lambda path: path.unlink(), id='copy gone'),
        pytest.param(lambda path: path.write_text('501, A, x\n'), id='copy edited'),
        pytest.param(
            lambda path: Path(f'{path}.fetched').write_text('{'), id='record torn'
        ),
        pytest.param(
            lambda path: Path(f'{path}.fetched').write_text('[1]'), id='record of ours?'
        ),
        pytest.param(
            lambda path: Path(f'{path}.fetched').write_text(
                Path(f'{path}.fetched').read_text().replace('"url": "', '"url": "0')
            ),
            id='another url',
        ),
    ],
)
def test_whole_list_is_asked_for_unless_the_copy_is_known(
    fetched, server, serve, path, spoil
):
    spoil(path)
    serve()

    fetched.fetch()

    request, _ = server.log[-1]
    assert 'If-None-Match' not in request.headers
    assert path.read_text() == LIST


def test_answer_that_nothing_changed_is_refused_if_it_was_not_asked(source, serve):
    serve(status=304)

    assert 'answers 304' in refusal(source())


def test_list_that_was_refused_is_fetched_again(fetched, server, serve):
    serve('?', headers={'ETag': '"two"'})
    refusal(fetched)

    refusal(fetched)

    asked = [request.headers.get('If-None-Match') for request, _ in server.log]
    assert asked == [None, '"one"', '"one"']


# Lists that are refused.

REFUSED = {
    'malformed': ({'body': f'{LIST}505\n'}, 'line 5 of what it sends: has 1 fields'),
    'a web page': (
        {'body': '<html>log in</html>', 'content_type': 'text/html'},
        'line 1 of what it sends',
    ),
    'not text': ({'body': b'\x89PNG\r\n\x1a\n\0'}, 'is not UTF-8'),
    'empty': ({'body': ''}, 'without stations'),
    'comments': ({'body': '# nobody\n\n'}, 'without stations'),
    'most are gone': ({'body': '503, B, z\n'}, 'without 2 of the 3 stations'),
    'all are others': ({'body': '1, A, x\n2, A, x\n3, A, x\n4, A, x\n'}, 'without 3'),
    'too large': ({'body': '#' * (station_list.MAX_SIZE + 1)}, 'more than 4194304'),
    'compressed': ({'headers': {'Content-Encoding': 'gzip'}}, 'compressed'),
    'no content': ({'status': 204, 'body': ''}, 'answers 204'),
    'partial': ({'status': 206}, 'answers 206'),
    'not found': ({'status': 404}, 'answers 404 NOT FOUND'),
    'forbidden': ({'status': 401}, 'answers 401'),
    'error': ({'status': 500}, 'answers 500'),
}


@pytest.mark.parametrize(('answer', 'reason'), REFUSED.values(), ids=REFUSED.keys())
def test_answer_that_is_refused_leaves_the_copy(fetched, serve, path, answer, reason):
    serve(**answer)

    assert reason in refusal(fetched)
    assert path.read_text() == LIST


def test_half_of_the_stations_may_go_and_more_if_it_is_meant(fetched, serve, path):
    serve('502, A, y\n503, B, z\n')
    assert fetched.fetch() == Changes([], [501], [])
    serve('503, B, z\n')
    assert fetched.fetch() == Changes([], [502], [])

    serve('1, B, z\n')
    assert '--force' in refusal(fetched)
    assert fetched.fetch(force=True) == Changes([1], [503], [])


def test_list_without_stations_is_never_meant(fetched, serve):
    serve('#')

    with pytest.raises(FetchError, match='without stations'):
        fetched.fetch(force=True)


def raw(server, answer):
    """Answer with bytes that no HTTP library would send, and hang up."""

    def handle(request):
        response = Response(direct_passthrough=True)
        connection = request.environ['werkzeug.socket']
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)
        return response

    server.clear_all_handlers()
    server.expect_request('/list').respond_with_handler(handle)


@pytest.mark.parametrize(
    ('answer', 'reason'),
    [
        (
            b'HTTP/1.0 200 OK\r\nContent-Length: 999\r\n\r\n503, B, z\n502, A, y\n',
            'breaks off after 20 bytes',
        ),
        (b'HTTP/1.0 200 OK\r\n\r\n503, B, z\n502, A, y\n', 'how long'),
        (b'nonsense\r\n\r\n', 'nonsense'),
        (b'', 'without response'),
    ],
    ids=['cut short', 'without a length', 'not HTTP', 'nothing'],
)
def test_answer_that_breaks_off_leaves_the_copy(fetched, server, path, answer, reason):
    raw(server, answer)

    assert reason in refusal(fetched)
    assert path.read_text() == LIST


def test_list_that_takes_too_long_is_given_up(source, serve):
    moments = iter([0.0, 31.0])
    serve()

    assert 'longer than 30 s' in refusal(source(clock=lambda: next(moments)))


def test_server_that_is_not_there_is_named(source, server):
    with socket.create_server(('127.0.0.1', 0)) as nobody:
        _, port = nobody.getsockname()
    address = f'http://127.0.0.1:{port}/list'

    assert refusal(source(url=address)).startswith(f'{address}: ')


def test_copy_that_cannot_be_written_is_named(fetched, serve, tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, 'Permission denied', str(path))

    monkeypatch.setattr('datastore.durable.put', refuse)
    serve(LIST + '504, B, x\n')

    said = refusal(fetched)
    assert 'Permission denied' in said
    assert str(tmp_path) in said


# Where it is fetched from.


def redirect(server, location):
    server.clear_all_handlers()
    server.expect_request('/list').respond_with_data(
        status=302, headers={'Location': location}
    )
    server.expect_request('/other').respond_with_data('501, A, redirected\n')


def test_redirect_on_this_machine_is_followed(source, server, path):
    redirect(server, '/other')

    source().fetch()

    assert 'redirected' in path.read_text()


@pytest.mark.parametrize(
    ('location', 'reason'),
    [
        ('http://192.0.2.1/list', 'use https'),
        ('ftp://127.0.0.1/list', 'is not a URL'),
        ('file:///etc/passwd', 'is not a URL'),
        ('/list', 'more than 5 times'),
        ('', 'more than 5 times'),
    ],
)
def test_redirect_elsewhere_is_refused(source, server, location, reason):
    redirect(server, location)

    assert reason in refusal(source())


def test_password_of_the_url_is_sent_to_its_server_alone(source, server, serve):
    address = server.url_for('/list').replace('//', '//user:h%40sh@')
    redirect(server, f'http://localhost:{server.port}/other')

    source(url=address).fetch()

    (request, _), (redirected, _) = server.log
    credentials = base64.b64encode(b'user:h@sh').decode()
    assert request.headers['Authorization'] == f'Basic {credentials}'
    assert redirected.path == '/other'
    assert 'Authorization' not in redirected.headers


def test_password_or_key_in_the_url_is_not_told(source, server, serve, path):
    address = server.url_for('/list').replace('//', '//user:hush@') + '?key=hush'
    fetching = source(url=address)
    serve()
    fetching.fetch()
    assert server.log[0][0].query_string == b'key=hush'
    assert 'hush' not in Path(f'{path}.fetched').read_text()

    for answer in ({'body': '?'}, {'status': 500}, {'status': 302}):
        serve(**answer)
        assert 'hush' not in refusal(fetching)


# TLS.


@pytest.fixture(scope='module')
def authority():
    return trustme.CA()


@pytest.fixture(scope='module')
def https(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert('127.0.0.1').configure_cert(context)
    with HTTPServer(host='127.0.0.1', ssl_context=context) as server:
        server.expect_request('/list').respond_with_data(LIST)
        yield server


@pytest.fixture
def ca_file(authority, tmp_path):
    path = tmp_path / 'ca.pem'
    authority.cert_pem.write_to_path(str(path))
    return path


def test_list_is_fetched_over_tls(source, https, ca_file, path):
    source(url=https.url_for('/list'), ca_file=ca_file).fetch()

    assert path.read_text() == LIST


@pytest.mark.parametrize('trusted', ['system', 'another'])
def test_server_that_nobody_vouches_for_is_refused(source, https, tmp_path, trusted):
    if trusted == 'another':
        trusted = tmp_path / 'another.pem'
        trustme.CA().cert_pem.write_to_path(str(trusted))

    said = refusal(source(url=https.url_for('/list'), ca_file=trusted))

    assert 'CERTIFICATE_VERIFY_FAILED' in said


def test_certificate_of_another_host_is_refused(source, https, ca_file):
    said = refusal(source(url=f'https://localhost:{https.port}/list', ca_file=ca_file))

    assert 'not valid for' in said


@pytest.mark.parametrize('content', [None, 'no certificate'])
def test_authorities_that_cannot_be_read_are_named(source, tmp_path, content):
    ca_file = tmp_path / 'ca.pem'
    if content:
        ca_file.write_text(content)

    with pytest.raises(ConfigError, match=r'ca_file in \[Stations\]: .*ca\.pem: .'):
        source(ca_file=ca_file)


def test_configuration_without_url_has_nothing_to_fetch_from(configfile):
    with pytest.raises(ConfigError, match=r'no url in \[Stations\]'):
        StationListUrl(read_config(configfile))
