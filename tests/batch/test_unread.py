"""Failures that nobody has received: reported once, when nobody can receive them."""

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pyasynclife import Batch, BatchError, BatchStatus, TaskResult, bounded_gather
from support.coroutines import Boom, Fatal, echo, forever
from support.loops import settle, until

BOTH_WAYS = True

LoopErrors = list[dict[str, Any]]


async def fail(x: int) -> None:
    raise Boom(x)


async def item(x: int) -> int:
    """Succeed, fail, or fail in the cleanup after a cancellation."""
    if x == 0:
        return x
    if x == 1:
        raise Boom("before")
    try:
        await asyncio.sleep(60)
    finally:
        raise Boom("cleanup")


async def one_has_failed(batch: Batch[Any], started: int = 4) -> None:
    """Wait until item 1 has failed, and the items after it run."""
    await until(
        lambda: batch.progress.failed == 1 and batch.progress.started == started
    )


def reported(errors: LoopErrors) -> list[tuple[str, str]]:
    """The messages and exceptions that were reported, which are removed."""
    found = [(c["message"], repr(c["exception"])) for c in errors]
    errors.clear()
    return found


# -------------------------------------------------------- blocks without a use


async def test_a_block_without_a_use_reports_its_failures_in_one_call(
    loop_errors: LoopErrors,
) -> None:
    async with bounded_gather(fail, range(3)) as batch:
        pass
    assert batch.status is BatchStatus.COMPLETED
    ((message, error),) = reported(loop_errors)
    assert "3 failed items" in message
    assert "pass on_result" in message
    assert error == "Boom(0)"
    del batch
    gc.collect()
    assert not loop_errors


async def test_failures_before_and_after_the_body_are_reported_together(
    loop_errors: LoopErrors,
) -> None:
    async with bounded_gather(fail, [0], max_concurrent=1) as batch:
        await until(lambda: batch.progress.failed == 1)
        batch.add(1)
        batch.add(2)
    ((message, error),) = reported(loop_errors)
    assert "3 failed items" in message
    assert error == "Boom(0)"


async def test_a_block_without_failures_reports_nothing() -> None:
    async with bounded_gather(echo, range(3)):
        pass
    async with bounded_gather(forever, range(3)) as batch:
        await settle(3)
        batch.cancel()
    assert batch.progress.cancelled == 3


async def test_a_block_left_by_an_exception_reports_failures_of_cleanups_too(
    loop_errors: LoopErrors,
) -> None:
    with pytest.raises(LookupError, match="body"):
        async with bounded_gather(item, range(4)) as batch:
            await settle(3)
            raise LookupError("body")
    assert batch.progress.failed == 3
    ((message, error),) = reported(loop_errors)
    assert "3 failed items" in message
    assert error == "Boom('before')"


async def test_an_item_that_fails_without_an_exception_is_reported(
    loop_errors: LoopErrors,
) -> None:
    async def adopted(x: int) -> TaskResult[int]:
        return TaskResult(str(x), False)

    async with bounded_gather(adopted, [1]):
        pass
    ((message, error),) = reported(loop_errors)
    assert "1 failed item was" in message
    assert error == "None"


async def test_an_exit_of_an_item_is_raised_and_not_reported_as_a_failure() -> None:
    async def leave(x: int) -> None:
        raise Fatal(x)

    with pytest.raises(Fatal):
        async with bounded_gather(leave, [1]):
            pass


# --------------------------------------------------- the error that ended a batch


@pytest.mark.parametrize("observed", [False, True])
async def test_the_batch_error_beside_a_bodys_exception_is_reported(
    observed: bool, loop_errors: LoopErrors
) -> None:
    on_result = (lambda r: None) if observed else None
    with pytest.raises(LookupError, match="body"):
        async with bounded_gather(
            item, range(3), max_errors=0, on_result=on_result
        ) as batch:
            await until(lambda: batch.status is not None)
            raise LookupError("body")
    assert batch.status is BatchStatus.ABORTED
    (context,) = loop_errors
    assert "its block raised another exception" in context["message"]
    assert isinstance(context["exception"], BatchError)
    assert str(context["exception"].exceptions[0]) == "before"
    loop_errors.clear()
    batch = None
    gc.collect()
    assert not loop_errors


async def test_a_batch_error_that_the_body_received_is_not_reported() -> None:
    async with bounded_gather(fail, range(3), max_errors=0) as batch:
        with pytest.raises(BatchError):
            await batch
    with pytest.raises(BatchError):
        async with bounded_gather(fail, range(3), max_errors=0) as batch:
            [r async for r in batch]
    with pytest.raises(BatchError):
        async with bounded_gather(fail, range(3), max_errors=0) as batch:
            pass


@pytest.mark.parametrize("max_errors", [0, None])
@pytest.mark.parametrize("in_a_block", [False, True])
async def test_failures_are_reported_if_the_caller_is_cancelled_meanwhile(
    max_errors: int | None, in_a_block: bool, loop_errors: LoopErrors
) -> None:
    """The caller's timeout falls due while the rest is cleaned up after a failure."""

    async def slow_cleanup(x: int) -> None:
        if x == 1:
            raise Boom("the reason")
        try:
            await asyncio.sleep(60)
        finally:
            await settle(20)

    async def wait() -> None:
        batch = bounded_gather(slow_cleanup, range(3), max_errors=max_errors)
        if in_a_block:
            async with batch:
                pass
        await batch

    task = asyncio.create_task(wait())
    await settle(8)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await settle()
    gc.collect()
    (context,) = loop_errors
    error = context["exception"]
    if max_errors == 0:
        assert isinstance(error, BatchError)
        (error,) = error.exceptions
        assert "a batch failed, and" in context["message"]
    else:
        assert "1 failed item was" in context["message"]
    assert repr(error) == "Boom('the reason')"
    loop_errors.clear()


