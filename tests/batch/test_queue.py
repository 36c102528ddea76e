"""An asyncio.Queue as the items of a batch."""

import asyncio
import sys
from collections import Counter
from typing import Any

import pytest

from pyasynclife import BatchStatus, TaskState, bounded_gather
from support.coroutines import double, echo_later, forever
from support.loops import settle

BOTH_WAYS = True
needs_shutdown = pytest.mark.skipif(
    sys.version_info < (3, 13), reason="Queue.shutdown() is new in 3.13"
)


def filled(items: Any, make: Any = asyncio.Queue, size: int = 0) -> asyncio.Queue[Any]:
    queue: asyncio.Queue[Any] = make(size)
    for item in items:
        queue.put_nowait(item)
    return queue


def rest_of(queue: asyncio.Queue[Any]) -> list[Any]:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def done(queue: asyncio.Queue[Any]) -> None:
    await asyncio.wait_for(queue.join(), 30)


# ------------------------------------------------------------ its items


async def test_a_closed_batch_ends_when_its_queue_is_empty() -> None:
    queue = filled(range(20))
    batch = bounded_gather(echo_later, queue, max_concurrent=3)
    batch.close()
    result = await asyncio.wait_for(batch, 30)
    assert result.values() == list(range(20))
    assert result.status is BatchStatus.COMPLETED
    assert result.exhausted
    await done(queue)


async def test_an_empty_queue_is_no_end() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    batch = bounded_gather(double, queue, max_concurrent=3)
    waiting = asyncio.ensure_future(batch.collect())
    for x in range(5):
        await settle(5)
        assert not waiting.done()
        queue.put_nowait(x)
        await done(queue)
    batch.close()
    assert (await asyncio.wait_for(waiting, 30)).values() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("moment", ["at once", "idle", "running", "woken"])
async def test_close_reads_what_is_in_the_queue(moment: str) -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    batch = bounded_gather(echo_later, queue, max_concurrent=2)
    async with batch:
        if moment != "at once":
            await settle(5)
        if moment == "running":
            queue.put_nowait(100)
            await settle(2)
        for x in range(5):
            queue.put_nowait(x)
        batch.close()
        result = await asyncio.wait_for(batch, 30)
    assert sorted(result.values())[:5] == list(range(5))
    assert queue.empty()
    await done(queue)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@needs_shutdown
@pytest.mark.parametrize("moment", ["before", "idle", "running"])
async def test_a_queue_that_is_shut_down_ends_the_batch(moment: str) -> None:
    queue: Any = filled(range(5))
    batch = bounded_gather(echo_later, queue, max_concurrent=2)
    if moment == "before":
        queue.shutdown()
    waiting = asyncio.ensure_future(batch.collect())
    await settle(2 if moment == "running" else 200)
    assert not waiting.done() or moment == "before"
    queue.shutdown()
    result = await asyncio.wait_for(waiting, 30)
    assert result.values() == list(range(5))
    assert result.status is BatchStatus.COMPLETED
    assert result.exhausted
    await done(queue)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (asyncio.Queue, [3, 1, 2]),
        (asyncio.LifoQueue, [2, 1, 3]),
        (asyncio.PriorityQueue, [1, 2, 3]),
    ],
)
async def test_items_start_in_the_order_of_the_queue(
    make: Any, expected: list[int]
) -> None:
    started = []

    async def fn(x: int) -> None:
        started.append(x)
        await asyncio.sleep(0)

    batch = bounded_gather(fn, filled([3, 1, 2], make), max_concurrent=1)
    batch.close()
    await asyncio.wait_for(batch, 30)
    assert started == expected


async def test_an_item_stays_in_the_queue_until_a_worker_is_free() -> None:
    free = asyncio.Event()

    async def fn(x: int) -> None:
        await free.wait()

    queue = filled(range(10))
    async with bounded_gather(fn, queue, max_concurrent=4) as batch:
        await settle(40)
        assert batch.progress.running == 4
        assert queue.qsize() == 6
        batch.max_concurrent = 6
        await settle(40)
        assert queue.qsize() == 4
        batch.pause()
        free.set()
        await settle(20)
        assert queue.qsize() == 4
        batch.resume()
        await done(queue)
        batch.close()


