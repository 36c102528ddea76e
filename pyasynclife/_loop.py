"""What kind of loop this is: asked once, when an object binds to it."""

from __future__ import annotations

import _asyncio
import asyncio
import asyncio.base_events
import sys
from types import FunctionType
from typing import Any


def loop_traits(loop: asyncio.AbstractEventLoop) -> tuple[FunctionType | None, bool]:
    """Tell how the native core may speak to a loop.

    Returns the loop's stock ``create_task``, where calling the Task type in its
    place is nothing anybody could tell, else None; and whether the loop's clock is
    ``time.monotonic``, so that C may read the system's.
    """
    return _stock_create_task(type(loop)), _is_monotonic(loop)


def _stock_create_task(loop_type: type) -> FunctionType | None:
    create_task: Any = getattr(loop_type, "create_task", None)
    if (
        isinstance(create_task, FunctionType)
        and create_task.__code__.co_qualname == "BaseEventLoop.create_task"
        and create_task.__code__.co_filename == asyncio.base_events.__file__
        and asyncio.Task is _asyncio.Task
    ):
        return create_task
    return None


def _is_monotonic(loop: asyncio.AbstractEventLoop) -> bool:
    if "time" in getattr(loop, "__dict__", ()):
        return False
    clock: Any = getattr(type(loop), "time", None)
    if isinstance(clock, FunctionType):
        code = clock.__code__
        return (
            code.co_qualname == "BaseEventLoop.time"
            and code.co_filename == asyncio.base_events.__file__
        )
    uvloop: Any = sys.modules.get("uvloop.loop")
    return uvloop is not None and clock is uvloop.Loop.time


# What a group asks at every entry is asked once: asyncio's own create_task, and the
# two halves of the await graph, None before 3.14.
stock_maker = _stock_create_task(asyncio.BaseEventLoop)
add_awaited_by: Any = getattr(asyncio, "future_add_to_awaited_by", None)
discard_awaited_by: Any = getattr(asyncio, "future_discard_from_awaited_by", None)
