"""The limits of a TaskPool: limit_by, max_per_second and retry."""

import asyncio
import contextvars
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    ClosedError,
    DuplicateTaskError,
    PoolFullError,
    Retry,
    TaskPool,
    TaskRegistry,
    TaskResult,
    TaskState,
)
from support.coroutines import Boom, echo, echo_later, forever
from support.items import Gated
from support.loops import in_virtual_time, settle, until

TASKS = pytest.mark.parametrize("tasks", [False, True], ids=["workers", "tasks"])
AT_ONCE = Backoff(0)
AN_HOUR = Backoff(3600, 1.0, 3600, jitter=0)


def first_letter(name: str) -> str:
    return name[0]


class Flaky:
    """Jobs that fail some times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.tried: dict[Any, int] = {}

    async def __call__(self, item: Any) -> Any:
        attempt = self.tried[item] = self.tried.get(item, 0) + 1
        await asyncio.sleep(0)
        if attempt <= self.failures:
            raise Boom(attempt)
        return item


# --------------------------------------------------------------- limit_by


@TASKS
async def test_jobs_of_a_full_key_hold_no_slot(tasks: bool) -> None:
    gated = Gated()
    async with TaskPool(2, limit_by=first_letter, task_per_item=tasks) as pool:
        jobs = [pool.submit(gated, name) for name in ("a1", "a2", "a3", "b1")]
        await settle(10)
        assert gated.started == ["a1", "b1"]
        assert [job.state for job in jobs] == [
            TaskState.RUNNING,
            TaskState.PENDING,
            TaskState.PENDING,
            TaskState.RUNNING,
        ]
        assert [job.task_id for job in jobs] == [f"job_{n}" for n in range(4)]
        progress = pool.progress
        assert (progress.total, progress.started, progress.running) == (4, 2, 2)
        while gated.now:
            gated.release()
            await settle(10)
        assert gated.started == ["a1", "b1", "a2", "a3"]
    assert pool.progress.done == 4


async def test_max_per_key_jobs_of_a_key_run_and_none_has_no_limit() -> None:
    gated = Gated()

    def key(name: str, *rest: object) -> str | None:
        return None if name.startswith("free") else name[0]

    async with TaskPool(limit_by=key, max_per_key=2) as pool:
        for name in ("a1", "a2", "a3", "free1", "free2", "free3"):
            pool.submit(gated, name)
        await settle(10)
        assert gated.started == ["a1", "a2", "free1", "free2", "free3"]
        gated.release()
        await settle(10)
        gated.release()
    assert pool.progress.done == 6


async def test_limit_by_is_called_once_by_submit_with_all_arguments() -> None:
    calls: list[Any] = []
    var: contextvars.ContextVar[int] = contextvars.ContextVar("var")

    def key(*args: Any) -> Any:
        calls.append((args, var.get()))
        return args[-1]

    async def fn(*args: Any) -> Any:
        await asyncio.sleep(0)
        return args

    async with TaskPool(limit_by=key) as pool:
        var.set(1)
        jobs = [pool.submit(fn, 1, 2), pool.submit(fn, 3, 2), await pool.put(fn, 4)]
        assert calls == [((1, 2), 1), ((3, 2), 1), ((4,), 1)]
        assert [await job for job in jobs] == [(1, 2), (3, 2), (4,)]
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("key", "error", "match"),
    [
        (lambda item: {}[item], KeyError, "1"),
        (lambda item: [item], TypeError, r"limit_by must .* hashable .* list \[1\]"),
        (lambda: None, TypeError, "positional argument"),
        (lambda item: echo(item), TypeError, "limit_by is called, not awaited"),
    ],
    ids=["raises", "unhashable", "other arguments", "a coroutine"],
)
async def test_an_error_of_limit_by_is_raised_by_submit_and_put(
    key: Callable[..., Any], error: type[Exception], match: str
) -> None:
    async with TaskPool(limit_by=key) as pool:
        with pytest.raises(error, match=match):
            pool.submit(echo, 1)
        with pytest.raises(error, match=match):
            await pool.put(echo, 1)
        assert pool.progress.total == 0


async def test_a_key_is_compared_when_its_job_is_taken() -> None:
    class Key:
        def __hash__(self) -> int:
            return 1

        def __eq__(self, other: object) -> bool:
            raise Boom

    async with TaskPool(limit_by=lambda item: Key()) as pool:
        first = pool.submit(forever, 1)
        await settle()
        second = pool.submit(echo, 2)
        with pytest.raises(Boom):
            await second
        assert second.task_id == "job_1"
        assert second.outcome is not None
        assert second.outcome.attempts == 0
        first.cancel()


async def test_limit_by_may_use_and_stop_its_pool() -> None:
    def key(item: int) -> int:
        if item == 1:
            pool.submit(echo_later, 10)
        if item == 2:
            pool.stop()
        return item

    async with TaskPool(2, limit_by=key) as pool:
        assert await pool.submit(echo_later, 1) == 1
        with pytest.raises(ClosedError):
            pool.submit(echo_later, 2)
    assert (pool.progress.total, pool.progress.done) == (2, 2)


# ---------------------------------------------------- jobs that wait aside


async def test_jobs_that_are_set_aside_count_as_waiting() -> None:
    gated = Gated()
    async with TaskPool(1, max_pending=2, limit_by=first_letter) as pool:
        for name in ("a1", "a2", "a3"):
            pool.submit(gated, name)
        await settle(10)
        with pytest.raises(PoolFullError, match="2 jobs wait, and max_pending is 2"):
            pool.submit(gated, "b")
        putting = asyncio.ensure_future(pool.put(gated, "b"))
        await settle(10)
        assert not putting.done()
        gated.release()
        await putting
        with pytest.raises(PoolFullError):
            pool.submit(gated, "b")
        while gated.now:
            gated.release()
            await settle(10)


async def test_a_free_slot_takes_a_job_while_others_wait_for_their_key() -> None:
    gated = Gated()
    async with TaskPool(2, max_pending=1, limit_by=first_letter) as pool:
        for name in ("a1", "a2"):
            pool.submit(gated, name)
        await settle(10)
        pool.submit(gated, "b1")
        await settle(10)
        assert gated.started == ["a1", "b1"]
        with pytest.raises(PoolFullError, match="1 job waits, and max"):
            pool.submit(gated, "c")
        pool.cancel()


@TASKS
async def test_a_job_that_waits_for_its_key_is_cancelled_alone(tasks: bool) -> None:
    gated = Gated()
    seen: list[TaskResult[Any]] = []
    async with TaskPool(
        2, max_pending=0, limit_by=first_letter, task_per_item=tasks
    ) as pool:
        pool.submit(gated, "a1")
        await settle(10)
        aside = pool.submit(gated, "a2")  # the free slot
        aside.add_done_callback(lambda job: seen.append(job.outcome))  # type: ignore[arg-type]
        await settle(10)
        with pytest.raises(PoolFullError):
            pool.submit(gated, "b")
        putting = asyncio.ensure_future(pool.put(gated, "b"))
        await settle(10)
        assert aside.cancel("why")
        await putting
        with pytest.raises(asyncio.CancelledError, match="why"):
            aside.result()
        assert aside.cancelled()
        assert not aside.cancel()
        await until(lambda: "b" in gated.gates)
        gated.release()
    assert gated.started == ["a1", "b"]
    assert [(r.task_id, r.state, r.attempts) for r in seen] == [
        ("job_1", TaskState.PENDING, 0)
    ]


@TASKS
async def test_stop_cancels_what_waits_for_its_key(tasks: bool) -> None:
    gated = Gated()
    async with TaskPool(3, limit_by=first_letter, task_per_item=tasks) as pool:
        jobs = [pool.submit(gated, name) for name in ("a1", "a2", "a3")]
        await settle(10)
        pool.stop()
        assert [job.done() for job in jobs] == [False, True, True]
        assert [job.cancelled() for job in jobs[1:]] == [True, True]
        gated.release()
        assert await jobs[0] == "released"
    assert gated.started == ["a1"]


@TASKS
async def test_join_waits_for_what_waits_for_its_key(tasks: bool) -> None:
    gated = Gated()
    async with TaskPool(3, limit_by=first_letter, task_per_item=tasks) as pool:
        jobs = [pool.submit(gated, name) for name in ("a1", "a2")]
        joining = asyncio.ensure_future(pool.join())
        await until(lambda: gated.now)
        gated.release()
        await until(lambda: "a2" in gated.gates)
        assert not joining.done()
        gated.release()
        await joining
        assert all(job.done() for job in jobs)


async def test_shutdown_ends_what_waits_and_reports_what_had_begun() -> None:
    pool = TaskPool(3, limit_by=first_letter, retry=Retry(2, backoff=AN_HOUR))
    again = pool.submit(Flaky(1), "r")
    await until(lambda: again.state is TaskState.RUNNING and pool.progress.running == 0)
    jobs = [pool.submit(forever, name) for name in ("a1", "a2")]
    await settle(10)
    report = await pool.shutdown()
    assert [one.name for one in report.cancelled] == ["job_1", "job_0"]
    assert all(job.cancelled() for job in (again, *jobs))
    assert pool.progress.running == 0


async def test_a_paused_pool_keeps_what_waits_aside() -> None:
    gated = Gated()
    async with TaskPool(3, limit_by=first_letter) as pool:
        for name in ("a1", "a2"):
            pool.submit(gated, name)
        await settle(10)
        pool.pause()
        gated.release()
        await settle(10)
        assert (gated.started, pool.progress.running) == (["a1"], 0)
        pool.resume()
        await settle(10)
        assert gated.started == ["a1", "a2"]
        gated.release()


async def test_an_id_that_a_job_has_which_waits_aside_is_refused() -> None:
    registry = TaskRegistry()
    retry = Retry(2, backoff=AN_HOUR)
    async with TaskPool(
        3, limit_by=first_letter, retry=retry, registry=registry
    ) as pool:
        pool.submit(forever, "a1", task_id="one")
        pool.submit(forever, "a2", task_id="two")
        pool.submit(Flaky(1), "r", task_id="three")
        await until(lambda: pool.progress.started == 2 and pool.progress.running == 1)
        for task_id in ("one", "two", "three"):
            with pytest.raises(DuplicateTaskError):
                pool.submit(echo, "b", task_id=task_id)
        pool.cancel()


async def test_a_dropped_pool_and_its_keys_leave_nothing() -> None:
    class Key:
        pass

    keys = [Key(), Key()]
    left = [weakref.ref(key) for key in keys]
    pool = TaskPool(1, limit_by=lambda n: keys[n % 2])
    jobs = [pool.submit(forever, n) for n in range(4)]
    await settle(10)
    with pytest.warns(ResourceWarning, match="dropped while it ran"):
        del pool
        gc.collect()
    await asyncio.wait([asyncio.ensure_future(job) for job in jobs])
    keys.clear()
    await settle(10)
    gc.collect()
    assert [ref() for ref in left] == [None, None]


# ------------------------------------------------------------------ retry


@TASKS
@pytest.mark.parametrize("failures", [0, 1, 2])
async def test_a_failed_job_is_tried_again(failures: int, tasks: bool) -> None:
    seen: list[TaskResult[Any]] = []
    flaky = Flaky(failures)
    async with TaskPool(
        3,
        retry=Retry(3, backoff=AT_ONCE),
        task_per_item=tasks,
        on_result=seen.append,
    ) as pool:
        jobs = [pool.submit(flaky, n) for n in range(5)]
        assert [await job for job in jobs] == list(range(5))
    assert {r.attempts for r in seen} == {failures + 1}
    assert sorted(r.task_id for r in seen) == [f"job_{n}" for n in range(5)]
    assert (pool.progress.started, pool.progress.done) == (5, 5)


@TASKS
async def test_the_last_failure_is_that_of_the_job(tasks: bool) -> None:
    async with TaskPool(
        1, retry=Retry(3, backoff=AT_ONCE), task_per_item=tasks
    ) as pool:
        job = pool.submit(Flaky(9), 1)
        with pytest.raises(Boom, match="3"):
            await job
        assert job.task_id == "job_0"
        assert job.outcome is not None
        assert job.outcome.attempts == 3
    assert pool.progress.failed == 1


@TASKS
async def test_each_attempt_has_a_fresh_copy_of_the_callers_context(
    tasks: bool,
) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var")
    seen: list[str] = []

    async def fn() -> None:
        seen.append(var.get())
        var.set("of an attempt")
        await asyncio.sleep(0)
        raise Boom

    async with TaskPool(
        1, retry=Retry(3, backoff=AT_ONCE), task_per_item=tasks
    ) as pool:
        var.set("of the caller")
        job = pool.submit(fn)
        var.set("later")
        with pytest.raises(Boom):
            await job
    assert seen == ["of the caller"] * 3


@TASKS
async def test_a_job_that_waits_for_an_attempt_holds_no_slot_and_is_cancelled(
    tasks: bool,
) -> None:
    async with TaskPool(
        1, max_pending=1, retry=Retry(2, backoff=AN_HOUR), task_per_item=tasks
    ) as pool:
        again = pool.submit(Flaky(1), "again")
        await until(lambda: pool.progress.started == 1 and not pool.progress.running)
        assert again.state is TaskState.RUNNING
        assert again.task_id == "job_0"
        joining = asyncio.ensure_future(pool.join())
        other = pool.submit(echo_later, "other")
        assert await other == "other"
        assert not joining.done()
        assert again.cancel("why")
        with pytest.raises(asyncio.CancelledError, match="why"):
            await again
        await joining
        assert again.outcome is not None
        assert (again.outcome.attempts, again.outcome.state) == (1, TaskState.CANCELLED)


async def test_stop_retries_no_more() -> None:
    async with TaskPool(2, retry=Retry(3, backoff=AN_HOUR)) as pool:
        waits = pool.submit(Flaky(9), "waits")
        await until(lambda: pool.progress.started == 1 and not pool.progress.running)
        runs = pool.submit(Flaky(9), "runs")
        pool.submit(echo, 0)
        await until(lambda: pool.progress.started == 3)
        pool.stop()
        assert type(waits.exception()) is Boom
        with pytest.raises(Boom):
            await runs
    assert runs.outcome is not None
    assert runs.outcome.attempts == 1


async def test_each_attempt_is_registered_under_the_jobs_id() -> None:
    registry = TaskRegistry()
    alive: list[bool] = []

    async def fn() -> int:
        alive.append("one" in registry)
        await asyncio.sleep(0)
        if len(alive) < 3:
            raise Boom
        return 5

    async with TaskPool(registry=registry, retry=Retry(backoff=AT_ONCE)) as pool:
        assert await pool.submit(fn, task_id="one") == 5
    assert alive == [True] * 3


@pytest.mark.parametrize("of", ["on", "backoff"])
async def test_an_error_of_the_retry_is_that_of_the_job(of: str) -> None:
    def fail(*args: object) -> Any:
        raise ZeroDivisionError

    options: dict[str, Any] = {of: fail}
    async with TaskPool(retry=Retry(**options)) as pool:
        job = pool.submit(Flaky(1), 1)
        with pytest.raises(ZeroDivisionError):
            await job
        assert job.task_id == "job_0"
        assert await pool.submit(echo, 2) == 2


async def test_a_bare_baseexception_of_the_retry_is_the_jobs_alone(
    loop_errors: list[dict[str, Any]],
) -> None:
    class Odd(BaseException):
        pass

    def fail(error: Exception) -> bool:
        raise Odd

    async with TaskPool(retry=Retry(on=fail)) as pool:
        job = pool.submit(Flaky(1), 1)
        with pytest.raises(Odd):
            await job
        assert await pool.submit(echo, 2) == 2
    assert loop_errors == []


@TASKS
def test_systemexit_of_the_retry_ends_the_loops_run(tasks: bool) -> None:
    def leave(error: Exception) -> bool:
        raise SystemExit(3)

    async def main() -> None:
        async with TaskPool(retry=Retry(on=leave), task_per_item=tasks) as pool:
            pool.submit(Flaky(1), 1)
            await asyncio.sleep(3600)

    with pytest.raises(SystemExit):
        in_virtual_time(main())


def test_the_timeout_of_a_job_includes_its_delays() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with TaskPool(timeout=5.0, retry=Retry(9, backoff=AN_HOUR)) as pool:
            job = pool.submit(Flaky(9), 1)
            with pytest.raises(TimeoutError):
                await job
            assert loop.time() == pytest.approx(began + 5.0)

    began = 0.0

    async def run() -> None:
        nonlocal began
        began = asyncio.get_running_loop().time()
        await main()

    in_virtual_time(run())


# --------------------------------------------------------- max_per_second


@TASKS
@pytest.mark.parametrize("limit_by", [None, first_letter])
def test_starts_are_evenly_spaced_also_those_of_retries(
    limit_by: Callable[..., Any] | None, tasks: bool
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        times: list[float] = []
        tried: set[str] = set()

        async def fn(name: str) -> str:
            times.append(loop.time() - began)
            if name not in tried:
                tried.add(name)
                raise Boom
            return name

        async with TaskPool(
            max_per_second=4,
            retry=Retry(backoff=AT_ONCE),
            task_per_item=tasks,
            limit_by=limit_by,
        ) as pool:
            began = loop.time()
            jobs = [pool.submit(fn, name) for name in ("a", "b", "a2")]
            assert [await job for job in jobs] == ["a", "b", "a2"]
            await asyncio.sleep(10)
            began = loop.time()
            assert await pool.submit(fn, "a") == "a"
        assert times == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1.25, 0])

    in_virtual_time(main())


def test_a_job_that_waits_for_the_rate_waits() -> None:
    async def main() -> None:
        async with TaskPool(1, max_pending=1, max_per_second=1) as pool:
            await pool.submit(echo, 0)
            slow = [pool.submit(echo, n) for n in (1, 2)]
            await settle(10)
            with pytest.raises(PoolFullError, match="2 jobs wait"):
                pool.submit(echo, 3)
            assert (pool.progress.total, pool.progress.started) == (3, 1)
            assert slow[0].cancel()
            await settle()
            assert await slow[1] == 2
            assert pool.progress.cancelled == 0
            await pool.join()

    in_virtual_time(main())


# -------------------------------------------------------------- cancelling


@TASKS
async def test_a_cancelled_block_ends_what_waits_for_a_key_or_an_attempt(
    tasks: bool,
) -> None:
    jobs = []

    async def block() -> None:
        async with TaskPool(
            2,
            limit_by=first_letter,
            retry=Retry(2, backoff=AN_HOUR),
            task_per_item=tasks,
        ) as pool:
            jobs.append(pool.submit(Flaky(1), "r"))
            jobs.extend(pool.submit(forever, name) for name in ("a1", "a2"))

    task = asyncio.ensure_future(block())
    await until(lambda: jobs and jobs[0].state is TaskState.RUNNING)
    await settle(10)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [job.cancelled() for job in jobs] == [True] * 3


# ------------------------------------------------------------------- names


async def test_the_task_of_a_job_is_named_after_its_function() -> None:
    class Page:
        async def load(self) -> str:
            await asyncio.sleep(0)
            return repr(asyncio.current_task())

    async def show() -> str:
        return repr(asyncio.current_task())

    async with TaskPool(task_per_item=True) as pool:
        assert "show()" in await pool.submit(show, task_id="one")
        text = await pool.submit(Page().load, task_id="two")
        assert "name='two'" in text
        assert "Page.load()" in text
