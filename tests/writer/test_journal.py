"""A file's changes happen together or not at all, wherever a crash comes."""

import contextlib
import errno
import fcntl
import io
import os
import random
import stat
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import Crash, crash

from writer.journal import (
    PAGE,
    FileBusy,
    JournaledFile,
    journal_path,
    replay_journal,
    try_lock,
)

OLD = bytes(range(256)) * 40  # 2.5 pages
COVERS = ['first.batch', 'second.batch']


def change(file):
    """Write what makes NEW of OLD: in three places, and past the end."""
    for offset, content in (
        (10, b'head'),
        (PAGE - 3, b'across a boundary'),
        (len(OLD) - 2, b'x' * PAGE),
    ):
        file.seek(offset)
        file.write(content)


def changed():
    file = io.BytesIO(OLD)
    change(file)
    return file.getvalue()


NEW = changed()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'station_510.h5'
    path.write_bytes(OLD)
    return path


@pytest.fixture
def waiting():
    """The batches in the spool."""
    return {*COVERS, 'other.batch'}


@pytest.fixture
def open_file(path, waiting):
    """Open the file; what a commit covers leaves `waiting`."""
    return lambda: JournaledFile(path, waiting.difference_update)


@contextlib.contextmanager
def locked(path, how):
    with open(path, 'rb') as file:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        yield


# As a file.


def at_pages(pages):
    """Positions, most of them at a boundary between pages or beside it."""
    near = st.builds(
        lambda page, beside: max(0, page * PAGE + beside),
        st.integers(0, pages),
        st.integers(-2, 2),
    )
    return near | st.integers(0, pages * PAGE)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just('seek'), at_pages(6), st.just(io.SEEK_SET)),
        st.tuples(st.just('seek'), st.just(0), st.sampled_from([1, 2])),
        st.tuples(st.just('read'), at_pages(3)),
        st.tuples(st.just('write'), st.binary(min_size=1, max_size=20)),
        st.tuples(
            st.just('write'),
            st.builds(
                lambda byte, n: byte * (n + 1),
                st.binary(min_size=1, max_size=1),
                at_pages(3),
            ),
        ),
        st.tuples(st.just('tell')),
    ),
    max_size=12,
)


