"""Sweeps: batches become rows exactly once, whatever is in the way."""

import contextlib
import errno
import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
import weakref
from base64 import b64encode
from types import SimpleNamespace

import h5py
import pytest
from support import CLUSTER, PROJECT, STATION, Crash, DayFiles, crash, run_writer

from datastore import segment
from datastore.batch import Batch, encode_batch
from datastore.event import Event
from datastore.segment import PAGE
from datastore.spool import Spool, Waiting
from datastore.suspicious import Suspicious
from datastore.tally import NOBODY, SWEEP_DURATIONS, read_tallies
from datastore.upload_id import upload_id
from writer import collected, writer_app
from writer.journal import journal_path
from writer.patience import Patience
from writer.writer_app import main, writer

OTHER = 8001  # another station
MONDAY, TUESDAY = 1_580_688_000, 1_580_774_400  # 2020-02-03 and the day after, in s
FILES = {MONDAY: '2020/2/2020_2_3', TUESDAY: '2020/2/2020_2_4'}
RECEIVED = 1_580_800_000_000_000_000


def error(timestamp, **values):
    """Make an ERR event; keywords are its upload codes."""
    values = {'ERRMSG': f'error {timestamp}'} | values
    return Event('ERR', timestamp, 0, 0, tuple(values), tuple(values.values()))


def errors(*timestamps):
    return [error(timestamp) for timestamp in timestamps]


@pytest.fixture
def put(spool):
    """Spool a batch of events and return its name."""

    def put(events, station=STATION, cluster=CLUSTER):
        batch = Batch(station, cluster, RECEIVED, tuple(events))
        return spool.put(station, encode_batch(batch))

    return put


@pytest.fixture
def sweep(configfile):
    """Run a writer of its own for one sweep."""
    return lambda: writer(configfile, once=True)


@pytest.fixture
def day_file(data_dir):
    def day_file(day, station=STATION):
        return data_dir / FILES[day] / f'station_{station}.h5'

    return day_file


@pytest.fixture
def stored(day_file):
    """Return the timestamps of the errors in a day file, checked to be whole."""

    def stored(day, station=STATION):
        path = day_file(day, station)
        assert not journal_path(path).exists()
        with h5py.File(path) as file:
            (cluster,) = file['hisparc'].values()
            group = cluster[f'station_{station}']
            rows, blobs = group['errors'][:], group['blobs'][:]
        assert rows['event_id'].tolist() == list(range(1, len(rows) + 1))
        timestamps = rows['timestamp'].tolist()
        messages = [blobs[index].tobytes().decode() for index in rows['messages']]
        assert messages == [f'error {timestamp}' for timestamp in timestamps]
        return timestamps

    return stored


@pytest.fixture
def waiting(data_dir):
    """Return the names of the spooled batches."""
    return lambda: sorted(os.listdir(data_dir / 'incoming'))


@pytest.fixture
def logged(configfile):
    """Return the lines in the writer's log that hold all of some words."""

    def logged(*words):
        log = configfile.parent / 'log' / 'hisparc-writer'
        lines = log.read_text().splitlines()
        return [line for line in lines if all(word in line for word in words)]

    return logged


