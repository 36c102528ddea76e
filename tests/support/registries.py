"""A TaskRegistry that cleans up, and what holds of every one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pyasynclife import TaskRegistry


@asynccontextmanager
async def a_registry(**options: Any) -> AsyncIterator[TaskRegistry]:
    """A registry whose tasks have ended when the block has."""
    registry = TaskRegistry(**options)
    yield registry
    registry.cancel_all()
    assert await registry.wait(60)


def adds_up(registry: TaskRegistry) -> None:
    """What must hold of a registry's numbers at every moment."""
    stats = registry.stats()
    now = stats.pending + stats.healthy + stats.stale + stats.unknown
    assert stats.alive == now == len(registry) == len(list(registry))
    ended = stats.done + stats.failed + stats.cancelled
    assert stats.registered == stats.alive + ended
    assert stats.durations.count == ended
    status = registry.get_status().result()
    assert len(status) >= len(registry)
    assert all(registry[task_id] is meta for task_id, meta in status.items())
    alive = [meta for meta in status.values() if meta.finished_at is None]
    assert [meta.task_id for meta in alive] == list(registry)
