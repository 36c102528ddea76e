"""cancel_all_tasks(): at once, with a report, and only until the deadline."""

import asyncio
import time

import pytest

from pyasynclife import ShutdownReport, cancel_all_tasks
from support.coroutines import after, forever, swallow
from support.loops import settle
from support.tasks import create_tasks


async def test_cancel_all_tasks_cancels_at_once_and_reports() -> None:
    tasks = create_tasks(forever(), after(0), swallow())
    await settle()
    began = time.monotonic()
    report = await cancel_all_tasks([*tasks, tasks[0], asyncio.current_task()])
    assert isinstance(report, ShutdownReport)
    assert [
        len(part) for part in (report.cancelled, report.finished, report.swallowed)
    ] == [1, 1, 1]
    assert report.ok
    assert time.monotonic() - began < 5


async def test_cancel_all_tasks_returns_although_one_runs_on() -> None:
    tasks = create_tasks(swallow(times=2), forever())
    await settle()
    report = await cancel_all_tasks(tasks, timeout=0.05)
    assert len(report.stuck) == 1
    assert len(report.cancelled) == 1
    assert not report.deadline_met
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_cancel_all_tasks_refuses_before_it_cancels() -> None:
    (task,) = create_tasks(forever())
    await settle()
    with pytest.raises(TypeError, match=r"expected an asyncio.Task"):
        await cancel_all_tasks([task, "x"])
    with pytest.raises(ValueError, match="timeout"):
        await cancel_all_tasks([task], timeout=-1)
    await settle()
    assert not task.done()
    await cancel_all_tasks([task])
