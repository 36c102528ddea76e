"""bounded_gather among hostile items, functions, sources, factories and hooks."""

import asyncio
import gc
import sys
import threading

import pytest

from pyasynclife import BatchStatus, TaskState, bounded_gather
from support.children import run_child
from support.coroutines import double, double_later
from support.loops import settle

BOTH_WAYS = True


def use_in_every_way():
    """A small program that goes through the whole of it."""

    async def fn(x):
        if x % 3 == 1:
            await asyncio.sleep(0)
        if x % 7 == 3:
            raise ValueError(x)
        if x == 5:
            await asyncio.sleep(5)
        return [x]

    async def source():
        for i in range(9):
            yield i

    async def collected():
        result = await bounded_gather(fn, range(20), max_concurrent=3, timeout=0.2)
        assert len(result.failures()) == 4

    async def streamed():
        seen = []
        async for r in bounded_gather(
            fn, iter(range(20)), max_concurrent=3, timeout=0.2, key=str
        ):
            seen.append(r.task_id)
        assert seen == [str(i) for i in range(20)]

    async def read():
        result = await bounded_gather(
            fn, source(), timeout=0.2, on_result=lambda r: None
        )
        assert len(result) == 9
        assert len(result.failures()) == 2

    async def main():
        await asyncio.gather(collected(), streamed(), read())
        async with bounded_gather(fn, range(20), budget=0.01) as batch:
            async for _ in batch:
                break

    return main


# ------------------------------------------------------- hooks, factories


async def test_it_works_when_the_collector_runs_at_every_allocation():
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        await use_in_every_way()()
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("hook", ["settrace", "setprofile"])
async def test_it_works_under_a_trace_function(hook):
    def trace(frame, event, arg):
        return trace

    before = getattr(sys, hook.replace("set", "get"))()
    getattr(sys, hook)(trace)
    try:
        await use_in_every_way()()
    finally:
        getattr(sys, hook)(before)


async def test_it_works_in_debug_mode():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 100.0
    try:
        await use_in_every_way()()
    finally:
        loop.set_debug(False)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
@pytest.mark.standard_loop_only
async def test_it_works_with_eager_tasks():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        await use_in_every_way()()
    finally:
        loop.set_task_factory(None)


