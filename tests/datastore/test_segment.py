"""Batches wait in segments as they do in files of their own."""

import errno
import itertools
import os
import random
import stat
import struct
import threading
import zlib
from pathlib import Path

import pytest
from support import Crash, crash

from datastore import segment
from datastore.segment import LARGEST, PAGE, SIZE
from datastore.spool import (
    MAGIC,
    TORN,
    Spool,
    SpoolFileError,
    measure_backlog,
    remove_batches,
)

FILE = len(MAGIC) + 12  # bytes of a spool file beside the batch
RECORD = 76  # bytes of a record before the file
ONE_PAGE = PAGE - 8 - RECORD - FILE  # bytes of a batch that fill a page


def segments(incoming, suffix='.segment'):
    return sorted(incoming.glob(f'*{suffix}'))


def batches(spool):
    """Return what waits, by name; fails if anything is no batch."""
    found = spool.waiting()
    assert (found.strangers, found.unreadable) == ({}, [])
    names = itertools.chain.from_iterable(found.batches.values())
    return {name: spool.get(name) for name in names}


@pytest.fixture
def writer(data_dir):
    """The spool as another process sees it."""
    return Spool(data_dir)


@pytest.fixture
def store(writer):
    """Do what the writer does: take all that waits, and return it."""

    def store():
        found = batches(writer)
        writer.remove(list(found))
        writer.recycle()
        return found

    return store


@pytest.mark.parametrize(
    'size',
    [0, 1, ONE_PAGE - 1, ONE_PAGE, ONE_PAGE + 1, 2 * PAGE, 100_000, LARGEST - FILE],
)
def test_batch_is_given_back_as_it_was_appended(spool, writer, incoming, size):
    contents = [random.Random(n).randbytes(size) for n in range(3)]

    names = [spool.append(510, content) for content in contents]

    assert batches(writer) == dict(zip(names, contents, strict=True))
    assert segments(incoming) == sorted(incoming.iterdir())


def test_batch_that_is_larger_than_a_segment_has_a_file_of_its_own(
    spool, writer, incoming
):
    content = bytes(LARGEST - FILE + 1)

    name = spool.append(510, content)

    assert os.listdir(incoming) == [name]
    assert batches(writer) == {name: content}


def test_segment_is_what_its_module_describes(spool, incoming):
    content = bytes(range(256)) * 20
    name = spool.append(510, content)

    file = segments(incoming)[0].read_bytes()
    assert len(file) == SIZE
    use = file[8:24]
    checksum = struct.pack('<I', zlib.crc32(file[:24]))
    assert file.startswith(b'HSSEGM1\n' + use + checksum) and any(use)
    body = struct.pack('<Q', len(content)) + content
    spooled = MAGIC + struct.pack('<I', zlib.crc32(body)) + body
    identity = struct.pack('<48sQ', name.encode(), len(spooled))
    record = use + struct.pack('<I', zlib.crc32(identity)) + identity + spooled
    pages = [file[start : start + PAGE] for start in range(3 * PAGE, 5 * PAGE, PAGE)]
    assert b''.join(page[:-8] for page in pages) == record.ljust(2 * (PAGE - 8), b'\0')
    assert {page[-8:] for page in pages} == {use[:8]}
    assert not any(file[PAGE : 3 * PAGE]) and not any(file[5 * PAGE :])

    spool.pending()
    spool.remove([name])

    marks = segments(incoming)[0].read_bytes()[PAGE : 3 * PAGE]
    assert marks == bytes(3 * 8) + use[:8] + bytes(2 * PAGE - 4 * 8)


def test_segment_is_closed_to_others(spool, incoming):
    umask = os.umask(0)
    try:
        spool.append(510, b'')
    finally:
        os.umask(umask)

    assert stat.S_IMODE(segments(incoming)[0].stat().st_mode) == 0o640


def test_batches_come_by_station_and_in_order(spool, writer):
    appended = [(station, spool.append(station, b'')) for station in (9, 510, 9, 510)]

    assert writer.pending() == {
        station: [name for of, name in appended if of == station]
        for station in (9, 510)
    }


def test_batches_of_files_and_segments_wait_together(spool, writer):
    names = [spool.put(510, b'1'), spool.append(510, b'2'), spool.put(510, b'3')]

    assert writer.pending() == {510: names}
    writer.remove(names[:2])
    assert batches(writer) == {names[2]: b'3'}


