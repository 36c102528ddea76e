"""max_concurrent: how many items run at once, and how that changes."""

import asyncio
import math
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest

from pyasynclife import TaskState, bounded_gather
from support.coroutines import echo, echo_later
from support.items import Gated
from support.loops import ready_queue, settle, task_factory, until

BOTH_WAYS = True


# ------------------------------------------------------------- the limit


class Gauge:
    """A function for items that counts how many of them run at once."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def __call__(self, item: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await settle(20)  # a slow machine starts the rest in a later iteration
        self.now -= 1
        return item


@pytest.mark.parametrize("limit", [1, 2, 7, 50, 200])
@pytest.mark.parametrize("make", [list, iter])
async def test_at_most_max_concurrent_run_and_that_many_do(
    limit: int, make: Callable[..., Any]
) -> None:
    gauge = Gauge()
    await bounded_gather(gauge, make(range(300)), max_concurrent=limit)
    assert gauge.most == limit


async def test_no_more_tasks_than_items_or_limit_are_made() -> None:
    seen = set()

    async def fn(x: int) -> None:
        await settle(2)
        seen.add(len(asyncio.all_tasks()))

    await bounded_gather(fn, range(3), max_concurrent=1000)
    assert max(seen) <= 4
    await bounded_gather(fn, iter(range(3)), max_concurrent=1000)
    assert max(seen) <= 12


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_a_short_list_makes_one_task_for_each_item(number: int) -> None:
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    with task_factory(factory):
        await bounded_gather(echo_later, list(range(number)), max_concurrent=50)
    assert len(made) == number


async def test_the_function_is_called_only_when_a_slot_is_free() -> None:
    live = 0
    most = 0

    class Coro:
        def __init__(self) -> None:
            nonlocal live, most
            live += 1
            most = max(live, most)

        def __await__(self) -> Generator[Any, None, Any]:
            nonlocal live
            yield from asyncio.sleep(0).__await__()
            live -= 1

    await bounded_gather(lambda x: Coro(), range(100), max_concurrent=3)
    assert most == 3


@pytest.mark.parametrize("fails", [False, True])
async def test_workers_exceed_the_limit_for_one_iteration_at_most(fails: bool) -> None:
    most = 0

    async def fn(x: int) -> None:
        nonlocal most
        most = max(most, len(asyncio.all_tasks()))
        await asyncio.sleep(0)
        if fails:
            raise ValueError

    result = await bounded_gather(fn, range(100), max_concurrent=5)
    assert len(result.failures()) == (100 if fails else 0)
    assert most <= 1 + 2 * 5  # tasks that have just ended are counted too


# -------------------------------------------------- a limit that changes


@pytest.mark.parametrize("make", [list, iter])
async def test_raising_the_limit_starts_more_at_once(make: Callable[..., Any]) -> None:
    gated = Gated()
    batch = bounded_gather(gated, make(range(100)), max_concurrent=2)
    task = asyncio.create_task(batch.collect())
    await until(lambda: gated.now == 2)
    batch.max_concurrent = 20
    assert batch.max_concurrent == 20
    await until(lambda: gated.now >= 20)
    await settle(6)
    assert gated.now == 20
    batch.cancel()
    (await task).failures()


@pytest.mark.parametrize("make", [list, iter])
async def test_lowering_the_limit_lets_fewer_run_as_items_end(
    make: Callable[..., Any],
) -> None:
    gated = Gated()
    batch = bounded_gather(gated, make(range(200)), max_concurrent=20)
    task = asyncio.create_task(batch.collect())
    await until(lambda: gated.now >= 20)
    batch.max_concurrent = 3
    await settle(3)
    assert gated.now == 20
    gated.release(10)
    await settle(5)
    assert gated.now == 10
    gated.release(8)
    await until(lambda: gated.now <= 3)
    await settle(8)
    assert gated.now == 3
    for _ in range(20):
        gated.release()
        await settle(1)
        assert gated.now <= 3
    batch.max_concurrent = 1
    gated.release()
    await settle(8)
    assert gated.now == 1
    batch.cancel()
    (await task).failures()


async def test_the_limit_may_be_set_by_an_item_and_before_the_start() -> None:
    async def fn(x: int) -> int:
        await asyncio.sleep(0)
        batch.max_concurrent = 1 + x % 7
        return x

    batch = bounded_gather(fn, range(300), max_concurrent=50)
    batch.max_concurrent = 2
    assert (await batch).values() == list(range(300))
    batch.max_concurrent = 5


@pytest.mark.parametrize("raised", [1, 6])
async def test_a_limit_lowered_at_the_start_holds(raised: int) -> None:
    now = most = 0

    async def fn(x: int) -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await settle(x % 3)
        if x == 10:
            batch.max_concurrent = raised
        now -= 1
        return x

    async with bounded_gather(fn, range(100), max_concurrent=40) as batch:
        batch.max_concurrent = 1
        await until(lambda: most)
        await settle(5)
        assert most == 1
        result = await batch
    assert result.values() == list(range(100))
    assert most == raised


async def test_items_held_back_by_a_lowered_limit_can_be_cancelled() -> None:
    begun = []

    async def fn(x: int) -> None:
        begun.append(x)
        await asyncio.sleep(60)

    async with bounded_gather(fn, range(100), max_concurrent=40) as batch:
        batch.max_concurrent = 2
        await until(lambda: len(begun) == 2)
        batch.pause()
        await settle(3)
        batch.resume()
        await settle(3)
        batch.cancel()
        result = await batch
    states = [r.state for r in result]
    assert states == [TaskState.CANCELLED] * 2 + [TaskState.PENDING] * 98


async def test_the_buffer_of_a_stream_follows_the_limit() -> None:
    async with bounded_gather(echo, range(1000), max_concurrent=2) as batch:
        stream = aiter(batch)
        await settle(10)
        assert batch.progress.started == 6
        batch.max_concurrent = 10
        await settle(10)
        assert batch.progress.started == 30
        batch.max_concurrent = 1
        for _ in range(27):
            await anext(stream)
        await settle(10)
        assert batch.progress.started == 30
        await anext(stream)
        await settle(10)
        assert batch.progress.started == 31


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (0, ValueError, "max_concurrent must be 1 or more, got 0"),
        (-3, ValueError, "got -3"),
        (True, TypeError, "must be an int, got bool True"),
        (2.0, TypeError, "must be an int, got float 2.0"),
        ("2", TypeError, "must be an int"),
    ],
)
async def test_a_bad_limit_is_refused_and_changes_nothing(
    value: Any, error: type[BaseException], says: str
) -> None:
    batch = bounded_gather(echo, [1])
    with pytest.raises(error, match=says):
        batch.max_concurrent = value
    assert batch.max_concurrent == 50
    batch.max_concurrent = 10**30
    assert batch.max_concurrent == 10**30
    assert (await batch).ok


# -------------------------------------------------------------- fairness


async def count_iterations_beside(fn: Any, n: int) -> int:
    iterations = 0
    stop = False

    async def watch() -> None:
        nonlocal iterations
        while not stop:
            await asyncio.sleep(0)
            iterations += 1

    watcher = asyncio.create_task(watch())
    await bounded_gather(fn, range(n), max_concurrent=50)
    stop = True
    await watcher
    return iterations


def work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def test_items_that_never_suspend_let_others_run() -> None:
    async def busy(x: Any) -> None:
        work(0.0005)

    assert await count_iterations_beside(busy, 600) >= 6  # in 0.3 s or more


async def test_items_that_work_and_then_suspend_let_others_run() -> None:
    async def busy(x: Any) -> None:
        work(0.004)
        await asyncio.sleep(0)

    assert await count_iterations_beside(busy, 100) > 20


async def test_items_that_begin_after_others_ended_at_once_let_others_run() -> None:
    begun = 0
    gate = asyncio.Event()

    async def busy(x: int) -> None:
        nonlocal begun
        begun += 1
        if begun == 50:
            gate.set()
        if x >= 50:
            work(0.004)
        await (settle(1) if gate.is_set() else gate.wait())

    assert await count_iterations_beside(busy, 100) > 20


# ------------------------------------------------------------ large limits


async def test_of_a_large_limit_few_tasks_wait_to_begin() -> None:
    number = 3000
    order = []
    waiting = []
    gate = asyncio.Event()

    async def fn(x: int) -> None:
        order.append(x)
        if x % 50 == 0:
            waiting.append(len(asyncio.all_tasks()) - 1 - len(order))
        if x == number - 1:
            gate.set()
        await gate.wait()

    await bounded_gather(fn, range(number), max_concurrent=number)
    assert order == list(range(number))
    assert max(waiting) <= 600


@pytest.mark.parametrize("fails", [False, True])
async def test_a_batch_that_is_resumed_makes_few_tasks_that_wait_to_begin(
    fails: bool,
) -> None:
    number = 3000
    begun = 0
    waiting = []

    async def fn(x: int) -> None:
        nonlocal begun
        begun += 1
        if x % 50 == 0:
            waiting.append(len(asyncio.all_tasks()) - 1 - begun)
        if fails:
            raise ValueError
        await settle(2)

    async with bounded_gather(fn, range(number), max_concurrent=number) as batch:
        batch.pause()
        await settle()
        batch.resume()
        result = await batch
    assert len(result.failures()) == (number if fails else 0)
    assert max(waiting) <= 600


async def count_handles(number: int, fn: Callable[[Any], Any], limit: int) -> float:
    """Return how many handles the loop runs for each item of a batch."""
    loop = asyncio.get_running_loop()
    handles = 0

    async def watch() -> None:
        nonlocal handles
        while not batch.status:
            handles += len(ready_queue(loop))
            await asyncio.sleep(0)

    batch = bounded_gather(fn, range(number), max_concurrent=limit)
    watcher = asyncio.create_task(watch())
    await batch
    await watcher
    return handles / number


async def least_growth(
    count: Callable[[int], Coroutine[Any, Any, float]], number: int
) -> float:
    """Return by how much the cost of an item grows with four times the number.

    A slice lasts 10 ms of real time, so a machine that stands still adds to a count,
    and a growth of 2 and more is counted again. A true one is there each time.
    """
    growth = math.inf
    for _ in range(3):
        if growth >= 2:
            growth = await count(4 * number) / await count(number)
    return growth


async def test_a_large_limit_costs_no_more_for_each_item_than_a_smaller_one() -> None:
    async def count(number: int) -> float:
        begun = 0
        gate = asyncio.Event()

        async def fn(x: int) -> None:
            nonlocal begun
            begun += 1
            if begun == number:
                gate.set()
            work(0.0001)  # so that a slice begins far fewer items than there are
            await gate.wait()

        return await count_handles(number, fn, number)

    assert await least_growth(count, 2000) < 2


async def test_many_workers_that_become_free_at_once_cost_no_more_each() -> None:
    async def count(limit: int) -> float:
        gate = asyncio.Event()
        begun = 0

        async def fn(x: int) -> None:
            nonlocal begun
            begun += 1
            if begun == limit:
                gate.set()
            if x >= limit:
                work(0.0001)
            await (settle(1) if gate.is_set() else gate.wait())

        return await count_handles(2 * limit, fn, limit)

    assert await least_growth(count, 1500) < 2


async def test_the_longest_range_takes_added_items_and_any_limit() -> None:
    gated = Gated()
    batch = bounded_gather(gated, range(sys.maxsize), max_concurrent=1)
    async with batch:
        job = batch.add("last")
        batch.max_concurrent = 3
        assert batch.progress.total == sys.maxsize
        await until(lambda: gated.now == 3)
        batch.cancel()
    assert job.state is TaskState.PENDING
    assert gated.started == ["last", 0, 1] or gated.started == [0, 1, 2]
