"""The page /metrics, in Prometheus' text format.

What all processes of both programs have counted, and what waits on the disk.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import itertools
import math
import os
import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from datastore.config import Config
from datastore.metrics import METRICS, PROGRAMS, Counts, Metric, counts_of
from datastore.spool import Backlog, measure_backlog

# A long spool is looked through again only after so many times the time it
# took, or some seconds.
_SCAN_SHARE = 50
_SCAN_INTERVAL = 5.0  # s

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


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
        counts = counts_of(self._config.data_dir, PROGRAMS)
        for metric in METRICS:
            if 'station' not in metric.labels or self._config.per_station_metrics:
                yield _family(metric, counts)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Family]:
        self._scan()
        disk = os.statvfs(self._config.data_dir)
        waiting = self._waiting
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


def _family(metric: Metric, counts: Counts) -> Family:
    found = {key[1:]: value for key, value in counts.items() if key[0] == metric.name}
    if metric.kind == 'histogram':
        histogram = HistogramMetricFamily(metric.name, metric.help)
        bounds = [*metric.buckets, math.inf]
        observed = [found.get((repr(bound),), 0.0) for bound in bounds]
        labels = ['+Inf' if bound == math.inf else repr(bound) for bound in bounds]
        cumulated = list(zip(labels, itertools.accumulate(observed), strict=True))
        histogram.add_metric([], cumulated, found.get(('sum',), 0.0))
        return histogram
    kind = CounterMetricFamily if metric.kind == 'counter' else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels_of_it in sorted(found):
        if len(labels_of_it) == len(metric.labels):
            family.add_metric(labels_of_it, found[labels_of_it])
    return family
