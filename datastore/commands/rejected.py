"""`datastore rejected`: spool files that could not be read."""

import argparse
import sys
import time
from datetime import date
from typing import Any, NamedTuple

from datastore.commands.options import (
    CommandError,
    add_config,
    add_json,
    add_station_and_days,
    check_data_dir,
    check_owner,
    iso,
    pick,
    print_json,
    print_table,
    printable,
    utc,
)
from datastore.config import read_config
from datastore.spool import MAGIC, Rejected, Spool, SpoolFileError, content_of, examine

_HINT = 'datastore rejected list'


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `rejected` to the commands of the command line."""
    parser = commands.add_parser(
        'rejected',
        help='look at spool files that could not be read, and try them again',
        description=(
            'Look after the spool files that the writer could not read, and set '
            'aside untouched.'
        ),
    )
    actions = parser.add_subparsers(metavar='ACTION', required=True)

    listing = actions.add_parser(
        'list',
        help='list the files',
        description='List the files, each with its error.',
    )
    _add_filters(listing)
    add_config(listing)
    add_json(listing)
    listing.set_defaults(run=_list)

    show = actions.add_parser(
        'show',
        help='say what is wrong with a file, and what is whole of it',
        description='Say what is wrong with a file, and what is whole of it.',
    )
    show.add_argument('name', metavar='NAME', help='or how it starts')
    add_config(show)
    add_json(show)
    show.set_defaults(run=_show)

    retry = actions.add_parser(
        'retry',
        help='put files back into the spool',
        description=(
            'Put files back into the spool, for the writer to try again; after '
            'a fault was mended, or a file was restored. What would be rejected '
            'again stays where it is, and makes the exit status 1.'
        ),
    )
    retry.add_argument('names', nargs='*', metavar='NAME', help='or how it starts')
    _add_filters(retry)
    retry.add_argument('--all', action='store_true', help='every file')
    retry.add_argument(
        '--dry-run', action='store_true', help='say what would be done, and do nothing'
    )
    add_config(retry)
    add_json(retry)
    retry.set_defaults(run=lambda arguments: _retry(retry, arguments))


def _add_filters(parser: argparse.ArgumentParser) -> None:
    filters = add_station_and_days(
        parser,
        'Only files that pass them all; station and day are those in the name.',
        'that arrived on this day or later, in UTC',
        'that arrived on this day or earlier, in UTC',
    )
    filters.add_argument(
        '--reason', metavar='TEXT', help='with an error that holds this text'
    )


def _is_meant(file: Rejected, arguments: argparse.Namespace) -> bool:
    if arguments.station and file.station not in arguments.station:
        return False
    if arguments.reason and arguments.reason.casefold() not in file.error.casefold():
        return False
    if not arguments.first and not arguments.last:
        return True
    if file.arrival is None:
        return False
    first, last = arguments.first or date.min, arguments.last or date.max
    # Digits of equal length: they sort as the days do.
    first_digits, last_digits = (d.isoformat().replace('-', '') for d in (first, last))
    return first_digits <= file.arrival <= last_digits


def _spool(arguments: argparse.Namespace, writes: bool = False) -> Spool:
    config = read_config(arguments.config)
    check_data_dir(config)
    if not (config.data_dir / 'rejected').is_dir():
        raise CommandError(f'nothing was ever spooled in {config.data_dir}')
    if writes:
        check_owner(config.data_dir)
    return Spool(config.data_dir)


def _list(arguments: argparse.Namespace) -> int:
    files = [f for f in _spool(arguments).rejected() if _is_meant(f, arguments)]
    if arguments.json:
        print_json([_as_json(file) for file in files])
        return 0
    rows = [
        (printable(f.name), f.size, utc(f.rejected), printable(_first_line(f.error)))
        for f in files
    ]
    if rows:
        print_table(('name', 'bytes', 'rejected (UTC)', 'error'), rows)
    print(f'{len(rows):,} rejected files')
    return 0


def _as_json(file: Rejected) -> dict[str, Any]:
    return file._asdict() | {'rejected': iso(file.rejected)}


def _first_line(error: str) -> str:
    return error.splitlines()[0] if error else 'nothing says why'


class _Verdict(NamedTuple):
    """What reading a file again finds; `fault` says why it would be rejected."""

    fault: str | None
    station: int = 0
    received: int = 0


def _verdict(spool: Spool, file: Rejected) -> _Verdict:
    """Read a rejected file as the writer will; raises OSError."""
    # Here, because it imports numpy, and other commands do without.
    from datastore.batch import InvalidBatch, decode_batch

    if file.size is None:
        return _Verdict('it is not a file')
    try:
        batch = decode_batch(content_of(spool.read_rejected(file.name)))
    except (SpoolFileError, InvalidBatch) as error:
        return _Verdict(str(error))
    station = batch.station if 0 <= batch.station < 10**10 else 0
    received = batch.received if 0 < batch.received < 2**63 else time.time_ns()
    return _Verdict(None, station, received)


def _show(arguments: argparse.Namespace) -> int:
    spool = _spool(arguments)
    (file,) = _named(spool, [arguments.name])
    facts = _facts(spool, file)
    if arguments.json:
        print_json(_as_json(file) | facts)
        return 0
    print(f'{printable(file.name)}: rejected {utc(file.rejected)} UTC')
    print('error     ', printable(' '.join(file.error.split())) or 'nothing says why')
    for name, fact in facts.items():
        print(f'{name:<10}', fact)
    return 0


def _facts(spool: Spool, file: Rejected) -> dict[str, str]:
    """Return what is found out about a file, by what it is about."""
    now = _verdict(spool, file).fault
    verdict = f'would be rejected again: {now}' if now else 'can be read; retry it'
    if file.size is None:
        return {'now': verdict}
    found = examine(spool.read_rejected(file.name))
    facts = {'size': f'{found.size:,} bytes'}
    is_ours = found.magic == MAGIC
    facts['magic'] = f'{found.magic!r}' + ('' if is_ours else f' instead of {MAGIC!r}')
    if is_ours and found.length is not None:
        facts['length'] = f'{len(found.content):,} bytes'
        if found.length != len(found.content):
            facts['length'] += f' instead of {found.length:,}'
        facts['checksum'] = f'{found.computed:08x}'
        if found.checksum != found.computed:
            facts['checksum'] += f' instead of {found.checksum:08x}'
        facts['content'] = _salvage(found.content)
    return facts | {'now': verdict}


def _salvage(content: bytes) -> str:
    from datastore.batch import salvage_batch

    batch, announced = salvage_batch(content)
    if batch is None:
        return 'not the beginning of a batch'
    return (
        f'{len(batch.events):,} of {announced:,} events can be read, of station '
        f'{batch.station}, cluster {printable(batch.cluster)}'
    )


def _retry(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    has_filter = bool(
        arguments.station or arguments.first or arguments.last or arguments.reason
    )
    if arguments.all and arguments.names:
        parser.error('name files or give --all, not both')
    if not (arguments.names or arguments.all or has_filter):
        parser.error('name a file, or give a filter, or --all')
    spool = _spool(arguments, writes=True)
    files = _named(spool, arguments.names) if arguments.names else spool.rejected()
    results = [
        _try_again(spool, file, arguments.dry_run)
        for file in files
        if _is_meant(file, arguments)
    ]
    if arguments.json:
        print_json(results)
    else:
        done = [result for result in results if not result['fault']]
        would = 'would be ' if arguments.dry_run else ''
        for result in done:
            as_name = f' as {result["spooled_as"]}' if result['spooled_as'] else ''
            print(f'{printable(result["name"])}  {would}put back{as_name}')
        print(f'{len(done):,} of {len(results):,} files {would}put back')
    sys.stdout.flush()
    for result in results:
        if result['fault']:
            name = printable(result['name'])
            print(f'datastore: {name}: {result["fault"]}', file=sys.stderr)
    return int(any(result['fault'] for result in results))


def _try_again(spool: Spool, file: Rejected, pretend: bool) -> dict[str, Any]:
    result = {'name': file.name, 'spooled_as': None, 'fault': None}
    try:
        verdict = _verdict(spool, file)
        if verdict.fault:
            return result | {'fault': f'would be rejected again: {verdict.fault}'}
        if pretend:
            return result
        name = spool.retry(file.name, verdict.station, verdict.received)
        return result | {'spooled_as': name}
    except FileNotFoundError:
        return result | {'fault': 'it is gone'}
    except OSError as error:
        return result | {'fault': error.strerror or str(error)}


def _named(spool: Spool, names: list[str]) -> list[Rejected]:
    files = {file.name: file for file in spool.rejected()}
    return [files[name] for name in pick(names, list(files), _HINT)]
