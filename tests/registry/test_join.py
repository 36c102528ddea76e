"""join(): wait for one task."""

import asyncio
from typing import Any

import pytest

from pyasynclife import TaskRegistry, TaskState, UnknownTaskError
from pyasynclife.testing import VirtualTimeLoop
from support.capture import capture
from support.coroutines import echo, forever
from support.loops import settle


@pytest.mark.parametrize("allowed", [True, False], ids=["captured", "plain"])
async def test_join_returns_the_metadata_however_the_task_ends(allowed: bool) -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("no price")

    registry = TaskRegistry(history=0)
    with capture(allowed):
        for name, coro in {"a": echo(1), "b": fails(), "c": forever()}.items():
            registry.register(coro, name)
        joins = [asyncio.create_task(registry.join(name)) for name in "abc"]
        await settle()
        registry.cancel("c", "enough")
        metas = await asyncio.gather(*joins)
    assert [meta.state for meta in metas] == [
        TaskState.DONE,
        TaskState.FAILED,
        TaskState.CANCELLED,
    ]
    assert metas[0].result == 1
    assert str(metas[1].error) == "no price"
    assert metas[2].cancel_reason == "enough"
    assert registry._joiners == {}


async def test_joining_a_task_that_has_ended_returns_at_once() -> None:
    registry = TaskRegistry()
    await registry.register(echo("value"), "job")
    await registry.wait()
    assert (await registry.join("job", 0)).result == "value"


async def test_joining_an_unknown_task_raises() -> None:
    registry = TaskRegistry()
    with pytest.raises(UnknownTaskError, match=r"no task .job. is alive"):
        await registry.join("job")


async def test_a_task_that_joins_itself_is_told_so() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(registry.join("self"), "self")
    with pytest.raises(RuntimeError, match="task 'self' cannot wait for itself"):
        await task


@pytest.mark.parametrize("timeout", [0, 5])
def test_a_join_that_takes_too_long_times_out(timeout: float) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        registry = TaskRegistry()
        registry.register(forever(), "job")
        started = loop.time()
        with pytest.raises(TimeoutError, match="'job' still runs after"):
            await registry.join("job", timeout)
        took = loop.time() - started
        assert registry._joiners == {}
        await registry.shutdown()
        return took

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == timeout


async def test_a_cancelled_join_leaves_the_task_alone() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever(), "job")
    joins = [asyncio.create_task(registry.join("job")) for _ in range(2)]
    await settle()
    joins[0].cancel()
    await settle()
    assert joins[0].cancelled()
    assert not task.done()
    registry.cancel("job")
    assert (await joins[1]).state is TaskState.CANCELLED
    assert registry._joiners == {}


async def test_a_join_is_for_the_task_that_had_the_id_then() -> None:
    registry = TaskRegistry()
    await registry.register(echo(1), "job")
    join = asyncio.create_task(registry.join("job"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    seen: list[Any] = []
    while "job" in registry:
        await asyncio.sleep(0)
    await registry.register(forever(), "job")
    seen.append((await join).result)
    assert seen == [1]
    await registry.shutdown()
