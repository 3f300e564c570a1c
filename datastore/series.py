"""Events by columns: those of one type with the same upload codes are a series.

The endpoint has hundreds of events at a time, and what is done to a column at
once takes less than what is done to its values one by one.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from datastore.event import Event


class Series(NamedTuple):
    """Events of one type with the same upload codes.

    `places` are where they stood among all that came with them, from 0.  Each
    column has the field of `Event` that it is named after, of each of these
    events; `columns[i]` has their values of `codes[i]`.
    """

    event_type: str
    codes: tuple[str, ...]
    places: Sequence[int]
    timestamps: Sequence[int]
    microseconds: Sequence[int]
    nanoseconds: Sequence[int]
    columns: Sequence[Sequence[Any]]

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield each event's timestamp, micro- and nanoseconds, and values.

        Raises ValueError where one column is shorter than the others.
        """
        times = self.timestamps, self.microseconds, self.nanoseconds
        return zip(*times, *self.columns, strict=True)


def in_series(events: Iterable[Event]) -> list[Series]:
    """Return the series of these events, in the order in which they begin."""
    members: dict[tuple[str, tuple[str, ...]], list[tuple[int, Event]]] = {}
    for place, event in enumerate(events):
        members.setdefault((event.event_type, event.codes), []).append((place, event))
    return [
        Series(
            event_type,
            codes,
            [place for place, _ in alike],
            [event.timestamp for _, event in alike],
            [event.microseconds for _, event in alike],
            [event.nanoseconds for _, event in alike],
            list(zip(*(event.values for _, event in alike), strict=True)),
        )
        for (event_type, codes), alike in members.items()
    ]


def count_events(series: Iterable[Series]) -> int:
    """Return how many events there are in all of them."""
    return sum(len(one.places) for one in series)
