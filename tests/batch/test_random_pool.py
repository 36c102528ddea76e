"""Random programs of pools, against invariants.

Whatever is done to a pool, with a block and without, each job ends once, a job that
starts has one result, no more jobs run than the limit allows, no job waits that could
start, and nothing is left in the loop.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import gc
import sys
import weakref
from collections import Counter
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    ClosedError,
    Job,
    PoolFullError,
    Retry,
    SignalCoordinator,
    TaskPool,
    TaskRegistry,
    TaskResult,
    TaskState,
)
from support.coroutines import Boom
from support.random_programs import GRID, PARTS, ItemsProgram, run_part, seen_by

BLOCKS = ["block", "raises", "cancelled", "join", "shutdown"]
BARE = ["join", "shutdown", "late shutdown", "stop", "registry", "attached", "drop"]
REPORTING = ["shutdown", "late shutdown", "attached"]


class Program(ItemsProgram):
    """One pool, and what is done to it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.pool: TaskPool | None = None
        self.keys: Counter[int | None] = Counter()  # running, by key
        self.running: set[int] = set()
        self.key_of: dict[int, int | None] = {}
        self.ending = False  # a job that pauses the pool would have it wait for ever
        self.calls: Counter[int] = Counter()  # of the function, by number
        self.jobs: dict[int, Job[int]] = {}  # by number
        self.dropped: set[int] = set()  # nobody holds their jobs
        self.boomed: set[int] = set()
        self.ends: Counter[int] = Counter()
        self.results: list[TaskResult[Any]] = []
        self.waiting: list[asyncio.Task[Any]] = []

    def options(self) -> dict[str, Any]:
        pick = self.random.choice
        self.per_key = pick([None, None, 1, 2])
        self.interval = pick([0, 0, GRID / 2])
        self.grace = pick([None, None, None, 0, GRID])
        self.reports = pick([False, True])
        self.meddles = pick([0, 0, 0.05])
        options: dict[str, Any] = {
            "max_concurrent": pick([1, 2, 5, sys.maxsize]),
            "timeout": pick([None, None, 4 * GRID]),
            "cancel_grace": self.grace,
            "max_pending": pick([None, None, 0, 3, sys.maxsize]),
            "task_per_item": pick([None, True, False]),
        }
        if self.interval:
            options["max_per_second"] = 1 / self.interval
        if self.reports:
            options["on_result"] = self.on_result
        if self.per_key is not None:
            options |= {"limit_by": self.limit_by, "max_per_key": self.per_key}
        self.retries = pick([False, True])
        if self.retries:
            backoff = pick([Backoff(GRID, jitter=0), self.backoff])
            timeout = pick([None, 2.5 * GRID])
            options["retry"] = Retry(3, self.on, backoff, timeout)
        self.registry = pick([None, None, TaskRegistry()])
        if self.registry is not None:
            options |= {"registry": self.registry, "task_per_item": True}
        return options

    # ------------------------------------------------------- what the pool calls

    async def fn(self, number: int, key: int | None) -> int:
        self.began(number, key)
        try:
            await asyncio.sleep(self.random.choice([0, 0, 1, 1, 3, 9]) * GRID)
            if self.random.random() < 0.1:
                self.act()
            if self.random.random() < 0.3:
                self.boomed.add(number)
                raise Boom(number)
            self.boomed.discard(number)
            return number
        except asyncio.CancelledError:
            self.boomed.discard(number)
            if self.grace is not None and number % 3 == 0:
                await asyncio.sleep(GRID * 3)
            raise
        finally:
            self.events += 1
            self.running.discard(number)
            self.keys[key] -= 1

    def began(self, number: int, key: int | None) -> None:
        """A job starts: it may."""
        now = self.now()
        pool, running = self.pool, self.running
        self.must(pool is None or not pool.paused, "paused")
        self.must(now >= self.last_start + self.interval - 1e-6, "too early")
        self.must(number not in running, "runs already")
        self.last_start = now
        self.events += 1
        self.calls[number] += 1
        running.add(number)
        self.keys[key] += 1
        if self.grace is None:  # otherwise some may have been abandoned
            self.must(pool is None or len(running) <= pool.max_concurrent, "limit")
            if self.per_key is not None and key is not None:
                self.must(self.keys[key] <= self.per_key, "limit of the key")

    def on_result(self, result: TaskResult[Any]) -> None:
        self.results.append(result)
        self.meddle()

    def limit_by(self, number: int, key: int | None) -> int | None:
        self.meddle()
        return key

    def ended(self, job: Job[int]) -> None:
        self.ends[id(job)] += 1
        self.meddle()

    # -------------------------------------------------------------------- actions

    def submit(self) -> None:
        number = self.seen["number"] = self.seen["number"] + 1
        assert self.pool is not None
        self.add(self.pool.submit(self.fn, number, self.key(number)), number)

    def key(self, number: int) -> int | None:
        self.key_of[number] = key = self.random.choice([None, 0, 1])
        return key

    def add(self, job: Job[int], number: int) -> None:
        if self.random.random() < 0.8:
            self.jobs[number] = job
            job.add_done_callback(self.ended)
        else:
            self.dropped.add(number)

    async def put(self, pool: TaskPool) -> None:
        number = self.seen["number"] = self.seen["number"] + 1
        self.add(await pool.put(self.fn, number, self.key(number)), number)

    async def wait(self, job: Job[int]) -> None:
        try:
            await job
        except (Boom, TimeoutError):
            pass
        except asyncio.CancelledError:
            stuck = job.state is TaskState.RUNNING and job.done()
            assert (
                job.cancelled() or stuck or asyncio.current_task().cancelling()  # type: ignore[union-attr]
            ), job

    def act(self) -> None:
        """Do something to the pool, which may refuse it."""
        pool, pick = self.pool, self.random.choice
        if pool is None:
            return
        self.events += 1
        self.last_act = self.now()
        what = pick(
            ["submit"] * 8
            + ["put", "put", "cancel job", "await", "await and cancel", "limit"]
            + (["resume"] if self.ending else ["pause", "resume"])
            + (["stop", "cancel"] if self.random.random() < 0.1 else [])
        )
        self.seen[what] += 1
        try:
            if what == "submit":
                self.submit()
            elif what == "put":
                self.waiting.append(asyncio.ensure_future(self.put(pool)))
            elif what == "limit":
                pool.max_concurrent = pick([1, 3, 6, sys.maxsize])
            elif what in ("pause", "resume", "stop", "cancel"):
                getattr(pool, what)()
            elif self.jobs:
                job = pick(list(self.jobs.values()))
                if what == "cancel job":
                    job.cancel()
                else:
                    waiter = asyncio.ensure_future(self.wait(job))
                    self.waiting.append(waiter)
                    if what == "await and cancel":
                        waiter.cancel()
        except (PoolFullError, ClosedError) as error:
            self.seen[type(error).__name__] += 1

    async def calm(self) -> None:
        """Check, when nothing happens, that no job is kept waiting."""
        calm = await self.is_calm()
        pool = self.pool
        now = self.now()
        if (
            pool is None
            or not calm
            or pool.paused
            or pool.progress.running >= pool.max_concurrent
            or now < max(self.last_start, self.last_act) + self.interval
        ):
            return
        self.seen["looked"] += 1
        for number, job in self.jobs.items():
            if job.done() or self.calls[number]:
                continue
            key = self.key_of[number]
            full = self.per_key is not None and self.keys[key] >= self.per_key
            self.must(full and key is not None, f"{job} waits, though {pool} has room")

    async def actions(self) -> None:
        for _ in range(self.random.choice([5, 30])):
            await asyncio.sleep(self.random.choice([0, 0, GRID / 4, GRID]))
            self.act()
            if self.random.random() < 0.3:
                await self.calm()

    # ------------------------------------------------------------------- the ends

    async def end(self, how: str) -> None:
        """End the use of the pool in one of many ways."""
        pool = self.pool
        assert pool is not None
        if how == "join" or (how == "registry" and self.registry is None):
            await pool.join()
            assert pool.progress.running == 0 or self.grace is not None
        elif how == "shutdown":
            report = await pool.shutdown(100)
            assert not report.stuck or self.grace is not None
        elif how == "late shutdown":
            await pool.shutdown(self.random.choice([0, GRID / 2, 3 * GRID]))
            await pool.join()
        elif how == "stop":
            pool.stop()
            await pool.join()
        elif how == "registry" and self.registry is not None:
            await self.registry.shutdown(100)
            await pool.join()
        elif how == "attached":
            drain = self.random.choice([0, GRID])
            coordinator = SignalCoordinator(shutdown_timeout=2 * GRID, drain=drain)
            coordinator.attach(pool)
            coordinator.request_shutdown()
            await coordinator.graceful_shutdown()
            await pool.join()
        elif how == "raises":
            raise Boom
        elif how == "cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    async def use(self, how: str, block: bool) -> None:
        if block:
            assert self.pool is not None
            async with self.pool as pool:
                await self.actions()
                self.ending = True
                pool.resume()
                del pool
                await self.end(how)
        else:
            await self.actions()
            self.ending = True
            self.pool.resume()  # type: ignore[union-attr]
            await self.end(how)

    async def main(self) -> None:
        self.prepare_loop()
        self.pool = TaskPool(**self.options())
        gone = weakref.ref(self.pool)
        block = self.random.choice([False, True])
        self.how = how = self.random.choice(BLOCKS if block else BARE)
        self.seen[f"{how}, {block}"] += 1
        async with asyncio.timeout(10_000):
            using = asyncio.ensure_future(self.use(how, block))
            await asyncio.wait([using])
            try:
                using.result()
            except (Boom, asyncio.CancelledError):
                assert how in ("raises", "cancelled")
            del using
            self.check_progress(drop=how == "drop")
            self.pool = None
            gc.collect(1)
            if self.waiting:
                await asyncio.wait(self.waiting)
        await asyncio.sleep(60)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()
        for kept in (self.waiting, self.jobs, self.results, self.errors):
            kept.clear()  # errors have tracebacks
        # Records of failures, which pytest keeps, have tracebacks, too.
        if self.registry is not None:
            return
        if gone() is not None:
            gc.collect()
        assert gone() is None

    def check_progress(self, drop: bool) -> None:
        assert self.pool is not None
        progress = self.pool.progress
        ended = progress.done + progress.failed + progress.cancelled
        resting = progress.started - ended - progress.running
        assert resting == 0 or (drop and self.retries and resting > 0), progress
        drop = drop or self.seen["put"] > 0  # which may have waited for join()
        assert progress.running == 0 or drop or self.grace is not None, progress
        if self.reports and not drop:
            stuck = [r for r in self.results if r.state is TaskState.RUNNING]
            assert progress.running == len(stuck)
            assert progress.started == len(self.results)

    def check(self) -> None:
        assert not self.broken
        for waiter in self.waiting:
            error = None if waiter.cancelled() else waiter.exception()
            assert error is None or isinstance(error, ClosedError), error
        self.check_errors()
        assert not self.running
        numbers = Counter(result.item[0] for result in self.results)
        assert all(count == 1 for count in numbers.values())
        for result in self.results:
            assert not isinstance(result.error, AssertionError | RuntimeError), result
            assert result.attempts == self.calls[result.item[0]], result.attempts
            self.seen[result.state.name] += 1
            self.seen["retried"] += result.attempts > 1
        for number, job in self.jobs.items():
            assert job.done()
            assert self.ends[id(job)] == 1
            outcome = job.outcome
            assert outcome is not None
            assert not isinstance(outcome.error, AssertionError | RuntimeError)
            started = number in self.calls
            assert started == (job.state is not TaskState.PENDING), job
            assert number in numbers or not started or not self.reports
            self.seen["never started"] += not started

    def check_errors(self) -> None:
        """Failures are reported once, if nobody has received them, and only these."""
        reported: Counter[int] = Counter()
        for context in self.errors:
            error = context.get("exception")
            assert isinstance(error, Boom | TimeoutError), context
            if isinstance(error, Boom) and error.args:
                reported[error.args[0]] += 1
        if self.grace is None:  # what was abandoned reports its own
            assert not reported or not self.reports, self.errors
            assert all(count == 1 for count in reported.values()), self.errors
        self.seen["reported"] += len(reported)
        logged = self.registry is not None or self.how in REPORTING
        if not (self.reports or self.retries or logged or self.grace is not None):
            assert not (self.dropped & self.boomed) - reported.keys()


pytestmark = pytest.mark.filterwarnings("ignore:.*was dropped while it ran")


@pytest.mark.standard_loop_only
@pytest.mark.parametrize("part", range(PARTS))
def test_each_job_ends_once_whatever_is_done_to_its_pool(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    seen = seen_by(Program, 400)
    for name in ("DONE", "FAILED", "CANCELLED", "retried", "never started"):
        assert seen[name] > 10, seen
    for name in ("PoolFullError", "ClosedError", "stop", "cancel", "await and cancel"):
        assert seen[name] > 5, seen
    for name in ("looked", "RUNNING", "reported"):
        assert seen[name] > 5, seen
