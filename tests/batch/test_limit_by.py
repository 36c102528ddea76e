"""limit_by: how many items of one key run at once."""

import asyncio
import contextvars
import gc
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator
from typing import Any

import pytest

from pyasynclife import BatchError, BatchStatus, TaskState, bounded_gather
from support.coroutines import Fatal, echo, sleep_for
from support.items import Gated, Stubborn
from support.loops import Iterations, in_virtual_time, settle, until

BOTH_WAYS = True

Item = tuple[Any, float]  # a key, and how long it takes


def key_of(item: tuple[Any, ...]) -> Any:
    return item[0]


class Hosts:
    """Items that are a host and a time, and what ran when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began = self.loop.time()
        self.running: Counter[Any] = Counter()
        self.most: Counter[Any] = Counter()
        self.started: list[Any] = []
        self.ended: dict[Any, float] = {}  # the last of each host

    async def __call__(self, item: Item) -> Any:
        host = item[0]
        self.started.append(item)
        self.running[host] += 1
        self.most[host] = max(self.most[host], self.running[host])
        try:
            await asyncio.sleep(item[1])
        finally:
            self.running[host] -= 1
            self.ended[host] = self.loop.time() - self.began
        return item


# --------------------------------------------------------------- the limit


@pytest.mark.parametrize("max_per_key", [1, 2, 5])
def test_no_more_than_max_per_key_of_a_key_run(max_per_key: int) -> None:
    async def main() -> None:
        hosts = Hosts()
        items = [(i % 3, 1.0) for i in range(30)]
        batch = await bounded_gather(
            hosts, items, limit_by=key_of, max_per_key=max_per_key
        )
        assert batch.values() == items
        assert set(hosts.most.values()) == {max_per_key}
        assert batch.duration == pytest.approx(10 / max_per_key)

    in_virtual_time(main())


def test_one_slow_host_does_not_slow_the_others_down() -> None:
    """A hundred hosts; with a semaphore in the function this took forty times as long.

    The fast hosts are done within a tenth more than without the slow one.
    """

    async def main() -> None:
        for slow in (0.1, 10.0):
            hosts = Hosts()
            items = [(f"host {i % 100}", slow if i % 100 == 7 else 0.1)
                     for i in range(2000)]  # fmt: skip
            await bounded_gather(hosts, items, limit_by=key_of, max_concurrent=50)
            fast = max(hosts.ended[host] for host in hosts.ended if host != "host 7")
            ends.append(fast)

    ends: list[float] = []
    in_virtual_time(main())
    assert ends[1] <= 1.1 * ends[0]


async def test_an_item_that_is_set_aside_has_no_slot_no_task_and_no_coroutine() -> None:
    gated = Gated()
    before = len(asyncio.all_tasks())
    async with bounded_gather(
        gated,
        [("a", i) for i in range(50)] + [("b", 0), ("c", 0)],
        limit_by=key_of,
        max_concurrent=3,
        on_result=lambda _: None,  # so the block does not hold its source back
    ) as batch:
        await until(lambda: gated.now == 3)
        await settle(20)
        assert gated.started == [("a", 0), ("b", 0), ("c", 0)]
        assert len(asyncio.all_tasks()) - before <= 3
        assert batch.progress.started == 3
        assert batch.progress.running == 3
        while len(gated.started) < 52:
            gated.release()
            await settle(10)
        gated.release()
    assert batch.status is BatchStatus.COMPLETED


def test_the_oldest_item_of_a_key_is_first_and_the_keys_take_turns() -> None:
    async def main() -> None:
        hosts = Hosts()
        items = [(key, 1.0, i) for key in "abc" for i in range(4)]
        batch = bounded_gather(hosts, items, limit_by=key_of, max_concurrent=4)
        waiting = asyncio.ensure_future(batch.collect())
        await asyncio.sleep(0.5)
        batch.max_concurrent = 1  # so that one place is free, and three keys have room
        await waiting
        later = [item[::2] for item in hosts.started[3:]]
        for turn in (1, 2, 3):
            three, later = later[:3], later[3:]
            assert sorted(three) == [("a", turn), ("b", turn), ("c", turn)]

    in_virtual_time(main())


async def test_the_key_none_has_no_limit() -> None:
    gated = Gated()
    async with bounded_gather(gated, range(20), limit_by=lambda _: None):
        await until(lambda: gated.now == 20)
        gated.release()


async def test_keys_are_compared_as_a_dict_compares_them() -> None:
    class Same:
        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Same) and self.name == other.name

    gated = Gated()
    keys: list[Hashable] = [1, 1.0, True, Same("x"), Same("x"), Same("y"), 7, (7,)]
    async with bounded_gather(
        gated, range(len(keys)), limit_by=keys.__getitem__
    ) as batch:
        await until(lambda: gated.now == 5)
        await settle(10)
        assert gated.started == [0, 3, 5, 6, 7]
        while batch.progress.done < len(keys):
            gated.release()
            await settle(5)


async def test_a_key_is_forgotten_with_its_last_item() -> None:
    class Key:
        pass

    alive: weakref.WeakSet[Key] = weakref.WeakSet()

    def limit_by(_: object) -> Key:
        key = Key()
        alive.add(key)
        return key

    most = 0

    def on_result(_: object) -> None:
        nonlocal most
        most = max(most, len(alive))

    async with bounded_gather(
        echo, iter(range(1000)), limit_by=limit_by, on_result=on_result
    ):
        pass
    gc.collect()
    assert most <= 60
    assert not alive


async def test_limit_by_runs_in_the_batch_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("caller")
    seen = []

    def limit_by(item: int) -> int:
        seen.append(variable.get())
        variable.set("limit_by")
        return item

    await bounded_gather(echo, [1, 2], limit_by=limit_by)
    assert seen == ["caller", "limit_by"]
    assert variable.get() == "caller"


# --------------------------------------------------------------- lookahead


@pytest.mark.parametrize("lookahead", [1, 3, 100])
async def test_the_source_is_read_no_further_than_lookahead(lookahead: int) -> None:
    read = 0

    def source() -> Iterator[tuple[str, int]]:
        nonlocal read
        for i in range(300):
            read += 1
            yield "same", i

    gated = Gated()
    batch = bounded_gather(
        gated, source(), limit_by=key_of, lookahead=lookahead, on_result=lambda _: None
    )
    async with batch:
        await until(lambda: gated.now == 1)
        for done in range(5):
            await settle(20)
            assert read == 1 + lookahead + done
            gated.release()
            await settle(20)
        batch.cancel()


async def test_a_full_lookahead_stops_an_asynchronous_source() -> None:
    read = 0

    async def source() -> AsyncIterator[tuple[str, int]]:
        nonlocal read
        for i in range(100):
            read += 1
            yield "same", i

    gated = Gated()
    async with bounded_gather(gated, source(), limit_by=key_of, lookahead=5) as batch:
        await until(lambda: gated.now == 1)
        await settle(50)
        assert read <= 1 + 5 + 2  # the reader is one item ahead, and has one in hand
        batch.cancel()


async def test_reading_many_items_that_are_set_aside_lets_the_loop_run() -> None:
    def source() -> Iterator[tuple[str, int]]:
        for i in range(100):
            time.sleep(0.002)
            seen.append(iterations.count)
            yield "same", i

    seen: list[int] = []
    async with Iterations() as iterations:
        await bounded_gather(echo, source(), limit_by=key_of)
    assert len(set(seen)) >= 5


# --------------------------------------------------------- keys that cannot be


class Bad:
    """Keys of which one is bad: item 1."""

    def __init__(self, what: Any) -> None:
        self.what = what

    def __call__(self, item: int) -> Hashable:
        if item != 1:
            return "key"
        if isinstance(self.what, BaseException):
            raise self.what
        return self.what()  # type: ignore[no-any-return]


class NoHash:
    def __hash__(self) -> int:
        raise ValueError("no hash")


class NoEq:
    def __hash__(self) -> int:
        return hash("key")

    def __eq__(self, other: object) -> bool:
        raise ValueError("no eq")


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        (
            lambda: ["x" * 99],
            TypeError,
            r"limit_by must return a hashable key, such as a str or a tuple, got "
            r"list \['x{50,55}\.\.\.$",
        ),
        (NoHash, ValueError, "no hash"),
        (NoEq, ValueError, "no eq"),
        (ValueError("no key"), ValueError, "no key"),
        (echo, TypeError, "limit_by is called, not awaited"),
    ],
)
async def test_an_item_without_a_key_fails_and_no_other(
    what: Any, error: type[Exception], match: str
) -> None:
    called = []

    async def fn(item: int) -> int:
        called.append(item)
        await asyncio.sleep(0)
        return item

    batch = await bounded_gather(fn, range(4), limit_by=Bad(what))
    with pytest.raises(error, match=match):
        batch[1].unwrap()
    assert [r.state for r in batch] == [
        TaskState.DONE, TaskState.FAILED, TaskState.DONE, TaskState.DONE
    ]  # fmt: skip
    assert (batch[1].attempts, batch[1].duration) == (0, 0.0)
    assert called == [0, 2, 3]
    assert batch.status is BatchStatus.COMPLETED


async def test_the_error_of_the_hash_is_the_cause_of_an_unhashable_key() -> None:
    batch = await bounded_gather(echo, range(2), limit_by=Bad(list))
    error = batch[1].error
    assert error is not None
    assert repr(error.__cause__) == """TypeError("unhashable type: 'list'")"""


async def test_items_without_keys_reach_on_result_the_stream_and_max_errors() -> None:
    def limit_by(item: int) -> int:
        raise ValueError(item)

    seen: list[int] = []
    batch = bounded_gather(
        echo, range(100), limit_by=limit_by, max_errors=2, buffer=5,
        on_result=lambda result: seen.append(result.index),
    )  # fmt: skip
    streamed = []
    with pytest.raises(BatchError):
        async for result in batch:
            streamed.append(result.index)
    assert seen == streamed == [0, 1, 2]
    assert batch.progress.failed == 3


async def test_an_exit_of_limit_by_ends_the_batch() -> None:
    batch = bounded_gather(echo, range(5), limit_by=Bad(Fatal()))
    with pytest.raises(Fatal):
        await batch


async def test_limit_by_may_stop_the_batch_of_the_item_that_it_sets_aside() -> None:
    def limit_by(item: int) -> str:
        if item == 3:
            batch.cancel()
        return "key"

    batch = bounded_gather(asyncio.sleep, range(1, 5), limit_by=limit_by)
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert not any(r.success for r in result)
    assert [r.state for r in result[1:]] == 3 * [TaskState.PENDING]


async def test_a_key_may_stop_its_batch_when_it_is_compared() -> None:
    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            batch.cancel()
            return True

    batch = bounded_gather(asyncio.sleep, range(1, 5), limit_by=lambda _: Key())
    assert (await batch).status is BatchStatus.CANCELLED


# ------------------------------------------------------------ with the rest


async def test_items_that_are_set_aside_end_with_the_batch_unstarted() -> None:
    items = [("a", 60.0)] * 5
    batch = bounded_gather(Hosts(), items, limit_by=key_of)
    waiting = asyncio.ensure_future(batch.collect())
    await settle(5)
    batch.cancel()
    result = await waiting
    assert [r.state for r in result] == [TaskState.CANCELLED] + 4 * [TaskState.PENDING]
    assert {r.attempts for r in result} == {0, 1}
    assert batch.progress.started == 1


def test_the_budget_ends_items_that_are_set_aside() -> None:
    async def main() -> None:
        items = [("a", 2.0)] * 5
        result = await bounded_gather(Hosts(), items, limit_by=key_of, budget=5.0)
        assert result.status is BatchStatus.TIMED_OUT
        assert [r.success for r in result] == [True, True, False, False, False]
        assert [r.timed_out for r in result] == [False, False, True, True, True]

    in_virtual_time(main())


def test_waiting_for_a_key_counts_for_no_timeout() -> None:
    async def main() -> None:
        items = [("a", 2.0)] * 5
        result = await bounded_gather(Hosts(), items, limit_by=key_of, timeout=3.0)
        assert result.ok
        assert result.duration == pytest.approx(10)

    in_virtual_time(main())


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("buffer", [0, 1, None])
def test_a_stream_is_at_most_one_item_more_ahead(
    ordered: bool, buffer: int | None
) -> None:
    """In input order, the consumer's next item starts even if the window is full."""

    async def main() -> None:
        hosts = Hosts()
        items = [("slow", 5.0), ("slow", 5.0)] + [(i, 0.1) for i in range(50)]
        taken = []
        batch = bounded_gather(
            hosts, items, limit_by=key_of, max_concurrent=3, ordered=ordered,
            buffer=buffer,
        )  # fmt: skip
        window = 3 + (6 if buffer is None else buffer)
        async with asyncio.timeout(1000), batch:
            async for result in batch:
                taken.append(result.index)
                assert len(hosts.started) - len(taken) <= window + ordered
        assert sorted(taken) == list(range(52))
        assert not ordered or taken == sorted(taken)

    in_virtual_time(main())


