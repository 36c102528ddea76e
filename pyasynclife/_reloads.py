"""The reload signals of a SignalCoordinator, and the iterator over them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from pyasynclife._waiting import wait_among, wake

if TYPE_CHECKING:
    from pyasynclife._signal_setup import SignalSetup


class ReloadQueue:
    """The reload signals that nobody has consumed yet.

    ``event`` is set while there are any; to clear it is to consume all of them.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self._due: dict[int, None] = {}  # those that next() has not returned
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, signum: int) -> None:
        self._due[signum] = None
        self.event.set()
        self.wake()

    def wake(self) -> None:
        """Let all that wait in `next` look again."""
        for waiter in tuple(self._waiters):
            wake(waiter)

    async def next(self, shutdown: asyncio.Event) -> int | None:
        """Wait for a signal and consume it; None: the shutdown has begun."""
        while not shutdown.is_set():
            if not self.event.is_set():
                self._due = {}  # wait_for_reload() has consumed them
                await wait_among(self._waiters)
                continue
            signum = next(iter(self._due), None)
            if signum is not None:
                del self._due[signum]
            if not self._due:
                self.event.clear()
            if signum is not None:
                return signum
        return None

    def forget(self) -> None:
        """Drop what has come so far."""
        self.event, self._due = asyncio.Event(), {}


class Reloads:
    """The iterator that `SignalCoordinator.reloads` returns."""

    def __init__(self, coordinator: SignalSetup) -> None:
        self._coordinator: SignalSetup | None = coordinator

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        coordinator = self._coordinator
        if coordinator is not None:
            coordinator._bind("reloads()")
            coordinator._warn_displaced()
            signum = await coordinator._reloads.next(coordinator._state.event)
            if signum is not None:
                return signum
            self._coordinator = None  # over, also when the coordinator begins afresh
        raise StopAsyncIteration
