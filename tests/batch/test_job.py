"""Job: what add() returns, to be awaited, asked, cancelled or dropped."""

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from pyasynclife import Batch, BatchStatus, Job, TaskResult, TaskState, bounded_gather
from support.coroutines import Boom, Fatal, echo, echo_later, forever, swallow
from support.items import Gated, Stubborn
from support.loops import settle, until

BOTH_WAYS = True


async def fail_later(value: object) -> None:
    await asyncio.sleep(0)
    raise Boom(value)


def opened(fn: Any, **options: Any) -> Batch[Any]:
    return bounded_gather(fn, [], **options)


# --------------------------------------------------------------- awaiting


@pytest.mark.parametrize("fn", [echo, echo_later])
async def test_await_gives_the_value_any_number_of_times(fn: Any) -> None:
    async with opened(fn) as batch:
        job = batch.add("a")
        assert type(job) is Job
        assert (job.state, job.done(), job.outcome) == (TaskState.PENDING, False, None)
        assert await job == "a"
        assert await job == "a"
        assert job.done()
        assert job.result() == "a"
        assert job.exception() is None
        assert not job.cancelled()
        assert job.state is TaskState.DONE
        assert type(job.outcome) is TaskResult
        assert (job.outcome.item, job.outcome.index) == ("a", 0)


async def test_await_raises_the_error_and_its_traceback_does_not_grow() -> None:
    def depth(error: BaseException | None) -> int:
        n, at = 0, error.__traceback__ if error else None
        while at:
            n, at = n + 1, at.tb_next
        return n

    async with opened(fail_later) as batch:
        job = batch.add(1)
        depths = set()
        for _ in range(5):
            with pytest.raises(Boom) as caught:
                await job
            depths.add(depth(caught.value))
        assert len(depths) == 1
        assert job.exception() is caught.value
        assert job.state is TaskState.FAILED


async def test_cancelling_the_await_leaves_the_item_alone() -> None:
    gated = Gated()
    async with opened(gated) as batch:
        job = batch.add(1)

        async def wait() -> Any:
            return await job

        waiters = [asyncio.create_task(wait()) for _ in range(3)]
        await until(lambda: gated.now == 1)
        await settle()
        waiters[0].cancel()
        await settle()
        assert waiters[0].cancelled()
        assert gated.now == 1
        gated.release()
        assert await asyncio.gather(*waiters[1:]) == ["released"] * 2