@contextlib.contextmanager
def being_read(path):
    with open(path, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def refuse(*_):
    """Do as a full disk does."""
    raise OSError(errno.ENOSPC, 'No space left on device')


class Stop:
    """Has things done between sweeps, then tells the writer to stop."""

    def __init__(self, *between):
        self.between = list(between)
        self.waited = []

    def is_set(self):
        return False

    def wait(self, seconds):
        self.waited.append(seconds)
        if not self.between:
            return True
        self.between.pop(0)()
        return False


# What is stored.


def test_batches_of_two_days_go_to_two_files(put, sweep, stored, waiting):
    put(errors(MONDAY, TUESDAY - 1, TUESDAY))
    put(errors(TUESDAY + 5, MONDAY + 5))

    sweep()

    assert stored(MONDAY) == [MONDAY, TUESDAY - 1, MONDAY + 5]
    assert stored(TUESDAY) == [TUESDAY, TUESDAY + 5]
    assert waiting() == []


def test_each_station_has_its_own_file(put, sweep, stored):
    put(errors(MONDAY))
    put(errors(MONDAY + 1), station=OTHER, cluster='Other')

    sweep()

    assert stored(MONDAY) == [MONDAY]
    assert stored(MONDAY, OTHER) == [MONDAY + 1]


def test_cluster_of_the_batch_is_in_the_path(put, sweep, day_file):
    put(errors(MONDAY), cluster='Zaanlands')

    sweep()

    with h5py.File(day_file(MONDAY)) as file:
        assert list(file['hisparc']) == ['cluster_zaanlands']


def test_many_batches_become_one_append(put, sweep, stored, logged):
    for number in range(20):
        put(errors(MONDAY + number))

    sweep()

    assert stored(MONDAY) == [MONDAY + number for number in range(20)]
    assert len(logged('20 events stored from 20 batches')) == 1


def test_commit_names_the_uploads_it_stored_a_hundred_in_a_line(
    put, sweep, waiting, logged
):
    names = [put(errors(MONDAY + number // 2)) for number in range(202)]

    sweep()

    uploads = [upload_id(name) for name in sorted(names)]
    (commit,) = logged('101 events stored from 101 batches, 101 sent before')
    assert commit.endswith(f' (uploads {" ".join(uploads[:100])})')
    first, second = logged('more uploads of that commit')
    assert first.endswith(f' (uploads {" ".join(uploads[100:200])})')
    assert second.endswith(f' (uploads {" ".join(uploads[200:])})')


def test_upload_that_waits_is_named(put, sweep, day_file, logged):
    put(errors(MONDAY))
    sweep()
    upload = upload_id(put(errors(MONDAY + 1)))
    with being_read(day_file(MONDAY)):
        sweep()

    assert len(logged('is in use; 1 batches wait', upload)) == 1


def test_upload_that_the_disk_does_not_take_is_named(put, sweep, logged, monkeypatch):
    upload = upload_id(put(errors(MONDAY)))
    monkeypatch.setattr('datastore.durable.write_all', refuse)

    sweep()

    assert len(logged('ERROR', '1 batches stay spooled', upload)) == 1


def test_writer_counts_what_it_does(put, sweep, spool, day_file, data_dir, monkeypatch):
    put(errors(MONDAY, TUESDAY))
    put([*errors(MONDAY), error(MONDAY + 1, ERRMSG=None)])
    spool.put(STATION, b'not a batch')
    sweep()
    put(errors(MONDAY + 2))
    with monkeypatch.context() as patches:
        patches.setattr(os, 'pwritev', crash)
        with pytest.raises(Crash):
            sweep()
    sweep()

    counts = read_tallies(data_dir)
    station, others = counts[STATION], counts[NOBODY]
    assert {name: count for name, count in station.items() if count} == {
        'station': STATION,
        'stored': 2,
        'duplicates': 1,
        'suspicious_writer': 1,
        'commits': 2,
    }
    assert (others['replays'], others['rejected']) == (1, 1)
    assert others['last_sweep'] > MONDAY
    assert sum(others[bucket] for bucket in SWEEP_DURATIONS.buckets) == 2


def test_batches_that_memory_cannot_hold_together_are_taken_in_turns(
    put, sweep, stored, waiting, logged, monkeypatch
):
    monkeypatch.setattr(writer_app, '_MAX_LOAD', 1)
    for number in range(3):
        put(errors(MONDAY + number, TUESDAY + number))

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1, MONDAY + 2]
    assert stored(TUESDAY) == [TUESDAY, TUESDAY + 1, TUESDAY + 2]
    assert waiting() == []
    assert len(logged('1 events stored from 1 batches, 0 sent before')) == 6


def test_batch_in_a_file_that_is_named_after_another_station(
    put, sweep, spool, stored, waiting
):
    put(errors(MONDAY))
    batch = Batch(OTHER, CLUSTER, RECEIVED, tuple(errors(MONDAY)))
    spool.put(STATION, encode_batch(batch))

    sweep()

    assert stored(MONDAY) == stored(MONDAY, OTHER) == [MONDAY]
    assert waiting() == []


def test_empty_spool_changes_nothing(sweep, data_dir):
    sweep()

    assert list(data_dir.glob('[0-9]*')) == []


# What was sent before.


def test_event_that_comes_twice_in_a_batch_is_stored_once(put, sweep, stored):
    put(errors(MONDAY, MONDAY, MONDAY + 1, MONDAY))

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]


def test_batch_that_comes_twice_in_a_sweep_is_stored_once(
    put, sweep, stored, waiting, logged
):
    put(errors(MONDAY, MONDAY + 1))
    put(errors(MONDAY, MONDAY + 1))

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert waiting() == []
    assert len(logged('2 events stored', '2 sent before')) == 1


def test_batch_that_comes_again_later_is_skipped(put, sweep, stored, waiting):
    put(errors(MONDAY, TUESDAY))
    sweep()
    put(errors(MONDAY, TUESDAY))

    sweep()

    assert (stored(MONDAY), stored(TUESDAY)) == ([MONDAY], [TUESDAY])
    assert waiting() == []


def test_running_writer_skips_what_it_has_stored(put, configfile, stored, waiting):
    put(errors(MONDAY))
    again = Stop(lambda: put(errors(MONDAY)), lambda: put(errors(MONDAY + 1, MONDAY)))

    writer(configfile, stop=again)

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert waiting() == []


@pytest.mark.parametrize('sweeps', [1, 4])
def test_batches_cut_in_other_places_are_stored_once(
    put, sweep, stored, waiting, sweeps
):
    events = errors(*range(MONDAY, MONDAY + 6))
    for batch in (events[:3], events[2:4], events[4:], [*events[1:], events[0]]):
        put(batch)
        if sweeps > 1:
            sweep()
    sweep()

    assert sorted(stored(MONDAY)) == list(range(MONDAY, MONDAY + 6))
    assert waiting() == []


@pytest.mark.parametrize(
    'change',
    [
        {'microseconds': 1},
        {'nanoseconds': 1},
        {'values': ('another error',)},
        {'codes': (), 'values': ()},
    ],
    ids=lambda change: ' and '.join(change),
)
def test_event_that_differs_in_anything_is_another(put, sweep, day_file, change):
    put([error(MONDAY), error(MONDAY)._replace(**change)])

    sweep()

    with h5py.File(day_file(MONDAY)) as file:
        (cluster,) = file['hisparc'].values()
        assert cluster[f'station_{STATION}/errors'].shape == (2,)


# What cannot be read.


def cut_short(content):
    return content[:-1]


def with_a_flipped_bit(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def of_a_stranger(content):
    return b'not ours'


def emptied(content):
    return b''


@pytest.mark.parametrize(
    'damage', [cut_short, with_a_flipped_bit, of_a_stranger, emptied]
)
def test_unreadable_spool_file_is_rejected_and_the_sweep_goes_on(
    put, sweep, stored, waiting, logged, data_dir, damage
):
    put(errors(MONDAY))
    name = put(errors(MONDAY + 1))
    put(errors(MONDAY + 2))
    path = data_dir / 'incoming' / name
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 2]
    assert waiting() == []
    rejected = data_dir / 'rejected'
    assert sorted(os.listdir(rejected)) == [name, f'{name}.error']
    assert (rejected / name).read_bytes() == damaged
    reason = (rejected / f'{name}.error').read_text().strip()
    assert reason
    assert len(logged('ERROR', name, reason)) == 1


def test_spool_file_that_holds_no_batch_is_rejected(
    put, spool, sweep, stored, data_dir
):
    name = spool.put(STATION, b'not a batch')
    put(errors(MONDAY))

    sweep()

    assert stored(MONDAY) == [MONDAY]
    error = (data_dir / 'rejected' / f'{name}.error').read_text()
    assert error.startswith('not an encoded batch')


def test_file_that_is_no_spool_file_is_rejected(put, sweep, stored, data_dir):
    (data_dir / 'incoming').mkdir(parents=True, exist_ok=True)
    (data_dir / 'incoming' / 'notes.txt').write_text('mine')
    put(errors(MONDAY))

    sweep()

    assert stored(MONDAY) == [MONDAY]
    assert (data_dir / 'rejected' / 'notes.txt').read_text() == 'mine'


def test_spool_file_that_the_disk_does_not_give_is_left_alone(
    put, sweep, stored, waiting, data_dir, logged
):
    name = f'20200203T040506.000000-{STATION}-00000000.batch'
    put(errors(MONDAY))
    (data_dir / 'incoming' / name).mkdir()  # reading it is an OSError

    sweep()

    assert stored(MONDAY) == [MONDAY]
    assert waiting() == [name]
    assert os.listdir(data_dir / 'rejected') == []
    assert len(logged('ERROR', name)) == 1


@pytest.fixture
def append(spool):
    """Spool batches as a worker does that ends then; return their names."""

    def append(*batches):
        names = []
        for events in batches:
            batch = Batch(STATION, CLUSTER, RECEIVED, tuple(events))
            names.append(spool.append(STATION, encode_batch(batch)))
        spool.close()
        return names

    return append


def change_segment(data_dir, at, content):
    (path,) = (data_dir / 'incoming').glob('*.segment')
    with path.open('r+b') as file:
        file.seek(at)
        file.write(content)


def test_batches_of_segments_are_stored_and_their_segments_used_again(
    append, sweep, stored, data_dir
):
    for number in range(3):
        append(errors(MONDAY + number))
        sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1, MONDAY + 2]
    (free,) = (data_dir / 'incoming').iterdir()
    assert free.suffix == '.free'


def test_batch_that_a_power_cut_cut_off_is_kept_with_what_it_may_be(
    append, sweep, stored, logged, data_dir
):
    _, name = append(errors(MONDAY), [error(MONDAY + 1, ERRMSG='?' * 10_000)])
    change_segment(data_dir, 5 * PAGE, bytes(PAGE))

    sweep()

    assert stored(MONDAY) == [MONDAY]
    assert sorted(os.listdir(data_dir / 'rejected')) == [name, f'{name}.error']
    assert len(logged('ERROR', name, 'its station was not answered 100')) == 1
    sweep()
    assert len(logged('ERROR', name)) == 1


def test_part_of_a_segment_that_is_damaged_is_rejected(
    append, sweep, stored, logged, data_dir
):
    append(errors(MONDAY), errors(MONDAY + 1))
    change_segment(data_dir, 3 * PAGE, bytes(16))

    sweep()

    assert stored(MONDAY) == [MONDAY + 1]
    assert len(os.listdir(data_dir / 'rejected')) == 2
    assert len(logged('ERROR', 'this part of a segment is damaged')) == 1


def test_segment_that_the_disk_does_not_give_is_told_and_left_alone(
    append, put, sweep, stored, logged, monkeypatch
):
    append(errors(MONDAY))
    put(errors(MONDAY + 1))
    with monkeypatch.context() as patch:

        def refuse(path, flags):
            raise OSError(errno.EIO, 'Input/output error', path)

        patch.setattr(segment, 'contents', refuse)
        sweep()
    assert stored(MONDAY) == [MONDAY + 1]
    assert len(logged('ERROR', 'cannot read a part of the spool', '.segment')) == 1

    sweep()

    assert stored(MONDAY) == [MONDAY + 1, MONDAY]


def test_spool_file_that_was_taken_away_is_no_error(
    put, sweep, spool, stored, logged, monkeypatch
):
    names = [put(errors(MONDAY)), put(errors(MONDAY + 1))]
    spool.remove([names[0]])
    waiting = Waiting({STATION: names}, {}, [])
    monkeypatch.setattr(Spool, 'waiting', lambda *_: waiting)

    sweep()

    assert stored(MONDAY) == [MONDAY + 1]
    assert logged('ERROR') == []


def test_spool_file_that_cannot_be_rejected_stays(
    put, spool, sweep, stored, waiting, logged, monkeypatch
):
    name = spool.put(STATION, b'not a batch')
    put(errors(MONDAY))
    monkeypatch.setattr(Spool, 'reject', refuse)

    sweep()

    assert stored(MONDAY) == [MONDAY]
    assert waiting() == [name]
    assert len(logged('ERROR', name, 'No space left')) == 1


# What does not fit.


def test_flagged_events_are_set_aside_with_their_reasons(
    put, sweep, stored, waiting, data_dir, logged
):
    bad = error(MONDAY + 1, ERRMSG=None)
    upload = upload_id(put([error(MONDAY), bad, error(MONDAY + 2)]))

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 2]
    assert waiting() == []
    suspicious = Suspicious(data_dir)
    (name,) = suspicious.names()
    assert suspicious.get(name) == {
        'station': STATION,
        'cluster': CLUSTER,
        'received': RECEIVED,
        'upload': upload,
        'events': [
            {
                'reasons': ['ERRMSG is nothing instead of text'],
                'event': bad.as_uploaded(),
            }
        ],
    }
    assert len(logged('2 events stored', '1 suspicious', upload)) == 1
    assert len(logged('WARNING', f'kept in {name}; the first: ERRMSG', upload)) == 1


