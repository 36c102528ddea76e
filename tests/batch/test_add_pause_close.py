"""bounded_gather while it runs: add, close, pause, resume, the limit, cancel_grace."""

import asyncio
import gc
import math
import warnings

import pytest

from pyasynclife import (
    BatchError,
    BatchStatus,
    TaskState,
    _core_support,
    bounded_gather,
)
from support.coroutines import Fatal, echo, echo_later
from support.loops import in_turns, settle

BOTH_WAYS = True


class Gauge:
    """A function for items that are let go one by one."""

    def __init__(self):
        self.started = []
        self.gates = {}

    async def __call__(self, item):
        self.started.append(item)
        self.gates[item] = asyncio.get_running_loop().create_future()
        try:
            return await self.gates[item]
        finally:
            del self.gates[item]

    @property
    def now(self):
        return len(self.gates)

    def release(self, n=None):
        for gate in list(self.gates.values())[:n]:
            if not gate.done():
                gate.set_result("let go")


# -------------------------------------------------------------------- add


@pytest.mark.parametrize("make", [list, tuple, iter])
@pytest.mark.parametrize("fn", [echo, echo_later])
async def test_added_items_come_after_those_of_the_source(make, fn):
    batch = bounded_gather(fn, make([0, 1, 2]), max_concurrent=2)
    batch.add("a")
    batch.add("b")
    result = await batch
    assert [r.item for r in result] == [0, 1, 2, "a", "b"]
    assert [r.index for r in result] == list(range(5))
    assert result.values() == [0, 1, 2, "a", "b"]
    assert result.ok
    assert batch.progress.total == 5


async def test_an_item_may_add_to_its_batch():
    async def fn(x):
        await asyncio.sleep(0)
        if x < 100:
            batch.add(2 * x)
            batch.add(2 * x + 1)
        return x

    batch = bounded_gather(fn, [1], max_concurrent=7)
    assert sorted((await batch).values()) == list(range(1, 200))


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("fn", [echo, echo_later])
async def test_a_crawler_adds_while_it_consumes_and_ends_when_all_is_quiet(ordered, fn):
    batch = bounded_gather(fn, [1], max_concurrent=5, ordered=ordered)
    seen = []
    async for result in batch:
        assert batch.status is None
        seen.append(result.data)
        await settle(4)
        if result.data < 50:
            batch.add(2 * result.data)
            batch.add(2 * result.data + 1)
    assert sorted(seen) == list(range(1, 100))
    assert batch.status is BatchStatus.COMPLETED
    with pytest.raises(RuntimeError, match="has ended"):
        batch.add(1)


async def test_an_iteration_ends_only_when_the_consumer_asks_again():
    batch = bounded_gather(echo, [])
    batch.add(1)
    stream = aiter(batch)
    assert (await anext(stream)).data == 1
    await settle(5)
    assert batch.status is None
    batch.add(2)
    assert (await anext(stream)).data == 2
    assert await anext(stream, None) is None
    assert batch.status is BatchStatus.COMPLETED


async def test_a_consumer_that_waits_gets_what_is_added():
    batch = bounded_gather(echo_later, asyncio_source := stuck_source())
    waiting = asyncio.ensure_future(anext(aiter(batch)))
    await settle(5)
    batch.add("added")
    assert (await waiting).data == "added"
    batch.cancel()
    assert [r async for r in batch] == []
    assert asyncio_source.ag_frame is None


async def stuck_source(*items):
    for item in items:
        yield item
    await asyncio.get_running_loop().create_future()


async def test_added_items_run_beside_a_source_that_is_stuck():
    batch = bounded_gather(echo, stuck_source("own"))
    task = asyncio.create_task(batch.collect())
    await settle(5)
    batch.add("added")
    await settle(5)
    assert batch.progress.done == 2
    async with asyncio.timeout(5):
        batch.cancel()
        result = await task
    assert [r.item for r in result] == ["own", "added"]
    assert result.status is BatchStatus.CANCELLED


async def test_items_of_a_reader_and_added_ones_take_turns():
    started = []

    async def source():
        i = 0
        while True:
            yield i
            i += 1

    async def fn(x):
        started.append(x)
        if x == "last":
            batch.cancel()
        await asyncio.sleep(0)

    batch = bounded_gather(fn, source(), max_concurrent=1)
    for name in ("a", "b", "last"):
        batch.add(name)
    (await batch).failures()
    assert {"a", "b", "last"} <= set(started)


