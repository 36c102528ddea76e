"""Random programs of items with cleanup, stopped for several reasons at once.

Nothing but Batch.cancel() cancels an item twice, every cleanup ends before the caller
goes on, and the caller receives its first CancelledError.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyasynclife import BatchError, TaskRegistry, TaskResult, bounded_gather
from support.coroutines import Boom
from support.items import Counted
from support.random_programs import PARTS, run, run_part

TIMES = [0, 0.25, 0.5, 0.5, 0.75, 1, 1.5, 2, 3]


class Program:
    """One batch, its options, its items, and when who is cancelled."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.cancels: Counter[Any] = Counter()
        self.unfinished: set[Any] = set()
        self.stops = 0  # calls of Batch.cancel()
        self.requests = 0  # accepted cancellations of the caller
        self.outcomes: list[BaseException] = []
        self.waits: list[Counted] = []  # of the caller: the batch, one iteration

    def maybe(self, chance: float) -> bool:
        return self.random.random() < chance

    def time(self) -> float:
        return self.random.choice(TIMES)

    def options(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {"max_concurrent": self.random.choice([1, 2, 4, 20])}
        for name, values in (
            ("timeout", TIMES),
            ("budget", TIMES),
            ("max_errors", [0, 0, 1]),
            ("cancel_grace", [0, 0.5, 10]),
            ("task_per_item", [True]),
            ("registry", [TaskRegistry()]),
            ("ordered", [False]),
        ):
            if self.maybe(0.3):
                chosen[name] = self.random.choice(values)
        self.graced = "cancel_grace" in chosen
        return chosen

    async def item(self, number: int) -> int:
        return await Counted(self.work(number), self.cancels, number)

    async def work(self, number: int) -> int:
        try:
            if self.maybe(0.9):
                await asyncio.sleep(self.time())
            if self.maybe(0.2):
                raise Boom(number)
            return number
        finally:
            await self.clean(number)

    async def clean(self, name: Any) -> None:
        if self.cancels[name]:  # otherwise its only cancellation may come now
            self.unfinished.add(name)
        for _ in range(self.random.choice([0, 1, 3])):
            await asyncio.sleep(self.time() / 2)
        self.unfinished.discard(name)
        if self.stops < 3 and self.maybe(0.03):
            self.stop()
        if self.maybe(0.1):
            raise Boom(name)

    def stop(self) -> None:
        self.stops += self.batch.status is None
        self.batch.cancel()

    async def source(self) -> AsyncIterator[int]:
        try:
            for number in range(self.size):
                await Counted(asyncio.sleep(self.time() / 2), self.cancels, "source")
                if self.maybe(0.03):
                    raise Boom("source")
                yield number
        finally:
            await Counted(self.clean("source"), self.cancels, "source")

    def on_result(self, _: TaskResult[Any]) -> None:
        if self.stops < 3 and self.maybe(0.03):
            self.stop()

    async def collect(self) -> None:
        (await self.batch).failures()

    async def block(self) -> None:
        async with self.batch:
            await asyncio.sleep(self.time())
            if self.maybe(0.3):
                raise Boom("body")

    async def stream(self) -> None:
        async with self.batch:
            async for _ in self.batch:
                if self.maybe(0.3):
                    await asyncio.sleep(self.time())
                if self.maybe(0.1):
                    break

    async def collect_in_a_block(self) -> None:
        async with self.batch:
            await self.collect()

    async def caller(self) -> None:
        for step in (self.use, lambda: asyncio.sleep(0)):
            try:
                self.waits.append(Counted(step(), Counter(), "caller"))
                await self.waits[-1]
            except (BatchError, Boom, asyncio.CancelledError) as error:
                self.outcomes.append(error)
            if step is self.use:
                self.over_at_end = self.batch.status is not None
                self.left = set(self.unfinished)

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        if sys.version_info >= (3, 12) and self.maybe(0.3):
            loop.set_task_factory(asyncio.eager_task_factory)
        self.size = self.random.choice([1, 2, 5, 12])
        items = self.source() if self.maybe(0.4) else range(self.size)
        self.batch = bounded_gather(
            self.item, items, on_result=self.on_result, **self.options()
        )
        self.use = self.random.choice(
            [self.collect, self.block, self.stream, self.collect_in_a_block]
        )
        task = loop.create_task(self.caller())
        times = [self.time() for _ in range(self.random.choice([0, 1, 2, 4]))]
        for when in sorted(times):
            loop.call_later(when, self.in_iterations, self.random.randrange(4), task)
        if self.maybe(0.2):
            loop.call_later(self.time(), lambda: self.stops < 3 and self.stop())
        async with asyncio.timeout(1000):
            await asyncio.wait([task])
        assert task.exception() is None
        self.check(task)
        await asyncio.sleep(100)  # what was abandoned ends
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def in_iterations(self, number: int, task: asyncio.Task[None]) -> None:
        if number:
            loop = asyncio.get_running_loop()
            loop.call_soon(self.in_iterations, number - 1, task)
        elif not self.outcomes:
            self.requests += task.cancel(f"{self.requests}")

    def check(self, task: asyncio.Task[None]) -> None:
        assert max(self.cancels.values(), default=0) <= 1 + self.stops
        assert self.over_at_end
        if not self.stops and not self.graced:
            assert not self.left, f"cut off: {self.left}"
        assert task.cancelling() == self.requests
        cancelled = [
            error
            for error in self.outcomes
            if isinstance(error, asyncio.CancelledError)
        ]
        assert bool(cancelled) == bool(self.requests), self.outcomes
        if self.requests and isinstance(self.outcomes[0], asyncio.CancelledError):
            assert cancelled[0] is next(one.first for one in self.waits if one.first)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_random_program_cancels_an_item_twice(part: int) -> None:
    run_part(Program, part)


def test_the_programs_cancel_enough() -> None:
    """Items, sources and callers, the latter more than once."""
    items = sources = callers = 0
    for seed in range(200):
        program = run(Program, seed)
        items += bool(program.cancels.keys() - {"source"})
        sources += "source" in program.cancels
        callers += program.requests > 1
    assert min(items, sources, callers) > 10, (items, sources, callers)
