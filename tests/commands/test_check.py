"""`datastore check` on deployments that are well, and on ones that are not."""

import errno
import json
import logging
import os
from pathlib import Path

import pytest
from support import NOBODY, STATION, write_config

from datastore import checks, cli, durable
from datastore.checks import FAULT, OK, WARNING
from datastore.spool import Spool
from datastore.tally import Tally
from writer.writer_app import _only_writer, writer
from wsgi import wsgi_app


@pytest.fixture
def well(configfile, data_dir, tmp_path):
    """A deployment that is well, as far as a test's directory can be."""
    (tmp_path / 'station_list.csv').chmod(0o640)
    durable.make_directory(data_dir)
    wsgi_app.do_init(configfile)
    writer(configfile, once=True)


@pytest.fixture
def check(configfile, capsys):
    """Run `datastore check`; return its exit status and findings by subject."""

    def check(configfile=configfile):
        code = cli.main(['check', '--json', '--config', str(configfile)])
        findings = json.loads(capsys.readouterr().out)
        for finding in findings:
            assert finding['found']
            if finding['level'] != OK:
                assert finding['mend']
        assert code == any(finding['level'] == FAULT for finding in findings)
        return code, findings

    return check


def levels(findings, subject):
    return [f['level'] for f in findings if f['subject'] == subject]


def test_deployment_that_is_well_has_no_fault(well, check, data_dir, monkeypatch):
    monkeypatch.setattr(checks, '_SLOW_FSYNC', 60.0)
    code, findings = check()

    assert code == 0
    worse = {f['subject'] for f in findings if f['level'] != OK}
    assert worse <= {'clock', 'data_dir'}  # of the machine that tests this
    subjects = {finding['subject'] for finding in findings}
    assert {'config', 'station_list', 'uwsgi', 'user', 'log', 'disk'} <= subjects
    assert {'max_upload', 'clock', 'writer', str(data_dir / 'incoming')} <= subjects


def test_check_leaves_everything_as_it_is(well, check, data_dir):
    def look():
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in [data_dir, *data_dir.rglob('*')]
        }

    before = look()
    check()

    assert look() == before


def test_check_of_a_new_deployment_makes_nothing(check, tmp_path):
    before = sorted(tmp_path.rglob('*'))
    code, findings = check()

    assert code == 1
    assert levels(findings, 'data_dir') == [FAULT]
    assert sorted(tmp_path.rglob('*')) == before


def test_printed_findings_say_how_to_mend_them(configfile, capsys, data_dir):
    assert cli.main(['check', '--config', str(configfile)]) == 1

    printed = capsys.readouterr().out
    assert f'fault    data_dir: {data_dir} is not a directory\n' in printed
    assert '         -> make it, and give it to' in printed
    assert printed.splitlines()[-1].endswith('faults')


def damage(name):
    """Take a way for something to be wrong, and what is found of it."""

    def register(spoil):
        DAMAGE.append(pytest.param(spoil, *name, id=spoil.__name__.replace('_', ' ')))
        return spoil

    return register


DAMAGE = []


@damage(('config', FAULT, 'unknown key'))
def configuration_with_an_unknown_key(directory):
    write_config(directory, Writer={'slep': 5})


@damage(('station_list', FAULT, 'line 1'))
def station_list_with_a_bad_line(directory):
    (directory / 'station_list.csv').write_text('nonsense\n')


@damage(('station_list', FAULT, 'No such file'))
def no_station_list(directory):
    (directory / 'station_list.csv').unlink()


@damage(('station_list', FAULT, 'lists no station'))
def station_list_without_stations(directory):
    (directory / 'station_list.csv').write_text('# none yet\n')


@damage(('station_list', WARNING, 'can read the passwords'))
def station_list_for_everybody(directory):
    (directory / 'station_list.csv').chmod(0o644)


@damage(('data_dir', WARNING, 'everybody on this machine'))
def data_for_everybody(directory):
    (directory / 'data').chmod(0o755)


@damage(('{data}/tmp', WARNING, 'it is not there'))
def no_directory_for_drafts(directory):
    (directory / 'data' / 'tmp').rmdir()


@damage(('{data}/rejected', FAULT, 'is not a directory'))
def file_instead_of_a_directory(directory):
    (directory / 'data' / 'rejected').rmdir()
    (directory / 'data' / 'rejected').touch()


@damage(('{data}/incoming', FAULT, 'another file system'))
def spool_elsewhere(directory):
    (directory / 'data' / 'incoming').rmdir()
    (directory / 'data' / 'incoming').symlink_to('/proc')


@damage(('log', FAULT, 'cannot write'))
def log_in_a_file(directory):
    write_config(directory, General={'log': directory / 'station_list.csv' / 'log'})


@damage(('disk', FAULT, 'below min_free_space'))
def too_little_space(directory):
    write_config(directory, General={'min_free_space': '1024 TiB'})


