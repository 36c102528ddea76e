"""The same work in other libraries: a function over items, 50 at once, results kept.

Each library is used as its own documentation shows. Libraries that are not installed
are named and left out.
"""

import asyncio
import functools
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.hand import gather_by_hand, gather_by_hand_untimed
from pyasynclife import bounded_gather

LIMIT = 50
TIMEOUT = 5.0

Function = Callable[[str], Awaitable[Any]]
Peer = Callable[[Function, Sequence[str]], Awaitable[Sequence[Any]]]


async def ours(function: Function, items: Sequence[str]) -> Sequence[Any]:
    return await bounded_gather(function, items, max_concurrent=LIMIT)


async def ours_timed(function: Function, items: Sequence[str]) -> Sequence[Any]:
    return await bounded_gather(function, items, max_concurrent=LIMIT, timeout=TIMEOUT)


async def hand(function: Function, items: Sequence[str]) -> Sequence[Any]:
    return await gather_by_hand_untimed(function, items, LIMIT)


async def hand_timed(function: Function, items: Sequence[str]) -> Sequence[Any]:
    return await gather_by_hand(function, items, TIMEOUT, LIMIT)


async def semaphore(function: Function, items: Sequence[str]) -> Sequence[Any]:
    """The articles' pattern without timeout and TaskResults: a task for each item."""
    semaphore = asyncio.Semaphore(LIMIT)

    async def bounded(item: str) -> Any:
        async with semaphore:
            return await function(item)

    tasks = [asyncio.create_task(bounded(item)) for item in items]
    return await asyncio.gather(*tasks, return_exceptions=True)


async def semaphore_timed(function: Function, items: Sequence[str]) -> Sequence[Any]:
    """The articles' pattern without its TaskResults."""
    semaphore = asyncio.Semaphore(LIMIT)

    async def bounded(item: str) -> Any:
        async with semaphore:
            return await asyncio.wait_for(function(item), TIMEOUT)

    tasks = [asyncio.create_task(bounded(item)) for item in items]
    return await asyncio.gather(*tasks, return_exceptions=True)


async def plain_gather(function: Function, items: Sequence[str]) -> Sequence[Any]:
    return await asyncio.gather(*[function(item) for item in items])


async def task_group(function: Function, items: Sequence[str]) -> Sequence[Any]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(function(item)) for item in items]  # type: ignore[arg-type]
    return [task.result() for task in tasks]


async def pyarallel(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from pyarallel import async_parallel_map

    return list(await async_parallel_map(function, items, concurrency=LIMIT))


async def pyarallel_timed(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from pyarallel import async_parallel_map

    return list(
        await async_parallel_map(
            function, items, concurrency=LIMIT, task_timeout=TIMEOUT
        )
    )


async def aiometer(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from aiometer import run_all

    calls = [functools.partial(function, item) for item in items]
    return await run_all(calls, max_at_once=LIMIT)


async def aiostream(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from aiostream import stream

    mapped = stream.map(stream.iterate(items), function, task_limit=LIMIT)
    return await stream.list(mapped)


async def quattro(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from quattro import gather

    coros = [function(item) for item in items]
    return await gather(*coros, concurrency_limit=LIMIT)


async def aiojobs(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from aiojobs import Scheduler

    async with Scheduler(limit=LIMIT, pending_limit=LIMIT) as scheduler:
        jobs = [await scheduler.spawn(function(item)) for item in items]
        return [await job.wait() for job in jobs]


async def anyio_limiter(function: Function, items: Sequence[str]) -> Sequence[Any]:
    from anyio import CapacityLimiter, create_task_group

    limiter = CapacityLimiter(LIMIT)
    results: list[Any] = [None] * len(items)

    async def run(index: int, item: str) -> None:
        async with limiter:
            results[index] = await function(item)

    async with create_task_group() as group:
        for index, item in enumerate(items):
            group.start_soon(run, index, item)
    return results


# The libraries that have a limit, and the package that each needs.
LIBRARIES: dict[str, tuple[Peer, str]] = {
    "pyarallel": (pyarallel, "pyarallel"),
    "quattro": (quattro, "quattro"),
    "aiojobs": (aiojobs, "aiojobs"),
    "aiometer": (aiometer, "aiometer"),
    "anyio, CapacityLimiter": (anyio_limiter, "anyio"),
    "aiostream": (aiostream, "aiostream"),
}
TIMED_LIBRARIES: dict[str, tuple[Peer, str]] = {
    "pyarallel": (pyarallel_timed, "pyarallel"),
}


def installed(libraries: dict[str, tuple[Peer, str]]) -> dict[str, Peer]:
    """Return the libraries that are installed."""
    return {
        name: peer
        for name, (peer, package) in libraries.items()
        if importlib.util.find_spec(package) is not None
    }


def missing() -> list[str]:
    """Return the names of the libraries that are not installed."""
    return sorted(set(LIBRARIES) - set(installed(LIBRARIES)))
