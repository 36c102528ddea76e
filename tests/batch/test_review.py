"""bounded_gather: what a hostile reading found, each once wrong."""

import asyncio
import contextlib
import gc

import pytest

from pyasynclife import BatchError, BatchStatus, TaskResult, bounded_gather
from support.coroutines import echo, forever
from support.loops import settle

BOTH_WAYS = True


def failing_source():
    yield 0
    yield 1
    raise LookupError("source")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("use", ["await", "iterate", "block"])
async def test_failures_without_an_error_may_be_one_too_many(use):
    async def fn(x):
        return TaskResult("x", False)

    batch = bounded_gather(fn, range(3), max_errors=0)
    with pytest.raises(BatchError) as caught:
        if use == "await":
            await batch
        elif use == "iterate":
            [r async for r in batch]
        else:
            async with batch:
                await settle()
    (error,) = caught.value.exceptions
    assert type(error) is RuntimeError
    assert "no error" in str(error)


async def test_errors_that_refuse_to_be_compared_make_a_batch_error():
    class Odd(Exception):
        __hash__ = None

        def __eq__(self, other):
            raise AssertionError("compared")

    async def fn(x):
        raise Odd(x)

    with pytest.raises(BatchError) as caught:
        await bounded_gather(fn, range(5), max_errors=2)
    assert [error.args for error in caught.value.exceptions] == [(0,), (1,), (2,)]


async def test_the_budget_may_end_a_range_longer_than_memory():
    result = await bounded_gather(
        forever, range(5, 10**30, 7), max_concurrent=2, budget=0.001
    )
    assert result.status is BatchStatus.TIMED_OUT
    size = len(range(5, 10**18, 7)) and (10**30 - 5 + 6) // 7
    assert f"{size} items, {size} failed" in repr(result)
    with pytest.raises(OverflowError):
        len(result)  # counts as read


async def test_an_exit_in_the_key_of_what_was_never_started_loses_nothing():
    exits = [KeyboardInterrupt]

    def key(item):
        if item == 3 and exits:
            raise exits.pop()
        return str(item)

    result = await bounded_gather(echo, [0, 1, 2, 3], budget=0, key=key)
    with pytest.raises(KeyboardInterrupt):
        result.failures()
    assert list(result.by_id()) == ["0", "1", "2", "3"]


# ----------------------------------------------- an end that nobody was told of


async def test_a_block_left_after_its_source_failed_raises_that():
    with pytest.raises(LookupError, match="source"):
        async with bounded_gather(echo, failing_source()) as batch:
            async for _ in batch:
                await settle(5)
                assert batch.status is BatchStatus.ABORTED
                break


async def test_a_block_whose_iteration_raised_does_not_raise_again():
    async with bounded_gather(echo, failing_source()) as batch:
        with pytest.raises(LookupError, match="source"):
            [r async for r in batch]


async def test_a_batch_that_failed_and_was_dropped_untold_is_reported(loop_errors):
    batch = bounded_gather(echo, failing_source())
    async for _ in batch:
        await settle(5)
        break
    del batch, _
    gc.collect()
    (context,) = loop_errors
    assert isinstance(context["exception"], LookupError)
    assert "dropped" in context["message"]
    loop_errors.clear()


# ------------------------------------------------------------- iteration


async def test_anext_that_is_dropped_unawaited_loses_no_result():
    stream = aiter(bounded_gather(echo, range(6)))
    await settle()
    anext(stream)
    task = asyncio.ensure_future(anext(stream))
    task.cancel()
    await settle()
    closed = anext(stream)
    closed.close()
    with pytest.raises(RuntimeError, match="reuse"):
        await closed
    thrown = anext(stream)
    with pytest.raises(KeyError):
        thrown.throw(KeyError())
    assert [r.index async for r in stream] == list(range(6))
    assert await anext(stream, None) is None


async def test_anext_closed_unstarted_does_not_disturb_the_one_that_waits():
    gate = asyncio.get_running_loop().create_future()

    async def fn(x):
        return await gate

    stream = aiter(bounded_gather(fn, range(2)))
    task = asyncio.ensure_future(anext(stream))
    await settle()
    anext(stream).close()
    with pytest.raises(RuntimeError, match="one consumer"):
        await anext(stream)
    gate.set_result("here")
    async with asyncio.timeout(5):
        assert (await task).data == "here"
        assert [r.index async for r in stream] == [1]


async def test_anext_gives_one_result_to_send_too():
    stream = aiter(bounded_gather(echo, range(2)))
    await settle()
    with pytest.raises(StopIteration) as caught:
        anext(stream).send(None)
    assert caught.value.value.index == 0
    assert [r.index async for r in stream] == [1]


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("kind", ["key", "coroutine"])
async def test_an_item_that_ends_the_batch_by_itself_is_not_counted_as_running(kind):
    def key(item):
        if item == 2:
            raise LookupError(item)
        return str(item)

    if kind == "key":
        batch = bounded_gather(echo, range(5), key=key)
    else:
        batch = bounded_gather(echo, iter([0, 1, echo(2)]))
    with pytest.raises((LookupError, TypeError)):
        await batch
    assert batch.progress.started == batch.progress.done == 2
    assert batch.progress.running == 0


# ---------------------------------------------------------------- the timer


@pytest.mark.parametrize("broken", ["time", "call_at"])
async def test_a_timer_that_fails_ends_the_batch(broken):
    class Loop(asyncio.SelectorEventLoop):
        breaks = False

        def time(self):
            if self.breaks and broken == "time":
                Loop.breaks = False
                raise LookupError("timer")
            return super().time()

        def call_at(self, *args, **kwargs):
            if self.breaks and broken == "call_at":
                Loop.breaks = False
                raise LookupError("timer")
            return super().call_at(*args, **kwargs)

    def run():
        async def fn(x):
            if x == 0:
                await asyncio.sleep(0.005)
            else:
                await asyncio.sleep(30)

        async def main():
            batch = bounded_gather(fn, range(2), timeout=20)
            waiting = asyncio.ensure_future(batch.collect())
            await asyncio.sleep(0.01)
            [handle] = [h for h in loop._scheduled if "Alarm" in repr(h._callback)]
            alarm = handle._callback
            handle.cancel()
            Loop.breaks = True
            with contextlib.suppress(LookupError):
                alarm()  # as the loop would, which reports it
            await waiting

        loop = Loop()
        try:
            with pytest.raises(LookupError, match="timer"):
                loop.run_until_complete(asyncio.wait_for(main(), 5))
        finally:
            loop.close()

    await asyncio.to_thread(run)
