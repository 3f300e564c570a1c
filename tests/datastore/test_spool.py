"""Batches wait in the spool, whole and in order, until they are removed."""

import errno
import os
import re
import stat
import struct
import time
import zlib
from datetime import datetime, timezone

import pytest

from datastore.spool import (
    DEBRIS_AGE,
    MAGIC,
    Backlog,
    Spool,
    SpoolFileError,
    measure_backlog,
)

CONTENT = b'a batch\n\0\xff'
NAME = '20240503T120000.000000-510-0123abcd.batch'


@pytest.fixture
def tmp(spool, data_dir):
    return data_dir / 'tmp'


class Clock:
    """Stands still until it is set."""

    def __init__(self):
        self.ns = 0

    def set(self, *moment, nanoseconds=0):
        utc = datetime(*moment, tzinfo=timezone.utc)
        self.ns = int(utc.timestamp()) * 10**9 + nanoseconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, 'time_ns', lambda: clock.ns)
    monkeypatch.setattr(time, 'time', lambda: clock.ns / 1e9)
    return clock


@pytest.fixture
def full_disk(monkeypatch):
    def write(descriptor, content):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'write', write)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    'content', [b'', b'\0', CONTENT, bytes(10**6)], ids=['empty', 'byte', 'few', 'many']
)
def test_batch_is_given_back_as_it_was_put(spool, content):
    name = spool.put(510, content)

    assert spool.pending() == {510: [name]}
    assert spool.get(name) == content


def test_batch_waits_until_it_is_removed(spool, data_dir, incoming):
    name = spool.put(510, CONTENT)
    spool.get(name)
    assert Spool(data_dir).get(name) == CONTENT

    spool.remove([name])

    assert spool.pending() == {}
    assert os.listdir(incoming) == []


def test_batch_that_was_removed_can_be_removed_again(spool):
    name = spool.put(510, CONTENT)

    spool.remove([name])
    spool.remove([name])

    assert spool.pending() == {}


def test_batch_that_was_removed_is_not_found(spool):
    name = spool.put(510, CONTENT)
    spool.remove([name])

    with pytest.raises(FileNotFoundError):
        spool.get(name)


