"""Which suspicious events a person means, and what the files hold of them."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import date
from typing import NamedTuple

from datastore.suspicious import Document, DocumentError, Documents, Kept

_NAME = re.compile(r'(?P<station>\d{1,10})-[0-9a-f]{16}(\.\d+)?\.json')

# Of a reason: also dates, times and floats; not the digits of PH1 or int16.
_NUMBER = re.compile(r'-?\b\d[\w.+-]*')


class Selection(NamedTuple):
    """Which events are meant; all of them if nothing is given.

    `first` and `last` bound the day of the event, inclusive; events without a
    date are not meant then.  `received_since` is in ns since the epoch.
    `reason` is part of the text of a reason, in whatever case.
    """

    stations: frozenset[int] = frozenset()
    first: date | None = None
    last: date | None = None
    received_since: int | None = None
    reason: str | None = None

    def may_take(self, name: str) -> bool:
        """Return whether a file of this name may hold events that are meant."""
        match = _NAME.fullmatch(name)
        return not (self.stations and match) or int(match['station']) in self.stations

    def of(self, document: Document) -> dict[int, Kept]:
        """Return the events of a document that are meant, by position."""
        if self.stations and document.station not in self.stations:
            return {}
        if self.received_since and document.received < self.received_since:
            return {}
        return {
            position: kept
            for position, kept in enumerate(document.events)
            if self._means(kept)
        }

    def _means(self, kept: Kept) -> bool:
        if self.reason is not None:
            part = self.reason.casefold()
            if not any(part in reason.casefold() for reason in kept.reasons):
                return False
        if self.first is None and self.last is None:
            return True
        if kept.moment is None:
            return False
        day = kept.moment.date()
        return (self.first or date.min) <= day <= (self.last or date.max)


ALL = Selection()


class Summary(NamedTuple):
    """What a file holds of the events that are meant.

    `name` is the file's.  `meant` of the `events` are counted in the other
    fields.  `reasons` pairs a reason with how many events have it or one like
    it.  Where `fault` says why the file cannot be read, the rest is empty.
    """

    name: str
    station: int | None = None
    cluster: str | None = None
    received: int = 0
    events: int = 0
    meant: int = 0
    first: date | None = None
    last: date | None = None
    reasons: tuple[tuple[str, int], ...] = ()
    fault: str | None = None


def summaries(
    documents: Documents, selection: Selection, limit: int | None
) -> Iterator[Summary]:
    """Yield what the files hold, the last written first, `limit` at most.

    Files with no event that is meant are left out; those that cannot be read
    are not, unless their name tells that they are not meant.
    """
    found = 0
    for name in documents.newest_first():
        if found == limit:
            return
        if not selection.may_take(name):
            continue
        try:
            summary = _summary(name, documents.load(name), selection)
        except FileNotFoundError:
            continue  # released just now
        except DocumentError as error:
            summary = Summary(name, fault=str(error))
        except OSError as error:
            summary = Summary(name, fault=error.strerror or str(error))
        if summary.meant or summary.fault:
            found += 1
            yield summary


def _summary(name: str, document: Document, selection: Selection) -> Summary:
    meant = selection.of(document)
    days = [kept.moment.date() for kept in meant.values() if kept.moment]
    return Summary(
        name,
        document.station,
        document.cluster,
        document.received,
        len(document.events),
        len(meant),
        min(days, default=None),
        max(days, default=None),
        count_reasons(meant.values()),
    )


def count_reasons(events: Iterable[Kept]) -> tuple[tuple[str, int], ...]:
    """Return the reasons, each with how many events have it, the most first.

    Reasons that differ in their numbers alone count as one; the first of them
    stands for all.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for kept in events:
        alike = {_NUMBER.sub('0', reason): reason for reason in kept.reasons}
        counts.update(alike.keys())
        for like, reason in alike.items():
            examples.setdefault(like, reason)
    return tuple((examples[like], count) for like, count in counts.most_common())


def id_of(name: str) -> str:
    """Return what a file is called by a person: its name without .json."""
    return name.removesuffix('.json')