@damage(('max_spool_size', FAULT, 'less than max_upload'))
def spool_that_is_smaller_than_an_upload(directory):
    write_config(directory, General={'max_spool_size': '1 MiB'})


@damage(('max_upload', WARNING, 'are few'))
def uploads_that_are_small(directory):
    write_config(directory, General={'max_upload': '10 KiB'})


@damage(('writer', FAULT, 'none is running'))
def writer_that_is_silent(directory):
    os.utime(directory / 'data' / 'status' / 'writer.json', (0, 0))


@damage(('writer', FAULT, 'has never run'))
def writer_that_never_ran(directory):
    (directory / 'data' / 'status' / 'writer.json').unlink()


@damage(('rejected', WARNING, '1 spool files'))
def file_that_could_not_be_read(directory):
    spool = Spool(directory / 'data')
    (directory / 'data' / 'incoming' / 'stranger').touch()
    spool.reject('stranger', 'its name')


@damage(('spool', WARNING, '1 batches wait, the oldest for'))
def batch_that_is_not_stored(directory):
    name = f'20200203T040506.000007-{STATION}-1a2b3c4d.batch'
    (directory / 'data' / 'incoming' / name).touch()


@damage(('spool', FAULT, '1 files of batches that wait cannot be read'))
def segment_that_cannot_be_read(directory):
    os.mkfifo(directory / 'data' / 'incoming' / '1-2-0123abcd.segment')


@damage(('url', OK, 'can be kept'))
def station_list_that_is_fetched(directory):
    write_config(directory, Stations={'url': 'https://example.org/stations.csv'})


@damage(('url', FAULT, 'cannot be kept'))
def station_list_that_is_fetched_and_cannot_be_kept(directory):
    write_config(
        directory,
        General={'station_list': directory / 'nowhere' / 'station_list.csv'},
        Stations={'url': 'https://example.org/stations.csv'},
    )


@damage(('suspicious', OK, '1 files'))
def event_that_waits_for_a_person(directory):
    (directory / 'data' / 'suspicious' / '1.json').touch()


@damage(('journals', WARNING, 'left by a crash'))
def journal_that_a_crash_left(directory):
    day = directory / 'data' / '2020/2/2020_2_3'
    day.mkdir(parents=True)
    journal = day / f'station_{STATION}.h5.journal'
    journal.touch()
    os.utime(journal, (0, 0))


@damage(('journals', WARNING, 'took away'))
def journal_without_its_file(directory):
    day = directory / 'data' / '2020/2/2020_2_3'
    day.mkdir(parents=True)
    (day / f'station_{STATION}.h5.journal.1.orphan').touch()


@damage(('tmp', WARNING, 'left by crashes'))
def debris(directory):
    draft = directory / 'data' / 'tmp' / 'draft'
    draft.touch()
    os.utime(draft, (0, 0))


@pytest.mark.parametrize(('spoil', 'subject', 'level', 'words'), DAMAGE)
def test_what_is_wrong_is_found(well, check, tmp_path, spoil, subject, level, words):
    spoil(tmp_path)
    _, findings = check()

    found = [
        (finding['level'], finding['found'])
        for finding in findings
        if finding['subject'] == subject.format(data=tmp_path / 'data')
    ]
    assert any(at == level and words in what for at, what in found), findings


def test_directory_that_went_away_under_the_writer_is_a_fault(well, check, data_dir):
    (data_dir / 'rejected').rmdir()
    with _only_writer(data_dir):
        _, findings = check()

    (finding,) = [f for f in findings if f['subject'] == str(data_dir / 'rejected')]
    assert finding['level'] == FAULT
    assert 'systemctl restart' in finding['mend']


def test_directory_that_went_away_under_the_endpoint_is_a_fault(well, check, data_dir):
    (data_dir / 'rejected').rmdir()
    tally = Tally(data_dir, logging.getLogger())
    tally.refused(STATION, 205, 0.1)
    try:
        _, findings = check()
    finally:
        tally.close()

    assert levels(findings, str(data_dir / 'rejected')) == [FAULT]


def test_year_that_was_moved_to_another_disk_is_well(
    well, check, data_dir, tmp_path, monkeypatch
):
    day = tmp_path / 'old' / '2019/2/2019_2_3'
    day.mkdir(parents=True)
    (data_dir / '2019').symlink_to(tmp_path / 'old' / '2019')
    stat = Path.stat

    def stat_elsewhere(path, **options):
        found = stat(path, **options)
        if '2019' not in path.parts:
            return found
        fields = list(found)
        fields[2] += 1  # st_dev
        return os.stat_result(fields)

    monkeypatch.setattr(Path, 'stat', stat_elsewhere)

    assert levels(check()[1], str(data_dir / '2019/2/2019_2_3')) == [OK]


