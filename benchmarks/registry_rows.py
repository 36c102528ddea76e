"""The rows of TaskRegistry.

Each contender has its own copy of the code even where the text is the same: the
interpreter specialises a line to the types that it meets there, and a real program uses
one registry only.
"""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from benchmarks import seed
from benchmarks.figures import (
    Round,
    Row,
    Settings,
    clock,
    compete,
    show_progress,
    tidy_up,
    time_row,
)
from benchmarks.group_rows import PLAIN, plain
from pyasynclife import TaskRegistry

Registry = seed.TaskRegistry | TaskRegistry
NEVER = 1e9
BEATS = 200_000  # per round, whatever the number of tasks
STALE = 10

REGISTER = "register"
CANCEL = "cancel_all and wait"
AWAITED = "heartbeat by id, awaited"
NOT_AWAITED = "heartbeat by id, not awaited"
STALE_TASKS = "get_stale_tasks, 10 stale"
STALE_GROWTH = "get_stale_tasks: its time against 1,000 tasks'"
MEMORY = "memory of an entry and its id"


async def _return_at_once() -> None:
    pass


async def _sleep() -> None:
    await asyncio.sleep(NEVER)


async def _cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    waited = list(tasks)
    for task in waited:
        task.cancel()
    await asyncio.gather(*waited, return_exceptions=True)


# ------------------------------------------------------------ register, cancel


def _registering_seed(n: int) -> Round:
    """The clock stops before the tasks run and before anything is freed."""

    async def run() -> float:
        registry = seed.TaskRegistry()
        begin = clock()
        for _ in range(n):
            await registry.register(_return_at_once())
        return clock() - begin

    return run


def _registering_ours(n: int) -> Round:
    async def run() -> float:
        registry = TaskRegistry()
        begin = clock()
        for _ in range(n):
            await registry.register(_return_at_once())
        return clock() - begin

    return run


def _cancelling_seed(n: int) -> Round:
    """The tasks and their outcomes are freed while the clock runs, as ours are."""

    async def run() -> float:
        registry = seed.TaskRegistry()
        tasks = [(await registry.register(_sleep()))[0] for _ in range(n)]
        await tidy_up()
        begin = clock()
        await registry.cancel_all()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = set(map(type, ends))
        del tasks, registry, ends
        await asyncio.sleep(0)  # until then, the wake-up of this task holds all of them
        seconds = clock() - begin
        assert kinds == {asyncio.CancelledError}
        return seconds

    return run


def _cancelling_ours(n: int) -> Round:
    async def run() -> float:
        registry = TaskRegistry()
        for _ in range(n):
            await registry.register(_sleep())
        await tidy_up()
        begin = clock()
        asked = await registry.cancel_all()
        ended = await registry.wait()
        cancelled = registry.stats().cancelled
        del registry
        await asyncio.sleep(0)
        seconds = clock() - begin
        assert (asked, ended, cancelled) == (n, True, n)
        return seconds

    return run


# ------------------------------------------------------------------- heartbeat


