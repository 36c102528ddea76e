"""graceful_shutdown(): all are cancelled, awaited until the deadline and reported."""

import asyncio
import inspect
import math
import os
import signal
import threading
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry
from support.coroutines import forever
from support.loops import settle
from support.signals import actions
from support.tasks import create_tasks


async def stubborn(until: asyncio.Event) -> str:
    """Swallow every cancellation until the event is set."""
    while not until.is_set():
        try:
            await until.wait()
        except asyncio.CancelledError:
            pass
    return "at last"


def names(exits: list[Any]) -> set[str]:
    return {one.name for one in exits}


async def test_all_are_cancelled_at_once_and_reported() -> None:
    async def failing() -> None:
        try:
            await forever()
        finally:
            raise ValueError("at the end")

    async def once() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 3
        return 4

    async def done() -> int:
        return 5

    coordinator = SignalCoordinator(5)
    tasks = create_tasks(forever(), failing(), once(), done())
    await settle()
    assert (coordinator.phase, coordinator.deadline) == ("running", None)
    report = await coordinator.graceful_shutdown([*tasks, *tasks])
    assert (coordinator.phase, coordinator.ready) == ("stopped", False)
    assert coordinator.shutdown_event.is_set()
    got = [report.cancelled, report.failed, report.swallowed, report.finished]
    assert [names(exits) for exits in got] == [{task.get_name()} for task in tasks]
    assert not report.stuck
    assert (report.ok, report.deadline_met) == (False, True)
    assert report.duration < 5


async def test_a_stubborn_task_does_not_move_the_deadline() -> None:
    loop, until = asyncio.get_running_loop(), asyncio.Event()
    coordinator = SignalCoordinator(30)
    tasks = create_tasks(
        *(stubborn(until) for _ in range(3)), *(forever() for _ in range(7))
    )
    await settle()
    before = loop.time()
    report = await coordinator.graceful_shutdown(tasks, timeout=0.1)
    assert 0.09 <= loop.time() - before < 10
    assert (len(report.cancelled), len(report.stuck)) == (7, 3)
    assert (report.ok, report.deadline_met) == (False, False)
    assert all("stubborn" in " ".join(one.where) for one in report.stuck)
    assert coordinator.phase == "stopped"
    until.set()
    await asyncio.wait(tasks)


async def test_after_a_signal_the_deadline_is_the_signals() -> None:
    loop, until = asyncio.get_running_loop(), asyncio.Event()
    with SignalCoordinator(0.3) as coordinator:
        tasks = create_tasks(stubborn(until))
        await settle()
        before = loop.time()
        os.kill(os.getpid(), signal.SIGTERM)
        await coordinator.wait_for_shutdown()
        after = loop.time()
        await asyncio.sleep(0.1)
        assert not tasks[0].cancelling()  # nothing is cancelled by itself
        report = await coordinator.graceful_shutdown(tasks)
        assert coordinator.deadline is not None
        assert before + 0.298 <= coordinator.deadline <= after + 0.302
        assert loop.time() >= coordinator.deadline - 0.002
        assert (len(report.stuck), coordinator.phase) == (1, "stopped")
    until.set()
    await asyncio.wait(tasks)


async def test_after_the_deadline_tasks_can_still_end_by_their_cancellation() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator(0)
    coordinator.request_shutdown()
    await asyncio.sleep(0.01)
    tasks = create_tasks(stubborn(until), *(forever() for _ in range(100)))
    await settle()
    report = await coordinator.graceful_shutdown(tasks)
    assert (len(report.stuck), len(report.cancelled)) == (1, 100)
    until.set()
    await asyncio.wait(tasks)


async def test_a_second_call_without_a_signal_has_its_own_time() -> None:
    coordinator, until = SignalCoordinator(0.2), asyncio.Event()
    for _ in range(2):
        before = asyncio.get_running_loop().time()
        tasks = create_tasks(stubborn(until))
        await settle()
        report = await coordinator.graceful_shutdown(tasks)
        assert len(report.stuck) == 1
        assert asyncio.get_running_loop().time() - before > 0.19
        until.set()
        await asyncio.wait(tasks)
        until.clear()


async def test_without_a_limit_it_waits_as_long_as_it_takes() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator(0.01)
    tasks = create_tasks(stubborn(until))
    await settle()
    asyncio.get_running_loop().call_later(0.1, until.set)
    report = await coordinator.graceful_shutdown(tasks, timeout=math.inf)
    assert (len(report.swallowed), report.ok) == (1, True)


async def test_the_calling_task_is_spared() -> None:
    coordinator = SignalCoordinator()
    me = asyncio.current_task()
    assert me is not None
    report = await coordinator.graceful_shutdown([me, *create_tasks(forever())])
    assert (me.cancelling(), len(report.cancelled), len(report.stuck)) == (0, 1, 0)