async def test_asyncios_tools_take_a_job() -> None:
    gated = Gated()
    async with opened(gated) as batch:
        jobs = [batch.add(1), batch.add(2)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(jobs[0], 0.01)
        assert gated.now == 2
        gated.release()
        assert await asyncio.gather(*jobs) == ["released"] * 2
        assert await asyncio.shield(jobs[0]) == "released"
        assert not asyncio.isfuture(jobs[0])


async def test_a_batch_that_has_not_begun_is_named_by_the_await() -> None:
    batch = opened(echo)
    job = batch.add(1)
    with pytest.raises(RuntimeError, match="has not begun: await, iterate or enter"):
        await job
    assert (await batch).values() == [1]
    assert await job == 1


async def test_an_item_cannot_await_itself() -> None:
    async def fn(_: int) -> None:
        await settle()
        with pytest.raises(RuntimeError, match="cannot be awaited by its own item"):
            await job

    async with opened(fn) as batch:
        job = batch.add(1)
        await job


async def test_items_may_await_jobs_of_other_items() -> None:
    async def fn(depth: int) -> int:
        return 1 if depth == 0 else 1 + int(await batch.add(depth - 1))

    async with opened(fn, max_concurrent=10) as batch:
        assert await batch.add(5) == 6


# ------------------------------------------------------------------ asking


async def test_before_the_end_there_is_no_result() -> None:
    gated = Gated()
    async with opened(gated, max_concurrent=1) as batch:
        job, waiting = batch.add(1), batch.add(2)
        await until(lambda: gated.now == 1)
        assert (job.state, waiting.state) == (TaskState.RUNNING, TaskState.PENDING)
        for one in (job, waiting):
            with pytest.raises(asyncio.InvalidStateError, match="has not ended"):
                one.result()
            with pytest.raises(asyncio.InvalidStateError):
                one.exception()
        assert repr(job) == "<Job '1' running>"
        assert repr(waiting) == "<Job '2' pending>"
        gated.release()
        await until(lambda: gated.now == 1 and gated.started == [1, 2])
        gated.release()
    assert repr(job) == "<Job '1' done>"


async def test_the_id_is_that_of_the_outcome() -> None:
    async def named(item: Any) -> TaskResult[int]:
        return TaskResult("other", True, 7)

    async with opened(echo_later, key=lambda x: f"key {x}") as batch:
        job = batch.add(1)
        assert job.task_id == "key 1"
        await job
        assert job.task_id == "key 1"
    async with bounded_gather(echo_later, [{}, {}]) as batch:
        job = batch.add({})
        assert job.task_id == "2"
    async with opened(named) as batch:
        job = batch.add(1)
        assert job.task_id == "1"
        assert await job == 7
        assert job.task_id == "other"


async def test_the_key_of_an_item_is_called_once() -> None:
    calls: list[Any] = []

    def key(item: Any) -> str:
        calls.append(item)
        return str(item)

    batch = opened(echo, key=key)
    job = batch.add("a")
    assert (job.task_id, job.task_id) == ("a", "a")
    await batch
    assert calls == ["a"]


async def test_a_failure_without_an_error_is_one_all_the_same() -> None:
    async def fn(_: int) -> TaskResult[None]:
        return TaskResult("none", False)

    async with opened(fn) as batch:
        job = batch.add(1)
        with pytest.raises(RuntimeError, match="gave no error"):
            await job
        assert isinstance(job.exception(), RuntimeError)


# ------------------------------------------------------------ cancelling


async def test_a_running_item_is_cancelled_and_no_other() -> None:
    gated = Gated()
    async with opened(gated) as batch:
        job, other = batch.add(1), batch.add(2)
        await until(lambda: gated.now == 2)
        assert job.cancel("enough")
        assert not job.done()
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await job
        assert job.cancelled()
        assert job.state is TaskState.CANCELLED
        assert not job.cancel()
        with pytest.raises(asyncio.CancelledError):
            job.exception()
        gated.release()
        assert await other == "released"
    assert batch.status is BatchStatus.COMPLETED


async def test_a_job_that_waits_is_never_started() -> None:
    gated = Gated()
    batch = opened(gated, max_concurrent=1)
    task = asyncio.ensure_future(batch.collect())
    first, second, third = batch.add(1), batch.add(2), batch.add(3)
    await until(lambda: gated.now == 1)
    assert second.cancel("not needed")
    assert second.done()
    assert second.cancelled()
    assert not second.cancel()
    assert second.state is TaskState.PENDING
    with pytest.raises(asyncio.CancelledError, match="not needed"):
        await second
    gated.release()
    await until(lambda: 3 in gated.gates)
    gated.release()
    result = await task
    assert gated.started == [1, 3]
    assert [r.item for r in result] == [1, 2, 3]
    assert [r.index for r in result] == [0, 1, 2]
    assert [r.state.value for r in result] == ["done", "pending", "done"]
    assert result.status is BatchStatus.COMPLETED
    assert second.outcome is result[1]
    assert await third == await first == "released"


async def test_cancelled_jobs_are_passed_over_in_an_iteration() -> None:
    batch = opened(echo, max_concurrent=1, buffer=0)
    jobs = [batch.add(n) for n in range(100)]
    for job in jobs[:-1]:
        job.cancel()
    assert [r.item async for r in batch] == [99]
    assert batch.progress.started == 1


async def test_cancelled_jobs_take_no_room_of_a_later_iteration() -> None:
    async with opened(echo_later, max_concurrent=1, buffer=0) as batch:
        jobs = [batch.add(n) for n in range(10)]
        for job in jobs[:5]:
            job.cancel()
        await until(lambda: batch.progress.started > 0)
        batch.add(10)
        assert [r.item async for r in batch] == [5, 6, 7, 8, 9, 10]


async def test_a_job_whose_task_was_made_and_has_not_begun_is_never_started() -> None:
    seen: list[TaskResult[Any]] = []
    batch = opened(echo, max_concurrent=2, on_result=seen.append, task_per_item=True)
    async with batch:
        first, second = batch.add(1), batch.add(2)
        second.cancel()
        batch.pause()
        await settle(3)
        first.cancel()
        batch.resume()
        batch.add(3)
    assert (first.state, second.state) == (TaskState.PENDING, TaskState.PENDING)
    assert [r.item for r in seen] == [3]
    assert (batch.progress.started, batch.progress.cancelled) == (1, 0)


async def test_an_item_may_cancel_its_own_job_and_others() -> None:
    async def fn(n: int) -> int:
        if n == 0:
            for job in jobs:
                job.cancel()
        await asyncio.sleep(0)
        return n

    async with opened(fn, max_concurrent=2) as batch:
        jobs = [batch.add(n) for n in range(5)]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in outcomes)