def test_what_waits_is_counted_by_the_files_of_its_batches(spool, writer, data_dir):
    names = [spool.append(510, bytes(size)) for size in (0, 100, 10_000)]
    assert writer.size() == 10_100 + 3 * FILE

    remove_batches(data_dir, names[:2])

    assert measure_backlog(data_dir)[:2] == (1, 10_000 + FILE)
    assert spool.size() == 10_000 + FILE


def test_batch_that_was_removed_is_gone_for_every_process(spool, writer, data_dir):
    names = [spool.append(510, b'%d' % n) for n in range(3)]

    remove_batches(data_dir, [names[1], 'no.batch'])
    assert batches(writer).keys() == {names[0], names[2]}
    remove_batches(data_dir, [names[1]])
    writer.remove([names[0], names[0]])

    assert batches(Spool(data_dir)) == {names[2]: b'2'}


# Used again and again.


def test_segment_is_used_again_when_all_of_it_is_stored(spool, store, incoming):
    seen = set()
    for round_ in range(5):
        content = {spool.append(510, b'%d %d' % (round_, n)) for n in range(20)}
        spool.close()
        assert store().keys() == content
        assert not seen & content
        seen |= content

    assert len(os.listdir(incoming)) == 1
    assert segments(incoming, '.free') != []


def test_segment_that_is_written_to_is_left_alone(spool, store, incoming):
    for n in range(5):
        name = spool.append(510, b'%d' % n)
        assert store() == {name: b'%d' % n}

    assert len(segments(incoming)) == 1
    assert segments(incoming, '.free') == []


def test_segment_in_which_a_batch_waits_is_left_alone(spool, writer, incoming):
    names = [spool.append(510, b'%d' % n * 700_000) for n in range(3)]
    spool.close()

    for name in names:
        assert segments(incoming, '.free') == []
        writer.pending()
        writer.remove([name])
        assert writer.recycle() == []

    assert segments(incoming, '.free') != []


def test_few_batches_that_wait_on_give_their_segment_free(spool, writer, incoming):
    contents = [b'%d' % n * 700_000 for n in range(5)] + [b'few' * 100_000]
    names = [spool.append(510, content) for content in contents]
    spool.close()
    writer.pending()
    writer.remove(names[:5])

    assert writer.recycle() == []

    assert [path.name for path in segments(incoming, '.batch')] == [names[5]]
    assert len(segments(incoming, '.free')) == 1
    assert batches(writer) == {names[5]: contents[5]}


def test_few_batches_that_the_disk_takes_no_file_for_stay_where_they_are(
    spool, writer, incoming, monkeypatch
):
    names = [spool.append(510, b'%d' % n) for n in range(2)]
    spool.close()
    writer.pending()
    writer.remove(names[:1])

    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'write', refuse)
        (trouble,) = writer.recycle()

    assert trouble.errno == errno.ENOSPC
    assert batches(writer) == {names[1]: b'1'}
    assert len(os.listdir(incoming)) == 1


def test_batch_that_comes_after_the_others_are_stored_keeps_its_segment(
    spool, writer, incoming
):
    name = spool.append(510, b'first')
    writer.pending()
    writer.remove([name])
    late = spool.append(510, b'second')
    spool.close()

    writer.recycle()

    assert batches(writer) == {late: b'second'}


def test_nothing_of_an_earlier_use_comes_back(spool, store, data_dir):
    for n in range(9):
        spool.append(510, bytes(3 * PAGE) + b'%d' % n)
    spool.close()
    store()

    name = spool.append(510, b'new')

    assert batches(Spool(data_dir)) == {name: b'new'}


def test_removal_that_comes_late_touches_no_batch_of_the_next_use(
    spool, store, data_dir
):
    for _ in range(9):
        spool.append(510, bytes(PAGE))
    slow = Spool(data_dir)
    (names,) = slow.pending().values()
    spool.close()
    store()
    # At other pages than the old ones.
    later = {spool.append(510, b'?' * size): size for size in (100, 3 * PAGE, 9)}

    slow.remove(names)

    assert batches(slow) == {name: b'?' * size for name, size in later.items()}


