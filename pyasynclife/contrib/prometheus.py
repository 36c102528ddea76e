"""A collector for prometheus_client; needs ``pyasynclife[prometheus]``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from pyasynclife._batch import Batch
from pyasynclife._core import Histogram
from pyasynclife._registry import TaskRegistry
from pyasynclife.contrib._metrics import METRICS
from pyasynclife.contrib._sources import (
    DEFAULT_NAME,
    HasLag,
    HasProgress,
    Source,
    join,
)

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise ImportError(
        "pyasynclife.contrib.prometheus needs prometheus_client, which is not "
        "installed: pip install 'pyasynclife[prometheus]'"
    ) from error

__all__ = ["Collector"]

_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
_FAMILIES: dict[str, Any] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Collector:
    """Export the counts of a registry, a pool, a batch and a LoopWatch to Prometheus.

    Args:
        registry: Gives ``pyasynclife_tasks`` by ``state`` and ``health``, the counters
            ``pyasynclife_registered_total``, ``_finished_total`` by ``state``,
            ``_heartbeats_total``, ``_unknown_heartbeats_total`` and
            ``_restarts_total``, and the histogram
            ``pyasynclife_task_duration_seconds``.
        pool: Gives ``pyasynclife_items`` by ``state``, with the ``source`` "pool". The
            states do not overlap: a "failed" item is not "timed_out". "pending" is left
            out while the number of items is unknown.
        batch: Gives the same, with the ``source`` "batch".
        watch: Gives the histogram ``pyasynclife_loop_lag_seconds`` and
            ``pyasynclife_loop_blocked_total``.
        name: The label ``name`` of every sample.

    Raises:
        TypeError: An argument is of another type, or there is nothing to observe.

    All of them are held weakly: the samples of an object end when nothing else refers
    to it. A scrape may come from any thread, also while the loop is blocked. It costs
    the same for ten tasks and for a million::

        prometheus_client.REGISTRY.register(Collector(registry=registry))
        prometheus_client.start_http_server(9000)
    """

    __slots__ = ("__weakref__", "_sources")

    def __init__(
        self,
        *,
        registry: TaskRegistry | None = None,
        pool: HasProgress | None = None,
        batch: Batch[Any] | None = None,
        watch: HasLag | None = None,
        name: str = DEFAULT_NAME,
    ) -> None:
        self._sources = [Source("Collector()", registry, pool, batch, watch, name)]

    def __repr__(self) -> str:
        """Return the type and the names."""
        names = ", ".join(repr(source.name) for source in self._sources)
        return f"<{type(self).__name__} {names}>"

    def add(
        self,
        *,
        registry: TaskRegistry | None = None,
        pool: HasProgress | None = None,
        batch: Batch[Any] | None = None,
        watch: HasLag | None = None,
        name: str,
    ) -> None:
        """Observe more objects, under another name.

        The arguments are those of the class.

        Raises:
            TypeError: An argument is of another type, or there is nothing to observe.
            ValueError: An object of the same kind has the name already.

        Several collectors with names of their own can be registered, too, but then the
        header of a metric comes once for each of them. Prometheus itself accepts that;
        a strict parser of OpenMetrics does not.
        """
        call = "Collector.add()"
        source = Source(call, registry, pool, batch, watch, name)
        self._sources = join(call, self._sources, source)

    def describe(self) -> Iterator[_Family]:
        """Return the families without samples: prometheus_client asks for their names.

        The family names of a collector whose name is not the default contain that name,
        so that collectors with different names can be registered together.
        """
        first = self._sources[0]
        kinds = first.kinds()
        for metric in METRICS:
            if metric.kinds & kinds:
                family = _FAMILIES[metric.type](metric.name, metric.text)
                if first.name != DEFAULT_NAME:
                    family.name += f" {first.name}"
                yield family

    def collect(self) -> Iterator[_Family]:
        """Return the families with their samples."""
        sources = self._sources
        readings = [(source.name, source.read()) for source in sources]
        for metric in METRICS:
            labels = ["name", *metric.labels]
            family = _FAMILIES[metric.type](metric.name, metric.text, labels=labels)
            for name, reading in readings:
                for values, value in metric.samples(reading):
                    family.add_metric([name, *values], value)
                if (histogram := metric.histogram(reading)) is not None:
                    family.add_metric([name], _buckets(histogram), histogram.sum)
            if family.samples:
                yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the upper bounds, each with the count of all buckets up to it."""
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    totals = itertools.accumulate(histogram.counts)
    return list(zip(bounds, totals, strict=True))
