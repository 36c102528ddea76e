"""Items that fail: max_errors, BatchError, and exceptions that end the batch."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pyasynclife import BatchError, BatchStatus, TaskResult, TaskState, bounded_gather
from support.coroutines import double, fail, sleep_for
from support.loops import in_turns, settle

BOTH_WAYS = True


# ---------------------------------------------------------- failed items


async def test_a_function_that_raises_is_one_failed_item() -> None:
    def fn(x: int) -> Any:
        if x == 1:
            raise ValueError("at the call")
        return double(x)

    batch = await bounded_gather(fn, [0, 1, 2])
    assert [r.success for r in batch] == [True, False, True]
    assert str(batch[1].error) == "at the call"


async def test_a_value_that_cannot_be_awaited_is_one_failed_item() -> None:
    batch = await bounded_gather(lambda x: x if x == 1 else double(x), [0, 1, 2])
    assert [r.success for r in batch] == [True, False, True]
    assert isinstance(batch[1].error, TypeError)
    assert "returned int, which cannot be awaited" in str(batch[1].error)


async def test_stop_iteration_of_an_item_is_its_error() -> None:
    def fn(x: int) -> None:
        raise StopIteration(x)

    async def later(x: int) -> None:
        await asyncio.sleep(0)
        raise StopAsyncIteration(x)

    (result,) = await bounded_gather(fn, [1])
    assert isinstance(result.error, StopIteration)
    (result,) = await bounded_gather(later, [1])
    assert isinstance(result.error, (StopAsyncIteration, RuntimeError))


# ------------------------------------------------------------ max_errors


@pytest.mark.parametrize("max_errors", [0, 1, 3])
async def test_more_than_max_errors_abort(max_errors: int) -> None:
    async def fn(x: int) -> int:
        if x % 2:
            raise ValueError(x)
        await asyncio.sleep(0)
        return x

    batch = bounded_gather(fn, range(100), max_concurrent=2, max_errors=max_errors)
    with pytest.raises(BatchError) as caught:
        await batch
    assert len(caught.value.exceptions) == max_errors + 1
    result = caught.value.result
    assert result.status is batch.status is BatchStatus.ABORTED
    assert len(result) == 100
    assert len([r for r in result if r.state is TaskState.FAILED]) == max_errors + 1
    assert result[99].state is TaskState.PENDING
    with pytest.raises(BatchError):
        await batch


async def test_as_many_as_max_errors_are_tolerated() -> None:
    batch = await bounded_gather(fail, [1, 2, 3], max_errors=3)
    assert batch.status is BatchStatus.COMPLETED
    assert len(batch.failures()) == 3


async def test_the_last_item_may_be_one_error_too_many() -> None:
    with pytest.raises(BatchError):
        await bounded_gather(fail, [1], max_errors=0)


async def test_aborting_cancels_and_waits_for_the_rest() -> None:
    ended = []

    async def fn(x: int) -> None:
        if x == 0:
            await asyncio.sleep(0.01)
            raise ValueError
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            ended.append(x)

    with pytest.raises(BatchError) as caught:
        await bounded_gather(fn, range(4), max_errors=0)
    assert sorted(ended) == [1, 2, 3]
    assert [r.state for r in caught.value.result[1:]] == [TaskState.CANCELLED] * 3
    assert len(caught.value.exceptions) == 1


async def test_timeouts_count_as_errors_and_cancelled_items_do_not() -> None:
    async def cancel_itself(x: int) -> None:
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    batch = await bounded_gather(cancel_itself, range(3), max_errors=0)
    assert [r.state for r in batch] == [TaskState.CANCELLED] * 3
    with pytest.raises(BatchError) as caught:
        await bounded_gather(sleep_for, [10, 10], timeout=0.01, max_errors=1)
    assert all(isinstance(e, TimeoutError) for e in caught.value.exceptions)


@pytest.mark.parametrize("use", ["await", "iterate", "block"])
async def test_failures_without_an_error_may_be_one_too_many(use: str) -> None:
    async def fn(x: int) -> Any:
        return TaskResult("x", False)

    batch = bounded_gather(fn, range(3), max_errors=0)
    with pytest.raises(BatchError) as caught:
        if use == "await":
            await batch
        elif use == "iterate":
            [r async for r in batch]
        else:
            async with batch:
                await settle()
    (error,) = caught.value.exceptions
    assert type(error) is RuntimeError
    assert "no error" in str(error)


async def test_errors_that_refuse_to_be_compared_make_a_batch_error() -> None:
    class Odd(Exception):
        __hash__ = None

        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

    async def fn(x: int) -> None:
        raise Odd(x)

    with pytest.raises(BatchError) as caught:
        await bounded_gather(fn, range(5), max_errors=2)
    assert [error.args for error in caught.value.exceptions] == [(0,), (1,), (2,)]


async def test_a_batch_error_splits_and_keeps_its_result() -> None:
    with pytest.raises(BatchError) as caught:
        await bounded_gather(fail, [1, 2], max_errors=0)
    part, rest = caught.value.split(ValueError)
    assert rest is None
    assert part.result is caught.value.result


# ----------------------------------------------------------------- exits


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_base_exception_of_an_item_ends_the_batch(
    error: type[BaseException], when: str
) -> None:
    raised = error("now")
    ended = []

    async def fn(x: int) -> None:
        if when == "later":
            await asyncio.sleep(0)
        if x == 3:
            raise raised
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(x)

    batch = bounded_gather(fn, range(10), max_concurrent=5)
    with pytest.raises(error) as caught:
        await batch
    assert caught.value is raised
    assert set(ended) >= {0, 1, 2}
    assert 9 not in ended
    with pytest.raises(error) as caught:
        await batch
    assert caught.value is raised
    assert batch.status is BatchStatus.ABORTED


def exits_when_cancelled(exits: Sequence[BaseException]) -> Any:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise exits[x] from None

    return fn


async def test_an_exit_takes_precedence_over_an_error_of_the_source(
    loop_errors: list[dict[str, Any]],
) -> None:
    def source() -> Iterator[int]:
        yield 0
        raise LookupError("source")

    exits = [SystemExit("item")]
    with pytest.raises(SystemExit) as caught:
        await bounded_gather(exits_when_cancelled(exits), source())
    assert caught.value is exits[0]
    (context,) = loop_errors
    assert str(context["exception"]) == "source"
    assert "more than once" in context["message"]
    loop_errors.clear()


async def test_of_two_exits_the_first_is_raised_and_the_other_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    exits = [SystemExit("a"), KeyboardInterrupt("b")]
    batch = bounded_gather(exits_when_cancelled(exits), [0, 1])
    in_turns(50, batch.cancel)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        await batch
    (context,) = loop_errors
    assert {caught.value, context["exception"]} == set(exits)
    loop_errors.clear()


@pytest.mark.parametrize("how", ["await", "block", "leaving"])
async def test_an_exit_takes_precedence_over_the_callers_cancellation(how: str) -> None:
    exits = [SystemExit("item")]
    batch = bounded_gather(exits_when_cancelled(exits), [0])
    caller = asyncio.current_task()
    in_turns(50, caller.cancel)
    with pytest.raises(SystemExit) as caught:
        if how == "await":
            await batch
        async with batch:
            if how == "block":
                await asyncio.sleep(10)
    assert caught.value is exits[0]
    assert caller.cancelling() == 1
    caller.uncancel()
