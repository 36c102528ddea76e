"""Ten thousand of each operation leave nothing behind: no block, no reference,
no type, no descriptor, no thread, and no cycle for the collector.

After a warm-up come five repeats; the smallest growth must be 0. An expensive operation
is done a tenth or a hundredth as often. `make leaks` does a hundred times as many.
"""

import asyncio
import contextlib
import contextvars
import copy
import gc
import itertools
import logging
import os
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    Job,
    LoopWatch,
    PoolFullError,
    Retry,
    SignalCoordinator,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    TaskResult,
    bounded_gather,
)
from pyasynclife import _core as core
from pyasynclife._core import EXIT_CANCELLED, JoinSet, LoopPulse
from support.coroutines import echo, forever
from support.loops import eager, settle, task_factory

REPEATS = 12
ROUNDS = 5  # a cache that fills slowly is full in one of them; a leak grows in each
WARM_UPS = 10  # of a fifth each: caches fill slowly, and for long
MANY = int(os.environ.get("PYASYNCLIFE_LEAKS", "10000")) // REPEATS
IS_DEBUG = hasattr(sys, "gettotalrefcount")

Work = Callable[[TaskRegistry, int], Awaitable[object]]


def refused(function: Callable[..., object], *args: Any, **options: Any) -> None:
    try:
        function(*args, **options)
    except Exception as error:
        error.__traceback__ = None
    else:
        raise AssertionError("not refused")


async def reads(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 10):
        registry.get_status()
        registry.get_stale_tasks()
        registry._newly_stale()
        copy.copy(registry.stats().durations).quantile(0.5)
        list(registry)
        registry["beating"].as_dict()
        repr(registry["beating"])
        assert "beating" in registry
        assert "nobody" not in registry
        refused(registry.__getitem__, "nobody")


async def heartbeats(registry: TaskRegistry, times: int) -> None:
    for _ in range(times):
        await registry.heartbeat("beating")
        registry.heartbeat("nobody")
        registry.heartbeat()


async def awaits(registry: TaskRegistry, times: int) -> None:
    for _ in range(times):
        ready: Any = registry.heartbeat("beating")
        assert await ready
        repr(ready)
        with pytest.raises(StopIteration):
            next(ready.__await__())
        await registry.get_stale_tasks()