async def test_a_stream_takes_no_more_than_its_consumer_has_room_for() -> None:
    queue = filled(range(20))
    batch = bounded_gather(double, queue, max_concurrent=2, buffer=1)
    async with batch:
        got = []
        async for result in batch:
            await settle(30)
            got.append(result.unwrap())
            assert 20 - queue.qsize() <= len(got) + 3
            if len(got) == 20:
                batch.close()
        assert got == [2 * x for x in range(20)]


async def test_two_batches_share_a_queue() -> None:
    queue = filled(range(100))
    seen: Counter[int] = Counter()

    async def fn(x: int) -> None:
        seen[x] += 1
        await asyncio.sleep(0)

    one = bounded_gather(fn, queue, max_concurrent=3)
    two = bounded_gather(fn, queue, max_concurrent=5)
    async with one, two:
        await done(queue)
        one.close()
        two.close()
    assert seen == Counter(range(100))
    assert one.progress.done + two.progress.done == 100
    assert min(one.progress.done, two.progress.done) > 0


async def test_added_items_run_too_and_are_not_counted_by_the_queue() -> None:
    queue = filled(range(3))
    batch = bounded_gather(double, queue, max_concurrent=1)
    batch.add(10)
    async with batch:
        await done(queue)
        batch.add(20)
        batch.close()
        result = await asyncio.wait_for(batch, 30)
    assert sorted(result.values()) == [0, 2, 4, 20, 40]


async def test_a_producer_with_a_bounded_queue_is_held_back() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(2)

    async def produce() -> None:
        for x in range(50):
            await queue.put(x)

    async with bounded_gather(echo_later, queue, max_concurrent=3) as batch:
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.wait_for(produce(), 30)
        await done(queue)
        batch.close()
        assert sorted((await waiting).values()) == list(range(50))


