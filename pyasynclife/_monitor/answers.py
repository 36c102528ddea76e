"""What is answered: everything that `top` and `tasks` show.

An answer about many tasks is made in slices of a millisecond, between which the loop
goes on.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import math
import operator
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from pyasynclife._await_chain import await_chain
from pyasynclife._core import TaskMetadata
from pyasynclife._watch import watches_of

if TYPE_CHECKING:
    from pyasynclife._registry import RegistryStats, TaskRegistry
    from pyasynclife._shutdown import SignalCoordinator

SLICE = 0.001  # seconds of work between two iterations of the loop
CHUNK = 200  # tasks in a line of the answer to "tasks"
ROWS = 500  # the most that "top" may ask for
SAMPLE = 1000  # tasks whose await chains are grouped for "top"
GROUPS = 20

# What rows are sorted by, the greatest first. Ages and silences go on while they are
# read, one task after the other; the times that they count from do not.
ORDERS: dict[str, Callable[[TaskMetadata], Any]] = {
    "silence": lambda meta: -meta.last_heartbeat,
    "age": lambda meta: -meta.created_at,
    "heartbeats": lambda meta: meta.heartbeats,
    "restarts": lambda meta: getattr(meta, "restarts", 0),
}


class RequestError(Exception):
    """A request that cannot be answered; the message says why."""


class _Pace:
    """Gives the loop an iteration whenever a slice of time is used up."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE

    async def __call__(self) -> None:
        if time.perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = time.perf_counter() + SLICE


