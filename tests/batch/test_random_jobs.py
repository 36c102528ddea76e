"""Random programs of jobs, limits, retries and queues, against invariants.

Whatever the program does, each job ends once, each item that was added or read has one
result or none and never starts after that, nothing is left in the loop, and a queue
knows that all of its items are done.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import gc
import random
from collections import Counter
from typing import Any

import pytest

from pyasynclife import (
    Batch,
    Job,
    Retry,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import Boom
from support.random_programs import PARTS, run, run_part

GRID = 1 / 8


class Item:
    """One item: how long its attempts take, and how they end."""

    def __init__(self, rng: random.Random, index: int) -> None:
        self.index = index
        self.key = rng.choice([None, 0, 1, 2])
        self.attempts = [
            (rng.choice([0, 0, 1, 1, 3, 9]) * GRID, rng.random() < 0.5)
            for _ in range(4)
        ]
        self.cancelled = rng.choice(["ends", "ends", "fails", "swallows", "stays"])
        self.calls = self.running = 0


class Program:
    """One batch, and what is done to it."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.items: list[Item] = []
        self.jobs: list[Job[Any]] = []
        self.ends: Counter[int] = Counter()
        self.awaited: list[asyncio.Task[Any]] = []
        self.results: list[TaskResult[Any]] = []
        self.errors: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.batch: Batch[Any] | None = None
        self.queue: asyncio.Queue[Item] | None = None
        self.meddles = rng.choice([0, 0, 0.03])  # in the callables of the batch
        self.limit = rng.choice([1, 2, 5, 50])

    # ------------------------------------------------------- what the batch calls

    async def fn(self, item: Item) -> int:
        item.calls += 1
        item.running += 1
        assert item.running == 1
        self.meddle()
        seconds, fails = item.attempts[min(item.calls, 4) - 1]
        try:
            if seconds:
                await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if item.cancelled == "fails":
                raise Boom(item.index) from None
            if item.cancelled == "stays":
                await asyncio.sleep(GRID * 4)
            if item.cancelled != "swallows":
                raise
            fails = False
        finally:
            item.running -= 1
        if fails:
            raise Boom(item.index)
        return item.index

    def key(self, item: Item) -> str:
        self.meddle()
        return f"item {item.index}"

    def limit_by(self, item: Item) -> Any:
        self.meddle()
        return item.key

    def on(self, error: Exception) -> bool:
        self.meddle()
        return True

    def backoff(self, attempt: int, error: Exception) -> float:
        self.meddle()
        return self.random.choice([0, 1, 3]) * GRID

    def on_result(self, result: TaskResult[Any]) -> None:
        self.results.append(result)
        self.meddle()

    def ended(self, job: Job[Any]) -> None:
        assert job.done()
        self.ends[id(job)] += 1

    def meddle(self) -> None:
        if self.random.random() < self.meddles:
            self.act()

    # -------------------------------------------------------------------- actions

    def act(self) -> None:
        batch = self.batch
        if batch is None or batch.status is not None:
            return
        what = self.random.choices(
            ["job", "add", "put", "pause", "limit", "stop", "cancel", "close", "drop"],
            [8, 8, 8, 2, 1, 0.4, 0.4, 0.4, 0.2],
        )[0]
        self.seen[what] += 1
        if what == "job" and self.jobs:
            job = self.random.choice(self.jobs)
            done = job.done()
            assert job.cancel("enough") != done
            assert job.task_id
        elif what == "add":
            self.add(batch)
        elif what == "put" and self.queue is not None:
            self.queue.put_nowait(self.item())
        elif what == "pause":
            batch.pause()
            asyncio.get_running_loop().call_later(GRID * 2, self.resume)
        elif what == "limit":
            batch.max_concurrent = self.limit = self.random.choice([1, 3, 20])
        elif what == "drop":
            if self.how == "drop":
                self.batch = None
        elif what in ("stop", "cancel", "close"):
            getattr(batch, what)()

    def resume(self) -> None:
        if self.batch is not None and self.batch.status is None:
            self.batch.resume()

    def item(self) -> Item:
        self.items.append(item := Item(self.random, len(self.items)))
        return item

    def add(self, batch: Batch[Any]) -> None:
        item = self.item()
        try:
            job = batch.add(item)
        except RuntimeError:  # it was closed, or stopped
            self.items.remove(item)
            return
        use = self.random.choice(["drop", "keep", "await", "callback"])
        if use == "drop":
            return
        job.add_done_callback(self.ended)
        self.jobs.append(job)
        if use == "await":
            self.awaited.append(asyncio.ensure_future(self.wait(job)))

    async def wait(self, job: Job[Any]) -> None:
        try:
            async with asyncio.timeout(self.random.choice([GRID * 5, None])):
                value = await job
            assert value == job.result()
        except TimeoutError:
            pass
        except (Boom, asyncio.CancelledError):
            assert job.done()

    # ------------------------------------------------------------------ the batch

    def options(self) -> dict[str, Any]:
        rng = self.random
        options: dict[str, Any] = {
            "max_concurrent": self.limit,
            "on_result": self.on_result,
            "ordered": rng.random() < 0.5,
            "lookahead": rng.choice([1, 3, 1000]),
        }
        for name, value in (
            ("key", self.key),
            ("limit_by", self.limit_by),
            ("retry", Retry(3, self.on, self.backoff, rng.choice([None, GRID * 2.5]))),
            ("timeout", GRID * rng.choice([2.5, 9.5])),
            ("cancel_grace", GRID * rng.choice([0, 2])),
            ("max_per_second", 1 / GRID / rng.choice([0.3, 1])),
            ("budget", GRID * 40),
            ("task_per_item", True),
        ):
            if rng.random() < 0.4:
                options[name] = value
        if "task_per_item" in options and "key" in options:
            options["registry"] = TaskRegistry()
        return options

    def source(self) -> Any:
        first = [self.item() for _ in range(self.random.choice([0, 3, 10]))]
        if self.random.random() < 0.5:
            return first
        self.queue = asyncio.Queue()
        for item in first:
            self.queue.put_nowait(item)
        return self.queue

    async def use(self) -> None:
        batch = self.batch
        assert batch is not None
        acting = asyncio.create_task(self.act_on())
        if self.how == "drop":
            await batch.__aenter__()
            del batch
            await acting
            self.batch = None
            gc.collect(0)
            return
        try:
            if self.how == "collect":
                self.seen["results"] += len(list(await batch))
            elif self.how == "block":
                async with batch:
                    await acting
            else:
                async with batch:
                    async for result in batch:
                        self.seen["results"] += result.success
                        if self.random.random() < 0.3:
                            await asyncio.sleep(GRID)
        finally:
            await acting

    async def act_on(self) -> None:
        for _ in range(self.random.choice([5, 30])):
            await asyncio.sleep(self.random.choice([0, 0, GRID / 4, GRID]))
            self.act()
        if self.batch is not None and self.batch.status is None:
            self.batch.close()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self.how = self.random.choice(["collect", "block", "stream", "drop"])
        self.batch = bounded_gather(self.fn, self.source(), **self.options())
        async with asyncio.timeout(1000):
            await self.use()
        await asyncio.sleep(60)  # what was dropped or abandoned ends
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()

    def check(self) -> None:
        # What an abandoned item raises is its task's own.
        abandoned = [r for r in self.results if r.state is TaskState.RUNNING]
        self.errors = [
            context
            for context in self.errors
            if not (abandoned and isinstance(context.get("exception"), Boom))
        ]
        assert not self.errors, self.errors
        for waiter in self.awaited:
            waiter.result()
        results = {id(result.item): result for result in self.results}
        assert len(results) == len(self.results)
        for result in self.results:
            assert not isinstance(result.error, AssertionError | RuntimeError), result
            assert result.attempts == result.item.calls
            self.seen[result.state.name] += 1
            self.seen["retried"] += result.attempts > 1
        for job in self.jobs:
            outcome = job.outcome
            assert outcome is not None
            assert self.ends[id(job)] == 1
            assert results.get(id(outcome.item), outcome) is outcome
            assert (id(outcome.item) in results) == (job.state is not TaskState.PENDING)
            self.seen["never started"] += job.state is TaskState.PENDING
        for item in self.items:
            assert item.running == 0
            assert not item.calls or id(item) in results
        if self.queue is not None:
            left = self.queue.qsize()
            assert self.queue._unfinished_tasks == left  # type: ignore[attr-defined]
            self.seen["put back"] += left
        if self.batch is not None:
            progress = self.batch.progress
            ended = progress.done + progress.failed + progress.cancelled
            assert progress.running == len(abandoned)
            assert progress.started == len(self.results) == ended + len(abandoned)


pytestmark = pytest.mark.filterwarnings("ignore:.*was dropped while it ran")


@pytest.mark.parametrize("part", range(PARTS))
def test_each_job_ends_once_whatever_is_done_to_its_batch(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    seen: Counter[str] = Counter()
    for program in (run(Program, seed) for seed in range(200)):
        seen += program.seen
    for name in ("DONE", "FAILED", "CANCELLED", "RUNNING", "retried"):
        assert seen[name] > 10, seen
    for name in ("never started", "results", "put back", "drop", "stop", "cancel"):
        assert seen[name] > 5, seen
