"""Stations' events, each a different one, and what should become of them.

What should become of an event is worked out here value by value, and not by
the code under test.
"""

import calendar
import itertools
import random
from base64 import b64decode
from collections.abc import Hashable
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from datastore.simulation import Event, Simulation
from datastore.upload_codes import EVENT_TYPES

CLUSTER, PASSWORD = 'Science Park', 'a secret'
STATIONS = (501, 502, 503)

# Feeds start a while before this, so that every trial has files of two days
# and, most likely, a batch of both.
MIDNIGHT = datetime(2020, 5, 18)
LONGEST_EVENING = 400  # s; about as many events

ODD_ONE_OUT = 50  # one event in so many is of the kind that is set aside

Key = tuple[Hashable, ...]


class Feed:
    """The events of one station, in batches of mixed sizes."""

    def __init__(self, station: int, rng: random.Random) -> None:
        self.station = station
        self._rng = rng
        start = MIDNIGHT - timedelta(seconds=rng.randint(5, LONGEST_EVENING))
        detectors = 2 if station == STATIONS[1] else 4
        self._simulation = Simulation(
            start, detectors=detectors, seed=rng.getrandbits(63)
        )

    def batch(self, count: int | None = None) -> list[Event]:
        """Return the next `count` events, by default from one to some dozens."""
        if count is None:
            count = min(1 + int(self._rng.expovariate(1 / 15)), 100)
        events = self._simulation.take(count)
        for event in events:
            if self._rng.randrange(ODD_ONE_OUT) == 0:
                self._make_odd(event)
        return events

    def around_midnight(self, count: int) -> list[Event]:
        """Return the next batch that has about as many events of either day."""
        end = MIDNIGHT - timedelta(seconds=count // 2)
        self._simulation.until(end)
        return self.batch(count)

    def _make_odd(self, event: Event) -> None:
        for entry in event['datalist']:
            if entry['data_uploadcode'] == 'PH1':
                # Does not fit its column, which only the writer finds out.
                entry['data'] = 99_999
                return
        # Before the earliest day that is trusted, as the endpoint finds.
        event['header']['datetime'] -= timedelta(days=3653)


def upload_key(station: int, event: Event) -> Key:
    """Return what an event is, as it is uploaded; no two sent events share it."""
    header = event['header']
    values = ((entry['data_uploadcode'], entry['data']) for entry in event['datalist'])
    return (
        station,
        header['eventtype_uploadcode'],
        header['datetime'],
        header['nanoseconds'],
        tuple(values),
    )


def row_key(station: int, event: Event) -> Key:
    """Return the row that an event should become: station, table, values.

    In the order of the table's columns, without the row's own number, and
    with blobs in place of their indices.
    """
    header = event['header']
    table = EVENT_TYPES[header['eventtype_uploadcode']]
    row: dict[str, Any] = {}
    for column in table.columns:
        row[column.name] = table.empty_row[column.name].tolist()
        if column.is_blob:
            row[column.name] = [None] * 4 if column.shape else None
    timestamp = calendar.timegm(header['datetime'].utctimetuple())
    row['timestamp'] = timestamp
    if 'nanoseconds' in row:
        row['nanoseconds'] = header['nanoseconds']
        row['ext_timestamp'] = timestamp * 10**9 + header['nanoseconds']
    for entry in event['datalist']:
        field = table.fields[entry['data_uploadcode']]
        value = entry['data']
        if field.column.is_blob:
            is_trace = field.column.name == 'traces'
            value = b64decode(value) if is_trace else value.encode('latin-1')
        elif field.column.dtype == 'float32':
            value = float(np.float32(value))
        elif field.column.dtype != 'float64':
            value = int(value)
        if field.detector is None:
            row[field.column.name] = value
        else:
            row[field.column.name][field.detector] = value
    del row['event_id']
    values = (tuple(v) if isinstance(v, list) else v for v in row.values())
    return tuple(itertools.chain((station, table.name), values))


def describe(key: Key) -> str:
    """Return a line that tells a person which event a key is of."""
    text = ', '.join(map(str, key[:5]))
    return text if len(text) < 160 else f'{text[:157]}...'
