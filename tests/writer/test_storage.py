"""Files written here are read by h5py and by PyTables, and survive mishaps."""

import base64
import contextlib
import errno
import fcntl
import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from h5py import h5a, h5t
from support import Crash, crash, event_digests, read_with_pytables

from datastore.event import Event
from datastore.upload_codes import EVENT_TYPES, TABLES
from writer import storage
from writer.journal import FileBusy, JournaledFile, journal_path
from writer.rows import rows_and_blobs
from writer.storage import Archive, DamagedFile

DAY = 18295  # 2020-02-03
GROUP = '/hisparc/cluster_a/station_510'


def event(event_type='ERR', timestamp=0, **values):
    """Make an event; keywords are its upload codes."""
    codes, values = tuple(values), tuple(values.values())
    return Event(event_type, timestamp, 0, 0, codes, values)


def error(number):
    """Make an event that is known by its number, with a blob."""
    return event('ERR', number, ERRMSG=f'error {number}')


class Store:
    """An archive, and the batches that it has finished."""

    def __init__(self, data_dir):
        data_dir.mkdir(exist_ok=True)
        (data_dir / 'tmp').mkdir(exist_ok=True)
        self.data_dir = data_dir
        self.finished = []
        self.restart()

    def restart(self):
        self.archive = Archive(self.data_dir, self.finished.extend)

    def known(self, day=DAY):
        return self.archive.digests(510, day)

    def append(self, *events, cluster='A', day=DAY, known=None, covers=()):
        self.archive.append(
            510,
            cluster,
            day,
            rows_and_blobs(events).tables,
            event_digests(events),
            self.known(day) if known is None else known,
            covers,
        )

    def path(self, day=DAY):
        return self.archive.path(510, day)

    def knows(self, event, day=DAY):
        return event_digests([event])[0] in self.known(day)


@pytest.fixture
def store(data_dir):
    return Store(data_dir)


def errors_in(path, group=GROUP):
    """Return (event_id, timestamp, message) of each error in a file."""
    with h5py.File(path) as file:
        rows, blobs = file[f'{group}/errors'][:], file[f'{group}/blobs'][:]
    return [
        (row['event_id'], row['timestamp'], blobs[row['messages']].tobytes())
        for row in rows
    ]


def numbered(*numbers):
    """Return what `errors_in` finds of these errors, stored in this order."""
    return [
        (event_id, number, b'error %d' % number)
        for event_id, number in enumerate(numbers, 1)
    ]


# Read by others.


def value_of(column, number):
    """Return a value for a column, as a station sends it and as it is stored."""
    if column.encoding == 'base64':
        return base64.b64encode(b'trace \0%d' % number).decode(), b'trace \0%d' % number
    if column.encoding == 'latin-1':
        return f'text {number} \xe9', b'text %d \xe9' % number
    if column.dtype == 'bool':
        return number % 2 == 1, number % 2 == 1
    value = number + 0.25 if column.dtype.startswith('float') else number
    return value, value


def full_event(table):
    """Return an event with all upload codes, and what becomes of its values."""
    values, stored = {}, {}
    for number, (code, field) in enumerate(table.fields.items(), 3):
        values[code], stored[code] = value_of(field.column, number % 100)
    return event(table.event_type, 1, **values), stored


@pytest.fixture(scope='module')
def everything(tmp_path_factory):
    """A file with events of every type, and what each library finds in it.

    Two appends: of an event with all values, and of an event with none and a
    CIC event with the blobs '' and 'last'.
    """
    directory = tmp_path_factory.mktemp('everything')
    store = Store(directory / 'data')
    store.append(*(full_event(table)[0] for table in TABLES))
    last = event('CIC', 3, RED=True, TR1='', TR4=base64.b64encode(b'last').decode())
    store.append(*(event(table.event_type, 2) for table in TABLES), last)
    used, native = directory / 'used.h5', directory / 'native.h5'
    shutil.copy(store.path(), used)
    client = subprocess.run(
        [sys.executable, Path(__file__).with_name('pytables_client.py'), used, native],
        stdout=subprocess.PIPE,
        check=True,
    )
    described, queried = pickle.loads(client.stdout)
    return SimpleNamespace(
        store=store,
        path=store.path(),
        pytables=read_with_pytables(store.path()),
        described=described,
        queried=queried,
        used=used,
        native=native,
    )


