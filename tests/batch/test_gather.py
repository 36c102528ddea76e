"""bounded_gather awaited: results, limits, errors, refusals."""

import asyncio
import contextvars
import gc
import math
import sys
import time
import weakref

import pytest

from pyasynclife import (
    Batch,
    BatchError,
    BatchProgress,
    BatchResult,
    BatchStatus,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import double, double_later, fail, sleep_for
from support.loops import in_turns, settle

BOTH_WAYS = True

var = contextvars.ContextVar("var", default="unset")


class Gauge:
    """A function for items that counts how many of it run at once."""

    def __init__(self):
        self.now = self.most = 0

    async def __call__(self, item):
        self.now += 1
        self.most = max(self.most, self.now)
        await settle(20)  # a slow machine starts the rest in a later turn
        self.now -= 1
        return item


# ---------------------------------------------------------------- results


@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize("n", [0, 1, 2, 49, 50, 51, 1000])
@pytest.mark.parametrize("make", [list, tuple, iter, set, lambda r: r])
async def test_every_item_has_one_result_in_input_order(fn, n, make):
    items = make(range(n))
    batch = await bounded_gather(fn, items)
    assert [2 * i for i in range(n)] == batch.values()
    assert [(i, i) for i in range(n)] == [(r.index, r.item) for r in batch]
    assert batch.ok
    assert batch.exhausted
    assert batch.status is BatchStatus.COMPLETED
    assert len(batch) == n


async def test_a_result_says_what_became_of_its_item():
    async def fn(x):
        await asyncio.sleep(0.02)
        if x == "bad":
            raise KeyError("k")
        return x.upper()

    good, bad = await bounded_gather(fn, ["good", "bad"])
    assert (good.task_id, good.success, good.data, good.error) == (
        "good",
        True,
        "GOOD",
        None,
    )
    assert good.state is TaskState.DONE
    assert 0.01 < good.duration < 5
    assert (bad.task_id, bad.success, bad.data) == ("bad", False, None)
    assert isinstance(bad.error, KeyError)
    assert bad.state is TaskState.FAILED
    assert not bad.timed_out


async def test_the_batch_result_is_a_sequence():
    batch = await bounded_gather(double, [1, 2, 3])
    assert isinstance(batch, BatchResult)
    assert batch[0].data == 2
    assert [r.data for r in batch[1:]] == [4, 6]
    assert [r.data for r in reversed(batch)] == [6, 4, 2]
    assert batch[-1] in batch
    assert batch.by_id()["2"].data == 4
    assert 0 <= batch.duration < 5
    assert repr(batch) == "<BatchResult completed: 3 items, 0 failed>"


async def test_two_items_with_one_id_leave_the_later_one():
    batch = await bounded_gather(double, [1, 1])
    assert batch.by_id()["1"].index == 1


async def test_awaiting_again_gives_the_same_result():
    batch = bounded_gather(double, [1])
    first = await batch
    assert await batch is first
    assert await batch.collect() is first


async def test_collect_is_a_coroutine():
    task = asyncio.create_task(bounded_gather(double, [1]).collect())
    assert (await task).values() == [2]


async def test_values_raises_all_failures_at_once():
    batch = await bounded_gather(fail, [1, 2])
    with pytest.raises(BatchError, match="2 of 2 items did not succeed") as caught:
        batch.values()
    assert [e.args for e in caught.value.exceptions] == [(1,), (2,)]
    assert caught.value.result is batch
    assert len(batch.failures()) == 2
    assert batch.successes() == []
    assert not batch.ok


async def test_a_function_may_return_a_task_result():
    error = ValueError("no")

    async def fn(x):
        if x == 0:
            return TaskResult("mine", True, 7)
        return TaskResult("bad", False, "part", error)

    good, bad = await bounded_gather(fn, [0, 1])
    assert (good.task_id, good.data, good.item, good.index) == ("mine", 7, 0, 0)
    assert bad == TaskResult("bad", False, "part", error)
    assert bad.state is TaskState.FAILED
    assert (bad.item, bad.index) == (1, 1)
    with pytest.raises(BatchError):
        await bounded_gather(fn, [0, 1], max_errors=0)


# ----------------------------------------------------------------- limits


@pytest.mark.parametrize("limit", [1, 2, 7, 50, 200])
@pytest.mark.parametrize("make", [list, iter])
async def test_at_most_max_concurrent_run_and_that_many_do(limit, make):
    gauge = Gauge()
    await bounded_gather(gauge, make(range(300)), max_concurrent=limit)
    assert gauge.most == limit


async def test_no_more_tasks_than_items_or_limit_are_made():
    seen = set()

    async def fn(x):
        await settle(2)
        seen.add(len(asyncio.all_tasks()))

    await bounded_gather(fn, range(3), max_concurrent=1000)
    assert max(seen) <= 4
    await bounded_gather(fn, iter(range(3)), max_concurrent=1000)
    assert max(seen) <= 12


@pytest.mark.parametrize("number", [1, 2, 5])
async def test_a_short_list_makes_one_task_for_each_item(number):
    made = []

    def factory(loop, coro, **keywords):
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **keywords)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        await bounded_gather(double_later, list(range(number)), max_concurrent=50)
    finally:
        loop.set_task_factory(None)
    assert len(made) == number


