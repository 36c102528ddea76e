"""The articles' three functions for many items, with ours behind them.

gather_with_error_handling(), gather_with_timeout_and_budget() and
process_batch_with_deadline().
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    TaskResult,
    TaskState,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    process_batch_with_deadline,
)
from support.coroutines import double_later, fail, forever, sleep_for
from support.loops import in_virtual_time
from support.tasks import cancelled_after

GATHERS = [
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    process_batch_with_deadline,
]


async def test_one_failure_stops_no_other_and_each_item_has_a_result() -> None:
    async def fn(x: int) -> int | None:
        return await (fail(x) if x == 2 else double_later(x))

    results = await gather_with_error_handling(fn, [1, 2, 3])
    assert isinstance(results, list)
    assert [r.data for r in results] == [2, None, 6]
    assert [r.task_id for r in results] == ["1", "2", "3"]
    assert isinstance(results[1].error, ValueError)


async def test_an_item_cancelled_by_itself_is_a_result_and_no_bare_exception() -> None:
    async def fn(x: int) -> int:
        if x:
            raise asyncio.CancelledError
        return x

    results = await gather_with_error_handling(fn, [0, 1])
    assert all(isinstance(r, TaskResult) for r in results)
    assert [r.state for r in results] == [TaskState.DONE, TaskState.CANCELLED]


async def test_the_articles_function_that_returns_a_taskresult_is_taken() -> None:
    async def fetch(symbol: str) -> TaskResult[float]:
        return TaskResult(task_id=symbol, success=True, data=150.25)

    (result,) = await gather_with_error_handling(fetch, ["AAPL"])
    assert (result.task_id, result.success, result.data) == ("AAPL", True, 150.25)


def test_gather_has_a_limit_a_timeout_and_a_budget() -> None:
    running = most = 0

    async def fn(seconds: float) -> float:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await sleep_for(seconds)
        finally:
            running -= 1

    items = [0, 1, 50, 60, 70]
    results = in_virtual_time(
        gather_with_timeout_and_budget(fn, items, 30, max_concurrent=2, budget=45)
    )
    assert [r.item for r in results.values()] == items
    assert most == 2
    assert [r.success for r in results.values()] == [True, True, False, False, False]
    assert all(r.timed_out for r in results.values() if not r.success)
    assert all(type(r.error) is TimeoutError for r in results.values() if not r.success)


async def test_key_distinguishes_items_with_one_id() -> None:
    results = await gather_with_timeout_and_budget(
        double_later, [("a", 1), ("b", 1)], key=lambda item: item[0]
    )
    assert list(results) == ["a", "b"]


def test_values_that_are_done_by_the_deadline_are_kept_and_run_at_once() -> None:
    async def main() -> tuple[list[float], float]:
        values = await process_batch_with_deadline(
            sleep_for, [3, 50, 2, 1, 60], deadline=4
        )
        return values, asyncio.get_running_loop().time()

    assert in_virtual_time(main()) == ([3, 2, 1], 4)


async def test_all_values_come_before_the_deadline() -> None:
    assert await process_batch_with_deadline(double_later, range(3)) == [0, 2, 4]


async def test_items_that_the_deadline_keeps_from_starting_cost_nothing() -> None:
    values = await process_batch_with_deadline(
        double_later, range(10**12), deadline=0.05
    )
    assert values == [2 * x for x in range(len(values))]


async def test_a_failure_is_not_silent_and_max_errors_tolerates_it() -> None:
    async def fn(x: int) -> int | None:
        return await (fail(x) if x == 1 else double_later(x))

    with pytest.raises(BatchError) as caught:
        await process_batch_with_deadline(fn, [1, 2])
    assert isinstance(caught.value.exceptions[0], ValueError)
    assert caught.value.result is not None
    assert await process_batch_with_deadline(fn, range(3), max_errors=1) == [0, 4]
    assert await process_batch_with_deadline(fn, range(3), max_errors=None) == [0, 4]


@pytest.mark.parametrize("helper", GATHERS)
@pytest.mark.parametrize("iterations", range(6))
async def test_a_cancellation_is_passed_on_and_never_a_value(
    helper: Callable[..., Any], iterations: int
) -> None:
    started: list[int] = []
    ended: list[int] = []

    async def fn(x: int) -> None:
        started.append(x)
        try:
            await forever()
        finally:
            ended.append(x)

    task = await cancelled_after(iterations, lambda: helper(fn, [1, 2]))
    assert task.cancelled()
    assert started == ended
    assert iterations < 4 or started == [1, 2]
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task


@pytest.mark.parametrize("helper", GATHERS)
async def test_the_articles_call_is_refused_pass_the_function_first(
    helper: Callable[..., Any],
) -> None:
    with pytest.raises(TypeError, match="pass the function first"):
        await helper(["AAPL", "MSFT"])
    with pytest.raises(TypeError, match=r"got str 'AAPL'.*pass the function first"):
        await helper("AAPL", 5.0)
    with pytest.raises(TypeError, match="there are no items"):
        await helper(double_later)
    with pytest.raises(TypeError, match="wrap it in a list"):
        await helper(double_later, "AAPL")
    with pytest.raises(TypeError, match="pass the function first"):
        await helper(double_later(1), [1])  # closes the coroutine


async def test_the_budget_of_a_deadline_is_refused_with_the_remedy() -> None:
    with pytest.raises(TypeError, match="budget is called deadline"):
        await process_batch_with_deadline(double_later, [1], budget=1.0)  # type: ignore[call-overload]