def test_full_disk_is_not_mended_by_owning_it(well, check, data_dir, monkeypatch):
    def refuse(directory):
        raise OSError(errno.ENOSPC, 'No space left on device', str(directory))

    monkeypatch.setattr(checks, 'check_writable', refuse)
    _, findings = check()

    (finding,) = [f for f in findings if f['subject'] == str(data_dir)]
    assert finding['level'] == FAULT
    assert finding['mend'].startswith('make room')


def test_writer_that_holds_its_lock_is_named_when_it_is_silent(well, check, data_dir):
    os.utime(data_dir / 'status' / 'writer.json', (0, 0))
    with _only_writer(data_dir):
        _, findings = check()

    (finding,) = [f for f in findings if f['subject'] == 'writer']
    assert finding['level'] == FAULT
    assert f'process {os.getpid()} holds its lock' in finding['found']


def test_writer_that_is_alive_is_well(well, check, data_dir):
    path = data_dir / 'status' / 'writer.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'once': False}))
    assert levels(check()[1], 'writer') == [WARNING]
    with _only_writer(data_dir):
        assert levels(check()[1], 'writer') == [OK]


@pytest.mark.parametrize(
    ('device', 'written', 'holds'),
    [
        ('{major:02x}:{minor:02x}', '', True),
        ('{major:02x}:{other:02x}', '', False),
        ('{major:02x}:{other:02x}', '4321\n', False),
        ('{major:02x}:{other:02x}', '1234\n', True),  # as on btrfs
    ],
    ids=['same device', 'another device', 'another process', 'process in the file'],
)
def test_holder_of_a_lock_on_another_device_is_innocent(
    well, check, data_dir, tmp_path, monkeypatch, device, written, holds
):
    os.utime(data_dir / 'status' / 'writer.json', (0, 0))
    lock = data_dir / 'writer.lock'
    lock.write_text(written)
    found = lock.stat()
    major, minor = os.major(found.st_dev), os.minor(found.st_dev)
    device = device.format(major=major, minor=minor, other=minor + 1)
    locks = tmp_path / 'locks'
    locks.write_text(
        '1: -> FLOCK  ADVISORY  WRITE 77 00:01:1 0 EOF\n'
        f'2: POSIX  ADVISORY  WRITE 88 {device}:{found.st_ino} 0 EOF\n'
        f'3: FLOCK  ADVISORY  WRITE 1234 {device}:{found.st_ino} 0 EOF\n'
    )
    monkeypatch.setattr(checks, '_LOCKS', locks)

    (finding,) = [f for f in check()[1] if f['subject'] == 'writer']

    assert ('kill -9 1234' in finding['mend']) is holds


@pytest.mark.skipif(os.geteuid() != 0, reason='takes root to be another user')
def test_user_who_cannot_write_is_told_so(public_directory, check):
    configfile = write_config(public_directory)
    data_dir = public_directory / 'data'
    data_dir.mkdir(0o755)
    wsgi_app.do_init(configfile)
    os.seteuid(NOBODY)
    try:
        code, findings = check(configfile)
    finally:
        os.seteuid(0)

    assert code == 1
    (user,) = [f for f in findings if f['subject'] == 'user']
    assert user['level'] == WARNING
    assert user['mend'].startswith('run this as root, ')
    assert 'sudo' not in user['mend']
    assert levels(findings, 'log') == levels(findings, str(data_dir)) == [FAULT]
    (incoming,) = [f for f in findings if f['subject'] == str(data_dir / 'incoming')]
    assert 'cannot write there' in incoming['found']


@pytest.mark.skipif(os.geteuid() != 0, reason='takes root to be another user')
@pytest.mark.parametrize(
    ('log', 'advice'),
    [
        ('log/datastore/hisparc', 'install -d -m 750 -o USER -g GROUP {directory}'),
        ('log/hisparc', 'if {directory} is of these logs alone: chown USER: '),
    ],
    ids=['directory that is missing', 'directory of others'],
)
def test_directory_of_the_system_is_never_given_away(
    public_directory, check, log, advice
):
    (public_directory / 'log').mkdir(0o755)
    path = public_directory / log
    configfile = write_config(public_directory, General={'log': path})
    os.seteuid(NOBODY)
    try:
        _, findings = check(configfile)
    finally:
        os.seteuid(0)

    (finding,) = [f for f in findings if f['subject'] == 'log']
    assert finding['level'] == FAULT
    assert advice.format(directory=path.parent) in finding['mend']
    assert 'chown -R' not in finding['mend']


def test_slow_disk_is_a_warning(well, check, monkeypatch, data_dir):
    monkeypatch.setattr(checks, '_SLOW_FSYNC', -1.0)

    assert levels(check()[1], str(data_dir / 'tmp')) == [WARNING]
