"""Random programs that change a batch while it runs.

Whichever method is called from whichever callback: every item has exactly one
outcome, the limit holds, nothing hangs and nothing is left.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    BatchResult,
    BatchStatus,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from pyasynclife.testing import VirtualTimeLoop
from support.loops import SEED, settle

BOTH_WAYS = True
CALLS = ["add", "close", "pause", "resume", "limit", "cancel", "look", "host", "sweep"]
ENDS = (BatchError, LookupError, ArithmeticError, SystemExit)


class Program:
    """One batch with random options, a random source, random items and a random use."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)
        self.calls = self.random.sample(CALLS, self.random.choice([1, 2, 4]))
        self.rate = self.random.choice([0.02, 0.1, 0.5])
        self.size = self.random.choice([0, 1, 5, 20, 60])
        self.use = self.random.choice([self.collect, self.iterate, self.block])
        self.exits = 0.16 + self.random.choice([0, 0.01, 0.1])
        self.began, self.reported, self.running = Counter(), Counter(), set()
        self.states, self.streamed, self.result = {}, None, None
        self.added = 0

    def options(self) -> dict[str, Any]:
        def maybe(name: str, *values: Any) -> None:
            if self.random.random() < 0.4:
                chosen[name] = self.random.choice(values)

        chosen = {"max_concurrent": self.random.choice([1, 2, 8, 50])}
        maybe("timeout", 0, 0.001, 0.004)
        maybe("budget", 0, 0.003, 0.02)
        maybe("max_errors", 0, 1, 3)
        maybe("cancel_grace", 0, 0.001, 0.003)
        maybe("ordered", False)
        maybe("buffer", 0, 1, 3)
        maybe("key", lambda item: self.call("key") or str(item))
        maybe("registry", TaskRegistry())
        self.graced = "cancel_grace" in chosen
        return chosen

    def call(self, where: str) -> None:
        """Call a random method, now and then."""
        if self.random.random() > self.rate:
            return
        name = self.random.choice(self.calls)
        batch = self.batch
        if name == "add" and self.added < 30 and batch.status is None:
            self.added += 1
            try:
                batch.add(self.size + self.added)
            except RuntimeError as error:
                assert "nothing can be added" in str(error)  # noqa: PT017
        elif name == "pause":
            batch.pause()
            asyncio.get_running_loop().call_later(0.002, batch.resume)
        elif name == "limit" and where in ("item", "result", "use"):
            batch.max_concurrent = self.random.choice([1, 2, 5, 50])
        elif name == "look":
            self.check_progress()
        elif name == "host":
            self.host.cancel()
        elif name == "sweep":
            for task in asyncio.all_tasks() - {self.main_task, self.host}:
                if self.random.random() < 0.3:
                    task.cancel()
        elif name in ("close", "resume", "cancel"):
            getattr(batch, name)()

    async def nap(self) -> None:
        await asyncio.sleep(self.random.choice([0, 0, 0.001, 0.002]))

    async def item(self, x: int) -> int:
        self.began[x] += 1
        self.running.add(x)
        assert len(self.running - self.reported.keys()) <= self.batch.max_concurrent
        try:
            self.call("item")
            for _ in range(self.random.choice([0, 1, 3])):
                await self.nap()
                self.call("item")
            how = self.random.random()
            if how < 0.1:
                raise LookupError(x)
            if how < 0.13:
                asyncio.current_task().cancel()
            if how < 0.16:
                raise asyncio.CancelledError
            if how < self.exits and not self.graced:
                raise SystemExit(x)
            if how < 0.3:
                try:
                    await asyncio.sleep(0.05)
                except asyncio.CancelledError:
                    if how < 0.23 and self.graced:
                        await asyncio.sleep(0.02)
            return x
        finally:
            self.running.discard(x)
            self.call("item")

    def source(self) -> Iterator[int]:
        fails = self.random.choice([None, None, None, 3])
        for x in range(self.size):
            self.call("source")
            if x == fails:
                raise ArithmeticError
            yield x

    async def later(self) -> AsyncIterator[Any]:
        try:
            for x in self.source():
                await self.nap()
                yield x
        finally:
            await self.nap()

    def on_result(self, result: TaskResult[Any]) -> None:
        self.reported[result.item] += 1
        self.states[result.item] = result.state
        self.call("result")

    def check_progress(self) -> None:
        p = self.batch.progress
        assert p.started == p.running + p.done + p.failed + p.cancelled

    async def collect(self) -> None:
        self.result = await self.batch

    async def iterate(self) -> None:
        self.streamed = []
        async with self.batch:
            async for result in self.batch:
                self.streamed.append(result.item)
                self.call("use")
                await self.nap()

    async def block(self) -> None:
        async with self.batch:
            await self.nap()
            self.call("use")
            if self.random.random() < 0.2:
                raise ArithmeticError

    async def hosted(self) -> BaseException | None:
        self.host = (
            asyncio.current_task()
        )  # create_task has not returned an eager task yet
        # An exit that leaves a Task would leave the loop too.
        try:
            await self.use()
        except ENDS as error:
            return error

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        if sys.version_info >= (3, 12) and self.random.random() < 0.3:
            loop.set_task_factory(asyncio.eager_task_factory)
        items = self.random.choice([range(self.size), self.source(), self.later()])
        self.batch = bounded_gather(
            self.item, items, on_result=self.on_result, **self.options()
        )
        self.main_task = asyncio.current_task()
        self.host = loop.create_task(self.hosted())
        await asyncio.wait([self.host])
        if not self.host.cancelled():
            error = self.host.result()
            self.result = getattr(error, "result", None) or self.result
        self.check(error=self.host.cancelled() or error)
        self.rate = 0
        await asyncio.sleep(1)  # abandoned items end
        await settle(5)
        assert asyncio.all_tasks() == {self.main_task}

    def check(self, error: Any) -> None:
        assert isinstance(self.batch.status, BatchStatus)
        self.check_progress()
        assert set(self.reported.values()) <= {1}
        assert set(self.began.values()) <= {1}
        assert self.began.keys() <= self.reported.keys()
        assert self.batch.progress.started == len(self.reported)
        stuck = [s for s in self.states.values() if s is TaskState.RUNNING]
        assert self.batch.progress.running == len(stuck)
        if self.streamed is not None and error is None:
            assert Counter(self.streamed) == self.reported
        if isinstance(self.result, BatchResult):
            assert [r.index for r in self.result] == list(range(len(self.result)))
            for r in self.result:
                assert r.state is self.states.get(r.item, TaskState.PENDING)


@pytest.mark.parametrize("number", range(20))
def test_a_random_program_keeps_every_invariant(number: int) -> None:
    for part in range(10):
        program = Program(f"{SEED} {number} {part}")
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(program.main())