async def test_a_block_may_add_until_it_is_left():
    seen = []
    async with bounded_gather(
        echo_later, [], on_result=lambda r: seen.append(r.data)
    ) as batch:
        for i in range(3):
            await settle(5)
            batch.add(i)
        await settle(5)
        assert seen == [0, 1, 2]
        assert batch.status is None
        batch.add(3)
    assert seen == [0, 1, 2, 3]
    assert batch.status is BatchStatus.COMPLETED
    with pytest.raises(RuntimeError, match="has ended"):
        batch.add(4)


async def test_closing_ends_a_block_that_is_quiet():
    async with bounded_gather(echo_later, []) as batch:
        batch.add(1)
        batch.close()
        batch.close()
        with pytest.raises(RuntimeError, match="was closed"):
            batch.add(2)
        await settle(6)
        assert batch.status is BatchStatus.COMPLETED
        assert batch.progress.done == 1
    batch.close()


async def test_closing_before_the_start_leaves_the_source():
    batch = bounded_gather(echo, [1, 2])
    batch.close()
    assert (await batch).values() == [1, 2]


async def test_added_items_that_were_never_started_are_in_the_result():
    gauge = Gauge()
    batch = bounded_gather(gauge, [0, 1, 2], max_concurrent=1)
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.add("x")
    batch.cancel()
    batch.add("y")
    result = await task
    assert [r.item for r in result] == [0, 1, 2, "x", "y"]
    assert [r.index for r in result] == list(range(5))
    assert [r.state for r in result] == [TaskState.CANCELLED] + [TaskState.PENDING] * 4
    assert len(result) == 5
    assert result.exhausted


async def test_a_budget_reaches_added_items():
    batch = bounded_gather(echo, iter([]), budget=0, key=lambda x: f"<{x}>")
    batch.add(1)
    result = await batch
    assert [(r.task_id, r.timed_out) for r in result] == [("<1>", True)]
    assert result.failures()


async def test_many_items_may_be_added():
    batch = bounded_gather(echo, [])
    for i in range(1000):
        batch.add(i)
    assert batch.progress.total == 1000
    assert (await batch).values() == list(range(1000))


async def test_a_coroutine_that_is_added_is_closed_and_the_batch_goes_on():
    coro = echo(1)
    batch = bounded_gather(echo, [0])
    with pytest.raises(TypeError, match=r"bounded_gather\(fetch, urls\)"):
        batch.add(coro)
    assert coro.cr_frame is None or not gc.is_tracked(coro.cr_frame)
    with pytest.raises(RuntimeError):
        coro.send(None)
    assert (await batch).values() == [0]


async def test_a_key_names_added_items_too():
    batch = bounded_gather(echo, [0], key=lambda x: f"<{x}>")
    batch.add(1)
    assert list((await batch).by_id()) == ["<0>", "<1>"]


async def test_a_source_may_add_to_its_batch():
    def source():
        yield 0
        batch.add("added")
        yield 1

    batch = bounded_gather(echo_later, source())
    assert (await batch).values() == [0, 1, "added"]


async def test_an_awaited_batch_whose_items_add_keeps_its_limit():
    now = most = 0

    async def fn(x):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await settle(2)
        if x < 60:
            batch.add(2 * x)
            batch.add(2 * x + 1)
        now -= 1

    batch = bounded_gather(fn, [1], max_concurrent=4)
    assert len(await batch) == 119
    assert most == 4


# ------------------------------------------------------- pause and resume


@pytest.mark.parametrize("kind", ["list", "iterator", "reader"])
async def test_pause_starts_nothing_new_and_resume_goes_on(kind):
    async def numbers():
        for i in range(20):
            yield i

    items = {"list": list(range(20)), "iterator": iter(range(20)), "reader": numbers()}
    gauge = Gauge()
    batch = bounded_gather(gauge, items[kind], max_concurrent=3)
    assert not batch.paused
    task = asyncio.create_task(batch.collect())
    await settle(12)
    assert gauge.now == 3
    batch.pause()
    batch.pause()
    assert batch.paused
    gauge.release()
    await settle(8)
    assert (gauge.now, len(gauge.started)) == (0, 3)
    assert not task.done()
    batch.resume()
    assert not batch.paused
    await settle(12)
    assert gauge.now == 3
    while not task.done():
        gauge.release()
        await asyncio.sleep(0)
    assert len((await task).values()) == 20


