"""The items of a batch: sequences, iterators and asynchronous iterators."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pyasynclife import BatchStatus, TaskState, bounded_gather
from support.coroutines import double, double_later, echo, forever, sleep_for
from support.loops import in_turns, settle
from support.marks import needs_eager

BOTH_WAYS = True

var = contextvars.ContextVar("var", default="unset")


# ------------------------------------------------------------- iterables


async def test_a_lazy_source_is_pulled_as_items_end() -> None:
    pulled = ended = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for i in range(100):
            pulled += 1
            assert pulled - ended <= 4
            yield i

    async def fn(x: int) -> None:
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1

    await bounded_gather(fn, source(), max_concurrent=4)
    assert ended == 100


async def test_a_range_longer_than_memory_is_pulled_lazily() -> None:
    batch = bounded_gather(double, range(10**30), max_concurrent=2)
    count = 0
    async with batch:
        async for _ in batch:
            count += 1
            if count == 10:
                break
    assert count == 10


async def test_a_list_may_change_under_the_batch() -> None:
    items = [0, 1, 2]

    async def fn(x: int) -> int:
        if len(items) < 10:
            items.append(len(items))
        await asyncio.sleep(0)
        return x

    assert (await bounded_gather(fn, items, max_concurrent=1)).values() == items
    items[:] = range(10)

    async def clear(x: int) -> int:
        items.clear()
        await asyncio.sleep(0)
        return x

    result = await bounded_gather(clear, items, max_concurrent=2)
    assert result[0].data == 0


@pytest.mark.workers_only
async def test_an_item_appended_to_the_list_starts_at_once() -> None:
    appended = asyncio.Event()
    items = [0]

    async def fn(x: int) -> int:
        if x == 0:
            items.append(1)
            await asyncio.wait_for(appended.wait(), 10)
        else:
            appended.set()
        return x

    result = await bounded_gather(fn, items)
    assert result.values() == [0, 1]


@pytest.mark.workers_only
async def test_a_list_that_shrinks_under_the_batch_ends_it_early() -> None:
    items = list(range(10))

    async def fn(x: int) -> int:
        del items[5:]
        await asyncio.sleep(0)
        return x

    result = await bounded_gather(fn, items)
    assert result.values() == [0, 1, 2, 3, 4]
    assert result.status is BatchStatus.COMPLETED


@pytest.mark.parametrize("kind", ["iterator", "asynchronous"])
async def test_an_error_of_the_source_propagates_when_the_items_have_ended(
    kind: str,
) -> None:
    raised = LookupError("source")
    ended = []

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise raised

    async def later() -> AsyncIterator[int]:
        yield 1
        yield 2
        await asyncio.sleep(0.01)
        raise raised

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    with pytest.raises(LookupError) as caught:
        await bounded_gather(fn, numbers() if kind == "iterator" else later())
    assert caught.value is raised
    assert sorted(ended) == [1, 2]


async def test_an_error_of_iter_propagates_unwrapped() -> None:
    class Source:
        def __iter__(self) -> Iterator[Any]:
            raise LookupError("iter")

    batch = bounded_gather(double, Source())
    with pytest.raises(LookupError, match="iter"):
        await batch
    assert batch.status is BatchStatus.ABORTED


# ------------------------------------------ sources that use their batch


async def test_a_source_that_uses_the_batch_is_not_re_entered() -> None:
    seen = []

    class Source:
        n = 0
        inside = False

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            assert not self.inside
            self.inside = True
            try:
                self.n += 1
                seen.append(batch.progress.started)
                batch.status  # noqa: B018
                for task in asyncio.all_tasks():
                    coro = task.get_coro()
                    if coro is not None and task is not asyncio.current_task():
                        coro.cr_await  # noqa: B018
                if self.n > 20:
                    raise StopIteration
                return self.n
            finally:
                self.inside = False

    batch = bounded_gather(double_later, Source(), max_concurrent=3)
    assert len(await batch) == 20


async def test_a_source_that_cancels_the_batch_has_its_item_as_never_started() -> None:
    def source() -> Iterator[int]:
        yield 1
        batch.cancel()
        yield 2
        yield 3

    batch = bounded_gather(double_later, source())
    result = await batch
    assert result[-1].state is TaskState.PENDING
    assert [r.item for r in result] == [1, 2]
    assert result.status is BatchStatus.CANCELLED


async def test_a_source_that_cancels_its_stream_gives_no_unstarted_item(
    way: str,
) -> None:
    def source() -> Iterator[int]:
        yield 1
        batch.cancel()
        yield 2

    batch = bounded_gather(double_later, source())
    # The task of the first item starts in a later iteration.
    assert [r.item async for r in batch] == ([1] if way == "workers" else [])


@pytest.mark.parametrize("stops", [True, False])
async def test_iter_of_the_source_may_use_the_batch(stops: bool) -> None:
    class Source:
        def __iter__(self) -> Iterator[Any]:
            batch.add("added")
            if stops:
                batch.cancel()
            return iter(["first"])

    batch = bounded_gather(echo, Source(), budget=60)
    result = await batch
    if stops:
        assert result.status is BatchStatus.CANCELLED
        assert [r.item for r in result] == ["added"]
    else:
        assert result.values() == ["first", "added"]


@needs_eager
@pytest.mark.standard_loop_only
async def test_an_eager_source_that_cancels_its_batch_is_waited_for() -> None:
    """Its Task is not known to the batch yet when the source starts."""
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            batch.cancel()
            await asyncio.sleep(60)
            yield 1
        finally:
            closed.append(True)

    loop = asyncio.get_running_loop()
    batch = bounded_gather(forever, source())
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        result = await batch
    finally:
        loop.set_task_factory(None)
    assert closed
    assert result.status is BatchStatus.CANCELLED


# -------------------------------------------------- asynchronous sources


async def source(n: int, step: float | None = 0) -> AsyncIterator[int]:
    for i in range(n):
        if step is not None:
            await asyncio.sleep(step)
        yield i


@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize("n", [0, 1, 200])
@pytest.mark.parametrize("step", [None, 0])
@pytest.mark.parametrize("limit", [1, 7])
async def test_an_asynchronous_source_is_read_to_its_end(
    fn: Any, n: int, step: float | None, limit: int
) -> None:
    batch = bounded_gather(fn, source(n, step), max_concurrent=limit)
    result = await batch
    assert result.values() == [2 * i for i in range(n)]
    assert result.ok
    assert batch.progress.total == n


async def test_an_asynchronous_source_is_at_most_one_item_ahead() -> None:
    given = ended = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal given
        for i in range(50):
            given += 1
            assert given - ended <= 4
            yield i

    async def fn(x: int) -> None:
        nonlocal ended
        await settle(3)
        ended += 1

    await bounded_gather(fn, numbers(), max_concurrent=3)
    assert ended == 50


async def test_an_asynchronous_source_is_bounded_by_a_slow_consumer() -> None:
    given = handed = 0

    async def numbers() -> AsyncIterator[int]:
        nonlocal given
        for i in range(50):
            given += 1
            assert given - handed <= 2 + 1 + 1
            yield i

    async for _ in bounded_gather(double, numbers(), max_concurrent=2, buffer=1):
        handed += 1
        await settle(6)
    assert handed == 50


async def test_an_asynchronous_source_has_one_task_and_one_context() -> None:
    tasks = set()

    async def numbers() -> AsyncIterator[int]:
        var.set("source")
        for i in range(20):
            tasks.add(asyncio.current_task())
            assert var.get() == "source"
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
                yield i
        tasks.add(asyncio.current_task())

    async def fn(x: int) -> Any:
        assert asyncio.current_task() not in tasks
        return var.get()

    result = await bounded_gather(fn, numbers(), max_concurrent=3)
    assert set(result.values()) == {"unset"}
    assert len(tasks) == 1


async def test_an_asynchronous_source_is_under_no_items_timeout() -> None:
    result = await bounded_gather(double, source(2, 0.03), timeout=0.01)
    assert result.ok


async def test_an_asynchronous_iterator_without_aclose_is_a_source() -> None:
    class Numbers:
        n = 0

        def __aiter__(self) -> AsyncIterator[Any]:
            return self

        async def __anext__(self) -> Any:
            self.n += 1
            if self.n > 3:
                raise StopAsyncIteration
            return self.n

    assert (await bounded_gather(double, Numbers())).values() == [2, 4, 6]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_an_exit_of_an_asynchronous_source_propagates_from_the_await(
    error: type[BaseException],
) -> None:
    raised = error()

    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise raised

    with pytest.raises(error) as caught:
        await bounded_gather(double, numbers())
    assert caught.value is raised


async def test_a_source_that_raises_cancelled_error_ends_the_batch() -> None:
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise asyncio.CancelledError("mine")

    with pytest.raises(asyncio.CancelledError):
        await bounded_gather(double, numbers())
    assert asyncio.current_task().cancelling() == 0


# ------------------------------------- the end of an asynchronous source


async def closing(log: list[str], step: float = 10) -> AsyncIterator[int]:
    try:
        while True:
            yield len(log)
            await asyncio.sleep(step)
    finally:
        await asyncio.sleep(0)
        log.append("closed")


async def test_cancel_closes_the_source_and_waits_for_it() -> None:
    log = []
    batch = bounded_gather(double, closing(log), on_result=lambda r: batch.cancel())
    result = await batch
    assert log == ["closed"]
    assert result.status is BatchStatus.CANCELLED
    assert not result.exhausted


async def test_the_budget_closes_the_source() -> None:
    log = []
    result = await bounded_gather(double, closing(log), budget=0.2)
    assert log == ["closed"]
    assert result.status is BatchStatus.TIMED_OUT
    assert len(result) == 1


async def test_leaving_closes_the_source() -> None:
    log = []
    async with bounded_gather(double, closing(log)) as batch:
        async for _ in batch:
            break
    assert log == ["closed"]


async def test_an_item_read_ahead_is_in_the_result_as_never_started() -> None:
    async def numbers() -> AsyncIterator[int]:
        for i in range(10):
            yield i

    batch = bounded_gather(sleep_for, numbers(), max_concurrent=1)
    in_turns(50, batch.cancel)
    result = await batch
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.PENDING,
    ]
    assert isinstance(result[-1].error, asyncio.CancelledError)


async def test_a_source_that_swallows_its_cancellation_is_not_read_further() -> None:
    log = []

    async def stubborn() -> AsyncIterator[int]:
        while len(log) < 100:
            try:
                yield 1
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                log.append("swallowed")

    batch = bounded_gather(double, stubborn())
    in_turns(50, batch.cancel)
    await batch
    assert log == ["swallowed"]


async def test_a_source_that_fails_while_it_is_cancelled_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def failing() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.sleep(10)
        finally:
            raise ValueError("in finally")

    batch = bounded_gather(double, failing())
    in_turns(50, batch.cancel)
    assert (await batch).status is BatchStatus.CANCELLED
    assert [str(c["exception"]) for c in loop_errors] == ["in finally"]


async def test_a_batch_cancelled_before_it_began_touches_no_source() -> None:
    touched = []

    class Source:
        def __aiter__(self) -> None:
            touched.append(1)

    batch = bounded_gather(double, Source())
    batch.cancel()
    result = await batch
    assert (touched, len(result), result.exhausted) == ([], 0, False)
