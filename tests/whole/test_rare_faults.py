"""Every allocation fails once: those that no ordinary use comes by.

registry/test_faults.py has the registry's, batch/test_faults.py a batch's.
"""

import asyncio
import gc
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskResult, _core, bounded_gather
from support.coroutines import echo_later, forever
from support.faults import fail_allocation, needs_faults
from support.loops import settle

pytestmark = needs_faults

core: Any = _core


class Name(str):
    """A task id that is no exact str."""


async def fails() -> None:
    raise ValueError("no price")


async def calls_back_in_the_midst() -> None:
    def items() -> Iterator[int]:
        yield 1
        batch.cancel()
        yield 2

    told: list[Any] = []
    batch = bounded_gather(
        echo_later, items(), max_concurrent=1, key=Name, on_result=told.append
    )
    results = await batch
    assert len(told) <= len(results) <= 2


async def names_its_items() -> None:
    results = await bounded_gather(echo_later, [Name("a"), 1.5, 7, 10**5000])
    assert {"a", "1", "7", "3"} == set(results.by_id())
    keyed = await bounded_gather(echo_later, [1], key=lambda item: Name("one"))
    assert ["one"] == [result.task_id for result in keyed]


async def closes_a_worker() -> None:
    """Once from outside, once while another calls the source in its context."""

    def items() -> Iterator[int]:
        yield 1
        workers.update(asyncio.all_tasks() - before - {collecting})
        for worker in workers - {asyncio.current_task()}:
            worker.get_coro().close()
        yield 2
        yield 3

    before = asyncio.all_tasks()
    workers: set[asyncio.Task[Any]] = set()
    batch = bounded_gather(forever, items(), on_result=repr)
    collecting = asyncio.create_task(batch.collect())
    try:
        await settle()
        for worker in workers:
            worker.get_coro().close()
    finally:
        workers.update(asyncio.all_tasks() - before - {collecting})
        for worker in workers:
            worker.cancel()
        batch.cancel()
        await asyncio.wait([*workers, collecting])
        for worker in workers:
            worker.cancelled() or worker.exception()
    collecting.result()


async def speaks_of_itself() -> None:
    inside: list[Any] = []
    result = TaskResult("a", True, inside)
    inside.append(result)
    try:
        assert "TaskResult(...)" in repr(result)
    finally:
        inside.clear()


async def shows_a_group() -> None:
    async with TaskGroup() as group:
        task = group.create_task(coro=echo_later(1), name="one")
        assert task.get_name() == "one"
        assert "tasks=1" in repr(group)
        assert group._tasks == {task}


async def outlives_its_parent() -> None:
    left: list[asyncio.Task[Any]] = []

    async def parent() -> None:
        group = TaskGroup()
        await group.__aenter__()
        left.append(group.create_task(fails()))

    try:
        await asyncio.create_task(parent())
    finally:
        await settle()
        assert all(task.done() for task in left)


async def calls_back_behind_the_group() -> None:
    """Children with callbacks of their own, which end at once or later."""
    called: list[Any] = []
    async with TaskGroup() as group:
        for turns in (0, 0, 1):
            task = group.create_task(settle(turns))
            task.add_done_callback(called.append)
    assert len(called) == 3


async def ends_before_all_was_begun() -> None:
    """With items left over that it came with, and some that were added."""
    for added in ([], [3]):
        batch = bounded_gather(forever, [1, 2], max_concurrent=1)
        for item in added:
            batch.add(item)
        collecting = asyncio.create_task(batch.collect())
        await settle()
        batch.cancel()
        assert len(await collecting) == 2 + len(added)


async def starts_a_child_while_it_starts_one() -> None:
    class Name:
        def __str__(self) -> str:
            group.create_task(settle(1))
            return "one"

    async with TaskGroup() as group:
        group.create_task(settle(1), name=Name())


async def tries_the_capture_anew() -> None:
    """A module of its own has not tried yet; registry/test_faults.py did."""
    left = core.fail_allocation(0)
    spec = importlib.util.find_spec("pyasynclife._core")
    assert spec is not None
    assert spec.loader is not None
    anew = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(anew)
    core.fail_allocation(left)
    async with anew.TaskGroup() as group:
        group.create_task(settle(1))


SCENARIOS: list[Callable[[], Awaitable[None]]] = [
    calls_back_in_the_midst,
    names_its_items,
    closes_a_worker,
    speaks_of_itself,
    shows_a_group,
    outlives_its_parent,
    calls_back_behind_the_group,
    ends_before_all_was_begun,
    starts_a_child_while_it_starts_one,
    tries_the_capture_anew,
]


async def attempt(scenario: Callable[[], Awaitable[None]], nth: int) -> tuple[int, Any]:
    """What was left to count down, and the error if there was one."""
    assert fail_allocation is not None
    error = None
    fail_allocation(nth)
    try:
        async with asyncio.timeout(10):
            await scenario()
    except Exception as failed:
        error = failed.with_traceback(None)
    left = fail_allocation(0)
    await settle(8)
    assert {asyncio.current_task()} == asyncio.all_tasks(), nth
    return left, error


def is_no_memory(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_no_memory, error.exceptions))
    return isinstance(error, MemoryError)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_each_allocation_fails_once(
    scenario: Callable[[], Awaitable[None]], loop_errors: list[Any]
) -> None:
    left, error = await attempt(scenario, 0)
    assert error is None, error
    failed = 0
    for nth in range(1, 300):
        loop_errors.clear()
        left, error = await attempt(scenario, nth)
        assert error is None or is_no_memory(error), (nth, error)
        failed += error is not None
        if left:
            break
    assert left
    assert failed
    gc.collect()
    loop_errors.clear()


async def test_an_error_that_cannot_even_be_reported_is_told(
    loop_errors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: told.append(about))
    for nth in range(1, 100):
        told.clear()
        loop_errors.clear()
        left, error = await attempt(outlives_its_parent, nth)
        errors = [about.exc_value for about in told]
        errors += [about["exception"] for about in loop_errors]
        assert error or any(isinstance(error, ValueError) for error in errors), nth
        if left:
            break
    told.clear()
    loop_errors.clear()
    assert left