def of_every_type(function):
    return pytest.mark.parametrize('table', TABLES, ids=lambda t: t.event_type)(
        function
    )


@of_every_type
def test_pytables_reads_every_value(everything, table):
    rows = everything.pytables[f'{GROUP}/{table.name}']
    blobs = everything.pytables[f'{GROUP}/blobs']
    _, stored = full_event(table)

    row = rows[0]
    for code, field in table.fields.items():
        value = row[field.column.name]
        if field.detector is not None:
            value = value[field.detector]
        if field.column.is_blob:
            value = blobs[value]
        assert value == stored[code], code
    assert (row['event_id'], row['timestamp']) == (1, 1)


@of_every_type
def test_pytables_finds_the_columns_and_their_dtypes(everything, table):
    rows = everything.pytables[f'{GROUP}/{table.name}']

    assert rows.dtype == np.dtype([(c.name, c.dtype, c.shape) for c in table.columns])


@of_every_type
def test_pytables_finds_title_and_defaults(everything, table):
    found = everything.described[f'{GROUP}/{table.name}']

    assert found['title'] == table.title
    assert found['types'] == {c.name: c.dtype for c in table.columns}
    assert found['defaults'] == {c.name: c.default for c in table.columns}


@of_every_type
def test_event_without_values_reads_the_defaults(everything, table):
    row = everything.pytables[f'{GROUP}/{table.name}'][1]

    assert row['event_id'] == 2
    for column in table.columns:
        if column.upload_code:
            assert np.all(row[column.name] == column.default), column.name


def test_pytables_reads_blobs_as_bytes_of_any_length(everything):
    blobs = everything.pytables[f'{GROUP}/blobs']
    traces = everything.pytables[f'{GROUP}/events']['traces'][-1]

    assert everything.described[f'{GROUP}/blobs']['atom'] == 'VLStringAtom'
    assert [blobs[index] for index in traces[[0, 3]]] == [b'', b'last']
    assert traces[[1, 2]].tolist() == [-1, -1]
    assert len(blobs) == traces[3] + 1


def test_h5py_reads_what_pytables_reads(everything):
    with h5py.File(everything.path) as file:
        for name, found in everything.pytables.items():
            read = file[name][:]
            if name.endswith('/blobs'):
                assert [blob.tobytes() for blob in read] == found
                continue
            for column in found.dtype.names:
                assert np.array_equal(read[column], found[column]), (name, column)


def attributes(node):
    """Return the attributes of a node, each with how it is stored."""
    found = {}
    for index in range(h5a.get_num_attrs(node.id)):
        attribute = h5a.open(node.id, index=index)
        type_id, space = attribute.get_type(), attribute.get_space()
        form = [type_id.get_class(), type_id.get_size()]
        form += [space.get_simple_extent_type(), attribute.shape]
        if isinstance(type_id, h5t.TypeStringID):
            form += [type_id.get_cset(), type_id.get_strpad()]
            form += [type_id.is_variable_str()]
        value = node.attrs[attribute.name.decode()]
        found[attribute.name] = (form, value if form[1] > 1 else None)
    return found


def test_file_is_laid_out_as_pytables_lays_it_out(everything):
    with h5py.File(everything.path) as ours, h5py.File(everything.native) as native:
        names, expected = ['/'], ['/']
        ours.visit(names.append)
        native.visit(expected.append)
        assert sorted(names) == sorted(expected)
        for name in names:
            assert attributes(ours[name]) == attributes(native[name]), name
            if isinstance(ours[name], h5py.Dataset):
                assert ours[name].id.get_type() == native[name].id.get_type(), name
                assert ours[name].maxshape == native[name].maxshape, name


def test_pytables_queries_rows(everything):
    queried = everything.queried

    assert queried['read_where']['event_id'].tolist() == [3]
    assert queried['where'] == [2, 3]


def test_a_stations_children_are_tables_and_blobs(everything):
    blobs = everything.pytables[f'{GROUP}/blobs']

    expected = {table.name: 2 for table in TABLES} | {'events': 3, 'blobs': len(blobs)}
    assert everything.queried['len of children'] == expected
    with h5py.File(everything.path) as file:
        assert set(file) == {'hisparc', 'ingest'}


