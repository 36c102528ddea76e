"""Random programs of limits, rates and retries, against a model of a few lines.

The model of an item knows how long each of its attempts takes and how it ends, so it
knows the outcome without the batch. The model of the batch looks on from outside: it
checks each start, and whenever nothing is ready, that no item is kept waiting which may
start.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import itertools
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    Retry,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from support.coroutines import Boom
from support.random_programs import PARTS, run, run_part

GRID = 1 / 8  # of all times but those of the looks
LOOK = 1 / 16
CALM = 60  # iterations in which what may start does

Outcome = tuple[TaskState, bool, int]  # with timed_out and attempts


class Plan:
    """One item: its key, and how long each attempt takes and whether it fails."""

    def __init__(self, rng: random.Random, index: int, keys: int) -> None:
        self.index = index
        self.key = rng.choice([None, *range(keys)]) if keys else None
        self.attempts = [
            (rng.choice([0, 1, 1, 2, 5, 11]) * GRID, rng.random() < 0.5)
            for _ in range(6)
        ]
        self.calls = 0

    def outcome(self, program: "Program") -> Outcome:
        """What becomes of the item if the batch lets it."""
        left = program.timeout
        for number, (seconds, fails) in enumerate(self.attempts, 1):
            if seconds >= min(left, program.attempt_timeout) and seconds:
                if seconds >= left and program.attempt_timeout >= left:
                    return TaskState.FAILED, True, number
                seconds, fails, late = program.attempt_timeout, True, True
            else:
                late = False
            left -= seconds
            if not fails:
                return TaskState.DONE, False, number
            if number >= program.attempts or not program.again(late):
                return TaskState.FAILED, late, number
            left -= program.delay(number)
            if left <= 0:
                return TaskState.FAILED, True, number
        raise AssertionError("more attempts than are planned")


class Program:
    """One batch, and what the model knows of it."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.keys = rng.choice([0, 1, 3, 8])
        self.size = rng.choice([1, 4, 12, 30])
        self.plans = [Plan(rng, i, self.keys) for i in range(self.size)]
        self.limit = rng.choice([1, 2, 4, 50])
        self.per_key = rng.choice([1, 1, 2, 3]) if self.keys else 1
        self.lookahead = rng.choice([1, 3, 1000])
        self.interval = rng.choice([0, 0, 1, 2, 4]) * GRID
        self.attempts = rng.choice([1, 1, 2, 4])
        self.timeout = rng.choice([1e9, 1e9, 6 * GRID + LOOK])
        self.attempt_timeout = (
            rng.choice([1e9, 3 * GRID + LOOK / 2]) if self.attempts > 1 else 1e9
        )
        self.delays = rng.choice([0, 1, 3]) * GRID
        self.retries_timeouts = rng.random() < 0.5
        self.items = list(self.plans)
        self.stops = rng.random() < 0.5  # by something that the model cannot foresee
        self.paused = self.ending = False
        self.read: list[Plan] = []
        self.begun: list[Plan] = []
        self.running: Counter[Any] = Counter()
        self.due: dict[Plan, float] = {}  # failed attempts, and when the delay is over
        self.last_start = -1e9
        self.results: list[TaskResult[Any]] = []

    def again(self, late: bool) -> bool:
        return self.retries_timeouts or not late

    def delay(self, attempts: int) -> float:
        return self.delays * attempts

    # --------------------------------------------------------- what the batch calls

    async def item(self, plan: Plan) -> int:
        now = self.now()
        assert plan in self.read
        assert not self.paused or self.options.get("task_per_item")
        assert self.due.pop(plan, 0) <= now
        assert now >= self.last_start + self.interval - 1e-6
        self.last_start = now
        if plan.calls == 0:
            self.begun.append(plan)
            older = [p for p in self.items[: plan.index] if p.key == plan.key]
            if plan.index < len(self.items) and plan.key is not None:
                assert all(p.calls for p in older)
        seconds, fails = plan.attempts[plan.calls]
        plan.calls += 1
        self.running[plan.key] += 1
        assert self.running.total() <= self.limit
        assert plan.key is None or self.running[plan.key] <= self.per_key
        began = now
        late = False
        try:
            if seconds:
                await asyncio.sleep(seconds)
            if fails:
                raise Boom(plan.index)
            return plan.index
        except asyncio.CancelledError:
            fails = late = True
            raise
        finally:
            self.running[plan.key] -= 1
            self.spent = self.now() - began
            if fails and plan.calls < self.attempts and self.again(late):
                self.due[plan] = self.now() + self.delay(plan.calls)

    def key(self, plan: Plan) -> Any:
        return plan.key

    def on(self, error: Exception) -> bool:
        return self.again(isinstance(error, TimeoutError))

    def backoff(self, attempt: int, error: Exception) -> float:
        return self.delay(attempt)

    def on_result(self, result: TaskResult[Any]) -> None:
        self.results.append(result)
        self.due.pop(result.item, None)

    def source(self) -> Iterator[Plan]:
        for plan in self.items:
            self.read.append(plan)
            yield plan

    async def async_source(self) -> AsyncIterator[Plan]:
        for plan in self.items:
            self.read.append(plan)
            yield plan

    # ------------------------------------------------------------------ the looks

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def look(self) -> None:
        """Nothing is ready: no item may be kept waiting that could start."""
        await asyncio.sleep(LOOK)
        while True:
            for _ in range(CALM):
                await asyncio.sleep(0)
            self.check_nothing_waits()
            await asyncio.sleep(GRID)

    def check_nothing_waits(self) -> None:
        free = self.running.total() < self.limit
        if (
            self.paused
            or self.ending
            or not free
            or self.now() < self.last_start + self.interval
        ):
            return

        def has_room(plan: Plan) -> bool:
            return plan.key is None or self.running[plan.key] < self.per_key

        # Nobody sees whether an added item has been pulled.
        read = [plan for plan in self.read if plan.index < len(self.items)]
        aside = [plan for plan in read if not plan.calls]
        assert len(aside) <= self.lookahead
        waiting = [plan for plan, due in self.due.items() if due <= self.now()]
        assert not [plan.index for plan in waiting if has_room(plan)]
        assert not [plan.index for plan in aside if has_room(plan)]
        assert len(read) == len(self.items) or len(aside) >= self.lookahead

    # ------------------------------------------------------------------- the batch

    def make_options(self) -> dict[str, Any]:
        rng = self.random
        options: dict[str, Any] = {
            "max_concurrent": self.limit,
            "lookahead": self.lookahead,
            "ordered": rng.random() < 0.5,
            "on_result": self.on_result,
            "key": lambda plan: f"item {plan.index}",
        }
        if self.keys:
            options |= {"limit_by": self.key, "max_per_key": self.per_key}
        if self.interval:
            options["max_per_second"] = 1 / self.interval
        if self.timeout < 1e9:
            options["timeout"] = self.timeout
        if self.attempts > 1:
            timeout = self.attempt_timeout if self.attempt_timeout < 1e9 else None
            options["retry"] = Retry(self.attempts, self.on, self.backoff, timeout)
        if rng.random() < 0.3:
            options["task_per_item"] = True
        elif rng.random() < 0.3:
            options |= {"registry": TaskRegistry(), "task_per_item": True}
        if self.stops:
            for name, values in (
                ("budget", [0.5, 2.0]),
                ("max_errors", [0, 2]),
                ("cancel_grace", [0, 1.0]),
            ):
                if rng.random() < 0.4:
                    options[name] = rng.choice(values)
                    self.ending = True  # at any time
        return options

    async def use(self) -> None:
        how = self.random.choice(["collect", "block", "stream"])
        watcher = None
        if how == "stream" and self.random.random() < 0.5:
            async with self.batch:
                async for _ in self.batch:
                    await asyncio.sleep(self.random.choice([0, GRID]))
            return
        # A stream has its window, and a reader is one item ahead.
        if not self.is_async and how != "stream":
            watcher = asyncio.create_task(self.look())
        try:
            if how == "collect":
                self.collected = await self.batch
                self.collected.failures()
            elif how == "block":
                async with self.batch:
                    await asyncio.sleep(GRID)
                    for _ in range(self.random.choice([0, 2])):
                        if self.batch.status is None and not self.stops:
                            self.plans.append(plan := self.add())
                            self.batch.add(plan)
            else:
                async with self.batch:
                    async for _ in self.batch:
                        pass
        finally:
            if watcher is not None:
                if watcher.done():
                    watcher.result()
                watcher.cancel()

    def add(self) -> Plan:
        plan = Plan(self.random, len(self.plans), self.keys)
        self.read.append(plan)
        return plan

    def disturb(self) -> None:
        what = self.random.choice(["cancel", "pause", "close", "limit"])
        if self.batch.status is not None:
            return
        if what == "cancel":
            self.ending = True
            self.batch.cancel()
        elif what == "close":
            self.batch.close()
        elif what == "limit":
            self.limit += 2
            self.batch.max_concurrent = self.limit
        else:
            self.paused = True
            self.batch.pause()
            asyncio.get_running_loop().call_later(3 * GRID, self.resume)

    def resume(self) -> None:
        self.paused = False
        if self.batch.status is None:
            self.batch.resume()

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        if sys.version_info >= (3, 12) and self.random.random() < 0.3:
            loop.set_task_factory(asyncio.eager_task_factory)
        self.options = self.make_options()
        self.is_async = self.random.random() < 0.3
        items = self.async_source() if self.is_async else self.source()
        self.batch = bounded_gather(self.item, items, **self.options)
        if self.stops:
            for _ in range(self.random.choice([0, 1, 2])):
                loop.call_later(self.random.randrange(20) * GRID + LOOK, self.disturb)
        try:
            async with asyncio.timeout(1000):
                await self.use()
        except BatchError:
            assert self.stops
        await asyncio.sleep(30)  # what was abandoned ends
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()

    def check(self) -> None:
        indexes = [result.index for result in self.results]
        assert len(indexes) == len(set(indexes))
        broken = [r.error for r in self.results if isinstance(r.error, AssertionError)]
        assert not broken, broken
        for result in self.results:
            plan = result.item
            assert result.attempts == plan.calls
            if not self.stops:
                outcome = (result.state, result.timed_out, result.attempts)
                assert outcome == plan.outcome(self), plan.index
        if not self.stops:
            assert len(indexes) == len(self.plans)
        progress = self.batch.progress
        assert progress.started == len(self.begun)
        assert progress.running == sum(
            result.state is TaskState.RUNNING for result in self.results
        )


@pytest.mark.parametrize("part", range(PARTS))
def test_random_programs_agree_with_the_model(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    """Some retries, set aside items, timeouts and stops."""
    seen: Counter[str] = Counter()
    for program in (run(Program, seed) for seed in range(200)):
        for result in program.results:
            seen["retried"] += result.attempts > 1
            seen["timed out"] += result.timed_out
            seen["cancelled"] += result.state is TaskState.CANCELLED
        starts = [plan.index for plan in program.begun]
        seen["overtaken"] += any(a > b for a, b in itertools.pairwise(starts))
    assert min(seen[name] for name in ("retried", "timed out", "overtaken")) > 10, seen
