"""Observable instruments for OpenTelemetry; needs ``pyasynclife[opentelemetry]``."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from pyasynclife._arguments import short
from pyasynclife._batch import Batch
from pyasynclife._core import Histogram
from pyasynclife._registry import TaskRegistry
from pyasynclife.contrib._metrics import METRICS, Metric
from pyasynclife.contrib._sources import (
    DEFAULT_NAME,
    HasLag,
    HasProgress,
    Reading,
    Source,
    join,
)

try:
    from opentelemetry.metrics import CallbackOptions, Meter, Observation
except ImportError as error:
    raise ImportError(
        "pyasynclife.contrib.opentelemetry needs opentelemetry-api, which is not "
        "installed: pip install 'pyasynclife[opentelemetry]'"
    ) from error

__all__ = ["instrument"]

_Samples = Iterator[tuple[dict[str, str | float], float]]
_CALL = "instrument()"


class _Observed:
    """The sources of a meter. Its instruments, which cannot be removed, read these."""

    def __init__(self, meter: Meter) -> None:
        self.sources: list[Source] = []
        for metric in METRICS:
            if metric.type == "histogram":
                self._create_for_histogram(meter, metric)
            else:
                self._create(meter, metric)

    def _create(self, meter: Meter, metric: Metric) -> None:
        def samples(reading: Reading) -> _Samples:
            for values, value in metric.samples(reading):
                yield dict(zip(metric.labels, values, strict=True)), value

        create = (
            meter.create_observable_counter
            if metric.type == "counter"
            else meter.create_observable_up_down_counter
        )
        name = _name_of(metric)
        create(name, [self._callback(samples)], description=metric.text)

    def _create_for_histogram(self, meter: Meter, metric: Metric) -> None:
        """Create three counters: the API has no observable histogram."""
        for suffix, unit, parts in (
            ("count", "", _count),
            ("sum", "s", _sum),
            ("bucket", "", _buckets),
        ):

            def samples(
                reading: Reading, parts: Callable[[Histogram], _Samples] = parts
            ) -> _Samples:
                if (histogram := metric.histogram(reading)) is not None:
                    yield from parts(histogram)

            name = f"{_name_of(metric)}.{suffix}"
            callbacks = [self._callback(samples)]
            meter.create_observable_counter(name, callbacks, unit, metric.text)

    def _callback(
        self, samples: Callable[[Reading], _Samples]
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def observe(options: CallbackOptions) -> Iterator[Observation]:
            for source in self.sources:
                for attributes, value in samples(source.read()):
                    yield Observation(value, {"name": source.name, **attributes})

        return observe


_observed: weakref.WeakKeyDictionary[Meter, _Observed] = weakref.WeakKeyDictionary()


def instrument(
    meter: Meter,
    *,
    registry: TaskRegistry | None = None,
    pool: HasProgress | None = None,
    batch: Batch[Any] | None = None,
    watch: HasLag | None = None,
    name: str = DEFAULT_NAME,
) -> Callable[[], None]:
    """Observe a registry, a pool, a batch and a watch of the loop with a meter.

    Args:
        meter: A meter of a provider; create it after the provider is set.
        registry: Gives ``pyasynclife.tasks`` by ``state`` and ``health``, the counters
            ``pyasynclife.registered``, ``.finished`` by ``state``, ``.heartbeats``,
            ``.unknown_heartbeats`` and ``.restarts``, and
            ``pyasynclife.task_duration``.
        pool: Gives ``pyasynclife.items`` by ``state``, with the ``source`` "pool".
        batch: Gives the same, with the ``source`` "batch".
        watch: Gives ``pyasynclife.loop_lag`` and ``pyasynclife.loop_blocked``.
        name: The attribute ``name`` of every observation.

    Returns:
        A function that ends it. The instruments stay, since the API cannot remove them,
        and observe nothing more; the name is free again.

    Raises:
        TypeError: An argument is of another type, or there is nothing to observe.
        ValueError: The meter observes an object of the same kind by this name already.

    The API has no observable histogram. A duration or lag is three counters instead:
    ``.count``, ``.sum`` in seconds, and ``.bucket`` with the attribute ``le``, the
    upper bound, which counts everything up to that bound as Prometheus's buckets do.

    All objects are held weakly: the observations of one end when nothing else refers to
    it. They are made by the thread of the metric reader, also while the loop is
    blocked::

        stop = instrument(metrics.get_meter("feeds"), registry=registry)
    """
    if not isinstance(meter, Meter):
        raise TypeError(
            f"meter must be an opentelemetry Meter, got {short(meter)}: "
            "opentelemetry.metrics.get_meter(name) makes one"
        )
    source = Source(_CALL, registry, pool, batch, watch, name)
    observed = _observed.get(meter)
    if observed is None:
        observed = _observed[meter] = _Observed(meter)
    observed.sources = join(_CALL, observed.sources, source)

    def stop() -> None:
        observed.sources = [one for one in observed.sources if one is not source]

    return stop


def _name_of(metric: Metric) -> str:
    name = metric.name.removesuffix("_total").removesuffix("_seconds")
    return name.replace("pyasynclife_", "pyasynclife.")


def _count(histogram: Histogram) -> _Samples:
    yield {}, histogram.count


def _sum(histogram: Histogram) -> _Samples:
    yield {}, histogram.sum


def _buckets(histogram: Histogram) -> _Samples:
    bounds = [*map(repr, histogram.bounds), "+Inf"]
    totals = itertools.accumulate(histogram.counts)
    for bound, total in zip(bounds, totals, strict=True):
        yield {"le": bound}, total
