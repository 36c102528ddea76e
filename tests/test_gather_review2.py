"""What a review of the live batch and of tasks for items found."""

import asyncio
import gc

import pytest
from helpers import settle

from pyasynclife import BatchStatus, TaskState, bounded_gather
from pyasynclife._workers import _stuck

BOTH_WAYS = True


async def forever(x):
    await asyncio.sleep(60)


class Swallows:
    """Waits, whatever cancels it, until it is let go."""

    def __init__(self):
        self.free = asyncio.Event()

    async def __call__(self, item=None):
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        return item


async def ended(task):
    """Wait for a task, and give up where it hangs."""
    await asyncio.wait([task], timeout=5)
    assert task.done()
    return task.result()


async def test_a_reader_that_was_given_up_cannot_keep_its_batch_from_ending():
    async def source():
        yield 1
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        yield 2

    batch = bounded_gather(forever, source(), cancel_grace=0)
    task = asyncio.create_task(batch.collect())
    await settle(6)
    batch.cancel()
    result = await ended(task)
    assert result[0].item == 1
    assert result.status is BatchStatus.CANCELLED
    await settle(5)


async def test_no_grace_is_enough_for_a_source_that_ends_at_once():
    async def source():
        yield 1
        try:
            await asyncio.sleep(60)
        finally:
            raise SystemExit("from the source")

    batch = bounded_gather(forever, source(), cancel_grace=0)
    async with batch:
        await settle(6)
        batch.cancel()
        with pytest.raises(SystemExit, match="from the source"):
            await batch


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, LookupError])
async def test_what_a_source_fails_with_when_it_is_late_is_reported(error, loop_errors):
    swallows = Swallows()

    async def source():
        yield 1
        await swallows()
        raise error("late")

    batch = bounded_gather(forever, source(), cancel_grace=0.01)
    task = asyncio.create_task(batch.collect())
    await settle(6)
    batch.cancel()
    (await ended(task)).failures()
    assert not loop_errors
    swallows.free.set()
    await settle(5)
    gc.collect()
    (context,) = loop_errors
    assert type(context["exception"]) is error


async def test_what_was_never_started_is_not_said_to_run():
    batch = bounded_gather(forever, range(5), cancel_grace=0)
    task = asyncio.create_task(batch.collect())
    await asyncio.sleep(0)
    batch.cancel()
    result = await ended(task)
    assert [r.state for r in result] == [TaskState.PENDING] * 5
    assert [r.duration for r in result] == [0.0] * 5


@pytest.mark.standard_loop_only
async def test_many_that_do_not_stop_are_not_counted_for_each(monkeypatch):
    """Holding one went over all that were held."""
    loop = asyncio.get_running_loop()
    is_closed, asked = loop.is_closed, []
    monkeypatch.setattr(loop, "is_closed", lambda: asked.append(1) or is_closed())
    swallows = Swallows()
    batch = bounded_gather(swallows, range(200), max_concurrent=200, cancel_grace=0)
    task = asyncio.create_task(batch.collect())
    await settle(50)
    batch.cancel()
    result = await ended(task)
    assert [r.state for r in result] == [TaskState.RUNNING] * 200
    assert len(_stuck[loop]) == 200
    assert len(asked) < 2000
    swallows.free.set()
    await settle(5)
    assert loop not in _stuck


@pytest.mark.parametrize("raised", [1, 6])
async def test_a_limit_that_is_lowered_at_once_holds(raised):
    now = most = 0

    async def fn(x):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await settle(x % 3)
        if x == 10:
            batch.max_concurrent = raised
        now -= 1
        return x

    async with bounded_gather(fn, range(100), max_concurrent=40) as batch:
        batch.max_concurrent = 1
        await settle(10)
        assert most == 1
        result = await batch
    assert result.values() == list(range(100))
    assert most == raised


async def test_what_a_lowered_limit_holds_back_can_be_cancelled():
    async with bounded_gather(forever, range(100), max_concurrent=40) as batch:
        batch.max_concurrent = 2
        await settle(10)
        batch.pause()
        await settle(3)
        batch.resume()
        await settle(3)
        batch.cancel()
        result = await batch
    states = [r.state for r in result]
    assert states == [TaskState.CANCELLED] * 2 + [TaskState.PENDING] * 98