async def test_a_batch_paused_before_it_began_starts_nothing():
    batch = bounded_gather(echo, [1])
    batch.pause()
    task = asyncio.create_task(batch.collect())
    await settle(5)
    assert batch.progress.started == 0
    batch.resume()
    assert (await task).values() == [1]
    batch.pause()
    batch.resume()


async def test_pausing_in_the_turn_of_the_start_starts_nothing():
    gauge = Gauge()
    async with bounded_gather(gauge, range(10), max_concurrent=5) as batch:
        batch.pause()
        await settle(10)
        assert gauge.started == []
        batch.resume()
        await settle(10)
        assert gauge.now == 5
        batch.cancel()


async def test_the_budget_and_timeouts_run_on_while_paused():
    batch = bounded_gather(
        lambda x: asyncio.sleep(10), range(3), max_concurrent=1, budget=0.05
    )
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.pause()
    result = await task
    assert result.status is BatchStatus.TIMED_OUT
    assert result.failures()
    batch = bounded_gather(lambda x: asyncio.sleep(10), [1], timeout=0.02)
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.pause()
    await asyncio.sleep(0.1)
    assert batch.progress.timed_out == 1
    batch.resume()
    (await task).failures()


async def test_a_paused_batch_can_be_cancelled():
    batch = bounded_gather(echo, [1, 2])
    batch.pause()
    task = asyncio.create_task(batch.collect())
    await settle(3)
    batch.cancel()
    assert [r.state for r in await task] == [TaskState.PENDING] * 2


# --------------------------------------------------------------- the limit


@pytest.mark.parametrize("make", [list, iter])
async def test_raising_the_limit_starts_more_at_once(make):
    gauge = Gauge()
    batch = bounded_gather(gauge, make(range(100)), max_concurrent=2)
    task = asyncio.create_task(batch.collect())
    await settle(6)
    assert gauge.now == 2
    batch.max_concurrent = 20
    assert batch.max_concurrent == 20
    await settle(6)
    assert gauge.now == 20
    batch.cancel()
    (await task).failures()


@pytest.mark.parametrize("make", [list, iter])
async def test_lowering_the_limit_lets_fewer_run_as_items_end(make):
    gauge = Gauge()
    batch = bounded_gather(gauge, make(range(200)), max_concurrent=20)
    task = asyncio.create_task(batch.collect())
    await settle(8)
    assert gauge.now == 20
    batch.max_concurrent = 3
    await settle(3)
    assert gauge.now == 20
    gauge.release(10)
    await settle(5)
    assert gauge.now == 10
    gauge.release(8)
    await settle(8)
    assert gauge.now == 3
    for _ in range(20):
        gauge.release()
        await settle(1)
        assert gauge.now <= 3
    batch.max_concurrent = 1
    gauge.release()
    await settle(8)
    assert gauge.now == 1
    batch.cancel()
    (await task).failures()


async def test_the_limit_may_be_set_by_an_item_and_before_the_start():
    async def fn(x):
        await asyncio.sleep(0)
        batch.max_concurrent = 1 + x % 7
        return x

    batch = bounded_gather(fn, range(300), max_concurrent=50)
    batch.max_concurrent = 2
    assert (await batch).values() == list(range(300))
    batch.max_concurrent = 5


async def test_the_buffer_of_a_stream_follows_the_limit():
    async with bounded_gather(echo, range(1000), max_concurrent=2) as batch:
        stream = aiter(batch)
        await settle(10)
        assert batch.progress.started == 6
        batch.max_concurrent = 10
        await settle(10)
        assert batch.progress.started == 30
        batch.max_concurrent = 1
        for _ in range(27):
            await anext(stream)
        await settle(10)
        assert batch.progress.started == 30
        await anext(stream)
        await settle(10)
        assert batch.progress.started == 31


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        (0, ValueError, "max_concurrent must be 1 or more, got 0"),
        (-3, ValueError, "got -3"),
        (True, TypeError, "must be an int, got bool True"),
        (2.0, TypeError, "must be an int, got float 2.0"),
        ("2", TypeError, "must be an int"),
    ],
)
async def test_a_bad_limit_is_refused_and_changes_nothing(value, error, says):
    batch = bounded_gather(echo, [1])
    with pytest.raises(error, match=says):
        batch.max_concurrent = value
    assert batch.max_concurrent == 50
    batch.max_concurrent = 10**30
    assert batch.max_concurrent == 10**30
    assert (await batch).ok


# ------------------------------------------------------------ cancel_grace


