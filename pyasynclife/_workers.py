"""The two coroutines that the native pump puts into Tasks."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable
from typing import Any, Protocol


class _Pump(Protocol):
    def offer(self, item: Any) -> Awaitable[None]: ...


async def work(step: Awaitable[None]) -> None:
    """Drive items: all of it happens in the native step."""
    await step


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
