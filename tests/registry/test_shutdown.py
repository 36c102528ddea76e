"""shutdown(): all are cancelled, awaited until the deadline and reported."""

import asyncio
import math
import sys
import time
from typing import Any

import pytest

from pyasynclife import ShutdownReport, TaskRegistry
from pyasynclife._waiting import Deadline
from support.coroutines import cleans_up, echo, forever, swallow
from support.loops import ManualClockLoop, in_virtual_time, settle, task_factory
from support.registries import adds_up
from support.reports import LISTS
from support.tasks import OddTask, fails, odd_factory


async def test_shutdown_says_what_became_of_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails_when_told() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("in cleanup") from None

    async def goes_on() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        return "meant to"

    registry = TaskRegistry()
    registry.register(forever(), "cancelled")
    registry.register(fails_when_told(), "failed")
    registry.register(swallow(), "swallowed")
    registry.register(goes_on(), "finished")
    stuck, _ = await registry.register(swallow(times=2), "stuck")
    await settle()
    began = time.monotonic()
    report = await registry.shutdown(0.05)
    assert 0.04 < time.monotonic() - began < 5
    for how in LISTS:
        assert [one.task_id for one in getattr(report, how)] == [how], how
    assert not report.ok
    assert not report.deadline_met
    assert 0.04 < report.duration < 5
    (one,) = report.stuck
    assert one.age is not None
    assert one.age >= 0.04
    assert "in swallow" in one.where[0]
    assert "forever" in one.where[-1]
    assert "stuck: stuck" in str(report)
    again = await registry.shutdown()
    assert [one.task_id for one in again.swallowed] == ["stuck"]
    assert again.ok
    assert await stuck == "swallowed"


async def test_a_shutdown_of_nothing_is_over_at_once() -> None:
    report = await TaskRegistry().shutdown()
    assert report.ok
    assert report.deadline_met


async def test_shutdown_cancels_what_is_tracked_meanwhile() -> None:
    registry = TaskRegistry()

    async def spawns() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            registry.track(asyncio.create_task(forever()), "late")

    registry.register(spawns(), "spawner")
    await settle()
    report = await registry.shutdown(5)
    assert sorted(str(one.task_id) for one in report.cancelled) == ["late", "spawner"]
    assert report.ok


async def test_shutdown_from_inside_spares_the_caller() -> None:
    registry = TaskRegistry()

    async def inside() -> int:
        return len((await registry.shutdown(5)).cancelled)

    registry.register(forever())
    task, _ = await registry.register(inside())
    assert await task == 1
    await registry.wait()


async def test_two_shutdowns_at_once_cancel_each_task_once() -> None:
    registry = TaskRegistry()
    cancelled = []

    async def counts() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(0.02 if cancelled else 3600)
            except asyncio.CancelledError as error:
                cancelled.append(error)

    registry.register(counts(), "feed")
    await settle()
    one, two = await asyncio.gather(registry.shutdown(5), registry.shutdown(5))
    assert len(cancelled) == 1
    assert len(one.swallowed) == len(two.swallowed) == 1


async def test_tasks_that_shut_down_in_their_cleanup_do_not_wait_for_each_other() -> (
    None
):
    registry = TaskRegistry()
    reports = []

    async def service(number: int) -> None:
        try:
            await forever()
        finally:
            report = await registry.shutdown(math.inf)
            reports.append(report)
            await asyncio.sleep(0.001 * number)

    async def slow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)

    for number in range(3):
        registry.register(service(number), str(number))
    registry.register(slow(), "slow")
    await settle()
    report = await asyncio.wait_for(registry.shutdown(math.inf), 5)
    assert report.ok
    assert len(report.cancelled) == 4
    assert len(reports) == 3
    assert all(one.deadline_met for one in reports)
    assert all("slow" in [e.task_id for e in one.cancelled] for one in reports)
    adds_up(registry)


async def test_shutdowns_from_inside_that_cancel_each_other_all_end() -> None:
    registry = TaskRegistry()

    async def closer() -> None:
        await settle()
        await registry.shutdown(math.inf)

    for _ in range(5):
        registry.register(closer())
    registry.register(forever())
    assert await asyncio.wait_for(registry.wait(), 5)
    adds_up(registry)


async def one_down_all_down(workers: int) -> ShutdownReport:
    """Each of many tasks shuts all down when it is cancelled; return main's report."""
    registry = TaskRegistry()
    reports = []

    async def worker() -> None:
        try:
            await forever()
        finally:
            reports.append(await registry.shutdown())

    for _ in range(workers):
        registry.register(worker())
    await settle()
    report = await registry.shutdown(60)
    assert all(one.deadline_met for one in reports)
    assert len(reports) == workers
    adds_up(registry)
    return report


