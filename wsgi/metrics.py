"""The page /metrics, in Prometheus' text format.

What all processes of both programs have counted, and what waits on the disk.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from datastore.config import Config
from datastore.spool import Backlog, measure_backlog
from datastore.tally import (
    FIELDS,
    NOBODY,
    REFUSALS,
    SWEEP_DURATIONS,
    UPLOAD_DURATIONS,
    Counts,
    Durations,
    no_counts,
    read_tallies,
)
from datastore.upload_codes import EVENT_TYPES

# A long spool is looked through again only after so many times the time it
# took, or some seconds.
_SCAN_SHARE = 50
_SCAN_INTERVAL = 5.0  # s

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Counter(NamedTuple):
    """A counter, of some fields of the tallies by the value of its only label."""

    name: str
    help: str
    fields: Mapping[str, str]
    label: str = ''


_UPLOADS = {'100': 'uploads'} | {str(rcode): f'refused_{rcode}' for rcode in REFUSALS}

COUNTERS = (
    Counter(
        'datastore_uploads_total',
        'Uploads answered, by the code of the answer.',
        _UPLOADS,
        'rcode',
    ),
    Counter(
        'datastore_events_total',
        'Events that the endpoint spooled, by type.',
        {event_type: f'events_{event_type}' for event_type in EVENT_TYPES},
        'type',
    ),
    Counter(
        'datastore_upload_bytes_total',
        'Bytes of the event lists that were answered 100.',
        {'': 'bytes'},
    ),
    Counter(
        'datastore_suspicious_events_total',
        'Events kept in suspicious/, by the program that flagged them.',
        {'endpoint': 'suspicious_endpoint', 'writer': 'suspicious_writer'},
        'where',
    ),
    Counter(
        'datastore_stored_events_total',
        'Events that the writer archived.',
        {'': 'stored'},
    ),
    Counter(
        'datastore_duplicate_events_total',
        'Events that the archive held already, or that came twice at a time.',
        {'': 'duplicates'},
    ),
    Counter(
        'datastore_commits_total',
        'Commits of the writer to day files.',
        {'': 'commits'},
    ),
    Counter(
        'datastore_journal_replays_total',
        'Commits that a crash or a disk interrupted and the writer finished.',
        {'': 'replays'},
    ),
    Counter(
        'datastore_rejected_batches_total',
        'Spool files that the writer could not read and moved to rejected/.',
        {'': 'rejected'},
    ),
)


class MetricsPage(Collector):
    """Renders /metrics for one configuration."""

    def __init__(
        self,
        config: Config,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`clock` never goes back; `now` tells the s since the epoch."""
        self._config = config
        self._clock = clock
        self._now = now
        self._waiting = Backlog(0, 0, None)
        self._scan_again = -math.inf

    def render(self) -> bytes:
        """Return the page.  Raises OSError if the disk does not answer."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterator[Family]:
        """Yield the families, as prometheus_client asks for them."""
        tallies = read_tallies(self._config.data_dir)
        total = {name: sum(c[name] for c in tallies.values()) for name in FIELDS}
        yield from (_counted(counter, total) for counter in COUNTERS)
        yield _observed(
            'datastore_upload_seconds',
            'Time from the start of a request to its answer.',
            UPLOAD_DURATIONS,
            total,
        )
        yield _observed(
            'datastore_sweep_seconds',
            'Time of a sweep of the spool.',
            SWEEP_DURATIONS,
            total,
        )
        if self._config.per_station_metrics:
            yield from _by_station(tallies)
        yield from self._gauges(tallies.get(NOBODY, no_counts())['last_sweep'])

    def _gauges(self, last_sweep: int) -> Iterator[Family]:
        self._scan()
        disk = os.statvfs(self._config.data_dir)
        waiting = self._waiting
        yield GaugeMetricFamily(
            'datastore_last_sweep_timestamp_seconds',
            'When the writer last finished a sweep, in seconds since the epoch.',
            # Where none was finished, there is no moment that could look late.
            value=last_sweep or None,
        )
        yield GaugeMetricFamily(
            'datastore_spool_batches',
            'Batches that wait for the writer.',
            value=waiting.batches,
        )
        yield GaugeMetricFamily(
            'datastore_spool_bytes',
            'Bytes of the batches that wait for the writer.',
            value=waiting.size,
        )
        yield GaugeMetricFamily(
            'datastore_spool_oldest_seconds',
            'For how long the oldest batch has been waiting; 0 if none is.',
            value=self._age(waiting.oldest),
        )
        yield GaugeMetricFamily(
            'datastore_free_bytes',
            'Bytes that are free on the file system of data_dir.',
            value=disk.f_bavail * disk.f_frsize,
        )

    def _age(self, moment: int | None) -> float:
        return 0.0 if moment is None else max(0.0, self._now() - moment)

    def _scan(self) -> None:
        started = self._clock()
        if started < self._scan_again:
            return
        self._waiting = measure_backlog(self._config.data_dir)
        finished = self._clock()
        pause = max(_SCAN_INTERVAL, _SCAN_SHARE * (finished - started))
        self._scan_again = finished + pause


def _counted(counter: Counter, total: Counts) -> Family:
    labels = [counter.label] if counter.label else []
    family = CounterMetricFamily(counter.name, counter.help, labels=labels)
    for value, field in counter.fields.items():
        family.add_metric([value] if labels else [], total[field])
    return family


def _observed(name: str, text: str, durations: Durations, total: Counts) -> Family:
    family = HistogramMetricFamily(name, text)
    cumulated = itertools.accumulate(total[field] for field in durations.buckets)
    bounds = map(floatToGoString, durations.bounds)
    family.add_metric(
        [],
        list(zip(bounds, cumulated, strict=True)),
        total[durations.total] / 1e6,
    )
    return family


def _by_station(tallies: Mapping[int, Counts]) -> Iterator[Family]:
    uploads = CounterMetricFamily(
        'datastore_station_uploads_total',
        'Uploads of listed stations, by the code of the answer.',
        labels=['station', 'rcode'],
    )
    events = CounterMetricFamily(
        'datastore_station_events_total',
        'Events in uploads of a station that were answered 100.',
        labels=['station'],
    )
    for number in sorted(tallies.keys() - {NOBODY}):
        counts = tallies[number]
        for rcode, field in _UPLOADS.items():
            if counts[field]:
                uploads.add_metric([str(number), rcode], counts[field])
        good = sum(counts[f'events_{event_type}'] for event_type in EVENT_TYPES)
        if counts['uploads']:
            events.add_metric([str(number)], good + counts['suspicious_endpoint'])
    yield uploads
    yield events
