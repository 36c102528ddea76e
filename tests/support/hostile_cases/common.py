"""The functions that several hostile cases use."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyasynclife import (
    TaskGroup,
    TaskRegistry,
    _core,
    bounded_gather,
)
from support.coroutines import echo_later, forever

core: Any = _core

REFUSED = (
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    OverflowError,
    ReferenceError,
)


async def works() -> None:
    """Use all three parts: registry, batch and group."""
    before = asyncio.all_tasks()
    registry = TaskRegistry()
    task, _ = await registry.register(echo_later(1))
    assert await task == 1
    registry.register(forever(), "stuck")
    report = await registry.shutdown(5)
    assert report.ok, report
    assert (await bounded_gather(echo_later, range(3))).values() == [0, 1, 2]
    async with TaskGroup() as group:
        task = group.create_task(echo_later(2))
    assert task.result() == 2
    assert asyncio.all_tasks() == before


def refuses(function: Callable[..., Any], *args: Any, **options: Any) -> None:
    try:
        answer = function(*args, **options)
    except REFUSED:
        return
    raise AssertionError(f"not refused: {answer!r}")


def raise_hostile(*_: Any) -> Any:
    raise LookupError("hostile")


async def numbers(n: int = 3) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


async def ends_with(error: type[BaseException], items: Any, **options: Any) -> None:
    """The source's error propagates as it is, and no task is left."""
    try:
        await bounded_gather(echo_later, items, **options)
    except error:
        pass
    else:
        raise AssertionError("no error")
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await works()


class Wakes:
    """Calls a function when it is freed."""

    def __init__(self, does: Callable[[], Any]) -> None:
        self.does = does

    def __del__(self) -> None:
        self.does()


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(20)


def in_new_loop(make: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    def run() -> Any:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(make())

    return in_thread(run)