async def test_it_works_with_a_task_factory_of_python_tasks():
    loop = asyncio.get_running_loop()

    def factory(loop, coro, **kwargs):
        return asyncio.tasks._PyTask(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        await use_in_every_way()()
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_task_factory_that_raises_ends_the_batch(after):
    loop = asyncio.get_running_loop()
    made = 0

    def factory(loop, coro, **kwargs):
        nonlocal made
        made += 1
        if made > after:
            raise LookupError("factory")
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def fn(x):
        await settle(3)

    loop.set_task_factory(factory)
    try:
        with pytest.raises(LookupError, match="factory"):
            await bounded_gather(fn, range(10))
    finally:
        loop.set_task_factory(None)


@pytest.mark.filterwarnings("ignore:Task.set_name:DeprecationWarning")
async def test_a_task_factory_that_gives_no_task_ends_the_batch():
    loop = asyncio.get_running_loop()

    def factory(loop, coro, **kwargs):
        coro.close()
        return object()

    loop.set_task_factory(factory)
    try:
        with pytest.raises(AttributeError):
            await bounded_gather(double, range(10))
    finally:
        loop.set_task_factory(None)


@pytest.mark.parametrize("use", ["await", "iterate"])
async def test_a_clock_that_fails_ends_the_batch(use):
    class Loop(asyncio.SelectorEventLoop):
        broken = False

        def time(self):
            if self.broken:
                self.broken = False
                raise LookupError("clock")
            return super().time()

    def run():
        async def fn(x):
            loop.broken = True
            return x

        async def main():
            batch = bounded_gather(fn, range(10), timeout=5)
            if use == "await":
                await batch
            else:
                [r async for r in batch]

        loop = Loop()
        loop.run_until_complete(settle())
        loop.set_exception_handler(lambda _, context: None)
        try:
            with pytest.raises(LookupError, match="clock"):
                loop.run_until_complete(main())
        finally:
            loop.close()

    await asyncio.to_thread(run)


# ---------------------------------------------------------- hostile items


async def test_a_source_that_uses_the_batch_is_not_re_entered():
    seen = []

    class Source:
        n = 0
        inside = False

        def __iter__(self):
            return self

        def __next__(self):
            assert not self.inside
            self.inside = True
            try:
                self.n += 1
                seen.append(batch.progress.started)
                batch.status  # noqa: B018
                for task in asyncio.all_tasks():
                    coro = task.get_coro()
                    if coro is not None and task is not asyncio.current_task():
                        coro.cr_await  # noqa: B018
                if self.n > 20:
                    raise StopIteration
                return self.n
            finally:
                self.inside = False

    batch = bounded_gather(double_later, Source(), max_concurrent=3)
    assert len(await batch) == 20


async def test_a_source_that_cancels_the_batch_has_its_item_as_never_started():
    def source():
        yield 1
        batch.cancel()
        yield 2
        yield 3

    batch = bounded_gather(double_later, source())
    result = await batch
    assert result[-1].state is TaskState.PENDING
    assert [r.item for r in result] == [1, 2]
    assert result.status is BatchStatus.CANCELLED


async def test_a_source_that_cancels_its_stream_gives_no_item_that_was_not_started(
    way,
):
    def source():
        yield 1
        batch.cancel()
        yield 2

    batch = bounded_gather(double_later, source())
    # A task is made for the first item, and begins in a later turn.
    assert [r.item async for r in batch] == ([1] if way == "workers" else [])


async def test_a_key_that_cancels_the_batch():
    def key(x):
        batch.cancel()
        return str(x)

    batch = bounded_gather(double, [1, 2], key=key)
    assert [r.state for r in await batch] == [TaskState.PENDING] * 2


async def test_on_result_may_cancel_the_batch():
    batch = bounded_gather(double, range(100), on_result=lambda r: batch.cancel())
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert result.progress if hasattr(result, "progress") else True
    assert len(result.successes()) == 1


async def test_a_worker_stepped_by_its_own_item_refuses():
    async def fn(x):
        step = asyncio.current_task().get_coro().cr_await
        errors = []
        for poke in (lambda: step.send(None), lambda: step.throw(ValueError())):
            try:
                poke()
            except BaseException as error:
                errors.append(type(error))
        await asyncio.sleep(0)
        return errors

    result = await bounded_gather(fn, [1])
    assert result[0].success or isinstance(result[0].error, Exception)


async def test_a_worker_stepped_by_another_ones_item():
    waiting = {}

    async def fn(x):
        me = asyncio.current_task()
        if x == 0:
            waiting["coro"] = me.get_coro()
            await asyncio.sleep(0.01)
            return "slept"
        await asyncio.sleep(0)
        if x == 1:
            try:
                waiting["coro"].send(None)
            except BaseException as error:
                return type(error)
        return x

    result = await bounded_gather(fn, range(4), max_concurrent=2)
    assert len(result) == 4
    assert result[3].data == 3


async def test_a_worker_thrown_into_by_another_ones_item():
    waiting = {}

    async def fn(x):
        if x == 0:
            waiting["step"] = asyncio.current_task().get_coro().cr_await
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        if x == 1:
            try:
                step = waiting["coro"] = waiting["step"]
                step.throw(ValueError("thrown"))
            except BaseException as error:
                return type(error)
        return x

    try:
        async with asyncio.timeout(1):
            result = await bounded_gather(fn, range(4), max_concurrent=2)
            assert len(result) == 4
            result.failures()
    finally:
        waiting.clear()


async def test_a_coroutine_that_awaits_itself():
    async def fn(x):
        box = []

        async def inner():
            await box[0]

        box.append(inner())
        await box[0]

    (result,) = await bounded_gather(fn, [1])
    assert isinstance(result.error, (RuntimeError, ValueError))


async def test_one_coroutine_for_two_items():
    coro = double_later(1)
    result = await bounded_gather(lambda x: coro, [1, 2])
    assert len(result.failures()) >= 1


class YieldsNonsense:
    def __await__(self):
        yield 42


class AwaitsNothing:
    def __await__(self):
        return 5


class AwaitRaises:
    def __await__(self):
        raise LookupError("__await__")


class AwaitsACoroutine:
    def __init__(self):
        self.coro = double(1)

    def __await__(self):
        return self.coro

    def __del__(self):
        self.coro.close()


@pytest.mark.parametrize(
    ("awaitable", "error"),
    [
        (YieldsNonsense, RuntimeError),
        (AwaitsNothing, TypeError),
        (AwaitRaises, LookupError),
        (AwaitsACoroutine, TypeError),
    ],
)
async def test_a_bad_awaitable_is_one_failed_item(awaitable, error):
    def fn(x):
        return awaitable() if x == 1 else double(x)

    result = await bounded_gather(fn, range(4), max_concurrent=1)
    assert isinstance(result[1].error, error)
    assert len(result.successes()) == 3
    gc.collect()


async def test_an_iterator_without_throw_gets_its_cancellation():
    class Bare:
        def __init__(self):
            self.inner = asyncio.sleep(10).__await__()

        def __await__(self):
            return self

        def __iter__(self):
            return self

        def __next__(self):
            return next(self.inner)

    (result,) = await bounded_gather(lambda x: Bare(), [1], timeout=0.01)
    assert result.timed_out


async def test_a_generator_based_coroutine_will_do():
    import types

    @types.coroutine
    def fn(x):
        yield
        return x

    (result,) = await bounded_gather(fn, [1])
    assert result.data == 1


async def test_stop_iteration_of_an_item_is_its_error():
    def fn(x):
        raise StopIteration(x)

    async def later(x):
        await asyncio.sleep(0)
        raise StopAsyncIteration(x)

    (result,) = await bounded_gather(fn, [1])
    assert isinstance(result.error, StopIteration)
    (result,) = await bounded_gather(later, [1])
    assert isinstance(result.error, (StopAsyncIteration, RuntimeError))


async def test_values_that_look_like_exceptions_and_tuples_are_values():
    async def fn(x):
        await asyncio.sleep(0)
        return x

    items = [(1, 2), (), ValueError("v"), StopIteration(3), None]
    assert (await bounded_gather(fn, items)).values() == items
    assert [r.data async for r in bounded_gather(fn, items)] == items


async def test_an_item_whose_del_uses_the_batch():
    class Item:
        def __del__(self):
            batch.progress  # noqa: B018
            batch.cancel()

    async def fn(x):
        await asyncio.sleep(0)

    batch = bounded_gather(fn, (Item() for _ in range(10)), max_concurrent=2)
    seen = [r.index async for r in batch]
    assert seen


async def test_an_item_that_never_ends_its_cancellation_is_waited_for():
    swallowed = 0

    async def fn(x):
        nonlocal swallowed
        while swallowed < 3:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                swallowed += 1
        return "done"

    batch = bounded_gather(fn, [1])
    task = asyncio.create_task(batch.collect())
    for _ in range(3):
        await settle(3)
        batch.cancel()
    assert (await task)[0].data == "done"


async def test_a_batch_inside_an_item_of_a_batch():
    async def inner(x):
        return await bounded_gather(double_later, range(x))

    result = await bounded_gather(inner, [1, 2, 3])
    assert [r.values() for r in result.values()] == [[0], [0, 2], [0, 2, 4]]


async def test_an_item_may_use_task_groups_and_timeouts():
    async def fn(x):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            tasks = [group.create_task(double_later(i)) for i in range(3)]
        return [t.result() for t in tasks]

    result = await bounded_gather(fn, range(5), max_concurrent=2)
    assert result.values() == [[0, 2, 4]] * 5


async def test_a_failing_group_inside_an_item_is_its_error():
    async def bad():
        raise ValueError

    async def fn(x):
        async with asyncio.TaskGroup() as group:
            group.create_task(bad())
            await asyncio.sleep(10)

    result = await bounded_gather(fn, range(3), max_concurrent=1)
    assert all(isinstance(r.error, ExceptionGroup) for r in result)


async def test_a_list_that_changes_under_the_batch():
    items = [0, 1, 2]

    async def fn(x):
        if len(items) < 10:
            items.append(len(items))
        await asyncio.sleep(0)
        return x

    assert (await bounded_gather(fn, items, max_concurrent=1)).values() == items
    items[:] = range(10)

    async def clear(x):
        items.clear()
        await asyncio.sleep(0)
        return x

    result = await bounded_gather(clear, items, max_concurrent=2)
    assert result[0].data == 0


async def test_a_range_longer_than_memory_is_pulled_lazily():
    batch = bounded_gather(double, range(10**30), max_concurrent=2)
    count = 0
    async with batch:
        async for _ in batch:
            count += 1
            if count == 10:
                break
    assert count == 10


# -------------------------------------------------------- other threads


async def test_another_thread_may_look_but_not_touch():
    async def fn(x):
        await asyncio.sleep(0.05)

    batch = bounded_gather(fn, [1])
    task = asyncio.create_task(batch.collect())
    await settle(3)
    seen = []

    def other():
        seen.append(batch.progress.started)
        for touch in (batch.cancel, lambda: aiter(batch)):
            try:
                touch()
            except RuntimeError as error:
                seen.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    await task
    assert seen[0] == 1
    assert len(seen) == 3
    assert all("another thread" in text for text in seen[1:])


def test_a_batch_may_be_made_in_one_loop_and_awaited_in_another():
    batch = bounded_gather(double, [1, 2])
    assert asyncio.run(batch.collect()).values() == [2, 4]
    assert asyncio.run(batch.collect()).values() == [2, 4]


# ------------------------------------------------------------------ exits


@pytest.mark.parametrize(
    "use",
    [
        "asyncio.create_task(batch.collect())",
        "anext(aiter(batch))",
        "await batch.__aenter__()",
    ],
)
def test_an_exit_with_a_batch_alive_prints_nothing(use):
    child = run_child(
        f"""
        import asyncio
        from pyasynclife import bounded_gather

        async def fn(x):
            await asyncio.sleep(10)

        async def main():
            global batch, kept
            batch = bounded_gather(fn, range(3), timeout=60, budget=60)
            kept = {use}
            if asyncio.isfuture(kept) is False and hasattr(kept, "send"):
                kept = asyncio.ensure_future(kept)
            for _ in range(5):
                await asyncio.sleep(0)

        asyncio.run(main())
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")


def test_an_exit_with_an_unread_result_prints_nothing_after_the_loop():
    child = run_child(
        """
        import asyncio
        from pyasynclife import bounded_gather

        async def fn(x):
            raise ValueError

        async def main():
            global kept
            kept = await bounded_gather(fn, range(3))

        asyncio.run(main())
        """
    )
    assert (child.returncode, child.stderr) == (0, "")
