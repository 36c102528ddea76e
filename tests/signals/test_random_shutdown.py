"""Random shutdowns of all that can be attached, against invariants.

Whatever is attached, in whatever order and however the shutdown is awaited: nothing
begins after the request, nothing is cancelled before the end of the drain, nor before
what has a lower order has ended, nothing is cancelled twice, the report comes by the
deadline and lists each piece of work once, as it ended; nothing is left in the loop.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import math
from collections.abc import Coroutine
from typing import Any

import pytest

from pyasynclife import (
    SignalCoordinator,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import Boom
from support.loops import settle
from support.random_programs import GRID, PARTS, SOON, RandomProgram, run_part, seen_by
from support.reports import LISTS, exits

pytestmark = pytest.mark.usefixtures("no_lag")

KINDS = ["registry", "group", "batch", "pool"]
WAYS = ["graceful", "late", "twice", "timeout", "cancelled", "leave", "apart"]


class Work:
    """A piece of work: how long it takes, and what it does when it is cancelled."""

    def __init__(self, program: "Program", name: str, kind: str, order: int) -> None:
        self.program = program
        self.name, self.kind, self.order = name, kind, order
        pick = program.random.choice
        self.seconds = pick([1, 4, 9, 40, 1000]) * GRID
        self.fails = kind != "group" and pick([False, False, True])
        ends = ["ends", "ends", "swallows", "stays", "stays long"]
        self.when_cancelled = pick(ends if kind == "group" else [*ends, "fails"])
        self.registry: TaskRegistry | None = None  # that has it too, and is attached
        self.owner: Any = None  # the attached object that runs it
        self.apart: Any = None  # the one of these that has been ended by itself
        self.began: float | None = None
        self.cancelled: list[float] = []
        self.ended: float | None = None
        self.how = "stuck"  # as the report is to say

    def states(self, due: float) -> set[str]:
        """How the report of a shutdown that ends now may list it."""
        if self.ended is None:
            return {"stuck"}
        if (
            self.cancelled
            and self.cancelled[0] < due + SOON
            and self.ended > due - SOON
        ):
            return {self.how, "stuck"}  # it ended while others had their grace
        return {self.how}

    async def __call__(self) -> str:
        self.began = self.program.now()
        requested = self.program.requested
        on_time = requested is None or self.began < requested + SOON
        self.program.must(on_time, "begins too late")
        self.how = "cancelled"
        try:
            return await self.work()
        finally:
            self.ended = self.program.now()

    async def work(self) -> str:
        try:
            await asyncio.sleep(self.seconds)
            if self.fails:
                self.how = "failed"
                raise Boom(self.name)
            self.how = "finished"
            return self.name
        except asyncio.CancelledError:
            self.program.cancels(self)
            if self.when_cancelled == "fails":
                self.how = "failed"
                raise Boom(self.name) from None
            if self.when_cancelled == "swallows":
                # The result of an item does not tell that it was cancelled.
                item = self.kind == "batch" and self.registry is None
                self.how = "finished" if item else "swallowed"
                return self.name
            if self.when_cancelled != "ends":
                await self.stay()
            raise

    async def stay(self) -> None:
        long = self.when_cancelled == "stays long"
        over = self.program.now() + (60 if long else 3) * GRID
        while (left := over - self.program.now()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                self.program.cancels(self)


class Program(RandomProgram):
    """A coordinator, what is attached to it, and how it shuts down."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        pick = self.random.choice
        self.timeout = pick([2, 8, 32]) * GRID
        self.drain = min(pick([0, 0, 2, 6]) * GRID, self.timeout)
        self.by_itself = pick([False, True])
        self.way = pick(WAYS)
        self.wait = pick([0, 1, 3, 20]) * GRID  # before or within the call
        # Without a block the coordinator learns of the request by the first call.
        self.block = self.way != "graceful" or pick([False, True])
        self.coordinator = SignalCoordinator(
            self.timeout, drain=self.drain, cancel_on_signal=self.by_itself
        )
        self.works: list[Work] = []
        self.kept: list[Any] = []  # what is attached
        self.registries: list[tuple[TaskRegistry, int]] = []  # and the order of each
        self.users: list[asyncio.Task[Any]] = []
        self.requested: float | None = None
        self.hurried = math.inf  # from when on all orders are cancelled at once

    # ---------------------------------------------------------------- what is attached

    def attach(self, number: int) -> None:
        kind = self.random.choice(KINDS)
        order = self.random.choice([0, 0, 1, 2])
        works = [
            Work(self, f"{kind} {number}, {index}", kind, order)
            for index in range(self.random.choice([0, 1, 3, 6]))
        ]
        self.works += works
        getattr(self, f"attach_{kind}")(works, order)
        self.seen[kind] += 1

    def add(self, what: Any, works: list[Work], order: int) -> None:
        self.kept.append(what)
        for work in works:
            work.owner = what
        self.coordinator.attach(what, order=order)

    def use(self, coro: Coroutine[Any, Any, Any]) -> None:
        self.users.append(asyncio.create_task(coro))

    def other(self, works: list[Work]) -> TaskRegistry | None:
        """A registry that has the work too, or none."""
        if not self.registries or self.random.random() < 0.5:
            return None
        registry, order = self.random.choice(self.registries)
        for work in works:
            work.order = min(work.order, order)
            work.registry = registry
        self.seen["tracked"] += 1
        return registry

    def attach_registry(self, works: list[Work], order: int) -> None:
        registry = TaskRegistry()
        self.registries.append((registry, order))
        for work in works:
            work.registry = registry
            registry.register(work(), work.name)
        self.add(registry, works, order)

    def attach_group(self, works: list[Work], order: int) -> None:
        async def use() -> None:
            async with TaskGroup() as group:
                self.add(group, works, order)
                for work in works:
                    child = group.create_task(work(), name=work.name)
                    if registry is not None:
                        registry.track(child)

        registry = self.other(works)
        self.use(use())

    def attach_batch(self, works: list[Work], order: int) -> None:
        async def do(work: Work) -> str:
            return await work()

        limit = self.random.choice([1, 2, 10])
        batch = bounded_gather(
            do,
            works,
            max_concurrent=limit,
            key=lambda work: work.name,
            registry=self.other(works),
        )
        self.add(batch, works, order)

        async def use() -> None:
            await batch

        self.use(use())

    def attach_pool(self, works: list[Work], order: int) -> None:
        limit = self.random.choice([1, 2, 10])
        registry = self.other(works)
        pool = TaskPool(limit, on_result=lambda result: None, registry=registry)
        for work in works:
            pool.submit(work, task_id=work.name)
        self.add(pool, works, order)

    # ------------------------------------------------------------------ what must hold

    def cancels(self, work: Work) -> None:
        """A piece of work is cancelled: it may be, now."""
        now, must = self.now(), self.must
        # A registry does not know that another has cancelled a task of its own.
        unknown = work.apart is work.owner and work.registry not in (None, work.owner)
        must(not work.cancelled or unknown, f"{work.name} is cancelled twice")
        work.cancelled.append(now)
        if work.apart is not None:
            return
        if self.requested is None:
            must(False, f"{work.name} is cancelled before the request")
            return
        must(now > self.requested + self.drain - SOON or now > self.hurried - SOON,
             f"{work.name} is cancelled in the drain")  # fmt: skip
        if now < self.hurried - SOON:
            for other in self.works:
                if other.order < work.order and other.began is not None:
                    must(other.ended is not None, f"{work.name} before {other.name}")

    # --------------------------------------------------------------------- the shutdown

    def end_one_apart(self) -> None:
        """End one of the attached by itself, beside or before the coordinator."""
        if self.seen["ended apart"]:
            return
        what = self.random.choice(self.kept)
        if isinstance(what, TaskRegistry):
            timeout = self.random.choice([0, 1, 5, 1000]) * GRID
            self.users.append(asyncio.create_task(what.shutdown(timeout)))
        else:
            what.cancel()
        for work in self.works:
            if what in (work.owner, work.registry):
                work.apart = what
        self.seen["ended apart"] += 1

    async def shut_down(self) -> None:
        way = self.way
        if way == "apart":
            self.end_one_apart()
            await asyncio.sleep(self.random.choice([0, 0, 1]) * GRID)
        if way == "leave":
            return
        if way == "late":
            await asyncio.sleep(self.wait)
        if way == "timeout":
            self.hurried = min(self.hurried, self.now() + self.wait)
            await self.call(self.wait)
        elif way in ("twice", "cancelled"):
            first = asyncio.create_task(self.call())
            await asyncio.sleep(self.wait)
            if way == "cancelled":
                self.hurried = min(self.hurried, self.now())
                first.cancel()
                await asyncio.wait([first])
                self.seen["caller cancelled"] += first.cancelled()
            over = first.done() and not first.cancelled()
            if not over:  # otherwise nothing is left to report
                await self.call()
            if not first.cancelled():
                await first
        else:
            await self.call()

    async def call(self, timeout: float | None = None) -> None:
        """Call graceful_shutdown(), and check its report."""
        assert self.requested is not None
        due = self.requested + self.timeout
        if timeout is not None:
            due = self.now() + timeout
        report = await self.coordinator.graceful_shutdown(timeout=timeout)
        lists = exits(report)
        listed = sorted((one.name, how) for how in lists for one in lists[how])
        if self.seen["caller cancelled"] or self.seen["ended apart"]:
            return  # what ended during the other shutdown was reported there
        names = [one.name for one in self.alive]
        self.must([name for name, _ in listed] == sorted(names), f"{listed}: {names}")
        for one in self.alive:
            states = {how for name, how in listed if name == one.name}
            self.must(bool(states & one.states(due)), f"{listed}, and not {one.name}")
        for how, ends in lists.items():
            self.seen[how] += len(ends)

    async def main(self) -> None:
        self.note_errors()
        async with asyncio.timeout(100_000):
            if self.block:
                async with self.coordinator:
                    await self.use_all()
            else:
                await self.use_all()
            self.check_return()
        await asyncio.sleep(2000 * GRID)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()

    async def use_all(self) -> None:
        for number in range(self.random.choice([1, 2, 4])):
            self.attach(number)
        await settle()
        await asyncio.sleep(self.random.choice([0, 2, 5, 50]) * GRID)
        if self.way == "apart" and self.random.random() < 0.5:
            self.end_one_apart()
            await asyncio.sleep(self.wait)
        self.coordinator.request_shutdown("enough")
        self.requested = self.now()
        self.hurried = self.requested + self.timeout
        self.alive = [
            one for one in self.works if one.began is not None and one.ended is None
        ]
        await self.shut_down()

    def check_return(self) -> None:
        """Check, right after the shutdown, its time and its report."""
        assert self.requested is not None
        late = self.now() - self.requested - self.timeout
        if self.way == "timeout":
            late = self.now() - self.requested - self.wait
        elif self.way in ("late", "twice", "cancelled", "apart"):
            late -= self.wait
        grace = min(1.0, self.wait if self.way == "timeout" else self.timeout)
        self.must(late < grace + SOON, f"returned {late} s late")
        self.seen[self.way] += 1

    def check(self) -> None:
        assert not self.broken, self.broken
        assert not self.errors, self.errors
        for user in self.users:
            user.result()
        assert self.coordinator.phase in ("stopped", "draining")


@pytest.mark.parametrize("part", range(PARTS))
def test_a_shutdown_keeps_its_rules_whatever_is_attached(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    seen = seen_by(Program, 300)
    for name in (*KINDS, *WAYS, *LISTS, "caller cancelled", "tracked", "ended apart"):
        assert seen[name] > 10, seen
