"""TaskGroup: 3.15's behaviour on every version.

What asyncio's own group gets wrong somewhere is in test_traps.py.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import sys
import threading
import tracemalloc
import warnings
import weakref
from typing import Any

import pytest

import pyasynclife
from pyasynclife import TaskGroup, _core
from support.coroutines import Boom, forever
from support.group_scenarios import cancelling, fail
from support.loops import settle, task_factory
from support.marks import needs_eager

EAGER = sys.version_info >= (3, 12)


# ------------------------------------------------------------------ memory


async def bytes_of_a_child(Group: Any, turns: int, n: int = 2000) -> float:
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
            await settle(turns)
            after, _ = tracemalloc.get_traced_memory()
            for future in futures:
                future.set_result(None)
    finally:
        tracemalloc.stop()
    return (after - before) / n


@pytest.mark.parametrize("turns", [0, 1, 3])
async def test_a_living_child_takes_no_more_memory_than_in_asyncio(turns: int) -> None:
    await bytes_of_a_child(TaskGroup, turns)  # what is made once is no growth
    ours = await bytes_of_a_child(TaskGroup, turns)
    assert ours <= await bytes_of_a_child(asyncio.TaskGroup, turns)


# ------------------------------------------------------------------ cancelling


@pytest.mark.parametrize("waits", [True, False], ids=["body waits", "body at its end"])
@pytest.mark.parametrize("repeated", [1, 3])
async def test_an_outer_cancellation_survives_cancel(
    waits: bool, repeated: int
) -> None:
    # gh-155433; 3.15.0 loses it where the body waits
    stopping, release = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        try:
            await forever()
        finally:
            stopping.set()
            await release.wait()

    async def body() -> None:
        async with TaskGroup() as group:
            group.create_task(child())
            await asyncio.sleep(0)
            group.cancel()
            if waits:
                await forever()

    task = asyncio.create_task(body())
    await stopping.wait()
    await settle()
    for n in range(repeated):
        task.cancel(f"message {n}")
        await settle()
    release.set()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert ("message 0",) == caught.value.args


async def test_the_very_cancelled_error_leaves_the_group() -> None:
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            async with TaskGroup() as group:
                group.create_task(forever())
                try:
                    await forever()
                except asyncio.CancelledError as error:
                    seen.append(error)
                    raise
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    task = asyncio.create_task(body())
    await settle()
    task.cancel("why")
    await asyncio.wait([task])
    assert seen[0] is seen[1]
    assert ("why",) == seen[0].args


async def test_cancel_ends_children_and_body_without_an_error() -> None:
    async with TaskGroup() as group:
        tasks = [group.create_task(forever()) for _ in range(3)]
        await asyncio.sleep(0)
        group.cancel()
        group.cancel()
        await forever()
    assert all(task.cancelled() for task in tasks)
    assert cancelling() == 0
    group.cancel()
    await asyncio.sleep(0)


async def test_cancel_before_entering_cancels_on_entry() -> None:
    group = TaskGroup()
    group.cancel()
    reached = False
    async with group:
        with pytest.raises(RuntimeError, match="is shutting down"):
            group.create_task(settle())
        await asyncio.sleep(0)
        reached = True
    assert not reached


async def test_an_outer_cancellation_not_delivered_comes_after_the_group() -> None:
    async def body() -> None:
        async with TaskGroup() as group:
            group.cancel()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        await forever()

    task = asyncio.create_task(body())
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()


async def test_children_are_cancelled_in_the_order_they_were_made() -> None:
    order: list[int] = []

    async def child(n: int) -> None:
        try:
            await forever()
        finally:
            order.append(n)

    async with TaskGroup() as group:
        for n in range(20):
            group.create_task(child(n))
        await asyncio.sleep(0)
        group.cancel()
    assert list(range(20)) == order


# ------------------------------------------------------------------ children


async def test_children_end_before_the_group_does() -> None:
    async def child(n: int) -> int:
        await settle(n)
        return n

    async with TaskGroup() as group:
        tasks = [group.create_task(child(n)) for n in range(10)]
        assert group._tasks == set(tasks)
    assert list(range(10)) == [task.result() for task in tasks]
    assert group._tasks == set()


async def test_errors_leave_as_one_group_without_cause() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.create_task(fail())
            group.create_task(fail())
            group.create_task(forever())
    assert "unhandled errors in a TaskGroup" == caught.value.message
    assert [Boom, Boom] == [type(error) for error in caught.value.exceptions]
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert cancelling() == 0


async def test_the_body_s_error_comes_last_and_is_the_context() -> None:
    async def late() -> None:
        try:
            await forever()
        finally:
            raise ValueError

    with pytest.raises(ExceptionGroup) as caught:
        async with TaskGroup() as group:
            group.create_task(late())
            await asyncio.sleep(0)
            raise Boom
    assert [ValueError, Boom] == [type(error) for error in caught.value.exceptions]
    assert isinstance(caught.value.__context__, Boom)


async def test_keywords_are_create_task_s() -> None:
    context = contextvars.copy_context()
    var = contextvars.ContextVar("var", default=0)

    async def child() -> None:
        var.set(1)

    async with TaskGroup() as group:
        task = group.create_task(child(), name="who", context=context)
        other = group.create_task(coro=child(), name=None)
    assert "who" == task.get_name()
    assert other.get_name()
    assert 1 == context[var]


@needs_eager
async def test_an_eager_child_that_has_ended_costs_no_turn() -> None:
    async def child() -> int:
        return 1

    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    asyncio.get_running_loop().call_soon(count)
    async with TaskGroup() as group:
        task = group.create_task(child(), eager_start=True)
        assert task.done()
        assert not group._tasks
    assert 1 == task.result()
    assert 0 == turns
    await asyncio.sleep(0)


@needs_eager
async def test_an_eager_child_goes_on_as_a_task() -> None:
    async def child() -> Any:
        me = asyncio.current_task()
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        return me

    async with TaskGroup() as group:
        task = group.create_task(child(), name="who", eager_start=True)
        lazy = group.create_task(child(), eager_start=False)
        assert {task, lazy} == group._tasks
    assert task.result() is task
    assert lazy.result() is lazy


@needs_eager
async def test_an_eager_child_that_fails_is_handled_later() -> None:
    went_on = False
    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            group.create_task(fail(), eager_start=True)
            went_on = True
            await forever()
    assert went_on
    assert cancelling() == 0


@needs_eager
async def test_an_eager_start_in_a_context_already_entered_is_refused() -> None:
    # gh-157301: in asyncio it hangs the loop
    context = contextvars.copy_context()
    coro = settle()

    async with TaskGroup() as group:

        def create() -> None:
            group.create_task(coro, context=context, eager_start=True)

        with pytest.raises(RuntimeError, match="already entered"):
            context.run(create)
        with pytest.raises(TypeError, match="context is"):
            group.create_task(settle(), context=5, eager_start=True)  # type: ignore
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.skipif(EAGER, reason="3.11 alone has no eager tasks")
async def test_eager_start_names_the_version_that_has_it() -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match=r"3\.12"):
            group.create_task(settle(), eager_start=True)


async def test_interrupts_leave_the_group_bare() -> None:
    with pytest.raises(SystemExit):
        async with TaskGroup() as group:
            group.create_task(forever())
            raise SystemExit


async def test_a_failure_after_an_exit_that_was_thrown_out_is_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    group = TaskGroup()
    await group.__aenter__()
    group.create_task(fail(3))
    leaving = group.__aexit__(None, None, None)
    step = leaving.__await__()
    next(step)
    with pytest.raises(GeneratorExit):
        step.throw(GeneratorExit())
    await settle(6)
    assert [Boom] == [type(context["exception"]) for context in loop_errors]
    assert "parent task" in loop_errors[0]["message"]


# ------------------------------------------------------------------ bad input


async def test_entering_twice_is_refused() -> None:
    async with TaskGroup() as group:
        with pytest.raises(RuntimeError, match="has already been entered"):
            await group.__aenter__()


async def test_create_task_before_entering_closes_the_coroutine() -> None:
    coro = settle()
    with pytest.raises(RuntimeError, match="<TaskGroup> has not been entered"):
        TaskGroup().create_task(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_create_task_while_shutting_down_closes_the_coroutine() -> None:
    async with TaskGroup() as group:
        group.create_task(forever())
        group.cancel()
        coro = settle()
        with pytest.raises(RuntimeError, match="cancelling> is shutting down"):
            group.create_task(coro)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.parametrize("thing", [5, None, "coro", settle])
async def test_create_task_of_something_else_is_a_type_error(thing: Any) -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError):
            group.create_task(thing)
        assert not group._tasks


@pytest.mark.parametrize("arguments", [(), (1, 2)])
async def test_create_task_takes_one_coroutine(arguments: tuple[Any, ...]) -> None:
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="positional argument"):
            group.create_task(*arguments)


async def test_an_unknown_keyword_closes_the_coroutine() -> None:
    coro = settle()
    async with TaskGroup() as group:
        with pytest.raises(TypeError):
            group.create_task(coro, colour="red")
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_another_thread_is_refused() -> None:
    errors: list[BaseException] = []
    coro = settle()

    def other() -> None:
        for call in (lambda: group.create_task(coro), group.cancel):
            try:
                call()
            except RuntimeError as error:
                errors.append(error)

    async with TaskGroup() as group:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert ["call_soon_threadsafe" in str(error) for error in errors] == [True] * 2
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


def test_a_closed_loop_says_so() -> None:
    async def main() -> TaskGroup:
        group = TaskGroup()
        await group.__aenter__()
        return group

    group = asyncio.run(main())
    coro = settle()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        group.create_task(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_task_factory_that_raises_closes_the_coroutine() -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        raise Boom

    coro = settle()
    async with TaskGroup() as group:
        with task_factory(factory), pytest.raises(Boom):
            group.create_task(coro)
        assert not group._tasks
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_task_factory_that_makes_something_else_leaves_nothing() -> None:
    coro = settle()
    async with TaskGroup() as group:
        with (
            task_factory(lambda loop, coro, **kwargs: None),
            pytest.raises(AttributeError),
        ):
            group.create_task(coro)
        assert not group._tasks
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_a_task_factory_sees_what_was_passed_and_no_more() -> None:
    seen: list[dict[str, Any]] = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        seen.append({key for key, value in kwargs.items() if value is not None})
        return asyncio.Task(coro, loop=loop)

    context = contextvars.copy_context()
    async with TaskGroup() as group:
        with task_factory(factory):
            group.create_task(settle())
            group.create_task(settle(), context=context)
    assert [set(), {"context"}] == seen


async def test_a_task_that_is_done_already_can_be_a_child() -> None:
    done = asyncio.create_task(settle(0))
    failed = asyncio.create_task(fail())
    await asyncio.wait([done, failed])
    made = iter([done, failed])

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        coro.close()
        return next(made)

    with pytest.raises(ExceptionGroup):
        async with TaskGroup() as group:
            with task_factory(factory):
                assert group.create_task(settle()) is done
                assert group.create_task(settle()) is failed


# ------------------------------------------------------------------ the type


def test_it_is_a_type_of_its_own() -> None:
    assert not issubclass(TaskGroup, asyncio.TaskGroup)
    assert not callable(TaskGroup())
    assert "<TaskGroup>" == repr(TaskGroup())
    group = TaskGroup()
    assert weakref.ref(group)() is group
    assert "pyasynclife" == TaskGroup.__module__
    signature = inspect.signature(TaskGroup.create_task)
    assert "(self, /, coro, *, name=None, context=None, **kwargs)" == str(signature)
    with pytest.raises(TypeError):
        TaskGroup(5)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        group._tasks = frozenset()  # type: ignore[misc]


async def test_repr_is_asyncio_s() -> None:
    async with TaskGroup() as group:
        assert "<TaskGroup entered>" == repr(group)
        group.create_task(forever())
        assert "<TaskGroup tasks=1 entered>" == repr(group)
        group.cancel()
        assert "<TaskGroup tasks=1 cancelling>" == repr(group)


async def test_it_can_be_subclassed() -> None:
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
    assert 7 == group.made


async def test_an_exit_stack_can_hold_it() -> None:
    async with contextlib.AsyncExitStack() as stack:
        group = await stack.enter_async_context(TaskGroup())
        task = group.create_task(settle())
    assert task.done()


async def test_a_task_repr_names_the_group() -> None:
    async with TaskGroup() as group:
        task = group.create_task(settle())
        await asyncio.sleep(0)  # before its first step the capture has the callback
        assert "cb=[TaskGroup._on_task_done()]" in repr(task)


async def test_outside_a_task_it_cannot_be_entered() -> None:
    caught: list[BaseException] = []

    def enter() -> None:
        try:
            next(TaskGroup().__aenter__().__await__())
        except RuntimeError as error:
            caught.append(error)

    asyncio.get_running_loop().call_soon(enter)
    await settle()
    assert ["cannot determine the parent task" in str(error) for error in caught]


async def test_it_works_under_a_trace_function() -> None:
    sys.settrace(lambda *_: None)
    try:
        async with TaskGroup() as group:
            task = group.create_task(settle())
            await settle()
    finally:
        sys.settrace(None)
    assert task.done()


@pytest.mark.parametrize("factory", ["lazy", pytest.param("eager", marks=needs_eager)])
def test_it_works_in_debug_mode(factory: str) -> None:
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


async def test_a_group_that_is_dropped_half_way_is_collected() -> None:
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

    await rounds(20)
    gc.collect()
    before = len(gc.get_objects())
    await rounds(100)
    gc.collect()
    assert len(gc.get_objects()) - before < 50


@pytest.mark.parametrize("ends", ["well", "badly", "cancelled"])
async def test_no_allocation_that_fails_leaves_a_task_or_hides_an_error(
    ends: str, loop_errors: list[dict[str, Any]]
) -> None:
    fault = getattr(_core, "fail_allocation", None)
    if fault is None:
        pytest.skip("needs a build with fault points")

    async def child(turns: int) -> None:
        await settle(turns)
        ended.append(turns)

    async def life() -> None:
        async with TaskGroup() as group:
            group.create_task(child(1), name="one")
            if ends == "badly":
                group.create_task(fail(1))
            group.create_task(coro=child(0))
            if ends == "cancelled":
                group.cancel()
            await settle(4)
        ended.append(-1)

    for nth in range(1, 100):
        ended: list[int] = []
        loop_errors.clear()
        task = asyncio.create_task(life())
        fault(nth)
        await asyncio.wait([task])
        left = fault(0)
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}, nth
        error = None if task.cancelled() else task.exception()
        if left:
            assert (ends == "badly") == (error is not None)
            return
        # Raised, or told, or there was another way and nothing is missing.
        whole = ended == ([0, 1, -1] if ends == "well" else [-1])
        assert error is not None or loop_errors or whole, nth
    pytest.fail("the faults never ended")


def test_the_package_has_it() -> None:
    assert "TaskGroup" in pyasynclife.__all__
