"""task_with_individual_timeout()."""

import asyncio
import contextlib
import gc
import math

import pytest

from pyasynclife import task_with_individual_timeout
from support.coroutines import after, double_later, fail, forever, swallow
from support.loops import settle
from support.memory import frees_its_error


async def test_an_awaitable_is_cancelled_when_its_time_is_up() -> None:
    with pytest.raises(TimeoutError, match=r"not done within 0.01 s"):
        await task_with_individual_timeout(forever(), 0.01)
    assert await task_with_individual_timeout(after(1)) == "value"
    assert await task_with_individual_timeout(after(1), math.inf) == "value"


async def test_the_awaitables_own_timeouterror_and_errors_propagate() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        await task_with_individual_timeout(after(1, TimeoutError("its own")))
    with pytest.raises(ValueError, match="x"):
        await task_with_individual_timeout(fail("x"))


async def test_one_that_swallows_its_timeout_keeps_its_value() -> None:
    assert await task_with_individual_timeout(swallow(), 0.01) == "swallowed"


@pytest.mark.parametrize("timeout", [0, 1e-9, 5.0])
async def test_a_cancellation_from_before_is_not_eaten(timeout: float) -> None:
    async def work() -> None:
        asyncio.current_task().cancel("before")
        await task_with_individual_timeout(forever(), timeout)

    with pytest.raises(asyncio.CancelledError, match="before"):
        await asyncio.create_task(work())
    gc.collect()


async def test_done_and_cancelled_in_one_iteration_is_cancelled() -> None:
    done = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(task_with_individual_timeout(done, 5.0))
    await settle()
    done.set_result("value")
    task.cancel("stop")
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task


async def test_the_limit_leaves_no_cancel_count_behind() -> None:
    async def work() -> int:
        with contextlib.suppress(TimeoutError):
            await task_with_individual_timeout(forever(), 0.001)
        return asyncio.current_task().cancelling()

    assert await asyncio.create_task(work()) == 0


async def test_what_cannot_be_awaited_is_refused_and_closed() -> None:
    with pytest.raises(TypeError, match="call it"):
        await task_with_individual_timeout(double_later)
    with pytest.raises(ValueError, match="timeout"):
        await task_with_individual_timeout(double_later(1), timeout=-1)
    with pytest.raises(TypeError, match="timeout"):
        await task_with_individual_timeout(double_later(1), timeout="5")


async def test_a_failed_task_is_freed_without_the_collector() -> None:
    assert await frees_its_error(task_with_individual_timeout)
