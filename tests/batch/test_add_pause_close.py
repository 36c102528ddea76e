"""A batch that changes while it runs: add, close, pause and resume."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import BatchStatus, TaskState, bounded_gather
from support.coroutines import Fatal, echo, echo_later, forever
from support.items import Gated
from support.loops import settle, until

BOTH_WAYS = True
ENDS = {"errors": ValueError(), "fatal": Fatal()}


# ------------------------------------------------------------------- add


@pytest.mark.parametrize("make", [list, tuple, iter])
@pytest.mark.parametrize("fn", [echo, echo_later])
async def test_added_items_come_after_those_of_the_source(
    make: Callable[..., Any], fn: Any
) -> None:
    batch = bounded_gather(fn, make([0, 1, 2]), max_concurrent=2)
    batch.add("a")
    batch.add("b")
    result = await batch
    assert [r.item for r in result] == [0, 1, 2, "a", "b"]
    assert [r.index for r in result] == list(range(5))
    assert result.values() == [0, 1, 2, "a", "b"]
    assert result.ok
    assert batch.progress.total == 5


async def test_an_item_may_add_to_its_batch() -> None:
    async def fn(x: int) -> int:
        await asyncio.sleep(0)
        if x < 100:
            batch.add(2 * x)
            batch.add(2 * x + 1)
        return x

    batch = bounded_gather(fn, [1], max_concurrent=7)
    assert sorted((await batch).values()) == list(range(1, 200))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("fn", [echo, echo_later])
async def test_a_crawler_adds_while_it_consumes_and_ends_when_nothing_is_left(
    ordered: bool, fn: Any
) -> None:
    batch = bounded_gather(fn, [1], max_concurrent=5, ordered=ordered)
    seen = []
    async for result in batch:
        assert batch.status is None
        seen.append(result.data)
        await settle(4)
        if result.data < 50:
            batch.add(2 * result.data)
            batch.add(2 * result.data + 1)
    assert sorted(seen) == list(range(1, 100))
    assert batch.status is BatchStatus.COMPLETED
    with pytest.raises(RuntimeError, match="has ended"):
        batch.add(1)


async def test_an_iteration_ends_only_when_the_consumer_asks_again() -> None:
    batch = bounded_gather(echo, [])
    batch.add(1)
    stream = aiter(batch)
    assert (await anext(stream)).data == 1
    await settle(5)
    assert batch.status is None
    batch.add(2)
    assert (await anext(stream)).data == 2
    assert await anext(stream, None) is None
    assert batch.status is BatchStatus.COMPLETED


async def test_a_consumer_that_waits_gets_what_is_added() -> None:
    source = stuck_source()
    batch = bounded_gather(echo_later, source)
    waiting = asyncio.ensure_future(anext(aiter(batch)))
    await settle(5)
    batch.add("added")
    assert (await waiting).data == "added"
    batch.cancel()
    assert [r async for r in batch] == []
    assert source.ag_frame is None


async def stuck_source(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item
    await asyncio.get_running_loop().create_future()


async def test_added_items_run_beside_a_source_that_is_stuck() -> None:
    batch = bounded_gather(echo, stuck_source("own"))
    task = asyncio.create_task(batch.collect())
    await settle(5)
    batch.add("added")
    await settle(5)
    assert batch.progress.done == 2
    async with asyncio.timeout(5):
        batch.cancel()
        result = await task
    assert [r.item for r in result] == ["own", "added"]
    assert result.status is BatchStatus.CANCELLED


async def test_items_of_a_reader_and_added_ones_alternate() -> None:
    started = []

    async def source() -> AsyncIterator[Any]:
        i = 0
        while True:
            yield i
            i += 1

    async def fn(x: str) -> None:
        started.append(x)
        if x == "last":
            batch.cancel()
        await asyncio.sleep(0)

    batch = bounded_gather(fn, source(), max_concurrent=1)
    for name in ("a", "b", "last"):
        batch.add(name)
    (await batch).failures()
    assert {"a", "b", "last"} <= set(started)


async def test_a_block_may_add_until_it_is_left() -> None:
    seen = []
    async with bounded_gather(
        echo_later, [], on_result=lambda r: seen.append(r.data)
    ) as batch:
        for i in range(3):
            await settle(5)
            batch.add(i)
        await settle(5)
        assert seen == [0, 1, 2]
        assert batch.status is None
        batch.add(3)
    assert seen == [0, 1, 2, 3]
    assert batch.status is BatchStatus.COMPLETED
    with pytest.raises(RuntimeError, match="has ended"):
        batch.add(4)


async def test_added_items_that_were_never_started_are_in_the_result() -> None:
    gated = Gated()
    batch = bounded_gather(gated, [0, 1, 2], max_concurrent=1)
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.add("x")
    batch.add("y")
    batch.cancel()
    result = await task
    assert [r.item for r in result] == [0, 1, 2, "x", "y"]
    assert [r.index for r in result] == list(range(5))
    assert [r.state for r in result] == [TaskState.CANCELLED] + [TaskState.PENDING] * 4
    assert len(result) == 5
    assert result.exhausted


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("cancel", "was cancelled: nothing can be added"),
        ("errors", "was ended by the failures of its items: nothing can be added"),
        ("budget", "has used up its budget: nothing can be added"),
        ("fatal", "has failed: nothing can be added"),
        ("leave", "was cancelled: nothing can be added"),
        ("caller", "was cancelled: nothing can be added"),
    ],
)
async def test_nothing_can_be_added_once_a_batch_was_stopped(
    how: str, text: str
) -> None:
    async def fn(item: Any) -> None:
        began.append(item)
        if item in ENDS:
            await settle(5)
            raise ENDS[item]
        try:
            await forever()
        finally:
            await settle(3)
            with pytest.raises(RuntimeError, match=text) as caught:
                batch.add("late")
            refused.append(caught.value)

    async def main() -> None:
        async with batch:
            if how == "leave":
                await until(lambda: len(began) == 2)
                raise LookupError
            (await batch).failures()

    began, refused = [], []
    options: dict[str, Any] = {
        "errors": {"max_errors": 0},
        "budget": {"budget": 0.3},
    }.get(how, {})
    batch = bounded_gather(fn, [how, 1], **options)
    task = asyncio.create_task(main())
    await until(lambda: len(began) == 2)
    if how in ("cancel", "caller"):
        (batch if how == "cancel" else task).cancel()
    await asyncio.wait([task])
    assert refused
    assert batch.progress.started == len(began) == 2
    if how in ("errors", "fatal", "leave"):
        assert task.exception()


async def test_nothing_can_be_added_to_a_batch_cancelled_before_it_begins() -> None:
    batch = bounded_gather(echo, [1])
    batch.cancel()
    with pytest.raises(RuntimeError, match="was cancelled: nothing can be added"):
        batch.add(2)
    result = await batch
    assert [r.item for r in result.failures()] == [1]


async def test_a_budget_reaches_added_items() -> None:
    batch = bounded_gather(echo, iter([]), budget=0, key=lambda x: f"<{x}>")
    batch.add(1)
    result = await batch
    assert [(r.task_id, r.timed_out) for r in result] == [("<1>", True)]
    assert result.failures()


async def test_many_items_may_be_added() -> None:
    batch = bounded_gather(echo, [])
    for i in range(1000):
        batch.add(i)
    assert batch.progress.total == 1000
    assert (await batch).values() == list(range(1000))


async def test_a_coroutine_that_is_added_is_closed_and_the_batch_goes_on() -> None:
    coro = echo(1)
    batch = bounded_gather(echo, [0])
    with pytest.raises(TypeError, match=r"bounded_gather\(fetch, urls\)"):
        batch.add(coro)
    assert coro.cr_frame is None or not gc.is_tracked(coro.cr_frame)
    with pytest.raises(RuntimeError):
        coro.send(None)
    assert (await batch).values() == [0]


async def test_a_key_names_added_items_too() -> None:
    batch = bounded_gather(echo, [0], key=lambda x: f"<{x}>")
    batch.add(1)
    assert list((await batch).by_id()) == ["<0>", "<1>"]


async def test_a_source_may_add_to_its_batch() -> None:
    def source() -> Iterator[int]:
        yield 0
        batch.add("added")
        yield 1

    batch = bounded_gather(echo_later, source())
    assert (await batch).values() == [0, 1, "added"]


async def test_an_awaited_batch_whose_items_add_keeps_its_limit() -> None:
    now = most = 0

    async def fn(x: int) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await settle(2)
        if x < 60:
            batch.add(2 * x)
            batch.add(2 * x + 1)
        now -= 1

    batch = bounded_gather(fn, [1], max_concurrent=4)
    assert len(await batch) == 119
    assert most == 4


# ----------------------------------------------------------------- close


async def test_close_ends_a_block_that_has_nothing_to_run() -> None:
    async with bounded_gather(echo_later, []) as batch:
        batch.add(1)
        batch.close()
        batch.close()
        with pytest.raises(RuntimeError, match="was closed"):
            batch.add(2)
        await settle(6)
        assert batch.status is BatchStatus.COMPLETED
        assert batch.progress.done == 1
    batch.close()


async def test_closing_before_the_start_keeps_the_items_of_the_source() -> None:
    batch = bounded_gather(echo, [1, 2])
    batch.close()
    assert (await batch).values() == [1, 2]


# ------------------------------------------------------ pause and resume


@pytest.mark.parametrize("kind", ["list", "iterator", "reader"])
async def test_pause_starts_nothing_new_and_resume_continues(kind: str) -> None:
    async def numbers() -> AsyncIterator[int]:
        for i in range(20):
            yield i

    items = {"list": list(range(20)), "iterator": iter(range(20)), "reader": numbers()}
    gated = Gated()
    batch = bounded_gather(gated, items[kind], max_concurrent=3)
    assert not batch.paused
    task = asyncio.create_task(batch.collect())
    await settle(12)
    assert gated.now == 3
    batch.pause()
    batch.pause()
    assert batch.paused
    gated.release()
    await settle(8)
    assert (gated.now, len(gated.started)) == (0, 3)
    assert not task.done()
    batch.resume()
    assert not batch.paused
    await settle(12)
    assert gated.now == 3
    while not task.done():
        gated.release()
        await asyncio.sleep(0)
    assert len((await task).values()) == 20


async def test_a_batch_paused_before_it_began_starts_nothing() -> None:
    batch = bounded_gather(echo, [1])
    batch.pause()
    task = asyncio.create_task(batch.collect())
    await settle(5)
    assert batch.progress.started == 0
    batch.resume()
    assert (await task).values() == [1]
    batch.pause()
    batch.resume()


async def test_pausing_in_the_iteration_of_the_start_starts_nothing() -> None:
    gated = Gated()
    async with bounded_gather(gated, range(10), max_concurrent=5) as batch:
        batch.pause()
        await settle(10)
        assert gated.started == []
        batch.resume()
        await settle(10)
        assert gated.now == 5
        batch.cancel()


async def test_the_budget_and_timeouts_run_on_while_paused() -> None:
    batch = bounded_gather(
        lambda x: asyncio.sleep(10), range(3), max_concurrent=1, budget=0.05
    )
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.pause()
    result = await task
    assert result.status is BatchStatus.TIMED_OUT
    assert result.failures()
    batch = bounded_gather(lambda x: asyncio.sleep(10), [1], timeout=0.02)
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.pause()
    await asyncio.sleep(0.1)
    assert batch.progress.timed_out == 1
    batch.resume()
    (await task).failures()


async def test_a_paused_batch_can_be_cancelled() -> None:
    batch = bounded_gather(echo, [1, 2])
    batch.pause()
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.cancel()
    assert [r.state for r in await task] == [TaskState.PENDING] * 2


# ----------------------------------------------------------- all of them


@pytest.mark.parametrize("where", ["source", "key", "on_result", "fn", "del"])
async def test_every_method_may_be_called_from_every_callback(where: str) -> None:
    def meddle(at: str) -> None:
        if at == where and batch.progress.started < 40:
            batch.pause()
            batch.add(batch.progress.started)
            batch.max_concurrent = 1 + batch.progress.started % 5
            batch.resume()

    class Item:
        def __del__(self) -> None:
            meddle("del")

    def source() -> Iterator[Any]:
        for _ in range(20):
            meddle("source")
            yield Item()

    def key(item: Any) -> str:
        meddle("key")
        return "x"

    async def fn(item: Any) -> None:
        meddle("fn")
        await asyncio.sleep(0)

    batch = bounded_gather(
        fn, source(), key=key, on_result=lambda r: meddle("on_result")
    )
    async with batch:
        async for result in batch:
            assert result.success
            del result
    assert batch.progress.done == batch.progress.started > 20
    assert batch.progress.running == 0