def test_batch_of_nothing_but_flagged_events_leaves_the_spool(
    put, sweep, waiting, data_dir
):
    put([error(MONDAY, ERRMSG=None), error(TUESDAY, ERRMSG=5)])

    sweep()

    assert waiting() == []
    assert list(data_dir.glob('[0-9]*')) == []
    suspicious = Suspicious(data_dir)
    reasons = [
        flagged['reasons']
        for name in suspicious.names()
        for flagged in suspicious.get(name)['events']
    ]
    assert len(reasons) == 2


def test_flagged_events_of_a_batch_that_waits_are_kept_once(
    put, sweep, stored, day_file, waiting, data_dir
):
    put(errors(MONDAY))
    sweep()
    put([error(MONDAY + 1, ERRMSG=None), error(MONDAY + 2)])
    with being_read(day_file(MONDAY)):
        sweep()
        assert len(waiting()) == 1

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 2]
    assert len(Suspicious(data_dir).names()) == 1


def test_flagged_events_of_a_batch_that_waits_stay_as_a_person_decides(
    put, configfile, day_file, waiting, logged, data_dir
):
    suspicious = Suspicious(data_dir)

    def decide():
        (name,) = suspicious.names()
        suspicious.move(name, suspicious.discarded, name)

    put(errors(TUESDAY))
    writer(configfile, once=True)
    put([error(MONDAY, ERRMSG=None), error(TUESDAY + 1)])
    with being_read(day_file(TUESDAY)):
        writer(configfile, stop=Stop(decide, lambda: None))
        assert len(waiting()) == 1

    assert suspicious.names() == []
    assert len(logged('WARNING', 'events are suspicious')) == 1
    assert len(logged('0 events stored')) == 1


