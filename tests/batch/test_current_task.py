"""What libraries do with the Task that they run in, inside items and sources."""

import asyncio
import contextvars

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from pyasynclife import TaskGroup, TaskState, bounded_gather
from support.coroutines import echo_later
from support.loops import settle

BOTH_WAYS = True
var = contextvars.ContextVar("var", default="unset")


# ---------------------------------------------------------------- asyncio


async def test_asyncio_timeout_inside_an_item_is_its_own():
    async def fn(x):
        try:
            async with asyncio.timeout(0.01 if x % 2 else 5):
                await asyncio.sleep(0.05)
        except TimeoutError:
            return asyncio.current_task().cancelling(), "own"
        return asyncio.current_task().cancelling(), "slept"

    result = await bounded_gather(fn, range(6), max_concurrent=2, timeout=5)
    assert result.values() == [(0, "own" if x % 2 else "slept") for x in range(6)]


async def test_an_items_timeout_goes_through_its_inner_ones():
    async def fn(x):
        async with asyncio.timeout(5), asyncio.timeout(6):
            await asyncio.sleep(10)

    result = await bounded_gather(fn, range(4), max_concurrent=2, timeout=0.01)
    assert all(r.timed_out for r in result)
    assert "timed out after 0.01 s" in str(result[0].error)


async def test_wait_for_and_shield_inside_an_item():
    async def fn(x):
        inner = asyncio.create_task(echo_later(x))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(10), 0.01)
        return await asyncio.shield(inner)

    assert (await bounded_gather(fn, range(3))).values() == [0, 1, 2]


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
async def test_nested_groups_inside_an_item(group_type):
    async def fails(x):
        await asyncio.sleep(0)
        raise LookupError(x)

    async def fn(x):
        try:
            async with group_type() as outer:
                outer.create_task(asyncio.sleep(10))
                async with group_type() as inner:
                    inner.create_task(echo_later(x))
                    if x % 2:
                        inner.create_task(fails(x))
                    await asyncio.sleep(0.01)
                raise KeyError(x)
        except* LookupError as group:
            failures = len(group.exceptions)
        return failures, asyncio.current_task().cancelling()

    result = await bounded_gather(fn, range(6), max_concurrent=2)
    assert result.values() == [(1, 0)] * 6


@pytest.mark.parametrize("group_type", [asyncio.TaskGroup, TaskGroup])
async def test_a_batch_inside_a_group_that_fails(group_type):
    ended = []

    async def fn(x):
        try:
            await asyncio.sleep(10)
        finally:
            ended.append(x)

    async def fails():
        await settle(4)
        raise LookupError

    with pytest.raises(ExceptionGroup) as caught:
        async with group_type() as group:
            group.create_task(bounded_gather(fn, range(3)).collect())
            group.create_task(fails())
    assert isinstance(caught.value.exceptions[0], LookupError)
    assert sorted(ended) == [0, 1, 2]


async def test_a_timeout_around_a_batch():
    ended = []

    async def fn(x):
        if x == 2:
            scope.reschedule(asyncio.get_running_loop().time())
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0)
            ended.append(x)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as scope:
            await bounded_gather(fn, range(3))
    assert sorted(ended) == [0, 1, 2]
    assert asyncio.current_task().cancelling() == 0


# ------------------------------------------------------------------ anyio


async def test_anyio_scopes_and_groups_inside_an_item():
    async def fn(x):
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(10)
        assert scope.cancelled_caught
        with anyio.CancelScope() as own:
            own.cancel()
            await anyio.sleep(10)
        results = []

        async def child(n):
            await anyio.lowlevel.checkpoint()
            results.append(n)

        async with anyio.create_task_group() as group:
            group.start_soon(child, x)
            group.start_soon(child, x + 1)
        assert asyncio.current_task().cancelling() == 0
        return sorted(results)

    result = await bounded_gather(fn, range(6), max_concurrent=2, timeout=5)
    assert result.values() == [[x, x + 1] for x in range(6)]


async def test_an_anyio_group_that_fails_inside_an_item():
    async def fails():
        raise LookupError

    async def fn(x):
        async with anyio.create_task_group() as group:
            if x % 2:
                group.start_soon(fails)
            await anyio.sleep(0.01)
        return x

    result = await bounded_gather(fn, range(4), max_concurrent=1)
    assert [r.success for r in result] == [True, False, True, False]
    assert all(isinstance(r.error, ExceptionGroup) for r in result.failures())


async def test_an_items_timeout_goes_through_anyios_scopes():
    async def fn(x):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 10)
            with anyio.fail_after(5):
                await anyio.sleep(10)

    result = await bounded_gather(fn, range(4), max_concurrent=2, timeout=0.02)
    assert [r.state for r in result] == [TaskState.FAILED] * 4
    assert all(r.timed_out for r in result)


@pytest.mark.parametrize("how", ["scope", "group"])
async def test_anyio_around_a_batch_cancels_and_waits(how):
    ended = []

    async def fn(x):
        if how == "scope" and x == 2:
            scope.cancel()
        try:
            await asyncio.sleep(10)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            ended.append(x)

    if how == "scope":
        with anyio.CancelScope() as scope:
            await bounded_gather(fn, range(3))
        assert scope.cancelled_caught
    else:
        async with anyio.create_task_group() as group:
            group.start_soon(bounded_gather(fn, range(3)).collect)
            await settle(5)
            group.cancel_scope.cancel()
    assert sorted(ended) == [0, 1, 2]


async def test_anyio_scopes_and_groups_inside_a_source():
    async def source():
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                for i in range(5):
                    group.start_soon(anyio.sleep, 0)
                    with anyio.move_on_after(0.001):
                        await anyio.sleep(10)
                    yield i

    result = await bounded_gather(echo_later, source(), max_concurrent=2)
    assert result.values() == list(range(5))
    async with bounded_gather(echo_later, source()) as batch:
        async for _ in batch:
            break


async def test_an_anyio_stream_is_a_source():
    send, receive = anyio.create_memory_object_stream[int](0)

    async def produce():
        async with send:
            for i in range(10):
                await send.send(i)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            result = await bounded_gather(echo_later, receive, max_concurrent=2)
    assert result.values() == list(range(10))


async def test_an_anyio_limiter_borrowed_by_an_item_that_gives_it_back():
    limiter = anyio.CapacityLimiter(2)

    async def fn(x):
        async with limiter:
            await asyncio.sleep(0)
        return x

    result = await bounded_gather(fn, range(20), max_concurrent=5)
    assert result.values() == list(range(20))


# ---------------------------------------------------------------- context


async def test_context_variables_of_items_are_their_own():
    async def fn(x):
        assert var.get() == "caller"
        token = var.set(x)
        await asyncio.sleep(0)
        assert var.get() == x
        inner = await asyncio.create_task(read())
        if x % 2:
            var.reset(token)
            assert var.get() == "caller"
        return inner

    async def read():
        return var.get()

    var.set("caller")
    result = await bounded_gather(fn, range(10), max_concurrent=3)
    assert result.values() == list(range(10))
    assert var.get() == "caller"


async def test_a_context_manager_over_an_await_keeps_its_context():
    from contextlib import contextmanager

    @contextmanager
    def bound(value):
        token = var.set(value)
        try:
            yield
        finally:
            var.reset(token)

    async def fn(x):
        with bound(x):
            await asyncio.sleep(0)
            return var.get()

    result = await bounded_gather(fn, range(10), max_concurrent=3, timeout=5)
    assert result.values() == list(range(10))
