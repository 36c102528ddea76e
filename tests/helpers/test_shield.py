"""shielded_operation(): the operation goes on when its caller is cancelled."""

import asyncio
import gc
import warnings
import weakref
from typing import Any

import pytest

from pyasynclife import shielded_operation
from support.coroutines import after, double_later, fail, forever
from support.loops import settle
from support.memory import frees_its_error
from support.tasks import callbacks_of, cancelled_after, create_tasks


async def test_the_operation_goes_on_when_its_caller_is_cancelled_and_is_held() -> None:
    done: list[str] = []
    waited_for: list[weakref.ref[asyncio.Future[None]]] = []

    async def save() -> None:
        future = asyncio.get_running_loop().create_future()
        waited_for.append(weakref.ref(future))
        await future  # only this task refers to it
        done.append("saved")

    task = await cancelled_after(3, lambda: shielded_operation(save()))
    assert task.cancelled()
    del task
    gc.collect()
    future = waited_for[0]()
    assert future is not None
    future.set_result(None)
    await settle()
    assert done == ["saved"]


@pytest.mark.standard_loop_only
async def test_no_timer_is_left_of_a_shield() -> None:
    await shielded_operation(after(2), timeout=1000.0)
    timers = asyncio.get_running_loop()._scheduled
    assert not [timer for timer in timers if not timer.cancelled()]


async def test_the_operation_goes_on_when_the_time_is_up() -> None:
    operation = asyncio.create_task(after(8))
    with pytest.raises(TimeoutError, match="it continues"):
        await shielded_operation(operation, timeout=0)
    assert not operation.done()
    assert await shielded_operation(operation) == "value"
    assert await shielded_operation(operation) == "value"


async def test_the_operations_error_is_raised_in_its_caller() -> None:
    with pytest.raises(ValueError, match="x"):
        await shielded_operation(fail("x"))


async def test_an_error_after_the_caller_has_left_is_reported_once(
    loop_errors: list[dict[str, Any]],
) -> None:
    task = await cancelled_after(
        2, lambda: shielded_operation(after(4, OSError("late")))
    )
    assert task.cancelled()
    await settle(6)
    gc.collect()
    assert [str(context["exception"]) for context in loop_errors] == ["late"]


@pytest.mark.parametrize("make", ["task", "future"])
async def test_callers_leave_one_callback_on_a_long_lived_future_and_then_none(
    make: str,
) -> None:
    if make == "task":
        (operation,) = create_tasks(forever())
    else:
        operation = asyncio.get_running_loop().create_future()
    await settle()
    callers = create_tasks(*(shielded_operation(operation) for _ in range(1000)))
    await settle()
    assert callbacks_of(operation) <= 1
    for caller in callers[:999]:
        caller.cancel()
    await settle()
    assert callbacks_of(operation) == 1
    callers[999].cancel()
    await asyncio.wait(callers)
    assert callbacks_of(operation) == 0
    operation.cancel()
    await settle()


async def test_all_callers_of_one_operation_have_its_value() -> None:
    operation = asyncio.get_running_loop().create_future()
    callers = create_tasks(*(shielded_operation(operation) for _ in range(100)))
    await settle()
    callers[5].cancel()
    operation.set_result("value")
    callers[6].cancel()
    await asyncio.wait(callers)
    assert {n for n, caller in enumerate(callers) if caller.cancelled()} == {5, 6}
    assert {c.result() for c in callers if not c.cancelled()} == {"value"}


async def test_the_last_caller_may_leave_in_the_iteration_in_which_it_ends() -> None:
    operation = asyncio.get_running_loop().create_future()
    (caller,) = create_tasks(shielded_operation(operation))
    await settle()
    caller.cancel()
    operation.set_result("value")
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert await shielded_operation(operation) == "value"


async def test_a_cancelled_operation_cancels_its_caller() -> None:
    (operation,) = create_tasks(forever())
    (caller,) = create_tasks(shielded_operation(operation))
    await settle()
    operation.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


def test_a_future_of_another_loop_is_refused() -> None:
    other = asyncio.new_event_loop()
    future = other.create_future()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="not to the running loop"):
            await shielded_operation(future)

    asyncio.run(main())
    other.close()


async def test_what_cannot_be_awaited_is_refused_and_closed() -> None:
    with pytest.raises(TypeError, match="call it"):
        await shielded_operation(double_later)
    with pytest.raises(ValueError, match="timeout"):
        await shielded_operation(double_later(1), timeout=-1)
    with pytest.raises(TypeError, match="timeout"):
        await shielded_operation(double_later(1), timeout="5")


async def test_a_failed_operation_is_freed_without_the_collector() -> None:
    assert await frees_its_error(shielded_operation)


@pytest.mark.parametrize("kind", ["coroutine", "future"])
def test_no_closed_loop_is_kept_by_a_shield(
    kind: str, loop_errors: list[dict[str, Any]]
) -> None:
    class Payload: ...

    async def ask(payload: Payload) -> None:
        future = asyncio.get_running_loop().create_future()
        operation: Any = future if kind == "future" else asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await shielded_operation(operation, timeout=0.001)

    refs = []
    for _ in range(5):
        loop, payload = asyncio.new_event_loop(), Payload()
        loop.payload = payload  # type: ignore[attr-defined]
        loop.run_until_complete(ask(payload))
        loop.close()
        refs.append(weakref.ref(payload))
        del loop, payload
    asyncio.run(shielded_operation(asyncio.sleep(0.001)))  # another one, on any loop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()
    assert [ref() for ref in refs] == [None] * 5


def test_a_waiter_on_a_loop_that_was_closed_keeps_nothing(
    loop_errors: list[dict[str, Any]],
) -> None:
    class Payload: ...

    async def wait(future: asyncio.Future[None], payload: Payload) -> None:
        await shielded_operation(future)

    async def leave(payload: Payload) -> None:
        future = asyncio.get_running_loop().create_future()
        tasks.append(asyncio.create_task(wait(future, payload)))
        await asyncio.sleep(0)

    tasks: list[Any] = []
    loop, payload = asyncio.new_event_loop(), Payload()
    ref = weakref.ref(payload)
    loop.run_until_complete(leave(payload))
    loop.close()
    tasks.clear()
    del loop, payload
    asyncio.run(shielded_operation(asyncio.sleep(0.001)))
    gc.collect()
    assert ref() is None
