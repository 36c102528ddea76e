"""TaskPool: jobs with a limit, for as long as a service lives."""

import asyncio
import contextvars
import copy
import gc
import pickle
import threading
import tracemalloc
import warnings
import weakref
from functools import partial
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    ClosedError,
    DuplicateTaskError,
    Job,
    PoolFullError,
    Retry,
    SignalCoordinator,
    TaskPool,
    TaskRegistry,
    TaskResult,
    TaskState,
    task_with_individual_timeout,
)
from support.coroutines import Boom, Fatal, echo, echo_later, forever, swallow
from support.items import Gated, Stubborn
from support.loops import settle, until

TASKS = pytest.mark.parametrize("tasks", [False, True], ids=["workers", "tasks"])


async def fail_later(value: object = None) -> None:
    await asyncio.sleep(0)
    raise Boom(value)


# ------------------------------------------------------------- submitting


@TASKS
@pytest.mark.parametrize("fn", [echo, echo_later])
async def test_a_job_is_awaited_or_dropped(fn: Any, tasks: bool) -> None:
    seen: list[TaskResult[Any]] = []
    async with TaskPool(3, task_per_item=tasks, on_result=seen.append) as pool:
        jobs = [pool.submit(fn, n) for n in range(10)]
        pool.submit(fn, "dropped")
        assert type(jobs[0]) is Job
        assert [await job for job in jobs] == list(range(10))
        assert [job.task_id for job in jobs] == [f"job_{n}" for n in range(10)]
    assert [r.data for r in seen] == [*range(10), "dropped"]
    assert [r.task_id for r in seen] == [f"job_{n}" for n in range(11)]
    assert [r.item for r in seen][-1] == ("dropped",)
    assert [r.index for r in seen] == list(range(11))


@TASKS
async def test_no_more_than_the_limit_run(tasks: bool) -> None:
    gated = Gated()
    async with TaskPool(2, task_per_item=tasks) as pool:
        for n in range(5):
            pool.submit(gated, n)
        await settle(10)
        assert gated.now == 2
        pool.max_concurrent = 4
        await settle(10)
        assert gated.now == 4
        assert (pool.progress.total, pool.progress.running) == (5, 4)
        gated.release()
        await settle(10)
        gated.release()
    assert pool.progress.done == 5


@TASKS
@pytest.mark.parametrize("iterations", [0, 1, 10])
async def test_a_higher_limit_starts_what_waits_without_a_block(
    tasks: bool, iterations: int
) -> None:
    gated = Gated()
    pool = TaskPool(2, task_per_item=tasks)
    for n in range(5):
        pool.submit(gated, n)
    await settle(iterations)
    pool.max_concurrent = 4
    await settle(10)
    assert (gated.now, pool.progress.running) == (4, 4)
    gated.release()
    await settle(10)
    assert pool.progress.started == 5
    gated.release()
    await pool.join()
    assert pool.progress.done == 5


async def test_arguments_and_the_callers_context_are_those_of_the_call() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")

    async def fn(*args: int, **options: int) -> Any:
        await asyncio.sleep(0)
        seen = var.get()
        var.set("inside")
        return args, options, seen

    for tasks in (False, True):
        async with TaskPool(1, task_per_item=tasks) as pool:
            var.set("first")
            first = pool.submit(fn)
            var.set("second")
            second = pool.submit(partial(fn, c=3), 1, 2)
            assert await first == ((), {}, "first")
            assert await second == ((1, 2), {"c": 3}, "second")
            assert var.get() == "second"


async def test_a_failed_job_disturbs_no_other() -> None:
    async with TaskPool(2) as pool:
        jobs = [pool.submit(fail_later if n % 2 else echo_later, n) for n in range(8)]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(one) for one in outcomes] == [int, Boom] * 4
    assert (pool.progress.done, pool.progress.failed) == (4, 4)


