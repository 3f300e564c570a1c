"""How many events a second the writer stores, and how that grows with what."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np

from bench.archive import stored
from bench.uploads import CLUSTER, STATION, events_at
from datastore import durable
from datastore.batch import Batch, encode_batch
from datastore.spool import Spool
from writer.digests import DIGEST_SIZE
from writer.rows import rows_and_blobs
from writer.storage import Archive

_DAY = 86400  # s


class Round(NamedTuple):
    """One sweep to be measured: what waits in the spool when it starts.

    `events` in each of `batches` batches of each of `stations` stations.
    """

    batches: int
    events: int
    stations: int = 1

    def total(self) -> int:
        return self.batches * self.events * self.stations


class Swept(NamedTuple):
    """What one sweep took: `size` in bytes that had waited, memory in MB."""

    events: int
    size: int
    seconds: float
    memory: float
    peak: float

    def per_second(self) -> float:
        return self.events / self.seconds

    def cost(self) -> float:
        """Return the time of an event, in us."""
        return self.seconds / self.events * 1e6


def sweep(configfile: Path, rounds: Sequence[Round], first: int) -> list[Swept]:
    """Sweep these rounds, one after the other, with one writer.

    Every event is at a microsecond of its own, from `first` on.  Raises
    RuntimeError if not all of them are stored.
    """
    data_dir = configfile.parent / 'data'
    before = stored(data_dir)
    sizes = []
    for number, wanted in enumerate(rounds):
        directory = configfile.parent / f'round{number}'
        sizes.append(_fill(directory, wanted, first))
        first += wanted.batches
    result = subprocess.run(
        [sys.executable, '-m', 'bench.sweep', configfile, str(len(rounds))],
        stdout=subprocess.PIPE,
        check=True,
    )
    wanted_events = sum(wanted.total() for wanted in rounds)
    if stored(data_dir) - before != wanted_events:
        raise RuntimeError(
            f'{stored(data_dir) - before} of {wanted_events} events stored'
        )
    return [
        Swept(wanted.total(), size, **took)
        for wanted, size, took in zip(
            rounds, sizes, json.loads(result.stdout), strict=True
        )
    ]


def _fill(directory: Path, wanted: Round, first: int) -> int:
    """Spool batches under a directory; return how many bytes."""
    spool = Spool(directory)
    size = 0
    # Only the writer is measured.
    with mock.patch('os.fsync'), mock.patch('os.fdatasync'):
        for batch in range(wanted.batches):
            start = batch * wanted.events % 100
            events = events_at(start, wanted.events, first + batch)
            for station in range(STATION, STATION + wanted.stations):
                content = encode_batch(Batch(station, CLUSTER, time.time_ns(), events))
                size += len(content)
                spool.append(station, content)
    return size


def grow(configfile: Path, size: int) -> None:
    """Let the day file of the station grow to `size` bytes, past the spool.

    By events of the batch, over and over, with digests that are random.
    """
    data_dir = configfile.parent / 'data'
    Spool(data_dir)  # makes the directories
    archive = Archive(data_dir, lambda names: None)
    events = events_at(0, 100, 0) * 100
    day = events[0].timestamp // _DAY
    tables = rows_and_blobs(events).tables
    randomly = np.random.default_rng(1)
    path = archive.path(STATION, day)
    while not path.exists() or path.stat().st_size < size:
        digests = randomly.bytes(len(events) * DIGEST_SIZE)
        archive.append(
            STATION,
            CLUSTER,
            day,
            tables,
            [digests[n : n + DIGEST_SIZE] for n in range(0, len(digests), DIGEST_SIZE)],
            archive.digests(STATION, day),
            covers=[],
        )


def raw_write(directory: Path, size: int) -> float:
    """Return the seconds that writing so many bytes takes, with one fsync."""
    path = directory / 'raw'
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