def test_pytables_appends_and_we_append_after_it(everything, store):
    store.path().parent.mkdir(parents=True)
    shutil.copy(everything.used, store.path())

    store.append(event('CIC', 9, TR2=base64.b64encode(b'ours').decode(), RED=False))

    with h5py.File(store.path()) as file:
        rows, blobs = file[f'{GROUP}/events'][:], file[f'{GROUP}/blobs'][:]
        assert file[f'{GROUP}/events'].attrs['NROWS'] == 6
    assert rows['event_id'].tolist() == [1, 2, 3, 4, 5, 6]
    assert rows['data_reduction'].tolist()[3:] == [1, 1, 0]
    assert rows['baseline'][4].tolist() == [-1, -1, -1, -1]
    assert blobs[rows['traces'][4, 0]].tobytes() == b'by PyTables'
    assert blobs[rows['traces'][5, 1]].tobytes() == b'ours'
    assert store.knows(full_event(EVENT_TYPES['CIC'])[0])


# Appended to.


def test_event_ids_and_blobs_continue(store):
    store.append(error(7), error(5))
    store.append(error(6))
    store.restart()
    store.append(error(9), error(8))

    assert errors_in(store.path()) == numbered(7, 5, 6, 9, 8)


def test_tables_of_a_station_share_its_blobs(store):
    store.append(error(1), event('WER', 2, WER_ERRMSG='weather'))
    store.append(event('WER', 3, WER_ERRMSG='rain'), error(4))

    assert errors_in(store.path()) == numbered(1, 4)
    with h5py.File(store.path()) as file:
        indices = file[f'{GROUP}/weather_errors']['messages']
        found = [file[f'{GROUP}/blobs'][index].tobytes() for index in indices]
    assert found == [b'weather', b'rain']


@pytest.mark.parametrize('message', ['', 'one'])
def test_single_blob_is_stored(store, message):
    for number in (1, 2):
        store.append(event('ERR', number, ERRMSG=message))

    found = [message for _, _, message in errors_in(store.path())]
    assert found == [message.encode()] * 2


def test_station_without_blobs_has_none(store):
    store.append(event('WTR', 1))

    with h5py.File(store.path()) as file:
        assert list(file[GROUP]) == ['weather']


def test_station_that_changes_cluster_has_both_in_one_file(store):
    store.append(error(1), cluster='A')
    store.append(error(2), error(3), cluster='Science Park')
    store.append(error(4), cluster='A')

    assert errors_in(store.path()) == numbered(1, 4)
    other = '/hisparc/cluster_science park/station_510'
    assert errors_in(store.path(), other) == numbered(2, 3)
    store.restart()
    assert all(store.knows(error(number)) for number in (1, 2, 3, 4))


def test_stored_events_are_known_and_no_others(store):
    store.append(error(1))
    store.append(error(2))

    for _ in range(2):
        known = [number for number in range(5) if store.knows(error(number))]
        assert known == [1, 2]
        assert not store.knows(error(1), DAY + 1)
        store.restart()


def test_batches_are_finished_and_no_journal_is_left(store):
    store.append(error(1), covers=['first', 'second'])
    store.append(error(2), covers=['third'])

    assert store.finished == ['first', 'second', 'third']
    assert sorted(p.name for p in store.path().parent.iterdir()) == ['station_510.h5']


@pytest.mark.parametrize(
    ('day', 'path'),
    [
        (18295, '2020/2/2020_2_3/station_510.h5'),
        (18627, '2020/12/2020_12_31/station_510.h5'),
        (0, '1970/1/1970_1_1/station_510.h5'),
        (-1, '1969/12/1969_12_31/station_510.h5'),
    ],
)
def test_path_has_no_zero_padding(store, day, path):
    assert store.path(day) == store.data_dir / path


def test_new_file_is_not_for_everybody(store):
    before = os.umask(0)
    try:
        store.append(error(1))
    finally:
        os.umask(before)

    assert stat.S_IMODE(store.path().stat().st_mode) == 0o640
    for directory in list(store.path().parents)[:3]:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o750