async def test_jobs_may_submit_jobs_also_while_the_block_waits() -> None:
    seen = []

    async def visit(depth: int) -> None:
        await asyncio.sleep(0)
        seen.append(depth)
        if depth:
            pool.submit(visit, depth - 1)
            await pool.put(visit, depth - 1)

    async with TaskPool(2) as pool:
        pool.submit(visit, 3)
    assert sorted(seen) == [0] * 8 + [1] * 4 + [2] * 2 + [3]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_concurrent": 0}, "max_concurrent must be"),
        ({"max_concurrent": 1.5}, "max_concurrent must be"),
        ({"timeout": -1}, "timeout must"),
        ({"cancel_grace": float("nan")}, "cancel_grace must"),
        ({"max_pending": -1}, "max_pending must"),
        ({"max_pending": "5"}, "max_pending must"),
        ({"on_result": echo}, "on_result is called, not awaited"),
        ({"task_per_item": 1}, "task_per_item must"),
        ({"registry": {}}, "registry must"),
        ({"max_per_second": 0}, "max_per_second must"),
        ({"max_per_second": "5"}, "max_per_second must"),
        ({"retry": 3}, "retry must"),
        ({"limit_by": echo}, "limit_by is called, not awaited"),
        ({"limit_by": "host"}, "limit_by must"),
        ({"limit_by": id, "max_per_key": 0}, "max_per_key must"),
        ({"max_per_key": 2}, "there is no limit_by"),
    ],
)
def test_bad_options_are_refused_by_name(options: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        TaskPool(**options)


async def test_bad_calls_are_refused_and_coroutines_closed() -> None:
    async with TaskPool() as pool:
        with pytest.raises(TypeError, match=r"pool\.submit\(fetch, url\)"):
            pool.submit(echo(1))  # type: ignore[call-overload]
        with pytest.raises(TypeError, match=r"pool\.put\(fetch, url\)"):
            await pool.put(5)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="task id must be a str"):
            pool.submit(echo, task_id=5)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="non-empty"):
            pool.submit(echo, task_id="")
        with pytest.raises(TypeError, match="cannot be awaited"):
            await pool.submit(len, "abc")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="positional argument"):
            await pool.submit(echo, 1, 2)
    assert pool.progress.total == 2


def test_without_a_loop_nothing_is_submitted() -> None:
    pool = TaskPool()
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        pool.submit(echo)
    with pytest.raises(RuntimeError, match="exists already"):
        pool.__init__()  # type: ignore[misc]


async def test_another_thread_is_refused() -> None:
    caught: list[str] = []

    def submit() -> None:
        for call in (partial(pool.submit, echo), pool.stop, pool.cancel, pool.pause):
            try:
                call()
            except RuntimeError as error:
                caught.append(str(error).partition(" from ")[0])

    async with TaskPool() as pool:
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()
    assert caught == ["a TaskPool was called"] * 4


# ------------------------------------------------------------ backpressure


async def test_submit_is_refused_when_max_pending_jobs_wait() -> None:
    gated = Gated()
    async with TaskPool(2, max_pending=1) as pool:
        for n in range(3):
            pool.submit(gated, n)
        with pytest.raises(PoolFullError, match=r"max_pending is 1: await put\(\)"):
            pool.submit(gated, 3)
        await settle()
        with pytest.raises(PoolFullError):
            pool.submit(gated, 3)
        gated.release(1)
        await settle(5)
        pool.submit(gated, 3)
        while gated.now:
            gated.release()
            await settle(5)
    assert gated.started == [0, 1, 2, 3]


async def test_put_waits_for_room_in_the_order_of_the_calls() -> None:
    gated = Gated()
    async with TaskPool(1, max_pending=0) as pool:
        puts = [asyncio.create_task(pool.put(gated, n)) for n in range(5)]
        await settle(5)
        assert [put.done() for put in puts] == [True] + [False] * 4
        puts[1].cancel()
        await settle(5)
        for n in (0, 2, 3, 4):
            assert list(gated.gates) == [n]
            gated.release()
            await settle(8)
        jobs = [await put for put in puts if not put.cancelled()]
        assert [job.result() for job in jobs] == ["released"] * 4


async def test_put_waits_for_a_pool_that_was_paused_before_its_first_job() -> None:
    pool = TaskPool(1, max_pending=0)
    pool.pause()
    putting = asyncio.create_task(pool.put(echo, 1))
    await settle(3)
    assert not putting.done()
    pool.resume()
    assert await (await putting) == 1
    await pool.shutdown()


