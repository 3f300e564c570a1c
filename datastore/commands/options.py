"""What several commands have in common: their options, and how they print."""

import argparse
import json
import os
import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

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
