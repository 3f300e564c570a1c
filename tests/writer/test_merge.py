"""The merged file of a day: what is in it, when it changes, what it survives."""

import contextlib
import errno
import fcntl
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import threading
from datetime import date

import h5py
import numpy as np
import pytest
from support import (
    CLUSTER,
    PROJECT,
    DayFiles,
    read_with_pytables,
    run_writer,
    stop,
)

from datastore.batch import Batch, encode_batch
from datastore.event import Event
from datastore.spool import Spool
from writer import merge
from writer.journal import FileBusy, JournaledFile, journal_path
from writer.merge import Merger, NotOurs, Stopped
from writer.reading import Reading

DAY = date(2020, 2, 3)
MONDAY = 1_580_688_000  # the same, in s


def shower(number):
    """Make an event of the day, with two traces."""
    values = {'PH1': number, 'TR1': 'eJwzNAQAAJQAYg==', 'TR2': 'eJwzNAQAAJQAYg=='}
    moment = MONDAY + number
    return Event('CIC', moment, 0, number, tuple(values), tuple(values.values()))


def error(number):
    return Event('ERR', MONDAY + number, 0, 0, ('ERRMSG',), (f'error {number}',))


@pytest.fixture
def target(data_dir):
    return data_dir / '2020/2/2020_2_3.h5'


@pytest.fixture
def make_merger(data_dir):
    """Make what merges; it does not wait for files that are in use."""

    def make(wait=lambda seconds: True, stop=None, **keywords):
        reading = Reading(lambda names: None, wait=wait)
        return Merger(data_dir, reading, stop or threading.Event(), **keywords)

    return make


@pytest.fixture
def merged(make_merger):
    """Merge the day; keywords as for `Merger.merge`."""
    return lambda **keywords: make_merger().merge(DAY, **keywords)


def numbers(path):
    """Return the pulse heights of each station in a merged file."""
    found = {}
    with h5py.File(path) as file:
        for cluster in file['hisparc'].values():
            for name, group in cluster.items():
                rows = group['events'][:]
                assert rows['event_id'].tolist() == list(range(1, len(rows) + 1))
                for index in rows['traces'][rows['traces'] >= 0].ravel():
                    assert group['blobs'][index][0] == ord('x')
                found[name] = rows['pulseheights'][:, 0].tolist()
    return found


def left(data_dir):
    """Return what is left of drafts."""
    return os.listdir(data_dir / 'tmp')


