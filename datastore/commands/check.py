"""`datastore check`: can this deployment work, and what is to be mended?"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from datastore.checks import FAULT, OK, WARNING, Finding, check_all
from datastore.commands.options import add_config, add_json, print_json
from datastore.commands.serve import find_uwsgi
from datastore.config import ConfigError, read_config
from wsgi.stations import read_station_list


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `check` to the commands of the command line."""
    parser = commands.add_parser(
        'check',
        help='check the deployment, and say how to mend it',
        description=(
            'Check configuration, station list, directories, disk, limits, clock, '
            'uWSGI and the writer, as the user that both programs run as; nothing '
            'is changed. Exit status 1 if there is a fault.'
        ),
    )
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    findings = list(_findings(Path(arguments.config)))
    if arguments.json:
        print_json([finding._asdict() for finding in findings])
    else:
        for finding in findings:
            print(f'{finding.level:<8} {finding.subject}: {finding.found}')
            if finding.mend:
                print(f'{"":<8} -> {finding.mend}')
        counts = [
            sum(finding.level == level for finding in findings)
            for level in (OK, WARNING, FAULT)
        ]
        print('{} ok, {} warnings, {} faults'.format(*counts))
    return int(any(finding.level == FAULT for finding in findings))


def _findings(configfile: Path) -> Iterator[Finding]:
    try:
        config = read_config(configfile)
    except ConfigError as error:
        yield Finding(
            FAULT,
            'config',
            str(error),
            'correct it; examples/config.ini explains every key',
        )
        return  # nothing else is known
    yield Finding(OK, 'config', f'{config.path} can be used')
    yield from _check_stations(config.station_list)
    if config.url is not None:
        yield _check_copy(config.station_list)
    yield from _check_uwsgi()
    yield from check_all(config)


def _check_stations(path: Path) -> Iterator[Finding]:
    try:
        stations = read_station_list(path)
        is_public = bool(path.stat().st_mode & 0o004)
    except (ConfigError, OSError) as error:
        yield Finding(
            FAULT,
            'station_list',
            str(error),
            'correct it: a line has number, cluster, password',
        )
        return
    if not len(stations):
        yield Finding(
            FAULT,
            'station_list',
            f'{path} lists no station',
            'add a line for each station: number, cluster, password',
        )
    elif is_public:
        yield Finding(
            WARNING,
            'station_list',
            f'everybody on this machine can read the passwords in {path}',
            f'chmod o-rwx {path}',
        )
    else:
        yield Finding(OK, 'station_list', f'{len(stations)} stations in {path}')


def _check_copy(path: Path) -> Finding:
    directory = path.resolve().parent
    if os.access(directory, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(OK, 'url', f'what it gives can be kept in {path}')
    return Finding(
        FAULT,
        'url',
        f'what it gives cannot be kept in {path}: this user may not write to '
        f'{directory}',
        'set station_list to a file in data_dir, and restart both programs',
    )


def _check_uwsgi() -> Iterator[Finding]:
    try:
        yield Finding(OK, 'uwsgi', find_uwsgi())
    except ConfigError as error:
        yield Finding(FAULT, 'uwsgi', str(error), 'pip install pyuwsgi')
