"""An edit of the station list changes what was meant, and not one byte more."""

import errno
import os
import stat
import threading

import pytest

from datastore import durable, station_list
from datastore.config import ConfigError
from datastore.station_list import Changes, Station

LIST = b"""\
# the list of the north

502 ,"Science Park",  "a b"
501,Nijmegen,two   # words
  # 503, Gone, x
"""


# Reading.


def test_every_fault_is_found_with_its_line():
    faults = station_list.parse(
        b'501\n502, A, x\n502, B, y\n# 5\n503, ../, z\n504, A, \xff\n'
        b'505, A, scrypt$16384$8$1$x\n'
    ).faults

    assert [line for line, _ in faults] == [1, 3, 5, 6, 7]
    reasons = '\n'.join(reason for _, reason in faults)
    for said in ('1 fields', 'first in line 2', 'cluster', 'UTF-8', 'as hashes do'):
        assert said in reasons


def test_list_over_the_bound_is_not_read():
    faults = station_list.parse(b'#' * (station_list.MAX_SIZE + 1)).faults

    assert [line for line, _ in faults] == [0]
    with pytest.raises(ConfigError, match=r'^/list: is longer than'):
        station_list.stations_of(b'#' * (station_list.MAX_SIZE + 1), '/list')


def test_byte_order_mark_is_taken_at_the_start_only():
    marked = '\ufeff501, A, x\n'.encode()

    assert list(station_list.parse(marked).stations) == [501]
    assert [line for line, _ in station_list.parse(b'\n' + marked).faults] == [2]


def test_changes_are_told_by_number_and_at_most_ten():
    old = {n: Station(n, 'A', 'x') for n in range(1, 5)}
    new = {n: Station(n, 'A', 'x' if n != 3 else 'y') for n in range(2, 20)}

    changes = station_list.changes(old, new)

    assert changes == Changes(list(range(5, 20)), [1], [3])
    assert str(changes) == (
        'stations: 15 added (5, 6, 7, 8, 9, 10, 11, 12, 13, 14, ...), '
        '1 removed (1), 1 changed (3)'
    )
    assert str(station_list.changes(old, old)) == 'no station differs'


# Editing.


def test_station_is_added_at_the_end_and_all_else_stays():
    edited = station_list.with_station(LIST, Station(7, "'t Gooi", 'a,"b'))

    assert edited == LIST + b'7, \'t Gooi, "a,""b"\n'


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        (b'1, A, x', b'1, A, x\n7, B, y\n'),
        (b'1, A, x\r\n', b'1, A, x\r\n7, B, y\r\n'),
        (b'1, A, x\r\n2, A, x', b'1, A, x\r\n2, A, x\r\n7, B, y\r\n'),
        (b'', b'# number, cluster, password\n7, B, y\n'),
        (b'# none yet', b'# none yet\n7, B, y\n'),
    ],
)
def test_line_ends_are_those_of_the_list(content, expected):
    assert station_list.with_station(content, Station(7, 'B', 'y')) == expected


@pytest.mark.parametrize(
    ('number', 'cluster', 'before', 'after'),
    [
        (502, 'Science Park', b'  "a b"\n', b'  new\n'),
        (501, 'Nijmegen', b'Nijmegen,two   # words\n', b'Nijmegen,new\n'),
    ],
)
def test_password_is_replaced_in_its_line(number, cluster, before, after):
    edited = station_list.with_password(LIST, Station(number, cluster, 'new'))

    assert edited == LIST.replace(before, after)


def test_password_is_replaced_between_line_ends_of_windows():
    edited = station_list.with_password(b'1,A,x\r\n2,A,x\r\n', Station(1, 'A', 'b,c'))

    assert edited == b'1,A,"b,c"\r\n2,A,x\r\n'


@pytest.mark.parametrize(
    ('station', 'reason'),
    [
        (Station(501, 'A', 'x'), 'listed twice, first in line 4'),
        (Station(7, 'a/b', 'x'), 'cluster of station 7'),
        (Station(7, '#, x\n8, A', 'x'), 'cluster of station 7'),
        (Station(7, 'A', 'x\n8, A, y'), 'end of data'),
        (Station(7, 'A', 'scrypt$'), 'as hashes do'),
        (Station(7, 'A', ' x'), 'cannot be written'),
        (Station(0, 'A', 'x'), 'positive'),
    ],
)
def test_station_that_would_not_be_read_back_is_refused(station, reason):
    with pytest.raises(ValueError, match=reason):
        station_list.with_station(LIST, station)


# Replacing the file.


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'list.csv'
    path.write_bytes(LIST)
    return path


def test_mode_of_the_file_stays(path):
    path.chmod(0o604)

    station_list.replace(path, b'new')

    assert path.read_bytes() == b'new'
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


@pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
@pytest.mark.parametrize('exists', [True, False])
def test_owner_of_the_file_or_of_its_directory_stays(path, exists):
    os.chown(path, 1234, 5678)
    os.chown(path.parent, 1234, 5678)
    if not exists:
        path.unlink()

    station_list.replace(path, b'new')

    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 5678)


@pytest.mark.parametrize(('user', 'group'), [(0, 1), (1, 1)])
def test_file_stays_where_its_group_cannot_be_kept(path, monkeypatch, user, group):
    def refuse(*_):
        raise PermissionError(errno.EPERM, 'Operation not permitted')

    owner = path.stat().st_uid + user, path.stat().st_gid + group
    monkeypatch.setattr(os, 'fchown', refuse)

    with pytest.raises(PermissionError, match='cannot keep the group'):
        durable.put(path, b'new', path.parent, owner=owner)

    assert path.read_bytes() == LIST
    assert os.listdir(path.parent) == [path.name]


def test_file_changes_its_user_where_only_that_cannot_be_kept(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, 'Operation not permitted')

    monkeypatch.setattr(os, 'fchown', refuse)

    durable.put(path, b'new', path.parent, owner=(12345, path.stat().st_gid))

    assert path.read_bytes() == b'new'


def test_link_is_followed_and_stays(path):
    link = path.with_name('link')
    link.symlink_to(path.name)

    with station_list.locked(link) as target:
        station_list.replace(target, b'new')

    assert link.is_symlink()
    assert path.read_bytes() == b'new'


def test_edits_at_once_lose_none(path):
    def add(number):
        with station_list.locked(path) as target:
            content = target.read_bytes()
            edited = station_list.with_station(content, Station(number, 'A', 'x'))
            station_list.replace(target, edited)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(station_list.read_stations(path)) == {*range(1, 21), 501, 502}
    assert os.listdir(path.parent) == [path.name]
