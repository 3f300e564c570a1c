import os
import shutil
from types import SimpleNamespace

import pytest

from datastore.config import read_config
from datastore.spool import Spool
from wsgi.pressure import HeldBack, Pressure


@pytest.fixture
def make_pressure(make_config, clock):
    def make(**keys):
        config = read_config(make_config(General=keys))
        return Pressure(config, Spool(config.data_dir), clock)

    return make


@pytest.fixture
def disk(monkeypatch):
    """A disk with as many free blocks of 1 KiB as the test says."""
    disk = SimpleNamespace(f_bavail=0, f_frsize=1024)
    monkeypatch.setattr(os, 'statvfs', lambda path: disk)
    return disk


def test_upload_that_leaves_min_free_space_is_taken(make_pressure, disk):
    disk.f_bavail = 11
    make_pressure(min_free_space='10 KiB').check(1024)


def test_upload_that_leaves_less_than_min_free_space_is_held_back(make_pressure, disk):
    disk.f_bavail = 11
    with pytest.raises(HeldBack, match='min_free_space is 10240'):
        make_pressure(min_free_space='10 KiB').check(1025)


def test_uploads_are_taken_again_when_space_returns(make_pressure, disk):
    pressure = make_pressure(min_free_space='10 KiB')
    with pytest.raises(HeldBack):
        pressure.check(1)
    disk.f_bavail = 20
    pressure.check(1)


def test_full_disk_is_no_reason_when_min_free_space_is_off(make_pressure, disk):
    make_pressure(min_free_space='off').check(10**9)


def test_one_gibibyte_is_left_free_unless_configured(make_pressure, disk):
    pressure = make_pressure(min_free_space=None)
    disk.f_bavail = 2**20
    pressure.check(0)
    with pytest.raises(HeldBack):
        pressure.check(1)


def test_spool_over_its_size_is_held_back(make_pressure, data_dir):
    pressure = make_pressure(max_spool_size='1000')
    Spool(data_dir).put(510, bytes(500))
    pressure.check(400)
    with pytest.raises(HeldBack, match='max_spool_size is 1000'):
        pressure.check(400)


def test_spool_is_added_up_again_after_a_second(make_pressure, data_dir, clock):
    pressure = make_pressure(max_spool_size='1000')
    pressure.check(900)  # which the test does not put
    with pytest.raises(HeldBack):
        pressure.check(900)
    clock.now = 1.0
    pressure.check(900)
    Spool(data_dir).put(510, bytes(500))
    clock.now = 2.0
    with pytest.raises(HeldBack):
        pressure.check(900)


def test_long_spool_is_added_up_again_after_fifty_times_as_long(
    make_pressure, data_dir, clock, monkeypatch
):
    pressure = make_pressure(max_spool_size='1000')
    size = Spool.size
    scans = []

    def scan_for_a_second(spool):
        scans.append(clock.now)
        clock.now += 1.0
        return size(spool)

    monkeypatch.setattr(Spool, 'size', scan_for_a_second)
    for now in (0.0, 50.9, 51.0, 52.0):
        clock.now = now
        pressure.check(0)

    assert scans == [0.0, 51.0]


@pytest.mark.parametrize('keys', [{'min_free_space': '1'}, {'max_spool_size': '1000'}])
def test_upload_is_held_back_while_the_disk_does_not_answer(
    make_pressure, data_dir, keys
):
    pressure = make_pressure(**keys)
    shutil.rmtree(data_dir)

    with pytest.raises(HeldBack, match=r'the disk does not answer: .*No such file'):
        pressure.check(1)
