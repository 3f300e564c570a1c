"""What systemd hears of the writer, on a socket as systemd's."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from support import CLUSTER, PROJECT, STATION

from datastore.batch import Batch, encode_batch
from datastore.event import Event
from datastore.spool import Spool
from writer.service import Service

DAY = 86400  # s
MONDAY = 1_580_688_000  # 2020-02-03, in s
HANGING = '20200203T040506.000000-510-00000000.batch'


@pytest.fixture
def manager(tmp_path):
    """The service manager's end of NOTIFY_SOCKET."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / 'notify'))
        end.settimeout(30)
        yield end


@pytest.fixture
def service(manager, monkeypatch):
    """Make a Service in this process; keywords are more of its environment."""

    def make(**environment):
        monkeypatch.setenv('NOTIFY_SOCKET', manager.getsockname())
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Service()

    return make


@pytest.fixture
def start_writer(manager, configfile):
    """Start the writer as systemd does, with arguments and seconds of patience."""
    processes = []

    def start(*arguments, patience):
        environment = os.environ | {
            'NOTIFY_SOCKET': manager.getsockname(),
            'WATCHDOG_USEC': f'{patience * 1e6:.0f}',
        }
        command = [sys.executable, '-m', 'writer', '--config', configfile, *arguments]
        process = subprocess.Popen(command, cwd=PROJECT, env=environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def heard(end):
    """Return what arrives, up to when nothing does for the time-out."""
    messages = []
    try:
        while True:
            messages.append(end.recv(4096).decode())
    except (TimeoutError, BlockingIOError):
        return messages


def put_batch(data_dir, *timestamps):
    events = tuple(
        Event('ERR', timestamp, 0, 0, ('ERRMSG',), ('broken',))
        for timestamp in timestamps
    )
    batch = Batch(STATION, CLUSTER, 0, events)
    Spool(data_dir).put(STATION, encode_batch(batch))


# The program.


def test_waiting_writer_is_ready_and_alive_until_it_is_told_to_stop(
    start_writer, manager
):
    process = start_writer(patience=0.2)

    said = [manager.recv(4096).decode() for _ in range(6)]
    process.send_signal(signal.SIGTERM)
    status = process.wait(30)
    manager.setblocking(False)
    said += heard(manager)

    assert status == 0
    assert said[0] == 'READY=1'
    assert re.fullmatch(
        r'STATUS=sweep of \d\.\d s ended at \d\d:\d\d:\d\d, '
        '0 batches of 0 stations wait',
        said[1],
    )
    assert said[-1] == 'STOPPING=1'
    assert len(said) >= 7
    assert set(said[2:-1]) == {'WATCHDOG=1'}


def test_writer_gives_a_sign_of_life_for_each_batch_and_each_commit(
    start_writer, manager, data_dir
):
    put_batch(data_dir, MONDAY, MONDAY + DAY)
    put_batch(data_dir, MONDAY + 1, MONDAY + 2 * DAY)

    status = start_writer('--once', patience=1e-6).wait(30)
    manager.setblocking(False)

    batches, files = 2, 3
    assert status == 0
    said = heard(manager)
    assert said[0] == 'READY=1'
    assert said[1:-2] == ['WATCHDOG=1'] * (batches + files)
    assert said[-2].startswith('STATUS=') and said[-1] == 'STOPPING=1'


def test_writer_on_a_disk_that_hangs_falls_silent(start_writer, manager, data_dir):
    put_batch(data_dir, MONDAY)
    # Opening a pipe that nobody writes to hangs as a read from a dead disk does.
    os.mkfifo(data_dir / 'incoming' / HANGING)
    patience = 0.2

    process = start_writer(patience=patience)
    said = [manager.recv(4096).decode() for _ in range(2)]
    manager.settimeout(3 * patience)
    said += heard(manager)

    assert said[:2] == ['READY=1', 'WATCHDOG=1']
    assert len(said) <= 3
    assert process.poll() is None


# In this process.


def test_waiting_ends_when_told_to_stop(service):
    stop = threading.Event()
    stop.set()

    assert service(WATCHDOG_USEC='4000000').wait(stop, 3600)


def test_waiting_ends_after_its_seconds(service, manager):
    assert not service(WATCHDOG_USEC='40000').wait(threading.Event(), 0.05)

    manager.setblocking(False)
    assert set(heard(manager)) == {'WATCHDOG=1'}


@pytest.mark.parametrize(
    'environment',
    [
        {},
        {'WATCHDOG_USEC': 'soon'},
        {'WATCHDOG_USEC': '0'},
        {'WATCHDOG_USEC': '1', 'WATCHDOG_PID': '1'},
    ],
    ids=['no', 'nonsense', 'zero', 'for-another-process'],
)
def test_no_signs_of_life_where_none_are_waited_for(service, manager, environment):
    quiet = service(**environment)

    quiet.alive()
    quiet.ready()

    assert manager.recv(4096) == b'READY=1'


def test_status_counts_what_waits(service, manager):
    waiting = {501: ['a', 'b'], 502: ['c']}

    service().swept(1.25, lambda: waiting)

    said = manager.recv(4096).decode()
    assert said.startswith('STATUS=sweep of 1.2 s ended at ')
    assert said.endswith(', 3 batches of 2 stations wait')


def test_nothing_is_counted_where_nobody_listens(monkeypatch):
    monkeypatch.delenv('NOTIFY_SOCKET', raising=False)
    monkeypatch.setenv('WATCHDOG_USEC', '1')
    service = Service()

    service.ready()
    service.alive()
    service.swept(1, lambda: pytest.fail('counted'))
    service.stopping()


def test_manager_that_has_gone_away_stops_nothing(service, manager):
    orphan = service(WATCHDOG_USEC='1')
    manager.close()

    orphan.ready()
    orphan.alive()

    assert not orphan.wait(threading.Event(), 0.01)


def test_manager_may_listen_on_an_abstract_address(service, tmp_path, monkeypatch):
    name = f'datastore-{os.getpid()}-{tmp_path.name}'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f'\0{name}')
        end.settimeout(30)

        service(NOTIFY_SOCKET=f'@{name}').ready()

        assert end.recv(4096) == b'READY=1'