@contextlib.contextmanager
def being_written(path):
    with open(path, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# What is in it.


def test_pytables_finds_in_it_what_it_finds_in_the_station_files(files, merged, target):
    sources = [
        files.store(501, shower(1), error(2), shower(3), cluster='Science Park'),
        files.store(8001, shower(4), cluster='Eindhoven'),
    ]

    outcome = merged()

    found = read_with_pytables(target)
    held = found.pop('/ingest/sources')
    expected = {}
    for source in sources:
        expected |= read_with_pytables(source)
    del expected['/ingest/digests']
    assert found.keys() == expected.keys()
    for path, leaf in found.items():
        np.testing.assert_array_equal(leaf, expected[path])
    assert held['station'].tolist() == [501, 8001]
    assert held['size'].tolist() == [source.stat().st_size for source in sources]
    assert held['mtime'].tolist() == [source.stat().st_mtime_ns for source in sources]
    assert held['events'].tolist() == [2, 1]
    assert held['errors'].tolist() == [1, 0]
    assert held['blobs'].tolist() == [5, 2]
    assert outcome[2:6] == (2, 4, 7, True)
    assert outcome.faults == []


def test_layout_is_that_of_the_station_files(files, merged, target):
    source = files.store(501, shower(1))

    merged()

    def describe(path):
        described = {}
        with h5py.File(path) as file:
            nodes = [file, file['hisparc']]
            file['hisparc'].visititems(lambda name, node: nodes.append(node))
            for node in nodes:
                attributes = {
                    name: (
                        node.attrs.get_id(name).dtype,
                        node.attrs.get_id(name).shape,
                        node.attrs.get_id(name).get_type().get_size(),
                    )
                    for name in node.attrs
                }
                chunks = getattr(node, 'chunks', None)
                described[node.name] = attributes, chunks
        return described

    assert describe(target) == describe(source)


def test_station_that_moved_to_another_cluster_is_in_both(files, merged, target):
    files.store(501, shower(1), cluster='A')
    files.store(501, shower(2), shower(3), cluster='B')

    outcome = merged()

    with h5py.File(target) as file:
        assert len(file['hisparc/cluster_a/station_501/events']) == 1
        assert len(file['hisparc/cluster_b/station_501/events']) == 2
    assert (outcome.stations, outcome.rows) == (1, 3)


def test_what_is_no_table_of_ours_stays_behind(files, merged, target):
    source = files.store(501, shower(1))
    with h5py.File(source, 'r+') as file:
        file['hisparc/cluster_science park/station_501/notes'] = 1.0

    merged()

    with h5py.File(target) as file:
        group = file['hisparc/cluster_science park/station_501']
        assert sorted(group) == ['blobs', 'events']
        assert [len(child) for child in group.values()] == [2, 1]


def test_day_without_station_files_is_no_fault(files, merged, target):
    outcome = merged()
    assert (outcome.stations, outcome.changed, outcome.faults) == (0, False, [])
    assert not target.exists()


# When it changes.


def test_file_is_safe_before_it_is_renamed_and_the_rename_after(
    files, merged, target, data_dir, fsynced
):
    files.store(501, shower(1))
    fsynced.clear()

    merged()

    (draft, content), directory = fsynced
    assert draft.parent == data_dir / 'tmp'
    assert content == target.read_bytes()
    assert directory == (target.parent, ['2020_2_3', '2020_2_3.h5'])


def test_day_of_which_nothing_is_new_keeps_its_file(files, merged, target):
    files.store(501, shower(1))
    merged()
    before = target.stat()

    outcome = merged()

    assert not outcome.changed
    assert (outcome.stations, outcome.rows, outcome.blobs) == (1, 1, 2)
    assert target.stat() == before


def test_late_data_makes_another_file_that_is_newer(files, merged, target, data_dir):
    files.store(501, shower(1))
    files.store(502, shower(2))
    merged()
    os.utime(target, (0, 0))
    files.store(502, shower(3), error(4))

    with h5py.File(target) as held:
        assert merged().changed
        # Who has the file before open reads on in it.
        assert len(held['hisparc/cluster_science park/station_502/events']) == 1

    assert numbers(target) == {'station_501': [1], 'station_502': [2, 3]}
    source = files.archive.path(502, MONDAY // 86400)
    assert target.stat().st_mtime >= source.stat().st_mtime
    assert left(data_dir) == []


def test_only_stations_whose_file_has_changed_are_read(files, merged, target):
    unchanged = files.store(501, shower(1))
    files.store(502, shower(2))
    merged()
    files.store(502, shower(3))

    with being_written(unchanged):
        outcome = merged()

    assert outcome.faults == []
    assert numbers(target) == {'station_501': [1], 'station_502': [2, 3]}


def test_file_that_was_only_touched_leaves_the_time_as_it_is(files, merged, target):
    source = files.store(501, shower(1), error(2))
    merged()
    os.utime(source, (1, 1))
    os.utime(target, (2, 2))

    assert not merged().changed
    assert target.stat().st_mtime == 2
    with being_written(source):  # so it is not even opened
        assert merged().faults == []


def test_edited_row_makes_another_file(files, merged, target):
    source = files.store(501, shower(1))
    merged()
    with h5py.File(source, 'r+') as file:
        table = file['hisparc/cluster_science park/station_501/events']
        rows = table[:]
        rows['pulseheights'][0, 0] = 7
        table.write_direct(rows)

    assert merged().changed
    assert numbers(target) == {'station_501': [7]}


def test_mode_of_the_file_before_is_kept(files, merged, target):
    files.store(501, shower(1))
    merged()
    assert target.stat().st_mode & 0o777 == 0o640
    target.chmod(0o644)
    files.store(501, shower(2))

    merged()

    assert target.stat().st_mode & 0o777 == 0o644


def test_days_are_those_with_directories_of_their_name(data_dir, make_merger):
    for name in ('2020/2/2020_2_3', '2019/12/2019_12_31', '2020/2/2020_02_04'):
        (data_dir / name).mkdir(parents=True)
    for name in ('2020/2/2020_2_30', '2020/2/2020_3_1', 'tmp/1/2020_1_1'):
        (data_dir / name).mkdir(parents=True)
    assert make_merger().days() == [date(2019, 12, 31), DAY]


# What it survives.


def cut_short(path):
    os.truncate(path, 3000)


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def lose_the_station(path):
    with h5py.File(path, 'r+') as file:
        del file['hisparc/cluster_science park/station_502']


def spoil_the_blobs(path):
    content = path.read_bytes()
    assert b'GCOL' in content
    path.write_bytes(content.replace(b'GCOL', b'LOST'))  # the heap of the blobs


DAMAGES = [cut_short, fill_with_zeros, lose_the_station, spoil_the_blobs]


@pytest.mark.parametrize('damage', DAMAGES, ids=[d.__name__ for d in DAMAGES])
def test_damaged_file_is_named_and_its_merged_copy_stays(
    files, merged, target, data_dir, damage
):
    files.store(501, shower(1))
    damaged = files.store(502, shower(2))
    merged()
    files.store(501, shower(3))
    files.store(502, shower(4))
    damage(damaged)

    outcome = merged()

    assert outcome.changed
    (fault,) = outcome.faults
    assert fault.startswith('station 502: ')
    assert str(damaged) in fault
    assert 'what was merged of it stays' in fault
    assert numbers(target) == {'station_501': [1, 3], 'station_502': [2]}
    assert left(data_dir) == []


@pytest.mark.parametrize('damage', DAMAGES, ids=[d.__name__ for d in DAMAGES])
def test_damaged_file_does_not_keep_the_others_out(files, merged, target, damage):
    damage(files.store(502, shower(2)))
    files.store(501, shower(1))
    files.store(503, shower(3))

    outcome = merged()

    assert [fault[:11] for fault in outcome.faults] == ['station 502']
    assert numbers(target) == {'station_501': [1], 'station_503': [3]}


def test_day_of_damaged_files_only_has_no_merged_file(files, merged, target):
    cut_short(files.store(501, shower(1)))
    outcome = merged()
    assert not outcome.changed
    assert len(outcome.faults) == 1
    assert not target.exists()


def test_station_whose_file_is_gone_stays(files, merged, target):
    gone = files.store(501, shower(1))
    files.store(502, shower(2))
    merged()
    gone.unlink()
    files.store(502, shower(3))

    outcome = merged()

    assert outcome.faults == [
        'station 501: its file is gone; what was merged of it stays'
    ]
    assert numbers(target) == {'station_501': [1], 'station_502': [2, 3]}
    assert merged().stations == 2


def test_file_with_less_than_was_merged_replaces_nothing_unless_asked_to(
    data_dir, files, merged, target
):
    source = files.store(501, shower(1), shower(2))
    merged()
    source.unlink()
    DayFiles(data_dir).store(501, shower(3))

    outcome = merged()
    (fault,) = outcome.faults
    assert 'has 2 rows, and 4 were merged; --rebuild takes it' in fault
    assert numbers(target) == {'station_501': [1, 2]}

    assert merged(rebuild=True).faults == []
    assert numbers(target) == {'station_501': [3]}


def test_file_in_use_is_waited_for(files, make_merger, target):
    source = files.store(501, shower(1))
    waited = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(being_written(source))

        def wait(seconds):
            waited.append(seconds)
            if len(waited) == 3:
                stack.close()

        outcome = make_merger(wait).merge(DAY)

    assert waited == [0.01, 0.02, 0.04]
    assert outcome.faults == []
    assert numbers(target) == {'station_501': [1]}


def test_file_in_use_all_the_time_is_named_and_merged_next_time(files, merged, target):
    busy = files.store(501, shower(1))
    files.store(502, shower(2))
    with being_written(busy):
        outcome = merged()
    assert outcome.faults == [f'station 501: {busy} is in use']
    assert numbers(target) == {'station_502': [2]}

    assert merged().faults == []
    assert numbers(target) == {'station_501': [1], 'station_502': [2]}


@pytest.fixture
def crash(files, monkeypatch):
    """Append an event, but die after the commit point, and tear the file."""

    def crash(station, event):
        path = files.archive.path(station, MONDAY // 86400)

        def tear(descriptor, record):
            os.pwrite(descriptor, bytes(100), 200)
            raise ZeroDivisionError

        with monkeypatch.context() as patch:
            patch.setattr('writer.journal._apply', tear)
            with pytest.raises(ZeroDivisionError):
                files.store(station, event)
        assert journal_path(path).exists()
        return path

    return crash


def test_left_over_journal_is_replayed_first(files, merged, target, crash):
    files.store(501, shower(1))
    merged()
    path = crash(501, shower(2))

    assert merged().faults == []
    assert numbers(target) == {'station_501': [1, 2]}
    assert not journal_path(path).exists()


def test_left_over_journal_beside_a_file_that_has_not_changed_is_replayed(
    files, merged, target, crash
):
    path = files.store(501, shower(1))
    merged()
    before, status = path.read_bytes(), path.stat()
    crash(501, shower(2))
    # In a power cut: all that came to the disk is the journal.
    path.write_bytes(before)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    assert merged().faults == []
    assert numbers(target) == {'station_501': [1, 2]}


def test_file_that_is_not_ours_is_not_replaced(files, merged, target):
    source = files.store(501, shower(1))
    shutil.copy(source, target)
    with h5py.File(target, 'r+') as file:
        del file['ingest']
    before = target.read_bytes()

    with pytest.raises(NotOurs, match=r'2020_2_3\.h5 .* --replace'):
        merged()

    assert target.read_bytes() == before


def test_replaced_file_is_safe_under_its_other_name_before_it_is_replaced(
    files, merged, target, data_dir, fsynced
):
    shutil.copy(files.store(501, shower(1)), target)
    with h5py.File(target, 'r+') as file:
        del file['ingest']

    replaced = merged(replace=True).replaced

    assert fsynced[-2:] == [
        (data_dir / 'replaced', [replaced.name]),
        (target.parent, ['2020_2_3', '2020_2_3.h5']),
    ]


def test_replaced_file_is_kept_and_its_other_stations_are_taken_over(
    data_dir, files, merged, target
):
    files.store(502, shower(2))
    merged()
    with h5py.File(target, 'r+') as file:
        del file['ingest']
    historic = target.read_bytes()
    files.store(501, shower(1))
    files.archive.path(502, MONDAY // 86400).unlink()

    outcome = merged(replace=True)

    assert numbers(target) == {'station_501': [1], 'station_502': [2]}
    assert outcome.replaced.parent == data_dir / 'replaced'
    assert outcome.replaced.read_bytes() == historic
    assert outcome.changed
    assert outcome.faults == []
    assert merged().faults == []
    assert not merged().changed


def test_rows_that_only_the_replaced_file_holds_are_told(files, merged, target):
    source = files.store(501, shower(1), shower(2))
    shutil.copy(source, target)
    with h5py.File(target, 'r+') as file:
        del file['ingest']
    source.unlink()
    files.store(501, shower(2), shower(3), shower(4))

    outcome = merged(replace=True)

    assert numbers(target) == {'station_501': [2, 3, 4]}
    assert outcome.faults == [
        'station 501: rows of the file before that its own lacks: 1; all are in the '
        'one that is kept in replaced/'
    ]
    assert merged().faults == []


def test_table_that_only_the_replaced_file_holds_is_told(files, merged, target):
    source = files.store(501, shower(1))
    merged()
    with h5py.File(target, 'r+') as file:
        del file['ingest']
        (cluster,) = file['hisparc'].values()
        file.copy(cluster, '/hisparc/cluster_other')
    assert source.exists()

    outcome = merged(replace=True, rebuild=True)

    assert outcome.changed
    assert 'its own lacks: 1;' in outcome.faults[0]


@pytest.mark.parametrize('damage', [cut_short, fill_with_zeros])
def test_damaged_merged_file_is_made_again_only_when_asked_to(
    files, merged, target, damage
):
    files.store(501, shower(1))
    merged()
    damage(target)
    torn = target.read_bytes()
    with pytest.raises(NotOurs, match='or is damaged'):
        merged()
    assert target.read_bytes() == torn

    outcome = merged(replace=True)

    assert numbers(target) == {'station_501': [1]}
    assert outcome.replaced.read_bytes() == torn


@contextlib.contextmanager
def largest_file(size):
    """Let the disk refuse whatever is beyond `size` in a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('size', [0, 50, 5000, 20_000, 40_000])
def test_disk_that_refuses_leaves_nothing_behind(files, merged, target, data_dir, size):
    files.store(501, shower(1))
    merged()
    before = target.read_bytes()
    files.store(501, *map(shower, range(2, 100)))

    with largest_file(size), pytest.raises(OSError) as refused:
        merged()

    assert refused.value.errno == errno.EFBIG
    assert left(data_dir) == []
    assert target.read_bytes() == before
    assert merged().changed


def test_space_that_uploads_need_is_not_taken(files, make_merger, target):
    files.store(501, shower(1))
    with pytest.raises(OSError, match='beside min_free_space') as refused:
        make_merger(min_free_space=2**62).merge(DAY)
    assert refused.value.errno == errno.ENOSPC
    assert not target.exists()


def test_crash_before_the_rename_changes_nothing(
    files, merged, target, data_dir, monkeypatch
):
    files.store(501, shower(1))
    merged()
    before = target.read_bytes()
    files.store(501, shower(2))
    with monkeypatch.context() as patch:
        patch.setattr(merge.os, 'rename', lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            merged()
    assert target.read_bytes() == before
    assert left(data_dir) == []


def test_draft_of_a_merge_that_was_killed_is_removed(files, merged, data_dir):
    files.store(501, shower(1))
    (data_dir / 'tmp/merge-1-2').write_bytes(b'half')
    (data_dir / 'tmp/of-the-endpoint').write_bytes(b'half a batch')
    merged()
    assert left(data_dir) == ['of-the-endpoint']


def test_two_merges_do_not_go_on_at_once(files, merged, data_dir, target):
    files.store(501, shower(1))
    (data_dir / 'merge.lock').touch()
    with (
        being_written(data_dir / 'merge.lock'),
        pytest.raises(FileBusy, match='another merge works on'),
    ):
        merged()
    assert not target.exists()


def test_merge_that_is_told_to_stop_changes_nothing(
    files, make_merger, target, data_dir
):
    files.store(501, shower(1))

    class StopAtThird:
        asked = 0

        def is_set(self):
            self.asked += 1
            return self.asked == 2  # after looking at the file, before copying

    with pytest.raises(Stopped):
        make_merger(stop=StopAtThird()).merge(DAY)
    assert not target.exists()
    assert left(data_dir) == []


def test_writer_may_not_commit_while_its_file_is_copied(
    files, make_merger, monkeypatch
):
    source = files.store(501, shower(1))
    copy = merge._copy_children

    def meanwhile(*arguments):
        with JournaledFile(source, lambda names: None) as file:
            file.write(b'')
            with pytest.raises(FileBusy):
                file.commit([])
        copy(*arguments)

    monkeypatch.setattr(merge, '_copy_children', meanwhile)
    assert make_merger().merge(DAY).faults == []


# While a writer writes.


class PyTables:
    """Reads merged files, in a process of its own."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'chaos.read_with_pytables'],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def read(self, path):
        """Return the rows of a file, or why it cannot be read."""
        self.process.stdin.write(f'{path}\n'.encode())
        self.process.stdin.flush()
        (length,) = struct.unpack('<Q', self.process.stdout.read(8))
        return pickle.loads(self.process.stdout.read(length))


def test_no_version_is_torn_while_the_writer_goes_on(make_config, data_dir, target):
    spool = Spool(data_dir)
    stations, rounds, size = (501, 502), 12, 40

    def put(number):
        for station in stations:
            events = [shower(number * size + n) for n in range(size)]
            batch = Batch(station, CLUSTER, number, tuple(events))
            spool.put(station, encode_batch(batch))

    configfile = make_config(Writer={'sleep': 0.01})
    merger = Merger(data_dir, Reading(spool.remove), threading.Event())
    command = [sys.executable, '-m', 'writer', '--config', configfile]
    pytables, writer = PyTables(), subprocess.Popen(command, cwd=PROJECT)
    seen = 0
    try:
        for number in range(rounds):
            put(2 * number)
            put(2 * number + 1)
            # The writer is at it, and is not waited for: again until one is new.
            while not (outcome := merger.merge(DAY)).changed:
                assert outcome.faults == []
                assert writer.poll() is None
            rows = pytables.read(target)
            assert isinstance(rows, list), rows
            assert len(rows) == outcome.rows > seen
            assert len(set(rows)) == len(rows)
            seen = len(rows)
    finally:
        stop(writer)
        pytables.process.kill()
        pytables.process.communicate()
    assert run_writer(configfile).returncode == 0
    assert merger.merge(DAY).rows == len(stations) * 2 * rounds * size
    assert left(data_dir) == []