def test_flagged_events_are_kept_before_their_batch_is_removed(
    put, sweep, waiting, monkeypatch
):
    put([error(MONDAY), error(MONDAY + 1, ERRMSG=None)])
    monkeypatch.setattr(Suspicious, 'put', refuse)

    sweep()

    assert len(waiting()) == 1


def test_many_unknown_codes_are_counted_instead_of_named(put, sweep, logged):
    put([error(MONDAY, **{f'C{number}': 1 for number in range(30)})])

    sweep()

    assert len(logged('sends upload code')) == 20
    assert len(logged(f'station {STATION} sends 10 more upload codes')) == 1


def test_unknown_code_is_logged_once_for_a_station(put, configfile, logged):
    def unknown(timestamp, station, *codes):
        put([error(timestamp, **dict.fromkeys(codes, 1))], station=station)

    unknown(MONDAY, STATION, 'XYZ1', 'XYZ2')
    unknown(MONDAY + 1, STATION, 'XYZ1')

    writer(
        configfile,
        stop=Stop(
            lambda: unknown(MONDAY + 2, STATION, 'XYZ2', 'XYZ3'),
            lambda: unknown(MONDAY + 3, OTHER, 'XYZ1'),
        ),
    )

    assert len(logged('XYZ')) == 4
    for code in ('XYZ1', 'XYZ2', 'XYZ3'):
        assert len(logged('WARNING', f'station {STATION} ', code)) == 1
    assert len(logged('WARNING', f'station {OTHER} ', 'XYZ1')) == 1


