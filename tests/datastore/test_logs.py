"""A program's log goes where the configuration says, and nowhere else."""

import json
import logging
import os
import re
import stat
import time

import pytest

from datastore.config import ConfigError, read_config
from datastore.logs import open_log

NEW_YEAR_2020 = 1_577_836_800  # s since the epoch, at 00:00 UTC


@pytest.fixture
def logger():
    """A logger that no test before this one has used."""
    logger = logging.getLogger('test_logs')
    yield logger
    close(logger)


def close(logger):
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()


@pytest.fixture
def config(make_config):
    return read_config(make_config())


@pytest.fixture
def log(tmp_path):
    """The log file of a program called `program`."""
    return tmp_path / 'log' / 'hisparc-program'


def test_log_file_is_named_after_the_program(logger, config, log):
    open_log(logger, config, 'program')
    logger.info('station %d: %s', 510, 'détecteur')

    (line,) = log.read_text(encoding='utf-8').splitlines()
    moment = r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}'
    assert re.fullmatch(f'{moment} INFO station 510: détecteur', line)


def test_dash_sends_the_log_to_standard_error(logger, make_config, tmp_path, capsys):
    open_log(logger, read_config(make_config(General={'log': '-'})), 'program')
    logger.info('started')

    out, err = capsys.readouterr()
    assert out == ''
    assert err.endswith(' INFO started\n')
    assert not (tmp_path / 'log').exists()


def test_less_severe_messages_are_not_logged(logger, make_config, log):
    config = read_config(make_config(General={'loglevel': 'warning'}))
    open_log(logger, config, 'program')
    logger.info('one')
    logger.warning('two')

    assert re.findall(r'\w+ \w+$', log.read_text(), re.MULTILINE) == ['WARNING two']


def test_children_of_the_logger_are_logged(logger, config, log):
    open_log(logger, config, 'program')
    logger.getChild('child').info('hello')

    assert 'hello' in log.read_text()


def test_other_logs_of_the_process_hear_nothing(logger, config, caplog):
    open_log(logger, config, 'program')
    logger.error('hello')

    assert caplog.records == []


def test_log_is_appended_to_after_a_restart(logger, config, log):
    for message in ('one', 'two'):
        open_log(logger, config, 'program')
        logger.info(message)
        close(logger)

    assert re.findall(r'\w+$', log.read_text(), re.MULTILINE) == ['one', 'two']


def test_log_that_is_opened_again_closes_the_one_before(logger, config, log, tmp_path):
    open_log(logger, config, 'program')
    (before,) = logger.handlers
    open_log(logger, config, 'other')
    logger.info('hello')

    assert len(logger.handlers) == 1
    assert before.stream is None
    assert log.read_text() == ''
    assert 'hello' in (tmp_path / 'log' / 'hisparc-other').read_text()


def test_directories_of_the_log_are_made_and_closed_to_others(
    logger, make_config, tmp_path
):
    log = tmp_path / 'a' / 'b' / 'hisparc'
    open_log(logger, read_config(make_config(General={'log': log})), 'program')

    for directory in (log.parent, log.parent.parent):
        assert stat.S_IMODE(os.stat(directory).st_mode) & 0o007 == 0


def test_log_rotates_at_midnight_and_is_kept_for_14_days(logger, config, log):
    open_log(logger, config, 'program')
    logger.info('the day before')
    for day in range(1, 21):
        log.with_name(f'{log.name}.2019-12-{day:02}').touch()
    (handler,) = logger.handlers
    assert handler.when == 'MIDNIGHT'

    handler.rolloverAt = NEW_YEAR_2020  # long ago
    logger.info('the day after')

    assert log.read_text().endswith('the day after\n')
    *older, newest = sorted(log.parent.glob('hisparc-program.*'))
    assert newest.read_text().endswith('the day before\n')
    assert len(older) == 13
    assert older[0].name == 'hisparc-program.2019-12-08'


def test_logs_of_processes_that_are_gone_are_removed_after_14_days(logger, config, log):
    days = 86400
    now = time.time()
    ages = {
        'hisparc-wsgi.7': 15,
        'hisparc-wsgi.7.2019-12-08': 15,
        'hisparc-wsgi.8': 13,
        'hisparc-wsgi.9': 15,  # our own
        'hisparc-wsgi.7.gz': 15,
        'hisparc-writer': 15,
        'other-wsgi.7': 15,
    }
    log.parent.mkdir()
    for name, age in ages.items():
        path = log.with_name(name)
        path.touch()
        os.utime(path, (now - age * days, now - age * days))

    open_log(logger, config, 'wsgi.9')

    gone = ages.keys() - {path.name for path in log.parent.iterdir()}
    assert gone == {'hisparc-wsgi.7', 'hisparc-wsgi.7.2019-12-08'}


