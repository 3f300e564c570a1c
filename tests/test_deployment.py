"""What `examples/` deploys: nginx and uWSGI together, and the systemd units."""

import contextlib
import http.client
import itertools
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import trustme
from support import PASSWORD, PROJECT, STATION, start_uwsgi, stop, write_config

from datastore.batch import decode_batch
from datastore.spool import Spool
from datastore.station import form, pickle_events

EXAMPLES = PROJECT / 'examples'
UNITS = sorted(EXAMPLES.glob('datastore-*.[st]*'))
SERVICES = [unit for unit in UNITS if unit.suffix == '.service']
MAX_UPLOAD = 16 * 2**20  # bytes; the endpoint's default
NGINX_LIMIT = 32 * 2**20  # bytes; client_max_body_size

# Debian has them where only root looks.
NGINX = shutil.which('nginx', path=f'{os.environ["PATH"]}:/usr/sbin')
SYSTEMD_ANALYZE = shutil.which('systemd-analyze')

needs_nginx = pytest.mark.skipif(NGINX is None, reason='nginx is not installed')
needs_systemd = pytest.mark.skipif(
    SYSTEMD_ANALYZE is None, reason='systemd-analyze is not installed'
)
needs_rsync = pytest.mark.skipif(
    shutil.which('rsync') is None, reason='rsync is not installed'
)

# What Debian's nginx.conf does around a site, in one directory.
NGINX_CONF = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr;
events {{}}
http {{
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/site;
}}
"""


@dataclass
class Nginx:
    """A real nginx on the shipped configuration, on ports that were free."""

    http: tuple[str, int]
    https: tuple[str, int]
    authority: Path

    def url(self, scheme):
        host, port = getattr(self, scheme)
        return f'{scheme}://{host}:{port}/'

    def connect(self, scheme='http', **options):
        if scheme == 'http':
            return http.client.HTTPConnection(*self.http, timeout=30, **options)
        context = ssl.create_default_context(cafile=str(self.authority))
        return http.client.HTTPSConnection(
            *self.https, timeout=30, context=context, **options
        )


def replaced(text, pattern, replacement, count=1):
    """Replace what the shipped file must hold so many times."""
    text, found = re.subn(pattern, replacement, text)
    assert found == count, pattern
    return text


@contextlib.contextmanager
def running_nginx(directory, endpoint):
    """Run nginx on the shipped configuration, in front of a socket."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / 'ca.pem')
    certificate = authority.issue_cert('127.0.0.1')
    certificate.private_key_and_cert_chain_pem.write_to_path(directory / 'cert.pem')
    # nginx takes over sockets that listen already, as from an nginx it replaces:
    # nobody can come between, and nobody has to wait until it is there.
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(2)]
        for listener in listeners:
            listener.bind(('127.0.0.1', 0))
            listener.listen()
        plain, tls = (listener.getsockname() for listener in listeners)

        text = (EXAMPLES / 'nginx.conf').read_text()
        text = replaced(text, r'listen \[::\].*;', '', 2)
        text = replaced(text, 'listen 80;', f'listen 127.0.0.1:{plain[1]};')
        text = replaced(text, 'listen 443 ssl;', f'listen 127.0.0.1:{tls[1]} ssl;')
        text = replaced(text, '/etc/letsencrypt/.*pem;', f'{directory}/cert.pem;', 2)
        text = replaced(text, '/run/datastore/uwsgi.sock', str(endpoint))
        (directory / 'site').write_text(text)
        conf = directory / 'nginx.conf'
        # Its workers are to enter pytest's directories.
        user = 'user root;' if os.geteuid() == 0 else ''
        conf.write_text(NGINX_CONF.format(directory=directory, user=user))

        descriptors = [listener.fileno() for listener in listeners]
        process = subprocess.Popen(
            [NGINX, '-p', directory, '-c', conf],
            env=os.environ | {'NGINX': ''.join(f'{fd};' for fd in descriptors)},
            pass_fds=descriptors,
        )
    try:
        yield Nginx(plain, tls, directory / 'ca.pem')
    finally:
        stop(process)


