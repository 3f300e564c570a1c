"""`datastore merge` as the operator, a timer or a service runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import datetime, timezone

import h5py
import pytest
from support import PROJECT, STATION

from datastore import cli
from datastore.commands.merge import seconds_until
from datastore.event import Event

MONDAY, TUESDAY = 1_580_688_000, 1_580_774_400  # 2020-02-03 and the day after, in s


def errors(*timestamps):
    return [Event('ERR', t, 0, 0, ('ERRMSG',), ('text',)) for t in timestamps]


@pytest.fixture
def run(configfile, capsys):
    """Run `datastore merge`; return its exit status, and what it printed."""

    def run(*arguments):
        try:
            status = cli.main(['merge', *arguments, '--config', str(configfile)])
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def test_named_days_are_merged_in_order(run, files, data_dir):
    files.store(STATION, *errors(MONDAY))
    files.store(STATION, *errors(TUESDAY, TUESDAY + 1))

    status, printed, _ = run('2020-02-04', '2020-02-03')

    assert status == 0
    monday, tuesday = printed.splitlines()
    assert monday.startswith('2020-02-03     1 stations           1 rows')
    assert tuesday.startswith('2020-02-04     1 stations           2 rows')
    assert 'merged in' in monday
    assert {path.name for path in data_dir.glob('2020/2/*.h5')} == {
        '2020_2_3.h5',
        '2020_2_4.h5',
    }


def test_day_that_is_merged_already_is_said_to_be_unchanged(run, files):
    files.store(STATION, *errors(MONDAY))
    run('2020-02-03')
    status, printed, _ = run('2020-02-03')
    assert status == 0
    assert printed.endswith('  unchanged\n')


def test_day_without_data_is_no_fault(run, files):
    assert run('2020-02-03') == (0, '2020-02-03  no station files\n', '')


def test_changed_says_only_which_days_changed(run, files):
    files.store(STATION, *errors(MONDAY))
    files.store(STATION, *errors(TUESDAY))
    _, printed, _ = run('--changed')
    assert len(printed.splitlines()) == 2
    assert run('--changed') == (0, 'no day has changed\n', '')
    files.store(STATION, *errors(MONDAY + 1))

    status, printed, _ = run('--changed')

    assert status == 0
    assert printed.startswith('2020-02-03 ')
    assert len(printed.splitlines()) == 1


def test_since_leaves_older_days_alone(run, files, data_dir):
    files.store(STATION, *errors(MONDAY))
    today = int(datetime.now(timezone.utc).timestamp())
    files.store(STATION, *errors(today))

    status, printed, _ = run('--changed', '--since', '7', '--json')

    assert status == 0
    assert len(json.loads(printed)) == 1
    assert not (data_dir / '2020/2/2020_2_3.h5').exists()


def test_json_tells_of_every_named_day(run, files, data_dir):
    files.store(STATION, *errors(MONDAY))
    _, printed, _ = run('2020-02-03', '2020-02-04', '--json')
    monday, tuesday = json.loads(printed)
    assert monday.pop('seconds') > 0
    assert monday == {
        'day': '2020-02-03',
        'path': str(data_dir / '2020/2/2020_2_3.h5'),
        'stations': 1,
        'rows': 1,
        'blobs': 1,
        'changed': True,
        'faults': [],
        'replaced': None,
    }
    assert (tuesday['stations'], tuesday['changed']) == (0, False)


def test_damaged_station_is_a_line_and_status_1(run, files):
    files.store(STATION, *errors(MONDAY))
    os.truncate(files.store(502, *errors(MONDAY)), 1000)

    status, printed, complaint = run('2020-02-03')

    assert status == 1
    assert '1 stations' in printed
    assert printed.endswith('1 at fault\n')
    assert complaint.startswith('datastore: 2020-02-03: station 502: ')
    assert complaint.count('\n') == 1


def test_file_of_another_program_stays_and_the_other_days_are_merged(
    run, files, data_dir
):
    source = files.store(STATION, *errors(MONDAY))
    files.store(STATION, *errors(TUESDAY))
    target = data_dir / '2020/2/2020_2_3.h5'
    shutil.copy(source, target)
    with h5py.File(target, 'r+') as file:
        del file['ingest']

    status, printed, complaint = run('--changed')

    assert status == 1
    assert '2020-02-03  not merged\n2020-02-04  ' in printed
    assert '--replace' in complaint
    assert complaint.count('\n') == 1

    status, printed, complaint = run('2020-02-03', '--replace')
    assert (status, complaint) == (0, '')
    assert f'the file before is {data_dir}/replaced/2020_2_3.' in printed
    assert 'unchanged' not in printed


def test_data_dir_that_is_not_there_is_said_and_not_made(run, data_dir):
    for arguments in (['--changed'], ['2020-02-03']):
        status, _, complaint = run(*arguments)
        assert status == 1
        assert f'data_dir in [General]: {data_dir} is no directory' in complaint
    assert not data_dir.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
def test_root_is_not_to_leave_files_that_the_writer_cannot_read(run, files, data_dir):
    files.store(STATION, *errors(MONDAY))
    os.chown(data_dir, 54321, -1)
    before = sorted(data_dir.rglob('*'))

    status, _, complaint = run('2020-02-03')

    assert status == 1
    assert 'belongs to user #54321' in complaint
    assert sorted(data_dir.rglob('*')) == before


def test_archive_from_a_backup_is_merged_without_its_spool(run, files, data_dir):
    files.store(STATION, *errors(MONDAY))
    for name in ('tmp', 'incoming', 'rejected'):
        (data_dir / name).rmdir()

    status, printed, _ = run('2020-02-03')

    assert status == 0
    assert 'merged in' in printed
    assert not (data_dir / 'incoming').exists()


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        ([], 'name a DATE, or give either --changed or --watch'),
        (['2020-02-03', '--changed'], 'name a DATE, or give either'),
        (['--changed', '--watch'], 'name a DATE, or give either'),
        (['monday'], 'monday is not a date such as'),
        (['2020-02-30'], '2020-02-30 is not a date such as'),
        (['--changed', '--at', '03:00'], '--every and --at go with --watch'),
        (['--watch', '--at', '24:00'], '24:00 is not a time such as 03:30'),
        (['--watch', '--at', '3:00', '--every', '5'], 'either --every or --at'),
        (['--watch', '--every', '0'], '0 is not a number of minutes'),
        (['--watch', '--every', 'nan'], 'nan is not a number of minutes'),
        (['--changed', '--wait', 'nan'], 'nan is not a number of seconds'),
        (['--changed', '--since', 'ever'], 'ever is not a number of days'),
        (['2020-02-03', '--since', '3'], '--since goes with'),
        (['--changed', '--rebuild'], 'go with a DATE'),
        (['--changed', '--replace'], 'go with a DATE'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_wrong_call_is_status_2(run, arguments, complaint):
    status, printed, complained = run(*arguments)
    assert (status, printed) == (2, '')
    assert complaint in complained


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_watch_merges_what_changes_until_it_is_told_to_stop(configfile, files, number):
    files.store(STATION, *errors(MONDAY))
    program = 'import sys; from datastore.cli import main; sys.exit(main())'
    command = [sys.executable, '-c', program, 'merge', '--watch', '--every', '0.01']
    command += ['--config', str(configfile)]
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert '           1 rows' in process.stdout.readline()
        files.store(STATION, *errors(MONDAY + 1))
        assert '           2 rows' in process.stdout.readline()
        process.send_signal(number)
        assert process.communicate(timeout=30) == ('', '')
    assert process.returncode == 0


@pytest.mark.parametrize(
    ('now', 'seconds'), [('02:59:30', 30), ('03:00:00', 86400), ('04:00:00', 82800)]
)
def test_time_of_day_comes_once_a_day(now, seconds):
    now = datetime.fromisoformat(f'2020-02-03T{now}+00:00')
    assert seconds_until(3 * 3600, now) == seconds
