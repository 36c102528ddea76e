"""Strong references to futures until they end; a loop has only weak ones."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

V = TypeVar("V")


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
