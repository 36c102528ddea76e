"""monitor_loop() and on_stale, and the block that starts the monitor."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import TaskMetadata, TaskRegistry
from pyasynclife.testing import VirtualTimeLoop
from support.coroutines import forever, swallow
from support.loops import in_virtual_time, settle


def test_the_monitor_reports_each_silence_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        reported: list[str] = []
        registry = TaskRegistry(
            heartbeat_interval=5.0,
            stale_threshold=10.0,
            on_stale=lambda meta: reported.append(meta.task_id),
        )
        async with registry:
            registry.register(forever(), "feed")
            await asyncio.sleep(50.0)
            assert reported == ["feed"]
            await registry.get_stale_tasks()
            registry.heartbeat("feed")
            await asyncio.sleep(50.0)
            assert reported == ["feed", "feed"]

    in_virtual_time(main())
    message = "task feed is stale: no heartbeat for 15.0 s"
    assert [r.getMessage() for r in caplog.records] == [message] * 2
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]


def test_an_on_stale_that_raises_goes_to_the_loops_exception_handler() -> None:
    loop_errors: list[dict[str, Any]] = []

    def fail(meta: TaskMetadata) -> None:
        raise LookupError(meta.task_id)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: loop_errors.append(context))
        async with TaskRegistry(5.0, 1.0, on_stale=fail) as registry:
            registry.register(forever(), "a")
            registry.register(forever(), "b")
            await asyncio.sleep(50.0)

    in_virtual_time(main())
    assert [str(context["exception"]) for context in loop_errors] == ["a", "b"]


def test_an_on_stale_that_removes_itself_does_not_end_the_monitor() -> None:
    async def main() -> None:
        reported: list[str] = []
        registry = TaskRegistry(5.0, 1.0)

        def once(meta: TaskMetadata) -> None:
            reported.append(meta.task_id)
            registry.on_stale = None

        registry.on_stale = once
        async with registry:
            registry.register(forever(), "a")
            registry.register(forever(), "b")
            await asyncio.sleep(50.0)
            assert reported == ["a"]
            registry.on_stale = once
            registry.heartbeat("b")
            await asyncio.sleep(50.0)
            assert reported == ["a", "b"]

    in_virtual_time(main())


async def test_leaving_the_block_ends_all_tasks_and_logs_the_stuck_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TaskRegistry(shutdown_timeout=20) as registry:
        registry.register(forever(), "feed")
        stuck, _ = await registry.register(swallow(), "slow")
        await settle()
    assert "feed" not in registry
    assert not caplog.records
    async with TaskRegistry(shutdown_timeout=0.02) as registry:
        stuck, _ = await registry.register(swallow(times=2), "stuck")
        await settle()
    assert "stuck: stuck" in caplog.text
    assert "in swallow" in caplog.text
    stuck.cancel()
    await stuck


# ---------------------------------------------------------------- the loop stands still


class StandingLoop(VirtualTimeLoop):
    """A virtual clock that can jump while code runs, as if that code took so long."""

    def stand_still(self, seconds: float) -> None:
        self._now += seconds


async def feed(registry: TaskRegistry, hops: int = 0) -> None:
    while True:
        await asyncio.sleep(0.2)
        await settle(hops)
        registry.heartbeat()


def run_standing(main: Callable[[StandingLoop], Coroutine[Any, Any, None]]) -> None:
    loop = StandingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main(loop))


@pytest.mark.parametrize("begins", [10.4, 10.5, 10.55, 12.0])
@pytest.mark.parametrize("hops", [0, 5])
def test_no_healthy_task_is_stale_because_the_loop_stood_still(
    begins: float, hops: int, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[TaskMetadata] = []

    async def main(loop: StandingLoop) -> None:
        registry = TaskRegistry(0.5, 1.0, on_stale=reported.append)
        async with registry:
            for number in range(200):
                await asyncio.sleep(0.001)
                registry.register(feed(registry, hops), str(number))
            await asyncio.sleep(begins - loop.time())
            loop.stand_still(1.5)
            assert registry.stats().stale == 200
            await asyncio.sleep(3.0)
            assert registry.stats().healthy == 200

    run_standing(main)
    assert not reported
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    said = re.fullmatch(r"the event loop stood still for (.*) s", record.getMessage())
    assert said is not None
    assert 1.0 <= float(said[1]) <= 1.5


def test_a_task_that_hangs_is_found_although_the_loop_stood_still() -> None:
    reported: list[str] = []

    async def main(loop: StandingLoop) -> None:
        registry = TaskRegistry(0.5, 1.0)
        registry.on_stale = lambda meta: reported.append(meta.task_id)
        async with registry:
            registry.register(feed(registry), "healthy")
            registry.register(forever(), "hangs")
            await asyncio.sleep(0.7)
            loop.stand_still(1.5)
            await asyncio.sleep(3.0)
            loop.stand_still(1.5)
            await asyncio.sleep(3.0)

    run_standing(main)
    assert reported == ["hangs"]


def test_a_loop_that_stands_still_again_and_again_hides_no_task_that_hangs() -> None:
    reported: list[str] = []

    async def main(loop: StandingLoop) -> None:
        registry = TaskRegistry(0.5, 1.0)
        registry.on_stale = lambda meta: reported.append(meta.task_id)

        async def stands_still() -> None:
            while "hangs" not in reported:
                loop.stand_still(2.0)
                await asyncio.sleep(0)
                registry.heartbeat()

        async with registry:
            registry.register(forever(), "hangs")
            await registry.register(stands_still(), "stands still").result()[0]
            assert loop.time() < 200.0

    run_standing(main)
    assert "hangs" in reported


def test_a_check_that_is_a_little_late_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(loop: StandingLoop) -> None:
        async with TaskRegistry(5.0, 10.0) as registry:
            registry.register(feed(registry))
            await asyncio.sleep(4.9)
            loop.stand_still(0.5)
            await asyncio.sleep(20.0)

    run_standing(main)
    assert not caplog.records