async def test_an_item_that_swallows_its_cancellation_has_its_value() -> None:
    async with opened(swallow) as batch:
        job = batch.add("kept")
        await settle(5)
        job.cancel()
        assert await job == "kept"


async def test_an_item_that_does_not_stop_in_its_grace_is_abandoned() -> None:
    stubborn = Stubborn()
    async with opened(stubborn, max_concurrent=1, cancel_grace=0.01) as batch:
        job, following = batch.add(1), batch.add(2)
        await until(lambda: stubborn.tasks)
        job.cancel()
        with pytest.raises(asyncio.CancelledError, match="did not stop within"):
            await job
        assert job.state is TaskState.RUNNING
        assert job.done()
        await stubborn.release()
        assert await following == 2


@pytest.mark.parametrize("how", ["stop", "cancel", "budget", "errors", "dropped"])
async def test_jobs_that_wait_end_with_their_batch(
    how: str, loop_errors: list[Any]
) -> None:
    async def fn(item: Any) -> None:
        if item == "fail":
            raise ValueError
        await forever()

    options: dict[str, Any] = {"budget": {"budget": 0.2}, "errors": {"max_errors": 0}}
    batch = opened(fn, max_concurrent=1, **options.get(how, {}))
    use = asyncio.ensure_future(batch.collect())
    running, waiting = batch.add("fail" if how == "errors" else 1), batch.add(2)
    called: list[Any] = []
    waiting.add_done_callback(called.append)
    if how != "errors":
        await until(lambda: running.state is TaskState.RUNNING)
    if how == "stop":
        batch.stop()
        assert waiting.done()
        running.cancel()
    elif how == "cancel":
        batch.cancel()
        assert waiting.done()
    elif how == "dropped":
        use.cancel()
    await asyncio.wait([use])
    await until(waiting.done)
    assert waiting.state is TaskState.PENDING
    if how == "budget":
        with pytest.raises(TimeoutError, match="budget"):
            await waiting
        assert not waiting.cancelled()
    else:
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await settle()
    assert called == [waiting]
    use.exception() if not use.cancelled() else None


async def test_jobs_of_a_batch_that_is_dropped_before_it_began_never_start() -> None:
    batch = opened(echo)
    job = batch.add(1)
    ref = weakref.ref(job)
    del batch
    assert job.done()
    with pytest.raises(asyncio.CancelledError):
        await job
    del job
    assert ref() is None


# ------------------------------------------------------------- callbacks


async def test_callbacks_are_called_by_the_loop_each_in_its_context() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="")
    seen: list[Any] = []

    def note(job: Job[Any]) -> None:
        seen.append((var.get(), job.result()))

    async with opened(echo_later) as batch:
        job = batch.add(1)
        var.set("first")
        job.add_done_callback(note)
        var.set("second")
        job.add_done_callback(note)
        await job
        assert seen == []
        await settle(2)
        assert seen == [("first", 1), ("second", 1)]
        job.add_done_callback(note)
        assert len(seen) == 2
        await settle(2)
        assert len(seen) == 3


async def test_a_callback_of_a_job_that_was_dropped_is_called() -> None:
    seen: list[Any] = []
    async with opened(echo_later) as batch:
        batch.add(1).add_done_callback(lambda job: seen.append(job.result()))
    await settle(2)
    assert seen == [1]


