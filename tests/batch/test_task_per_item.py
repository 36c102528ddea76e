"""bounded_gather(task_per_item=True, registry=...): each item has its own task."""

import asyncio
import time
from typing import Any

import pytest

from pyasynclife import (
    DuplicateTaskError,
    TaskHealth,
    TaskRegistry,
    TaskState,
    bounded_gather,
)
from pyasynclife._errors import BatchError
from support.coroutines import echo
from support.loops import result_of, settle
from support.marks import needs_eager

# ----------------------------------------------------------------- tasks


async def mixed(x: str) -> str:
    if x == "bad":
        raise ValueError(x)
    if x == "slow":
        await asyncio.sleep(10)
    if x == "cancel":
        asyncio.current_task().cancel()
    await asyncio.sleep(0)
    return x


ITEMS = ["good", "bad", "slow", "cancel", "fine"]


@pytest.mark.parametrize("limit", [1, 3, 50])
async def test_each_item_has_a_task_named_by_its_id_that_ends_as_the_item(
    limit: int,
) -> None:
    tasks = {}

    async def fn(x: str) -> Any:
        tasks[x] = asyncio.current_task()
        return await mixed(x)

    result = await bounded_gather(
        fn,
        ITEMS,
        task_per_item=True,
        key=lambda x: f"<{x}>",
        timeout=0.5,
        max_concurrent=limit,
    )
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.FAILED,
        TaskState.FAILED,
        TaskState.CANCELLED,
        TaskState.DONE,
    ]
    await settle()
    assert len({id(t) for t in tasks.values()}) == len(ITEMS)
    for r in result:
        task = tasks[r.item]
        assert task.get_name() == r.task_id == f"<{r.item}>"
        assert task.done()
        if r.state is TaskState.CANCELLED:
            assert task.cancelled()
        elif r.success:
            assert task.result() == r.data
        else:
            assert task.exception() is r.error


async def test_tasks_are_made_by_the_loop() -> None:
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        made.append(asyncio.Task(coro, loop=loop, **options))
        return made[-1]

    loop.set_task_factory(factory)
    try:
        await bounded_gather(echo, range(10), task_per_item=True)
    finally:
        loop.set_task_factory(None)
    assert len(made) == 10


async def test_a_source_longer_than_memory_is_pulled_as_tasks_end() -> None:
    async with bounded_gather(
        echo, range(10**30), max_concurrent=10**6, buffer=0, task_per_item=True
    ) as batch:
        async for result in batch:
            if result.index == 10:
                break
    assert batch.progress.started < 10**5


@pytest.mark.parametrize("keyed", [False, True])
async def test_items_that_take_long_to_pull_let_others_run(keyed: bool) -> None:
    def pulled(x: int) -> str:
        nonlocal in_a_row, most
        in_a_row += 1
        most = max(most, in_a_row)
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            pass
        return str(x)

    async def watch() -> None:
        nonlocal in_a_row
        while not batch.status:
            in_a_row = 0
            await asyncio.sleep(0)

    in_a_row = most = 0
    source = range(200) if keyed else map(pulled, range(200))
    key = pulled if keyed else None
    batch = bounded_gather(echo, source, key=key, task_per_item=True)
    watcher = asyncio.create_task(watch())
    assert len(await batch) == 200
    await watcher
    assert most <= 25


async def test_a_task_cancelled_before_it_began_is_a_cancelled_item() -> None:
    batch = bounded_gather(echo, range(4), task_per_item=True)
    running = asyncio.create_task(batch.collect())
    before = {asyncio.current_task(), running}
    await asyncio.sleep(0)
    (victim,) = [t for t in asyncio.all_tasks() - before if t.get_name() == "2"]
    victim.cancel()
    result = await running
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.DONE,
    ]
    batch = bounded_gather(echo, range(4), task_per_item=True)
    stream = aiter(batch)
    [t.cancel() for t in asyncio.all_tasks() if t.get_name() == "2"]
    assert [r.index async for r in stream] == [0, 1, 2, 3]


async def test_a_paused_batch_starts_no_item_whose_task_exists() -> None:
    began = []

    async def fn(x: int) -> None:
        began.append(x)
        await asyncio.sleep(0)

    batch = bounded_gather(fn, range(10), task_per_item=True)
    running = asyncio.create_task(batch.collect())
    await asyncio.sleep(0)
    assert began == []
    batch.pause()
    await settle(10)
    assert began == []
    batch.resume()
    await running
    assert began == list(range(10))
    batch = bounded_gather(fn, range(10), task_per_item=True)
    running = asyncio.create_task(batch.collect())
    await asyncio.sleep(0)
    batch.pause()
    await settle()
    batch.cancel()
    assert {r.state for r in await running} == {TaskState.PENDING}


@pytest.mark.standard_loop_only
async def test_an_item_that_cannot_be_held_back_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise OSError("no futures")

    loop = asyncio.get_running_loop()
    batch = bounded_gather(echo, [1], task_per_item=True)
    task = loop.create_task(batch.collect())
    await asyncio.sleep(0)
    batch.pause()
    with monkeypatch.context() as broken:
        broken.setattr(loop, "create_future", refuse)
        await settle(3)
    (result,) = await result_of(task)
    assert isinstance(result.error, OSError)
    assert result.duration < 5


@needs_eager
@pytest.mark.standard_loop_only
@pytest.mark.parametrize("registered", [False, True])
async def test_eager_tasks_neither_nest_nor_overtake(registered: bool) -> None:
    loop = asyncio.get_running_loop()
    options = {"registry": TaskRegistry()} if registered else {"task_per_item": True}
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        batch = bounded_gather(echo, range(5000), max_concurrent=3, **options)
        assert (await batch).values() == list(range(5000))
    finally:
        loop.set_task_factory(None)