def test_event_with_an_unknown_code_is_stored(put, sweep, stored):
    put([error(MONDAY, XYZ=b64encode(b'x').decode())])

    sweep()

    assert stored(MONDAY) == [MONDAY]


# What has to wait.


def test_busy_file_leaves_its_batches_and_others_are_stored(
    put, sweep, stored, day_file, waiting
):
    put(errors(MONDAY))
    sweep()
    name = put(errors(MONDAY + 1))
    put(errors(MONDAY), station=OTHER)

    with being_read(day_file(MONDAY)):
        sweep()
        assert waiting() == [name]
        assert stored(MONDAY, OTHER) == [MONDAY]
    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert waiting() == []


def test_running_writer_retries_a_busy_file_at_its_next_sweep(
    put, sweep, configfile, stored, day_file
):
    put(errors(MONDAY))
    sweep()
    put(errors(MONDAY + 1))

    with contextlib.ExitStack() as reader:
        reader.enter_context(being_read(day_file(MONDAY)))
        writer(configfile, stop=Stop(lambda: None, reader.close))

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]


@pytest.mark.parametrize('busy', [MONDAY, TUESDAY], ids=['first day', 'second day'])
def test_batch_over_two_days_with_one_file_busy_is_stored_once_in_the_end(
    put, sweep, stored, day_file, waiting, busy
):
    put(errors(MONDAY, TUESDAY))
    sweep()
    put(errors(MONDAY + 1, TUESDAY + 1))

    with being_read(day_file(busy)):
        sweep()
        assert len(waiting()) == 1
        assert stored(busy) == [busy]
    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert stored(TUESDAY) == [TUESDAY, TUESDAY + 1]
    assert waiting() == []


def test_damaged_file_leaves_its_batches_and_others_are_stored(
    put, sweep, stored, day_file, waiting, logged
):
    put(errors(MONDAY))
    sweep()
    day_file(MONDAY).write_bytes(b'garbage')
    name = put(errors(MONDAY + 1, TUESDAY + 1))
    put(errors(MONDAY), station=OTHER)

    sweep()

    assert day_file(MONDAY).read_bytes() == b'garbage'
    assert waiting() == [name]
    assert stored(TUESDAY) == [TUESDAY + 1]
    assert stored(MONDAY, OTHER) == [MONDAY]
    assert len(logged('ERROR', str(day_file(MONDAY)), f'station {STATION}:')) == 1


def test_full_disk_leaves_the_batches_until_there_is_room(
    put, sweep, stored, waiting, logged, monkeypatch
):
    put(errors(MONDAY))
    sweep()
    put(errors(MONDAY + 1, TUESDAY))

    with monkeypatch.context() as patches:
        patches.setattr(os, 'writev', refuse)  # the journal of the one file
        patches.setattr('datastore.durable.write_all', refuse)  # the other file
        sweep()
    assert stored(MONDAY) == [MONDAY]
    assert len(waiting()) == 1
    assert len(logged('ERROR', 'No space left on device')) == 2
    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert stored(TUESDAY) == [TUESDAY]
    assert waiting() == []


# Who asked for what the file holds before it changed has to wait.
@pytest.mark.parametrize(('at_once', 'left'), [(1, 3), (500, 1)])
def test_file_that_another_program_adds_to_meanwhile(
    put, sweep, waiting, data_dir, day_file, monkeypatch, at_once, left
):
    monkeypatch.setattr(collected, '_AT_ONCE', at_once)
    put(errors(MONDAY))
    sweep()
    for number in range(1, 4):
        put(errors(MONDAY + number), cluster=f'Cluster {number}')
    append = writer_app.Archive.append

    def append_after_another(*arguments):
        # Another program stores what the third append of the sweep brings.
        monkeypatch.setattr(writer_app.Archive, 'append', append)
        files = DayFiles(data_dir)
        files.store(STATION, error(MONDAY + 3), cluster='Cluster 3')
        append(*arguments)

    monkeypatch.setattr(writer_app.Archive, 'append', append_after_another)
    sweep()
    assert len(waiting()) == left
    sweep()

    assert waiting() == []
    with h5py.File(day_file(MONDAY)) as file:
        found = [
            timestamp
            for cluster in file['hisparc'].values()
            for timestamp in cluster[f'station_{STATION}/errors']['timestamp']
        ]
        assert len(file['ingest/digests']) == 4
    assert sorted(found) == [MONDAY + number for number in range(4)]


