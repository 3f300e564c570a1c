"""Events kept for a person, each with the reasons why.

A file in `suspicious/` is a JSON document with the flagged events of one
upload, a line for each.  Its name ends in a digest of what it holds, so the same
upload, flagged again for the same reasons, replaces it instead of standing
beside it.  What a person discards is moved to `suspicious/discarded/`.

Text, numbers and lists are JSON's own; a datetime is `{"$datetime": "2011-02-
22T13:24:57.656000"}`, and a dict with a key that starts with `$` is
`{"$dict": [[key, value], ...]}`, so that nothing a station sends reads as
anything else.  Documents are UTF-8, in which a lone surrogate is encoded as if
it were a character; earlier ones are ASCII, which reads the same.
"""

import hashlib
import itertools
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from datastore import durable

# Text decoded from Python 3 pickles may hold lone surrogates, even two that
# would be one character if JSON escaped them.
UNICODE_ERRORS = 'surrogatepass'

_LARGE = 2**20  # characters of an event


class DocumentError(ValueError):
    """The file is not a document of flagged events; says why."""


class Flagged(NamedTuple):
    """One event as it was uploaded, and why it is suspicious."""

    event: Any
    reasons: tuple[str, ...]


def count_suspicious(data_dir: Path) -> int:
    """Return how many files wait for a person.  Raises OSError."""
    return sum(n.endswith('.json') for n in os.listdir(data_dir / 'suspicious'))


class Kept(NamedTuple):
    """A flagged event as it stands in a document; decoded when asked for.

    `event` and `moment` raise DocumentError if it was not written by us.
    """

    encoded: Any
    reasons: tuple[str, ...]

    @property
    def event(self) -> Any:
        """The event as it was uploaded."""
        return _decode(self.encoded)

    @property
    def moment(self) -> datetime | None:
        """The datetime of the header, if it has one."""
        event = self.encoded
        if not isinstance(event, dict) or '$dict' in event:
            event = self.event
        # The header alone: this is asked of every event of every document.
        header = _decode(event.get('header')) if isinstance(event, dict) else None
        moment = header.get('datetime') if isinstance(header, dict) else None
        return moment if isinstance(moment, datetime) else None


class Document(NamedTuple):
    """The flagged events of one upload.

    `received` is in ns since the epoch; `upload` is its id, which documents of
    before there were any lack.
    """

    station: int
    cluster: str
    received: int
    upload: str | None
    events: list[Kept]


