"""bounded_gather among bad arguments, hooks, factories, awaitables and threads."""

import asyncio
import gc
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest

from pyasynclife import Batch, BatchProgress, BatchResult, bounded_gather
from support.children import run_child
from support.coroutines import double, double_later
from support.items import Gated
from support.loops import result_of, settle
from support.marks import needs_eager

BOTH_WAYS = True


# -------------------------------------------------------------- refusals


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
        ({"timeout": "1"}, TypeError, "timeout must be a number of seconds"),
        ({"timeout": True}, TypeError, "got bool True"),
        ({"budget": -0.1}, ValueError, "budget must be 0 or more"),
        ({"budget": math.nan}, ValueError, "got nan"),
        ({"budget": []}, TypeError, "budget must be a number of seconds"),
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
def test_bad_options_are_refused_at_the_call(
    kwargs: Any, error: type[BaseException], says: str
) -> None:
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
def test_bad_sources_are_refused_at_the_call(fn: Any, items: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        bounded_gather(fn, items)


@pytest.mark.parametrize("make", [list, tuple, set, lambda c: dict(enumerate(c))])
def test_coroutines_instead_of_items_are_refused_and_all_closed(
    make: Callable[..., Any],
) -> None:
    coros = make([double(1), double(2)])
    with pytest.raises(TypeError, match=r"bounded_gather\(fetch, urls\)"):
        bounded_gather(double, coros)
    for coro in coros.values() if isinstance(coros, dict) else coros:
        with pytest.raises(RuntimeError, match="cannot reuse already awaited"):
            coro.send(None)


async def test_coroutines_of_a_lazy_source_are_refused_when_pulled() -> None:
    made = []

    def source() -> Iterator[Any]:
        for i in range(3):
            made.append(double(i))
            yield made[-1]

    with pytest.raises(TypeError, match=r"bounded_gather\(fetch, urls\)"):
        await bounded_gather(double, source())
    assert len(made) == 1
    assert made[0].cr_frame is None


def test_a_coroutine_instead_of_the_items_is_refused_and_closed() -> None:
    coro = double(1)
    with pytest.raises(TypeError, match="items is a coroutine"):
        bounded_gather(double, coro)
    assert coro.cr_frame is None


def test_a_huge_limit_buffer_and_timeout_are_as_good_as_none() -> None:
    async def main() -> Any:
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


def test_a_batch_that_is_never_used_does_not_warn() -> None:
    batch = bounded_gather(double, [1])
    assert batch.status is None
    assert batch.progress.started == 0
    del batch


def test_classes_that_only_the_package_instantiates_refuse_a_call() -> None:
    for cls in (Batch, BatchResult, BatchProgress):
        with pytest.raises(TypeError, match="made by pyasynclife"):
            cls()
        with pytest.raises(TypeError):
            type("Sub", (cls,), {})
        assert object.__new__(cls) is not None  # and it can be dropped


def test_the_classes_are_subscriptable() -> None:
    assert Batch[int]
    assert BatchResult[int]


def test_without_a_running_loop_a_batch_is_refused() -> None:
    batch = bounded_gather(double, [1])
    coro = batch.collect()
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        coro.send(None)
    assert asyncio.run(batch.collect()).values() == [2]


# ------------------------------------- hooks, debug mode and eager tasks


def use_every_feature() -> Callable[[], Awaitable[None]]:
    """A small program that uses every feature of a batch."""

    async def fn(x: int) -> list[Any]:
        if x % 3 == 1:
            await asyncio.sleep(0)
        if x % 7 == 3:
            raise ValueError(x)
        if x == 5:
            await asyncio.sleep(5)
        return [x]

    async def source() -> AsyncIterator[int]:
        for i in range(9):
            yield i

    async def collected() -> None:
        result = await bounded_gather(fn, range(20), max_concurrent=3, timeout=1.0)
        assert len(result.failures()) == 4

    async def streamed() -> None:
        seen = []
        async for r in bounded_gather(
            fn, iter(range(20)), max_concurrent=3, timeout=1.0, key=str
        ):
            seen.append(r.task_id)
        assert seen == [str(i) for i in range(20)]

    async def read() -> None:
        result = await bounded_gather(
            fn, source(), timeout=1.0, on_result=lambda r: None
        )
        assert len(result) == 9
        assert len(result.failures()) == 2

    async def main() -> None:
        await asyncio.gather(collected(), streamed(), read())
        async with bounded_gather(
            fn, range(20), budget=0.01, on_result=lambda r: None
        ) as batch:
            async for _ in batch:
                break

    return main


async def test_a_batch_works_when_the_collector_runs_at_every_allocation() -> None:
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        await use_every_feature()()
    finally:
        gc.set_threshold(*before)


@pytest.mark.parametrize("hook", ["settrace", "setprofile"])
async def test_a_batch_works_under_a_trace_function(hook: str) -> None:
    def trace(frame: Any, event: str, arg: object) -> Any:
        return trace

    before = getattr(sys, hook.replace("set", "get"))()
    getattr(sys, hook)(trace)
    try:
        await use_every_feature()()
    finally:
        getattr(sys, hook)(before)


async def test_a_batch_works_in_debug_mode() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 100.0
    try:
        await use_every_feature()()
    finally:
        loop.set_debug(False)


@needs_eager
@pytest.mark.standard_loop_only
async def test_a_batch_works_with_eager_tasks() -> None:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        await use_every_feature()()
    finally:
        loop.set_task_factory(None)


async def test_a_batch_works_with_a_task_factory_of_python_tasks() -> None:
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        return asyncio.tasks._PyTask(coro, loop=loop, **kwargs)

    loop.set_task_factory(factory)
    try:
        await use_every_feature()()
    finally:
        loop.set_task_factory(None)


# ---------------------------------------------- task factories that fail


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_a_task_factory_that_raises_ends_the_batch(after: int) -> None:
    loop = asyncio.get_running_loop()
    made = 0

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        nonlocal made
        made += 1
        if made > after:
            raise LookupError("factory")
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def fn(x: int) -> None:
        await settle(3)

    loop.set_task_factory(factory)
    try:
        with pytest.raises(LookupError, match="factory"):
            await bounded_gather(fn, range(10))
    finally:
        loop.set_task_factory(None)


@pytest.mark.filterwarnings("ignore:Task.set_name:DeprecationWarning")
async def test_a_task_factory_that_gives_no_task_ends_the_batch() -> None:
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **kwargs: Any) -> Any:
        coro.close()
        return object()

    loop.set_task_factory(factory)
    try:
        with pytest.raises(AttributeError):
            await bounded_gather(double, range(10))
    finally:
        loop.set_task_factory(None)


