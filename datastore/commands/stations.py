"""`datastore stations`: who may upload."""

import argparse
import contextlib
import getpass
import sys
from collections.abc import Iterator
from pathlib import Path

from datastore import passwords, station_list
from datastore.commands.options import (
    CommandError,
    add_config,
    add_json,
    print_json,
    print_table,
    station_number,
)
from datastore.config import Config, read_config, shown_url
from datastore.station_list import Changes, Station


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `stations` to the commands of the command line."""
    parser = commands.add_parser(
        'stations',
        help='list, add and check the stations that may upload',
        description=(
            'Look after the station list. The endpoint follows every change '
            'within a second, without a restart.'
        ),
    )
    actions = parser.add_subparsers(metavar='ACTION', required=True)

    action = actions.add_parser(
        'list',
        help='show the stations, without their passwords',
        description='Show number and cluster of each station, and whether its '
        'password is hashed or plain.',
    )
    action.add_argument('--cluster', metavar='NAME', help='only those of a cluster')
    action.set_defaults(run=_list)

    action = actions.add_parser(
        'add',
        help='add a station',
        description='Add a station to the list. Its password is asked for, unless '
        'an option says where it comes from.',
    )
    action.add_argument('number', type=station_number, metavar='NUMBER')
    action.add_argument('cluster', metavar='CLUSTER')
    _add_password_options(action)
    action.set_defaults(run=_add)

    action = actions.add_parser(
        'passwd',
        help='give a station another password',
        description='Replace the password of a station. It is asked for, unless an '
        'option says where it comes from.',
    )
    action.add_argument('number', type=station_number, metavar='NUMBER')
    _add_password_options(action)
    action.set_defaults(run=_passwd)

    action = actions.add_parser(
        'hash',
        help='hash the passwords that are plain',
        description='Replace every plain password of the list by its hash. The '
        'stations notice nothing.',
    )
    action.set_defaults(run=_hash)

    action = actions.add_parser(
        'check',
        help='name every mistake in the list',
        description='Check a station list. Exit status 1 if a line is at fault.',
    )
    action.add_argument(
        'file', nargs='?', type=Path, metavar='FILE', help='default: that of --config'
    )
    action.set_defaults(run=_check)

    action = actions.add_parser(
        'fetch',
        help='fetch the list now from the url in [Stations]',
        description='Fetch the station list from the url in [Stations], as the '
        'writer does on an interval. Exit status 1 if the list is refused or '
        'cannot be fetched; the one there is stays then.',
    )
    action.add_argument(
        '--force',
        action='store_true',
        help='also take a list that drops more than half of the stations',
    )
    action.set_defaults(run=_fetch)

    for action in actions.choices.values():
        add_config(action)
        add_json(action)


def _add_password_options(parser: argparse.ArgumentParser) -> None:
    # None takes the password itself: everybody on the machine reads arguments.
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--password-stdin',
        action='store_true',
        help='read the password from standard input, a line of UTF-8',
    )
    source.add_argument(
        '--generate',
        action='store_true',
        help='make a password, and print it this once',
    )
    parser.add_argument(
        '--plain',
        action='store_true',
        help='write the password as it is, instead of its hash (scrypt)',
    )


def _list(arguments: argparse.Namespace) -> int:
    stations = station_list.read_stations(read_config(arguments.config).station_list)
    rows = sorted(stations.values())
    if arguments.cluster is not None:
        wanted = arguments.cluster.casefold()
        rows = [station for station in rows if station.cluster.casefold() == wanted]
        if not rows:
            raise CommandError(f'no station is in a cluster {arguments.cluster}')
    if arguments.json:
        print_json([_document(station) for station in rows])
        return 0
    print_table(
        ('station', 'cluster', 'password'),
        [(str(each.number), each.cluster, _kind(each)) for each in rows],
    )
    return 0


def _add(arguments: argparse.Namespace) -> int:
    config = _editable(arguments)
    # Before a password is asked for in vain; with one that is good as a list's.
    _added(config.station_list, Station(arguments.number, arguments.cluster, 'x'))
    password = _new_password(arguments)
    station = Station(
        arguments.number, arguments.cluster, _known_as(password, arguments)
    )
    with station_list.locked(config.station_list) as path:
        _replace(path, _added(path, station))
    _say('Added', station, password, arguments)
    return 0


def _passwd(arguments: argparse.Namespace) -> int:
    config = _editable(arguments)
    _listed(config.station_list, arguments.number)
    password = _new_password(arguments)
    known_as = _known_as(password, arguments)
    with station_list.locked(config.station_list) as path:
        station = _listed(path, arguments.number)._replace(password=known_as)
        with _refusing(path):
            edited = station_list.with_password(path.read_bytes(), station)
        _replace(path, edited)
    _say('Changed the password of', station, password, arguments)
    return 0


def _hash(arguments: argparse.Namespace) -> int:
    config = _editable(arguments)
    with station_list.locked(config.station_list) as path:
        plain = [
            station
            for station in station_list.read_stations(path).values()
            if not passwords.is_hash(station.password)
        ]
        content = path.read_bytes()
        for station in plain:
            known_as = passwords.hash_password(station.password)
            hashed = station._replace(password=known_as)
            content = station_list.with_password(content, hashed)
        if plain:
            _replace(path, content)
    if arguments.json:
        print_json({'hashed': [station.number for station in plain]})
    else:
        print(f'{config.station_list}: {len(plain)} plain passwords hashed')
    return 0


def _check(arguments: argparse.Namespace) -> int:
    path = arguments.file or read_config(arguments.config).station_list
    stations, _, faults = station_list.parse(station_list.read_content(path))
    hashed = sum(passwords.is_hash(each.password) for each in stations.values())
    if arguments.json:
        document = {
            'path': str(path),
            'stations': len(stations),
            'hashed': hashed,
            'plain': len(stations) - hashed,
            'faults': [fault._asdict() for fault in faults],
        }
        print_json(document)
        return int(bool(faults))
    for line, reason in faults:
        where = f'{path}, line {line}' if line else path
        print(f'{where}: {reason}')
    print(
        f'{path}: {len(stations)} stations, {hashed} passwords hashed, '
        f'{len(stations) - hashed} plain, {len(faults)} faults'
    )
    return int(bool(faults))


def _fetch(arguments: argparse.Namespace) -> int:
    # Here, because TLS takes a while to import and other commands do without.
    from datastore.station_list_url import FetchError, StationListUrl

    config = read_config(arguments.config)
    source = StationListUrl(config)
    try:
        changes: Changes = source.fetch(force=arguments.force)
    except FetchError as error:
        raise CommandError(str(error)) from error
    if arguments.json:
        print_json({'url': source.shown} | changes._asdict())
        return 0
    stations = station_list.read_stations(config.station_list)
    print(f'{config.station_list}: {changes}; {len(stations)} stations listed')
    return 0


def _editable(arguments: argparse.Namespace) -> Config:
    """Return the configuration; raises CommandError if its list is a copy."""
    config = read_config(arguments.config)
    if config.url is not None:
        raise CommandError(
            f'{config.station_list} is a copy of {shown_url(config.url)}, '
            f'the url in [Stations] of {config.path}; change the list there'
        )
    return config


def _added(path: Path, station: Station) -> bytes:
    """Return the list with one more station; the first makes the file."""
    content = path.read_bytes() if path.exists() else b''
    station_list.stations_of(content, path)
    with _refusing(path):
        return station_list.with_station(content, station)


def _listed(path: Path, number: int) -> Station:
    stations = station_list.read_stations(path)
    if number not in stations:
        raise CommandError(
            f'{path}: station {number} is not listed; datastore stations add adds it'
        )
    return stations[number]


def _replace(path: Path, content: bytes) -> None:
    """Write the list; raises CommandError if this user may not."""
    try:
        station_list.replace(path, content)
    except PermissionError as error:
        raise CommandError(
            f'{path} is not changed: this user may not write to {path.parent}; '
            'ask as its owner'
        ) from error


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn what the list cannot hold into one line for the operator."""
    try:
        yield
    except ValueError as error:
        raise CommandError(f'{path} is not changed: {error}') from error


