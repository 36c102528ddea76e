"""Functions for the items of a batch: some wait, some do not stop."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from support.coroutines import forever
from support.loops import settle


class Gated:
    """Items that wait until they are released."""

    def __init__(self) -> None:
        self.started: list[Any] = []
        self.gates: dict[Any, asyncio.Future[str]] = {}

    async def __call__(self, item: Any) -> str:
        self.started.append(item)
        self.gates[item] = asyncio.get_running_loop().create_future()
        try:
            return await self.gates[item]
        finally:
            del self.gates[item]

    @property
    def now(self) -> int:
        """How many items wait."""
        return len(self.gates)

    def release(self, n: int | None = None) -> None:
        for gate in list(self.gates.values())[:n]:
            if not gate.done():
                gate.set_result("released")


class Stubborn:
    """Items that swallow every cancellation until they are free."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.free = asyncio.Event()
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.ended: list[Any] = []

    async def __call__(self, item: Any = None) -> Any:
        self.tasks.append(asyncio.current_task())
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        self.ended.append(item)
        if self.error:
            raise self.error
        return item

    async def release(self) -> None:
        """Free the items and wait for their tasks."""
        self.free.set()
        await asyncio.wait([task for task in self.tasks if task])


class Counted:
    """An awaitable that counts the CancelledErrors that are thrown into a coroutine."""

    def __init__(self, coro: Any, counts: Counter[Any], name: Any) -> None:
        self.coro = coro
        self.counts = counts
        self.name = name
        self.first: BaseException | None = None

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.coro.send(None)

    def send(self, value: Any) -> Any:
        return self.coro.send(value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        error = kind if value is None else value
        if isinstance(error, asyncio.CancelledError):
            self.counts[self.name] += 1
            self.first = self.first or error
        return self.coro.throw(error)

    def close(self) -> None:
        self.coro.close()


class Cleaning:
    """Items that wait for ever and take some iterations to end once cancelled.

    A str as the item says what it does besides: "fails" fails after some iterations,
    "fails late" at the end of its cleanup, "returns" returns after some iterations.
    """

    def __init__(self, iterations: int = 10) -> None:
        self.iterations = iterations
        self.cancels: Counter[Any] = Counter()
        self.began: list[Any] = []
        self.cleaned: list[Any] = []

    async def __call__(self, item: Any) -> Any:
        self.began.append(item)
        return await Counted(self._work(item), self.cancels, item)

    async def _work(self, item: Any) -> Any:
        if item in ("fails", "returns"):
            await settle(5)
            if item == "fails":
                raise ValueError(item)
            return item
        try:
            await forever()
        finally:
            await settle(2 if item == "fails late" else self.iterations)
            self.cleaned.append(item)
            if item == "fails late":
                raise OSError(item)

    async def source(self, *items: Any) -> AsyncIterator[Any]:
        """A source of items that takes some iterations to end, too."""
        try:
            for item in items:
                yield item
            await Counted(forever(), self.cancels, "source")
        finally:
            await Counted(settle(self.iterations), self.cancels, "source")
            self.cleaned.append("source")
