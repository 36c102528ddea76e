"""The await chain of a task: where it waits, through asynchronous generators too."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import Counter
from collections.abc import Iterable
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

_CHAIN_LIMIT = 1000


def await_chain(task: asyncio.Task[Any]) -> list[str]:
    """Return where a task waits, "file:line in function", outermost first.

    For the running task it is its live stack, for a task that has not started the line
    of its ``def``, for a task that is done an empty list. The chain goes on into an
    asynchronous generator under ``async for`` or ``async with``; CPython's own chain
    ends there, at ``async_generator_asend``.
    """
    if task.done():
        return []
    coro: Any = task.get_coro()
    if _attribute(coro, "cr_running"):
        return _live_stack(coro)
    chain: list[str] = []
    while coro is not None and len(chain) < _CHAIN_LIMIT:
        frame = _frame_of(coro)
        if frame is not None:
            chain.append(_line_of(frame))
        coro = _awaited_by(coro)
    return chain


def dump_tasks(tasks: Iterable[asyncio.Task[Any]]) -> str:
    """Return the await chains of tasks as text; equal chains once, with a count."""
    groups: Counter[tuple[str, ...]] = Counter()
    names: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        chain = tuple(await_chain(task))
        groups[chain] += 1
        names.setdefault(chain, []).append(task.get_name())
    lines = [f"{sum(groups.values())} tasks, {len(groups)} places"]
    for chain, count in groups.most_common():
        some = ", ".join(names[chain][:3]) + (", ..." if count > 3 else "")
        lines.append(f"\n{count} x {some}")
        lines.extend(f"  {line}" for line in chain or ("(done)",))
    return "\n".join(lines)


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
    # async_generator_asend, coroutine_wrapper and the like show what they hold to the
    # garbage collector only.
    for inner in gc.get_referents(awaitable):
        if isinstance(inner, (CoroutineType, GeneratorType, AsyncGeneratorType)):
            return inner
    return None


def _live_stack(coro: Any) -> list[str]:
    """Return the stack of a coroutine that runs now, in this thread or another."""
    outermost = _frame_of(coro)
    for frame in sys._current_frames().values():
        lines: list[str] = []
        at: FrameType | None = frame
        while at is not None:
            if at.f_code.co_filename != __file__:
                lines.append(_line_of(at))
            if at is outermost:
                return lines[::-1]
            at = at.f_back
    return [] if outermost is None else [_line_of(outermost)]


def _line_of(frame: FrameType) -> str:
    code: CodeType = frame.f_code
    line = frame.f_lineno or code.co_firstlineno
    return f"{code.co_filename}:{line} in {code.co_qualname}"
