"""`datastore stations` edits the list, and never shows or takes a password openly."""

import io
import json
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest
from pytest_httpserver import HTTPServer
from support import CLUSTER, PASSWORD, PROJECT, STATION, write_config

from datastore import passwords, station_list
from datastore.cli import main
from wsgi.stations import read_station_list


@pytest.fixture
def path(configfile):
    return configfile.with_name('station_list.csv')


@pytest.fixture
def run(configfile, capsys, monkeypatch):
    """Run `datastore stations` and return status, output and errors."""

    def run(action, *arguments, stdin=''):
        if isinstance(stdin, str):
            stdin = stdin.encode()
        stdin = io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, 'stdin', stdin)
        status = main(
            ['stations', action, '--config', str(configfile), *map(str, arguments)]
        )
        said = capsys.readouterr()
        assert said.err == '' if status == 0 else said.err.count('\n') <= 1
        return SimpleNamespace(status=status, out=said.out, err=said.err)

    return run


def opens(path, number, password):
    return read_station_list(path).authenticate(number, password.encode()).cluster


# list


def test_list_shows_everything_but_the_passwords(run, path):
    path.write_text(
        f'8001, Eindhoven, {passwords.hash_password("hush")}\n501, Science Park, hush\n'
    )

    assert run('list').out.splitlines() == [
        'station  cluster       password',
        '501      Science Park  plain',
        '8001     Eindhoven     hashed',
    ]
    assert json.loads(run('list', '--json').out) == [
        {'station': 501, 'cluster': 'Science Park', 'password': 'plain'},
        {'station': 8001, 'cluster': 'Eindhoven', 'password': 'hashed'},
    ]


def test_list_of_a_cluster_is_found_in_any_case(run, path):
    path.write_text('501, A, x\n502, B b, x\n')

    (station,) = json.loads(run('list', '--cluster', 'b B', '--json').out)
    assert station['station'] == 502
    nobody = run('list', '--cluster', 'C')
    assert (nobody.status, nobody.err) == (
        1,
        'datastore: no station is in a cluster C\n',
    )


# add and passwd


def test_station_is_added_with_a_hash_of_the_password_on_stdin(run, path):
    before = path.read_text()

    result = run('add', 8001, "'t Gooi", '--password-stdin', stdin='pässwörd\n')

    assert result.out == "Added station 8001 ('t Gooi), hashed\n"
    assert opens(path, 8001, 'pässwörd') == "'t Gooi"
    assert path.read_text().startswith(f"{before}8001, 't Gooi, scrypt$16384$8$1$")


def test_password_is_written_plain_where_that_is_asked_for(run, path):
    run('add', 8001, 'A', '--password-stdin', '--plain', stdin='a, "b"\r\n')

    assert path.read_text().endswith('8001, A, "a, ""b"""\n')
    assert opens(path, 8001, 'a, "b"') == 'A'


def test_generated_password_is_shown_once_and_works(run, path):
    out = run('add', 8001, 'A', '--generate').out

    *_, password = out.split()
    assert opens(path, 8001, password) == 'A'
    assert password not in path.read_text()
    document = json.loads(run('passwd', 8001, '--generate', '--json').out)
    assert opens(path, 8001, document.pop('generated')) == 'A'
    assert document == {'station': 8001, 'cluster': 'A', 'password': 'hashed'}


def test_password_is_changed_and_all_else_stays(run, path):
    path.write_text(f'# c\n\n502,B,"q,"\r\n{STATION} , {CLUSTER},  old\n7, A, x\n')

    result = run('passwd', STATION, '--password-stdin', '--plain', stdin='new')

    assert (
        result.out == f'Changed the password of station {STATION} ({CLUSTER}), plain\n'
    )
    assert path.read_bytes().decode() == (
        f'# c\n\n502,B,"q,"\r\n{STATION} , {CLUSTER},  new\n7, A, x\n'
    )


def test_plain_passwords_are_hashed_and_open_as_before(run, path):
    known = passwords.hash_password('x')
    path.write_text(f'# c\n502, B,"q,"\n7,A, {known}\n{STATION}, A, pässwörd\n')

    result = run('hash')

    assert result.out == f'{path}: 2 plain passwords hashed\n'
    lines = path.read_text().splitlines()
    assert [lines[0], lines[2]] == ['# c', f'7,A, {known}']
    assert lines[1].startswith('502, B,scrypt$')
    assert opens(path, 502, 'q,') == 'B'
    assert opens(path, STATION, 'pässwörd') == 'A'
    before = path.stat().st_ino
    assert json.loads(run('hash', '--json').out) == {'hashed': []}
    assert path.stat().st_ino == before


