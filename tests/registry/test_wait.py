"""wait(): until all have ended, and nothing is cancelled."""

import asyncio

import pytest

from pyasynclife import TaskRegistry
from support.coroutines import forever
from support.loops import settle
from support.registries import a_registry


async def test_wait_cancels_nothing_and_keeps_its_timeout() -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        assert not await registry.wait(0.01)
        assert "feed" in registry
    assert await registry.wait(0)


async def test_wait_from_inside_does_not_wait_for_itself() -> None:
    registry = TaskRegistry()

    async def inside() -> bool:
        return await registry.wait(5)

    task, _ = await registry.register(inside())
    registry.register(asyncio.sleep(0.01))
    assert await task
    await registry.wait()


async def test_a_cancellation_reaches_the_caller_of_wait_at_once() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "feed")
    await settle()

    async def waits() -> bool:
        asyncio.current_task().cancel("me")  # type: ignore[union-attr]
        return await registry.wait(0)

    with pytest.raises(asyncio.CancelledError, match="me"):
        await asyncio.create_task(waits())
    registry.cancel_all()
    await registry.wait()


async def test_polling_with_wait_lets_the_loop_iterate() -> None:
    registry = TaskRegistry()
    registry.register(settle(5))
    polls = 0
    while not await registry.wait(0):
        polls += 1
        assert polls < 100
    assert polls
