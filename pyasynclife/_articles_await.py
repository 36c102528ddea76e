"""The articles' helpers for one operation: a time limit, a retry, a shield."""

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

# ---------------------------------------------------------------- a limit, a retry


async def task_with_individual_timeout(coro: Awaitable[T], timeout: float = 10.0) -> T:
    """Await something for so long and no longer.

    Args:
        coro: A coroutine, which runs in the calling task, or another awaitable.
        timeout: Seconds; then it is cancelled and waited for. ``math.inf``: for ever.

    Returns:
        Its value; also if it caught the cancellation and returned one.

    Raises:
        TimeoutError: It was cancelled because its time was up.

    A cancellation of the caller goes to ``coro``, and what that lets pass comes out,
    also if it came before, or in the same turn of the loop.

    Source: the articles' ``task_with_individual_timeout``.
    """
    try:
        check_awaitable("task_with_individual_timeout(fetch(url))", coro)
        seconds = check_seconds("timeout", timeout)
        if getattr(asyncio.current_task(), "_must_cancel", False):
            await asyncio.sleep(0)  # a timeout of 0 would eat it: gh-134471
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
    """Call ``fn()`` and await it, again if it fails, and stop when cancelled.

    Args:
        fn: Called for each attempt: a coroutine can be awaited once only.
        max_retries: How many attempts there are in all, as in the article: 1 or more.
        retry_delay: Seconds between two attempts.
        retry_on: What to try again after; other exceptions come out at once.

    Returns:
        The value of the first attempt that succeeds.

    Raises:
        Exception: That of the last attempt.

    A cancellation, of an attempt or of the wait, is passed on at once and never
    retried. For more than this, exponential waits say, see the recipes.

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


# ---------------------------------------------------------------- a shield


class _Shield:
    """Who waits for an operation: one callback on it, however many they are."""

    __slots__ = ("kept", "waiters")

    def __init__(self, kept: bool) -> None:
        self.kept = kept  # nobody else holds it: until it has ended, we do
        self.waiters: set[asyncio.Future[None]] = set()


_shields: dict[asyncio.Future[Any], _Shield] = {}


async def shielded_operation(aw: Awaitable[T], *, timeout: float | None = None) -> T:
    """Await something that goes on when its caller is cancelled or has waited enough.

    Args:
        aw: A coroutine, which becomes a task and is held until it has ended, or a
            future, any number of callers at once.
        timeout: Seconds to wait for it; None: as long as it takes.

    Returns:
        Its value.

    Raises:
        TimeoutError: It goes on, but ``timeout`` has passed.
        CancelledError: The caller was cancelled, and it goes on; or itself was.

    If it fails when its callers have left, the loop's exception handler is told, once.
    The end of the loop, or whoever cancels all its tasks, ends it too: give such work
    a `TaskRegistry`, whose ``wait()`` lets it end.

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
    """Wait until it has ended or the time is up."""
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
    if shield is not None:  # else the last waiter left as the operation ended
        for waiter in shield.waiters:
            wake(waiter)
