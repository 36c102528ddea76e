"""cancel_grace: items and sources that do not stop when they are cancelled."""

import asyncio
import gc
import math
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    BatchStatus,
    TaskState,
    bounded_gather,
)
from pyasynclife._held_futures import _abandoned
from support.coroutines import Fatal, echo, echo_later, forever
from support.items import Stubborn
from support.loops import in_turns, result_of, settle, until

BOTH_WAYS = True


# ----------------------------------------------------------------- items


@pytest.mark.parametrize("grace", [0, 0.02])
@pytest.mark.parametrize("how", ["cancel", "budget", "errors", "fatal"])
async def test_a_batch_ends_without_an_item_that_does_not_stop(
    grace: float, how: str
) -> None:
    stubborn = Stubborn()

    async def fn(x: str) -> Any:
        if x == "trouble":
            await asyncio.sleep(0.1)
            raise ValueError if how == "errors" else KeyboardInterrupt
        return await (asyncio.sleep(10) if x == "soft" else stubborn(x))

    items = ["hard", "soft"]
    options: dict[str, Any] = {"cancel_grace": grace}
    if how == "budget":
        options["budget"] = 0.1
    elif how == "errors":
        options["max_errors"] = 0
    if how in ("errors", "fatal"):
        items.append("trouble")
    batch = bounded_gather(fn, items, **options)
    if how == "cancel":
        asyncio.get_running_loop().call_later(0.1, batch.cancel)
    async with asyncio.timeout(5):
        if how == "fatal":
            with pytest.raises(KeyboardInterrupt):
                await batch
        elif how == "errors":
            with pytest.raises(BatchError) as caught:
                await batch
            result = caught.value.result
        else:
            result = await batch
    # uvloop runs its timers first: without grace it may abandon the soft item too
    uvloop = type(asyncio.get_running_loop()).__module__ == "uvloop"
    abandoned = (1, 2) if uvloop and how == "fatal" and grace == 0 else (1,)
    assert batch.progress.running in abandoned
    if how != "fatal":
        hard, soft = result[0], result[1]
        assert (hard.state, hard.success) == (TaskState.RUNNING, False)
        assert hard.timed_out == (how == "budget")
        assert isinstance(
            hard.error, TimeoutError if how == "budget" else asyncio.CancelledError
        )
        assert "did not stop" in str(hard.error)
        assert soft.state in (TaskState.CANCELLED, TaskState.FAILED)
        assert hard in result.failures()
    assert not stubborn.tasks[0].done()
    await stubborn.release()
    assert stubborn.tasks[0].result() in (None, "hard")
    assert stubborn.ended == ["hard"]
    assert batch.progress.running in abandoned


async def test_an_item_that_does_not_stop_after_its_timeout_frees_its_slot() -> None:
    stubborn = Stubborn()

    async def fn(x: int) -> Any:
        return await (stubborn(x) if x == 1 else echo_later(x))

    result = await bounded_gather(
        fn, range(5), max_concurrent=1, timeout=0.2, cancel_grace=0.02
    )
    assert [r.data for r in result] == [0, None, 2, 3, 4]
    assert result[1].state is TaskState.RUNNING
    assert result[1].timed_out
    assert str(result[1].error) == "'1' timed out after 0.2 s and did not stop"
    assert 0.21 < result[1].duration < 5
    assert result.status is BatchStatus.COMPLETED
    assert not result.ok
    with pytest.raises(BatchError):
        result.values()
    await stubborn.release()


async def test_a_timeout_that_an_item_ignores_counts_for_max_errors() -> None:
    stubborn = Stubborn()
    with pytest.raises(BatchError) as caught:
        await bounded_gather(
            stubborn, [1], timeout=0.01, cancel_grace=0.01, max_errors=0
        )
    (error,) = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert str(caught.value).startswith("1 item failed")
    await stubborn.release()


