"""The client uploads as stations do, and keeps trying as they do."""

import hashlib
import itertools
import logging
import pickle
import socket
import sys
import threading
from datetime import datetime, timedelta
from urllib.parse import parse_qs

import pytest
from werkzeug import Response

from datastore import station
from datastore.station import GaveUp, Station, form, main, pickle_events

NOW = datetime(2024, 5, 3, 12)
NOT_ASCII = b'\x80\x02]q\x00(X\x02\x00\x00\x00\xc3\xa9\xff\r\n&=+%e.'


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')


class Datastore:
    """Answers with what it was told to, the last for ever, and keeps the bodies."""

    def __init__(self, url):
        self.url = url
        self.answers = ['100']
        self.bodies = []

    def receive(self, request):
        assert request.method == 'POST'
        assert request.content_type == 'application/x-www-form-urlencoded'
        self.bodies.append(request.get_data())
        answer = self.answers[min(len(self.bodies), len(self.answers)) - 1]
        if isinstance(answer, int):
            return Response('100', answer)
        return Response(answer, content_type='text/plain')

    @property
    def uploads(self):
        return [fields_of(body) for body in self.bodies]

    @property
    def pickles(self):
        return [upload['data'].encode('latin-1') for upload in self.uploads]

    @property
    def batches(self):
        return [pickle.loads(pickled) for pickled in self.pickles]


def fields_of(body):
    fields = parse_qs(body.decode('ascii'), strict_parsing=True, encoding='utf-8')
    assert all(len(values) == 1 for values in fields.values())
    return {name: value for name, (value,) in fields.items()}


@pytest.fixture
def datastore(httpserver):
    server = Datastore(httpserver.url_for('/hisparc/upload'))
    httpserver.expect_request('/hisparc/upload').respond_with_handler(server.receive)
    yield server
    httpserver.check_assertions()


class Clock:
    """A clock that only sleeping moves, interrupted when it has slept enough."""

    def __init__(self, interrupt_after=None):
        self.now = NOW
        self.slept = []
        self.interrupt_after = interrupt_after

    def sleep(self, seconds):
        if len(self.slept) == self.interrupt_after:
            raise KeyboardInterrupt
        assert len(self.slept) < 100, 'the client tries for ever'
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def logged(caplog):
    """Return a function that returns what the client has logged, one text a record."""
    caplog.set_level(logging.DEBUG, logger='datastore')

    def messages():
        records = [r for r in caplog.records if r.name.startswith('datastore')]
        return [record.getMessage() for record in records]

    return messages


@pytest.fixture
def make_station(datastore, clock):
    def make(url=datastore.url, **options):
        return Station(url, 510, 'sécret&', sleep=clock.sleep, **options)

    return make


@pytest.fixture
def run(datastore):
    """Run the command line against the datastore and return its exit code."""

    def run(*arguments, clock=None):
        clock = clock or Clock()
        where = ['--url', datastore.url, '--station', '510', '--password', 'secret']
        return main([*where, *arguments], sleep=clock.sleep, now=lambda: clock.now)

    return run


EVENTS = [{'header': {'eventtype_uploadcode': 'ERR', 'datetime': NOW}, 'datalist': []}]


def test_form_holds_station_password_data_and_checksum():
    fields = fields_of(form(510, 'sécret&', NOT_ASCII))

    assert fields == {
        'station_id': '510',
        'password': 'sécret&',
        'data': NOT_ASCII.decode('latin-1'),
        'checksum': hashlib.md5(NOT_ASCII).hexdigest(),
    }


def test_data_is_sent_as_utf_8_of_the_latin_1_text():
    assert b'data=%C2%80%02' in form(510, '', b'\x80\x02')


def test_events_are_uploaded_pickled_and_the_checksum_is_of_the_pickle(
    make_station, datastore
):
    assert make_station().upload(EVENTS) == 1

    assert datastore.batches == [EVENTS]
    checksum = hashlib.md5(pickle_events(EVENTS)).hexdigest()
    assert datastore.uploads[0]['checksum'] == checksum
    assert datastore.pickles[0][:2] == b'\x80\x02'


