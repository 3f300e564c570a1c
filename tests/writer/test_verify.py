"""`datastore verify` on real archives, whole and damaged."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime

import h5py
import pytest
from support import GROUP, NOBODY, STATION, write_config

from datastore import cli
from datastore.simulation import Simulation
from writer.journal import JournaledFile, journal_path
from writer.writer_app import writer
from wsgi import wsgi_app


@pytest.fixture
def archive(configfile, data_dir):
    """An archive of one station and two days; its day files."""
    wsgi_app.do_init(configfile)
    for day in (17, 18):
        events = Simulation(datetime(2020, 5, day, 9, 30), seed=day).take(60)
        wsgi_app.store_data(STATION, 'Science Park', events)
    writer(configfile, once=True)
    return [
        data_dir / f'2020/5/2020_5_{day}' / f'station_{STATION}.h5' for day in (17, 18)
    ]


@pytest.fixture
def verify(configfile, capsys):
    """Run `datastore verify`; return its exit status and what it printed."""

    def verify(*arguments):
        status = cli.main(['verify', *arguments, '--config', str(configfile)])
        return status, capsys.readouterr().out

    return verify


def test_whole_archive_passes(archive, verify):
    status, printed = verify('--all')
    assert status == 0
    assert printed.count('  ok\n') == 2
    assert printed.endswith('2 files, 0 at fault, 0 busy\n')


@pytest.mark.parametrize(
    ('which', 'files'),
    [('2020-05-17', 1), (str(STATION), 2)],
)
def test_only_the_files_that_are_named_are_checked(archive, verify, which, files):
    status, printed = verify(which, '--json')
    assert status == 0
    assert len(json.loads(printed)) == files


@pytest.mark.parametrize(
    ('which', 'sought'),
    [('2020-05-19', '2020/5/2020_5_19/station_*.h5'), ('511', 'station_511.h5')],
)
def test_what_is_named_and_not_there_is_an_error(
    archive, configfile, data_dir, capsys, which, sought
):
    assert cli.main(['verify', which, '--config', str(configfile)]) == 1
    said = capsys.readouterr()
    assert said.out == ''
    assert said.err.startswith(f'datastore: no file of {which}: looked for {data_dir}/')
    assert said.err.endswith(f'/{sought}\n')


def test_empty_archive_is_whole(data_dir, verify):
    data_dir.mkdir()
    assert verify('--all') == (0, '0 files, 0 at fault, 0 busy\n')


@pytest.mark.skipif(os.geteuid() != 0, reason='takes root to be another user')
def test_archive_that_may_not_be_listed_is_not_said_to_be_whole(
    public_directory, capsys
):
    configfile = write_config(public_directory)
    (public_directory / 'data').mkdir(0o711)
    os.seteuid(NOBODY)
    try:
        assert cli.main(['verify', '--all', '--config', str(configfile)]) == 1
    finally:
        os.seteuid(0)
    assert 'Permission denied' in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason='takes root to be another user')
def test_archive_that_is_read_only_is_not_said_to_be_damaged(public_directory, capsys):
    configfile = write_config(public_directory)
    day = public_directory / 'data/2020/5/2020_5_17'
    day.mkdir(0o755, parents=True)
    (day / f'station_{STATION}.h5').touch(0o644)
    os.seteuid(NOBODY)
    try:
        assert cli.main(['verify', '--all', '--config', str(configfile)]) == 1
    finally:
        os.seteuid(0)
    said = capsys.readouterr()
    assert said.out == ''
    assert 'cannot write to any of its files' in said.err


def test_json_counts_rows_and_blobs(archive, verify):
    _, printed = verify('2020-05-17', '--json')
    (found,) = json.loads(printed)
    assert found['path'] == str(archive[0])
    assert found['rows'] == 60
    with h5py.File(archive[0]) as file:
        assert found['blobs'] == len(file[GROUP]['blobs'])
    assert found['faults'] == []


def cut_short(path):
    os.truncate(path, 3000)


def fill_with_zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def lose_a_row(path):
    with h5py.File(path, 'r+') as file:
        table = file[GROUP]['events']
        table.resize((len(table) - 1,))


def swap_rows(path):
    with h5py.File(path, 'r+') as file:
        table = file[GROUP]['singles']
        table.write_direct(table[:][::-1].copy())


def lose_blobs(path):
    with h5py.File(path, 'r+') as file:
        file[GROUP]['blobs'].resize((3,))


def share_a_blob(path):
    with h5py.File(path, 'r+') as file:
        table = file[GROUP]['events']
        rows = table[:]
        rows['traces'][0] = rows['traces'][1]
        table.write_direct(rows)


def lose_a_digest(path):
    with h5py.File(path, 'r+') as file:
        digests = file['ingest/digests']
        digests.resize((len(digests) - 1,))


def repeat_a_digest(path):
    with h5py.File(path, 'r+') as file:
        digests = file['ingest/digests']
        digests[0] = digests[1]


def add_a_stranger(path):
    with h5py.File(path, 'r+') as file:
        file[GROUP]['notes'] = [1, 2, 3]


def spoil_a_blob(path):
    content = path.read_bytes()
    # Where HDF5 keeps what is of no fixed length (File Format, III.E).
    heap = content.rindex(b'GCOL')
    path.write_bytes(content[:heap] + b'LOST' + content[heap + 4 :])


DAMAGES = {
    cut_short: 'cannot be read',
    fill_with_zeros: 'cannot be read',
    lose_a_row: 'events has ',
    swap_rows: 'not numbered from 1',
    lose_blobs: 'refers to blobs that are not there',
    spoil_a_blob: 'cannot be read',
    share_a_blob: 'refers to a blob more than once',
    lose_a_digest: 'there are 59 digests of 60 rows',
    repeat_a_digest: 'an event is stored more than once',
    add_a_stranger: 'holds notes, which is no table of ours',
}


@pytest.mark.parametrize(
    ('damage', 'fault'), DAMAGES.items(), ids=[d.__name__ for d in DAMAGES]
)
def test_damage_is_found_and_named(archive, verify, damage, fault):
    damage(archive[0])
    status, printed = verify('--all')
    assert status == 1
    assert fault in printed
    assert printed.endswith('2 files, 1 at fault, 0 busy\n')


def test_left_over_journal_is_replayed(archive, verify, monkeypatch):
    with JournaledFile(archive[0], lambda names: None) as file:
        file.seek(0, os.SEEK_END)
        file.write(b'more')
        with monkeypatch.context() as patch:
            patch.setattr('writer.journal._apply', lambda descriptor, record: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                file.commit([])
    assert journal_path(archive[0]).exists()
    status, printed = verify('--all')
    assert status == 0
    assert 'ok, after replaying its journal' in printed
    assert not journal_path(archive[0]).exists()
    assert archive[0].read_bytes().endswith(b'more')


def test_file_that_is_written_to_is_said_to_be_busy(archive, verify):
    with archive[0].open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, printed = verify('--all')
    assert status == 1
    assert printed.endswith('2 files, 0 at fault, 1 busy\n')


def test_data_dir_that_is_not_there_is_said_and_not_made(configfile, data_dir, capsys):
    assert cli.main(['verify', '--all', '--config', str(configfile)]) == 1
    said = capsys.readouterr().err
    assert f'data_dir in [General]: {data_dir} is no directory' in said
    assert not data_dir.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
def test_root_is_not_to_replay_what_the_writer_owns(
    archive, configfile, data_dir, capsys
):
    os.chown(data_dir, 54321, -1)
    assert cli.main(['verify', '--all', '--config', str(configfile)]) == 1
    assert 'belongs to user #54321' in capsys.readouterr().err


def test_copy_of_the_archive_alone_stays_as_it_is(archive, verify, data_dir):
    for name in ('tmp', 'incoming', 'rejected'):
        shutil.rmtree(data_dir / name)
    before = sorted(data_dir.rglob('*'))
    assert verify('--all')[0] == 0
    assert sorted(data_dir.rglob('*')) == before


@pytest.mark.parametrize('arguments', [[], ['501', '--all'], ['yesterday']])
def test_wrong_call_exits_2_and_says_how(configfile, capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        cli.main(['verify', *arguments, '--config', str(configfile)])
    assert exit.value.code == 2
    assert 'usage: datastore verify' in capsys.readouterr().err


def test_configuration_is_taken_from_the_environment(archive, configfile):
    code = 'import sys; from datastore.cli import main; sys.exit(main())'
    result = subprocess.run(
        [sys.executable, '-c', code, 'verify', '--all'],
        env=os.environ | {'DATASTORE_CONFIG': str(configfile)},
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout.endswith('2 files, 0 at fault, 0 busy\n')


def test_missing_configuration_is_one_line(capsys):
    assert cli.main(['verify', '--all', '--config', '/nowhere.ini']) == 1
    said = capsys.readouterr().err
    assert said == 'datastore: /nowhere.ini: No such file or directory\n'