async def test_the_function_is_called_only_when_a_slot_is_free():
    live = 0
    most = 0

    class Coro:
        def __init__(self):
            nonlocal live, most
            live += 1
            most = max(live, most)

        def __await__(self):
            nonlocal live
            yield from asyncio.sleep(0).__await__()
            live -= 1

    await bounded_gather(lambda x: Coro(), range(100), max_concurrent=3)
    assert most == 3


async def test_a_lazy_source_is_pulled_as_items_end():
    pulled = ended = 0

    def source():
        nonlocal pulled
        for i in range(100):
            pulled += 1
            assert pulled - ended <= 4
            yield i

    async def fn(x):
        nonlocal ended
        await asyncio.sleep(0)
        ended += 1

    await bounded_gather(fn, source(), max_concurrent=4)
    assert ended == 100


async def count_turns_beside(fn, n):
    turns = 0
    stop = False

    async def watch():
        nonlocal turns
        while not stop:
            await asyncio.sleep(0)
            turns += 1

    watcher = asyncio.create_task(watch())
    await bounded_gather(fn, range(n), max_concurrent=50)
    stop = True
    await watcher
    return turns


def work(seconds):
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


async def test_items_that_never_suspend_let_others_run():
    async def busy(x):
        work(0.0005)

    assert await count_turns_beside(busy, 600) >= 6  # in 0.3 s or more


async def test_items_that_work_and_then_suspend_let_others_run():
    async def busy(x):
        work(0.004)
        await asyncio.sleep(0)

    assert await count_turns_beside(busy, 100) > 20


# ---------------------------------------------------------- budget, errors


