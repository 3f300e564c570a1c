"""A file is whole and safe on disk when `put` returns, or it is not there."""

import errno
import os
import stat
from pathlib import Path

import pytest

from datastore import durable

CONTENT = b'what has to survive' * 100


class Crash(BaseException):
    """The process is gone: no call after this one does anything."""


@pytest.fixture
def tmp(tmp_path):
    tmp = tmp_path / 'tmp'
    tmp.mkdir()
    return tmp


@pytest.fixture
def path(tmp_path):
    """Where the file goes: its directory is there, the file is not."""
    (tmp_path / 'incoming').mkdir()
    return tmp_path / 'incoming' / 'file'


@pytest.fixture
def open_umask():
    previous = os.umask(0)
    yield
    os.umask(previous)


@pytest.fixture
def fail(monkeypatch):
    """Make the n-th call of a function of `os` raise, before it does anything."""

    def fail(name, n, error):
        real = getattr(os, name)
        calls = []

        def failing(*arguments, **keywords):
            calls.append(name)
            if len(calls) == n:
                raise error
            return real(*arguments, **keywords)

        monkeypatch.setattr(os, name, failing)

    return fail


@pytest.fixture
def crash(monkeypatch):
    """Make the n-th call of a function of `os` the last thing that happens."""
    names = ('open', 'write', 'fsync', 'close', 'rename', 'unlink')
    calls = []

    def crash(last, n):
        def patch(name):
            real = getattr(os, name)

            def call(*arguments, **keywords):
                if calls.count(last) == n:
                    raise Crash
                calls.append(name)
                if calls.count(last) == n:
                    raise Crash
                return real(*arguments, **keywords)

            monkeypatch.setattr(os, name, call)

        for name in names:
            patch(name)

    yield crash
    monkeypatch.undo()


STEPS = [
    pytest.param('open', 1, id='open the draft'),
    pytest.param('write', 1, id='write'),
    pytest.param('fsync', 1, id='fsync the file'),
    pytest.param('close', 1, id='close the draft'),
    pytest.param('rename', 1, id='rename'),
    pytest.param('open', 2, id='open the directory'),
    pytest.param('fsync', 2, id='fsync the directory'),
]


@pytest.mark.parametrize(
    'content', [b'', b'\0', CONTENT], ids=['empty', 'byte', 'long']
)
def test_file_holds_what_was_put(path, tmp, content):
    durable.put(path, content, tmp)

    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ['file']
    assert os.listdir(tmp) == []


def test_file_that_was_there_is_replaced(path, tmp):
    path.write_bytes(b'much longer than what replaces it')

    durable.put(path, b'new', tmp)

    assert path.read_bytes() == b'new'
    assert os.listdir(tmp) == []


def test_content_is_fsynced_before_the_rename_and_the_directory_after(
    path, tmp, fsynced
):
    durable.put(path, CONTENT, tmp)

    (draft, content), directory = fsynced
    assert draft.parent == tmp
    assert content == CONTENT
    assert directory == (path.parent, ['file'])


def test_file_cannot_be_read_by_others(path, tmp, open_umask):
    durable.put(path, CONTENT, tmp)

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_draft_cannot_be_read_by_others_while_it_is_written(
    path, tmp, open_umask, crash
):
    crash('write', 1)
    with pytest.raises(Crash):
        durable.put(path, CONTENT, tmp)

    (draft,) = tmp.iterdir()
    assert stat.S_IMODE(draft.stat().st_mode) == 0o640


