"""The registry and the drain among strangers: odd Tasks, factories, clocks, hooks."""

import asyncio
import contextvars
import gc
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import run_child, settle

from pyasynclife import DuplicateTaskError, TaskHealth, TaskRegistry, TaskState
from pyasynclife._core import Drain

needs_eager = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with 3.12"
)


async def forever() -> None:
    await asyncio.sleep(3600)


async def returns(value: Any) -> Any:
    return value


def adds_up(registry: TaskRegistry) -> None:
    """What must hold of a registry's numbers at every moment."""
    stats = registry.stats()
    now = stats.pending + stats.healthy + stats.stale + stats.unknown
    assert stats.alive == now == len(registry) == len(list(registry))
    ended = stats.done + stats.failed + stats.cancelled
    assert stats.registered == stats.alive + ended
    status = registry.get_status().result()
    assert len(status) >= len(registry)
    assert all(registry[task_id] is meta for task_id, meta in status.items())
    alive = [meta for meta in status.values() if meta.finished_at is None]
    assert [meta.task_id for meta in alive] == list(registry)


@contextmanager
def task_factory(factory: Callable[..., Any]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


def eager(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    options.pop("eager_start", None)
    return asyncio.Task(coro, loop=loop, eager_start=True, **options)  # type: ignore[call-arg]


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock may do anything."""

    now = 1000.0
    hook: Callable[[], object] | None = None

    def time(self) -> float:
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
        return self.now


# ---------------------------------------------------------------- an eager first step


@needs_eager
async def test_an_eager_first_step_may_shut_the_registry_down() -> None:
    registry = TaskRegistry()

    async def closes() -> int:
        return len((await registry.shutdown(5)).cancelled)

    registry.register(forever(), "other")
    with task_factory(eager):
        task, _ = await registry.register(closes(), "closer")
    assert await task == 1
    await registry.wait()
    assert registry["closer"].state is TaskState.DONE
    adds_up(registry)


@needs_eager
async def test_a_shutdown_begun_below_an_eager_first_step_cancels_it() -> None:
    registry = TaskRegistry()
    closing: list[asyncio.Task[Any]] = []

    async def outer() -> None:
        closing.append(asyncio.create_task(registry.shutdown(5)))
        await forever()

    with task_factory(eager):
        registry.register(outer(), "outer")
    (report,) = await asyncio.gather(*closing)
    assert [one.task_id for one in report.cancelled] == ["outer"]
    adds_up(registry)


@needs_eager
async def test_a_cancellation_in_an_eager_first_step_keeps_its_message() -> None:
    registry = TaskRegistry()

    async def suicidal() -> None:
        registry.cancel("feed", "first")
        registry.cancel("feed", "told to")
        await forever()

    with task_factory(eager):
        task, _ = await registry.register(suicidal(), "feed")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("told to",)
    await registry.wait()


@needs_eager
async def test_an_eager_first_step_may_do_everything_else() -> None:
    registry = TaskRegistry()
    inner: list[asyncio.Task[Any]] = []

    async def busy(depth: int) -> int:
        name = f"busy {depth}"
        assert name in registry
        assert not await registry.cancel(f"busy {depth + 1}")
        with pytest.raises(DuplicateTaskError):
            registry.register(forever(), name)
        with pytest.raises(RuntimeError, match="in use"):
            registry.__init__()  # type: ignore[misc]
        assert registry[name].state is TaskState.RUNNING
        assert await registry.heartbeat(name)
        registry.where(name)
        registry.dump()
        registry.stats()
        await registry.complete(name, depth)
        if depth < 5:
            inner.append((await registry.register(busy(depth + 1)))[0])
            task = asyncio.current_task()
            assert task is not None
            registry.register(busy(depth + 1), f"busy {depth + 1}")
            assert registry.track(task) == name
        return depth

    with task_factory(eager):
        inner.clear()
        with pytest.raises(AssertionError):
            await registry.register(busy(0))[0]  # type: ignore[index]
    await registry.wait()
