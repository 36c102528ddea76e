"""A shutdown of many tasks cancels them in slices, so that the loop goes on."""

import asyncio
import math
from collections import Counter
from typing import Any

import pytest

from pyasynclife import (
    ShutdownReport,
    SignalCoordinator,
    TaskRegistry,
    _passed_tasks,
    _waiting,
    cancel_all_tasks,
)
from support.coroutines import forever, swallow
from support.loops import ManualClockLoop, in_virtual_time, settle
from support.registries import adds_up

SLICE = 10


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_waiting, "SLICE", SLICE)


def fill(registry: TaskRegistry, tasks: int) -> list[asyncio.Task[Any]]:
    return [registry.register(forever()).result()[0] for _ in range(tasks)]


async def test_up_to_a_thousand_tasks_are_cancelled_at_once() -> None:
    registry = TaskRegistry()
    tasks = fill(registry, 1001)
    await settle()
    closing = asyncio.create_task(registry.shutdown())
    await settle(1)
    assert [task.cancelling() for task in tasks] == [1] * 1000 + [0]
    assert len((await closing).cancelled) == 1001


@pytest.mark.usefixtures("small_slices")
async def test_each_iteration_cancels_one_slice_in_the_order_of_registration() -> None:
    registry, iteration = TaskRegistry(), 0
    told: list[tuple[int, int]] = []

    async def feed(number: int) -> None:
        try:
            await forever()
        finally:
            told.append((iteration, number))

    async def count() -> None:
        nonlocal iteration
        while True:
            await asyncio.sleep(0)
            iteration += 1

    for number in range(35):
        registry.register(feed(number))
    counter = asyncio.create_task(count())
    await settle()
    report = await registry.shutdown()
    counter.cancel()
    assert report.ok
    assert [number for _, number in told] == list(range(35))
    assert sorted(Counter(at for at, _ in told).values()) == [5, 10, 10, 10]
    await asyncio.wait([counter])


@pytest.mark.usefixtures("small_slices")
async def test_a_task_that_ends_before_its_slice_has_finished() -> None:
    registry, event = TaskRegistry(), asyncio.Event()

    async def first() -> None:
        try:
            await forever()
        finally:
            event.set()

    registry.register(first(), "first")
    fill(registry, 40)
    last, _ = await registry.register(event.wait(), "last")
    await settle()
    report = await registry.shutdown()
    assert [one.task_id for one in report.finished] == ["last"]
    assert (len(report.cancelled), last.cancelling()) == (41, 0)


@pytest.mark.usefixtures("small_slices")
async def test_tasks_that_begin_others_while_slices_wait_leave_nothing() -> None:
    registry = TaskRegistry()

    async def begins_another(times: int) -> None:
        try:
            await forever()
        finally:
            if times:
                registry.track(asyncio.create_task(begins_another(times - 1)))

    for _ in range(35):
        registry.register(begins_another(1))
    await settle()
    report = await registry.shutdown(60)
    assert report.ok
    assert len(report.cancelled) == 2 * 35
    assert len(registry) == 0


def report_at(seconds: float, slices: int, coro: Any) -> ShutdownReport:
    """Shut down tasks; in the first iteration the clock jumps by these seconds."""
    registry, loop = TaskRegistry(), ManualClockLoop()

    async def main() -> ShutdownReport:
        for _ in range(slices * SLICE):
            registry.register(coro())
        await settle()
        loop.call_soon(setattr, loop, "now", loop.now + seconds)
        report = await registry.shutdown(30)
        registry.cancel_all()
        await registry.wait()
        return report

    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.usefixtures("small_slices")
def test_at_the_deadline_all_slices_that_are_left_are_cancelled_with_a_grace() -> None:
    async def flushes() -> None:
        try:
            await forever()
        finally:
            await settle(3)

    report = report_at(31.0, 5, flushes)
    assert (len(report.cancelled), report.stuck) == (5 * SLICE, [])
    assert not report.deadline_met
    assert report_at(29.0, 5, flushes).deadline_met


