"""heartbeat() and get_stale_tasks(): whose it is, and when silence is stale."""

import asyncio
import math
import sys
import time
from typing import Any

import pytest

from pyasynclife import (
    DuplicateTaskError,
    TaskHealth,
    TaskRegistry,
    TaskState,
    _core,
)
from pyasynclife._log import logger
from support.coroutines import echo, forever
from support.faults import needs_faults
from support.loops import ManualClockLoop, in_virtual_time, settle
from support.registries import a_registry, adds_up
from support.tasks import fails


def test_health_follows_the_heartbeats() -> None:
    async def main() -> None:
        async with a_registry(stale_threshold=0.03) as registry:
            await registry.register(forever(), "feed")
            assert registry["feed"].health is TaskHealth.UNKNOWN
            await settle()
            assert registry["feed"].health is TaskHealth.UNKNOWN
            await registry.heartbeat("feed")
            assert registry["feed"].health is TaskHealth.HEALTHY
            await asyncio.sleep(0.04)
            assert registry["feed"].health is TaskHealth.STALE
            await registry.heartbeat("feed")
            assert registry["feed"].health is TaskHealth.HEALTHY
            assert await registry.get_stale_tasks() == []

    in_virtual_time(main())


def test_stale_tasks_come_longest_silence_first_across_thresholds() -> None:
    async def main() -> None:
        async with a_registry(stale_threshold=0.01) as registry:
            for number, threshold in enumerate([0.02, None, 0.005, math.inf, None]):
                registry.register(forever(), str(number), stale_after=threshold)
            await settle()
            for task_id in ("4", "2", "1", "3", "0"):
                await registry.heartbeat(task_id)
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.03)
            assert await registry.get_stale_tasks() == ["4", "2", "1", "0"]
            await registry.heartbeat("2")
            assert await registry.get_stale_tasks() == ["4", "1", "0"]

    in_virtual_time(main())


async def test_a_new_stale_threshold_applies_at_once_to_those_without_their_own() -> (
    None
):
    async with a_registry(stale_threshold=100) as registry:
        registry.register(forever(), "default")
        registry.register(forever(), "own", stale_after=100)
        registry.register(forever(), "beating")
        await settle()
        await registry.heartbeat("beating")
        await asyncio.sleep(0.02)
        assert await registry.get_stale_tasks() == []
        registry.stale_threshold = 0.01
        registry.register(forever(), "later")
        assert registry.stale_threshold == 0.01
        assert registry["default"].health is TaskHealth.STALE
        assert registry["own"].health is TaskHealth.UNKNOWN
        assert await registry.get_stale_tasks() == ["default", "beating"]
        after = {task_id: registry[task_id].stale_after for task_id in registry}
        assert after == {"default": 0.01, "own": 100, "beating": 0.01, "later": 0.01}
        registry.stale_threshold = 100
        assert await registry.get_stale_tasks() == []
        assert registry["beating"].health is TaskHealth.HEALTHY
        stats = registry.stats()
        assert (stats.healthy, stats.stale, stats.unknown) == (1, 0, 2)
        registry.stale_threshold = 0.01
        assert await registry.get_stale_tasks() == ["default", "beating"]


async def test_an_ended_task_keeps_the_threshold_that_it_had() -> None:
    registry = TaskRegistry(stale_threshold=5)
    registry.register(echo(1), "feed")
    await registry.wait()
    registry.stale_threshold = 9
    assert registry["feed"].stale_after == 5


@needs_faults
async def test_state_and_health_cost_the_same_in_any_order() -> None:
    steps = getattr(_core, "search_steps", None)
    assert steps is not None
    async with a_registry() as registry:
        for _ in range(2000):
            registry.register(forever())
        await settle()
        before = steps()
        for task_id in reversed(list(registry)):
            assert registry[task_id].state is TaskState.RUNNING
            assert registry[task_id].health is TaskHealth.UNKNOWN
        for task_id in reversed(list(registry)):
            await registry.heartbeat(task_id)
        assert registry.stats().healthy == 2000
        assert steps() == before


