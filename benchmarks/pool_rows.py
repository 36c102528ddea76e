"""TaskPool, limits, a rate and retries: against tasks, by hand, and other libraries.

Each library is used as its own documentation shows, with the same limit. Libraries that
are not installed are left out. The clock counts the time of the processor, so the row
of the rate shows what keeping it costs.
"""

import asyncio
import functools
import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks.figures import Round, Row, Settings, clock, time_row
from benchmarks.gather_rows import return_at_once, sleep_0
from benchmarks.peers import LIMIT
from pyasynclife import Backoff, Retry, TaskPool, bounded_gather

POOL = "pool: submit and await, job returns at once"
POOL_0 = "pool: submit and await, job does sleep(0)"
KEYS = "limit_by of 100 keys, item returns at once"
RATE = "max_per_second=50,000, item returns at once"
RETRY = "retry, each item fails once"

TASKS = "create_task, no limit"
SEMAPHORE = "create_task and a semaphore"
PER_SECOND = 50_000.0

Function = Callable[[str], Awaitable[Any]]
Run = Callable[[list[str]], Awaitable[object]]


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _round(run: Run, items: list[str]) -> Round:
    async def timed() -> float:
        begin = clock()
        await run(items)
        return clock() - begin

    return timed


# ------------------------------------------------------------ jobs


async def _tasks(function: Function, items: list[str]) -> None:
    tasks = [asyncio.create_task(function(item)) for item in items]  # type: ignore[arg-type]
    for task in tasks:
        await task


async def _semaphore(function: Function, items: list[str]) -> None:
    semaphore = asyncio.Semaphore(LIMIT)

    async def limited(item: str) -> Any:
        async with semaphore:
            return await function(item)

    await _tasks(limited, items)


async def _aiojobs(function: Function, items: list[str]) -> None:
    from aiojobs import Scheduler

    async with Scheduler(limit=LIMIT, pending_limit=0) as scheduler:
        jobs = [await scheduler.spawn(function(item)) for item in items]  # type: ignore[arg-type]
        for job in jobs:
            await job.wait()


async def _pool(function: Function, items: list[str]) -> None:
    async with TaskPool(LIMIT) as pool:
        jobs = [pool.submit(function, item) for item in items]
        for job in jobs:
            await job


def _jobs(function: Function) -> dict[str, Run]:
    ways = {TASKS: _tasks, SEMAPHORE: _semaphore}
    if _has("aiojobs"):
        ways["aiojobs"] = _aiojobs
    ways["ours"] = _pool
    return {name: functools.partial(way, function) for name, way in ways.items()}


# ------------------------------------------------------------ limits and a rate


async def _plain(items: list[str]) -> None:
    await bounded_gather(return_at_once, items, max_concurrent=LIMIT)


async def _by_key(items: list[str]) -> None:
    await bounded_gather(
        return_at_once,
        items,
        max_concurrent=LIMIT,
        limit_by=lambda item: item[-2:],
        max_per_key=2,
    )


async def _rate(items: list[str]) -> None:
    await bounded_gather(
        return_at_once, items, max_concurrent=LIMIT, max_per_second=PER_SECOND
    )


async def _aiometer(items: list[str]) -> None:
    from aiometer import run_all

    calls = [functools.partial(return_at_once, item) for item in items]
    await run_all(calls, max_at_once=LIMIT, max_per_second=PER_SECOND)


async def _pyarallel_rate(items: list[str]) -> None:
    from pyarallel import async_parallel_map

    await async_parallel_map(
        return_at_once, items, concurrency=LIMIT, rate_limit=PER_SECOND
    )


# ------------------------------------------------------------ retries


class _Flaky:
    """Fails at the first call with an item."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def __call__(self, item: str) -> str:
        if item not in self.seen:
            self.seen.add(item)
            raise ValueError(item)
        return item


async def _by_hand(items: list[str]) -> None:
    flaky = _Flaky()

    async def tried(item: str) -> str:
        try:
            return await flaky(item)
        except ValueError:
            await asyncio.sleep(0)
            return await flaky(item)

    assert (await bounded_gather(tried, items, max_concurrent=LIMIT)).ok


async def _retry(items: list[str]) -> None:
    retry = Retry(2, backoff=Backoff(0))
    batch = bounded_gather(_Flaky(), items, max_concurrent=LIMIT, retry=retry)
    assert (await batch).ok


async def _pyarallel_retry(items: list[str]) -> None:
    import pyarallel

    retry = pyarallel.Retry(attempts=2, backoff=0.0, jitter=False)
    await pyarallel.async_parallel_map(_Flaky(), items, concurrency=LIMIT, retry=retry)


def _work() -> dict[str, tuple[dict[str, Run], dict[str, float]]]:
    """The contenders of each row, and the targets."""
    rate: dict[str, Run] = {"ours": _rate}
    retry: dict[str, Run] = {"by hand in fn": _by_hand, "ours": _retry}
    if _has("aiometer"):
        rate["aiometer"] = _aiometer
    if _has("pyarallel"):
        rate["pyarallel"] = _pyarallel_rate
        retry["pyarallel"] = _pyarallel_retry
    return {
        POOL: (_jobs(return_at_once), {TASKS: 3.0}),
        POOL_0: (_jobs(sleep_0), {}),
        KEYS: (
            {"without limit_by": _plain, "ours": _by_key},
            {"without limit_by": 0.67},  # at most 1.5 times its cost
        ),
        RATE: (rate, {}),
        RETRY: (retry, {}),
    }


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the selected rows."""
    n = settings.size(10_000)
    items = [f"SYM{index}" for index in range(n)]
    for what, (ways, musts) in _work().items():
        if settings.only in what:
            rounds = {name: _round(way, items) for name, way in ways.items()}
            yield await time_row(settings, what, n, rounds, musts)
