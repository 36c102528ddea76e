"""The timeout of an item, and the budget of a batch."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from pyasynclife import BatchStatus, TaskState, bounded_gather
from pyasynclife.testing import VirtualTimeLoop
from support.coroutines import double, forever, sleep_for
from support.loops import settle

BOTH_WAYS = True


# -------------------------------------------------------------- timeouts


async def test_an_item_that_takes_too_long_times_out() -> None:
    result = await bounded_gather(sleep_for, [0.0, 10], timeout=0.2)
    slow = result[1]
    assert result[0].success
    assert slow.state is TaskState.FAILED
    assert slow.timed_out
    assert type(slow.error) is TimeoutError
    assert str(slow.error) == "'10' timed out after 0.2 s"
    assert isinstance(slow.error.__cause__, asyncio.CancelledError)
    assert 0.01 < slow.duration < 5
    assert result.status is BatchStatus.COMPLETED


@pytest.mark.standard_loop_only
def test_the_timeout_runs_from_the_call_of_the_function() -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        batch = bounded_gather(sleep_for, [3.0] * 10, max_concurrent=1, timeout=4)
        assert runner.run(batch.collect()).ok


async def test_every_item_that_takes_too_long_times_out() -> None:
    result = await bounded_gather(
        sleep_for, [10 + i for i in range(50)], timeout=0.02, max_concurrent=5
    )
    assert all(r.timed_out for r in result)
    assert result.duration >= 0.18


async def test_a_timeout_of_zero_takes_one_loop_iteration() -> None:
    async def at_once(x: int) -> int:
        return x

    assert (await bounded_gather(at_once, [1], timeout=0)).values() == [1]
    (result,) = await bounded_gather(sleep_for, [10], timeout=0)
    assert result.timed_out


async def test_an_item_that_swallows_its_timeout_keeps_its_value() -> None:
    async def fn(x: int) -> str | None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "value"

    (result,) = await bounded_gather(fn, [1], timeout=0.01)
    assert (result.data, result.success, result.timed_out) == ("value", True, False)


async def test_an_item_that_turns_its_timeout_into_an_error_has_that_error() -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            raise LookupError

    (result,) = await bounded_gather(fn, [1], timeout=0.01)
    assert isinstance(result.error, LookupError)
    assert not result.timed_out


async def test_an_items_cleanup_may_wait() -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            async with asyncio.timeout(5):
                await asyncio.sleep(0.01)

    (result,) = await bounded_gather(fn, [1], timeout=0.01)
    assert result.timed_out


async def test_an_outer_cancellation_beats_a_timeout() -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            asyncio.current_task().cancel()

    (result,) = await bounded_gather(fn, [1], timeout=0.01)
    assert result.state is TaskState.CANCELLED
    assert not result.timed_out


async def test_a_timeout_cancels_the_task_of_its_item_once() -> None:
    counts = []

    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            counts.append(asyncio.current_task().cancelling())
            raise

    await settle()
    (result,) = await bounded_gather(fn, [1], timeout=0.01)
    assert result.timed_out
    assert counts == [1]


async def test_an_awaitable_without_throw_times_out() -> None:
    class Bare:
        def __init__(self) -> None:
            self.inner = asyncio.sleep(10).__await__()

        def __await__(self) -> Iterator[Any]:
            return self

        def __iter__(self) -> Iterator[Any]:
            return self

        def __next__(self) -> Any:
            return next(self.inner)

    (result,) = await bounded_gather(lambda x: Bare(), [1], timeout=0.01)
    assert result.timed_out


# ------------------------------------------------------------ the budget


async def test_the_budget_ends_what_runs_and_starts_no_more() -> None:
    batch = await bounded_gather(
        sleep_for, [0.0, 10, 11, 12, 13], max_concurrent=2, budget=0.5
    )
    assert batch.status is BatchStatus.TIMED_OUT
    assert not batch.ok
    assert [r.state for r in batch] == [
        TaskState.DONE,
        TaskState.FAILED,
        TaskState.FAILED,
        TaskState.PENDING,
        TaskState.PENDING,
    ]
    assert [r.timed_out for r in batch] == [False, True, True, True, True]
    assert all(isinstance(r.error, TimeoutError) for r in batch[1:])
    assert isinstance(batch[1].error.__cause__, asyncio.CancelledError)
    assert "budget of 0.5 s" in str(batch[1].error)
    assert "budget of 0.5 s" in str(batch[4].error)
    assert batch.duration < 5


async def test_a_budget_of_zero_starts_nothing() -> None:
    calls = []
    batch = await bounded_gather(calls.append, [1, 2], budget=0)
    assert calls == []
    assert batch.status is BatchStatus.TIMED_OUT
    assert [r.state for r in batch] == [TaskState.PENDING] * 2


async def test_a_budget_that_is_kept_changes_nothing() -> None:
    batch = await bounded_gather(sleep_for, [0.0, 0.01], budget=30)
    assert batch.ok


async def test_the_budget_reaches_items_that_never_suspend() -> None:
    async def busy(x: int) -> None:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass

    batch = await bounded_gather(busy, range(10_000), budget=0.05)
    assert batch.status is BatchStatus.TIMED_OUT
    assert batch.failures()
    assert batch.duration < 10.0


async def test_the_budget_may_end_a_range_longer_than_memory() -> None:
    result = await bounded_gather(
        forever, range(5, 10**30, 7), max_concurrent=2, budget=0.001
    )
    assert result.status is BatchStatus.TIMED_OUT
    size = (10**30 - 5 + 6) // 7
    assert f"{size} items, {size} failed" in repr(result)
    with pytest.raises(OverflowError):
        len(result)  # counts as read


async def test_an_item_that_the_budget_keeps_from_starting_has_failed() -> None:
    # The loop is late: workers and Tasks exist, and have not begun.
    waiting = asyncio.ensure_future(
        bounded_gather(forever, range(4), max_concurrent=2, budget=0.001)
    )
    await settle(1)
    time.sleep(0.1)
    result = await waiting
    assert result.status is BatchStatus.TIMED_OUT
    assert "4 items, 4 failed" in repr(result)
    assert {r.state for r in result} == {TaskState.PENDING}
    assert {str(r.error) for r in result} == {
        "never started: the budget of 0.001 s for the whole batch ran out"
    }
    assert all(r.timed_out for r in result)


# ----------------------------------------------- the timer and the clock


@pytest.mark.standard_loop_only
async def test_one_timer_serves_the_whole_batch() -> None:
    loop = asyncio.get_running_loop()
    made = []
    call_at = loop.call_at

    def counting(*args: Any, **kwargs: Any) -> Any:
        made.append(args)
        return call_at(*args, **kwargs)

    loop.call_at = counting
    try:
        await bounded_gather(
            lambda x: asyncio.sleep(0), range(1000), timeout=5, budget=50
        )
    finally:
        del loop.call_at
    assert len(made) <= 3
    assert not [h for h in loop._scheduled if not h.cancelled()]


def test_a_virtual_clock_is_followed() -> None:
    async def main() -> tuple[Any, ...]:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        result = await bounded_gather(
            sleep_for, [100, 10_000, 200], timeout=3600, budget=7200
        )
        return result, loop.time() - begin

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        result, took = runner.run(main())
    assert [r.timed_out for r in result] == [False, True, False]
    assert took == pytest.approx(3600, abs=0.01)
    assert result[0].duration == pytest.approx(100, abs=0.01)
    assert result.duration == pytest.approx(3600, abs=0.01)


class Clocks:
    """Ways in which a test moves the clock of a loop ahead."""

    ahead = 0.0

    def __init__(self, patch: pytest.MonkeyPatch, patched: str) -> None:
        real, loop_time = time.monotonic, asyncio.BaseEventLoop.time
        if patched == "time.monotonic":
            patch.setattr("time.monotonic", lambda: real() + self.ahead)
        elif patched == "the module":
            module = ModuleType("time")
            module.__dict__.update(vars(time), monotonic=lambda: real() + self.ahead)
            patch.setattr("asyncio.base_events.time", module)
        else:
            patch.setattr(
                asyncio.BaseEventLoop,
                "time",
                lambda loop: loop_time(loop) + self.ahead,
            )


def count_iterations(patch: pytest.MonkeyPatch) -> list[None]:
    """Return a list that gets an item at each iteration of the standard loop."""
    selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    select, iterations = selector.select, []

    def counting(timeout: float | None = None) -> Any:
        iterations.append(None)
        return select(timeout)

    patch.setattr(selector, "select", counting)
    return iterations


@pytest.mark.parametrize("patched", ["time.monotonic", "the module", "loop.time"])
@pytest.mark.parametrize("bound", ["before", "after"])
@pytest.mark.standard_loop_only
async def test_a_clock_that_a_test_has_moved_makes_no_timer_spin(
    patched: str, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations = count_iterations(monkeypatch)
    with monkeypatch.context() as patch:
        if bound == "before":
            batch = bounded_gather(sleep_for, [0.0, 10.0], timeout=0.7)
        clocks = Clocks(patch, patched)
        clocks.ahead = 1000.0
        if bound == "after":
            batch = bounded_gather(sleep_for, [0.0, 10.0], timeout=0.7)
        result = await batch
    assert len(iterations) < 30
    assert [r.timed_out for r in result] == [False, True]


@pytest.mark.parametrize("patched", ["time.monotonic", "the module"])
@pytest.mark.standard_loop_only
async def test_items_fall_due_when_a_test_moves_the_clock(
    patched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    iterations = count_iterations(monkeypatch)
    with monkeypatch.context() as patch:
        clocks = Clocks(patch, patched)
        running = asyncio.ensure_future(
            bounded_gather(lambda _: forever(), range(3), timeout=900).collect()
        )
        await settle()
        clocks.ahead = 1000.0
        (one, *_) = result = await running
    assert all(r.timed_out for r in result)
    assert one.duration == pytest.approx(1000, abs=10)
    assert len(iterations) < 30


async def test_a_frozen_clock_lets_items_run_and_the_loop_iterate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr("time.monotonic", lambda: now)
        result = await bounded_gather(double, range(2000), max_concurrent=3, timeout=5)
    assert result.ok
    assert len(result) == 2000


@pytest.mark.parametrize("broken", ["time", "call_at"])
async def test_a_timer_that_fails_ends_the_batch(broken: str) -> None:
    class Loop(asyncio.SelectorEventLoop):
        breaks = False

        def time(self) -> float:
            if self.breaks and broken == "time":
                Loop.breaks = False
                raise LookupError("timer")
            return super().time()

        def call_at(self, *args: Any, **kwargs: Any) -> Any:
            if self.breaks and broken == "call_at":
                Loop.breaks = False
                raise LookupError("timer")
            return super().call_at(*args, **kwargs)

    def run() -> None:
        async def fn(x: int) -> None:
            if x == 0:
                await asyncio.sleep(0.005)
            else:
                await asyncio.sleep(30)

        async def main() -> None:
            batch = bounded_gather(fn, range(2), timeout=20)
            waiting = asyncio.ensure_future(batch.collect())
            await asyncio.sleep(0.01)
            [handle] = [h for h in loop._scheduled if "Alarm" in repr(h._callback)]
            alarm = handle._callback
            handle.cancel()
            Loop.breaks = True
            with contextlib.suppress(LookupError):
                alarm()  # the loop would call it and report the error
            await waiting

        loop = Loop()
        try:
            with pytest.raises(LookupError, match="timer"):
                loop.run_until_complete(asyncio.wait_for(main(), 5))
        finally:
            loop.close()

    await asyncio.to_thread(run)


@pytest.mark.parametrize("use", ["await", "iterate"])
async def test_a_clock_that_fails_ends_the_batch(use: str) -> None:
    class Loop(asyncio.SelectorEventLoop):
        broken = False

        def time(self) -> float:
            if self.broken:
                self.broken = False
                raise LookupError("clock")
            return super().time()

    def run() -> None:
        async def fn(x: int) -> int:
            loop.broken = True
            return x

        async def main() -> None:
            batch = bounded_gather(fn, range(10), timeout=5)
            if use == "await":
                await batch
            else:
                [r async for r in batch]

        loop = Loop()
        loop.run_until_complete(settle())
        loop.set_exception_handler(lambda _, context: None)
        try:
            with pytest.raises(LookupError, match="clock"):
                loop.run_until_complete(main())
        finally:
            loop.close()

    await asyncio.to_thread(run)
