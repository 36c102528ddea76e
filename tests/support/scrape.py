"""Objects whose metrics are known, and a loop that is blocked while a thread reads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pyasynclife import Batch, BatchResult, Histogram, TaskRegistry, bounded_gather
from support.coroutines import echo, fail, forever
from support.loops import settle
from support.registries import a_registry

T = TypeVar("T")

TASKS = {
    ("pending", "unknown"): 1,
    ("running", "healthy"): 1,
    ("running", "stale"): 1,
    ("running", "unknown"): 1,
}
"""The live tasks of a_busy_registry(), by state and health."""


@asynccontextmanager
async def a_busy_registry() -> AsyncIterator[TaskRegistry]:
    """A registry with live tasks of each kind, and one that failed, and one that did
    not; it has recorded one heartbeat, and refused another."""
    async with a_registry(stale_threshold=3600.0) as registry:
        registry.register(fail("x"), "failed")
        registry.register(echo(), "done")
        registry.register(forever(), "healthy")
        registry.register(forever(), "unknown")
        registry.register(forever(), "stale", stale_after=0.0)
        await settle()
        registry.heartbeat("healthy")
        registry.heartbeat("nobody")
        registry.register(forever(), "pending")
        yield registry


@asynccontextmanager
async def a_running_batch(items: Any) -> AsyncIterator[Batch[Any]]:
    """A batch of which two items run."""
    batch = bounded_gather(forever, items, max_concurrent=2)
    task = asyncio.create_task(batch.collect())
    await settle()
    yield batch
    batch.cancel()
    result: BatchResult[Any] = await task
    assert len(result.failures()) >= 2


async def an_ended_batch() -> Batch[Any]:
    """A batch of which one item succeeded, one failed and one ran out of time."""

    async def work(number: int) -> None:
        await [echo, fail, forever][number](number)

    batch = bounded_gather(work, range(3), timeout=0.001)
    result = await batch
    assert len(result.failures()) == 2
    return batch


class Watch:
    """What LoopWatch shows, without the thread."""

    def __init__(self, lag: Histogram, blocked: int) -> None:
        self.lag = lag
        self.blocked = blocked


def while_blocked(read: Callable[[], T]) -> T:
    """Call a function in a thread, and block this thread, the loop's, until it ends."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(read()))
    thread.start()
    thread.join(60)
    assert results
    return results[0]
