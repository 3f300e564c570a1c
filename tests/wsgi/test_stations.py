"""The station list says who may upload, and every mistake in it is found at start."""

import re

import pytest

from datastore.config import ConfigError
from wsgi.rcodes import UnknownStation, WrongPassword
from wsgi.stations import Station, read_station_list


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'station_list.csv'


@pytest.fixture
def read(path):
    """Write a station list and read it."""

    def read(content):
        if isinstance(content, str):
            content = content.encode('utf-8')
        path.write_bytes(content)
        return read_station_list(path)

    return read


# A list.


def test_station_is_its_number_cluster_and_password(read):
    stations = read('501, Science Park, change-me\n')

    station = stations.authenticate(501, b'change-me')

    assert station == Station(501, 'Science Park', 'change-me')


def test_list_is_as_long_as_it_has_stations(read):
    assert len(read('501, A, x\n502, A, y\n601, B, x\n')) == 3


def test_empty_list_has_no_stations(read):
    assert len(read('')) == 0


@pytest.mark.parametrize(
    'line',
    [
        pytest.param('501,A B,x', id='no spaces'),
        pytest.param('  501 ,  A B ,\tx  ', id='spaces'),
        pytest.param('"501", "A B", "x"', id='quotes'),
        pytest.param('0501, A B, x', id='leading zero'),
        pytest.param('# a "comment, it\'s one\n501, A B, x', id='comment with quotes'),
        pytest.param('  #501, A B, y\n501, A B, x', id='indented comment'),
        pytest.param('\n \n,,\n501, A B, x\n\n', id='empty lines'),
        pytest.param('501, A B, x\r\n', id='line ends of Windows'),
        pytest.param('501, A B, x\r', id='line ends of old Macs'),
        pytest.param('\ufeff501, A B, x\n', id='byte order mark'),
        pytest.param('\ufeff# comment\n501, A B, x\n', id='mark before a comment'),
    ],
)
def test_line_may_be_written_in_several_ways(read, line):
    stations = read(line)

    assert len(stations) == 1
    assert stations.authenticate(501, b'x') == Station(501, 'A B', 'x')


@pytest.mark.parametrize(
    ('written', 'password'),
    [
        ('two words', 'two words'),
        ('"with, comma"', 'with, comma'),
        ('"with "" quote"', 'with " quote'),
        ('with " quote', 'with " quote'),
        ('with#hash', 'with#hash'),
        ('#hash', '#hash'),
        ('100%', '100%'),
        ('a=b&c+d', 'a=b&c+d'),
    ],
)
def test_password_may_hold_any_sign(read, written, password):
    station = read(f'501, A, {written}\n').authenticate(501, password.encode())

    assert station.password == password


@pytest.mark.parametrize(
    'cluster',
    ['Science Park', 'A', 'Sciënce', "L'Aquila", 'St. A&M (North) _1', '2'],
)
def test_cluster_is_words_parted_by_single_spaces(read, cluster):
    station = read(f'501, {cluster}, x\n').authenticate(501, b'x')

    assert station.cluster == cluster


@pytest.mark.parametrize('number', [1, 2**31 - 1])
def test_numbers_are_positive_and_fit_31_bits(read, number):
    assert read(f'{number}, A, x').authenticate(number, b'x').number == number


# Authentication.


@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1'])
def test_password_may_come_as_utf_8_or_latin_1(read, encoding):
    stations = read('501, A, pässwörd\n')

    assert stations.authenticate(501, 'pässwörd'.encode(encoding)).number == 501


def test_password_outside_latin_1_comes_as_utf_8(read):
    stations = read('501, A, пароль\n')

    assert stations.authenticate(501, 'пароль'.encode()).number == 501
    with pytest.raises(WrongPassword):
        stations.authenticate(501, b'??????')


@pytest.mark.parametrize(
    'password',
    [b'', b'x', b'secre', b'secret ', b' secret', b'SECRET', b'other', b'\xff', b'\0'],
)
def test_other_password_is_wrong(read, password):
    stations = read('501, A, secret\n502, A, other\n')

    with pytest.raises(WrongPassword, match='station 501'):
        stations.authenticate(501, password)


@pytest.mark.parametrize('number', [0, 1, 502, 9_999_999_999])
def test_station_that_is_not_listed_is_unknown_whatever_its_password(read, number):
    stations = read('501, A, secret\n')

    with pytest.raises(UnknownStation, match=f'station {number} '):
        stations.authenticate(number, b'secret')


def test_refusal_quotes_no_password(read):
    stations = read('501, A, secret\n')

    for number, password in [(501, b'guess'), (502, b'secret')]:
        with pytest.raises((WrongPassword, UnknownStation)) as error_info:
            stations.authenticate(number, password)
        assert not re.search('secret|guess', str(error_info.value))


# Mistakes.

GOOD = '1, A, hush-1\n# comment\n\n'


