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
import asyncio.tasks
import contextvars
import functools
import inspect
import os
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    ModuleType,
)
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pyasynclife._arguments import short_id
from pyasynclife._log import logger

if TYPE_CHECKING:
    from pyasynclife._core import TaskResult

V = TypeVar("V")


def _native(kind: type, name: str) -> Any:
    """Return a descriptor of a native type; None if there is none, or it is patched.

    The core uses it on objects of exactly the type ``_asyncio.Task`` without a check.
    """
    found: Any = getattr(kind, name, None)
    fits = issubclass(_asyncio.Task, kind)
    return found if fits and getattr(found, "__objclass__", None) is kind else None


# Descriptors that read fields of Futures and Handles without a name lookup. None:
# there is no such field, and a method is called or the object searched.
future_state = _native(_asyncio.Future, "_state")
future_exception = _native(_asyncio.Future, "_exception")
future_result = _native(_asyncio.Future, "_result")
future_callbacks = _native(_asyncio.Future, "_callbacks")
task_waiter = _native(_asyncio.Task, "_fut_waiter")
task_must_cancel = _native(_asyncio.Task, "_must_cancel")
task_set_name = _native(_asyncio.Task, "set_name")
handle_callback: Any = vars(asyncio.events.Handle).get("_callback")
if not (
    isinstance(handle_callback, MemberDescriptorType)
    and handle_callback.__objclass__ is asyncio.events.Handle
):
    handle_callback = None  # the core reads at a slot's offset, without a check

# Add and remove an edge of the await graph; None before 3.14.
add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)

# What BaseEventLoop.time() calls, and where it finds that. The core looks whether
# "monotonic" is still the builtin function; None if it was patched before this import.
monotonic: Any = time.monotonic
if not (isinstance(monotonic, BuiltinFunctionType) and monotonic.__self__ is time):
    monotonic = None
time_dict = vars(time)
base_events_dict = vars(asyncio.base_events)

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
        return int(_is_unpatched(clock, "time"))
    native = _uvloop()
    return 2 if native is not None and clock is native.time else 0


def loop_fast_paths(loop_type: type) -> tuple[Any, ...]:
    """Return the methods of a loop type that the core may bypass.

    The core calls this again when the type, ``Handle`` or the code of a function
    changes.

    Returns:
        Four items, or eight for a uvloop type:

        - ``create_task``, if calling the Task type directly has the same effect; else
          None.
        - ``call_soon``, if the steps of several Tasks may share a handle; else None,
          since a patched or overridden method may have to see each step by itself.
        - The functions on which the first two depend, and the code of each.
        - uvloop's native type, and its ``get_task_factory``, ``get_debug`` and
          ``is_closed``.
    """
    kind: Any = loop_type
    native = _uvloop()
    if kind.__getattribute__ is not object.__getattribute__ or hasattr(
        kind, "__getattr__"
    ):
        return None, None, (), ()
    if native is not None and issubclass(loop_type, native):
        return _uvloop_fast_paths(kind, native)
    handle = asyncio.events.Handle
    found = [getattr(kind, name, None) for name in _LOOP_METHODS]
    found += [getattr(handle, name, None) for name in _HANDLE_METHODS]
    functions = tuple(item for item in found if isinstance(item, FunctionType))
    judged = functions, tuple(function.__code__ for function in functions)
    if not _is_unpatched(found[0], "create_task") or any(
        # a property is user code, which may raise anything
        hasattr(kind, name)
        for name in ("_task_factory", "_ready", "_debug", "_closed")
    ):
        return None, None, *judged
    names = (*_LOOP_METHODS, *_HANDLE_METHODS)
    if not all(map(_is_unpatched, found, names)):
        return kind.create_task, None, *judged
    return kind.create_task, kind.call_soon, *judged


_LOOP_METHODS = "create_task", "call_soon", "_call_soon", "get_debug", "_run_once"
_HANDLE_METHODS = "__init__", "_run"


def _is_unpatched(function: object, name: str) -> bool:
    """Tell whether a function is the one of asyncio, with the code of its file.

    Its names are not enough: some tracers replace ``__code__`` and keep them.
    """
    return isinstance(
        function, FunctionType
    ) and function.__code__ == _codes_in_files().get(name)