@contextlib.contextmanager
def running_uwsgi(directory, **more):
    """Run uWSGI as datastore-wsgi.service does, with a socket in `directory`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('RUNTIME_DIRECTORY', str(directory))
        # The service's own arguments, and its program where it is here.
        command = shlex.split(
            settings(EXAMPLES / 'datastore-wsgi.service')['ExecStart']
        )
        arguments = [word.replace('/opt/datastore/bin', scripts()) for word in command]
        assert command[1] == '--ini'
        server = start_uwsgi(write_config(directory), arguments=arguments[3:], **more)
    try:
        yield server
    finally:
        stop(server.process)


def scripts():
    return sysconfig.get_path('scripts')


def settings(unit):
    """Return the settings of a unit; the last, where one is given twice."""
    lines = unit.read_text().splitlines()
    return dict(line.split('=', 1) for line in lines if re.match(r'[A-Z]\w+=', line))


@pytest.fixture(scope='module')
def directory():
    """A directory for sockets, whose paths must be short."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope='module')
def server(directory):
    with running_uwsgi(directory) as server:
        yield server


@pytest.fixture(scope='module')
def nginx(directory, server):
    with running_nginx(directory, directory / 'uwsgi.sock') as nginx:
        yield nginx


def upload_body(second=0):
    """Return the form of a batch with one event of its own."""
    event = {
        'header': {
            'eventtype_uploadcode': 'ERR',
            'datetime': datetime(2020, 2, 3) + timedelta(seconds=second),
            'nanoseconds': 7,
        },
        'datalist': [{'data_uploadcode': 'ERRMSG', 'data': 'broken'}],
    }
    return form(STATION, PASSWORD, pickle_events([event]))


def wait_for(condition, process):
    """Wait until something is so; fail when the process ends before."""
    end = time.monotonic() + 30
    while not condition():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def logged(server):
    """Return what the workers have logged, all in all."""
    logs = sorted((server.configfile.parent / 'log').glob('hisparc-wsgi.*'))
    return ''.join(log.read_text() for log in logs)


def exchange(connection, method='POST', path='/', body=None):
    """Return the status, the type and the body of an answer."""
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.getheader('Content-Type'), answer.read()


# nginx in front of uWSGI.


