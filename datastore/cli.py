"""The command line, `datastore COMMAND`.

Exit status: 0 if all is well, 1 if the command found or met a fault, 2 if it
was called wrongly, 130 if Ctrl-C interrupted it.  Faults of the configuration
are one line on stderr.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable

from datastore.commands import (
    check,
    export,
    merge,
    rejected,
    serve,
    stations,
    status,
    suspicious,
    verify,
)
from datastore.commands.options import CommandError
from datastore.config import ConfigError

# In the order of the help.
COMMANDS = (
    serve,
    status,
    check,
    stations,
    verify,
    suspicious,
    rejected,
    merge,
    export,
)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog='datastore', description='Look after a datastore of detector stations.'
    )
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    for command in COMMANDS:
        command.add_command(commands)
    arguments = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal of another encoding shows escapes, and stops nothing.
        sys.stdout.reconfigure(errors='backslashreplace')
    try:
        status = run(arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print('datastore: interrupted', file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `| head` has read enough; Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CommandError, ConfigError, OSError) as error:
        print(f'datastore: {error}', file=sys.stderr)
        return 1
