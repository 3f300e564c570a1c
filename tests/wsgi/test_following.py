"""The endpoint follows the station list, and keeps the last good one."""

import logging
import os
import re
import time

import pytest
from support import write_config

from datastore import passwords
from datastore.config import ConfigError, read_config
from wsgi.following import FollowedStations
from wsgi.rcodes import UnknownStation, WrongPassword

SECOND = 1_000_000_000  # ns


class Clock:
    """The clock of the disk, which may be ahead."""

    ahead = SECOND

    def __call__(self):
        return time.time_ns() + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'station_list.csv'


@pytest.fixture
def follow(tmp_path, path, clock):
    """Write a list and follow it; keywords are keys of [Stations]."""

    def follow(content, **keys):
        config = read_config(write_config(tmp_path, Stations=keys))
        path.write_text(content) if content is not None else path.unlink()
        return FollowedStations(config, logging.getLogger('stations'), clock)

    return follow


@pytest.fixture
def said(caplog):
    """Return the level and text of what was logged since the last call."""
    caplog.set_level(logging.INFO, logger='stations')

    def said():
        records = [(r.levelname, r.getMessage()) for r in caplog.records]
        caplog.clear()
        return records

    return said


def knows(stations, number, password=b'x'):
    try:
        return stations.authenticate(number, password).number == number
    except (UnknownStation, WrongPassword):
        return False


def replace(path, content):
    """Put another file in its place, as our own edits and many editors do."""
    draft = path.with_name('draft')
    draft.write_text(content)
    os.rename(draft, path)


@pytest.mark.parametrize(
    'write', [replace, lambda path, content: path.write_text(content)]
)
def test_change_is_followed_and_told(follow, path, said, write):
    stations = follow('501, A, x\n502, A, x\n503, A, x\n')

    write(path, '501, A, x\n502, A, y\n504, B, x\n')

    assert knows(stations, 504)
    assert not knows(stations, 503)
    assert not knows(stations, 502)
    assert knows(stations, 502, b'y')
    assert len(stations) == 3
    ((level, line),) = said()
    assert level == 'INFO'
    assert line == (
        f'station list {path} taken over, stations: 1 added (504), 1 removed (503), '
        '1 changed (502)'
    )


def test_list_that_stays_is_read_once(follow, path, monkeypatch):
    stations = follow('501, A, x\n')
    monkeypatch.setattr(FollowedStations, '_read', None)

    assert knows(stations, 501)


def test_change_of_the_same_length_and_time_is_followed(follow, path):
    stations = follow('501, A, x\n')
    before = path.stat()

    replace(path, '502, A, x\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert knows(stations, 502)


def test_comment_that_changes_says_nothing(follow, path, said):
    stations = follow('501, A, x\n')

    path.write_text('# x\n501, A, x\n')

    assert knows(stations, 501)
    assert said() == []


def test_file_that_was_written_just_now_is_left_alone_for_a_moment(
    follow, path, clock, said
):
    stations = follow('501, A, x\n502, A, x\n')
    clock.ahead = 0

    path.write_text('501, A, x\n')
    assert knows(stations, 502)

    clock.ahead = SECOND
    assert not knows(stations, 502)


def test_file_that_was_written_just_before_the_start_is_read_again(
    follow, path, clock, monkeypatch
):
    clock.ahead = 0
    stations = follow('501, A, x\n')
    # A change within one step of the kernel's clock, which no time tells.
    read = stations._read
    monkeypatch.setattr(stations, '_read', lambda: (read()[0], b'502, A, x\n'))

    clock.ahead = SECOND

    assert knows(stations, 502)


def test_file_that_is_being_written_is_not_read(follow, path, monkeypatch):
    stations = follow('501, A, x\n')
    path.write_text('502, A, x\n')
    written = path.stat().st_ctime_ns
    monkeypatch.setattr(stations, '_now', lambda: written)
    monkeypatch.setattr(stations, '_read', None)

    assert knows(stations, 501)


def test_file_that_is_written_again_just_before_it_is_read_is_left_alone(
    follow, path, clock, monkeypatch
):
    stations = follow('501, A, x\n')
    path.write_text('502, A, x\n')
    now, read = clock(), stations._read

    def rewritten():
        (*identity, _), _ = read()
        return (*identity, now), b'503, A, x\n'

    with monkeypatch.context() as patches:
        patches.setattr(stations, '_now', lambda: now)
        patches.setattr(stations, '_read', rewritten)
        assert knows(stations, 501)

    assert knows(stations, 502)


def test_list_on_a_disk_that_went_away_and_came_back_is_told_to_be_mended(
    follow, tmp_path, said
):
    stations = follow('501, A, x\n')
    away = tmp_path.with_name(f'{tmp_path.name}-away')
    tmp_path.rename(away)
    assert 'No such file' in stations.complaint()
    said()

    # The file is the one that was read last: nothing about it has changed.
    away.rename(tmp_path)

    assert stations.complaint() == ''
    assert len(said()) == 1


def test_change_in_place_of_the_same_length_and_time_is_followed(follow, path):
    # As `rsync --inplace --times` may write it: only the inode's time differs.
    stations = follow('501, A, x\n')
    before = path.stat()

    path.write_text('502, A, x\n')
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert path.stat().st_ino == before.st_ino
    assert knows(stations, 502)


def test_clock_that_was_ahead_does_not_keep_a_list_from_being_read(follow, path, clock):
    stations = follow('501, A, x\n')
    clock.ahead = -3600 * SECOND

    path.write_text('502, A, x\n')

    assert knows(stations, 502)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('502, A, x\nhush\n', ', line 2: has 1 fields'),
        ('501, A, hush\n501, B, hush\n', ', line 2: station 501 is listed twice'),
        ('# nobody\n', ': lists no station'),
        ('', ': lists no station'),
    ],
)
def test_list_that_is_refused_is_told_once_for_each_change(
    follow, path, said, content, reason
):
    stations = follow('501, A, x\n')

    for _ in range(2):
        path.write_text(content)
        for _ in range(3):
            assert knows(stations, 501)
            assert not knows(stations, 502)
        ((level, line),) = said()
        assert level == 'ERROR'
        assert f'{path}{reason}' in line
        assert 'hush' not in line
        path.write_text(content + '#')
        assert knows(stations, 501)
        said()


