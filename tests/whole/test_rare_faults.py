"""Every allocation fails once: those that no ordinary use comes by.

registry/test_faults.py has the registry's, batch/test_faults.py a batch's.
"""

import asyncio
import gc
import importlib.util
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry, _core
from support.coroutines import echo_later, forever
from support.faults import fail_allocation, needs_faults
from support.loops import settle

pytestmark = needs_faults

core: Any = _core


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise LookupError("str")


async def fails() -> None:
    raise ValueError("no price")


async def closes_an_awaitable() -> None:
    registry = TaskRegistry()
    task, _ = registry.register(forever()).result()
    waiting = registry.wait(5)
    try:
        waiting.close()
    finally:
        waiting.close()
        task.cancel()


async def tells_of_the_unspeakable() -> None:
    async def raises() -> None:
        raise Unspeakable

    registry = TaskRegistry()
    registry.register(raises(), "mute")
    await settle()
    assert registry["mute"].error_text in ("Unspeakable: <str() failed>", None)


async def makes_a_registry() -> None:
    TaskRegistry(history=1)


async def reads_a_handler() -> None:
    handler = core.SignalHandler(signal.SIGUSR1, None, bool)
    handler.arm(False)
    handler(signal.SIGUSR1, None)
    try:
        assert handler.count
        assert handler.since
        assert handler.signum == signal.SIGUSR1
        assert handler.take() == 1
    finally:
        handler.disarm()


async def makes_methods_its_own() -> None:
    type("Own", (core.Registry,), {})
    core.adopt_methods(type("Own", (core.Registry,), {}))


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
    closes_an_awaitable,
    tells_of_the_unspeakable,
    makes_a_registry,
    reads_a_handler,
    makes_methods_its_own,
    shows_a_group,
    outlives_its_parent,
    calls_back_behind_the_group,
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
