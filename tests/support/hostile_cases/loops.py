"""Threads without a loop, other loops, and loops that stop or close."""

import asyncio
import contextlib
from typing import Any

from pyasynclife import (
    TaskGroup,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import echo_later, forever
from support.hostile import case
from support.hostile_cases.common import (
    REFUSED,
    in_new_loop,
    in_thread,
    refuses,
    works,
)
from support.loops import settle


@case("register in another thread without a loop")
async def register_in_thread() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "here")
    coro = echo_later()
    in_thread(lambda: refuses(registry.register, coro))
    coro.close()
    registry.cancel_all()
    assert await registry.wait(5)
    await works()


@case("register in another thread's loop")
async def register_in_other_loop() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "here")

    async def there() -> None:
        coro = echo_later()
        refuses(registry.register, coro)
        coro.close()
        await works()

    in_new_loop(there)
    registry.cancel_all()
    assert await registry.wait(5)
    await works()


@case("every registry method in another thread")
async def registry_in_thread() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "here")

    def there() -> None:
        for name in dir(registry):
            if name.startswith("_") or name in ("register", "monitor_loop"):
                continue
            with contextlib.suppress(*REFUSED, LookupError):
                answer = getattr(registry, name)
                answer = answer() if callable(answer) else answer
                if asyncio.iscoroutine(answer) or hasattr(answer, "close"):
                    answer.close()

    in_thread(there)
    await settle(5)
    registry.cancel_all()
    assert await registry.wait(5)
    await works()


@case("a batch awaited in another loop")
async def batch_in_other_loop() -> None:
    batch = bounded_gather(echo_later, range(3))

    async def there() -> Any:
        return (await batch).values()

    assert in_new_loop(there) == [0, 1, 2]
    await works()


@case("a batch begun here and awaited there")
async def batch_in_both() -> None:
    batch = bounded_gather(forever, range(3))
    collecting = asyncio.ensure_future(batch.collect())
    await settle(5)

    async def there() -> None:
        try:
            await batch
        except REFUSED:
            return
        raise AssertionError("not refused")

    in_new_loop(there)
    batch.cancel()
    await collecting
    await works()


@case("a group used in another loop")
async def group_in_other_loop() -> None:
    async with TaskGroup() as group:

        async def there() -> None:
            coro = echo_later()
            with contextlib.suppress(*REFUSED):
                group.create_task(coro)
            coro.close()

        group.create_task(settle())
    await works()
    async with TaskGroup() as group:
        pass
    in_new_loop(there)


@case("a loop that is closed under a registry")
def closed_under_registry() -> None:
    async def leaves() -> TaskRegistry:
        registry = TaskRegistry()
        registry.register(forever(), "left")
        await settle(5)
        return registry

    def run() -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            registry = runner.run(leaves())
        assert len(registry) == 0
        assert not in_new_loop(works)

    in_thread(run)


@case("a loop that stops in the middle of a batch")
def stops_in_batch() -> None:
    def run() -> None:
        loop = asyncio.SelectorEventLoop()

        async def main() -> Any:
            return await bounded_gather(echo_later, range(100), max_concurrent=3)

        task = loop.create_task(main())
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert len(loop.run_until_complete(task)) == 100
        loop.close()

    in_thread(run)


@case("no loop at all")
def no_loop() -> None:
    def run() -> None:
        registry = TaskRegistry()
        coro = echo_later()
        refuses(registry.register, coro)
        coro.close()
        batch = bounded_gather(echo_later, range(3))
        awaiting = batch.collect()
        refuses(awaiting.send, None)
        group = TaskGroup()
        coro = echo_later()
        refuses(group.create_task, coro)
        coro.close()
        entering = group.__aenter__()
        refuses(entering.send, None)

    in_thread(run)
