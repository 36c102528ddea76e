"""retry: a failed attempt is followed by another."""

import asyncio
import contextvars
import gc
import pickle
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    BatchError,
    BatchStatus,
    Retry,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import Boom, Fatal, echo, forever, sleep_for
from support.items import Stubborn
from support.loops import in_virtual_time, settle, until

BOTH_WAYS = True

AT_ONCE = Backoff(0)
A_SECOND = Backoff(1.0, 1.0, jitter=0)


class Flaky:
    """Items that fail some times; when each attempt began."""

    def __init__(
        self, failures: int, error: Callable[[Any], BaseException] = Boom
    ) -> None:
        self.failures = failures
        self.error = error
        self.times: dict[Any, list[float]] = {}
        self.seconds = 0.0

    async def __call__(self, item: Any) -> Any:
        times = self.times.setdefault(item, [])
        times.append(asyncio.get_running_loop().time())
        attempt = len(times)
        await asyncio.sleep(self.seconds)
        if attempt <= self.failures:
            raise self.error(f"{item} {attempt}")
        return item


# ----------------------------------------------------------------- attempts


@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_a_failed_item_is_tried_again(failures: int) -> None:
    flaky = Flaky(failures)
    result = await bounded_gather(flaky, range(20), retry=Retry(3, backoff=AT_ONCE))
    assert result.values() == list(range(20))
    assert {r.attempts for r in result} == {failures + 1}
    assert result.status is BatchStatus.COMPLETED


async def test_the_last_failure_counts_and_no_other() -> None:
    seen: list[TaskResult[Any]] = []
    batch = bounded_gather(
        Flaky(9), [1, 2], retry=Retry(3, backoff=AT_ONCE), on_result=seen.append
    )
    result = await batch
    assert [str(r.error) for r in result] == ["1 3", "2 3"]
    assert [r.attempts for r in result] == [3, 3]
    assert sorted(r.index for r in seen) == [0, 1]
    assert (batch.progress.failed, batch.progress.started) == (2, 2)
    with pytest.raises(BatchError) as caught:
        result.values()
    assert len(caught.value.exceptions) == 2


async def test_failed_attempts_do_not_count_for_max_errors() -> None:
    retry = Retry(3, backoff=AT_ONCE)
    assert (await bounded_gather(Flaky(2), range(9), retry=retry, max_errors=0)).ok
    with pytest.raises(BatchError):
        await bounded_gather(Flaky(3), range(9), retry=retry, max_errors=0)


async def test_a_function_that_raises_at_once_is_called_again() -> None:
    calls = []

    def fn(item: int) -> Any:
        calls.append(item)
        if len(calls) < 3:
            raise Boom(item)
        return echo(item)

    assert (await bounded_gather(fn, [7], retry=Retry(backoff=AT_ONCE))).values() == [7]
    assert calls == [7, 7, 7]


async def test_a_result_that_says_failed_is_a_failed_attempt() -> None:
    calls = []

    async def fn(item: str) -> TaskResult[int]:
        calls.append(item)
        if len(calls) < 3:
            return TaskResult(item, False, None, Boom(item))
        return TaskResult(item, True, 5)

    result = await bounded_gather(fn, ["a"], retry=Retry(backoff=AT_ONCE))
    assert result.values() == [5]
    assert result[0].attempts == 3


async def test_attempts_is_in_the_dict_and_in_a_pickle() -> None:
    (result,) = await bounded_gather(Flaky(1), [1], retry=Retry(backoff=AT_ONCE))
    assert result.as_dict()["attempts"] == 2
    assert pickle.loads(pickle.dumps(result)).attempts == 2
    assert (await bounded_gather(echo, [1]))[0].attempts == 1
    stopped = await bounded_gather(forever, [1, 2], max_concurrent=1, budget=0.001)
    assert [r.attempts for r in stopped] == [1, 0]


