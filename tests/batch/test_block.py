"""An `async with` block that has not chosen: what it starts, and what it keeps."""

import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyasynclife import BatchError, BatchStatus, TaskResult, bounded_gather
from support.coroutines import Boom, echo, forever
from support.loops import settle, until

BOTH_WAYS = True


# ------------------------------------------------------------- with on_result


@pytest.mark.parametrize("max_errors", [None, 3])
async def test_a_block_with_on_result_keeps_nothing_that_has_ended(
    max_errors: int | None, way: str
) -> None:
    limit, items = 10, 20_000 if way == "workers" else 2_000
    errors: weakref.WeakSet[Exception] = weakref.WeakSet()
    most = count = 0

    class Counted(Exception):
        def __init__(self) -> None:
            errors.add(self)

    async def fn(x: int) -> bytes:
        if x % 2 and max_errors is None:
            raise Counted
        if x % 7 == 0:
            await asyncio.sleep(0)
        return bytes(10)

    def look(result: TaskResult[bytes]) -> None:
        nonlocal most, count
        count += 1
        if count % 1000 == 0:
            alive = sum(isinstance(each, TaskResult) for each in gc.get_objects())
            most = max(most, alive + len(errors))

    gc.collect()
    async with bounded_gather(
        fn, [], max_concurrent=limit, on_result=look, max_errors=max_errors
    ) as batch:
        for x in range(items):
            batch.add(x)
        while count < items:
            await asyncio.sleep(0)
        assert len(errors) <= limit
    assert most <= 3 * limit


async def test_a_block_with_on_result_keeps_as_many_errors_as_max_errors_needs() -> (
    None
):
    received = []
    begun: list[int] = []

    async def fn(x: int) -> None:
        begun.append(x)
        try:
            if x < 3:
                await until(lambda: len(begun) == 9)
            else:
                await asyncio.sleep(60)
        finally:
            raise Boom(x)

    with pytest.raises(BatchError) as caught:
        async with bounded_gather(
            fn, range(9), max_errors=2, on_result=lambda r: received.append(r.index)
        ):
            pass
    assert [str(error) for error in caught.value.exceptions] == ["0", "1", "2"]
    assert sorted(received) == list(range(9))


@pytest.mark.parametrize("use", [aiter, lambda batch: batch.collect()])
async def test_a_block_whose_results_went_to_on_result_cannot_be_read(
    use: Callable[[Any], Any],
) -> None:
    seen: list[int] = []

    def on_result(result: TaskResult[int]) -> None:
        if not seen:
            with pytest.raises(RuntimeError, match="have gone to on_result"):
                aiter(batch)
        seen.append(result.index)

    async with bounded_gather(echo, range(3), on_result=on_result) as batch:
        await until(lambda: seen)
        with pytest.raises(RuntimeError, match="before the first one"):
            answer = use(batch)
            await answer
    assert seen == [0, 1, 2]
    assert batch.status is BatchStatus.COMPLETED


@pytest.mark.parametrize("awaits", [True, False])
async def test_a_block_with_on_result_may_choose_before_the_first_result(
    awaits: bool,
) -> None:
    seen = []
    async with bounded_gather(echo, range(30), on_result=seen.append) as batch:
        found = list(await batch) if awaits else [r async for r in batch]
    assert found == seen
    assert [r.index for r in found] == list(range(30))


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