def test_batch_is_not_found_where_its_segment_is_used_again(spool, store, data_dir):
    name = spool.append(510, b'old')
    slow = Spool(data_dir)
    slow.pending()
    spool.close()
    store()
    spool.append(510, b'new')

    with pytest.raises(FileNotFoundError):
        slow.get(name)


def test_no_more_free_segments_are_kept_than_needed(
    spool, store, incoming, monkeypatch
):
    monkeypatch.setattr(segment, '_KEPT', 2)
    for _ in range(4):
        spool.append(510, bytes(LARGEST - FILE))

    spool.close()
    store()

    assert len(segments(incoming, '.free')) == len(os.listdir(incoming)) == 2


def test_spools_and_threads_use_segments_of_their_own(spool, data_dir, incoming):
    # Two threads with one, and two with one each, as processes have.
    used = [spool, spool, Spool(data_dir), Spool(data_dir)]
    together = threading.Barrier(4)
    names = {}

    def append(number):
        together.wait()
        for n in range(20):
            content = b'%d %d' % (number, n)
            names[used[number].append(9, content)] = content

    threads = [threading.Thread(target=append, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(names) == 80
    assert batches(Spool(data_dir)) == names
    assert len(segments(incoming)) <= 4
    for each in used:
        each.close()


def test_every_batch_is_stored_once_while_others_come(spool, writer):
    sizes = random.Random(1)
    sent, stored = {}, []

    def send():
        for _ in range(150):
            content = sizes.randbytes(sizes.choice([10, PAGE, 500_000]))
            sent[spool.append(510, content)] = content

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    while threads or len(stored) < len(sent):
        threads = [thread for thread in threads if thread.is_alive()]
        found = batches(writer)
        writer.remove(list(found))
        writer.recycle()
        stored += found.items()

    assert len(stored) == 300
    assert dict(stored) == sent


# Where something is taken away.


def test_segment_that_is_taken_away_is_not_written_to(spool, writer, incoming):
    spool.append(510, b'lost')
    segments(incoming)[0].unlink()

    name = spool.append(510, b'kept')

    assert batches(writer) == {name: b'kept'}


def test_directory_that_is_moved_away_is_not_written_to(spool, incoming, data_dir):
    spool.append(510, b'before')
    incoming.rename(data_dir / 'moved')

    with pytest.raises(FileNotFoundError):
        spool.append(510, b'refused')

    incoming.mkdir()
    name = spool.append(510, b'after')
    assert batches(Spool(data_dir)) == {name: b'after'}


def test_free_segment_that_is_taken_away_is_no_error(
    spool, store, incoming, writer, monkeypatch
):
    spool.append(510, b'')
    spool.close()
    store()
    rename = os.rename

    def take_away(source, target):
        if str(source).endswith('.free'):
            os.unlink(source)
        rename(source, target)

    monkeypatch.setattr(os, 'rename', take_away)

    name = spool.append(510, b'kept')

    assert batches(writer) == {name: b'kept'}


@pytest.mark.parametrize('called', ['1-2-0123abcd.segment', '1-2-0123abcd.segment~'])
def test_copy_of_a_segment_is_removed_with_it(spool, store, incoming, called):
    name = spool.append(510, b'once')
    spool.close()
    (path,) = segments(incoming)
    (incoming / called).write_bytes(path.read_bytes())

    assert store() == {name: b'once'}

    assert store() == {}
    assert segments(incoming) == []


# Where the disk fails, or a process ends.


class Refusal(OSError):
    pass


CALLS = ['open', 'write', 'pwrite', 'fsync', 'fdatasync', 'rename', 'listdir']


@pytest.fixture
def fail_at(monkeypatch):
    """Have the n-th call of these functions fail; return what tells if it did."""

    def fail_at(number, error):
        calls = itertools.count(1)
        happened = []

        def failing(name):
            function = getattr(os, name)

            def call(*arguments, **keywords):
                if next(calls) == number:
                    happened.append(name)
                    raise error
                return function(*arguments, **keywords)

            return call

        for name in CALLS:
            monkeypatch.setattr(os, name, failing(name))
        return happened

    return fail_at


def descriptors():
    return len(os.listdir('/proc/self/fd'))


@pytest.mark.parametrize('prepared', ['no segment', 'one to go on with', 'a free one'])
@pytest.mark.parametrize(
    'error',
    [Refusal(errno.EIO, 'Input/output error'), Crash()],
    ids=['EIO', 'end'],
)
def test_batch_that_the_disk_does_not_take_is_not_there(
    tmp_path, monkeypatch, fail_at, prepared, error
):
    for number in itertools.count(1):
        data_dir = tmp_path / str(number)
        spool, writer = Spool(data_dir), Spool(data_dir)
        kept = {}
        if prepared != 'no segment':
            kept[spool.append(510, b'before')] = b'before'
        if prepared == 'a free one':
            spool.close()
            writer.remove(writer.pending()[510])
            writer.recycle()
            kept = {}
        before = descriptors()
        happened = fail_at(number, error)
        try:
            name = spool.append(510, b'the batch' * PAGE)
        except (Refusal, Crash):
            name = None
        monkeypatch.undo()
        if name:
            kept[name] = b'the batch' * PAGE
        # Some failures are mended by another segment.
        assert (name is None) <= bool(happened)
        spool.close()
        assert descriptors() <= before
        assert batches(Spool(data_dir)) == kept

        later = spool.append(510, b'later')
        assert batches(Spool(data_dir)) == kept | {later: b'later'}
        spool.close()
        assert descriptors() <= before
        assert os.listdir(data_dir / 'tmp') == []
        if not happened:
            return


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_batch_has_a_file_of_its_own_where_there_is_no_room_for_a_segment(
    spool, writer, incoming, data_dir, monkeypatch, code
):
    write = os.write

    def refuse(descriptor, content):
        if len(content) > 10_000:
            raise OSError(code, os.strerror(code))
        return write(descriptor, content)

    monkeypatch.setattr(os, 'write', refuse)
    name = spool.append(510, b'small')

    assert os.listdir(incoming) == [name]
    assert os.listdir(data_dir / 'tmp') == []
    with pytest.raises(OSError, match=os.strerror(code)):
        spool.append(510, bytes(100_000))
    assert batches(writer) == {name: b'small'}


def test_record_is_on_disk_when_it_is_appended_and_so_is_the_use_of_its_segment(
    spool, store, incoming, monkeypatch
):
    spool.append(510, b'')
    spool.close()
    store()
    steps = []

    def record(name):
        function = getattr(os, name)

        def call(target, *rest):
            if name == 'rename':
                steps.append((name, Path(target).suffix))
            else:
                path = Path(os.readlink(f'/proc/self/fd/{target}'))
                steps.append((name, path.suffix or path.name, *rest[1:]))
            return function(target, *rest)

        monkeypatch.setattr(os, name, call)

    for name in ('pwrite', 'fsync', 'fdatasync', 'rename'):
        record(name)

    spool.append(510, b'1')
    spool.append(510, b'2')

    assert steps == [
        ('pwrite', '.free', 0),
        ('fdatasync', '.free'),
        ('rename', '.free'),
        ('fsync', 'incoming'),
        ('pwrite', '.segment', 3 * PAGE),
        ('pwrite', '.segment', 3 * PAGE),
        ('fdatasync', '.segment'),
        ('pwrite', '.segment', 4 * PAGE),
        ('pwrite', '.segment', 4 * PAGE),
        ('fdatasync', '.segment'),
    ]


def test_new_segment_is_on_disk_before_it_has_a_name(
    spool, incoming, data_dir, fsynced
):
    spool.append(510, b'')

    (path, content), directory = fsynced
    assert path.parent == data_dir / 'tmp'
    assert content.startswith(b'HSSEGM1\n')
    assert len(content) == SIZE
    assert directory == (incoming, [segments(incoming)[0].name])


@pytest.mark.parametrize('used_before', [False, True], ids=['new', 'used before'])
@pytest.mark.parametrize('size', [10, PAGE, 3 * PAGE], ids=['1', '2', '4'])
def test_power_cut_leaves_what_was_acknowledged_and_all_of_the_rest_or_nothing(
    spool, store, data_dir, incoming, used_before, size
):
    if used_before:
        for _ in range(9):
            spool.append(510, b'!' * PAGE)
        spool.close()
        store()
    kept = {spool.append(510, b'kept' * PAGE): b'kept' * PAGE}
    (path,) = segments(incoming)
    before = path.read_bytes()
    name = spool.append(510, b'?' * size)
    spool.close()
    after = path.read_bytes()
    changed = [
        start
        for start in range(0, SIZE, PAGE)
        if before[start : start + PAGE] != after[start : start + PAGE]
    ]
    outcomes = set()
    for written in itertools.product([False, True], repeat=len(changed)):
        mixed = bytearray(before)
        for start, is_written in zip(changed, written, strict=True):
            if is_written:
                mixed[start : start + PAGE] = after[start : start + PAGE]
        path.write_bytes(mixed)
        found = Spool(data_dir)
        waiting = found.waiting()
        assert (waiting.strangers, waiting.unreadable) == ({}, [])
        assert {each: found.get(each) for each in kept} == kept
        if name not in waiting.batches[510]:
            outcomes.add('not there')
        else:
            try:
                assert found.get(name) == b'?' * size
                assert all(written)
                outcomes.add('there')
            except SpoolFileError as error:
                assert str(error) == TORN
                outcomes.add('torn')
    assert outcomes == {'not there', 'there'} | ({'torn'} if size > 10 else set())


def test_claim_that_was_interrupted_leaves_a_segment_that_is_deleted(
    spool, store, incoming, writer, monkeypatch
):
    spool.append(510, b'')
    spool.close()
    store()

    with monkeypatch.context() as patch:
        patch.setattr(os, 'rename', crash)
        with pytest.raises(Crash):
            spool.append(510, b'')
    assert len(segments(incoming, '.free')) == 1
    name = spool.append(510, b'kept')
    assert len(segments(incoming, '.free')) == 1

    writer.recycle()

    assert segments(incoming, '.free') == []
    assert batches(writer) == {name: b'kept'}


def test_free_segment_is_not_deleted(spool, store, incoming, writer):
    spool.append(510, b'')
    spool.close()
    store()

    writer.recycle()

    assert len(segments(incoming, '.free')) == 1


def test_segment_of_a_worker_that_ended_before_its_first_record_is_free_again(
    spool, store, incoming, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fdatasync', crash)
        with pytest.raises(Crash):
            spool.append(510, b'')
    assert len(segments(incoming)) == 1

    store()

    assert len(segments(incoming, '.free')) == 1


# Where the disk gives something else.


@pytest.fixture
def damaged(spool, incoming, data_dir):
    """Change the only segment; return the spool that finds it."""

    def damaged(change):
        spool.close()
        (path,) = segments(incoming)
        content = bytearray(path.read_bytes())
        changed = change(content)
        path.write_bytes(content if changed is None else changed)
        return Spool(data_dir)

    return damaged


@pytest.mark.parametrize('position', range(RECORD))
def test_record_with_a_byte_of_its_head_damaged_is_rejected_and_others_are_read(
    spool, incoming, rejected, damaged, position
):
    names = [spool.append(510, b'%d' % n * PAGE) for n in range(3)]

    def flip(content):
        content[5 * PAGE + position] ^= 1

    found = damaged(flip)
    waiting = found.waiting()
    assert waiting.batches == {510: [names[0], names[2]]}
    ((stranger, _),) = waiting.strangers.items()

    found.reject(stranger, 'it is damaged')

    assert found.waiting().strangers == {}
    (file,) = (path for path in rejected.iterdir() if path.suffix != '.error')
    assert len(file.read_bytes()) == 2 * PAGE
    assert b'1' * 1000 in file.read_bytes()
    found.remove([names[0], names[2]])
    found.recycle()
    assert len(segments(incoming, '.free')) == 1


@pytest.mark.parametrize('position', [16, 19, 20, 67, 68, 75])
def test_last_record_with_its_head_damaged_is_rejected(spool, damaged, position):
    name = spool.append(510, b'first')
    spool.append(510, b'last')

    def flip(content):
        content[4 * PAGE + position] ^= 1

    waiting = damaged(flip).waiting()

    assert waiting.batches == {510: [name]}
    assert len(waiting.strangers) == 1


def test_file_with_any_byte_damaged_is_not_read(spool, damaged, incoming):
    content = b'?' * 50
    name = spool.append(510, content)
    original = segments(incoming)[0]
    whole = original.read_bytes()
    for position in range(RECORD, RECORD + FILE + len(content)):

        def flip(file, position=position):
            file[3 * PAGE + position] ^= 1

        found = damaged(flip)
        assert found.pending() == {510: [name]}
        with pytest.raises(SpoolFileError):
            found.get(name)
        original.write_bytes(whole)


def test_stamp_that_is_damaged_costs_nothing(spool, damaged):
    content = b'?' * 3 * PAGE
    name = spool.append(510, content)

    def flip(file):
        file[5 * PAGE - 1] ^= 1

    assert batches(damaged(flip)) == {name: content}


def test_rejected_record_is_a_spool_file_and_can_be_retried(
    spool, damaged, rejected, data_dir
):
    name = spool.append(510, b'?' * PAGE)

    def flip(content):
        content[4 * PAGE] ^= 1

    found = damaged(flip)
    found.pending()
    found.reject(name, 'its checksum does not match')

    assert found.pending() == {}
    assert sorted(os.listdir(rejected)) == [name, f'{name}.error']
    assert (rejected / name).read_bytes().startswith(MAGIC)
    assert found.retry(name, 510, 0) == name
    assert found.pending() == {510: [name]}
    with pytest.raises(SpoolFileError, match='checksum'):
        found.get(name)


@pytest.mark.parametrize(
    ('size', 'parts'), [(9 * PAGE, 1), (9 * PAGE + 100, 2), (11 * PAGE, 2)]
)
def test_segment_that_is_cut_off_gives_what_there_is(
    spool, damaged, rejected, incoming, size, parts
):
    names = [spool.append(510, b'%d' % n * 2 * PAGE) for n in range(3)]

    found = damaged(lambda content: content[:size])

    waiting = found.waiting()
    assert waiting.batches == {510: names[:2]}
    assert len(waiting.strangers) == parts
    assert {name: found.get(name) for name in names[:2]} == {
        name: b'%d' % n * 2 * PAGE for n, name in enumerate(names[:2])
    }
    for name, reason in waiting.strangers.items():
        found.reject(name, reason)
    found.remove(names[:2])
    found.recycle()
    assert len(list(rejected.iterdir())) == 2 * parts
    assert os.listdir(incoming) == []


@pytest.mark.parametrize(
    'content', [b'', bytes(100), bytes(SIZE), b'HSSEGM2\n' + bytes(SIZE - 8)]
)
def test_what_is_no_segment_is_a_stranger(spool, incoming, rejected, content):
    (incoming / '1-2-0123abcd.segment').write_bytes(content)

    ((name, reason),) = spool.waiting().strangers.items()
    assert 'is no segment' in reason
    spool.reject(name, reason)

    assert spool.waiting().strangers == {}
    assert (rejected / name).read_bytes() == content


def test_directory_of_such_a_name_is_rejected(spool, incoming, rejected):
    (incoming / '1-2-0123abcd.segment').mkdir()

    ((name, reason),) = spool.waiting().strangers.items()
    spool.reject(name, reason)

    assert os.listdir(incoming) == []
    assert (rejected / '1-2-0123abcd.segment').is_dir()


def test_segment_that_the_disk_does_not_give_keeps_no_other_from_being_read(
    spool, incoming, data_dir, monkeypatch
):
    spool.append(510, b'hidden')
    (hidden,) = segments(incoming)
    other = Spool(data_dir)
    name = other.append(510, b'read')
    contents = segment.contents

    def refuse(path, flags):
        if path == str(hidden):
            raise OSError(errno.EIO, 'Input/output error')
        return contents(path, flags)

    monkeypatch.setattr(segment, 'contents', refuse)

    waiting = Spool(data_dir).waiting()

    assert waiting.batches == {510: [name]}
    assert [error.errno for error in waiting.unreadable] == [errno.EIO]


@pytest.fixture
def bad_pages(monkeypatch):
    """Have the disk not give some pages, as the kernel says it: first a short read."""

    def bad_pages(*pages):
        pread = os.pread

        def read(descriptor, length, offset):
            for page in sorted(pages):
                if page * PAGE <= offset < (page + 1) * PAGE:
                    raise OSError(errno.EIO, 'Input/output error')
                if offset < page * PAGE < offset + length:
                    length = page * PAGE - offset
            return pread(descriptor, length, offset)

        monkeypatch.setattr(os, 'pread', read)

    return bad_pages


@pytest.mark.parametrize('page', range(3, 12))
def test_page_that_the_disk_does_not_give_costs_no_batch(
    spool, writer, incoming, bad_pages, monkeypatch, page
):
    content = {spool.append(510, b'%d' % n * 9000): b'%d' % n * 9000 for n in range(3)}
    names = list(content)
    hit = names[(page - 3) // 3]
    spool.close()
    bad_pages(page)

    waiting = writer.waiting()

    assert waiting.strangers == {}
    is_head = (page - 3) % 3 == 0
    assert [error.errno for error in waiting.unreadable] == [errno.EIO] * is_head
    assert waiting.batches[510] == [n for n in names if not (is_head and n == hit)]
    for name in waiting.batches[510]:
        if name == hit:
            with pytest.raises(OSError, match='Input/output'):
                writer.get(name)
        else:
            assert writer.get(name) == content[name]
    writer.remove([name for name in names if name != hit])
    writer.recycle()
    monkeypatch.undo()
    assert batches(writer) == {hit: content[hit]}


def test_batch_that_was_removed_is_not_missed(spool, writer, incoming, bad_pages):
    names = [spool.append(510, b'%d' % n) for n in range(3)]
    spool.close()
    writer.pending()
    writer.remove(names)
    bad_pages(4)

    assert writer.waiting().unreadable == []
    writer.recycle()
    assert len(segments(incoming, '.free')) == 1


@pytest.mark.parametrize('page', [0, 1, 2])
def test_head_that_the_disk_does_not_give_leaves_the_segment_alone(
    spool, writer, data_dir, bad_pages, monkeypatch, page
):
    name = spool.append(510, b'kept')
    spool.close()
    bad_pages(page)

    waiting = writer.waiting()
    assert (waiting.batches, waiting.strangers) == ({}, {})
    assert len(waiting.unreadable) == 1
    assert measure_backlog(data_dir).unreadable == 1
    writer.recycle()
    monkeypatch.undo()

    assert batches(writer) == {name: b'kept'}


def test_damage_and_a_page_that_is_not_given_hide_nothing_behind_them(
    spool, damaged, bad_pages, incoming, monkeypatch
):
    names = [spool.append(510, b'%d' % n) for n in range(9)]

    def wipe(content):
        content[5 * PAGE : 6 * PAGE] = bytes(PAGE)

    found = damaged(wipe)
    bad_pages(6)
    assert found.pending() == {510: names[:2] + names[4:]}
    found.remove(names)
    found.recycle()
    monkeypatch.undo()

    assert segments(incoming, '.free') == []


@pytest.mark.parametrize('position', [0, 3, 8, 15, 23, 24, 27])
def test_segment_whose_head_is_damaged_is_read(spool, damaged, incoming, position):
    content = {spool.append(510, b'%d' % n): b'%d' % n for n in range(3)}

    def flip(file):
        file[position] ^= 1 << 6

    found = damaged(flip)
    assert batches(found) == content
    found.remove(list(content))
    assert found.recycle() == []
    assert len(os.listdir(incoming)) == 1
    assert batches(Spool(incoming.parent)) == {}


@pytest.mark.parametrize('which', [0, 1])
def test_page_that_is_lost_in_a_batch_before_another_is_damage(spool, damaged, which):
    names = [spool.append(510, b'%d' % n * 9000) for n in range(3)]

    def wipe(content):
        page = 3 + 3 * which + 1
        content[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)

    found = damaged(wipe)
    assert found.pending() == {510: names}
    with pytest.raises(SpoolFileError, match='checksum'):
        found.get(names[which])


def test_last_page_that_is_cut_off_is_damage(spool, damaged):
    name = spool.append(510, b'?' * 9000)

    found = damaged(lambda content: content[: 5 * PAGE + 100])

    assert found.pending() == {510: [name]}
    with pytest.raises(SpoolFileError, match=r'bytes instead of|checksum'):
        found.get(name)


@pytest.mark.parametrize('first', [True, False])
def test_batch_that_is_damaged_in_one_copy_is_read_from_the_other(
    spool, store, incoming, first
):
    name = spool.append(510, b'whole')
    spool.close()
    (path,) = segments(incoming)
    copy = incoming / '1-2-0123abcd.segment~'
    copy.write_bytes(path.read_bytes())
    # Either may come first in a directory.
    with (path if first else copy).open('r+b') as file:
        file.seek(3 * PAGE + RECORD + FILE)
        file.write(b'?')

    assert store() == {name: b'whole'}
    assert store() == {}


# Free ones that are none.


def truncated(path):
    os.truncate(path, 4 * PAGE)


def longer(path):
    os.truncate(path, 2 * SIZE)


def emptied(path):
    path.write_bytes(b'')


def a_directory(path):
    path.unlink()
    path.mkdir()


def a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def of_another_use(path):
    with path.open('r+b') as file:
        file.seek(8)
        file.write(b'?')


@pytest.mark.parametrize(
    'change', [truncated, longer, emptied, a_directory, a_pipe, of_another_use]
)
def test_free_segment_that_is_none_is_not_used_and_hinders_nobody(
    spool, store, writer, incoming, change
):
    spool.append(510, b'')
    spool.close()
    store()
    change(segments(incoming, '.free')[0])

    for number in range(5):
        content = b'%d' % number
        name = spool.append(510, content)
        assert store() == {name: content}

    broken = segments(incoming, '.free')
    assert all(path.is_dir() for path in broken)


def test_no_free_segments_are_kept_nor_made_where_the_disk_is_almost_full(
    spool, store, incoming, monkeypatch
):
    name = spool.append(510, b'1')
    spool.close()
    assert store() == {name: b'1'}
    assert len(segments(incoming, '.free')) == 1
    monkeypatch.setattr(segment, 'is_scarce', lambda directory: True)

    store()
    assert os.listdir(incoming) == []
    name = spool.append(510, b'2')

    assert os.listdir(incoming) == [name]
    assert store() == {name: b'2'}


def test_one_segment_that_cannot_be_released_keeps_no_other_in_use(
    spool, writer, data_dir, incoming, monkeypatch
):
    for n in range(4):
        other = Spool(data_dir)
        other.append(510, b'%d' % n)
    writer.pending()
    other.close()
    del other
    writer.remove(writer.pending()[510])
    rename, calls = os.rename, itertools.count()

    def refuse_first(source, target):
        if next(calls) == 0:
            raise OSError(errno.EIO, 'Input/output error')
        rename(source, target)

    monkeypatch.setattr(os, 'rename', refuse_first)
    assert len(writer.recycle()) == 1


def test_segment_that_may_be_read_only_is_left_alone(spool, writer, monkeypatch):
    spool.append(510, b'')
    opened = os.open

    def refuse(path, flags, *rest):
        if str(path).endswith('.segment') and flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return opened(path, flags, *rest)

    monkeypatch.setattr(os, 'open', refuse)

    waiting = writer.waiting()
    assert waiting.batches == {}
    assert [error.errno for error in waiting.unreadable] == [errno.EACCES]


def test_what_is_no_segment_is_not_moved_while_it_is_written_to(
    spool, incoming, rejected
):
    spool.append(510, b'')
    (path,) = segments(incoming)
    with path.open('r+b') as file:
        file.write(b'HSSEGM9')

    (name,) = spool.waiting().strangers
    with pytest.raises(BlockingIOError):
        spool.reject(name, 'it is none')
    assert os.listdir(rejected) == []
    spool.close()
    spool.reject(name, 'it is none')

    assert os.listdir(incoming) == []


def test_records_that_come_while_a_segment_is_read_are_not_taken_for_damage(
    spool, writer, monkeypatch
):
    name = spool.append(510, b'0')
    writer.pending()
    writer.remove([name])
    pread = os.pread
    for when in range(1, 8):
        for before in (False, True):
            calls = itertools.count(1)

            def read(descriptor, length, offset, calls=calls, when=when, before=before):
                comes = next(calls) == when
                if comes and before:
                    spool.append(510, b'1'), spool.append(510, b'2')
                content = pread(descriptor, length, offset)
                if comes and not before:
                    spool.append(510, b'1'), spool.append(510, b'2')
                return content

            with monkeypatch.context() as patch:
                patch.setattr(os, 'pread', read)
                waiting = writer.waiting()
            assert next(calls) > when
            assert waiting.strangers == {}
            found = batches(writer)
            assert sorted(found.values()) == [b'1', b'2']
            writer.remove(list(found))