async def test_put_waits_on_if_limit_by_has_taken_the_room() -> None:
    gated = Gated()

    def limit_by(name: str) -> None:
        if name == "b":
            pool.submit(gated, "a")

    pool = TaskPool(1, max_pending=0, limit_by=limit_by)
    putting = asyncio.create_task(pool.put(gated, "b"))
    await settle(3)
    assert gated.started == ["a"]
    assert not putting.done()
    putting.cancel()
    gated.release()
    await pool.join()


async def test_a_full_pool_that_limit_by_uses_is_no_reason_to_wait() -> None:
    full = TaskPool(1, max_pending=0)
    full.pause()
    pool = TaskPool(1, limit_by=lambda name: full.submit(echo, name))
    with pytest.raises(PoolFullError, match="max_pending is 0"):
        await pool.put(echo, "a")


async def test_a_put_that_was_woken_and_cancelled_passes_the_room_on() -> None:
    gated = Gated()
    async with TaskPool(1, max_pending=0) as pool:
        pool.submit(gated, 0)
        await settle()
        first, second = (asyncio.create_task(pool.put(gated, n)) for n in (1, 2))
        await settle(5)
        job = next(iter(gated.gates))
        gated.gates[job].set_result("released")
        await until(lambda: not gated.gates)
        first.cancel()
        await asyncio.wait_for(second, 5)
        await until(lambda: gated.now == 1)
        gated.release()
    assert 2 in gated.started


@pytest.mark.parametrize("how", ["limit", "resume", "cancel a job", "stop"])
async def test_what_makes_room_wakes_put(how: str) -> None:
    gated = Gated()
    async with TaskPool(1, max_pending=1) as pool:
        if how == "resume":
            pool.pause()
        else:
            pool.submit(gated, 0)
        waiting = pool.submit(gated, 1)
        put = asyncio.create_task(pool.put(gated, 2))
        await settle(5)
        assert not put.done()
        if how == "limit":
            pool.max_concurrent = 2
        elif how == "resume":
            pool.resume()
        elif how == "stop":
            pool.stop()
        else:
            waiting.cancel()
        await asyncio.wait([put], timeout=5)
        if how == "stop":
            with pytest.raises(ClosedError, match="was stopped"):
                await put
        else:
            await put
        while gated.now:
            gated.release()
            await settle(5)


# ------------------------------------------------------------- join, stop


async def test_join_waits_until_nothing_runs_and_nothing_waits() -> None:
    gated = Gated()
    pool = TaskPool(1)
    await pool.join()
    pool.submit(gated, 1)
    pool.submit(gated, 2)
    joins = [asyncio.create_task(pool.join()) for _ in range(2)]
    await settle(5)
    joins[0].cancel()
    gated.release()
    await settle(5)
    assert joins[0].cancelled()
    assert not joins[1].done()
    gated.release()
    await joins[1]
    assert await pool.submit(echo, 3) == 3
    await pool.shutdown()


async def test_a_job_cannot_wait_for_its_own_pool() -> None:
    async with TaskPool() as pool:
        with pytest.raises(RuntimeError, match="cannot wait for its own pool"):
            await pool.submit(pool.join)
        with pytest.raises(RuntimeError, match="cannot wait for its own pool"):
            await pool.submit(pool.shutdown)


@TASKS
async def test_stop_cancels_what_waits_and_leaves_what_runs(tasks: bool) -> None:
    gated = Gated()
    async with TaskPool(1, task_per_item=tasks) as pool:
        running, waiting = pool.submit(gated, 1), pool.submit(gated, 2)
        await until(lambda: gated.now == 1)
        pool.stop()
        pool.stop()
        assert waiting.done()
        assert waiting.cancelled()
        assert waiting.state is TaskState.PENDING
        assert not running.done()
        with pytest.raises(ClosedError, match="this pool was stopped"):
            pool.submit(gated, 3)
        gated.release()
        assert await running == "released"
    assert gated.started == [1]
    with pytest.raises(ClosedError, match="this pool has ended"):
        pool.submit(echo)


@TASKS
async def test_cancel_ends_all(tasks: bool) -> None:
    gated = Gated()
    async with TaskPool(1, task_per_item=tasks) as pool:
        running, waiting = pool.submit(gated, 1), pool.submit(gated, 2)
        await until(lambda: gated.now == 1)
        pool.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await running
        assert waiting.cancelled()
    assert running.state is TaskState.CANCELLED