async def test_hundreds_that_shut_down_each_other_all_end_in_time() -> None:
    report = await one_down_all_down(400)
    assert report.deadline_met
    assert len(report.cancelled) == 400
    assert report.stuck == []


def test_the_cost_of_mutual_shutdowns_grows_with_the_number_of_tasks() -> None:
    def calls(workers: int) -> int:
        counted = 0

        def count(frame: object, event: str, arg: object) -> None:
            nonlocal counted
            counted += event in ("call", "c_call")

        async def main() -> float:
            sys.setprofile(count)
            try:
                report = await one_down_all_down(workers)
            finally:
                sys.setprofile(None)
            assert report.deadline_met
            return report.duration

        assert in_virtual_time(main()) == 0  # nobody waits for a timer
        return counted

    few, many = calls(100), calls(200)
    assert many < 2.2 * few


async def test_no_call_is_searched_for_among_those_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared = 0

    def equal(one: object, other: object) -> bool:
        nonlocal compared
        compared += 1
        return one is other

    monkeypatch.setattr(Deadline, "__eq__", equal)
    assert (await one_down_all_down(50)).deadline_met
    assert compared < 50


def test_one_that_is_stuck_delays_no_other_report_and_is_in_each() -> None:
    registry = TaskRegistry()
    reports: list[ShutdownReport] = []

    async def worker() -> None:
        try:
            await forever()
        finally:
            reports.append(await registry.shutdown(3))

    async def main() -> ShutdownReport:
        for number in range(20):
            registry.register(worker(), f"worker_{number}")
        registry.register(swallow(times=2), "stuck")
        registry.register(forever(), "obeys")
        await settle()
        report = await registry.shutdown(5)
        registry.cancel("stuck")
        await registry.wait()
        return report

    report = in_virtual_time(main())
    assert [one.task_id for one in report.stuck] == ["stuck"]
    assert report.duration == 5
    assert len(reports) == 20
    for one in reports:
        assert [exit.task_id for exit in one.stuck] == ["stuck"]
        assert "obeys" in [exit.task_id for exit in one.cancelled]
        assert one.duration == 3


def test_a_task_that_gave_up_waiting_is_waited_for_again() -> None:
    registry = TaskRegistry()

    async def first() -> None:
        try:
            await forever()
        finally:
            await registry.shutdown(1)
            await asyncio.sleep(3)

    async def second() -> float:
        try:
            await forever()
        except asyncio.CancelledError:
            report = await registry.shutdown(60)
            assert [exit.task_id for exit in report.cancelled] == ["slow", "first"]
            return report.duration
        raise AssertionError

    async def main() -> float:
        registry.register(first(), "first")
        task, _ = await registry.register(second(), "second")
        registry.register(cleans_up(2), "slow")
        await settle()
        assert (await registry.shutdown(60)).ok
        return await task

    assert in_virtual_time(main()) == 4


def test_a_task_that_shuts_down_again_at_once_does_not_wait_for_itself() -> None:
    registry = TaskRegistry()

    async def worker() -> ShutdownReport:
        try:
            await forever()
        except asyncio.CancelledError:
            first = await registry.shutdown(0)
            assert [exit.task_id for exit in first.stuck] == ["slow"]
            return await registry.shutdown(60)
        raise AssertionError

    async def main() -> ShutdownReport:
        task, _ = await registry.register(worker(), "worker")
        registry.register(cleans_up(2), "slow")
        await settle()
        assert (await registry.shutdown(120)).duration == 2
        return await task

    report = in_virtual_time(main())
    assert [exit.task_id for exit in report.cancelled] == ["slow"]
    assert report.stuck == []
    assert report.duration == 2


async def test_a_cancelled_shutdown_raises_at_once() -> None:
    registry = TaskRegistry()
    registry.register(swallow(times=2), "stuck")
    await settle()
    closing = asyncio.create_task(registry.shutdown(60))
    await settle()
    closing.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await closing
    assert caught.value.args == ("enough",)
    registry.cancel("stuck")
    assert await registry.wait(5)


@pytest.mark.parametrize("iterations", range(8))
async def test_a_shutdown_may_be_cancelled_at_any_iteration(iterations: int) -> None:
    registry = TaskRegistry()

    async def slow() -> None:
        try:
            await forever()
        finally:
            await settle(4)

    registry.register(slow())
    registry.register(forever())
    await settle()
    one = asyncio.create_task(registry.shutdown(math.inf))
    two = asyncio.create_task(registry.shutdown(math.inf))
    await settle(iterations)
    was_running = one.cancel()
    outcomes = await asyncio.gather(one, two, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError) == was_running
    assert outcomes[1].ok  # type: ignore[union-attr]
    assert len(registry) == 0
    # The next task runs: nothing of the shutdown is left.
    task, _ = await registry.register(echo(5))
    assert await task == 5
    await registry.wait()


