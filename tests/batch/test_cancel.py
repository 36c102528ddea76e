"""Cancellation: Batch.cancel, a cancelled caller, a cancelled worker, a closed loop."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyasynclife import Batch, BatchStatus, TaskResult, TaskState, bounded_gather
from support.coroutines import echo_later, sleep_for
from support.loops import in_turns, settle

BOTH_WAYS = True


# ---------------------------------------------------------- Batch.cancel


async def test_cancel_ends_what_runs_and_starts_no_more() -> None:
    batch = bounded_gather(sleep_for, [0.0, 10, 10, 10], max_concurrent=2)
    in_turns(50, batch.cancel, "enough")
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert [r.state for r in result] == [
        TaskState.DONE,
        TaskState.CANCELLED,
        TaskState.CANCELLED,
        TaskState.PENDING,
    ]
    assert result[1].error.args == ("enough",)
    assert isinstance(result[3].error, asyncio.CancelledError)
    assert not any(r.timed_out for r in result)
    assert not result.ok
    assert len(result.failures()) == 3


async def test_cancelling_a_lazy_source_gives_a_result_that_is_not_exhausted() -> None:
    batch = bounded_gather(sleep_for, iter([10] * 10), max_concurrent=2)
    in_turns(50, batch.cancel)
    result = await batch
    assert len(result) == 2
    assert not result.exhausted


async def test_cancel_before_the_start_starts_nothing() -> None:
    calls = []
    batch = bounded_gather(calls.append, [1, 2])
    batch.cancel()
    result = await batch
    assert calls == []
    assert [r.state for r in result] == [TaskState.PENDING] * 2
    assert result.status is BatchStatus.CANCELLED


async def test_cancel_after_the_end_changes_nothing() -> None:
    batch = bounded_gather(sleep_for, [0.0])
    result = await batch
    batch.cancel()
    assert result.status is batch.status is BatchStatus.COMPLETED


@pytest.mark.parametrize("items", [[1], (1, 2), range(3)])
async def test_cancel_after_the_last_item_changes_nothing(items: Any) -> None:
    def on_result(_: TaskResult[Any]) -> None:
        if batch.progress.running == 0:
            batch.cancel()

    batch = bounded_gather(echo_later, items, on_result=on_result)
    result = await batch
    assert result.values() == list(items)
    assert result.status is BatchStatus.COMPLETED


async def test_an_item_may_cancel_its_batch_and_keep_its_value() -> None:
    async def fn(x: int) -> str | None:
        if x == 1:
            batch.cancel()
            return "found"
        await asyncio.sleep(10)
        return None

    batch = bounded_gather(fn, range(5), max_concurrent=3)
    result = await batch
    assert result[1].data == "found"
    assert next(r.state for r in result) is TaskState.CANCELLED
    assert result.status is BatchStatus.CANCELLED


async def test_cancelling_again_cancels_once_more() -> None:
    swallowed = []

    async def fn(x: int) -> str:
        for _ in range(3):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                swallowed.append(x)
        return "stubborn"

    batch = bounded_gather(fn, [1])
    task = asyncio.create_task(batch.collect())
    for _ in range(3):
        await settle(3)
        batch.cancel()
    result = await task
    assert swallowed == [1, 1, 1]
    assert result[0].data == "stubborn"


async def test_a_message_reaches_the_items() -> None:
    async def fn(x: int) -> Any:
        asyncio.get_running_loop().call_soon(batch.cancel, "why")
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError as error:
            return error.args

    batch = bounded_gather(fn, [1])
    assert (await batch)[0].data == ("why",)


# ---------------------------------------------------- a cancelled caller


async def cancel_while_awaiting(
    batch: Batch[Any], iterations: int, msg: str = "outer", times: int = 1
) -> Any:
    """Cancel a task that awaits the batch; the error and the task's cancelling()."""

    async def main() -> Any:
        try:
            return await batch
        except asyncio.CancelledError as error:
            return error, asyncio.current_task().cancelling()

    task = asyncio.create_task(main())
    await settle(iterations)
    for _ in range(times):
        task.cancel(msg)
        await settle(1)
    return await task


async def test_a_cancelled_caller_is_cancelled_when_the_items_have_ended() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await settle(5)
            ended.append(x)

    batch = bounded_gather(fn, range(3))
    error, count = await cancel_while_awaiting(batch, 5)
    assert error.args == ("outer",)
    assert count == 1
    assert ended == [0, 1, 2]
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert [r.state for r in result] == [TaskState.CANCELLED] * 3


async def test_the_first_exception_thrown_in_is_the_one_raised() -> None:
    batch = bounded_gather(sleep_for, [10])
    coro = batch.collect()
    coro.send(None)._asyncio_future_blocking = False
    await settle(3)
    thrown = asyncio.CancelledError("first")
    pending = coro.throw(thrown)
    second = asyncio.CancelledError("second")
    pending._asyncio_future_blocking = False
    pending = coro.throw(second)
    pending._asyncio_future_blocking = False
    while not pending.done():
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError) as caught:
        coro.send(None)
    assert caught.value is thrown


async def test_a_caller_cancelled_on_every_iteration_waits_for_its_items() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await settle(20)
            ended.append(x)

    batch = bounded_gather(fn, range(3))
    error, count = await cancel_while_awaiting(batch, 5, times=15)
    assert count == 15
    assert error.args == ("outer",)
    assert ended == [0, 1, 2]