@pytest.mark.parametrize('obstacle', ['busy', 'damaged'])
def test_events_that_have_to_wait_do_not_stay_in_memory(
    put, sweep, waiting, day_file, monkeypatch, obstacle
):
    loads = []

    class Load(writer_app._Load):
        def __init__(self):
            super().__init__()
            loads.append(weakref.ref(self))

    monkeypatch.setattr(writer_app, '_Load', Load)
    put(errors(MONDAY))
    sweep()
    # One day has so many that they become rows while batches are read.
    put(errors(MONDAY, TUESDAY))
    put([error(MONDAY, X=number) for number in range(1000)])
    path = day_file(MONDAY)
    with contextlib.ExitStack() as stack:
        if obstacle == 'busy':
            file = stack.enter_context(open(path, 'rb'))
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            path.write_bytes(b'not HDF5')
        gc.disable()  # it may be long until it runs by itself
        stack.callback(gc.enable)
        sweep()
        alive = [load for load in loads if load() is not None]

    assert alive == []
    assert len(waiting()) == 2


@pytest.fixture
def clock(monkeypatch):
    """The clock that pauses after failures are measured with."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(writer_app, 'Patience', lambda: Patience(lambda: clock.now))
    return clock


def test_what_the_disk_refused_is_tried_again_after_a_pause(
    put, configfile, stored, waiting, logged, clock, monkeypatch
):
    def mend():
        monkeypatch.undo()
        clock.now += 1.0

    put(errors(MONDAY))
    monkeypatch.setattr('datastore.durable.write_all', refuse)

    writer(configfile, stop=Stop(lambda: None, mend))

    assert stored(MONDAY) == [MONDAY]
    assert waiting() == []
    assert len(logged('ERROR', 'next try in 1 s', 'No space left')) == 1


def test_what_the_disk_refused_is_not_tried_before_its_pause_is_over(
    put, configfile, waiting, stored, clock, monkeypatch
):
    left = []

    def look_and_wait():
        left.append(len(waiting()))
        clock.now += 0.5

    put(errors(MONDAY))
    monkeypatch.setattr('datastore.durable.write_all', refuse)

    writer(configfile, stop=Stop(monkeypatch.undo, *[look_and_wait] * 3))

    assert left == [1, 1, 0]
    assert stored(MONDAY) == [MONDAY]


def test_pause_after_a_failure_is_short_again_after_a_success(
    put, configfile, logged, clock, monkeypatch
):
    def mend():
        monkeypatch.undo()
        clock.now += 1.0

    def fail():
        put(errors(MONDAY + 1))
        monkeypatch.setattr(os, 'writev', refuse)  # the journal

    put(errors(MONDAY))
    monkeypatch.setattr('datastore.durable.write_all', refuse)  # the new file

    writer(configfile, stop=Stop(mend, fail))

    assert len(logged('ERROR', 'next try in 1 s', 'No space left')) == 2


def test_spool_that_the_disk_does_not_give_is_read_at_the_next_sweep(
    put, make_config, stored, logged, monkeypatch
):
    put(errors(MONDAY))
    monkeypatch.setattr(Spool, 'waiting', refuse)
    stop = Stop(monkeypatch.undo)

    writer(make_config(Writer={'sleep': '0.5'}), stop=stop)

    assert stored(MONDAY) == [MONDAY]
    assert stop.waited == [1.0, 0.5]
    assert len(logged('ERROR', 'next try in 1 s', 'No space left')) == 1


def test_events_sent_again_are_stored_again_where_their_file_was_taken_away(
    put, configfile, day_file, stored, waiting
):
    def take_away():
        day_file(MONDAY).unlink()
        put(errors(MONDAY))

    put(errors(MONDAY))
    writer(configfile, stop=Stop(take_away))

    assert stored(MONDAY) == [MONDAY]
    assert waiting() == []


def test_pause_after_the_spool_failed_is_short_again_after_a_success(
    make_config, monkeypatch
):
    waiting = Spool.waiting
    monkeypatch.setattr(Spool, 'waiting', refuse)
    stop = Stop(
        lambda: monkeypatch.setattr(Spool, 'waiting', waiting),
        lambda: monkeypatch.setattr(Spool, 'waiting', refuse),
    )

    writer(make_config(Writer={'sleep': '0.5'}), stop=stop)

    assert stop.waited == [1.0, 0.5, 1.0]


def test_fault_of_the_spool_that_no_disk_has_ends_the_writer(configfile, monkeypatch):
    def refuse_permission(*_):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(Spool, 'waiting', refuse_permission)
    stop = Stop()

    with pytest.raises(PermissionError):
        writer(configfile, stop=stop)

    assert stop.waited == []


def test_spool_that_the_disk_does_not_give_ends_a_single_sweep(sweep, monkeypatch):
    monkeypatch.setattr(Spool, 'waiting', refuse)

    with pytest.raises(OSError, match='No space left'):
        sweep()


# Crashes.


@pytest.mark.parametrize('stored_before', [0, 1], ids=['new file', 'existing file'])
def test_crash_before_the_batch_is_removed_stores_it_once(
    put, sweep, stored, waiting, monkeypatch, stored_before
):
    if stored_before:
        put(errors(MONDAY))
        sweep()
    put(errors(MONDAY + 1))
    with monkeypatch.context() as patches:
        patches.setattr(Spool, 'remove', crash)
        with pytest.raises(Crash):
            sweep()
    assert len(waiting()) == 1

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1][-1 - stored_before :]
    assert waiting() == []


def test_crash_between_two_days_stores_both_once(
    put, sweep, stored, waiting, monkeypatch
):
    append, appended = writer_app.Archive.append, []

    def append_once(*arguments):
        if appended:
            raise Crash
        appended.append(arguments)
        append(*arguments)

    put(errors(MONDAY, TUESDAY))
    with monkeypatch.context() as patches:
        patches.setattr(writer_app.Archive, 'append', append_once)
        with pytest.raises(Crash):
            sweep()

    sweep()

    assert (stored(MONDAY), stored(TUESDAY)) == ([MONDAY], [TUESDAY])
    assert waiting() == []


def test_journal_of_a_crash_is_replayed_at_start(
    put, sweep, stored, waiting, logged, day_file, monkeypatch
):
    put(errors(MONDAY))
    sweep()
    upload = upload_id(put(errors(MONDAY + 1)))
    before = day_file(MONDAY).read_bytes()
    with monkeypatch.context() as patches:
        patches.setattr(os, 'pwritev', crash)
        with pytest.raises(Crash):
            sweep()
    assert day_file(MONDAY).read_bytes().startswith(before)

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert waiting() == []
    assert len(logged('WARNING', 'replayed', 'station_510.h5.journal', upload)) == 1


def test_journal_of_a_busy_file_is_replayed_when_it_is_free(
    put, sweep, stored, waiting, day_file, monkeypatch
):
    put(errors(MONDAY))
    sweep()
    put(errors(MONDAY + 1))
    with monkeypatch.context() as patches:
        patches.setattr(os, 'pwritev', crash)
        with pytest.raises(Crash):
            sweep()
    with being_read(day_file(MONDAY)):
        sweep()
        assert journal_path(day_file(MONDAY)).exists()
        assert len(waiting()) == 1

    sweep()

    assert stored(MONDAY) == [MONDAY, MONDAY + 1]
    assert waiting() == []


def test_debris_of_a_crash_is_removed_when_it_is_old(sweep, spool, data_dir, logged):
    old, new = data_dir / 'tmp' / 'old', data_dir / 'tmp' / 'new'
    old.touch()
    new.touch()
    os.utime(old, (0, 0))

    sweep()

    assert os.listdir(data_dir / 'tmp') == ['new']
    assert len(logged('removed 1 file')) == 1


# The daemon.


def test_idle_writer_does_nothing_but_wait(make_config):
    stop = Stop(*[lambda: None] * 3)

    writer(make_config(Writer={'sleep': '7.5'}), stop=stop)

    assert stop.waited == [7.5] * 4


def test_writer_with_work_waits_between_sweeps(make_config, put):
    stop = Stop(lambda: put(errors(MONDAY)), lambda: put(errors(TUESDAY)))

    writer(make_config(Writer={'sleep': '3 min'}), stop=stop)

    assert stop.waited == [180] * 3


def test_writer_that_is_told_to_stop_leaves_the_rest(put, configfile, waiting):
    put(errors(MONDAY))
    stop = threading.Event()
    stop.set()

    writer(configfile, stop=stop)

    assert len(waiting()) == 1


def test_writer_stops_between_two_appends(
    put, configfile, stored, waiting, day_file, monkeypatch
):
    stop, append = threading.Event(), writer_app.Archive.append

    def append_and_stop(*arguments):
        append(*arguments)
        stop.set()

    put(errors(MONDAY, TUESDAY))
    monkeypatch.setattr(writer_app.Archive, 'append', append_and_stop)

    writer(configfile, stop=stop)

    assert stored(MONDAY) == [MONDAY]
    assert not day_file(TUESDAY).exists()
    assert len(waiting()) == 1


@pytest.fixture
def start_writer(make_config):
    """Start the writer as a program that would sleep for an hour."""
    processes = []

    def start():
        configfile = make_config(General={'log': '-'}, Writer={'sleep': '1 hour'})
        process = subprocess.Popen(
            [sys.executable, '-m', 'writer', '--config', configfile],
            cwd=PROJECT,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert f'started, process {process.pid}' in process.stderr.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def test_second_writer_is_refused_until_the_first_is_gone(
    start_writer, configfile, put, stored, data_dir
):
    first = start_writer()

    second = run_writer(configfile)

    assert second.returncode == 1
    assert second.stderr == (
        f'writer: another writer, process {first.pid}, works on {data_dir}\n'
    )
    first.kill()
    first.wait()
    put(errors(MONDAY))
    assert run_writer(configfile).returncode == 0
    assert stored(MONDAY) == [MONDAY]


def test_refused_writer_leaves_the_first_ones_number(start_writer, sweep):
    first = start_writer()

    for _ in range(2):
        with pytest.raises(writer_app.AlreadyRunning, match=f' {first.pid}, '):
            sweep()


@pytest.mark.parametrize(
    'number', [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name
)
def test_signal_stops_the_program_at_once(start_writer, number):
    process = start_writer()

    process.send_signal(number)
    _, said = process.communicate(timeout=30)

    assert process.returncode == 0
    assert said.endswith('stopped\n')


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Run the program in this process; return its status and what it says."""
    monkeypatch.setattr(signal, 'signal', lambda *_: None)

    def run(configfile):
        status = main(['--config', str(configfile), '--once'])
        said = capsys.readouterr()
        assert said.out == ''
        return status, said.err

    return run