async def test_the_budget_ends_what_runs_and_starts_no_more():
    batch = await bounded_gather(
        sleep_for, [0.0, 10, 11, 12, 13], max_concurrent=2, budget=0.05
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
    assert "budget of 0.05 s" in str(batch[1].error)
    assert "budget of 0.05 s" in str(batch[4].error)
    assert batch.duration < 5


async def test_a_budget_of_nothing_starts_nothing():
    calls = []
    batch = await bounded_gather(calls.append, [1, 2], budget=0)
    assert calls == []
    assert batch.status is BatchStatus.TIMED_OUT
    assert [r.state for r in batch] == [TaskState.PENDING] * 2


async def test_a_budget_that_is_kept_changes_nothing():
    batch = await bounded_gather(sleep_for, [0.0, 0.01], budget=30)
    assert batch.ok


async def test_the_budget_reaches_items_that_never_suspend():
    async def busy(x):
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass

    batch = await bounded_gather(busy, range(10_000), budget=0.05)
    assert batch.status is BatchStatus.TIMED_OUT
    assert batch.failures()
    assert batch.duration < 1.0


@pytest.mark.parametrize("max_errors", [0, 1, 3])
async def test_more_than_max_errors_abort(max_errors):
    async def fn(x):
        if x % 2:
            raise ValueError(x)
        await asyncio.sleep(0)
        return x

    batch = bounded_gather(fn, range(100), max_concurrent=2, max_errors=max_errors)
    with pytest.raises(BatchError) as caught:
        await batch
    assert len(caught.value.exceptions) == max_errors + 1
    result = caught.value.result
    assert result.status is batch.status is BatchStatus.ABORTED
    assert len(result) == 100
    assert len([r for r in result if r.state is TaskState.FAILED]) == max_errors + 1
    assert result[99].state is TaskState.PENDING
    with pytest.raises(BatchError):
        await batch


async def test_as_many_as_max_errors_are_tolerated():
    batch = await bounded_gather(fail, [1, 2, 3], max_errors=3)
    assert batch.status is BatchStatus.COMPLETED
    assert len(batch.failures()) == 3


async def test_the_last_item_may_be_one_error_too_many():
    with pytest.raises(BatchError):
        await bounded_gather(fail, [1], max_errors=0)


async def test_aborting_cancels_and_waits_for_the_rest():
    ended = []

    async def fn(x):
        if x == 0:
            await asyncio.sleep(0.01)
            raise ValueError
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            ended.append(x)

    with pytest.raises(BatchError) as caught:
        await bounded_gather(fn, range(4), max_errors=0)
    assert sorted(ended) == [1, 2, 3]
    assert [r.state for r in caught.value.result[1:]] == [TaskState.CANCELLED] * 3
    assert len(caught.value.exceptions) == 1


async def test_timeouts_count_as_errors_and_cancelled_items_do_not():
    async def cancel_itself(x):
        asyncio.current_task().cancel()
        await asyncio.sleep(1)

    batch = await bounded_gather(cancel_itself, range(3), max_errors=0)
    assert [r.state for r in batch] == [TaskState.CANCELLED] * 3
    with pytest.raises(BatchError) as caught:
        await bounded_gather(sleep_for, [10, 10], timeout=0.01, max_errors=1)
    assert all(isinstance(e, TimeoutError) for e in caught.value.exceptions)


async def test_a_batch_error_splits_and_keeps_its_result():
    with pytest.raises(BatchError) as caught:
        await bounded_gather(fail, [1, 2], max_errors=0)
    part, rest = caught.value.split(ValueError)
    assert rest is None
    assert part.result is caught.value.result


# -------------------------------------------------- what comes out, bare


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_a_base_exception_of_an_item_ends_the_batch(error, when):
    raised = error("now")
    ended = []

    async def fn(x):
        if when == "later":
            await asyncio.sleep(0)
        if x == 3:
            raise raised
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(x)

    batch = bounded_gather(fn, range(10), max_concurrent=5)
    with pytest.raises(error) as caught:
        await batch
    assert caught.value is raised
    assert set(ended) >= {0, 1, 2}
    assert 9 not in ended
    with pytest.raises(error) as caught:
        await batch
    assert caught.value is raised
    assert batch.status is BatchStatus.ABORTED


def exits_when_cancelled(exits):
    async def fn(x):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise exits[x] from None

    return fn


async def test_an_exit_goes_before_what_the_source_raised(loop_errors):
    def source():
        yield 0
        raise LookupError("source")

    exits = [SystemExit("item")]
    with pytest.raises(SystemExit) as caught:
        await bounded_gather(exits_when_cancelled(exits), source())
    assert caught.value is exits[0]
    (context,) = loop_errors
    assert "source" == str(context["exception"])
    assert "more than once" in context["message"]
    loop_errors.clear()


async def test_of_two_exits_the_first_is_raised_and_the_other_told(loop_errors):
    exits = [SystemExit("a"), KeyboardInterrupt("b")]
    batch = bounded_gather(exits_when_cancelled(exits), [0, 1])
    in_turns(50, batch.cancel)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as caught:
        await batch
    (context,) = loop_errors
    assert {caught.value, context["exception"]} == set(exits)
    loop_errors.clear()


@pytest.mark.parametrize("how", ["await", "block", "leaving"])
async def test_an_exit_goes_before_the_callers_cancellation(how):
    exits = [SystemExit("item")]
    batch = bounded_gather(exits_when_cancelled(exits), [0])
    caller = asyncio.current_task()
    in_turns(50, caller.cancel)
    with pytest.raises(SystemExit) as caught:
        if how == "await":
            await batch
        async with batch:
            if how == "block":
                await asyncio.sleep(10)
    assert caught.value is exits[0]
    assert 1 == caller.cancelling()
    caller.uncancel()


async def test_what_the_source_raises_comes_out_when_the_items_have_ended():
    raised = LookupError("source")
    ended = []

    def source():
        yield 1
        yield 2
        raise raised

    async def fn(x):
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    with pytest.raises(LookupError) as caught:
        await bounded_gather(fn, source())
    assert caught.value is raised
    assert sorted(ended) == [1, 2]


async def test_what_iter_raises_comes_out_bare():
    class Source:
        def __iter__(self):
            raise LookupError("iter")

    batch = bounded_gather(double, Source())
    with pytest.raises(LookupError, match="iter"):
        await batch
    assert batch.status is BatchStatus.ABORTED


async def test_what_the_key_raises_comes_out_bare():
    def key(x):
        if x == 2:
            raise LookupError("key")
        return f"<{x}>"

    with pytest.raises(LookupError, match="key"):
        await bounded_gather(double_later, [1, 2, 3], key=key)


@pytest.mark.parametrize("answer", [None, 1, ""])
async def test_a_key_gives_a_non_empty_str(answer):
    with pytest.raises(TypeError, match=r"key returned .* for item 0"):
        await bounded_gather(double, [1], key=lambda x: answer)


async def test_the_key_names_every_item_also_those_never_started():
    batch = bounded_gather(double, [1, 2], key=lambda x: f"<{x}>")
    assert [r.task_id for r in await batch] == ["<1>", "<2>"]
    batch = bounded_gather(double, [1, 2], key=lambda x: f"<{x}>")
    batch.cancel()
    assert list((await batch).by_id()) == ["<1>", "<2>"]


async def test_a_function_that_raises_is_one_failed_item():
    def fn(x):
        if x == 1:
            raise ValueError("at the call")
        return double(x)

    batch = await bounded_gather(fn, [0, 1, 2])
    assert [r.success for r in batch] == [True, False, True]
    assert str(batch[1].error) == "at the call"


async def test_what_cannot_be_awaited_is_one_failed_item():
    batch = await bounded_gather(lambda x: x if x == 1 else double(x), [0, 1, 2])
    assert [r.success for r in batch] == [True, False, True]
    assert isinstance(batch[1].error, TypeError)
    assert "returned int, which cannot be awaited" in str(batch[1].error)


async def test_any_awaitable_will_do():
    loop = asyncio.get_running_loop()

    class Own:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "own"

    def fn(x):
        if x == "future":
            future = loop.create_future()
            loop.call_soon(future.set_result, "future")
            return future
        if x == "task":
            return asyncio.create_task(double("t"))
        return Own()

    batch = await bounded_gather(fn, ["future", "task", "own"])
    assert batch.values() == ["future", "tt", "own"]


# ------------------------------------------------------------- on_result


async def test_on_result_is_called_for_each_as_it_ends():
    seen = []
    await bounded_gather(
        sleep_for, [0.05, 0.0], on_result=lambda r: seen.append(r.data)
    )
    assert seen == [0.0, 0.05]


async def test_what_on_result_raises_goes_to_the_loop(loop_errors):
    def on_result(result):
        raise LookupError("callback")

    batch = await bounded_gather(double, [1, 2], on_result=on_result)
    assert batch.ok
    assert [str(c["exception"]) for c in loop_errors] == ["callback"] * 2


async def test_an_exit_in_on_result_ends_the_batch():
    def on_result(result):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await bounded_gather(double, [1, 2], on_result=on_result)


async def test_cancelled_items_are_told_to_on_result_and_unstarted_are_not():
    seen = []
    batch = bounded_gather(
        sleep_for,
        [10, 10, 10],
        max_concurrent=2,
        on_result=lambda r: seen.append(r.state),
    )
    in_turns(50, batch.cancel)
    await batch
    assert seen == [TaskState.CANCELLED] * 2


# -------------------------------------------------------------- contexts


async def test_each_item_runs_in_a_copy_of_the_callers_context():
    var.set("caller")

    async def fn(x):
        before = var.get()
        var.set(x)
        await asyncio.sleep(0)
        return before, var.get()

    batch = await bounded_gather(fn, [1, 2, 3], max_concurrent=1)
    assert batch.values() == [("caller", 1), ("caller", 2), ("caller", 3)]
    assert var.get() == "caller"


async def test_source_key_and_on_result_share_the_batchs_context():
    seen = []

    def source():
        var.set("source")
        yield 1
        seen.append(var.get())
        yield 2

    def key(x):
        seen.append(var.get())
        return str(x)

    def on_result(result):
        seen.append(var.get())

    async def fn(x):
        value = var.get()
        var.set("item")
        return value

    batch = await bounded_gather(fn, source(), key=key, on_result=on_result)
    assert batch.values() == ["source", "source"]
    assert seen == ["source"] * 5
    assert var.get() == "unset"


async def test_the_batchs_context_is_the_one_of_its_start():
    var.set("made")
    batch = bounded_gather(lambda x: asyncio.sleep(0, var.get()), [1])
    var.set("awaited")
    assert (await batch).values() == ["awaited"]


# --------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("kwargs", "error", "says"),
    [
        ({"max_concurrent": 0}, ValueError, "max_concurrent must be 1 or more, got 0"),
        ({"max_concurrent": -1}, ValueError, "got -1"),
        ({"max_concurrent": True}, TypeError, "must be an int, got bool True"),
        ({"max_concurrent": 1.5}, TypeError, "must be an int, got float 1.5"),
        ({"max_concurrent": "5"}, TypeError, "got str '5'"),
        ({"max_concurrent": None}, TypeError, "got NoneType None"),
        ({"timeout": -1}, ValueError, "timeout must be 0 or more seconds, got -1"),
        ({"timeout": math.nan}, ValueError, "got nan"),
        (
            {"timeout": "1"},
            TypeError,
            "timeout must be a number of seconds",
        ),
        ({"timeout": True}, TypeError, "got bool True"),
        ({"budget": -0.1}, ValueError, "budget must be 0 or more"),
        ({"budget": math.nan}, ValueError, "got nan"),
        ({"budget": []}, TypeError, "budget must be a number of seconds or None"),
        ({"max_errors": -1}, ValueError, "max_errors must be 0 or more, got -1"),
        ({"max_errors": False}, TypeError, "got bool False"),
        ({"buffer": -1}, ValueError, "buffer must be 0 or more, got -1"),
        ({"buffer": 1.0}, TypeError, "buffer must be an int"),
        ({"key": "id"}, TypeError, "key must be a function or None, got str 'id'"),
        ({"on_result": 1}, TypeError, "on_result must be a function or None"),
        ({"on_result": double}, TypeError, "called, not awaited"),
        ({"key": double}, TypeError, "called, not awaited"),
        (
            {"registry": {}},
            TypeError,
            "registry must be a TaskRegistry or None, got dict",
        ),
        ({"cancel_grace": -1}, ValueError, "cancel_grace must be 0 or more"),
    ],
)
def test_bad_options_are_refused_at_the_call(kwargs, error, says):
    source = iter([1])
    with pytest.raises(error, match=says):
        bounded_gather(double, source, **kwargs)
    assert next(source) == 1