async def test_an_attempt_has_a_fresh_copy_of_the_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("caller")
    seen = []

    async def fn(item: int) -> None:
        seen.append(variable.get())
        variable.set("attempt")
        raise Boom

    (await bounded_gather(fn, [1], retry=Retry(backoff=AT_ONCE))).failures()
    assert seen == ["caller"] * 3


async def test_what_an_attempt_leaves_behind_does_not_reach_the_next() -> None:
    """A cancellation that the failed attempt has asked for, for example."""
    calls = []

    async def fn(item: int) -> int:
        calls.append(item)
        if len(calls) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            raise Boom
        await asyncio.sleep(0)
        return item

    assert (await bounded_gather(fn, [1], retry=Retry(backoff=AT_ONCE))).ok


# ------------------------------------------------------------ on, and backoff


async def test_on_says_what_is_tried_again() -> None:
    for on, error, attempts in (
        (ValueError, ValueError, 3),
        (ValueError, KeyError, 1),
        ((ValueError, LookupError), KeyError, 3),
        (lambda e: str(e).endswith("1"), ValueError, 2),
    ):
        (result,) = await bounded_gather(
            Flaky(9, error), ["x"], retry=Retry(3, on=on, backoff=AT_ONCE)
        )
        assert result.attempts == attempts
        assert type(result.error) is error


def test_the_delays_are_those_of_the_backoff() -> None:
    async def main() -> None:
        flaky = Flaky(3)
        retry = Retry(4, backoff=Backoff(1.0, 2.0, jitter=0))
        assert (await bounded_gather(flaky, [0], retry=retry)).ok
        assert flaky.times[0] == [0, 1, 3, 7]

    in_virtual_time(main())


def test_a_function_may_say_how_long_to_wait() -> None:
    """Such as the seconds of a Retry-After header, which the error carries."""

    async def main() -> None:
        calls = []

        def backoff(attempt: int, error: Exception) -> float:
            calls.append((attempt, str(error)))
            return 10 * attempt

        flaky = Flaky(2)
        assert (await bounded_gather(flaky, [0], retry=Retry(backoff=backoff))).ok
        assert flaky.times[0] == [0, 10, 30]
        assert calls == [(1, "0 1"), (2, "0 2")]

    in_virtual_time(main())


@pytest.mark.parametrize("hook", ["on", "backoff"])
@pytest.mark.parametrize(
    ("answer", "error", "match"),
    [
        (LookupError("broken"), LookupError, "broken"),
        (lambda: forever(), TypeError, "is called, not awaited"),
    ],
)
async def test_a_hook_that_fails_fails_the_item_with_its_error(
    hook: str, answer: Any, error: type[Exception], match: str
) -> None:
    calls = []

    def broken(*args: Any) -> Any:
        calls.append(args)
        if isinstance(answer, Exception):
            raise answer
        return answer()

    retry = Retry(**{"backoff": AT_ONCE, hook: broken})
    result = await bounded_gather(Flaky(9), [1, 2], retry=retry)
    for one in result:
        assert one.state is TaskState.FAILED
        assert one.attempts == 1
        assert isinstance(one.error, error)
        assert isinstance(one.error.__context__, Boom)
        with pytest.raises(error, match=match):
            one.unwrap()
        if isinstance(answer, Exception):
            break  # it is one object for both items
    assert len(calls) == 2


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), None, "1"])
async def test_a_backoff_that_returns_no_seconds_fails_the_item(seconds: Any) -> None:
    retry = Retry(backoff=lambda *_: seconds)
    (result,) = await bounded_gather(Flaky(9), [1], retry=retry)
    with pytest.raises((TypeError, ValueError), match="what backoff returns must be"):
        result.unwrap()


async def test_an_exit_of_a_hook_ends_the_batch() -> None:
    def on(error: Exception) -> bool:
        raise Fatal

    with pytest.raises(Fatal):
        await bounded_gather(Flaky(9), [1, 2, 3], retry=Retry(on=on))


