"""The id in the context: current_id(), and heartbeat() without an id."""

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry, bounded_gather
from support.capture import capture
from support.coroutines import echo, forever
from support.loops import eager, task_factory
from support.marks import needs_eager

Ways = dict[str, Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]]


async def by_a_group(fn: Callable[[], Any]) -> Any:
    async with TaskGroup() as group:
        task = group.create_task(fn())
    return await task


async def by_asyncios_group(fn: Callable[[], Any]) -> Any:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fn())
    return await task


async def by_items(fn: Callable[[], Any], **options: Any) -> Any:
    [result] = await bounded_gather(lambda _: fn(), [1], **options)
    return result.unwrap()


async def by_a_callback(fn: Callable[[], Any]) -> Any:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(0, lambda: future.set_result(loop.create_task(fn())))
    return await (await future)


WAYS: Ways = {
    "awaited": lambda fn: fn(),
    "wait_for": lambda fn: asyncio.wait_for(fn(), 60),
    "create_task": lambda fn: asyncio.create_task(fn()),  # type: ignore[arg-type]
    "gather": lambda fn: asyncio.gather(fn()),
    "a group": by_a_group,
    "asyncio's group": by_asyncios_group,
    "an item": by_items,
    "an item's task": lambda fn: by_items(fn, task_per_item=True),
    "a callback": by_a_callback,
}


@pytest.mark.parametrize("allowed", [True, False], ids=["captured", "plain"])
@pytest.mark.parametrize("way", WAYS)
async def test_what_a_task_starts_has_its_id(way: str, allowed: bool) -> None:
    registry = TaskRegistry()
    seen: list[Any] = []

    async def child() -> None:
        seen.append(registry.current_id())
        seen.append(await registry.heartbeat())

    async def job() -> None:
        await WAYS[way](child)

    with capture(allowed):
        await registry.register(job(), "job")
        await registry.wait(60)
    assert seen[:2] == ["job", True]
    assert registry["job"].heartbeats == 1
    assert registry.current_id() is None


async def test_a_thread_of_to_thread_has_the_id() -> None:
    registry = TaskRegistry()

    async def job() -> list[Any]:
        beat = await asyncio.to_thread(registry.heartbeat)
        return [await asyncio.to_thread(registry.current_id), beat.result()]

    task, _ = await registry.register(job(), "job")
    assert await task == ["job", True]
    assert await asyncio.to_thread(registry.current_id) is None


@needs_eager
async def test_an_eager_first_step_has_the_id() -> None:
    registry = TaskRegistry()
    seen: list[Any] = []

    async def child() -> None:
        seen.append(registry.current_id())

    async def job() -> None:
        seen.append(registry.current_id())
        await child()
        await asyncio.create_task(child())

    with task_factory(eager):
        registry.register(job(), "job")
        await registry.wait(60)
    assert seen == ["job"] * 3


async def test_a_task_factory_sees_no_context_that_was_not_passed() -> None:
    seen: list[Any] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        seen.append(options.get("context"))
        return asyncio.Task(coro, loop=loop, **options)

    registry = TaskRegistry()
    with task_factory(factory):
        task, _ = await registry.register(echo())
        await task
    assert seen == [None]


async def test_each_registry_finds_its_own_task_in_nested_registrations() -> None:
    outer, inner = TaskRegistry(), TaskRegistry()
    seen: list[Any] = []

    async def leaf() -> None:
        await outer.heartbeat()
        seen.append((outer.current_id(), inner.current_id()))

    async def middle() -> None:
        await asyncio.create_task(leaf())
        task, _ = outer.register(leaf(), "outer leaf").result()
        await task

    async def root() -> None:
        task, _ = inner.register(middle(), "middle").result()
        await task
        seen.append((outer.current_id(), inner.current_id()))

    task, _ = await outer.register(root(), "root")
    await task
    assert seen == [("root", "middle"), ("outer leaf", "middle"), ("root", None)]
    assert [outer[name].heartbeats for name in ("root", "outer leaf")] == [1, 1]


