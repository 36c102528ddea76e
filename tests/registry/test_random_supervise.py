"""Random programs of supervised tasks, against invariants.

Whatever a supervised task does and whatever is done to it, two of its runs are never at
work at once, none begins after its end or after somebody has ended it, each begins when
the backoff says so and the intensity allows it, a stale one is cancelled in time, the
task ends once, as its last run, and nothing is left in the loop.

`support.random_programs` says how many there are, and from which seed on.
"""

import asyncio
import gc
import logging
import math
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    ClosedError,
    DuplicateTaskError,
    TaskMetadata,
    TaskRegistry,
    TaskState,
    UnknownTaskError,
)
from support.coroutines import Boom
from support.random_programs import (
    GRID,
    PARTS,
    SOON,
    MeddlingProgram,
    run_part,
    seen_by,
)
from support.registries import adds_up

LONG = 1000 * GRID  # a run that only somebody else ends
AGAIN = {
    "always": [TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED],
    "on_failure": [TaskState.FAILED],
    "never": [],
}


class Service:
    """One supervised task: its options, and what became of it."""

    def __init__(self, program: "Program", task_id: str) -> None:
        self.program = program
        self.random = pick = program.random
        self.task_id = task_id
        self.restart = pick.choice(["always", "on_failure", "on_failure", "never"])
        self.restart_stale = self.restart != "never" and pick.random() < 0.4
        self.stale_after = pick.choice([2, 4]) * GRID if self.restart_stale else None
        delay, longest = pick.choice([(0, 0), (1, 4), (2, 16)])
        self.backoff = Backoff(delay * GRID, 2, longest * GRID, 0)
        self.max_restarts = pick.choice([0, 1, 3, 1000])
        self.within = pick.choice([0, 8 * GRID, math.inf])
        self.vital = pick.random() < 0.3
        self.meta: TaskMetadata | None = None
        self.calls: list[float] = []  # when each run began
        self.ends: list[tuple[float, TaskState]] = []  # when and how each ended
        self.working = 0
        self.stopped = ""  # by whom
        self.completed = False
        self.cancelled_as_stale = False
        self.beat = 0.0  # when the run was last heard of
        self.finished = self.gave_up = 0

    @property
    def is_alive(self) -> bool:
        """Tell whether it may still be ended from outside."""
        return self.meta is not None and self.meta.finished_at is None

    def options(self) -> dict[str, Any]:
        return {
            "restart": self.restart,
            "restart_stale": self.restart_stale,
            "backoff": self.backoff,
            "max_restarts": self.max_restarts,
            "within": self.within,
            "vital": self.vital,
            "stale_after": self.stale_after,
            "info": self,
        }

    # ------------------------------------------------------------------- the runs

    def fn(self) -> Coroutine[Any, Any, Any]:
        self.begins()
        if self.calls[1:] and self.random.random() < 0.1:
            self.ends_as(TaskState.FAILED)
            raise Boom("no coroutine")
        return self.run()

    def begins(self) -> None:
        """A run begins: it may, and now."""
        now, must = self.program.now(), self.program.must
        must(self.working == 0, "two runs")
        must(not self.finished, "a run after the end")
        must(not self.stopped, f"a run after {self.stopped}")
        must(not self.completed, "a run after complete()")
        if self.calls:
            ended, how = self.ends[-1]
            stale = self.cancelled_as_stale
            must(stale or how in AGAIN[self.restart], f"a run after {how}")
            must(self.would_restart(), "too many restarts")
            due = ended + self.delay()
            must(abs(now - due) < SOON, f"a run at {now}, not {due}")
        self.calls.append(now)
        self.beat = now
        self.cancelled_as_stale = False

    def would_restart(self) -> bool:
        """Tell whether the intensity allowed a restart at the last end."""
        now, _ = self.ends[-1]
        before = [at for at, _ in self.ends[:-1] if now - at <= self.within]
        return len(before) < self.max_restarts

    def delay(self) -> float:
        """Seconds from the last end to the next run."""
        in_a_row = 0
        for began, (ended, _) in zip(self.calls, self.ends, strict=True):
            if ended - began >= self.backoff.max_delay:
                in_a_row = 0
            in_a_row += 1
        grown = self.backoff.delay * 2.0 ** (in_a_row - 1)
        return min(grown, self.backoff.max_delay)

    def ends_as(self, state: TaskState) -> None:
        self.ends.append((self.program.now(), state))
        self.program.events += 1

    async def run(self) -> int:
        state = TaskState.CANCELLED
        self.working += 1
        try:
            await self.work()
            if self.random.random() < 0.3:
                await asyncio.sleep(0)
            how = self.random.choice(["returns", "fails", "fails", "is cancelled"])
            if how == "fails":
                state = TaskState.FAILED
                raise Boom(self.task_id)
            if how == "is cancelled":
                raise asyncio.CancelledError
            state = TaskState.DONE
            return len(self.calls)
        except asyncio.CancelledError:
            what = self.random.choice(["ends", "ends", "swallows", "fails", "stays"])
            if what == "stays":
                await self.stay()
            elif what == "swallows":
                state = TaskState.DONE
                return -1
            elif what == "fails":
                state = TaskState.FAILED
                raise Boom("while it was cancelled") from None
            raise
        finally:
            self.working -= 1
            self.ends_as(state)

    def note_stale(self) -> None:
        """Note that the run is about to be cancelled because it is stale."""
        assert self.stale_after is not None
        silence = self.program.now() - self.beat
        self.program.must(silence > self.stale_after, f"stale after {silence} s")
        self.cancelled_as_stale = True
        self.program.seen["stale"] += 1

    async def work(self) -> None:
        for _ in range(self.random.choice([0, 0, 1, 3])):
            self.program.meddle()
            await asyncio.sleep(self.random.choice([0, 1, 1, 3]) * GRID)
            if self.random.random() < 0.5:
                self.hear()
        if self.random.random() < 0.3:
            await asyncio.sleep(LONG)

    async def stay(self) -> None:
        try:
            await asyncio.sleep(self.random.choice([0, 2, 8]) * GRID)
        except asyncio.CancelledError:
            self.program.seen["cancelled twice"] += 1

    def hear(self) -> None:
        self.beat = self.program.now()
        assert self.program.registry.heartbeat(self.task_id).result() is True

    # ----------------------------------------------------------------- the checks

    def check_time(self) -> None:
        """Check, from outside, that it does what is due."""
        now, must, meta = self.program.now(), self.program.must, self.meta
        if meta is None or self.finished:
            return
        if self.working and self.stale_after is not None and not self.completed:
            late = now - self.beat - self.stale_after
            if late > SOON and meta.task is not None:
                must(meta.task.cancelling() > 0, f"not cancelled, stale for {late}")
        if not self.working and not self.calls[len(self.ends) :]:
            must(now < self.ends[-1][0] + self.delay() + SOON, "no run, though due")
            must(meta.task is None and meta.state is TaskState.RUNNING, str(meta))

    def check_end(self) -> None:
        meta = self.meta
        assert meta is not None
        assert self.working == 0
        assert self.finished == 1
        assert meta.task is None
        assert meta.restarts == len(self.calls) - 1
        begun = len(self.calls) == len(self.ends)  # otherwise its Task never ran
        assert begun or self.completed or meta.state is TaskState.CANCELLED
        self.program.seen[meta.state.name] += 1
        self.program.seen["restarts"] += meta.restarts
        if self.completed:
            return
        if self.stopped:
            self.program.seen[self.stopped] += 1
            assert self.gave_up == 0
            return
        _, how = self.ends[-1]
        assert meta.state is how or self.cancelled_as_stale, (meta, how)
        due = self.cancelled_as_stale or how in AGAIN[self.restart]
        assert self.gave_up == due, (self.gave_up, how)
        assert not (due and self.would_restart())
        self.program.seen["gave up"] += self.gave_up