async def test_a_backlog_brings_all_workers_at_once() -> None:
    running = most = 0

    async def fn(x: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await settle(12)
        running -= 1

    queue = filled(range(200))
    async with bounded_gather(fn, queue, max_concurrent=64) as batch:
        await done(queue)
        batch.close()
    assert most == 64


# ------------------------------------------------------------ task_done()


async def test_join_returns_when_every_item_has_ended_however() -> None:
    async def fn(x: int) -> int:
        if x == 1:
            raise ValueError(x)
        if x == 2:
            await asyncio.sleep(60)
        if x == 3:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(60)
        return x

    queue = filled(range(5))
    results = []
    async with bounded_gather(
        fn, queue, max_concurrent=2, timeout=0.01, on_result=results.append
    ) as batch:
        await done(queue)
        assert len(results) == 5  # all were handed over before
        batch.close()
    states = Counter(result.state.value for result in results)
    assert states == {"done": 2, "failed": 2, "cancelled": 1}


async def test_an_abandoned_item_is_done() -> None:
    async def fn(x: int) -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                pass

    queue = filled([1])
    batch = bounded_gather(fn, queue, timeout=0.01, cancel_grace=0.01)
    batch.close()
    assert (await batch)[0].state is TaskState.RUNNING
    await done(queue)
    await asyncio.sleep(0.4)
    with pytest.raises(ValueError, match="too many times"):
        queue.task_done()


async def test_an_item_that_key_refuses_is_done() -> None:
    def key(item: int) -> str:
        if item == 1:
            raise LookupError(item)
        return str(item)

    queue = filled(range(2))
    with pytest.raises(LookupError):
        await bounded_gather(double, queue, key=key)
    await done(queue)


async def test_a_task_done_too_many_is_reported_once(
    loop_errors: list[dict[str, Any]],
) -> None:
    queue = filled(range(5))

    async def fn(x: int) -> int:
        for _ in range(5 if x == 0 else 0):
            queue.task_done()
        return x

    batch = bounded_gather(fn, queue, max_concurrent=1)
    batch.close()
    assert (await batch).values() == list(range(5))
    (report,) = loop_errors
    assert "calls it once for each item" in report["message"]
    assert isinstance(report["exception"], ValueError)


# ------------------------------------------------------------- stopped early


async def cancel_it(batch: Any) -> None:
    batch.cancel()
    await batch


async def leave_it(batch: Any) -> None:
    with pytest.raises(LookupError):
        async with batch:
            raise LookupError


@pytest.mark.parametrize("end", [cancel_it, leave_it])
@pytest.mark.parametrize("iterations", range(12))
async def test_no_item_is_lost_when_the_batch_ends_early(
    end: Any, iterations: int
) -> None:
    started = set()

    async def fn(x: int) -> None:
        started.add(x)
        await asyncio.sleep(60)

    queue = filled(range(6))
    batch = bounded_gather(fn, queue, max_concurrent=3)
    await batch.__aenter__()
    await settle(iterations)
    await asyncio.wait_for(end(batch), 30)
    left = rest_of(queue)
    assert sorted([*started, *left]) == list(range(6))
    for _ in left:
        queue.task_done()
    await done(queue)


async def test_an_item_that_a_full_queue_does_not_take_back_is_pending() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    batch = bounded_gather(forever, queue, max_concurrent=1)
    async with batch:
        await settle(5)
        queue.put_nowait(1)
        while queue.full():
            await asyncio.sleep(0)
        queue.put_nowait(2)
        batch.cancel()
        result = await batch
    assert [one.state for one in result] == [TaskState.PENDING]
    assert rest_of(queue) == [2]
    queue.task_done()
    await done(queue)


async def test_a_cancelled_caller_takes_nothing_more() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    task = asyncio.ensure_future(bounded_gather(double, queue).collect())
    await settle(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    queue.put_nowait(1)
    await settle(5)
    assert queue.qsize() == 1


async def test_the_budget_ends_a_batch_that_waits_for_its_queue() -> None:
    result = await bounded_gather(double, asyncio.Queue(), budget=0.01)
    assert result.status is BatchStatus.TIMED_OUT
    assert not result.exhausted


async def test_a_cancelled_reader_ends_the_batch() -> None:
    task = asyncio.ensure_future(bounded_gather(double, asyncio.Queue()).collect())
    await settle(5)
    (reader,) = [one for one in asyncio.all_tasks() if "source" in one.get_name()]
    reader.cancel()
    with pytest.raises(asyncio.CancelledError, match="source was cancelled"):
        await task


# -------------------------------------------------------------------- misuse


def test_a_queue_of_another_loop_is_refused() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def bind() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(queue.get(), 0.001)
        queue.put_nowait(1)

    async def use() -> None:
        with pytest.raises(RuntimeError, match="make the queue in the loop"):
            await bounded_gather(double, queue)

    asyncio.run(bind())
    asyncio.run(use())
    assert queue.qsize() == 1


class Hostile(asyncio.Queue[Any]):
    def __init__(self, **raises: Any) -> None:
        super().__init__()
        self.raises = raises

    async def get(self) -> Any:
        if "get" in self.raises:
            raise self.raises["get"]
        return await super().get()

    def get_nowait(self) -> Any:
        if "get_nowait" in self.raises and self.qsize() < 2:
            raise self.raises["get_nowait"]
        return super().get_nowait()

    def qsize(self) -> int:
        if "qsize" in self.raises:
            raise self.raises["qsize"]
        return super().qsize()


@pytest.mark.parametrize("method", ["get", "get_nowait", "qsize"])
async def test_an_error_of_the_queue_propagates(method: str) -> None:
    error = LookupError(method)
    queue = Hostile(**{method: error})
    for x in range(3):
        queue.put_nowait(x)
    with pytest.raises(LookupError) as caught:
        await asyncio.wait_for(bounded_gather(double, queue).collect(), 30)
    assert caught.value is error


async def test_a_subclass_that_is_an_asynchronous_iterable_is_read_as_one() -> None:
    class Own(asyncio.Queue[int]):
        async def __aiter__(self) -> Any:
            while not self.empty():
                yield self.get_nowait()

    queue = filled(range(3), Own)
    assert (await bounded_gather(double, queue)).values() == [0, 2, 4]