@needs_faults
async def test_heartbeats_before_the_first_step_cost_no_search() -> None:
    steps = getattr(_core, "search_steps", None)
    assert steps is not None
    async with a_registry() as registry:
        for _ in range(2000):
            registry.register(forever())
        task_ids = list(registry)
        for task_id in task_ids:
            await registry.heartbeat(task_id)
        await settle()
        before = steps()
        for task_id in reversed(task_ids):
            await registry.heartbeat(task_id)
        assert registry.stats().healthy == 2000
        assert steps() == before


def test_silence_counts_from_registration_before_the_first_heartbeat() -> None:
    async def main() -> None:
        async with a_registry(stale_threshold=0.02) as registry:
            registry.register(forever(), "mute")
            registry.register(forever(), "beating")
            await settle()
            for _ in range(6):
                await asyncio.sleep(0.005)
                registry.heartbeat("beating")
            assert await registry.get_stale_tasks() == ["mute"]
            assert registry["mute"].health is TaskHealth.STALE
            registry.cancel("mute")
            await settle()
            assert registry["mute"].health is TaskHealth.UNKNOWN

    in_virtual_time(main())


async def test_a_task_that_has_not_started_is_not_stale() -> None:
    async with a_registry(stale_threshold=0.0) as registry:
        registry.register(forever(), "late")
        time.sleep(0.001)
        assert await registry.get_stale_tasks() == []
        assert registry["late"].health is TaskHealth.UNKNOWN


async def test_a_finished_task_is_never_stale() -> None:
    registry = TaskRegistry(stale_threshold=0.0)
    registry.register(echo(1), "feed")
    await registry.wait()
    time.sleep(0.001)
    assert await registry.get_stale_tasks() == []
    assert registry["feed"].health is TaskHealth.HEALTHY


async def test_a_heartbeat_of_an_unknown_id_is_false_and_counted() -> None:
    registry = TaskRegistry()
    assert not await registry.heartbeat("nobody")
    assert not await registry.heartbeat()
    await registry.register(echo(1), "gone")
    await registry.wait()
    assert not await registry.heartbeat("gone")
    assert registry.stats().unknown_heartbeats == 3


@pytest.mark.parametrize(
    ("task_id", "message"),
    [
        (None, "heartbeat() outside of any registered task: pass its id"),
        ("nobody", "heartbeat of task 'nobody', which was never registered"),
        ("gone", "heartbeat of task 'gone', which has ended"),
    ],
)
async def test_the_first_unknown_heartbeat_is_logged_once(
    task_id: str | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = TaskRegistry()
    await registry.register(echo(1), "gone")
    await registry.wait()
    for _ in range(3):
        assert not await registry.heartbeat(task_id)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(message)
    assert getattr(record, "task_id", None) == task_id


async def test_a_heartbeat_does_not_raise_what_logging_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    monkeypatch.setattr(logger, "warning", lambda *args, **options: 1 / 0)
    assert not await TaskRegistry().heartbeat("nobody")
    assert unraisable[0].exc_type is ZeroDivisionError


async def test_an_equal_string_is_the_same_id() -> None:
    async with a_registry() as registry:
        given = "".join(["feed", "-1"])
        _, task_id = await registry.register(forever(), given)
        copy = "".join(["feed", "-", "1"])
        assert copy is not task_id
        await settle()
        assert await registry.heartbeat(task_id)
        assert await registry.heartbeat(copy)
        assert registry[given].heartbeats == 2


async def test_a_finished_tasks_id_belongs_to_the_next_task_that_takes_it() -> None:
    async with a_registry() as registry:
        task, task_id = await registry.register(echo(1), "feed")
        await task
        await settle()
        assert not await registry.heartbeat(task_id)
        assert not await registry.cancel(task_id)
        first = registry[task_id]
        await registry.register(forever(), task_id)
        assert await registry.heartbeat(task_id)
        assert (first.heartbeats, registry[task_id].heartbeats) == (0, 1)


async def test_an_overridden_heartbeat_is_called() -> None:
    class Counting(TaskRegistry):
        beaten = 0

        def heartbeat(self, task_id: str | None = None) -> Any:
            self.beaten += 1
            return super().heartbeat(task_id)

    registry = Counting()
    task, task_id = await registry.register(forever())
    assert await registry.heartbeat(task_id)
    assert registry.beaten == 1
    task.cancel()
    assert await registry.wait(5)


async def test_a_heartbeat_without_id_is_the_current_tasks() -> None:
    registry = TaskRegistry()
    tracked: list[bool] = []

    async def beat() -> None:
        asyncio.current_task().set_name("renamed")  # type: ignore[union-attr]
        tracked.append(await registry.heartbeat())

    await registry.register(beat(), "feed")
    await registry.wait()
    await asyncio.create_task(beat())
    assert tracked == [True, False]
    assert registry["feed"].heartbeats == 1


async def test_a_thread_without_a_context_must_pass_an_id() -> None:
    registry = TaskRegistry()

    async def beats() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="another thread"):
            await loop.run_in_executor(None, registry.heartbeat)
        beat = await loop.run_in_executor(None, registry.heartbeat, "feed")
        assert beat.result()

    task, _ = await registry.register(beats(), "feed")
    await task
    await registry.wait()
    assert registry["feed"].heartbeats == 1


