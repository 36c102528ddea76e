"""Cancellation of a TaskGroup: cancel(), and a cancellation from outside."""

import asyncio

import pytest

from pyasynclife import TaskGroup
from support.coroutines import forever
from support.group_scenarios import cancelled_from_outside_after_cancel, cancelling
from support.loops import settle


async def test_cancel_ends_children_and_body_without_an_error() -> None:
    async with TaskGroup() as group:
        tasks = [group.create_task(forever()) for _ in range(3)]
        await asyncio.sleep(0)
        group.cancel()
        group.cancel()
        await forever()
    assert all(task.cancelled() for task in tasks)
    assert cancelling() == 0
    group.cancel()
    await asyncio.sleep(0)


async def test_cancel_before_entering_cancels_on_entry() -> None:
    group = TaskGroup()
    group.cancel()
    reached = False
    async with group:
        with pytest.raises(RuntimeError, match="is shutting down"):
            group.create_task(settle())
        await asyncio.sleep(0)
        reached = True
    assert not reached


async def test_children_are_cancelled_in_the_order_they_were_made() -> None:
    order: list[int] = []

    async def child(n: int) -> None:
        try:
            await forever()
        finally:
            order.append(n)

    async with TaskGroup() as group:
        for n in range(20):
            group.create_task(child(n))
        await asyncio.sleep(0)
        group.cancel()
    assert order == list(range(20))


@pytest.mark.parametrize("waits", [True, False], ids=["body waits", "body at its end"])
async def test_an_outer_cancellation_that_is_repeated_survives_cancel(
    waits: bool,
) -> None:
    # gh-155433; test_versions.py tests a single cancellation
    await cancelled_from_outside_after_cancel(TaskGroup, waits, repeated=3)


async def test_an_outer_cancellation_not_delivered_follows_the_group() -> None:
    async def body() -> None:
        async with TaskGroup() as group:
            group.cancel()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await forever()

    task = asyncio.create_task(body())
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_the_same_cancelled_error_propagates() -> None:
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            async with TaskGroup() as group:
                group.create_task(forever())
                try:
                    await forever()
                except asyncio.CancelledError as error:
                    seen.append(error)
                    raise
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    task = asyncio.create_task(body())
    await settle()
    task.cancel("why")
    await asyncio.wait([task])
    assert seen[0] is seen[1]
    assert seen[0].args == ("why",)
