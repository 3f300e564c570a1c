"""A program's log goes where the configuration says, and nowhere else."""

import logging
import os
import re
import stat

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
