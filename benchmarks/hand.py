"""The code that a careful person writes by hand: workers over one iterator."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any


async def gather_by_hand(
    function: Callable[[str], Awaitable[Any]],
    items: Sequence[str],
    timeout: float = 5.0,
    max_concurrent: int = 50,
) -> list[Any]:
    """Return values and exceptions in input order; each item has its own timeout."""
    results: list[Any] = [None] * len(items)
    pairs = iter(enumerate(items))

    async def work() -> None:
        for index, item in pairs:
            try:
                async with asyncio.timeout(timeout):
                    results[index] = await function(item)
            except Exception as error:
                results[index] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(max_concurrent):
            group.create_task(work())
    return results


async def gather_by_hand_untimed(
    function: Callable[[str], Awaitable[Any]],
    items: Sequence[str],
    max_concurrent: int = 50,
) -> list[Any]:
    """The same without the timeout."""
    results: list[Any] = [None] * len(items)
    pairs = iter(enumerate(items))

    async def work() -> None:
        for index, item in pairs:
            try:
                results[index] = await function(item)
            except Exception as error:
                results[index] = error

    async with asyncio.TaskGroup() as group:
        for _ in range(max_concurrent):
            group.create_task(work())
    return results
