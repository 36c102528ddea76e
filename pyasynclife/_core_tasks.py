"""Task factories, and what becomes of Tasks and their coroutines.

The native core imports them by name, from the table in csrc/base/state.h: change both
together, and remove no name because no Python code uses it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Coroutine
from types import FunctionType
from typing import Any


def has_foreign_factory(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a loop has a task factory that is not asyncio's eager one."""
    factory = _task_factory(loop)
    return factory is not None and not _is_eager(factory)


def eager_factory_type(loop: asyncio.AbstractEventLoop) -> Any:
    """Return what a loop's eager task factory calls to make a task.

    None: the task factory is not one of asyncio's eager ones. Before 3.13.3 these do
    not take ``eager_start=False``.
    """
    factory = _task_factory(loop)
    if not _is_eager(factory):
        return None
    return inspect.getclosurevars(factory).nonlocals["custom_task_constructor"]


def _task_factory(loop: asyncio.AbstractEventLoop) -> Any:
    try:
        return loop.get_task_factory()
    except NotImplementedError:
        return None


def _is_eager(factory: Any) -> bool:
    """Tell whether a task factory is one of those that asyncio makes."""
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    return (
        isinstance(eager, FunctionType)
        and type(factory) is FunctionType
        and factory.__code__ is eager.__code__
    )


def close_with(task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine at the end of a task, if it has not been started by then.

    A task factory may wrap a coroutine in one of its own. If that is cancelled before
    its first step, it never awaits the inner one, and Python warns of that.
    """
    task.add_done_callback(functools.partial(_close_unstarted, coro))


def _close_unstarted(coro: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
    if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        coro.close()


def cancel_again(task: asyncio.Task[Any]) -> None:
    """Cancel a task once more if a cancellation that it received is still in effect.

    A cancellation is no longer in effect after ``uncancel()``. If another cancellation
    is pending already, nothing is done.
    """
    waiter: Any = getattr(task, "_fut_waiter", None)
    is_pending = getattr(task, "_must_cancel", False) or (waiter and waiter.done())
    if not task.done() and task.cancelling() and not is_pending:
        task.uncancel()
        task.cancel()


def raise_exit(error: BaseException) -> None:
    """Raise SystemExit or KeyboardInterrupt in a callback, which stops the loop.

    The core schedules this for an exit that could not propagate where it was raised.
    """
    raise error


async def self_test_coroutine() -> None:
    """Do nothing: the coroutine of the capture's self-test, whose Task never runs."""
