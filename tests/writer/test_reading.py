"""Files are read whole, whatever the writer does to them just then."""

import contextlib
import fcntl
import os

import h5py
import pytest
from support import STATION

from datastore.event import Event
from writer.journal import FileBusy, journal_path, replay_journal
from writer.reading import Reading
from writer.storage import DamagedFile


def error(number):
    return Event('ERR', number, 0, 0, ('ERRMSG',), (f'error {number}',))


@pytest.fixture
def path(files):
    return files.store(STATION, error(1))


class Clock:
    """A time that goes on only while somebody waits."""

    def __init__(self):
        self.now = 0.0
        self.waited = []

    def wait(self, seconds):
        self.waited.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


def reading(clock=None, finish=lambda names: None, **keywords):
    clock = clock or Clock()
    return Reading(finish, clock=clock, **{'wait': clock.wait} | keywords)


@contextlib.contextmanager
def being_written(path):
    with open(path, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def rows(file):
    (cluster,) = file.h5['hisparc'].values()
    return len(cluster[f'station_{STATION}/errors'])


def test_others_may_read_but_not_write_while_it_is_open(path):
    with reading().open(path) as file, h5py.File(path), open(path) as other:
        assert rows(file) == 1
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with being_written(path):
        pass


def test_status_is_that_of_the_open_file(path):
    with reading().open(path) as file:
        assert file.status.st_ino == path.stat().st_ino


def test_waits_get_longer_until_patience_is_over(path):
    clock = Clock()
    with (
        being_written(path),
        pytest.raises(FileBusy, match='is in use'),
        reading(clock, patience=2.0).open(path),
    ):
        pass
    assert clock.waited[:6] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25]
    assert 2.0 <= sum(clock.waited) <= 2.25


def test_no_patience_is_no_wait(path):
    clock = Clock()
    with (
        being_written(path),
        pytest.raises(FileBusy),
        reading(clock, patience=0).open(path),
    ):
        pass
    assert clock.waited == []


def test_waiting_ends_when_told_to_stop(path):
    told = []
    with (
        being_written(path),
        pytest.raises(FileBusy),
        reading(wait=lambda seconds: not told.append(seconds)).open(path),
    ):
        pass
    assert told == [0.01]


@pytest.fixture
def crash(files):
    """Append an event, but die after the commit point."""

    def crash(event):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('writer.journal._apply', lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                files.store(STATION, event)

    return crash


def test_journal_that_a_crash_left_is_replayed_first(path, crash):
    finished = []
    crash(error(2))

    with reading(finish=finished.extend).open(path) as file:
        assert rows(file) == 2
    assert not journal_path(path).exists()


def test_journal_that_another_crash_left_meanwhile_is_replayed_too(
    path, crash, monkeypatch
):
    crash(error(2))

    def replay_and_crash(journal, finish):
        monkeypatch.undo()
        replay_journal(journal, finish)
        crash(error(3))

    monkeypatch.setattr('writer.reading.replay_journal', replay_and_crash)

    with reading().open(path) as file:
        assert rows(file) == 3


def test_journal_that_only_the_writer_may_replay_is_named(path, monkeypatch):
    journal_path(path).touch()

    def refuse(journal, finish):
        raise PermissionError(13, 'Permission denied', str(path))

    # Tests may run as root, who may do everything.
    monkeypatch.setattr('writer.reading.replay_journal', refuse)
    with (
        pytest.raises(FileBusy, match=r'h5\.journal .* datastore verify'),
        reading().open(path),
    ):
        pass


@pytest.mark.parametrize('content', [b'', b'nothing of HDF5' * 99])
def test_what_is_no_hdf5_is_damaged(tmp_path, content):
    path = tmp_path / 'file.h5'
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=str(path)), reading().open(path):
        pass
    with being_written(path):  # and it is not held
        pass


def test_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError), reading().open(tmp_path / 'none.h5'):
        pass


def test_error_of_the_caller_is_left_as_it_is(path):
    with pytest.raises(KeyError, match='mine'), reading().open(path):
        raise KeyError('mine')
    assert len(os.listdir(path.parent)) == 1
    with being_written(path):
        pass
