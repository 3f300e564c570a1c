"""Knows each station's cluster and password.

What the station list looks like is said in `datastore/station_list.py`.
"""

import contextlib
import hmac
from pathlib import Path

from datastore import passwords, station_list
from datastore.station_list import Station
from wsgi.hashed_passwords import HashedPasswords
from wsgi.rcodes import UnknownStation, WrongPassword

__all__ = ['Station', 'StationList', 'read_station_list']


class StationList:
    """The stations that may upload.

    `hashed` remembers which passwords match which hashes; a list that
    replaces another is given that of the other.
    """

    def __init__(
        self, stations: dict[int, Station], hashed: HashedPasswords | None = None
    ) -> None:
        self._stations = stations
        self._hashed = hashed or HashedPasswords()

    def __len__(self) -> int:
        return len(self._stations)

    def clusters(self) -> dict[int, str]:
        """Return the cluster of each station."""
        return {number: station.cluster for number, station in self._stations.items()}

    def authenticate(self, number: int, password: bytes) -> Station:
        """Return the station `number` if `password`, as uploaded, is its own.

        Raises UnknownStation, WrongPassword, or TooManyGuesses where whether
        it is wrong cannot be found out now.
        """
        station = self._stations.get(number)
        if station is None:
            raise UnknownStation(f'station {number} is not in the station list')
        if passwords.is_hash(station.password):
            is_right = self._hashed.match(station.password, password)
        else:
            is_right = _matches(station.password, password)
        if not is_right:
            raise WrongPassword(f'station {number} sent a wrong password')
        return station


def _matches(known: str, password: bytes) -> bool:
    # Every comparison is made, each in constant time.
    matches = [hmac.compare_digest(password, each) for each in _as_uploaded(known)]
    return any(matches)


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
    return StationList(station_list.read_stations(path))
