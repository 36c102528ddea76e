"""bounded_gather iterated, as a block, and with asynchronous sources."""

import asyncio
import contextvars
import gc

import pytest

from pyasynclife import BatchError, BatchStatus, TaskState, bounded_gather
from support.coroutines import double, double_later, sleep_for
from support.loops import in_turns, settle

BOTH_WAYS = True

var = contextvars.ContextVar("var", default="unset")


# -------------------------------------------------------------- iteration


@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize("n", [0, 1, 3, 1000])
@pytest.mark.parametrize("make", [list, iter])
@pytest.mark.parametrize("limit", [1, 50])
async def test_iteration_gives_every_result_in_input_order(fn, n, make, limit):
    batch = bounded_gather(fn, make(range(n)), max_concurrent=limit)
    assert [r.data async for r in batch] == [2 * i for i in range(n)]
    assert batch.status is BatchStatus.COMPLETED


async def test_iteration_as_finished_does_not_wait_for_the_first():
    batch = bounded_gather(sleep_for, [0.06, 0.03, 0.0], ordered=False)
    assert [r.data async for r in batch] == [0.0, 0.03, 0.06]


async def test_iteration_in_order_waits_for_the_first():
    batch = bounded_gather(sleep_for, [0.03, 0.0])
    assert [r.data async for r in batch] == [0.03, 0.0]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize(("limit", "buffer"), [(1, 0), (3, 0), (3, 5), (3, None)])
async def test_a_slow_consumer_bounds_what_is_started(ordered, fn, limit, buffer):
    handed = started = most = 0
    window = limit + (2 * limit if buffer is None else buffer)

    async def run(x):
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


async def test_iteration_may_be_left_and_taken_up_again():
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


async def test_anext_gives_one_result():
    batch = bounded_gather(double_later, [1, 2])
    results = aiter(batch)
    assert (await anext(results)).data == 2
    assert (await asyncio.wait_for(anext(results), 5)).data == 4
    assert await anext(results, "end") == "end"
    with pytest.raises(StopAsyncIteration):
        await anext(results)


async def test_a_consumer_cancelled_while_it_waits_loses_nothing():
    batch = bounded_gather(sleep_for, [0.05, 0.0])
    results = aiter(batch)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await anext(results)
    assert [r.data async for r in results] == [0.05, 0.0]


async def test_a_stream_of_a_limit_of_one_goes_on_after_it_stalled():
    batch = bounded_gather(double, range(50), max_concurrent=1, buffer=0)
    seen = []
    async for result in batch:
        await settle(5)
        seen.append(result.index)
    assert seen == list(range(50))


async def test_a_consumer_that_never_waits_gets_what_comes_later():
    batch = bounded_gather(sleep_for, [0.0, 0.02, 0.0, 0.01], max_concurrent=2)
    assert len([r async for r in batch]) == 4


async def test_there_is_one_consumer():
    batch = bounded_gather(sleep_for, [0.02])
    first = asyncio.ensure_future(anext(aiter(batch)))
    await settle()
    with pytest.raises(RuntimeError, match="it has one consumer"):
        await anext(aiter(batch))
    assert (await first).data == 0.02


async def test_a_batch_is_iterated_or_awaited_not_both():
    batch = bounded_gather(double, [1])
    assert len([r async for r in batch]) == 1
    with pytest.raises(RuntimeError, match="cannot be awaited too"):
        await batch
    batch = bounded_gather(double, [1])
    await batch
    with pytest.raises(RuntimeError, match="cannot be iterated too"):
        aiter(batch)


async def test_two_awaits_at_a_time_are_refused():
    batch = bounded_gather(sleep_for, [0.02])
    first = asyncio.create_task(batch.collect())
    await settle()
    with pytest.raises(RuntimeError, match="another caller is awaiting"):
        await batch
    assert (await first).ok


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stream_that_is_aborted_gives_all_that_was_started(ordered):
    async def fn(x):
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
async def test_a_stream_ends_with_what_ended_it(error):
    raised = error("now")

    def source():
        yield 1
        yield 2
        if error is LookupError:
            raise raised
        yield 3

    async def fn(x):
        if x == 3:
            raise raised
        return x

    seen = []
    with pytest.raises(error) as caught:
        async for result in bounded_gather(fn, source()):
            seen.append(result.item)
    assert caught.value is raised
    assert seen[:2] == [1, 2]


async def test_a_stream_that_is_cancelled_gives_what_was_started():
    batch = bounded_gather(sleep_for, [0.0, 10, 10, 10], max_concurrent=2)
    seen = []
    async for result in batch:
        seen.append(result.state)
        batch.cancel()
    assert seen == [TaskState.DONE] + [TaskState.CANCELLED] * (len(seen) - 1)
    assert batch.status is BatchStatus.CANCELLED