async def test_a_waiting_job_that_is_cancelled_frees_its_place() -> None:
    gated = Gated()
    async with TaskPool(1) as pool:
        pool.submit(gated, 0)
        for _ in range(100):
            job = pool.submit(gated, 1)
            ref = weakref.ref(job)
            assert job.cancel()
            assert job.task_id.startswith("job_")
            del job
            assert ref() is None
        await until(lambda: gated.now == 1)
        last = pool.submit(echo, "last")
        gated.release()
        assert await last == "last"
    assert gated.started == [0]


async def test_jobs_cancel_themselves_and_their_pool() -> None:
    async def fn(how: str) -> None:
        jobs[0].cancel() if how == "self" else pool.cancel()
        await asyncio.sleep(0)

    for how in ("self", "pool"):
        async with TaskPool() as pool:
            jobs = [pool.submit(fn, how)]
        assert jobs[0].cancelled()


@TASKS
async def test_an_exception_that_leaves_the_block_cancels_the_jobs(
    tasks: bool,
) -> None:
    gated = Gated()
    with pytest.raises(Boom):
        async with TaskPool(1, task_per_item=tasks) as pool:
            jobs = [pool.submit(gated, 1), pool.submit(gated, 2)]
            await until(lambda: gated.now == 1)
            raise Boom
    assert [job.cancelled() for job in jobs] == [True, True]


async def test_a_cancelled_caller_cancels_the_jobs_of_its_block() -> None:
    gated = Gated()
    jobs: list[Job[str]] = []

    async def main() -> None:
        async with TaskPool(1) as pool:
            jobs.extend([pool.submit(gated, 1), pool.submit(gated, 2)])

    task = asyncio.create_task(main())
    await until(lambda: gated.now == 1)
    task.cancel("outer")
    with pytest.raises(asyncio.CancelledError, match="outer"):
        await task
    assert [job.cancelled() for job in jobs] == [True, True]


async def test_timeouts_and_graces_are_those_of_a_batch() -> None:
    stubborn = Stubborn()
    async with TaskPool(1, timeout=0.01, cancel_grace=0.01) as pool:
        slow, stuck = pool.submit(forever), pool.submit(stubborn, 1)
        with pytest.raises(TimeoutError, match=r"'job_0' timed out after 0\.01 s"):
            await slow
        with pytest.raises(TimeoutError, match="did not stop"):
            await stuck
        assert await pool.submit(echo, 3) == 3
        await pool.join()
    await stubborn.release()


async def test_an_exit_ends_the_run_and_another_baseexception_is_the_jobs() -> None:
    async def fatal() -> None:
        raise Fatal

    async with TaskPool() as pool:
        job = pool.submit(fatal)
        with pytest.raises(Fatal):
            await job
        assert await pool.submit(echo, 1) == 1


@TASKS
def test_systemexit_of_a_job_ends_the_loops_run(tasks: bool) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with TaskPool(task_per_item=tasks) as pool:
            pool.submit(leave)
            await forever()

    with pytest.raises(SystemExit) as caught:
        asyncio.run(main())
    assert caught.value.code == 3


# ------------------------------------------------------------- shutdown


async def test_shutdown_reports_each_job_that_ran() -> None:
    async def fails() -> None:
        try:
            await forever()
        finally:
            raise Boom

    stubborn = Stubborn()
    pool = TaskPool(4)
    pool.submit(forever, task_id="cancelled")
    pool.submit(fails, task_id="failed")
    pool.submit(swallow, task_id="swallowed")
    pool.submit(stubborn, task_id="stuck")
    waiting = pool.submit(echo)
    await until(lambda: pool.progress.running == 4)
    await settle()
    report = await pool.shutdown(0.05)
    assert [one.name for one in report.cancelled] == ["cancelled"]
    assert [type(one.error) for one in report.failed] == [Boom]
    assert [one.name for one in report.swallowed] == ["swallowed"]
    assert [one.name for one in report.stuck] == ["stuck"]
    assert any("items.py" in line for line in report.stuck[0].where)
    assert not report.deadline_met
    assert waiting.cancelled()
    assert pickle.loads(pickle.dumps(report)).stuck[0].name == "stuck"
    await stubborn.release()
    await pool.join()
    assert (await pool.shutdown()).ok
    with pytest.raises(ClosedError):
        pool.submit(echo)


