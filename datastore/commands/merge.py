"""`datastore merge`: the one file a day that older programs read."""

import argparse
import contextlib
import re
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING

from datastore.commands.options import (
    add_config,
    add_json,
    add_wait,
    check_data_dir,
    check_owner,
    day,
    number,
    print_json,
)
from datastore.config import Config, read_config
from datastore.spool import remove_batches

if TYPE_CHECKING:
    from writer.merge import Merged, Merger

_DAY = 86400  # s


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `merge` to the commands of the command line."""
    parser = commands.add_parser(
        'merge',
        help='make the one file a day that older programs read',
        description=(
            'Make <data_dir>/2026/11/2026_11_21.h5 of the files of all stations in '
            '2026_11_21/, while the writer writes. The file is replaced at once, and '
            'only if something is new: programs that look for newer files find just '
            'those. Exit status 1 if a station could not be merged; what was merged '
            'of it before stays. A day without data is no fault.'
        ),
        epilog=(
            'Every night, from a timer: datastore merge --changed. It merges what '
            'came since the last time, yesterday as well as late data of any day.'
        ),
    )
    parser.add_argument(
        'days', nargs='*', type=day, metavar='DATE', help='a day, as 2026-11-21'
    )
    parser.add_argument(
        '--changed',
        action='store_true',
        help='every day that has changed since it was merged',
    )
    parser.add_argument(
        '--watch',
        action='store_true',
        help='as --changed, again and again, until SIGTERM or Ctrl-C',
    )
    parser.add_argument(
        '--every',
        type=_minutes,
        metavar='MINUTES',
        help='with --watch: minutes between two times; default: 60',
    )
    parser.add_argument(
        '--at',
        type=_time_of_day,
        metavar='HH:MM',
        help='with --watch: at this time of the day, UTC, instead, and at the start',
    )
    parser.add_argument(
        '--since',
        type=_number_of_days,
        metavar='DAYS',
        help='with --changed or --watch: look only at the last DAYS days',
    )
    parser.add_argument(
        '--rebuild',
        action='store_true',
        help=(
            'with DATE: take every station from its file again, even if that holds '
            'less than was merged'
        ),
    )
    parser.add_argument(
        '--replace',
        action='store_true',
        help=(
            'with DATE: where the file is of another program, keep it in '
            '<data_dir>/replaced, and take over the stations that only it holds'
        ),
    )
    add_wait(parser)
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=lambda arguments: _merge(parser, arguments))


def _merge(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    _check(parser, arguments)
    config = read_config(arguments.config)
    check_data_dir(config)
    check_owner(config.data_dir)
    with _stopped_by_signals() as stop:
        return _run(arguments, config, stop)


def _run(arguments: argparse.Namespace, config: Config, stop: threading.Event) -> int:
    # Here, because h5py takes a while to import and other commands do without.
    from writer.merge import Merger
    from writer.reading import Reading

    finish = partial(remove_batches, config.data_dir)
    reading = Reading(finish, arguments.wait, wait=stop.wait)
    merger = Merger(config.data_dir, reading, stop, config.min_free_space)
    report = _Report(arguments)
    if arguments.watch:
        _watch(merger, report, arguments, stop)
        return 0
    if arguments.changed:
        chosen = _candidates(merger, arguments.since)
    else:
        chosen = sorted(set(arguments.days))
    for each in chosen:
        report.merge(merger, each)
        if stop.is_set():
            break
    if stop.is_set():
        print('datastore: stopped before all was merged', file=sys.stderr)
        report.at_fault = True
    report.close()
    return int(report.at_fault)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Return what SIGTERM and SIGINT set, until this ends."""
    stop = threading.Event()

    def handle(*_: object) -> None:
        # In a thread: the event's own lock may be held where the signal comes.
        threading.Thread(target=stop.set).start()

    before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


def _check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    chosen = bool(arguments.days) + arguments.changed + arguments.watch
    if chosen != 1:
        parser.error('name a DATE, or give either --changed or --watch')
    if not arguments.watch and (arguments.every or arguments.at):
        parser.error('--every and --at go with --watch')
    if arguments.every and arguments.at:
        parser.error('give either --every or --at')
    if arguments.days and arguments.since is not None:
        parser.error('--since goes with --changed or --watch')
    if not arguments.days and (arguments.rebuild or arguments.replace):
        parser.error('--rebuild and --replace go with a DATE')


