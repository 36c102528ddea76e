"""cancellation_with_retry(): a function that is called again when it fails."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from pyasynclife import cancellation_with_retry
from support.coroutines import double_later, fail, forever
from support.loops import in_virtual_time
from support.tasks import cancelled_after


async def test_the_function_is_called_again_for_each_attempt() -> None:
    attempts: list[int] = []

    async def work() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError(f"attempt {len(attempts)}")
        return "ok"

    assert await cancellation_with_retry(work, 3, 0) == "ok"
    attempts.clear()
    with pytest.raises(OSError, match="attempt 2"):
        await cancellation_with_retry(work, 2, 0)


def test_the_delay_lies_between_attempts_alone() -> None:
    async def main() -> float:
        with pytest.raises(ValueError, match="x"):
            await cancellation_with_retry(lambda: fail("x"), 3, 1000)
        return asyncio.get_running_loop().time()

    assert in_virtual_time(main()) == 2000


@pytest.mark.parametrize("iterations", range(1, 5))
async def test_a_cancellation_is_passed_on_and_not_retried(iterations: int) -> None:
    """Neither in an attempt nor in the delay."""
    calls: list[int] = []

    def work() -> Coroutine[Any, Any, None]:
        calls.append(1)
        return forever() if iterations % 2 else fail("x")

    task = await cancelled_after(
        iterations, lambda: cancellation_with_retry(work, 5, 1000.0)
    )
    assert task.cancelled()
    assert len(calls) == 1


async def test_a_cancellederror_of_the_attempt_itself_is_not_retried() -> None:
    calls: list[int] = []

    async def work() -> None:
        calls.append(1)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await cancellation_with_retry(work, 5, 0)
    assert len(calls) == 1


async def test_only_what_retry_on_says_is_retried() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise KeyError("k")  # in the call, before there is a coroutine

    with pytest.raises(KeyError):
        await cancellation_with_retry(work, 5, 0, retry_on=(OSError, ValueError))
    assert len(calls) == 1
    with pytest.raises(KeyError):
        await cancellation_with_retry(work, 5, 0, retry_on=LookupError)
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((["a"],), {}, "pass the function first"),
        ((double_later, 0), {}, "max_retries must be 1 or more, got 0"),
        ((double_later, True), {}, "max_retries must be an int"),
        ((double_later, 1, -1), {}, "retry_delay"),
        ((double_later,), {"retry_on": BaseException}, "never retried"),
        (
            (double_later,),
            {"retry_on": (OSError, asyncio.CancelledError)},
            "never retried",
        ),
        ((double_later,), {"retry_on": "x"}, "retry_on"),
        ((lambda: 5,), {}, "cannot be awaited"),
    ],
)
async def test_what_cannot_be_retried_is_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], what: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=what):
        await cancellation_with_retry(*args, **kwargs)


async def test_the_articles_coroutine_is_refused_and_closed() -> None:
    with pytest.raises(TypeError, match=r"a coroutine: pass the function first"):
        await cancellation_with_retry(double_later(1))