def test_pickle_is_uploaded_byte_for_byte(make_station, datastore):
    make_station().upload_pickle(NOT_ASCII)

    assert datastore.pickles == [NOT_ASCII]


def test_waits_double_up_to_a_minute_until_100_is_answered(
    make_station, datastore, clock
):
    datastore.answers = [*['205'] * 8, '100']

    assert make_station().upload(EVENTS) == 9

    assert clock.slept == [2, 4, 8, 16, 32, 60, 60, 60]
    assert datastore.bodies == [datastore.bodies[0]] * 9


def test_waits_start_anew_after_a_success(make_station, datastore, clock):
    datastore.answers = ['205', '205', '100', '205', '100']
    uploader = make_station()

    assert [uploader.upload(EVENTS), uploader.upload(EVENTS)] == [3, 2]

    assert clock.slept == [2, 4, 2]


@pytest.mark.parametrize(
    'answer',
    ['100\n', ' 100', '1000', '10', '', '100, OK', '<html>100</html>', '200'],
    ids=repr,
)
def test_what_is_not_exactly_100_is_not_100(make_station, datastore, clock, answer):
    datastore.answers = [answer, '100']

    assert make_station().upload(EVENTS) == 2
    assert clock.slept == [2]


@pytest.mark.parametrize('status', [403, 404, 413, 500, 502, 503])
def test_100_with_an_http_error_is_not_100(make_station, datastore, logged, status):
    datastore.answers = [status, '100']

    assert make_station().upload(EVENTS) == 2
    assert f'HTTP status {status}' in '\n'.join(logged())


@pytest.mark.parametrize(
    ('code', 'meaning'),
    [
        ('201', 'checksum'),
        ('203', 'wrong password'),
        ('205', 'try later'),
        ('206', 'unknown station'),
        ('208', 'not an event list'),
        ('400', 'invalid POST data'),
        ('999', 'not an answer of a datastore'),
        ('100\n', r"b'100\n'"),
    ],
)
def test_failure_is_logged_in_one_line_with_code_and_meaning(
    make_station, datastore, logged, code, meaning
):
    datastore.answers = [code, '100']
    make_station().upload(EVENTS)

    (message,) = logged()
    assert message.startswith('Station 510: upload failed: answered')
    assert code.strip() in message and meaning in message
    assert 'try 2 follows in 2 s' in message
    assert '\n' not in message


def test_long_answer_is_logged_shortened_and_in_one_line(
    make_station, datastore, logged
):
    datastore.answers = ['<html>\n' * 1000, '100']
    make_station().upload(EVENTS)

    (message,) = logged()
    assert len(message) < 200 and '\n' not in message


def test_password_and_data_are_never_logged(make_station, datastore, logged):
    datastore.answers = ['203', 500, '100']
    make_station().upload(EVENTS)

    assert 'cret' not in '\n'.join(logged())
    assert 'datalist' not in '\n'.join(logged())


@pytest.fixture
def answering_socket():
    """Return a function that serves one connection with the bytes given."""
    threads = []
    listener = socket.create_server(('127.0.0.1', 0))
    listener.settimeout(5)

    def serve(answer):
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    def start(answer):
        threads.append(threading.Thread(target=serve, args=(answer,)))
        threads[-1].start()
        return f'http://127.0.0.1:{listener.getsockname()[1]}/'

    yield start
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize(
    'answer',
    [
        pytest.param(b'', id='none'),
        pytest.param(b'100', id='not HTTP'),
        pytest.param(
            b'HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n100', id='cut short'
        ),
        pytest.param(
            b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n100',
            id='chunk without an end',
        ),
    ],
)
def test_broken_answer_is_not_100(make_station, answering_socket, answer):
    url = answering_socket(answer)

    with pytest.raises(GaveUp):
        make_station(url, tries=1).upload(EVENTS)


def test_refused_connection_is_tried_again(make_station, logged, clock):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(GaveUp):
        make_station(f'http://127.0.0.1:{port}/', tries=2).upload(EVENTS)

    assert clock.slept == [2]
    assert 'refused' in logged()[0]