@pytest.mark.parametrize(
    ("fn", "items", "says"),
    [
        ([1, 2], double, "pass the function first"),
        (None, [1], "fn must be a function, got NoneType None"),
        (double, 5, "items must be iterable .* got int 5"),
        (double, None, "items must be iterable"),
        (double, "BTC", "wrap it in a list"),
        (double, b"BTC", "wrap it in a list"),
        (double, double, "items must be iterable"),
    ],
)
def test_bad_sources_are_refused_at_the_call(fn, items, says):
    with pytest.raises(TypeError, match=says):
        bounded_gather(fn, items)


@pytest.mark.parametrize("make", [list, tuple, set, lambda c: dict(enumerate(c))])
def test_coroutines_instead_of_items_are_refused_and_the_first_closed(make):
    coros = make([double(1), double(2)])
    with pytest.raises(TypeError, match=r"bounded_gather\(fetch, urls\)"):
        bounded_gather(double, coros)
    first, second = coros.values() if isinstance(coros, dict) else coros
    with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
        first.send(None)
    second.close()


async def test_coroutines_of_a_lazy_source_are_refused_when_pulled():
    made = []

    def source():
        for i in range(3):
            made.append(double(i))
            yield made[-1]

    with pytest.raises(TypeError, match=r"bounded_gather\(fetch, urls\)"):
        await bounded_gather(double, source())
    assert len(made) == 1
    assert made[0].cr_frame is None


