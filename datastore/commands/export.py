"""`datastore export`: the rows of one table of one station, as a file."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from datastore import durable
from datastore.commands.options import (
    CommandError,
    add_config,
    add_wait,
    check_data_dir,
    check_owner,
    station_number,
)
from datastore.config import read_config
from datastore.spool import remove_batches
from datastore.upload_codes import TABLES

if TYPE_CHECKING:
    from writer.export import Selection
    from writer.formats import Format

_TABLES = {table.name: table for table in TABLES}
_DELIMITERS = {'csv': ',', 'tsv': '\t'}
_FORMATS = (*_DELIMITERS, 'npz', 'parquet')


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `export` to the commands of the command line."""
    parser = commands.add_parser(
        'export',
        help='write the rows of a station as CSV, TSV, npz or Parquet',
        description=(
            'Write the rows of one table of a station, from START up to, but not '
            'including, END, in order of time. Times are those of the events: GPS '
            'times counted as if they were Unix times. The writer need not be stopped.'
        ),
        epilog=(
            'A column of four detectors becomes four columns in csv and tsv, as '
            'pulseheights_1. With --blobs, a trace is text of its samples in csv and '
            'tsv, a list of integers in parquet, and null or empty where there is '
            'none; in npz all samples are one array, and traces_offsets says where '
            'each trace begins and ends, four to a row. Texts, likewise.'
        ),
    )
    parser.add_argument('station', type=station_number, metavar='STATION')
    parser.add_argument(
        'start', type=_moment, metavar='START', help='2026-11-21, or 2026-11-21T13:30'
    )
    parser.add_argument('end', type=_moment, metavar='END', help='likewise')
    parser.add_argument(
        '--table',
        choices=_TABLES,
        default='events',
        metavar='TABLE',
        help=f'{", ".join(_TABLES)}; default: %(default)s',
    )
    parser.add_argument(
        '--format',
        choices=_FORMATS,
        help='default: what the name of the output ends in, or csv',
    )
    parser.add_argument(
        '--output',
        '-o',
        type=Path,
        metavar='FILE',
        help='written only if all goes well; default: standard output',
    )
    parser.add_argument(
        '--blobs', action='store_true', help='traces and texts as well, decoded'
    )
    parser.add_argument(
        '--no-header',
        action='store_true',
        help="csv and tsv without the lines of explanation, which begin with '# '",
    )
    add_wait(parser)
    add_config(parser)
    parser.set_defaults(run=lambda arguments: _export(parser, arguments))


def _export(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    # Here, because h5py takes a while to import and other commands do without.
    from writer.export import Selection
    from writer.formats import MissingLibrary
    from writer.journal import FileBusy
    from writer.reading import Reading
    from writer.storage import DamagedFile

    if arguments.start >= arguments.end:
        parser.error(f'END {arguments.end} is not after START {arguments.start}')
    config = read_config(arguments.config)
    check_data_dir(config)
    check_owner(config.data_dir)
    selection = Selection(
        config.data_dir,
        Reading(partial(remove_batches, config.data_dir), arguments.wait),
        arguments.station,
        _TABLES[arguments.table],
        arguments.start,
        arguments.end,
        arguments.blobs,
    )
    try:
        count = _write(selection, arguments)
    except (MissingLibrary, FileBusy, DamagedFile) as error:
        raise CommandError(error) from error
    if arguments.output:
        print(f'{count:,} rows written to {arguments.output}', file=sys.stderr)
    if selection.undecodable:
        raise CommandError(
            f'{selection.undecodable} traces could not be decoded, and are left '
            'empty; everything else is written'
        )
    return 0


def _write(selection: 'Selection', arguments: argparse.Namespace) -> int:
    """Write the rows to the output; return how many."""
    parts = selection.parts()
    # Before the output is opened: without rows there is nothing to write.
    first = next((part for part in parts if len(part.rows)), None)
    if first is None:
        raise CommandError(_no_rows(selection, arguments))
    count = len(first.rows)
    with _output(arguments.output, _format(arguments)) as stream:
        file = _open_format(stream, selection, arguments)
        file.write(first)
        for part in parts:
            if len(part.rows):
                file.write(part)
                count += len(part.rows)
        file.close()
    return count


def _no_rows(selection: 'Selection', arguments: argparse.Namespace) -> str:
    asked = (
        f'station {arguments.station} has no {arguments.table} '
        f'from {arguments.start.isoformat()} up to {arguments.end.isoformat()}'
    )
    if not selection.tables_met:
        return f'{asked}; there is no file of it on these days'
    return f'{asked}; its files hold {", ".join(sorted(selection.tables_met))}'


def _format(arguments: argparse.Namespace) -> str:
    if arguments.format:
        return str(arguments.format)
    suffix = arguments.output.suffix[1:].lower() if arguments.output else ''
    return suffix if suffix in _FORMATS else 'csv'


def _open_format(
    stream: IO[bytes], selection: 'Selection', arguments: argparse.Namespace
) -> 'Format':
    from writer.formats import Npz, Parquet, Text

    name = _format(arguments)
    if name == 'parquet':
        return Parquet(stream, selection.columns)
    if name == 'npz':
        output = arguments.output
        scratch = (
            output.resolve().parent if output and not _is_special(output) else None
        )
        return Npz(stream, selection.columns, scratch)
    comments = () if arguments.no_header else _comments(selection, arguments)
    return Text(stream, selection.columns, _DELIMITERS[name], comments)


def _comments(selection: 'Selection', arguments: argparse.Namespace) -> Iterator[str]:
    """Yield what a reader of the file should know."""
    yield (
        f'{selection.table.title}, station {arguments.station}, '
        f'from {arguments.start.isoformat()} up to {arguments.end.isoformat()}'
    )
    yield 'Times are GPS times counted as if they were Unix times.'
    yield '-1: the detector is absent. -999: the station could not determine it.'
    units = [f'{c.name} [{c.unit}]' for c in selection.columns if c.unit]
    yield f'Units: {", ".join(units)}'


@contextlib.contextmanager
def _output(path: Path | None, format_name: str) -> Iterator[IO[bytes]]:
    """Open what is written to; a file is there only if all goes well."""
    if path is None:
        if format_name not in _DELIMITERS and sys.stdout.isatty():
            raise CommandError(f'{format_name} is not for a terminal; give --output')
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if _is_special(path):
        with open(path, 'wb') as stream:
            yield stream
        return
    path = path.resolve()  # behind a link, which stays
    draft = path.with_name(f'.{path.name[:200]}.{os.getpid()}.part')
    try:
        with open(draft, 'xb') as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(draft, path)
        durable.fsync_directory(path.parent)
    finally:
        # A crash before this leaves a hidden file beside the output.
        draft.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """Return whether this is a pipe or a device, which nothing can replace."""
    return path.exists() and not path.is_file()


def _moment(text: str) -> datetime:
    """Return the moment that an argument gives; an argparse type."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo or moment.microsecond:
        raise argparse.ArgumentTypeError(
            f'{text} is not a date or time such as 2026-11-21 or 2026-11-21T13:30:05, '
            'in whole seconds and without a time zone'
        )
    return moment
