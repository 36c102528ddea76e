"""What the native pump puts into Tasks, and who holds those that never end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable
from typing import Any, Protocol


class _Pump(Protocol):
    def offer(self, item: Any) -> Awaitable[None]: ...


async def work(step: Awaitable[Any]) -> Any:
    """Drive items: all of it happens in the native step.

    It returns None, but for an item that was given up: then what that returns.
    """
    return await step


class _Slot(Protocol):
    def pause(self) -> Awaitable[None] | None: ...
    def begin(self) -> Awaitable[Any]: ...
    def returned(self, value: Any) -> Any: ...
    def raised(self, error: BaseException) -> bool: ...


async def run_item(slot: _Slot) -> Any:
    """Run one item in a Task of its own, and say how it ended.

    SystemExit and KeyboardInterrupt do not leave the Task: see `read`.
    """
    try:
        while (pause := slot.pause()) is not None:
            await pause
        value = await slot.begin()
    except BaseException as error:
        if slot.raised(error):
            return None
        raise
    return slot.returned(value)


async def read(source: AsyncIterable[Any], pump: _Pump) -> BaseException | None:
    """Read an asynchronous source to its end, one item ahead of the pump.

    A Task that raised SystemExit or KeyboardInterrupt would end the loop's run
    there and then, so these are returned; the batch raises them when the rest has
    ended.
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


# By loop: what a loop that is closed has will never end, and goes with it.
_stuck: dict[asyncio.AbstractEventLoop, set[asyncio.Task[Any]]] = {}


def keep(task: asyncio.Task[Any]) -> None:
    """Hold a Task that nobody waits for any more until it ends: the loop does not."""
    for loop in list(_stuck):  # other threads have loops too
        if loop.is_closed():
            _stuck.pop(loop, None)
    loop = task.get_loop()
    _stuck.setdefault(loop, set()).add(task)
    task.add_done_callback(_let_go)


def _let_go(task: asyncio.Task[Any]) -> None:
    loop = task.get_loop()
    tasks = _stuck.get(loop, set())
    tasks.discard(task)
    if not tasks:
        _stuck.pop(loop, None)