async def registers(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        for number in range(100):
            registry.register(echo(number), stale_after=float(number % 3))
        await settle()


async def fails(registry: TaskRegistry, times: int) -> None:
    async def raises() -> None:
        raise ValueError("no price")

    for _ in range(times // 100):
        for _ in range(100):
            registry.register(raises())
        await settle()


async def cancels(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        for number in range(100):
            registry.register(forever(), str(number))
        await settle(number % 2)
        for number in range(50):
            registry.cancel(str(number), "on request")
        registry.cancel_all()
        await settle()
        registry.register(forever(), "beating")


async def completes(registry: TaskRegistry, times: int) -> None:
    outcomes: list[dict[str, Any]] = [
        {"result": 1},
        {"error": ValueError("no price")},
        {"error": asyncio.CancelledError()},
    ]
    for number in range(times // 10):
        registry.register(echo(1), "once")
        registry.complete("once", **outcomes[number % 3])
        registry.complete("once", result=[])
        await settle(2)
        registry.complete("once")
        refused(registry.complete, "nobody")


async def supervises(registry: TaskRegistry, times: int) -> None:
    async def fails() -> None:
        raise ValueError("no price")

    for _ in range(times // 100):
        registry.supervise(fails, "runs", backoff=Backoff(0), max_restarts=50)
        await registry.join("runs")
        for number in range(10):
            registry.supervise(fails, f"rests {number}", restart_stale=True)
        await settle()
        registry.complete("rests 0", 5)
        for number in range(1, 10):
            await registry.cancel(f"rests {number}", "enough")


async def finds(registry: TaskRegistry, times: int) -> None:
    async def child() -> None:
        assert registry.current_id() == "mine"
        assert await registry.heartbeat()

    async def job() -> None:
        for _ in range(10):
            await asyncio.create_task(child())

    for _ in range(times // 100):
        task, _ = await registry.register(job(), "mine", info={})
        await registry.join("mine")
        task.get_name()


async def tracks(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        tasks = [asyncio.create_task(echo(1)) for _ in range(100)]
        for number, task in enumerate(tasks):
            registry.track(task)
            registry.track(task)
            refused(registry.track, task, f"other {number}")
        await settle()
        registry.track(tasks[0], "over")


async def fails_later(number: int) -> int:
    await asyncio.sleep(0)
    if number > 0 and number % 5 == 3:
        raise ValueError("no price")
    return number


async def refuses(registry: TaskRegistry, times: int) -> None:
    closed = forever()
    closed.close()
    for _ in range(times // 10):
        refused(registry.register, forever(), "beating")
        refused(registry.register, forever(), 5)
        refused(registry.register, forever(), what=5)
        refused(registry.register, forever(), stale_after=-1)
        refused(registry.register, closed)
        refused(registry.register, forever)
        refused(registry.track, 5)
        refused(registry.heartbeat, 5)
        refused(registry.__init__)
        refused(bool, registry.cancel("nobody"))


async def contexts(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        for _ in range(100):
            registry.register(echo(1), context=contextvars.copy_context())
        await settle()


async def bad_factories(registry: TaskRegistry, times: int) -> None:
    def fails(loop: Any, coro: Any, **options: Any) -> Any:
        raise LookupError

    with task_factory(fails):
        for _ in range(times):
            refused(registry.register, echo(1))


async def eagerly(registry: TaskRegistry, times: int) -> None:
    async def first() -> None:
        await registry.heartbeat()
        registry.cancel("eager", "on request")
        registry.complete("eager")

    if sys.version_info < (3, 12):
        return
    with task_factory(eager):
        for _ in range(times // 10):
            registry.register(first(), "eager")
            await settle(2)


async def registries(registry: TaskRegistry, times: int) -> None:
    for number in range(times // 10):
        other = TaskRegistry(history=number % 3)
        other.register(echo(1))
        other.register(forever())
        await settle(number % 3)
        await other.shutdown(0 if number % 2 else 5)


async def waits(registry: TaskRegistry, times: int) -> None:
    other = TaskRegistry()
    for number in range(times // 10):
        assert await other.wait()
        other.register(echo(1))
        assert not await other.wait(0)
        other.register(forever())
        waiting = asyncio.ensure_future(other.wait(number))
        await settle()
        other.cancel_all()
        assert await waiting or not number


async def monitors(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        async with TaskRegistry() as other:
            other.register(forever())
            await settle()


async def recordings(registry: TaskRegistry, times: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(times // 100):
            other = TaskRegistry(heartbeat_interval=0.001, stale_threshold=0)
            async with other.record(os.path.join(directory, "tasks.json")), other:
                other.register(echo(1))
                other.register(forever())
                await settle()


async def drains(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        drain = JoinSet()
        for number in range(100):
            task = asyncio.create_task(forever())
            drain.add(task, registry["beating"] if number % 2 else None)
            refused(drain.add, 5)
        drain.cancel(50)
        assert drain.cancel(100) == 0
        await settle()
        assert drain.pending == 0
        assert drain.log.counts()[EXIT_CANCELLED] == 100
        assert len(drain.log.exits(EXIT_CANCELLED, 99)) == 99


async def gathers(registry: TaskRegistry, times: int) -> None:
    await bounded_gather(echo, range(times), max_concurrent=50)
    async for _ in bounded_gather(echo, range(times // 10), max_concurrent=5):
        pass
    await bounded_gather(echo, range(times // 10), timeout=5, max_errors=0)


async def groups(registry: TaskRegistry, times: int) -> None:
    for number in range(times // 100):
        async with TaskGroup() as group:
            for _ in range(100):
                group.create_task(echo(1))
            if number % 2:
                group.create_task(forever())
                group.cancel()


async def gathers_of_tasks(registry: TaskRegistry, times: int) -> None:
    options: dict[str, Any] = {"max_concurrent": 50, "task_per_item": True}
    await bounded_gather(echo, range(times // 4), **options)
    async for _ in bounded_gather(echo, range(times // 10), timeout=5, **options):
        pass
    other = TaskRegistry(history=10)
    await bounded_gather(echo, range(times // 10), registry=other)
    (await bounded_gather(fails_at_once, range(times // 10), **options)).failures()
    same = ["beating"] * (times // 10)
    (await bounded_gather(echo, same, registry=registry)).failures()


async def gathers_with_limits(registry: TaskRegistry, times: int) -> None:
    """Keys that come and go, items that are tried again, and items that fail."""
    again = Retry(2, on=lambda error: error.args[0] % 2, backoff=Backoff(0))
    for options in ({}, {"task_per_item": True}, {"registry": TaskRegistry()}):
        number = times // 20
        batch = bounded_gather(
            fails_at_once, range(number), limit_by=object_of, retry=again, **options
        )
        (await batch).failures()
        batch = bounded_gather(
            fails_at_once, range(number), limit_by=lambda item: item % 3,
            lookahead=10, retry=again, max_per_second=1e9, **options,
        )  # fmt: skip
        with contextlib.suppress(ExceptionGroup):
            async for _ in batch:
                pass
    batch = bounded_gather(echo, range(times // 20), limit_by=lambda item: [item])
    (await batch).failures()
    for _ in range(times // 100):
        batch = bounded_gather(forever_for, itertools.count(), limit_by=lambda _: "key")
        collecting = asyncio.ensure_future(batch.collect())
        await settle(3)
        batch.cancel()
        (await collecting).failures()


def object_of(item: object) -> object:
    return object()


async def fails_at_once(item: object) -> None:
    raise ValueError(item)


async def live_batches(registry: TaskRegistry, times: int) -> None:
    batch = bounded_gather(echo, [0], max_concurrent=5)
    async for result in batch:
        if result.index < times // 10:
            batch.add(result.index)
            batch.pause()
            batch.max_concurrent = 1 + result.index % 7
            batch.resume()
    for _ in range(times // 100):
        batch = bounded_gather(stubborn, range(3), timeout=0, cancel_grace=0)
        batch.add("x")
        batch.close()
        refused(batch.add, "y")
        (await batch).failures()
        await settle(5)


async def batches_that_are_left(registry: TaskRegistry, times: int) -> None:
    """Failures that nobody receives, blocks with on_result, closed sources."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda *_: None)
    async with bounded_gather(fails_at_once, [], on_result=lambda _: None) as batch:
        for number in range(times // 10):
            batch.add(number)
    for _ in range(times // 100):
        async with bounded_gather(fails_at_once, itertools.count()) as batch:
            async for _ in batch:
                break
        with contextlib.suppress(LookupError):
            async with bounded_gather(fails_at_once, range(5), max_errors=0) as batch:
                await settle(5)
                raise LookupError
        results = aiter(bounded_gather(echo, (x for x in itertools.count())))
        await anext(results)
        await results.aclose()
        other = TaskRegistry()
        batch = bounded_gather(forever_for, itertools.count(), registry=other)
        collecting = asyncio.ensure_future(batch.collect())
        await settle(3)
        await other.shutdown(5)
        (await collecting).failures()
    loop.set_exception_handler(handler)


async def forever_for(item: object) -> None:
    await forever()


async def stubborn(item: object) -> None:
    try:
        await settle(10)
    except asyncio.CancelledError:
        await settle(2)


async def received(job: Job[int]) -> None:
    """Await a job; its error must not keep the frames that it went through."""
    try:
        await job
    except (ValueError, asyncio.CancelledError) as error:
        error.__traceback__ = None


async def jobs(registry: TaskRegistry, times: int) -> None:
    for number in range(times // 100):
        async with bounded_gather(fails_later, [], max_concurrent=3) as batch:
            added = [batch.add(n) for n in range(20)]
            for n in range(20):
                batch.add(-n)
            added[0].add_done_callback(repr)
            added[1].add_done_callback(repr)
            waits = asyncio.ensure_future(received(added[4]))
            await settle()
            added[0].cancel("on request")
            added[19].cancel("on request")
            waits.cancel()
            for job in added:
                repr(job)
                job.task_id  # noqa: B018
                await received(job)
                job.done()
                job.cancelled() or job.exception()
            refused(job.__reduce__)
            if number % 2:
                batch.stop()


async def pools(registry: TaskRegistry, times: int) -> None:
    for number in range(times // 100):
        pool = TaskPool(
            3,
            max_pending=5,
            cancel_grace=1,
            on_result=repr,
            task_per_item=number % 2 > 0,
            registry=registry if number % 3 == 0 else None,
        )
        async with pool:
            with contextlib.suppress(PoolFullError):
                for n in range(20):
                    pool.submit(fails_later, n)
            puts = [asyncio.ensure_future(pool.put(fails_later, n)) for n in range(5)]
            await settle()
            puts[3].cancel()
            await asyncio.wait(puts)
            await pool.join()
            refused(pool.submit, 5)
            refused(pool.submit, echo, task_id=5)
            last = pool.submit(forever, task_id="last")
            waiting = [pool.submit(echo, n) for n in range(5)]
            waiting[0].cancel("not needed")
            await settle(2)
            str(await pool.shutdown(5))
            await received(last)
        refused(pool.submit, echo)


async def coordinators(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 100):
        coordinator = SignalCoordinator(registry=registry)
        coordinator.request_shutdown("test")
        await settle()


async def results(registry: TaskRegistry, times: int) -> None:
    for number in range(times):
        result = TaskResult("x", success=True, data=number)
        assert result == TaskResult("x", success=True, data=number)
        result.unwrap()


async def watches(registry: TaskRegistry, times: int) -> None:
    for _ in range(times // 500):
        async with LoopWatch(60.0) as watch:
            refused(watch.__reduce__)
            repr(watch)
        async with watch:
            assert watch.lag.count == 0
    for _ in range(times // 100):
        pulse = LoopPulse(1e-9, 1e-9, -1.0, None)
        time.sleep(1e-6)
        pulse.wait()
        pulse.beat(True)
        again = LoopPulse(1e-9, 1e-9, 60.0, pulse)
        time.sleep(1e-6)
        again.wait()


WORK: dict[str, Work] = {
    work.__name__: work
    for work in (
        *(reads, heartbeats, awaits, registers, fails, cancels, completes, tracks),
        *(supervises, finds),
        *(refuses, contexts, bad_factories, eagerly, registries, waits, monitors),
        *(drains, gathers, gathers_of_tasks, gathers_with_limits, live_batches),
        *(batches_that_are_left, jobs, pools),
        *(groups, coordinators, results, recordings, watches),
    )
}
TYPES = [value for value in vars(core).values() if isinstance(value, type)]


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("pyasynclife"), "disabled", True)


def nothing() -> int:
    return 0


COUNTS: dict[str, Callable[[], int]] = {
    "blocks": sys.getallocatedblocks,
    "references": getattr(sys, "gettotalrefcount", nothing),
    "threads": threading.active_count,
    "descriptors": lambda: len(os.listdir("/proc/self/fd")),
} | {f"references to {kind}": lambda kind=kind: sys.getrefcount(kind) for kind in TYPES}


def count(into: "array[int]") -> None:
    """Count without leaving an object that the next count would include."""
    gc.collect()
    for at, ask in enumerate(COUNTS.values()):
        into[at] = ask()


async def forget_timers() -> None:
    """Cancel many timers: only then the standard loop drops those cancelled before."""
    loop = asyncio.get_running_loop()
    for handle in [loop.call_later(1000, str) for _ in range(300)]:
        handle.cancel()
    await settle()


async def growth(work: Work, registry: TaskRegistry, times: int) -> dict[str, int]:
    """The counts that grew in each repeat, and the smallest growth."""
    before, after = (array("q", [0] * len(COUNTS)) for _ in range(2))
    smallest = array("q", [sys.maxsize] * len(COUNTS))
    for repeat in range(-WARM_UPS, REPEATS):
        await forget_timers()
        count(before)
        await work(registry, times if repeat >= 0 else max(times // 5, 500))
        await forget_timers()
        count(after)
        for at in range(len(COUNTS)) if repeat >= 0 else ():
            smallest[at] = min(smallest[at], after[at] - before[at])
    return {what: n for what, n in zip(COUNTS, smallest, strict=True) if n > 0}


@pytest.mark.parametrize("name", WORK)
async def test_many_of_each_leave_nothing_behind(name: str, silent: None) -> None:
    on_standard_loop = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
    slow = MANY > 10_000 and (IS_DEBUG or not on_standard_loop)
    times = MANY // 10 if slow else MANY
    registry = TaskRegistry(history=10)
    registry.register(forever(), "beating")
    for _ in range(ROUNDS):
        grown = await growth(WORK[name], registry, times)
        if not on_standard_loop:
            grown.pop("references", None)  # uvloop is built without that count
        if not grown:
            break
    registry.cancel_all()
    await registry.wait()
    assert not grown
    print(f"leaks: {name}: {times * REPEATS} times, nothing left")


async def test_one_object_left_by_each_repeat_is_found() -> None:
    kept: list[object] = []

    async def leaks(registry: TaskRegistry, times: int) -> None:
        kept.append(TaskResult("x", success=True))

    found = await growth(leaks, TaskRegistry(), 1000)
    assert "references to <class 'pyasynclife.TaskResult'>" in found
    # With PYTHONMALLOC=malloc, as under a sanitizer, Python counts no blocks.
    assert "blocks" in found or sys.getallocatedblocks() == 0


@pytest.mark.parametrize("name", WORK)
async def test_nothing_is_left_to_the_collector(name: str, silent: None) -> None:
    registry = TaskRegistry(history=10)
    registry.register(forever(), "beating")
    await WORK[name](registry, 100)
    gc.collect()
    gc.disable()
    try:
        await WORK[name](registry, 1000)
        await settle()
        found = gc.collect()
    finally:
        gc.enable()
    registry.cancel_all()
    await registry.wait()
    assert found == 0