@pytest.mark.parametrize(
    ('sections', 'said'),
    [
        ({'General': {'data_dir': None}}, 'data_dir'),
        ({'General': {'data_dri': 'x'}}, 'data_dri'),
        ({'Writer': {'sleep': '0'}}, 'sleep'),
        ({'Writing': {}}, 'Writing'),
        ({'General': {'data_dir': '/dev/null/data'}}, 'data_dir'),
        ({'General': {'log': '/dev/null/log'}}, 'log'),
    ],
    ids=[
        'missing key',
        'unknown key',
        'bad value',
        'unknown section',
        'data_dir that cannot be made',
        'log that cannot be opened',
    ],
)
def test_mistake_in_the_configuration_is_one_line_and_exit_1(
    run_main, make_config, sections, said
):
    configfile = make_config(**sections)

    status, line = run_main(configfile)

    assert status == 1
    assert line.startswith(f'writer: {configfile}: ')
    assert said in line
    assert line.count('\n') == 1


def test_missing_configuration_is_one_line_and_exit_1(run_main, tmp_path):
    status, line = run_main(tmp_path / 'missing.ini')

    assert status == 1
    assert line == f'writer: {tmp_path}/missing.ini: No such file or directory\n'


def test_error_of_its_own_is_in_the_log_and_exit_1(
    run_main, configfile, put, waiting, logged, monkeypatch
):
    def fail(*_):
        raise ZeroDivisionError('by mistake')

    put(errors(MONDAY))
    monkeypatch.setattr(collected, 'rows_and_blobs', fail)

    status, line = run_main(configfile)

    assert status == 1
    assert line.startswith('writer: ')
    assert line.count('\n') == 1
    assert len(logged('ZeroDivisionError: by mistake')) == 1
    assert len(waiting()) == 1


