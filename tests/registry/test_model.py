"""A TaskRegistry and a simple model of one, side by side through random operations."""

import asyncio
import math
import os
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from pyasynclife import (
    DuplicateTaskError,
    TaskHealth,
    TaskMetadata,
    TaskRegistry,
    TaskState,
    UnknownTaskError,
)
from support.loops import ManualClockLoop, settle
from support.registries import adds_up

STEPS = int(os.environ.get("PYASYNCLIFE_MODEL_STEPS", "2000"))
IDS = [f"id{number}" for number in range(12)]
THRESHOLDS = [None, None, 0.0, 3.0, 5.0, 10.0, math.inf]
DEFAULT = 5.0
HISTORY, ERRORS = 7, 2


@dataclass(eq=False)
class Twin:
    """The model's counterpart of one task."""

    task_id: str
    stale_after: float
    birth: float
    last: float
    gate: "asyncio.Future[Any]"
    due: int  # when its next step or end was put in the loop's queue
    state: TaskState = TaskState.PENDING
    beats: int = 0
    ending: tuple[TaskState, Any] | None = None
    fixed: tuple[TaskState, Any] | None = None
    end: float = 0.0
    value: Any = None
    error_kept: bool = False
    meta: TaskMetadata | None = None
    follows_default: bool = False

    def health(self, now: float) -> TaskHealth:
        if self.state is TaskState.PENDING:
            return TaskHealth.UNKNOWN
        if now - self.last > self.stale_after:
            return TaskHealth.STALE
        return TaskHealth.HEALTHY if self.beats else TaskHealth.UNKNOWN


ENDED = {
    TaskState.DONE: TaskHealth.HEALTHY,
    TaskState.FAILED: TaskHealth.FAILED,
    TaskState.CANCELLED: TaskHealth.UNKNOWN,
}


