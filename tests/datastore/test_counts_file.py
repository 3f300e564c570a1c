"""Counts add up over processes, outlive them, and survive what a disk does."""

import json
import logging
import os
import signal
import subprocess
from array import array

import numpy as np
import pytest

from chaos.disks import no_tmpfs
from datastore import counts_file
from datastore.counts_file import HEADER_SIZE, CountsFile, Layout, read_counts

STATION, OTHER = 510, 511


def add(sums, record):
    for at in range(1, len(record)):
        sums[at] += record[at]


LAYOUT = Layout(('station', 'uploads', 'bytes'), add)


@pytest.fixture
def directory(data_dir):
    return data_dir / 'status'


@pytest.fixture
def start(directory):
    """Count as a process that has just started does: 1 upload, and its bytes."""

    def start(directory=directory):
        file = CountsFile(directory, LAYOUT, logging.getLogger('test'))

        def count(number, size=10):
            with file.changing(number) as record:
                record[1] += 1
                record[2] += size

        count.file = file
        return count

    return start


@pytest.fixture
def counted(directory):
    """Return the uploads and bytes of each station."""

    def counted(directory=directory):
        return {
            number: tuple(record[1:])
            for number, record in read_counts(directory, LAYOUT).items()
        }

    return counted


def in_another_process(count):
    """Count in a process that is then killed, as uWSGI kills a worker."""
    child = os.fork()
    if child == 0:
        try:
            count()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def files_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_processes_that_count_together_add_up(start, counted, directory):
    workers = [start() for _ in range(3)]
    for number, count in enumerate(workers):
        count(STATION, 10**number)
        count(OTHER + number, 1)

    assert counted() == {STATION: (3, 111)} | {OTHER + n: (1, 1) for n in range(3)}
    assert files_in(directory) == ['1.tally', '2.tally', '3.tally']


def test_process_that_counts_nothing_takes_no_file(start, directory):
    start()

    assert not directory.exists()


def test_killed_process_loses_nothing_and_the_next_counts_on(start, counted, directory):
    for _ in range(3):
        in_another_process(lambda: start()(STATION))
        in_another_process(lambda: start()(OTHER))

    assert counted() == {STATION: (3, 30), OTHER: (3, 30)}
    assert files_in(directory) == ['1.tally']


def test_process_that_ends_leaves_its_file_to_the_next(start, counted, directory):
    for _ in range(3):
        count = start()
        count(STATION)
        count.file.close()

    assert counted() == {STATION: (3, 30)}
    assert files_in(directory) == ['1.tally']


def test_process_that_counts_again_after_it_ended_counts_on(start, counted):
    count, other = start(), start()
    count(STATION)
    count.file.close()
    other(STATION)

    count(STATION)

    assert counted() == {STATION: (3, 30)}


def test_child_of_a_process_leaves_its_file_alone(start, counted, directory):
    count = start()
    count(STATION)
    in_another_process(lambda: start()(STATION))
    count(STATION)

    assert counted() == {STATION: (3, 30)}
    assert files_in(directory) == ['1.tally', '2.tally']


def test_file_can_be_read_by_any_program_from_its_header(start, directory):
    count = start()
    count(STATION, 10)
    count(OTHER, 20)

    path = directory / '1.tally'
    with path.open('rb') as file:
        header = json.loads(file.read(HEADER_SIZE))
    dtype = [(name, header['dtype']) for name in header['fields']]
    records = np.fromfile(path, dtype=dtype, offset=HEADER_SIZE)
    assert records['station'].tolist() == [STATION, OTHER]
    assert records['bytes'].tolist() == [10, 20]


def test_file_of_another_version_is_counted_on_by_the_names_of_its_fields(
    start, counted, directory
):
    in_another_process(lambda: start()(STATION))
    path = directory / '1.tally'
    header = json.loads(path.read_bytes()[:HEADER_SIZE])
    header['fields'] = ['bytes', 'station', 'of_the_future', 'uploads']
    changed = array('q', [10, STATION, 7, 1])
    path.write_bytes(json.dumps(header).encode().ljust(HEADER_SIZE) + changed.tobytes())

    # The first field is whom a record is about, wherever it stands in the file.
    assert counted() == {STATION: (1, 10)}
    start()(STATION)
    assert counted() == {STATION: (2, 20)}
    assert path.stat().st_size == HEADER_SIZE + 8 * len(LAYOUT.fields)


@pytest.mark.parametrize(
    'spoil',
    [
        pytest.param(lambda path: path.write_bytes(b''), id='empty'),
        pytest.param(lambda path: path.write_bytes(bytes(5000)), id='zeros'),
        pytest.param(lambda path: path.write_bytes(b'[1]'.ljust(4096)), id='a list'),
        pytest.param(lambda path: path.write_bytes(b'\xff' * 5000), id='ones'),
        pytest.param(lambda path: os.truncate(path, 100), id='half a header'),
        pytest.param(lambda path: os.truncate(path, 4100), id='half a record'),
    ],
)
def test_file_that_a_power_cut_spoiled_counts_from_zero(
    start, counted, directory, spoil
):
    in_another_process(lambda: start()(STATION))
    spoil(directory / '1.tally')

    assert counted() == {}
    start()(STATION)
    assert counted() == {STATION: (1, 10)}


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
    # Lazily, as a test that fails may leave a file open.
    subprocess.run(['umount', '--lazy', directory], check=True)


def fill(directory):
    with (
        (directory / 'filling').open('wb', buffering=0) as file,
        pytest.raises(OSError, match='No space'),
    ):
        while True:
            file.write(bytes(4096))


def test_counts_that_a_full_disk_does_not_take_are_written_when_there_is_room(
    small_disk, start, counted
):
    count = start(small_disk)
    count(STATION)
    fill(small_disk)
    for number in range(1000, 1200):
        try:
            count(number)
        except OSError:
            break
    # Its record is on the disk already; the other one may have found half a place.
    with pytest.raises(OSError, match=r'No space|the disk takes'):
        count(STATION)
    assert counted(small_disk)[STATION] == (2, 20)
    assert number not in counted(small_disk)

    (small_disk / 'filling').unlink()
    count(OTHER)
    assert counted(small_disk)[number] == (1, 10)
    count.file.close()


@pytest.mark.parametrize('last', ['count', 'close'])
def test_disk_that_takes_half_is_given_all_of_it_again(
    start, counted, monkeypatch, last
):
    count = start()
    count(STATION)
    pwrite = os.pwrite
    with monkeypatch.context() as patches:
        patches.setattr(os, 'pwrite', lambda f, c, o: pwrite(f, c[: len(c) // 2], o))
        with pytest.raises(OSError, match='takes 12 of 24 bytes'):
            count(STATION)
    assert counted() == {STATION: (2, 10)}

    if last == 'count':
        count(OTHER)
    else:
        count.file.close()

    assert counted()[STATION] == (2, 20)


def test_counts_from_before_there_was_a_file_are_written_with_the_first_after(
    directory, start, counted, monkeypatch, caplog
):
    monkeypatch.setattr(counts_file, '_PAUSE', 0.0)
    directory.parent.mkdir()
    directory.write_text('in the way')
    count = start()
    count(STATION)
    count(OTHER)
    assert [record.levelname for record in caplog.records] == ['WARNING']

    directory.unlink()
    in_another_process(lambda: start()(STATION, 5))
    count(STATION)

    assert counted() == {STATION: (3, 25), OTHER: (1, 10)}