def test_first_station_makes_the_list(run, path):
    path.unlink()

    run('add', 501, 'A', '--generate')

    assert list(station_list.read_stations(path)) == [501]
    assert path.stat().st_mode & 0o777 == 0o640


REFUSED = {
    'listed already': (['add', STATION, 'A', '--generate'], '', 'listed twice'),
    'not listed': (['passwd', 999, '--generate'], '', 'station 999 is not listed'),
    'bad cluster': (['add', 7, 'a/b', '--generate'], '', 'cluster of station 7'),
    'number too large': (['add', 2**31, 'A', '--generate'], '', 'positive whole'),
    'no password': (['add', 7, 'A', '--password-stdin'], '\n', 'empty'),
    'two lines': (['add', 7, 'A', '--password-stdin'], 'hush\nhush\n', 'printed'),
    'looks hashed': (['add', 7, 'A', '--password-stdin'], 'scrypt$hush', 'hashes do'),
    'not UTF-8': (['add', 7, 'A', '--password-stdin'], b'hush\xe9', 'not UTF-8'),
    'too long': (['add', 7, 'A', '--password-stdin'], 'hush' * 500, '256 bytes'),
    'no terminal': (['add', 7, 'A'], 'hush\n', 'no terminal'),
}


@pytest.mark.parametrize(('arguments', 'stdin', 'said'), REFUSED.values(), ids=REFUSED)
def test_edit_that_is_refused_says_why_and_changes_nothing(
    run, path, arguments, stdin, said
):
    before = path.stat().st_ino

    result = run(*arguments, stdin=stdin)

    assert (result.status, result.out) == (1, '')
    assert result.err.startswith('datastore: ')
    assert said in result.err
    assert 'hush' not in result.err
    assert path.stat().st_ino == before