@pytest.mark.parametrize(('name', 'n'), STEPS)
def test_step_that_fails_raises_and_leaves_nothing_behind(path, tmp, fail, name, n):
    fail(name, n, OSError(errno.EIO, 'Input/output error'))

    with pytest.raises(OSError, match='Input/output error'):
        durable.put(path, CONTENT, tmp)

    assert os.listdir(tmp) == []
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(('name', 'n'), STEPS)
def test_interrupted_step_leaves_nothing_behind(path, tmp, fail, name, n):
    fail(name, n, KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        durable.put(path, CONTENT, tmp)

    assert os.listdir(tmp) == []
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(('name', 'n'), STEPS[:5])
def test_failure_before_the_rename_keeps_the_file_that_was_there(
    path, tmp, fail, name, n
):
    path.write_bytes(b'old')
    fail(name, n, OSError(errno.ENOSPC, 'No space left on device'))

    with pytest.raises(OSError, match='No space left'):
        durable.put(path, CONTENT, tmp)

    assert path.read_bytes() == b'old'
    assert os.listdir(tmp) == []


@pytest.mark.parametrize(('name', 'n'), STEPS)
def test_crash_leaves_a_whole_file_or_debris_in_tmp(path, tmp, crash, name, n):
    crash(name, n)
    with pytest.raises(Crash):
        durable.put(path, CONTENT, tmp)

    renamed = (name, n) in [('open', 2), ('fsync', 2)]
    assert len(os.listdir(tmp)) == (0 if renamed or name == 'open' else 1)
    assert os.listdir(path.parent) == (['file'] if renamed else [])
    if renamed:
        assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(('name', 'n'), STEPS)
def test_crash_leaves_the_old_content_or_the_new(path, tmp, crash, name, n):
    path.write_bytes(b'old')
    crash(name, n)
    with pytest.raises(Crash):
        durable.put(path, CONTENT, tmp)

    renamed = (name, n) in [('open', 2), ('fsync', 2)]
    assert path.read_bytes() == (CONTENT if renamed else b'old')


def test_debris_of_a_crash_is_not_in_the_way(path, tmp, crash, monkeypatch):
    crash('rename', 1)
    with pytest.raises(Crash):
        durable.put(path, b'lost', tmp)
    monkeypatch.undo()

    durable.put(path, CONTENT, tmp)

    assert path.read_bytes() == CONTENT
    assert len(os.listdir(tmp)) == 1


def test_disk_that_takes_a_few_bytes_at_a_time_gets_all_of_them(path, tmp, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, 'write', lambda fd, rest: write(fd, rest[:7]))

    durable.put(path, CONTENT, tmp)

    assert path.read_bytes() == CONTENT


def test_disk_that_fills_up_half_way_raises_and_leaves_nothing_behind(
    path, tmp, monkeypatch
):
    write = os.write
    room = [len(CONTENT) // 2]

    def write_into_the_room_left(descriptor, rest):
        if not room[0]:
            raise OSError(errno.ENOSPC, 'No space left on device')
        written = write(descriptor, rest[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, 'write', write_into_the_room_left)

    with pytest.raises(OSError, match='No space left'):
        durable.put(path, CONTENT, tmp)

    assert os.listdir(tmp) == []
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize(
    ('name', 'n'), [step for step in STEPS if step.id[:5] != 'close']
)
def test_no_descriptor_is_left_open(path, tmp, fail, name, n):
    before = os.listdir('/proc/self/fd')
    fail(name, n, OSError(errno.EIO, 'Input/output error'))

    with pytest.raises(OSError, match='Input/output error'):
        durable.put(path, CONTENT, tmp)
    durable.put(path, CONTENT, tmp)

    assert os.listdir('/proc/self/fd') == before


def test_directory_is_made_with_its_parents_each_safe_in_its_own(tmp_path, fsynced):
    durable.make_directory(tmp_path / 'a' / 'b' / 'c')

    assert (tmp_path / 'a' / 'b' / 'c').is_dir()
    assert fsynced == [
        (tmp_path, ['a']),
        (tmp_path / 'a', ['b']),
        (tmp_path / 'a' / 'b', ['c']),
    ]


def test_directories_are_closed_to_others(tmp_path, open_umask):
    durable.make_directory(tmp_path / 'a' / 'b')

    for directory in (tmp_path / 'a', tmp_path / 'a' / 'b'):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_directory_that_is_there_is_left_as_it_is(tmp_path, fsynced):
    (tmp_path / 'a').mkdir(mode=0o700)
    (tmp_path / 'a' / 'file').touch()

    durable.make_directory(tmp_path / 'a')

    assert os.listdir(tmp_path / 'a') == ['file']
    assert stat.S_IMODE((tmp_path / 'a').stat().st_mode) == 0o700
    assert fsynced == []


def test_directory_that_another_process_makes_meanwhile_is_good(tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def mkdir_too_late(path, *arguments, **keywords):
        mkdir(path, *arguments, **keywords)
        raise FileExistsError(errno.EEXIST, 'File exists', str(path))

    monkeypatch.setattr(Path, 'mkdir', mkdir_too_late)

    durable.make_directory(tmp_path / 'a' / 'b')

    assert (tmp_path / 'a' / 'b').is_dir()


def test_directory_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / 'file').touch()

    with pytest.raises((NotADirectoryError, FileExistsError)):
        durable.make_directory(tmp_path / 'file' / 'a')


def test_directory_of_drafts_that_somebody_removed_is_made_again(path, tmp):
    tmp.rmdir()

    durable.put(path, b'kept', tmp)

    assert path.read_bytes() == b'kept'
    assert list(tmp.iterdir()) == []


def test_failed_replacement_keeps_what_was_promised_before(path, tmp, monkeypatch):
    durable.put(path, b'kept', tmp)

    def fail(directory):
        raise OSError(errno.EIO, 'broken')

    monkeypatch.setattr(durable, 'fsync_directory', fail)
    with pytest.raises(OSError, match='broken'):
        durable.put(path, b'kept', tmp)
    assert path.read_bytes() == b'kept'


def test_directory_that_may_not_be_durable_is_made_again(tmp_path, monkeypatch):
    def fail(directory):
        raise OSError(errno.EIO, 'broken')

    with monkeypatch.context() as patches:
        patches.setattr(durable, 'fsync_directory', fail)
        with pytest.raises(OSError, match='broken'):
            durable.make_directory(tmp_path / 'incoming')

    synced = []
    monkeypatch.setattr(durable, 'fsync_directory', synced.append)
    durable.make_directory(tmp_path / 'incoming')
    assert synced == [tmp_path]


def test_file_in_the_place_of_a_directory_is_an_error(tmp_path):
    (tmp_path / 'incoming').touch()
    with pytest.raises(FileExistsError):
        durable.make_directory(tmp_path / 'incoming')