class Stubborn:
    """Items that swallow every cancellation until they are let go."""

    def __init__(self):
        self.free = asyncio.Event()
        self.tasks = []
        self.ended = []

    async def __call__(self, item):
        if item == "soft":
            return await asyncio.sleep(10)
        self.tasks.append(asyncio.current_task())
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                pass
        self.ended.append(item)
        if item == "bad":
            raise LookupError("late")
        return item

    async def let_go(self):
        self.free.set()
        if self.tasks:
            await asyncio.wait(self.tasks)


@pytest.mark.parametrize("grace", [0, 0.02])
@pytest.mark.parametrize("how", ["cancel", "budget", "errors", "fatal"])
async def test_a_batch_ends_without_an_item_that_does_not_stop(grace, how):
    stubborn = Stubborn()

    async def fn(x):
        if x == "trouble":
            await asyncio.sleep(0.1)
            raise ValueError if how == "errors" else KeyboardInterrupt
        return await stubborn(x)

    items = ["hard", "soft"]
    options = {"cancel_grace": grace}
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
    # uvloop looks at its timers first: without grace it may give up the soft one too
    uvloop = type(asyncio.get_running_loop()).__module__ == "uvloop"
    given_up = (1, 2) if uvloop and how == "fatal" and grace == 0 else (1,)
    assert batch.progress.running in given_up
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
    await stubborn.let_go()
    assert stubborn.tasks[0].result() in (None, "hard")
    assert stubborn.ended == ["hard"]
    assert batch.progress.running in given_up


async def test_an_item_that_does_not_stop_after_its_timeout_gives_up_its_place():
    stubborn = Stubborn()

    async def fn(x):
        return await (stubborn(x) if x == 1 else echo_later(x))

    result = await bounded_gather(
        fn, range(5), max_concurrent=1, timeout=0.02, cancel_grace=0.02
    )
    assert [r.data for r in result] == [0, None, 2, 3, 4]
    assert result[1].state is TaskState.RUNNING
    assert result[1].timed_out
    assert str(result[1].error) == "'1' timed out after 0.02 s and did not stop"
    assert 0.03 < result[1].duration < 5
    assert result.status is BatchStatus.COMPLETED
    assert not result.ok
    with pytest.raises(BatchError):
        result.values()
    await stubborn.let_go()


async def test_a_timeout_that_is_not_obeyed_counts_for_max_errors():
    stubborn = Stubborn()
    with pytest.raises(BatchError) as caught:
        await bounded_gather(
            stubborn, [1], timeout=0.01, cancel_grace=0.01, max_errors=0
        )
    (error,) = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert str(caught.value).startswith("1 item failed")
    await stubborn.let_go()


async def test_an_item_that_stops_in_its_grace_has_its_outcome():
    async def fn(x):
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)

    result = await bounded_gather(fn, [1, 2], timeout=0.01, cancel_grace=5)
    assert [r.state for r in result] == [TaskState.FAILED] * 2
    assert all(r.timed_out for r in result)


@pytest.mark.parametrize("use", ["iterate", "block"])
async def test_an_item_that_does_not_stop_is_told_of(use):
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
    await stubborn.let_go()


async def test_a_cancelled_caller_comes_back_after_the_grace():
    stubborn = Stubborn()
    batch = bounded_gather(stubborn, ["hard"], cancel_grace=0.02)
    task = asyncio.create_task(batch.collect())
    await settle(5)
    task.cancel("outer")
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError, match="outer"):
            await task
    assert (await batch)[0].state is TaskState.RUNNING
    await stubborn.let_go()


async def test_what_was_given_up_is_held_until_it_ends():
    async def fn(x):
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


async def test_what_an_item_fails_with_after_it_was_given_up_is_reported(loop_errors):
    stubborn = Stubborn()
    batch = bounded_gather(stubborn, ["bad"], cancel_grace=0.0)
    in_turns(50, batch.cancel)
    (await batch).failures()
    await stubborn.let_go()
    stubborn.tasks.clear()
    await settle(3)
    gc.collect()
    assert [str(c["exception"]) for c in loop_errors] == ["late"]


async def test_a_result_with_an_item_that_did_not_stop_is_reported_unread(loop_errors):
    stubborn = Stubborn()
    batch = bounded_gather(stubborn, ["hard"], cancel_grace=0.0)
    in_turns(50, batch.cancel)
    await batch
    del batch
    gc.collect()
    assert "dropped unread" in loop_errors[0]["message"]
    await stubborn.let_go()


