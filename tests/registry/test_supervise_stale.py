"""supervise(restart_stale=True), and vital tasks."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    SignalCoordinator,
    TaskHealth,
    TaskMetadata,
    TaskRegistry,
    TaskState,
)
from pyasynclife.testing import VirtualTimeLoop
from support.coroutines import Boom, echo, forever

AT_ONCE = Backoff(0)


def virtually(main: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """A test that runs in virtual time, and gets the log."""

    def test(caplog: pytest.LogCaptureFixture) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main(caplog))

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


def now() -> float:
    return round(asyncio.get_running_loop().time(), 2)


async def beats(registry: TaskRegistry, times: int) -> None:
    for _ in range(times):
        registry.heartbeat()
        await asyncio.sleep(1)
    await forever()


@virtually
async def test_a_stale_run_is_cancelled_and_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()  # no monitor runs
    begun: list[float] = []
    ended: list[float] = []

    async def feed() -> None:
        begun.append(now() - started)
        try:
            await beats(registry, 3)
        finally:
            await asyncio.sleep(1)  # the next run waits for the cleanup
            ended.append(now() - started)

    started = now()
    registry.supervise(feed, "feed", restart_stale=True, stale_after=5, backoff=AT_ONCE)
    await asyncio.sleep(20)
    meta = registry["feed"]
    # The last heartbeat is after 2 s: stale after 7 s, and the cleanup takes 1 s.
    assert [round(at, 1) for at in begun] == [0, 8, 16]
    assert [round(at, 1) for at in ended] == [8, 16]
    assert meta.restarts == 2
    assert meta.error_text == "TimeoutError: stale: no heartbeat for 5.0 s"
    assert meta.state is TaskState.RUNNING
    assert meta.health is TaskHealth.HEALTHY
    texts = [message.splitlines()[0] for message in caplog.messages]
    assert texts[:2] == [
        "task feed is stale: no heartbeat for 5.0 s; cancelled",
        "task feed failed: TimeoutError: stale: no heartbeat for 5.0 s; it starts "
        "again in 0 s (restart 1)",
    ]
    assert "in beats" in caplog.messages[0]
    assert all(record.task_id == "feed" for record in caplog.records)  # type: ignore[attr-defined]
    await registry.shutdown()
    assert meta.state is TaskState.CANCELLED


@virtually
async def test_a_stale_run_that_does_not_end_is_logged_and_stays_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    runs: list[int] = []
    let_go = asyncio.Event()

    async def stubborn() -> None:
        runs.append(1)
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass

    registry.supervise(
        stubborn, "feed", restart_stale=True, stale_after=2, backoff=AT_ONCE
    )
    await asyncio.sleep(300)
    ran = len(runs)
    let_go.set()
    assert ran == 1
    stuck = [text for text in caplog.messages if "does not end" in text]
    # After 2, 4, 8, 16, 32, 60, 60 and 60 s.
    assert len(stuck) == 8
    assert all("stubborn" in text for text in stuck)
    await asyncio.sleep(1)
    assert len(runs) == 2  # it has ended: the next run, which returns at once
    meta = registry["feed"]
    assert (meta.state, meta.restarts) == (TaskState.DONE, 1)


@virtually
async def test_a_run_that_is_always_stale_gives_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given_up: list[TaskMetadata] = []
    registry = TaskRegistry(stale_threshold=1, on_give_up=given_up.append)
    registry.supervise(
        forever, "feed", restart_stale=True, backoff=AT_ONCE, max_restarts=2
    )
    meta = await registry.join("feed", 60)
    assert given_up == [meta]
    assert (meta.state, meta.restarts) == (TaskState.FAILED, 2)
    assert isinstance(meta.error, TimeoutError)
    assert caplog.records[-1].levelname == "ERROR"


@virtually
async def test_a_stale_run_that_is_cancelled_by_the_user_is_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()

    async def slow_to_end() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(10)

    registry.supervise(
        slow_to_end, "feed", restart_stale=True, stale_after=1, restart="always"
    )
    await asyncio.sleep(5)
    registry.cancel("feed", "enough")
    meta = await registry.join("feed", 60)
    assert (meta.state, meta.restarts) == (TaskState.CANCELLED, 0)
    assert meta.cancel_reason == "enough"


async def test_a_loop_that_stood_still_makes_no_run_stale() -> None:
    registry = TaskRegistry()

    async def feed() -> None:
        while True:
            await registry.heartbeat()
            await asyncio.sleep(0.01)

    registry.supervise(feed, "feed", restart_stale=True, stale_after=0.3)
    for _ in range(2):
        await asyncio.sleep(0.02)
        time.sleep(0.5)
    await asyncio.sleep(0.02)
    assert registry["feed"].restarts == 0
    await registry.shutdown()


# ------------------------------------------------------------------- vital

ENDS: dict[str, Any] = {
    "it gives up": lambda registry: registry.supervise(
        fails, "feed", vital=True, max_restarts=0
    ),
    "it returns": lambda registry: registry.supervise(echo, "feed", vital=True),
    "it is never restarted": lambda registry: registry.supervise(
        fails, "feed", vital=True, restart="never"
    ),
}


async def fails() -> None:
    raise Boom("no price")


@pytest.mark.parametrize("attached", [True, False])
@pytest.mark.parametrize("how", ENDS)
async def test_the_end_of_a_vital_task_begins_the_shutdown(
    how: str, attached: bool
) -> None:
    registry = TaskRegistry()
    other = TaskRegistry()
    coordinator = SignalCoordinator(registry=other if attached else registry)
    if attached:
        coordinator.attach(registry)
    ENDS[how](registry)
    assert await asyncio.wait_for(coordinator.wait_for_shutdown(), 60) is None
    assert str(coordinator.reason).startswith("vital task 'feed' ")
    assert ("Boom: no price" in str(coordinator.reason)) == (how != "it returns")


@pytest.mark.parametrize("how", ["cancel", "cancel_all", "shutdown"])
async def test_a_vital_task_that_is_cancelled_begins_no_shutdown(how: str) -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry)
    registry.supervise(forever, "feed", vital=True)
    await asyncio.sleep(0)
    if how == "cancel":
        registry.cancel("feed")
    elif how == "cancel_all":
        registry.cancel_all()
    else:
        await registry.shutdown(60)
    await registry.join("feed", 60)
    assert coordinator.phase == "running"


async def test_without_a_coordinator_a_vital_end_is_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    gone = SignalCoordinator(registry=registry)
    del gone
    registry.supervise(echo, "feed", vital=True)
    with caplog.at_level(logging.ERROR, "pyasynclife"):
        await registry.join("feed", 60)
    [record] = caplog.records
    assert record.getMessage().startswith("vital task 'feed' ended; nothing shuts down")
    assert record.task_id == "feed"  # type: ignore[attr-defined]


async def test_a_task_that_is_not_vital_ends_alone() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry)
    registry.supervise(echo, "feed")
    await registry.join("feed", 60)
    assert coordinator.phase == "running"
