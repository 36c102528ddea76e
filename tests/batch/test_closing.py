"""What is closed when a batch ends early: a source, or an iterator of results."""

import asyncio
import contextlib
import contextvars
import gc
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyasynclife import (
    Batch,
    BatchError,
    BatchStatus,
    TaskResult,
    TaskState,
    bounded_gather,
)
from pyasynclife.console import track
from support.coroutines import Boom, echo, forever
from support.items import Stubborn
from support.loops import settle, until

BOTH_WAYS = True

var = contextvars.ContextVar("var", default="unset")


# ------------------------------------------------ a synchronous source is closed


def numbers(log: list[str]) -> Iterator[int]:
    try:
        yield from itertools.count()
    finally:
        log.append(f"closed {var.get()}")


class Numbers:
    """An iterable whose iterators are generators."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __iter__(self) -> Iterator[int]:
        return numbers(self.log)


async def by_leaving(items: Any) -> Batch[Any]:
    async with bounded_gather(echo, items) as batch:
        async for _ in batch:
            break
    return batch


async def by_an_exception(items: Any) -> Batch[Any]:
    batch = bounded_gather(echo, items)
    with contextlib.suppress(LookupError):
        async with batch:
            await settle(3)
            raise LookupError
    return batch


async def by_the_budget(items: Any) -> Batch[Any]:
    batch = bounded_gather(forever, items, budget=0.01, max_concurrent=2)
    (await batch).failures()
    return batch


async def by_max_errors(items: Any) -> Batch[Any]:
    async def fail(x: int) -> None:
        raise Boom

    batch = bounded_gather(fail, items, max_errors=3)
    with contextlib.suppress(BatchError):
        await batch
    return batch


async def by_cancel(items: Any) -> Batch[Any]:
    batch = bounded_gather(echo, items, on_result=lambda r: batch.cancel())
    await batch
    return batch


async def by_its_key(items: Any) -> Batch[Any]:
    batch = bounded_gather(echo, items, key=lambda x: "" if x == 3 else str(x))
    with contextlib.suppress(TypeError):
        await batch
    return batch


async def by_its_caller(items: Any) -> Batch[Any]:
    batch = bounded_gather(forever, items, max_concurrent=2)
    task = asyncio.create_task(batch.collect())
    await settle(3)
    task.cancel()
    await asyncio.wait([task])
    return batch


WAYS_TO_END_EARLY = [
    by_leaving,
    by_an_exception,
    by_the_budget,
    by_max_errors,
    by_cancel,
    by_its_key,
    by_its_caller,
]


@pytest.mark.parametrize("end", WAYS_TO_END_EARLY)
@pytest.mark.parametrize("make", [numbers, Numbers])
async def test_a_generator_is_closed_when_the_batch_ends_early(
    end: Callable[[Any], Any], make: Callable[[list[str]], Any]
) -> None:
    log: list[str] = []
    items = make(log)
    var.set("the batch's")
    batch = await end(items)
    assert log == ["closed the batch's"]
    del batch


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_generator_is_closed_when_its_batch_is_dropped() -> None:
    log: list[str] = []
    source = numbers(log)
    async for _ in bounded_gather(echo, source):
        break
    gc.collect()
    await settle(5)
    assert log == ["closed unset"]


async def test_a_generator_that_was_read_to_its_end_is_not_closed_again() -> None:
    closed = []

    class Source:
        def __init__(self, left: int) -> None:
            self.left = left

        def __iter__(self) -> "Source":
            return Source(self.left)

        def __next__(self) -> int:
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return self.left

        def close(self) -> None:
            closed.append(1)

    assert (await bounded_gather(echo, Source(3))).values() == [2, 1, 0]
    assert not closed
    await by_leaving(Source(10**9))
    assert closed == [1]


async def test_an_iterator_that_the_caller_passed_stays_open(tmp_path: Any) -> None:
    path = tmp_path / "lines"
    path.write_text("line\n" * 100)
    with path.open() as file:
        async with bounded_gather(echo, file, max_concurrent=1, buffer=0) as batch:
            async for _ in batch:
                break
        assert not file.closed
        assert file.readline() == "line\n"


async def test_an_error_of_a_source_that_is_closed_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    def failing() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise ValueError("in finally")

    batch = await by_cancel(failing())
    assert batch.status is BatchStatus.CANCELLED
    (context,) = loop_errors
    assert str(context["exception"]) == "in finally"
    assert "while it was being closed" in context["message"]
    loop_errors.clear()


def test_an_exit_of_a_source_that_is_closed_propagates_from_the_await() -> None:
    def leaving() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            raise SystemExit("in finally")

    with pytest.raises(SystemExit, match="in finally"):
        asyncio.run(by_cancel(leaving()))


async def test_a_source_may_use_the_batch_while_it_is_closed() -> None:
    used = []

    def source() -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            batch.cancel()
            with pytest.raises(RuntimeError, match="was cancelled"):
                batch.add(1)
            batch.pause()
            used.append(batch.status)

    batch = bounded_gather(echo, source(), on_result=lambda r: batch.cancel())
    await batch
    assert used == [None]


async def test_a_generator_is_closed_in_its_context_when_on_result_ends_the_batch() -> (
    None
):
    """on_result runs in the context of the source, which cannot be entered twice."""
    log: list[Any] = []

    def source() -> Iterator[int]:
        token = var.set("own")
        try:
            yield from itertools.count()
        finally:
            log.append(var.get())
            var.reset(token)

    stubborn = Stubborn()
    batch = bounded_gather(
        stubborn,
        source(),
        max_concurrent=1,
        timeout=0.01,
        cancel_grace=0,
        on_result=lambda result: batch.cancel(),
    )
    try:
        result = await batch
    finally:
        await stubborn.release()
    assert [one.state for one in result] == [TaskState.RUNNING]
    assert log == ["own"]


# ---------------------------------------- a batch that is another batch's source


async def unwrap(result: TaskResult[int]) -> int:
    return result.unwrap()


class Stage:
    """Items that are slow from the fourth on, and which of them run."""

    def __init__(self) -> None:
        self.running: set[int] = set()

    async def __call__(self, x: int) -> int:
        self.running.add(x)
        try:
            await asyncio.sleep(0 if x < 4 else 60)
            return x
        finally:
            try:
                await asyncio.sleep(0)
            finally:
                self.running.discard(x)


@pytest.mark.parametrize("shown", [False, True])
async def test_a_batch_that_is_a_source_ends_with_the_pipeline(shown: bool) -> None:
    stage = Stage()
    first = bounded_gather(stage, range(100), max_concurrent=4)
    source = track(first, "first") if shown else first
    async with bounded_gather(unwrap, source, max_concurrent=4) as second:
        async for result in second:
            if result.index == 1:
                break
    assert not stage.running
    assert first.status is BatchStatus.CANCELLED


@pytest.mark.parametrize("end", [*WAYS_TO_END_EARLY[:5], by_its_caller, None])
async def test_a_batch_that_is_a_source_is_closed_however_the_pipeline_ends(
    end: Callable[[Any], Any] | None,
) -> None:
    stage = Stage()
    first = bounded_gather(stage, range(100), max_concurrent=6)
    if end is not None:
        await end(first)
    else:
        task = asyncio.create_task(by_leaving(first))
        task.cancel()
        await asyncio.wait([task])
        task = asyncio.create_task(bounded_gather(forever, first).collect())
        await settle(10)
        task.cancel()
        await asyncio.wait([task])
    assert not stage.running
    assert first.status is not None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_batch_that_is_a_source_is_closed_when_the_pipeline_is_dropped() -> (
    None
):
    stage = Stage()
    first = bounded_gather(stage, range(100), max_concurrent=6)
    async for _ in bounded_gather(unwrap, first, max_concurrent=4):
        await until(lambda: len(stage.running) == 6)
        break
    gc.collect()
    await until(lambda: not stage.running)
    await until(lambda: first.status is BatchStatus.CANCELLED)


async def test_a_pipeline_that_is_read_to_its_end_closes_nothing() -> None:
    first = bounded_gather(echo, range(20))
    second = bounded_gather(unwrap, first)
    assert (await second).values() == list(range(20))
    assert first.status is BatchStatus.COMPLETED


# ------------------------------------------------------- aclose() of the iterator


async def test_aclosing_cancels_the_items_and_waits_for_them() -> None:
    stage = Stage()
    batch = bounded_gather(stage, range(100), max_concurrent=6)
    async with contextlib.aclosing(aiter(batch)) as results:
        async for result in results:
            assert result.index == 0
            break
    assert not stage.running
    assert batch.status is BatchStatus.CANCELLED
    assert [r async for r in batch] == []
    await aiter(batch).aclose()


async def test_aclose_after_the_end_does_nothing() -> None:
    batch = bounded_gather(echo, range(3))
    results = aiter(batch)
    assert [r.data async for r in results] == [0, 1, 2]
    await results.aclose()
    assert batch.status is BatchStatus.COMPLETED


async def test_aclose_raises_what_leaving_the_block_raises() -> None:
    async def fail(x: int) -> None:
        raise Boom(x)

    results = aiter(bounded_gather(fail, range(3), max_errors=0))
    await settle(5)
    with pytest.raises(BatchError):
        await results.aclose()
    await results.aclose()


async def test_aclose_hides_no_exception_of_its_caller(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def fail(x: int) -> None:
        raise Boom(x)

    batch = bounded_gather(fail, range(3), max_errors=0)
    with pytest.raises(LookupError, match="body"):
        async with contextlib.aclosing(aiter(batch)):
            await settle(5)
            raise LookupError("body")
    assert batch.status is BatchStatus.ABORTED
    (context,) = loop_errors
    assert isinstance(context["exception"], BatchError)
    loop_errors.clear()


async def test_aclose_reports_the_failures_that_were_not_handed_over(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def fail(x: int) -> None:
        raise Boom(x)

    results = aiter(bounded_gather(fail, range(3)))
    await anext(results)
    await settle(5)
    await results.aclose()
    assert [repr(c["exception"]) for c in loop_errors] == ["Boom(1)"]
    loop_errors.clear()


async def test_a_cancelled_aclose_waits_and_is_cancelled() -> None:
    stage = Stage()
    results = aiter(bounded_gather(stage, range(10), max_concurrent=6))
    await anext(results)
    task = asyncio.create_task(results.aclose())
    await settle(1)
    task.cancel("stop")
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task
    assert not stage.running


async def test_an_iterator_without_a_display_started_may_be_closed() -> None:
    await track(bounded_gather(echo, [1]), "never").aclose()