async def test_a_hook_may_stop_the_batch() -> None:
    def on(error: Exception) -> bool:
        batch.cancel()
        return True

    batch = bounded_gather(Flaky(9), [1], retry=Retry(on=on, backoff=AT_ONCE))
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert isinstance(result[0].error, Boom)


# ----------------------------------------------------- slot, key and progress


def test_the_slot_and_the_key_are_free_while_an_item_waits() -> None:
    async def main() -> None:
        flaky = Flaky(1)
        flaky.seconds = 1.0
        result = await bounded_gather(
            flaky,
            range(10),
            max_concurrent=1,
            limit_by=lambda _: "key",
            retry=Retry(backoff=Backoff(4.0, jitter=0)),
        )
        assert result.ok
        assert result.duration == pytest.approx(20)

    in_virtual_time(main())


def test_an_item_that_waits_has_no_task_and_does_not_run() -> None:
    async def main() -> None:
        batch = bounded_gather(Flaky(1), range(5), retry=Retry(backoff=A_SECOND))
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.5)
        assert len(asyncio.all_tasks()) == 2
        progress = batch.progress
        assert (progress.started, progress.running, progress.done) == (5, 0, 0)
        await waiting

    in_virtual_time(main())


def test_a_stream_yields_the_result_of_the_last_attempt() -> None:
    async def main() -> None:
        batch = bounded_gather(
            Flaky(1), range(50), max_concurrent=3, retry=Retry(backoff=A_SECOND)
        )
        async with batch:
            taken = [(r.index, r.attempts) async for r in batch]
        assert taken == [(i, 2) for i in range(50)]

    in_virtual_time(main())


def test_a_source_is_read_no_further_while_too_many_wait() -> None:
    """Otherwise a service that is down would let the whole source be read."""

    async def main() -> None:
        read = 0

        def source() -> Any:
            nonlocal read
            for i in range(5000):
                read += 1
                yield i

        batch = bounded_gather(
            Flaky(9), source(), max_concurrent=10, on_result=lambda _: None,
            retry=Retry(2, backoff=A_SECOND),
        )  # fmt: skip
        async with batch:
            await asyncio.sleep(0.5)
            assert 1000 <= read <= 1000 + 10
            batch.cancel()

    in_virtual_time(main())


async def test_an_item_that_was_tried_again_is_not_kept() -> None:
    class Item:
        pass

    def source() -> Iterator[Item]:
        for _ in range(20):
            item = Item()
            alive.append(weakref.ref(item))
            yield item
            del item

    async def fn(item: Item) -> None:
        raise Boom

    alive: list[weakref.ref[Item]] = []
    async with bounded_gather(
        fn, source(), retry=Retry(backoff=AT_ONCE), on_result=lambda _: None
    ) as batch:
        pass
    assert batch.progress.failed == 20
    gc.collect()
    assert not any(ref() for ref in alive)


# ------------------------------------------------------------- cancellation


async def test_a_cancellation_is_never_retried() -> None:
    calls = Counter[int]()

    async def fn(item: int) -> None:
        calls[item] += 1
        if item == 0:
            raise asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    result = await bounded_gather(
        fn, [0, 1], retry=Retry(on=lambda _: True, backoff=AT_ONCE)
    )
    assert [r.state for r in result] == [TaskState.CANCELLED] * 2
    assert calls == {0: 1, 1: 1}


