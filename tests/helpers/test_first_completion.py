"""wait_for_first_completion(): the winner's index and value, and no loser is left."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import TaskResult, wait_for_first_completion
from support.coroutines import after, double_later, forever, swallow
from support.loops import in_virtual_time, settle
from support.memory import frees_its_error
from support.tasks import cancelled_after


@pytest.mark.parametrize("winner", range(3))
async def test_the_index_is_the_winners_and_the_losers_have_ended(winner: int) -> None:
    ended: list[int] = []

    async def run(index: int) -> str | None:
        try:
            if index != winner:
                await forever()
            await settle(3)
            return f"value {index}"
        finally:
            await settle(2)  # the race waits for this
            ended.append(index)

    coros = [run(index) for index in range(3)]
    assert await wait_for_first_completion(coros) == (winner, f"value {winner}")
    assert sorted(ended) == [0, 1, 2]
    assert ended[0] == winner


async def test_of_two_in_one_iteration_the_first_to_end_wins() -> None:
    coros = [after(2, "a"), after(1, "b"), after(1, "c")]
    assert await wait_for_first_completion(coros) == (1, "b")


async def test_the_winners_value_is_returned_as_it_is() -> None:
    value = TaskResult("x", True, 1)
    assert await wait_for_first_completion([after(0, value)]) == (0, value)


def test_time_up_is_a_timeouterror_and_nothing_runs_on() -> None:
    ended: list[int] = []

    async def run(index: int) -> None:
        try:
            await forever()
        finally:
            ended.append(index)

    async def main() -> None:
        with pytest.raises(TimeoutError, match=r"none of 2 .* within 0.01 s"):
            await wait_for_first_completion([run(0), run(1)], 0.01)
        assert ended == [0, 1]

    in_virtual_time(main())


async def test_a_timeout_of_zero_starts_nothing_and_closes_all() -> None:
    with pytest.raises(TimeoutError):
        await wait_for_first_completion([forever(), forever()], 0)
    gc.collect()  # "never awaited" would be an error


def test_one_that_keeps_its_value_when_the_time_is_up_wins() -> None:
    async def main() -> None:
        coros = [forever(), swallow("kept")]
        assert await wait_for_first_completion(coros, 0.01) == (1, "kept")

    in_virtual_time(main())


async def test_the_first_to_end_may_fail() -> None:
    with pytest.raises(ValueError, match="first"):
        await wait_for_first_completion([forever(), after(1, ValueError("first"))])


async def test_what_a_loser_raises_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def run() -> None:
        try:
            await forever()
        finally:
            raise OSError("cleanup")

    assert await wait_for_first_completion([run(), after(1, "ok")]) == (1, "ok")
    (context,) = loop_errors
    assert isinstance(context["exception"], OSError)
    assert "coroutine 0" in context["message"]


async def test_one_that_cancels_itself_is_out_of_the_race() -> None:
    coros = [after(0, asyncio.CancelledError()), after(3, "ok")]
    assert await wait_for_first_completion(coros) == (1, "ok")
    with pytest.raises(asyncio.CancelledError):
        await wait_for_first_completion([after(0, asyncio.CancelledError())])


@pytest.mark.parametrize("iterations", range(8))
async def test_a_race_cancelled_at_any_iteration_leaves_nothing(
    iterations: int,
) -> None:
    async def race() -> tuple[int, Any]:
        return await wait_for_first_completion([forever(), swallow(), after(4)], 9.0)

    task = await cancelled_after(iterations, race)
    if not task.cancelled():
        assert task.result() == (2, "value")
        assert iterations > 4
    gc.collect()


async def test_a_failed_race_is_freed_without_the_collector() -> None:
    assert await frees_its_error(
        lambda task: wait_for_first_completion([task, forever()])
    )


@pytest.mark.parametrize(
    ("coros", "what"),
    [
        (list, "empty"),
        (lambda: [double_later], "call the function"),
        (lambda: [double_later(1), 5], "call the function"),
        (lambda: double_later(1), "in a list"),
        (lambda: 5, "in a list"),
    ],
)
async def test_what_cannot_race_is_refused(coros: Callable[[], Any], what: str) -> None:
    with pytest.raises((TypeError, ValueError), match=what):
        await wait_for_first_completion(coros())


async def test_two_coroutines_instead_of_a_list_are_closed() -> None:
    with pytest.raises(TypeError, match="in a list"):
        await wait_for_first_completion(double_later(1), 5.0)
    with pytest.raises(TypeError, match="timeout must be a number"):
        await wait_for_first_completion([double_later(1)], double_later(2))