def _new_password(arguments: argparse.Namespace) -> str:
    if arguments.generate:
        return passwords.generate_password()
    password = _read_password() if arguments.password_stdin else _ask_password()
    try:
        passwords.check_password(password)
    except ValueError as error:
        raise CommandError(f'station {arguments.number}: {error}') from error
    return password


def _read_password() -> str:
    try:
        text = sys.stdin.buffer.read(2 * passwords.MAX_PASSWORD).decode('utf-8')
    except UnicodeDecodeError as error:
        raise CommandError('the password on standard input is not UTF-8') from error
    # The end of the line that `echo` or an editor puts there is none of it.
    return text.removesuffix('\n').removesuffix('\r')


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise CommandError(
            'no terminal to ask for a password at; give --password-stdin or --generate'
        )
    try:
        password = getpass.getpass('Password: ')
        again = getpass.getpass('The same again: ')
    except (EOFError, KeyboardInterrupt):
        raise CommandError('no password was given; nothing is changed') from None
    if again != password:
        raise CommandError('the two passwords differ; nothing is changed')
    return password


def _known_as(password: str, arguments: argparse.Namespace) -> str:
    return password if arguments.plain else passwords.hash_password(password)


def _say(
    what: str, station: Station, password: str, arguments: argparse.Namespace
) -> None:
    if arguments.json:
        shown = {'generated': password} if arguments.generate else {}
        print_json(_document(station) | shown)
        return
    print(f'{what} station {station.number} ({station.cluster}), {_kind(station)}')
    if arguments.generate:
        print(f'Its password, which is not shown again: {password}')


def _document(station: Station) -> dict[str, object]:
    return {
        'station': station.number,
        'cluster': station.cluster,
        'password': _kind(station),
    }


def _kind(station: Station) -> str:
    return 'hashed' if passwords.is_hash(station.password) else 'plain'
