"""bounded_gather: run a function over many items, a limited number at a time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Awaitable, Callable, Hashable, Iterable
from typing import Any, Generic, TypedDict, TypeVar, Unpack, overload

from pyasynclife._arguments import (
    check_count,
    check_flag,
    check_function,
    check_hook,
    check_optional_seconds,
    check_optional_type,
    check_size,
    close_unstarted,
    is_coroutine,
    short,
)
from pyasynclife._batch import Batch
from pyasynclife._core import TaskResult
from pyasynclife._limits import check_limits
from pyasynclife._registry import TaskRegistry
from pyasynclife._retry import Retry

S = TypeVar("S")
T = TypeVar("T")

MISSING: Any = ...  # the default of ``items``, which says more than Python's message


class CommonOptions(TypedDict, Generic[T], total=False):
    """The options that every helper passes on to `bounded_gather`."""

    max_errors: int | None
    cancel_grace: float | None
    ordered: bool
    buffer: int | None
    key: Callable[[Any], str] | None
    on_result: Callable[[TaskResult[T]], object] | None
    task_per_item: bool | None
    registry: TaskRegistry | None
    limit_by: Callable[[Any], Hashable] | None
    max_per_key: int
    lookahead: int
    max_per_second: float | None
    retry: Retry | None


class ItemOptions(CommonOptions[T], Generic[T], total=False):
    """The options of `bounded_gather` but the budget."""

    max_concurrent: int
    timeout: float | None


class BatchOptions(ItemOptions[T], Generic[T], total=False):
    """The options of `bounded_gather`."""

    budget: float | None


@overload
def bounded_gather(
    fn: Callable[[S], Awaitable[TaskResult[T]]],
    items: Iterable[S] | AsyncIterable[S] | asyncio.Queue[S],
    **options: Unpack[BatchOptions[T]],
) -> Batch[T]: ...
@overload
def bounded_gather(
    fn: Callable[[S], Awaitable[T]],
    items: Iterable[S] | AsyncIterable[S] | asyncio.Queue[S],
    **options: Unpack[BatchOptions[T]],
) -> Batch[T]: ...
def bounded_gather(
    fn: Callable[[S], Awaitable[Any]],
    items: Iterable[S] | AsyncIterable[S] | asyncio.Queue[S] = MISSING,
    *,
    max_concurrent: int = 50,
    timeout: float | None = None,
    budget: float | None = None,
    max_errors: int | None = None,
    cancel_grace: float | None = None,
    ordered: bool = True,
    buffer: int | None = None,
    key: Callable[[Any], str] | None = None,
    on_result: Callable[[TaskResult[Any]], object] | None = None,
    task_per_item: bool | None = None,
    registry: TaskRegistry | None = None,
    limit_by: Callable[[Any], Hashable] | None = None,
    max_per_key: int = 1,
    lookahead: int = 1000,
    max_per_second: float | None = None,
    retry: Retry | None = None,
) -> Batch[Any]:
    """Run ``fn(item)`` for every item, at most ``max_concurrent`` at once.

    Nothing runs before the batch is awaited, iterated or entered (``async with``).

    Args:
        fn: An ``async def`` of one argument, or any function that returns an
            awaitable. It is called only when fewer than ``max_concurrent`` items are
            running. If it returns a `TaskResult`, the item's result takes task_id,
            success, data and error from it.
        items: An iterable, which is read lazily, or an asynchronous one, which one
            task reads. If the batch ends early, a generator or an asynchronous source
            is closed; an open file or a cursor is not.
        max_concurrent: The maximum number of items that run at once.
        timeout: Seconds for each item, from the first call of ``fn``; None: no limit.
            The delays between the attempts of a ``retry`` count; waiting for a slot,
            for ``limit_by`` or for ``max_per_second`` does not.
        budget: Seconds for the whole batch, from its start. Items that have not ended
            by then are cancelled. None: no limit.
        max_errors: How many items may fail, including timeouts, before the others are
            cancelled; 0: stop at the first failure; None: any number.
        cancel_grace: Seconds that an item has to stop after it is cancelled or times
            out. An item that does not stop is abandoned: its state is RUNNING, the next
            item takes its place, and the batch ends without it. Its task is held until
            it ends, and its exception is reported as for any task. None: no limit.
        ordered: True: an iteration yields results in input order; False: as the items
            end.
        buffer: How many results may wait for a slow consumer of an iteration; None:
            twice ``max_concurrent``.
        key: Called with an item; returns its task id, a non-empty str.
        on_result: Called with the TaskResult of each item when the item ends. Its
            exceptions go to the loop's exception handler. A block (``async with``) that
            neither awaits nor iterates keeps no results then.
        task_per_item: Run each item in an ``asyncio.Task`` of its own, named by its
            task id, for code that depends on the current task. Nothing else changes.
            None: do so if the loop has a task factory when the batch begins, unless it
            is asyncio's eager one. With one, Sentry and others keep a scope per Task.
        registry: Register the task of each item under its task id; implies
            ``task_per_item``. If another task with this id is alive, the item fails
            with DuplicateTaskError and ``fn`` is not called. When the registry shuts
            down, the batch ends as if it were cancelled. Each attempt of a ``retry`` is
            a task of its own, with the same id.
        limit_by: Called with an item; returns its key, any hashable value, such as the
            host of a URL. At most ``max_per_key`` items of one key run at once. An item
            whose key is full is set aside, without a slot or a task, and others start
            meanwhile. It starts when its key has room: the oldest item of a key first,
            and the keys in turn. The key None has no limit. If ``limit_by`` raises, or
            the key is not hashable, that item fails and ``fn`` is not called.
        max_per_key: The maximum number of items of one key that run at once; 1 by
            default.
        lookahead: How many items may be set aside. When that many are, the source is
            not read further until one of them starts.
        max_per_second: The maximum rate at which ``fn`` is called, retries included;
            None: no limit. The calls are spaced evenly, and there is no burst after
            idle time. A timer that fires up to 10 ms late is made up for.
        retry: When and how often a failed item is tried again. Meanwhile it holds no
            slot and no place of its key. Only the last attempt counts: for
            ``max_errors``, ``on_result`` and the progress. See `Retry`.

    Returns:
        The batch. Await it for all results; or iterate over it (``async for``) to
        receive each result and keep none; or enter it (``async with``), so that no item
        outlives the block.

    Raises:
        TypeError, ValueError: An argument is wrong. Nothing has been read or started.

    If the caller is cancelled while it awaits the batch, so are the items; the
    CancelledError propagates when they have ended.

    Example::

        batch = await bounded_gather(fetch, urls, max_concurrent=20, timeout=5.0)
        pages = batch.values()
    """
    check_call("bounded_gather", fn, items)
    kind = check_items(items)
    limit = check_count("max_concurrent", max_concurrent, 1)
    check_hook("key", key)
    check_hook("on_result", on_result)
    check_optional_type("registry", registry, TaskRegistry)
    limits = check_limits(limit_by, max_per_key, lookahead, max_per_second, retry)
    return Batch._create(
        fn,
        items,
        kind=kind,
        max_concurrent=limit,
        timeout=check_optional_seconds("timeout", timeout, math.inf),
        budget=check_optional_seconds("budget", budget, math.inf),
        max_errors=-1 if max_errors is None else check_size("max_errors", max_errors),
        cancel_grace=check_optional_seconds("cancel_grace", cancel_grace, math.inf),
        ordered=check_flag("ordered", ordered),
        buffer=-1 if buffer is None else check_size("buffer", buffer),
        key=key,
        on_result=on_result,
        task_per_item=_check_task_per_item(task_per_item, registry),
        registry=registry,
        limits=limits,
    )


def _check_task_per_item(
    value: bool | None, registry: TaskRegistry | None
) -> bool | None:
    chosen = None if value is None else check_flag("task_per_item", value)
    return chosen if registry is None else True


def check_call(name: str, fn: Any, items: Any) -> None:
    """Refuse a call with coroutines, as asyncio and the articles make it.

    Raises:
        TypeError: The first argument is no function, or there are no items. The
            message shows the right call, and unstarted coroutines are closed.
    """
    check_function(f"{name}(fetch, urls)", fn, items)
    if items is MISSING:
        raise TypeError(f"there are no items: {name}(fetch, urls)")


def check_items(items: Any) -> int:
    """Refuse items that cannot be read.

    Returns:
        What the core calls their kind: 0 for an iterable, 1 for an asynchronous one,
        2 for a queue.
    """
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(
            f"items is {short(items)}, whose characters would be the items: wrap it "
            "in a list"
        )
    if is_coroutine(items):
        close_unstarted(items)
        raise TypeError(
            "items is a coroutine: await it first, or pass the function and its "
            "arguments: bounded_gather(fetch, urls)"
        )
    if isinstance(items, AsyncIterable):
        return 1
    if isinstance(items, asyncio.Queue):
        return 2
    if not isinstance(items, Iterable) and not hasattr(type(items), "__getitem__"):
        raise TypeError(
            "items must be iterable (a list, a generator, an async generator), or an "
            f"asyncio.Queue, got {short(items)}"
        )
    first = None
    if type(items) in (list, tuple, set, frozenset, dict) and items:
        first = next(iter(items.values() if type(items) is dict else items))
    if is_coroutine(first):
        close_unstarted(items)
        raise TypeError(
            "the items are coroutines, which bounded_gather makes itself: pass "
            "the function and its arguments, bounded_gather(fetch, urls) instead of "
            "[fetch(url) for url in urls]"
        )
    return 0
