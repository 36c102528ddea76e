"""track(): Tasks that others made."""

import asyncio
import math
import time
from contextlib import closing

import pytest

from pyasynclife import DuplicateTaskError, TaskRegistry, TaskState
from support.children import run_child
from support.coroutines import echo, forever
from support.loops import settle


async def test_track_takes_a_task_that_was_made_elsewhere() -> None:
    registry = TaskRegistry(stale_threshold=0.0)
    task = asyncio.create_task(forever(), name="theirs")
    assert registry.track(task) == "theirs"
    assert registry.track(task) == "theirs"
    assert registry.track(task, "theirs") == "theirs"
    with pytest.raises(DuplicateTaskError, match="theirs"):
        registry.track(task, "mine")
    await settle()
    time.sleep(0.001)
    assert registry["theirs"].stale_after == math.inf
    assert await registry.get_stale_tasks() == []
    task.cancel()
    await registry.wait()
    assert registry["theirs"].state is TaskState.CANCELLED


async def test_track_makes_an_id_where_the_name_is_taken() -> None:
    registry = TaskRegistry()
    one = asyncio.create_task(forever(), name="same")
    two = asyncio.create_task(forever(), name="same")
    assert registry.track(one) == "same"
    assert registry.track(two) == "task_0"
    registry.cancel_all()
    await registry.wait()


async def test_track_of_a_task_that_is_done_goes_to_the_history() -> None:
    registry = TaskRegistry()
    task = asyncio.create_task(echo(5))
    await task
    task_id = registry.track(task, "over")
    assert (task_id, len(registry)) == ("over", 0)
    assert registry["over"].result == 5


async def test_a_tracked_task_that_has_started_is_not_pending() -> None:
    registry = TaskRegistry()
    task = asyncio.create_task(forever(), name="theirs")
    await settle()
    registry.register(forever(), "new")
    registry.track(task)
    assert registry.stats().pending == 1
    assert registry.stats().unknown == 1
    registry.cancel_all()
    await registry.wait()


def test_track_refuses_a_task_of_another_loop() -> None:
    async def track() -> None:
        with pytest.raises(RuntimeError, match="belongs to"):
            TaskRegistry().track(task)

    other = asyncio.new_event_loop()
    with closing(other):
        task = other.create_task(echo(1))
        asyncio.run(track())
        other.run_until_complete(task)


def test_a_task_type_that_replaces_the_native_one_is_asked_by_its_methods() -> None:
    # Its fields are at other places: in the native Task's, it has empty slots.
    child = run_child(
        """
        import asyncio, _asyncio

        class Task(asyncio.tasks._PyTask):
            __slots__ = [f"slot_{i}" for i in range(40)]

        _asyncio.Task = asyncio.Task = asyncio.tasks.Task = Task
        from pyasynclife import TaskRegistry

        async def main():
            task = asyncio.create_task(asyncio.sleep(0, "done"), name="theirs")
            await task
            registry = TaskRegistry()
            registry.track(task)
            print(type(task) is Task, registry["theirs"].state.name)
            await registry.register(asyncio.sleep(0, "mine"), "mine")
            await registry.wait()
            print(registry["theirs"].result, registry["mine"].result)

        asyncio.run(main())
        """
    )
    assert child.stderr == ""
    assert child.stdout == "True DONE\ndone mine\n"