async def test_a_caller_cancelled_after_the_last_item_loses_nothing() -> None:
    batch = bounded_gather(sleep_for, [0.0])

    async def main() -> None:
        await batch

    task = asyncio.create_task(main())
    while not batch._core.over:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await batch).ok


async def test_an_item_done_in_the_iteration_of_the_cancellation_is_reported() -> None:
    gate = asyncio.get_running_loop().create_future()
    seen = []

    async def fn(x: int) -> Any:
        return await gate

    batch = bounded_gather(fn, [1], on_result=lambda r: seen.append(r.data))
    task = asyncio.create_task(batch.collect())
    await settle(4)
    gate.set_result("value")
    await asyncio.sleep(0)
    task.cancel("outer")
    with pytest.raises(asyncio.CancelledError, match="outer"):
        await task
    assert seen == ["value"]
    assert (await batch)[0].data == "value"


@pytest.mark.parametrize("use", ["await", "iterate", "block", "break"])
@pytest.mark.parametrize("again", [None, 0, 1, 3])
@pytest.mark.parametrize("kind", ["list", "async", "stuck"])
async def test_cancelling_at_any_iteration_leaves_nothing(
    use: str, again: int | None, kind: str
) -> None:
    async def fn(x: int) -> int:
        if x % 4 == 0:
            return x
        if x % 4 == 1:
            raise ValueError(x)
        try:
            await settle(1 if x % 4 == 2 and kind != "stuck" else 9)
        finally:
            await asyncio.sleep(0)
        return x

    async def source() -> AsyncIterator[int]:
        for i in range(9):
            await asyncio.sleep(0)
            yield i

    async def main(outcomes: list[Any], box: list[Batch[Any]]) -> None:
        items = source() if kind == "async" else list(range(9))
        batch = bounded_gather(
            fn, items, max_concurrent=3, timeout=5, on_result=outcomes.append
        )
        box.append(batch)
        if use == "await":
            (await batch).failures()
        elif use == "block":
            async with batch:
                await asyncio.sleep(0)
        else:
            async with batch:
                async for _ in batch:
                    if use == "break":
                        break

    for k in range(200):
        outcomes, box = [], []
        task = asyncio.create_task(main(outcomes, box))
        await settle(k)
        was_done = task.done()
        task.cancel()
        if again is not None:
            await settle(again)
            task.cancel()
        try:
            await task
            assert was_done
        except asyncio.CancelledError:
            pass
        assert len(asyncio.all_tasks()) == 1
        if box and box[0]._core.begun:
            assert box[0].progress.started == len(outcomes)
            assert len({r.index for r in outcomes}) == len(outcomes)
            if box[0]._core.mode == 2:
                (await box[0]).failures()
        if was_done:
            break
    else:
        pytest.fail("the scenario never ended by itself")


# ----------------------------------------------------- cancelled workers


async def test_a_sweep_over_all_tasks_starts_nothing_new() -> None:
    started = []

    async def fn(x: int) -> None:
        started.append(x)
        await asyncio.sleep(10)

    async def main() -> None:
        await bounded_gather(fn, range(100), max_concurrent=5)

    task = asyncio.create_task(main())
    await settle(6)
    assert len(started) == 5
    for other in asyncio.all_tasks() - {asyncio.current_task()}:
        other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(started) == 5


async def test_cancelling_a_worker_cancels_only_its_item() -> None:
    workers = []

    async def fn(x: int) -> int:
        workers.append(asyncio.current_task())
        await asyncio.sleep(0.02)
        return x

    task = asyncio.create_task(
        bounded_gather(fn, range(10), max_concurrent=2).collect()
    )
    await settle(4)
    workers[0].cancel()
    result = await task
    assert [r.state for r in result if not r.success] == [TaskState.CANCELLED]
    assert len(result.successes()) == 9


async def test_workers_cancelled_before_their_first_step_are_replaced() -> None:
    async def fn(x: int) -> int:
        await asyncio.sleep(0)
        return x

    batch = bounded_gather(fn, range(10), max_concurrent=3)
    task = asyncio.create_task(batch.collect())
    me = {asyncio.current_task(), task}
    await asyncio.sleep(0)
    for _ in range(3):
        for worker in asyncio.all_tasks() - me:
            worker.cancel()
        await asyncio.sleep(0)
    result = await task
    assert len(result) == 10
    result.failures()


# --------------------------------------------------- the end of the loop


async def test_no_task_of_a_batch_is_left_when_the_await_returns() -> None:
    async def fn(x: int) -> None:
        await asyncio.sleep(0)

    await bounded_gather(fn, range(100), max_concurrent=7)
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_asyncio_run_ends_a_batch_that_nobody_awaits() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(x)

    async def main() -> Any:
        task = asyncio.create_task(bounded_gather(fn, range(3)).collect())
        await settle(5)
        return task

    task = asyncio.run(main())
    assert task.cancelled()
    assert sorted(ended) == [0, 1, 2]


def test_closing_the_loop_under_a_batch_does_not_crash() -> None:
    async def fn(x: int) -> None:
        await asyncio.sleep(10)

    loop = asyncio.new_event_loop()
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    task = loop.create_task(bounded_gather(fn, range(3), timeout=5).collect())
    loop.run_until_complete(settle(5))
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del task
        gc.collect()


async def test_a_worker_whose_caller_is_closed_is_cancelled() -> None:
    ended = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(x)

    coro = bounded_gather(fn, range(3)).collect()
    coro.send(None)._asyncio_future_blocking = False
    await settle(4)
    coro.close()
    await settle(4)
    assert ended == [0, 1, 2]
