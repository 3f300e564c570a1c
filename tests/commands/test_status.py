"""`datastore status` on what a real endpoint and a real writer left."""

import io
import json
import os
import pickle
import re
import sys
import time
from datetime import datetime

import pytest
from support import CLUSTER, PASSWORD, STATION

from datastore import cli, nagios
from datastore.event import parse_event
from datastore.series import in_series
from datastore.simulation import Simulation
from datastore.spool import Spool
from datastore.station import form
from datastore.tally import Tally
from writer.writer_app import writer
from wsgi import wsgi_app

LATE, DOWN, NEVER = 502, 503, 504
HOUR = 3600


@pytest.fixture
def stations(tmp_path):
    """List four stations, out of order."""
    lines = [
        f'{number}, {CLUSTER}, {PASSWORD}\n' for number in (STATION, NEVER, LATE, DOWN)
    ]
    (tmp_path / 'station_list.csv').write_text(''.join(lines))


@pytest.fixture
def endpoint(configfile, stations):
    return wsgi_app.do_init(configfile)


def upload(configfile, events):
    body = form(STATION, PASSWORD, pickle.dumps(events, 2))
    environ = {
        'REQUEST_METHOD': 'POST',
        'CONTENT_LENGTH': str(len(body)),
        'wsgi.input': io.BytesIO(body),
        'wsgi.errors': sys.stderr,
    }
    answer = wsgi_app.application(environ, lambda *_: None, configfile)
    assert answer == [b'100']


@pytest.fixture
def archive(configfile, endpoint):
    """One station is up, others are late, down, and were never heard of."""
    events = Simulation(datetime(2020, 5, 17, 9, 30), seed=1).take(60)
    upload(configfile, events)
    good = in_series(map(parse_event, events))
    for station, age in ((LATE, 2 * HOUR), (DOWN, 26 * HOUR)):
        past = time.time() - age
        tally = Tally(endpoint.config.data_dir, endpoint.logger, lambda past=past: past)
        tally.taken(station, 1000, good, 3, 0.1)
    writer(configfile, once=True)


@pytest.fixture
def status(configfile, capsys):
    """Run `datastore status`; return its exit status and what it printed."""

    def status(*arguments, configfile=configfile):
        code = cli.main(['status', *map(str, arguments), '--config', str(configfile)])
        return code, capsys.readouterr().out

    return status


@pytest.fixture
def document(status):
    return lambda *arguments: json.loads(status('--json', *arguments)[1])


def test_silent_stations_stand_first(archive, document):
    stations = document()['stations']

    assert [(station['station'], station['state']) for station in stations] == [
        (NEVER, 'down'),
        (DOWN, 'down'),
        (LATE, 'late'),
        (STATION, 'up'),
    ]
    assert document()['counts'] == {'down': 2, 'late': 1, 'up': 1}


def test_table_has_a_line_for_each_station(archive, status):
    _, printed = status()
    head, table = printed.split('\n\n')

    assert re.search('Spool +0 batches, 0 bytes', head)
    assert re.search(
        'Writer +runs as process [0-9]+; last sweep [0-9]+ s ago; 60 ev', head
    )
    assert re.search('Stations +2 down, 1 late, 1 up', head)
    header, *rows = table.splitlines()
    assert header.split()[:3] == ['station', 'cluster', 'state']
    assert [row.split()[0] for row in rows] == ['504', '503', '502', '510']
    assert re.match(r'504 +Science Park +down +never +- +0 +0 +0 +- +-$', rows[0])
    assert re.match(r'503 +Science Park +down +26 h ago +2020-05-17 ', rows[1])
    assert re.match(r'502 +Science Park +late +2 h ago ', rows[2])
    assert re.match(r'510 +Science Park +up +[0-9]+ s ago +2020-05-17 ', rows[3])


def test_table_of_many_stations_is_readable(make_config, status, tmp_path):
    configfile = make_config()
    lines = [f'{number}, {"x" * 64}, {PASSWORD}\n' for number in range(1, 101)]
    (tmp_path / 'station_list.csv').write_text(''.join(lines))
    endpoint = wsgi_app.do_init(configfile)
    tally = Tally(endpoint.config.data_dir, endpoint.logger)
    for number in range(1, 101):
        for rcode in (201, 203):
            tally.refused(number, rcode, 0.1)
    _, printed = status(configfile=configfile)

    rows = printed.split('\n\n')[1].splitlines()
    assert len(rows) == 101
    assert max(map(len, rows)) < 220
    assert re.search(r'201: 1, last \d+ s ago; 203: 1, last \d+ s ago$', rows[-1])


@pytest.mark.parametrize(
    ('arguments', 'code'),
    [
        ((), 1),
        ((STATION,), 0),
        ((LATE,), 0),
        ((STATION, LATE), 0),
        ((STATION, DOWN), 1),
        ((NEVER,), 1),
        (('--down', STATION), 0),
    ],
)
def test_exit_status_is_1_if_a_station_that_is_asked_for_is_down(
    archive, status, arguments, code
):
    assert status(*arguments)[0] == status('--json', *arguments)[0] == code


def test_exit_status_is_1_if_the_writer_is_silent(archive, status, data_dir):
    os.utime(data_dir / 'status' / 'writer.json', (0, 0))
    code, printed = status(STATION)

    assert code == 1
    assert 'the writer has said nothing for' in printed


def test_exit_status_is_1_if_the_writer_has_never_run(endpoint, status):
    code, printed = status()

    assert code == 1
    assert 'the writer has never run here' in printed


def test_down_leaves_out_the_stations_that_are_up(archive, document):
    numbers = [station['station'] for station in document('--down')['stations']]

    assert numbers == [NEVER, DOWN, LATE]