@given(
    content=st.builds(lambda n: OLD[:n], at_pages(2)),
    steps=STEPS,
    size=st.none() | at_pages(4),
    commit=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_reads_as_a_real_file_and_becomes_it_at_commit(
    tmp_path, content, steps, size, commit
):
    path, model = tmp_path / 'journaled', tmp_path / 'model'
    path.write_bytes(content)
    model.write_bytes(content)

    with JournaledFile(path, print) as file, model.open('r+b', buffering=0) as real:
        for name, *arguments in steps:
            assert getattr(file, name)(*arguments) == getattr(real, name)(*arguments)
        if size is not None:
            assert file.truncate(size) == real.truncate(size)
        file.seek(0)
        assert file.read() == model.read_bytes()
        assert path.read_bytes() == content
        if commit:
            file.commit([])

    assert path.read_bytes() == (model.read_bytes() if commit else content)
    assert not journal_path(path).exists()


def test_file_grows_by_truncate_with_zeros(open_file, path):
    with open_file() as file:
        file.truncate(len(OLD) + 3 * PAGE)
        file.commit([])

    assert path.read_bytes() == OLD + bytes(3 * PAGE)


def test_commit_without_changes_finishes_what_it_covers(open_file, path, waiting):
    with open_file() as file:
        file.commit(COVERS)

    assert path.read_bytes() == OLD
    assert waiting == {'other.batch'}


def test_changes_are_gone_without_a_commit(open_file, path, waiting):
    with open_file() as file:
        change(file)

    assert path.read_bytes() == OLD
    assert len(waiting) == 3


def test_missing_file_cannot_be_opened(tmp_path):
    with pytest.raises(FileNotFoundError):
        JournaledFile(tmp_path / 'missing', print)


# Locks, which HDF5 takes as well: shared to read, exclusive to write.


def test_others_may_read_but_not_write_while_changes_are_collected(path, open_file):
    with open_file() as file:
        change(file)
        with locked(path, fcntl.LOCK_SH):
            assert path.read_bytes() == OLD
        with pytest.raises(BlockingIOError), locked(path, fcntl.LOCK_EX):
            pass


def test_nobody_may_read_while_the_changes_are_made(path, open_file, monkeypatch):
    write, attempts = os.pwritev, []

    def write_and_look(*arguments):
        with pytest.raises(BlockingIOError), locked(path, fcntl.LOCK_SH):
            pass
        attempts.append(arguments)
        return write(*arguments)

    monkeypatch.setattr(os, 'pwritev', write_and_look)
    with open_file() as file:
        change(file)
        file.commit([])

    assert attempts


def test_others_may_write_after_a_commit(path, open_file):
    with open_file() as file:
        file.commit([])
        with locked(path, fcntl.LOCK_EX):
            pass


def test_others_may_write_after_closing(path, open_file):
    open_file().close()

    with locked(path, fcntl.LOCK_EX):
        pass


def test_file_that_somebody_writes_to_is_busy(path, open_file):
    with locked(path, fcntl.LOCK_EX), pytest.raises(FileBusy):
        open_file()

    open_file().close()


def test_file_that_somebody_reads_is_not_changed(path, open_file, waiting):
    with open_file() as file:
        change(file)
        with locked(path, fcntl.LOCK_SH), pytest.raises(FileBusy):
            file.commit(COVERS)
        assert not is_new(path, waiting)

        file.commit(COVERS)

    assert is_new(path, waiting)


def test_file_that_another_program_changed_is_left_to_it(path, open_file, waiting):
    with open_file() as file:
        change(file)
        path.write_bytes(OLD + b'theirs')
        with pytest.raises(FileBusy, match='changed by another program'):
            file.commit(COVERS)

    assert path.read_bytes() == OLD + b'theirs'
    assert not journal_path(path).exists()
    assert len(waiting) == 3


# Crashes.


def write_half(descriptor, pieces, offset=0):
    content = b''.join(pieces)
    os.pwrite(descriptor, content[: len(content) // 2], offset)


def each(function):
    """Return what calls `function` for one name after the other."""

    def call(names):
        for name in names:
            function(name)

    return call


class Mortal:
    """A process that dies after so many of its steps.

    A step is a change to the disk, or a batch that is finished.  A write that
    death interrupts writes half.
    """

    def __init__(self, steps):
        self.left = steps
        self.patches = pytest.MonkeyPatch()
        for module, name in (
            (os, 'open'),
            (os, 'fsync'),
            (os, 'ftruncate'),
            (os, 'posix_fallocate'),
            (Path, 'unlink'),
        ):
            self.patches.setattr(module, name, self.step(getattr(module, name)))
        for name in ('writev', 'pwritev'):
            write = self.step(getattr(os, name), write_half)
            self.patches.setattr(os, name, write)

    def step(self, function, instead=lambda *_: None):
        def mortal(*arguments, **keywords):
            self.left -= 1
            if self.left == -1:
                instead(*arguments)
            if self.dead:
                raise Crash
            return function(*arguments, **keywords)

        return mortal

    @property
    def dead(self):
        return self.left < 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.patches.undo()
        return kind is Crash


def commit_and_die(path, waiting, steps, change=change):
    """Commit a change; return whether death came first."""

    def finish(names):
        each(process.step(waiting.discard))(names)

    with JournaledFile(path, finish) as file:
        change(file)
        with Mortal(steps) as process:
            file.commit(COVERS)
    return process.dead


def open_and_die(path, waiting, steps):
    """Open the file as the next process does; return whether death came first."""
    with Mortal(steps) as process:
        JournaledFile(path, each(process.step(waiting.discard))).close()
    return process.dead


def crash_after_commit_point(path, waiting, change=change):
    """Leave a whole journal, of which nothing is in the file yet."""
    before, journal = path.read_bytes(), journal_path(path)
    for steps in count():  # until the last of them changes the file
        journal.unlink(missing_ok=True)
        commit_and_die(path, waiting, steps, change)
        if not path.read_bytes().startswith(before):
            path.write_bytes(before)
            return journal


@pytest.fixture
def journal(path, waiting):
    return crash_after_commit_point(path, waiting)


@pytest.fixture
def small_journal(path, waiting):
    """A journal of few bytes, so that each can be damaged."""
    path.write_bytes(b'old')
    return crash_after_commit_point(path, waiting, lambda file: file.write(b'new!'))


def is_new(path, waiting):
    """Return whether the file is new or old; check that the spool agrees.

    The space for a commit is taken before it: HDF5 ignores zeros past the end.
    """
    content = path.read_bytes()
    assert not journal_path(path).exists()
    if content == NEW:
        assert waiting == {'other.batch'}
        return True
    assert content[: len(OLD)] == OLD
    assert not any(content[len(OLD) :])
    assert waiting == {*COVERS, 'other.batch'}
    return False


def test_crash_at_any_step_of_a_commit_leaves_old_or_new(path, waiting):
    outcomes, died = [], True
    while died:
        path.write_bytes(OLD)
        waiting.update(COVERS)
        died = commit_and_die(path, waiting, steps=len(outcomes))
        JournaledFile(path, waiting.difference_update).close()
        outcomes.append(is_new(path, waiting))

    # The journal, two pieces of the file and two batches are at least ten.
    assert len(outcomes) > 10
    assert outcomes == sorted(outcomes)
    assert (outcomes[0], outcomes[-1]) == (False, True)


def test_crash_at_any_step_of_a_replay_is_replayed_again(path, waiting, journal):
    content = journal.read_bytes()
    steps, died = 0, True
    while died:
        path.write_bytes(OLD)
        waiting.update(COVERS)
        journal.write_bytes(content)
        died = open_and_die(path, waiting, steps)
        JournaledFile(path, waiting.difference_update).close()
        assert is_new(path, waiting)
        steps += 1

    assert steps > 7


def test_changes_are_on_disk_before_the_batches_are_removed(path, monkeypatch):
    # With fewer of these steps, or in another order, a power cut loses events.
    steps, names = [], {}

    def record(module, function):
        original = getattr(module, function)

        def recorded(what, *arguments, **keywords):
            name = names.get(what, 'file') if type(what) is int else what.name
            result = original(what, *arguments, **keywords)
            if function == 'open':
                names[result] = name
            else:
                steps.append(f'{function} {name}')
            return result

        monkeypatch.setattr(module, function, recorded)

    with JournaledFile(path, lambda names: steps.append(f'finish {names}')) as file:
        file.write(b'new')
        for function in ('open', 'writev', 'pwritev', 'fsync'):
            record(os, function)
        record(Path, 'unlink')
        file.commit(['one.batch'])

    journal = journal_path(path).name
    assert steps == [
        f'writev {journal}',
        f'fsync {journal}',
        f'fsync {path.parent.name}',
        'pwritev file',
        'fsync file',
        "finish ['one.batch']",
        f'unlink {journal}',
    ]


def test_journal_that_is_cut_short_anywhere_is_discarded(path, waiting, small_journal):
    content = small_journal.read_bytes()
    for length in range(len(content)):
        small_journal.write_bytes(content[:length])
        JournaledFile(path, waiting.difference_update).close()
        assert path.read_bytes() == b'old'
        assert not small_journal.exists()

    assert len(waiting) == 3


def test_journal_with_any_byte_damaged_is_discarded(path, waiting, small_journal):
    content = small_journal.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        small_journal.write_bytes(damaged)
        JournaledFile(path, waiting.difference_update).close()
        assert path.read_bytes() == b'old'
        assert not small_journal.exists()

    assert len(waiting) == 3


@pytest.mark.parametrize('content', [b'', bytes(64), b'a stranger\n'], ids=repr)
def test_what_is_not_a_journal_is_discarded(path, waiting, content):
    journal_path(path).write_bytes(content)

    JournaledFile(path, waiting.difference_update).close()

    assert path.read_bytes() == OLD
    assert not journal_path(path).exists()


def test_whole_journal_is_replayed(path, waiting, journal):
    replay_journal(journal, waiting.difference_update)

    assert is_new(path, waiting)


def test_replaying_twice_changes_nothing_more(path, waiting, journal):
    content = journal.read_bytes()
    replay_journal(journal, waiting.difference_update)

    journal.write_bytes(content)
    replay_journal(journal, waiting.difference_update)

    assert is_new(path, waiting)


def test_opening_replays_before_anything_is_read(journal, open_file):
    with open_file() as file:
        assert file.read() == NEW


@pytest.mark.parametrize('size', [2 * PAGE, len(OLD), 3 * PAGE])
def test_what_is_cut_off_and_grows_again_is_committed_as_zeros(open_file, path, size):
    with open_file() as file:
        file.truncate(10)
        file.truncate(size)
        file.seek(0)
        shown = file.read()
        file.commit(COVERS)

    assert shown == OLD[:10] + bytes(size - 10)
    assert path.read_bytes() == shown


def test_journal_is_replayed_whichever_sectors_are_written(path, waiting, journal):
    content, old = journal.read_bytes(), OLD.ljust(len(NEW), b'\0')
    for seed in range(30):
        chosen = random.Random(seed)
        sectors = [
            chosen.choice((old, NEW))[start : start + 512]
            for start in range(0, len(NEW), 512)
        ]
        path.write_bytes(b''.join(sectors))
        journal.write_bytes(content)
        waiting.update(COVERS)

        replay_journal(journal, waiting.difference_update)

        assert is_new(path, waiting)


@pytest.mark.parametrize(
    'other',
    [
        pytest.param(b'an older head' + OLD[13:], id='as it was before'),
        pytest.param(b'a newer head' + NEW[12:], id='written to since'),
        pytest.param(NEW + b'more', id='grown since'),
        pytest.param(b'', id='emptied'),
        *(pytest.param(OLD[:n], id=f'cut to {n}') for n in range(0, len(OLD), 512)),
    ],
)
def test_journal_is_not_replayed_into_another_file(
    path, waiting, journal, other, caplog
):
    content = journal.read_bytes()
    path.write_bytes(other)

    replay_journal(journal, waiting.difference_update, on_replay=crash)

    assert path.read_bytes() == other
    assert waiting == {*COVERS, 'other.batch'}
    assert not journal.exists()
    (aside,) = path.parent.glob('*.orphan')
    assert aside.read_bytes() == content
    assert f'kept as {aside.name}' in caplog.text


def test_journal_of_a_writer_that_dies_before_we_have_the_lock_is_replayed(
    open_file, path, waiting, journal, monkeypatch
):
    content = journal.read_bytes()
    journal.unlink()

    def die_in_a_commit(*arguments):
        monkeypatch.undo()
        journal.write_bytes(content)
        return try_lock(*arguments)

    monkeypatch.setattr('writer.journal.try_lock', die_in_a_commit)

    with open_file() as file:
        assert file.read() == NEW
    assert is_new(path, waiting)


@pytest.mark.parametrize('end', [0, 1, 1000, 2**17])
def test_journal_is_replayed_where_a_size_of_nothing_but_zeros_is_undone(
    path, waiting, end
):
    path.write_bytes(OLD + bytes(end))
    journal = crash_after_commit_point(path, waiting)
    path.write_bytes(OLD)

    replay_journal(journal, waiting.difference_update)

    assert path.read_bytes()[: len(NEW)] == NEW
    assert waiting == {'other.batch'}


def test_journal_of_another_version_is_left_to_that(path, waiting, journal):
    content = journal.read_bytes().replace(b'HSJRNL2', b'HSJRNL3')
    journal.write_bytes(content)

    with pytest.raises(OSError, match='another version'):
        replay_journal(journal, waiting.difference_update)

    assert journal.read_bytes() == content
    assert path.read_bytes() == OLD
    assert len(waiting) == 3


def test_journal_is_not_replayed_into_a_busy_file(path, journal, waiting):
    content = journal.read_bytes()

    with locked(path, fcntl.LOCK_SH), pytest.raises(FileBusy):
        replay_journal(journal, waiting.difference_update)

    assert journal.read_bytes() == content
    assert path.read_bytes() == OLD
    assert len(waiting) == 3


def test_journal_is_not_for_everybody(path, waiting):
    before = os.umask(0)
    try:
        journal = crash_after_commit_point(path, waiting)
    finally:
        os.umask(before)

    assert stat.S_IMODE(journal.stat().st_mode) == 0o640


# Disks.


def refuse(code, before=lambda *_: None):
    """Return a function that fails, after it has done `before`."""

    def refuse(*arguments):
        before(*arguments)
        raise OSError(code, os.strerror(code))

    return refuse


def grow_half(descriptor, offset, length):
    os.ftruncate(descriptor, offset + length // 2)


@pytest.mark.parametrize(
    ('function', 'before'),
    [
        ('posix_fallocate', grow_half),
        ('open', lambda *_: None),
        ('writev', write_half),
        ('fsync', lambda *_: None),
    ],
    ids=['growing the file', 'creating the journal', 'writing it', 'its fsync'],
)
def test_full_disk_before_the_commit_point_changes_nothing(
    path, open_file, waiting, monkeypatch, function, before
):
    with open_file() as file:
        change(file)
        with monkeypatch.context() as patches:
            patches.setattr(os, function, refuse(errno.ENOSPC, before))
            with pytest.raises(OSError, match='No space left'):
                file.commit(COVERS)
        assert path.read_bytes() == OLD
        assert not journal_path(path).exists()
        assert len(waiting) == 3

        file.commit(COVERS)  # somebody made room

    assert is_new(path, waiting)


def test_journal_that_may_not_be_durable_is_no_commit(
    path, open_file, waiting, monkeypatch
):
    monkeypatch.setattr('datastore.durable.fsync_directory', refuse(errno.EIO))
    with open_file() as file:
        change(file)
        with pytest.raises(OSError, match='Input/output'):
            file.commit(COVERS)

    assert path.read_bytes() == OLD
    assert not is_new(path, waiting)


@pytest.mark.parametrize('function', ['pwritev', 'ftruncate'])
def test_disk_that_fails_after_the_commit_point_leaves_the_journal(
    path, open_file, waiting, monkeypatch, function
):
    with open_file() as file:
        change(file)
        with monkeypatch.context() as patches:
            patches.setattr(os, function, refuse(errno.EIO))
            with pytest.raises(OSError, match='Input/output'):
                file.commit(COVERS)
    assert len(waiting) == 3

    replay_journal(journal_path(path), waiting.difference_update)

    assert is_new(path, waiting)


def test_batch_that_cannot_be_removed_is_removed_by_a_replay(path, waiting):
    refused = {COVERS[-1]}

    def finish(names):
        waiting.difference_update(set(names) - refused)
        if refused:
            raise OSError(errno.EIO, 'Input/output error')

    with JournaledFile(path, finish) as file:
        change(file)
        with pytest.raises(OSError, match='Input/output'):
            file.commit(COVERS)
    assert waiting == {COVERS[-1], 'other.batch'}
    refused.clear()

    replay_journal(journal_path(path), finish)

    assert is_new(path, waiting)


@pytest.mark.parametrize('most', [1000, PAGE, 10_000])
def test_writes_that_the_disk_cuts_short_are_completed(
    path, open_file, monkeypatch, most
):
    def cut_short(write):
        return lambda descriptor, pieces, *at: write(
            descriptor, [b''.join(pieces)[:most]], *at
        )

    for function in ('writev', 'pwritev'):
        monkeypatch.setattr(os, function, cut_short(getattr(os, function)))
    with open_file() as file:
        change(file)
        file.commit([])

    assert path.read_bytes() == NEW


def test_commit_of_more_pieces_than_a_system_call_takes(path, open_file, waiting):
    content = os.urandom(1100 * PAGE + 7)

    with open_file() as file:
        file.write(content)
        # And as many that are no neighbours.
        for page in range(1200, 3400, 2):
            file.seek(page * PAGE + 1)
            file.write(b'!')
        journal = journal_path(path)
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr('writer.journal._apply', crash)
            with pytest.raises(Crash):
                file.commit(COVERS)
    replay_journal(journal, waiting.difference_update)

    found = path.read_bytes()
    assert found[: len(content)] == content
    assert found[1200 * PAGE + 1 :: 2 * PAGE] == b'!' * 1100
    assert found.count(b'!', len(content)) == 1100
    assert waiting == {'other.batch'}


def test_busy_file_is_closed_once(path, monkeypatch):
    closed, close = [], os.close
    monkeypatch.setattr(os, 'close', lambda fd: (closed.append(fd), close(fd)))
    with locked(path, fcntl.LOCK_EX), contextlib.suppress(FileBusy):
        JournaledFile(path, print)
    assert len(closed) == 1


def test_journal_that_another_process_replayed_is_no_error(path):
    with JournaledFile(path, lambda names: JournaledFile(path, print).close()) as file:
        file.write(b'new')
        file.commit(['batch'])


def test_empty_write_past_the_end_does_not_grow_the_file(open_file):
    with open_file() as file:
        file.seek(len(OLD) + 5)
        file.write(b'')
        assert file.seek(0, io.SEEK_END) == len(OLD)


@pytest.mark.parametrize('before', [b'', b'x', b'x' * PAGE], ids=len)
def test_file_that_shrinks_and_grows_reads_zeros(open_file, path, before):
    kept = (before + OLD[len(before) :])[:10]
    with open_file() as file:
        file.write(before)
        file.truncate(10)
        file.seek(20)
        file.write(b'y')
        file.seek(0)
        assert file.read() == kept + bytes(10) + b'y'
        file.commit([])

    assert path.read_bytes() == kept + bytes(10) + b'y'


def test_file_replaced_while_it_is_open_is_not_committed_to(path, open_file, waiting):
    with open_file() as file:
        change(file)
        other = path.with_name('other')
        other.write_bytes(b'other')
        other.rename(path)
        with pytest.raises(FileBusy):
            file.commit(COVERS)
    assert len(waiting) == 3
