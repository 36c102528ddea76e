"""Every allocation fails once: those that no ordinary use comes by.

registry/test_faults.py has the registry's, batch/test_faults.py a batch's.
"""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import TaskRegistry, TaskResult, _core, bounded_gather
from support.coroutines import echo_later, forever
from support.faults import fail_allocation, needs_faults
from support.loops import settle

pytestmark = needs_faults

core: Any = _core


class Name(str):
    """A task id that is no exact str."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise LookupError("str")


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


async def makes_a_registry() -> None:
    TaskRegistry(history=1)


async def speaks_of_itself() -> None:
    inside: list[Any] = []
    result = TaskResult("a", True, inside)
    inside.append(result)
    try:
        assert "TaskResult(...)" in repr(result)
    finally:
        inside.clear()


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


SCENARIOS: list[Callable[[], Awaitable[None]]] = [
    closes_an_awaitable,
    tells_of_the_unspeakable,
    calls_back_in_the_midst,
    names_its_items,
    closes_a_worker,
    makes_a_registry,
    speaks_of_itself,
    reads_a_handler,
    makes_methods_its_own,
    ends_before_all_was_begun,
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