async def test_a_shutdown_that_cannot_begin_leaves_nothing() -> None:
    registry = TaskRegistry()
    with task_factory(odd_factory(get_coro=fails)):
        registry.register(forever(), "odd")
    with pytest.raises(TypeError, match="timeout"):
        await registry.shutdown("soon")  # type: ignore[arg-type]
    task, _ = await registry.register(echo(5))
    await settle()
    assert await task == 5
    registry.cancel_all()
    await registry.wait()


def test_a_shutdown_keeps_its_deadline_in_virtual_time() -> None:
    registry = TaskRegistry()
    loop = ManualClockLoop()

    async def swallows() -> None:
        while loop.now < 2000:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    async def main() -> None:
        registry.register(swallows(), "stuck")
        await settle()
        loop.call_soon(setattr, loop, "now", 1030.0)
        report = await registry.shutdown(30)
        assert (report.duration, len(report.stuck)) == (30.0, 1)
        assert report.stuck[0].age == 30.0
        loop.call_soon(setattr, loop, "now", 1090.0)
        assert not await registry.wait(60)
        assert not (await registry.shutdown(0)).deadline_met
        loop.now = 2000
        assert (await registry.shutdown(math.inf)).ok

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("method", ["cancel", "cancelling", "cancelled", "exception"])
async def test_a_task_whose_method_raises_is_reported_and_counted(
    method: str, loop_errors: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def swallows() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            pass

    registry = TaskRegistry()
    with task_factory(odd_factory(**{method: fails})):
        task, _ = await registry.register(swallows(), "odd")
    registry.register(forever(), "plain")
    await settle()
    report = await registry.shutdown(0.02)
    assert [one.task_id for one in report.cancelled] == ["plain"]
    if method == "cancel":
        assert [one.task_id for one in report.stuck] == ["odd"]
        registry.cancel("odd")
        await registry.wait()
    assert len(registry) == 0
    assert await task is None
    adds_up(registry)
    assert loop_errors or registry["odd"].error_text == "LookupError: odd"


@pytest.mark.parametrize("raised_by", ["cancel", "handler"])
def test_an_exit_that_cannot_propagate_ends_the_run_one_iteration_later(
    raised_by: str,
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt("second ^C") if raised_by == "cancel" else ValueError

    def handle(loop: object, context: object) -> None:
        raise KeyboardInterrupt("second ^C")

    async def main() -> list[str]:
        for name in "abc":
            task = OddTask(forever())
            if name == "b":
                task.odd = {"cancel": stop}
            registry.track(task, name)
        await settle()
        report = await registry.shutdown(0.05)
        left.extend(asyncio.all_tasks() - {asyncio.current_task()})
        return [one.task_id for one in report.cancelled]

    registry, left = TaskRegistry(), []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(handle)
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt, match="second"):
        loop.run_until_complete(task)
    assert not task.done()
    assert loop.run_until_complete(task) == ["a", "c"]
    for other in left:
        other.cancel()
    loop.run_until_complete(asyncio.wait(left))
    loop.close()


async def test_an_exit_is_unraisable_where_the_loop_takes_no_callback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no")

    def stop() -> None:
        raise KeyboardInterrupt("second ^C")

    async def main() -> None:
        registry = TaskRegistry()
        task = OddTask(forever())
        task.odd = {"cancel": stop}
        registry.track(task)
        await settle()
        await registry.shutdown(0.01)
        task.cancel()
        await registry.wait()

    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    loop = Loop()
    await asyncio.to_thread(loop.run_until_complete, main())
    loop.close()
    assert [one.exc_type for one in unraisable] == [RuntimeError, KeyboardInterrupt]


async def test_a_subclass_may_look_up_tasks_as_it_likes() -> None:
    class Patient(TaskRegistry):
        def __getitem__(self, task_id: str) -> Any:
            raise LookupError("not here")

    registry, until = Patient(), asyncio.Event()
    registry.register(_until(until), "mule")
    await settle()
    assert [one.task_id for one in (await registry.shutdown(0)).stuck] == ["mule"]
    async with registry:  # the exit neither awaits nor logs it again
        pass
    assert len(registry) == 1
    until.set()
    assert await registry.wait(5)


async def _until(event: asyncio.Event) -> None:
    while not event.is_set():
        try:
            await event.wait()
        except asyncio.CancelledError:
            pass