@pytest.mark.usefixtures("small_slices")
async def test_a_shutdown_of_0_s_cancels_all_at_once() -> None:
    registry = TaskRegistry()
    tasks = fill(registry, 10 * SLICE)
    await settle()
    closing = asyncio.create_task(registry.shutdown(0))
    await settle(1)
    assert {task.cancelling() for task in tasks} == {1}
    report = await closing
    assert (len(report.cancelled), report.deadline_met) == (10 * SLICE, True)


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("iterations", range(9))
@pytest.mark.parametrize("another", [False, True])
async def test_a_caller_that_is_cancelled_leaves_all_tasks_cancelled(
    iterations: int, another: bool
) -> None:
    registry = TaskRegistry()
    tasks = fill(registry, 5 * SLICE)
    await settle()
    other = asyncio.create_task(registry.shutdown(60)) if another else None
    closing = asyncio.create_task(registry.shutdown(60))
    left: list[int] = []
    closing.add_done_callback(
        lambda _: left.extend(not (t.cancelling() or t.done()) for t in tasks)
    )
    await settle(iterations + 1)
    was_running = closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled() == was_running
    assert not any(left)
    assert {task.cancelling() for task in tasks} == {1}
    if other is not None:
        assert len((await other).cancelled) == 5 * SLICE
    assert await registry.wait(5)
    adds_up(registry)


@pytest.mark.usefixtures("small_slices")
async def test_called_twice_at_once_each_task_is_cancelled_once_and_in_both() -> None:
    registry = TaskRegistry()
    tasks = fill(registry, 5 * SLICE)
    await settle()
    one, two = await asyncio.gather(registry.shutdown(), registry.shutdown())
    assert {task.cancelling() for task in tasks} == {1}
    assert one.cancelled == two.cancelled
    assert len(one.cancelled) == 5 * SLICE


@pytest.mark.usefixtures("small_slices")
async def test_tasks_in_later_slices_that_shut_down_themselves_all_end() -> None:
    registry, reports = TaskRegistry(), []

    async def closes(iterations: int) -> None:
        await settle(iterations)
        try:
            await registry.shutdown(math.inf)
        except asyncio.CancelledError:
            reports.append(await registry.shutdown(math.inf))
            raise

    for number in range(5 * SLICE):
        registry.register(closes(number % 7) if number % 2 else forever())
    await settle(2)
    report = await asyncio.wait_for(registry.shutdown(math.inf), 60)
    assert report.stuck == []
    assert await registry.wait(60)
    assert all(one.deadline_met for one in reports)
    adds_up(registry)


def test_a_loop_that_turns_once_more_keeps_the_deadline_with_many_that_swallow() -> (
    None
):
    registry, iterations = TaskRegistry(), 0

    async def count() -> None:
        nonlocal iterations
        while True:
            await asyncio.sleep(0.25)
            iterations += 1

    async def main() -> ShutdownReport:
        for _ in range(1000):
            registry.register(swallow(times=2))
        counter = asyncio.create_task(count())
        await settle()
        report = await registry.shutdown(5)
        counter.cancel()
        registry.cancel_all()
        await registry.wait()
        return report

    report = in_virtual_time(main())
    assert (report.duration, len(report.stuck)) == (5, 1000)
    assert iterations >= 19  # the loop turned meanwhile
    assert not report.deadline_met


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize("how", ["graceful_shutdown", "cancel_all_tasks"])
async def test_tasks_that_are_passed_are_cancelled_in_slices_too(how: str) -> None:
    tasks = [asyncio.create_task(forever()) for _ in range(3 * SLICE)]
    await settle()
    if how == "cancel_all_tasks":
        closing = asyncio.create_task(cancel_all_tasks(tasks))
    else:
        closing = asyncio.create_task(SignalCoordinator().graceful_shutdown(tasks))
    await settle(1)
    assert [task.cancelling() for task in tasks] == [1] * 10 + [0] * 20
    assert len((await closing).cancelled) == 3 * SLICE
    assert {task.cancelling() for task in tasks} == {1}


