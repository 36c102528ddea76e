"""What a review of the live batch and of tasks for items found."""

import asyncio
import gc
import sys
import threading

import pytest

from pyasynclife import BatchStatus, TaskState, bounded_gather
from pyasynclife._core_support import _abandoned
from support.coroutines import Fatal, echo, forever
from support.loops import settle

BOTH_WAYS = True


class Swallows:
    """Waits, whatever cancels it, until it is let go."""

    def __init__(self):
        self.free = asyncio.Event()
        self.begun = []

    async def __call__(self, item=None):
        self.begun.append(item)
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        return item


async def until(condition):
    """Give the loop turns until that holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def ended(task):
    """Wait for a task, and give up where it hangs."""
    await asyncio.wait([task], timeout=5)
    assert task.done()
    return task.result()


async def test_a_reader_that_was_given_up_cannot_keep_its_batch_from_ending():
    async def source():
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
    result = await ended(task)
    assert result[0].item == 1
    assert result.status is BatchStatus.CANCELLED
    await settle(5)


@pytest.mark.standard_loop_only
async def test_no_grace_is_enough_for_a_source_that_ends_at_once():
    """uvloop looks at its timers before what is ready, and may find it late."""

    async def source():
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
async def test_what_a_source_fails_with_when_it_is_late_is_reported(error, loop_errors):
    swallows = Swallows()

    async def source():
        yield 1
        reached.append(True)
        await swallows()
        raise error("late")

    reached = []
    batch = bounded_gather(forever, source(), cancel_grace=0.01)
    task = asyncio.create_task(batch.collect())
    await until(lambda: reached)
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
    await until(lambda: len(swallows.begun) == 200)
    batch.cancel()
    result = await ended(task)
    assert [r.state for r in result] == [TaskState.RUNNING] * 200
    assert len(_abandoned[loop]) == 200
    assert len(asked) < 2000
    swallows.free.set()
    await settle(5)
    assert loop not in _abandoned


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
        await until(lambda: most)
        await settle(5)
        assert most == 1
        result = await batch
    assert result.values() == list(range(100))
    assert most == raised


async def test_what_a_lowered_limit_holds_back_can_be_cancelled():
    begun = []

    async def fn(x):
        begun.append(x)
        await asyncio.sleep(60)

    async with bounded_gather(fn, range(100), max_concurrent=40) as batch:
        batch.max_concurrent = 2
        await until(lambda: len(begun) == 2)
        batch.pause()
        await settle(3)
        batch.resume()
        await settle(3)
        batch.cancel()
        result = await batch
    states = [r.state for r in result]
    assert states == [TaskState.CANCELLED] * 2 + [TaskState.PENDING] * 98


# --------------------------------------------------- before the batch has begun


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
@pytest.mark.standard_loop_only
async def test_an_eager_source_that_cancels_its_batch_is_waited_for():
    """Its Task was not known yet, so it was neither cancelled nor waited for."""
    closed = []

    async def source():
        try:
            batch.cancel()
            await asyncio.sleep(60)
            yield 1
        finally:
            closed.append(True)

    loop = asyncio.get_running_loop()
    batch = bounded_gather(forever, source())
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        result = await batch
    finally:
        loop.set_task_factory(None)
    assert closed
    assert result.status is BatchStatus.CANCELLED


@pytest.mark.parametrize("stops", [True, False])
async def test_iter_of_the_source_may_use_the_batch(stops):
    class Source:
        def __iter__(self):
            batch.add("added")
            if stops:
                batch.cancel()
            return iter(["first"])

    batch = bounded_gather(echo, Source(), budget=60)
    result = await batch
    if stops:
        assert result.status is BatchStatus.CANCELLED
        assert [r.item for r in result] == ["added"]
    else:
        assert result.values() == ["first", "added"]


async def test_a_key_that_fails_for_what_is_never_started_fails_no_batch():
    async def source():
        for i in range(9):
            yield i
            reached.append(i)

    def key(item):
        if item == 2:
            raise LookupError(item)
        return f"key {item}"

    reached = []
    batch = bounded_gather(forever, source(), key=key, max_concurrent=2)
    task = asyncio.create_task(batch.collect())
    await until(lambda: reached == [0, 1])
    await settle(5)
    batch.cancel()
    result = await ended(task)
    assert result.status is BatchStatus.CANCELLED
    assert [r.task_id for r in result] == ["key 0", "key 1", "2"]


# ------------------------------------------------------------ who is told of what


async def test_a_batch_ends_when_no_worker_can_be_made_for_a_retired_one():
    """The last worker had gone by itself, and nobody looked whether all was over."""

    def refuse(loop, coro, **_):
        raise OSError("no more tasks")

    async def fn(x):
        loop.set_task_factory(refuse)
        raise ValueError(x)

    loop = asyncio.get_running_loop()
    task = loop.create_task(bounded_gather(fn, range(3), max_concurrent=1).collect())
    try:
        with pytest.raises(OSError, match="no more tasks"):
            await ended(task)
    finally:
        loop.set_task_factory(None)


async def test_iterating_after_cancelling_in_a_block_gives_what_was_started():
    async def source():
        for i in range(10):
            yield i

    async def fn(x):
        begun.append(x)
        await asyncio.sleep(60)

    for items in (source(), range(10)):
        begun = []
        async with bounded_gather(fn, items, max_concurrent=2) as batch:
            await until(lambda begun=begun: len(begun) == 2)
            await settle(5)
            batch.cancel()
            await settle(5)
            states = [r.state async for r in batch]
            assert states == [TaskState.CANCELLED] * 2
    async with bounded_gather(forever, range(10)) as batch:
        batch.cancel()
        await settle(5)
        assert [r async for r in batch] == []


async def test_a_cancelled_error_of_on_result_cancels_nobody(loop_errors):
    def on_result(result):
        raise asyncio.CancelledError

    result = await bounded_gather(echo, range(3), on_result=on_result)
    assert result.values() == [0, 1, 2]
    assert len(loop_errors) == 3


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("error", [ValueError, Fatal])
@pytest.mark.parametrize("told", [True, False])
async def test_what_items_of_a_dropped_batch_fail_with_is_told_once(
    error, told, loop_errors
):
    async def fn(x):
        try:
            await asyncio.sleep(60 if x else 0)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            raise error("late") from None

    seen = []
    on_result = seen.append if told else None
    batch = bounded_gather(fn, range(2), on_result=on_result)
    async for _ in batch:
        break
    del batch
    gc.collect()
    await until(lambda: len(seen) == 2 or loop_errors)
    await settle(5)
    if told:
        assert [r.state for r in seen] == [TaskState.DONE, TaskState.FAILED]
    if told and error is ValueError:
        assert not loop_errors
    else:
        (context,) = loop_errors
        assert type(context["exception"]) is error
        assert "dropped" in context["message"]


@pytest.mark.standard_loop_only
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_batch_dropped_in_another_thread_that_is_over_before_it_knows(
    loop_errors, monkeypatch
):
    async def fn(x):
        raised.append(x)
        raise Fatal("late")

    loop = asyncio.get_running_loop()
    called, raised = [], []
    held = [bounded_gather(fn, [1])]
    aiter(held[0])
    with monkeypatch.context() as slow:
        slow.setattr(loop, "call_soon_threadsafe", called.append)
        thread = threading.Thread(target=held.clear)
        thread.start()
        thread.join()
    await until(lambda: raised)
    await settle(5)
    assert not loop_errors
    called.pop()()
    (context,) = loop_errors
    assert isinstance(context["exception"], Fatal)


@pytest.mark.standard_loop_only
async def test_an_item_that_cannot_be_held_back_fails_and_took_no_time(monkeypatch):
    def refuse():
        raise OSError("no futures")

    loop = asyncio.get_running_loop()
    batch = bounded_gather(echo, [1], task_per_item=True)
    task = loop.create_task(batch.collect())
    await asyncio.sleep(0)
    batch.pause()
    with monkeypatch.context() as broken:
        broken.setattr(loop, "create_future", refuse)
        await settle(3)
    (result,) = await ended(task)
    assert isinstance(result.error, OSError)
    assert result.duration < 5
