"""Every allocation of a TaskGroup and of the capture fails once."""

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import TaskGroup, _core
from pyasynclife._await_chain import await_chain
from support.capture import CAPTURED, play
from support.coroutines import echo_later
from support.faults import (
    attempt,
    fail_allocation,
    fail_each_allocation,
    ignores_what_cannot_be_raised,
    needs_faults,
)
from support.group_scenarios import fail
from support.loops import settle

pytestmark = needs_faults

core: Any = _core


async def fails() -> None:
    raise ValueError("no price")


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


async def adds_callbacks_to_children() -> None:
    """Run children that end at once or later and have callbacks of their own."""
    called: list[Any] = []
    async with TaskGroup() as group:
        for iterations in (0, 0, 1):
            task = group.create_task(settle(iterations))
            task.add_done_callback(called.append)
    assert len(called) == 3


async def starts_a_child_while_it_starts_one() -> None:
    class Name:
        def __str__(self) -> str:
            group.create_task(settle(1))
            return "one"

    async with TaskGroup() as group:
        group.create_task(settle(1), name=Name())


async def shows_an_await_chain() -> None:
    async def parent() -> None:
        async with TaskGroup() as group:
            group.create_task(settle(4))

    task = asyncio.create_task(parent())
    await settle(2)
    await_chain(task)
    await task


async def runs_the_self_test_again() -> None:
    """Use a new module: registry/test_faults.py has run the self-test of this one."""
    left = core.fail_allocation(0)
    spec = importlib.util.find_spec("pyasynclife._core")
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    core.fail_allocation(left)
    async with again.TaskGroup() as group:
        group.create_task(settle(1))


SCENARIOS: list[Callable[[], Awaitable[None]]] = [
    shows_a_group,
    shows_an_await_chain,
    outlives_its_parent,
    adds_callbacks_to_children,
    starts_a_child_while_it_starts_one,
    runs_the_self_test_again,
]


@ignores_what_cannot_be_raised
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_each_allocation_fails_once(
    scenario: Callable[[], Awaitable[None]], loop_errors: list[dict[str, Any]]
) -> None:
    await fail_each_allocation(scenario, loop_errors)


@pytest.mark.parametrize("ends", ["well", "badly", "cancelled"])
async def test_no_allocation_that_fails_leaves_a_task_or_hides_an_error(
    ends: str, loop_errors: list[dict[str, Any]]
) -> None:
    assert fail_allocation is not None

    async def child(iterations: int) -> None:
        await settle(iterations)
        ended.append(iterations)

    async def life() -> None:
        async with TaskGroup() as group:
            group.create_task(child(1), name="one")
            if ends == "badly":
                group.create_task(fail(1))
            group.create_task(coro=child(0))
            if ends == "cancelled":
                group.cancel()
            await settle(4)
        ended.append(-1)

    for nth in range(1, 100):
        ended: list[int] = []
        loop_errors.clear()
        task = asyncio.create_task(life())
        fail_allocation(nth)
        await asyncio.wait([task])
        left = fail_allocation(0)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}, nth
        error = None if task.cancelled() else task.exception()
        if left:
            assert (error is not None) == (ends == "badly")
            return
        # It was raised or reported, or the plain path was free and nothing is missing.
        whole = ended == ([0, 1, -1] if ends == "well" else [-1])
        assert error is not None or loop_errors or whole, nth
    pytest.fail("an allocation still failed at the end")


async def test_an_error_that_cannot_be_reported_reaches_the_unraisable_hook(
    loop_errors: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: unraisable.append(about))
    for nth in range(1, 100):
        unraisable.clear()
        loop_errors.clear()
        left, error = await attempt(outlives_its_parent, nth)
        errors = [about.exc_value for about in unraisable]
        errors += [about["exception"] for about in loop_errors]
        assert error or any(isinstance(error, ValueError) for error in errors), nth
        if left:
            break
    unraisable.clear()
    loop_errors.clear()
    assert left


# An exit puts the rest of the calls back into the loop's queue, memory or not.
LOST = """
async def child(i):
    log.append(i)
    if i == 1:
        _core.fail_allocation(int(sys.argv[1]))
        raise KeyboardInterrupt

async def main():
    group = TaskGroup()
    await group.__aenter__()
    for i in range(4):
        group.create_task(child(i))
    await asyncio.sleep(1)
sys.unraisablehook = lambda _: None
loop = asyncio.new_event_loop()
loop.set_exception_handler(lambda *_: None)
task = loop.create_task(main())
for _ in range(2):
    try:
        loop.run_until_complete(asyncio.sleep(0.01))
    except KeyboardInterrupt:
        _core.fail_allocation(0)
"""


@pytest.mark.parametrize("nth", range(1, 9))
def test_an_exit_loses_no_child_when_memory_fails(nth: int) -> None:
    assert play(LOST, nth, CAPTURED).strip() == "[0, 1, 2, 3]"
