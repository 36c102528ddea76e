"""The articles' helpers for one awaitable: a timeout, a retry, a shield."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pyasynclife._arguments import (
    check_awaitable,
    check_count,
    check_function,
    check_optional_seconds,
    check_seconds,
    close_unstarted,
    short,
)
from pyasynclife._core_support import add_awaited_by, discard_awaited_by
from pyasynclife._waiting import wake

T = TypeVar("T")

# ---------------------------------------------------------------- timeout and retry


async def task_with_individual_timeout(coro: Awaitable[T], timeout: float = 10.0) -> T:
    """Await something for a limited time.

    Args:
        coro: A coroutine, which runs in the calling task, or another awaitable.
        timeout: Seconds; then ``coro`` is cancelled and awaited. ``math.inf``: no
            limit.

    Returns:
        The value of ``coro``, also if it caught the cancellation and returned one.

    Raises:
        TimeoutError: ``coro`` was cancelled because its time was up.

    If the caller is cancelled, so is ``coro``; unless ``coro`` catches it, the
    CancelledError propagates. That holds for a cancellation from before the call, and
    from the loop iteration of the timeout, too.

    Source: the articles' ``task_with_individual_timeout``.
    """
    try:
        check_awaitable("task_with_individual_timeout(fetch(url))", coro)
        seconds = check_seconds("timeout", timeout)
        if getattr(asyncio.current_task(), "_must_cancel", False):
            await asyncio.sleep(0)  # a timeout of 0 would swallow it: gh-134471
    except BaseException:
        close_unstarted(coro)
        raise
    try:
        async with asyncio.timeout(None if seconds == math.inf else seconds) as scope:
            return await coro
    except TimeoutError as error:
        if not scope.expired() or error.args:
            raise
        raise TimeoutError(f"not done within {seconds} s") from error.__cause__
    finally:
        del coro  # if it is a task, the traceback holds this frame, and it the task


async def cancellation_with_retry(
    fn: Callable[[], Awaitable[T]],
    max_retries: int = 3,
    retry_delay: float = 1.0,
    *,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> T:
    """Call ``fn()`` and await it, again if it fails; never retry a cancellation.

    Args:
        fn: Called for each attempt, since a coroutine can be awaited only once.
        max_retries: The number of all attempts, as in the article; at least 1.
        retry_delay: Seconds between two attempts.
        retry_on: The exceptions to retry after; others propagate at once.

    Returns:
        The value of the first attempt that succeeds.

    Raises:
        Exception: The exception of the last attempt.

    A cancellation of an attempt or of the delay propagates at once. For more, such as
    exponential delays, see the recipes.

    Source: the articles' ``cancellation_with_retry``.
    """
    call = "cancellation_with_retry(fetch), or lambda: fetch(url)"
    check_function(call, fn)
    attempts = check_count("max_retries", max_retries, 1)
    delay = check_seconds("retry_delay", retry_delay)
    for kind in retry_on if isinstance(retry_on, tuple) else (retry_on,):
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(
                "retry_on must be an Exception class or a tuple of them, got "
                f"{short(kind)}: a cancellation is never retried"
            )
    for attempt in range(1, attempts + 1):
        try:
            awaitable = fn()
            if inspect.isawaitable(awaitable):
                return await awaitable
        except retry_on:
            if attempt == attempts:
                raise
        else:
            raise TypeError(f"fn returned {short(awaitable)}, which cannot be awaited")
        await asyncio.sleep(delay)
    raise AssertionError("unreachable")


# ---------------------------------------------------------------- shield


class _Shield:
    """The waiters of an operation, which share one done callback."""

    __slots__ = ("kept", "waiters")

    def __init__(self, kept: bool) -> None:
        self.kept = kept  # we hold the operation until it has ended
        self.waiters: set[asyncio.Future[None]] = set()


_shields: dict[asyncio.Future[Any], _Shield] = {}


async def shielded_operation(aw: Awaitable[T], *, timeout: float | None = None) -> T:
    """Await an operation that goes on when its caller is cancelled or times out.

    Args:
        aw: A coroutine, which becomes a task that is held until it has ended; or a
            future, for any number of callers at once.
        timeout: Seconds to wait; None: no limit.

    Returns:
        The value of the operation.

    Raises:
        TimeoutError: ``timeout`` has passed; the operation goes on.
        CancelledError: The caller was cancelled, and the operation goes on; or the
            operation was cancelled.

    If the operation fails after all callers have left, the loop's exception handler is
    called, once. ``asyncio.run`` cancels it at its end, like all tasks. Register it in
    a `TaskRegistry` and await ``wait()`` to let it finish.

    Source: the articles' ``shielded_operation``.
    """
    try:
        check_awaitable("shielded_operation(save(order))", aw)
        seconds = check_optional_seconds("timeout", timeout, math.inf)
    except BaseException:
        close_unstarted(aw)
        raise
    loop = asyncio.get_running_loop()
    operation = asyncio.ensure_future(aw)
    if operation.get_loop() is not loop:
        raise RuntimeError(f"{operation!r} belongs to another loop than {loop!r}")
    try:
        if not operation.done():
            await _wait_shielded(operation, operation is not aw, seconds)
        if operation.done():
            return operation.result()
        raise TimeoutError(f"not done within {seconds} s: it goes on")
    finally:
        del aw, operation  # the traceback holds this frame


async def _wait_shielded(
    operation: asyncio.Future[Any], made: bool, seconds: float
) -> None:
    """Wait until the operation has ended or the time is up."""
    loop = asyncio.get_running_loop()
    shield = _shields.get(operation)
    if shield is None:
        shield = _shields[operation] = _Shield(made)
        operation.add_done_callback(_release)
    waiter: asyncio.Future[None] = loop.create_future()
    shield.waiters.add(waiter)
    timer = None if seconds == math.inf else loop.call_later(seconds, wake, waiter)
    caller = asyncio.current_task()
    if add_awaited_by is not None:
        add_awaited_by(operation, caller)
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()
        if discard_awaited_by is not None:
            discard_awaited_by(operation, caller)
        shield.waiters.discard(waiter)
        if not shield.waiters and not shield.kept and operation in _shields:
            del _shields[operation]
            operation.remove_done_callback(_release)
        del operation, shield  # the traceback of a cancellation holds this frame


def _release(operation: asyncio.Future[Any]) -> None:
    shield = _shields.pop(operation, None)
    if shield is not None:  # else the last waiter left when the operation ended
        for waiter in shield.waiters:
            wake(waiter)
