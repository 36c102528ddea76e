"""Random programs of jobs, limits, retries and sources, against invariants.

Whatever the program does, with on_result and without, and however the batch is used and
left, each job ends once, each item that was added or read has one result or none and
never starts after that, no more items run than the limits allow, none waits that could
start, nothing is left in the loop, and a queue knows that all of its items are done.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import contextlib
import gc
import random
import sys
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pyasynclife import (
    Batch,
    BatchError,
    BatchResult,
    Job,
    Retry,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import Boom
from support.random_programs import GRID, PARTS, ItemsProgram, run_part, seen_by

USES = ["collect", "block", "stream", "late stream", "late collect", "bare stream"]
LEFT = ["break", "aclose", "raises", "cancelled", "drop", "drop stream"]
SOURCES = ["list", "tuple", "generator", "async", "queue", "none"]


class Item:
    """One item: how long its attempts take, and how they end."""

    def __init__(self, rng: random.Random, index: int, key: int | None) -> None:
        self.index = index
        self.key = key
        self.attempts = [
            (rng.choice([0, 0, 1, 1, 3, 9]) * GRID, rng.random() < 0.5)
            for _ in range(4)
        ]
        self.cancelled = rng.choice(["ends", "ends", "fails", "swallows", "stays"])
        self.calls = self.running = 0


class Program(ItemsProgram):
    """One batch, and what is done to it."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        rng = self.random
        self.items: list[Item] = []
        self.jobs: list[tuple[Item, Job[Any]]] = []
        self.read: list[Item] = []  # of the source
        self.ends: Counter[int] = Counter()
        self.awaited: list[asyncio.Task[Any]] = []
        self.results: list[TaskResult[Any]] = []  # that on_result has received
        self.taken: list[TaskResult[Any]] = []  # that an iteration has
        self.collected: BatchResult[Any] | None = None
        self.batch: Batch[Any] | None = None
        self.queue: asyncio.Queue[Item] | None = None
        self.registry: TaskRegistry | None = None
        self.meddles = rng.choice([0, 0, 0.03])  # in the callables of the batch
        self.how = rng.choice(USES + LEFT)
        self.kind = rng.choice(SOURCES)
        self.reports = rng.random() < 0.5
        self.keyed = rng.random() < 0.4
        self.per_key = rng.choice([1, 1, 2])
        self.interval = rng.choice([0, 0, 0, 0.3, 1]) * GRID
        self.lookahead = rng.choice([1, 3, 1000, 1000])
        self.fails = rng.random() < 0.05  # the source
        self.grace = rng.choice([None, None, None, 0, GRID * 2])
        self.max_errors = rng.choice([None, None, None, 0, 2])
        self.keys: Counter[Any] = Counter()
        self.running = 0
        self.streams = self.over = self.late = False

    # ------------------------------------------------------- what the batch calls

    async def fn(self, item: Item) -> int:
        self.began(item)
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
            self.events += 1
            item.running -= 1
            self.running -= 1
            self.keys[item.key] -= 1
        if fails:
            raise Boom(item.index)
        return item.index

    def began(self, item: Item) -> None:
        """An attempt begins: it may."""
        now, batch = self.now(), self.batch
        self.events += 1
        item.calls += 1
        item.running += 1
        self.running += 1
        self.keys[item.key] += 1
        self.must(item.running == 1, "runs already")
        self.must(not self.over, "over")
        self.must(batch is None or not batch.paused, "paused")
        self.must(now >= self.last_start + self.interval - 1e-6, "too early")
        self.last_start = now
        if self.grace is None:  # otherwise some may have been abandoned
            self.must(batch is None or self.running <= batch.max_concurrent, "limit")
            if self.keyed and item.key is not None:
                self.must(self.keys[item.key] <= self.per_key, "limit of the key")

    def key(self, item: Item) -> str:
        self.meddle(pulling=True)
        return f"item {item.index}"

    def limit_by(self, item: Item) -> Any:
        self.meddle(pulling=True)
        return item.key

    def on_result(self, result: TaskResult[Any]) -> None:
        self.results.append(result)
        self.meddle()

    def ended(self, job: Job[Any]) -> None:
        assert job.done()
        self.ends[id(job)] += 1

    def meddle(self, pulling: bool = False) -> None:
        if self.random.random() < self.meddles:
            self.act(pulling)

    # -------------------------------------------------------------------- actions

    def act(self, pulling: bool = False) -> None:
        """Do something to the batch, perhaps while it pulls an item."""
        batch = self.batch
        if batch is None or batch.status is not None:
            return
        self.events += 1
        self.last_act = self.now()
        what = self.random.choices(
            ["job", "add", "put", "pause", "limit", "stop", "cancel", "close", "drop",
             "registry"],
            [8, 8, 8, 2, 2, 0.4, 0.4, 0.4, 0.2, 0.2],
        )[0]  # fmt: skip
        if pulling and what in ("pause", "limit"):
            return  # too late for the item that is being pulled
        self.seen[what] += 1
        some = self.random.choice([1, 1, 1, 6])
        if what == "job" and self.jobs:
            for _, job in self.random.choices(self.jobs, k=some):
                done = job.done()
                assert job.cancel("enough") != done
                assert job.task_id
        elif what == "add":
            for _ in range(some):
                self.add(batch)
        elif what == "put" and self.queue is not None:
            self.queue.put_nowait(self.item())
        elif what == "pause":
            batch.pause()
            asyncio.get_running_loop().call_later(GRID * 2, self.resume)
        elif what == "limit":
            batch.max_concurrent = self.random.choice([1, 3, 20, sys.maxsize])
        elif what == "drop":
            if self.how == "drop":
                self.batch = None
        elif what == "registry" and self.registry is not None:
            self.awaited.append(asyncio.ensure_future(self.registry.shutdown(60)))
        elif what in ("stop", "cancel", "close"):
            getattr(batch, what)()

    def resume(self) -> None:
        if self.batch is not None and self.batch.status is None:
            self.batch.resume()

    def item(self) -> Item:
        key = self.random.choice([None, 0, 1, 2])
        self.items.append(item := Item(self.random, len(self.items), key))
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
        self.jobs.append((item, job))
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

    async def calm(self) -> None:
        """Check, when nothing happens, that no item is kept waiting."""
        calm = await self.is_calm()
        batch = self.batch
        now = self.now()
        if (
            batch is None
            or self.streams  # its consumer holds it back
            or self.lookahead < 1000
            or not calm
            or batch.paused
            or not batch._core.begun
            or batch._core.stopping
            or batch.status is not None
            or batch.progress.running >= batch.max_concurrent
            or now < max(self.last_start, self.last_act) + self.interval
        ):
            return
        self.seen["looked"] += 1
        waiting = [item for item, job in self.jobs if not job.done()]
        if self.how == "collect" or self.reports:
            waiting += self.read
        for item in waiting:
            if not item.calls:
                self.must(
                    self.keyed
                    and item.key is not None
                    and self.keys[item.key] >= self.per_key,
                    f"item {item.index} waits",
                )

    # ------------------------------------------------------------------ the batch

    def options(self) -> dict[str, Any]:
        rng = self.random
        options: dict[str, Any] = {
            "max_concurrent": rng.choice([1, 1, 2, 5, 50, sys.maxsize]),
            "ordered": rng.random() < 0.5,
            "lookahead": self.lookahead,
            "cancel_grace": self.grace,
            "max_errors": self.max_errors,
            "buffer": rng.choice([None, None, 0, 0, 3, sys.maxsize]),
        }
        if self.reports:
            options["on_result"] = self.on_result
        if self.keyed:
            options |= {"limit_by": self.limit_by, "max_per_key": self.per_key}
        if self.interval:
            options["max_per_second"] = 1 / self.interval
        for name, value in (
            ("key", self.key),
            ("retry", Retry(3, self.on, self.backoff, rng.choice([None, GRID * 2.5]))),
            ("timeout", GRID * rng.choice([2.5, 9.5])),
            ("budget", GRID * rng.choice([4, 40])),
            ("task_per_item", True),
        ):
            if rng.random() < 0.3:
                options[name] = value
        if "task_per_item" in options and "key" in options:
            options["registry"] = self.registry = TaskRegistry()
        return options

    def source(self) -> Any:
        if self.kind == "none":
            return ()
        first = [self.item() for _ in range(self.random.choice([0, 0, 3, 10, 60]))]
        if self.kind in ("list", "tuple"):
            self.read = first
            return first if self.kind == "list" else tuple(first)
        if self.kind == "generator":
            return self.generate(first)
        if self.kind == "async":
            return self.generate_slowly(first)
        self.queue = asyncio.Queue()
        for item in first:
            self.queue.put_nowait(item)
        return self.queue

    def generate(self, items: list[Item]) -> Iterator[Item]:
        for number, item in enumerate(items):
            if number == 5 and self.fails:
                raise ZeroDivisionError
            self.meddle(pulling=True)
            self.read.append(item)
            yield item

    async def generate_slowly(self, items: list[Item]) -> AsyncIterator[Item]:
        await asyncio.sleep(0)
        for item in self.generate(items):
            yield item
            await asyncio.sleep(self.random.choice([0, 0, GRID / 4]))

    # -------------------------------------------------------------------- its use

    async def iterate(self, most: int | None = None) -> None:
        """Take results; at most so many."""
        batch = self.batch
        assert batch is not None
        self.streams = True
        async for result in batch:
            self.taken.append(result)
            if most is not None and len(self.taken) >= most:
                return
            if self.random.random() < 0.3:
                await asyncio.sleep(GRID)

    async def use(self, acting: asyncio.Task[None]) -> None:
        how, batch = self.how, self.batch
        some = self.random.choice([1, 3, 10])
        assert batch is not None
        if how == "collect":
            self.collected = await batch
        elif how == "bare stream":
            await self.iterate()
        elif how == "aclose":
            async with contextlib.aclosing(aiter(batch)) as results:
                self.streams = True
                async for result in results:
                    self.taken.append(result)
                    if len(self.taken) >= some:
                        break
        elif how == "drop stream":
            await self.iterate(some)
            self.batch = None
        elif how == "drop":
            await batch.__aenter__()
            del batch
            await acting
            self.batch = None
        else:
            await self.use_block(acting, some)

    async def use_block(self, acting: asyncio.Task[None], some: int) -> None:
        assert self.batch is not None
        async with self.batch as batch:
            if self.how in ("stream", "break"):
                await self.iterate(some if self.how == "break" else None)
            elif self.how == "late stream":
                await asyncio.sleep(self.random.choice([0, 1, 5, 20]) * GRID)
                await self.iterate()
            elif self.how == "late collect":
                await asyncio.sleep(self.random.choice([0, 1, 5, 20]) * GRID)
                self.collected = await batch
            elif self.how == "raises":
                await asyncio.sleep(self.random.choice([0, 1, 5, 20]) * GRID)
                raise Boom("body")
            else:
                await asyncio.wait([acting])  # which a cancellation leaves alone

    async def end_use(self, using: asyncio.Task[None]) -> None:
        """Wait for the use, which may end by some exceptions and no others."""
        if self.how == "cancelled":
            await asyncio.sleep(self.random.choice([0, 1, 5, 20]) * GRID)
            using.cancel()
        try:
            await using
        except asyncio.CancelledError:
            assert self.how == "cancelled"
        except BatchError as error:
            assert self.max_errors is not None
            self.collected = error.result
        except ZeroDivisionError:
            assert self.fails
        except Boom:
            assert self.how == "raises"
        except RuntimeError as error:  # it came too late to choose
            self.must(self.reports and "on_result" in str(error), str(error))
            self.late = True

    async def act_on(self) -> None:
        for _ in range(self.random.choice([5, 30])):
            await asyncio.sleep(self.random.choice([0, 0, GRID / 4, GRID]))
            self.act()
            if self.random.random() < 0.3:
                await self.calm()
        if self.batch is not None and self.batch.status is None:
            self.batch.close()

    async def main(self) -> None:
        self.prepare_loop()
        self.batch = bounded_gather(self.fn, self.source(), **self.options())
        gone = weakref.ref(self.batch)
        self.seen[self.how] += 1
        async with asyncio.timeout(1000):
            acting = asyncio.create_task(self.act_on())
            await self.end_use(asyncio.ensure_future(self.use(acting)))
            self.over = self.batch is not None and self.batch.status is not None
            if self.how == "bare stream" or not self.how.startswith("drop"):
                assert self.over
            await acting
        gc.collect(0)
        await asyncio.sleep(60)  # what was dropped or abandoned ends
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()
        for kept in (self.awaited, self.jobs, self.results, self.errors, self.taken):
            kept.clear()  # errors have tracebacks
        self.collected = self.batch = None
        # Records of failures, which pytest keeps, have tracebacks, too.
        if self.registry is not None:
            return
        if gone() is not None:
            gc.collect()
        assert gone() is None

    # --------------------------------------------------------------------- checks

    def check(self) -> None:
        assert not self.broken, self.broken
        self.check_errors()
        for waiter in self.awaited:
            waiter.result()
        for item in self.items:
            assert item.running == 0
        self.check_results()
        self.check_jobs()
        if self.queue is not None:
            left = self.queue.qsize()
            assert self.queue._unfinished_tasks == left  # type: ignore[attr-defined]
            self.seen["put back"] += left
        if self.batch is not None:
            self.check_progress(self.batch)

    def check_errors(self) -> None:
        """What nobody received was reported, and nothing else."""
        for context in self.errors:
            error = context.get("exception")
            expected = isinstance(error, Boom | TimeoutError | BatchError)
            assert expected or (self.fails and isinstance(error, ZeroDivisionError))
        if self.reports and self.grace is None and self.how in USES and not self.late:
            assert not self.errors, self.errors
        self.seen["reported"] += len(self.errors)

    def check_results(self) -> None:
        by_item = {id(result.item): result for result in self.results}
        assert len(by_item) == len(self.results)
        for result in self.results:
            self.check_result(result)
        for item in self.items:
            assert not item.calls or not self.reports or id(item) in by_item
        taken = {id(result.item) for result in self.taken}
        assert len(taken) == len(self.taken)
        for result in self.taken:
            assert not self.reports or by_item[id(result.item)] is result
            self.check_result(result)
        ends = self.streams and self.how in USES and not self.late
        if ends and self.max_errors is None:
            for item in self.items:
                assert not item.calls or id(item) in taken or self.fails
        if self.collected is not None:
            self.check_collected(self.collected)

    def check_result(self, result: TaskResult[Any]) -> None:
        assert not isinstance(result.error, AssertionError | RuntimeError), result
        assert result.attempts == result.item.calls
        assert result.state is not TaskState.PENDING
        self.seen[result.state.name] += 1
        self.seen["retried"] += result.attempts > 1

    def check_collected(self, collected: BatchResult[Any]) -> None:
        self.seen["results"] += len(collected)
        by_item = {id(result.item): result for result in collected}
        assert len(by_item) == len(collected)
        assert [result.index for result in collected] == list(range(len(collected)))
        for result in collected:
            started = result.state is not TaskState.PENDING
            assert started == (result.attempts > 0), result
            if started:
                self.check_result(result)
        for item in self.items:
            assert not item.calls or id(item) in by_item
        for item, job in self.jobs:
            if id(item) in by_item:
                assert by_item[id(item)].state is job.outcome.state  # type: ignore[union-attr]

    def check_jobs(self) -> None:
        results = {id(result.item): result for result in self.results + self.taken}
        for item, job in self.jobs:
            outcome = job.outcome
            assert outcome is not None
            assert outcome.item is item
            assert self.ends[id(job)] == 1
            assert results.get(id(item), outcome) is outcome
            assert bool(item.calls) == (job.state is not TaskState.PENDING), job
            self.seen["never started"] += job.state is TaskState.PENDING

    def check_progress(self, batch: Batch[Any]) -> None:
        progress = batch.progress
        ended = progress.done + progress.failed + progress.cancelled
        assert progress.started == ended + progress.running, progress
        assert progress.started == sum(item.calls > 0 for item in self.items)
        assert progress.running == 0 or self.grace is not None
        if self.reports:
            stuck = [r for r in self.results if r.state is TaskState.RUNNING]
            assert progress.running == len(stuck)
            assert progress.started == len(self.results)


pytestmark = pytest.mark.filterwarnings("ignore:.*was dropped while it ran")


@pytest.mark.parametrize("part", range(PARTS))
def test_each_job_ends_once_whatever_is_done_to_its_batch(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    seen = seen_by(Program, 400)
    for name in ("DONE", "FAILED", "CANCELLED", "RUNNING", "retried", *USES, *LEFT):
        assert seen[name] > 10, seen
    for name in ("never started", "results", "put back", "drop", "stop", "cancel"):
        assert seen[name] > 5, seen
    for name in ("looked", "reported", "registry"):
        assert seen[name] > 5, seen