def test_a_coroutine_instead_of_the_items_is_refused_and_closed():
    coro = double(1)
    with pytest.raises(TypeError, match="items is a coroutine"):
        bounded_gather(double, coro)
    assert coro.cr_frame is None


def test_a_huge_limit_buffer_and_timeout_are_as_good_as_none():
    async def main():
        batch = bounded_gather(
            double,
            [1],
            max_concurrent=10**30,
            buffer=10**30,
            max_errors=10**30,
            timeout=10**400,
            budget=math.inf,
        )
        return (await batch).values()

    assert asyncio.run(main()) == [2]


def test_a_batch_that_is_never_used_warns_nobody():
    batch = bounded_gather(double, [1])
    assert batch.status is None
    assert batch.progress.started == 0
    del batch


def test_objects_that_only_we_make_refuse_to_be_made():
    for cls in (Batch, BatchResult, BatchProgress):
        with pytest.raises(TypeError, match="made by pyasynclife"):
            cls()
        with pytest.raises(TypeError):
            type("Sub", (cls,), {})
        assert object.__new__(cls) is not None  # and dropping it is no crash


def test_the_classes_are_subscriptable():
    assert Batch[int]
    assert BatchResult[int]


def test_without_a_loop_a_batch_says_what_it_needs():
    batch = bounded_gather(double, [1])
    coro = batch.collect()
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        coro.send(None)
    assert asyncio.run(batch.collect()).values() == [2]


