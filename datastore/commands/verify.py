"""`datastore verify`: are the files of the archive whole?"""

import argparse
import os
import re
import sys
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from datastore import layout
from datastore.commands.options import (
    CommandError,
    add_config,
    add_json,
    check_data_dir,
    check_owner,
    print_json,
)
from datastore.config import read_config
from datastore.spool import remove_batches

if TYPE_CHECKING:
    from writer.verify import Verdict


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `verify` to the commands of the command line."""
    parser = commands.add_parser(
        'verify',
        help='check that the files of the archive are whole',
        description=(
            'Open the day files, finish what a crash interrupted, and check that '
            'tables, blobs and digests agree. Exit status 1 if one is at fault.'
        ),
    )
    parser.add_argument(
        'which',
        nargs='?',
        metavar='DATE|STATION',
        help='only the files of a day (2026-11-21), or of a station (501)',
    )
    parser.add_argument('--all', action='store_true', help='every file')
    add_config(parser)
    add_json(parser)
    parser.set_defaults(run=lambda arguments: _verify(parser, arguments))


def _verify(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
    # Here, because h5py takes a while to import and other commands do without.
    from writer.verify import verify_file

    if (arguments.which is None) != arguments.all:
        parser.error('name a DATE or a STATION, or give --all')
    pattern = _pattern(parser, arguments.which)
    config = read_config(arguments.config)
    check_data_dir(config)
    check_owner(config.data_dir)
    os.scandir(config.data_dir).close()  # glob passes over what it may not list
    paths = sorted(config.data_dir.glob(pattern))
    if arguments.which and not paths:
        # An archive may be empty; what somebody names is to be there.
        sought = f'{config.data_dir}/{pattern}'
        raise CommandError(f'no file of {arguments.which}: looked for {sought}')
    if paths and not any(os.access(p, os.W_OK, effective_ids=True) for p in paths):
        # They are opened as the writer does, which may have a journal to replay.
        raise CommandError(
            f'{config.data_dir}: this user cannot write to any of its files, as '
            'verify has to, for journals that crashes left; run it as their owner, '
            'or on a copy that can be written to'
        )
    finish = partial(remove_batches, config.data_dir)
    bar = tqdm(paths, unit='file', disable=arguments.json or not sys.stderr.isatty())
    verdicts = []
    for path in bar:
        verdict = verify_file(path, finish)
        verdicts.append(verdict)
        if not arguments.json:
            # As they come: there may be years of them.
            bar.clear()
            print(_line(verdict, config.data_dir), flush=True)

    if arguments.json:
        rows = [v._asdict() | {'path': str(v.path)} for v in verdicts]
        print_json(rows)
    else:
        faulty = sum(bool(v.faults) for v in verdicts)
        busy = sum(v.busy for v in verdicts)
        print(f'{len(verdicts)} files, {faulty} at fault, {busy} busy')
    return int(any(v.faults or v.busy for v in verdicts))


def _line(verdict: 'Verdict', data_dir: Path) -> str:
    relative = verdict.path.relative_to(data_dir)
    found = '; '.join(verdict.faults) or ('busy' if verdict.busy else 'ok')
    replayed = ', after replaying its journal' if verdict.replayed else ''
    counts = f'{verdict.rows:>9,} rows {verdict.blobs:>9,} blobs'
    return f'{relative!s:<36} {counts}  {found}{replayed}'


def _pattern(parser: argparse.ArgumentParser, which: str | None) -> str:
    """Return the glob of the day files that are meant."""
    if which is None:
        return layout.STATION_FILES
    if re.fullmatch('[0-9]{1,10}', which):
        return f'{layout.DAYS}/station_{int(which)}.h5'
    try:
        day = date.fromisoformat(which)
    except ValueError:
        parser.error(f'{which} is neither a date such as 2026-11-21 nor a station')
    return f'{layout.day_directory(Path(), day)}/station_*.h5'