@pytest.mark.parametrize(
    ('line', 'mistake'),
    [
        pytest.param('501', '1 fields', id='number alone'),
        pytest.param('501, hush-3', '2 fields', id='no cluster'),
        pytest.param('501, A, hush-3, x', '4 fields', id='comma in the password'),
        pytest.param('501; A; hush-3', '1 fields', id='semicolons'),
        pytest.param(', A, hush-3', 'number', id='no number'),
        pytest.param('five, A, hush-3', 'number', id='number in letters'),
        pytest.param('-501, A, hush-3', 'number', id='negative number'),
        pytest.param('+501, A, hush-3', 'number', id='plus sign'),
        pytest.param('5_01, A, hush-3', 'number', id='underscore'),
        pytest.param('501.0, A, hush-3', 'number', id='fraction'),
        pytest.param(
            '\N{ARABIC-INDIC DIGIT FIVE}, A, hush-3', 'number', id='Arabic digit'
        ),
        pytest.param('0, A, hush-3', 'number', id='zero'),
        pytest.param(f'{2**31}, A, hush-3', 'number', id='number over 31 bits'),
        pytest.param('12345678901, A, hush-3', 'number', id='eleven digits'),
        pytest.param('hush-3, A, 501', 'number', id='wrong order'),
        pytest.param('501, , hush-3', 'cluster of station 501', id='no cluster name'),
        pytest.param('501, ../x, hush-3', 'cluster of station 501', id='../x'),
        pytest.param('501, .., hush-3', 'cluster of station 501', id='..'),
        pytest.param('501, ., hush-3', 'cluster of station 501', id='.'),
        pytest.param('501, a/b, hush-3', 'cluster of station 501', id='slash'),
        pytest.param('501, a\\b, hush-3', 'cluster of station 501', id='backslash'),
        pytest.param('501, a  b, hush-3', 'cluster of station 501', id='two spaces'),
        pytest.param('501, a\tb, hush-3', 'cluster of station 501', id='tab'),
        pytest.param('501, -a, hush-3', 'cluster of station 501', id='leading dash'),
        pytest.param('501, a\0b, hush-3', 'line 4', id='NUL'),
        pytest.param(f'501, {65 * "a"}, hush-3', 'at most 64', id='long cluster'),
        pytest.param('501, "a, b", hush-3', 'cluster of station 501', id='comma'),
        pytest.param('501, A,', 'station 501 has no password', id='no password'),
        pytest.param('501, A, ""', 'station 501 has no password', id='empty password'),
        pytest.param('501, A, "hush-3" x', 'expected after', id='after the quotes'),
        pytest.param('1, A, hush-3', 'station 1 is listed twice', id='station twice'),
        pytest.param('01, B, hush-3', 'station 1 is listed twice', id='01 is 1'),
    ],
)
def test_mistake_is_named_with_its_line_and_without_the_password(
    read, path, line, mistake
):
    with pytest.raises(ConfigError) as error_info:
        read(f'{GOOD}{line}\n2, A, hush-2\n')

    said = str(error_info.value)
    assert said.startswith(f'{path}, line 4: ')
    assert mistake in said
    assert '\n' not in said
    assert 'hush' not in said


def test_cluster_of_64_characters_is_not_too_long(read):
    assert len(read(f'501, {64 * "a"}, x\n')) == 1


def test_lines_of_comments_are_counted(read, path):
    with pytest.raises(ConfigError, match=f'^{re.escape(str(path))}, line 6: '):
        read('# "1"\n\r\n#\n501, A, x\n\n501, A, y\n')


@pytest.mark.parametrize(
    'make',
    [
        pytest.param(lambda path: None, id='no such file'),
        pytest.param(lambda path: path.mkdir(), id='a directory'),
    ],
)
def test_list_that_cannot_be_read_is_named_in_one_line(path, make):
    make(path)

    with pytest.raises(ConfigError) as error_info:
        read_station_list(path)

    assert re.fullmatch(rf'{re.escape(str(path))}: .+', str(error_info.value))


def test_line_that_is_not_utf_8_is_named(read, path):
    with pytest.raises(ConfigError) as error_info:
        read(b'501, A, hush\n502, B, \xe9\n')

    said = str(error_info.value)
    assert said.startswith(f'{path}, line 2: is not UTF-8')
    assert 'hush' not in said


def test_first_of_several_mistakes_is_named_with_their_number(read):
    with pytest.raises(ConfigError, match=r'line 1: .*; 2 lines are at fault$'):
        read('501\n502, B, x\n503\n')


def test_quote_that_is_closed_on_another_line_is_a_mistake(read):
    with pytest.raises(ConfigError, match='line 1: '):
        read('501, A, "pw\n502, B, x"\n503, C, y\n')


@pytest.mark.parametrize(
    'cluster', ["'s-Hertogenbosch", "'t Gooi", 'A & B (C)', 'Malmö']
)
def test_clusters_are_named_as_towns_are(read, cluster):
    assert read(f'501, {cluster}, x').authenticate(501, b'x').cluster == cluster