def test_silent_datastore_times_out(make_station, logged):
    # Connections are made, but nothing ever accepts or answers them.
    with socket.create_server(('127.0.0.1', 0)) as listener, pytest.raises(GaveUp):
        url = f'http://127.0.0.1:{listener.getsockname()[1]}/'
        make_station(url, tries=1, timeout=0.01).upload(EVENTS)

    assert 'timed out' in '\n'.join(logged())


def test_batch_is_given_up_after_the_tries_allowed(
    make_station, datastore, clock, logged
):
    datastore.answers = ['203']

    with pytest.raises(GaveUp):
        make_station(tries=3).upload(EVENTS)

    assert len(datastore.bodies) == 3
    assert clock.slept == [2, 4]
    assert logged()[-1].endswith('gave up after 3 tries')


BAD_URLS = [
    pytest.param('localhost:8000', id='no scheme'),
    pytest.param('file:///etc/hostname', id='a file'),
    pytest.param('http://', id='no host'),
    pytest.param('http://localhost:http/', id='port that is no number'),
    pytest.param('http://local..host/', id='empty label'),
    pytest.param('http://a:b@localhost/', id='password'),
    pytest.param('http://localhost/a b', id='space'),
    pytest.param('http://localhost/\n', id='line feed'),
]


@pytest.mark.parametrize('url', BAD_URLS)
def test_url_that_cannot_be_posted_to_raises_value_error(url):
    with pytest.raises(ValueError):
        Station(url, 510, 'secret')


def test_command_uploads_batches_of_distinct_events_ending_now(run, datastore, capsys):
    assert run('--events', '20', '--batches', '3', '--seed', '1') == 0

    assert [len(batch) for batch in datastore.batches] == [20, 20, 20]
    events = [event for batch in datastore.batches for event in batch]
    assert not [a for a, b in itertools.combinations(events, 2) if a == b]
    last = events[-1]['header']['datetime']
    assert NOW - timedelta(seconds=2) < last <= NOW


def test_command_uploads_one_batch_of_a_hundred_by_default(run, datastore):
    assert run() == 0

    assert [len(batch) for batch in datastore.batches] == [100]
    assert datastore.uploads[0]['station_id'] == '510'
    assert datastore.uploads[0]['password'] == 'secret'


def test_summary_is_one_line_with_batches_events_types_and_bytes(
    run, datastore, capsys
):
    run('--events', '50', '--batches', '2')

    summary, rest = capsys.readouterr().out.split('\n')
    assert rest == ''
    types = [e['header']['eventtype_uploadcode'] for b in datastore.batches for e in b]
    size = sum(map(len, datastore.pickles))
    assert summary == (
        f'Station 510 uploaded 2 batches, 100 events (1 CFG, {types.count("CIC")} CIC, '
        f'{types.count("SIN")} SIN, {types.count("WTR")} WTR), {size:,} bytes'
    )


def test_same_seed_uploads_the_same_bytes(run, datastore):
    run('--seed', '7', '--detectors', '2')
    run('--seed', '7', '--detectors', '2')
    run('--seed', '8', '--detectors', '2')

    first, again, other = datastore.pickles
    assert first == again != other


def test_number_of_detectors_is_that_asked_for(run, datastore):
    run('--detectors', '2')

    codes = {v['data_uploadcode'] for e in datastore.batches[0] for v in e['datalist']}
    assert {'TR1', 'TR2'} <= codes and not {'TR3', 'TR4'} & codes


def test_recorded_file_is_uploaded_byte_for_byte_as_often_as_asked(
    run, datastore, tmp_path, capsys
):
    recorded = tmp_path / 'recorded'
    recorded.write_bytes(NOT_ASCII)

    assert run('--file', str(recorded), '--batches', '2') == 0

    assert datastore.pickles == [NOT_ASCII, NOT_ASCII]
    assert capsys.readouterr().out == (
        f'Station 510 uploaded 2 batches, {2 * len(NOT_ASCII)} bytes\n'
    )


