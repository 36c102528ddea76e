"""Callbacks and finalizers that use the object that calls them."""

import asyncio
import functools
import gc
import weakref
from typing import Any

from pyasynclife import (
    BatchStatus,
    TaskGroup,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import echo_later, forever, raises
from support.hostile import case
from support.hostile_cases.common import (
    REFUSED,
    Wakes,
    ends_with,
    raise_hostile,
    works,
)
from support.loops import settle, task_factory


@case("on_result that raises")
async def on_result_raises() -> None:
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: reported.append(about["exception"]))
    results = await bounded_gather(echo_later, range(3), on_result=raise_hostile)
    assert results.values() == [0, 1, 2]
    assert [type(error) for error in reported] == [LookupError] * 3
    await works()


@case("on_result that raises an exit")
async def on_result_exits() -> None:
    def exits(_: Any) -> None:
        raise GeneratorExit

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    try:
        await bounded_gather(echo_later, range(3), on_result=exits)
    except GeneratorExit:
        pass
    else:
        raise AssertionError
    await works()


@case("a key that raises")
async def key_raises() -> None:
    await ends_with(LookupError, [1], key=raise_hostile)


@case("a key that gives no str")
async def key_gives_a_number() -> None:
    await ends_with(TypeError, [1], key=lambda item: item)


@case("an fn that gives no awaitable, and one that raises")
async def fn_is_odd() -> None:
    for odd in (lambda _: 42, raise_hostile, lambda _: None, str, lambda _: type):
        (result,) = await bounded_gather(odd, [1])
        assert isinstance(result.error, TypeError | LookupError)
    await works()


@case("an fn that re-enters the batch from its call")
async def fn_reenters() -> None:
    def calls(n: int) -> Any:
        if n == 1:
            batch.cancel()
            batch.cancel("again")
        repr(batch.progress)
        return echo_later(n)

    batch = bounded_gather(calls, range(5), max_concurrent=1)
    assert (await batch).status is BatchStatus.CANCELLED
    await works()


@case("done callbacks that use the registry")
async def callbacks_reenter() -> None:
    registry = TaskRegistry(history=2)

    def uses(task: Any) -> None:
        registry.cancel_all()
        if len(registry) < 5:
            registry.register(echo_later())
        list(registry)
        registry.dump()

    for _ in range(5):
        task, _ = await registry.register(echo_later())
        task.add_done_callback(uses)
    await settle(10)
    registry.cancel_all()
    assert await registry.wait(5)
    await works()


@case("on_finish that uses the registry and then raises")
async def on_finish_reenters() -> None:
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: reported.append(about))

    def uses(meta: Any) -> None:
        if len(reported) < 5:
            registry.register(echo_later())
        registry.cancel_all()
        raise LookupError

    registry = TaskRegistry(history=1, on_finish=uses)
    registry.register(echo_later())
    await settle(30)
    assert await registry.wait(5)
    await works()


@case("results that use the registry when the history drops them")
async def history_reenters() -> None:
    registry = TaskRegistry(history=2)

    def uses() -> None:
        list(registry)
        registry.stats()
        registry.cancel_all()
        if len(registry) < 3 and running:
            registry.register(settle(1))

    running = True

    async def gives_one() -> Wakes:
        return Wakes(uses)

    for _ in range(20):
        registry.register(gives_one())
        await settle(5)
    await registry.shutdown(5)
    await works()
    running = False


@case("results that use the batch when it drops them")
async def stream_reenters() -> None:
    async def gives_one(_: int) -> Wakes:
        return Wakes(lambda: (batch.progress, batch.cancel()))

    batch = bounded_gather(gives_one, range(20), max_concurrent=3, buffer=0)
    async for _ in batch:
        del _
        gc.collect()
    await works()


@case("an error that cancels the group when it is dropped")
async def error_reenters() -> None:
    class Last(Exception):
        def __del__(self) -> None:
            group.cancel()

    group = TaskGroup()
    try:
        async with group:
            group.create_task(raises(Last()))
            group.create_task(raises(Last()))
    except* Last:
        pass
    gc.collect()
    await works()


@case("a child that fails while the group is being left by an exit")
async def group_exit() -> None:
    reported: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, about: reported.append(about))
    try:
        async with TaskGroup() as group:
            group.create_task(raises(ValueError()))
            await asyncio.sleep(0)
            raise GeneratorExit
    except (GeneratorExit, BaseExceptionGroup):
        pass
    await works()


