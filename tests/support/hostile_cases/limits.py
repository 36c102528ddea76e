"""Keys, limit_by and retries that use the batch that calls them."""

import asyncio
import gc
from typing import Any

from pyasynclife import Backoff, Retry, bounded_gather
from support.coroutines import echo_later, fail
from support.hostile import case
from support.hostile_cases.common import raise_hostile, works
from support.loops import settle


class Key:
    """A key whose __hash__, __eq__ and __del__ call something."""

    call: Any = None

    def __hash__(self) -> int:
        self.use()
        return 1

    def __eq__(self, other: object) -> bool:
        self.use()
        return self is other

    def __del__(self) -> None:
        self.use()

    def use(self) -> None:
        if Key.call is not None:
            Key.call()


async def run(call: Any, **options: Any) -> None:
    """Run batches whose keys make a call."""
    for own in ({}, {"task_per_item": True}):
        batch = bounded_gather(
            echo_later, range(20), max_concurrent=4, limit_by=lambda _: Key(),
            **options, **own,
        )  # fmt: skip
        Key.call = lambda: call(batch)  # noqa: B023
        try:
            (await batch).failures()
        finally:
            Key.call = None
    gc.collect()
    await works()


@case("keys that cancel their batch")
async def keys_cancel() -> None:
    await run(lambda batch: batch.cancel())


@case("keys that add items to their batch")
async def keys_add() -> None:
    left = list(range(30))
    await run(lambda batch: left and batch.status is None and adds(batch, left.pop()))


def adds(batch: Any, item: int) -> None:
    try:
        batch.add(item)
    except RuntimeError:
        pass  # it has ended


@case("keys that change the limit, pause and resume their batch")
async def keys_change_the_limit() -> None:
    def change(batch: Any) -> None:
        batch.max_concurrent = 1 + (batch.max_concurrent % 5)
        batch.pause()
        batch.resume()

    await run(change)


@case("keys that collect garbage")
async def keys_collect() -> None:
    await run(lambda _: gc.collect(0))


@case("keys that run another batch's iterator by hand")
async def keys_nest() -> None:
    await run(lambda batch: (repr(batch), batch.progress, aiter_of(batch)))


def aiter_of(batch: Any) -> None:
    try:
        aiter(batch)
    except RuntimeError:
        pass  # it is awaited


@case("keys that raise when they are hashed or compared")
async def keys_raise() -> None:
    class Raises:
        def __hash__(self) -> int:
            return 1

        __eq__ = raise_hostile

    result = await bounded_gather(echo_later, range(9), limit_by=lambda _: Raises())
    assert 1 <= len(result.successes()) < 9
    result.failures()
    result = await bounded_gather(echo_later, range(9), limit_by=lambda item: [item])
    assert len(result.failures()) == 9
    await works()


@case("a limit_by that cancels, and one that raises an exit")
async def limit_by_is_odd() -> None:
    def cancels(item: int) -> int:
        batch.cancel()
        return item % 2

    batch = bounded_gather(echo_later, range(9), limit_by=cancels)
    (await batch).failures()

    def exits(_: int) -> None:
        raise GeneratorExit

    try:
        await bounded_gather(echo_later, range(9), limit_by=exits)
    except GeneratorExit:
        pass
    else:
        raise AssertionError
    await works()


@case("a Retry whose functions cancel, add to and drop their batch")
async def retry_is_odd() -> None:
    def on(error: Exception) -> bool:
        calls.append(error)
        if len(calls) == 5:
            batch.add(7)
        if len(calls) == 9:
            batch.cancel()
        return True

    calls: list[Exception] = []
    batch = bounded_gather(
        fail, range(6), max_concurrent=2, retry=Retry(5, on, lambda *_: 0.0)
    )
    (await batch).failures()
    await works()


@case("an error that cannot be dropped quietly, while its item waits")
async def error_has_a_finalizer() -> None:
    class Loud(Exception):
        def __del__(self) -> None:
            batch.cancel()

    async def fails(_: int) -> None:
        raise Loud

    batch = bounded_gather(fails, range(6), retry=Retry(3, backoff=Backoff(0)))
    (await batch).failures()
    await works()


@case("a batch with waiting items that is collected with its loop")
async def collected_while_items_wait() -> None:
    retry = Retry(3, backoff=Backoff(60, jitter=0))
    batch = bounded_gather(fail, range(50), limit_by=lambda n: n % 3, retry=retry)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    waiting = asyncio.ensure_future(batch.collect())
    await settle(20)
    waiting.cancel()
    await asyncio.wait([waiting])
    del waiting
    gc.collect()
    await works()
