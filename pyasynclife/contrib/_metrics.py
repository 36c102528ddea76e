"""The metrics that `prometheus` and `opentelemetry` export, and where they come from.

Everything here may be called from any thread, while the loop is blocked, and after it
was closed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from pyasynclife._arguments import check_optional_type, close_unstarted, short
from pyasynclife._batch import Batch
from pyasynclife._core import Histogram
from pyasynclife._registry import RegistryStats, TaskRegistry
from pyasynclife._results import BatchProgress

DEFAULT_NAME = "default"


class HasProgress(Protocol):
    """A pool, as far as its metrics need it."""

    @property
    def progress(self) -> BatchProgress:
        """A snapshot of the progress."""


class HasLag(Protocol):
    """A watch of the loop, as far as its metrics need it."""

    @property
    def lag(self) -> Histogram:
        """By how much the loop's timer came late, in seconds."""

    @property
    def blocked(self) -> int:
        """How often the loop was blocked."""


class Reading(NamedTuple):
    """What a source has at one moment; None: it has no such part."""

    stats: RegistryStats | None
    pool: BatchProgress | None
    batch: BatchProgress | None
    lag: Histogram | None
    blocked: int | None


class Source:
    """A registry, a pool, a batch and a watch under one name, each held weakly."""

    def __init__(
        self,
        call: str,
        registry: TaskRegistry | None,
        pool: HasProgress | None,
        batch: Batch[Any] | None,
        watch: HasLag | None,
        name: str,
    ) -> None:
        check_optional_type("registry", registry, TaskRegistry)
        _check_parts("pool", "TaskPool", pool, "progress")
        check_optional_type("batch", batch, Batch)
        _check_parts("watch", "LoopWatch", watch, "lag", "blocked")
        if type(name) is not str or not name:
            raise TypeError(f"name must be a non-empty str, got {short(name)}")
        parts = {"registry": registry, "pool": pool, "batch": batch, "watch": watch}
        self._parts: dict[str, Callable[[], Any]] = {
            kind: weakref.ref(part) for kind, part in parts.items() if part is not None
        }
        if not self._parts:
            raise TypeError(
                f"{call} has nothing to observe: pass registry=, pool=, batch= or "
                "watch="
            )
        self.name = name

    def kinds(self) -> set[str]:
        """Return which of its parts exist: "registry", "pool", "batch", "watch"."""
        return {kind for kind in self._parts if self._part(kind) is not None}

    def read(self) -> Reading:
        """Read all parts that exist."""
        registry, watch = self._part("registry"), self._part("watch")
        pool, batch = self._part("pool"), self._part("batch")
        return Reading(
            None if registry is None else registry.stats(),
            None if pool is None else pool.progress,
            None if batch is None else batch.progress,
            None if watch is None else watch.lag,
            None if watch is None else watch.blocked,
        )

    def _part(self, kind: str) -> Any:
        part = self._parts.get(kind)
        return None if part is None else part()


def _check_parts(name: str, kind: str, value: Any, *attributes: str) -> None:
    if value is not None and not all(hasattr(value, a) for a in attributes):
        close_unstarted(value)
        raise TypeError(f"{name} must be a {kind} or None, got {short(value)}")


def join(call: str, sources: Iterable[Source], new: Source) -> list[Source]:
    """Return the sources that have anything left, and a new one.

    Raises:
        ValueError: One of the same name has a part of the same kind.
    """
    kept = [source for source in sources if source.kinds()]
    for source in kept:
        both = sorted(source.kinds() & new.kinds())
        if source.name == new.name and both:
            raise ValueError(
                f"{call}: there is a {both[0]} with the name {short(new.name)} "
                "already: pass another name="
            )
    return [*kept, new]


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
