"""What kind of loop this is: asked once, when an object binds to it."""

from __future__ import annotations

import _asyncio
import asyncio
import asyncio.base_events
import asyncio.events
import contextvars
import os
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any


def loop_traits(loop: asyncio.AbstractEventLoop) -> tuple[FunctionType | None, bool]:
    """Tell how the native core may speak to a loop.

    Returns the loop's stock ``create_task``, where calling the Task type in its
    place is nothing anybody could tell, else None; and whether the loop's clock is
    ``time.monotonic``, so that C may read the system's.
    """
    return _stock_create_task(type(loop)), _is_monotonic(loop)


def _is_stock(function: object, module: ModuleType, name: str) -> bool:
    return (
        isinstance(function, FunctionType)
        and function.__code__.co_qualname == name
        and function.__code__.co_filename == module.__file__
    )


def _stock_create_task(loop_type: type) -> FunctionType | None:
    create_task: Any = getattr(loop_type, "create_task", None)
    if (
        _is_stock(create_task, asyncio.base_events, "BaseEventLoop.create_task")
        and asyncio.Task is _asyncio.Task
    ):
        return create_task  # type: ignore[no-any-return]
    return None


def _is_monotonic(loop: asyncio.AbstractEventLoop) -> bool:
    if "time" in getattr(loop, "__dict__", ()):
        return False
    clock: Any = getattr(type(loop), "time", None)
    if isinstance(clock, FunctionType):
        return _is_stock(clock, asyncio.base_events, "BaseEventLoop.time")
    uvloop: Any = sys.modules.get("uvloop.loop")
    return uvloop is not None and clock is uvloop.Loop.time


def capture_terms(loop_type: type) -> FunctionType | None:
    """Judge whether loops of a type let steps of Tasks be captured.

    Returns the type's ``call_soon``, asyncio's own, or None: something there is not
    asyncio's, and may want to see each step by itself. Asked again when the type or
    ``Handle`` has changed.
    """
    kind: Any = loop_type
    base, events = asyncio.base_events, asyncio.events
    for name in ("call_soon", "_call_soon", "create_task", "get_debug"):
        if not _is_stock(getattr(kind, name, None), base, f"BaseEventLoop.{name}"):
            return None
    for name in ("__init__", "_run"):
        if not _is_stock(getattr(events.Handle, name), events, f"Handle.{name}"):
            return None
    if (
        kind.__getattribute__ is not object.__getattribute__
        # a property is somebody's code, which may raise anything
        or any(hasattr(kind, name) for name in ("__getattr__", "_ready", "_debug"))
    ):
        return None
    return kind.call_soon  # type: ignore[no-any-return]


def capture_wanted() -> bool:
    """Tell whether the environment allows the capture; asked at its first use."""
    return os.environ.get("PYASYNCLIFE_PLAIN", "0") in ("", "0")


def tell_of_callback(
    loop: asyncio.AbstractEventLoop,
    error: BaseException,
    context: contextvars.Context,
    callback: Callable[..., object],
    *args: object,
) -> None:
    """Tell the loop of an error in a callback, as a Handle of its own would.

    From 3.12 on the exception handler is run in the handle's context, so that is a copy:
    the error may be that the context itself could not be entered.
    """
    handle = asyncio.Handle(callback, args, loop, context.copy())
    about = {
        "message": f"Exception in callback {handle!r}",
        "exception": error,
        "handle": handle,
    }
    loop.call_exception_handler(about)


def cancel_again(task: asyncio.Task[Any]) -> None:
    """Let a cancellation that a task has had come once more, if it still stands.

    It is gone when somebody has taken it back meanwhile, and not wanted twice when
    another one is on its way.
    """
    waiter: Any = getattr(task, "_fut_waiter", None)
    on_its_way = getattr(task, "_must_cancel", False) or (waiter and waiter.done())
    if not task.done() and task.cancelling() and not on_its_way:
        task.uncancel()
        task.cancel()


async def nothing() -> None:
    """What the capture's self-test makes a Task of, which never runs."""


# What a group asks at every entry is asked once: asyncio's own create_task, and the
# two halves of the await graph, None before 3.14.
stock_maker = _stock_create_task(asyncio.BaseEventLoop)
add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
