"""A batch iterated, used as a block, or dropped."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import BatchError, BatchStatus, TaskResult, TaskState, bounded_gather
from support.coroutines import Fatal, double, double_later, echo, forever, sleep_for
from support.loops import settle, until

BOTH_WAYS = True


# ------------------------------------------------------------- iteration


@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize("n", [0, 1, 3, 1000])
@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("limit", [1, 50])
async def test_iteration_gives_every_result_in_input_order(
    fn: Any, n: int, make: Callable[..., Any], limit: int
) -> None:
    batch = bounded_gather(fn, make(range(n)), max_concurrent=limit)
    assert [r.data async for r in batch] == [2 * i for i in range(n)]
    assert batch.status is BatchStatus.COMPLETED


async def test_iteration_as_finished_does_not_wait_for_the_first() -> None:
    batch = bounded_gather(sleep_for, [0.06, 0.03, 0.0], ordered=False)
    assert [r.data async for r in batch] == [0.0, 0.03, 0.06]


async def test_iteration_in_order_waits_for_the_first() -> None:
    batch = bounded_gather(sleep_for, [0.03, 0.0])
    assert [r.data async for r in batch] == [0.03, 0.0]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize(("limit", "buffer"), [(1, 0), (3, 0), (3, 5), (3, None)])
async def test_a_slow_consumer_bounds_the_started_items(
    ordered: bool, fn: Any, limit: int, buffer: int | None
) -> None:
    handed = started = most = 0
    window = limit + (2 * limit if buffer is None else buffer)

    async def run(x: int) -> Any:
        nonlocal started, most
        started += 1
        most = max(most, started - handed)
        return await fn(x)

    async for _ in bounded_gather(
        run, iter(range(200)), max_concurrent=limit, buffer=buffer, ordered=ordered
    ):
        handed += 1
        if handed % 3 == 0:
            await settle(4)
    assert handed == 200
    assert most == window


async def test_iteration_may_be_left_and_resumed() -> None:
    batch = bounded_gather(double_later, range(10), max_concurrent=2)
    seen = []
    async for result in batch:
        seen.append(result.index)
        if len(seen) == 4:
            break
    await settle()
    assert batch.status is None
    async for result in batch:
        seen.append(result.index)
    assert seen == list(range(10))
    assert [r async for r in batch] == []


async def test_a_consumer_cancelled_while_it_waits_loses_nothing() -> None:
    batch = bounded_gather(sleep_for, [0.05, 0.0])
    results = aiter(batch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(results)
    assert [r.data async for r in results] == [0.05, 0.0]


async def test_a_stream_with_a_limit_of_one_resumes_after_a_stall() -> None:
    batch = bounded_gather(double, range(50), max_concurrent=1, buffer=0)
    seen = []
    async for result in batch:
        await settle(5)
        seen.append(result.index)
    assert seen == list(range(50))


async def test_a_consumer_that_never_waits_gets_what_comes_later() -> None:
    batch = bounded_gather(sleep_for, [0.0, 0.02, 0.0, 0.01], max_concurrent=2)
    assert len([r async for r in batch]) == 4


async def test_there_is_one_consumer() -> None:
    batch = bounded_gather(sleep_for, [0.02])
    first = asyncio.ensure_future(anext(aiter(batch)))
    await settle()
    with pytest.raises(RuntimeError, match="it has one consumer"):
        await anext(aiter(batch))
    assert (await first).data == 0.02


async def test_a_batch_is_iterated_or_awaited_not_both() -> None:
    batch = bounded_gather(double, [1])
    assert len([r async for r in batch]) == 1
    with pytest.raises(RuntimeError, match="cannot be awaited too"):
        await batch
    batch = bounded_gather(double, [1])
    await batch
    with pytest.raises(RuntimeError, match="cannot be iterated too"):
        aiter(batch)


async def test_two_awaits_at_a_time_are_refused() -> None:
    batch = bounded_gather(sleep_for, [0.02])
    first = asyncio.create_task(batch.collect())
    await settle()
    with pytest.raises(RuntimeError, match="another caller is awaiting"):
        await batch
    assert (await first).ok


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stream_that_is_aborted_gives_all_started_items(ordered: bool) -> None:
    async def fn(x: int) -> None:
        if x == 2:
            raise ValueError(x)
        await asyncio.sleep(10)

    batch = bounded_gather(
        fn, range(100), max_concurrent=5, max_errors=0, ordered=ordered
    )
    seen = []
    with pytest.raises(BatchError) as caught:
        async for result in batch:
            seen.append(result)
    assert caught.value.result is None
    assert [str(e) for e in caught.value.exceptions] == ["2"]
    assert batch.status is BatchStatus.ABORTED
    assert sorted(r.index for r in seen) == list(range(batch.progress.started))
    assert {r.state for r in seen} == {TaskState.FAILED, TaskState.CANCELLED}
    with pytest.raises(BatchError):
        [r async for r in batch]


@pytest.mark.parametrize("error", [KeyboardInterrupt, LookupError])
async def test_a_stream_raises_the_error_that_ended_it(
    error: type[BaseException],
) -> None:
    raised = error("now")

    def source() -> Iterator[int]:
        yield 1
        yield 2
        if error is LookupError:
            raise raised
        yield 3

    async def fn(x: int) -> int:
        if x == 3:
            raise raised
        return x

    seen = []
    with pytest.raises(error) as caught:
        async for result in bounded_gather(fn, source()):
            seen.append(result.item)
    assert caught.value is raised
    assert seen[:2] == [1, 2]


async def test_a_stream_that_is_cancelled_gives_the_started_items() -> None:
    batch = bounded_gather(sleep_for, [0.0, 10, 10, 10], max_concurrent=2)
    seen = []
    async for result in batch:
        seen.append(result.state)
        batch.cancel()
    assert seen == [TaskState.DONE] + [TaskState.CANCELLED] * (len(seen) - 1)
    assert batch.status is BatchStatus.CANCELLED


async def test_a_stream_whose_budget_ran_out_ends_with_status() -> None:
    batch = bounded_gather(sleep_for, [0.0, 10, 10], max_concurrent=1, budget=0.5)
    assert [r.timed_out async for r in batch] == [False, True]
    assert batch.status is BatchStatus.TIMED_OUT


# ----------------------------------------------------------------- anext


async def test_anext_gives_one_result() -> None:
    batch = bounded_gather(double_later, [1, 2])
    results = aiter(batch)
    assert (await anext(results)).data == 2
    assert (await asyncio.wait_for(anext(results), 5)).data == 4
    assert await anext(results, "end") == "end"
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_anext_gives_one_result_to_send() -> None:
    stream = aiter(bounded_gather(echo, range(2)))
    await settle()
    with pytest.raises(StopIteration) as caught:
        anext(stream).send(None)
    assert caught.value.value.index == 0
    assert [r.index async for r in stream] == [1]


async def test_anext_that_is_dropped_unawaited_loses_no_result() -> None:
    stream = aiter(bounded_gather(echo, range(6)))
    await settle()
    anext(stream)
    task = asyncio.ensure_future(anext(stream))
    task.cancel()
    await settle()
    closed = anext(stream)
    closed.close()
    with pytest.raises(RuntimeError, match="reuse"):
        await closed
    thrown = anext(stream)
    with pytest.raises(KeyError):
        thrown.throw(KeyError())
    assert [r.index async for r in stream] == list(range(6))
    assert await anext(stream, None) is None


async def test_closing_an_unstarted_anext_does_not_disturb_a_waiting_one() -> None:
    gate = asyncio.get_running_loop().create_future()

    async def fn(x: int) -> Any:
        return await gate

    stream = aiter(bounded_gather(fn, range(2)))
    task = asyncio.ensure_future(anext(stream))
    await settle()
    anext(stream).close()
    with pytest.raises(RuntimeError, match="one consumer"):
        await anext(stream)
    gate.set_result("here")
    async with asyncio.timeout(5):
        assert (await task).data == "here"
        assert [r.index async for r in stream] == [1]


# ---------------------------------------------------------------- blocks


async def test_a_block_neither_awaited_nor_iterated_waits_for_all() -> None:
    seen = []
    async with bounded_gather(
        double_later, range(1000), on_result=lambda r: seen.append(r.data)
    ) as batch:
        assert batch.status is None
    assert sorted(seen) == [2 * i for i in range(1000)]
    assert batch.status is BatchStatus.COMPLETED
    assert batch.progress.done == 1000


async def test_a_block_neither_awaited_nor_iterated_keeps_no_results() -> None:
    async with bounded_gather(double_later, range(1000)) as batch:
        pass
    assert batch._core.take_results() == []
    with pytest.raises(RuntimeError, match="inside the block"):
        await batch


async def test_a_block_runs_in_the_background_of_its_body() -> None:
    done = asyncio.Event()

    def on_result(result: TaskResult[Any]) -> None:
        if result.index == 999:
            done.set()

    async with bounded_gather(double_later, range(1000), on_result=on_result) as batch:
        await asyncio.wait_for(done.wait(), 5)
    assert batch.progress.done == 1000


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_block_may_await_or_iterate_late(ordered: bool) -> None:
    async with bounded_gather(double_later, range(300), ordered=ordered) as batch:
        await settle(20)
        seen = [r.index async for r in batch]
    assert sorted(seen) == list(range(300))
    async with bounded_gather(double_later, range(300), ordered=ordered) as batch:
        await settle(20)
        assert (await batch).values() == [2 * i for i in range(300)]


async def test_a_block_not_yet_used_starts_no_more_than_its_window() -> None:
    async with bounded_gather(double, range(1000), max_concurrent=3) as batch:
        await settle(20)
        assert batch.progress.started == 9


async def test_break_in_a_block_cancels_and_waits() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10 if x else 0)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    async with bounded_gather(fn, range(5), max_concurrent=3) as batch:
        async for _ in batch:
            break
    assert batch.status is BatchStatus.CANCELLED
    assert len(ended) == batch.progress.started
    assert len(asyncio.all_tasks()) == 1


async def test_an_exception_in_a_block_cancels_and_waits_and_propagates() -> None:
    with pytest.raises(LookupError, match="body"):
        async with bounded_gather(sleep_for, [10]) as batch:
            await settle()
            raise LookupError("body")
    assert batch.status is BatchStatus.CANCELLED
    assert batch.progress.cancelled == 1


async def test_a_block_neither_awaited_nor_iterated_raises_at_its_end() -> None:
    async def fn(x: int) -> None:
        raise ValueError(x)

    with pytest.raises(BatchError) as caught:
        async with bounded_gather(fn, [1], max_errors=0):
            pass
    assert caught.value.result is None

    async def leave(x: int) -> None:
        raise SystemExit(x)

    with pytest.raises(SystemExit):
        async with bounded_gather(leave, [1]):
            pass


async def test_an_exit_of_an_item_beats_the_bodys_exception() -> None:
    async def leave(x: int) -> None:
        raise SystemExit(x)

    with pytest.raises(SystemExit):
        async with bounded_gather(leave, [1]):
            await settle()
            raise LookupError


async def test_a_source_that_failed_beside_the_bodys_exception_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise ValueError("source")

    with pytest.raises(LookupError):
        async with bounded_gather(double, source()):
            await settle()
            raise LookupError
    assert [str(c["exception"]) for c in loop_errors] == ["source"]


def failing_source() -> Iterator[int]:
    yield 0
    yield 1
    raise LookupError("source")


async def test_a_block_left_after_its_source_failed_raises_that() -> None:
    with pytest.raises(LookupError, match="source"):
        async with bounded_gather(echo, failing_source()) as batch:
            async for _ in batch:
                await settle(5)
                assert batch.status is BatchStatus.ABORTED
                break


async def test_a_block_whose_iteration_raised_does_not_raise_again() -> None:
    async with bounded_gather(echo, failing_source()) as batch:
        with pytest.raises(LookupError, match="source"):
            [r async for r in batch]


async def test_a_batch_awaited_in_its_block_raises_once() -> None:
    async def fn(x: int) -> None:
        raise ValueError(x)

    async with bounded_gather(fn, [1], max_errors=0) as batch:
        with pytest.raises(BatchError):
            await batch


async def test_a_cancelled_block_cancels_and_waits() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await settle(3)
            ended.append(x)

    async def main() -> None:
        async with bounded_gather(fn, range(3)):
            pass

    task = asyncio.create_task(main())
    await settle(5)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert sorted(ended) == [0, 1, 2]


async def test_iterating_after_cancelling_in_a_block_gives_the_started_items() -> None:
    async def source() -> AsyncIterator[int]:
        for i in range(10):
            yield i

    async def fn(x: int) -> None:
        begun.append(x)
        await asyncio.sleep(60)

    for items in (source(), range(10)):
        begun = []
        async with bounded_gather(fn, items, max_concurrent=2) as batch:
            await until(lambda begun=begun: len(begun) == 2)
            await settle(5)
            batch.cancel()
            await settle(5)
            states = [r.state async for r in batch]
            assert states == [TaskState.CANCELLED] * 2
    async with bounded_gather(forever, range(10)) as batch:
        batch.cancel()
        await settle(5)
        assert [r async for r in batch] == []


# ------------------------------------------------------- dropped batches


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_a_bare_iteration_that_is_left_cancels_with_a_warning() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10 if x else 0)
        finally:
            ended.append(x)

    with pytest.warns(ResourceWarning, match="was dropped while it ran"):
        async for _ in bounded_gather(fn, range(5), max_concurrent=3):
            break
        gc.collect()
    await settle(5)
    assert ended[0] == 0
    assert len(asyncio.all_tasks()) == 1
    assert len(ended) >= 3


async def test_a_stream_that_has_ended_is_dropped_without_a_warning() -> None:
    async for _ in bounded_gather(double, [1]):
        pass
    batch = bounded_gather(double_later, range(3))
    async for _ in batch:
        break
    batch.cancel()
    del batch
    await settle(5)


async def test_a_stream_left_after_the_last_failure_is_dropped_without_a_warning() -> (
    None
):
    async def fn(_: int) -> None:
        await asyncio.sleep(0)
        raise LookupError

    async for result in bounded_gather(fn, [1]):
        assert isinstance(result.error, LookupError)
        break
    gc.collect()
    await settle()


async def test_a_batch_that_runs_nothing_is_dropped_without_a_warning() -> None:
    batch = bounded_gather(echo, [1], budget=60)
    async for _ in batch:
        break
    await settle(3)
    assert batch.status is None
    state = batch._core
    del batch
    assert state.over


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_an_error_of_a_dropped_batch_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10 if x else 0)
        except asyncio.CancelledError:
            raise Fatal("late") from None

    with pytest.warns(ResourceWarning, match="was dropped while it ran"):
        async for _ in bounded_gather(fn, range(2)):
            break
        gc.collect()
    await settle(6)
    (context,) = loop_errors
    assert isinstance(context["exception"], Fatal)
    assert "was dropped" in context["message"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("error", [ValueError, Fatal])
@pytest.mark.parametrize("observed", [True, False])
async def test_an_error_of_an_item_of_a_dropped_batch_is_reported_once(
    error: type[BaseException], observed: bool, loop_errors: list[dict[str, Any]]
) -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(60 if x else 0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise error("late") from None

    seen = []
    on_result = seen.append if observed else None
    batch = bounded_gather(fn, range(2), on_result=on_result)
    async for _ in batch:
        break
    del batch
    gc.collect()
    await until(lambda: len(seen) == 2 or loop_errors)
    await settle(5)
    if observed:
        assert [r.state for r in seen] == [TaskState.DONE, TaskState.FAILED]
    if observed and error is ValueError:
        assert not loop_errors
    else:
        (context,) = loop_errors
        assert type(context["exception"]) is error
        assert "dropped" in context["message"]


async def test_an_error_that_no_caller_has_seen_is_reported_when_its_batch_is_dropped(
    loop_errors: list[dict[str, Any]],
) -> None:
    batch = bounded_gather(echo, failing_source())
    async for _ in batch:
        await settle(5)
        break
    del batch, _
    gc.collect()
    (context,) = loop_errors
    assert isinstance(context["exception"], LookupError)
    assert "dropped" in context["message"]
    loop_errors.clear()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_exit_of_a_dropped_batch_ends_the_loops_run() -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10 if x else 0)
        except asyncio.CancelledError:
            raise SystemExit("late") from None

    async def main() -> None:
        async for _ in bounded_gather(fn, range(2)):
            break
        gc.collect()
        await asyncio.sleep(10)

    with pytest.raises(SystemExit, match="late"):
        asyncio.run(main())


def test_an_exit_of_a_batch_that_ended_and_was_dropped_ends_the_loops_run() -> None:
    async def fn(x: int) -> None:
        if x:
            raise SystemExit("unseen")

    async def main() -> None:
        batch = bounded_gather(fn, range(2))
        async for _ in batch:
            await settle(5)
            break
        assert batch.status is BatchStatus.ABORTED
        del batch
        gc.collect()
        await asyncio.sleep(10)

    with pytest.raises(SystemExit, match="unseen"):
        asyncio.run(main())


@pytest.mark.standard_loop_only
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_batch_dropped_in_another_thread_that_ends_first_reports_its_error(
    loop_errors: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fn(x: int) -> None:
        raised.append(x)
        raise Fatal("late")

    loop = asyncio.get_running_loop()
    called, raised = [], []
    held = [bounded_gather(fn, [1])]
    aiter(held[0])
    with monkeypatch.context() as slow:
        slow.setattr(loop, "call_soon_threadsafe", called.append)
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    await until(lambda: raised)
    await settle(5)
    assert not loop_errors
    called.pop()()
    (context,) = loop_errors
    assert isinstance(context["exception"], Fatal)


# ---------------------------------------------------------------- memory


async def test_items_and_coroutines_are_freed_as_they_end() -> None:
    class Item:
        pass

    alive = weakref.WeakSet()

    def source() -> Iterator[Any]:
        for _ in range(200):
            item = Item()
            alive.add(item)
            yield item

    most = 0

    async def fn(item: Any) -> None:
        nonlocal most
        await asyncio.sleep(0)
        most = max(most, len(alive))

    async for _ in bounded_gather(fn, source(), max_concurrent=3, buffer=0):
        pass
    assert most <= 8


async def test_a_million_items_streamed_take_no_memory() -> None:
    import tracemalloc

    async def fn(x: int) -> int:
        return x

    n = 100_000
    tracemalloc.start()
    try:
        count = 0
        async for _ in bounded_gather(fn, iter(range(n))):
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == n
    assert peak < 2_000_000
