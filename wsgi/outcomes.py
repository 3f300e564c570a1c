"""Says what became of each upload: in the log, and in the counts.

One line for each upload that is taken.  Refusals are said once a minute for
each station and code, with how many there were.
"""

import logging
import re
import time
from collections.abc import Hashable, Sequence
from typing import Any

from datastore.config import Config
from datastore.series import Series, count_events
from datastore.suspicious import Flagged
from datastore.tally import Tally
from datastore.upload_id import new_upload_id
from wsgi import rcodes
from wsgi.pressure import HeldBack
from wsgi.rcodes import UnknownStation, UploadError
from wsgi.repetition import Repeats, Repetition


class Receipt:
    """What is known of an upload so far; `station` as soon as it has said so."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.upload = new_upload_id()
        self.started = time.monotonic()
        self.station: int | None = None
        self._address = environ.get('REMOTE_ADDR', 'an unknown address')
        self._length = environ.get('CONTENT_LENGTH') or ''

    @property
    def sender(self) -> str:
        if self.station is None:
            return f'a sender at {self._address}'
        return f'station {self.station}'

    def fields(self, rcode: int) -> dict[str, Any]:
        """Return what a line of the log about this upload is about."""
        length = self._length
        return {
            'upload': self.upload,
            'station': self.station,
            'address': self._address,
            'bytes': int(length) if re.fullmatch('[0-9]{1,15}', length) else 0,
            'rcode': rcode,
            'milliseconds': round(self.seconds() * 1000, 3),
        }

    def seconds(self) -> float:
        return time.monotonic() - self.started


class Outcomes:
    """The log and the counts of one endpoint, in one process."""

    def __init__(self, config: Config, logger: logging.Logger) -> None:
        self._logger = logger
        self._tally = Tally(config.data_dir, logger)
        self._repetition = Repetition()

    def taken(
        self,
        receipt: Receipt,
        size: int,
        good: Sequence[Series],
        flagged: Sequence[Flagged],
    ) -> int:
        """Note an upload of `size` bytes that is on disk; return its code."""
        fields = receipt.fields(rcodes.OK)
        fields |= {'bytes': size, 'events': count_events(good) + len(flagged)}
        for what, repeats in self._repetition.succeeded(receipt.sender):
            self._logger.info(
                '%s: %s %s, then this one was taken',
                receipt.sender,
                _answered(what),
                _more(repeats),
                extra={'upload': receipt.upload, 'station': receipt.station},
            )
        self._logger.info(
            '%s: %d events in %d bytes, answered %d after %.1f ms',
            receipt.sender,
            fields['events'],
            size,
            rcodes.OK,
            fields['milliseconds'],
            extra=fields,
        )
        if receipt.station is not None:
            self._tally.taken(
                receipt.station, size, good, len(flagged), receipt.seconds()
            )
        return rcodes.OK

    def refused(self, receipt: Receipt, error: UploadError) -> int:
        """Note an upload that is refused; return its code."""
        rcode = error.rcode
        if isinstance(error, HeldBack):
            # All stations are, so it is one failure, and one for the operator.
            sender, level = 'uploads', logging.ERROR
        else:
            sender, level = receipt.sender, logging.WARNING
        if repeats := self._repetition.failed(sender, rcode):
            fields = receipt.fields(rcode)
            said = _answered(rcode)
            if repeats.since is not None:
                said = f'{said} {_more(repeats)}'
                # It is no news, unless it concerns everybody.
                level = logging.INFO if level == logging.WARNING else level
            self._logger.log(
                level,
                '%s: %s: %s; %d bytes, %.1f ms',
                sender,
                said,
                error,
                fields['bytes'],
                fields['milliseconds'],
                extra=fields | {'times': max(1, repeats.more)},
            )
        is_listed = receipt.station is not None and not isinstance(
            error, UnknownStation
        )
        station = receipt.station if is_listed else None
        self._tally.refused(station, rcode, receipt.seconds())
        return rcode

    def failed(self, receipt: Receipt, error: Exception) -> int:
        """Note an error of ours; return the code that the station is told."""
        rcode = rcodes.INTERNAL_ERROR
        what = f'internal error, {type(error).__name__}'
        if repeats := self._repetition.failed(receipt.sender, what):
            more = '' if repeats.since is None else f', {_more(repeats)}'
            self._logger.error(
                '%s: internal error%s, answered %d',
                receipt.sender,
                more,
                rcode,
                exc_info=error,
                extra=receipt.fields(rcode) | {'times': max(1, repeats.more)},
            )
        self._tally.refused(None, rcode, receipt.seconds())
        return rcode

    def close(self) -> None:
        """Leave the counts to another process."""
        self._tally.close()


def _answered(what: Hashable) -> str:
    return f'answered {what}' if isinstance(what, int) else str(what)


def _more(repeats: Repeats) -> str:
    moment = time.strftime('%H:%M:%S', time.localtime(repeats.since))
    return f'{repeats.more} times more since {moment}'
