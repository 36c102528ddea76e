"""Scenarios of batches that change while they run, and of their display.

See cancel_scenarios. Items that a batch has abandoned end after it (``settle``).
"""

import asyncio
import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable
from typing import Any

from rich.console import Console

from pyasynclife import (
    Backoff,
    Batch,
    Retry,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    _progress_bar,
    bounded_gather,
    console,
)
from support.cancel_scenarios import (
    ITEMS,
    LONG,
    OPTIONS,
    OURS,
    USES,
    Case,
    Options,
    awaited,
    batch_case,
    cancelled,
    case,
    cleans_up,
    closed_early,
    collected,
    collected_with_a_timeout,
    do,
    entered,
    fail,
    generator,
    iterated,
    nothing,
    sleep,
    stream,
    swallows_once,
)

WORKERS: Options = {"max_concurrent": 3}
TASKS: Options = {"max_concurrent": 3, "task_per_item": True}

# ------------------------------------------------------------------ changes


def later(seconds: float, function: Callable[..., object], *args: Any) -> None:
    """Call the function later; it may fail if the batch has ended by then."""

    def call() -> None:
        with contextlib.suppress(RuntimeError):
            function(*args)

    asyncio.get_running_loop().call_later(seconds, call)


def added_to(batch: Batch[Any]) -> None:
    for seconds, item in [(0.2, 1), (0.6, "clean"), (1.1, "at once"), (1.1, "fail")]:
        later(seconds, batch.add, item)


def added_to_and_closed(batch: Batch[Any]) -> None:
    added_to(batch)
    later(0.7, batch.close)


def paused(batch: Batch[Any]) -> None:
    batch.pause()
    for seconds, change in [
        (0.2, batch.resume),
        (0.4, batch.pause),
        (1.2, batch.resume),
    ]:
        later(seconds, change)


def narrowed_and_widened(batch: Batch[Any]) -> None:
    def limit(value: int) -> None:
        batch.max_concurrent = value

    for seconds, value in [(0.2, 1), (0.6, 5), (0.8, 2)]:
        later(seconds, limit, value)


def stopped(batch: Batch[Any]) -> None:
    batch.add("clean")
    later(0.3, batch.stop)


CHANGES = [added_to, added_to_and_closed, paused, narrowed_and_widened, stopped]


def changed_case(
    change: Callable[[Any], None], use: Callable[[Any], Any], how: Options
) -> Case:
    def make(on_result: Any) -> Any:
        batch = bounded_gather(do, stream(ITEMS), on_result=on_result, **how)
        change(batch)
        return batch

    kind = "tasks" if "task_per_item" in how else "workers"
    return batch_case(f"batch {change.__name__}, {use.__name__}, {kind}", use, make)


OURS += [
    changed_case(*shape) for shape in itertools.product(CHANGES, USES, [WORKERS, TASKS])
]


def fed_queue(make: Callable[[], asyncio.Queue[Any]]) -> asyncio.Queue[Any]:
    queue = make()
    queue.put_nowait(0.4)
    for seconds, item in [(0.2, 0.3), (0.6, 0.0), (1.1, 0.1)]:
        later(seconds, queue.put_nowait, item)
    return queue


def queue_case(make: Callable[[], asyncio.Queue[Any]], use: Any, how: Options) -> Case:
    def batch_of_queue(on_result: Any) -> Any:
        queue = fed_queue(make)
        batch = bounded_gather(sleep, queue, on_result=on_result, **how)
        later(1.3, batch.close)
        return batch

    kind = "tasks" if "task_per_item" in how else "workers"
    name = f"batch of a {make.__name__}, {use.__name__}, {kind}"
    return batch_case(name, use, batch_of_queue)


OURS += [
    queue_case(*shape)
    for shape in itertools.product(
        [asyncio.Queue, asyncio.PriorityQueue], USES, [WORKERS, TASKS]
    )
]


@case(first=True)
async def batch_whose_queue_loses_nothing() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    started: list[int] = []

    async def note(item: int) -> None:
        started.append(item)
        await asyncio.sleep(0.2)

    for item in range(4):
        queue.put_nowait(item)
    batch = bounded_gather(note, queue, max_concurrent=2)
    later(0.3, queue.put_nowait, 4)
    later(0.5, batch.close)
    try:
        await batch
    finally:
        left = [queue.get_nowait() for _ in range(queue.qsize())]
        known = sorted([*started, *left])
        assert known in (list(range(4)), list(range(5))), known


@case(first=True)
async def batch_that_its_consumer_adds_to() -> None:
    batch = bounded_gather(sleep, [0.5], max_concurrent=2)
    async with batch:
        async for result in batch:
            if result.index < 4:
                batch.add(result.item / 2)


@case(first=True)
async def batch_that_its_items_add_to() -> None:
    async def visit(depth: int) -> None:
        if depth:
            batch.add(depth - 1)
            await asyncio.sleep(0.5)
            batch.add(depth - 1)

    batch = bounded_gather(visit, [2], max_concurrent=2)
    (await batch).failures()


@case(first=True)
async def batch_that_is_fed_from_outside() -> None:
    batch = bounded_gather(sleep, [], max_concurrent=2)

    async def feed() -> None:
        for number in range(4):
            batch.add(number)
            await asyncio.sleep(0.5)
        batch.close()

    async with batch:
        await feed()