@needs_nginx
@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_station_uploads_through_nginx(nginx, server, scheme):
    spool = Spool(server.data_dir)
    before = set(spool.pending().get(STATION, ()))
    command = [sys.executable, '-m', 'datastore.station', '--url', nginx.url(scheme)]
    command += ['--station', str(STATION), '--password', PASSWORD, '--events', '5']

    result = subprocess.run(
        [*command, '--tries', '1'],
        env=os.environ | {'SSL_CERT_FILE': str(nginx.authority)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stderr
    assert 'uploaded 1 batch, 5 events' in result.stdout
    (name,) = set(spool.pending()[STATION]) - before
    assert len(decode_batch(spool.get(name)).events) == 5


@needs_nginx
def test_answer_through_nginx_is_exactly_the_number(nginx):
    connection = nginx.connect('https')

    for second in range(2):  # on one connection, which nginx keeps open
        answer = exchange(connection, body=upload_body(second))

        assert answer == (200, 'text/plain', b'100')
    connection.close()


@needs_nginx
def test_upload_in_chunks_is_taken(nginx):
    body = upload_body()

    answer = exchange(nginx.connect(), body=iter([body[:100], body[100:]]))

    assert answer == (200, 'text/plain', b'100')


@needs_nginx
@pytest.mark.parametrize('scheme', ['http', 'https'])
@pytest.mark.parametrize('method', ['GET', 'HEAD', 'PUT'])
@pytest.mark.parametrize('path', ['/', '/metrics', '/healthz', '/status.json', '/x'])
def test_nothing_but_an_upload_gets_through_nginx(nginx, scheme, method, path):
    # 404: some stations destroy an event that is answered 403.
    status, _, _ = exchange(nginx.connect(scheme), method, path)

    assert status == 404


@needs_nginx
def test_body_over_our_limit_is_answered_by_the_endpoint(nginx, server):
    body = bytes(MAX_UPLOAD + 1)

    answer = exchange(nginx.connect(), body=body)

    assert answer == (200, 'text/plain', b'400')
    assert f'the body of {len(body)} bytes is over {MAX_UPLOAD}' in logged(server)


@needs_nginx
@pytest.mark.parametrize('scheme', ['http', 'https'])
def test_body_over_the_limit_of_nginx_is_answered_with_the_same_number(
    nginx, server, scheme
):
    length = NGINX_LIMIT + 1
    connection = nginx.connect(scheme)
    connection.putrequest('POST', '/')
    connection.putheader('Content-Length', str(length))
    connection.endheaders()  # nginx answers before any of the body is there

    answer = connection.getresponse()

    assert answer.status == 200
    assert answer.getheader('Content-Type') == 'text/plain'
    assert answer.read() == b'400'
    assert str(length) not in logged(server)


def test_limit_of_nginx_is_above_ours():
    text = (EXAMPLES / 'nginx.conf').read_text()

    (limit,) = re.findall(r'client_max_body_size (\d+)m;', text)

    assert int(limit) * 2**20 == NGINX_LIMIT > MAX_UPLOAD


@needs_nginx
def test_log_names_the_sender_and_not_nginx(nginx, server):
    connection = nginx.connect(source_address=('127.0.0.2', 0))

    assert exchange(connection, body=b'a=b')[2] == b'400'

    assert 'a sender at 127.0.0.2: answered 400' in logged(server)


@needs_nginx
def test_senders_that_fall_silent_occupy_no_worker(nginx, server):
    body = upload_body()
    slow = [nginx.connect() for _ in range(len(server.workers) + 1)]
    for connection in slow:
        connection.putrequest('POST', '/')
        connection.putheader('Content-Length', str(len(body)))
        connection.endheaders()
        connection.send(body[:50])

    assert exchange(nginx.connect(), body=body)[2] == b'100'

    for connection in slow:
        connection.send(body[50:])
        assert connection.getresponse().read() == b'100'


@needs_nginx
def test_without_the_endpoint_nginx_answers_what_stations_try_again(tmp_path):
    with running_nginx(tmp_path, tmp_path / 'nobody') as nginx:
        status, _, body = exchange(nginx.connect(), body=upload_body())

    assert status == 502
    assert body != b'100'


@needs_nginx
def test_reload_loses_no_upload(tmp_path_factory):
    directory = tmp_path_factory.mktemp('reload')
    seconds, answers = itertools.count(), []
    reloaded = threading.Event()
    with (
        running_uwsgi(directory) as server,
        running_nginx(directory, directory / 'uwsgi.sock') as nginx,
    ):

        def upload():
            # On, until the reload is over and then some.
            left = 5
            while left:
                left -= reloaded.is_set()
                body = upload_body(next(seconds))
                answers.append(exchange(nginx.connect(), body=body)[2])

        stations = [threading.Thread(target=upload) for _ in range(3)]
        for station in stations:
            station.start()
        first = server.workers
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(server.workers) == 2 * len(first), server.process)
        reloaded.set()
        for station in stations:
            station.join()
        spooled = sum(map(len, Spool(server.data_dir).pending().values()))

        assert set(answers) == {b'100'}
        assert spooled == len(answers) >= 15
        assert 'gracefully (RE)spawned uWSGI master' in server.log.read_text()


# uWSGI as the service runs it.


def test_reload_is_refused_while_the_configuration_has_a_mistake(tmp_path):
    configfile = write_config(tmp_path, General={'nonsense': 1})
    first, *_ = re.findall(
        '(?m)^ExecReload=(.*)$', (EXAMPLES / 'datastore-wsgi.service').read_text()
    )
    command = first.replace('/opt/datastore/bin', scripts())
    command = command.replace('/etc/datastore', str(EXAMPLES))

    result = subprocess.run(
        shlex.split(command),
        env=os.environ | {'DATASTORE_CONFIG': str(configfile)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 1
    assert result.stderr == (
        f'datastore: {configfile}: unknown key nonsense in [General]\n'
    )


def test_uwsgi_tells_systemd_when_it_is_ready(tmp_path, configfile, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / 'notify'))
        manager.settimeout(30)
        monkeypatch.setenv('NOTIFY_SOCKET', manager.getsockname())

        server = start_uwsgi(configfile)
        try:
            said = [manager.recv(4096).decode().splitlines() for _ in range(2)]
        finally:
            stop(server.process)

    assert 'READY=1' in said[1]


def test_settings_that_uwsgi_does_not_know_stop_its_start(configfile):
    with pytest.raises(RuntimeError, match='unknown config directive: harakir'):
        start_uwsgi(configfile, harakiri='120\nharakir = 120')


# systemd.


@pytest.fixture
def units(tmp_path):
    """Copies of the units in which the programs they name are there."""
    for unit in UNITS:
        text = re.sub(r'/opt/datastore/bin/\w+', '/bin/true', unit.read_text())
        (tmp_path / unit.name).write_text(text)
    return tmp_path


@needs_systemd
def test_systemd_understands_the_units(units):
    assert len(UNITS) == 4

    result = subprocess.run(
        [SYSTEMD_ANALYZE, 'verify', *(units / unit.name for unit in UNITS)],
        capture_output=True,
        text=True,
        check=False,
    )

    # It names what it ignores, such as a misspelt setting, and is content; of
    # units that are not ours it may say what it likes.
    assert result.returncode == 0
    assert 'datastore-' not in result.stderr


@needs_systemd
@pytest.mark.parametrize('unit', SERVICES, ids=lambda unit: unit.name)
def test_services_are_shut_in(units, unit):
    # The exposure as systemd reckons it, times ten: up to 20 is "ok".
    result = subprocess.run(
        [SYSTEMD_ANALYZE, 'security', '--offline=true', '--threshold=20', unit.name],
        cwd=units,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize('unit', SERVICES, ids=lambda unit: unit.name)
def test_services_are_the_same_user_on_the_same_directory(unit):
    found = settings(unit)

    assert (found['User'], found['StateDirectory']) == ('datastore', 'datastore')
    assert found['RequiresMountsFor'] == '/var/lib/datastore'


def test_nginx_is_more_patient_than_uwsgi():
    uwsgi = (EXAMPLES / 'uwsgi.ini').read_text()
    nginx = (EXAMPLES / 'nginx.conf').read_text()

    (harakiri,) = re.findall(r'(?m)^harakiri = (\d+)$', uwsgi)
    patience = re.findall(r'uwsgi_(?:read|send)_timeout (\d+)s;', nginx)

    assert len(patience) == 2
    assert all(int(seconds) > int(harakiri) for seconds in patience)


# The backup of docs/deploy.md.


@dataclass
class Backup:
    """The script of the page, where data, configuration and systemctl are others.

    `state` is what systemctl says of the writer; `asked` what it is asked.
    """

    directory: Path

    @property
    def data(self):
        return self.directory / 'data'

    @property
    def copy(self):
        return self.directory / 'backup' / 'data'

    def asked(self):
        return (self.directory / 'asked').read_text().splitlines()

    def run(self, state='active'):
        text = (PROJECT / 'docs' / 'deploy.md').read_text()
        script = re.search(r'(?m)^    #!/bin/sh\n(?:    .*\n)+', text)[0]
        script = script.replace('/var/lib/datastore', str(self.data))
        script = script.replace('/etc/datastore', str(self.directory / 'etc'))
        systemctl = self.directory / 'bin' / 'systemctl'
        systemctl.write_text(
            f'#!/bin/sh\necho "$@" >> {self.directory}/asked\n'
            f'[ $1 != is-active ] || {{ echo {state}; [ {state} = active ]; }}\n'
        )
        systemctl.chmod(0o755)
        return subprocess.run(
            ['/bin/sh', '-c', textwrap.dedent(script), 'backup', self.copy.parent],
            env=os.environ | {'PATH': f'{systemctl.parent}:{os.environ["PATH"]}'},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def backup(tmp_path):
    """A backup of an archive of which a year is on another disk."""
    for name in ('data/2026/11', 'data/incoming', 'disk/2019', 'backup', 'bin', 'etc'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'data' / '2026' / '11' / 'new').write_text('new')
    (tmp_path / 'disk' / '2019' / 'old').write_text('old')
    (tmp_path / 'data' / '2019').symlink_to(tmp_path / 'disk' / '2019')
    return Backup(tmp_path)


@needs_rsync
def test_backup_holds_the_year_that_is_on_another_disk(backup):
    # As an earlier one left it, before the year was moved.
    (backup.copy / '2019').mkdir(parents=True)
    (backup.copy / '2019' / 'old').write_text('old')

    result = backup.run()

    assert (result.returncode, result.stderr) == (0, '')
    assert not (backup.copy / '2019').is_symlink()
    assert (backup.copy / '2019' / 'old').read_text() == 'old'
    assert (backup.copy / '2026' / '11' / 'new').read_text() == 'new'


@needs_rsync
def test_backup_deletes_nothing_while_the_other_disk_is_away(backup):
    backup.run()
    (backup.directory / 'disk').rename(backup.directory / 'away')

    result = backup.run()

    assert result.returncode == 1
    assert result.stderr == f'points to nothing: {backup.data}/2019\n'
    assert (backup.copy / '2019' / 'old').read_text() == 'old'


@needs_rsync
@pytest.mark.parametrize('state', ['active', 'activating', 'failed', 'inactive'])
def test_backup_starts_the_writer_unless_somebody_had_stopped_it(backup, state):
    backup.run(state)

    started = 'start datastore-writer' in backup.asked()
    assert 'stop datastore-writer' in backup.asked()
    assert started == (state != 'inactive')
