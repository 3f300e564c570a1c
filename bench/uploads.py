"""Makes distinct uploads: one batch, with times that no other upload has.

The batch is a recorded one where `recording` names it, else a simulated one;
both pickled with protocol 0, as the Python 2 stations in the field do.
"""

import pickle
import re
from datetime import datetime, timedelta
from pathlib import Path

from datastore.simulation import Simulation
from datastore.station import form

STATION, CLUSTER, PASSWORD = 510, 'Science Park', 'bench'

# Where a checkout of the project finds recorded uploads, if it has any.
RECORDING = Path(__file__).parents[2] / 'shared/data/uploads/py2_s510_100events'

# The end of a datetime's state as Python 2 pickles it: no microseconds.
_WHOLE_SECOND = re.compile(rb"\\x00\\x00\\x00(['\"])(?=\np[0-9]+\ntp)")


def batch_of_100() -> tuple[str, list[dict]]:
    """Return what the batch is, and its 100 events."""
    if RECORDING.exists():
        events = pickle.loads(RECORDING.read_bytes(), encoding='latin-1')
        return 'the recorded batch of 100 events', events
    events = Simulation(datetime(2020, 5, 17, 9, 30), seed=1).take(100)
    return 'a simulated batch of 100 events', events


def pickled_batches(count: int, first: int) -> list[bytes]:
    """Return the batch `count` times, each at another microsecond from `first` on."""
    if RECORDING.exists():
        pickled = RECORDING.read_bytes()
        return [_at_microsecond(pickled, first + n) for n in range(count)]
    _, events = batch_of_100()
    return [pickle.dumps(restamped(events, first + n), 0) for n in range(count)]


def _at_microsecond(pickled: bytes, microsecond: int) -> bytes:
    state = b''.join(b'\\x%02x' % byte for byte in microsecond.to_bytes(3, 'big'))
    stamped, found = _WHOLE_SECOND.subn(lambda match: state + match[1], pickled)
    if found != 100:
        raise ValueError(f'the recording has {found} times that can be changed')
    return stamped


def restamped(events: list[dict], microsecond: int) -> list[dict]:
    """Return the events at another microsecond of their seconds."""
    moment = timedelta(microseconds=microsecond)
    return [
        {
            'header': event['header']
            | {'datetime': event['header']['datetime'] + moment},
            'datalist': event['datalist'],
        }
        for event in events
    ]


def bodies_of_batches(count: int, first: int) -> list[bytes]:
    """Return forms that upload a batch of 100 events each."""
    return [form(STATION, PASSWORD, p) for p in pickled_batches(count, first)]


def bodies_of_events(count: int, first: int) -> list[bytes]:
    """Return forms that upload a single event each, in turn those of the batch."""
    _, events = batch_of_100()
    return [
        form(
            STATION,
            PASSWORD,
            pickle.dumps(restamped([events[n % len(events)]], first + n), 0),
        )
        for n in range(count)
    ]
