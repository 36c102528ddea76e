"""TaskGroup: the type, its lifetime and its memory.

It behaves as 3.15's on every version.

create_task() is in test_create_task.py, errors are in test_errors.py, cancellation is
in test_cancel.py; what asyncio's own group gets wrong somewhere is in test_versions.py.
"""

import asyncio
import contextlib
import gc
import inspect
import sys
import tracemalloc
import warnings
import weakref
from typing import Any
from unittest import mock

import pytest

import pyasynclife
from pyasynclife import TaskGroup
from support.coroutines import forever
from support.group_scenarios import fail
from support.loops import settle
from support.marks import needs_eager
from support.memory import objects_left_by

# ------------------------------------------------------------------ the type


def test_the_package_exports_the_group() -> None:
    assert "TaskGroup" in pyasynclife.__all__


def test_the_group_is_a_type_of_its_own() -> None:
    assert not issubclass(TaskGroup, asyncio.TaskGroup)
    assert not callable(TaskGroup())
    assert repr(TaskGroup()) == "<TaskGroup>"
    group = TaskGroup()
    assert weakref.ref(group)() is group
    assert TaskGroup.__module__ == "pyasynclife"
    signature = inspect.signature(TaskGroup.create_task)
    assert str(signature) == "(self, /, coro, *, name=None, context=None, **kwargs)"
    with pytest.raises(TypeError):
        TaskGroup(5)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        group._tasks = frozenset()  # type: ignore[misc]


async def test_repr_is_as_in_asyncio() -> None:
    async with TaskGroup() as group:
        assert repr(group) == "<TaskGroup entered>"
        group.create_task(forever())
        assert repr(group) == "<TaskGroup tasks=1 entered>"
        group.cancel()
        assert repr(group) == "<TaskGroup tasks=1 cancelling>"


async def test_the_repr_of_a_child_names_the_group() -> None:
    async with TaskGroup() as group:
        task = group.create_task(settle())
        await asyncio.sleep(0)  # before its first step the capture holds the callback
        assert "cb=[TaskGroup._on_task_done()]" in repr(task)


async def test_a_group_can_be_subclassed() -> None:
    class Counting(TaskGroup):
        def __init__(self, start: int) -> None:
            super().__init__()
            self.made = start

        def create_task(self, coro: Any, **kwargs: Any) -> Any:
            self.made += 1
            return super().create_task(coro, **kwargs)

    async with Counting(5) as group:
        group.create_task(settle())
        group.create_task(coro=settle())
    assert group.made == 7


# ------------------------------------------------------------------ lifetime


async def test_a_method_of_the_type_can_be_replaced() -> None:
    real = TaskGroup.create_task
    seen: list[str] = []

    def traced(self: TaskGroup, coro: Any, **kwargs: Any) -> Any:
        seen.append(coro.__name__)
        return real(self, coro, **kwargs)

    with mock.patch.object(TaskGroup, "create_task", traced):
        async with TaskGroup() as group:
            await group.create_task(settle())
    assert seen == ["settle"]
    with mock.patch.object(TaskGroup, "create_task", autospec=True) as mocked:
        async with TaskGroup() as group:
            group.create_task("a coroutine")  # type: ignore[arg-type]
    mocked.assert_called_once_with("a coroutine")
    assert TaskGroup.create_task is real
    TaskGroup.label = "x"  # type: ignore[attr-defined]
    assert group.label == "x"  # type: ignore[attr-defined]
    del TaskGroup.label  # type: ignore[attr-defined]


async def test_a_group_can_become_one_of_a_subclass() -> None:
    class Renamed(TaskGroup):
        __slots__ = ()

        def name(self) -> str:
            return "renamed"

    async with TaskGroup() as group:
        group.create_task(settle())
        group.__class__ = Renamed
        assert group.name() == "renamed"  # type: ignore[attr-defined]
        group.create_task(settle())
    with pytest.raises(TypeError):
        group.__class__ = mock.Mock  # type: ignore[assignment]
    kind = weakref.ref(Renamed)
    del group, Renamed
    gc.collect()
    assert kind() is None


