"""The rows of shutdown(): against the articles' two ways, the loop's lag, the deadline.

The articles have no report: `cancel_all` and a `gather` of the tasks, or their
`graceful_shutdown`, which waits for one task after the other. By hand is the least that
asyncio can do: cancel each task in a loop, and let the loop run until all have ended,
without a report or an outcome. This loop alone takes half as long as the articles'
`graceful_shutdown`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from benchmarks import seed
from benchmarks.figures import (
    Round,
    Row,
    Settings,
    clock,
    show_progress,
    tidy_up,
    time_row,
)
from pyasynclife import SignalCoordinator, TaskRegistry

TASKS = 100_000
SWALLOWERS = 1000
TIMEOUT = 0.2

CANCEL_ALL = "shutdown and report, against cancel_all and gather"
GRACEFUL = "shutdown and report, against graceful_shutdown"
PASSED = "graceful_shutdown of tasks that are passed"
LAG = "shutdown: lag of the loop meanwhile"
DEADLINE = "shutdown: time after the deadline, all tasks swallow"

Tasks = list[asyncio.Task[None]]


async def _sleep() -> None:
    await asyncio.sleep(1e9)


async def _swallow(over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            await over.wait()
        except asyncio.CancelledError:
            pass


async def _registered(n: int) -> TaskRegistry:
    registry = TaskRegistry()
    for _ in range(n):
        await registry.register(_sleep())
    await tidy_up()
    return registry


async def _created(n: int) -> Tasks:
    tasks = [asyncio.create_task(_sleep()) for _ in range(n)]
    await tidy_up()
    return tasks


# ------------------------------------------------------------ the contenders


def _cancelling_all_seed(n: int) -> Round:
    """The tasks are freed while the clock runs, as ours are."""

    async def run() -> float:
        registry = seed.TaskRegistry()
        tasks = [(await registry.register(_sleep()))[0] for _ in range(n)]
        await tidy_up()
        begin = clock()
        await registry.cancel_all()
        await asyncio.gather(*tasks, return_exceptions=True)
        del tasks, registry
        await asyncio.sleep(0)
        return clock() - begin

    return run


def _graceful_seed(n: int) -> Round:
    async def run() -> float:
        tasks = await _created(n)
        begin = clock()
        await seed.SignalCoordinator().graceful_shutdown(tasks)
        del tasks
        await asyncio.sleep(0)
        return clock() - begin

    return run


def _cancelling_by_hand(n: int) -> Round:
    async def run() -> float:
        tasks = await _created(n)
        begin = clock()
        for task in tasks:
            task.cancel()
        while not task.done():
            await asyncio.sleep(0)
        del tasks, task
        await asyncio.sleep(0)
        return clock() - begin

    return run


def _shutting_down(n: int) -> Round:
    async def run() -> float:
        registry = await _registered(n)
        begin = clock()
        report = await registry.shutdown()
        del registry
        await asyncio.sleep(0)
        seconds = clock() - begin
        assert report.ok
        assert len(report.cancelled) == n
        return seconds

    return run


def _graceful_passed(n: int) -> Round:
    async def run() -> float:
        tasks = await _created(n)
        begin = clock()
        report = await SignalCoordinator().graceful_shutdown(tasks)
        del tasks
        await asyncio.sleep(0)
        seconds = clock() - begin
        assert report.ok
        return seconds

    return run


# ------------------------------------------------------------ lag, deadline


async def _lag_of(end: Awaitable[Any]) -> float:
    """Return the longest time between two iterations of the loop, in ms."""
    longest, last = 0.0, clock()

    async def tick() -> None:
        nonlocal longest, last
        while True:
            now = clock()
            longest, last = max(longest, now - last), now
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    longest, last = 0.0, clock()
    await end
    ticker.cancel()
    await asyncio.wait([ticker])
    return 1e3 * longest


async def _best(settings: Settings, run: Callable[[], Awaitable[float]]) -> float:
    rounds = []
    for _ in range(3 if settings.quick else 5):
        await tidy_up()
        rounds.append(await run())
    return min(rounds)


async def _lag(settings: Settings) -> Row:
    n = settings.size(TASKS)
    show_progress(f"{settings.loop}: {LAG}, n = {n:,}")

    async def seeds() -> float:
        tasks = await _created(n)
        return await _lag_of(seed.SignalCoordinator().graceful_shutdown(tasks))

    async def ours() -> float:
        registry = await _registered(n)
        return await _lag_of(registry.shutdown())

    figures = {
        "seed": await _best(settings, seeds),
        "ours": await _best(settings, ours),
    }
    return Row(LAG, n, "ms", figures, limit=50.0)


async def _deadline(settings: Settings) -> Row:
    """Measure on the wall clock, as whoever waits for the process does."""
    n = settings.size(SWALLOWERS)
    show_progress(f"{settings.loop}: {DEADLINE}, n = {n:,}")
    loop = asyncio.get_running_loop()

    async def ours() -> float:
        registry, over = TaskRegistry(), asyncio.Event()
        for _ in range(n):
            await registry.register(_swallow(over))
        await tidy_up()
        begin = loop.time()
        report = await registry.shutdown(TIMEOUT)
        late = loop.time() - begin - TIMEOUT
        assert len(report.stuck) == n
        over.set()
        await registry.wait()
        return 1e3 * late

    return Row(DEADLINE, n, "ms", {"ours": await _best(settings, ours)}, limit=50.0)


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the selected rows."""
    n = settings.size(TASKS)
    ways = (
        (CANCEL_ALL, _cancelling_all_seed, _shutting_down, 2.0),
        (GRACEFUL, _graceful_seed, _shutting_down, 1.25),
        (PASSED, _graceful_seed, _graceful_passed, 1.25),
    )
    for what, theirs, ours, must in ways:
        if settings.only in what:
            hand = _cancelling_by_hand(n)
            contenders = {"seed": theirs(n), "hand": hand, "ours": ours(n)}
            musts = {"seed": must}
            yield await time_row(settings, what, n, contenders, musts)
    if settings.only in LAG:
        yield await _lag(settings)
    if settings.only in DEADLINE:
        yield await _deadline(settings)