class Documents:
    """The documents in one directory, which is made when one is put there."""

    def __init__(self, directory: Path, tmp: Path) -> None:
        self.directory = directory
        self._tmp = tmp

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
        is known.  Raises OSError, with nothing kept, if the disk does not take it.
        """
        # An event a line: `indent` would take four times as long, and a station
        # that has lost the date has all of its events flagged.  One at a time, too:
        # of an event that is large, JSON takes several times the memory.
        lines: list[bytes] = []
        # Of the JSON of [station, cluster, events].
        digest = hashlib.blake2b(_dump([station, cluster])[:-1], digest_size=8)
        for event, reasons in flagged:
            kept = {'reasons': list(reasons), 'event': _to_json(event)}
            digest.update(b', ' if lines else b', [')
            digest.update(_dump(kept, sort_keys=True))
            lines.append(_dump(kept))
        digest.update(b']]' if lines else b', []]')
        name = f'{station}-{digest.hexdigest()}.json'
        head = {
            'station': station,
            'cluster': cluster,
            'received': received,
            'upload': upload,
        }
        document = b'%b,\n "events": [\n  %b\n ]\n}' % (
            _dump(head, indent=1)[:-2],
            b',\n  '.join(lines),
        )
        lines.clear()
        durable.make_directory(self.directory)
        durable.put(self.directory / name, document, self._tmp)
        return name

    def names(self) -> list[str]:
        """Return the names of the files that wait for a person."""
        return sorted(path.name for path in self.directory.glob('*.json'))

    def newest_first(self) -> list[str]:
        """Return the names of the files, the last written first."""
        written = {}
        for path in self.directory.glob('*.json'):
            try:
                written[path.name] = path.stat(follow_symlinks=False).st_mtime_ns
            except FileNotFoundError:
                continue  # released just now
        return sorted(written, key=lambda name: (-written[name], name))

    def get(self, name: str) -> dict[str, Any]:
        """Return the document `name`, its events as they were uploaded.

        Keys `station`, `cluster`, `received` (ns since the epoch),
        `upload` (its id) and `events`, a list of `{'reasons': [str], 'event': ...}`.
        Raises as `load` does.
        """
        document = self.load(name)
        events = [
            {'reasons': list(kept.reasons), 'event': kept.event}
            for kept in document.events
        ]
        return document._asdict() | {'events': events}

    def load(self, name: str) -> Document:
        """Return the document `name`.

        Raises DocumentError if it is not one, OSError if the disk does not
        give it.
        """
        return parse_document(self.read(name))

    def read(self, name: str) -> bytes:
        """Return the content of the file `name`, whatever it is."""
        return (self.directory / name).read_bytes()

    def free_name(self, name: str) -> str:
        """Return `name`, or a name like it that no file has."""
        stem, copies = name.removesuffix('.json'), itertools.count(2)
        while (self.directory / name).exists():
            name = f'{stem}.{next(copies)}.json'
        return name

    def move(self, name: str, target: 'Documents', new_name: str) -> None:
        """Move a file to another directory, durably, where its name is free."""
        durable.make_directory(target.directory)
        # A crash here leaves the file in one directory or in the other.
        os.rename(self.directory / name, target.directory / new_name)
        durable.fsync_directory(target.directory)
        durable.fsync_directory(self.directory)

    def remove(self, name: str) -> None:
        """Delete a file for good, if it is there."""
        (self.directory / name).unlink(missing_ok=True)
        # A crash before this may leave the file to be decided about again.
        durable.fsync_directory(self.directory)


class Suspicious(Documents):
    """The flagged events under `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir / 'suspicious', data_dir / 'tmp')
        self.discarded = Documents(self.directory / 'discarded', self._tmp)
        for directory in (self.directory, self._tmp):
            durable.make_directory(directory)


def parse_document(content: bytes) -> Document:
    """Return the document in the content of a file.

    Raises DocumentError if it is not one.
    """
    try:
        document = json.loads(content.decode('utf-8', UNICODE_ERRORS))
        station, cluster = document['station'], document['cluster']
        received, upload = document['received'], document.get('upload')
        events = [
            Kept(flagged['event'], tuple(flagged['reasons']))
            for flagged in document['events']
        ]
    except KeyError as error:
        raise DocumentError(f'it has no {error}') from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DocumentError(f'not a document of flagged events: {error}') from error
    if type(station) is not int or not 0 <= station < 10**10:
        raise DocumentError('its station is not a number')
    if type(cluster) is not str:
        raise DocumentError('its cluster is not text')
    if type(received) is not int or not 0 <= received < 2**63:
        raise DocumentError('its time of arrival is not in ns since the epoch')
    if type(upload) not in (str, type(None)):
        raise DocumentError('its upload is not text')
    if not all(type(reason) is str for kept in events for reason in kept.reasons):
        raise DocumentError('a reason is not text')
    return Document(station, cluster, received, upload, events)


def _dump(value: Any, **how: Any) -> bytes:
    # Not in ASCII: of binary text it would make up to six times as much.
    encoder = json.JSONEncoder(ensure_ascii=False, **how)
    if _count_characters(value) < _LARGE:
        return encoder.encode(value).encode('utf-8', UNICODE_ERRORS)
    # Text by text, which takes five times as long: all of it together has the
    # width of its widest character, and a NUL takes six of them.
    pieces = encoder.iterencode(value)
    return b''.join([piece.encode('utf-8', UNICODE_ERRORS) for piece in pieces])


def _count_characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return 0
    return sum(map(_count_characters, value))


def _decode(encoded: Any) -> Any:
    try:
        return _from_json(encoded)
    except (ValueError, TypeError, RecursionError) as error:
        raise DocumentError(f'an event cannot be read: {error}') from error


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
