"""Sources of items that raise, exit, never end or use their own batch."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pyasynclife
from pyasynclife import (
    BatchStatus,
    bounded_gather,
)
from support.coroutines import echo_later, forever
from support.hostile import case
from support.hostile_cases.common import (
    REFUSED,
    ends_with,
    raise_hostile,
    refuses,
    works,
)


class Source:
    """An iterator with the given methods."""

    def __init__(self, following: Any, beginning: Any = None) -> None:
        self.following, self.beginning = following, beginning

    def __iter__(self) -> Any:
        return self.beginning() if self.beginning else self

    def __next__(self) -> Any:
        return self.following()


class HostileQueue(asyncio.Queue[Any]):
    """A queue with the given functions in the place of its methods."""

    def __init__(self, **methods: Any) -> None:
        super().__init__()
        for item in range(3):
            super().put_nowait(item)
        vars(self).update(methods)


@case("a queue whose methods raise")
async def queue_raises() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    for name in ("get", "get_nowait", "qsize", "task_done", "put_nowait"):
        for error in (LookupError, asyncio.CancelledError, GeneratorExit, SystemExit):

            def raises(*_: Any, error: Any = error) -> Any:
                raise error

            batch = bounded_gather(
                forever, HostileQueue(**{name: raises}), max_concurrent=1
            )
            asyncio.get_running_loop().call_later(0.001, batch.cancel)
            with contextlib.suppress(error):
                await batch
    await works()


@case("a queue whose methods answer nonsense")
async def queue_answers() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    async def get() -> Any:
        return forever()

    for methods in (
        {"get": get},
        {"get": lambda: None},
        {"qsize": lambda: "many"},
        {"qsize": lambda: -5},
        {"qsize": lambda: 10**30},
        {"qsize": lambda: 10**6},
        {"task_done": lambda: forever},
        {"task_done": None},
        {"get_nowait": 3},
        {"_loop": 3},
    ):
        batch = bounded_gather(echo_later, HostileQueue(**methods), max_concurrent=2)
        asyncio.get_running_loop().call_later(0.001, batch.cancel)
        with contextlib.suppress(*REFUSED):
            await batch
    await works()


@case("a queue that uses its batch")
async def queue_uses_its_batch() -> None:
    async def run(name: str, verb: str, way: bool) -> None:
        def use(*args: Any) -> Any:
            with contextlib.suppress(RuntimeError):
                getattr(batch, verb)(*([7] if verb == "add" else []))
            return getattr(asyncio.Queue, name)(queue, *args)

        queue = HostileQueue(**{name: use})
        batch = bounded_gather(echo_later, queue, max_concurrent=2, task_per_item=way)
        asyncio.get_running_loop().call_later(0.001, batch.cancel)
        await batch

    for name in ("get_nowait", "task_done", "qsize", "put_nowait"):
        for verb in ("close", "cancel", "pause", "add"):
            await run(name, verb, False)
            await run(name, verb, True)
    await works()


@case("a queue that is dropped with its batch")
async def queue_dropped() -> None:
    for _ in range(3):
        batch = bounded_gather(forever, HostileQueue(), max_concurrent=1)
        task = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        del batch
        with contextlib.suppress(asyncio.CancelledError):
            await task
        del task
        gc.collect()
    await works()


@case("a source whose iterator raises at once")
async def source_raises() -> None:
    await ends_with(LookupError, Source(raise_hostile))


@case("a source whose __iter__ raises")
async def iter_raises() -> None:
    await ends_with(LookupError, Source(None, raise_hostile))


@case("a source whose __iter__ gives no iterator")
async def iter_gives_nothing() -> None:
    await ends_with(TypeError, Source(None, lambda: 42))


@case("a source that raises in the middle")
async def source_raises_later() -> None:
    def items() -> Iterator[int]:
        yield from range(10)
        raise LookupError

    await ends_with(LookupError, items(), max_concurrent=3)


@case("a source that raises an exit")
async def source_exits() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise GeneratorExit

    await ends_with(GeneratorExit, items())


@case("a source that raises CancelledError")
async def source_cancels() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise asyncio.CancelledError

    await ends_with(asyncio.CancelledError, items())


@case("a source that does not end when it is closed")
async def source_swallows_its_closing() -> None:
    def items() -> Iterator[int]:
        closings = 0
        while closings < 2:
            try:
                yield 1
            except GeneratorExit:
                closings += 1

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    await leaves(items())


@case("a source whose close() uses its batch, and lets go of it")
async def closing_uses_the_batch() -> None:
    def close() -> None:
        batch = held.pop()
        for use in (batch.cancel, batch.pause, batch.resume, batch.close):
            use()
        with contextlib.suppress(RuntimeError):
            batch.add(1)
        batch.max_concurrent = 1
        del batch
        gc.collect()

    held: list[Any] = []
    iterator = Source(lambda: 1)
    iterator.close = close  # type: ignore[attr-defined]
    held.append(bounded_gather(echo_later, Source(None, lambda: iterator)))
    await anext(aiter(held[0]))
    held[0].cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not held


@case("a source whose close is no function, raises or exits")
async def closing_fails() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    for close in (42, None, raise_hostile):
        iterator = Source(lambda: 1)
        iterator.close = close  # type: ignore[attr-defined]
        await leaves(Source(None, lambda iterator=iterator: iterator))


async def leaves(items: Any) -> None:
    async with bounded_gather(echo_later, items, max_concurrent=3) as batch:
        async for _ in batch:
            break
    assert batch.status is BatchStatus.CANCELLED


@case("a registry whose closing stops, drops or fails its batch")
async def closing_of_a_registry() -> None:
    class Registry(pyasynclife.TaskRegistry):
        answer: Any

        @property
        def closing(self) -> Any:
            return self.answer()

    def cancels() -> bool:
        held[0].cancel()
        return False

    def drops() -> bool:
        held.clear()
        gc.collect()
        return True

    held: list[Any] = []
    for answer in (cancels, drops, lambda: 1, raise_hostile):
        registry = Registry()
        registry.answer = answer
        batch = bounded_gather(echo_later, range(5), registry=registry)
        held.append(batch)
        task = asyncio.ensure_future(batch.collect())
        del batch
        await asyncio.wait([task])
        held.clear()
        if task.exception() is None:
            assert task.result().status is BatchStatus.CANCELLED


@case("a source without end, and an error")
async def endless_source() -> None:
    def items() -> Iterator[int]:
        n = 0
        while True:
            yield (n := n + 1)

    async def fails(n: int) -> None:
        assert n < 100

    batch = bounded_gather(fails, items(), max_errors=0, max_concurrent=3)
    try:
        await batch
    except pyasynclife.BatchError:
        assert batch.status is BatchStatus.ABORTED
    else:
        raise AssertionError
    await works()


@case("a source that awaits its own batch")
async def source_of_itself() -> None:
    def items() -> Iterator[int]:
        for _ in range(3):
            with contextlib.suppress(*REFUSED, StopIteration, StopAsyncIteration):
                waiting = batch.collect()
                try:
                    waiting.send(None)
                finally:
                    waiting.close()
            yield 1

    batch = bounded_gather(echo_later, items(), max_concurrent=2)
    await batch
    await works()


@case("a generator that is running already")
async def source_is_running() -> None:
    def items() -> Iterator[Any]:
        yield 1
        refuses(next, generator)
        yield 2

    generator = items()
    assert len(await bounded_gather(echo_later, generator)) == 2
    await works()


@case("one generator for two batches")
async def source_for_two() -> None:
    generator = iter(range(100))
    one, two = (
        bounded_gather(echo_later, generator, max_concurrent=3) for _ in range(2)
    )
    first, second = await asyncio.gather(one.collect(), two.collect())
    assert sorted([*first.values(), *second.values()]) == list(range(100))
    await works()


@case("a source that makes the batch go in its __next__")
async def source_drops() -> None:
    held: list[Any] = []

    def items() -> Iterator[int]:
        yield 1
        held.clear()
        gc.collect()
        yield 2

    async def starts() -> None:
        held.append(bounded_gather(echo_later, items(), max_concurrent=1))
        await held[0]

    await starts()
    await works()


@case("a list that grows and shrinks under a batch")
async def list_changes() -> None:
    items = list(range(10))

    async def changes(n: int) -> int:
        items.clear() if n == 3 else items.extend([n] * (n < 2))
        await asyncio.sleep(0)
        return n

    result = await bounded_gather(changes, items, max_concurrent=2)
    assert all(one.success for one in result)
    list(result)
    await works()


@case("a mapping that changes under a batch")
async def dict_changes() -> None:
    items = dict.fromkeys(range(10))

    async def changes(n: int) -> None:
        items[n + 100] = None

    await ends_with_runtime_error(items, changes)


async def ends_with_runtime_error(items: Any, fn: Any) -> None:
    try:
        await bounded_gather(fn, items, max_concurrent=1)
    except RuntimeError:
        pass
    else:
        raise AssertionError
    await works()


class AsyncSource:
    def __init__(self, following: Any, closing: Any = None) -> None:
        self.following, self.closing = following, closing

    def __aiter__(self) -> Any:
        return self

    def __anext__(self) -> Any:
        return self.following()

    async def aclose(self) -> None:
        if self.closing:
            self.closing()


@case("an async source whose __anext__ raises")
async def anext_raises() -> None:
    await ends_with(LookupError, AsyncSource(raise_hostile))


@case("an async source whose __anext__ gives no awaitable")
async def anext_gives_a_number() -> None:
    await ends_with(TypeError, AsyncSource(lambda: 42))


@case("an async source whose __aiter__ gives no iterator")
async def aiter_gives_a_number() -> None:
    class Odd:
        def __aiter__(self) -> Any:
            return 42

    await ends_with(TypeError, Odd())


@case("an async source that never gives, and a cancel")
async def anext_never() -> None:
    batch = bounded_gather(echo_later, AsyncSource(forever))
    asyncio.get_running_loop().call_later(0.01, batch.cancel)
    assert (await batch).status is BatchStatus.CANCELLED
    await works()


@case("an async source that swallows its cancellation once")
async def anext_swallows() -> None:
    async def items() -> AsyncIterator[int]:
        try:
            await forever()
        except asyncio.CancelledError:
            yield 1

    batch = bounded_gather(echo_later, items())
    asyncio.get_running_loop().call_later(0.01, batch.cancel)
    assert (await batch).status is BatchStatus.CANCELLED
    await works()