def test_list_that_is_mended_is_told(follow, path, said):
    stations = follow('501, A, x\n')
    path.write_text('?')
    assert knows(stations, 501)
    said()

    path.write_text('501, A, x\n')

    assert knows(stations, 501)
    assert [line for _, line in said()] == [
        f'station list {path} taken over, no station differs'
    ]


@pytest.mark.parametrize(
    'spoil',
    [
        pytest.param(lambda path: path.unlink(), id='gone'),
        pytest.param(lambda path: (path.unlink(), path.mkdir()), id='a directory'),
        pytest.param(
            lambda path: (path.unlink(), path.symlink_to(path)), id='a link to itself'
        ),
    ],
)
def test_list_that_cannot_be_read_is_told_once_and_found_again(
    follow, path, said, tmp_path, spoil
):
    stations = follow('501, A, x\n')
    for _ in range(2):
        away = tmp_path / 'away'
        away.write_text('501, A, x\n')
        spoil(path)
        assert all(knows(stations, 501) for _ in range(5))
        ((level, line),) = said()
        assert (level, str(path) in line) == ('ERROR', True)

        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        os.rename(away, path)
        assert all(knows(stations, 501) for _ in range(5))
        assert len(said()) == 1


def test_verified_passwords_of_stations_that_stay_are_not_verified_again(
    follow, path, monkeypatch
):
    known, other = passwords.hash_password('x'), passwords.hash_password('x')
    stations = follow(f'501, A, {known}\n502, A, {known}\n')
    assert knows(stations, 501)
    verified = []
    monkeypatch.setattr(passwords, 'matches', lambda *_: bool(verified.append(1)))

    path.write_text(f'501, A, {known}\n502, A, {other}\n')

    assert knows(stations, 501)
    assert verified == []
    assert not knows(stations, 502)
    assert verified == [1]


@pytest.mark.parametrize(
    ('content', 'said'), [('?', ', line 1: has 1 fields'), (None, ': No such file')]
)
def test_list_that_cannot_be_used_stops_the_start(follow, path, content, said):
    with pytest.raises(ConfigError, match=re.escape(f'{path}{said}')):
        follow(content)


def test_list_that_was_not_fetched_yet_stops_the_start_and_says_how_to(follow, path):
    with pytest.raises(ConfigError) as error_info:
        follow(None, url='https://user:hush@example.org/list')

    said = str(error_info.value)
    assert said.startswith(f'{path}: not fetched yet from https://example.org/list')
    assert 'datastore stations fetch' in said
    assert 'hush' not in said