def test_only_the_stations_that_are_named_are_shown(archive, document):
    numbers = [s['station'] for s in document(STATION, NEVER)['stations']]

    assert numbers == [NEVER, STATION]


def test_thresholds_are_those_of_the_configuration(archive, make_config, status):
    configfile = make_config(Status={'late': '3 hours', 'down': '2 days'})
    (configfile.parent / 'station_list.csv').write_text(f'{LATE}, x, y\n{DOWN}, x, y\n')
    code, printed = status('--json', configfile=configfile)

    states = {s['station']: s['state'] for s in json.loads(printed)['stations']}
    assert states == {LATE: 'up', DOWN: 'late'}
    assert code == 0


def test_what_waits_is_added_up(endpoint, document, data_dir):
    spool = Spool(data_dir)
    before = int(time.time())
    size = sum(
        (data_dir / 'incoming' / spool.put(STATION, bytes(100))).stat().st_size
        for _ in range(3)
    )
    (data_dir / 'incoming' / 'a stranger').write_bytes(b'1234')  # is no batch

    waiting = document()['spool']
    assert (waiting['batches'], waiting['bytes']) == (3, size)
    assert before <= waiting['oldest'] <= waiting['measured']
    assert waiting['oldest_age'] >= 0


def test_what_waits_and_cannot_be_read_is_told(archive, status, document, data_dir):
    assert document()['spool']['unreadable'] == 0
    os.mkfifo(data_dir / 'incoming' / '1-2-0123abcd.segment')

    assert document()['spool']['unreadable'] == 1
    assert '0 batches, 0 bytes; 1 files cannot be read' in status()[1]
    code, printed = status('--nagios', STATION)
    assert code == nagios.CRITICAL
    assert '1 files of the spool cannot be read' in printed


def test_what_is_kept_for_a_person_is_counted(configfile, endpoint, document, data_dir):
    wsgi_app.store_data(STATION, CLUSTER, [{'no': 'event'}])
    (data_dir / 'incoming' / 'a stranger').touch()
    writer(configfile, once=True)

    assert document()['suspicious_files'] == 1
    assert document()['rejected_files'] == 1
    assert document()['writer']['sweep']['rejected'] == 1


def test_events_of_yesterday_are_not_of_today(archive, document):
    (station,) = document(DOWN)['stations']

    assert station['events_today'] == {}
    assert sum(station['events'].values()) == 60
    assert station['suspicious'] == 3


def test_station_that_is_not_listed_is_an_error_of_one_line(
    archive, configfile, capsys
):
    assert cli.main(['status', '999', '--config', str(configfile)]) == 1

    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert 'station 999 is not in' in said


def test_directory_that_nothing_has_run_on_is_an_error_of_one_line(
    configfile, capsys, data_dir
):
    assert cli.main(['status', '--config', str(configfile)]) == 1

    said = capsys.readouterr().err
    assert said.count('\n') == 1
    assert str(data_dir) in said
    assert not data_dir.exists()


# Nagios.


FIGURES = r' \| batches=0 bytes=0B oldest=0s free=[0-9]+B late=([0-9]+) down=([0-9]+)\n'


@pytest.mark.parametrize(
    ('arguments', 'code', 'told', 'figures'),
    [
        ((STATION,), 0, 'OK - 1 up; the writer is well', ('0', '0')),
        ((STATION, LATE), 1, 'WARNING - 1 late: 502', ('1', '0')),
        ((), 2, 'CRITICAL - 2 down: 504, 503; 1 late: 502', ('1', '2')),
    ],
    ids=['well', 'late', 'down'],
)
def test_line_for_nagios(archive, status, arguments, code, told, figures):
    found, printed = status('--nagios', *arguments)

    assert found == code
    match = re.fullmatch(re.escape(f'DATASTORE {told}') + FIGURES, printed)
    assert match
    assert match.groups() == figures


def test_line_for_nagios_names_some_of_many_stations(make_config, status, tmp_path):
    configfile = make_config()
    lines = [f'{number}, {CLUSTER}, {PASSWORD}\n' for number in range(1, 101)]
    (tmp_path / 'station_list.csv').write_text(''.join(lines))
    wsgi_app.do_init(configfile)
    code, printed = status('--nagios', configfile=configfile)

    assert code == 2
    assert 'writer: ' in printed  # there never was one
    assert '; 100 down: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 90 more |' in printed
    assert printed.count('\n') == printed.count('|') == 1


def test_disk_that_holds_uploads_back_is_critical(archive, make_config, status):
    configfile = make_config(General={'min_free_space': '1024 TiB'})

    code, printed = status('--nagios', STATION, configfile=configfile)

    assert code == 2
    assert re.match(r'DATASTORE CRITICAL - uploads are held back: .* free \| ', printed)


@pytest.mark.parametrize('arguments', [(9999,), ()], ids=['station', 'configuration'])
def test_what_cannot_be_told_is_unknown(archive, status, tmp_path, arguments):
    options = {} if arguments else {'configfile': tmp_path / 'missing.ini'}

    code, printed = status('--nagios', *arguments, **options)

    assert code == 3
    assert re.fullmatch(r'DATASTORE UNKNOWN - \S.*\n', printed)


@pytest.mark.parametrize('other', ['--json', '--down'])
def test_line_for_nagios_is_all_that_is_printed(archive, status, other):
    with pytest.raises(SystemExit) as exit:
        status('--nagios', other)

    assert exit.value.code == 2


def test_bar_in_a_message_starts_no_figures():
    line = nagios.line(nagios.CRITICAL, 'writer: a|b\nc')

    assert line == 'DATASTORE CRITICAL - writer: a/b c'