def test_a_block_may_become_a_stream_while_items_are_set_aside() -> None:
    async def main() -> None:
        items = [(i % 2, 1.0) for i in range(40)]
        batch = bounded_gather(Hosts(), items, limit_by=key_of, max_concurrent=4)
        taken = []
        async with asyncio.timeout(1000), batch:
            await asyncio.sleep(3.5)
            async for result in batch:
                taken.append(result.index)
        assert taken == list(range(40))

    in_virtual_time(main())


async def test_added_items_have_keys_too() -> None:
    gated = Gated()
    async with bounded_gather(gated, [], limit_by=key_of) as batch:
        for i in range(4):
            batch.add(("a", i))
            batch.add(("b", i))
        await until(lambda: gated.now == 2)
        await settle(10)
        assert gated.started == [("a", 0), ("b", 0)]
        while batch.progress.done < 8:
            gated.release()
            await settle(5)


async def test_nothing_that_was_set_aside_starts_while_the_batch_is_paused() -> None:
    gated = Gated()
    async with bounded_gather(
        gated, [("a", i) for i in range(3)], limit_by=key_of
    ) as batch:
        await until(lambda: gated.now == 1)
        batch.pause()
        gated.release()
        await settle(20)
        assert gated.now == 0
        batch.resume()
        await until(lambda: gated.now == 1)
        gated.release()
        await until(lambda: len(gated.started) == 3)
        gated.release()


