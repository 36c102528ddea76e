"""Python code for the native core, which imports it by name in csrc/base/state.h.

No Python module calls most of these functions. Do not remove or rename one without
changing the table in that file. There are three parts: the fast paths that a loop
permits, callbacks, and the coroutines that the Tasks of a batch run.
"""

from __future__ import annotations

import _asyncio
import asyncio
import asyncio.base_events
import asyncio.events
import contextvars
import os
import sys
from collections.abc import AsyncIterable, Awaitable, Callable
from types import FunctionType, ModuleType
from typing import Any, Protocol

# Descriptors that read a Future's fields without a name lookup. None: call its method.
future_state: Any = getattr(_asyncio.Future, "_state", None)
future_exception: Any = getattr(_asyncio.Future, "_exception", None)
future_callbacks: Any = getattr(_asyncio.Future, "_callbacks", None)
task_waiter: Any = getattr(_asyncio.Task, "_fut_waiter", None)

# Add and remove an edge of the await graph; None before 3.14.
add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)

# ---------------------------------------------------------------- fast paths


def loop_clock(loop: asyncio.AbstractEventLoop) -> int:
    """Return what kind of clock a loop has.

    Returns:
        - 0: a clock of its own.
        - 1: ``time.monotonic``, so C may read the system's clock instead.
        - 2: the same clock, but read once per loop iteration, as in uvloop.
    """
    clock: Any = getattr(type(loop), "time", None)
    if getattr(loop.time, "__func__", None) is not clock:
        return 0
    if isinstance(clock, FunctionType):
        return int(_is_unpatched(clock, asyncio.base_events, "BaseEventLoop.time"))
    native = _uvloop()
    return 2 if native is not None and clock is native.time else 0


def loop_fast_paths(loop_type: type) -> tuple[Any, ...]:
    """Return the methods of a loop type that the core may bypass.

    The core calls this again when the type or ``Handle`` has changed.

    Returns:
        Two items, or six for a uvloop type:

        - ``create_task``, if calling the Task type directly has the same effect; else
          None.
        - ``call_soon``, if the steps of several Tasks may share a handle; else None,
          since a patched or overridden method may have to see each step by itself.
        - uvloop's native type, and its ``get_task_factory``, ``get_debug`` and
          ``is_closed``.
    """
    kind: Any = loop_type
    native = _uvloop()
    if kind.__getattribute__ is not object.__getattribute__ or hasattr(
        kind, "__getattr__"
    ):
        return None, None
    if native is not None and issubclass(loop_type, native):
        return _uvloop_fast_paths(kind, native)
    base, events = asyncio.base_events, asyncio.events
    if not _is_unpatched(
        getattr(kind, "create_task", None), base, "BaseEventLoop.create_task"
    ) or any(
        # a property is user code, which may raise anything
        hasattr(kind, name)
        for name in ("_task_factory", "_ready", "_debug", "_closed")
    ):
        return None, None
    for name in ("call_soon", "_call_soon", "get_debug"):
        if not _is_unpatched(getattr(kind, name), base, f"BaseEventLoop.{name}"):
            return kind.create_task, None
    for name in ("__init__", "_run"):
        if not _is_unpatched(getattr(events.Handle, name), events, f"Handle.{name}"):
            return kind.create_task, None
    return kind.create_task, kind.call_soon


def _is_unpatched(function: object, module: ModuleType, name: str) -> bool:
    return (
        isinstance(function, FunctionType)
        and function.__code__.co_qualname == name
        and function.__code__.co_filename == module.__file__
    )


def _uvloop() -> Any:
    """Return uvloop's native loop type if uvloop is imported and not a mock."""
    native: Any = getattr(sys.modules.get("uvloop.loop"), "Loop", None)
    made = getattr(native, "create_task", None)
    compiled = isinstance(native, type) and not isinstance(made, FunctionType)
    return native if compiled and native.__module__ == "uvloop.loop" else None


def _uvloop_fast_paths(kind: Any, native: Any) -> tuple[Any, ...]:
    """Return the fast paths of a uvloop type, whose native base cannot be patched."""
    methods = native.get_task_factory, native.get_debug, native.is_closed
    if kind.create_task is not native.create_task:
        return None, None, native, *methods
    shares = kind.call_soon is native.call_soon and kind.get_debug is native.get_debug
    return kind.create_task, kind.call_soon if shares else None, native, *methods


def is_capture_allowed() -> bool:
    """Tell whether the environment allows the capture; called at its first use."""
    return os.environ.get("PYASYNCLIFE_PLAIN", "0") in ("", "0")


async def self_test_coroutine() -> None:
    """Do nothing: the coroutine of the capture's self-test, whose Task never runs."""


# ---------------------------------------------------------------- callbacks


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
    was_dropped: bool,
) -> None:
    """Report the failures of a batch that ended without a BatchResult."""
    items = "failed item was" if failed == 1 else "failed items were"
    report_unread(
        loop,
        f"{failed} {items} {'dropped' if was_dropped else 'left'}",
        "await the batch, iterate over it to its end, or pass on_result",
        error,
    )


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


# ---------------------------------------------------------------- Tasks of a batch


class _Pump(Protocol):
    def offer(self, item: Any) -> Awaitable[None]: ...


async def run_worker(step: Awaitable[Any]) -> Any:
    """Run items one after another; the native ``step`` does all the work.

    Returns:
        None, or the value of the worker's last item if that was abandoned.
    """
    return await step


class _ItemHandle(Protocol):
    def pause(self) -> Awaitable[None] | None: ...
    def begin(self) -> Awaitable[Any]: ...
    def returned(self, value: Any) -> Any: ...
    def raised(self, error: BaseException) -> bool: ...


async def run_item(handle: _ItemHandle) -> Any:
    """Run one item in a Task of its own, and pass its outcome to the core.

    The Task does not raise SystemExit or KeyboardInterrupt: see `read_source`.
    """
    try:
        while (pause := handle.pause()) is not None:
            await pause
        value = await handle.begin()
    except BaseException as error:
        if handle.raised(error):
            return None
        raise
    return handle.returned(value)


async def read_source(source: AsyncIterable[Any], pump: _Pump) -> BaseException | None:
    """Read an asynchronous source to its end, one item ahead of the pump.

    Returns:
        None, or the SystemExit or KeyboardInterrupt that the source raised. It is not
        raised here, since a Task that raises it stops the loop at once. The batch
        raises it when all items have ended.
    """
    iterator = None
    try:
        try:
            iterator = aiter(source)
            async for item in iterator:
                await pump.offer(item)
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


# Abandoned tasks by loop. The tasks of a closed loop never end: they are dropped.
_abandoned: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {}


def hold_abandoned(task: asyncio.Task[Any]) -> None:
    """Hold a strong reference to an abandoned task until it ends; the loop does not."""
    for loop in list(_abandoned):  # other threads have loops too
        if loop.is_closed():
            _abandoned.pop(loop, None)
    loop = task.get_loop()
    _abandoned.setdefault(loop, set()).add(task)
    task.add_done_callback(_release_abandoned)


def _release_abandoned(task: asyncio.Task[Any]) -> None:
    loop = task.get_loop()
    tasks = _abandoned.get(loop, set())
    tasks.discard(task)
    if not tasks:
        _abandoned.pop(loop, None)
