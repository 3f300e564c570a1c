"""What a real writer says of its sweeps, and counts."""

import fcntl
import os

import pytest
from support import STATION

from datastore.batch import Batch, encode_batch
from datastore.event import Event
from datastore.heartbeat import read_heartbeat
from datastore.tally import read_tallies
from writer import progress
from writer.progress import Progress
from writer.writer_app import writer

MONDAY, TUESDAY = 1_580_688_000, 1_580_774_400  # 2020-02-03 and the day after, in s


@pytest.fixture
def put(spool):
    """Spool a batch of errors at these times."""

    def put(*timestamps, message='an error'):
        events = tuple(
            Event('ERR', timestamp, 0, 0, ('ERRMSG',), (message,))
            for timestamp in timestamps
        )
        spool.put(STATION, encode_batch(Batch(STATION, 'Alkmaar', 1, events)))

    return put


@pytest.fixture
def said(data_dir):
    return lambda: read_heartbeat(data_dir).said


@pytest.fixture
def counted(data_dir):
    """Return what is stored, sent before, and suspicious."""

    def counted():
        counts = read_tallies(data_dir)[STATION]
        return counts['stored'], counts['duplicates'], counts['suspicious_writer']

    return counted


def run(configfile, *between):
    """Run a writer that sweeps before, between and after some deeds."""
    rest = list(between)

    class Stop:
        def is_set(self):
            return False

        def wait(self, seconds):
            if not rest:
                return True
            rest.pop(0)()
            return False

    writer(configfile, stop=Stop())


def test_sweep_says_what_it_did(configfile, put, spool, data_dir, said):
    put(MONDAY, MONDAY + 1, TUESDAY)
    put(MONDAY)
    put(MONDAY + 2, message=7)
    (data_dir / 'incoming' / 'a stranger').touch()

    writer(configfile, once=True)

    assert (said()['once'], said()['stopped']) == (True, False)
    assert (said()['pid'], said()['fault']) == (os.getpid(), None)
    sweep = said()['sweep']
    assert (sweep['batches'], sweep['events']) == (3, 3)
    assert (sweep['duplicates'], sweep['suspicious'], sweep['rejected']) == (1, 1, 1)
    assert said()['stored'] == sweep
    assert said()['current'] is None


def test_last_sweep_that_stored_something_is_remembered(configfile, put, said):
    put(MONDAY)

    run(configfile, lambda: None)

    assert said()['sweep']['events'] == 0
    assert said()['stored']['events'] == 1
    assert said()['stopped'] is True


def test_writer_counts_on_where_the_last_one_stopped(configfile, put, counted):
    for _ in range(3):
        put(MONDAY, MONDAY + 1)
        writer(configfile, once=True)

    assert counted() == (2, 4, 0)


def test_batch_that_waits_for_one_of_its_days_is_counted_once(
    configfile, put, data_dir, counted
):
    put(TUESDAY)
    writer(configfile, once=True)
    put(MONDAY, TUESDAY, TUESDAY + 1)
    put(MONDAY + 1, TUESDAY + 2, message=7)
    busy = data_dir / f'2020/2/2020_2_4/station_{STATION}.h5'

    with open(busy, 'rb') as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        run(configfile, lambda: None, lambda: None, file.close)

    assert counted() == (3, 1, 2)
    assert os.listdir(data_dir / 'incoming') == []


def test_heartbeat_goes_on_during_a_sweep(data_dir, said, monkeypatch):
    monkeypatch.setattr(progress, '_INTERVAL', 0.0)
    saying = Progress(data_dir)
    with saying.running(once=False), saying.sweeping():
        saying.loaded(5)
        saying.alive()
        assert said()['current']['batches'] == 5
        (data_dir / 'status' / 'writer.json').unlink()
        saying.alive()
        assert said()['current']['batches'] == 5
    assert said()['sweep']['batches'] == 5


def test_heartbeat_is_renewed_about_every_second_of_a_sweep_and_no_oftener(
    data_dir, said
):
    saying = Progress(data_dir)
    with saying.running(once=False), saying.sweeping():
        for _ in range(1000):
            saying.loaded(1)
            saying.alive()
        assert said()['current']['batches'] < 1000


def test_spool_that_cannot_be_read_is_said(data_dir, said):
    saying = Progress(data_dir)
    with (
        saying.running(once=True),
        pytest.raises(OSError, match='Input/output error'),
        saying.sweeping(),
    ):
        raise OSError(5, 'Input/output error')
    assert said()['fault'] == '[Errno 5] Input/output error'
    with saying.sweeping():
        pass
    assert said()['fault'] is None


def test_writer_that_dies_does_not_say_that_it_stopped(data_dir, said):
    saying = Progress(data_dir)
    with pytest.raises(RuntimeError), saying.running(once=False):
        raise RuntimeError('a fault of ours')
    assert said()['stopped'] is False
