"""Counts add up over processes, outlive them, and are nobody's failure."""

import json
import logging
import os
import signal
import subprocess

import numpy as np
import pytest
from support import STATION

from chaos.disks import no_tmpfs
from datastore import tally
from datastore.event import Event
from datastore.tally import NOBODY, REFUSALS, Tally, read_tallies
from wsgi import rcodes

OTHER = 511
NOON = 1_580_731_200  # 2020-02-03 12:00 UTC, in s
DAY = 86400


@pytest.fixture
def make_tally(data_dir):
    """Make the tally of a process that has just started."""

    def make_tally(now=NOON, data_dir=data_dir):
        return Tally(data_dir, logging.getLogger('test'), clock=lambda: now)

    return make_tally


@pytest.fixture
def files(data_dir):
    return lambda: sorted(path.name for path in (data_dir / 'status').iterdir())


def events(*event_types, timestamp=NOON):
    return [
        Event(event_type, timestamp + number, 0, 0, (), ())
        for number, event_type in enumerate(event_types)
    ]


def in_another_process(count):
    """Count in a process that is then killed, as uWSGI kills a worker."""
    child = os.fork()
    if child == 0:
        try:
            count()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_upload_that_is_taken_is_counted(make_tally, data_dir):
    counting = make_tally()
    counting.taken(STATION, 1000, events('CIC', 'SIN', 'CIC'), 2)
    counting.taken(STATION, 500, events('CIC', timestamp=NOON - DAY), 0)

    counts = read_tallies(data_dir)[STATION]
    assert {name: count for name, count in counts.items() if count} == {
        'station': STATION,
        'uploads': 2,
        'bytes': 1500,
        'last_upload': NOON,
        'last_event': NOON + 2,
        'suspicious': 2,
        'events_CIC': 3,
        'events_SIN': 1,
        'day': NOON // DAY,
        'events_CIC_today': 3,
        'events_SIN_today': 1,
    }


def test_every_code_that_refuses_an_upload_has_a_count_of_its_own(make_tally, data_dir):
    answers = {error.rcode for error in rcodes.UploadError.__subclasses__()}
    answers |= {rcodes.INTERNAL_ERROR}
    assert answers == set(REFUSALS)
    counting = make_tally()
    for rcode in REFUSALS:
        counting.refused(STATION, rcode)

    counts = read_tallies(data_dir)[STATION]
    assert [counts[f'refused_{rcode}'] for rcode in REFUSALS] == [1] * len(REFUSALS)
    assert {counts[f'refused_{rcode}_at'] for rcode in REFUSALS} == {NOON}


def test_uploads_of_nobody_in_particular_are_counted_together(make_tally, data_dir):
    counting = make_tally()
    counting.refused(None, 206)
    counting.refused(None, 400)

    counts = read_tallies(data_dir)
    assert counts.keys() == {NOBODY}
    assert (counts[NOBODY]['refused_206'], counts[NOBODY]['refused_400']) == (1, 1)


def test_what_the_writer_made_of_events_is_counted_beside_uploads(make_tally, data_dir):
    endpoint, writer = make_tally(), make_tally()
    endpoint.taken(STATION, 1000, events('CIC'), 1)
    writer.appended(STATION, 10, 3, 2)

    counts = read_tallies(data_dir)[STATION]
    assert (counts['stored'], counts['duplicates'], counts['suspicious']) == (10, 3, 3)
    assert counts['events_CIC'] == 1


def test_processes_that_count_together_add_up(make_tally, data_dir, files):
    workers = [make_tally(NOON + number) for number in range(3)]
    for number, worker in enumerate(workers):
        worker.taken(STATION, 10**number, events('CIC'), 0)
        worker.taken(OTHER + number, 1, [], 0)

    counts = read_tallies(data_dir)
    assert (counts[STATION]['uploads'], counts[STATION]['bytes']) == (3, 111)
    assert counts[STATION]['last_upload'] == NOON + 2
    assert [counts[OTHER + number]['uploads'] for number in range(3)] == [1, 1, 1]
    assert files() == ['1.tally', '2.tally', '3.tally']


def test_killed_process_loses_nothing_and_the_next_counts_on(
    make_tally, data_dir, files
):
    for _ in range(3):
        in_another_process(lambda: make_tally().taken(STATION, 10, events('CIC'), 0))
        in_another_process(lambda: make_tally().taken(OTHER, 10, events('SIN'), 0))

    counts = read_tallies(data_dir)
    assert (counts[STATION]['uploads'], counts[OTHER]['uploads']) == (3, 3)
    assert counts[OTHER]['events_SIN_today'] == 3
    assert files() == ['1.tally']


def test_new_day_of_arrival_starts_from_zero_and_totals_go_on(make_tally, data_dir):
    evening, morning = make_tally(NOON), make_tally(NOON + DAY)
    evening.taken(STATION, 10, events('CIC', 'CIC'), 0)
    morning.taken(STATION, 10, events('CIC'), 0)

    counts = read_tallies(data_dir)[STATION]
    assert (counts['events_CIC'], counts['events_CIC_today']) == (3, 1)

    evening.close()
    make_tally(NOON + DAY).taken(STATION, 10, events('SIN'), 0)
    counts = read_tallies(data_dir)[STATION]
    assert (counts['events_CIC'], counts['events_CIC_today']) == (3, 1)
    assert counts['events_SIN_today'] == 1


