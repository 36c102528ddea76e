"""Coroutines that end at once, later, with an error or never, and their errors."""

import asyncio
from typing import Any


class Boom(Exception):
    pass


class Fatal(BaseException):
    """An error that ends a batch, but not the run of the loop."""


async def echo(value: Any = None) -> Any:
    return value


async def echo_later(value: Any = None) -> Any:
    await asyncio.sleep(0)
    return value


async def double(number: int) -> int:
    return 2 * number


async def double_later(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


async def sleep_for(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def forever(_: object = None) -> None:
    await asyncio.get_running_loop().create_future()


async def cleans_up(seconds: float) -> None:
    """Run until it is cancelled, and need so many seconds to end."""
    try:
        await forever()
    finally:
        await asyncio.sleep(seconds)


async def fail(value: object) -> None:
    raise ValueError(value)


async def raises(error: BaseException) -> None:
    raise error


async def after(iterations: int, value: Any = "value") -> Any:
    """Return a value, or raise it, after some iterations of the loop."""
    for _ in range(iterations):
        await asyncio.sleep(0)
    if isinstance(value, BaseException):
        raise value
    return value


async def swallow(value: Any = "swallowed", times: int = 1) -> Any:
    """Wait for ever, and return at the last of so many cancellations."""
    for _ in range(times):
        try:
            await forever()
        except asyncio.CancelledError:
            pass
    return value
