"""Follows the station list as it changes, without a restart.

Every worker looks at the file each time it needs the list: one `stat`, which
takes 2 us.  A list that cannot be used does not replace one that can.
"""

import logging
import os
import time
from collections.abc import Callable

from datastore import station_list
from datastore.config import Config, ConfigError, shown_url
from wsgi.hashed_passwords import HashedPasswords
from wsgi.stations import Station, StationList

# A file is left alone while it is being written: editors write in place, and
# half a list would be half the stations.  After this time the next change also
# shows in its times, which the kernel counts in steps of up to 10 ms.
_SETTLING = 250_000_000  # ns

_Identity = tuple[int, int, int, int, int]


class FollowedStations:
    """The stations that may upload, as the list says now."""

    def __init__(
        self,
        config: Config,
        logger: logging.Logger,
        now: Callable[[], int] = time.time_ns,
    ) -> None:
        """Read the list; raises ConfigError if it cannot be used, as at the start.

        `now` is the time in ns since the epoch, by the clock of the disk.
        """
        self._path = config.station_list
        self._name = os.fspath(self._path)
        self._logger = logger
        self._now = now
        self._hashed = HashedPasswords()
        # Why the list in force is not that of the file; empty if it is.
        self._complaint = ''
        if config.url and not self._path.exists():
            raise ConfigError(
                f'{self._path}: not fetched yet from {shown_url(config.url)}; '
                'the writer does, or: datastore stations fetch'
            )
        try:
            identity, content = self._read()
        except OSError as error:
            raise ConfigError(f'{self._path}: {error.strerror}') from error
        self._stations = station_list.stations_of(content, self._path)
        self._list = StationList(self._stations, self._hashed)
        # The content that was read last, usable or not; None to read it again.
        self._seen = identity if self._is_settled(identity) else None

    def __len__(self) -> int:
        return len(self._list)

    def clusters(self) -> dict[int, str]:
        """Return the cluster of each station."""
        self._follow()
        return self._list.clusters()

    def complaint(self) -> str:
        """Return why the list in force is not that of the file; empty if it is."""
        self._follow()
        return self._complaint

    def authenticate(self, number: int, password: bytes) -> Station:
        """Return the station `number` if `password`, as uploaded, is its own.

        Raises UnknownStation, WrongPassword or TooManyGuesses.
        """
        self._follow()
        return self._list.authenticate(number, password)

    def _follow(self) -> None:
        """Take the list over if it changed; complain once if it cannot be."""
        try:
            identity = _identity(os.stat(self._name))
            if identity == self._seen or not self._is_settled(identity):
                return
            identity, content = self._read()
        except OSError as error:
            # Tried again each time: what cannot be read now may be later,
            # without a change that shows.
            self._seen = None
            complaint = f'{self._path}: {error.strerror}'
            if complaint != self._complaint:
                self._complain(complaint)
            return
        if not self._is_settled(identity):
            return
        self._seen = identity
        try:
            self._replace(station_list.stations_of(content, self._path))
        except ConfigError as error:
            self._complain(str(error))

    def _replace(self, stations: dict[int, Station]) -> None:
        if self._stations and not stations:
            # A file that was emptied by accident, or by a disk that is full.
            raise ConfigError(f'{self._path}: lists no station')
        changes = station_list.changes(self._stations, stations)
        self._list = StationList(stations, self._hashed)
        self._hashed.forget_others(each.password for each in stations.values())
        self._stations = stations
        if any(changes) or self._complaint:
            self._logger.info('station list %s taken over, %s', self._path, changes)
        self._complaint = ''

    def _complain(self, complaint: str) -> None:
        """Say why the file is not taken over, for the operator."""
        self._complaint = complaint
        self._logger.error(
            'the station list is not taken over, the %d stations of before stay: %s',
            len(self._stations),
            complaint,
        )

    def _is_settled(self, identity: _Identity) -> bool:
        # A time of the future is of a clock that was wrong, and says nothing.
        return not 0 <= self._now() - identity[-1] < _SETTLING

    def _read(self) -> tuple[_Identity, bytes]:
        """Return the list's identity, from before it was read, and its bytes."""
        with open(self._path, 'rb') as file:
            identity = _identity(os.fstat(file.fileno()))
            return identity, file.read(station_list.MAX_SIZE + 1)


def _identity(status: os.stat_result) -> _Identity:
    """Return what differs from one content of the file to the next.

    With the time of the inode, which nobody can set: of modification, copies
    keep what they were copied from.
    """
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