async def test_a_batch_ends_when_no_worker_can_be_made_for_a_retired_one(
    loop_errors: list[dict[str, Any]],
) -> None:
    """The last worker has ended by itself, so no worker is left to end the batch."""

    def refuse(loop: asyncio.AbstractEventLoop, coro: Any, **_: Any) -> None:
        raise OSError("no more tasks")

    async def fn(x: int) -> None:
        loop.set_task_factory(refuse)
        raise ValueError(x)

    loop = asyncio.get_running_loop()
    task = loop.create_task(bounded_gather(fn, range(3), max_concurrent=1).collect())
    try:
        with pytest.raises(OSError, match="no more tasks"):
            await result_of(task)
    finally:
        loop.set_task_factory(None)
    del task
    gc.collect()
    assert [repr(c["exception"]) for c in loop_errors] == ["ValueError(0)"]
    loop_errors.clear()


# ------------------------------------------ hostile awaitables and items


async def test_a_coroutine_that_awaits_itself_is_one_failed_item() -> None:
    async def fn(x: int) -> None:
        box = []

        async def inner() -> None:
            await box[0]

        box.append(inner())
        await box[0]

    (result,) = await bounded_gather(fn, [1])
    assert isinstance(result.error, (RuntimeError, ValueError))


async def test_one_coroutine_for_two_items_fails_one() -> None:
    coro = double_later(1)
    result = await bounded_gather(lambda x: coro, [1, 2])
    assert len(result.failures()) >= 1


class YieldsNonsense:
    def __await__(self) -> Generator[Any, None, Any]:
        yield 42


class AwaitReturnsAnInt:
    def __await__(self) -> int:
        return 5


class AwaitRaises:
    def __await__(self) -> Generator[Any, None, Any]:
        raise LookupError("__await__")


class AwaitsACoroutine:
    def __init__(self) -> None:
        self.coro = double(1)

    def __await__(self) -> Any:
        return self.coro

    def __del__(self) -> None:
        self.coro.close()


@pytest.mark.parametrize(
    ("awaitable", "error"),
    [
        (YieldsNonsense, RuntimeError),
        (AwaitReturnsAnInt, TypeError),
        (AwaitRaises, LookupError),
        (AwaitsACoroutine, TypeError),
    ],
)
async def test_a_bad_awaitable_is_one_failed_item(
    awaitable: Any, error: type[BaseException]
) -> None:
    def fn(x: int) -> Any:
        return awaitable() if x == 1 else double(x)

    result = await bounded_gather(fn, range(4), max_concurrent=1)
    assert isinstance(result[1].error, error)
    assert len(result.successes()) == 3
    gc.collect()


async def test_the_del_of_an_item_may_use_the_batch() -> None:
    class Item:
        def __del__(self) -> None:
            batch.progress  # noqa: B018
            batch.cancel()

    async def fn(x: Any) -> None:
        await asyncio.sleep(0)

    batch = bounded_gather(fn, (Item() for _ in range(10)), max_concurrent=2)
    seen = [r.index async for r in batch]
    assert seen


# ----------------------------------------------- other threads and loops


async def test_another_thread_may_look_but_not_touch() -> None:
    gated = Gated()
    batch = bounded_gather(gated, range(3))
    task = asyncio.create_task(batch.collect())
    await settle(5)

    def touch() -> tuple[int, list[str]]:
        refused = []
        for what in (
            batch.cancel,
            lambda: aiter(batch),
            lambda: batch.add(1),
            batch.close,
            batch.pause,
            batch.resume,
            lambda: setattr(batch, "max_concurrent", 3),
        ):
            try:
                what()
            except RuntimeError as error:
                refused.append(str(error))
        return batch.progress.started, refused

    started, refused = await asyncio.to_thread(touch)
    assert started == 3
    assert len(refused) == 7
    assert all("another thread" in text for text in refused)
    assert batch.max_concurrent == 50
    gated.release()
    assert len(await task) == 3


def test_a_batch_may_be_made_in_one_loop_and_awaited_in_another() -> None:
    batch = bounded_gather(double, [1, 2])
    assert asyncio.run(batch.collect()).values() == [2, 4]
    assert asyncio.run(batch.collect()).values() == [2, 4]


# ----------------------------------------------- exit of the interpreter


@pytest.mark.parametrize(
    "use",
    [
        "asyncio.create_task(batch.collect())",
        "anext(aiter(batch))",
        "await batch.__aenter__()",
    ],
)
def test_an_exit_with_a_batch_alive_prints_nothing(use: str) -> None:
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


def test_an_exit_with_an_unread_result_prints_nothing_after_the_loop() -> None:
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