def _watch(
    merger: 'Merger',
    report: '_Report',
    arguments: argparse.Namespace,
    stop: threading.Event,
) -> None:
    """Merge what has changed until `stop` is set."""
    while True:
        for each in _candidates(merger, arguments.since):
            report.merge(merger, each)
            if stop.is_set():
                return
        pause = 60.0 * (arguments.every or 60)
        if arguments.at is not None:
            pause = seconds_until(arguments.at, datetime.now(timezone.utc))
        if stop.wait(pause):
            return


def _candidates(merger: 'Merger', since: int | None) -> list[date]:
    """Return the days to look at, in order."""
    days = merger.days()
    if since is None:
        return days
    first = datetime.now(timezone.utc).date() - timedelta(days=since)
    return [day for day in days if day >= first]


def seconds_until(at: int, now: datetime) -> float:
    """Return the time from `now` to the next time of day `at`, in s of the day."""
    passed = now - now.replace(hour=0, minute=0, second=0, microsecond=0)
    return (at - passed.total_seconds()) % _DAY or _DAY


class _Report:
    """Merges days and says what became of them; of days that are not named,
    only if something did.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.at_fault = False
        self._arguments = arguments
        self._documents: list[dict[str, object]] = []
        self._faults: dict[date, list[str]] = {}
        self._printed = 0

    def merge(self, merger: 'Merger', day: date) -> None:
        """Merge a day, and say so."""
        from writer.journal import FileBusy
        from writer.merge import Merged, NotOurs, Stopped
        from writer.storage import DamagedFile

        arguments = self._arguments
        try:
            merged = merger.merge(
                day, rebuild=arguments.rebuild, replace=arguments.replace
            )
        except Stopped:
            return
        except (NotOurs, FileBusy, DamagedFile, OSError) as error:
            path = merger.path(day)
            merged = Merged(day, path, 0, 0, 0, False, 0.0, [str(error)])
        self.at_fault |= bool(merged.faults)
        if not arguments.days:
            # Once: a file that is damaged stays so.
            repeated = merged.faults == self._faults.get(day, [])
            self._faults[day] = merged.faults
            if repeated and not merged.changed:
                return
        self._say(merged)

    def _say(self, merged: 'Merged') -> None:
        self._printed += 1
        for fault in merged.faults:
            print(f'datastore: {merged.day}: {fault}', file=sys.stderr, flush=True)
        document = merged._asdict() | {
            'day': str(merged.day),
            'path': str(merged.path),
            'replaced': merged.replaced and str(merged.replaced),
        }
        if not self._arguments.json:
            print('  '.join(_phrases(merged)), flush=True)
        elif self._arguments.watch:
            print_json(document)
            sys.stdout.flush()
        else:
            self._documents.append(document)

    def close(self) -> None:
        """Say what is said at the end."""
        if self._arguments.json:
            print_json(self._documents)
        elif not self._printed:
            print('no day has changed')


def _phrases(merged: 'Merged') -> Iterator[str]:
    yield str(merged.day)
    if not merged.stations:
        yield 'not merged' if merged.faults else 'no station files'
        return
    yield f'{merged.stations:>4} stations {merged.rows:>11,} rows'
    yield f'{merged.blobs:>11,} blobs'
    yield f'merged in {merged.seconds:.1f} s' if merged.changed else 'unchanged'
    if merged.faults:
        yield f'{len(merged.faults)} at fault'
    if merged.replaced:
        yield f'the file before is {merged.replaced}'


def _minutes(text: str) -> float:
    return number(text, 0.01, 10080, 'minutes')


def _number_of_days(text: str) -> int:
    return int(number(text, 0, 36525, 'days'))


def _time_of_day(text: str) -> int:
    """Return the second of the day that HH:MM means."""
    match = re.fullmatch(r'([01]?\d|2[0-3]):([0-5]\d)', text)
    if not match:
        raise argparse.ArgumentTypeError(f'{text} is not a time such as 03:30')
    return 3600 * int(match[1]) + 60 * int(match[2])
