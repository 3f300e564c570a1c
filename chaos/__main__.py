"""Breaks everything around the datastore and looks whether an event is missing.

python -m chaos [--short | --long] [--only FAULT ...] [--seed N] [--list]
"""

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from chaos import report
from chaos.fault import Fault
from chaos.registry import FAULTS
from chaos.run import Run
from chaos.trials import run_faults

INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 if anything was wrong."""
    arguments = _parser().parse_args(argv)
    if arguments.list:
        for fault in FAULTS.values():
            reason = fault.cannot_run()
            where = f' Not here: {reason}.' if reason else ''
            print(f'{fault.name:<21} {fault.sentence}{where}')
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    directory = Path(tempfile.mkdtemp(prefix='chaos-'))
    run = Run(directory, arguments.seed, long=not arguments.short)
    try:
        return _run(run, [FAULTS[name] for name in arguments.only], arguments.trial)
    except KeyboardInterrupt:
        _show_progress('')
        print('interrupted', file=sys.stderr)
        return INTERRUPTED
    finally:
        run.close()
        shutil.rmtree(directory / 'commits', ignore_errors=True)
        with contextlib.suppress(OSError):
            directory.rmdir()  # unless a failed trial is kept in it


def _run(run: Run, faults: list[Fault], trial: str | None) -> int:
    print(f'{"a long" if run.long else "a short"} run, seed {run.seed}')
    print(report.HEADING, flush=True)
    started = time.monotonic()
    status = 0
    for row in run_faults(run, faults, trial, _show_progress):
        _show_progress('')
        print(report.line(row), flush=True)
        if row.failed:
            status = 1
            print(*report.failures(row, run), '', sep='\n', flush=True)
    print(f'{time.monotonic() - started:.0f} s in all')
    return status


def _show_progress(text: str) -> None:
    """Show one line in place of the one before, if somebody is looking."""
    if sys.stderr.isatty():
        print(f'\r\x1b[K{text}', end='', file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    # Once: what is cleared up after it must not be interrupted.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m chaos',
        description='Break everything around the datastore and look whether an '
        'event that a station was told is stored is missing, or there twice.',
        epilog='Exit code: 0 if nothing was wrong, 1 if anything was, 130 when '
        'interrupted.',
        allow_abbrev=False,
    )
    how_long = parser.add_mutually_exclusive_group()
    how_long.add_argument(
        '--short', action='store_true', help='a sample of the trials, in under 45 s'
    )
    how_long.add_argument(
        '--long', action='store_true', help='all trials, some minutes (the default)'
    )
    parser.add_argument(
        '--only',
        nargs='+',
        choices=FAULTS,
        default=list(FAULTS),
        metavar='FAULT',
        help='only these, of those that --list names',
    )
    parser.add_argument('--trial', help='only the trial of this name')
    parser.add_argument(
        '--seed',
        type=int,
        default=random.SystemRandom().randrange(10**6),
        metavar='N',
        help='make the same choices again (default: others each time)',
    )
    parser.add_argument(
        '--list', action='store_true', help='say what the faults are, and end'
    )
    return parser


if __name__ == '__main__':
    sys.exit(main())
