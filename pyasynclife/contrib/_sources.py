"""What `prometheus` and `opentelemetry` read: objects under a name, held weakly.

Everything here may be called from any thread, while the loop is blocked, and after it
was closed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

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