@functools.cache
def _codes_in_files() -> dict[str, CodeType]:
    """Return the code of asyncio's methods as the files have it, by name.

    Where the files cannot be read, there is none, and each method counts as patched.
    """
    wanted = {f"BaseEventLoop.{name}": name for name in (*_LOOP_METHODS, "time")}
    wanted |= {f"Handle.{name}": name for name in _HANDLE_METHODS}
    found = {}
    for module in (asyncio.base_events, asyncio.events):
        for body in _codes_in(_code_in_file(module)):
            for code in _codes_in(body):
                if code.co_qualname in wanted:
                    found[wanted[code.co_qualname]] = code
    return found


def _code_in_file(module: ModuleType) -> CodeType | None:
    loader: Any = module.__loader__
    try:
        code: CodeType | None = loader.get_code(module.__name__)
    except MemoryError:
        raise
    except Exception:
        return None
    return code


def _codes_in(code: CodeType | None) -> list[CodeType]:
    consts = () if code is None else code.co_consts
    return [const for const in consts if isinstance(const, CodeType)]


def is_monitored(codes: tuple[CodeType, ...]) -> bool:
    """Tell whether a tool has asked ``sys.monitoring`` for events of one of them.

    The core calls this from 3.12 on, if one of them was ever traced.
    """
    monitoring: Any = getattr(sys, "monitoring")  # noqa: B009
    tools = [tool for tool in range(6) if monitoring.get_tool(tool) is not None]
    return any(
        monitoring.get_local_events(tool, code) for tool in tools for code in codes
    )


def _uvloop() -> Any:
    """Return uvloop's native loop type if uvloop is imported and not a mock."""
    native: Any = getattr(sys.modules.get("uvloop.loop"), "Loop", None)
    made = getattr(native, "create_task", None)
    compiled = isinstance(native, type) and not isinstance(made, FunctionType)
    return native if compiled and native.__module__ == "uvloop.loop" else None


def _uvloop_fast_paths(kind: Any, native: Any) -> tuple[Any, ...]:
    """Return the fast paths of a uvloop type, whose native base cannot be patched."""
    rest = (), (), native, native.get_task_factory, native.get_debug, native.is_closed
    if kind.create_task is not native.create_task:
        return None, None, *rest
    shares = kind.call_soon is native.call_soon and kind.get_debug is native.get_debug
    return kind.create_task, kind.call_soon if shares else None, *rest


# The environment asks that each Task is made by the loop's own create_task, and each
# call by its call_soon.
is_plain = os.environ.get("PYASYNCLIFE_PLAIN", "0") not in ("", "0")


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


_JOB_REMEDY = "await it, ask for its exception(), or pass on_result"


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


def eager_factory_type(loop: asyncio.AbstractEventLoop) -> Any:
    """Return what a loop's eager task factory calls to make a task.

    None: the task factory is not one of asyncio's eager ones. Before 3.13.3 these do
    not take ``eager_start=False``.
    """
    factory = _task_factory(loop)
    if not _is_eager(factory):
        return None
    return inspect.getclosurevars(factory).nonlocals["custom_task_constructor"]


