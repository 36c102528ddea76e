"""bounded_gather: run a function over many items, a bounded number at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from pyasynclife._arguments import (
    check_count,
    check_function,
    check_hook,
    check_optional_seconds,
    check_size,
    short,
)
from pyasynclife._batch import Batch
from pyasynclife._core import TaskResult
from pyasynclife._registry import TaskRegistry

T = TypeVar("T")


def bounded_gather(
    fn: Callable[[Any], Awaitable[T]],
    items: Iterable[Any] | AsyncIterable[Any],
    *,
    max_concurrent: int = 50,
    timeout: float | None = None,
    budget: float | None = None,
    max_errors: int | None = None,
    cancel_grace: float | None = None,
    ordered: bool = True,
    buffer: int | None = None,
    key: Callable[[Any], str] | None = None,
    on_result: Callable[[TaskResult[T]], object] | None = None,
    task_per_item: bool = False,
    registry: TaskRegistry | None = None,
) -> Batch[T]:
    """Run ``fn(item)`` for every item, at most ``max_concurrent`` at once.

    Nothing runs before the batch is awaited, iterated or entered.

    Args:
        fn: What to run: an ``async def`` of one argument, or anything that returns an
            awaitable. Called only when there is room for its item. It may return a
            `TaskResult`, from which task_id, success, data and error are then taken.
        items: Any iterable, read lazily, or an asynchronous one, read by one task.
        max_concurrent: How many items run at once, at most.
        timeout: Seconds for each item, from the call of ``fn``.
        budget: Seconds for all items, from the start; then the rest is cancelled.
        max_errors: How many items may fail, timeouts among them, before the rest is
            cancelled; 0: stop at the first. None: any number.
        cancel_grace: How many seconds an item that was cancelled, also for its timeout,
            has to stop. One that does not has state RUNNING, its place is taken by the
            next, and the batch ends without it; its task is held until it ends, and
            what it then fails with is reported as of any task. None: however long.
        ordered: Whether an iteration is in input order, or as items end.
        buffer: How many results may wait for a slow consumer of an iteration; twice
            ``max_concurrent`` by default.
        key: The task id of an item, a non-empty str.
        on_result: Called with the TaskResult of each item as it ends. What it raises
            goes to the loop's exception handler.
        task_per_item: Give each item an ``asyncio.Task`` of its own, named by its task
            id, for what is keyed by the current task. The same in all else.
        registry: Register the item's task in it, under its task id; implies
            ``task_per_item``. An item whose id a living task has fails with
            DuplicateTaskError; its function is not called.

    Returns:
        The batch: await it for all results, or iterate it (``async for``) to have
        each and keep none, or enter it (``async with``) so that what is left when the
        block is left is cancelled and waited for.

    Raises:
        TypeError, ValueError: For what cannot work, before anything has started.

    Example::

        batch = await bounded_gather(fetch, urls, max_concurrent=20, timeout=5.0)
        pages = batch.values()

    Source: the articles' ``gather_with_timeout_and_budget``.
    """
    check_function("bounded_gather(fetch, urls)", fn)
    is_async = _check_items(items)
    limit = check_count("max_concurrent", max_concurrent, 1)
    check_hook("key", key)
    check_hook("on_result", on_result)
    if registry is not None and not isinstance(registry, TaskRegistry):
        raise TypeError(
            f"registry must be a TaskRegistry or None, got {short(registry)}"
        )
    return Batch._create(
        fn,
        items,
        is_async=is_async,
        max_concurrent=limit,
        timeout=check_optional_seconds("timeout", timeout, math.inf),
        budget=check_optional_seconds("budget", budget, math.inf),
        max_errors=-1 if max_errors is None else check_size("max_errors", max_errors),
        cancel_grace=check_optional_seconds("cancel_grace", cancel_grace, math.inf),
        ordered=bool(ordered),
        buffer=-1 if buffer is None else check_size("buffer", buffer),
        key=key,
        on_result=on_result,
        task_per_item=bool(task_per_item) or registry is not None,
        registry=registry,
    )


def _check_items(items: Any) -> bool:
    """Refuse items that cannot be read; tell whether they are asynchronous."""
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(
            f"items is {short(items)}, which would be run letter by letter: wrap it "
            "in a list"
        )
    if inspect.iscoroutine(items):
        items.close()
        raise TypeError(
            "items is a coroutine: await it first, or pass the function and its "
            "arguments: bounded_gather(fetch, urls)"
        )
    if isinstance(items, AsyncIterable):
        return True
    if not isinstance(items, Iterable) and not hasattr(type(items), "__getitem__"):
        raise TypeError(
            f"items must be iterable (a list, a generator, an async generator), got "
            f"{short(items)}"
        )
    first = None
    if type(items) in (list, tuple, set, frozenset, dict) and items:
        first = next(iter(items.values() if type(items) is dict else items))
    if inspect.iscoroutine(first):
        first.close()
        raise TypeError(
            "the items are coroutines, which bounded_gather makes itself: pass "
            "the function and its arguments, bounded_gather(fetch, urls) for "
            "[fetch(url) for url in urls]"
        )
    return False