@pytest.mark.parametrize("how", ["cancel", "budget", "max_errors", "caller"])
def test_an_item_that_waits_ends_with_the_batch(how: str) -> None:
    async def fn(item: int) -> None:
        if item == 1:
            await asyncio.sleep(2)
        raise Boom(item)

    async def main() -> None:
        batch = bounded_gather(
            fn,
            [0, 1],
            retry=Retry(2, on=lambda e: e.args == (0,), backoff=Backoff(100, jitter=0,
                                                                      max_delay=100)),
            budget=1.0 if how == "budget" else None,
            max_errors=0 if how == "max_errors" else None,
        )  # fmt: skip
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.5)
        if how == "cancel":
            batch.cancel()
        if how == "caller":
            waiting.cancel()
        try:
            result = await waiting
        except BatchError as error:
            result = error.result
        except asyncio.CancelledError:
            result = await batch
        waited = result[0]
        assert result.duration <= 2.0
        assert waited.attempts == 1
        assert waited.timed_out is (how == "budget")
        assert waited.state is (
            TaskState.FAILED if how == "budget" else TaskState.CANCELLED
        )
        assert isinstance(waited.error.__context__, Boom)
        result.failures()

    in_virtual_time(main())


async def test_a_batch_that_is_dropped_while_an_item_waits_is_cancelled() -> None:
    seen: list[TaskResult[Any]] = []
    flaky = Flaky(9)
    batch = bounded_gather(
        flaky, [0], on_result=seen.append, retry=Retry(backoff=Backoff(60, jitter=0))
    )
    iterator = aiter(batch)
    first = asyncio.ensure_future(anext(iterator))  # type: ignore[arg-type]
    await until(lambda: flaky.times)
    first.cancel()
    await settle(5)
    with pytest.warns(ResourceWarning, match="was dropped while it ran"):
        del batch, iterator, first
        gc.collect()
    assert [one.state for one in seen] == [TaskState.CANCELLED]


# ----------------------------------------------------------------- timeouts


def test_attempt_timeout_ends_an_attempt_which_is_tried_again() -> None:
    async def main() -> None:
        calls = []

        async def fn(item: int) -> int:
            calls.append(item)
            await asyncio.sleep(10 if len(calls) == 1 else 0.5)
            return item

        retry = Retry(on=TimeoutError, backoff=A_SECOND, attempt_timeout=2.0)
        result = await bounded_gather(fn, [7], retry=retry)
        assert result.values() == [7]
        assert result.duration == pytest.approx(3.5)
        assert result[0].duration == pytest.approx(3.5)

    in_virtual_time(main())


def test_attempt_timeout_is_a_failure_if_on_says_no() -> None:
    async def main() -> None:
        retry = Retry(on=ValueError, attempt_timeout=2.0)
        (result,) = await bounded_gather(sleep_for, [9], retry=retry)
        assert (result.attempts, result.timed_out) == (1, True)
        assert str(result.error) == "'9' timed out after 2.0 s"

    in_virtual_time(main())


def test_timeout_counts_from_the_first_attempt_with_the_delays() -> None:
    async def main() -> None:
        flaky = Flaky(99)
        flaky.seconds = 1.0
        result = await bounded_gather(
            flaky, [0], timeout=4.5, retry=Retry(99, backoff=A_SECOND)
        )
        assert len(flaky.times[0]) == 3
        assert result.duration == pytest.approx(4.5)
        assert result[0].timed_out
        assert str(result[0].error) == "'0' timed out after 4.5 s"

    in_virtual_time(main())


def test_timeout_ends_an_item_that_waits() -> None:
    async def main() -> None:
        retry = Retry(backoff=Backoff(60, jitter=0, max_delay=60))
        result = await bounded_gather(Flaky(9), [0], timeout=5.0, retry=retry)
        assert result.duration == pytest.approx(5)
        assert (result[0].timed_out, result[0].attempts) == (True, 1)
        assert isinstance(result[0].error.__cause__, Boom)

    in_virtual_time(main())


def test_the_item_timeout_is_not_retried() -> None:
    async def main() -> None:
        result = await bounded_gather(
            sleep_for, [9], timeout=1.0, retry=Retry(backoff=AT_ONCE)
        )
        assert (result[0].attempts, result[0].timed_out) == (1, True)

    in_virtual_time(main())


