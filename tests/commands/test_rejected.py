"""`datastore rejected` on files that a real writer could not read."""

import errno
import os
from datetime import datetime
from functools import partial

import h5py
import pytest
from support import CLUSTER, GROUP, STATION

from datastore.batch import Batch, encode_batch
from datastore.event import parse_event
from datastore.spool import Spool
from writer.writer_app import writer

MOMENT = datetime(2020, 2, 3)
RECEIVED = 1_580_688_000 * 10**9  # 2020-02-03


@pytest.fixture
def put(spool, make_event):
    """Spool a batch of two events and return its name."""

    def put(station=STATION):
        events = [make_event(moment=MOMENT, nanoseconds=n) for n in (1, 2)]
        batch = Batch(station, CLUSTER, RECEIVED, tuple(map(parse_event, events)))
        return spool.put(station, encode_batch(batch))

    return put


@pytest.fixture
def sweep(configfile):
    return lambda: writer(configfile, once=True)


@pytest.fixture
def reject(put, incoming, sweep):
    """Spool a batch, damage its file, and have the writer reject it."""

    def reject(damage, station=STATION):
        name = put(station)
        content = (incoming / name).read_bytes()
        (incoming / name).write_bytes(damage(content))
        sweep()
        return name, content

    return reject


@pytest.fixture
def run(run_command):
    """Run `datastore rejected`; return its exit status and what it said."""
    return partial(run_command, 'rejected')


@pytest.fixture
def stored(data_dir, sweep):
    """Run the writer, and return the nanoseconds of the rows."""

    def stored():
        sweep()
        path = data_dir / '2020/2/2020_2_3' / f'station_{STATION}.h5'
        with h5py.File(path) as file:
            return file[GROUP]['events']['nanoseconds'].tolist()

    return stored


def torn(content):
    return content[:-10]


def flipped(content):
    return content[:-1] + bytes([content[-1] ^ 1])


def foreign(content):
    return b'not a batch, but longer than a header'


def test_list_tells_what_and_why(reject, run, run_json):
    name, content = reject(torn)

    status, (listed,) = run_json('list')

    assert status == 0
    assert datetime.fromisoformat(listed.pop('rejected').removesuffix('Z'))
    held = len(content) - 20
    assert listed == {
        'name': name,
        'size': len(content) - 10,
        'error': f'holds {held - 10} bytes instead of {held}',
        'station': STATION,
        'arrival': name[:8],
    }
    _, out, _ = run('list')
    assert name in out
    assert f'holds {held - 10} bytes instead of {held}' in out
    assert out.endswith('1 rejected files\n')


def test_nothing_is_listed_where_nothing_was_rejected(run, spool):
    assert run('list') == (0, '0 rejected files\n', '')


@pytest.mark.parametrize(
    ('damage', 'facts'),
    [
        pytest.param(
            torn,
            ['instead of', '1 of 2 events can be read, of station 510'],
            id='torn',
        ),
        pytest.param(
            flipped, ['checksum', 'instead of', 'of 2 events can be read'], id='flipped'
        ),
        pytest.param(lambda c: c[:5], ["magic      b'HSPOO' instead"], id='no header'),
        pytest.param(foreign, ["magic      b'not a ba' instead"], id='foreign'),
        pytest.param(lambda c: c[:20], ['not the beginning of a batch'], id='header'),
        pytest.param(lambda c: b'', ['size       0 bytes'], id='empty'),
    ],
)
def test_show_tells_what_is_wrong_and_what_is_whole(
    reject, run, run_json, damage, facts
):
    name, _ = reject(damage)

    status, out, _ = run('show', name[:26])

    assert status == 0
    for fact in [name, 'error', 'would be rejected again: ', *facts]:
        assert fact in out
    status, shown = run_json('show', name)
    assert status == 0
    assert shown['now'].startswith('would be rejected again: ')


def test_restored_file_is_stored_by_the_next_sweep(
    reject, run, run_json, rejected, stored
):
    name, content = reject(torn)
    (rejected / name).write_bytes(content)
    assert 'can be read; retry it' in run('show', name)[1]

    status, (result,) = run_json('retry', name)

    assert status == 0
    assert result == {'name': name, 'spooled_as': name, 'fault': None}
    assert os.listdir(rejected) == []
    assert stored() == [1, 2]


