"""The ini file becomes a `Config`, or one line that says what is wrong with it."""

import dataclasses
import logging
import re
from datetime import date, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from support import PROJECT

from datastore.config import Config, ConfigError, read_config

GENERAL = """\
[General]
log = log/hisparc
station_list = station_list.csv
data_dir = data
"""


@pytest.fixture
def ini(tmp_path):
    """The ini file, which nothing is written to yet."""
    return tmp_path / 'config.ini'


@pytest.fixture
def read(ini):
    """Write the ini file and read it."""

    def read(text):
        ini.write_text(text, encoding='utf-8')
        return read_config(ini)

    return read


@pytest.fixture
def complaint(read):
    """Write an ini file that cannot be used and return what is said about it."""

    def complaint(text):
        with pytest.raises(ConfigError) as error_info:
            read(text)
        return str(error_info.value)

    return complaint


def without(key):
    return re.sub(rf'^{key} = .*\n', '', GENERAL, flags=re.MULTILINE)


def replaced(key, text):
    return re.sub(rf'^{key} = .*$', f'{key} = {text}', GENERAL, flags=re.MULTILINE)


def test_log_station_list_and_data_dir_are_all_that_is_needed(read, ini, tmp_path):
    assert read(GENERAL) == Config(
        path=ini,
        log=str(tmp_path / 'log/hisparc'),
        loglevel=logging.INFO,
        log_format='text',
        station_list=tmp_path / 'station_list.csv',
        data_dir=tmp_path / 'data',
        max_upload=16 * 1024 * 1024,
        min_free_space=1024 * 1024 * 1024,
        max_spool_size=None,
        url=None,
        interval=300.0,
        timeout=30.0,
        ca_file=None,
        sleep=60.0,
        earliest=date(2020, 1, 1),
        future_tolerance=timedelta(days=1),
        per_station_metrics=False,
        late=timedelta(hours=1),
        down=timedelta(days=1),
        allow=(ip_network('127.0.0.0/8'), ip_network('::1/128')),
    )


def test_every_key_is_read_from_its_section(read, tmp_path):
    config = read(
        GENERAL
        + """
loglevel = warning
log_format = json
max_upload = 1234
min_free_space = 5 GiB
max_spool_size = 7

[Stations]
url = https://example.org/list
interval = 1 hour
timeout = 5
ca_file = ca.pem

[Writer]
sleep = 2.5

[Suspicion]
earliest = 2016-02-29
future_tolerance = 90

[Status]
per_station_metrics = yes
late = 5 min
down = 2 hours
allow = 192.0.2.0/24, 2001:db8::/32,10.1.2.3
"""
    )

    assert config.loglevel == logging.WARNING
    assert config.log_format == 'json'
    assert config.max_upload == 1234
    assert config.min_free_space == 5 * 2**30
    assert config.max_spool_size == 7
    assert config.url == 'https://example.org/list'
    assert config.interval == 3600
    assert config.timeout == 5
    assert config.ca_file == tmp_path / 'ca.pem'
    assert config.sleep == 2.5
    assert config.earliest == date(2016, 2, 29)
    assert config.future_tolerance == timedelta(seconds=90)
    assert (config.late, config.down) == (timedelta(minutes=5), timedelta(hours=2))
    assert [str(network) for network in config.allow] == [
        '192.0.2.0/24',
        '2001:db8::/32',
        '10.1.2.3/32',
    ]
    assert config.per_station_metrics is True


@pytest.mark.parametrize('text', ['off', 'Off'])
def test_status_pages_can_be_for_nobody(read, text):
    assert read(f'{GENERAL}[Status]\nallow = {text}\n').allow == ()


def test_late_comes_before_down(complaint):
    said = complaint(f'{GENERAL}[Status]\nlate = 2 days\n')

    assert said.endswith('late in [Status] is longer than down')


def test_configuration_does_not_change(read):
    config = read(GENERAL)

    with pytest.raises(dataclasses.FrozenInstanceError):
        config.sleep = 1