def test_user_who_may_not_write_the_list_is_told_so(run, path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied', 'a draft')

    monkeypatch.setattr(station_list.durable, 'put', refuse)  # root may everything
    result = run('add', 7, 'A', '--generate')

    assert result.status == 1
    assert f'may not write to {path.parent}' in result.err
    assert 'draft' not in result.err


@pytest.mark.parametrize(
    'arguments',
    [['add', 7, 'A', '--generate'], ['passwd', STATION, '--generate'], ['hash']],
)
def test_list_with_a_mistake_is_to_be_mended_first(run, path, arguments):
    path.write_text(f'{STATION}, A, x\n502\n')

    result = run(*arguments)

    assert (result.status, 'line 2: ' in result.err) == (1, True)
    assert path.read_text() == f'{STATION}, A, x\n502\n'


@pytest.mark.parametrize(
    'arguments',
    [
        ['add', '7', 'A', 'hush'],
        ['add', '7', 'A', '--password', 'hush'],
        ['add', '7', 'A', '--generate', '--password-stdin'],
        ['passwd', '510', 'hush'],
        ['add', 'seven', 'A', '--generate'],
        [],
    ],
)
def test_password_is_no_argument(capsys, path, arguments):
    before = path.read_text()

    with pytest.raises(SystemExit) as exit_info:
        main(['stations', *arguments])

    assert exit_info.value.code == 2
    assert path.read_text() == before


@pytest.mark.parametrize(
    ('typed', 'status', 'said'),
    [
        (b'a secret\na secret\n', 0, 'Added station 8001 (A), hashed'),
        (b'a secret\na Secret\n', 1, 'the two passwords differ'),
        (b'\n\n', 1, 'the password is empty'),
        (b'\x03', 1, 'nothing is changed'),
    ],
    ids=['the same twice', 'two others', 'nothing', 'Ctrl-C'],
)
def test_password_is_asked_for_twice_without_showing_it(
    configfile, path, typed, status, said
):
    terminal, inside = pty.openpty()
    program = (
        'import fcntl, sys, termios; from datastore.cli import main\n'
        'fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C goes to who has the terminal\n'
        'sys.exit(main())'
    )
    add = ['stations', 'add', '8001', 'A', '--config', configfile]
    process = subprocess.Popen(
        [sys.executable, '-c', program, *add],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        cwd=PROJECT,
        start_new_session=True,
    )
    os.close(inside)
    shown = b''
    try:
        # What is typed before it is asked for would be thrown away.
        for line in typed.splitlines(keepends=True):
            while not shown.endswith(b': '):
                shown += os.read(terminal, 100)
            os.write(terminal, line)
            shown += os.read(terminal, 1)
        while True:
            try:
                shown += os.read(terminal, 1000)
            except OSError:  # the other end is closed
                break
        assert process.wait(30) == status
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert said in shown.decode()
    assert b'secret' not in shown.lower()
    assert (8001 in station_list.read_stations(path)) == (status == 0)


def test_edits_of_several_processes_at_once_lose_none(configfile, path):
    edits = [
        subprocess.Popen(
            [
                sys.executable,
                '-c',
                'import sys; from datastore.cli import main; sys.exit(main())',
                *['stations', 'add', str(number), 'A', '--generate', '--json'],
                *['--config', configfile],
            ],
            stdout=subprocess.DEVNULL,
            cwd=PROJECT,
        )
        for number in range(1, 7)
    ]

    assert [edit.wait(30) for edit in edits] == [0] * 6
    assert set(station_list.read_stations(path)) == {*range(1, 7), STATION}


# check


def test_check_counts_what_is_listed(run, path):
    path.write_text(f'501, A, x\n502, A, {passwords.hash_password("x")}\n')

    result = run('check')

    assert (result.status, result.out) == (
        0,
        f'{path}: 2 stations, 1 passwords hashed, 1 plain, 0 faults\n',
    )


def test_check_names_every_fault_of_any_file(run, tmp_path):
    other = tmp_path / 'other.csv'
    other.write_bytes(b'501\n502, A, x\n502, B, hush\n503, A, \xff\n504, A, scrypt$x\n')

    result = run('check', other)

    assert result.status == 1
    *faults, summary = result.out.splitlines()
    places = [fault.rpartition(f'{other}, line ')[2][:3] for fault in faults]
    assert places == ['1: ', '3: ', '4: ', '5: ']
    assert summary.endswith('4 faults')
    assert 'hush' not in result.out
    document = json.loads(run('check', other, '--json').out)
    assert [fault['line'] for fault in document['faults']] == [1, 3, 4, 5]
    assert (document['stations'], document['plain'], document['hashed']) == (1, 1, 0)


def test_check_of_a_file_needs_no_configuration(configfile, run, path):
    configfile.unlink()

    assert run('check', path).status == 0


def test_list_that_is_not_there_is_named(run, path):
    path.unlink()

    for action in (['list'], ['check'], ['passwd', 1, '--generate']):
        result = run(*action)
        assert (result.status, result.err) == (
            1,
            f'datastore: {path}: No such file or directory\n',
        )


# fetch


@pytest.fixture(scope='module')
def server():
    with HTTPServer(host='127.0.0.1') as server:
        yield server


@pytest.fixture
def serve(server, tmp_path):
    """Serve a list at the url of the configuration."""

    def serve(body):
        server.clear()
        server.expect_request('/list').respond_with_data(body)

    write_config(tmp_path, Stations={'url': server.url_for('/list')})
    return serve


def test_fetch_says_what_changed(run, serve, server, path):
    serve(f'{STATION}, {CLUSTER}, other\n8001, A, x\n')

    result = run('fetch')

    assert (result.status, result.out) == (
        0,
        f'{path}: stations: 1 added (8001), 1 changed ({STATION}); 2 stations listed\n',
    )
    serve('8001, A, x\n')
    assert json.loads(run('fetch', '--json').out) == {
        'url': server.url_for('/list'),
        'added': [],
        'removed': [STATION],
        'changed': [],
    }


def test_fetch_that_is_refused_says_why_and_changes_nothing(run, serve, path):
    serve('8001, A, x\n')

    result = run('fetch')

    assert (result.status, result.out) == (1, '')
    assert '--force' in result.err
    assert opens(path, STATION, PASSWORD) == CLUSTER
    assert run('fetch', '--force').status == 0
    assert list(station_list.read_stations(path)) == [8001]


def test_fetch_without_a_url_says_so(run):
    result = run('fetch')

    assert (result.status, 'no url in [Stations]' in result.err) == (1, True)


@pytest.mark.parametrize(
    'arguments',
    [['add', 7, 'A', '--generate'], ['passwd', STATION, '--generate'], ['hash']],
)
def test_list_that_is_fetched_is_not_edited(run, serve, server, path, arguments):
    before = path.read_text()

    result = run(*arguments)

    assert result.status == 1
    assert server.url_for('/list') in result.err
    assert path.read_text() == before