@pytest.mark.skipif(os.geteuid() == 0, reason='root may list every directory')
def test_directory_that_cannot_be_listed_stops_no_start(logger, config, log):
    log.parent.mkdir()
    log.parent.chmod(0o300)
    try:
        open_log(logger, config, 'wsgi.9')
    finally:
        log.parent.chmod(0o700)

    assert log.with_name('hisparc-wsgi.9').exists()


@pytest.mark.parametrize(
    ('obstruct', 'named'),
    [
        pytest.param(lambda log: log.mkdir(parents=True), '{log}', id='a directory'),
        pytest.param(lambda log: log.parent.touch(), '{log.parent}', id='a file above'),
    ],
)
def test_log_that_cannot_be_opened_is_named_in_one_line(
    logger, config, log, obstruct, named
):
    obstruct(log)

    with pytest.raises(ConfigError) as error_info:
        open_log(logger, config, 'program')

    said = str(error_info.value)
    path = named.format(log=log)
    assert said.startswith(f'{config.path}: log in [General]: {path}: ')
    assert '\n' not in said


def test_log_that_cannot_be_opened_leaves_the_one_before_in_place(
    logger, config, log, tmp_path
):
    open_log(logger, config, 'program')
    (tmp_path / 'log' / 'hisparc-other').mkdir()

    with pytest.raises(ConfigError):
        open_log(logger, config, 'other')
    logger.error('cannot open the other')

    assert 'cannot open the other' in log.read_text()


# What stations send, and what a line is about.

LINE_ENDS = 'a\nb\r\nc\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x1b[31m\0\x7f'


@pytest.fixture
def json_config(make_config):
    return read_config(make_config(General={'log_format': 'json'}))


def test_line_of_text_ends_in_the_uploads_it_is_about(logger, config, log):
    open_log(logger, config, 'program')
    logger.info('one', extra={'upload': '0123abcd', 'station': 510})
    logger.info('two', extra={'uploads': ['0123abcd', '4567cdef']})
    logger.info('none', extra={'upload': None, 'uploads': []})

    one, two, none = log.read_text().splitlines()
    assert one.endswith(' INFO one (upload 0123abcd)')
    assert two.endswith(' INFO two (uploads 0123abcd 4567cdef)')
    assert none.endswith(' INFO none')


@pytest.mark.parametrize('log_format', ['text', 'json'])
def test_nothing_that_is_sent_ends_a_line(logger, make_config, log, log_format):
    config = read_config(make_config(General={'log_format': log_format}))
    open_log(logger, config, 'program')
    logger.warning('station %d: %s', 510, LINE_ENDS, extra={'upload': 'a'})

    (line,) = log.read_text().splitlines()
    assert line.isprintable()
    assert r'a\nb\r\nc' in line


def test_traceback_is_beside_the_upload_and_cannot_be_taken_for_a_line(
    logger, config, log
):
    open_log(logger, config, 'program')
    try:
        raise ValueError('2026-11-21 13:45:01,000 INFO\n2026-11-21 forged \x85')
    except ValueError:
        logger.exception('failed', extra={'upload': '0123abcd'})
        logger.exception('failed')

    first, *lines = log.read_text().splitlines()
    second = next(n for n, line in enumerate(lines) if line.startswith('2'))
    assert first.endswith(' ERROR failed (upload 0123abcd)')
    assert lines[0] == '    0123abcd | Traceback (most recent call last):'
    assert all(line.startswith('    0123abcd | ') for line in lines[:second])
    assert all(line.startswith('    ') for line in lines[second + 1 :])
    assert lines[-1] == r'    2026-11-21 forged \x85'


def test_line_of_json_has_moment_level_program_message_and_fields(
    logger, json_config, log, monkeypatch
):
    monkeypatch.setattr('time.time', lambda: NEW_YEAR_2020 + 0.5)
    monkeypatch.setattr('time.time_ns', lambda: NEW_YEAR_2020 * 10**9 + 5 * 10**8)
    open_log(logger, json_config, 'program')
    logger.info(
        'station %d: %s', 510, 'détecteur', extra={'upload': 'a', 'events': 7, 'x': log}
    )

    assert json.loads(log.read_text()) == {
        'time': '2020-01-01T00:00:00.500Z',
        'level': 'INFO',
        'program': 'program',
        'logger': 'test_logs',
        'message': 'station 510: détecteur',
        'upload': 'a',
        'events': 7,
        'x': str(log),
    }


def test_line_of_json_has_an_exception_as_a_field(logger, json_config, log):
    open_log(logger, json_config, 'program')
    try:
        raise ValueError('a\nb')
    except ValueError:
        logger.exception('failed')

    (line,) = log.read_text().splitlines()
    said = json.loads(line)['exception']
    assert said.startswith('Traceback (most recent call last):\n')
    assert said.endswith('ValueError: a\nb')


def test_lone_surrogates_are_logged(logger, json_config, log):
    open_log(logger, json_config, 'program')
    logger.info('%s', '\ud800')

    assert json.loads(log.read_text())['message'] == '\ud800'