@case(first=True)
async def batch_whose_jobs_are_awaited() -> None:
    async with bounded_gather(do, [], max_concurrent=2) as batch:
        jobs = [batch.add(item) for item in ITEMS]
        jobs[-1].cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


AT_ONCE = Backoff(0.001, jitter=0)
POOLS: list[tuple[str, Options]] = [
    ("workers", {}),
    ("tasks", {"task_per_item": True}),
    ("bounded", {"max_pending": 1}),
    (
        "limits",
        {"limit_by": str, "max_per_second": 1000, "retry": Retry(2, backoff=AT_ONCE)},
    ),
]


def pool_case(kind: str, options: Options, leaves: str) -> Case:
    async def scenario() -> None:
        async with TaskPool(2, on_result=lambda result: None, **options) as pool:
            jobs = [await pool.put(do, item) for item in ITEMS]
            if leaves == "stopped":
                pool.stop()
            elif leaves == "joined":
                await pool.join()
            elif leaves == "awaited":
                await asyncio.gather(*jobs, return_exceptions=True)
            elif leaves == "shut down":
                await pool.shutdown()

    return Case(f"pool of {kind}, {leaves}", scenario, first=leaves != "shut down")


OURS += [
    pool_case(kind, options, leaves)
    for kind, options in POOLS
    for leaves in ("left", "stopped", "joined", "awaited", "shut down")
]

# ------------------------------------------------------------------ cancel_grace


async def slow_to_stop(item: Any) -> Any:
    """Run an item; three of them do not stop soon, each for another reason."""
    if item not in ("swallow", 1, 2):
        return await do(item)
    ends = asyncio.get_running_loop().time() + 3
    while (left := ends - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            if item == 1:
                await cleans_up(2)
                raise
    return item


GRACES: list[Options] = [
    {"timeout": 0.75, "cancel_grace": 0.25},
    {"budget": 1.0, "cancel_grace": 0},
    {"max_errors": 0, "cancel_grace": 0.5},
]


def grace_case(use: Callable[[Any], Any], how: Options, options: Options) -> Case:
    def make(on_result: Any) -> Any:
        return bounded_gather(
            slow_to_stop, generator(ITEMS), on_result=on_result, **how, **options
        )

    shown_options = " ".join(
        f"{name}={value}" for name, value in (how | options).items()
    )
    return batch_case(
        f"batch {use.__name__}, slow to stop, {shown_options}", use, make, LONG
    )


OURS += [
    grace_case(*shape) for shape in itertools.product(USES, [WORKERS, TASKS], GRACES)
]

# ------------------------------------------------------------------ in a registry


def registered_case(use: Callable[[Any], Any], options: Options) -> Case:
    box: list[TaskRegistry] = []

    def make(on_result: Any) -> Any:
        box[:] = [TaskRegistry()]
        return bounded_gather(
            do, stream(ITEMS), registry=box[0], on_result=on_result, **options
        )

    shown_options = " ".join(f"{name}={value}" for name, value in options.items())
    batch = batch_case(
        f"batch {use.__name__}, in a registry, {shown_options}", use, make
    )

    def check() -> None:
        batch.check()
        alive = list(itertools.chain(*box))
        assert not alive, f"alive in the registry: {alive}"

    return dataclasses.replace(batch, check=check)


OURS += [registered_case(*shape) for shape in itertools.product(USES, OPTIONS)]


@case(LONG, cancels=2)  # shutdown() cancels its tasks, whatever the batch does
async def batch_whose_registry_is_shut_down() -> None:
    registry = TaskRegistry()
    batch = bounded_gather(do, ITEMS, max_concurrent=4, registry=registry)
    async with TaskGroup() as group:
        collecting = group.create_task(batch.collect())
        await asyncio.sleep(0.6)
        await registry.shutdown(1)
    collecting.result().failures()


@case(LONG)
async def batch_in_a_registry_that_is_left() -> None:
    async with TaskRegistry() as registry:
        batch = bounded_gather(do, ITEMS, max_concurrent=2, registry=registry)
        for coro in (nothing(), fail(0.5), swallows_once()):
            registry.register(coro)
        (await batch).failures()


# ------------------------------------------------------------------ shown


def shown_case(use: Callable[[Any], Any], terminal: bool) -> Case:
    """Run few items, since drawing is slow."""
    screen = Console(file=io.StringIO(), force_terminal=terminal)

    def make(on_result: Any) -> Any:
        items = stream([0.5, "fail", 0])
        return bounded_gather(do, items, on_result=on_result, max_concurrent=2)

    async def show(batch: Any) -> None:
        await use(console.track(batch, interval=0.3, console=screen))

    where = "on a terminal" if terminal else "in lines"
    shown = batch_case(f"track {use.__name__}, {where}", show, make)

    def check() -> None:
        shown.check()
        assert not _progress_bar._screens, "a bar is still drawn"

    return dataclasses.replace(shown, check=check, cancels=2 if use is cancelled else 1)


OURS += [
    *(shown_case(use, False) for use in (awaited, collected, entered)),
    *(shown_case(use, True) for use in (collected_with_a_timeout, iterated)),
    *(shown_case(closed_early, terminal) for terminal in (False, True)),
]
