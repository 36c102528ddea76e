"""Jobs and pools under hostile callbacks, items, loops and registries."""

import asyncio
import contextlib
import gc
import warnings
import weakref
from typing import Any

from pyasynclife import (
    Backoff,
    ClosedError,
    Job,
    Retry,
    TaskPool,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import echo, echo_later, forever
from support.hostile import case
from support.hostile_cases.common import in_thread, raise_hostile, refuses, works


def silence() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)


@case("done callbacks that raise, cancel, add and drop")
async def callbacks_of_jobs() -> None:
    silence()
    async with bounded_gather(echo_later, [], max_concurrent=1) as batch:
        jobs = [batch.add(n) for n in range(3)]

        def everything(job: Any) -> None:
            job.cancel()
            job.add_done_callback(raise_hostile)
            with contextlib.suppress(RuntimeError):
                batch.add(1)
            jobs.clear()
            gc.collect()

        for job in list(jobs):
            job.add_done_callback(everything)
            job.add_done_callback(raise_hostile)
        refuses(jobs[0].add_done_callback, 42)
        del job
    await asyncio.sleep(0)
    await works()


@case("a loop whose call_soon fails while a job ends")
async def call_soon_fails() -> None:
    silence()
    loop: Any = asyncio.get_running_loop()
    batch = bounded_gather(echo_later, [])
    job = batch.add(1)
    job.add_done_callback(print)
    if not hasattr(loop, "__dict__"):
        return  # uvloop cannot be patched
    true = loop.call_soon

    def call_soon(callback: Any, *args: Any, **options: Any) -> Any:
        if callback is print:
            raise LookupError
        return true(callback, *args, **options)

    loop.call_soon = call_soon
    await batch
    del loop.call_soon
    assert job.result() == 1


@case("a weak reference to a job that ends brings it back")
async def weak_reference_to_a_job() -> None:
    async def fn(_: object) -> None:
        found.append(ref())

    found: list[Any] = []
    async with bounded_gather(fn, []) as batch:
        ref = weakref.ref(batch.add(1))
    assert found[0].done()
    assert found[0].state is not None
    repr(found[0])
    await works()


@case("a report of a job that brings the job back")
async def job_comes_back() -> None:
    kept: list[Any] = []

    def handler(loop: Any, context: Any) -> None:
        kept.extend(o for o in gc.get_objects() if type(o) is Job)

    async def fail(_: object) -> None:
        await asyncio.sleep(0)
        raise ValueError

    asyncio.get_running_loop().set_exception_handler(handler)
    async with TaskPool() as pool:
        job: Any = pool.submit(fail, 1)
        await pool.join()
    del job
    gc.collect()
    for one in kept:
        repr(one)
    asyncio.get_running_loop().set_exception_handler(None)


@case("the waiter of a job is closed, thrown into and stepped by hand")
async def waiters_by_hand() -> None:
    async with bounded_gather(forever, []) as batch:
        job = batch.add(1)
        await asyncio.sleep(0)
        steps = [job.__await__() for _ in range(4)]
        futures = [next(step) for step in steps[:3]]
        next(steps[0])  # before its future is done
        steps[1].close()
        with contextlib.suppress(LookupError):
            steps[2].throw(LookupError())
        futures.clear()
        del steps[3]
        job.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        next(steps[0])
    await works()


@case("a task factory that gives no task ends a pool")
async def factory_of_a_pool() -> None:
    loop = asyncio.get_running_loop()
    silence()
    for options in ({}, {"task_per_item": True}):
        pool = TaskPool(**options)  # type: ignore[arg-type]

        def factory(loop: Any, coro: Any, **options: Any) -> Any:
            coro.close()
            return 42

        loop.set_task_factory(factory)
        job = pool.submit(echo, 1)
        loop.set_task_factory(None)
        assert job.done()
        refuses(pool.submit, echo, 1)
        await pool.shutdown(1)


@case("a registry that submits to the pool, shuts down and lies")
async def registry_of_a_pool() -> None:
    silence()

    def again(_: Any) -> None:
        with contextlib.suppress(ClosedError):
            pool.submit(echo, 1)

    registry = TaskRegistry(on_finish=again)
    pool = TaskPool(2, registry=registry)
    pool.submit(echo_later, 1)
    await asyncio.sleep(0.01)
    pool.submit(forever)
    await registry.shutdown(1)
    await pool.shutdown(1)


@case("on_result uses, stops and drops its pool")
async def on_result_of_a_pool() -> None:
    def on_result(result: Any) -> None:
        pool = held.pop() if held else None
        if pool is not None:
            pool.submit(echo, 2)
            pool.pause()
            pool.resume()
            pool.max_concurrent = 1
            pool.stop()
            pool.cancel()
            del pool
            gc.collect()

    held = [TaskPool(1, on_result=on_result)]
    job = held[0].submit(echo_later, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert await job == 1
    await works()


@case("limit_by, keys and a retry use, stop and drop their pool")
async def limits_of_a_pool() -> None:
    silence()

    class Key:
        def __hash__(self) -> int:
            use()
            return 1

        def __eq__(self, other: object) -> bool:
            use()
            raise_hostile()
            return True

    def use(*args: Any) -> Any:
        steps[0] += 1
        pool = held[0]
        if pool is None:
            return True
        if steps[0] == 40:
            held.clear()
            held.append(None)
            pool.stop()
        elif steps[0] % 3 == 0:
            with contextlib.suppress(ClosedError):
                jobs.append(pool.submit(fail, 1))
        elif jobs:
            jobs.pop(0).cancel()
        gc.collect()
        return True

    async def fail(number: int) -> None:
        await asyncio.sleep(0)
        raise ValueError(number)

    steps = [0]
    jobs: list[Any] = []
    retry = Retry(3, on=use, backoff=Backoff(0))
    held: list[Any] = [TaskPool(2, limit_by=lambda *args: Key(), retry=retry)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while held[0] is not None:
            with contextlib.suppress(ClosedError):
                held[0].submit(fail, 1)
            await asyncio.sleep(0)
        jobs.clear()
        gc.collect()
        for _ in range(20):
            await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1
    await works()


@case("a pool and its jobs in a cycle that the collector finds in a thread")
async def pool_collected_elsewhere() -> None:
    silence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pool: Any = TaskPool(1)
        cycle: list[Any] = [pool, pool.submit(forever), pool.submit(echo)]
        cycle.append(cycle)
        await asyncio.sleep(0)
        del pool, cycle
        in_thread(gc.collect)
        for _ in range(5):
            await asyncio.sleep(0)
    await works()


@case("the interpreter ends while a pool runs")
async def pool_at_exit() -> None:
    pool = TaskPool(1)
    keep.extend([pool, pool.submit(forever), pool.submit(echo)])
    await asyncio.sleep(0)


keep: list[Any] = []


@case("an item that clears the only references to its job and pool")
async def item_drops_its_pool() -> None:
    async def fn() -> int:
        held.clear()
        gc.collect()
        await asyncio.sleep(0)
        return 1

    held: list[Any] = [TaskPool(1)]
    held.append(held[0].submit(fn))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(5):
            await asyncio.sleep(0)
    await works()
