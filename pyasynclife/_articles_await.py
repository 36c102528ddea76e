"""The articles' helpers for one awaitable: a timeout, a retry, a shield.

docs/how-to/helpers.md names the articles, and the bugs that are fixed here.
"""

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
    check_loop,
    check_optional_seconds,
    check_seconds,
    close_unstarted,
    short,
)
from pyasynclife._core_fast_paths import add_awaited_by, discard_awaited_by
from pyasynclife._held_futures import HeldFutures
from pyasynclife._waiting import wake

T = TypeVar("T")

# ---------------------------------------------------------------- timeout and retry


async def task_with_individual_timeout(coro: Awaitable[T], timeout: float = 10.0) -> T:
    """Await a coroutine for a limited time.

    Args:
        coro: A coroutine, which runs in the calling task, or another awaitable.
        timeout: Seconds after which ``coro`` is cancelled; its end is awaited.
            ``math.inf``: no limit.

    Returns:
        The value of ``coro``, even if it caught the cancellation before returning.

    Raises:
        TimeoutError: The timeout expired and cancelled ``coro``.

    If the caller is cancelled, so is ``coro``; unless ``coro`` catches it, the
    CancelledError propagates. This is also true of a cancellation requested before the
    call, or in the loop iteration in which the timeout expires.
    """
    try:
        check_awaitable("task_with_individual_timeout(fetch(url))", coro)
        seconds = check_seconds("timeout", timeout)
        if getattr(asyncio.current_task(), "_must_cancel", False):
            await asyncio.sleep(0)  # a timeout of 0 would swallow it: gh-134471
        scope = asyncio.timeout(None if seconds == math.inf else seconds)
    except BaseException:
        close_unstarted(coro)
        raise
    try:
        async with scope:
            return await coro
    except TimeoutError as error:
        if not scope.expired() or error.args:
            raise
        raise TimeoutError(f"not done within {seconds} s") from error.__cause__
    finally:
        del coro  # the traceback holds this frame, which must not hold a task


async def cancellation_with_retry(
    fn: Callable[[], Awaitable[T]],
    max_retries: int = 3,
    retry_delay: float = 1.0,
    *,
    retry_on: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> T:
    """Await ``fn()``, and try again if it fails; never retry a cancellation.

    Args:
        fn: Called once per attempt, since a coroutine can be awaited only once.
        max_retries: The total number of attempts, including the first; at least 1.
        retry_delay: Seconds between two attempts.
        retry_on: The exceptions to retry after; any other propagates at once.

    Returns:
        The value of the first attempt that succeeds.

    Raises:
        Exception: The exception of the last attempt.

    A cancellation during an attempt or a delay propagates at once. The recipes show
    more, such as exponential delays.
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
        self.kept = kept  # hold the operation until it has ended
        self.waiters: set[asyncio.Future[None]] = set()


_shields: HeldFutures[_Shield] = HeldFutures()


async def shielded_operation(aw: Awaitable[T], *, timeout: float | None = None) -> T:
    """Await an operation that continues if its caller is cancelled or times out.

    Args:
        aw: A coroutine, which becomes a task that is held until it has ended; or a
            future, which any number of callers may await at once.
        timeout: Seconds to wait; None: no limit.

    Returns:
        The value of the operation.

    Raises:
        TimeoutError: The timeout expired; the operation continues.
        CancelledError: The caller was cancelled, and the operation continues; or the
            operation itself was cancelled.

    If the operation fails when no caller is waiting any more, the loop's exception
    handler is called once. ``asyncio.run`` cancels the operation at its end, like all
    tasks. To let it finish, register it in a `TaskRegistry` and await ``wait()``.
    """
    try:
        check_awaitable("shielded_operation(save(order))", aw)
        seconds = check_optional_seconds("timeout", timeout, math.inf)
    except BaseException:
        close_unstarted(aw)
        raise
    loop = asyncio.get_running_loop()
    operation = asyncio.ensure_future(aw)
    check_loop(operation, loop)
    try:
        if not operation.done():
            await _wait_shielded(operation, operation is not aw, seconds)
        if operation.done():
            return operation.result()
        raise TimeoutError(f"not done within {seconds} s: it continues")
    finally:
        del aw, operation  # the traceback holds this frame


async def _wait_shielded(
    operation: asyncio.Future[Any], made: bool, seconds: float
) -> None:
    """Wait until the operation has ended or the timeout has expired."""
    loop = asyncio.get_running_loop()
    shield = _shields.get(operation)
    if shield is None:
        shield = _Shield(made)
        _shields.hold(operation, shield)
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
        if not shield.waiters and not shield.kept and _shields.release(operation):
            operation.remove_done_callback(_release)
        del operation, shield  # the traceback of a cancellation holds this frame


def _release(operation: asyncio.Future[Any]) -> None:
    shield = _shields.release(operation)
    if shield is not None:  # else the last waiter left when the operation ended
        for waiter in shield.waiters:
            wake(waiter)
