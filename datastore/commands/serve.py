"""Serves on this machine, for a first look and for development.

    datastore serve [--port 8080] [--data var]

One uWSGI on 127.0.0.1 and one writer, on an embedded configuration, with
everything under one directory.  uWSGI's master starts the writer, restarts it
if it dies, and stops it when it stops itself.
"""

import argparse
import os
import re
import shlex
import shutil
import socket
import sys
import sysconfig
from pathlib import Path

from datastore import durable
from datastore.config import ConfigError, read_config
from wsgi.stations import read_station_list

HOST = '127.0.0.1'

STATION, PASSWORD = 501, 'try-me'

STATION_LIST = f"""\
# number, cluster, password
{STATION}, Science Park, {PASSWORD}
"""

CONFIGURATION = """\
# Written at the first `make run`; edit it, it is not written again.
[General]
log = -
station_list = station_list.csv
data_dir = .

[Writer]
sleep = 2
"""

# What uWSGI evaluates to get its callable.
_APPLICATION = """\
import functools
from wsgi import wsgi_app
wsgi_app.do_init({configfile!r})
application = functools.partial(wsgi_app.application, configfile={configfile!r})
"""


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `serve` to the commands of the command line."""
    parser = commands.add_parser(
        'serve',
        help='serve on this machine, for a first look',
        description='Serve on this machine: uWSGI and the writer, until Ctrl-C.',
    )
    parser.add_argument('--port', type=int, default=8080, help='default: %(default)s')
    parser.add_argument(
        '--data',
        type=Path,
        default=Path('var'),
        metavar='DIR',
        help='where everything is kept; default: %(default)s',
    )
    parser.set_defaults(run=lambda arguments: serve(arguments.port, arguments.data))


def serve(port: int, directory: Path) -> int:
    """Become uWSGI; this returns only by raising ConfigError or OSError."""
    configfile = prepare(directory.expanduser().absolute())
    uwsgi = find_uwsgi()
    _check_port(port)

    url = f'http://{HOST}:{port}/'
    print(f'Serving on   {url}')
    print(f'Data under   {configfile.parent}')
    print('Upload with  ', end='')
    print(
        f'{shlex.quote(os.path.relpath(sys.executable))} -m datastore.station '
        f'--url {url} --station {STATION} --password {PASSWORD} --batches 3'
    )
    print('Stop with    Ctrl-C', flush=True)
    command = uwsgi_command(uwsgi, port, configfile)
    os.execv(uwsgi, command)


def prepare(directory: Path) -> Path:
    """Return the configuration in `directory`, written there if there is none.

    Raises ConfigError if there is one that cannot be used.
    """
    durable.make_directory(directory)
    configfile = directory / 'config.ini'
    for path, text in (
        (configfile, CONFIGURATION),
        (directory / 'station_list.csv', STATION_LIST),
    ):
        if not path.exists():
            path.write_text(text, encoding='utf-8')
            path.chmod(durable.FILE_MODE)
    read_station_list(read_config(configfile).station_list)
    return configfile


def uwsgi_command(uwsgi: str, port: int, configfile: Path) -> list[str]:
    """Return the command line of a uWSGI that serves both programs."""
    arguments = [sys.executable, '-m', 'writer', '--config', str(configfile)]
    # For a shell, as an entry of a list that uWSGI splits at commas.
    writer = re.sub(r'([\\,])', r'\\\1', f'exec {shlex.join(arguments)}')
    options = {
        'http-socket': f'{HOST}:{port}',
        'eval': _APPLICATION.format(configfile=str(configfile)),
        'processes': '2',
        'threads': '4',
        # The writer: started and restarted by the master, stopped with SIGTERM.
        'attach-daemon2': f'cmd={writer},stopsignal=15,reloadsignal=15',
        'socket-timeout': '30',
        'harakiri': '120',
        'add-header': 'Connection: close',  # as it does
    }
    switches = (
        'master',
        'need-app',  # a configuration that cannot be used stops the start
        'no-orphans',  # workers do not outlive a master that is killed
        'die-on-term',  # SIGTERM stops; uWSGI's own habit is to reload
        'disable-logging',  # the endpoint says one line for each upload itself
    )
    command = [uwsgi]
    for name, value in options.items():
        command += [f'--{name}', value]
    return command + [f'--{name}' for name in switches]


def find_uwsgi() -> str:
    """Return the path of uWSGI, the one of this environment first.

    Raises ConfigError if there is none.
    """
    scripts = sysconfig.get_path('scripts')
    uwsgi = shutil.which('uwsgi', path=scripts) or shutil.which('uwsgi')
    if uwsgi is None:
        raise ConfigError('no uwsgi command; it comes with: pip install pyuwsgi')
    return uwsgi


def _check_port(port: int) -> None:
    """Raise ConfigError if nothing can listen on `port`."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, 'strerror', None) or error
            raise ConfigError(
                f'cannot listen on {HOST}:{port}: {reason}; '
                'choose another with --port, or make run PORT='
            ) from error