def _beating_seed(registry: seed.TaskRegistry, ids: list[str], passes: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(passes):
            for task_id in ids:
                await registry.heartbeat(task_id)
        return clock() - begin

    return run


def _beating(registry: TaskRegistry, ids: list[str], passes: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(passes):
            for task_id in ids:
                await registry.heartbeat(task_id)
        return clock() - begin

    return run


def _beating_unawaited(registry: TaskRegistry, ids: list[str], passes: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(passes):
            for task_id in ids:
                registry.heartbeat(task_id)
        return clock() - begin

    return run


async def _heartbeat(
    settings: Settings, n: int, awaited: float, not_awaited: float
) -> AsyncIterator[Row]:
    size = settings.size(n)
    theirs, ours = seed.TaskRegistry(), TaskRegistry()
    ids = [f"feed-{number}" for number in range(size)]
    tasks = []
    for task_id in ids:
        tasks.append((await theirs.register(_sleep(), task_id))[0])
        tasks.append((await ours.register(_sleep(), task_id))[0])
    await tidy_up()
    for task_id in ids:  # the first heartbeat of a task does more than later ones
        await theirs.heartbeat(task_id)
        await ours.heartbeat(task_id)
    passes = max(1, settings.size(BEATS) // size)
    rival = _beating_seed(theirs, ids, passes)
    for what, run, must in (
        (AWAITED, _beating(ours, ids, passes), awaited),
        (NOT_AWAITED, _beating_unawaited(ours, ids, passes), not_awaited),
    ):
        if settings.only in what:
            yield await time_row(
                settings,
                what,
                size,
                {"seed": rival, "ours": run},
                {"seed": must},
                passes * size,
            )
    await _cancel(tasks)


# ----------------------------------------------------------------- stale tasks


async def _with_stale(registry: Registry, n: int) -> list[asyncio.Task[Any]]:
    """Fill a registry with n tasks, some of them stale."""
    tasks = []
    for number in range(n):
        task_id = f"feed-{number}"
        if isinstance(registry, seed.TaskRegistry):
            task, _ = await registry.register(_sleep(), task_id)
            if number < STALE:
                registry._metadata[task_id].last_heartbeat = 0.0
        else:
            silence = 0.0 if number < STALE else NEVER
            task, _ = await registry.register(_sleep(), task_id, stale_after=silence)
        tasks.append(task)
    await tidy_up()
    assert len(await registry.get_stale_tasks()) == STALE
    return tasks


def _asking_seed(registry: seed.TaskRegistry, calls: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(calls):
            await registry.get_stale_tasks()
        return (clock() - begin) / calls

    return run


def _asking(registry: TaskRegistry, calls: int) -> Round:
    async def run() -> float:
        begin = clock()
        for _ in range(calls):
            await registry.get_stale_tasks()
        return (clock() - begin) / calls

    return run


async def _stale(settings: Settings) -> AsyncIterator[Row]:
    """Measure get_stale_tasks(); the figures are per call, not per task."""
    few, many = settings.size(1000), settings.size(100_000)
    show_progress(f"{settings.loop}: filling registries, n = {many:,}")
    theirs, ours, small = seed.TaskRegistry(), TaskRegistry(), TaskRegistry()
    tasks = await _with_stale(theirs, many)
    tasks += await _with_stale(ours, many)
    tasks += await _with_stale(small, few)
    yield await time_row(
        settings,
        STALE_TASKS,
        many,
        {"seed": _asking_seed(theirs, 3), "ours": _asking(ours, 3000)},
        {"seed": 1000.0},
        items=1,
    )
    rounds = {"few": _asking(small, 3000), "many": _asking(ours, 3000)}
    seconds = await compete(settings, STALE_GROWTH, rounds)
    growth = min(seconds["many"]) / min(seconds["few"])
    yield Row(STALE_GROWTH, many, "times", {"ours": growth}, limit=3.0)
    await _cancel(tasks)


# ---------------------------------------------------------------------- memory


async def _bytes_of(start: Callable[[], Awaitable[Any]], n: int) -> float:
    """Return the bytes of a started, sleeping task by tracemalloc, all included."""
    await tidy_up()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(n):
            await start()
        await tidy_up()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return (after - before) / n


async def _memory_alone(n: int) -> float:
    """Return the bytes of an unregistered task that shares its name with others."""
    loop = asyncio.get_running_loop()
    kept: list[Any] = [None] * n
    places = iter(range(n))

    async def start() -> None:
        kept[next(places)] = loop.create_task(_sleep(), name="feed")

    try:
        return await _bytes_of(start, n)
    finally:
        await _cancel(kept)


async def _memory(settings: Settings) -> Row:
    """Measure what registration adds to a task: its entry, its id, the tables.

    The first run is not counted: it makes room for the tasks of two runs in asyncio's
    own set of tasks, which keeps that space.
    """
    n = settings.size(20_000)
    show_progress(f"{settings.loop}: {MEMORY}, n = {n:,}")
    await _memory_alone(2 * n)
    alone = await _memory_alone(n)
    above = {}
    for name, registry in (("seed", seed.TaskRegistry()), ("ours", TaskRegistry())):

        async def register(registry: Any = registry) -> None:
            await registry.register(_sleep())

        above[name] = await _bytes_of(register, n) - alone
        await registry.cancel_all()
        await tidy_up()
        gc.collect()
    return Row(MEMORY, n, "bytes", above, limit=400.0)


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the selected rows."""
    uvloop = settings.loop == "uvloop"
    n = settings.size(20_000)
    theirs, ours = _registering_seed(n), _registering_ours(n)
    if settings.only in REGISTER:
        contenders, must = {"seed": theirs, "ours": ours}, 1.5 if uvloop else 2.2
        yield await time_row(settings, REGISTER, n, contenders, {"seed": must})
    if settings.only in REGISTER + PLAIN and not uvloop:
        contenders = {"seed": theirs, "ours": plain(ours)}
        yield await time_row(settings, REGISTER + PLAIN, n, contenders, {"seed": 1.4})
    for n, captured in ((20_000, 2.0), (100_000, 3.0)):
        size = settings.size(n)
        theirs, ours = _cancelling_seed(size), _cancelling_ours(size)
        if settings.only in CANCEL:
            contenders, must = (
                {"seed": theirs, "ours": ours},
                1.0 if uvloop else captured,
            )
            yield await time_row(settings, CANCEL, size, contenders, {"seed": must})
        if settings.only in CANCEL + PLAIN and not uvloop:
            contenders = {"seed": theirs, "ours": plain(ours)}
            yield await time_row(
                settings, CANCEL + PLAIN, size, contenders, {"seed": 1.0}
            )
    if settings.only in AWAITED or settings.only in NOT_AWAITED:
        async for row in _heartbeat(settings, 1000, 9.0, 13.0):
            yield row
        async for row in _heartbeat(settings, 20_000, 6.0, 9.0):
            yield row
    if settings.only in STALE_TASKS or settings.only in STALE_GROWTH:
        async for row in _stale(settings):
            yield row
    if settings.only in MEMORY:
        yield await _memory(settings)
