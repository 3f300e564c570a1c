"""The writer's sign of life: what it says, and when it is held to be dead."""

import errno
import os

import pytest

from datastore.heartbeat import put_heartbeat, read_heartbeat, stale_after

SLEEP = 10.0


def test_what_the_writer_said_last_is_read(data_dir):
    put_heartbeat(data_dir, {'pid': 1})
    put_heartbeat(data_dir, {'pid': 2, 'fault': 'the disk'})

    said = read_heartbeat(data_dir).said
    assert (said['pid'], said['fault'], said['stopped']) == (2, 'the disk', False)
    assert os.listdir(data_dir / 'status') == ['writer.json']


def test_writer_is_alive_until_it_says_nothing_for_too_long(data_dir):
    put_heartbeat(data_dir, {'pid': 1})
    heartbeat = read_heartbeat(data_dir)

    assert heartbeat.is_fresh(heartbeat.time + stale_after(SLEEP), SLEEP)
    assert not heartbeat.is_fresh(heartbeat.time + stale_after(SLEEP) + 1, SLEEP)
    # A clock that is set back makes nobody dead.
    assert heartbeat.is_fresh(heartbeat.time - 3600, SLEEP)


def test_writer_that_stopped_is_not_alive(data_dir):
    put_heartbeat(data_dir, {'stopped': True})
    heartbeat = read_heartbeat(data_dir)

    assert not heartbeat.is_fresh(heartbeat.time, SLEEP)


def test_full_disk_does_not_make_the_writer_dead(data_dir, monkeypatch):
    put_heartbeat(data_dir, {'pid': 1})
    path = data_dir / 'status' / 'writer.json'
    os.utime(path, (0, 0))

    def refuse(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'replace', refuse)
    put_heartbeat(data_dir, {'pid': 2})

    heartbeat = read_heartbeat(data_dir)
    assert heartbeat.said['pid'] == 1
    assert heartbeat.time > 0


def test_directory_that_cannot_be_made_is_no_failure(data_dir):
    data_dir.write_text('in the way')
    put_heartbeat(data_dir, {'pid': 1})

    assert data_dir.read_text() == 'in the way'


@pytest.mark.parametrize('content', [b'', bytes(100), b'[1, 2]', b'"text"', b'{'])
def test_heartbeat_that_a_power_cut_spoiled_is_none(data_dir, content):
    put_heartbeat(data_dir, {'pid': 1})
    (data_dir / 'status' / 'writer.json').write_bytes(content)

    assert read_heartbeat(data_dir) is None


def test_writer_that_has_never_run_has_none(data_dir):
    assert read_heartbeat(data_dir) is None