class _Foreign(asyncio.Task[Any]):
    """A Task whose methods call a hook of the case."""

    hook: Any = staticmethod(lambda name, value=None: value)

    def cancelling(self) -> int:
        return self.hook("cancelling", super().cancelling())

    def uncancel(self) -> int:
        return self.hook("uncancel", super().uncancel())

    def __hash__(self) -> int:
        self.hook("hash")
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


def _foreign(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    return _Foreign(coro, loop=loop, **options)


async def _fail_in_a_foreign_task(hook: Any) -> None:
    """Leave a group after a child's failure, its parent being a foreign Task."""

    async def life() -> None:
        group = TaskGroup()
        await group.__aenter__()
        group.create_task(raises(ValueError("child")))
        try:
            await forever()
        except asyncio.CancelledError as error:
            leaving = group.__aexit__(type(error), error, None)
            _Foreign.hook = staticmethod(functools.partial(hook, leaving))
            await leaving

    with task_factory(_foreign):
        task = asyncio.create_task(life())
    try:
        await task
    finally:
        _Foreign.hook = staticmethod(lambda name, value=None: value)


def _stepping_case(method: str, nth: int) -> None:
    @case(f"the parent's {method}() steps the exit again, at call {nth}")
    async def run() -> None:
        calls = 0
        nested: list[BaseException] = []

        def hook(leaving: Any, name: str, value: Any = None) -> Any:
            nonlocal calls
            calls += name == method
            if name == method and calls == nth:
                try:
                    leaving.send(None)
                except BaseException as error:
                    nested.append(error)
            return value

        try:
            await _fail_in_a_foreign_task(hook)
        except BaseExceptionGroup as error:
            nested.append(error)
        assert any(isinstance(error, ExceptionGroup) for error in nested)
        await works()


for _method in ("cancelling", "uncancel"):
    for _nth in (1, 2, 3):
        _stepping_case(_method, _nth)


@case("a parent whose counts are negative")
async def counts_are_negative() -> None:
    def hook(_: Any, name: str, value: Any = None) -> Any:
        return -5 if name == "uncancel" else value

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    try:
        await _fail_in_a_foreign_task(hook)
    except ValueError:
        pass
    else:
        raise AssertionError
    await works()


@case("a child whose hash leaves the group")
async def hash_leaves_the_group() -> None:
    group = TaskGroup()
    await group.__aenter__()
    left: list[Any] = []
    others: list[dict[int, int]] = []

    def hook(name: str, value: Any = None) -> Any:
        if name == "hash" and not left:
            left.append(None)
            try:
                group.__aexit__(None, None, None).send(None)
            except StopIteration as error:
                left.append(error.value)
            others.extend({0: 0} for _ in range(100))
        return value

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        task = _foreign(loop, coro, **options)
        _Foreign.hook = staticmethod(hook)
        return task

    with task_factory(factory):
        task = group.create_task(echo_later(1))
    assert await task == 1
    _Foreign.hook = staticmethod(lambda name, value=None: value)
    assert left == [None, True]
    assert all(len(other) == 1 for other in others)
    await settle()
    assert not group._tasks
    await works()


@case("children that start children while they are cancelled")
async def children_breed() -> None:
    async def breeds(levels: int) -> None:
        try:
            await forever()
        finally:
            if levels:
                coro = breeds(levels - 1)
                try:
                    group.create_task(coro)
                except RuntimeError:
                    coro.close()

    async with TaskGroup() as group:
        group.create_task(breeds(5))
        await settle(5)
        group.cancel()
    await works()


@case("tasks that register more while the registry shuts down")
async def registry_breeds() -> None:
    registry = TaskRegistry()

    async def breeds(levels: int) -> None:
        try:
            await forever()
        finally:
            if levels:
                coro = breeds(levels - 1)
                try:
                    registry.register(coro)
                except REFUSED:
                    coro.close()

    registry.register(breeds(5))
    await settle(5)
    await registry.shutdown(5)
    while len(registry):
        registry.cancel_all()
        await settle(5)
    await works()


@case("weak references whose callbacks come in the middle")
async def weakrefs_reenter() -> None:
    registry = TaskRegistry(history=1)
    reported: list[Any] = []

    def gone(_: Any) -> None:
        reported.append(registry.stats())

    refs = []
    for _ in range(10):
        task, _ = await registry.register(echo_later())
        refs.append(weakref.ref(task, gone))
        del task
        await settle(5)
    gc.collect()
    assert reported
    await works()
