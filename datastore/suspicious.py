"""Events kept for a person, each with the reasons why.

A file in `suspicious/` is a JSON document with the flagged events of one
upload.  Its name ends in a digest of what it holds, so the same upload, flagged
again for the same reasons, replaces it instead of standing beside it.

Text, numbers and lists are JSON's own; a datetime is `{"$datetime": "2011-02-
22T13:24:57.656000"}`, and a dict with a key that starts with `$` is
`{"$dict": [[key, value], ...]}`, so that nothing a station sends reads as
anything else.
"""

import hashlib
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from datastore import durable


class Flagged(NamedTuple):
    """One event as it was uploaded, and why it is suspicious."""

    event: Any
    reasons: tuple[str, ...]


def count_suspicious(data_dir: Path) -> int:
    """Return how many files wait for a person.  Raises OSError."""
    return sum(n.endswith('.json') for n in os.listdir(data_dir / 'suspicious'))


class Suspicious:
    """The flagged events under `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / 'suspicious'
        self._tmp = data_dir / 'tmp'
        for directory in (self._directory, self._tmp):
            durable.make_directory(directory)

    def put(
        self,
        station: int,
        cluster: str,
        received: int,
        flagged: list[Flagged],
        upload: str | None = None,
    ) -> str:
        """Keep flagged events of one upload, durably, and return the file's name.

        `received` is in ns since the epoch, `upload` the id of the upload if it
        is known.  Raises OSError, with nothing
        kept, if the disk does not take it.
        """
        events = [
            {'reasons': list(reasons), 'event': _to_json(event)}
            for event, reasons in flagged
        ]
        identity = json.dumps([station, cluster, events], sort_keys=True)
        digest = hashlib.blake2b(identity.encode('ascii'), digest_size=8).hexdigest()
        name = f'{station}-{digest}.json'
        document = {
            'station': station,
            'cluster': cluster,
            'received': received,
            'upload': upload,
            'events': events,
        }
        content = json.dumps(document, indent=1).encode('ascii')
        durable.put(self._directory / name, content, self._tmp)
        return name

    def names(self) -> list[str]:
        """Return the names of the files that wait for a person."""
        return sorted(path.name for path in self._directory.glob('*.json'))

    def get(self, name: str) -> dict[str, Any]:
        """Return the document `name`, its events as they were uploaded.

        Keys `station`, `cluster`, `received` (ns since the epoch),
        `upload` (its id) and `events`, a list of `{'reasons': [str], 'event': ...}`.
        """
        document = json.loads((self._directory / name).read_bytes())
        for flagged in document['events']:
            flagged['event'] = _from_json(flagged['event'])
        return document


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return {'$datetime': value.isoformat()}
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        pairs = [[key, _to_json(item)] for key, item in value.items()]
        if any(key.startswith('$') for key in value):
            return {'$dict': pairs}
        return dict(pairs)
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, dict):
        if '$datetime' in value:
            return datetime.fromisoformat(value['$datetime'])
        pairs = value['$dict'] if '$dict' in value else value.items()
        return {key: _from_json(item) for key, item in pairs}
    return value
