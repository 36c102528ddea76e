"""monitor_loop() and on_stale, and the block that starts the monitor."""

import asyncio
from typing import Any

import pytest

from pyasynclife import TaskMetadata, TaskRegistry
from support.coroutines import forever, swallow
from support.loops import settle


async def test_the_monitor_reports_each_silence_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reported: list[str] = []
    registry = TaskRegistry(
        heartbeat_interval=0.005,
        stale_threshold=0.01,
        on_stale=lambda meta: reported.append(meta.task_id),
    )
    async with registry:
        registry.register(forever(), "feed")
        await asyncio.sleep(0.05)
        assert reported == ["feed"]
        await registry.get_stale_tasks()
        registry.heartbeat("feed")
        await asyncio.sleep(0.05)
        assert reported == ["feed", "feed"]
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]


async def test_an_on_stale_that_raises_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(meta: TaskMetadata) -> None:
        raise LookupError(meta.task_id)

    async with TaskRegistry(0.005, 0.001, on_stale=fail) as registry:
        registry.register(forever(), "a")
        registry.register(forever(), "b")
        await asyncio.sleep(0.05)
    assert [str(context["exception"]) for context in loop_errors] == ["a", "b"]


async def test_leaving_the_block_ends_all_tasks_and_logs_the_stuck_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TaskRegistry(shutdown_timeout=0.02) as registry:
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
