"""The results of bounded_gather: values, ids, on_result, progress."""

import asyncio
import gc
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    BatchResult,
    BatchStatus,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import double, double_later, echo, fail, forever, sleep_for
from support.loops import in_turns, result_of, settle, until

BOTH_WAYS = True


# --------------------------------------------------------------- results


@pytest.mark.parametrize("fn", [double, double_later])
@pytest.mark.parametrize("n", [0, 1, 2, 49, 50, 51, 1000])
@pytest.mark.parametrize("make", [list, tuple, iter, set, lambda r: r])
async def test_every_item_has_one_result_in_input_order(
    fn: Any, n: int, make: Callable[..., Any]
) -> None:
    items = make(range(n))
    batch = await bounded_gather(fn, items)
    assert batch.values() == [2 * i for i in range(n)]
    assert [(r.index, r.item) for r in batch] == [(i, i) for i in range(n)]
    assert batch.ok
    assert batch.exhausted
    assert batch.status is BatchStatus.COMPLETED
    assert len(batch) == n


async def test_a_result_has_the_outcome_of_its_item() -> None:
    async def fn(x: str) -> Any:
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


async def test_the_batch_result_is_a_sequence() -> None:
    batch = await bounded_gather(double, [1, 2, 3])
    assert isinstance(batch, BatchResult)
    assert batch[0].data == 2
    assert [r.data for r in batch[1:]] == [4, 6]
    assert [r.data for r in reversed(batch)] == [6, 4, 2]
    assert batch[-1] in batch
    assert batch.by_id()["2"].data == 4
    assert 0 <= batch.duration < 5
    assert repr(batch) == "<BatchResult completed: 3 items, 0 failed>"


async def test_awaiting_again_gives_the_same_result() -> None:
    batch = bounded_gather(double, [1])
    first = await batch
    assert await batch is first
    assert await batch.collect() is first


async def test_collect_is_a_coroutine() -> None:
    task = asyncio.create_task(bounded_gather(double, [1]).collect())
    assert (await task).values() == [2]


async def test_values_raises_all_failures_at_once() -> None:
    batch = await bounded_gather(fail, [1, 2])
    with pytest.raises(BatchError, match="2 of 2 items did not succeed") as caught:
        batch.values()
    assert [e.args for e in caught.value.exceptions] == [(1,), (2,)]
    assert caught.value.result is batch
    with pytest.raises(BatchError, match="1 of 1 item did not succeed"):
        (await bounded_gather(fail, [1])).values()
    assert len(batch.failures()) == 2
    assert batch.successes() == []
    assert not batch.ok


# ------------------------------------------------ items that never started


async def stopped(
    items: Any, started: int = 2, key: Callable[[Any], str] | None = None
) -> BatchResult[Any]:
    """The result of a batch that was cancelled when that many items had ended."""

    async def fn(x: Any) -> Any:
        nonlocal started
        started -= 1
        if started == 0:
            batch.cancel()
        return x

    batch = bounded_gather(fn, items, key=key, max_concurrent=1)
    return await batch


async def test_of_a_huge_range_only_what_is_asked_for_is_made() -> None:
    n = 10**12
    made = []

    def key(x: int) -> str:
        made.append(x)
        return f"<{x}>"

    result = await stopped(range(n), key=key)
    del made[:]
    assert len(result) == n
    assert not result.ok
    assert [r.data for r in result.successes()] == [0, 1]
    assert made == []
    last = result[n - 1]
    assert (last.index, last.item, last.task_id) == (n - 1, n - 1, f"<{n - 1}>")
    assert last.state is TaskState.PENDING
    assert isinstance(last.error, asyncio.CancelledError)
    assert result[-n].data == 0
    assert result[-2].index == n - 2
    assert made == [n - 1, n - 2]
    with pytest.raises(IndexError, match=f"there is no result {n}"):
        result[n]
    with pytest.raises(IndexError, match=f"there is no result -{n + 1}"):
        result[-n - 1]
    del made[:]
    assert [r.item for r, _ in zip(result, range(4), strict=False)] == [0, 1, 2, 3]
    assert [r.item for r in result[1:][1:3]] == [2, 3]
    assert next(reversed(result)).item == n - 1
    assert len(made) <= 6


async def test_a_slice_of_results_is_a_sequence_made_when_it_is_read() -> None:
    n = 10**12
    result = await stopped(range(n))
    part = result[: n - 5 : 2]
    assert isinstance(part, Sequence)
    assert len(part) == (n - 5) // 2 + 1
    assert part[0] is result[0]
    assert part[-1].item == n - 6
    assert part[2:6:2] == [result[4], result[8]]
    assert part[2:4] != [result[4], result[8]]
    assert part[:2] == result[0:4:2]
    assert part[:1] != (result[0],)
    assert result[4] in part[:5]
    assert result[5] not in part[:5]
    assert part.index(result[4]) == 2
    assert result[3:0:-1].count(result[2]) == 1
    assert repr(result[:2]) == repr([result[0], result[1]])
    assert repr(part).endswith(", ...]")
    with pytest.raises(IndexError):
        result[:3][3]
    with pytest.raises(TypeError):
        result["a"]  # type: ignore[call-overload]