@pytest.mark.usefixtures("small_slices")
async def test_a_block_left_while_slices_wait_leaves_all_tasks_cancelled() -> None:
    registry = TaskRegistry()
    tasks = fill(registry, 5 * SLICE)
    await settle()
    with SignalCoordinator(
        registry=registry, cancel_on_signal=True, required=False
    ) as coordinator:
        coordinator.request_shutdown()
        while not any(task.cancelling() for task in tasks):
            await asyncio.sleep(0)
    assert all(task.cancelling() or task.done() for task in tasks)
    assert await registry.wait(5)


@pytest.mark.usefixtures("small_slices")
async def test_every_kind_of_end_is_reported_as_in_one_slice() -> None:
    registry = TaskRegistry()

    async def fails() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ValueError("in clean-up") from None

    async def for_ever() -> None:
        while not over.is_set():
            try:
                await over.wait()
            except asyncio.CancelledError:
                pass

    over = asyncio.Event()
    for _ in range(9):
        registry.register(forever())
        registry.register(fails())
        registry.register(swallow(times=1))
        registry.register(swallow(times=2))
        registry.register(for_ever())
    await settle()
    first = await registry.shutdown(0)
    assert [len(first.cancelled), len(first.failed), len(first.swallowed)] == [9, 9, 9]
    assert len(first.stuck) == 18
    second = await registry.shutdown(0)
    assert (len(second.swallowed), len(second.stuck)) == (9, 9)
    over.set()
    assert len((await registry.shutdown()).swallowed) == 9


async def test_failures_are_logged_one_by_one_up_to_twenty_then_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        try:
            await forever()
        finally:
            raise ValueError("in clean-up")

    registry = TaskRegistry()
    for wanted in ([], ["5 more tasks failed"], []):
        caplog.clear()
        for _ in range(25 if wanted else 20):
            registry.register(fails())
        await settle()
        report = await registry.shutdown()
        texts = [record.getMessage() for record in caplog.records]
        assert all("in clean-up" in text for text in texts[:20])
        assert [text.split(" during")[0] for text in texts[20:]] == wanted
        assert len(report.failed) == len(texts[:20]) + 5 * len(wanted)


async def test_failures_after_a_shutdown_are_logged_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise ValueError("no price")

    registry = TaskRegistry()
    await registry.shutdown()
    for _ in range(25):
        registry.register(fails())
    await registry.wait()
    assert len(caplog.records) == 25


# ------------------------------------------------------------ tasks that are passed


@pytest.fixture
def joined_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_passed_tasks, "JOINED", 10)


@pytest.mark.usefixtures("joined_in_parts")
async def test_tasks_that_are_passed_are_joined_over_several_iterations() -> None:
    release = asyncio.Event()
    tasks = [asyncio.create_task(forever()) for _ in range(30)]
    by_itself = asyncio.create_task(release.wait())
    await settle()
    closing = asyncio.create_task(
        SignalCoordinator().graceful_shutdown([*tasks, by_itself])
    )
    await settle(1)
    assert [task.cancelling() for task in tasks] == [1] * 10 + [0] * 20
    release.set()  # it ends before it is joined
    report = await closing
    assert len(report.cancelled) == 30
    assert [one.name for one in report.finished] == [by_itself.get_name()]


@pytest.mark.usefixtures("joined_in_parts", "small_slices")
async def test_a_caller_that_is_cancelled_while_it_joins_has_cancelled_all() -> None:
    tasks = [asyncio.create_task(forever()) for _ in range(45)]
    await settle()
    closing = asyncio.create_task(SignalCoordinator().graceful_shutdown(tasks))
    await settle(2)
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert all(task.cancelling() for task in tasks)
    await asyncio.wait(tasks)
