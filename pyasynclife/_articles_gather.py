"""The articles' helpers for many coroutines at once, made of `bounded_gather`."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import (
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from typing import Any, TypeVar

from pyasynclife._arguments import (
    check_function,
    check_optional_seconds,
    check_seconds,
    close_unstarted,
    short,
)
from pyasynclife._core import TaskResult
from pyasynclife._gather import bounded_gather
from pyasynclife._states import TaskState

T = TypeVar("T")

Items = Iterable[Any] | AsyncIterable[Any]
_MISSING: Any = ...

# ---------------------------------------------------------------- many items


async def gather_with_error_handling(
    fn: Callable[[Any], Awaitable[T]], items: Items = _MISSING, **options: Any
) -> list[TaskResult[T]]:
    """Run ``fn(item)`` for every item; a failure stops no other item.

    Args:
        fn: An ``async def`` of one argument.
        items: An iterable or an asynchronous one.
        options: Any option of `bounded_gather`, such as ``max_concurrent``.

    Returns:
        One TaskResult for each item, in input order.

    Raises:
        BatchError: More than ``max_errors`` items failed, if that is given.

    Cancelled, it cancels the items and waits for them.

    Source: the articles' ``gather_with_error_handling``.
    """
    _check("gather_with_error_handling", fn, items)
    return list(await bounded_gather(fn, items, **options))


async def gather_with_timeout_and_budget(
    fn: Callable[[Any], Awaitable[T]],
    items: Items = _MISSING,
    timeout: float | None = 5.0,
    max_concurrent: int = 50,
    *,
    budget: float | None = None,
    **options: Any,
) -> dict[str, TaskResult[T]]:
    """Run ``fn(item)`` for every item, with a limit, a timeout and a budget.

    Args:
        fn: An ``async def`` of one argument.
        items: An iterable or an asynchronous one.
        timeout: Seconds for each item; None: no limit.
        max_concurrent: How many items run at once, at most.
        budget: Seconds for all items; then those that have not ended are cancelled,
            and their error is a TimeoutError. None: no limit.
        options: Any other option of `bounded_gather`; ``key`` makes the task ids.

    Returns:
        The results by task id, in input order. Of items with the same id it has the
        last one; pass ``key`` to tell them apart.

    Raises:
        BatchError: More than ``max_errors`` items failed, if that is given.

    Cancelled, it cancels the items, waits for them, and raises CancelledError.

    Source: the articles' ``gather_with_timeout_and_budget``.
    """
    _check("gather_with_timeout_and_budget", fn, items)
    batch = bounded_gather(
        fn,
        items,
        timeout=timeout,
        max_concurrent=max_concurrent,
        budget=budget,
        **options,
    )
    return (await batch).by_id()


async def process_batch_with_deadline(
    fn: Callable[[Any], Awaitable[T]],
    items: Items = _MISSING,
    deadline: float = 30.0,
    **options: Any,
) -> list[T]:
    """Run ``fn(item)`` for every item and return the values that come in time.

    Args:
        fn: An ``async def`` of one argument.
        items: An iterable or an asynchronous one.
        deadline: Seconds for all items; then those that have not ended are cancelled.
        options: Any other option of `bounded_gather`. ``max_errors`` is 0 by default;
            with a higher one the list leaves out the items that failed.

    Returns:
        The values, in input order, of the items that ended before the deadline.

    Raises:
        BatchError: More than ``max_errors`` items failed before the deadline. The
            others were cancelled; its ``result`` has the results of all.

    Cancelled, it cancels the items and waits for them.

    Source: the articles' ``process_batch_with_deadline``.
    """
    _check("process_batch_with_deadline", fn, items)
    options.setdefault("max_errors", 0)
    budget = check_optional_seconds("deadline", deadline, math.inf)
    result = await bounded_gather(fn, items, budget=budget, **options)
    return [one.unwrap() for one in result.successes()]


def _check(name: str, fn: Any, items: Any) -> None:
    """Refuse the articles' way to call these, before anything else."""
    check_function(f"{name}(fetch, urls)", fn, items)
    if items is _MISSING:
        raise TypeError(f"there are no items: {name}(fetch, urls)")


# ---------------------------------------------------------------- race


async def wait_for_first_completion(
    coros: Sequence[Coroutine[Any, Any, T]], timeout: float = 5.0
) -> tuple[int, T]:
    """Run coroutines at once and return the first value; cancel the others.

    Args:
        coros: Coroutines or other awaitables.
        timeout: Seconds to wait for the first; ``math.inf``: no limit.

    Returns:
        The index in ``coros`` of the first to end, and its value.

    Raises:
        TimeoutError: None ended in time.
        Exception: The first to end raised this exception.

    All have ended when it returns, raises or is cancelled. An awaitable that is
    cancelled from elsewhere does not count as the first. Exceptions of the others go
    to the loop's exception handler. For the first *success* see the recipes.

    Source: the articles' ``wait_for_first_completion``.
    """
    entrants = _entrants(coros)
    try:
        seconds = check_seconds("timeout", timeout)
    except BaseException:
        close_unstarted(timeout, *entrants)
        raise

    async def enter(index: int) -> tuple[int, T]:
        return index, await entrants[index]

    ended: list[TaskResult[tuple[int, T]]] = []
    batch = bounded_gather(
        enter,
        range(len(entrants)),
        max_concurrent=len(entrants),
        budget=seconds,
        ordered=False,
        on_result=ended.append,
    )
    result = winner = None
    try:
        async with batch:
            async for result in batch:
                if result.state is not TaskState.CANCELLED and not result.timed_out:
                    winner = result
                    break
    finally:
        close_unstarted(*entrants)
        _report_losers(ended, winner)
    try:
        if winner is not None:
            return winner.unwrap()
        if ended and not any(one.timed_out for one in ended):
            ended[-1].unwrap()  # all were cancelled from elsewhere
        raise TimeoutError(f"none of {len(entrants)} was done within {seconds} s")
    finally:
        entrants.clear()
        del winner, ended, result, batch, coros  # the traceback holds this frame


def _entrants(coros: Any) -> list[Any]:
    """Return the awaitables as a list; refuse a value that is not one."""
    if inspect.isawaitable(coros) or not isinstance(coros, Iterable):
        close_unstarted(coros)
        raise TypeError(
            f"expected coroutines, got {short(coros)}: pass them in a list: "
            "wait_for_first_completion([fetch(a), fetch(b)])"
        )
    entrants = list(coros)
    if not entrants:
        raise ValueError("there is nothing to wait for: coros is empty")
    for entrant in entrants:
        if not inspect.isawaitable(entrant):
            close_unstarted(*entrants)
            raise TypeError(
                f"expected a coroutine, got {short(entrant)}: call the function: "
                "wait_for_first_completion([fetch(a), fetch(b)])"
            )
    return entrants


def _report_losers(
    ended: list[TaskResult[tuple[int, T]]], winner: TaskResult[tuple[int, T]] | None
) -> None:
    """Report the losers' exceptions to the loop: no caller will see them."""
    loop = asyncio.get_running_loop()
    for one in ended:
        if one is not winner and one.state is TaskState.FAILED and not one.timed_out:
            loop.call_exception_handler(
                {
                    "message": f"number {one.index} of wait_for_first_completion() "
                    "failed and was not the first to end",
                    "exception": one.error,
                }
            )