def close_with(task: asyncio.Task[Any], coro: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine at the end of a task, if it has not been started by then.

    A task factory may wrap a coroutine in one of its own. If that is cancelled before
    its first step, it never awaits the inner one, and Python warns of that.
    """
    task.add_done_callback(functools.partial(_close_unstarted, coro))


def _close_unstarted(coro: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
    if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        coro.close()


def raise_exit(error: BaseException) -> None:
    """Raise SystemExit or KeyboardInterrupt in a callback, which stops the loop.

    The core schedules this for an exit that could not propagate where it was raised.
    """
    raise error


# ---------------------------------------------------------------- Tasks of a batch


def function_name(fn: Any) -> str:
    """Return what the Tasks of a batch call its function: ``parse``, ``Page.parse``.

    Without a name of its own, a callable object goes by its type. A bad name does no
    harm: it only serves people who look at Tasks.
    """
    name: Any = None
    try:
        for _ in range(10):  # a partial can be made to contain itself
            if not issubclass(type(fn), functools.partial):
                break
            fn = fn.func
        name = fn.__qualname__
    except Exception:
        name = None  # a property of the user's code may raise anything
    if type(name) is not str or not name:
        name = _name_of_type(type(fn))
    name = name.rpartition("<locals>.")[2] or name
    return name if len(name) <= 120 else f"{name[:117]}..."


_name_of_type = vars(type)["__name__"].__get__  # whatever a metaclass says


def has_foreign_factory(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether a loop has a task factory that is not asyncio's eager one."""
    factory = _task_factory(loop)
    return factory is not None and not _is_eager(factory)


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


class _Pump(Protocol):
    closed: bool

    def demand(self) -> Awaitable[None]: ...
    def offer(self, item: Any, backlog: int = 0) -> None: ...
    def reader_reopens(self) -> bool: ...


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
                pump.offer(item)
                await pump.demand()
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


# What get() and get_nowait() raise if there is nothing (3.13: and nothing more comes).
QUEUE_HAS_NONE: tuple[type[Exception], ...] = (
    asyncio.QueueEmpty,
    getattr(asyncio, "QueueShutDown", asyncio.QueueEmpty),
)

_QUEUE_TAKES_NONE: tuple[type[Exception], ...] = (asyncio.QueueFull, *QUEUE_HAS_NONE)


async def read_queue(queue: asyncio.Queue[Any], pump: _Pump) -> BaseException | None:
    """Wait for the items of a queue until it is shut down, or closed and empty.

    An item is taken only when a worker is free. Workers that are free already take
    what is in the queue by themselves.

    Returns:
        As `read_source`.
    """
    task: Any = asyncio.current_task()
    while True:
        try:
            await pump.demand()
            item = queue.get_nowait() if pump.closed else await queue.get()
            pump.offer(item, queue.qsize())
        except QUEUE_HAS_NONE:
            return None
        except asyncio.CancelledError:
            if not pump.reader_reopens():
                raise
            task.uncancel()
        except (SystemExit, KeyboardInterrupt) as error:
            return error


def put_back(queue: asyncio.Queue[Any], item: Any) -> None:
    """Return an item to its queue, which is not lost then, and count it as done once.

    A full queue, and one that was shut down, takes none back.
    """
    try:
        queue.put_nowait(item)
    except _QUEUE_TAKES_NONE:
        pass
    finally:
        queue.task_done()


def check_queue(queue: asyncio.Queue[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Refuse a queue that belongs to another loop.

    A queue belongs to the loop in which somebody has first waited for it.
    """
    bound: Any = getattr(queue, "_loop", None)
    if bound is not None and bound is not loop:
        raise RuntimeError(
            f"the batch's queue belongs to {bound!r}, and the running loop is "
            f"{loop!r}: make the queue in the loop that uses it"
        )


class HeldFutures(Generic[V]):
    """Strong references to futures until they end, each with a value.

    The futures of a closed loop never end. They are dropped when a future is held the
    next time, on any loop.
    """

    def __init__(self) -> None:
        self._by_loop: dict[
            asyncio.AbstractEventLoop, dict[asyncio.Future[Any], V]
        ] = {}

    def get(self, future: asyncio.Future[Any]) -> V | None:
        """Return the value of a future, or None if it is not held."""
        return self._by_loop.get(future.get_loop(), {}).get(future)

    def hold(self, future: asyncio.Future[Any], value: V) -> None:
        """Hold a future; `release` must be called when it has ended."""
        for loop in list(self._by_loop):  # other threads have loops too
            if loop.is_closed():
                self._by_loop.pop(loop, None)
        self._by_loop.setdefault(future.get_loop(), {})[future] = value

    def release(self, future: asyncio.Future[Any]) -> V | None:
        """Hold a future no longer; return its value, or None if it was not held."""
        loop = future.get_loop()
        held = self._by_loop.get(loop, {})
        value = held.pop(future, None)
        if not held:
            self._by_loop.pop(loop, None)
        return value


_abandoned: HeldFutures[None] = HeldFutures()


def hold_abandoned(task: asyncio.Task[Any]) -> None:
    """Hold a strong reference to an abandoned task until it ends; the loop does not."""
    _abandoned.hold(task, None)
    task.add_done_callback(_abandoned.release)
