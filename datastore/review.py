"""What a person does with suspicious events: release, discard, restore, purge.

Nothing is deleted before what becomes of it is durable, and recorded.  A crash
in between leaves the events to be decided about again; those that were released
before are recognised by the writer, and stored once.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datastore.batch import Batch, encode_batch
from datastore.decisions import Decisions
from datastore.event import Event, InvalidEvent, parse_event
from datastore.selection import ALL, Selection, count_reasons, id_of
from datastore.spool import Spool
from datastore.suspicious import (
    Document,
    DocumentError,
    Documents,
    Flagged,
    Kept,
    Suspicious,
    parse_document,
)
from writer.rows import rows_and_blobs


class Outcome(NamedTuple):
    """What became of the events that were meant in one file, or would become.

    `events` of them were dealt with.  `held` gives, by position, why others
    cannot be released; with the events that were not meant they stay in the
    file `kept_as`.  `name` is the file's, `new_name` that of what was moved.
    `unknown_codes` are upload codes whose values no column takes.  `fault`
    says why nothing was done.
    """

    name: str
    events: int = 0
    spooled_as: str | None = None
    new_name: str | None = None
    kept_as: str | None = None
    held: tuple[tuple[int, tuple[str, ...]], ...] = ()
    unknown_codes: tuple[str, ...] = ()
    fault: str | None = None


class Releasable(NamedTuple):
    """Which events can become rows, by position, and why the others cannot."""

    events: dict[int, Event]
    held: dict[int, tuple[str, ...]]
    unknown_codes: set[str]


def sort_releasable(kept_events: dict[int, Kept]) -> Releasable:
    """Return which events the archive can hold, whatever their dates.

    What it cannot hold would come back from the writer, flagged again.
    """
    parsed: dict[int, Event] = {}
    held: dict[int, tuple[str, ...]] = {}
    for position, kept in kept_events.items():
        try:
            parsed[position] = parse_event(kept.event)
        except InvalidEvent as error:
            held[position] = (str(error),)
    positions = list(parsed)
    conversion = rows_and_blobs(list(parsed.values()))
    for index, reasons in conversion.flagged:
        held[positions[index]] = reasons
        del parsed[positions[index]]
    return Releasable(parsed, dict(sorted(held.items())), conversion.unknown_codes)


class Review:
    """Decisions about the documents under `data_dir`; call under `alone`.

    A method that is told to only pretend does nothing, and returns what it
    would have done.
    """

    def __init__(self, data_dir: Path) -> None:
        self.suspicious = Suspicious(data_dir)
        self.decisions = Decisions(self.suspicious.directory)
        self.alone = self.decisions.alone
        self._spool = Spool(data_dir)

    def release(self, name: str, selection: Selection, pretend: bool) -> Outcome:
        """Have events stored in spite of the flag, through the spool.

        Raises DocumentError if the file cannot be read, OSError if it is gone
        or the disk does not take what is to be done.
        """
        content = self.suspicious.read(name)
        document = parse_document(content)
        meant = selection.of(document)
        events, held, unknown_codes = sort_releasable(meant)
        outcome = Outcome(
            name,
            len(events),
            held=tuple(held.items()),
            unknown_codes=tuple(sorted(unknown_codes)),
        )
        if pretend or not events:
            return outcome._replace(kept_as=name if held else None)
        batch = Batch(
            document.station,
            document.cluster,
            document.received,
            tuple(events.values()),
        )
        spooled_as = self._spool.put(
            batch.station, encode_batch(batch), document.upload
        )
        # A crash from here on leaves the document, or parts of it, to be
        # released again, which stores nothing twice.
        kept_as = self._keep_rest(self.suspicious, document, set(events))
        released = [meant[position] for position in events]
        self._record(
            'released',
            name,
            content,
            document,
            released,
            spool=spooled_as,
            rest=kept_as,
        )
        if kept_as != name:
            self.suspicious.remove(name)
        return outcome._replace(spooled_as=spooled_as, kept_as=kept_as)

    def discard(self, name: str, selection: Selection, pretend: bool) -> Outcome:
        """Move events to `discarded/`.

        A file that cannot be read is moved whole, if all of it is meant.
        Raises as `release` does.
        """
        source, target = self.suspicious, self.suspicious.discarded
        return self._move('discarded', source, target, name, selection, pretend)

    def restore(self, name: str, selection: Selection, pretend: bool) -> Outcome:
        """Move discarded events back; raises as `discard` does."""
        source, target = self.suspicious.discarded, self.suspicious
        return self._move('restored', source, target, name, selection, pretend)

    def purge(
        self, source: Documents, name: str, selection: Selection, pretend: bool
    ) -> Outcome:
        """Delete events for good; raises as `discard` does."""
        return self._move('purged', source, None, name, selection, pretend)

    def _move(
        self,
        decision: str,
        source: Documents,
        target: Documents | None,
        name: str,
        selection: Selection,
        pretend: bool,
    ) -> Outcome:
        content = source.read(name)
        try:
            document = parse_document(content)
            meant = selection.of(document)
        except DocumentError:
            if selection != ALL:
                raise
            document, meant = Document(0, '', 0, None, []), {}
        whole = selection == ALL or 0 < len(meant) == len(document.events)
        outcome = Outcome(name, len(meant))
        if pretend or not (meant or whole):
            return outcome
        kept_as = new_name = None
        if target and whole:
            new_name = target.free_name(name)
        elif target:
            new_name = _put(target, document, meant.values())
        if not whole:
            kept_as = self._keep_rest(source, document, set(meant))
        self._record(
            decision,
            name,
            content,
            document,
            list(meant.values()),
            moved_to=new_name,
            rest=kept_as,
        )
        # A crash before here leaves the document to be decided about again.
        if target and new_name and whole:
            source.move(name, target, new_name)
        elif kept_as != name:
            source.remove(name)
        return outcome._replace(new_name=new_name, kept_as=kept_as)

    def _keep_rest(
        self, documents: Documents, document: Document, gone: set[int]
    ) -> str | None:
        """Put the events that stay into a document of their own."""
        rest = [k for position, k in enumerate(document.events) if position not in gone]
        return _put(documents, document, rest) if rest else None

    def _record(
        self,
        decision: str,
        name: str,
        content: bytes,
        document: Document,
        events: list[Kept],
        **names: str | None,
    ) -> None:
        self.decisions.append(
            {
                'decision': decision,
                'id': id_of(name),
                'station': document.station,
                'cluster': document.cluster,
                'received': document.received,
                'events': len(events),
                'reasons': dict(count_reasons(events)),
                'sha256': hashlib.sha256(content).hexdigest(),
            }
            | names
        )


def _put(documents: Documents, document: Document, events: Iterable[Kept]) -> str:
    """Put some of a document's events into one of their own; return its name."""
    station, cluster, received, upload, _ = document
    flagged = [Flagged(kept.event, kept.reasons) for kept in events]
    return documents.put(station, cluster, received, flagged, upload)
