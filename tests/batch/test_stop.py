"""Batch.stop(): nothing new starts, and what runs goes on to its end."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import (
    Batch,
    BatchError,
    BatchStatus,
    NotRunError,
    SignalCoordinator,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import echo, echo_later, forever
from support.items import Gated
from support.loops import in_turns, settle, until

BOTH_WAYS = True


class Source:
    """An asynchronous or a plain generator that notes how it ends."""

    def __init__(self) -> None:
        self.given = 0
        self.ended = ""

    def plain(self, n: int) -> Iterator[int]:
        try:
            for item in range(n):
                self.given += 1
                yield item
            self.ended = "read"
        finally:
            self.ended = self.ended or "closed"

    async def later(self, n: int) -> AsyncIterator[int]:
        try:
            for item in range(n):
                await asyncio.sleep(0)
                self.given += 1
                yield item
            self.ended = "read"
        finally:
            self.ended = self.ended or "closed"


MAKES: dict[str, Callable[[], Any]] = {
    "list": lambda: list(range(10)),
    "range": lambda: range(10),
    "iterator": lambda: iter(range(10)),
    "generator": lambda: Source().plain(10),
    "async": lambda: Source().later(10),
    "added": list,
    "batch": lambda: bounded_gather(echo, range(10)),
}


def make(source: str, fn: Any, **options: Any) -> Batch[Any]:
    if source == "batch":
        inner = fn

        async def fn(result: TaskResult[int]) -> Any:
            return await inner(result.unwrap())

    batch = bounded_gather(fn, MAKES[source](), max_concurrent=2, **options)
    for item in range(10 if source == "added" else 0):
        batch.add(item)
    return batch


async def consume(batch: Batch[Any], use: str) -> list[Any]:
    """Use a batch up, and return the data of the items that have ended well."""
    if use == "await":
        return [r.data for r in await batch if r.success]
    if use == "iterate":
        return [r.data async for r in batch]
    async with batch:
        if use == "await in a block":
            return [r.data for r in await batch if r.success]
    return []


# ------------------------------------------------- sources and consumers


@pytest.mark.parametrize("source", MAKES)
@pytest.mark.parametrize("use", ["await", "iterate", "await in a block", "block"])
async def test_what_runs_ends_and_nothing_starts(source: str, use: str) -> None:
    gated = Gated()
    ended: list[Any] = []
    batch = make(source, gated, on_result=ended.append)
    task = asyncio.create_task(consume(batch, use))
    await until(lambda: gated.now == 2)
    batch.stop()
    await settle(10)
    assert gated.now == 2
    assert batch.status is None
    assert not task.done()
    gated.release()
    values = await task
    assert gated.started == [0, 1]
    assert [r.data for r in ended] == ["released"] * 2
    assert values == ["released"] * (0 if use == "block" else 2)
    assert batch.status is BatchStatus.STOPPED
    if use.startswith("await"):
        result = await batch
        assert result.status is BatchStatus.STOPPED
        assert not result.ok
        assert {r.state for r in result[2:]} <= {TaskState.PENDING}
        known = source in ("list", "range", "added")
        assert len(result) == 10 if known else len(result) <= 3
        assert result.exhausted is known


@pytest.mark.parametrize("source", MAKES)
@pytest.mark.parametrize("use", ["await", "iterate", "await in a block", "block"])
async def test_a_stop_before_the_beginning_starts_nothing(
    source: str, use: str
) -> None:
    calls: list[Any] = []
    batch = make(source, calls.append)
    batch.stop()
    assert batch.status is None
    assert await consume(batch, use) == []
    assert calls == []
    assert batch.status is BatchStatus.STOPPED
    if use.startswith("await"):
        result = await batch
        assert {r.state for r in result} <= {TaskState.PENDING}
        assert len(result) == (10 if source in ("list", "range", "added") else 0)


@pytest.mark.parametrize("source", MAKES)
async def test_an_item_may_stop_its_batch(source: str) -> None:
    async def fn(x: int) -> int:
        if x == 3:
            batch.stop()
        await asyncio.sleep(0)
        return x

    batch = make(source, fn)
    result = await batch
    assert result.status is BatchStatus.STOPPED
    values = [r.data for r in result if r.success]
    assert values in ([0, 1, 2, 3], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("kind", ["plain", "later"])
async def test_a_source_may_stop_its_batch_and_is_closed(kind: str) -> None:
    source = Source()

    def stop_at(item: int) -> str:
        if item == 3:
            batch.stop()
        return str(item)

    batch = bounded_gather(echo_later, getattr(source, kind)(10), key=stop_at)
    result = await batch
    assert result.status is BatchStatus.STOPPED
    states = [r.state for r in result]
    begun = states.index(TaskState.PENDING)
    assert states == [TaskState.DONE] * begun + [TaskState.PENDING] * (4 - begun)
    assert source.ended == "closed"
    assert source.given <= 5


async def test_a_source_that_stops_its_batch_in_its_own_step_is_read_no_further() -> (
    None
):
    def items() -> Iterator[int]:
        yield 0
        batch.stop()
        yield 1
        raise AssertionError("read on")

    batch = bounded_gather(echo, items(), max_concurrent=1)
    result = await batch
    assert [r.state for r in result] == [TaskState.DONE, TaskState.PENDING]
    assert result.status is BatchStatus.STOPPED


async def test_a_source_that_waits_is_closed_at_once() -> None:
    closed = []

    async def items() -> AsyncIterator[int]:
        yield 0
        try:
            await forever()
        finally:
            closed.append(True)

    gated = Gated()
    batch = bounded_gather(gated, items())
    task = asyncio.ensure_future(batch.collect())
    await until(lambda: gated.now == 1)
    await settle()  # the reader waits for the second item
    batch.stop()
    await settle()
    assert closed == [True]
    gated.release()
    assert (await task).values() == ["released"]
    assert batch.status is BatchStatus.STOPPED


async def test_a_source_that_does_not_stop_is_abandoned_and_items_go_on(
    loop_errors: list[Any],
) -> None:
    free = asyncio.Event()

    async def items() -> AsyncIterator[int]:
        yield 0
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass

    gated = Gated()
    batch = bounded_gather(gated, items(), cancel_grace=0.0)
    task = asyncio.ensure_future(batch.collect())
    await until(lambda: gated.now == 1)
    batch.stop()
    await asyncio.sleep(0.01)
    assert gated.now == 1
    gated.release()
    result = await task
    assert result.values() == ["released"]
    assert result.status is BatchStatus.STOPPED
    free.set()
    await settle()
    assert loop_errors == []


# --------------------------------------------------------------- moments


async def test_a_stop_that_leaves_nothing_is_completed() -> None:
    gated = Gated()
    batch = bounded_gather(gated, [1, 2], max_concurrent=2)
    task = asyncio.ensure_future(batch.collect())
    await until(lambda: gated.now == 2)
    batch.stop()
    gated.release()
    result = await task
    assert result.status is BatchStatus.COMPLETED
    assert result.ok


async def test_a_stop_after_the_end_or_twice_changes_nothing() -> None:
    batch = bounded_gather(echo, [1, 2])
    await batch
    batch.stop()
    assert batch.status is BatchStatus.COMPLETED
    empty = bounded_gather(echo, [])
    empty.stop()
    empty.stop()
    assert (await empty).status is BatchStatus.COMPLETED


async def test_a_paused_batch_is_stopped() -> None:
    gated = Gated()
    batch = bounded_gather(gated, range(10), max_concurrent=2)
    task = asyncio.ensure_future(batch.collect())
    await until(lambda: gated.now == 2)
    batch.pause()
    batch.stop()
    gated.release()
    result = await task
    assert result.status is BatchStatus.STOPPED
    assert len(result.successes()) == 2
    batch.resume()


async def test_a_waiting_consumer_is_woken() -> None:
    batch = bounded_gather(echo, [])
    task = asyncio.ensure_future(anext(aiter(batch), "end"))
    await settle()
    batch.stop()
    assert await task == "end"

    paused = bounded_gather(echo, [1])
    paused.pause()
    waiting = asyncio.ensure_future(anext(aiter(paused), "end"))
    await settle()
    paused.stop()
    assert await waiting == "end"
    assert paused.status is BatchStatus.STOPPED


async def test_nothing_can_be_added_after_a_stop() -> None:
    async with bounded_gather(echo, []) as batch:
        batch.stop()
        with pytest.raises(RuntimeError, match="this batch has ended"):
            batch.add(1)
    unbegun = bounded_gather(echo, [1])
    unbegun.stop()
    with pytest.raises(RuntimeError, match="was stopped: nothing can be added"):
        unbegun.add(1)


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("cancel", BatchStatus.CANCELLED),
        ("budget", BatchStatus.TIMED_OUT),
        ("errors", BatchStatus.ABORTED),
        ("caller", BatchStatus.CANCELLED),
        ("timeout", BatchStatus.STOPPED),
    ],
)
async def test_what_runs_on_after_a_stop_can_still_be_ended(
    how: str, status: BatchStatus
) -> None:
    async def fn(x: int) -> None:
        started.append(x)
        if how == "errors" and x == 1:
            await settle(20)
            raise ValueError
        await forever()

    started: list[int] = []
    options = {
        "budget": {"budget": 0.5},
        "errors": {"max_errors": 0},
        "timeout": {"timeout": 0.5},
    }.get(how, {})
    batch = bounded_gather(fn, range(10), max_concurrent=2, **options)  # type: ignore[arg-type]
    task = asyncio.ensure_future(batch.collect())
    await until(lambda: len(started) == 2)
    batch.stop()
    if how == "cancel":
        in_turns(3, batch.cancel)
    if how == "caller":
        in_turns(3, task.cancel)
    if how == "errors":
        with pytest.raises(BatchError) as caught:
            await task
        assert caught.value.result is not None
        result = caught.value.result
    else:
        await asyncio.wait([task])
        result = await batch
    assert result.status is status
    assert started == [0, 1]
    assert [r.state for r in result[2:]] == [TaskState.PENDING] * 8


async def test_what_never_started_is_not_run_in_values() -> None:
    batch = bounded_gather(echo, [1, 2])
    batch.stop()
    result = await batch
    with pytest.raises(BatchError) as caught:
        result.values()
    assert all(type(e) is NotRunError for e in caught.value.exceptions)


async def test_a_running_batch_that_is_dropped_after_a_stop_warns() -> None:
    gated = Gated()
    batch = bounded_gather(gated, range(10), max_concurrent=2)
    first = asyncio.ensure_future(anext(aiter(batch)))
    await until(lambda: gated.now == 2)
    batch.stop()
    next(iter(gated.gates.values())).set_result("first")
    await first
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del batch, first
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    await settle()
    assert gated.now == 0


async def test_stopping_the_first_of_a_pipeline_ends_it_without_a_loss() -> None:
    gated = Gated()
    first = bounded_gather(gated, range(10), max_concurrent=2)

    async def second(result: TaskResult[str]) -> str:
        return result.unwrap()

    task = asyncio.ensure_future(bounded_gather(second, first).collect())
    await until(lambda: gated.now == 2)
    first.stop()
    gated.release()
    result = await task
    assert result.values() == ["released"] * 2
    assert result.ok
    assert first.status is BatchStatus.STOPPED


async def test_tasks_of_items_that_have_not_begun_are_never_started() -> None:
    async with TaskRegistry() as registry:
        gated = Gated()
        batch = bounded_gather(gated, range(4), max_concurrent=3, registry=registry)
        task = asyncio.ensure_future(batch.collect())
        await until(lambda: len(registry) > 0)
        batch.stop()
        await until(task.done)
        result = await task
    assert gated.started == []
    assert [r.state for r in result] == [TaskState.PENDING] * 4
    assert result.status is BatchStatus.STOPPED


async def test_a_registry_that_shuts_down_ends_a_stopped_batch() -> None:
    async with TaskRegistry() as registry:
        gated = Gated()
        batch = bounded_gather(gated, range(4), max_concurrent=2, registry=registry)
        task = asyncio.ensure_future(batch.collect())
        await until(lambda: gated.now == 2)
        batch.stop()
        await registry.shutdown()
        result = await task
    assert result.status is BatchStatus.CANCELLED
    assert [r.state for r in result[:2]] == [TaskState.CANCELLED] * 2


async def test_an_attached_batch_is_stopped_by_a_request_to_shut_down() -> None:
    gated = Gated()
    batch = bounded_gather(gated, range(10), max_concurrent=2)
    coordinator = SignalCoordinator(5, drain=5)
    coordinator.attach(batch)
    async with coordinator:
        task = asyncio.ensure_future(batch.collect())
        await until(lambda: gated.now == 2)
        coordinator.request_shutdown()
        await settle()
        gated.release()
        report = await coordinator.graceful_shutdown()
    result = await task
    assert result.status is BatchStatus.STOPPED
    assert len(result.successes()) == 2
    assert report.ok
