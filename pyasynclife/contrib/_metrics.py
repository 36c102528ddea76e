"""The metrics that `prometheus` and `opentelemetry` export: one table for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from pyasynclife._core import Histogram
from pyasynclife._results import BatchProgress
from pyasynclife.contrib._sources import Reading

Samples = Iterator[tuple[tuple[str, ...], float]]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its name, and how to find its values in a reading.

    ``labels`` are the names of the labels beside ``name``. A counter's name ends in
    ``_total``. ``kinds`` are the parts of a source that have the metric.
    """

    name: str
    type: Literal["gauge", "counter", "histogram"]
    text: str
    kinds: frozenset[str]
    labels: tuple[str, ...] = ()
    samples: Callable[[Reading], Samples] = lambda reading: iter(())
    histogram: Callable[[Reading], Histogram | None] = lambda reading: None


def _tasks(reading: Reading) -> Samples:
    if (stats := reading.stats) is not None:
        yield ("pending", "unknown"), stats.pending
        yield ("running", "healthy"), stats.healthy
        yield ("running", "stale"), stats.stale
        yield ("running", "unknown"), stats.unknown


def _finished(reading: Reading) -> Samples:
    if (stats := reading.stats) is not None:
        for state in ("done", "failed", "cancelled"):
            yield (state,), getattr(stats, state)


def _count(field: str) -> Callable[[Reading], Samples]:
    def samples(reading: Reading) -> Samples:
        if reading.stats is not None:
            yield (), getattr(reading.stats, field)

    return samples


def _items(reading: Reading) -> Samples:
    for kind in ("pool", "batch"):
        progress: BatchProgress | None = getattr(reading, kind)
        if progress is None:
            continue
        ended = progress.done + progress.failed + progress.cancelled
        if progress.total is not None:
            waiting = progress.total - progress.running - ended
            yield (kind, "pending"), max(waiting, 0)
        yield (kind, "running"), progress.running
        yield (kind, "done"), progress.done
        yield (kind, "failed"), progress.failed - progress.timed_out
        yield (kind, "timed_out"), progress.timed_out
        yield (kind, "cancelled"), progress.cancelled


def _blocked(reading: Reading) -> Samples:
    if reading.blocked is not None:
        yield (), reading.blocked


_REGISTRY = frozenset(["registry"])
_FANS_OUT = frozenset(["pool", "batch"])
_WATCH = frozenset(["watch"])

METRICS = (
    Metric(
        "pyasynclife_tasks",
        "gauge",
        "Tasks that have not ended.",
        _REGISTRY,
        ("state", "health"),
        _tasks,
    ),
    Metric(
        "pyasynclife_registered_total",
        "counter",
        "Tasks that were registered or tracked.",
        _REGISTRY,
        samples=_count("registered"),
    ),
    Metric(
        "pyasynclife_finished_total",
        "counter",
        "Tasks that have ended.",
        _REGISTRY,
        ("state",),
        _finished,
    ),
    Metric(
        "pyasynclife_heartbeats_total",
        "counter",
        "Heartbeats that were recorded.",
        _REGISTRY,
        samples=_count("heartbeats"),
    ),
    Metric(
        "pyasynclife_unknown_heartbeats_total",
        "counter",
        "Heartbeats whose id no live task had.",
        _REGISTRY,
        samples=_count("unknown_heartbeats"),
    ),
    Metric(
        "pyasynclife_restarts_total",
        "counter",
        "Runs of supervised tasks after the first one.",
        _REGISTRY,
        samples=_count("restarts"),
    ),
    Metric(
        "pyasynclife_task_duration_seconds",
        "histogram",
        "How long the tasks that ended had lived.",
        _REGISTRY,
        histogram=lambda reading: reading.stats and reading.stats.durations,
    ),
    Metric(
        "pyasynclife_items",
        "gauge",
        "Items of a batch and jobs of a pool.",
        _FANS_OUT,
        ("source", "state"),
        _items,
    ),
    Metric(
        "pyasynclife_loop_lag_seconds",
        "histogram",
        "By how much the loop's timer came late.",
        _WATCH,
        histogram=lambda reading: reading.lag,
    ),
    Metric(
        "pyasynclife_loop_blocked_total",
        "counter",
        "How often the loop was blocked.",
        _WATCH,
        samples=_blocked,
    ),
)
