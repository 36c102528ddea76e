"""cancel() and cancel_all()."""

import asyncio

import pytest

from pyasynclife import TaskRegistry, TaskState
from support.coroutines import forever
from support.loops import settle


async def test_cancel_passes_the_message_and_returns_whether_it_cancelled() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever(), "feed")
    await settle()
    assert await registry.cancel("feed", "enough")
    assert not await registry.cancel("nobody")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)
    await registry.wait()
    assert not await registry.cancel("feed")


async def test_cancel_all_returns_how_many_it_cancelled() -> None:
    registry = TaskRegistry()
    for _ in range(10):
        registry.register(forever())
    assert await registry.cancel_all() == 10
    await registry.wait()
    assert await registry.cancel_all() == 0


async def test_a_pending_task_that_is_cancelled_never_runs() -> None:
    registry = TaskRegistry()
    ran = []

    async def run() -> None:
        ran.append(1)

    registry.register(run(), "late")
    assert await registry.cancel("late")
    assert registry["late"].state is TaskState.PENDING
    await registry.wait()
    assert registry["late"].state is TaskState.CANCELLED
    assert ran == []
