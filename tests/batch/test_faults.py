"""bounded_gather when an allocation of the core fails: each of them in turn."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    BatchError,
    ClosedError,
    Job,
    PoolFullError,
    Retry,
    TaskPool,
    TaskRegistry,
    TaskResult,
    bounded_gather,
)
from pyasynclife._await_chain import await_chain
from support.coroutines import echo_later, forever
from support.faults import fail_allocation, needs_faults
from support.items import Stubborn
from support.loops import settle

BOTH_WAYS = True
pytestmark = needs_faults
# A batch whose source refers to it is collected during a later attempt, and the
# allocation that fails then may be one of its __del__.
in_a_cycle = pytest.mark.filterwarnings(
    "ignore:.*Batch.__del__:pytest.PytestUnraisableExceptionWarning"
)
# The allocation that fails may be one that the report of an error needs.
reports = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


async def fn(x: int) -> int:
    if x % 3 == 1:
        await asyncio.sleep(0)
    if x == 4:
        raise ValueError(x)
    if x == 5:
        await asyncio.sleep(0.02)
    if x == 6:
        asyncio.current_task().cancel()
    return x


async def numbers() -> AsyncIterator[int]:
    for i in range(8):
        yield i


async def collected() -> None:
    result = await bounded_gather(
        fn, range(8), max_concurrent=3, timeout=0.005, budget=60, key=str
    )
    result.failures()
    result.by_id()


async def collected_from_a_generator() -> None:
    result = await bounded_gather(
        fn, (i for i in range(8)), timeout=0.005, on_result=lambda r: None
    )
    result.failures()
    [r.task_id for r in result]


async def read_by_a_reader() -> None:
    (await bounded_gather(fn, numbers(), max_concurrent=2, timeout=0.005)).failures()


def filled(items: Any) -> asyncio.Queue[Any]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for item in items:
        queue.put_nowait(item)
    return queue


async def read_from_a_queue() -> None:
    batch = bounded_gather(fn, filled(range(8)), max_concurrent=2, timeout=0.005)
    collecting = asyncio.create_task(batch.collect())
    await settle(30)
    batch.close()
    await asyncio.wait([collecting])
    collecting.result().failures()


async def stopped_with_a_queue() -> None:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    batch = bounded_gather(forever, queue, max_concurrent=2)
    collecting = asyncio.create_task(batch.collect())
    await settle(3)
    for item in range(3):
        queue.put_nowait(item)
    await settle(1)  # the reader has one
    batch.cancel()
    await asyncio.wait([collecting])
    collecting.result().failures()


async def streamed() -> None:
    async for result in bounded_gather(fn, range(12), max_concurrent=3, timeout=0.05):
        result.as_dict()
        repr(result)


async def streamed_as_finished() -> None:
    batch = bounded_gather(fn, range(8), max_concurrent=3, buffer=0, ordered=False)
    async with batch:
        async for _ in batch:
            await asyncio.sleep(0)


async def decided_late() -> None:
    async with bounded_gather(fn, range(8), ordered=False) as batch:
        await asyncio.sleep(0.001)
        (await batch).failures()


async def aborted() -> None:
    with pytest.raises((BatchError, MemoryError)) as caught:
        await bounded_gather(fn, range(8), max_errors=0)
    if caught.type is MemoryError:
        raise caught.value


async def cancelled() -> None:
    batch = bounded_gather(fn, numbers(), max_concurrent=1)
    asyncio.get_running_loop().call_later(0.001, batch.cancel)
    (await batch).failures()


async def changed_while_it_ran() -> None:
    batch = bounded_gather(fn, range(3), max_concurrent=1)
    batch.add(3)
    async with batch:
        async for result in batch:
            if result.index < 2:
                with contextlib.suppress(RuntimeError):  # the batch has failed
                    batch.add(7)
                batch.max_concurrent = 4
                batch.pause()
                await asyncio.sleep(0)
                batch.resume()
        batch.close()


async def with_jobs() -> None:
    async with bounded_gather(fn, [], key=str, max_concurrent=2) as batch:
        jobs = []
        with contextlib.suppress(RuntimeError):  # the batch has failed
            for n in range(8):
                jobs.append(batch.add(n))
                jobs[-1].add_done_callback(repr)
                jobs[-1].add_done_callback(str)
                jobs[-1].remove_done_callback(str)
        for job in jobs[-1:]:
            job.cancel("not needed")
        for job in jobs:
            repr(job)
            with contextlib.suppress(ValueError, asyncio.CancelledError, RuntimeError):
                await job
            job.done()
            with contextlib.suppress(ValueError, asyncio.CancelledError, RuntimeError):
                job.exception()
            repr(job)


async def awaited(job: Job[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError, RuntimeError):
        await job


async def shown_with_a_key_that_fails() -> None:
    def key(item: int) -> str:
        raise LookupError

    batch = bounded_gather(forever, [], key=key)
    job = batch.add(1)
    assert repr(job) == "<Job ? pending>"


async def ended_by_its_budget() -> None:
    batch = bounded_gather(forever, numbers(), max_concurrent=1, budget=0.005)
    (await batch).failures()


async def with_jobs_that_end_with_their_batch() -> None:
    batch = bounded_gather(forever, [], max_concurrent=1, cancel_grace=0.001)
    jobs = [batch.add(n) for n in range(3)]
    with pytest.raises(TypeError):
        jobs[0].__reduce__()
    collecting = asyncio.create_task(batch.collect())
    waiting = asyncio.ensure_future(awaited(jobs[0]))
    try:
        await settle()
        await_chain(waiting)
        jobs[0].cancel()
    finally:
        batch.stop()
        batch.cancel()
        await asyncio.wait([collecting, waiting])
    with contextlib.suppress(asyncio.CancelledError, RuntimeError):
        await jobs[2]
    collecting.result().failures()


async def pooled(**options: Any) -> None:
    async with TaskPool(2, max_pending=3, timeout=0.005, **options) as pool:
        jobs = []
        with contextlib.suppress(PoolFullError, ClosedError):
            for n in range(8):
                jobs.append(pool.submit(fn, n))
        with contextlib.suppress(PoolFullError, ClosedError):
            jobs.append(await pool.put(fn, 4))
            jobs.append(await pool.put(forever))
            jobs[-1].cancel()
            pool.submit(fn, 4)
        for job in jobs:
            repr(job)
            with contextlib.suppress(
                ValueError, TimeoutError, asyncio.CancelledError, RuntimeError
            ):
                await job
            str(job.outcome)
        await pool.join()


async def pooled_in_tasks() -> None:
    await pooled(task_per_item=True)


async def pooled_in_a_registry() -> None:
    await pooled(registry=TaskRegistry(history=2))


async def pooled_with_limits() -> None:
    await pooled(limit_by=str, max_per_key=1, retry=Retry(2, backoff=Backoff(0)))


async def pooled_in_tasks_with_limits() -> None:
    await pooled(
        limit_by=lambda *args: len(args),
        max_per_second=10_000,
        retry=Retry(2, backoff=Backoff(0)),
        task_per_item=True,
    )


async def pool_that_is_shut_down() -> None:
    pool = TaskPool(1)
    try:
        with contextlib.suppress(ClosedError):  # a worker could not be made
            pool.submit(forever, task_id="one")
            pool.submit(forever)
        await settle()
        str(await pool.shutdown(5))
    finally:
        pool.cancel()
        await settle()


async def left_unread() -> None:
    async with bounded_gather(fn, range(8), max_concurrent=3) as batch:
        with contextlib.suppress(RuntimeError):  # the batch has failed
            batch.add(4)
        await asyncio.sleep(0.001)


async def handled() -> None:
    with pytest.raises((BatchError, MemoryError)) as caught:
        async with bounded_gather(
            fn, range(8), max_errors=0, on_result=lambda r: None
        ) as batch:
            with contextlib.suppress(RuntimeError):  # the batch has failed
                batch.add(4)
            await asyncio.sleep(0.001)
    if caught.type is MemoryError:
        raise caught.value


async def aborted_and_left() -> None:
    with contextlib.suppress(LookupError):
        async with bounded_gather(fn, range(8), max_errors=0):
            await asyncio.sleep(0.001)
            raise LookupError


async def closed_early() -> None:
    async with contextlib.aclosing(
        aiter(bounded_gather(fn, iter_of(8), max_concurrent=2))
    ) as results:
        async for _ in results:
            break


def iter_of(n: int) -> Iterator[int]:
    try:
        yield from range(n)
    finally:
        asyncio.get_running_loop()


async def shut_down() -> None:
    registry = TaskRegistry()
    task = asyncio.ensure_future(
        bounded_gather(forever, range(5), registry=registry, max_concurrent=2).collect()
    )
    try:
        await settle(3)
        await registry.shutdown(5)
    except BaseException:
        task.cancel()
        raise
    finally:
        await asyncio.wait([task])
    task.result()


async def abandoned() -> None:
    stubborn = Stubborn()

    async def item(x: int) -> Any:
        return await (stubborn(x) if x else echo_later(x))

    try:
        result = await bounded_gather(
            item, range(3), timeout=0.001, cancel_grace=0.001, max_concurrent=2
        )
        result.failures()
    finally:
        stubborn.free.set()


async def registered() -> None:
    registry = TaskRegistry(history=2)

    async def beat(x: int) -> Any:
        registry.heartbeat()
        return await fn(x)

    result = await bounded_gather(
        beat, [0, 1, 2, 1, 6], registry=registry, max_concurrent=4
    )
    result.failures()


class Name(str):
    """A task id that is not an exact str."""

    __slots__ = ()


async def ended_with_unstarted_items() -> None:
    """Unstarted items of the source, and some that were added."""
    for added in ([], [3]):
        batch = bounded_gather(forever, [1, 2], max_concurrent=1)
        for item in added:
            batch.add(item)
        collecting = asyncio.create_task(batch.collect())
        await settle()
        batch.cancel()
        assert len(await collecting) == 2 + len(added)


async def named_by_subclasses_of_str() -> None:
    results = await bounded_gather(echo_later, [Name("a"), 1.5, 7, 10**5000])
    assert set(results.by_id()) == {"a", "1", "7", "3"}
    keyed = await bounded_gather(echo_later, [1], key=lambda item: Name("one"))
    assert [result.task_id for result in keyed] == ["one"]


async def cancelled_by_its_source() -> None:
    def items() -> Iterator[int]:
        yield 1
        batch.cancel()
        yield 2

    seen = []
    batch = bounded_gather(
        echo_later, items(), max_concurrent=1, key=Name, on_result=seen.append
    )
    results = await batch
    assert len(seen) <= len(results) <= 2


async def with_workers_closed_from_outside() -> None:
    """Closed by the caller, and while another worker calls the source."""

    def items() -> Iterator[int]:
        yield 1
        workers.update(asyncio.all_tasks() - before - {collecting})
        for worker in workers - {asyncio.current_task()}:
            worker.get_coro().close()
        yield 2
        yield 3

    before = asyncio.all_tasks()
    workers = set()
    batch = bounded_gather(forever, items(), on_result=repr)
    collecting = asyncio.create_task(batch.collect())
    try:
        await settle()
        for worker in workers:
            worker.get_coro().close()
    finally:
        workers.update(asyncio.all_tasks() - before - {collecting})
        for worker in workers:
            worker.cancel()
        batch.cancel()
        await asyncio.wait([*workers, collecting])
        for worker in workers:
            worker.cancelled() or worker.exception()
    collecting.result().failures()


async def a_result_in_its_own_repr() -> None:
    inside = []
    result = TaskResult("a", True, inside)
    inside.append(result)
    try:
        assert "TaskResult(...)" in repr(result)
    finally:
        inside.clear()


async def shown_in_an_await_chain() -> None:
    async def source() -> AsyncIterator[str]:
        yield "one"
        await forever()

    batch = bounded_gather(forever, source())
    collecting = asyncio.create_task(batch.collect())
    try:
        await settle()
        await_chain(collecting)
    finally:
        collecting.cancel()
        await asyncio.wait([collecting])


async def named_by_a_long_id() -> None:
    (await bounded_gather(forever, ["x" * 200], timeout=0.001)).failures()


async def kept_from_starting_by_the_budget() -> None:
    batch = bounded_gather(forever, [1, 2], max_concurrent=1, budget=0.001)
    collecting = asyncio.ensure_future(batch.collect())
    await settle(1)
    time.sleep(0.005)  # the loop is late
    (await collecting).failures()


def odd(item: int) -> int:
    return item % 2


async def limited() -> None:
    result = await bounded_gather(
        fn, range(8), max_concurrent=3, limit_by=odd, max_per_second=1e6, timeout=0.005
    )
    result.failures()


async def limited_by_many_keys() -> None:
    (await bounded_gather(fn, range(40), limit_by=lambda item: item)).failures()


async def tried_again() -> None:
    result = await bounded_gather(
        fn, iter_of(8), limit_by=odd, retry=Retry(2, backoff=Backoff(0)), timeout=0.05
    )
    result.failures()


async def tried_again_by_a_registry() -> None:
    result = await bounded_gather(
        fn, range(8), registry=TaskRegistry(), retry=Retry(2, backoff=Backoff(0))
    )
    result.failures()


async def stopped_while_items_wait() -> None:
    """In the heap, whose room is used up; and for their key."""
    retry = Retry(2, backoff=Backoff(60, jitter=0))
    batch = bounded_gather(fails, range(40), limit_by=odd, max_per_key=30, retry=retry)
    collecting = asyncio.ensure_future(batch.collect())
    try:
        await settle(20)
        batch.cancel()
    finally:
        await asyncio.wait([collecting])
    collecting.result().failures()


async def fails(item: int) -> None:
    raise ValueError(item)


async def listed_while_they_wait() -> None:
    """The items of a batch by their ids, and the jobs of a pool."""
    retry = Retry(2, backoff=Backoff(60, jitter=0))
    batch = bounded_gather(fails, [1, "two"], retry=retry)
    pool = TaskPool(2, retry=retry)
    collecting = asyncio.ensure_future(batch.collect())
    try:
        with contextlib.suppress(ClosedError):  # a worker could not be made
            pool.submit(fails, 3)
        await settle(5)
        batch._core.resting()
        str(await pool.shutdown(5))
    finally:
        batch.cancel()
        pool.cancel()
        await asyncio.wait([collecting])
    collecting.result().failures()


async def timed_out_while_it_waits() -> None:
    retry = Retry(2, backoff=Backoff(60, jitter=0))
    (await bounded_gather(fails, [1, 2], timeout=0.005, retry=retry)).failures()


def refuse(item: object) -> bool:
    raise ValueError(item)


async def without_a_key() -> None:
    (await bounded_gather(fn, [1, 2], limit_by=refuse)).failures()
    (await bounded_gather(fails, [1], retry=Retry(on=refuse))).failures()


async def results() -> None:
    result = TaskResult("a", False, [1], ValueError())
    result.as_dict()
    repr(result)
    result.__reduce__()
    with contextlib.suppress(TypeError):
        TaskRegistry().cancel_all().__reduce__()
    TaskResult("b", True) == result  # noqa: B015


@pytest.mark.filterwarnings("ignore:.*dropped while it ran:ResourceWarning")
@pytest.mark.parametrize(
    "scenario",
    [
        collected,
        collected_from_a_generator,
        read_by_a_reader,
        read_from_a_queue,
        stopped_with_a_queue,
        streamed,
        streamed_as_finished,
        decided_late,
        aborted,
        cancelled,
        changed_while_it_ran,
        pytest.param(with_jobs, marks=reports),
        shown_with_a_key_that_fails,
        ended_by_its_budget,
        pytest.param(with_jobs_that_end_with_their_batch, marks=reports),
        pytest.param(pooled, marks=reports),
        pytest.param(pooled_in_tasks, marks=reports),
        pytest.param(pooled_in_a_registry, marks=reports),
        pytest.param(pooled_with_limits, marks=reports),
        pytest.param(pooled_in_tasks_with_limits, marks=reports),
        pytest.param(pool_that_is_shut_down, marks=reports),
        left_unread,
        handled,
        pytest.param(aborted_and_left, marks=reports),
        closed_early,
        shut_down,
        abandoned,
        ended_with_unstarted_items,
        kept_from_starting_by_the_budget,
        named_by_subclasses_of_str,
        pytest.param(cancelled_by_its_source, marks=in_a_cycle),
        pytest.param(with_workers_closed_from_outside, marks=in_a_cycle),
        registered,
        shown_in_an_await_chain,
        named_by_a_long_id,
        limited,
        limited_by_many_keys,
        tried_again,
        tried_again_by_a_registry,
        stopped_while_items_wait,
        pytest.param(listed_while_they_wait, marks=reports),
        timed_out_while_it_waits,
        without_a_key,
        results,
        a_result_in_its_own_repr,
    ],
)
async def test_every_allocation_may_fail(
    scenario: Callable[[], Awaitable[None]],
    loop_errors: list[dict[str, Any]],
    freed_memory_errors: None,
) -> None:
    failed = 0
    for nth in range(1, 2000):
        fail_allocation(nth)
        try:
            async with asyncio.timeout(10):
                await scenario()
        except MemoryError:
            failed += 1
        except TimeoutError:
            pytest.fail(f"allocation {nth}: hang")
        finally:
            left = fail_allocation(0)
        for _ in range(2000):
            if len(asyncio.all_tasks()) == 1:
                break
            await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) == 1, f"allocation {nth}: tasks left"
        for context in loop_errors:
            error = context.get("exception")
            assert isinstance(
                error, MemoryError | ValueError | TimeoutError | BatchError
            )
        loop_errors.clear()
        if left:
            break
        if nth % 20 == 0:
            gc.collect()
    else:
        pytest.fail("allocations without end")
    assert failed
    await scenario()
