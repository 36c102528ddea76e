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


def loop_clock(loop: asyncio.AbstractEventLoop) -> int:
    """Tell what clock a loop has.

    Returns 0: its own. 1: ``time.monotonic``, so that C may read the system's. 2: that
    too, but it is looked at once a turn, as uvloop does.
    """
    clock: Any = getattr(type(loop), "time", None)
    if getattr(loop.time, "__func__", None) is not clock:
        return 0
    if isinstance(clock, FunctionType):
        return int(_is_stock(clock, asyncio.base_events, "BaseEventLoop.time"))
    native = _uvloop()
    return 2 if native is not None and clock is native.time else 0


def loop_terms(loop_type: type) -> tuple[Any, ...]:
    """Judge what may be done in the place of loops of a type.

    Returns its ``create_task``, if calling the Task type in its place is nothing that
    anybody could tell, or None; its ``call_soon``, if steps of Tasks may share a
    handle, or None: something there is not the loop's own, and may want to see each
    step by itself. For uvloop's types, the native one beneath as well and that one's
    ``get_task_factory``, ``get_debug`` and ``is_closed``. Asked again when the type or
    ``Handle`` has changed.
    """
    kind: Any = loop_type
    native = _uvloop()
    if kind.__getattribute__ is not object.__getattribute__ or hasattr(
        kind, "__getattr__"
    ):
        return None, None
    if native is not None and issubclass(loop_type, native):
        return _uvloop_terms(kind, native)
    base, events = asyncio.base_events, asyncio.events
    if not _is_stock(
        getattr(kind, "create_task", None), base, "BaseEventLoop.create_task"
    ) or any(
        # a property is somebody's code, which may raise anything
        hasattr(kind, name)
        for name in ("_task_factory", "_ready", "_debug", "_closed")
    ):
        return None, None
    for name in ("call_soon", "_call_soon", "get_debug"):
        if not _is_stock(getattr(kind, name), base, f"BaseEventLoop.{name}"):
            return kind.create_task, None
    for name in ("__init__", "_run"):
        if not _is_stock(getattr(events.Handle, name), events, f"Handle.{name}"):
            return kind.create_task, None
    return kind.create_task, kind.call_soon


def _is_stock(function: object, module: ModuleType, name: str) -> bool:
    return (
        isinstance(function, FunctionType)
        and function.__code__.co_qualname == name
        and function.__code__.co_filename == module.__file__
    )


def _uvloop() -> Any:
    """uvloop's native loop, if somebody has imported it: no mock, no stub."""
    native: Any = getattr(sys.modules.get("uvloop.loop"), "Loop", None)
    made = getattr(native, "create_task", None)
    compiled = isinstance(native, type) and not isinstance(made, FunctionType)
    return native if compiled and native.__module__ == "uvloop.loop" else None


def _uvloop_terms(kind: Any, native: Any) -> tuple[Any, ...]:
    """Judge a type of uvloop's, whose native one nobody can patch."""
    looks = native.get_task_factory, native.get_debug, native.is_closed
    if kind.create_task is not native.create_task:
        return None, None, native, *looks
    shares = kind.call_soon is native.call_soon and kind.get_debug is native.get_debug
    return kind.create_task, kind.call_soon if shares else None, native, *looks


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

    From 3.12 on the exception handler is run in the handle's context, so that is a
    copy: the error may be that the context itself could not be entered.
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


def raise_exit(error: BaseException) -> None:
    """End the loop's run with what was raised where nobody could pass it on."""
    raise error


async def nothing() -> None:
    """What the capture's self-test makes a Task of, which never runs."""


# What a Future holds, read without its name being looked up; None: ask it.
future_state: Any = getattr(_asyncio.Future, "_state", None)
future_exception: Any = getattr(_asyncio.Future, "_exception", None)
future_callbacks: Any = getattr(_asyncio.Future, "_callbacks", None)
task_waiter: Any = getattr(_asyncio.Task, "_fut_waiter", None)

# The two halves of the await graph, None before 3.14.
add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
