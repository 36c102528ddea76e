"""What the collector finds after many repeats, and what needs no collector."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

from support.loops import settle


async def objects_left_by(rounds: Callable[[int], Awaitable[object]]) -> int:
    """By how many objects a hundred rounds grow what is there after twenty."""
    await rounds(20)
    gc.collect()
    before = len(gc.get_objects())
    await rounds(100)
    gc.collect()
    return len(gc.get_objects()) - before


async def frees_its_error(
    call: Callable[[asyncio.Task[Any]], Awaitable[object]],
) -> bool:
    """Whether reference counts alone free the error of a failed task that is raised."""

    class Special(Exception):
        def __init__(self) -> None:
            ref.append(weakref.ref(self))

    async def run() -> None:
        raise Special

    ref: list[weakref.ref[Special]] = []
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Special):
            await call(asyncio.create_task(run()))
        await settle()
        return ref[0]() is None
    finally:
        gc.enable()