def test_an_item_that_is_abandoned_leaves_its_key() -> None:
    async def main() -> None:
        stubborn = Stubborn()

        async def fn(item: tuple[str, int]) -> Any:
            return await stubborn(item) if item[1] == 0 else item

        result = await bounded_gather(
            fn, [("a", 0), ("a", 1)], limit_by=key_of, timeout=1.0, cancel_grace=1.0
        )
        assert [r.state for r in result] == [TaskState.RUNNING, TaskState.DONE]
        result.failures()
        await stubborn.release()

    in_virtual_time(main())


def test_an_item_that_fails_leaves_its_key() -> None:
    async def main() -> None:
        async def fn(item: tuple[str, int]) -> None:
            await sleep_for(1.0)
            raise ValueError(item)

        result = await bounded_gather(fn, [("a", i) for i in range(9)], limit_by=key_of)
        assert len(result.failures()) == 9
        assert result.duration == pytest.approx(9)

    in_virtual_time(main())


# ------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"limit_by": "host"}, TypeError, "limit_by must be a function or None, got"),
        ({"limit_by": echo}, TypeError, "limit_by is called, not awaited"),
        ({"max_per_key": 2}, ValueError, "max_per_key is 2, and there is no limit_by"),
        ({"max_per_key": 0}, ValueError, "max_per_key must be 1 or more, got 0"),
        ({"max_per_key": 1.5}, TypeError, "max_per_key must be an int, got float 1.5"),
        ({"max_per_key": True}, TypeError, "max_per_key must be an int, got bool True"),
        ({"lookahead": 0}, ValueError, "lookahead must be 1 or more, got 0"),
        ({"lookahead": None}, TypeError, "lookahead must be an int, got NoneType"),
    ],
)
def test_bad_options_are_refused_at_the_call(
    options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        bounded_gather(echo, [1], **options)


def test_a_queue_is_read_on_as_soon_as_an_item_set_aside_starts() -> None:
    async def main() -> None:
        queue: asyncio.Queue[tuple[str, float]] = asyncio.Queue()
        starts = []

        async def fn(item: tuple[str, float]) -> None:
            starts.append((item[0], asyncio.get_running_loop().time() - began))
            await asyncio.sleep(item[1])

        batch = bounded_gather(fn, queue, limit_by=lambda item: item[0], lookahead=1)
        began = asyncio.get_running_loop().time()
        queue.put_nowait(("a", 1))
        queue.put_nowait(("a", 50))
        async with batch:
            await asyncio.sleep(0.5)  # the reader waits: an item is set aside
            queue.put_nowait(("b", 1))
            await asyncio.sleep(5)
            assert starts == [("a", 0), ("a", 1), ("b", 1)]
            batch.close()

    in_virtual_time(main())


def test_an_item_after_a_cancelled_one_starts_for_its_ordered_consumer() -> None:
    async def fn(name: str) -> None:
        await asyncio.sleep(2.5 if name == "a0" else 1)

    async def main() -> None:
        batch = bounded_gather(
            fn, [], max_concurrent=3, buffer=0, limit_by=lambda name: name[0]
        )
        jobs = [batch.add(name) for name in ("a0", "a1", "a2", "b0", "b1", "b2")]
        jobs[1].cancel()
        # As a0 is taken, b2 is first in line, and has the last room.
        names = [r.item async for r in batch]
        assert names == ["a0", "a2", "b0", "b1", "b2"]

    in_virtual_time(main())
