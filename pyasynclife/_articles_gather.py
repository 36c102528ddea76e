"""The articles' helpers for many coroutines at once, built on `bounded_gather`.

docs/how-to/helpers.md names the articles, and the bugs that are fixed here.
"""

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
from typing import Any, TypeVar, Unpack, overload

from pyasynclife._arguments import (
    check_optional_seconds,
    check_seconds,
    close_unstarted,
    short,
)
from pyasynclife._core import TaskResult
from pyasynclife._gather import (
    MISSING,
    BatchOptions,
    CommonOptions,
    ItemOptions,
    bounded_gather,
    check_call,
    check_items,
)
from pyasynclife._states import TaskState

S = TypeVar("S")
T = TypeVar("T")

# ---------------------------------------------------------------- many items


@overload
async def gather_with_error_handling(
    fn: Callable[[S], Awaitable[TaskResult[T]]],
    items: Iterable[S] | AsyncIterable[S],
    **options: Unpack[BatchOptions[T]],
) -> list[TaskResult[T]]: ...
@overload
async def gather_with_error_handling(
    fn: Callable[[S], Awaitable[T]],
    items: Iterable[S] | AsyncIterable[S],
    **options: Unpack[BatchOptions[T]],
) -> list[TaskResult[T]]: ...
async def gather_with_error_handling(
    fn: Callable[[S], Awaitable[Any]],
    items: Iterable[S] | AsyncIterable[S] = MISSING,
    **options: Unpack[BatchOptions[Any]],
) -> list[TaskResult[Any]]:
    """Run ``fn(item)`` for every item; a failure does not stop the other items.

    Args:
        fn: An ``async def`` of one argument.
        items: An iterable or an asynchronous one.
        options: Any option of `bounded_gather`, such as ``max_concurrent``.

    Returns:
        One TaskResult for each item, in input order.

    Raises:
        BatchError: ``max_errors`` was given, and more items than that failed.

    If the caller is cancelled, so are the items; the CancelledError propagates when
    they have ended.
    """
    check_call("gather_with_error_handling", fn, items)
    return list(await bounded_gather(fn, items, **options))


@overload
async def gather_with_timeout_and_budget(
    fn: Callable[[S], Awaitable[TaskResult[T]]],
    items: Iterable[S] | AsyncIterable[S],
    timeout: float | None = 5.0,
    max_concurrent: int = 50,
    *,
    budget: float | None = None,
    **options: Unpack[CommonOptions[T]],
) -> dict[str, TaskResult[T]]: ...
@overload
async def gather_with_timeout_and_budget(
    fn: Callable[[S], Awaitable[T]],
    items: Iterable[S] | AsyncIterable[S],
    timeout: float | None = 5.0,
    max_concurrent: int = 50,
    *,
    budget: float | None = None,
    **options: Unpack[CommonOptions[T]],
) -> dict[str, TaskResult[T]]: ...
async def gather_with_timeout_and_budget(
    fn: Callable[[S], Awaitable[Any]],
    items: Iterable[S] | AsyncIterable[S] = MISSING,
    timeout: float | None = 5.0,
    max_concurrent: int = 50,
    *,
    budget: float | None = None,
    **options: Unpack[CommonOptions[Any]],
) -> dict[str, TaskResult[Any]]:
    """Run ``fn(item)`` for every item, with a limit, a timeout and a budget.

    Args:
        fn: An ``async def`` of one argument.
        items: An iterable or an asynchronous one.
        timeout: Seconds for each item; None: no limit.
        max_concurrent: The maximum number of items that run at once.
        budget: Seconds for the whole batch. Items that have not ended by then are
            cancelled, and their error is a TimeoutError. None: no limit.
        options: Any other option of `bounded_gather`; ``key`` makes the task ids.

    Returns:
        The results by task id, in input order. If several items have the same id, only
        the last one is included; pass ``key`` to tell them apart.

    Raises:
        BatchError: ``max_errors`` was given, and more items than that failed.

    If the caller is cancelled, so are the items; the CancelledError propagates when
    they have ended.
    """
    check_call("gather_with_timeout_and_budget", fn, items)
    batch = bounded_gather(
        fn,
        items,
        timeout=timeout,
        max_concurrent=max_concurrent,
        budget=budget,
        **options,
    )
    return (await batch).by_id()


@overload
async def process_batch_with_deadline(
    fn: Callable[[S], Awaitable[TaskResult[T]]],
    items: Iterable[S] | AsyncIterable[S],
    deadline: float = 30.0,
    **options: Unpack[ItemOptions[T]],
) -> list[T]: ...
@overload
async def process_batch_with_deadline(
    fn: Callable[[S], Awaitable[T]],
    items: Iterable[S] | AsyncIterable[S],
    deadline: float = 30.0,
    **options: Unpack[ItemOptions[T]],
) -> list[T]: ...
async def process_batch_with_deadline(
    fn: Callable[[S], Awaitable[Any]],
    items: Iterable[S] | AsyncIterable[S] = MISSING,
    deadline: float = 30.0,
    **options: Unpack[ItemOptions[Any]],
) -> list[Any]:
    """Run ``fn(item)`` for every item and return the values that are ready in time.

    Args:
        fn: An ``async def`` of one argument.
        items: An iterable or an asynchronous one.
        deadline: Seconds for the whole batch. Items that have not ended by then are
            cancelled.
        options: Any other option of `bounded_gather`. ``max_errors`` is 0 by default;
            with a higher value the list omits the items that failed.

    Returns:
        The values, in input order, of the items that ended before the deadline.

    Raises:
        BatchError: More than ``max_errors`` items failed before the deadline. The
            others were cancelled; its ``result`` has the results of all.

    If the caller is cancelled, so are the items; the CancelledError propagates when
    they have ended.
    """
    check_call("process_batch_with_deadline", fn, items)
    check_items(items)
    if "budget" in options:
        raise TypeError("budget is called deadline by process_batch_with_deadline()")
    options.setdefault("max_errors", 0)
    budget = check_optional_seconds("deadline", deadline, math.inf)
    result = await bounded_gather(fn, items, budget=budget, **options)
    return [one.unwrap() for one in result.successes()]


# ---------------------------------------------------------------- race


async def wait_for_first_completion(
    coros: Sequence[Coroutine[Any, Any, T]], timeout: float = 5.0
) -> tuple[int, T]:
    """Run coroutines concurrently, return the first value and cancel the others.

    Args:
        coros: Coroutines or other awaitables.
        timeout: Seconds to wait for the first to end; ``math.inf``: no limit.

    Returns:
        The index in ``coros`` of the first to end, and its value.

    Raises:
        TimeoutError: None ended before the timeout.
        Exception: The exception of the first to end, if it failed.

    If the caller is cancelled, so are the coroutines. In every case all of them have
    ended when the call ends. A coroutine that is cancelled from elsewhere does not
    count as the first. The others' exceptions go to the loop's exception handler. The
    recipes show how to wait for the first *success*.
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
        raise TimeoutError(f"none of {len(entrants)} ended within {seconds} s")
    finally:
        entrants.clear()
        del winner, ended, result, batch, coros  # the traceback holds this frame


def _entrants(coros: Any) -> list[Any]:
    """Return the awaitables as a list; refuse an item that is not awaitable."""
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
                    "message": f"coroutine {one.index} of wait_for_first_completion() "
                    "failed, but was not the first to end",
                    "exception": one.error,
                }
            )