@pytest.mark.parametrize('name', ['config.ini', 'etc/config.ini'])
def test_relative_paths_start_from_the_directory_of_the_ini_file(
    tmp_path, monkeypatch, name
):
    ini = tmp_path / name
    ini.parent.mkdir(exist_ok=True)
    ini.write_text(GENERAL)
    monkeypatch.chdir(tmp_path)

    config = read_config(name)
    monkeypatch.chdir('/')

    assert config.path == ini
    assert config.data_dir == ini.parent / 'data'
    assert config.station_list == ini.parent / 'station_list.csv'
    assert config.log == str(ini.parent / 'log/hisparc')


def test_absolute_paths_and_those_of_the_home_directory_stay_where_they_are(
    read, monkeypatch
):
    monkeypatch.setenv('HOME', '/home/operator')

    config = read(
        '[General]\nlog = /var/log/a b\ndata_dir = /data\nstation_list = ~/list.csv\n'
    )

    assert config.log == '/var/log/a b'
    assert config.data_dir == Path('/data')
    assert config.station_list == Path('/home/operator/list.csv')


def test_dash_as_log_is_not_a_path(read):
    assert read(replaced('log', '-')).log == '-'


@pytest.mark.parametrize(
    'text', ['100%', '%d', '%(log)s', '%%', '$', '$$', '$HOME', '${}', '${a-b}', '${a']
)
def test_percent_and_dollar_signs_stand_for_themselves(read, tmp_path, text):
    assert read(replaced('data_dir', text)).data_dir == tmp_path / text


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('${DISK}/data', '/srv/1/data'),
        ('/mnt${DISK}${DISK}', '/mnt/srv/1/srv/1'),
        ('/$${DISK}', '/${DISK}'),
        ('/$$${DISK}', '/$${DISK}'),
        ('/100%${DISK}', '/100%/srv/1'),
    ],
)
def test_name_in_braces_is_an_environment_variable(read, monkeypatch, text, value):
    monkeypatch.setenv('DISK', '/srv/1')

    assert read(replaced('data_dir', text)).data_dir == Path(value)


def test_what_an_environment_variable_holds_is_not_expanded_again(read, monkeypatch):
    monkeypatch.setenv('DISK', '/${HOME}')

    assert read(replaced('data_dir', '${DISK}')).data_dir == Path('/${HOME}')


def test_variable_that_is_not_set_is_named_with_its_key(complaint, ini, monkeypatch):
    monkeypatch.delenv('DISK', raising=False)

    assert complaint(replaced('data_dir', '/mnt/${DISK}')) == (
        f'{ini}: data_dir in [General]: environment variable DISK is not set'
    )


@pytest.mark.parametrize('held', ['', 'a\nb'], ids=['empty', 'two lines'])
def test_variable_that_no_key_could_hold_is_named(complaint, monkeypatch, held):
    monkeypatch.setenv('DISK', held)

    assert 'environment variable DISK is empty, or' in complaint(
        replaced('data_dir', '/mnt/${DISK}')
    )


def test_value_of_a_variable_is_not_quoted(complaint, monkeypatch):
    monkeypatch.setenv('SLEEP', 'a secret')

    said = complaint(GENERAL + '[Writer]\nsleep = ${SLEEP}\n')

    assert "sleep in [Writer]: '${SLEEP}' is not" in said
    assert 'a secret' not in said


def test_file_is_utf_8(read, tmp_path):
    assert read(replaced('data_dir', 'détecteur')).data_dir == tmp_path / 'détecteur'


def test_comments_may_hold_quotes_and_equal_signs(read):
    comment = '# don\'t "quote = this\n; nor [this\n'

    assert read(comment + GENERAL + comment) == read(GENERAL)


def test_values_may_hold_equal_signs_and_what_starts_a_comment(read, tmp_path):
    config = read(replaced('data_dir', 'a=b: #c ;d'))

    assert config.data_dir == tmp_path / 'a=b: #c ;d'


@pytest.mark.parametrize(
    ('text', 'size'),
    [
        ('1', 1),
        ('1 B', 1),
        ('1.5KiB', 1536),
        ('16 MiB', 16 * 2**20),
        ('0.5 GiB', 2**29),
        ('2  TiB', 2**41),
        ('1.9', 1),
        ('3.', 3),
    ],
)
@pytest.mark.parametrize('key', ['max_upload', 'min_free_space', 'max_spool_size'])
def test_sizes_have_units_of_1024(read, key, text, size):
    config = read(f'{GENERAL}{key} = {text}\n')

    assert getattr(config, key) == size
    assert type(getattr(config, key)) is int


