"""Allocations of the core that fail on purpose.

Only a build with PYASYNCLIFE_FAULTS has fault points; tools/sanitize.sh makes one.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyasynclife import TaskResult, _core
from support.loops import settle

fail_allocation: Callable[[int], int] | None = getattr(_core, "fail_allocation", None)
needs_faults = pytest.mark.skipif(fail_allocation is None, reason="no fault points")


def forget_last_memory_error() -> None:
    """Drop the traceback of the one that CPython raises when no spare one is left."""
    held: list[MemoryError] = []
    for _ in range(20 if fail_allocation else 0):  # more than there are spare ones
        with failing(1):
            try:
                TaskResult("a", True)
            except MemoryError as error:
                held.append(error.with_traceback(None))
    for error in held:
        error.__context__ = None


@contextmanager
def failing(nth: int) -> Iterator[list[int]]:
    """The nth allocation from here fails; the list gets how many were still to come."""
    assert fail_allocation is not None
    left: list[int] = []
    fail_allocation(nth)
    try:
        yield left
    finally:
        left.append(fail_allocation(0))


async def attempt(
    scenario: Callable[[], Awaitable[None]], nth: int
) -> tuple[int, Exception | None]:
    """Run it with the nth allocation failing; what is left to count, and its error."""
    error = None
    with failing(nth) as left:
        try:
            async with asyncio.timeout(10):
                await scenario()
        except Exception as failed:
            error = failed.with_traceback(None)
    await settle(8)
    assert asyncio.all_tasks() == {asyncio.current_task()}, nth
    return left[0], error


def is_no_memory(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_no_memory, error.exceptions))
    return isinstance(error, MemoryError)


async def fail_each_allocation(
    scenario: Callable[[], Awaitable[None]], loop_errors: list[dict[str, Any]]
) -> None:
    """Run a scenario once for each of its allocations, and let that one fail."""
    _, error = await attempt(scenario, 0)
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


def ignores_what_cannot_be_raised(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test of failing allocations: some errors can only be written to stderr."""
    for warning in (
        "ignore:coroutine .* was never awaited:RuntimeWarning",
        "ignore:.*:pytest.PytestUnraisableExceptionWarning",
    ):
        test = pytest.mark.filterwarnings(warning)(test)
    return test