async def test_a_stream_whose_budget_ran_out_ends_with_status():
    batch = bounded_gather(sleep_for, [0.0, 10, 10], max_concurrent=1, budget=0.03)
    assert [r.timed_out async for r in batch] == [False, True]
    assert batch.status is BatchStatus.TIMED_OUT


# ---------------------------------------------------------------- dropped


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_a_bare_iteration_that_is_left_cancels_with_a_warning():
    ended = []

    async def fn(x):
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


async def test_a_stream_that_is_over_is_dropped_in_silence():
    async for _ in bounded_gather(double, [1]):
        pass
    batch = bounded_gather(double_later, range(3))
    async for _ in batch:
        break
    batch.cancel()
    del batch
    await settle(5)


# ----------------------------------------------------------------- blocks


async def test_a_block_that_does_neither_waits_for_all():
    seen = []
    async with bounded_gather(
        double_later, range(1000), on_result=lambda r: seen.append(r.data)
    ) as batch:
        assert batch.status is None
    assert sorted(seen) == [2 * i for i in range(1000)]
    assert batch.status is BatchStatus.COMPLETED
    assert batch.progress.done == 1000


async def test_a_block_that_does_neither_keeps_no_results():
    async with bounded_gather(double_later, range(1000)) as batch:
        pass
    assert batch._books.results == []
    with pytest.raises(RuntimeError, match="inside the block"):
        await batch


async def test_a_block_runs_in_the_background_while_its_body_does_something_else():
    done = asyncio.Event()

    def on_result(result):
        if result.index == 999:
            done.set()

    async with bounded_gather(double_later, range(1000), on_result=on_result) as batch:
        await asyncio.wait_for(done.wait(), 5)
    assert batch.progress.done == 1000


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("on_result", [None, lambda r: None])
async def test_a_block_may_decide_late(ordered, on_result):
    async with bounded_gather(
        double_later, range(300), ordered=ordered, on_result=on_result
    ) as batch:
        await settle(20)
        seen = [r.index async for r in batch]
    assert sorted(seen) == list(range(300))
    async with bounded_gather(
        double_later, range(300), ordered=ordered, on_result=on_result
    ) as batch:
        await settle(20)
        assert (await batch).values() == [2 * i for i in range(300)]


async def test_a_block_without_a_use_is_not_ahead_of_its_window():
    async with bounded_gather(double, range(1000), max_concurrent=3) as batch:
        await settle(20)
        assert batch.progress.started == 9


async def test_break_in_a_block_cancels_and_waits():
    ended = []

    async def fn(x):
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


async def test_an_exception_in_a_block_cancels_and_waits_and_comes_out():
    with pytest.raises(LookupError, match="body"):
        async with bounded_gather(sleep_for, [10]) as batch:
            await settle()
            raise LookupError("body")
    assert batch.status is BatchStatus.CANCELLED
    assert batch.progress.cancelled == 1


async def test_a_block_that_does_neither_raises_at_its_end():
    async def fn(x):
        raise ValueError(x)

    with pytest.raises(BatchError) as caught:
        async with bounded_gather(fn, [1], max_errors=0):
            pass
    assert caught.value.result is None

    async def leave(x):
        raise SystemExit(x)

    with pytest.raises(SystemExit):
        async with bounded_gather(leave, [1]):
            pass


async def test_an_exit_of_an_item_beats_the_bodys_exception():
    async def leave(x):
        raise SystemExit(x)

    with pytest.raises(SystemExit):
        async with bounded_gather(leave, [1]):
            await settle()
            raise LookupError


async def test_a_source_that_failed_beside_the_bodys_exception_is_reported(
    loop_errors,
):
    def source():
        yield 1
        raise ValueError("source")

    with pytest.raises(LookupError):
        async with bounded_gather(double, source()):
            await settle()
            raise LookupError
    assert [str(c["exception"]) for c in loop_errors] == ["source"]


async def test_a_batch_awaited_in_its_block_raises_once():
    async def fn(x):
        raise ValueError(x)

    async with bounded_gather(fn, [1], max_errors=0) as batch:
        with pytest.raises(BatchError):
            await batch


async def test_a_cancelled_block_cancels_and_waits():
    ended = []

    async def fn(x):
        try:
            await asyncio.sleep(10)
        finally:
            await settle(3)
            ended.append(x)

    async def main():
        async with bounded_gather(fn, range(3)):
            pass

    task = asyncio.create_task(main())
    await settle(5)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert sorted(ended) == [0, 1, 2]


# ---------------------------------------------------- asynchronous sources


async def source(n, step=0):
    for i in range(n):
        if step is not None:
            await asyncio.sleep(step)
        yield i


@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize("n", [0, 1, 200])
@pytest.mark.parametrize("step", [None, 0])
@pytest.mark.parametrize("limit", [1, 7])
async def test_an_asynchronous_source_is_read_to_its_end(fn, n, step, limit):
    batch = bounded_gather(fn, source(n, step), max_concurrent=limit)
    result = await batch
    assert result.values() == [2 * i for i in range(n)]
    assert result.ok
    assert batch.progress.total == n


