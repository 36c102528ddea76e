"""Functions for the items of a batch: some wait, some do not stop."""

import asyncio
from typing import Any


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