async def test_heartbeats_may_come_from_any_thread() -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        await settle()
        beats = [asyncio.to_thread(registry.heartbeat, "feed") for _ in range(8)]
        assert all(ready.result() for ready in await asyncio.gather(*beats))
        assert registry["feed"].heartbeats == 8


async def test_wall_clock_jumps_make_nothing_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        await settle()
        registry.heartbeat("feed")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert await registry.get_stale_tasks() == []


@pytest.mark.parametrize("patched", ["before", "after"])
async def test_silence_follows_the_loops_clock_where_time_monotonic_is_patched(
    patched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = time.monotonic, 0.0
    async with a_registry(stale_threshold=60) as registry:
        with monkeypatch.context() as patch:
            if patched == "before":
                patch.setattr("time.monotonic", lambda: real() + ahead)
            registry.register(forever(), "feed")
            await settle()
            if patched == "after":
                patch.setattr("time.monotonic", lambda: real() + ahead)
            before = asyncio.get_running_loop().time()
            ahead = 1000.0
            gone = asyncio.get_running_loop().time() - before
            assert registry["feed"].silence == pytest.approx(gone, abs=10)
            stale = ["feed"] if gone > 900 else []  # uvloop has its own clock
            assert await registry.get_stale_tasks() == stale
            assert registry["feed"].age == pytest.approx(gone, abs=10)
        assert registry["feed"].silence < 10
        assert registry["feed"].health is TaskHealth.UNKNOWN


def test_a_clock_may_call_the_registry() -> None:
    registry = TaskRegistry()
    loop = ManualClockLoop()

    async def main() -> None:
        await echo(1)
        registry.register(forever(), "first")
        # The clock registers the id that is about to be given.
        loop.hook = lambda: registry.register(forever(), "feed")
        with pytest.raises(DuplicateTaskError):
            registry.register(forever(), "feed")
        adds_up(registry)
        loop.hook = lambda: registry.register(forever(), "task_0")
        with pytest.raises(DuplicateTaskError):
            registry.register(forever())
        adds_up(registry)
        for call in (
            lambda: registry.heartbeat("feed"),
            lambda: registry["feed"].health,
            lambda: registry["feed"].age,
            registry.stats,
            registry.get_stale_tasks,
        ):
            loop.hook = registry.cancel_all
            call()
            loop.hook = fails
            with pytest.raises(LookupError):
                call()
        before = registry.stats()
        loop.hook = fails
        with pytest.raises(LookupError):
            registry.heartbeat("feed")
        loop.hook = fails
        with pytest.raises(LookupError):
            registry.register(forever())
        assert registry.stats() == before
        assert await registry.wait()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("now", [-1.0, math.nan, math.inf, -math.inf, 0.0])
def test_a_clock_may_return_anything(now: float) -> None:
    registry = TaskRegistry(stale_threshold=1.0)
    loop = ManualClockLoop()

    async def main() -> None:
        for number in range(10):
            loop.now = now if number % 3 else 1000.0 - number
            registry.register(forever(), str(number), stale_after=number % 2)
            await settle()
            registry.heartbeat(str(number))
            registry.get_stale_tasks()
            adds_up(registry)
            registry["0"].as_dict()
        registry.cancel_all()
        loop.now = 5.0
        assert await registry.wait()
        adds_up(registry)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
