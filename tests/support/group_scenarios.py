"""Scenarios that some group gets wrong: each takes the class, and passes or fails.

The module does not import pytest: child processes run the scenarios with asyncio's own
group, and some of them hang.
"""

import asyncio
import contextlib
import contextvars
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from support.coroutines import Boom, forever
from support.loops import settle, task_factory

Scenario = Callable[[Any], Coroutine[Any, Any, None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


async def fail(after: int = 0) -> None:
    await settle(after)
    raise Boom


def me() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task


def cancelling() -> int:
    return me().cancelling()


def eagerly() -> contextlib.AbstractContextManager[None]:
    # asyncio.eager_task_factory, which uvloop passes a keyword too many on 3.13.0
    def factory(loop: Any, coro: Any, eager_start: bool = True, **keywords: Any) -> Any:
        return asyncio.Task(coro, loop=loop, eager_start=True, **keywords)

    return task_factory(factory)


@contextlib.contextmanager
def reported() -> Iterator[list[BaseException]]:
    """The exceptions passed to the loop's exception handler inside the block."""
    errors: list[BaseException] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    try:
        yield errors
    finally:
        loop.set_exception_handler(before)


async def error_of(coro: Coroutine[Any, Any, Any]) -> BaseException:
    """The error that the coroutine raises in a task of its own."""
    task = asyncio.ensure_future(coro)
    await asyncio.wait([task])
    try:
        task.result()
    except BaseException as error:
        return error
    raise AssertionError("it ended without an error")


def is_closed(coro: Any) -> bool:
    return inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


# ------------------------------------------------------------------ failing


@scenario
async def nested_groups_that_fail_in_one_iteration(Group: Any) -> None:
    went_on = False
    try:
        async with Group() as outer:
            try:
                async with Group() as inner:
                    inner.create_task(fail())
                    outer.create_task(fail())
            except* Boom:
                pass
            assert cancelling() == 1
            await asyncio.sleep(0)
            went_on = True
    except* Boom:
        pass
    assert not went_on
    assert cancelling() == 0


@scenario
async def an_outer_cancellation_in_the_iteration_of_a_failure(Group: Any) -> None:
    async def body() -> None:
        try:
            async with Group() as group:
                group.create_task(fail(2))
                await forever()
        except* Boom:
            pass
        await forever()

    task = asyncio.create_task(body())
    await settle(4)
    task.cancel("outer")
    await asyncio.wait([task], timeout=1)
    lost = not task.done()
    task.cancel()
    await asyncio.wait([task])
    assert not lost


@scenario
async def a_failure_under_a_timeout_that_has_expired(Group: Any) -> None:
    async def child() -> None:
        try:
            await forever()
        finally:
            await settle()
            raise Boom

    try:
        async with asyncio.timeout(0.01), Group() as group:
            group.create_task(child())
    except* Boom:
        pass
    assert cancelling() == 0
    await asyncio.sleep(0)  # no cancellation was requested


@scenario
async def a_group_that_failed_at_its_end_leaves_no_cancel_count(Group: Any) -> None:
    try:
        async with Group() as group:
            group.create_task(fail())
            group.create_task(forever())
    except* Boom:
        pass
    assert cancelling() == 0


@scenario
async def a_group_that_failed_eagerly_leaves_no_cancel_count(Group: Any) -> None:
    with eagerly():
        with contextlib.suppress(ExceptionGroup):
            async with Group() as group:
                group.create_task(fail())
        assert cancelling() == 0
        await asyncio.sleep(0)


@scenario
async def a_subclass_of_cancelled_error_is_a_cancellation(Group: Any) -> None:
    class Cancelled(asyncio.CancelledError):
        pass

    async def body() -> None:
        async with Group() as group:
            group.create_task(forever())
            raise Cancelled

    assert type(await error_of(body())) is Cancelled


async def interrupted(Group: Any, error: type[BaseException]) -> None:
    with reported() as errors:
        try:
            async with Group() as group:
                group.create_task(fail())
                with contextlib.suppress(asyncio.CancelledError):
                    await forever()
                raise error
        except error:
            pass
    assert [type(error) for error in errors] == [Boom]
    me().uncancel()  # as in 3.15: after a bare error the count stays


@scenario
async def a_keyboard_interrupt_does_not_bury_errors(Group: Any) -> None:
    await interrupted(Group, KeyboardInterrupt)


@scenario
async def a_system_exit_does_not_bury_errors(Group: Any) -> None:
    await interrupted(Group, SystemExit)


@scenario
async def a_lone_generator_exit_propagates_bare(Group: Any) -> None:
    async def numbers() -> AsyncIterator[int]:
        async with Group() as group:
            group.create_task(settle())
            yield 1

    generator: Any = numbers()
    assert await anext(generator) == 1
    await generator.aclose()


# ------------------------------------------------------------------ eager children


@scenario
async def an_eager_child_starts_a_sibling_that_fails(Group: Any) -> None:
    async def child(group: Any) -> None:
        group.create_task(fail())
        await forever()

    async def body() -> None:
        async with Group() as group:
            group.create_task(child(group))

    with eagerly():
        assert isinstance(await error_of(body()), ExceptionGroup)


@scenario
async def an_eager_child_that_fails_leaves_the_body_alone(Group: Any) -> None:
    went_on = False
    with eagerly(), contextlib.suppress(ExceptionGroup):
        async with Group() as group:
            group.create_task(fail())
            group.create_task(settle())
            went_on = True
    assert went_on
    await asyncio.sleep(0)


@scenario
async def eager_start_is_a_keyword(Group: Any) -> None:
    async def child() -> int:
        return 1

    async with Group() as group:
        task = group.create_task(child(), eager_start=True)
        assert task.done()
        lazy = group.create_task(child(), eager_start=False)
        assert not lazy.done()
    assert lazy.result() == 1


@scenario
async def an_eager_start_in_a_context_entered_already(Group: Any) -> None:
    context = contextvars.copy_context()
    coro = settle()
    refused = False

    def start() -> None:
        group.create_task(coro, context=context, eager_start=True)

    async with Group() as group:
        try:
            context.run(start)
        except RuntimeError:
            refused = True
    assert refused
    assert is_closed(coro)


@scenario
async def an_eager_child_runs_in_its_own_task(Group: Any) -> None:
    async def child() -> Any:
        try:
            async with asyncio.timeout(0):
                await forever()
        except TimeoutError:
            return me()

    with eagerly():
        async with Group() as group:
            task = group.create_task(child())
            await settle(4)
    assert task.result() is task
    assert cancelling() == 0


# ------------------------------------------------------------------ cancel()


@scenario
async def cancel_ends_a_group_without_an_error(Group: Any) -> None:
    async with Group() as group:
        task = group.create_task(forever())
        await asyncio.sleep(0)
        group.cancel()
        await forever()
    assert task.cancelled()
    assert cancelling() == 0
    await asyncio.sleep(0)


@scenario
async def cancel_before_entering(Group: Any) -> None:
    group = Group()
    group.cancel()
    async with group:
        await forever()
    assert cancelling() == 0


@scenario
async def a_cancel_not_delivered_is_absorbed(Group: Any) -> None:
    async with Group() as group:
        group.cancel()
    assert cancelling() == 0
    await asyncio.sleep(0)


@scenario
async def an_eager_child_that_cancels_its_group_is_cancelled(Group: Any) -> None:
    async def child(group: Any) -> None:
        group.cancel()
        await forever()

    async def body() -> None:
        async with Group() as group:
            tasks.append(group.create_task(child(group)))

    tasks: list[Any] = []
    with eagerly():
        await asyncio.wait_for(body(), 2)
    assert tasks[0].cancelled()


async def cancelled_from_outside_after_cancel(
    Group: Any, waits: bool, repeated: int = 1
) -> None:
    stopping, release = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        try:
            await forever()
        finally:
            stopping.set()
            await release.wait()

    async def body() -> None:
        async with Group() as group:
            group.create_task(child())
            await asyncio.sleep(0)
            group.cancel()
            if waits:
                await forever()

    task = asyncio.create_task(body())
    await stopping.wait()
    await settle()
    for number in range(repeated):
        task.cancel(f"message {number}")
        await settle()
    release.set()
    error = await error_of(task)  # type: ignore[arg-type]
    assert isinstance(error, asyncio.CancelledError)
    assert error.args == ("message 0",)


@scenario
async def an_outer_cancellation_survives_cancel_at_the_end(Group: Any) -> None:
    await cancelled_from_outside_after_cancel(Group, waits=False)


@scenario
async def an_outer_cancellation_survives_cancel_in_the_body(Group: Any) -> None:
    await cancelled_from_outside_after_cancel(Group, waits=True)


# ------------------------------------------------------------------ refused


@scenario
async def a_coroutine_refused_after_the_end_is_closed(Group: Any) -> None:
    async with Group() as group:
        pass
    await refused(group, "is finished")


@scenario
async def a_coroutine_refused_before_the_start_is_closed(Group: Any) -> None:
    await refused(Group(), "has not been entered")


@scenario
async def a_coroutine_refused_while_shutting_down_is_closed(Group: Any) -> None:
    try:
        async with Group() as group:
            group.create_task(fail())
            try:
                await forever()
            finally:
                await refused(group, "is shutting down")
    except* Boom:
        pass


@scenario
async def a_child_that_starts_tasks_while_it_is_cancelled(Group: Any) -> None:
    async def child(group: Any) -> None:
        try:
            await forever()
        finally:
            await refused(group, "is shutting down")

    try:
        async with Group() as group:
            group.create_task(child(group))
            group.create_task(fail(1))
    except* Boom:
        pass


@scenario
async def a_coroutine_that_fails_to_close_is_refused_by_its_own_error(
    Group: Any,
) -> None:
    async def stubborn() -> None:
        try:
            await forever()
        finally:
            raise Boom

    async with Group() as group:
        pass
    coro = stubborn()
    coro.send(None)
    try:
        group.create_task(coro)
    except (Boom, RuntimeError):
        pass
    else:
        raise AssertionError("not refused")
    closed = is_closed(coro)
    with contextlib.suppress(Boom):
        coro.close()
    assert closed


@scenario
async def a_coroutine_awaited_already_is_an_error(Group: Any) -> None:
    coro = settle(0)
    await coro

    async def body() -> None:
        async with Group() as group:
            group.create_task(coro)

    error = await error_of(body())
    assert isinstance(error, ExceptionGroup)
    assert [type(each) for each in error.exceptions] == [RuntimeError]


async def refused(group: Any, message: str) -> None:
    coro = settle()
    message_seen = "not refused"
    try:
        group.create_task(coro)
    except RuntimeError as error:
        message_seen = str(error)
    assert message in message_seen
    closed = is_closed(coro)
    coro.close()
    assert closed


# ------------------------------------------------------------------ reference cycles


async def is_freed(Group: Any, raises: Callable[[Any], Any]) -> bool:
    """Whether reference counts alone free the error that a group raised."""

    class Mark(Exception):
        pass

    async def one() -> "weakref.ref[BaseException]":
        caught: BaseException | None = None
        try:
            await raises(Mark)
        except BaseException as error:
            caught = error
        assert caught is not None
        while isinstance(caught, BaseExceptionGroup):
            caught = caught.exceptions[0]
        assert isinstance(caught, Mark | asyncio.CancelledError)
        mark: Any = weakref.ref(caught)
        caught = None
        return mark  # type: ignore[no-any-return]

    gc.collect()
    gc.disable()
    try:
        mark = await asyncio.create_task(one())
        await settle()
        return mark() is None
    finally:
        gc.enable()


@scenario
async def the_error_of_a_child_is_freed(Group: Any) -> None:
    async def raises(Mark: type[Exception]) -> None:
        async def child() -> None:
            await settle()
            raise Mark

        async with Group() as group:
            group.create_task(child())
            await forever()

    assert await is_freed(Group, raises)


@scenario
async def the_error_of_the_body_is_freed(Group: Any) -> None:
    async def raises(Mark: type[Exception]) -> None:
        async with Group() as group:
            group.create_task(forever())
            raise Mark

    assert await is_freed(Group, raises)


@scenario
async def a_base_error_is_freed(Group: Any) -> None:
    freed: list[Any] = []

    async def main() -> None:
        class Stop(SystemExit):
            pass

        mark: Any = None
        try:
            async with Group() as group:
                group.create_task(settle())
                raise Stop
        except Stop as error:
            mark = weakref.ref(error)
        freed.append(mark)

    gc.collect()
    gc.disable()
    try:
        await asyncio.create_task(main())
        await settle()
        assert freed[0]() is None
    finally:
        gc.enable()


@scenario
async def the_outer_cancellation_is_freed(Group: Any) -> None:
    async def raises(Mark: type[Exception]) -> None:
        asyncio.get_running_loop().call_soon(me().cancel)
        async with Group() as group:
            group.create_task(forever())
            await forever()

    assert await is_freed(Group, raises)


@scenario
async def the_failed_child_is_freed(Group: Any) -> None:
    async def one() -> "weakref.ref[Any]":
        task = None
        try:
            async with Group() as group:
                task = weakref.ref(group.create_task(fail(1)))
                await forever()
        except* Boom:
            pass
        assert task is not None
        return task

    gc.collect()
    gc.disable()
    try:
        task = await asyncio.create_task(one())
        await settle()
        assert task() is None
    finally:
        gc.enable()


# ------------------------------------------------------------------ children


@scenario
async def a_child_that_raises_cancelled_error_is_one_child_cancelled(
    Group: Any,
) -> None:
    async def child() -> None:
        raise asyncio.CancelledError

    async with Group() as group:
        one = group.create_task(child())
        other = group.create_task(settle(5))
    assert one.cancelled()
    assert not other.cancelled()


@scenario
async def a_child_that_cancels_itself_and_returns(Group: Any) -> None:
    async def child() -> None:
        me().cancel()

    async with Group() as group:
        one = group.create_task(child())
        other = group.create_task(settle(5))
    assert one.cancelled()
    assert not other.cancelled()
    assert cancelling() == 0


@scenario
async def a_child_that_swallows_its_cancellation_is_waited_for(Group: Any) -> None:
    ended = False

    async def child() -> None:
        nonlocal ended
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
        await settle(3)
        ended = True

    async def body() -> None:
        async with Group() as group:
            tasks.append(group.create_task(child()))
            await forever()

    tasks: list[Any] = []
    task = asyncio.create_task(body())
    await settle(4)
    task.cancel("outer")
    await settle(4)
    assert not task.done()
    tasks[0].cancel()
    error = await error_of(task)  # type: ignore[arg-type]
    assert ended
    assert error.args == ("outer",)


@scenario
async def a_child_may_uncancel_itself(Group: Any) -> None:
    async def child() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            me().uncancel()
        await settle(2)
        return 5

    try:
        async with Group() as group:
            task = group.create_task(child())
            group.create_task(fail(1))
    except* Boom:
        pass
    assert task.result() == 5


@scenario
async def a_child_without_a_reference_is_kept(Group: Any) -> None:
    ended = []

    async def child() -> None:
        future = asyncio.get_running_loop().create_future()
        kept = weakref.ref(future)
        asyncio.get_running_loop().call_later(
            0.02, lambda: (waiting := kept()) and waiting.set_result(None)
        )
        await future
        ended.append(True)

    async with Group() as group:
        group.create_task(child())
        await settle()
        gc.collect()
    assert ended == [True]


@scenario
async def each_child_has_a_context_of_its_own(Group: Any) -> None:
    var = contextvars.ContextVar("var", default=0)
    seen: list[int] = []

    async def child() -> None:
        seen.append(var.get())
        var.set(100)

    async with Group() as group:
        for n in range(3):
            var.set(n)
            group.create_task(child())
    assert seen == [0, 1, 2]
    assert var.get() == 2


# ------------------------------------------------------------------ at every iteration


async def nested(Group: Any, ends: list[str], fails: bool) -> None:
    async def child(name: str, iterations: int) -> None:
        try:
            await settle(iterations)
            if fails and name in ("b", "c"):
                raise Boom
        finally:
            await asyncio.sleep(0)
            ends.append(name)

    try:
        async with Group() as outer:
            outer.create_task(child("a", 6))
            outer.create_task(child("b", 4))
            try:
                async with Group() as inner:
                    inner.create_task(child("c", 3))
                    inner.create_task(child("d", 5))
                    await settle(2)
            except* Boom:
                pass
            await settle(1)
    except* Boom:
        pass
    ends.append("left")
    await asyncio.sleep(0)
    ends.append("end")


async def cancelled_at(Group: Any, iteration: int, again: int, fails: bool) -> str:
    """The rule that was violated, or ""."""
    ends: list[str] = []
    seen = {*asyncio.all_tasks()}
    task = asyncio.create_task(nested(Group, ends, fails))
    await settle(iteration)
    accepted = task.cancel("stop")
    if again:
        await settle(again)
        accepted |= task.cancel("stop")
    await asyncio.wait([task], timeout=2)
    left = asyncio.all_tasks() - seen
    for each in left:
        each.cancel()
    if left:
        await asyncio.wait(left)
        return f"{iteration}+{again}: left running"
    if accepted and not task.cancelled():
        return f"{iteration}+{again}: the cancellation was lost"
    if accepted and "end" in ends:
        return f"{iteration}+{again}: it continued"
    return ""


async def cancelled_at_every_iteration(Group: Any, fails: bool) -> None:
    wrong = []
    with reported() as errors:
        for iteration in range(1, 25):
            for again in range(4):
                wrong.append(await cancelled_at(Group, iteration, again, fails))
        gc.collect()
    wrong = [each for each in wrong if each]
    assert not wrong, (len(wrong), wrong)
    assert not errors, errors


@scenario
async def cancelled_at_every_iteration_of_nested_groups(Group: Any) -> None:
    await cancelled_at_every_iteration(Group, fails=False)


@scenario
async def cancelled_at_every_iteration_of_failing_nested_groups(Group: Any) -> None:
    await cancelled_at_every_iteration(Group, fails=True)