def test_what_would_be_rejected_again_stays(reject, run, rejected, incoming):
    name, _ = reject(flipped)

    status, out, err = run('retry', '--all')

    assert status == 1
    assert out == '0 of 1 files put back\n'
    assert err == (
        f'datastore: {name}: would be rejected again: its checksum does not match\n'
    )
    assert sorted(os.listdir(rejected)) == [name, f'{name}.error']
    assert os.listdir(incoming) == []


def test_batch_under_a_name_that_is_not_ours_gets_one(
    put, run_json, incoming, rejected, sweep, stored
):
    os.rename(incoming / put(), incoming / 'copy from the backup')
    sweep()

    status, (result,) = run_json('retry', 'copy')

    assert status == 0
    assert result['spooled_as'].startswith(f'20200203T000000.000000-{STATION}-')
    assert os.listdir(rejected) == []
    assert stored() == [1, 2]


def test_name_that_is_taken_is_not_written_over(
    reject, put, run_json, rejected, incoming, stored
):
    name, content = reject(torn)
    (rejected / name).rename(rejected / f'{name}.2')
    (rejected / f'{name}.2').write_bytes(content)
    (incoming / name).write_bytes(content)

    status, (result,) = run_json('retry', f'{name}.2')

    assert status == 0
    assert result['spooled_as'] != name
    assert sorted(os.listdir(incoming)) == sorted([name, result['spooled_as']])
    assert stored() == [1, 2]


def test_second_file_of_a_name_goes_back_under_it(reject, run_json, rejected):
    name, content = reject(torn)
    (rejected / name).rename(rejected / f'{name}.2')
    (rejected / f'{name}.2').write_bytes(content)

    _, (result,) = run_json('retry', '--station', str(STATION))

    assert result['spooled_as'] == name


@pytest.mark.parametrize(
    ('filters', 'found'),
    [
        (['--station', '510'], 1),
        (['--station', '511'], 0),
        (['--station', '510', '--station', '8001'], 2),
        (['--from', '2020-02-04'], 1),
        (['--until', '2020-02-03'], 1),
        (['--from', '2020-02-03', '--until', '2020-02-04'], 2),
        ([], 3),
    ],
    ids=str,
)
def test_filters_go_by_the_name(spool, incoming, run_json, filters, found):
    for name in (
        '20200203T235959.999999-510-00000000.batch',
        '20200204T000000.000000-8001-00000000.batch',
        'foreign',
    ):
        (incoming / name).write_bytes(b'')
        spool.reject(name, 'it is empty')

    status, listed = run_json('list', *filters)
    assert (status, len(listed)) == (0, found)
    status, tried = run_json('retry', *filters or ['--all'], '--dry-run')
    assert (status, len(tried)) == (int(found > 0), found)


@pytest.mark.parametrize(
    ('filters', 'found'),
    [
        (['--reason', 'HOLDS 10 bytes'], ['torn', 'torn too']),
        (['--reason', 'empty'], ['empty']),
        (['--reason', 'of another kind'], []),
        (['--reason', 'bytes', '--station', '510'], []),  # no name tells
    ],
    ids=str,
)
def test_files_are_chosen_by_their_errors(spool, incoming, run_json, filters, found):
    for name, error in (
        ('torn', 'holds 10 bytes instead of 20'),
        ('torn too', 'holds 10 bytes instead of 30'),
        ('empty', 'it is empty'),
    ):
        (incoming / name).write_bytes(b'')
        spool.reject(name, error)

    _, listed = run_json('list', *filters)
    _, tried = run_json('retry', *filters, '--dry-run')

    assert sorted(file['name'] for file in listed) == found
    assert sorted(file['name'] for file in tried) == found