class Answers:
    """Answers requests about registries.

    A request is a dict: ``{"ask": "tasks", "stale": false}``,
    ``{"ask": "cancel", "id": "feed-1"}``, or
    ``{"ask": "top", "sort": "silence", "filter": "", "rows": 50}``.
    """

    def __init__(
        self,
        registries: list[TaskRegistry],
        coordinator: SignalCoordinator | None = None,
    ) -> None:
        self.registries = registries
        self.coordinator = coordinator  # beside those that have the registries

    def to(self, request: Any) -> AsyncIterator[dict[str, Any]]:
        """Return an iterator over the lines of an answer; it may raise RequestError."""
        asked = request.get("ask") if isinstance(request, dict) else None
        if asked == "top":
            return self._top(request)
        if asked == "tasks":
            return self._tasks(request.get("stale") is True)
        if asked == "cancel":
            return self._cancel(request)
        raise RequestError('ask for "top", "tasks" or "cancel"')

    async def _cancel(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        task_id = request.get("id")
        if not isinstance(task_id, str) or not task_id:
            raise RequestError("id must be the id of a task")
        done = [r.cancel(task_id, "by a monitor").result() for r in self.registries]
        yield {"cancelled": any(done)}

    async def _tasks(self, stale: bool) -> AsyncIterator[dict[str, Any]]:
        """All tasks, those alive first, in chunks; then the counts."""
        pace = _Pace()
        chunk = []
        for meta in alive_first(self.registries):
            if stale and meta.health != "stale":
                continue
            chunk.append(meta.as_dict(json=True))
            await pace()
            if len(chunk) == CHUNK:
                yield {"tasks": chunk}
                chunk = []
        yield {"tasks": chunk}
        yield {"stats": self.stats()}

    def stats(self) -> dict[str, Any]:
        """Return the counts of all registries together."""
        every = [stats_as_json(registry.stats()) for registry in self.registries]
        return functools.reduce(_add, every)

    def _work(self) -> list[dict[str, Any]]:
        """The progress of the batches and pools attached to the coordinators."""
        coordinators = {c for each in self.registries for c in list(each._coordinators)}
        if self.coordinator is not None:
            coordinators.add(self.coordinator)
        found = [one.what for c in coordinators for one in c._attached]
        return [
            {
                "kind": type(one).__name__,
                "limit": one.max_concurrent,
                "paused": one.paused,
                "total": one.progress.total,
                "started": one.progress.started,
                "running": one.progress.running,
                "done": one.progress.done,
                "failed": one.progress.failed,
                "cancelled": one.progress.cancelled,
            }
            for one in found
            if hasattr(one, "progress")
        ]

    async def _top(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        sort = request.get("sort", "silence")
        order = ORDERS.get(sort) if isinstance(sort, str) else None
        if order is None:
            raise RequestError(f"sort must be one of {', '.join(ORDERS)}")
        wanted = request.get("filter", "")
        rows = request.get("rows", 50)
        if not isinstance(wanted, str):
            raise RequestError("filter must be a text")
        if type(rows) is not int or not 0 <= rows <= ROWS:
            raise RequestError(f"rows must be from 0 to {ROWS}")
        pace = _Pace()
        matching = []
        for registry in self.registries:
            for task_id in registry:
                await pace()
                meta = registry.get(task_id)
                if meta is not None and wanted in task_id:
                    matching.append(meta)
        ranked: list[tuple[Any, int]] = []
        for meta in matching:
            ranked.append((order(meta), -len(ranked)))
            await pace()
        first = [matching[-i] for _, i in heapq.nlargest(rows, ranked)]
        yield {
            "process": process(),
            "stats": self.stats(),
            "lag": _lag(),
            "work": self._work(),
            "matching": len(matching),
            "rows": [_row(meta) for meta in first],
            "groups": await _group(matching, pace),
            "sampled": len(matching[:: _step(matching)]),
        }


def alive_first(registries: list[TaskRegistry]) -> list[TaskMetadata]:
    """Return all tasks: those that are alive, and then the histories."""
    every = [
        meta
        for registry in registries
        for meta in registry.get_status().result().values()
    ]
    return sorted(every, key=lambda meta: meta.finished_at is not None)


def stats_as_json(stats: RegistryStats) -> dict[str, Any]:
    """Return the counts of a registry, and the durations as a dict, for JSON."""
    counts = {name: getattr(stats, name) for name in stats.__slots__}
    lived = stats.durations
    counts["durations"] = {
        "count": lived.count,
        "sum": lived.sum if math.isfinite(lived.sum) else None,
        "bounds": lived.bounds,
        "counts": lived.counts,
    }
    return counts


def _add(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Add the counts of two registries."""
    total = {name: one[name] + other[name] for name in one if name != "durations"}
    some, more = one["durations"], other["durations"]
    total["durations"] = {
        "count": some["count"] + more["count"],
        "sum": (some["sum"] or 0.0) + (more["sum"] or 0.0),
        "bounds": some["bounds"],
        "counts": list(map(operator.add, some["counts"], more["counts"])),
    }
    return total


def _lag() -> dict[str, Any] | None:
    """What a LoopWatch of this loop has seen; None if there is none."""
    for watch in watches_of(asyncio.get_running_loop()):
        lag = watch.lag
        worst = lag.quantile(0.99) if lag.count else 0.0
        if watch.blocked:  # a quantile is the upper bound of a bucket
            worst = min(worst, watch.longest)
        return {
            "p99": worst if math.isfinite(worst) else None,
            "blocked": watch.blocked,
            "longest": watch.longest,
        }
    return None


def process() -> dict[str, Any]:
    """Return what identifies this process to a person."""
    script, *arguments = sys.argv or [""]
    name = os.path.basename(script) or "python"
    if name == "__main__.py":  # of python -m
        name = os.path.basename(os.path.dirname(script))
    return {
        "pid": os.getpid(),
        "program": " ".join([name, *arguments[:2]]),
        "python": ".".join(map(str, sys.version_info[:3])),
    }


def _row(meta: TaskMetadata) -> dict[str, Any]:
    where = await_chain(meta.task) if meta.task is not None else []
    return {
        "id": meta.task_id,
        "state": str(meta.state),
        "health": str(meta.health),
        "age": meta.age,
        "silence": meta.silence,
        "heartbeats": meta.heartbeats,
        "restarts": getattr(meta, "restarts", 0),
        "where": _own_line(where),
    }


def _own_line(where: list[str]) -> str:
    """Return the innermost line that is not the standard library's."""
    library = os.path.dirname(asyncio.__file__)
    for line in reversed(where):
        if not line.lstrip().startswith(library):
            return line
    return where[-1] if where else ""


def _step(metas: list[TaskMetadata]) -> int:
    return max(1, math.ceil(len(metas) / SAMPLE))


async def _group(metas: list[TaskMetadata], pace: _Pace) -> list[dict[str, Any]]:
    """Group the tasks that wait at the same lines; of many tasks, an even sample."""
    step = _step(metas)
    groups: dict[tuple[str, ...], list[str]] = {}
    for meta in metas[::step]:
        if meta.task is not None:
            chain = tuple(await_chain(meta.task))
            groups.setdefault(chain, []).append(meta.task_id)
        await pace()
    largest = heapq.nlargest(GROUPS, groups.items(), key=lambda group: len(group[1]))
    return [
        {"count": len(ids) * step, "some": ids[:3], "where": list(chain)}
        for chain, ids in largest
    ]
