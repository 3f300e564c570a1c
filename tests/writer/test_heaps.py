"""Blobs that a disk has damaged are found, and nothing hangs at them."""

import struct
import subprocess
import sysconfig

import h5py
import pytest
from support import CLUSTER, STATION

from datastore.event import Event
from writer.heaps import damaged_blobs, require_whole

MONDAY = 1_580_688_000  # 2020-02-03, in s
DAY = '2020-02-03'
BLOBS = f'/hisparc/cluster_{CLUSTER.lower()}/station_{STATION}/blobs'
PROGRAM = f'{sysconfig.get_path("scripts")}/datastore'
HEAD = 16  # bytes of a collection before its first object, and of an object


@pytest.fixture
def day_file(files):
    """A day file with 400 messages, one of them empty and one long."""
    texts = [f'message {number}' for number in range(398)] + ['', 'long' * 10**5]
    events = [
        Event('ERR', MONDAY + number, 0, 0, ('ERRMSG',), (text,))
        for number, text in enumerate(texts)
    ]
    for start in range(0, len(events), 50):
        path = files.store(STATION, *events[start : start + 50])
    return path


@pytest.fixture
def spoil(day_file):
    """Change bytes of the file, so far from the first collection of blobs."""

    def spoil(offset, content):
        spoiled = bytearray(day_file.read_bytes())
        start = spoiled.find(b'GCOL\x01') + offset
        spoiled[start : start + len(content)] = content
        day_file.write_bytes(spoiled)

    return spoil


def damaged(path, chosen=None):
    with h5py.File(path) as file:
        return damaged_blobs(file[BLOBS], path, chosen)


@pytest.mark.parametrize('texts', [[''], ['', ''], ['', 'a text']], ids=repr)
def test_empty_blobs_are_whole(files, configfile, texts):
    events = [
        Event('ERR', MONDAY + number, 0, 0, ('ERRMSG',), (text,))
        for number, text in enumerate(texts)
    ]
    path = files.store(STATION, *events)

    assert damaged(path) == []
    assert damaged(path, [0]) == []
    command = [PROGRAM, 'verify', '--all', '--config', configfile]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


def test_no_blobs_are_whole(tmp_path):
    path = tmp_path / 'none.h5'
    with h5py.File(path, 'w') as file:
        kind = h5py.vlen_dtype('u1')
        file.create_dataset(BLOBS, (0,), dtype=kind, maxshape=(None,), chunks=(16,))

    assert damaged(path) == []


DAMAGE = {
    'page of zeros': (64, bytes(4096)),
    'object of no size': (HEAD, bytes(16)),
    'object larger than the heap': (HEAD + 8, struct.pack('<Q', 2**20)),
    'object larger than all numbers': (HEAD + 8, struct.pack('<Q', 2**64 - 1)),
    'object of another size': (HEAD + 8, struct.pack('<Q', len('message 0') + 1)),
    'heap without its magic': (0, b'LOCG'),
    'heap larger than the file': (8, struct.pack('<Q', 2**62)),
    'heap of no size': (8, bytes(8)),
}


def test_blobs_that_are_whole_are_all_found(day_file):
    assert damaged(day_file) == []


@pytest.mark.parametrize(('offset', 'content'), DAMAGE.values(), ids=DAMAGE.keys())
def test_blobs_that_a_damaged_heap_holds_are_found(day_file, spoil, offset, content):
    spoil(offset, content)

    found = damaged(day_file)

    assert found == sorted(found)
    # Those of the other heaps are whole.
    assert 0 < len(found) < 400
    assert 399 not in found
    assert damaged(day_file, [found[0], 399]) == [found[0]]
    assert damaged(day_file, [399]) == []


def test_reference_past_the_end_of_the_file_is_found(day_file):
    size = day_file.stat().st_size
    content = day_file.read_bytes()
    start = content.find(b'GCOL\x01')
    day_file.write_bytes(
        content.replace(
            struct.pack('<QI', start, 2), struct.pack('<QI', size + 4096, 2), 1
        )
    )

    assert len(damaged(day_file)) == 1


def test_damage_is_told_with_how_much_there_is(day_file, spoil):
    spoil(*DAMAGE['object of another size'])

    with h5py.File(day_file) as file, pytest.raises(ValueError, match='1 of 400 blobs'):
        require_whole(file[BLOBS], day_file)


@pytest.mark.parametrize(
    'command',
    [
        ['verify', '--all'],
        ['merge', DAY],
        ['export', str(STATION), DAY, '2020-02-04', '--table', 'errors', '--blobs'],
    ],
    ids=lambda command: command[0],
)
def test_command_says_so_instead_of_hanging(day_file, spoil, configfile, command):
    spoil(*DAMAGE['page of zeros'])

    result = subprocess.run(
        [PROGRAM, *command, '--config', configfile],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert result.returncode == 1
    said = result.stdout + result.stderr
    assert f'station_{STATION}.h5' in said
    assert 'cannot be read' in said
    assert 'Traceback' not in said