async def test_two_results_of_one_unstarted_item_are_equal() -> None:
    result = await stopped([0, 1, 2, 3])
    assert result[0] is result[0]
    assert result[3] == result[3]
    assert list(result) == list(result) == result[:]
    assert result[3] in result
    assert result.index(result[3]) == 3
    assert result.count(result[2]) == 1
    budget = await bounded_gather(echo, [0, 1], budget=0)
    assert budget[1] == budget[1]
    assert budget.failures() == budget[:]


async def test_a_range_too_long_for_len_has_results_all_the_same() -> None:
    result = await stopped(range(10**30))
    with pytest.raises(OverflowError):
        len(result)
    assert [r.data for r in result.successes()] == [0, 1]
    assert result[2].item == 2
    assert [r.item for r in result[1:3]] == [1, 2]
    assert repr(result) == f"<BatchResult cancelled: {10**30} items, 0 failed>"


async def test_the_items_are_kept_as_they_were_at_the_end() -> None:
    items = [0, 1, 2, 3]
    batch = bounded_gather(echo, items)
    batch.add(4)
    batch.cancel()
    result = await batch
    del items[1:]
    assert [(r.index, r.item) for r in result] == [(i, i) for i in range(5)]
    assert [r.item for r in result[3:]] == [3, 4]
    assert [result[i].item for i in range(-5, 5)] == [0, 1, 2, 3, 4] * 2


async def test_iterating_stops_where_the_key_raises_an_exit() -> None:
    exits = [KeyboardInterrupt]

    def key(item: Any) -> str:
        if item == 3:
            raise exits.pop() if exits else ValueError
        return f"<{item}>"

    result = await bounded_gather(echo, [2, 3], budget=0, key=key)
    assert result[0].task_id == "<2>"
    with pytest.raises(KeyboardInterrupt):
        result[1]
    assert [r.task_id for r in result] == ["<2>", "3"]


# ------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("item", "task_id"),
    [
        ("BTC", "BTC"),
        ("", "0"),
        (7, "7"),
        (-7, "-7"),
        (True, "0"),
        (1.5, "0"),
        (None, "0"),
        (b"x", "0"),
        pytest.param(10**5000, "0", id="huge"),
        pytest.param("\ud800", "\ud800", id="surrogate"),
    ],
)
async def test_the_id_of_an_item_is_its_text_or_its_index(
    item: Any, task_id: Any
) -> None:
    async def fn(x: Any) -> None:
        return None

    (result,) = await bounded_gather(fn, [item])
    assert result.task_id == task_id


