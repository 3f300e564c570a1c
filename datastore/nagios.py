"""What `datastore status` says to Nagios and its kin: a line, and an exit status.

https://nagios-plugins.org/doc/guidelines.html
"""

from typing import Any

from datastore.wording import size

OK, WARNING, CRITICAL, UNKNOWN = range(4)  # exit statuses
_NAMES = ('OK', 'WARNING', 'CRITICAL', 'UNKNOWN')

_NAMED = 10  # stations, in a line


def verdict(document: dict[str, Any]) -> tuple[int, str]:
    """Return the exit status and the line for a document of `StatusReport`.

    Critical is what `datastore status` exits with 1 for, and a disk so full that
    uploads are held back; a station that is late is a warning.
    """
    counts, disk, spool = document['counts'], document['disk'], document['spool']
    critical, warnings = [], []
    if reason := document['writer']['reason']:
        critical.append(f'writer: {reason}')
    least = disk['min_free_space']
    if least is not None and disk['free'] < least:
        critical.append(f'uploads are held back: {size(disk["free"])} free')
    if spool['unreadable']:
        critical.append(f'{spool["unreadable"]} files of the spool cannot be read')
    if counts['down']:
        critical.append(_stations(document, 'down'))
    if counts['late']:
        warnings.append(_stations(document, 'late'))

    status = CRITICAL if critical else WARNING if warnings else OK
    told = critical + warnings or [f'{counts["up"]} up', 'the writer is well']
    measured = {
        'batches': f'{spool["batches"]}',
        'bytes': f'{spool["bytes"]}B',
        'oldest': f'{spool["oldest_age"] or 0}s',
        'free': f'{disk["free"]}B',
        'late': f'{counts["late"]}',
        'down': f'{counts["down"]}',
    }
    performance = ' '.join(f'{name}={value}' for name, value in measured.items())
    return status, f'{line(status, "; ".join(told))} | {performance}'


def line(status: int, told: str) -> str:
    """Return the line for an exit status; a bar would start figures."""
    told = ' '.join(told.replace('|', '/').split())
    return f'DATASTORE {_NAMES[status]} - {told}'


def _stations(document: dict[str, Any], state: str) -> str:
    numbers = [s['station'] for s in document['stations'] if s['state'] == state]
    named = ', '.join(map(str, numbers[:_NAMED]))
    if len(numbers) > _NAMED:
        named += f' and {len(numbers) - _NAMED} more'
    return f'{len(numbers)} {state}: {named}'
