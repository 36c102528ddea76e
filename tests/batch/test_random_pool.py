"""Random programs of pools, against invariants.

Whatever is done to a pool, each job ends once, a job that starts has one result, no
more jobs run than the limit allows, and nothing is left in the loop.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    ClosedError,
    Job,
    PoolFullError,
    Retry,
    TaskPool,
    TaskRegistry,
    TaskResult,
    TaskState,
)
from support.coroutines import Boom
from support.random_programs import PARTS, run, run_part

GRID = 1 / 8


class Program:
    """One pool, and what is done to it."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.pool: TaskPool
        self.most = 0  # the greatest limit so far
        self.keys: Counter[int | None] = Counter()  # running, by key
        self.running = self.greatest = 0
        self.ending = False  # a job that pauses the pool would have it wait for ever
        self.calls: Counter[int] = Counter()  # of the function, by number
        self.jobs: list[Job[int]] = []
        self.ends: Counter[int] = Counter()
        self.results: list[TaskResult[Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.waiting: list[asyncio.Task[Any]] = []
        self.seen: Counter[str] = Counter()

    def options(self) -> dict[str, Any]:
        pick = self.random.choice
        self.per_key = pick([None, None, 1, 2])
        self.most = pick([1, 2, 5])
        options: dict[str, Any] = {
            "max_concurrent": self.most,
            "timeout": pick([None, None, 4 * GRID]),
            "max_pending": pick([None, None, 0, 3]),
            "task_per_item": pick([None, True]),
            "max_per_second": pick([None, None, 16]),
            "on_result": self.results.append,
        }
        if self.per_key is not None:
            options |= {"limit_by": lambda n, key: key, "max_per_key": self.per_key}
        if pick([False, True]):
            options["retry"] = Retry(3, backoff=Backoff(GRID, jitter=0))
        if pick([False, False, True]):
            options["registry"] = TaskRegistry()
        return options

    async def fn(self, number: int, key: int | None) -> int:
        self.calls[number] += 1
        self.running += 1
        self.keys[key] += 1
        self.greatest = max(self.greatest, self.running)
        if self.per_key is not None and key is not None:
            assert self.keys[key] <= self.per_key
        try:
            await asyncio.sleep(self.random.choice([0, 0, 1, 1, 3, 9]) * GRID)
            if self.random.random() < 0.1:
                self.act()
            if self.random.random() < 0.3:
                raise Boom(number)
            return number
        finally:
            self.running -= 1
            self.keys[key] -= 1

    def add(self, job: Job[int]) -> None:
        if self.random.random() < 0.8:
            self.jobs.append(job)
            job.add_done_callback(lambda job: self.ends.update([id(job)]))

    async def put(self, number: int) -> None:
        self.add(await self.pool.put(self.fn, number, self.random.choice([None, 0, 1])))

    async def wait(self, job: Job[int]) -> None:
        try:
            await job
        except (Boom, TimeoutError):
            pass
        except asyncio.CancelledError:
            assert job.cancelled() or asyncio.current_task().cancelling()  # type: ignore[union-attr]

    def act(self) -> None:
        """Do something to the pool, which may refuse it."""
        pool, pick = self.pool, self.random.choice
        what = pick(
            ["submit"] * 8
            + ["put", "put", "cancel job", "await", "await and cancel", "limit"]
            + (["resume"] if self.ending else ["pause", "resume"])
            + (["stop", "cancel"] if self.random.random() < 0.1 else [])
        )
        self.seen[what] += 1
        number = self.seen["number"] = self.seen["number"] + 1
        try:
            if what == "submit":
                self.add(pool.submit(self.fn, number, pick([None, 0, 1])))
            elif what == "put":
                self.waiting.append(asyncio.ensure_future(self.put(number)))
            elif what == "limit":
                pool.max_concurrent = pick([1, 3, 6])
                self.most = max(self.most, pool.max_concurrent)
            elif what in ("pause", "resume", "stop", "cancel"):
                getattr(pool, what)()
            elif self.jobs:
                job = pick(self.jobs)
                if what == "cancel job":
                    job.cancel()
                else:
                    waiter = asyncio.ensure_future(self.wait(job))
                    self.waiting.append(waiter)
                    if what == "await and cancel":
                        waiter.cancel()
        except (PoolFullError, ClosedError) as error:
            self.seen[type(error).__name__] += 1

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.pool = TaskPool(**self.options())
        how = self.random.choice(["block", "raises", "join", "shutdown"])
        self.seen[how] += 1
        async with asyncio.timeout(10_000):
            try:
                async with self.pool as pool:
                    for _ in range(self.random.choice([5, 30])):
                        await asyncio.sleep(self.random.choice([0, 0, GRID / 4, GRID]))
                        self.act()
                    self.ending = True
                    pool.resume()
                    if how == "join":
                        await pool.join()
                    elif how == "shutdown":
                        report = await pool.shutdown(100)
                        assert not report.stuck
                    elif how == "raises":
                        raise Boom
            except Boom:
                assert how == "raises"
            await asyncio.wait([*self.waiting, asyncio.ensure_future(asyncio.sleep(0))])
        await asyncio.sleep(60)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()

    def check(self) -> None:
        for waiter in self.waiting:
            error = None if waiter.cancelled() else waiter.exception()
            assert error is None or isinstance(error, ClosedError), error
        assert not self.errors, self.errors
        assert self.running == 0
        assert self.greatest <= self.most
        numbers = Counter(result.item[0] for result in self.results)
        assert all(count == 1 for count in numbers.values())
        for result in self.results:
            assert not isinstance(result.error, AssertionError | RuntimeError), result
            assert result.attempts == self.calls[result.item[0]]
            self.seen[result.state.name] += 1
            self.seen["retried"] += result.attempts > 1
        for job in self.jobs:
            assert job.done()
            assert self.ends[id(job)] == 1
            outcome = job.outcome
            assert outcome is not None
            started = outcome.item[0] in numbers
            assert started == (job.state is not TaskState.PENDING)
            self.seen["never started"] += not started
        progress = self.pool.progress
        assert progress.running == 0
        assert progress.started == len(self.results)
        assert progress.done + progress.failed + progress.cancelled == progress.started


@pytest.mark.standard_loop_only
@pytest.mark.parametrize("part", range(PARTS))
def test_each_job_ends_once_whatever_is_done_to_its_pool(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    seen: Counter[str] = Counter()
    for program in (run(Program, seed) for seed in range(100)):
        seen += program.seen
    for name in ("DONE", "FAILED", "CANCELLED", "retried", "never started"):
        assert seen[name] > 10, seen
    for name in ("PoolFullError", "ClosedError", "stop", "cancel", "await and cancel"):
        assert seen[name] > 5, seen
