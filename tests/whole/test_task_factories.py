"""A task factory that wraps coroutines leaves none of ours that was never awaited."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry, bounded_gather
from support.coroutines import echo, fail, forever
from support.loops import settle, task_factory

# A coroutine that is freed unawaited warns, and here each warning is an error.


def wrapping(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    """Makes a Task of another coroutine around the given one, as Sentry's does."""

    async def wrapper() -> Any:
        return await coro

    return asyncio.Task(wrapper(), loop=loop, **options)


class Future(asyncio.Future[Any]):
    """No Task, but it runs a coroutine."""

    def __init__(self, loop: Any, coro: Any) -> None:
        super().__init__(loop=loop)
        self.task = wrapping(loop, coro)
        self.task.add_done_callback(self.task_has_ended)

    def task_has_ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and not self.done():
            self.set_result(task.result())
        elif not self.done():
            super().cancel()

    def cancel(self, msg: Any = None) -> bool:
        return bool(self.task.cancel(msg))

    def get_coro(self) -> Any:
        return self.task.get_coro()

    def get_name(self) -> str:
        return str(self.task.get_name())

    def set_name(self, name: str) -> None:
        self.task.set_name(name)


async def group() -> None:
    async with TaskGroup() as group:
        group.create_task(forever())
        group.create_task(forever(), name="named")
        group.cancel()


async def register() -> None:
    registry = TaskRegistry()
    for _ in range(3):
        registry.register(forever())
    await registry.shutdown()


async def monitor() -> None:
    async with TaskRegistry():
        pass


async def tasks_of_items() -> None:
    with pytest.raises(ExceptionGroup):
        await bounded_gather(
            fail, range(4), max_concurrent=3, max_errors=0, task_per_item=True
        )


async def registered_items() -> None:
    registry = TaskRegistry()
    async with bounded_gather(forever, range(4), registry=registry) as batch:
        batch.cancel()
    await registry.shutdown()


async def workers() -> None:
    async with bounded_gather(forever, range(4)) as batch:
        batch.cancel()


async def reader() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1

    async with bounded_gather(forever, source()) as batch:
        batch.cancel()


@pytest.mark.parametrize(
    "scenario",
    [group, register, monitor, tasks_of_items, registered_items, workers, reader],
)
async def test_a_coroutine_that_a_wrapper_never_starts_is_closed(
    scenario: Callable[[], Awaitable[None]],
) -> None:
    with task_factory(wrapping):
        await scenario()
        await settle()
    gc.collect()


@pytest.mark.parametrize(
    "factory", [wrapping, lambda loop, coro, **_: Future(loop, coro)]
)
async def test_a_coroutine_that_is_started_runs_to_its_end(factory: Any) -> None:
    with task_factory(factory):
        async with TaskGroup() as group:
            done = group.create_task(echo(1))
            stopped = group.create_task(echo(2))
            stopped.cancel()
        assert done.result() == 1
        assert stopped.cancelled()
    gc.collect()


async def test_a_coroutine_that_a_factory_keeps_for_later_is_not_closed_before() -> (
    None
):
    kept: list[Any] = []

    def keeping(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        async def wrapper() -> Any:
            await settle(5)
            assert inspect.getcoroutinestate(coro) == inspect.CORO_CREATED
            return await coro

        kept.append(coro)
        return asyncio.Task(wrapper(), loop=loop, **options)

    with task_factory(keeping):
        async with TaskGroup() as group:
            task = group.create_task(echo(1))
    assert task.result() == 1
    assert len(kept) == 1


async def test_without_a_wrapper_a_task_has_no_more_callbacks() -> None:
    def plain(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **options)

    with task_factory(plain):
        async with TaskGroup() as group:
            task: Any = group.create_task(echo())
            assert len(task._callbacks) == 1


async def test_a_factory_whose_object_is_no_task_is_reported_as_before() -> None:
    with task_factory(lambda loop, coro, **_: object()):
        async with TaskGroup() as group:
            with pytest.raises(AttributeError):
                group.create_task(echo())
