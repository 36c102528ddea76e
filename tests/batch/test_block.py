"""An `async with` block that has not chosen: what it starts, and what it keeps."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyasynclife import bounded_gather
from support.coroutines import echo, forever
from support.loops import settle, until

BOTH_WAYS = True


# ---------------------------------------------- without on_result, as a TaskGroup


async def test_every_added_item_runs_in_a_block_without_a_use() -> None:
    done = asyncio.Semaphore(0)

    async def handle(x: int) -> None:
        await asyncio.sleep(0)
        done.release()

    async with bounded_gather(handle, [], max_concurrent=2) as pool:
        for x in range(200):
            pool.add(x)
        async with asyncio.timeout(10):
            for _ in range(200):
                await done.acquire()
    assert pool.progress.done == 200


async def endless() -> AsyncIterator[int]:
    for x in itertools.count():
        yield x


@pytest.mark.parametrize("make", [lambda: range(1000), itertools.count, endless])
async def test_added_items_overtake_a_source_that_the_window_holds_back(
    make: Callable[[], Any],
) -> None:
    async with bounded_gather(echo, make(), max_concurrent=3, buffer=6) as batch:
        await settle(60)
        assert batch.progress.started == 9
        for x in range(100, 150):
            batch.add(f"added {x}")
        await until(lambda: batch.progress.done == 59)
        await settle(20)
        assert batch.progress.started == 59
        batch.cancel()
        result = await batch
    data = [r.data for r in result if r.success]
    assert data == [*range(9), *(f"added {x}" for x in range(100, 150))]
    assert [r.index for r in result] == list(range(len(result)))


async def test_a_late_await_gets_what_overtook_and_the_rest_of_the_source() -> None:
    async with bounded_gather(echo, range(100), max_concurrent=2, buffer=0) as batch:
        batch.add("a")
        await until(lambda: batch.progress.done == 3)
        batch.add("b")
        await until(lambda: batch.progress.done == 4)
        result = await batch
    assert result.values() == [0, 1, "a", "b", *range(2, 100)]
    assert result.ok


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_late_iteration_gets_what_overtook_and_the_rest_of_the_source(
    ordered: bool,
) -> None:
    async with bounded_gather(
        echo, range(100), max_concurrent=2, buffer=0, ordered=ordered
    ) as batch:
        for x in range(10):
            batch.add(f"added {x}")
        await until(lambda: batch.progress.done == 12)
        found = [r.data async for r in batch]
    assert found == [0, 1, *(f"added {x}" for x in range(10)), *range(2, 100)]


async def test_an_iteration_has_its_window_whatever_the_block_started_before() -> None:
    started = []

    async def fn(x: Any) -> Any:
        started.append(x)
        return x

    async with bounded_gather(fn, range(100), max_concurrent=2, buffer=2) as batch:
        for x in range(10):
            batch.add(f"added {x}")
        await until(lambda: len(started) == 14)
        async for _ in batch:
            await settle(10)
            if len(started) > 14:
                break
            # 14 were started ahead of a consumer that may be 4 behind.
        assert started[14] == 4
        assert len(started) == 15


async def test_a_higher_limit_widens_the_window_of_the_source() -> None:
    async with bounded_gather(echo, range(1000), max_concurrent=2, buffer=2) as batch:
        batch.add("a")
        await until(lambda: batch.progress.done == 5)
        batch.max_concurrent = 5
        await until(lambda: batch.progress.done == 8)
        await settle(20)
        assert batch.progress.done == 8
        batch.cancel()


async def test_held_items_and_added_ones_keep_the_limit() -> None:
    async with bounded_gather(forever, range(100), max_concurrent=3) as batch:
        for x in range(100):
            batch.add(x)
        await settle(50)
        assert batch.progress.started == 3
        batch.cancel()
