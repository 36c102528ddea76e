"""An error that is raised again has the traceback that it had at first."""

import asyncio
import copy
import gc
import pickle
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import Fatal, echo_later, fail, forever, raises

BOTH_WAYS = True
AGAIN = 1000


def depth(error: BaseException) -> int:
    return sum(1 for _ in traceback.walk_tb(error.__traceback__))


def broken() -> Iterator[int]:
    yield 1
    raise KeyError("source")


async def depths(attempt: Callable[[], Awaitable[object]]) -> set[int]:
    """How deep the traceback is, each time that the attempt raises."""
    found = set()
    for _ in range(AGAIN):
        try:
            await attempt()
        except BaseException as error:
            found.add(depth(error))
    assert found
    return found


async def unwrap(result: TaskResult[Any]) -> object:
    return result.unwrap()


async def test_unwrap_raises_with_the_traceback_of_the_item() -> None:
    (result,) = await bounded_gather(fail, [1])
    error = result.error
    assert error is not None
    at_first = traceback.format_tb(error.__traceback__)
    assert len(await depths(lambda: unwrap(result))) == 1
    assert traceback.format_tb(error.__traceback__)[-len(at_first) :] == at_first
    assert "in fail" in at_first[-1]


@pytest.mark.parametrize("state", ["timed out", "cancelled", "never started"])
async def test_unwrap_of_an_item_that_raised_nothing_itself(state: str) -> None:
    if state == "timed out":
        batch = bounded_gather(forever, [1], timeout=0.001)
    elif state == "cancelled":
        batch = bounded_gather(raises, [asyncio.CancelledError()])
    else:
        batch = bounded_gather(forever, [1, 2], budget=0.001, max_concurrent=1)
    results = await batch
    result = results[-1]
    assert not result.success
    assert len(await depths(lambda: unwrap(result))) == 1
    assert len(await depths(lambda: unwrap(results[-1]))) == 1


@pytest.mark.parametrize("data", [None, 5])
async def test_unwrap_of_a_result_that_a_function_made(data: Any) -> None:
    async def judge(item: str) -> TaskResult[Any]:
        try:
            await fail(item)
        except ValueError as error:
            return TaskResult(item, False, data, error)
        raise AssertionError

    (result,) = await bounded_gather(judge, ["one"])
    assert (result.task_id, result.data, result.state) == (
        "one",
        data,
        TaskState.FAILED,
    )
    assert len(await depths(lambda: unwrap(result))) == 1


@pytest.mark.workers_only
@pytest.mark.parametrize("data", [None, 5, (1, 2), [1]])
def test_a_failed_result_keeps_its_data_beside_the_traceback(data: Any) -> None:
    result = TaskResult("a", False, data, ValueError("no"))
    assert result.data == data
    assert result.as_dict()["data"] == data
    assert result == TaskResult("a", False, data, result.error)
    assert result != TaskResult("a", False, "other", result.error)
    assert copy.copy(result) == result
    assert pickle.loads(pickle.dumps(result)).data == data
    for _ in range(3):
        with pytest.raises(ValueError, match="no") as caught:
            result.unwrap()
        assert depth(caught.value) == 1


@pytest.mark.workers_only
def test_the_traceback_takes_no_memory_of_a_result() -> None:
    assert TaskResult.__basicsize__ == 64


async def test_a_batch_raises_the_error_of_its_source_unchanged() -> None:
    batch = bounded_gather(echo_later, broken())
    assert len(await depths(batch.collect)) == 1
    assert len(await depths(lambda: batch)) == 1


async def test_a_batch_raises_an_exit_of_an_item_unchanged() -> None:
    batch = bounded_gather(raises, [Fatal()])
    assert len(await depths(batch.collect)) == 1


async def test_a_block_and_an_iteration_raise_the_error_unchanged() -> None:
    batch = bounded_gather(echo_later, broken())

    async def iterate() -> None:
        async for _ in batch:
            pass

    async def enter() -> None:
        async with batch:
            await iterate()

    assert len(await depths(iterate)) == 1
    assert len(await depths(enter)) == 1


async def test_the_errors_in_a_batcherror_are_unchanged() -> None:
    results = await bounded_gather(fail, [1, 2])

    async def values() -> object:
        return results.values()

    assert len(await depths(values)) == 1
    with pytest.raises(BatchError) as caught:
        results.values()
    members = [depth(error) for error in caught.value.exceptions]
    await depths(values)
    assert [depth(error) for error in caught.value.exceptions] == members


async def test_a_failed_batch_that_is_awaited_again_does_not_grow() -> None:
    batch = bounded_gather(fail, [1, 2], max_errors=0)
    with pytest.raises(BatchError) as caught:
        await batch
    members = [depth(error) for error in caught.value.exceptions]
    assert len(await depths(batch.collect)) == 1
    with pytest.raises(BatchError) as caught:
        await batch
    assert [depth(error) for error in caught.value.exceptions] == members


async def test_the_callers_of_unwrap_are_not_kept() -> None:
    class Local:
        pass

    (result,) = await bounded_gather(fail, [1])
    seen: list[weakref.ref[Local]] = []

    def call() -> None:
        local = Local()
        seen.append(weakref.ref(local))
        result.unwrap()

    for _ in range(10):
        with pytest.raises(ValueError, match="1"):
            call()
    gc.collect()
    assert sum(ref() is not None for ref in seen) <= 1  # that of the last raise
