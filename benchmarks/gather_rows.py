"""The rows of bounded_gather: limit 50, a timeout of 5 s for each item."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from benchmarks.figures import (
    Round,
    Row,
    Settings,
    clock,
    show_progress,
    tidy_up,
    time_row,
)
from benchmarks.hand import gather_by_hand
from benchmarks.seed import TaskResult, gather_with_timeout_and_budget
from pyasynclife import TaskPool, bounded_gather

LIMIT = 50
TIMEOUT = 5.0
MEGABYTE = 1e6
POOL = "pool, jobs and failures to on_result: peak growth"

# The functions that are run on an item, and the same as the articles write them:
# their function makes the TaskResult itself, which ours does natively.


async def return_at_once(symbol: str) -> str:
    return symbol


async def return_at_once_seed(symbol: str) -> TaskResult:
    return TaskResult(task_id=symbol, success=True, data=symbol)


async def sleep_0(symbol: str) -> str:
    await asyncio.sleep(0)
    return symbol


async def sleep_0_seed(symbol: str) -> TaskResult:
    await asyncio.sleep(0)
    return TaskResult(task_id=symbol, success=True, data=symbol)


def _answer_later(symbol: str) -> asyncio.Future[str]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    loop.call_soon(future.set_result, symbol)
    return future


async def wait_for_future(symbol: str) -> str:
    return await _answer_later(symbol)


async def wait_for_future_seed(symbol: str) -> TaskResult:
    data = await _answer_later(symbol)
    return TaskResult(task_id=symbol, success=True, data=data)


async def raise_at_once(symbol: str) -> str:
    raise LookupError(symbol)


async def raise_at_once_seed(symbol: str) -> TaskResult:
    raise LookupError(symbol)


Function = Callable[[str], Awaitable[str]]
SeedFunction = Callable[[str], Coroutine[Any, Any, TaskResult]]
Musts = Mapping[str, float]

IN_TASKS = ", task_per_item"  # each item in a Task of its own

# name, our function, the seed's, targets on the standard loop, targets on uvloop
WORK: list[tuple[str, Function, SeedFunction, Musts, Musts]] = [
    (
        "gather, item returns at once",
        return_at_once,
        return_at_once_seed,
        {"seed": 35.0, "hand": 10.0},
        {"seed": 33.0},
    ),
    (
        "gather, item does sleep(0)",
        sleep_0,
        sleep_0_seed,
        {"seed": 8.0, "hand": 2.7},
        {"seed": 10.0},
    ),
    (
        "gather, item waits for a future",
        wait_for_future,
        wait_for_future_seed,
        {"seed": 5.0},
        {"seed": 6.5},
    ),
    (
        "gather, item raises at once",
        raise_at_once,
        raise_at_once_seed,
        {"seed": 3.0},
        {"seed": 3.0},
    ),
    (
        f"gather, item returns at once{IN_TASKS}",
        return_at_once,
        return_at_once_seed,
        {"seed": 2.0},
        {"seed": 2.0},
    ),
    (
        f"gather, item waits for a future{IN_TASKS}",
        wait_for_future,
        wait_for_future_seed,
        {"seed": 2.0},
        {"seed": 2.0},
    ),
]


def _contenders(
    function: Function,
    seed_function: SeedFunction,
    items: list[str],
    task_per_item: bool,
) -> dict[str, Round]:
    """Return the rounds. Each keeps its results, but no task, until its clock stops.

    The articles' code drops an item that raises, so `seed` returns none of them.
    """
    raises = function is raise_at_once

    async def seed() -> float:
        begin = clock()
        results = await gather_with_timeout_and_budget(
            seed_function, items, TIMEOUT, LIMIT
        )
        seconds = clock() - begin
        assert len(results) == (0 if raises else len(items))
        return seconds

    async def hand() -> float:
        begin = clock()
        results = await gather_by_hand(function, items, TIMEOUT, LIMIT)
        seconds = clock() - begin
        assert all(isinstance(result, LookupError) is raises for result in results)
        return seconds

    async def ours() -> float:
        begin = clock()
        results = await bounded_gather(
            function,
            items,
            max_concurrent=LIMIT,
            timeout=TIMEOUT,
            task_per_item=task_per_item,
        )
        seconds = clock() - begin
        assert len(results) == len(items)
        assert results.ok is not raises
        return seconds

    return {"seed": seed, "hand": hand, "ours": ours}


async def _streamed_memory(settings: Settings) -> Row:
    """Measure the peak memory above the start while items stream."""
    n = settings.size(100_000 if settings.quick else 1_000_000)
    what = "gather, results streamed: peak growth"
    show_progress(f"{settings.loop}: {what}, n = {n:,}")

    async def number(item: int) -> int:
        return item

    async def stream(count: int) -> None:
        batch = bounded_gather(
            number, range(count), max_concurrent=LIMIT, timeout=TIMEOUT, ordered=False
        )
        total = 0
        async for result in batch:
            total += result.index
        assert total == count * (count - 1) // 2

    await stream(20)  # so that one-time allocations do not count
    await tidy_up()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await stream(n)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Row(what, n, "MB", {"ours": (peak - before) / MEGABYTE}, limit=5.0)


async def _pool_memory(settings: Settings) -> Row:
    """Measure the peak memory above the start while jobs pass through a pool."""
    n = settings.size(100_000 if settings.quick else 1_000_000)
    show_progress(f"{settings.loop}: {POOL}, n = {n:,}")

    async def number(item: int) -> int:
        if item % 10 == 0:
            raise ValueError(item)
        return item

    async def submit(count: int) -> None:
        async with TaskPool(LIMIT, max_pending=LIMIT, on_result=_ignore) as pool:
            for item in range(count):
                await pool.put(number, item)
        assert pool.progress.done + pool.progress.failed == count

    await submit(20)  # so that one-time allocations do not count
    await tidy_up()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await submit(n)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return Row(POOL, n, "MB", {"ours": (peak - before) / MEGABYTE}, limit=5.0)


def _ignore(result: object) -> None:
    pass


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the selected rows."""
    n = settings.size(10_000)
    items = [f"SYM{index}" for index in range(n)]
    for what, function, seed_function, musts, uvloop_musts in WORK:
        if settings.only in what:
            yield await time_row(
                settings,
                what,
                n,
                _contenders(function, seed_function, items, what.endswith(IN_TASKS)),
                uvloop_musts if settings.loop == "uvloop" else musts,
            )
    if settings.only in "gather, results streamed: peak growth":
        yield await _streamed_memory(settings)
    if settings.only in POOL:
        yield await _pool_memory(settings)
