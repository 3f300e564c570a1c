"""Uploads simulated or recorded events to a datastore, as a station does.

    python -m datastore.station --url http://localhost:8000/ --station 501 \\
        --password secret --events 100 --batches 10

A station keeps a batch until its upload is answered with `100`, and sends it
again for as long as it is not; this one has the patience and the waiting times
of the stations' own software.
"""

import argparse
import hashlib
import http.client
import itertools
import logging
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from datastore.simulation import Event, Simulation

logger = logging.getLogger(__name__)

PICKLE_PROTOCOL = 2  # the highest that Python 2 reads too
TIMEOUT = 60.0  # s; stations allow 3 s to connect and 600 s to read
LONGEST_WAIT = 60  # s between two tries
FOLLOW_INTERVAL = 5  # s between two batches of the events of the time that passed

OK = b'100'
MEANINGS = {
    b'201': 'the checksum does not match the data',
    b'203': 'wrong password',
    b'205': 'the batch could not be stored now; try later',
    b'206': 'unknown station',
    b'208': 'the data is not an event list',
    b'400': 'invalid POST data, or an internal error',
}


class GaveUp(Exception):
    """The batch was not taken in as many tries as were allowed."""


class Station:
    """A station with its number and password, and the datastore it uploads to.

    `timeout` is in seconds, for connecting and for each read; `tries` limits
    how often one batch is sent, None for ever; `sleep` is called with the
    seconds to wait after each failure: 2, 4, 8, ... up to 60.

    Raises ValueError if `url` is not one that can be POSTed to.
    """

    def __init__(
        self,
        url: str,
        number: int,
        password: str,
        *,
        timeout: float = TIMEOUT,
        tries: int | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        _check_url(url)
        self.url = url
        self.number = number
        self._password = password
        self._timeout = timeout
        self._tries = tries
        self._sleep = sleep

    def upload(self, events: list[Event]) -> int:
        """Upload one batch, trying until it is taken, and return the number of tries.

        Raises GaveUp after `tries` failures.
        """
        return self.upload_pickle(pickle_events(events))

    def upload_pickle(self, pickled: bytes) -> int:
        """Upload one batch that is pickled already, byte for byte.

        Returns and raises as `upload` does.
        """
        body = form(self.number, self._password, pickled)
        failures = 0
        while (failure := self._post(body)) is not None:
            failures += 1
            self._wait(failures, failure)
        return failures + 1

    def _post(self, body: bytes) -> str | None:
        """POST once; return what went wrong, or None if the batch was taken."""
        try:
            with urlopen(Request(self.url, body), timeout=self._timeout) as response:
                answer = response.read()
        except HTTPError as error:
            error.close()
            return f'HTTP status {error.code} ({error.reason})'
        except URLError as error:
            return _reason(error.reason)
        # What happens after the request was sent comes as it is.
        except (OSError, http.client.HTTPException) as error:
            return _reason(error)
        if answer == OK:
            return None
        meaning = MEANINGS.get(answer, 'not an answer of a datastore')
        return f'{_printable(answer)} ({meaning})'

    def _wait(self, failures: int, failure: str) -> None:
        if failures == self._tries:
            logger.error(
                'Station %d: upload failed: %s; gave up after %d tries',
                self.number,
                failure,
                failures,
            )
            raise GaveUp(failure)
        # The exponent is capped too: it counts the failures of days.
        wait = min(2 ** min(failures, 6), LONGEST_WAIT)
        logger.warning(
            'Station %d: upload failed: %s; try %d follows in %d s',
            self.number,
            failure,
            failures + 1,
            wait,
        )
        self._sleep(wait)


def pickle_events(events: list[Event]) -> bytes:
    """Return an event list pickled as stations pickle it."""
    return pickle.dumps(events, PICKLE_PROTOCOL)


def form(station: int, password: str, pickled: bytes) -> bytes:
    """Return the form-encoded body that uploads a pickled event list.

    As Python 3 stations send it: the pickle's bytes are decoded as latin-1,
    and that text is encoded as UTF-8; the checksum is that of the bytes.
    """
    fields = {
        'station_id': station,
        'password': password,
        'data': pickled.decode('latin-1'),
        'checksum': hashlib.md5(pickled, usedforsecurity=False).hexdigest(),
    }
    return urlencode(fields).encode('ascii')


def _check_url(url: str) -> None:
    """Raise ValueError if urllib would not take the URL, or not send it by HTTP."""
    if not (url.isascii() and url.isprintable()) or ' ' in url:
        raise ValueError(f'{url!r} holds a character that a URL cannot')
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError(f'{url!r} is not an http:// or https:// URL')
    if parts.username is not None:
        raise ValueError('the URL must not hold a user name')
    # Each raises ValueError itself: an empty label, a port that is no number.
    parts.hostname.encode('idna')
    _ = parts.port


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return 'timed out'
    return str(error) or type(error).__name__


def _printable(answer: bytes) -> str:
    """Return an answer so that '100' and '100\\n' look different, in one line."""
    if answer in MEANINGS:
        return f'answered {answer.decode()}'
    shown = answer if len(answer) <= 40 else answer[:40] + b'...'
    return f'answered {shown!r}'


class Tally:
    """What has been uploaded so far."""

    def __init__(self) -> None:
        self.batches = 0
        self.bytes = 0
        self.tries = 0
        self.event_types: Counter[str] = Counter()

    def add(self, events: list[Event] | None, pickled: bytes, tries: int) -> None:
        """Count one batch that was taken; `events` is None if they are not known."""
        self.batches += 1
        self.bytes += len(pickled)
        self.tries += tries
        for event in events or ():
            self.event_types[event['header']['eventtype_uploadcode']] += 1

    def __str__(self) -> str:
        parts = [f'{self.batches} {"batch" if self.batches == 1 else "batches"}']
        if self.event_types:
            by_type = ', '.join(f'{n} {t}' for t, n in sorted(self.event_types.items()))
            parts.append(f'{self.event_types.total()} events ({by_type})')
        parts.append(f'{self.bytes:,} bytes')
        if self.tries != self.batches:
            parts.append(f'{self.tries} tries')
        return ', '.join(parts)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage, and exit with 2."""
        self.exit(2, f'{self.prog}: {message}\n')


def _whole_number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number above 0')
    return number


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number')
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of seconds above 0')
    return seconds


def _parser() -> _Parser:
    parser = _Parser(
        prog='python -m datastore.station',
        description='Upload simulated or recorded events to a datastore, as a '
        'detector station does. A batch that is not answered with 100 is sent '
        'again, after 2, 4, 8, ... and at most 60 seconds, until it is.',
        epilog='Exit code: 0 when all was taken, or --follow was ended with '
        'Ctrl-C; 1 when --tries was not enough; 2 for bad arguments; 130 when '
        'interrupted otherwise.',
        allow_abbrev=False,
    )
    where = parser.add_argument_group('where to, and as whom')
    where.add_argument('--url', required=True, help="the datastore's upload URL")
    where.add_argument(
        '--station', required=True, type=_whole_number, metavar='N', help='its number'
    )
    where.add_argument('--password', required=True, metavar='P', help='its password')
    what = parser.add_argument_group('what')
    what.add_argument(
        '--events',
        type=_whole_number,
        metavar='N',
        help='events in a batch, about one a second, the last ones from just '
        'now (default: 100)',
    )
    what.add_argument(
        '--batches',
        type=_whole_number,
        default=1,
        metavar='N',
        help='how many batches; of --file, how often (default: 1)',
    )
    what.add_argument(
        '--follow',
        action='store_true',
        help='go on after those, uploading what happens from now on every '
        f'{FOLLOW_INTERVAL} seconds, until Ctrl-C',
    )
    what.add_argument(
        '--detectors', type=int, choices=(2, 4), help='of the station (default: 4)'
    )
    what.add_argument(
        '--seed',
        type=_seed,
        metavar='N',
        help='make the same values again (default: others each time)',
    )
    what.add_argument(
        '--file',
        type=Path,
        metavar='PICKLE',
        help='upload this recorded event list, byte for byte and unread, '
        'instead of simulating one',
    )
    how = parser.add_argument_group('how')
    how.add_argument(
        '--timeout',
        type=_seconds,
        default=TIMEOUT,
        metavar='S',
        help='seconds to wait for the connection and for the answer (default: 60)',
    )
    how.add_argument(
        '--tries',
        type=_whole_number,
        metavar='N',
        help='give up on a batch after so many (default: never)',
    )
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        _check_url(args.url)
    except ValueError as error:
        parser.error(f'argument --url: {error}')
    if args.file:
        for name in ('events', 'follow', 'detectors', 'seed'):
            given = getattr(args, name)
            if given is not None and given is not False:
                parser.error(f'argument --{name}: does not go with --file')
        try:
            args.pickled = args.file.read_bytes()
        except OSError as error:
            parser.error(f'argument --file: {args.file}: {error.strerror}')
    args.events = args.events or 100
    args.detectors = args.detectors or 4
    return args


Batch = tuple[list[Event] | None, bytes]  # the events, if known, and their pickle


def _recorded(pickled: bytes, batches: int) -> Iterator[Batch]:
    return itertools.repeat((None, pickled), batches)


def _simulated(
    args: argparse.Namespace,
    sleep: Callable[[float], object],
    now: Callable[[], datetime],
) -> Iterator[Batch]:
    simulation = Simulation.ending(
        now(),
        args.events * args.batches,
        detectors=args.detectors,
        seed=args.seed,
    )
    for _ in range(args.batches):
        events = simulation.take(args.events)
        yield events, pickle_events(events)
    while args.follow:
        sleep(FOLLOW_INTERVAL)
        present = now()
        # After a long failure this is more than one batch.
        while events := simulation.until(present, args.events):
            yield events, pickle_events(events)


def _upload_all(
    station: Station, batches: Iterable[Batch], tally: Tally, *, log_each: bool
) -> None:
    for events, pickled in batches:
        tries = station.upload_pickle(pickled)
        tally.add(events, pickled, tries)
        if log_each:
            logger.info('Station %d: uploaded %s so far', station.number, tally)


def utc_now() -> datetime:
    """Return the present time, UTC, naive, as stations' times are."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def main(
    argv: Sequence[str] | None = None,
    *,
    sleep: Callable[[float], object] = time.sleep,
    now: Callable[[], datetime] = utc_now,
) -> int:
    """Run the command line and return its exit code.

    Raises SystemExit(2) for bad arguments.
    """
    args = _parse(argv)
    logging.basicConfig(
        level=logging.INFO,
        format='%(asctime)s %(levelname)s %(message)s',
        stream=sys.stderr,
    )
    station = Station(
        args.url,
        args.station,
        args.password,
        timeout=args.timeout,
        tries=args.tries,
        sleep=sleep,
    )
    batches = (
        _recorded(args.pickled, args.batches)
        if args.file
        else _simulated(args, sleep, now)
    )
    show_bar = sys.stderr.isatty() and (args.batches > 1 or args.follow)
    bar: Any = tqdm(
        batches,
        total=None if args.follow else args.batches,
        unit=' batches',
        disable=not show_bar,
    )
    tally = Tally()
    code = 0
    try:
        with bar, logging_redirect_tqdm():
            log_each = args.follow and not show_bar
            _upload_all(station, bar, tally, log_each=log_each)
    except GaveUp:
        code = 1
    except KeyboardInterrupt:
        code = 0 if args.follow else 130
    print(f'Station {args.station} uploaded {tally}', flush=True)
    return code


if __name__ == '__main__':
    sys.exit(main())
