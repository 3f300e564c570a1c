"""How many events a second the writer stores, beside a plain write and fsync."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import h5py

from bench.uploads import CLUSTER, STATION, batch_of_100, restamped
from datastore import durable
from datastore.batch import Batch, encode_batch
from datastore.event import parse_event
from datastore.spool import Spool


class Swept(NamedTuple):
    """What one sweep took; `raw` is the events a second of writing their bytes."""

    per_second: float
    raw: float
    peak: float


def fill(data_dir: Path, batches: int, size: int, first: int) -> tuple[int, int]:
    """Spool so many batches of `size` events, each at a microsecond of its own.

    Return how many events, and how many bytes, were spooled.
    """
    spool = Spool(data_dir)
    _, events = batch_of_100()
    total = 0
    for number in range(batches):
        start = number * size % len(events)
        chosen = restamped(events[start : start + size], first + number)
        batch = Batch(STATION, CLUSTER, time.time_ns(), tuple(map(parse_event, chosen)))
        content = encode_batch(batch)
        total += len(content)
        spool.put(STATION, content)
    return batches * size, total


def stored(data_dir: Path) -> int:
    """Return how many events the archive holds, by its digests."""
    total = 0
    for path in data_dir.glob('[0-9]*/[0-9]*/*/station_*.h5'):
        with h5py.File(path, 'r') as file:
            total += len(file['ingest/digests'])
    return total


def sweep(configfile: Path, batches: int, size: int, first: int) -> Swept:
    """Spool batches, sweep them, and count what was stored.

    Raises RuntimeError if that is not what was spooled.
    """
    data_dir = configfile.parent / 'data'
    before = stored(data_dir)
    events, size_in_bytes = fill(data_dir, batches, size, first)
    result = subprocess.run(
        [sys.executable, '-m', 'bench.sweep', configfile],
        stdout=subprocess.PIPE,
        check=True,
    )
    took = json.loads(result.stdout)
    if stored(data_dir) - before != events:
        raise RuntimeError(f'{stored(data_dir) - before} of {events} events stored')
    raw = events / _raw_write(data_dir / 'tmp' / 'raw', size_in_bytes)
    return Swept(events / took['seconds'], raw, took['peak'])


def _raw_write(path: Path, size: int) -> float:
    """Return the seconds that writing so many bytes takes, with one fsync."""
    content = os.urandom(size)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        started = time.perf_counter()
        durable.write_all(descriptor, content)
        os.fsync(descriptor)
        return time.perf_counter() - started
    finally:
        os.close(descriptor)
        path.unlink()