def test_waiting_for_a_slot_again_counts_for_no_timeout() -> None:
    async def main() -> None:
        async def fn(item: int) -> int:
            calls[item] += 1
            if item == 0 and calls[0] == 1:
                raise Boom
            await asyncio.sleep(5)
            return item

        calls = Counter[int]()
        result = await bounded_gather(
            fn, [0, 1], max_concurrent=1, timeout=6.5, retry=Retry(backoff=A_SECOND)
        )
        assert result.ok
        assert result.duration == pytest.approx(10)

    in_virtual_time(main())


def test_an_attempt_that_does_not_stop_is_abandoned_and_not_retried() -> None:
    async def main() -> None:
        stubborn = Stubborn()
        retry = Retry(on=TimeoutError, attempt_timeout=1.0)
        result = await bounded_gather(stubborn, [0], retry=retry, cancel_grace=1.0)
        assert result[0].state is TaskState.RUNNING
        assert result[0].attempts == len(stubborn.tasks) == 1
        result.failures()
        await stubborn.release()

    in_virtual_time(main())


# -------------------------------------------------------------- a registry


def test_each_attempt_is_registered_under_the_items_id() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        for backoff in (AT_ONCE, A_SECOND):
            result = await bounded_gather(
                Flaky(2), ["a", "b"], registry=registry, retry=Retry(backoff=backoff)
            )
            assert result.ok
            assert {r.attempts for r in result} == {3}
        stats = registry.stats()
        assert (stats.registered, stats.failed, stats.done) == (12, 8, 4)
        assert registry["a"].state is TaskState.DONE

    in_virtual_time(main())


async def test_a_duplicate_id_is_not_retried() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever(), "a")
    (result,) = await bounded_gather(
        echo, ["a"], registry=registry, retry=Retry(backoff=AT_ONCE)
    )
    assert (result.attempts, result.state) == (0, TaskState.FAILED)
    task.cancel()
    await asyncio.wait([task])


def test_a_registry_that_shuts_down_ends_items_that_wait() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        batch = bounded_gather(
            Flaky(9), [0], registry=registry, retry=Retry(backoff=A_SECOND)
        )
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.5)
        task, _ = await registry.register(forever(), "other")
        batch.add(1)
        await asyncio.sleep(0)
        await registry.shutdown()
        result = await waiting
        assert not any(r.success for r in result)
        assert task.cancelled()

    in_virtual_time(main())


# ------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"attempts": 0}, ValueError, "attempts must be 1 or more, got 0"),
        ({"attempts": 2.5}, TypeError, "attempts must be an int, got float"),
        ({"on": asyncio.CancelledError}, TypeError, "a cancellation .* is never tried"),
        ({"on": (ValueError, "x")}, TypeError, "on must be a subclass of Exception"),
        ({"on": ()}, ValueError, "on is \\(\\), so nothing is tried again"),
        ({"on": "ValueError"}, TypeError, "on must be a subclass of Exception"),
        ({"on": echo}, TypeError, "on is called, not awaited"),
        ({"backoff": 1.0}, TypeError, "backoff must be a Backoff .* pass Backoff"),
        ({"backoff": echo}, TypeError, "backoff is called, not awaited"),
        ({"attempt_timeout": 0}, ValueError, "attempt_timeout must be more than 0"),
        ({"attempt_timeout": -1}, ValueError, "attempt_timeout must be more than 0"),
        ({"attempt_timeout": "1"}, TypeError, "attempt_timeout must be a number"),
    ],
)
def test_bad_values_are_refused(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Retry(**options)


@pytest.mark.parametrize("retry", [3, Backoff(), Retry])
def test_what_is_no_retry_is_refused_at_the_call(retry: Any) -> None:
    with pytest.raises(TypeError, match="retry must be a Retry or None, got"):
        bounded_gather(echo, [1], retry=retry)


def test_retry_is_a_value() -> None:
    assert Retry() == Retry(3, Exception, Backoff(), None)
    assert hash(Retry()) == hash(Retry())