async def test_the_error_of_a_callback_goes_to_the_loop(loop_errors: list[Any]) -> None:
    def bad(job: Job[Any]) -> None:
        raise Boom

    async with opened(echo) as batch:
        job = batch.add(1)
        job.add_done_callback(bad)
        with pytest.raises(TypeError, match="a function of one argument"):
            job.add_done_callback(None)  # type: ignore[arg-type]
        await job
        await settle(2)
    assert [type(e["exception"]) for e in loop_errors] == [Boom]


async def test_a_callback_is_removed_as_often_as_it_was_added() -> None:
    seen: list[Any] = []
    async with opened(echo_later) as batch:
        job = batch.add(1)
        for add in (seen.append, repr, seen.append):  # a new bound method each time
            job.add_done_callback(add)
        assert job.remove_done_callback(seen.append) == 2
        assert job.remove_done_callback(fn=seen.append) == 0
        job.add_done_callback(fn=seen.append)
        await job
        assert job.remove_done_callback(seen.append) == 0  # it is being called
    await settle(2)
    assert seen == [job]


async def test_a_comparison_may_end_the_job_or_change_its_callbacks() -> None:
    class Hostile:
        def __init__(self, act: Callable[[], object]) -> None:
            self.act = act

        def __call__(self, job: Job[Any]) -> None:
            seen.append(job)

        def __eq__(self, other: object) -> bool:
            self.act()
            return True

        __hash__ = None  # type: ignore[assignment]

    seen: list[Any] = []
    gate = asyncio.Event()
    async with opened(lambda item: gate.wait()) as batch:
        jobs = [batch.add(n) for n in range(4)]
        first, second, third, fourth = jobs
        acts = (
            lambda: first.remove_done_callback(hostile[0]),  # the same object
            lambda: second.add_done_callback(seen.append),
            third.cancel,
            lambda: 1 / 0,
        )
        hostile = [Hostile(act) for act in acts]
        for job, fn in zip(jobs, hostile, strict=True):
            job.add_done_callback(fn)
        assert first.remove_done_callback(print) == 0  # it was removed meanwhile
        assert second.remove_done_callback(print) == 1
        third.remove_done_callback(print)
        with pytest.raises(ZeroDivisionError):
            fourth.remove_done_callback(print)
        gate.set()
    await settle(2)
    assert [job for job in seen if job is not third] == [second, fourth]