# -------------------------------------------------------------- registry


async def test_items_are_registered_under_their_ids_and_beat_from_inside() -> None:
    registry = TaskRegistry()
    seen = []

    async def fn(x: str) -> str:
        assert await registry.heartbeat()
        assert await registry.heartbeat(f"<{x}>")
        meta = registry[f"<{x}>"]
        seen.append((meta.task is asyncio.current_task(), meta.heartbeats))
        assert meta.health is TaskHealth.HEALTHY
        await asyncio.sleep(0)
        assert f"<{x}>" in registry
        return x

    result = await bounded_gather(
        fn, ["a", "b"], registry=registry, key=lambda x: f"<{x}>"
    )
    assert result.values() == ["a", "b"]
    assert seen == [(True, 2)] * 2
    await settle()
    assert len(registry) == 0
    assert [(registry[i].state, registry[i].result) for i in ("<a>", "<b>")] == [
        (TaskState.DONE, "a"),
        (TaskState.DONE, "b"),
    ]


async def test_the_registry_has_each_items_outcome() -> None:
    registry = TaskRegistry()
    result = await bounded_gather(mixed, ITEMS, registry=registry, timeout=0.5)
    await settle()
    for r in result:
        assert registry[r.task_id].state is r.state
        if not r.success and r.state is TaskState.FAILED:
            assert registry[r.task_id].error is r.error
    stats = registry.stats()
    assert (stats.done, stats.failed, stats.cancelled, stats.alive) == (2, 2, 1, 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_an_exit_does_not_end_the_loop_and_the_registry_records_it(
    error: type[BaseException],
) -> None:
    raised = error("now")
    registry = TaskRegistry()

    async def fn(x: Any) -> None:
        await asyncio.sleep(0)
        if x == 1:
            raise raised
        await asyncio.sleep(10)

    with pytest.raises(error) as caught:
        await bounded_gather(fn, range(3), registry=registry)
    assert caught.value is raised
    assert registry["1"].state is TaskState.FAILED
    assert registry["1"].error is raised
    assert registry["0"].state is TaskState.CANCELLED


async def test_an_id_that_a_living_task_has_is_one_failed_item() -> None:
    registry = TaskRegistry()
    calls = []

    async def fn(x: str) -> str:
        calls.append(x)
        await asyncio.sleep(0.01)
        return x

    result = await bounded_gather(fn, ["a", "b", "a"], registry=registry)
    assert [r.data for r in result] == ["a", "b", None]
    assert result[2].state is TaskState.FAILED
    assert isinstance(result[2].error, DuplicateTaskError)
    assert calls == ["a", "b"]
    with pytest.raises(BatchError):
        await bounded_gather(fn, ["a", "a"], registry=registry, max_errors=0)


@pytest.mark.parametrize("fn", [echo, mixed])
async def test_an_id_is_free_again_for_the_next_item(fn: Any) -> None:
    registry = TaskRegistry()
    items = ["good"] * 20
    result = await bounded_gather(fn, items, registry=registry, max_concurrent=1)
    assert result.values() == items


async def test_cancelling_by_id_cancels_only_that_item() -> None:
    registry = TaskRegistry()

    async def fn(x: int) -> int:
        if x == 1:
            await asyncio.sleep(10)
        await asyncio.sleep(0.01)
        return x

    running = asyncio.create_task(
        bounded_gather(fn, range(3), registry=registry).collect()
    )
    await settle(5)
    assert await registry.cancel("1", "on request")
    result = await running
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.DONE,
    ]
    assert result[1].error.args == ("on request",)


async def test_a_registry_that_shuts_down_ends_the_items() -> None:
    registry = TaskRegistry()

    async def fn(x: int) -> None:
        await asyncio.sleep(10)

    running = asyncio.create_task(
        bounded_gather(fn, range(20), registry=registry, max_concurrent=3).collect()
    )
    await settle(5)
    report = await registry.shutdown(5)
    assert report.deadline_met
    states = [r.state for r in await running]
    assert states[:3] == [TaskState.CANCELLED] * 3
    assert set(states[3:]) == {TaskState.PENDING}


def test_a_registry_of_another_loop_ends_the_batch() -> None:
    registry = TaskRegistry()

    async def hold() -> None:
        registry.register(asyncio.sleep(10), "held")
        await settle()
        with pytest.raises(RuntimeError, match="bound to"):
            await asyncio.to_thread(asyncio.run, other())
        await registry.shutdown(5)

    async def other() -> None:
        await bounded_gather(echo, range(3), registry=registry)

    asyncio.run(hold())


async def test_an_abandoned_item_stays_in_the_registry_until_it_ends() -> None:
    registry = TaskRegistry()
    free = asyncio.Event()

    async def fn(x: str) -> str:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass
        return "late"

    result = await bounded_gather(
        fn, ["hard"], registry=registry, timeout=0.01, cancel_grace=0.01
    )
    assert result[0].state is TaskState.RUNNING
    assert "hard" in registry
    free.set()
    assert await registry.wait(5)
    assert registry["hard"].result == "late"


async def test_a_registry_that_gives_no_task_ends_the_batch() -> None:
    class Odd(TaskRegistry):
        def register(self, coro: Any, *args: Any, **options: Any) -> Any:
            coro.close()

            class Ready:
                def result(self) -> str:
                    return "nothing"

            return Ready()

    with pytest.raises(TypeError, match="not a task and its id"):
        await bounded_gather(echo, range(3), registry=Odd())
