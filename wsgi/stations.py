"""Knows each station's cluster and password.

The station list is a CSV file, UTF-8, with a line for each station: its
number, its cluster and its password.  Empty lines and lines that start with
`#` are skipped; a field with a comma in it is put in double quotes.
"""

import contextlib
import csv
import hmac
import re
from pathlib import Path
from typing import NamedTuple

from datastore.config import ConfigError
from wsgi.rcodes import UnknownStation, WrongPassword

# A cluster becomes part of a path inside HDF5 files, where `/` and `.` are
# not names, and of what people type: words, parted by single spaces.
_CLUSTER = re.compile(r"[\w'][\w'().&-]*( [\w'().&-]+)*")
_MAX_CLUSTER = 64
_MAX_NUMBER = 2**31 - 1


class Station(NamedTuple):
    """A line of the station list."""

    number: int
    cluster: str
    password: str


class StationList:
    """The stations that may upload."""

    def __init__(self, stations: dict[int, Station]) -> None:
        self._stations = stations

    def __len__(self) -> int:
        return len(self._stations)

    def __contains__(self, number: int) -> bool:
        return number in self._stations

    def clusters(self) -> dict[int, str]:
        """Return the cluster of each station."""
        return {number: station.cluster for number, station in self._stations.items()}

    def authenticate(self, number: int, password: bytes) -> Station:
        """Return the station `number` if `password`, as uploaded, is its own.

        Raises UnknownStation or WrongPassword.
        """
        station = self._stations.get(number)
        if station is None:
            raise UnknownStation(f'station {number} is not in the station list')
        # Every comparison is made, each in constant time.
        matches = [
            hmac.compare_digest(password, known)
            for known in _as_uploaded(station.password)
        ]
        if not any(matches):
            raise WrongPassword(f'station {number} sent a wrong password')
        return station


def _as_uploaded(password: str) -> list[bytes]:
    """Return the bytes that may stand for a password in a form.

    Python 3 stations send UTF-8, Python 2 stations their own bytes.
    """
    encoded = [password.encode('utf-8')]
    with contextlib.suppress(UnicodeEncodeError):
        encoded.append(password.encode('latin-1'))
    return encoded


def read_station_list(path: Path) -> StationList:
    """Return the stations listed in the file `path`.

    Raises ConfigError, naming the line, if one is malformed.
    """
    stations: dict[int, Station] = {}
    try:
        with open(path, encoding='utf-8-sig', newline='') as file:
            for number, line in enumerate(file, start=1):
                # Spreadsheets write an empty line as commas.
                if not line.strip(' \t\r\n,') or line.lstrip().startswith('#'):
                    continue
                try:
                    station = _parse_line(line)
                    if station.number in stations:
                        raise ValueError(f'station {station.number} is listed twice')
                except (ValueError, csv.Error) as error:
                    raise ConfigError(f'{path}, line {number}: {error}') from error
                stations[station.number] = station
    except OSError as error:
        raise ConfigError(f'{path}: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise ConfigError(f'{path}: is not UTF-8: {error.reason}') from error
    return StationList(stations)


def _parse_line(line: str) -> Station:
    # Line by line: a quote that is not closed would swallow stations.
    (fields,) = csv.reader([line.rstrip('\r\n')], skipinitialspace=True, strict=True)
    # Passwords never reach a log, so no message quotes what the line holds.
    if len(fields) != 3:
        raise ValueError(
            f'has {len(fields)} fields instead of number, cluster, password'
        )
    number, cluster, password = (text.strip() for text in fields)
    if not re.fullmatch('[0-9]{1,10}', number) or not 0 < int(number) <= _MAX_NUMBER:
        raise ValueError('the station number is not a positive whole number')
    if len(cluster) > _MAX_CLUSTER or not _CLUSTER.fullmatch(cluster):
        raise ValueError(
            f'the cluster of station {number} is not a name of letters, digits, '
            "single spaces and any of - _ . ' & ( ) with at most "
            f'{_MAX_CLUSTER} characters'
        )
    if not password:
        raise ValueError(f'station {number} has no password')
    return Station(int(number), cluster, password)
