"""Whether asyncio and a loop are as their files have them, so that shortcuts are safe.

The native core imports them by name, from the table in csrc/base/state.h: change both
together, and remove no name because no Python code uses it.
"""

from __future__ import annotations

import _asyncio
import asyncio
import asyncio.base_events
import asyncio.events
import asyncio.tasks
import functools
import os
import sys
import time
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    ModuleType,
)
from typing import Any


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

# The environment asks that each Task is made by the loop's own create_task, and each
# call by its call_soon.
is_plain = os.environ.get("PYASYNCLIFE_PLAIN", "0") not in ("", "0")


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
