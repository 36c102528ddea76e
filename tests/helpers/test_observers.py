"""monitor_tasks() and add_task_observers()."""

import asyncio
import logging
from typing import Any

import pytest

from pyasynclife import (
    TaskResult,
    TaskState,
    add_task_observers,
    cancel_all_tasks,
    monitor_tasks,
)
from support.coroutines import after, fail, forever
from support.loops import settle, until
from support.tasks import callbacks_of, cancelled_after, create_tasks


class Hook:
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, *args: Any) -> None:
        self.calls.append(args if len(args) > 1 else args[0])


async def test_the_monitor_counts_cancelled_and_failed_tasks_and_goes_on() -> None:
    tasks = create_tasks(forever(), fail("x"), after(0), forever())
    tasks[0].cancel()
    hook = Hook()
    (monitor,) = create_tasks(monitor_tasks(tasks, 0.01, report=hook))
    await until(lambda: hook.calls)
    await settle()
    assert not monitor.done()
    tasks[3].cancel()
    await monitor
    running, ended = hook.calls[0]
    assert running == 1
    assert {result.state for result in ended} == {
        TaskState.CANCELLED,
        TaskState.FAILED,
        TaskState.DONE,
    }
    assert {result.item for result in ended} == {tasks[0], tasks[1], tasks[2]}
    assert (hook.calls[-1][0], len(hook.calls[-1][1])) == (0, 1)
    assert sum(len(ended) for _, ended in hook.calls) == 4


async def test_the_monitor_reports_at_the_interval_and_not_at_every_end() -> None:
    tasks = create_tasks(*(after(iterations) for iterations in range(50)))
    hook = Hook()
    await monitor_tasks(tasks, 60.0, report=hook)
    ((running, ended),) = hook.calls
    assert (running, len(ended)) == (0, 50)


async def test_a_cancelled_monitor_leaves_nothing_on_the_tasks() -> None:
    tasks = create_tasks(forever(), forever())
    await settle()
    monitor = await cancelled_after(3, lambda: monitor_tasks(tasks, 60.0))
    assert monitor.cancelled()
    assert [callbacks_of(task) for task in tasks] == [0, 0]
    assert not any(task.cancelling() for task in tasks)
    await cancel_all_tasks(tasks)


async def test_a_report_that_raises_does_not_end_the_monitor(
    loop_errors: list[dict[str, Any]],
) -> None:
    def report(running: int, ended: list[TaskResult[Any]]) -> None:
        raise LookupError("report")

    (task,) = create_tasks(until(lambda: len(loop_errors) > 1))
    await monitor_tasks([task], 0.01, report=report)
    assert len(loop_errors) > 1
    assert task.exception() is None
    assert {type(context["exception"]) for context in loop_errors} == {LookupError}


async def test_the_monitor_of_itself_or_of_nothing_ends() -> None:
    await monitor_tasks([], report=pytest.fail)
    await monitor_tasks([asyncio.current_task()], report=pytest.fail)


async def test_observers_get_a_result_of_each_task_whatever_became_of_it() -> None:
    hook = Hook()
    tasks = create_tasks(after(1), after(1, ValueError("x")), forever())
    add_task_observers(tasks, hook)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await settle()
    by_task = {result.item: result for result in hook.calls}
    assert [by_task[task].data for task in tasks] == ["value", None, None]
    assert isinstance(by_task[tasks[1]].error, ValueError)
    assert isinstance(by_task[tasks[2]].error, asyncio.CancelledError)
    assert [by_task[t].task_id for t in tasks] == [task.get_name() for task in tasks]


async def test_an_observer_does_not_take_the_error_from_the_waiter() -> None:
    (task,) = create_tasks(after(1, ValueError("x")))
    add_task_observers([task], Hook())
    with pytest.raises(ValueError, match="x"):
        await task
    (task,) = create_tasks(forever())
    add_task_observers([task], Hook())
    await settle()
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task


async def test_an_observer_that_raises_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    def observer(result: TaskResult[Any]) -> None:
        raise LookupError("observer")

    (task,) = create_tasks(after(1))
    add_task_observers([task], observer)
    await task
    await settle()
    assert [type(context["exception"]) for context in loop_errors] == [LookupError]


async def test_without_a_function_ends_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pyasynclife")
    tasks = create_tasks(after(1), after(1, ValueError("x")), forever())
    add_task_observers(tasks)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await settle()
    levels = sorted(record.levelname for record in caplog.records)
    assert levels == ["ERROR", "INFO", "INFO"]
    assert "ValueError: x" in caplog.text
    caplog.clear()
    await monitor_tasks(create_tasks(after(1), after(1, ValueError("y"))))
    assert "0 tasks running, 2 ended, 1 failed" in caplog.text
    assert "ValueError: y" in caplog.text


async def test_a_hook_that_would_have_to_be_awaited_is_refused() -> None:
    async def hook(*args: Any) -> None:
        pass

    (task,) = create_tasks(after(1))
    with pytest.raises(TypeError, match="plain function"):
        add_task_observers([task], hook)
    with pytest.raises(TypeError, match="plain function"):
        await monitor_tasks([task], report=hook)
    with pytest.raises(TypeError, match="function or None"):
        add_task_observers([task], "x")
    with pytest.raises(ValueError, match="interval"):
        await monitor_tasks([task], 0)
    with pytest.raises(TypeError, match="wrap it in a list"):
        add_task_observers(task)
    assert callbacks_of(task) == 0
    await task