@pytest.mark.parametrize('key', ['min_free_space', 'max_spool_size'])
def test_limits_of_the_disk_can_be_off(read, key):
    assert getattr(read(f'{GENERAL}{key} = off\n'), key) is None


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [
        ('10', 10),
        ('0.25', 0.25),
        ('0.25 s', 0.25),
        ('2 min', 120),
        ('2 mins', 120),
        ('1.5hour', 5400),
        ('2 hours', 7200),
        ('1 day', 86400),
        ('0.5 days', 43200),
    ],
)
def test_durations_have_units_in_the_singular_or_the_plural(read, text, seconds):
    config = read(
        f'{GENERAL}[Writer]\nsleep = {text}\n[Suspicion]\nfuture_tolerance = {text}\n'
    )

    assert config.sleep == seconds
    assert config.future_tolerance == timedelta(seconds=seconds)


@pytest.mark.parametrize('name', ['debug', 'Info', 'WARNING', 'error', 'critical'])
def test_loglevels_are_those_of_logging_in_any_case(read, name):
    config = read(f'{GENERAL}loglevel = {name}\n')

    assert config.loglevel == getattr(logging, name.upper())


@pytest.mark.parametrize('key', ['log', 'station_list', 'data_dir'])
@pytest.mark.parametrize(
    'rest', [without, lambda key: replaced(key, '')], ids=['missing', 'empty']
)
def test_key_without_a_default_that_is_missing_or_empty_is_named(
    complaint, ini, key, rest
):
    said = complaint(rest(key))

    assert said.startswith(f'{ini}: ')
    assert key in said.removeprefix(f'{ini}: ').split()[:2]
    assert '[General]' in said
    assert '\n' not in said


@pytest.mark.parametrize(
    ('text', 'named'),
    [
        pytest.param('', 'key log is missing in [General]', id='empty file'),
        pytest.param('[Writer]\n', 'log is missing in [General]', id='no General'),
        pytest.param(f'{GENERAL}[Extra]\na = 1\n', '[Extra]', id='unknown section'),
        pytest.param(f'{GENERAL}[writer]\n', '[writer]', id='section in lower case'),
        pytest.param(f'{GENERAL}[DEFAULT]\nsleep = 1\n', '[DEFAULT]', id='DEFAULT'),
        pytest.param(f'{GENERAL}speed = 1\n', 'speed in [General]', id='unknown key'),
        pytest.param(f'{GENERAL}Log = -\n', 'Log in [General]', id='key in upper case'),
        pytest.param(f'{GENERAL}sleep = 1\n', 'sleep in [General]', id='other section'),
        pytest.param(f'{GENERAL}path = x\n', 'path in [General]', id='not a key'),
        pytest.param(f'{GENERAL}log = -\n', "5]: option 'log'", id='key twice'),
        pytest.param(f'{GENERAL}[General]\n', "5]: section 'General'", id='twice'),
        pytest.param(f'{GENERAL}sleep\n', "5]: 'sleep", id='no equal sign'),
        pytest.param(f'sleep = 1\n{GENERAL}', 'line: 1', id='key before a section'),
    ],
)
def test_mistake_of_form_is_named_in_one_line(complaint, ini, text, named):
    said = complaint(text)

    assert said.startswith(f'{ini}: ')
    assert named in said
    assert '\n' not in said