async def test_an_item_that_stops_in_its_grace_has_its_outcome() -> None:
    async def fn(x: int) -> None:
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)

    result = await bounded_gather(fn, [1, 2], timeout=0.01, cancel_grace=5)
    assert [r.state for r in result] == [TaskState.FAILED] * 2
    assert all(r.timed_out for r in result)


@pytest.mark.parametrize("use", ["iterate", "block"])
async def test_an_item_that_does_not_stop_is_reported(use: str) -> None:
    stubborn = Stubborn()
    seen = []
    batch = bounded_gather(
        stubborn, ["hard"], cancel_grace=0.01, on_result=lambda r: seen.append(r.state)
    )
    in_turns(50, batch.cancel)
    async with asyncio.timeout(5):
        if use == "iterate":
            assert [r.state async for r in batch] == [TaskState.RUNNING]
        else:
            async with batch:
                pass
    assert seen == [TaskState.RUNNING]
    assert batch.status is BatchStatus.CANCELLED
    await stubborn.release()


async def test_a_cancelled_caller_returns_after_the_grace() -> None:
    stubborn = Stubborn()
    batch = bounded_gather(stubborn, ["hard"], cancel_grace=0.02)
    task = asyncio.create_task(batch.collect())
    await settle(5)
    task.cancel("outer")
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError, match="outer"):
            await task
    assert (await batch)[0].state is TaskState.RUNNING
    await stubborn.release()


async def test_an_item_that_never_started_is_pending_and_not_running() -> None:
    batch = bounded_gather(forever, range(5), cancel_grace=0)
    task = asyncio.create_task(batch.collect())
    await asyncio.sleep(0)
    batch.cancel()
    result = await result_of(task)
    assert [r.state for r in result] == [TaskState.PENDING] * 5
    assert [r.duration for r in result] == [0.0] * 5


async def test_an_infinite_grace_is_accepted() -> None:
    result = await bounded_gather(echo, [1], cancel_grace=math.inf)
    assert result.ok


# ------------------------------------------------------- abandoned items


async def test_an_abandoned_item_is_held_until_it_ends() -> None:
    async def fn(x: str) -> Any:
        gate = asyncio.get_running_loop().create_future()
        gates.append(gate)
        while True:
            try:
                return await asyncio.shield(gate)
            except asyncio.CancelledError:
                ended.append(x)

    gates, ended = [], []
    batch = bounded_gather(fn, ["hard"], cancel_grace=0.0, timeout=0.01)
    (await batch).failures()
    del batch
    gc.collect()
    (task,) = asyncio.all_tasks() - {asyncio.current_task()}
    assert ended == ["hard"]
    task.cancel()
    await settle(3)
    assert ended == ["hard"] * 2
    gates[0].set_result("value")
    assert await task == "value"