@pytest.mark.parametrize("max_errors", [0, None])
@pytest.mark.parametrize("in_a_block", [False, True])
async def test_failures_that_a_second_await_delivers_are_not_reported(
    max_errors: int | None, in_a_block: bool
) -> None:
    async def wait() -> None:
        if in_a_block:
            async with batch:
                await batch
        else:
            await batch

    batch = bounded_gather(item, range(3), max_errors=max_errors)
    task = asyncio.create_task(wait())
    await settle(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await settle()
    if max_errors == 0 and batch.status is BatchStatus.ABORTED:
        with pytest.raises(BatchError):
            await batch
    else:
        (await batch).failures()
    batch = None
    gc.collect()
    await settle()


async def test_an_await_that_raised_the_sources_error_reports_the_items_failures(
    loop_errors: LoopErrors,
) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError("source")

    batch = bounded_gather(fail, source(), max_concurrent=1)
    with pytest.raises(LookupError, match="source"):
        await batch
    assert not loop_errors
    del batch
    gc.collect()
    ((message, error),) = reported(loop_errors)
    assert "1 failed item was dropped unread" in message
    assert error == "Boom(1)"


# ----------------------------------------------------- iterations that are left


@pytest.mark.parametrize("leave", ["break", "exception", "cancellation"])
async def test_failures_that_a_left_iteration_did_not_hand_over_are_reported(
    leave: str, loop_errors: LoopErrors
) -> None:
    async def consume() -> None:
        async with bounded_gather(item, range(4)) as batch:
            async for _ in batch:
                await one_has_failed(batch)
                if leave == "break":
                    break
                if leave == "exception":
                    raise LookupError("body")
                await asyncio.sleep(60)
        assert batch.progress.failed == 3

    task = asyncio.create_task(consume())
    await settle(20)
    task.cancel()
    await asyncio.wait([task])
    if leave == "exception":
        assert isinstance(task.exception(), LookupError)
    ((message, error),) = reported(loop_errors)
    assert "3 failed items were left unread" in message
    assert error == "Boom('before')"


async def test_a_failure_that_was_handed_over_is_the_consumers() -> None:
    async with bounded_gather(item, range(2), ordered=False) as batch:
        async for result in batch:
            if result.error is not None:
                break
    async for result in bounded_gather(item, [1]):
        assert isinstance(result.error, Boom)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_dropped_iteration_reports_the_failures_before_and_after(
    loop_errors: LoopErrors,
) -> None:
    batch = bounded_gather(item, range(4))
    async for _ in batch:
        await one_has_failed(batch)
        break
    del batch
    gc.collect()
    await until(lambda: loop_errors)
    await settle(5)
    ((message, error),) = reported(loop_errors)
    assert "3 failed items were dropped unread" in message
    assert error == "Boom('before')"


async def test_a_block_that_was_left_has_nothing_more_to_iterate(
    loop_errors: LoopErrors,
) -> None:
    """What a report has named is not handed over afterwards."""
    async with bounded_gather(item, range(2)) as batch:
        async for _ in batch:
            await until(lambda: batch.progress.failed == 1)
            break
    assert len(reported(loop_errors)) == 1
    assert [r async for r in batch] == []


async def test_an_iteration_without_a_block_may_be_left_and_taken_up_again() -> None:
    batch = bounded_gather(item, range(2))
    async for _ in batch:
        await until(lambda: batch.progress.failed == 1)
        break
    assert [repr(r.error) async for r in batch] == ["Boom('before')"]


# ------------------------------------------------------------- with on_result


async def test_failures_that_on_result_has_received_are_not_reported() -> None:
    seen = []
    options = {"on_result": seen.append}
    async with bounded_gather(fail, range(3), **options):
        pass
    with pytest.raises(LookupError):
        async with bounded_gather(item, range(4), **options) as batch:
            await one_has_failed(batch)
            raise LookupError
    async with bounded_gather(item, range(4), **options) as batch:
        async for _ in batch:
            await one_has_failed(batch)
            break
    await bounded_gather(fail, range(3), **options)
    gc.collect()
    await settle()
    assert sum(r.error is not None for r in seen) == 12


async def test_items_that_a_budget_never_started_are_reported_with_on_result_too(
    loop_errors: LoopErrors,
) -> None:
    await bounded_gather(
        forever, range(3), budget=0.01, max_concurrent=1, on_result=lambda r: None
    )
    gc.collect()
    ((message, _),) = reported(loop_errors)
    assert "dropped unread" in message


async def test_the_failures_of_a_source_that_is_a_batch_are_received() -> None:
    async def numbers() -> AsyncIterator[int]:
        for i in range(3):
            yield i

    async def name(result: TaskResult[None]) -> str:
        return str(result.error)

    first = bounded_gather(fail, numbers())
    assert (await bounded_gather(name, first)).values() == ["0", "1", "2"]