# --------------------------------------------------------- unread failures


async def test_a_result_dropped_unread_with_failures_is_reported(loop_errors):
    await bounded_gather(fail, [1])
    gc.collect()
    (context,) = loop_errors
    assert "dropped unread" in context["message"]
    assert isinstance(context["exception"], ValueError)


@pytest.mark.parametrize(
    "read",
    [
        lambda b: b.ok,
        len,
        list,
        lambda b: b[0],
        lambda b: b.failures(),
        lambda b: b.successes(),
        lambda b: b.by_id(),
    ],
)
async def test_a_result_that_was_read_is_not_reported(read):
    read(await bounded_gather(fail, [1]))
    gc.collect()


async def test_a_result_without_failures_is_not_reported():
    await bounded_gather(double, [1])
    batch = bounded_gather(sleep_for, [10])
    asyncio.get_running_loop().call_soon(batch.cancel)
    await batch


async def test_a_batch_error_counts_as_read():
    with pytest.raises(BatchError):
        await bounded_gather(fail, [1], max_errors=0)
    gc.collect()


# --------------------------------------------------------------- progress


async def test_progress_counts():
    async def fn(x):
        if x == "bad":
            raise ValueError
        if x == "cancel":
            asyncio.current_task().cancel()
        if x == "slow":
            await asyncio.sleep(10)
        return await asyncio.sleep(0)

    batch = bounded_gather(
        fn, ["good", "bad", "cancel", "slow"], max_concurrent=1, timeout=0.2
    )
    before = batch.progress
    assert (before.total, before.started, before.elapsed) == (4, 0, 0.0)
    task = asyncio.create_task(batch.collect())
    await settle(2)
    during = batch.progress
    assert (during.started, during.running) == (1, 1)
    assert batch.status is None
    (await task).failures()
    after = batch.progress
    assert after == batch.progress
    assert (after.started, after.running, after.done) == (4, 0, 1)
    assert (after.failed, after.cancelled, after.timed_out) == (2, 1, 1)
    with pytest.raises(AttributeError):
        after.done = 3


async def test_the_total_of_a_lazy_source_is_known_at_its_end():
    batch = bounded_gather(double, iter([1, 2]))
    assert batch.progress.total is None
    await batch
    assert batch.progress.total == 2


# ------------------------------------------------------------ nothing kept


async def test_items_and_coroutines_are_freed_as_they_end():
    class Item:
        pass

    alive = weakref.WeakSet()

    def source():
        for _ in range(200):
            item = Item()
            alive.add(item)
            yield item

    most = 0

    async def fn(item):
        nonlocal most
        await asyncio.sleep(0)
        most = max(most, len(alive))

    async for _ in bounded_gather(fn, source(), max_concurrent=3, buffer=0):
        pass
    assert most <= 8


async def test_a_batch_is_freed_without_the_collector():
    gc.collect()
    gc.disable()
    try:
        batch = bounded_gather(double_later, range(100), timeout=10, budget=100)
        books = batch._books
        await batch
        ref = weakref.ref(batch)
        del batch
        assert ref() is None
        await settle()
        alone = object()
        assert sys.getrefcount(books) == sys.getrefcount(alone)
    finally:
        gc.enable()


async def test_a_million_items_streamed_take_no_memory():
    import tracemalloc

    async def fn(x):
        return x

    n = 100_000
    tracemalloc.start()
    try:
        count = 0
        async for _ in bounded_gather(fn, iter(range(n))):
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == n
    assert peak < 2_000_000