async def test_the_id_of_an_item_runs_no_code_of_the_items() -> None:
    class Text(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise AssertionError

    class Number(int):
        __repr__ = __str__ = Text.__str__

    async def fn(x: Any) -> None:
        return None

    text, number = await bounded_gather(fn, [Text("a"), Number(3)])
    assert (text.task_id, number.task_id) == ("a", "3")
    assert type(text.task_id) is str


async def test_two_items_with_one_id_leave_the_later_one() -> None:
    batch = await bounded_gather(double, [1, 1])
    assert batch.by_id()["1"].index == 1


async def test_the_key_names_every_item_even_one_that_never_started() -> None:
    batch = bounded_gather(double, [1, 2], key=lambda x: f"<{x}>")
    assert [r.task_id for r in await batch] == ["<1>", "<2>"]
    batch = bounded_gather(double, [1, 2], key=lambda x: f"<{x}>")
    batch.cancel()
    assert list((await batch).by_id()) == ["<1>", "<2>"]


@pytest.mark.parametrize("answer", [None, 1, ""])
async def test_a_key_gives_a_non_empty_str(answer: object) -> None:
    with pytest.raises(TypeError, match=r"key returned .* for item 0"):
        await bounded_gather(double, [1], key=lambda x: answer)


async def test_an_error_of_the_key_propagates_unwrapped() -> None:
    def key(x: int) -> str:
        if x == 2:
            raise LookupError("key")
        return f"<{x}>"

    with pytest.raises(LookupError, match="key"):
        await bounded_gather(double_later, [1, 2, 3], key=key)


async def test_a_key_that_fails_for_an_unstarted_item_does_not_fail_the_batch() -> None:
    async def source() -> AsyncIterator[int]:
        for i in range(9):
            yield i
            reached.append(i)

    def key(item: Any) -> str:
        if item == 2:
            raise LookupError(item)
        return f"key {item}"

    reached = []
    batch = bounded_gather(forever, source(), key=key, max_concurrent=2)
    task = asyncio.create_task(batch.collect())
    await until(lambda: reached == [0, 1])
    await settle(5)
    batch.cancel()
    result = await result_of(task)
    assert result.status is BatchStatus.CANCELLED
    assert [r.task_id for r in result] == ["key 0", "key 1", "2"]


async def test_an_exit_in_the_key_of_an_unstarted_item_loses_nothing() -> None:
    exits = [KeyboardInterrupt]

    def key(item: Any) -> str:
        if item == 3 and exits:
            raise exits.pop()
        return str(item)

    result = await bounded_gather(echo, [0, 1, 2, 3], budget=0, key=key)
    with pytest.raises(KeyboardInterrupt):
        result.failures()
    assert list(result.by_id()) == ["0", "1", "2", "3"]


async def test_a_key_may_cancel_the_batch() -> None:
    def key(x: int) -> str:
        batch.cancel()
        return str(x)

    batch = bounded_gather(double, [1, 2], key=key)
    assert [r.state for r in await batch] == [TaskState.PENDING] * 2


# --------------------------------------------- what the function returns


async def test_a_function_may_return_a_task_result() -> None:
    error = ValueError("no")

    async def fn(x: int) -> Any:
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


async def test_any_awaitable_is_accepted() -> None:
    loop = asyncio.get_running_loop()

    class Own:
        def __await__(self) -> Generator[Any, None, Any]:
            yield from asyncio.sleep(0).__await__()
            return "own"

    def fn(x: str) -> Any:
        if x == "future":
            future = loop.create_future()
            loop.call_soon(future.set_result, "future")
            return future
        if x == "task":
            return asyncio.create_task(double("t"))
        return Own()

    batch = await bounded_gather(fn, ["future", "task", "own"])
    assert batch.values() == ["future", "tt", "own"]


async def test_a_generator_based_coroutine_is_accepted() -> None:
    import types

    @types.coroutine
    def fn(x: int) -> Generator[None, None, int]:
        yield
        return x

    (result,) = await bounded_gather(fn, [1])
    assert result.data == 1


async def test_values_that_look_like_exceptions_and_tuples_are_values() -> None:
    async def fn(x: Any) -> Any:
        await asyncio.sleep(0)
        return x

    items = [(1, 2), (), ValueError("v"), StopIteration(3), None]
    assert (await bounded_gather(fn, items)).values() == items
    assert [r.data async for r in bounded_gather(fn, items)] == items


# ------------------------------------------------------------- on_result


async def test_on_result_is_called_for_each_as_it_ends() -> None:
    seen = []
    await bounded_gather(
        sleep_for, [0.05, 0.0], on_result=lambda r: seen.append(r.data)
    )
    assert seen == [0.0, 0.05]


async def test_an_error_of_on_result_goes_to_the_loop(
    loop_errors: list[dict[str, Any]],
) -> None:
    def on_result(result: TaskResult[Any]) -> None:
        raise LookupError("callback")

    batch = await bounded_gather(double, [1, 2], on_result=on_result)
    assert batch.ok
    assert [str(c["exception"]) for c in loop_errors] == ["callback"] * 2


async def test_a_cancelled_error_of_on_result_cancels_nothing(
    loop_errors: list[dict[str, Any]],
) -> None:
    def on_result(result: TaskResult[Any]) -> None:
        raise asyncio.CancelledError

    result = await bounded_gather(echo, range(3), on_result=on_result)
    assert result.values() == [0, 1, 2]
    assert len(loop_errors) == 3


async def test_an_exit_in_on_result_ends_the_batch() -> None:
    def on_result(result: TaskResult[Any]) -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await bounded_gather(double, [1, 2], on_result=on_result)


async def test_on_result_gets_cancelled_items_but_no_unstarted_ones() -> None:
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


async def test_on_result_may_cancel_the_batch() -> None:
    batch = bounded_gather(double, range(100), on_result=lambda r: batch.cancel())
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert len(result.successes()) == batch.progress.done == 1


# -------------------------------------------------------------- progress


async def test_progress_counts_the_items_by_outcome() -> None:
    async def fn(x: str) -> Any:
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


async def test_the_total_of_a_lazy_source_is_known_at_its_end() -> None:
    batch = bounded_gather(double, iter([1, 2]))
    assert batch.progress.total is None
    await batch
    assert batch.progress.total == 2


@pytest.mark.parametrize("kind", ["key", "coroutine"])
async def test_an_item_that_ends_the_batch_before_it_starts_is_not_counted(
    kind: str,
) -> None:
    def key(item: Any) -> str:
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


# ------------------------------------------------------- unread failures


async def test_a_result_dropped_unread_with_failures_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
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
async def test_a_result_that_was_read_is_not_reported(
    read: Callable[[Any], object],
) -> None:
    read(await bounded_gather(fail, [1]))
    gc.collect()


async def test_a_result_without_failures_is_not_reported() -> None:
    await bounded_gather(double, [1])
    batch = bounded_gather(sleep_for, [10])
    asyncio.get_running_loop().call_soon(batch.cancel)
    await batch


async def test_a_batch_error_counts_as_read() -> None:
    with pytest.raises(BatchError):
        await bounded_gather(fail, [1], max_errors=0)
    gc.collect()


# ---------------------------------------------------------------- memory


async def test_a_batch_is_freed_without_the_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        batch = bounded_gather(double_later, range(100), timeout=10, budget=100)
        state = batch._core
        await batch
        ref = weakref.ref(batch)
        del batch
        assert ref() is None
        await settle()
        alone = object()
        assert sys.getrefcount(state) == sys.getrefcount(alone)
    finally:
        gc.enable()