@pytest.mark.parametrize("count", [0, 1, 100_000])
async def test_none_one_and_a_hundred_thousand(count: int) -> None:
    coordinator = SignalCoordinator()
    tasks = create_tasks(*(forever() for _ in range(count)))
    await settle()
    report = await coordinator.graceful_shutdown(iter(tasks))
    assert (len(report.cancelled), report.ok) == (count, True)


def _run_to_the_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


async def test_what_is_no_task_of_this_loop_is_refused_before_anything_is_done() -> (
    None
):
    coordinator = SignalCoordinator()
    tasks = create_tasks(forever())
    await settle()
    coro = forever()
    other = asyncio.SelectorEventLoop()
    foreign = other.create_task(forever())
    future = asyncio.get_running_loop().create_future()
    for bad, error in (
        (coro, TypeError),
        (future, TypeError),
        ("task", TypeError),
        (foreign, RuntimeError),
    ):
        with pytest.raises(error) as caught:
            await coordinator.graceful_shutdown([*tasks, bad])
        assert repr(bad) in str(caught.value)
    for bad in (tasks[0], 3, None):
        if bad is None:
            with pytest.raises(ValueError, match="registry="):
                await coordinator.graceful_shutdown(bad)
        else:
            with pytest.raises(TypeError, match="list"):
                await coordinator.graceful_shutdown(bad)  # type: ignore[arg-type]
    for timeout, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout"):
            await coordinator.graceful_shutdown(tasks, timeout=timeout)  # type: ignore[arg-type]
    unstarted = forever()
    with pytest.raises(TypeError, match="forever"):
        await coordinator.graceful_shutdown([unstarted], timeout=-1)  # type: ignore[list-item]
    assert inspect.getcoroutinestate(unstarted) == inspect.CORO_CLOSED
    assert (coordinator.phase, tasks[0].cancelling()) == ("running", 0)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    foreign.cancel()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    _run_to_the_end(other, foreign)


async def test_a_cancelled_call_gets_that_very_error_and_tasks_stay_cancelled() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator()
    tasks = create_tasks(stubborn(until), forever())
    await settle()
    caught: list[BaseException] = []

    async def call() -> None:
        try:
            await coordinator.graceful_shutdown(tasks)
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    caller = asyncio.create_task(call())
    await settle()
    caller.cancel("enough")
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert [error.args[0] for error in caught] == ["enough"]
    assert (tasks[0].cancelling(), tasks[1].cancelled()) == (1, True)
    assert coordinator.phase == "cancelling"
    until.set()
    report = await coordinator.graceful_shutdown(tasks)  # a second call does no harm
    assert report.deadline_met
    assert coordinator.phase == "stopped"


async def test_called_twice_at_once_nothing_is_cancelled_twice() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator()
    tasks = create_tasks(stubborn(until), forever())
    await settle()
    calls = create_tasks(
        coordinator.graceful_shutdown(tasks), coordinator.graceful_shutdown(tasks)
    )
    await settle()
    assert (tasks[0].cancelling(), coordinator.phase) == (1, "cancelling")
    until.set()
    first, second = await asyncio.gather(*calls)
    assert first is not second
    for report in (first, second):
        assert (len(report.swallowed), len(report.cancelled)) == (1, 1)
    assert coordinator.phase == "stopped"


async def test_the_registrys_tasks_are_meant_when_none_are_passed() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry)
    other = create_tasks(forever())
    for name in ("a", "b"):
        registry.register(forever(), name)
    await settle()
    report = await coordinator.graceful_shutdown()
    assert {one.task_id for one in report.cancelled} == {"a", "b"}
    assert not other[0].cancelling()
    other[0].cancel()
    await asyncio.wait(other)


async def test_tasks_that_are_passed_are_named_as_the_registry_knows_them() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry)
    task, _ = registry.register(forever(), "feed").result()
    await settle()
    report = await coordinator.graceful_shutdown([task])
    assert [one.task_id for one in report.cancelled] == ["feed"]
    assert report.cancelled[0].age is not None


async def test_leaving_the_block_ends_the_registry_and_puts_all_back() -> None:
    before = actions()
    registry = TaskRegistry()
    with pytest.raises(LookupError):
        async with SignalCoordinator(registry=registry) as coordinator:
            registry.register(forever(), "a")
            await settle()
            raise LookupError("in the block")
    assert (coordinator.phase, len(registry), actions()) == ("stopped", 0, before)


async def test_a_block_that_leaves_a_task_stuck_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    until, registry = asyncio.Event(), TaskRegistry()
    async with SignalCoordinator(0.05, registry=registry):
        task, _ = registry.register(stubborn(until), "mule").result()
        await settle()
    assert "stuck: mule" in caplog.text
    until.set()
    await asyncio.wait([task])


async def test_a_block_without_registry_cancels_nothing() -> None:
    tasks = create_tasks(forever())
    async with SignalCoordinator() as coordinator:
        await settle()
    assert (coordinator.phase, tasks[0].cancelling()) == ("running", 0)
    tasks[0].cancel()
    await asyncio.wait(tasks)
