"""complete() fixes the outcome of a task that still runs."""

import asyncio
from typing import Any

import pytest

from pyasynclife import TaskRegistry, TaskState, UnknownTaskError
from support.coroutines import echo, forever, raises, swallow
from support.loops import settle
from support.tasks import OddTask, fails


async def test_complete_fixes_the_outcome_and_the_task_runs_on() -> None:
    registry = TaskRegistry()
    registry.register(swallow(), "feed")
    await settle()
    await registry.complete("feed", result="first")
    await registry.complete("feed", error=ValueError("second"))
    assert registry["feed"].state is TaskState.RUNNING
    assert registry["feed"].result is None
    assert len(registry) == 1
    assert await registry.cancel("feed")
    await registry.wait()
    assert registry["feed"].state is TaskState.DONE
    assert registry["feed"].result == "first"
    await registry.complete("feed", result="third")
    assert registry["feed"].result == "first"


async def test_complete_with_an_error_or_a_cancellation() -> None:
    registry = TaskRegistry()
    registry.register(echo(1), "failed")
    registry.register(echo(1), "cancelled")
    await registry.complete("failed", error=ValueError("no price"))
    await registry.complete("cancelled", error=asyncio.CancelledError("enough"))
    await registry.wait()
    assert registry["failed"].state is TaskState.FAILED
    assert registry["failed"].error_text == "ValueError: no price"
    assert registry["cancelled"].state is TaskState.CANCELLED


async def test_another_error_after_complete_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    registry.register(raises(ValueError("later")), "feed")
    await registry.complete("feed", result=1)
    await registry.wait()
    assert registry["feed"].result == 1
    assert "after it was completed" in caplog.text


async def test_a_failure_given_to_complete_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error, other = ValueError("no price"), ValueError("other")

    async def raises(error: BaseException) -> None:
        raise error

    registry = TaskRegistry()
    registry.register(echo(1), "done")
    registry.register(raises(error), "same")
    registry.register(raises(other), "two")
    for task_id in ("done", "same", "two"):
        await registry.complete(task_id, error=error)
        assert registry[task_id].error_text is None
    await registry.wait()
    assert [record.getMessage() for record in caplog.records] == [
        "task done failed: ValueError: no price",
        "task same failed: ValueError: no price",
        "task two failed: ValueError: no price",
        "task two failed after it was completed: ValueError: other",
    ]
    assert registry["two"].error_text == "ValueError: no price"


async def test_complete_with_an_error_whose_str_ends_the_task_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=0)

    class Evil(Exception):
        def __str__(self) -> str:
            meta: Any = registry["feed"]
            task.remove_done_callback(meta)
            task.odd = {"cancelled": fails, "done": fails}
            real = OddTask.done
            OddTask.done = lambda self: True  # type: ignore[method-assign]
            try:
                meta(task)
            finally:
                OddTask.done = real  # type: ignore[method-assign]
            return "evil"

    task = OddTask(forever())
    registry.track(task, "feed")
    await registry.complete("feed", error=Evil())
    assert "feed" not in registry
    assert registry.stats().failed == 1
    task.cancel()
    await settle()


async def test_complete_of_an_unknown_id_names_it() -> None:
    with pytest.raises(UnknownTaskError) as caught:
        TaskRegistry().complete("nobody")
    assert "'nobody'" in str(caught.value)
    assert not str(caught.value).startswith('"')
    assert isinstance(caught.value, KeyError)