async def test_asyncio_wait_and_its_kin_take_jobs() -> None:
    gate = asyncio.Event()

    async def fn(item: int) -> int:
        if item:
            await gate.wait()
        return item

    async with opened(fn) as batch:
        early, late = batch.add(0), batch.add(1)
        done, pending = await asyncio.wait(
            [early, late],  # type: ignore[type-var]
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert done == {early}
        assert pending == {late}
        done, pending = await asyncio.wait([late], timeout=0)  # type: ignore[type-var]
        assert pending == {late}
        gate.set()
        assert await asyncio.gather(early, late) == [0, 1]
        assert [await one for one in asyncio.as_completed([early, late])]
        assert await asyncio.shield(late) == 1
        assert await asyncio.wait_for(late, 5) == 1


# ------------------------------------------------- failures nobody receives


RECEIVES: dict[str, Any] = {
    "exception": lambda job: job.exception(),
    "outcome": lambda job: job.outcome,
}


@pytest.mark.parametrize("how", [*RECEIVES, "await", "result", "nothing", "dropped"])
async def test_a_failure_that_nobody_received_is_reported_once(
    how: str, loop_errors: list[Any]
) -> None:
    async with opened(fail_later) as batch:
        job: Any = batch.add(1)
        if how == "dropped":
            job = None
        await settle(10)
        if how in RECEIVES:
            RECEIVES[how](job)
        elif how == "await":
            with pytest.raises(Boom):
                await job
        elif how == "result":
            with pytest.raises(Boom):
                job.result()
    assert len(loop_errors) == (how == "dropped")
    del job, batch
    gc.collect()
    reported = [type(e["exception"]) for e in loop_errors]
    assert reported == [Boom] * (how in ("nothing", "dropped"))


@pytest.mark.parametrize("use", ["on_result", "iterate", "read"])
async def test_a_failure_that_came_through_the_batch_is_not_reported(
    use: str, loop_errors: list[Any]
) -> None:
    if use == "on_result":
        async with opened(fail_later, on_result=lambda r: None) as batch:
            job = batch.add(1)
    elif use == "iterate":
        batch = opened(fail_later)
        job = batch.add(1)
        assert [r.success async for r in batch] == [False]
    else:
        batch = opened(fail_later)
        job = batch.add(1)
        assert not (await batch).ok
    assert job.done()
    del job, batch
    gc.collect()
    assert loop_errors == []


async def test_a_result_that_is_dropped_unread_leaves_its_failures_to_their_jobs(
    loop_errors: list[Any],
) -> None:
    batch = opened(fail_later)
    jobs = [batch.add(n) for n in range(3)]
    await batch
    jobs[0].exception()
    del batch
    gc.collect()
    assert loop_errors == []
    jobs.pop()
    assert [e["exception"].args for e in loop_errors] == [(2,)]
    assert "job '2' was dropped unread" in loop_errors[0]["message"]
    jobs[1].exception()
    jobs.clear()
    assert len(loop_errors) == 1


async def test_an_exit_is_raised_by_the_batch_and_not_reported(
    loop_errors: list[Any],
) -> None:
    async def fn(_: int) -> None:
        raise Fatal

    batch = opened(fn)
    job = batch.add(1)
    with pytest.raises(Fatal):
        await batch
    assert job.state is TaskState.FAILED
    del job, batch
    gc.collect()
    assert loop_errors == []


# ---------------------------------------------------------------- lifetime


async def test_a_job_that_ended_keeps_nothing_but_its_outcome() -> None:
    class Item:
        pass

    item = Item()
    ref = weakref.ref(item)
    async with opened(echo_later) as batch:
        job = batch.add(item)
        await job
        assert job.outcome is not None
        job_ref = weakref.ref(job)
    del batch, item
    assert ref() is not None
    del job
    assert job_ref() is None
    assert ref() is None


async def test_a_cycle_through_a_job_is_collected() -> None:
    class Item:
        job: Any

    batch = opened(echo)
    item = Item()
    item.job = batch.add(item)
    item.job.add_done_callback(lambda job, item=item: item)
    ref = weakref.ref(item)
    del item, batch
    await settle()
    gc.collect()
    assert ref() is None


async def test_a_job_cannot_be_made_pickled_or_copied() -> None:
    async with opened(echo) as batch:
        job = batch.add(1)
    with pytest.raises(TypeError):
        Job()
    for refuse in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a Job can be neither pickled nor copied"):
            refuse(job)


async def test_another_thread_may_look_but_not_touch() -> None:
    gated = Gated()
    caught: list[Any] = []

    def touch(*calls: Any) -> None:
        for call in calls:
            try:
                caught.append(call())
            except RuntimeError as error:
                caught.append(str(error).partition(" from ")[0])

    async with opened(gated) as batch:
        job = batch.add(1)
        await until(lambda: gated.now == 1)
        calls = (
            job.done,
            lambda: job.task_id,
            job.cancel,
            lambda: job.add_done_callback(print),
            lambda: job.remove_done_callback(print),
        )
        thread = threading.Thread(target=touch, args=calls)
        thread.start()
        thread.join()
        gated.release()
    refused = "a job was called"
    assert caught == [False, "1", refused, refused, refused]


async def test_the_order_of_arrival_holds_around_a_job_that_was_cancelled() -> None:
    async def items() -> AsyncIterator[str]:
        for item in ("x", "y"):
            yield item
            await settle()

    batch = bounded_gather(echo_later, items(), max_concurrent=1)
    jobs = [batch.add(n) for n in range(3)]
    jobs[1].cancel()
    result = await batch
    assert [r.item for r in result if r.success] == [0, 2, "x", "y"]
    assert [r.index for r in result] == list(range(5))


async def test_a_key_that_fails_ends_its_job_too() -> None:
    def key(item: int) -> str:
        raise Boom

    batch = opened(echo, key=key)
    jobs = [batch.add(1), batch.add(2)]
    with pytest.raises(Boom):
        jobs[0].task_id  # noqa: B018
    with pytest.raises(Boom):
        await batch
    for job in jobs:
        with pytest.raises(asyncio.CancelledError):
            await job
