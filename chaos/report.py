"""Prints what came out, a row for each fault."""

from chaos.run import Run
from chaos.trials import Row

# The notes that come after the last column have no heading of their own.
_LINE = '{:<21} {:>6} {:>8} {:>5} {:>5} {:>6} {:>7}  {}'
_SHOWN = 3  # events, or files, of each kind and failed trial

HEADING = _LINE.format(
    'fault', 'trials', 'acked', 'lost', 'dupl.', 'unread', 'seconds', ''
).rstrip()


def line(row: Row) -> str:
    """Return the line of one fault."""
    if row.not_run:
        return f'{row.fault.name:<21} not run: {row.not_run}'
    notes = [f'{times} {what}' for what, times in sorted(row.happened.items()) if times]
    if troubles := row.total('trouble'):
        notes.insert(0, f'{troubles} TROUBLE')
    return _LINE.format(
        row.fault.name,
        len(row.outcomes),
        row.acknowledged,
        row.total('lost'),
        row.total('duplicated'),
        row.total('unreadable'),
        f'{row.seconds:.1f}',
        ', '.join(notes),
    ).rstrip()


def failures(row: Row, run: Run) -> list[str]:
    """Return what was wrong in each failed trial, and how to run it again."""
    lines = []
    for outcome in row.failed:
        lines += ['', f'{row.fault.name}, trial {outcome.trial}:']
        for text in outcome.findings.lines(_SHOWN):
            lines += [f'    {part}' for part in text.splitlines()]
        if outcome.debris is None:
            continue
        lines += [
            f'    all that is left of it: {outcome.debris}',
            f'    again: python -m chaos --{"long" if run.long else "short"} '
            f'--seed {run.seed} --only {row.fault.name} --trial {outcome.trial}',
        ]
    return lines