@pytest.mark.parametrize("swallows", [False, True])
async def test_a_stuck_reader_never_blocks_cancelling(swallows):
    free = asyncio.Event()

    async def source():
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


async def test_cancelling_again_reaches_a_reader_that_swallowed():
    swallowed = []

    async def source():
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


async def test_an_infinite_grace_is_none():
    result = await bounded_gather(echo, [1], cancel_grace=math.inf)
    assert result.ok


# ----------------------------------------------------------------- dropped


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_what_a_dropped_batch_fails_with_is_reported(loop_errors):
    async def fn(x):
        try:
            await asyncio.sleep(10 if x else 0)
        except asyncio.CancelledError:
            raise Fatal("late") from None

    with pytest.warns(ResourceWarning, match="was dropped while it ran"):
        async for _ in bounded_gather(fn, range(2)):
            break
        gc.collect()
    await settle(6)
    (context,) = loop_errors
    assert isinstance(context["exception"], Fatal)
    assert "was dropped" in context["message"]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_exit_of_a_dropped_batch_ends_the_loops_run():
    async def fn(x):
        try:
            await asyncio.sleep(10 if x else 0)
        except asyncio.CancelledError:
            raise SystemExit("late") from None

    async def main():
        async for _ in bounded_gather(fn, range(2)):
            break
        gc.collect()
        await asyncio.sleep(10)

    with pytest.raises(SystemExit, match="late"):
        asyncio.run(main())


def test_an_exit_of_a_batch_that_ended_and_was_dropped_ends_the_loops_run():
    async def fn(x):
        if x:
            raise SystemExit("untold")

    async def main():
        batch = bounded_gather(fn, range(2))
        async for _ in batch:
            await settle(5)
            break
        assert BatchStatus.ABORTED is batch.status
        del batch
        gc.collect()
        await asyncio.sleep(10)

    with pytest.raises(SystemExit, match="untold"):
        asyncio.run(main())


async def test_a_quiet_batch_is_dropped_in_silence():
    batch = bounded_gather(echo, [1], budget=60)
    async for _ in batch:
        break
    await settle(3)
    assert batch.status is None
    books = batch._books
    del batch
    assert books.over


# ----------------------------------------------------------------- hostile


@pytest.mark.parametrize("where", ["source", "key", "on_result", "fn", "del"])
async def test_everything_may_be_called_from_everywhere(where):
    def meddle(at):
        if at == where and batch.progress.started < 40:
            batch.pause()
            batch.add(batch.progress.started)
            batch.max_concurrent = 1 + batch.progress.started % 5
            batch.resume()

    class Item:
        def __del__(self):
            meddle("del")

    def source():
        for _ in range(20):
            meddle("source")
            yield Item()

    def key(item):
        meddle("key")
        return "x"

    async def fn(item):
        meddle("fn")
        await asyncio.sleep(0)

    batch = bounded_gather(
        fn, source(), key=key, on_result=lambda r: meddle("on_result")
    )
    async with batch:
        async for result in batch:
            assert result.success
            del result
    assert batch.progress.done == batch.progress.started > 20
    assert batch.progress.running == 0


async def test_another_thread_may_not_touch_a_batch_that_runs():
    gauge = Gauge()
    batch = bounded_gather(gauge, range(3))
    task = asyncio.create_task(batch.collect())
    await settle(5)

    def touch():
        refused = 0
        for what in (
            lambda: batch.add(1),
            batch.close,
            batch.pause,
            batch.resume,
            lambda: setattr(batch, "max_concurrent", 3),
        ):
            try:
                what()
            except RuntimeError as error:
                refused += "another thread" in str(error)
        return refused

    assert await asyncio.to_thread(touch) == 5
    assert batch.max_concurrent == 50
    gauge.release()
    assert len(await task) == 3


def test_a_loop_closed_under_what_was_given_up_is_no_crash():
    async def stubborn(x):
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass

    async def main():
        batch = bounded_gather(stubborn, range(2), timeout=0, cancel_grace=0)
        return (await batch).failures()

    loop = asyncio.new_event_loop()
    errors = []
    loop.set_exception_handler(lambda _, context: errors.append(context))
    assert len(loop.run_until_complete(main())) == 2
    loop.close()

    async def again():
        result = await bounded_gather(
            lambda x: asyncio.sleep(0.01), [1], timeout=0, cancel_grace=0
        )
        result.failures()

    asyncio.run(again())
    _core_support._abandoned.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
