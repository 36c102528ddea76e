"""Reports of the errors that nobody receives, to the loop or to the log.

The native core imports them by name, from the table in csrc/base/state.h: change both
together, and remove no name because no Python code uses it.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyasynclife._arguments import short_id
from pyasynclife._log import logger

if TYPE_CHECKING:
    from pyasynclife._core import TaskResult

_JOB_REMEDY = "await it, ask for its exception(), or pass on_result"


def report_callback_error(
    loop: asyncio.AbstractEventLoop,
    error: BaseException,
    context: contextvars.Context,
    callback: Callable[..., object],
    *args: object,
) -> None:
    """Report an error in a callback to the loop, as its Handle would have done.

    From 3.12 on, the exception handler runs in the handle's context. Here that is a
    copy, because the error may be that the context itself cannot be entered.
    """
    handle = asyncio.Handle(callback, args, loop, context.copy())
    about = {
        "message": f"Exception in callback {handle!r}",
        "exception": error,
        "handle": handle,
    }
    loop.call_exception_handler(about)


def report_unread(
    loop: asyncio.AbstractEventLoop,
    what: str,
    remedy: str,
    error: BaseException | None,
) -> None:
    """Report failures of items that nobody has received, in one call.

    Args:
        loop: The event loop, whose exception handler is called.
        what: What held the failures, and how it ended.
        remedy: What the caller can do to receive them.
        error: The first of the exceptions, if there is one.
    """
    loop.call_exception_handler(
        {"message": f"{what} unread: {remedy}", "exception": error}
    )


def report_unread_items(
    loop: asyncio.AbstractEventLoop,
    failed: int,
    error: BaseException | None,
    how: str,
) -> None:
    """Report the failures of a batch that ended without a BatchResult, or of a pool.

    Args:
        loop: The event loop, whose exception handler is called.
        failed: How many items failed.
        error: The first of the exceptions, if there is one.
        how: What became of them: "left", "dropped" with their batch, or "pool".
    """
    item = "job" if how == "pool" else "item"
    items = f"failed {item} was" if failed == 1 else f"failed {item}s were"
    remedy = "await the batch, iterate over it to its end, or pass on_result"
    if how == "pool":
        how, remedy = "dropped", _JOB_REMEDY
    report_unread(loop, f"{failed} {items} {how}", remedy, error)


def report_unread_job(
    loop: asyncio.AbstractEventLoop | None, result: TaskResult[Any]
) -> None:
    """Report the failure of a job that was dropped before anybody received it."""
    if loop is None or loop.is_closed() or sys.is_finalizing():
        return
    what = f"job {result.task_id!r} was dropped"
    report_unread(loop, what, _JOB_REMEDY, result.error)


def warn_unknown_heartbeat(registry: Any, task_id: str | None) -> None:
    """Log the first heartbeat of a registry that no live task has sent."""
    if task_id is None:
        what = "heartbeat() outside of any registered task: pass its id"
    elif registry.get(task_id) is not None:
        what = f"heartbeat of task {short_id(task_id)}, which has ended"
    else:
        what = (
            f"heartbeat of task {short_id(task_id)}, which was never registered: "
            "register() or track() it"
        )
    logger.warning(
        "%s; further ones are counted only, in stats().unknown_heartbeats",
        what,
        extra=None if task_id is None else {"task_id": task_id},
    )