async def test_items_with_a_registry_have_ids_of_their_own() -> None:
    registry = TaskRegistry()

    async def item(name: str) -> str | None:
        return await asyncio.create_task(read())

    async def read() -> str | None:
        return registry.current_id()

    async def job() -> list[Any]:
        batch = await bounded_gather(
            item, ["a", "b"], task_per_item=True, registry=registry
        )
        return [*batch.values(), await read()]

    task, _ = await registry.register(job(), "job")
    assert await task == ["a", "b", "job"]


async def test_the_id_is_set_in_a_context_that_was_passed() -> None:
    registry = TaskRegistry()
    context = contextvars.copy_context()

    async def child() -> str | None:
        return registry.current_id()

    async def job() -> str | None:
        return await asyncio.create_task(child())

    task, _ = await registry.register(job(), "job", context=context)
    assert await task == "job"
    assert context.run(registry.current_id) is None  # it has ended


async def test_a_context_that_runs_code_already_keeps_its_id() -> None:
    registry = TaskRegistry()

    async def child() -> str | None:
        return registry.current_id()

    async def inner() -> list[Any]:
        return [registry.current_id(), await asyncio.create_task(child())]

    async def outer() -> list[Any]:
        # In the very context of this task, which runs.
        here: list[contextvars.Context] = []
        task = asyncio.current_task()
        assert task is not None
        if not hasattr(task, "get_context"):
            return ["inner", "outer", "outer"]  # 3.11 cannot ask for it
        here.append(task.get_context())
        started, _ = registry.register(inner(), "inner", context=here[0]).result()
        return [*await started, registry.current_id()]

    task, _ = await registry.register(outer(), "outer")
    assert await task == ["inner", "outer", "outer"]


async def test_code_of_a_task_that_has_ended_has_no_id() -> None:
    registry = TaskRegistry()
    go = asyncio.Event()
    left: list[asyncio.Task[Any]] = []

    async def child() -> tuple[Any, bool]:
        await go.wait()
        return registry.current_id(), await registry.heartbeat()

    async def job() -> None:
        left.append(asyncio.create_task(child()))

    await registry.register(job(), "job")
    await registry.wait(60)
    # Not even if a later task has taken the id.
    await registry.register(forever(), "job")
    go.set()
    assert await left[0] == (None, False)
    assert registry["job"].heartbeats == 0
    assert registry.stats().unknown_heartbeats == 1
    await registry.shutdown()


async def test_a_registration_that_failed_leaves_no_id_behind() -> None:
    registry = TaskRegistry()
    context = contextvars.copy_context()

    def broken(loop: Any, coro: Any, **options: Any) -> Any:
        raise OSError("no task today")

    with task_factory(broken), pytest.raises(OSError, match="no task"):
        registry.register(echo(), "job", context=context)
    assert context.run(registry.current_id) is None
    assert registry.current_id() is None


async def test_code_started_by_a_tracked_task_has_no_id() -> None:
    registry = TaskRegistry()

    async def child() -> str | None:
        return registry.current_id()

    async def job() -> list[Any]:
        registry.track(asyncio.current_task(), "job")  # type: ignore[arg-type]
        return [registry.current_id(), await asyncio.create_task(child())]

    assert await asyncio.create_task(job()) == ["job", None]


async def test_a_context_keeps_no_task_that_has_ended_alive() -> None:
    class Value:
        pass

    registry = TaskRegistry(history=0)
    kept: list[contextvars.Context] = []

    async def job() -> Value:
        kept.append(contextvars.copy_context())
        return Value()

    task, _ = await registry.register(job())
    value = weakref.ref(await task)
    await registry.wait(60)
    del task
    await asyncio.sleep(0)
    assert value() is None


async def test_tasks_that_register_each_other_for_ever_keep_nothing() -> None:
    registries = [TaskRegistry(history=0), TaskRegistry(history=0)]
    done = asyncio.Event()

    async def job(n: int) -> None:
        if n == 2_000:
            done.set()
            return
        if n == 1_000:
            gc.collect()
            counts.append(len(gc.get_objects()))
        registries[n % 2].register(job(n + 1))
        await asyncio.sleep(0)

    counts: list[int] = []
    registries[1].register(job(0))
    await asyncio.wait_for(done.wait(), 60)
    for registry in registries:
        await registry.wait(60)
    gc.collect()
    assert len(gc.get_objects()) < counts[0] + 500