@pytest.fixture
def tokyo(monkeypatch):
    """A machine nine hours ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv('TZ', 'JST-9')
        time.tzset()
        yield
    time.tzset()


def test_name_tells_moment_in_utc_and_station(spool, clock, tokyo):
    clock.set(2024, 2, 29, 23, 59, 59, nanoseconds=1_234_999)

    name = spool.put(510, CONTENT)

    assert re.fullmatch(r'20240229T235959\.001234-510-[0-9a-f]{8}\.batch', name)


def test_names_sort_by_arrival(spool, clock):
    names = []
    for moment, nanoseconds in [
        ((1999, 12, 31, 23, 59, 59), 999_999_999),
        ((2000, 1, 1), 0),
        ((2000, 1, 1), 1_000),
        ((2000, 1, 1), 10_000),
        ((2000, 1, 1), 999_999_999),
        ((2000, 1, 1, 0, 0, 1), 0),
        ((2000, 1, 1, 9), 0),
        ((2000, 1, 1, 10), 0),
        ((2000, 10, 1), 0),
    ]:
        clock.set(*moment, nanoseconds=nanoseconds)
        names.append(spool.put(9, CONTENT))

    assert spool.pending() == {9: names}


def test_batches_that_come_at_the_same_moment_are_all_kept(spool, clock):
    names = {spool.put(510, CONTENT) for _ in range(20)}

    assert len(names) == 20
    assert set(spool.pending()[510]) == names


def test_batches_wait_by_station(spool):
    names = {station: [spool.put(station, CONTENT)] for station in (1, 10, 2**31 - 1)}

    assert spool.pending() == names


def test_nothing_waits_in_a_new_spool(spool):
    assert spool.pending() == {}


def test_spool_that_was_made_before_is_kept(spool, data_dir):
    name = spool.put(510, CONTENT)

    assert Spool(data_dir).pending() == {510: [name]}


def test_files_and_directories_are_closed_to_others(tmp_path):
    umask = os.umask(0)
    try:
        spool = Spool(tmp_path / 'new' / 'data')
        name = spool.put(510, CONTENT)
        spool.put(510, CONTENT)
        spool.reject(name, 'unreadable')
    finally:
        os.umask(umask)

    made = sorted((tmp_path / 'new').rglob('*'))
    assert len(made) == 7
    assert {mode(path) for path in made if path.is_dir()} == {0o750}
    assert {mode(path) for path in made if path.is_file()} == {0o640}


def test_disk_that_is_full_leaves_nothing_in_the_spool(spool, tmp, incoming, full_disk):
    with pytest.raises(OSError, match='No space left'):
        spool.put(510, CONTENT)

    assert spool.pending() == {}
    assert os.listdir(tmp) == os.listdir(incoming) == []


def test_crash_before_the_rename_leaves_no_batch(spool, tmp, monkeypatch):
    def crash(*arguments):
        raise SystemExit

    monkeypatch.setattr(os, 'rename', crash)
    monkeypatch.setattr(os, 'unlink', crash)
    with pytest.raises(SystemExit):
        spool.put(510, CONTENT)

    assert len(os.listdir(tmp)) == 1
    assert spool.pending() == {}


# What can be wrong with a file.


def spool_file(magic=MAGIC, content=CONTENT, length=None, checksum=None):
    """Return the bytes of a spool file, as its module describes them."""
    length = len(content) if length is None else length
    body = struct.pack('<Q', length) + content
    checksum = zlib.crc32(body) if checksum is None else checksum
    return magic + struct.pack('<I', checksum) + body


def test_file_is_magic_checksum_length_and_content(spool, incoming):
    name = spool.put(510, CONTENT)

    assert (incoming / name).read_bytes() == spool_file()


def test_file_truncated_at_any_byte_is_not_read(spool, incoming):
    whole = spool_file()
    for end in range(len(whole)):
        (incoming / NAME).write_bytes(whole[:end])
        with pytest.raises(SpoolFileError):
            spool.get(NAME)


def test_file_with_any_bit_flipped_is_not_read(spool, incoming):
    whole = spool_file()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            (incoming / NAME).write_bytes(flipped)
            with pytest.raises(SpoolFileError):
                spool.get(NAME)


@pytest.mark.parametrize(
    ('content', 'complaint'),
    [
        pytest.param(b'', '0 bytes are too few', id='empty'),
        pytest.param(MAGIC, '8 bytes are too few', id='magic alone'),
        pytest.param(
            b'station,cluster\n' * 9, r"starts with b'station,'", id='foreign'
        ),
        pytest.param(bytes(100), 'starts with', id='zeros'),
        pytest.param(
            spool_file(magic=b'HSPOOL2\n'), r"b'HSPOOL2\\n' instead", id='next version'
        ),
        pytest.param(spool_file() + b'\0', 'holds 11 bytes instead of 10', id='longer'),
        pytest.param(spool_file()[:-1], 'holds 9 bytes instead of 10', id='shorter'),
        pytest.param(spool_file(length=2**64 - 1), 'holds 10 bytes', id='huge length'),
        pytest.param(spool_file(checksum=0), 'checksum does not match', id='checksum'),
        pytest.param(
            spool_file(checksum=zlib.crc32(CONTENT)),
            'checksum does not match',
            id='checksum of the content alone',
        ),
    ],
)
def test_file_that_is_not_whole_or_not_ours_says_why(
    spool, incoming, content, complaint
):
    (incoming / NAME).write_bytes(content)

    with pytest.raises(SpoolFileError, match=complaint):
        spool.get(NAME)


@pytest.mark.parametrize('before', [0, 10, 4096, 2**14, 2**15])
def test_file_that_the_disk_does_not_give_to_its_end_is_not_taken_for_cut_off(
    spool, monkeypatch, before
):
    name = spool.put(510, bytes(100_000))
    left, read = [before], os.read

    def fail_behind(descriptor, length):
        if not left[0]:
            raise OSError(errno.EIO, 'Input/output error')
        piece = read(descriptor, min(length, left[0]))
        left[0] -= len(piece)
        return piece

    monkeypatch.setattr(os, 'read', fail_behind)

    with pytest.raises(OSError, match='Input/output error'):
        spool.get(name)


def test_rejected_file_is_kept_untouched_beside_its_error(spool, incoming, rejected):
    other = spool.put(510, CONTENT)
    (incoming / NAME).write_bytes(b'torn')

    spool.reject(NAME, 'it is torn')

    assert spool.pending() == {510: [other]}
    assert sorted(os.listdir(rejected)) == [NAME, f'{NAME}.error']
    assert (rejected / NAME).read_bytes() == b'torn'
    assert (rejected / f'{NAME}.error').read_text() == 'it is torn\n'


def test_rejected_file_is_safe_where_it_went_and_so_is_one_that_is_retried(
    spool, incoming, rejected, fsynced
):
    name = spool.put(510, CONTENT)
    spool.reject(name, 'it is torn')

    explanation = f'{name}.error'
    assert fsynced[-2:] == [
        (rejected, [explanation]),
        (rejected, [name, explanation]),
    ]

    spool.retry(name, 510, 0)

    assert fsynced[-2:] == [(incoming, [name]), (rejected, [explanation])]


def test_rejected_files_of_one_name_stand_beside_each_other(spool, incoming, rejected):
    for content in (b'first', b'second', b'third'):
        (incoming / 'foreign').write_bytes(content)
        spool.reject('foreign', 'it is foreign')

    kept = {path.name: path.read_bytes() for path in rejected.iterdir()}
    error = b'it is foreign\n'
    assert kept == {
        'foreign': b'first',
        'foreign.error': error,
        'foreign.2': b'second',
        'foreign.2.error': error,
        'foreign.3': b'third',
        'foreign.3.error': error,
    }


def test_crash_before_a_rejected_file_is_moved_is_mended_by_the_next_try(
    spool, incoming, rejected, monkeypatch
):
    (incoming / NAME).write_bytes(b'torn')
    rename = os.rename

    def rename_but_for_the_file(source, target):
        if source == incoming / NAME:
            raise SystemExit
        rename(source, target)

    monkeypatch.setattr(os, 'rename', rename_but_for_the_file)
    with pytest.raises(SystemExit):
        spool.reject(NAME, 'it is torn')
    assert (incoming / NAME).read_bytes() == b'torn'
    monkeypatch.undo()

    spool.reject(NAME, 'it is torn')

    assert sorted(os.listdir(rejected)) == [NAME, f'{NAME}.error']
    assert os.listdir(incoming) == []


def test_rejected_file_is_explained_before_it_is_moved(
    spool, incoming, rejected, full_disk
):
    (incoming / NAME).write_bytes(b'torn')

    with pytest.raises(OSError, match='No space left'):
        spool.reject(NAME, 'it is torn')

    assert os.listdir(incoming) == [NAME]
    assert os.listdir(rejected) == []


@pytest.mark.parametrize(
    'name',
    [
        'README',
        '.hidden',
        'lost+found.batch',
        f'{NAME}.error',
        f'{NAME}\n',
        f'copy of {NAME}',
        '20240503T120000.000000-510-0123ABCD.batch',
        '20240503T120000.000000-510-0123abc.batch',
        '20240503T120000-510-0123abcd.batch',
        '20241303T120000.000000-510-0123abcd.batch',
        '20240503T240000.000000-510-0123abcd.batch',
        '00000503T120000.000000-510-0123abcd.batch',
        '2024050\u0663T120000.000000-510-0123abcd.batch',
        '20240503T120000.000000--510-0123abcd.batch',
        '20240503T120000.000000-12345678901-0123abcd.batch',
        '20240503T120000.000000-510-0123abcd_batch',
        os.fsdecode(b'\xff.batch'),
    ],
    ids=ascii,
)
def test_file_of_another_name_is_a_stranger_and_no_batch(spool, incoming, name):
    batch = spool.put(510, CONTENT)
    (incoming / name).write_bytes(CONTENT)

    assert spool.pending() == {510: [batch]}
    assert spool.waiting().strangers == {name: 'this is not the name of a spool file'}


def test_explanations_and_files_of_such_names_are_not_taken_for_each_other(
    spool, incoming, rejected
):
    for name in ('a.error', 'a'):
        (incoming / name).write_text(name)
        spool.reject(name, f'why {name}')

    assert {path.name: path.read_text() for path in rejected.iterdir()} == {
        'a.error.file': 'a.error',
        'a.error.file.error': 'why a.error\n',
        'a': 'a',
        'a.error': 'why a\n',
    }


def test_file_with_the_longest_of_names_is_rejected(spool, incoming, rejected):
    name = 'x' * 255
    (incoming / name).write_bytes(CONTENT)

    spool.reject(name, 'it is foreign')

    file, explanation = sorted(rejected.iterdir())
    assert name.startswith(file.name)
    assert file.read_bytes() == CONTENT
    assert explanation.name == f'{file.name}.error'


def test_directory_in_tmp_is_no_debris(spool, tmp):
    (tmp / 'directory').mkdir()
    os.utime(tmp / 'directory', (0, 0))

    assert spool.remove_debris() == 0


# How much is waiting.


def test_size_is_the_bytes_of_the_files_that_wait(spool, incoming, tmp):
    assert spool.size() == 0
    names = [spool.put(510, bytes(100)), spool.put(9, b'')]
    (tmp / 'draft').write_bytes(bytes(1000))

    overhead = len(spool_file(content=b''))
    assert spool.size() == 100 + 2 * overhead
    spool.remove([names[0]])
    assert spool.size() == overhead


def test_what_waits_is_counted_with_the_moment_of_the_oldest(
    spool, incoming, clock, data_dir
):
    assert measure_backlog(data_dir) == Backlog(0, 0, None)
    for day in (2, 1, 3):
        clock.set(2024, 5, day, nanoseconds=1_000)
        spool.put(510, bytes(100))
    (incoming / 'stranger').write_bytes(bytes(100))

    batch = len(spool_file(content=bytes(100)))
    may_1 = 1_714_521_600
    assert measure_backlog(data_dir) == Backlog(3, 3 * batch, may_1)


def test_batch_of_a_day_that_its_month_lacks_waits_as_well(incoming, data_dir):
    (incoming / '20230230T000000.000000-510-0123abcd.batch').touch()

    march_2 = 1_677_715_200
    assert measure_backlog(data_dir) == Backlog(1, 0, march_2)


def test_size_leaves_out_what_is_stored_meanwhile(spool, incoming, monkeypatch):
    stored, _ = names = [spool.put(510, bytes(100)) for _ in range(2)]
    listdir = os.listdir

    def list_and_store(directory):
        entries = listdir(directory)
        (incoming / stored).unlink(missing_ok=True)
        return entries

    monkeypatch.setattr(os, 'listdir', list_and_store)

    assert spool.size() == len(spool_file(content=bytes(100)))
    assert spool.pending() == {510: names[1:]}


# What a crash leaves in tmp/.


@pytest.mark.parametrize(
    ('age', 'removed'),
    [
        pytest.param(0, False, id='just now'),
        pytest.param(DEBRIS_AGE - 1, False, id='almost an hour'),
        pytest.param(DEBRIS_AGE, False, id='an hour'),
        pytest.param(DEBRIS_AGE + 1, True, id='over an hour'),
        pytest.param(-DEBRIS_AGE, False, id='of the future'),
    ],
)
def test_debris_is_removed_after_an_hour(spool, tmp, clock, age, removed):
    clock.set(2024, 5, 3, 12)
    debris = tmp / 'debris'
    debris.write_bytes(CONTENT)
    written = clock.ns - age * 10**9
    os.utime(debris, ns=(written, written))

    assert spool.remove_debris() == int(removed)

    assert debris.exists() != removed


def test_an_hour_is_3600_seconds():
    assert DEBRIS_AGE == 3600


def test_debris_is_looked_for_in_tmp_alone(spool, data_dir):
    name = spool.put(510, CONTENT)
    spool.reject(spool.put(510, CONTENT), 'unreadable')
    kept = [path for path in data_dir.rglob('*') if path.is_file()]
    (data_dir / 'tmp' / 'debris').touch()
    (data_dir / 'tmp' / 'more').touch()
    for path in [*kept, *(data_dir / 'tmp').iterdir()]:
        os.utime(path, (0, 0))

    assert spool.remove_debris() == 2

    assert [path for path in data_dir.rglob('*') if path.is_file()] == kept
    assert spool.pending() == {510: [name]}


def test_debris_that_is_a_link_goes_without_what_it_points_to(spool, tmp, tmp_path):
    (tmp_path / 'elsewhere').touch()
    (tmp / 'link').symlink_to(tmp_path / 'elsewhere')
    os.utime(tmp / 'link', (0, 0), follow_symlinks=False)

    assert spool.remove_debris() == 1

    assert (tmp_path / 'elsewhere').exists()
    assert os.listdir(tmp) == []


def test_debris_that_is_renamed_meanwhile_is_no_error(spool, tmp, monkeypatch):
    (tmp / 'draft').touch()
    scandir = os.scandir

    def scan_and_remove(directory):
        entries = list(scandir(directory))
        os.unlink(tmp / 'draft')
        return entries

    monkeypatch.setattr(os, 'scandir', scan_and_remove)
    assert spool.remove_debris() == 0
