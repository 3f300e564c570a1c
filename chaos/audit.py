"""Compares an archive with what stations sent, event by event."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from chaos.bench import Bench
from chaos.events import Key, describe, row_key, upload_key
from chaos.readers import Unreadable
from datastore.spool import TORN
from datastore.suspicious import Suspicious


@dataclass
class Findings:
    """What is wrong with an archive, a line for each event or file.

    `trouble` is what else should never happen.
    """

    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.duplicated or self.unreadable or self.trouble)

    def lines(self, most: int) -> list[str]:
        """Return what was found, at most so many lines of each kind."""
        lines = []
        for kind in ('lost', 'duplicated', 'unreadable', 'trouble'):
            found = getattr(self, kind)
            lines += [f'{kind}: {line}' for line in found[:most]]
            if len(found) > most:
                lines.append(f'{kind}: {len(found) - most} more')
        return lines


def audit(bench: Bench) -> Findings:
    """Return what is wrong on a bench with nothing running."""
    found = Findings(
        len(bench.ledger.acknowledged),
        unreadable=list(bench.unreadable),
        trouble=list(bench.trouble),
    )
    archived = _archived(bench, found)
    kept_aside = _kept_aside(bench.data_dir, found)
    rows = set()
    for key, event in bench.ledger.sent.items():
        row = None
        aside = key in kept_aside
        try:
            row = row_key(key[0], event)  # type: ignore[arg-type]
        except ValueError as error:
            found.trouble.append(f'a row cannot be made of {describe(key)}: {error}')
        times = archived[row] if row else 0
        rows.add(row)
        if times + aside == 0 and key in bench.ledger.acknowledged:
            found.lost.append(describe(key))
        elif times + aside > 1:
            where = f'{times} times in the archive' + ' and in suspicious/' * aside
            found.duplicated.append(f'{describe(key)}: {where}')
    for row, times in archived.items():
        if row not in rows:
            found.trouble.append(f'nobody sent this, {times} times: {describe(row)}')
    _look_for_leftovers(bench, found)
    return found


def _archived(bench: Bench, found: Findings) -> Counter[Key]:
    """Return how often each row is in the archive."""
    archived: Counter[Key] = Counter()
    for path in bench.day_files():
        for name, reader in bench.run.readers.all.items():
            try:
                content = reader.read(path)
            except Unreadable as error:
                found.unreadable.append(f'{path}, by {name}: {error}')
            else:
                if name == 'PyTables':
                    archived.update(content)
    return archived


def _kept_aside(data_dir: Path, found: Findings) -> set[Key]:
    """Return the events in `suspicious/`, by what they are as uploaded."""
    kept: set[Key] = set()
    if not (data_dir / 'suspicious').is_dir():
        return kept
    suspicious = Suspicious(data_dir)
    for name in suspicious.names():
        try:
            document = suspicious.get(name)
            for flagged in document['events']:
                kept.add(upload_key(document['station'], flagged['event']))
                if not flagged['reasons']:
                    found.trouble.append(f'suspicious/{name} gives no reason')
        except (OSError, ValueError, KeyError, TypeError) as error:
            found.unreadable.append(f'suspicious/{name}: {error}')
    return kept


def _look_for_leftovers(bench: Bench, found: Findings) -> None:
    """Note what should not be there when all is stored."""
    for name in bench.waiting():
        found.trouble.append(f'incoming/{name} is left in the spool')
    for path in sorted((bench.data_dir / 'rejected').glob('*')):
        text = path.read_text().strip() if path.suffix == '.error' else ''
        if bench.happened['cuts'] and TORN in (text, _why(path)):
            continue  # an upload that was not answered
        found.trouble.append(f'rejected/{path.name} {text}'.rstrip())
    for path in bench.journals():
        found.trouble.append(f'{path} is left over')
    for line in bench.logs().splitlines():
        if ': internal error' in line or 'stopped by an error of its own' in line:
            found.trouble.append(f'logged: {line}')


def _why(path: Path) -> str:
    """Return why a file was rejected."""
    explanation = path.with_name(f'{path.name}.error')
    return explanation.read_text().strip() if explanation.exists() else ''
