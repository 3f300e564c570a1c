"""What several commands have in common: their options, and how they print."""

import argparse
import json
import math
import os
import pwd
import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from datastore.config import Config

DEFAULT_CONFIG = '/etc/datastore/config.ini'


class CommandError(Exception):
    """What was asked for cannot be done; one line says why."""


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument(
        '--config',
        metavar='PATH',
        default=os.environ.get('DATASTORE_CONFIG', DEFAULT_CONFIG),
        help=f'the ini file; default: $DATASTORE_CONFIG, then {DEFAULT_CONFIG}',
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument(
        '--json', action='store_true', help='print JSON instead of a table'
    )


def add_wait(parser: argparse.ArgumentParser) -> None:
    """Add --wait."""
    parser.add_argument(
        '--wait',
        type=_seconds,
        default=30.0,
        metavar='SECONDS',
        help='how long to wait for a file that is written to; default: %(default)g',
    )


def day(text: str) -> date:
    """Return the date that an argument gives; an argparse type."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text} is not a date such as 2026-11-21'
        ) from None


def station_number(text: str) -> int:
    """Return the station number that an argument gives; an argparse type."""
    if not re.fullmatch('[0-9]{1,10}', text):
        raise argparse.ArgumentTypeError(f'{text} is not the number of a station')
    return int(text)


def moment(text: str) -> int:
    """Return the moment that an argument gives, in ns; an argparse type."""
    try:
        given = datetime.fromisoformat(text.removesuffix('Z'))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text} is not a time such as 2026-11-21 or 2026-11-21T14:30, in UTC'
        ) from None
    if given.tzinfo is None:
        given = given.replace(tzinfo=timezone.utc)
    return int(given.timestamp()) * 10**9


def whole_number(text: str) -> int:
    """Return the number above zero that an argument gives; an argparse type."""
    if not re.fullmatch('0*[1-9][0-9]{0,8}', text):
        raise argparse.ArgumentTypeError(f'{text} is not a whole number above 0')
    return int(text)


def pick(wanted: Sequence[str], known: Sequence[str], hint: str) -> list[str]:
    """Return the known names that are wanted, in whole or by how they start.

    Each is returned once.  What a user wrote is only compared, and never part
    of a path.  `hint` is the command that lists the names.  Raises
    CommandError if one is not known, or may be several.
    """
    picked: dict[str, None] = {}
    names = frozenset(known)
    for text in wanted:
        if text in names:
            picked[text] = None
            continue
        found = [name for name in known if name.startswith(text)]
        if not found or not text:
            raise CommandError(f'nothing is called {text!a}; see: {hint}')
        if len(found) > 1:
            raise CommandError(
                f'{text!a} may be {len(found)} of those there are; give more of it, '
                f'as {hint} says it'
            )
        picked[found[0]] = None
    return list(picked)


def check_owner(directory: Path) -> None:
    """Raise CommandError if root would leave files there that others cannot read.

    The endpoint and the writer run as the owner of their directories.
    """
    owner = directory.stat().st_uid
    if os.geteuid() != 0 or owner == 0:
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f'#{owner}'
    raise CommandError(
        f'{directory} belongs to user {name}, who could not read what root leaves '
        f'there; run this as: sudo -u {name} ...'
    )


def check_data_dir(config: Config) -> None:
    """Raise CommandError if there is no `data_dir` to look into."""
    if not config.data_dir.is_dir():
        raise CommandError(
            f'{config.path}: data_dir in [General]: {config.data_dir} is no directory'
        )


def add_station_and_days(
    parser: argparse.ArgumentParser, only: str, first: str, last: str
) -> argparse._ArgumentGroup:
    """Add --station, --from and --until, explained so; return their group."""
    filters = parser.add_argument_group('filters', only)
    filters.add_argument(
        '--station',
        type=station_number,
        action='append',
        metavar='N',
        help='of this station; may be repeated',
    )
    filters.add_argument('--from', dest='first', type=day, metavar='DATE', help=first)
    filters.add_argument('--until', dest='last', type=day, metavar='DATE', help=last)
    return filters


def utc(seconds: float) -> str:
    """Return a moment, in s since the epoch, as people read it, in UTC."""
    return f'{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}'


def iso(seconds: float) -> str:
    """Return a moment, in s since the epoch, as programs read it: ISO 8601, UTC."""
    return utc(seconds).replace(' ', 'T') + 'Z'


def printable(text: str) -> str:
    """Return text that came from elsewhere so that it is safe on a terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def number(text: str, least: float, most: float, unit: str) -> float:
    """Return a number that an argument gives, within bounds; for argparse types."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not least <= found <= most:
        raise argparse.ArgumentTypeError(
            f'{text} is not a number of {unit} from {least:g} to {most:g}'
        )
    return found


def _seconds(text: str) -> float:
    return number(text, 0, 3600, 'seconds')


def print_json(document: Any) -> None:
    """Print what `--json` asks for."""
    print(json.dumps(document, indent=1))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print lines of columns; numbers stand to the right."""
    rows = [list(row) for row in rows]
    texts = [list(header)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    is_number = [
        any(isinstance(row[i], int | float) for row in rows) for i in range(len(header))
    ]
    for line in texts:
        cells = [
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(line, widths, is_number, strict=True)
        ]
        print('  '.join(cells).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return '-'
    return f'{value:,}' if isinstance(value, int) else str(value)
