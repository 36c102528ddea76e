"""Jobs and items that wait for their next attempt when a shutdown begins."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import (
    Batch,
    Retry,
    ShutdownReport,
    SignalCoordinator,
    TaskPool,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import cleans_up, forever
from support.loops import in_virtual_time, settle, until
from support.reports import exits

Object = TaskPool | Batch[None]
Make = Callable[..., Object]


class Failing:
    """A function whose item "bad" fails, and waits for a long time then."""

    def __init__(self) -> None:
        self.attempts = 0
        self.may_end = asyncio.Event()
        self.retry = Retry(9, backoff=self.backoff)
        self.on_backoff: Callable[[], object] | None = None
        self.waiter: asyncio.Future[Any] | None = None

    def backoff(self, attempts: int, error: Exception) -> float:
        self.attempts = attempts
        if self.on_backoff is not None:
            self.on_backoff()
        return 60.0

    async def __call__(self, item: str) -> None:
        if item == "bad":
            raise ValueError("no")
        if item == "ends":
            await self.may_end.wait()
        else:
            await forever()


def a_pool(failing: Failing, *items: str, **options: Any) -> TaskPool:
    pool = TaskPool(9, retry=failing.retry, **options)
    for item in items:
        pool.submit(failing, item, task_id=item)  # the Job is dropped
    return pool


def a_batch(failing: Failing, *items: str, **options: Any) -> Batch[None]:
    batch = bounded_gather(failing, list(items), retry=failing.retry, **options)
    failing.waiter = asyncio.ensure_future(batch.collect())
    return batch


def a_streamed_batch(failing: Failing, *items: str, **options: Any) -> Batch[None]:
    batch = bounded_gather(failing, list(items), retry=failing.retry, **options)

    async def read() -> None:
        async for _ in batch:
            pass

    failing.waiter = asyncio.ensure_future(read())
    return batch


def an_observed_batch(failing: Failing, *items: str, **options: Any) -> Batch[None]:
    options["on_result"] = repr
    batch = bounded_gather(failing, list(items), retry=failing.retry, **options)

    async def use() -> None:
        async with batch:
            pass

    failing.waiter = asyncio.ensure_future(use())
    return batch


def names(report: ShutdownReport) -> dict[str, list[str]]:
    return {
        how: sorted(one.task_id or one.name for one in ends)
        for how, ends in exits(report).items()
    }


every_object = pytest.mark.parametrize(
    "make", [a_pool, a_batch, a_streamed_batch, an_observed_batch]
)


@every_object
@pytest.mark.parametrize("by_itself", [True, False])
@pytest.mark.parametrize("drain", [0, 5])
async def test_what_a_signal_keeps_from_its_next_attempt_has_failed(
    make: Make, by_itself: bool, drain: float, loop_errors: list[dict[str, Any]]
) -> None:
    failing = Failing()
    coordinator = SignalCoordinator(20, drain=drain, cancel_on_signal=by_itself)
    async with coordinator:
        attached = make(failing, "ends", "bad")
        coordinator.attach(attached)
        await until(lambda: failing.attempts)
        coordinator.request_shutdown()
        await coordinator.wait_for_shutdown()
        await settle()
        if drain:
            failing.may_end.set()
        report = await coordinator.graceful_shutdown()
        ended = "finished" if drain else "cancelled"
        assert names(report) == {"failed": ["bad"], ended: ["ends"]}
        assert str(report.failed[0].error) == "no"
        assert not report.ok
        assert names(await coordinator.graceful_shutdown()) == {}
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])
    del attached
    gc.collect()
    assert failing.attempts == 1
    assert not loop_errors  # the failure of the job was received


@every_object
async def test_what_is_cancelled_without_a_signal_is_cancelled(make: Make) -> None:
    failing = Failing()
    async with SignalCoordinator(5) as coordinator:
        attached = make(failing, "runs", "bad")
        coordinator.attach(attached)
        await until(lambda: failing.attempts)
        report = await coordinator.graceful_shutdown()
        assert names(report) == {"cancelled": ["bad", "runs"]}
        assert report.ok
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])


@every_object
async def test_what_is_attached_during_a_shutdown_is_listed_too(make: Make) -> None:
    failing = Failing()
    async with SignalCoordinator(5) as coordinator:
        attached = make(failing, "bad")
        await until(lambda: failing.attempts)
        coordinator.request_shutdown()
        await coordinator.wait_for_shutdown()
        coordinator.attach(attached)
        report = await coordinator.graceful_shutdown()
        assert names(report) == {"failed": ["bad"]}
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])


@pytest.mark.parametrize("make", [a_pool, a_batch])
@pytest.mark.parametrize("signalled", [True, False])
async def test_what_never_began_is_not_listed(make: Make, signalled: bool) -> None:
    failing = Failing()
    options = {"limit_by": lambda item: "key" if item != "bad" else None}
    async with SignalCoordinator(5) as coordinator:
        attached = make(failing, "runs", "pending", "bad", **options)
        coordinator.attach(attached)
        await until(lambda: failing.attempts)
        if signalled:
            coordinator.request_shutdown()
        report = await coordinator.graceful_shutdown()
        lists = {"failed": ["bad"], "cancelled": ["runs"]}
        assert names(report) == (lists if signalled else {"cancelled": ["bad", "runs"]})
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])


@every_object
@pytest.mark.parametrize("order", [-1, 0, 1])
@pytest.mark.parametrize("signalled", [True, False])
@pytest.mark.parametrize("registry_first", [True, False])
@pytest.mark.parametrize("parked", [True, False])
async def test_with_a_registry_nothing_is_listed_twice(
    make: Make,
    order: int,
    signalled: bool,
    registry_first: bool,
    parked: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reports: list[asyncio.Task[ShutdownReport]] = []
    failing, registry = Failing(), TaskRegistry()
    coordinator = SignalCoordinator(5)

    def begin() -> None:
        """Shut down, perhaps before the Task of the failed attempt has ended."""
        if signalled:
            coordinator.request_shutdown()
        reports.append(asyncio.ensure_future(coordinator.graceful_shutdown()))

    async with coordinator:
        if registry_first:
            coordinator.attach(registry)
        if parked:
            failing.on_backoff = begin
        attached = make(failing, "runs", "bad", registry=registry)
        coordinator.attach(attached, order=order)
        coordinator.attach(registry)
        await until(lambda: failing.attempts)
        if not parked:
            await settle(5)
            begin()
        await until(lambda: reports)
        report = await reports[0]
        listed = names(report)
        assert "runs" in listed["cancelled"]
        if signalled:
            assert listed["failed"] == ["bad"]
        if make in (a_pool, a_batch) or signalled or parked or order < 1:
            every = [name for ends in listed.values() for name in ends]
            assert sorted(every) == ["bad", "runs"]
        else:  # the registry has cancelled it, and no result is kept
            assert listed == {"cancelled": ["runs"]}
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])


@every_object
async def test_a_registry_that_is_not_attached_takes_nothing_away(make: Make) -> None:
    reports: list[asyncio.Task[ShutdownReport]] = []
    failing, registry = Failing(), TaskRegistry()
    async with SignalCoordinator(5) as coordinator:
        failing.on_backoff = lambda: reports.append(
            asyncio.ensure_future(coordinator.graceful_shutdown())
        )
        attached = make(failing, "runs", "bad", registry=registry)
        coordinator.attach(attached)
        await until(lambda: reports)
        assert names(await reports[0]) == {"cancelled": ["bad", "runs"]}
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])
    await registry.shutdown()


@pytest.mark.parametrize("make", [a_pool, a_batch])
@pytest.mark.parametrize("with_registry", [True, False])
def test_what_begins_its_next_attempt_before_its_order_comes_is_listed_once(
    make: Make, with_registry: bool
) -> None:
    """Without a signal, nothing is stopped until it is cancelled."""

    async def main() -> None:
        failing, first = Failing(), TaskRegistry()
        options = {"registry": TaskRegistry()} if with_registry else {}
        coordinator = SignalCoordinator(1000)
        async with coordinator:
            attached = make(failing, "runs", "bad", **options)
            coordinator.attach(attached, order=2)
            for registry in options.values():
                coordinator.attach(registry, order=3)
            coordinator.attach(first, order=1)
            first.register(cleans_up(130), "first")
            await until(lambda: failing.attempts)
            await settle()
            report = await coordinator.graceful_shutdown()
            assert failing.attempts == 3
            assert names(report) == {"cancelled": ["bad", "first", "runs"]}
        if failing.waiter is not None:
            await asyncio.wait([failing.waiter])

    in_virtual_time(main())


def test_an_item_whose_worker_has_another_one_is_listed_too() -> None:
    async def main() -> None:
        first = TaskRegistry()
        batch = bounded_gather(asyncio.sleep, [3, 60, 61], max_concurrent=1)
        async with SignalCoordinator(1000) as coordinator:
            coordinator.attach(first)
            coordinator.attach(batch, order=1)
            first.register(cleans_up(5), "first")
            collecting = asyncio.ensure_future(batch.collect())
            await settle()
            report = await coordinator.graceful_shutdown()
            assert names(report) == {"cancelled": ["60", "first"], "finished": ["3"]}
        await collecting

    in_virtual_time(main())


async def test_a_pool_s_own_shutdown_lists_them() -> None:
    failing = Failing()
    pool = a_pool(failing, "runs", "bad")
    pool.submit(failing, "bad")
    await until(lambda: failing.attempts)
    await settle()
    report = await pool.shutdown(5)
    assert names(report) == {"cancelled": ["bad", "job_2", "runs"]}
    assert names(await pool.shutdown(5)) == {}


async def test_the_ids_are_those_of_the_results() -> None:
    class Text(str):
        __slots__ = ()

    items = [Text("text"), "", 7, True, 10**5000, None, "key"]

    async def fails(item: object) -> None:
        raise ValueError("no")

    retry = Retry(2, backoff=lambda attempts, error: 60)
    for key in (None, lambda item: f"<{items.index(item)}>"):
        batch = bounded_gather(fails, items, retry=retry, key=key)
        async with SignalCoordinator(5) as coordinator:
            coordinator.attach(batch)
            collecting = asyncio.ensure_future(batch.collect())
            await settle(5)
            report = await coordinator.graceful_shutdown()
        results = await collecting
        listed = [one.name for one in report.cancelled]
        assert listed == [result.task_id for result in results]
        assert len(listed) == len(items)


@every_object
async def test_a_backoff_that_begins_the_shutdown_has_its_item_listed(
    make: Make,
) -> None:
    failing = Failing()
    async with SignalCoordinator(5) as coordinator:
        failing.on_backoff = coordinator.request_shutdown
        attached = make(failing, "runs", "bad")
        coordinator.attach(attached)
        await coordinator.wait_for_shutdown()
        report = await coordinator.graceful_shutdown()
        assert names(report) == {"cancelled": ["runs"], "failed": ["bad"]}
    if failing.waiter is not None:
        await asyncio.wait([failing.waiter])


def test_a_signal_after_the_call_ends_what_waits_then() -> None:
    async def main() -> None:
        failing, first = Failing(), TaskRegistry()
        async with SignalCoordinator(1000) as coordinator:
            attached = an_observed_batch(failing, "runs", "ends", "bad")
            coordinator.attach(attached, order=2)
            coordinator.attach(first, order=1)
            first.register(cleans_up(130), "first")
            await until(lambda: failing.attempts)
            loop = asyncio.get_running_loop()
            loop.call_later(70, coordinator.request_shutdown)
            loop.call_later(90, failing.may_end.set)
            report = await coordinator.graceful_shutdown()
            assert failing.attempts == 2
            assert names(report) == {
                "cancelled": ["first", "runs"],
                "failed": ["bad"],
                "finished": ["ends"],
            }
        assert failing.waiter is not None
        await failing.waiter

    in_virtual_time(main())