async def test_an_asynchronous_source_is_at_most_one_item_ahead():
    given = ended = 0

    async def numbers():
        nonlocal given
        for i in range(50):
            given += 1
            assert given - ended <= 4
            yield i

    async def fn(x):
        nonlocal ended
        await settle(3)
        ended += 1

    await bounded_gather(fn, numbers(), max_concurrent=3)
    assert ended == 50


async def test_an_asynchronous_source_is_bounded_by_a_slow_consumer():
    given = handed = 0

    async def numbers():
        nonlocal given
        for i in range(50):
            given += 1
            assert given - handed <= 2 + 1 + 1
            yield i

    async for _ in bounded_gather(double, numbers(), max_concurrent=2, buffer=1):
        handed += 1
        await settle(6)
    assert handed == 50


async def test_an_asynchronous_source_has_one_task_and_one_context():
    tasks = set()

    async def numbers():
        var.set("source")
        for i in range(20):
            tasks.add(asyncio.current_task())
            assert var.get() == "source"
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
                yield i
        tasks.add(asyncio.current_task())

    async def fn(x):
        assert asyncio.current_task() not in tasks
        return var.get()

    result = await bounded_gather(fn, numbers(), max_concurrent=3)
    assert set(result.values()) == {"unset"}
    assert len(tasks) == 1


async def test_an_asynchronous_source_is_under_no_items_timeout():
    result = await bounded_gather(double, source(2, 0.03), timeout=0.01)
    assert result.ok


async def test_what_an_asynchronous_source_raises_comes_out_bare():
    raised = LookupError("source")
    ended = []

    async def numbers():
        yield 1
        await asyncio.sleep(0.01)
        raise raised

    async def fn(x):
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    with pytest.raises(LookupError) as caught:
        await bounded_gather(fn, numbers())
    assert caught.value is raised
    assert ended == [1]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_an_exit_of_an_asynchronous_source_comes_out_of_the_await(error):
    raised = error()

    async def numbers():
        yield 1
        raise raised

    with pytest.raises(error) as caught:
        await bounded_gather(double, numbers())
    assert caught.value is raised


async def closing(log, step=10):
    try:
        while True:
            yield len(log)
            await asyncio.sleep(step)
    finally:
        await asyncio.sleep(0)
        log.append("closed")


async def test_cancel_closes_the_source_and_waits_for_it():
    log = []
    batch = bounded_gather(double, closing(log), on_result=lambda r: batch.cancel())
    result = await batch
    assert log == ["closed"]
    assert result.status is BatchStatus.CANCELLED
    assert not result.exhausted


async def test_the_budget_closes_the_source():
    log = []
    result = await bounded_gather(double, closing(log), budget=0.02)
    assert log == ["closed"]
    assert result.status is BatchStatus.TIMED_OUT
    assert len(result) == 1


async def test_leaving_closes_the_source():
    log = []
    async with bounded_gather(double, closing(log)) as batch:
        async for _ in batch:
            break
    assert log == ["closed"]


async def test_an_item_that_was_ahead_is_in_the_result_as_never_started():
    async def numbers():
        for i in range(10):
            yield i

    batch = bounded_gather(sleep_for, numbers(), max_concurrent=1)
    in_turns(50, batch.cancel)
    result = await batch
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.PENDING,
    ] or result[0].item == 0
    assert result[-1].state is TaskState.PENDING
    assert isinstance(result[-1].error, asyncio.CancelledError)


async def test_a_source_that_swallows_its_cancellation_is_not_read_on():
    log = []

    async def stubborn():
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


async def test_a_source_that_fails_while_it_is_cancelled_is_reported(loop_errors):
    async def failing():
        try:
            yield 1
            await asyncio.sleep(10)
        finally:
            raise ValueError("in finally")

    batch = bounded_gather(double, failing())
    in_turns(50, batch.cancel)
    assert (await batch).status is BatchStatus.CANCELLED
    assert [str(c["exception"]) for c in loop_errors] == ["in finally"]


async def test_a_source_that_raises_cancelled_error_ends_the_batch():
    async def numbers():
        yield 1
        raise asyncio.CancelledError("mine")

    with pytest.raises(asyncio.CancelledError):
        await bounded_gather(double, numbers())
    assert asyncio.current_task().cancelling() == 0


async def test_a_batch_cancelled_before_it_began_touches_no_source():
    touched = []

    class Source:
        def __aiter__(self):
            touched.append(1)

    batch = bounded_gather(double, Source())
    batch.cancel()
    result = await batch
    assert (touched, len(result), result.exhausted) == ([], 0, False)


async def test_an_async_iterator_without_aclose_will_do():
    class Numbers:
        n = 0

        def __aiter__(self):
            return self

        async def __anext__(self):
            self.n += 1
            if self.n > 3:
                raise StopAsyncIteration
            return self.n

    assert (await bounded_gather(double, Numbers())).values() == [2, 4, 6]
