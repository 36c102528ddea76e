"""What became of the tasks that were told to end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyasynclife._core import JoinSet
from pyasynclife._dump import await_chain
from pyasynclife._sealed import Sealed

if TYPE_CHECKING:
    from pyasynclife._core import JoinSetMember


@dataclass(init=False, frozen=True, slots=True)
class TaskExit(Sealed):
    """One task of a ShutdownReport."""

    name: str
    task_id: str | None
    age: float | None
    silence: float | None
    error: BaseException | None
    where: list[str]


@dataclass(init=False, frozen=True, slots=True)
class ShutdownReport(Sealed):
    """Who ended, how, and who did not; ``str()`` is a table a person can read."""

    finished: list[TaskExit]
    cancelled: list[TaskExit]
    failed: list[TaskExit]
    swallowed: list[TaskExit]
    stuck: list[TaskExit]
    duration: float
    deadline_met: bool

    @property
    def ok(self) -> bool:
        """Nothing failed and nothing is stuck."""
        return not self.failed and not self.stuck

    def __str__(self) -> str:
        lists = {how: getattr(self, how) for how in _HOW}
        total = sum(map(len, lists.values()))
        met = "deadline met" if self.deadline_met else "DEADLINE MISSED"
        lines = [f"shutdown of {total} tasks in {self.duration:.3f} s, {met}"]
        lines += [f"  {how:<10}{len(exits):>8}" for how, exits in lists.items()]
        for how in ("failed", "swallowed", "stuck"):
            for one in lists[how]:
                lines.append(f"{how}: {_describe(one)}")
                lines += [f"    {line}" for line in one.where]
        return "\n".join(lines)


# A deadline that has passed leaves the turns that an obedient task needs to end.
_TURNS = 5

_HOW = ("finished", "cancelled", "failed", "swallowed", "stuck")


def _describe(one: TaskExit) -> str:
    words = [one.task_id or one.name]
    if one.age is not None and one.silence is not None:
        words.append(f"age {one.age:.1f} s, silent {one.silence:.1f} s")
    if one.error is not None:
        words.append(f"{type(one.error).__name__}: {one.error}")
    return ", ".join(words)


async def follow_drain(
    drain: JoinSet, started: float, deadline: float
) -> ShutdownReport:
    """Wait until a drain is empty or its deadline has come, and report.

    started, deadline: loop time; ``math.inf``: no deadline.  The calling task is not
    waited for.  Cancelled, it leaves at once; the tasks stay told to end.
    """
    loop = asyncio.get_running_loop()
    caller = asyncio.current_task()
    drain.callers.append(caller)
    try:
        for _ in range(_TURNS if deadline <= loop.time() else 0):
            if _left(drain, caller):
                await asyncio.sleep(0)
        while loop.time() < deadline and _left(drain, caller):
            await wait_among(drain.waiters, deadline)
        return _report(drain, caller, loop.time() - started)
    finally:
        drain.callers.remove(caller)


async def wait_among(
    waiters: list[asyncio.Future[None]], deadline: float = math.inf
) -> None:
    """Wait until the core gives None to the futures of a list, or until a loop time."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    timer = None
    if deadline != math.inf:
        timer = loop.call_at(deadline, wake, waiter)
    waiters.append(waiter)
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()
        if waiter in waiters:
            waiters.remove(waiter)


def drain_tasks(tasks: Iterable[asyncio.Task[Any]]) -> JoinSet:
    """Cancel tasks, all at once, each once; return their JoinSet."""
    drain = JoinSet()
    for task in {id(task): task for task in tasks}.values():
        drain.add(task)
    return drain


def wake(waiter: asyncio.Future[None]) -> None:
    """Let go whoever waits, unless that has been done."""
    if not waiter.done():
        waiter.set_result(None)


def _left(drain: JoinSet, caller: asyncio.Task[Any] | None) -> bool:
    """Whether any is left that the caller has to wait for."""
    if not 0 < drain.pending <= len(drain.callers):
        return drain.pending > 0
    stuck = [node.task for node in drain.members if node.outcome == "stuck"]
    spared = _spared(drain, caller)
    return any(task not in spared for task in stuck)


def _spared(
    drain: JoinSet, caller: asyncio.Task[Any] | None
) -> list[asyncio.Task[Any] | None]:
    """Whom the caller does not wait for: itself, and if it was told to end too, the
    others of these that wait as it does, for they would wait for each other."""
    if any(node.task is caller for node in drain.members):
        return drain.callers
    return [caller]


def _report(
    drain: JoinSet, caller: asyncio.Task[Any] | None, duration: float
) -> ShutdownReport:
    lists: dict[str, list[TaskExit]] = {how: [] for how in _HOW}
    spared = _spared(drain, caller)
    for node in drain.members:
        if node.task is caller or (node.outcome == "stuck" and node.task in spared):
            continue
        lists[node.outcome].append(_task_exit(node))
    return ShutdownReport._make(
        **lists, duration=duration, deadline_met=not lists["stuck"]
    )


def _task_exit(node: JoinSetMember) -> TaskExit:
    meta = node.meta
    return TaskExit._make(
        name=node.task.get_name(),
        task_id=None if meta is None else meta.task_id,
        age=None if meta is None else meta.age,
        silence=None if meta is None else meta.silence,
        error=node.error,
        where=await_chain(node.task) if node.outcome == "stuck" else [],
    )