@dataclass
class Model:
    loop: ManualClockLoop
    choice: random.Random
    registry: TaskRegistry
    alive: dict[str, Twin] = field(default_factory=dict)
    history: list[Twin] = field(default_factory=list)
    counts: dict[TaskState, int] = field(
        default_factory=lambda: dict.fromkeys(ENDED, 0)
    )
    next_id: int = 0
    registered: int = 0
    beats: int = 0
    unknown_beats: int = 0
    clock: int = 0
    default: float = DEFAULT

    # ------------------------------------------------------------ operations

    def some_id(self) -> str:
        if self.alive and self.choice.random() < 0.7:
            return self.choice.choice(list(self.alive))
        return self.choice.choice(IDS)

    async def work(self, gate: "asyncio.Future[Any]") -> Any:
        return await gate

    def enter(self, given: str | None, tracked: bool) -> None:
        stale_after = self.choice.choice(THRESHOLDS)
        gate = self.loop.create_future()
        coro = self.work(gate)
        if given in self.alive:
            with pytest.raises(DuplicateTaskError):
                self.registry.register(coro, given)
            return
        if given is None:
            while f"task_{self.next_id}" in self.alive:
                self.next_id += 1
            name = f"task_{self.next_id}"
            self.next_id += 1
        else:
            name = given
        if tracked:
            task = self.loop.create_task(coro, name=name)
            if stale_after is None:
                task_id = self.registry.track(task, given)
            else:
                task_id = self.registry.track(task, given, stale_after=stale_after)
        else:
            task, task_id = self.registry.register(
                coro, given, stale_after=stale_after
            ).result()
        assert task_id == name
        follows_default = stale_after is None and not tracked
        if stale_after is None:
            stale_after = math.inf if tracked else self.default
        now = self.loop.now
        self.history = [twin for twin in self.history if twin.task_id != name]
        self.alive[name] = Twin(name, stale_after, now, now, gate, self.clock)
        self.alive[name].meta = self.registry[name]
        self.alive[name].follows_default = follows_default
        self.registered += 1

    def register(self) -> None:
        self.enter(self.choice.choice([None, *IDS]), tracked=False)

    def track(self) -> None:
        self.enter(self.choice.choice(IDS), tracked=True)

    def heartbeat(self) -> None:
        task_id = self.some_id()
        twin = self.alive.get(task_id)
        assert self.registry.heartbeat(task_id).result() is (twin is not None)
        if twin is None:
            self.unknown_beats += 1
        else:
            self.beats += 1
            twin.beats += 1
            twin.last = self.loop.now

    def cancel(self) -> None:
        task_id = self.some_id()
        twin = self.alive.get(task_id)
        assert self.registry.cancel(task_id).result() is (twin is not None)
        if twin is not None:
            self.cancelled(twin)

    def cancelled(self, twin: Twin) -> None:
        if twin.ending is None and twin.state is TaskState.RUNNING:
            twin.due = self.clock
        twin.ending = (TaskState.CANCELLED, None)

    def cancel_all(self) -> None:
        if self.choice.random() < 0.1:
            assert self.registry.cancel_all().result() == len(self.alive)
            for twin in self.alive.values():
                self.clock += 1
                self.cancelled(twin)

    def finish(self) -> None:
        self.open_gate(TaskState.DONE, self.clock)

    def fail(self) -> None:
        self.open_gate(TaskState.FAILED, ValueError(self.clock))

    def open_gate(self, state: TaskState, value: Any) -> None:
        twin = self.alive.get(self.some_id())
        if twin is None or twin.ending is not None:
            return
        if state is TaskState.DONE:
            twin.gate.set_result(value)
        else:
            twin.gate.set_exception(value)
            twin.gate.exception()  # its task may be cancelled before it awaits
        twin.ending = (state, value)
        if twin.state is TaskState.RUNNING:
            twin.due = self.clock

    def complete(self) -> None:
        task_id = self.some_id()
        error = self.choice.choice(
            [None, ValueError("fixed"), asyncio.CancelledError()]
        )
        twin = self.alive.get(task_id)
        if twin is None and task_id not in [old.task_id for old in self.history]:
            with pytest.raises(UnknownTaskError):
                self.registry.complete(task_id, 1, error)
            return
        self.registry.complete(task_id, "fixed", error)
        if twin is not None and twin.fixed is None:
            if error is None:
                twin.fixed = (TaskState.DONE, "fixed")
            elif isinstance(error, ValueError):
                twin.fixed = (TaskState.FAILED, error)
            else:
                twin.fixed = (TaskState.CANCELLED, None)

    def advance(self) -> None:
        self.loop.now += self.choice.choice([0.0, 0.5, 1.0, 4.0, 11.0])

    def set_default(self) -> None:
        default = self.choice.choice([0.0, 3.0, 5.0, 10.0, math.inf])
        self.registry.stale_threshold = default
        self.default = default
        for twin in self.alive.values():
            if twin.follows_default:
                twin.stale_after = default

    async def iterate(self) -> None:
        await settle(4)
        self.settled()

    async def shutdown(self) -> None:
        if self.choice.random() < 0.1:
            for twin in self.alive.values():
                self.clock += 1
                self.cancelled(twin)
            expected = {twin.task_id for twin in self.alive.values()}
            report = await self.registry.shutdown(self.choice.choice([0, 5, math.inf]))
            self.settled()
            assert report.ok
            assert {exit.task_id for exit in report.cancelled} == expected

    def settled(self) -> None:
        """The loop has iterated: what was due has happened, in this order."""
        ending = [twin for twin in self.alive.values() if twin.ending is not None]
        for twin in self.alive.values():
            twin.state = TaskState.RUNNING
        for twin in sorted(ending, key=lambda twin: twin.due):
            assert twin.ending is not None
            del self.alive[twin.task_id]
            twin.state, twin.value = twin.fixed or twin.ending
            twin.end = self.loop.now
            twin.error_kept = twin.state is TaskState.FAILED
            self.counts[twin.state] += 1
            self.history.append(twin)
            kept = [old for old in self.history if old.error_kept]
            for old in kept[:-ERRORS]:
                old.error_kept = False
            if len(self.history) > HISTORY:
                older = self.history[:-1]
                failed = TaskState.FAILED
                unfailed = [old for old in older if old.state is not failed]
                self.history.remove((unfailed or older)[0])

    # ------------------------------------------------------------ comparison

    def compare(self) -> None:
        now = self.loop.now
        registry = self.registry
        healths = [twin.health(now) for twin in self.alive.values()]
        if self.choice.random() < 0.5:
            self.compare_stale(now)
        adds_up(registry)
        stats = registry.stats()
        pending = sum(t.state is TaskState.PENDING for t in self.alive.values())
        assert stats.alive == len(self.alive)
        assert stats.pending == pending
        assert stats.healthy == healths.count(TaskHealth.HEALTHY)
        assert stats.stale == healths.count(TaskHealth.STALE)
        assert stats.unknown == healths.count(TaskHealth.UNKNOWN) - pending
        assert [stats.done, stats.failed, stats.cancelled] == [
            self.counts[state]
            for state in (TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED)
        ]
        assert stats.registered == self.registered
        assert stats.heartbeats == self.beats
        assert stats.unknown_heartbeats == self.unknown_beats
        assert list(registry) == list(self.alive)
        status = registry.get_status().result()
        twins = [*self.history, *self.alive.values()]
        assert list(status) == [twin.task_id for twin in twins]
        for meta, twin in zip(status.values(), twins, strict=True):
            assert meta is twin.meta
            self.compare_one(meta, twin, now)
        self.compare_stale(now)

    def compare_stale(self, now: float) -> None:
        stale = self.registry.get_stale_tasks().result()
        assert set(stale) == {
            twin.task_id
            for twin in self.alive.values()
            if twin.health(now) is TaskHealth.STALE
        }
        beats = [self.alive[task_id].last for task_id in stale]
        assert beats == sorted(beats)

    def compare_one(self, meta: TaskMetadata, twin: Twin, now: float) -> None:
        assert meta.state is twin.state
        assert meta.heartbeats == twin.beats
        assert meta.stale_after == twin.stale_after
        over = twin.state in ENDED
        until = twin.end if over else now
        assert meta.age == until - twin.birth
        assert meta.silence == until - twin.last
        assert meta.health is (ENDED[twin.state] if over else twin.health(now))
        assert (meta.finished_at is None) is (not over)
        assert (meta.task is None) is over
        assert meta.result == (twin.value if twin.state is TaskState.DONE else None)
        assert meta.error is (twin.value if twin.error_kept else None)
        assert (meta.error_text is not None) is (twin.state is TaskState.FAILED)
        since = meta.last_heartbeat - meta.created_at
        assert since == pytest.approx(twin.last - twin.birth, abs=1e-3)


async def run_model(loop: ManualClockLoop, seed: int) -> None:
    choice = random.Random(seed)
    registry = TaskRegistry(1.0, DEFAULT, history=HISTORY, keep_errors=ERRORS)
    model = Model(loop, choice, registry)
    operations = [
        *[model.register, model.iterate, model.heartbeat, model.advance] * 3,
        *[model.track, model.cancel, model.finish, model.fail, model.complete],
        *[model.cancel_all, model.shutdown, model.set_default],
    ]
    for _ in range(STEPS):
        model.clock += 1
        done = choice.choice(operations)()
        if done is not None:
            await done
        model.compare()
    registry.cancel_all()
    assert await registry.wait()
    adds_up(registry)


def test_a_registry_and_its_model_agree(caplog: pytest.LogCaptureFixture) -> None:
    seed = int(os.environ.get("PYASYNCLIFE_SEED", random.randrange(2**32)))
    print(f"PYASYNCLIFE_SEED={seed}")
    loop = ManualClockLoop()
    try:
        loop.run_until_complete(run_model(loop, seed))
    finally:
        loop.close()