MISTAKEN_VALUES = {
    ('General', 'loglevel'): 'loud|10|notset|Level 10|',
    ('General', 'log_format'): 'xml|JSON|',
    ('General', 'max_upload'): '0|0.5|-1|+1|1e6|16 MB|16 mib|1 GiBs|1 2|MiB|off|',
    ('General', 'min_free_space'): '0|none|10 %|',
    ('General', 'max_spool_size'): '0|none|-1|',
    ('Stations', 'url'): 'list.csv|//a/b|ftp://a/b|https://|file:///x|http://a.nl/b|'
    'http://127.0.0.1.nl/|https://a:b/|https://[/|https://a/b c|https://a/\xe9|',
    ('Stations', 'interval'): '0|2 days|1 week|',
    ('Stations', 'timeout'): '0|-1|2 days|',
    ('Writer', 'sleep'): '0|0.0 s|-1|nan|inf|1,5|1 week|1 ms|1 Min|ten|',
    ('Suspicion', 'earliest'): '2020|2020-1-1|2020-02-30|01-01-2020|2020-01-01T00:00|',
    ('Suspicion', 'future_tolerance'): '0|-1 day|1 fortnight|99999999999999|',
    ('Status', 'per_station_metrics'): 'maybe|1|',
    ('Status', 'late'): '0|-1|2 years|366 days|',
    ('Status', 'down'): '0|-1|2 years|366 days|',
    ('Status', 'allow'): 'all|localhost|10.0.0.1/8|10.0.0.0/33|::1,|none|10.0.0.0 ::1|',
}


@pytest.mark.parametrize(
    ('section', 'key', 'text'),
    [
        pytest.param(section, key, text, id=f'{key}={text}')
        for (section, key), texts in MISTAKEN_VALUES.items()
        for text in texts.split('|')
    ],
)
def test_mistaken_value_is_quoted_beside_its_key(complaint, ini, section, key, text):
    header = '' if section == 'General' else f'[{section}]\n'

    said = complaint(f'{GENERAL}{header}{key} = {text}\n')

    assert said.startswith(f'{ini}: {key} in [{section}]: {text!r} is ')
    assert '\n' not in said


@pytest.mark.parametrize(
    'url',
    ['http://127.0.0.1:80/a', 'http://localhost/', 'http://[::1]:8/', 'https://a.nl'],
)
def test_url_is_of_https_or_of_this_machine(read, url):
    assert read(f'{GENERAL}[Stations]\nurl = {url}\n').url == url


@pytest.mark.parametrize(
    ('url', 'shown'),
    [
        ('http://user:hush@a.nl/b?k=hush', "'http://a.nl/b?...' is not safe"),
        ('https://user:hush@a.nl:port/', "'https://a.nl:port/' is not a URL"),
    ],
)
def test_password_of_a_url_that_cannot_be_used_is_not_told(complaint, url, shown):
    said = complaint(f'{GENERAL}[Stations]\nurl = {url}\n')

    assert shown in said
    assert 'hush' not in said


def test_station_list_may_be_off_and_authorities_those_of_the_system(read):
    config = read(f'{GENERAL}[Stations]\nurl = off\nca_file = system\n')

    assert (config.url, config.ca_file) == (None, None)


@pytest.mark.parametrize(
    ('key', 'units'),
    [('max_upload', 'B, KiB, MiB, GiB, TiB'), ('sleep', 's, min, hour, day')],
)
def test_unknown_unit_is_answered_with_those_that_are_known(complaint, key, units):
    header = '[Writer]\n' if key == 'sleep' else ''

    assert f'({units})' in complaint(f'{GENERAL}{header}{key} = 1 parsec\n')


@pytest.mark.parametrize(
    'make',
    [
        pytest.param(lambda ini: None, id='no such file'),
        pytest.param(Path.mkdir, id='a directory'),
        pytest.param(lambda ini: ini.write_bytes(b'[G\xe9n\xe9ral]\n'), id='latin-1'),
    ],
)
def test_file_that_cannot_be_read_is_named_in_one_line(ini, make):
    make(ini)

    with pytest.raises(ConfigError) as error_info:
        read_config(ini)

    assert re.fullmatch(rf'{re.escape(str(ini))}: .+', str(error_info.value))


def test_example_names_every_key_and_comments_out_defaults(read, ini):
    example = (PROJECT / 'examples' / 'config.ini').read_text(encoding='utf-8')
    commented_out = r'^#(\w+ = )'

    config = read(re.sub(commented_out, r'\1', example, flags=re.MULTILINE))

    assert config == read(example)
    keys = {field.name for field in dataclasses.fields(Config)} - {'path'}
    assert set(re.findall(r'^#?(\w+) = ', example, re.MULTILINE)) == keys


def test_indented_key_is_not_part_of_the_value_above(complaint):
    assert 'data_dir' in complaint(GENERAL + '  max_upload = 5\n')
