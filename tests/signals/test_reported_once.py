"""Jobs and items that are in an attached registry, too: ended and reported once."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import (
    Batch,
    ShutdownReport,
    SignalCoordinator,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import forever
from support.loops import in_virtual_time, settle
from support.reports import exits


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_virtual_time(main())


def ids(report: ShutdownReport) -> dict[str, list[str | None]]:
    """The ids of each list that is not empty."""
    return {how: [one.task_id for one in ends] for how, ends in exits(report).items()}


class Job:
    """A function whose cancellations are counted, and whose cleanup takes a while."""

    def __init__(self, cleanup: float = 0.5, swallows: bool = False) -> None:
        self.cleanup, self.swallows = cleanup, swallows
        self.cancelled = 0

    async def __call__(self, item: object = None) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            self.cancelled += 1
            try:
                await asyncio.sleep(self.cleanup)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            if not self.swallows:
                raise


async def pool_of(job: Job, registry: TaskRegistry) -> TaskPool:
    pool = TaskPool(2, registry=registry)
    for number in range(4):
        pool.submit(job, number, task_id=f"one-{number}")
    await settle()
    return pool


async def batch_of(job: Job, registry: TaskRegistry) -> Batch[None]:
    names = [f"one-{number}" for number in range(4)]
    batch = bounded_gather(job, names, max_concurrent=2, registry=registry)
    registry.register(batch.collect(), "collects")
    await settle()
    return batch


Make = Callable[[Job, TaskRegistry], Coroutine[Any, Any, Any]]


@pytest.mark.parametrize("make", [pool_of, batch_of])
@pytest.mark.parametrize("order", [-1, 0, 1])
@pytest.mark.parametrize("press", [True, False])
@pytest.mark.parametrize("swallows", [True, False])
def test_a_job_in_an_attached_registry_is_cancelled_and_reported_once(
    make: Make, order: int, press: bool, swallows: bool
) -> None:
    async def main() -> None:
        registry, job = TaskRegistry(), Job(swallows=swallows)
        coordinator = SignalCoordinator(10, drain=2, registry=registry)
        attached = await make(job, registry)
        coordinator.attach(attached, order=order)
        async with coordinator:
            signal.raise_signal(signal.SIGTERM)
            await coordinator.wait_for_shutdown()
            if press:
                await asyncio.sleep(1)
                coordinator._climb(2)
            report = await coordinator.graceful_shutdown()
            jobs = {
                name: [one for one in ended if one != "collects"]
                for name, ended in ids(report).items()
            }
            ended = "swallowed" if swallows else "cancelled"
            assert jobs.pop(ended) == ["one-0", "one-1"]
            assert not [one for ones in jobs.values() for one in ones]
            assert (job.cancelled, report.ok) == (2, True)

    run(main)


@pytest.mark.parametrize("make", [pool_of, batch_of])
@pytest.mark.parametrize("order", [-1, 0, 1])
@pytest.mark.parametrize("over", [True, False])
def test_a_job_that_its_registry_has_cancelled_by_itself_is_not_cancelled_again(
    make: Make, order: int, over: bool
) -> None:
    async def main() -> None:
        registry, job = TaskRegistry(), Job(cleanup=2)
        coordinator = SignalCoordinator(10, registry=registry)
        attached = await make(job, registry)
        coordinator.attach(attached, order=order)
        async with coordinator:
            shutting = asyncio.create_task(registry.shutdown(1 if over else 9))
            await asyncio.sleep(1.5)
            assert shutting.done() == over
            report = await coordinator.graceful_shutdown()
            assert (job.cancelled, report.stuck) == (2, [])
            assert report.duration == pytest.approx(0.5, abs=0.01)
            await shutting

    run(main)


@pytest.mark.parametrize("order", [-1, 0, 1])
def test_a_stuck_job_is_listed_and_logged_once(
    order: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        registry, job = TaskRegistry(), Job(cleanup=60)
        coordinator = SignalCoordinator(10, registry=registry)
        pool = await pool_of(job, registry)
        coordinator.attach(pool, order=order)
        async with registry, coordinator:
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown()
            assert ids(report) == {"stuck": ["one-0", "one-1"]}
        assert job.cancelled == 2
        await pool.join()

    run(main)
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def test_a_job_that_calls_is_spared_by_its_registry_and_left_out() -> None:
    async def main() -> None:
        registry, job = TaskRegistry(), Job()
        coordinator = SignalCoordinator(10, registry=registry)
        reports = []

        async def call() -> None:
            reports.append(await coordinator.graceful_shutdown())

        async with coordinator, TaskPool(2, registry=registry) as pool:
            coordinator.attach(pool)
            pool.submit(job, task_id="other")
            caller = pool.submit(call, task_id="caller")
            await caller
        assert [ids(report) for report in reports] == [{"cancelled": ["other"]}]

    run(main)


def test_a_child_that_a_registry_tracks_is_reported_once() -> None:
    async def main() -> None:
        registry, job = TaskRegistry(), Job()
        coordinator = SignalCoordinator(10, registry=registry)
        async with coordinator, TaskGroup() as group:
            registry.track(group.create_task(job(), name="child"), "child")
            group.create_task(forever(), name="other")
            coordinator.attach(group, order=-1)
            await settle()
            report = await coordinator.graceful_shutdown()
            names = [(one.name, one.task_id) for one in report.cancelled]
            assert names == [("other", None), ("child", "child")]
            assert job.cancelled == 1

    run(main)


@pytest.mark.parametrize("order", [-1, 0])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_a_child_that_a_registry_tracks_is_cancelled_once(
    order: int, inside: bool, before: bool
) -> None:
    async def main() -> None:
        registry, job, group = TaskRegistry(), Job(), TaskGroup()
        coordinator = SignalCoordinator(10, registry=registry)
        coordinator.attach(group, order=order)
        children = []

        async def shut_down() -> None:
            if before:
                ending = asyncio.create_task(registry.shutdown())
                await settle()  # the child is in its cleanup
            report = await coordinator.graceful_shutdown()
            assert sorted(one.name for one in report.cancelled) == ["child", "other"]
            if before:
                await ending

        async def serve() -> None:
            async with group:
                children.append(group.create_task(job(), name="child"))
                registry.track(children[0], "child")
                children.append(group.create_task(job(), name="other"))
                await settle()
                await (shut_down() if inside else forever())

        server = asyncio.create_task(serve())
        await settle()
        if not inside:
            await shut_down()
        await server
        assert job.cancelled == 2
        assert [child.cancelling() for child in children] == [1, 1]

    run(main)


@pytest.mark.parametrize("inside", [True, False])
def test_a_child_that_a_registry_is_to_cancel_later_is_cancelled_once(
    inside: bool,
) -> None:
    """A registry cancels many tasks in slices, one in each loop iteration."""

    async def main() -> None:
        registry, job, group = TaskRegistry(), Job(), TaskGroup()
        coordinator = SignalCoordinator(10, registry=registry)
        coordinator.attach(group)
        children = []

        async def serve() -> None:
            async with group:
                for _ in range(1100):
                    children.append(group.create_task(job()))
                    registry.track(children[-1])
                await settle()
                await (coordinator.graceful_shutdown() if inside else forever())

        server = asyncio.create_task(serve())
        await settle()
        if not inside:
            await coordinator.graceful_shutdown()
        await server
        assert job.cancelled == 1100
        assert {child.cancelling() for child in children} == {1}

    run(main)