@pytest.mark.parametrize("name", ["__aenter__", "__aexit__"])
async def test_an_entry_or_exit_that_is_not_awaited_warns(name: str) -> None:
    args = (None, None, None) if name == "__aexit__" else ()
    with pytest.warns(RuntimeWarning) as warned:
        getattr(TaskGroup(), name)(*args)
    text = f"coroutine 'TaskGroup.{name}' was never awaited"
    assert [str(one.message) for one in warned] == [text]
    getattr(TaskGroup(), name)(*args).close()
    with pytest.raises(ValueError, match="thrown"):
        getattr(TaskGroup(), name)(*args).throw(ValueError("thrown"))


def test_a_warning_of_an_entry_that_is_an_error_is_unraisable() -> None:
    seen: list[Any] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(sys, "unraisablehook", seen.append)
        try:
            raise KeyError
        except KeyError:
            TaskGroup().__aenter__()
        entry: Any = [TaskGroup().__aenter__()]
        entry.append(entry)
        del entry
        gc.collect()
    assert [one.exc_type for one in seen] == [RuntimeWarning] * 2


async def test_children_end_before_the_group_does() -> None:
    async def child(n: int) -> int:
        await settle(n)
        return n

    async with TaskGroup() as group:
        tasks = [group.create_task(child(n)) for n in range(10)]
        assert group._tasks == set(tasks)
    assert [task.result() for task in tasks] == list(range(10))
    assert group._tasks == set()


async def test_an_exit_stack_can_hold_a_group() -> None:
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(TaskGroup())
        task = group.create_task(settle())
    assert task.done()


async def test_entering_twice_is_refused() -> None:
    async with TaskGroup() as group:
        with pytest.raises(RuntimeError, match="has already been entered"):
            await group.__aenter__()


async def test_a_group_cannot_be_entered_outside_a_task() -> None:
    caught: list[BaseException] = []

    def enter() -> None:
        try:
            next(TaskGroup().__aenter__().__await__())
        except RuntimeError as error:
            caught.append(error)

    asyncio.get_running_loop().call_soon(enter)
    await settle()
    assert ["cannot determine the parent task" in str(error) for error in caught]


async def test_a_group_works_under_a_trace_function() -> None:
    sys.settrace(lambda *_: None)
    try:
        async with TaskGroup() as group:
            task = group.create_task(settle())
            await settle()
    finally:
        sys.settrace(None)
    assert task.done()


@pytest.mark.parametrize("factory", ["lazy", pytest.param("eager", marks=needs_eager)])
def test_a_group_works_in_debug_mode(factory: str) -> None:
    async def main() -> None:
        if factory == "eager":
            loop = asyncio.get_running_loop()
            loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore
        with pytest.raises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(settle())
                group.create_task(fail(2))
                await forever()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main(), debug=True)


# ------------------------------------------------------------------ memory


async def bytes_of_a_child(Group: Any, iterations: int, n: int = 2000) -> float:
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(n)]

    async def child(future: asyncio.Future[None]) -> None:
        await future

    gc.collect()
    tracemalloc.start()
    try:
        async with Group() as group:
            before, _ = tracemalloc.get_traced_memory()
            for future in futures:
                group.create_task(child(future))
            await settle(iterations)
            after, _ = tracemalloc.get_traced_memory()
            for future in futures:
                future.set_result(None)
    finally:
        tracemalloc.stop()
    return (after - before) / n


@pytest.mark.parametrize("iterations", [0, 1, 3])
async def test_a_living_child_takes_no_more_memory_than_in_asyncio(
    iterations: int,
) -> None:
    await bytes_of_a_child(
        TaskGroup, iterations
    )  # some objects are created once and kept
    ours = await bytes_of_a_child(TaskGroup, iterations)
    assert ours <= await bytes_of_a_child(asyncio.TaskGroup, iterations)


async def test_an_abandoned_group_is_collected() -> None:
    group = TaskGroup()
    await group.__aenter__()
    task = group.create_task(settle())
    await task
    await settle()
    gone = weakref.ref(group)
    del group
    gc.collect()
    assert gone() is None


async def test_groups_leak_nothing() -> None:
    async def rounds(count: int) -> None:
        for _ in range(count):
            async with TaskGroup() as group:
                group.create_task(settle(1))
            with contextlib.suppress(ExceptionGroup):
                async with TaskGroup() as group:
                    group.create_task(fail(1))
                    group.create_task(forever())
            async with TaskGroup() as group:
                group.create_task(forever())
                group.cancel()

    assert await objects_left_by(rounds) < 50
