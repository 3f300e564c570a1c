"""`datastore status`: which stations upload, and does the writer keep up?"""

import argparse
import time
from typing import Any

from datastore import nagios
from datastore.commands.options import (
    CommandError,
    add_config,
    add_json,
    print_json,
    print_table,
    station_number,
    utc,
)
from datastore.config import ConfigError, read_config
from datastore.wording import duration, size
from wsgi.stations import read_station_list


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `status` to the commands of the command line."""
    parser = commands.add_parser(
        'status',
        help='show which stations upload, and whether the writer keeps up',
        description=(
            'Show what waits in the spool, how the writer fares, and what each '
            'station uploaded, the silent ones first. "Today" is the day of '
            'arrival, UTC. Exit status 1 if a station is down or the writer is '
            'not well; a station that is late is no fault.'
        ),
    )
    parser.add_argument(
        'stations',
        nargs='*',
        type=station_number,
        metavar='STATION',
        help='only these stations',
    )
    parser.add_argument(
        '--down', action='store_true', help='only stations that are late or down'
    )
    parser.add_argument(
        '--nagios',
        action='store_true',
        help=(
            'print one line, as a plugin of Nagios: exit status 2 where it would '
            'be 1, or where the disk holds uploads back; 1 if a station is late; '
            '3 if nothing can be told'
        ),
    )
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=lambda arguments: _status(parser, arguments))


def _status(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    if arguments.nagios:
        if arguments.json or arguments.down:
            parser.error('--nagios goes with neither --json nor --down')
        return _tell_nagios(arguments)
    document = _document(arguments)
    is_well = not document['writer']['reason'] and not document['counts']['down']
    if arguments.down:
        document['stations'] = [s for s in document['stations'] if s['state'] != 'up']
    if arguments.json:
        print_json(document)
    else:
        _print(document)
    return int(not is_well)


def _tell_nagios(arguments: argparse.Namespace) -> int:
    try:
        status, line = nagios.verdict(_document(arguments))
    except (CommandError, ConfigError, OSError) as error:
        status, line = nagios.UNKNOWN, nagios.line(nagios.UNKNOWN, str(error))
    print(line)
    return status


def _document(arguments: argparse.Namespace) -> dict[str, Any]:
    # Here, because it imports numpy, and other commands do without.
    from datastore.status import StatusReport

    config = read_config(arguments.config)
    clusters = read_station_list(config.station_list).clusters()
    for number in arguments.stations:
        if number not in clusters:
            raise CommandError(f'station {number} is not in {config.station_list}')
    if arguments.stations:
        clusters = {number: clusters[number] for number in arguments.stations}

    try:
        return StatusReport(config).document(clusters, time.time())
    except FileNotFoundError as error:
        raise CommandError(
            f'{error.filename} is not there: is data_dir in {config.path} right, '
            'and has the endpoint or the writer ever been started?'
        ) from None
    except PermissionError as error:
        raise CommandError(
            f'{error.filename} cannot be read by this user; ask as the one that '
            'the endpoint and the writer run as'
        ) from None


def _print(document: dict[str, Any]) -> None:
    now = document['time']
    spool, disk, counts = document['spool'], document['disk'], document['counts']
    waiting = f'{spool["batches"]:,} batches, {size(spool["bytes"])}'
    if spool['oldest'] is not None:
        waiting += f'; the oldest waits for {duration(spool["oldest_age"])}'
    if spool['unreadable']:
        waiting += f'; {spool["unreadable"]:,} files cannot be read'
    free = f'{size(disk["free"])} free'
    if disk['min_free_space'] is not None:
        free += f'; below {size(disk["min_free_space"])} uploads are held back'
    kept = (
        f'{document["suspicious_files"]:,} files in suspicious/, '
        f'{document["rejected_files"]:,} in rejected/'
    )
    print(f'Spool     {waiting}')
    print(f'Writer    {_writer(document["writer"], now)}')
    print(f'Disk      {free}')
    print(f'Kept      {kept}')
    if refusals := _refusals(document['unknown_senders'], now):
        print(f'Unknown   senders were answered {refusals}')
    states = ', '.join(f'{count} {state}' for state, count in counts.items())
    print(f'Stations  {states}')
    if not document['stations']:
        return
    print()
    header = (
        *('station', 'cluster', 'state', 'last upload', 'last event', 'uploads'),
        *('suspicious', 'duplicates', 'events today', 'refused'),
    )
    print_table(header, [_row(station, now) for station in document['stations']])


def _writer(writer: dict[str, Any], now: int) -> str:
    told = writer['reason'] or f'runs as process {writer["pid"]}'
    if current := writer.get('current'):
        told += f'; sweeps for {duration(now - current["started"])}: {_sweep(current)}'
        return told
    last, stored = writer.get('sweep'), writer.get('stored')
    if last:
        told += f'; last sweep {_ago(last["started"] + last["seconds"], now)}'
    if stored:
        ended = stored['started'] + stored['seconds']
        told += f'; {_sweep(stored)} in {stored["seconds"]:.1f} s, {_ago(ended, now)}'
    return told


def _sweep(sweep: dict[str, Any]) -> str:
    told = f'{sweep["events"]:,} events stored from {sweep["batches"]:,} batches'
    for name in ('duplicates', 'suspicious', 'rejected'):
        if sweep[name]:
            told += f', {sweep[name]:,} {name}'
    return told


def _row(station: dict[str, Any], now: int) -> tuple[object, ...]:
    today = ' '.join(f'{kind} {n:,}' for kind, n in station['events_today'].items())
    return (
        str(station['station']),
        station['cluster'],
        station['state'],
        _ago(station['last_upload'], now),
        None if station['last_event'] is None else utc(station['last_event']),
        station['uploads'],
        station['suspicious'],
        station['duplicates'],
        today or None,
        _refusals(station['refusals'], now) or None,
    )


def _refusals(refusals: dict[str, dict[str, int]], now: int) -> str:
    return '; '.join(
        f'{rcode}: {refusal["count"]:,}, last {_ago(refusal["last"], now)}'
        for rcode, refusal in refusals.items()
    )


def _ago(moment: float | None, now: float) -> str:
    return 'never' if moment is None else f'{duration(max(0, now - moment))} ago'
