"""Makes distinct uploads: one batch, with times that no other upload has.

The batch is a recorded one where `recording` names it, else a simulated one;
both pickled as the Python 2 stations in the field do.
"""

import hashlib
import pickle
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from urllib.parse import quote_from_bytes

from datastore.event import Event, parse_event
from datastore.python2 import in_python_2_order, pickled_as_python_2
from datastore.simulation import Simulation
from datastore.station import form

STATION, CLUSTER, PASSWORD = 510, 'Science Park', 'bench'

# Where a checkout of the project finds recorded uploads, if it has any.
RECORDING = Path(__file__).parents[2] / 'shared/data/uploads/py2_s510_100events'

# The end of a datetime's state as Python 2 pickles it, its microseconds, which
# are 0 in the batch; and the same in a form.
_WHOLE_SECOND = re.compile(rb"\\x00\\x00\\x00(['\"])(?=\np[0-9]+\ntp)")
_WHOLE_SECOND_IN_FORM = re.compile(
    rb'%5Cx00%5Cx00%5Cx00(%2[27])(?=%0Ap[0-9]+%0Atp)', re.IGNORECASE
)


@cache
def _pickled() -> bytes:
    if RECORDING.exists():
        return RECORDING.read_bytes()
    events = Simulation(datetime(2020, 5, 17, 9, 30), seed=1).take(100)
    return pickled_as_python_2([in_python_2_order(event) for event in events])


def description() -> str:
    """Say what the batch is."""
    kind = 'recorded' if RECORDING.exists() else 'simulated'
    return f'the {kind} batch of 100 events'


@cache
def uploaded_events() -> list[dict]:
    """Return the batch as an event list."""
    return pickle.loads(_pickled(), encoding='latin-1')


def events_at(first: int, count: int, microsecond: int) -> tuple[Event, ...]:
    """Return `count` events of the batch, from `first` on, at that microsecond."""
    return tuple(
        event._replace(microseconds=microsecond)
        for event in _parsed()[first : first + count]
    )


@cache
def _parsed() -> list[Event]:
    return [parse_event(event) for event in uploaded_events()]


def bodies_of_batches(count: int, first: int) -> list[bytes]:
    """Return forms that upload the batch, each at a microsecond from `first` on."""
    return list(_stamped_forms(count, first))


def _stamped_forms(count: int, first: int) -> Iterator[bytes]:
    # Percent-encoding takes 13 ms a batch, so it is done once, and the times are
    # changed in what it gives.
    head, tail = f'station_id={STATION}&password={PASSWORD}&data=', '&checksum='
    encoded = quote_from_bytes(_pickled(), safe='').encode()
    for microsecond in range(first, first + count):
        digits = [b'x%02x' % byte for byte in microsecond.to_bytes(3, 'big')]
        stamp = b''.join(b'\\\\' + each for each in digits) + rb'\1'
        pickled, found = _WHOLE_SECOND.subn(stamp, _pickled())
        stamp = b''.join(b'%5C' + each for each in digits) + rb'\1'
        data, in_form = _WHOLE_SECOND_IN_FORM.subn(stamp, encoded)
        if found != 100 or in_form != 100:
            raise ValueError(f'the batch has {found} times that can be changed')
        checksum = hashlib.md5(pickled, usedforsecurity=False).hexdigest()
        yield head.encode() + data + tail.encode() + checksum.encode()


def bodies_of_events(count: int, first: int) -> list[bytes]:
    """Return forms that upload a single event each, in turn those of the batch."""
    return [
        form(STATION, PASSWORD, pickled_as_python_2([_restamped(number, first)]))
        for number in range(count)
    ]


def _restamped(number: int, first: int) -> dict:
    event = uploaded_events()[number % 100]
    header = event['header']
    moment = header['datetime'] + timedelta(microseconds=first + number)
    return {'datalist': event['datalist'], 'header': header | {'datetime': moment}}
