"""The await chain of a task: where it waits, through asynchronous generators too."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterable
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from pyasynclife._arguments import counted, cut, short_id
from pyasynclife._core_batch import run_item

_PACKAGE = os.path.join(os.path.dirname(__file__), "")
_RUN_ITEM = run_item.__code__  # outermost in the Task of an item; left out
_CHAIN_LIMIT = 1000
_BRANCHES = 3  # of so many items or children the chains are shown
_NAME = 120  # at most so many characters of a Task's name


def await_chain(task: asyncio.Task[Any]) -> list[str]:
    """Return where a task waits: "file:line in function", outermost first.

    The running task gives its live stack, a task that has not started gives the line
    of its ``def``, and a finished task gives an empty list. The chain continues into an
    asynchronous generator under ``async for`` or ``async with``; CPython's own chain
    ends there, at ``async_generator_asend``.

    If the task waits for a batch or a TaskGroup, the chains of the first of the running
    items or children follow, each indented under a line with its id or name.
    """
    if task.done():
        return []
    coro: Any = task.get_coro()
    if _attribute(coro, "cr_running"):
        return _live_stack(coro)
    return _chain_of(coro, set())


def dump_tasks(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return the await chains of tasks as text, equal chains grouped with a count."""
    places: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        name = cut(task.get_name(), _NAME)
        places.setdefault(tuple(await_chain(task)), []).append(name)
    total = sum(map(len, places.values()))
    lines = [f"{counted(total, 'task')}, {counted(len(places), 'place')}"]
    for chain, names in sorted(places.items(), key=lambda place: -len(place[1])):
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        lines.append(f"\n{len(names)} x {some}")
        lines.extend(f"  {line}" for line in chain or ("(done)",))
    return "\n".join(lines)


def _chain_of(coro: Any, seen: set[int]) -> list[str]:
    """Return the chain that begins at a coroutine.

    Args:
        coro: The coroutine, or another object with its attributes.
        seen: The ids of the waits that are on the way to it; for tasks that wait for
            each other.
    """
    chain: list[str] = []
    while coro is not None and len(chain) < _CHAIN_LIMIT:
        if type(coro) is CoroutineType:  # the quick way: a report may have thousands
            if coro.cr_frame is not None:
                chain.append(_line_of(coro.cr_frame))
            if coro.cr_code is _RUN_ITEM and type(coro.cr_await) is CoroutineType:
                chain.clear()
            coro = coro.cr_await
            continue
        frame = _frame_of(coro)
        if frame is not None:
            chain.append(_line_of(frame))
        waits_for = _attribute(coro, "_waits_for")
        if type(waits_for) is list and id(coro) not in seen:
            return chain + _branches(waits_for, seen | {id(coro)})
        coro = _awaited_by(coro)
    return chain


def _branches(waits_for: list[Any], seen: set[int]) -> list[str]:
    """Return the chains of the items (of a batch) or the Tasks that are waited for."""
    lines: list[str] = []
    for one in waits_for[:_BRANCHES]:
        if _attribute(one, "get_name") is None:  # an item, no Task
            task_id = _attribute(one, "_task_id") or "?"  # without memory for it
            lines.append(f"item {short_id(task_id)}:")
            coro = one._coro
        else:
            lines.append(f"task {short_id(str(one.get_name()))}:")
            coro = one.get_coro()
        lines += [f"  {line}" for line in _chain_of(coro, seen)]
    if len(waits_for) > _BRANCHES:
        lines.append(f"and {len(waits_for) - _BRANCHES} more")
    return lines


def _frame_of(awaitable: Any) -> FrameType | None:
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        frame = _attribute(awaitable, name)
        if isinstance(frame, FrameType):
            return frame
    return None


def _attribute(awaitable: Any, name: str) -> Any:
    """Return an attribute or None: a broken property must not break a report."""
    try:
        return getattr(awaitable, name, None)
    except Exception:
        return None


def _awaited_by(awaitable: Any) -> Any:
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        inner = _attribute(awaitable, name)
        if inner is not None:
            return inner
    if isinstance(awaitable, (CoroutineType, GeneratorType, AsyncGeneratorType)):
        return None
    if isinstance(awaitable, asyncio.Future):
        return None
    # async_generator_asend, coroutine_wrapper and the like show the object that they
    # hold only to the garbage collector.
    for inner in gc.get_referents(awaitable):
        if isinstance(inner, (CoroutineType, GeneratorType, AsyncGeneratorType)):
            return inner
    return None


def _live_stack(coro: Any) -> list[str]:
    """Return the stack of a coroutine that is running, in this thread or another.

    It ends with the caller of our method, such as where().
    """
    outermost = _frame_of(coro)
    for frame in sys._current_frames().values():
        lines: list[str] = []
        at: FrameType | None = frame
        while at is not None:
            if lines or not _is_ours(at) or at is outermost:
                lines.append(_line_of(at))
            if at is outermost:
                if at.f_code is _RUN_ITEM and len(lines) > 1:
                    lines.pop()
                return lines[::-1]
            at = at.f_back
    return [] if outermost is None else [_line_of(outermost)]


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_PACKAGE)


def _line_of(frame: FrameType) -> str:
    code: CodeType = frame.f_code
    line = frame.f_lineno or code.co_firstlineno
    return f"{code.co_filename}:{line} in {code.co_qualname}"