class Program(MeddlingProgram, logging.Handler):
    """A registry with supervised tasks, and what is done to them."""

    def __init__(self, seed: int) -> None:
        MeddlingProgram.__init__(self, seed)
        logging.Handler.__init__(self)
        self.history = self.random.choice([0, 1000])
        self.registry = TaskRegistry(
            on_finish=self.on_finish,
            on_give_up=self.on_give_up,
            keep_errors=self.random.choice([0, 20]),
            history=self.history,
        )
        self.services: list[Service] = []
        self.waiting: list[asyncio.Task[Any]] = []
        self.vital_ends: Counter[str] = Counter()
        self.meddles = self.random.choice([0, 0, 0.05])

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "nothing shuts down" in text:
            self.vital_ends[record.task_id] += 1  # type: ignore[attr-defined]
        if "is stale" in text:
            next(one for one in self.services if one.task_id in text).note_stale()
        self.meddle()

    def on_finish(self, meta: TaskMetadata) -> None:
        meta.info.finished += 1
        self.must(meta.info.meta in (None, meta), "another entry")
        self.meddle()

    def on_give_up(self, meta: TaskMetadata) -> None:
        meta.info.gave_up += 1
        self.must(meta.info.finished <= 1, "gave up after the end")
        self.meddle()

    # -------------------------------------------------------------------- actions

    def alive(self) -> list[Service]:
        return [one for one in self.services if one.is_alive]

    def note_stop(self, by: str) -> None:
        """Note that all that is alive is ended from outside now."""
        for one in self.alive():
            one.stopped = one.stopped or by

    async def shut_down(self) -> None:
        self.note_stop("shutdown")
        await self.registry.shutdown(self.random.choice([0, GRID, 100]))

    def act(self) -> None:
        pick = self.random.choice
        alive = self.alive()
        what = pick(
            ["supervise"] * 4
            + ["task.cancel", "join", "heartbeat", "again", "cancel", "complete"]
            + (["cancel_all", "shutdown"] if self.random.random() < 0.2 else [])
        )
        self.events += 1
        if what == "supervise":
            if len(self.services) < 6:
                self.supervise(f"service {len(self.services)}")
        elif what == "cancel_all":
            self.note_stop(what)
            self.registry.cancel_all()
        elif what == "shutdown":
            self.waiting.append(asyncio.ensure_future(self.shut_down()))
        elif alive:
            self.act_on(what, pick(alive))

    def act_on(self, what: str, one: Service) -> None:
        registry = self.registry
        assert one.meta is not None
        if what == "cancel":
            one.stopped = one.stopped or what
            registry.cancel(one.task_id, "enough")
        elif what == "complete":
            one.completed = True
            registry.complete(one.task_id, "value")
        elif what == "task.cancel":
            if one.meta.task is not None and one.working:
                one.meta.task.cancel()
        elif what == "join":
            self.waiting.append(asyncio.ensure_future(self.join(one)))
        elif what == "heartbeat":
            if registry.heartbeat(one.task_id).result():
                one.beat = self.now()
        elif what == "again":
            with pytest.raises((DuplicateTaskError, ClosedError)):
                registry.supervise(one.fn, one.task_id)

    def supervise(self, task_id: str) -> None:
        one = Service(self, task_id)
        self.services.append(one)
        try:
            self.registry.supervise(one.fn, task_id, **one.options())
        except ClosedError:
            assert self.registry.closing
            self.services.remove(one)
            return
        except Boom:  # fn() raises, in its first call
            self.services.remove(one)
            return
        one.meta = self.registry.get(task_id)
        if one.meta is None:
            assert one.finished

    async def join(self, one: Service) -> None:
        try:
            meta = await self.registry.join(
                one.task_id, self.random.choice([GRID, None])
            )
            assert meta is one.meta
            assert one.finished
        except TimeoutError:
            assert not one.finished
        except UnknownTaskError:
            assert one.finished
            assert not self.history

    async def actions(self) -> None:
        for _ in range(self.random.choice([5, 30])):
            await asyncio.sleep(self.random.choice([0, 0, GRID / 4, GRID, 9 * GRID]))
            self.act()
            if self.random.random() < 0.3 and await self.is_calm():
                self.seen["looked"] += 1
                for one in self.services:
                    one.check_time()

    async def main(self) -> None:
        self.prepare_loop()
        logger = logging.getLogger("pyasynclife")
        logger.addHandler(self)
        try:
            async with asyncio.timeout(100_000):
                await self.actions()
                self.meddles = 0
                self.note_stop("the end")
                await self.registry.shutdown(math.inf)
                if self.waiting:
                    await asyncio.wait(self.waiting)
        finally:
            logger.removeHandler(self)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        self.check()
        gc.collect(0)

    def check(self) -> None:
        assert not self.broken, self.broken
        assert not self.errors, self.errors
        for waiter in self.waiting:
            waiter.result()
        assert len(self.registry) == 0
        for one in self.services:
            one.check_end()
            by_itself = one.vital and not one.stopped
            assert self.vital_ends[one.task_id] == by_itself, one.task_id
        stats = self.registry.stats()
        assert stats.registered == len(self.services)
        assert stats.restarts == sum(len(one.calls) - 1 for one in self.services)
        adds_up(self.registry)


@pytest.mark.standard_loop_only
@pytest.mark.parametrize("part", range(PARTS))
def test_a_supervised_task_keeps_its_rules_whatever_happens(part: int) -> None:
    run_part(Program, part)


def test_the_programs_do_enough() -> None:
    seen = seen_by(Program, 300)
    for name in ("DONE", "FAILED", "CANCELLED", "gave up", "stale", "looked"):
        assert seen[name] > 10, seen
    for name in ("cancel", "cancel_all", "shutdown", "the end", "cancelled twice"):
        assert seen[name] > 5, seen
    assert seen["restarts"] > 300, seen