def test_file_can_be_read_by_any_program_from_its_header(make_tally, data_dir):
    counting = make_tally()
    counting.taken(STATION, 10, events('CIC'), 0)
    counting.taken(OTHER, 20, events('CIC'), 0)

    path = data_dir / 'status' / '1.tally'
    with path.open('rb') as file:
        header = json.loads(file.read(tally.HEADER_SIZE))
    dtype = [(name, header['dtype']) for name in header['fields']]
    records = np.fromfile(path, dtype=dtype, offset=tally.HEADER_SIZE)
    assert records['station'].tolist() == [STATION, OTHER]
    assert records['bytes'].tolist() == [10, 20]


def test_file_of_another_version_is_counted_on_by_the_names_of_its_fields(
    make_tally, data_dir, monkeypatch
):
    make_tally().taken(STATION, 10, events('CIC'), 0)
    path = data_dir / 'status' / '1.tally'
    header = json.loads(path.read_bytes()[: tally.HEADER_SIZE])
    order = list(reversed(range(len(header['fields']))))
    header['fields'] = [header['fields'][at] for at in order] + ['of_the_future']
    record = np.fromfile(path, header['dtype'], offset=tally.HEADER_SIZE)
    changed = np.append(record[order], 7).astype(header['dtype'])
    text = json.dumps(header).encode().ljust(tally.HEADER_SIZE)
    path.write_bytes(text + changed.tobytes())

    assert read_tallies(data_dir)[STATION]['bytes'] == 10
    make_tally().taken(STATION, 5, events('CIC'), 0)
    counts = read_tallies(data_dir)[STATION]
    assert (counts['bytes'], counts['events_CIC_today']) == (15, 2)


@pytest.mark.parametrize(
    'spoil',
    [
        pytest.param(lambda path: path.write_bytes(b''), id='empty'),
        pytest.param(lambda path: path.write_bytes(bytes(5000)), id='zeros'),
        pytest.param(lambda path: path.write_bytes(b'[1]'.ljust(4096)), id='a list'),
        pytest.param(lambda path: os.truncate(path, 4100), id='cut short'),
    ],
)
def test_file_that_a_power_cut_spoiled_counts_from_zero(make_tally, data_dir, spoil):
    make_tally().taken(STATION, 10, [], 0)
    spoil(data_dir / 'status' / '1.tally')

    assert read_tallies(data_dir) == {}
    make_tally().taken(STATION, 10, [], 0)
    assert read_tallies(data_dir)[STATION]['uploads'] == 1


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    if reason := no_tmpfs():
        pytest.skip(reason)
    directory = tmp_path / 'disk'
    directory.mkdir()
    subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', directory], check=True
    )
    yield directory
    subprocess.run(['umount', directory], check=True)


def fill(directory):
    with (
        (directory / 'filling').open('wb', buffering=0) as file,
        pytest.raises(OSError, match='No space'),
    ):
        while True:
            file.write(bytes(4096))


def test_counts_that_a_full_disk_does_not_take_are_written_when_there_is_room(
    small_disk, make_tally, caplog
):
    counting = make_tally(data_dir=small_disk)
    counting.taken(STATION, 10, events('CIC'), 0)
    fill(small_disk)
    for number in range(1000, 1040):
        counting.taken(number, 10, events('CIC'), 0)
        counting.taken(STATION, 10, events('CIC'), 0)

    # Its record is on the disk already, and not all others find room.
    counts = read_tallies(small_disk)
    assert counts[STATION]['uploads'] == 41
    assert len(counts) < 41
    assert [record.levelname for record in caplog.records] == ['WARNING']

    (small_disk / 'filling').unlink()
    counting.refused(None, 400)
    counts = read_tallies(small_disk)
    assert sum(station['uploads'] for station in counts.values()) == 81
    counting.close()


def test_counts_from_before_there_was_a_file_are_written_with_the_first_after(
    data_dir, make_tally, monkeypatch, caplog
):
    monkeypatch.setattr(tally, '_PAUSE', 0.0)
    data_dir.mkdir()
    (data_dir / 'status').write_text('in the way')
    counting = make_tally()
    counting.taken(STATION, 10, events('CIC'), 0)
    counting.taken(OTHER, 10, events('CIC'), 0)
    assert len(caplog.records) == 1

    (data_dir / 'status').unlink()
    in_another_process(lambda: make_tally().taken(STATION, 5, events('CIC'), 0))
    counting.taken(STATION, 10, events('CIC'), 0)

    counts = read_tallies(data_dir)
    assert (counts[STATION]['bytes'], counts[OTHER]['bytes']) == (25, 10)


def test_count_of_something_impossible_does_not_raise(make_tally, data_dir, caplog):
    counting = make_tally()
    counting.taken(STATION, 2**70, ['not an event'], 0)
    counting.refused(STATION, 999)

    assert len(caplog.records) == 1
    counting.taken(OTHER, 10, [], 0)
    assert read_tallies(data_dir)[OTHER]['uploads'] == 1


def test_process_that_counts_nothing_takes_no_file(make_tally, data_dir):
    make_tally()

    assert not data_dir.exists()