def test_command_follows_until_interrupted_and_closes_with_one_line(
    run, datastore, capsys
):
    clock = Clock(interrupt_after=6)

    assert run('--events', '20', '--follow', '--seed', '1', clock=clock) == 0

    assert clock.slept == [station.FOLLOW_INTERVAL] * 6
    history, *followed = datastore.batches
    assert len(history) == 20
    since = [event['header']['datetime'] for batch in followed for event in batch]
    passed = len(clock.slept) * station.FOLLOW_INTERVAL
    assert since[0] >= NOW and since[-1] <= clock.now
    assert 0.5 * passed < len(since) < 2 * passed
    assert since == sorted(since)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f'Station 510 uploaded {len(followed) + 1} batches, ')


def test_events_of_a_long_failure_follow_in_batches_of_the_usual_size(run, datastore):
    datastore.answers = ['100', *['205'] * 8, '100']

    run('--events', '20', '--follow', clock=Clock(interrupt_after=10))

    # One that failed for four minutes, then what those four minutes brought.
    sizes = [len(batch) for batch in datastore.batches[9:]]
    assert len(sizes) > 8
    assert max(sizes) == 20
    assert sum(sizes[1:]) > 150


def test_interrupted_retry_exits_with_130_and_says_what_was_uploaded(
    run, datastore, capsys
):
    datastore.answers = ['100', '205']

    assert run('--batches', '3', clock=Clock(interrupt_after=4)) == 130

    assert capsys.readouterr().out.startswith('Station 510 uploaded 1 batch, 100 ')


def test_too_many_tries_exit_with_1_and_say_what_was_uploaded(run, datastore, capsys):
    datastore.answers = ['206']

    assert run('--tries', '2') == 1

    assert len(datastore.bodies) == 2
    assert capsys.readouterr().out == 'Station 510 uploaded 0 batches, 0 bytes\n'


def test_summary_tells_of_further_tries(run, datastore, capsys):
    datastore.answers = ['205', '100']
    run()

    assert capsys.readouterr().out.endswith(' bytes, 2 tries\n')


@pytest.mark.parametrize(
    ('terminal', 'batches', 'shown'),
    [(True, '3', True), (True, '1', False), (False, '3', False)],
    ids=['terminal', 'one batch', 'no terminal'],
)
def test_progress_is_shown_for_several_batches_on_a_terminal(
    run, capsys, monkeypatch, terminal, batches, shown
):
    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)

    run('--batches', batches, '--events', '5')

    assert ('3/3' in capsys.readouterr().err) == shown


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        pytest.param(['--events', '0'], '--events', id='no events'),
        pytest.param(['--events', 'many'], '--events', id='events not a number'),
        pytest.param(['--batches', '-1'], '--batches', id='negative batches'),
        pytest.param(['--detectors', '3'], '--detectors', id='three detectors'),
        pytest.param(['--timeout', '0'], '--timeout', id='no time'),
        pytest.param(['--timeout', 'nan'], '--timeout', id='time not a number'),
        pytest.param(['--tries', '0'], '--tries', id='no tries'),
        pytest.param(['--seed', '-1'], '--seed', id='negative seed'),
        pytest.param(['--station', 'x'], '--station', id='station not a number'),
        pytest.param(['--url', 'ftp://localhost/'], '--url', id='url'),
        pytest.param(['--file', '/no/such/file'], '/no/such/file', id='no such file'),
        pytest.param(
            ['--file', __file__, '--follow'], '--follow', id='file and follow'
        ),
        pytest.param(
            ['--file', __file__, '--events', '1'], '--events', id='file, events'
        ),
        pytest.param(['--file', __file__, '--seed', '0'], '--seed', id='file and seed'),
        pytest.param(['--fast'], '--fast', id='unknown argument'),
    ],
)
def test_bad_argument_exits_with_2_and_one_line_that_names_it(
    run, datastore, capsys, arguments, complaint
):
    with pytest.raises(SystemExit) as exit_info:
        run(*arguments)

    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line
    assert datastore.bodies == []


def test_missing_arguments_exit_with_2_and_one_line_that_names_them(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([])

    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert '--url, --station, --password' in line


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(['--help'])

    assert exit_info.value.code == 0
    shown = capsys.readouterr().out
    options = 'url station password events batches follow file seed detectors tries'
    for option in options.split():
        assert f'--{option}' in shown