async def test_a_coordinator_stops_and_ends_a_pool() -> None:
    gated = Gated()
    coordinator = SignalCoordinator(5)
    pool = TaskPool(1)
    coordinator.attach(pool)
    async with coordinator:
        running, waiting = pool.submit(gated, 1), pool.submit(gated, 2)
        await until(lambda: gated.now == 1)
        coordinator.request_shutdown()
        await settle()
        assert waiting.cancelled()
        assert not running.done()
        report = await coordinator.graceful_shutdown()
    assert [one.name for one in report.cancelled] == ["job_0"]
    assert running.cancelled()


# ------------------------------------------------------------- registry


async def test_jobs_are_registered_and_send_heartbeats() -> None:
    async def fn() -> bool:
        return await registry.heartbeat()

    async with TaskRegistry() as registry:
        pools = [TaskPool(1, registry=registry) for _ in range(2)]
        jobs = [pool.submit(fn) for pool in pools for _ in range(3)]
        named = pools[0].submit(fn, task_id="mine")
        assert all([await job for job in [*jobs, named]])
        ids = [job.task_id for job in jobs]
        assert ids == [f"job_{n}" for n in range(6)]
        await settle()
        assert registry["mine"].state is TaskState.DONE
        assert registry["job_3"].heartbeats == 1
        for pool in pools:
            await pool.shutdown()


async def test_an_id_that_is_alive_or_waits_is_refused() -> None:
    gated = Gated()
    async with TaskRegistry() as registry, TaskPool(1, registry=registry) as pool:
        pool.submit(gated, 1, task_id="one")
        pool.submit(gated, 2, task_id="two")
        for task_id in ("one", "two"):
            with pytest.raises(DuplicateTaskError, match=f"'{task_id}' is alive or"):
                pool.submit(gated, 3, task_id=task_id)
        await until(lambda: gated.now == 1)
        gated.release()
        await until(lambda: 2 in gated.gates)
        gated.release()
        await pool.join()
        assert await pool.submit(echo, 1, task_id="one") == 1


async def test_a_registry_that_shuts_down_ends_the_pool() -> None:
    async with TaskRegistry() as registry:
        pool = TaskPool(1, registry=registry)
        running, waiting = pool.submit(forever), pool.submit(echo)
        await until(lambda: running.state is TaskState.RUNNING)
        await registry.shutdown()
        await until(waiting.done)
        assert running.cancelled()
        assert waiting.cancelled()
        with pytest.raises(ClosedError):
            pool.submit(echo)


# ------------------------------------------------- failures, memory, lifetime


@pytest.mark.parametrize("how", ["dropped", "held", "awaited", "on_result"])
async def test_a_failure_that_nobody_received_is_reported_once(
    how: str, loop_errors: list[Any]
) -> None:
    hook = repr if how == "on_result" else None
    async with TaskPool(on_result=hook) as pool:
        job: Any = pool.submit(fail_later)
        if how == "dropped":
            job = None
        await settle(5)
        if how == "dropped":
            assert len(loop_errors) == 1  # at once: the pool may live for months
        if how == "awaited":
            with pytest.raises(Boom):
                await job
    del job
    gc.collect()
    reported = [type(e["exception"]) for e in loop_errors]
    assert reported == [Boom] * (how in ("dropped", "held"))
    for context in loop_errors:
        assert "dropped unread: await it" in context["message"]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("how", ["raises", "returns", "late", "again", "stopped"])
