"""Says when no more uploads can be taken, before the disk says so.

A disk that is full stops the writer too, and with it what would empty the
spool; so uploads are held back while there is room left for the writer.
"""

import os
import time
from collections.abc import Callable

from datastore.config import Config
from datastore.spool import Spool
from wsgi.rcodes import TransactionFailed

# Adding up a long spool takes time, so it is done again only after so many
# times the time it took, or a second.
_SCAN_SHARE = 50
_SCAN_INTERVAL = 1.0  # s


class HeldBack(TransactionFailed):
    """The disk, or the spool, is as full as the operator lets it be."""


class Pressure:
    """Watches the free space and the spool of one configuration."""

    def __init__(
        self,
        config: Config,
        spool: Spool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._spool = spool
        self._clock = clock
        self._spool_size = 0
        self._scan_again = clock()

    def check(self, size: int) -> None:
        """Raise HeldBack unless an upload of `size` bytes can be taken."""
        try:
            self._check_space(size)
            self._check_spool(size)
        except OSError as error:
            raise HeldBack(f'the disk does not answer: {error}') from error

    def _check_space(self, size: int) -> None:
        if self._config.min_free_space is not None:
            disk = os.statvfs(self._config.data_dir)
            free = disk.f_bavail * disk.f_frsize
            if free - size < self._config.min_free_space:
                raise HeldBack(
                    f'{free} bytes are free on the disk of {self._config.data_dir}, '
                    f'min_free_space is {self._config.min_free_space}'
                )

    def _check_spool(self, size: int) -> None:
        if self._config.max_spool_size is not None:
            self._scan()
            if self._spool_size + size > self._config.max_spool_size:
                raise HeldBack(
                    f'{self._spool_size} bytes wait in the spool, '
                    f'max_spool_size is {self._config.max_spool_size}'
                )
            # Until the next scan; what other processes add is seen then.
            self._spool_size += size

    def _scan(self) -> None:
        started = self._clock()
        if started < self._scan_again:
            return
        self._spool_size = self._spool.size()
        finished = self._clock()
        pause = max(_SCAN_INTERVAL, _SCAN_SHARE * (finished - started))
        self._scan_again = finished + pause