def test_dry_run_moves_nothing(reject, run, rejected, incoming):
    name, content = reject(torn)
    (rejected / name).write_bytes(content)

    assert run('retry', name, '--dry-run') == (
        0,
        f'{name}  would be put back\n1 of 1 files would be put back\n',
        '',
    )
    assert sorted(os.listdir(rejected)) == [name, f'{name}.error']
    assert os.listdir(incoming) == []


def test_what_is_no_file_is_told(incoming, sweep, run, rejected):
    (incoming / 'directory').mkdir()
    os.mkfifo(incoming / 'pipe\x1b')
    sweep()

    status, out, err = run('retry', '--all')

    assert (status, out) == (1, '0 of 2 files put back\n')
    assert err.count('it is not a file') == 2
    assert '\x1b' not in err
    assert run('show', 'dir')[0] == 0
    assert sorted(os.listdir(rejected))[0] == 'directory'


def test_explanation_without_its_file_is_not_listed(reject, run, rejected):
    name, _ = reject(torn)
    os.unlink(rejected / name)

    assert run('list')[1] == '0 rejected files\n'


def test_file_without_its_explanation_is_listed(reject, run, rejected):
    name, _ = reject(torn)
    os.unlink(rejected / f'{name}.error')

    assert 'nothing says why' in run('list')[1]
    assert 'nothing says why' in run('show', name)[1]


@pytest.mark.parametrize('action', ['show', 'retry'])
@pytest.mark.parametrize('wanted', ['../incoming/x', 'x.error', '', '1999', '..'])
def test_what_is_no_name_is_one_line_with_a_hint(reject, run, action, wanted):
    reject(torn)

    status, out, err = run(action, wanted)

    assert (status, out) == (1, '')
    assert err == (
        f'datastore: nothing is called {wanted!r}; see: datastore rejected list\n'
    )


@pytest.mark.parametrize(
    'arguments', [[], ['retry'], ['retry', 'a', '--all'], ['show'], ['list', 'a']]
)
def test_wrong_call_is_status_2(run, arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)

    assert stopped.value.code == 2


def test_data_dir_where_nothing_was_spooled_is_left_so(run, data_dir):
    assert run('list')[0] == 1
    data_dir.mkdir()

    status, _, err = run('list')

    assert status == 1
    assert err == f'datastore: nothing was ever spooled in {data_dir}\n'
    assert list(data_dir.iterdir()) == []


def test_file_that_vanishes_before_its_retry_is_a_fault(
    reject, run, rejected, spool, monkeypatch
):
    name, _ = reject(torn)
    found = spool.rejected()
    monkeypatch.setattr(Spool, 'rejected', lambda self: found)
    os.unlink(rejected / name)

    assert run('retry', name) == (
        1,
        '0 of 1 files put back\n',
        f'datastore: {name}: it is gone\n',
    )
    status, _, err = run('show', name)
    assert status == 1
    assert err.count('\n') == 1


# The spool's part.


def test_file_that_was_rejected_again_meanwhile_keeps_its_new_error(
    reject, spool, rejected, incoming, monkeypatch
):
    name, _ = reject(torn)
    rename = os.rename

    def rename_and_reject(source, target):
        rename(source, target)
        if target == incoming / name:
            monkeypatch.undo()
            spool.reject(name, 'it is still torn')

    monkeypatch.setattr(os, 'rename', rename_and_reject)

    spool.retry(name, STATION, RECEIVED)

    assert sorted(os.listdir(rejected)) == [name, f'{name}.error']
    assert (rejected / f'{name}.error').read_text() == 'it is still torn\n'


@pytest.mark.parametrize('name', ['rename', 'fsync'])
def test_disk_that_fails_keeps_the_file_and_its_error(
    reject, run, rejected, incoming, monkeypatch, name
):
    rejected_name, content = reject(torn)
    (rejected / rejected_name).write_bytes(content)

    def fail(*_):
        raise OSError(errno.EIO, 'Input/output error')

    monkeypatch.setattr(os, name, fail)

    status, _, err = run('retry', rejected_name)

    assert status == 1
    assert err == f'datastore: {rejected_name}: Input/output error\n'
    assert f'{rejected_name}.error' in os.listdir(rejected)
    assert rejected_name in os.listdir(rejected) + os.listdir(incoming)