def test_new_file_appears_whole(store, monkeypatch):
    rename = os.rename

    def look_and_rename(draft, path):
        assert not os.path.exists(path)
        assert errors_in(draft) == numbered(1, 2)
        assert store.finished == []
        rename(draft, path)

    monkeypatch.setattr(os, 'rename', look_and_rename)
    store.append(error(1), error(2), covers=['batch'])

    assert errors_in(store.path()) == numbered(1, 2)
    assert store.finished == ['batch']


def test_directory_of_drafts_that_somebody_removed_is_made_again(store):
    (store.data_dir / 'tmp').rmdir()

    store.append(error(1))

    assert errors_in(store.path()) == numbered(1)


def test_new_file_that_the_disk_refuses_leaves_nothing(store, monkeypatch):
    def refuse(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patches:
        patches.setattr('datastore.durable.write_all', refuse)
        with pytest.raises(OSError, match='No space left'):
            store.append(error(1), covers=['batch'])
    assert not store.path().exists()
    assert list((store.data_dir / 'tmp').iterdir()) == []
    assert not store.knows(error(1))
    assert store.finished == []

    store.append(error(1), covers=['batch'])

    assert errors_in(store.path()) == numbered(1)


# Interrupted.


@pytest.fixture
def interrupted(store):
    """A file with an error 1, and a journal with an error 2, covering a batch."""
    store.append(error(1))
    before = store.path().read_bytes()
    store.archive = Archive(store.data_dir, crash)
    with pytest.raises(Crash):
        store.append(error(2), covers=['batch'])
    store.path().write_bytes(before)  # nothing was applied yet
    store.restart()
    return store


def test_journal_is_found(interrupted):
    assert interrupted.archive.journals() == [journal_path(interrupted.path())]


def test_no_journal_is_found_where_none_is(store):
    store.append(error(1))

    assert store.archive.journals() == []


def test_interrupted_append_is_finished_before_events_are_compared(interrupted):
    assert interrupted.knows(error(2))
    assert interrupted.finished == ['batch']
    assert errors_in(interrupted.path()) == numbered(1, 2)


def test_new_file_is_known_when_its_batches_were_not_removed(store):
    store.archive = Archive(store.data_dir, crash)
    with pytest.raises(Crash):
        store.append(error(1), covers=['batch'])
    store.restart()

    assert store.knows(error(1))


def test_append_that_failed_can_be_repeated(store, monkeypatch):
    store.append(error(1))
    with monkeypatch.context() as patches:
        patches.setattr(os, 'pwritev', crash)
        with pytest.raises(Crash):
            store.append(error(2), covers=['batch'])

    assert store.knows(error(2))  # it was past the commit point
    store.append(error(3))

    assert errors_in(store.path()) == numbered(1, 2, 3)
    assert store.finished == ['batch']


# Busy or damaged.


@contextlib.contextmanager
def shared_lock(path):
    with open(path, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


@pytest.mark.parametrize('read', [shared_lock, h5py.File], ids=['lock', 'h5py'])
@pytest.mark.parametrize('restarted', [False, True], ids=['running', 'restarted'])
def test_file_that_is_read_is_busy_and_unchanged(store, read, restarted):
    store.append(error(1))
    before = store.path().read_bytes()
    if restarted:
        store.restart()

    with read(store.path()), pytest.raises(FileBusy):
        store.append(error(2), covers=['batch'])

    assert store.path().read_bytes() == before
    assert store.finished == []
    store.append(error(2), covers=['batch'])
    assert errors_in(store.path()) == numbered(1, 2)


def replaced_by_garbage(path):
    path.write_bytes(b'garbage' * 1000)


def emptied(path):
    path.write_bytes(b'')


def cut_short(path):
    os.truncate(path, path.stat().st_size - 1)


def edited(change):
    """Return a function that edits a file with h5py."""

    def edit(path):
        with h5py.File(path, 'r+') as file:
            change(file)

    return edit


def replace(name, **dataset):
    def change(file):
        del file[name]
        file.create_dataset(name, **dataset)

    return edited(change)


def retyped(name, **types):
    """Return a function that gives a table, empty as it is now, other columns."""

    def change(file):
        attributes = dict(file[name].attrs)
        del file[name]
        dataset = file.create_dataset(
            name, shape=0, maxshape=(None,), dtype=list(types.items())
        )
        dataset.attrs.update(attributes)

    return edited(change)


def remove(name):
    return edited(lambda file: file.__delitem__(name))


DAMAGE = {
    'garbage': replaced_by_garbage,
    'empty': emptied,
    'cut short': cut_short,
    'table with other columns': replace(
        f'{GROUP}/errors', shape=3, maxshape=(None,), dtype=[('event_id', 'u4')]
    ),
    'table with other dtypes': replace(
        f'{GROUP}/errors',
        shape=3,
        maxshape=(None,),
        dtype=[('event_id', 'u4'), ('timestamp', 'i4'), ('messages', 'i4')],
    ),
    # All that it takes to append to it, of the same size.
    'table with a column of another name': retyped(
        f'{GROUP}/errors', event_id='<u4', timestamp='<i8', texts='<i4'
    ),
    'table with columns in another order': retyped(
        f'{GROUP}/errors', timestamp='<i8', event_id='<u4', messages='<i4'
    ),
    'table with a column of another dtype': retyped(
        f'{GROUP}/errors', event_id='<u4', timestamp='<u8', messages='<i4'
    ),
    'table that cannot grow': replace(
        f'{GROUP}/errors', shape=3, dtype=EVENT_TYPES['ERR'].row_dtype
    ),
    'blobs that are numbers': replace(f'{GROUP}/blobs', data=[1, 2], maxshape=(None,)),
    'no digests': remove('/ingest/digests'),
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize('restarted', [False, True], ids=['running', 'restarted'])
def test_damaged_file_is_not_changed(store, damage, restarted):
    store.append(error(1))
    damage(store.path())
    before = store.path().read_bytes()
    first = (DamagedFile, FileBusy)  # it looks as if another program changed it
    if restarted:
        store.restart()
        first = DamagedFile

    for expected in (first, DamagedFile):
        with pytest.raises(expected, match=r'station_510\.h5'):
            store.append(event('WTR', 2), error(2), covers=['batch'])

    assert store.path().read_bytes() == before
    assert sorted(p.name for p in store.path().parent.iterdir()) == ['station_510.h5']
    assert store.finished == []


@pytest.mark.parametrize('function', ['preadv', 'writev'])
def test_disk_that_fails_is_no_damage(store, monkeypatch, function):
    store.append(error(1))

    def refuse(*_):
        raise OSError(errno.EIO, 'Input/output error')

    with monkeypatch.context() as patches:
        patches.setattr(os, function, refuse)
        with pytest.raises(OSError, match='Input/output error'):
            store.append(error(2), covers=['batch'])
    assert errors_in(store.path()) == numbered(1)
    assert store.finished == []

    store.append(error(2))

    assert errors_in(store.path()) == numbered(1, 2)


def test_damaged_file_does_not_stop_others(store):
    store.append(error(1))
    replaced_by_garbage(store.path())
    with pytest.raises(DamagedFile):
        store.append(error(2))

    store.append(error(2), day=DAY + 1)

    assert errors_in(store.path(DAY + 1)) == numbered(2)


def test_damaged_file_that_is_restored_is_appended_to(store):
    store.append(error(1))
    content = store.path().read_bytes()
    replaced_by_garbage(store.path())
    with pytest.raises(DamagedFile):
        store.append(error(2))

    store.path().write_bytes(content)
    store.append(error(2))

    assert errors_in(store.path()) == numbered(1, 2)


@pytest.fixture
def elsewhere(tmp_path):
    """Make a file that holds error 3, and put it where another is, or none."""

    def put_at(path):
        other = Store(tmp_path / 'other')
        other.append(error(3))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(other.path(), path)

    return put_at


def test_file_replaced_behind_our_back_is_looked_at_again(store, elsewhere):
    store.append(error(1))
    store.append(error(2))
    elsewhere(store.path())

    assert [number for number in range(5) if store.knows(error(number))] == [3]
    store.append(error(2))

    assert errors_in(store.path()) == numbered(3, 2)


def test_file_that_appears_behind_our_back_is_looked_at(store, elsewhere):
    assert not store.knows(error(3))
    elsewhere(store.path())

    assert store.knows(error(3))
    store.append(error(1))

    assert errors_in(store.path()) == numbered(3, 1)


def test_file_taken_away_behind_our_back_is_begun_anew(store):
    store.append(error(1))
    store.path().unlink()

    assert not store.knows(error(1))
    store.append(error(2))
    store.append(error(3))

    assert errors_in(store.path()) == numbered(2, 3)


def test_file_replaced_since_its_events_were_looked_at_is_busy(store, elsewhere):
    store.append(error(1))
    store.append(error(2))
    known = store.known()
    elsewhere(store.path())
    before = store.path().read_bytes()

    with pytest.raises(FileBusy, match='changed by another program'):
        store.append(error(4), known=known, covers=['batch'])

    assert store.path().read_bytes() == before
    assert store.finished == []
    store.append(error(4), covers=['batch'])
    assert errors_in(store.path()) == numbered(3, 4)


def test_file_taken_away_since_its_events_were_looked_at_is_busy(store):
    store.append(error(1))
    known = store.known()
    store.path().unlink()

    with pytest.raises(FileBusy, match='removed by another program'):
        store.append(error(2), known=known, covers=['batch'])

    assert not store.path().exists()
    assert store.finished == []


def test_file_is_not_read_again_for_what_we_wrote_ourselves(store, monkeypatch):
    store.append(error(1))
    store.append(error(2))
    monkeypatch.delattr(storage, '_read_digests')

    assert store.knows(error(1))
    assert store.knows(error(2))


def test_file_without_digests_of_ours_is_appended_to(store):
    store.append(error(1))
    remove('/ingest')(store.path())
    store.restart()

    store.append(error(2))

    assert errors_in(store.path()) == numbered(1, 2)
    assert store.knows(error(2))


def test_digests_in_memory_are_bounded(store, monkeypatch):
    monkeypatch.setattr(storage, '_MAX_DIGESTS', 5)
    opened = []

    class Spy(JournaledFile):
        def __init__(self, path, *arguments):
            opened.append(path)
            super().__init__(path, *arguments)

    days = range(8)
    for day in days:
        store.append(error(2 * day), error(2 * day + 1), day=day)
    monkeypatch.setattr(storage, 'JournaledFile', Spy)

    # What was used last stays, and what was used before leaves.
    assert store.knows(error(12), day=6)
    store.append(error(16), error(17), day=8)
    assert store.knows(error(12), day=6)
    assert opened == []
    assert all(store.knows(error(2 * day), day) for day in days)
    assert set(opened) >= {store.path(day) for day in days[:5]}


def test_journal_without_its_file_is_not_replayed_into_a_new_file(interrupted):
    interrupted.path().rename(interrupted.data_dir / 'set aside')
    interrupted.append(error(3), covers=['third'])
    interrupted.append(error(4))
    assert errors_in(interrupted.path()) == numbered(3, 4)


@pytest.mark.parametrize(
    'damage',
    [
        edited(
            lambda f: (
                f.__delitem__(f'{GROUP}/errors'),
                f.create_group(f'{GROUP}/errors'),
            )
        ),
        edited(
            lambda f: (
                f.__delitem__(f'{GROUP}/blobs'),
                f.create_group(f'{GROUP}/blobs'),
            )
        ),
        replace(f'{GROUP}/errors', data=np.zeros((), EVENT_TYPES['ERR'].row_dtype)),
        replace('/hisparc', data=[1, 2]),
        replace('/ingest/digests', data=[1, 2]),
        replace('/ingest/digests', data=np.zeros(1, [('digest', 'u1', 4)])),
    ],
)
def test_other_damage(store, damage):
    store.append(error(1))
    damage(store.path())
    store.restart()
    with pytest.raises(DamagedFile):
        store.append(error(2))


def test_new_file_on_another_disk_is_drafted_there(store, monkeypatch):
    rename, drafts = os.rename, []

    def rename_within_a_disk(draft, path):
        drafts.append(os.path.dirname(draft))
        rename(draft, path)

    stat = Path.stat

    def stat_of_two_disks(path, **how):
        found = stat(path, **how)
        disk = 1 if path.name == 'tmp' else 2
        return os.stat_result((*found[:2], disk, *found[3:10]))

    store.append(error(1), covers=[])
    other_day = store.path(day=1).parent
    monkeypatch.setattr(Path, 'stat', stat_of_two_disks)
    monkeypatch.setattr(os, 'rename', rename_within_a_disk)

    store.append(error(2), day=1, covers=[])

    assert drafts == [str(other_day)]