async def test_a_failure_is_reported_once_though_a_registry_logs_it(
    how: str, held: bool, loop_errors: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def fn() -> Any:
        if how == "returns":  # the task does not fail, so the registry logs nothing
            return TaskResult("one", False, error=Boom())
        if how == "late":
            await forever()
        raise Boom

    timeout = 0.01 if how == "late" else None
    backoff = Backoff(3600, jitter=0) if how == "stopped" else Backoff(0)
    retry = Retry(2, backoff=backoff) if how in ("again", "stopped") else None
    registry = TaskRegistry()
    pool = TaskPool(registry=registry, timeout=timeout, retry=retry)
    job: Any = pool.submit(fn, task_id="one")
    if not held:
        job = None
    if how == "stopped":  # while it waits for its second attempt
        await until(lambda: pool.progress.started == 1 and not pool.progress.running)
        await settle()
        pool.stop()
    await pool.join()
    await registry.wait(60)
    del job
    gc.collect()
    logged = [one.__dict__.get("task_id") for one in caplog.records]
    logged = [one for one in logged if one is not None]
    by_registry = {"returns": 0, "again": 2}.get(how, 1)  # each attempt is a task
    assert logged == ["one"] * by_registry
    assert len(loop_errors) == (how == "returns")


async def test_a_job_that_no_registry_has_seen_is_reported(
    loop_errors: list[Any],
) -> None:
    registry = TaskRegistry()
    pool = TaskPool(1, registry=registry)
    first = pool.submit(forever)
    job: Any = pool.submit(echo, task_id="one")
    registry.register(forever(), "one")
    first.cancel()
    await pool.join()
    del job
    gc.collect()
    assert [type(one["exception"]) for one in loop_errors] == [DuplicateTaskError]
    await registry.shutdown(60)


async def test_on_result_and_progress_are_for_jobs_that_have_started() -> None:
    seen: list[TaskResult[Any]] = []
    async with TaskPool(1, on_result=seen.append) as pool:
        jobs = [pool.submit(forever) for _ in range(3)]
        await settle()
        pool.cancel()
    states = [job.outcome.state for job in jobs if job.outcome is not None]
    assert states == [TaskState.CANCELLED, TaskState.PENDING, TaskState.PENDING]
    assert [one.task_id for one in seen] == ["job_0"]
    progress = pool.progress
    assert (progress.total, progress.started, progress.cancelled) == (3, 1, 1)


@TASKS
@pytest.mark.parametrize(
    "limits",
    [{}, {"limit_by": lambda n: n % 7, "retry": Retry(2, backoff=Backoff(0))}],
    ids=["", "limits"],
)
async def test_many_jobs_failing_ones_too_leave_no_memory(
    limits: dict[str, Any], tasks: bool, loop_errors: list[Any]
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)

    async def fn(n: int) -> bytes:
        if n % 3 == 0:
            await asyncio.sleep(0)
        if n % 5 == 0:
            raise Boom(bytes(1000))
        return bytes(1000)

    async def run(times: int) -> None:
        for n in range(times):
            await pool.put(fn, n)
        await pool.join()

    async with TaskPool(10, max_pending=10, task_per_item=tasks, **limits) as pool:
        await run(200)
        tracemalloc.start()
        try:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            await run(3000)
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert now - before < 50_000
    assert peak - before < 500_000


async def test_a_pool_that_is_dropped_while_it_runs_is_cancelled() -> None:
    gated = Gated()
    pool = TaskPool(1)
    running, waiting = pool.submit(gated, 1), pool.submit(gated, 2)
    await until(lambda: gated.now == 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del pool
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert waiting.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_idle_pool_is_dropped_without_a_warning() -> None:
    pool = TaskPool(1)
    ref = weakref.ref(pool)
    assert await pool.submit(echo, 1) == 1
    await settle()
    del pool
    assert ref() is None


def test_a_pool_whose_loop_is_closed_is_dropped_in_silence() -> None:
    async def main() -> tuple[TaskPool, list[Any]]:
        pool = TaskPool(1)
        pool.pause()
        return pool, [pool.submit(echo), pool.submit(echo)]

    pool, jobs = asyncio.run(main())
    with pytest.raises(RuntimeError):
        asyncio.run(pool.join())
    assert not jobs[0].done()
    del pool
    gc.collect()
    assert jobs[0].done()
    assert not jobs[0].cancel()


async def test_another_loop_is_refused() -> None:
    def other() -> None:
        async def main() -> None:
            pool.submit(echo)

        with pytest.raises(RuntimeError, match="thread"):
            asyncio.run(main())

    async with TaskPool() as pool:
        await pool.submit(echo)
        await asyncio.to_thread(other)


async def test_a_pool_is_not_pickled_or_copied() -> None:
    pool = TaskPool()
    for refuse in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            refuse(pool)


async def test_helpers_take_a_job() -> None:
    async with TaskPool() as pool:
        job = pool.submit(echo_later, 1)
        assert await task_with_individual_timeout(job, 5) == 1
