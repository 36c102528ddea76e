"""What ends by itself between the signal and the cancellation is in the report."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import (
    ShutdownReport,
    SignalCoordinator,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import forever
from support.loops import in_virtual_time, settle, until
from support.reports import exits

pytestmark = pytest.mark.usefixtures("no_lag")


def at(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.01)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_virtual_time(main())


async def end(how: str) -> None:
    """End early, in `how`, or outlast any drain."""
    if how == "outlasts":
        await forever()
    await asyncio.sleep(1)
    if how == "fails":
        raise ValueError("no price")


ENDS = ["returns", "fails", "outlasts"]
LISTED = {"finished": ["returns"], "failed": ["fails"], "cancelled": ["outlasts"]}


def names(report: ShutdownReport) -> dict[str, list[str]]:
    return {how: [one.name for one in ends] for how, ends in exits(report).items()}


async def shut_down(
    coordinator: SignalCoordinator, late: bool, *attached: object
) -> ShutdownReport:
    """Drain; what is attached is held weakly by others."""
    coordinator.request_shutdown()
    await coordinator.wait_for_shutdown()
    if late:  # such as a main that has to flush something first
        await asyncio.sleep(2)
    report = await coordinator.graceful_shutdown()
    assert report.duration == at(4)
    assert names(await coordinator.graceful_shutdown()) == {}
    return report


Use = Callable[[SignalCoordinator, bool], Awaitable[ShutdownReport]]


async def a_registry(coordinator: SignalCoordinator, late: bool) -> ShutdownReport:
    registry = TaskRegistry()
    coordinator.attach(registry)
    for how in ENDS:
        registry.register(end(how), how)
    return await shut_down(coordinator, late, registry)


async def a_pool(coordinator: SignalCoordinator, late: bool) -> ShutdownReport:
    pool = TaskPool(3)
    coordinator.attach(pool)
    for how in [*ENDS, "waits"]:
        pool.submit(end, how, task_id=how)
    await until(lambda: pool.progress.running == 3)
    return await shut_down(coordinator, late, pool)


async def a_pool_in_a_registry(
    coordinator: SignalCoordinator, late: bool
) -> ShutdownReport:
    registry = TaskRegistry()
    pool = TaskPool(3, registry=registry)
    coordinator.attach(registry)
    coordinator.attach(pool, order=-1)
    for how in [*ENDS, "waits"]:
        pool.submit(end, how, task_id=how)
    await settle()
    return await shut_down(coordinator, late, registry, pool)


async def a_batch(coordinator: SignalCoordinator, late: bool) -> ShutdownReport:
    batch = bounded_gather(end, [*ENDS, "waits"], max_concurrent=3)
    coordinator.attach(batch)
    waiter = asyncio.create_task(batch.collect())
    await until(lambda: batch.progress.running == 3)
    report = await shut_down(coordinator, late, batch)
    assert len((await waiter).failures()) == 3
    return report


@pytest.mark.parametrize("use", [a_registry, a_pool, a_pool_in_a_registry, a_batch])
@pytest.mark.parametrize("late", [True, False])
def test_what_ends_by_itself_during_drain_counts_by_how_it_ended(
    use: Use, late: bool
) -> None:
    async def main() -> None:
        async with SignalCoordinator(10, drain=4) as coordinator:
            report = await use(coordinator, late)
            assert names(report) == LISTED
            assert str(report.failed[0].error) == "no price"

    run(main)


def test_children_that_end_during_drain_are_finished() -> None:
    async def main() -> None:
        async with SignalCoordinator(10, drain=4) as coordinator, TaskGroup() as group:
            coordinator.attach(group)
            for how in ("returns", "outlasts"):
                group.create_task(end(how), name=how)
            await settle()
            report = await shut_down(coordinator, late=False)
            assert names(report) == {"finished": ["returns"], "cancelled": ["outlasts"]}

    run(main)


@pytest.mark.parametrize("fails", [True, False])
def test_items_without_results_are_finished_if_none_has_failed(fails: bool) -> None:
    async def main() -> None:
        ends = ["returns", "fails" if fails else "returns", "outlasts"]
        async with SignalCoordinator(10, drain=4) as coordinator:
            async with bounded_gather(end, ends, on_result=repr) as batch:
                coordinator.attach(batch)
                await settle()
                report = await shut_down(coordinator, late=False)
            finished = [] if fails else ["returns", "returns"]
            assert [one.name for one in report.finished] == finished
            assert [one.name for one in report.cancelled] == ["outlasts"]

    run(main)


def test_what_had_ended_before_the_shutdown_is_not_listed() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        async with SignalCoordinator(10, drain=4, registry=registry) as coordinator:
            registry.register(end("returns"), "before")
            await registry.wait()
            registry.register(end("returns"), "after")
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown()
            assert (names(report), report.duration) == ({"finished": ["after"]}, at(1))

    run(main)


def test_two_calls_during_drain_list_the_same() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        async with SignalCoordinator(10, drain=4, registry=registry) as coordinator:
            for how in ENDS:
                registry.register(end(how), how)
            coordinator.request_shutdown()
            calls = (coordinator.graceful_shutdown() for _ in range(2))
            reports = await asyncio.gather(*calls)
            assert [names(report) for report in reports] == [LISTED, LISTED]

    run(main)


def test_what_the_registry_s_own_shutdown_reports_is_not_reported_again() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        async with SignalCoordinator(10, drain=4, registry=registry) as coordinator:
            for how in ENDS:
                registry.register(end(how), how)
            await settle()
            coordinator.request_shutdown()
            first = await registry.shutdown()
            second = await coordinator.graceful_shutdown()
            assert names(first) == {"cancelled": ENDS}
            assert names(second) == {}

    run(main)


def test_nothing_is_kept_after_the_shutdown() -> None:
    async def main() -> None:
        registry = TaskRegistry(history=0)
        job = TaskPool(1)
        async with SignalCoordinator(10, drain=4, registry=registry) as coordinator:
            coordinator.attach(job)
            task, _ = registry.register(end("returns"), "one").result()
            gone: list[Any] = [weakref.ref(task)]
            gone.append(weakref.ref(job.submit(end, "returns")))
            del task
            await settle()
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown()
            assert len(report.finished) == 2
            gc.collect()
            assert [one() for one in gone] == [None, None]

    run(main)