def test_batch_without_events_leaves_the_spool(put, sweep, waiting):
    put([])
    sweep()
    assert waiting() == []


def test_time_outside_of_any_date_is_rejected_and_others_are_stored(put, sweep, stored):
    put(errors(10**15))
    put(errors(MONDAY), station=OTHER)
    sweep()
    assert stored(MONDAY, OTHER) == [MONDAY]


def test_incomplete_journal_is_not_said_to_be_replayed(put, sweep, day_file, logged):
    put(errors(MONDAY))
    sweep()
    journal_path(day_file(MONDAY)).write_bytes(b'')
    sweep()
    assert logged('replayed') == []


def test_batches_of_a_file_that_is_damaged_hold_no_segment(
    append, put, sweep, stored, day_file, data_dir, waiting
):
    day_file(TUESDAY).parent.mkdir(parents=True)
    day_file(TUESDAY).write_bytes(b'damaged')
    _, stuck = append(errors(MONDAY), errors(TUESDAY))

    sweep()

    assert stored(MONDAY) == [MONDAY]
    held = sorted(os.listdir(data_dir / 'incoming'))
    assert held[0].endswith('.free') or held[1].endswith('.free')
    assert stuck in held
    day_file(TUESDAY).unlink()
    sweep()
    assert stored(TUESDAY) == [TUESDAY]


def test_segment_that_cannot_be_used_again_is_told_and_ends_nothing(
    append, sweep, stored, logged, monkeypatch
):
    append(errors(MONDAY))

    def refuse(path):
        raise OSError(errno.EIO, 'Input/output error', path)

    monkeypatch.setattr(segment, 'release', refuse)
    sweep()

    assert stored(MONDAY) == [MONDAY]
    assert len(logged('ERROR', 'cannot use 1 segments of the spool again')) == 1


def test_batch_that_cannot_be_removed_ends_nothing(
    append, put, sweep, stored, logged, monkeypatch
):
    (name,) = append([])
    put(errors(MONDAY))

    def refuse(places):
        raise PermissionError(errno.EACCES, 'Permission denied')

    with monkeypatch.context() as patch:
        patch.setattr(segment, 'remove', refuse)
        sweep()
    assert len(logged('ERROR', 'cannot remove spool file', name)) == 1
    sweep()

    assert stored(MONDAY) == [MONDAY]