@pytest.mark.standard_loop_only
async def test_holding_many_abandoned_items_takes_linear_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Holding an item once iterated over all items that were held."""
    loop = asyncio.get_running_loop()
    is_closed, asked = loop.is_closed, []
    monkeypatch.setattr(loop, "is_closed", lambda: asked.append(1) or is_closed())
    stubborn = Stubborn()
    batch = bounded_gather(stubborn, range(200), max_concurrent=200, cancel_grace=0)
    task = asyncio.create_task(batch.collect())
    await until(lambda: len(stubborn.tasks) == 200)
    batch.cancel()
    result = await result_of(task)
    assert [r.state for r in result] == [TaskState.RUNNING] * 200
    assert len(_abandoned._by_loop[loop]) == 200
    assert len(asked) < 2000
    stubborn.free.set()
    await settle(5)
    assert loop not in _abandoned._by_loop


async def test_an_error_of_an_abandoned_item_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    stubborn = Stubborn(error=LookupError("late"))
    batch = bounded_gather(stubborn, ["bad"], cancel_grace=0.0)
    in_turns(50, batch.cancel)
    (await batch).failures()
    await stubborn.release()
    stubborn.tasks.clear()
    await settle(3)
    gc.collect()
    assert [str(c["exception"]) for c in loop_errors] == ["late"]


async def test_a_result_with_an_item_that_did_not_stop_is_reported_unread(
    loop_errors: list[dict[str, Any]],
) -> None:
    stubborn = Stubborn()
    batch = bounded_gather(stubborn, ["hard"], cancel_grace=0.0)
    in_turns(50, batch.cancel)
    await batch
    del batch
    gc.collect()
    assert "dropped unread" in loop_errors[0]["message"]
    await stubborn.release()


def test_closing_the_loop_under_an_abandoned_item_does_not_crash() -> None:
    async def stubborn(x: int) -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass

    async def main() -> Any:
        batch = bounded_gather(stubborn, range(2), timeout=0, cancel_grace=0)
        return (await batch).failures()

    loop = asyncio.new_event_loop()
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    assert len(loop.run_until_complete(main())) == 2
    loop.close()

    async def again() -> None:
        result = await bounded_gather(
            lambda x: asyncio.sleep(0.01), [1], timeout=0, cancel_grace=0
        )
        result.failures()

    asyncio.run(again())
    _abandoned._by_loop.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


# --------------------------------------------------------------- sources


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_stuck_reader_never_blocks_cancelling(swallows: bool) -> None:
    free = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise

    batch = bounded_gather(echo, source(), cancel_grace=0.02 if swallows else None)
    in_turns(50, batch.cancel)
    async with asyncio.timeout(5):
        result = await batch
    assert result.values() == [1]
    assert not result.exhausted
    assert result.status is BatchStatus.CANCELLED
    free.set()
    await settle(5)


async def test_cancelling_again_reaches_a_reader_that_swallowed() -> None:
    swallowed = []

    async def source() -> AsyncIterator[int]:
        yield 1
        while len(swallowed) < 2:
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                swallowed.append(1)

    batch = bounded_gather(echo, source())
    task = asyncio.create_task(batch.collect())
    for _ in range(2):
        await settle(5)
        batch.cancel()
    async with asyncio.timeout(5):
        assert (await task).values() == [1]


async def test_an_abandoned_reader_cannot_keep_its_batch_from_ending() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        reached.append(True)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        yield 2

    reached = []

    batch = bounded_gather(forever, source(), cancel_grace=0)
    task = asyncio.create_task(batch.collect())
    await until(lambda: reached)
    batch.cancel()
    result = await result_of(task)
    assert result[0].item == 1
    assert result.status is BatchStatus.CANCELLED
    await settle(5)


@pytest.mark.standard_loop_only
async def test_a_source_that_ends_at_once_needs_no_grace() -> None:
    """uvloop runs its timers before the ready callbacks: the source may be too late."""

    async def source() -> AsyncIterator[int]:
        yield 1
        reached.append(True)
        try:
            await asyncio.sleep(60)
        finally:
            raise SystemExit("from the source")

    reached = []

    batch = bounded_gather(forever, source(), cancel_grace=0)
    async with batch:
        await until(lambda: reached)
        batch.cancel()
        with pytest.raises(SystemExit, match="from the source"):
            await batch


@pytest.mark.parametrize("error", [Fatal, LookupError])
async def test_a_late_error_of_a_source_is_reported(
    error: type[BaseException], loop_errors: list[dict[str, Any]]
) -> None:
    stubborn = Stubborn()

    async def source() -> AsyncIterator[int]:
        yield 1
        reached.append(True)
        await stubborn()
        raise error("late")

    reached = []
    batch = bounded_gather(forever, source(), cancel_grace=0.01)
    task = asyncio.create_task(batch.collect())
    await until(lambda: reached)
    batch.cancel()
    (await result_of(task)).failures()
    assert not loop_errors
    stubborn.free.set()
    await settle(5)
    gc.collect()
    (context,) = loop_errors
    assert type(context["exception"]) is error
