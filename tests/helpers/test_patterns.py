"""The articles' helpers: for every fault of theirs, that ours has it not."""

import asyncio
import contextlib
import gc
import logging
import math
import time
import weakref

import pytest

from pyasynclife import (
    BatchError,
    ShutdownReport,
    TaskResult,
    TaskState,
    add_task_observers,
    cancel_all_tasks,
    cancellation_with_retry,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    monitor_tasks,
    process_batch_with_deadline,
    shielded_operation,
    task_with_individual_timeout,
    wait_for_first_completion,
)
from pyasynclife.testing import VirtualTimeLoop
from support.coroutines import double_later, fail, forever, sleep_for
from support.loops import settle


async def after(turns, value="value"):
    """Return a value, or raise it, after some turns of the loop."""
    await settle(turns)
    if isinstance(value, BaseException):
        raise value
    return value


async def swallow(value="swallowed", times=1):
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await forever()
    return value


class Hook:
    """Remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args if len(args) > 1 else args[0])


def create(*coros):
    return [asyncio.create_task(coro) for coro in coros]


async def cancelled_at(turn, make):
    """Run a coroutine in a task and cancel that after some turns; how it ended."""
    task = asyncio.create_task(make())
    await settle(turn)
    task.cancel("stop")
    await asyncio.wait([task])
    return task


# ---------------------------------------------------------------- many items


async def test_one_failure_stops_no_other_and_each_item_has_a_result():
    async def fn(x):
        return await (fail(x) if x == 2 else double_later(x))

    results = await gather_with_error_handling(fn, [1, 2, 3])
    assert isinstance(results, list)
    assert [2, None, 6] == [r.data for r in results]
    assert ["1", "2", "3"] == [r.task_id for r in results]
    assert isinstance(results[1].error, ValueError)


async def test_an_item_cancelled_by_itself_is_a_result_and_no_bare_exception():
    async def fn(x):
        if x:
            raise asyncio.CancelledError
        return x

    results = await gather_with_error_handling(fn, [0, 1])
    assert all(isinstance(r, TaskResult) for r in results)
    assert [TaskState.DONE, TaskState.CANCELLED] == [r.state for r in results]


async def test_the_articles_function_that_returns_a_taskresult_is_taken():
    async def fetch(symbol):
        return TaskResult(task_id=symbol, success=True, data=150.25)

    (result,) = await gather_with_error_handling(fetch, ["AAPL"])
    assert ("AAPL", True, 150.25) == (result.task_id, result.success, result.data)


def in_virtual_time(main):
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def test_gather_has_a_limit_a_timeout_and_a_budget():
    running = most = 0

    async def fn(seconds):
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            return await sleep_for(seconds)
        finally:
            running -= 1

    items = [0, 1, 50, 60, 70]
    results = in_virtual_time(
        gather_with_timeout_and_budget(fn, items, 30, max_concurrent=2, budget=45)
    )
    assert items == [r.item for r in results.values()]
    assert 2 == most
    assert [True, True, False, False, False] == [r.success for r in results.values()]
    assert all(r.timed_out for r in results.values() if not r.success)
    assert all(type(r.error) is TimeoutError for r in results.values() if not r.success)


async def test_key_tells_items_with_one_id_apart():
    results = await gather_with_timeout_and_budget(
        double_later, [("a", 1), ("b", 1)], key=lambda item: item[0]
    )
    assert ["a", "b"] == list(results)


def test_values_that_are_done_by_the_deadline_are_kept_and_run_at_once():
    async def main():
        values = await process_batch_with_deadline(
            sleep_for, [3, 50, 2, 1, 60], deadline=4
        )
        return values, asyncio.get_running_loop().time()

    assert ([3, 2, 1], 4) == in_virtual_time(main())


async def test_all_values_come_before_the_deadline():
    assert [0, 2, 4] == await process_batch_with_deadline(double_later, range(3))


async def test_a_failure_is_not_silent_and_max_errors_tolerates_it():
    async def fn(x):
        return await (fail(x) if x == 1 else double_later(x))

    with pytest.raises(BatchError) as caught:
        await process_batch_with_deadline(fn, [1, 2])
    assert isinstance(caught.value.exceptions[0], ValueError)
    assert caught.value.result is not None
    assert [0, 4] == await process_batch_with_deadline(fn, range(3), max_errors=1)
    assert [0, 4] == await process_batch_with_deadline(fn, range(3), max_errors=None)


GATHERS = [
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    process_batch_with_deadline,
]


@pytest.mark.parametrize("helper", GATHERS)
@pytest.mark.parametrize("turn", range(6))
async def test_a_cancellation_is_passed_on_and_never_a_value(helper, turn):
    started, ended = [], []

    async def fn(x):
        started.append(x)
        try:
            await forever()
        finally:
            ended.append(x)

    task = await cancelled_at(turn, lambda: helper(fn, [1, 2]))
    assert task.cancelled()
    assert started == ended
    assert turn < 4 or [1, 2] == started
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task


@pytest.mark.parametrize("helper", GATHERS)
async def test_the_articles_call_is_told_to_pass_the_function_first(helper):
    with pytest.raises(TypeError, match="pass the function first"):
        await helper(["AAPL", "MSFT"])
    with pytest.raises(TypeError, match=r"got str 'AAPL'.*pass the function first"):
        await helper("AAPL", 5.0)
    with pytest.raises(TypeError, match="there are no items"):
        await helper(double_later)
    with pytest.raises(TypeError, match="wrap it in a list"):
        await helper(double_later, "AAPL")
    with pytest.raises(TypeError, match="pass the function first"):
        await helper(double_later(1), [1])  # and the coroutine is closed


# ---------------------------------------------------------------- a race


@pytest.mark.parametrize("winner", range(3))
async def test_the_index_is_the_winners_and_the_losers_have_ended(winner):
    ended = []

    async def run(index):
        try:
            if index != winner:
                await forever()
            await settle(3)
            return f"value {index}"
        finally:
            await settle(2)  # they are awaited
            ended.append(index)

    coros = [run(index) for index in range(3)]
    assert (winner, f"value {winner}") == await wait_for_first_completion(coros)
    assert [0, 1, 2] == sorted(ended)
    assert winner == ended[0]


async def test_of_two_in_one_turn_the_first_to_end_wins():
    coros = [after(2, "a"), after(1, "b"), after(1, "c")]
    assert (1, "b") == await wait_for_first_completion(coros)


async def test_a_value_is_handed_out_as_it_is():
    value = TaskResult("x", True, 1)
    assert (0, value) == await wait_for_first_completion([after(0, value)])


async def test_time_up_is_a_timeouterror_and_nothing_runs_on():
    ended = []

    async def run(index):
        try:
            await forever()
        finally:
            ended.append(index)

    with pytest.raises(TimeoutError, match=r"none of 2 .* within 0.01 s"):
        await wait_for_first_completion([run(0), run(1)], 0.01)
    assert [0, 1] == ended


async def test_no_time_at_all_starts_nothing_and_closes_all():
    with pytest.raises(TimeoutError):
        await wait_for_first_completion([forever(), forever()], 0)
    gc.collect()  # "never awaited" would be an error


async def test_one_that_keeps_its_value_when_the_time_is_up_wins():
    coros = [forever(), swallow("kept")]
    assert (1, "kept") == await wait_for_first_completion(coros, 0.01)


async def test_the_first_to_end_may_fail():
    with pytest.raises(ValueError, match="first"):
        await wait_for_first_completion([forever(), after(1, ValueError("first"))])


async def test_what_a_loser_raises_is_told(loop_errors):
    async def run():
        try:
            await forever()
        finally:
            raise OSError("cleanup")

    assert (1, "ok") == await wait_for_first_completion([run(), after(1, "ok")])
    (context,) = loop_errors
    assert isinstance(context["exception"], OSError)
    assert "number 0" in context["message"]


async def test_one_that_cancels_itself_is_out_of_the_race():
    coros = [after(0, asyncio.CancelledError()), after(3, "ok")]
    assert (1, "ok") == await wait_for_first_completion(coros)
    with pytest.raises(asyncio.CancelledError):
        await wait_for_first_completion([after(0, asyncio.CancelledError())])


@pytest.mark.parametrize("turn", range(8))
async def test_a_race_cancelled_at_any_turn_ends_all_of_it(turn):
    async def race():
        return await wait_for_first_completion([forever(), swallow(), after(4)], 9.0)

    task = await cancelled_at(turn, race)
    if not task.cancelled():
        assert (2, "value") == task.result()
        assert turn > 4
    gc.collect()


async def test_a_failed_race_is_freed_without_the_collector():
    class Special(Exception):
        def __init__(self):
            ref.append(weakref.ref(self))

    async def run():
        raise Special

    ref = []
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(Special):
            await wait_for_first_completion([asyncio.create_task(run()), forever()])
        await settle()
        assert ref[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("coros", "what"),
    [
        (list, "empty"),
        (lambda: [double_later], "call the function"),
        (lambda: [double_later(1), 5], "call the function"),
        (lambda: double_later(1), "in a list"),
        (lambda: 5, "in a list"),
    ],
)
async def test_what_cannot_race_is_refused(coros, what):
    with pytest.raises((TypeError, ValueError), match=what):
        await wait_for_first_completion(coros())


async def test_two_coroutines_instead_of_a_list_are_closed():
    with pytest.raises(TypeError, match="in a list"):
        await wait_for_first_completion(double_later(1), 5.0)
    with pytest.raises(TypeError, match="timeout must be a number"):
        await wait_for_first_completion([double_later(1)], double_later(2))


# ---------------------------------------------------------------- a time limit


async def test_it_is_cancelled_when_its_time_is_up():
    with pytest.raises(TimeoutError, match=r"not done within 0.01 s"):
        await task_with_individual_timeout(forever(), 0.01)
    assert "value" == await task_with_individual_timeout(after(1))
    assert "value" == await task_with_individual_timeout(after(1), math.inf)


async def test_its_own_timeouterror_and_its_other_errors_are_its_own():
    with pytest.raises(TimeoutError, match="its own"):
        await task_with_individual_timeout(after(1, TimeoutError("its own")))
    with pytest.raises(ValueError, match="x"):
        await task_with_individual_timeout(fail("x"))


async def test_one_that_swallows_its_timeout_keeps_its_value():
    assert "swallowed" == await task_with_individual_timeout(swallow(), 0.01)


@pytest.mark.parametrize("timeout", [0, 1e-9, 5.0])
async def test_a_cancellation_from_before_is_not_eaten(timeout):
    async def work():
        asyncio.current_task().cancel("before")
        await task_with_individual_timeout(forever(), timeout)

    with pytest.raises(asyncio.CancelledError, match="before"):
        await asyncio.create_task(work())
    gc.collect()


async def test_done_and_cancelled_in_one_turn_is_cancelled():
    done = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(task_with_individual_timeout(done, 5.0))
    await settle()
    done.set_result("value")
    task.cancel("stop")
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task


async def test_the_limit_leaves_no_cancel_count_behind():
    async def work():
        with contextlib.suppress(TimeoutError):
            await task_with_individual_timeout(forever(), 0.001)
        return asyncio.current_task().cancelling()

    assert 0 == await asyncio.create_task(work())


@pytest.mark.parametrize("helper", [task_with_individual_timeout, shielded_operation])
async def test_what_cannot_be_awaited_is_refused_and_closed(helper):
    with pytest.raises(TypeError, match="call it"):
        await helper(double_later)
    with pytest.raises(ValueError, match="timeout"):
        await helper(double_later(1), timeout=-1)
    with pytest.raises(TypeError, match="timeout"):
        await helper(double_later(1), timeout="5")


# ---------------------------------------------------------------- a retry


async def test_the_function_is_called_again_for_each_attempt():
    attempts = []

    async def work():
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError(f"attempt {len(attempts)}")
        return "ok"

    assert "ok" == await cancellation_with_retry(work, 3, 0)
    attempts.clear()
    with pytest.raises(OSError, match="attempt 2"):
        await cancellation_with_retry(work, 2, 0)


def test_the_delay_lies_between_attempts_alone():
    async def main():
        with pytest.raises(ValueError, match="x"):
            await cancellation_with_retry(lambda: fail("x"), 3, 1000)
        return asyncio.get_running_loop().time()

    assert 2000 == in_virtual_time(main())


@pytest.mark.parametrize("turn", range(1, 5))
async def test_a_cancellation_is_passed_on_and_not_retried(turn):
    """In an attempt, and in the delay."""
    calls = []

    def work():
        calls.append(1)
        return forever() if turn % 2 else fail("x")

    task = await cancelled_at(turn, lambda: cancellation_with_retry(work, 5, 1000.0))
    assert task.cancelled()
    assert 1 == len(calls)


async def test_a_cancellederror_of_the_attempt_itself_is_not_retried():
    calls = []

    async def work():
        calls.append(1)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await cancellation_with_retry(work, 5, 0)
    assert 1 == len(calls)


async def test_only_what_retry_on_says_is_retried():
    calls = []

    def work():
        calls.append(1)
        raise KeyError("k")  # by the call itself

    with pytest.raises(KeyError):
        await cancellation_with_retry(work, 5, 0, retry_on=(OSError, ValueError))
    assert 1 == len(calls)
    with pytest.raises(KeyError):
        await cancellation_with_retry(work, 5, 0, retry_on=LookupError)
    assert 6 == len(calls)


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((["a"],), {}, "pass the function first"),
        ((double_later, 0), {}, "max_retries must be 1 or more, got 0"),
        ((double_later, True), {}, "max_retries must be an int"),
        ((double_later, 1, -1), {}, "retry_delay"),
        ((double_later,), {"retry_on": BaseException}, "never retried"),
        (
            (double_later,),
            {"retry_on": (OSError, asyncio.CancelledError)},
            "never retried",
        ),
        ((double_later,), {"retry_on": "x"}, "retry_on"),
        ((lambda: 5,), {}, "cannot be awaited"),
    ],
)
async def test_what_cannot_be_retried_is_refused(args, kwargs, what):
    with pytest.raises((TypeError, ValueError), match=what):
        await cancellation_with_retry(*args, **kwargs)


async def test_the_articles_coroutine_is_refused_and_closed():
    with pytest.raises(TypeError, match=r"a coroutine: pass the function first"):
        await cancellation_with_retry(double_later(1))


# ---------------------------------------------------------------- a shield


async def test_the_operation_goes_on_when_its_caller_is_cancelled_and_is_held():
    done = []

    async def save():
        future = asyncio.get_running_loop().create_future()
        waited_for.append(weakref.ref(future))
        await future  # nobody but this task knows it
        done.append("saved")

    waited_for = []
    task = await cancelled_at(3, lambda: shielded_operation(save()))
    assert task.cancelled()
    del task
    gc.collect()
    waited_for[0]().set_result(None)
    await settle()
    assert ["saved"] == done


@pytest.mark.standard_loop_only
async def test_no_timer_is_left_of_a_shield():
    await shielded_operation(after(2), timeout=1000.0)
    timers = asyncio.get_running_loop()._scheduled
    assert not [timer for timer in timers if not timer.cancelled()]


async def test_the_operation_goes_on_when_the_time_is_up():
    operation = asyncio.create_task(after(8))
    with pytest.raises(TimeoutError, match="it goes on"):
        await shielded_operation(operation, timeout=0)
    assert not operation.done()
    assert "value" == await shielded_operation(operation)
    assert "value" == await shielded_operation(operation)


async def test_its_error_is_the_callers():
    with pytest.raises(ValueError, match="x"):
        await shielded_operation(fail("x"))


async def test_an_error_after_the_caller_has_left_is_told_once(loop_errors):
    task = await cancelled_at(2, lambda: shielded_operation(after(4, OSError("late"))))
    assert task.cancelled()
    await settle(6)
    gc.collect()
    assert ["late"] == [str(context["exception"]) for context in loop_errors]


async def test_a_failed_operation_is_freed_without_the_collector():
    class Special(Exception):
        def __init__(self):
            ref.append(weakref.ref(self))

    async def run():
        raise Special

    ref = []
    for helper in (shielded_operation, task_with_individual_timeout):
        gc.collect()
        gc.disable()
        try:
            with contextlib.suppress(Special):
                await helper(asyncio.create_task(run()))
            await settle()
            assert ref.pop()() is None
        finally:
            gc.enable()


def callbacks_of(future):
    return len(future._callbacks or ())


@pytest.mark.parametrize("make", ["task", "future"])
async def test_callers_leave_one_callback_on_a_long_lived_future_and_then_none(make):
    if make == "task":
        (operation,) = create(forever())
    else:
        operation = asyncio.get_running_loop().create_future()
    await settle()
    callers = create(*(shielded_operation(operation) for _ in range(1000)))
    await settle()
    assert callbacks_of(operation) <= 1
    for caller in callers[:999]:
        caller.cancel()
    await settle()
    assert 1 == callbacks_of(operation)
    callers[999].cancel()
    await asyncio.wait(callers)
    assert 0 == callbacks_of(operation)
    operation.cancel()
    await settle()


async def test_all_callers_of_one_operation_have_its_value():
    operation = asyncio.get_running_loop().create_future()
    callers = create(*(shielded_operation(operation) for _ in range(100)))
    await settle()
    callers[5].cancel()
    operation.set_result("value")
    callers[6].cancel()
    await asyncio.wait(callers)
    assert {5, 6} == {n for n, caller in enumerate(callers) if caller.cancelled()}
    assert {"value"} == {c.result() for c in callers if not c.cancelled()}


async def test_the_last_caller_may_leave_in_the_turn_in_which_it_ends():
    operation = asyncio.get_running_loop().create_future()
    (caller,) = create(shielded_operation(operation))
    await settle()
    caller.cancel()
    operation.set_result("value")
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert "value" == await shielded_operation(operation)


async def test_an_operation_that_is_cancelled_says_so():
    (operation,) = create(forever())
    (caller,) = create(shielded_operation(operation))
    await settle()
    operation.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


def test_a_future_of_another_loop_is_refused():
    other = asyncio.new_event_loop()
    future = other.create_future()

    async def main():
        with pytest.raises(RuntimeError, match="another loop"):
            await shielded_operation(future)

    asyncio.run(main())
    other.close()


# ---------------------------------------------------------------- observers


async def test_cancel_all_tasks_cancels_at_once_and_reports():
    tasks = create(forever(), after(0), swallow())
    await settle()
    began = time.monotonic()
    report = await cancel_all_tasks([*tasks, tasks[0], asyncio.current_task()])
    assert isinstance(report, ShutdownReport)
    assert [1, 1, 1] == [
        len(part) for part in (report.cancelled, report.finished, report.swallowed)
    ]
    assert report.ok
    assert time.monotonic() - began < 5


async def test_cancel_all_tasks_comes_back_from_one_that_runs_on():
    tasks = create(swallow(times=2), forever())
    await settle()
    report = await cancel_all_tasks(tasks, timeout=0.05)
    assert 1 == len(report.stuck)
    assert 1 == len(report.cancelled)
    assert not report.deadline_met
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_cancel_all_tasks_refuses_before_it_cancels():
    (task,) = create(forever())
    await settle()
    with pytest.raises(TypeError, match=r"expected an asyncio.Task"):
        await cancel_all_tasks([task, "x"])
    with pytest.raises(ValueError, match="timeout"):
        await cancel_all_tasks([task], timeout=-1)
    await settle()
    assert not task.done()
    await cancel_all_tasks([task])


async def test_the_monitor_counts_cancelled_and_failed_tasks_and_goes_on():
    tasks = create(forever(), fail("x"), after(0), forever())
    tasks[0].cancel()
    hook = Hook()
    (monitor,) = create(monitor_tasks(tasks, 0.01, report=hook))
    await asyncio.sleep(0.05)
    assert not monitor.done()
    tasks[3].cancel()
    await monitor
    running, ended = hook.calls[0]
    assert 1 == running
    assert {TaskState.CANCELLED, TaskState.FAILED, TaskState.DONE} == {
        result.state for result in ended
    }
    assert {tasks[0], tasks[1], tasks[2]} == {result.item for result in ended}
    assert (0, 1) == (hook.calls[-1][0], len(hook.calls[-1][1]))
    assert 4 == sum(len(ended) for _, ended in hook.calls)


async def test_the_monitor_reports_at_the_interval_and_not_at_every_end():
    tasks = create(*(after(turn) for turn in range(50)))
    hook = Hook()
    await monitor_tasks(tasks, 60.0, report=hook)
    ((running, ended),) = hook.calls
    assert (0, 50) == (running, len(ended))


async def test_a_cancelled_monitor_leaves_nothing_on_the_tasks():
    tasks = create(forever(), forever())
    await settle()
    monitor = await cancelled_at(3, lambda: monitor_tasks(tasks, 60.0))
    assert monitor.cancelled()
    assert [0, 0] == [callbacks_of(task) for task in tasks]
    assert not any(task.cancelling() for task in tasks)
    await cancel_all_tasks(tasks)


async def test_a_report_that_raises_does_not_end_the_monitor(loop_errors):
    def report(running, ended):
        raise LookupError("report")

    (task,) = create(sleep_for(0.05))
    await monitor_tasks([task], 0.01, report=report)
    assert len(loop_errors) > 1
    assert {LookupError} == {type(context["exception"]) for context in loop_errors}


async def test_the_monitor_of_itself_or_of_nothing_ends():
    await monitor_tasks([], report=pytest.fail)
    await monitor_tasks([asyncio.current_task()], report=pytest.fail)


async def test_observers_get_a_result_of_each_task_whatever_became_of_it():
    hook = Hook()
    tasks = create(after(1), after(1, ValueError("x")), forever())
    add_task_observers(tasks, hook)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await settle()
    by_task = {result.item: result for result in hook.calls}
    assert ["value", None, None] == [by_task[task].data for task in tasks]
    assert isinstance(by_task[tasks[1]].error, ValueError)
    assert isinstance(by_task[tasks[2]].error, asyncio.CancelledError)
    assert [task.get_name() for task in tasks] == [by_task[t].task_id for t in tasks]


async def test_an_observer_does_not_take_the_error_from_who_awaits():
    (task,) = create(after(1, ValueError("x")))
    add_task_observers([task], Hook())
    with pytest.raises(ValueError, match="x"):
        await task
    (task,) = create(forever())
    add_task_observers([task], Hook())
    await settle()
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task


async def test_an_observer_that_raises_is_told_of(loop_errors):
    def observer(result):
        raise LookupError("observer")

    (task,) = create(after(1))
    add_task_observers([task], observer)
    await task
    await settle()
    assert [LookupError] == [type(context["exception"]) for context in loop_errors]


async def test_without_a_function_the_logger_tells(caplog):
    caplog.set_level(logging.INFO, "pyasynclife")
    tasks = create(after(1), after(1, ValueError("x")), forever())
    add_task_observers(tasks)
    tasks[2].cancel()
    await asyncio.wait(tasks)
    await settle()
    levels = sorted(record.levelname for record in caplog.records)
    assert ["ERROR", "INFO", "INFO"] == levels
    assert "ValueError: x" in caplog.text
    caplog.clear()
    await monitor_tasks(create(after(1), after(1, ValueError("y"))))
    assert "0 tasks run, 2 ended, 1 failed" in caplog.text
    assert "ValueError: y" in caplog.text


async def test_a_hook_that_would_have_to_be_awaited_is_refused():
    async def hook(*args):
        pass

    (task,) = create(after(1))
    with pytest.raises(TypeError, match="plain function"):
        add_task_observers([task], hook)
    with pytest.raises(TypeError, match="plain function"):
        await monitor_tasks([task], report=hook)
    with pytest.raises(TypeError, match="function or None"):
        add_task_observers([task], "x")
    with pytest.raises(ValueError, match="interval"):
        await monitor_tasks([task], 0)
    with pytest.raises(TypeError, match="wrap it in a list"):
        add_task_observers(task)
    assert callbacks_of(task) == 0
    await task
