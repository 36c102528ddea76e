"""The rows of TaskGroup against the running version's own `asyncio.TaskGroup`.

Small groups are entered one after another,
often enough to make a round measurable. Each row also exists on the plain path.
"""

import asyncio
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
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
from pyasynclife import TaskGroup, _core

AT_ONCE = "group, children return at once"
SLEEP = "group, children do sleep(0)"
LONG = "group, children live long"
EAGER = "group, eager_start=True"
NEW = "group, memory of a child that has not started"
WAITING = "group, memory of a child that waits"
PLAIN = ", the plain path"
ITEMS = 20_000  # per round, at least
NEWER = sys.version_info >= (3, 14)


async def _return_at_once() -> None:
    pass


async def _sleep() -> None:
    await asyncio.sleep(0)


def plain(run: Round) -> Round:
    """Return the same round without the capture."""

    async def run_plain() -> float:
        was = _core.allow_capture(False)
        try:
            return await run()
        finally:
            _core.allow_capture(was)

    return run_plain


def _stock(child: Callable[[], Any], n: int, groups: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(groups):
            async with asyncio.TaskGroup() as group:
                for _ in range(n):
                    group.create_task(child())
        return clock() - begin

    return run


def _ours(child: Callable[[], Any], n: int, groups: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(groups):
            async with TaskGroup() as group:
                for _ in range(n):
                    group.create_task(child())
        return clock() - begin

    return run


def _eager(n: int, groups: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(groups):
            async with TaskGroup() as group:
                for _ in range(n):
                    group.create_task(_return_at_once(), eager_start=True)
        return clock() - begin

    return run


def _living(Group: Any, n: int) -> Round:
    """Return a round with children that wait for futures and are woken one by one."""

    async def run() -> float:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[None]] = []

        async def child() -> None:
            future = loop.create_future()
            futures.append(future)
            await future

        begin = clock()
        async with Group() as group:
            for _ in range(n):
                group.create_task(child())
            for _ in range(3):
                await asyncio.sleep(0)
            for future in futures:
                future.set_result(None)
        return clock() - begin

    return run


async def _memory(Group: Any, n: int, iterations: int) -> float:
    """Return the bytes per child, so many loop iterations after its creation."""
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(n)]

    async def child(future: asyncio.Future[None]) -> None:
        await future

    await tidy_up()
    tracemalloc.start()
    try:
        async with Group() as group:
            before, _ = tracemalloc.get_traced_memory()
            for future in futures:
                group.create_task(child(future))
            for _ in range(iterations):
                await asyncio.sleep(0)
            after, _ = tracemalloc.get_traced_memory()
            for future in futures:
                future.set_result(None)
    finally:
        tracemalloc.stop()
    return (after - before) / n


def _at_once_musts(n: int, uvloop: bool) -> float | None:
    if n < 5:
        return 1.0
    if uvloop:
        return (1.5 if NEWER else 1.25) if n >= 100 else 1.0
    if n < 100:
        return 1.5 if n == 5 else None
    return 3.1 if NEWER else 2.4


async def _row(
    settings: Settings, what: str, n: int, rounds: tuple[Round, Round], must: Any
) -> Row:
    groups = max(1, settings.size(ITEMS) // n)
    contenders = {"stock": rounds[0], "ours": rounds[1]}
    return await time_row(settings, what, n, contenders, {"stock": must}, n * groups)


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the selected rows."""
    uvloop = settings.loop == "uvloop"
    for n in (1, 5, 10, 100, 10_000, 100_000):
        size = settings.size(n) if n > 100 else n
        groups = max(1, settings.size(ITEMS) // size)
        stock = _stock(_return_at_once, size, groups)
        ours = _ours(_return_at_once, size, groups)
        if settings.only in AT_ONCE:
            must = _at_once_musts(n, uvloop)
            yield await _row(settings, AT_ONCE, size, (stock, ours), must)
        if settings.only in AT_ONCE + PLAIN and not uvloop:
            yield await _row(settings, AT_ONCE + PLAIN, size, (stock, plain(ours)), 1.0)
    for n in (100, 10_000):
        size = settings.size(n) if n > 100 else n
        groups = max(1, settings.size(ITEMS) // size)
        if settings.only in SLEEP:
            pair = _stock(_sleep, size, groups), _ours(_sleep, size, groups)
            yield await _row(settings, SLEEP, size, pair, 1.0 if uvloop else 1.3)
    size = settings.size(ITEMS)
    for what, iterations in ((NEW, 0), (WAITING, 3)):
        if settings.only in what:
            show_progress(f"{settings.loop}: {what}, n = {size:,}")
            theirs = await _memory(asyncio.TaskGroup, size, iterations)
            ours_bytes = await _memory(TaskGroup, size, iterations)
            figures = {"stock": theirs, "ours": ours_bytes}
            yield Row(what, size, "bytes", figures, limit=theirs)
    if settings.only in LONG:
        pair = _living(asyncio.TaskGroup, size), _living(TaskGroup, size)
        yield await _row(settings, LONG, size, pair, 1.0)
    if settings.only in EAGER and sys.version_info >= (3, 12):
        pair = _stock(_return_at_once, size, 1), _eager(size, 1)
        yield await _row(settings, EAGER, size, pair, 3.0 if uvloop else 5.0)
