"""The registry of a batch's items shuts down, and the batch ends with it."""

import asyncio
import gc
import itertools
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import (
    BatchStatus,
    ClosedError,
    Retry,
    SignalCoordinator,
    TaskPool,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import Boom, Fatal, echo, fail, forever
from support.items import Counted
from support.loops import settle, until
from support.marks import needs_eager


def messages(log: list[int]) -> Iterator[int]:
    for x in itertools.count():
        log.append(x)
        yield x


async def queued(log: list[int]) -> AsyncIterator[int]:
    for x in itertools.count():
        await asyncio.sleep(0)
        log.append(x)
        yield x


class Service:
    """A consumer that is not in the registry of its batch's items."""

    def __init__(self, items: Any, fn: Any = None, **options: Any) -> None:
        self.registry = TaskRegistry()
        self.fn = fn or self.handle
        self.begun = 0
        self.ended: list[int] = []
        self.batch = bounded_gather(self.run, items, registry=self.registry, **options)

    async def run(self, x: int) -> Any:
        self.begun += 1
        return await self.fn(x)

    async def handle(self, x: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            self.ended.append(x)

    async def consume(self) -> list[TaskResult[None]]:
        async with self.batch:
            return [r async for r in self.batch]


@pytest.mark.parametrize("make", [messages, queued])
@pytest.mark.parametrize("awaits", [False, True])
async def test_a_batch_whose_registry_shuts_down_pulls_nothing_more(
    make: Callable[[list[int]], Any], awaits: bool
) -> None:
    pulled: list[int] = []
    service = Service(make(pulled), max_concurrent=3)
    consumer = asyncio.create_task(
        service.batch.collect() if awaits else service.consume()
    )
    await until(lambda: service.begun == 3)
    await settle(20)
    before = list(pulled)
    report = await service.registry.shutdown(5)
    assert report.ok
    assert len(report.cancelled) == 3
    results = list(await asyncio.wait_for(consumer, 5))
    assert pulled == before
    assert service.batch.status is BatchStatus.CANCELLED
    assert sorted(service.ended) == [0, 1, 2]
    states = [r.state for r in results]
    assert states[:3] == [TaskState.CANCELLED] * 3
    assert set(states[3:]) <= {TaskState.PENDING}
    assert len(states) == (len(pulled) if awaits else 3)


async def test_a_graceful_shutdown_ends_the_batch_of_its_registry() -> None:
    pulled: list[int] = []
    service = Service(messages(pulled), max_concurrent=3)
    async with SignalCoordinator(registry=service.registry) as coordinator:
        consumer = asyncio.create_task(service.consume())
        await until(lambda: service.begun == 3)
        before = list(pulled)
        coordinator.request_shutdown()
        report = await coordinator.graceful_shutdown()
    assert report.ok
    assert len(await consumer) == 3
    assert pulled == before


async def test_items_that_had_not_begun_when_the_registry_shuts_down_are_pending() -> (
    None
):
    service = Service(range(10), max_concurrent=5)
    task = asyncio.create_task(service.batch.collect())
    await settle(1)
    await service.registry.shutdown(5)
    result = await task
    assert {r.state for r in result} == {TaskState.PENDING}
    assert result.status is BatchStatus.CANCELLED
    assert service.ended == []


async def test_items_are_not_cancelled_again_by_the_end_of_their_batch() -> None:
    cancelled = []

    async def handle(x: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(x)
            await settle(10)
            cancelled.append("cleaned up")

    service = Service(range(10), handle, max_concurrent=1)
    consumer = asyncio.create_task(service.consume())
    await until(lambda: service.begun == 1)
    await service.registry.shutdown(5)
    await consumer
    assert cancelled == [0, "cleaned up"]


async def test_a_consumer_in_the_registry_cancels_no_item_again() -> None:
    cancelled = []

    async def handle(x: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.append(x)
            await settle(10)
            cancelled.append("cleaned up")

    service = Service(range(10), handle, max_concurrent=1)
    consumer, _ = await service.registry.register(service.consume())
    await until(lambda: service.begun == 1)
    report = await service.registry.shutdown(5)
    assert report.ok
    assert consumer.cancelled()
    assert cancelled == [0, "cleaned up"]


@pytest.mark.parametrize("make", [messages, queued])
async def test_a_batch_begun_while_its_registry_shuts_down_starts_nothing(
    make: Callable[[list[int]], Any],
) -> None:
    pulled: list[int] = []

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            results.append(await service.batch)

    results: list[Any] = []
    service = Service(make(pulled))
    service.registry.register(stubborn())
    await settle(2)
    await service.registry.shutdown(5)
    (result,) = results
    assert len(result) == 0
    assert result.status is BatchStatus.CANCELLED
    assert pulled == []


async def test_an_item_that_shuts_its_registry_down_ends_as_it_wants() -> None:
    reports = []

    async def handle(x: int) -> str:
        if x == 1:
            await settle(5)
            reports.append(await service.registry.shutdown(5))
            return "shut down"
        await asyncio.sleep(60)
        return "late"

    service = Service(messages([]), handle, max_concurrent=3)
    results = await asyncio.wait_for(asyncio.create_task(service.consume()), 5)
    assert reports[0].ok
    assert [r.state for r in results] == [
        TaskState.CANCELLED,
        TaskState.DONE,
        TaskState.CANCELLED,
    ]
    assert service.batch.status is BatchStatus.CANCELLED


async def test_a_paused_batch_ends_with_its_registry() -> None:
    service = Service(messages([]), max_concurrent=3)
    consumer = asyncio.create_task(service.consume())
    await until(lambda: service.begun == 3)
    service.batch.pause()
    await service.registry.shutdown(5)
    assert len(await asyncio.wait_for(consumer, 5)) == 3
    assert service.batch.status is BatchStatus.CANCELLED


RETRY = Retry(9, backoff=lambda attempt, error: 3600)


async def test_a_batch_whose_items_all_wait_ends_with_its_registry(
    loop_errors: list[Any],
) -> None:
    registry = TaskRegistry()
    batch = bounded_gather(
        fail, range(3), max_concurrent=2, registry=registry, retry=RETRY
    )
    consumer = asyncio.create_task(batch.collect())
    await until(lambda: registry.stats().failed == 3)  # the first attempts
    await settle(3)
    async with asyncio.timeout(30):
        await registry.shutdown(5)
        result = await consumer
    assert batch.status is BatchStatus.CANCELLED
    assert {one.state for one in result} == {TaskState.CANCELLED}
    assert loop_errors == []


@pytest.mark.parametrize("how", ["retry", "rate", "paused"])
async def test_a_pool_whose_jobs_all_wait_ends_with_its_registry(how: str) -> None:
    registry = TaskRegistry()
    options: dict[str, Any] = {
        "retry": {"retry": RETRY},
        "rate": {"max_per_second": 0.001},
        "paused": {},
    }[how]
    pool = TaskPool(2, registry=registry, **options)
    if how == "paused":
        pool.pause()
    jobs = [pool.submit(fail, number) for number in range(3)]
    begun = {"retry": 3, "rate": 1, "paused": 0}[how]
    await until(lambda: registry.stats().failed == begun)
    await settle(3)
    async with asyncio.timeout(30):
        await registry.shutdown(5)
        await pool.join()
    assert all(job.done() for job in jobs)
    assert sum(job.cancelled() for job in jobs) >= 2
    for job in jobs:
        if not job.cancelled():
            job.exception()
    with pytest.raises(ClosedError):
        pool.submit(fail, 1)


async def test_an_ended_batch_is_not_kept_by_its_registry() -> None:
    registry = TaskRegistry()
    batch = bounded_gather(echo, range(3), registry=registry)
    await batch
    ref = weakref.ref(batch)
    del batch
    gc.collect()
    assert ref() is None
    await registry.shutdown(5)


async def test_a_cancelled_item_of_an_open_registry_ends_no_batch() -> None:
    service = Service(range(3), max_concurrent=1)
    consumer = asyncio.create_task(service.consume())
    await until(lambda: service.begun == 1)
    await service.registry.cancel("0")
    await until(lambda: service.begun == 2)
    service.batch.cancel()
    assert [r.state for r in await consumer] == [TaskState.CANCELLED] * 2


@pytest.mark.parametrize("how", ["budget", "errors", "source", "caller"])
async def test_what_a_shutdown_has_cancelled_is_not_cancelled_again(how: str) -> None:
    counts: Counter[int] = Counter()
    begun: set[int] = set()
    cleaning = asyncio.Event()
    free = asyncio.Event()

    async def fn(x: int) -> None:
        begun.add(x)
        try:
            await forever()
        except asyncio.CancelledError:
            cleaning.set()
            if x == 0 and how == "errors":
                await settle(3)
                raise Boom from None
            await free.wait()
            raise

    async def source() -> AsyncIterator[int]:
        for x in range(3):
            yield x
        await cleaning.wait()
        await settle(3)
        if how == "source":
            raise Boom
        await forever()

    async def counted(x: int) -> None:
        await Counted(fn(x), counts, x)

    registry = TaskRegistry()
    batch = bounded_gather(
        counted,
        source(),
        registry=registry,
        max_errors=0 if how == "errors" else None,
        budget=0.3 if how == "budget" else None,
    )
    waiter = asyncio.create_task(batch.collect())
    await until(lambda: len(begun) == 3)
    shutdown = asyncio.create_task(registry.shutdown())
    await cleaning.wait()
    if how == "caller":
        waiter.cancel()
    if how == "budget":
        await asyncio.sleep(0.5)
    await settle(10)
    free.set()
    await asyncio.wait([waiter, shutdown])
    assert waiter.cancelled() or waiter.exception() or waiter.result().failures()
    assert counts == dict.fromkeys(range(3), 1)


async def test_failing_while_a_registry_shuts_down_takes_linear_time() -> None:
    """Each failure beyond max_errors once looked at all the items that were left."""
    asked = 0

    class Asked(asyncio.Task[Any]):
        def cancelling(self) -> int:
            nonlocal asked
            asked += 1
            return super().cancelling()

    async def fails(x: int) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            if x == 0:
                raise
            await settle(1)
            raise Boom from None

    loop = asyncio.get_running_loop()
    loop.set_task_factory(lambda loop, coro, **kw: Asked(coro, loop=loop, **kw))
    registry = TaskRegistry()
    batch = bounded_gather(
        fails, range(100), max_concurrent=100, max_errors=0, registry=registry
    )
    waiter = asyncio.create_task(batch.collect())
    await until(lambda: len(registry) == 100)
    await registry.shutdown()
    result = await waiter
    assert len(result.failures()) == 100
    assert asked < 1000


async def test_an_error_of_a_registrys_closing_ends_the_batch() -> None:
    class Odd(TaskRegistry):
        @property
        def closing(self) -> bool:
            raise Fatal("closing")

    with pytest.raises(Fatal, match="closing"):
        await bounded_gather(echo, range(3), registry=Odd())


@needs_eager
@pytest.mark.standard_loop_only
async def test_a_registry_that_a_source_shuts_down_refuses_the_item_pulled() -> None:
    service = Service(range(0))
    registry = service.registry
    loop = asyncio.get_running_loop()
    tasks = []

    def source() -> Iterator[int]:
        yield 0
        loop.set_task_factory(asyncio.eager_task_factory)
        tasks.append(asyncio.create_task(registry.shutdown(5)))
        loop.set_task_factory(None)
        yield 1
        yield 2

    batch = bounded_gather(echo, source(), registry=registry, max_concurrent=3)
    result = await batch
    assert {r.state for r in result} <= {TaskState.PENDING, TaskState.CANCELLED}
    assert result.status is BatchStatus.CANCELLED
    await asyncio.gather(*tasks)
