"""The report of a shutdown: how each task ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from pyasynclife._arguments import cut
from pyasynclife._await_chain import await_chain
from pyasynclife._sealed import SealedValue

if TYPE_CHECKING:
    from pyasynclife._core import JoinSet, JoinSetMember


@final
@dataclass(init=False, frozen=True, slots=True)
class TaskExit(SealedValue):
    """One task of a ShutdownReport.

    Attributes:
        name: The Task's name.
        task_id: The task's id in its registry; None if it is not in a registry.
        age: Seconds since its registration; None if it is not in a registry.
        silence: Seconds since its last heartbeat, or since its registration; None if it
            is not in a registry.
        error: The exception with which it failed, or None.
        where: The await chain of a stuck task, as by `TaskRegistry.where`; empty for
            other tasks.
    """

    name: str
    task_id: str | None
    age: float | None
    silence: float | None
    error: BaseException | None
    where: list[str]


@final
@dataclass(init=False, frozen=True, slots=True)
class ShutdownReport(SealedValue):
    """How each task of a shutdown ended; ``str()`` gives a readable table.

    Attributes:
        finished: Tasks that returned a value before the cancellation reached them, or
            after they had taken it back with ``uncancel()``.
        cancelled: Tasks that the cancellation ended.
        failed: Tasks that ended with an exception.
        swallowed: Tasks that caught the cancellation and returned a value in time.
        stuck: Tasks that still ran at the deadline.
        duration: Seconds that the shutdown took.
        deadline_met: Whether no task is stuck, and the report was made by the deadline.
    """

    finished: list[TaskExit]
    cancelled: list[TaskExit]
    failed: list[TaskExit]
    swallowed: list[TaskExit]
    stuck: list[TaskExit]
    duration: float
    deadline_met: bool

    @property
    def ok(self) -> bool:
        """Whether no task failed and none is stuck."""
        return not self.failed and not self.stuck

    def __str__(self) -> str:
        """Return a table of the counts, with details of the tasks that went wrong."""
        lists = {outcome: getattr(self, outcome) for outcome in _OUTCOMES}
        total = sum(map(len, lists.values()))
        met = "deadline met" if self.deadline_met else "DEADLINE MISSED"
        lines = [f"shutdown of {total} tasks in {self.duration:.3f} s, {met}"]
        lines += [f"  {outcome:<10}{len(exits):>8}" for outcome, exits in lists.items()]
        for outcome in ("failed", "swallowed", "stuck"):
            for one in lists[outcome]:
                lines.append(f"{outcome}: {_describe(one)}")
                lines += [f"    {line}" for line in one.where]
        return "\n".join(lines)


_TEXT = 200  # at most so many characters of an id and of an error are shown
_OUTCOMES = ("finished", "cancelled", "failed", "swallowed", "stuck")


def _describe(one: TaskExit) -> str:
    words = [cut(one.task_id or one.name, _TEXT)]
    if one.age is not None and one.silence is not None:
        words.append(f"age {one.age:.1f} s, silent {one.silence:.1f} s")
    if one.error is not None:
        words.append(f"{type(one.error).__name__}: {cut(_text_of(one.error), _TEXT)}")
    return ", ".join(words)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "<str() failed>"


def make_report(
    join_set: JoinSet, caller: asyncio.Task[Any] | None, duration: float, late: bool
) -> ShutdownReport:
    """Report on the tasks of a join set.

    The exits of tasks that have ended are made once and shared by all reports, because
    each of many tasks may call shutdown().

    Args:
        join_set: The tasks that were cancelled.
        caller: The calling task; it is left out of the report.
        duration: Seconds since the shutdown began.
        late: Whether the deadline has passed.
    """
    exits = join_set.exits
    for member in join_set.take_ended():
        exits.setdefault(member.outcome, []).append(_task_exit(member))
    lists = {outcome: list(exits.get(outcome, ())) for outcome in _OUTCOMES}
    lists["stuck"] = [_task_exit(member) for member in join_set.stuck(caller)]
    return ShutdownReport._make(
        **lists, duration=duration, deadline_met=not (late or lists["stuck"])
    )


def _name(member: JoinSetMember) -> str:
    if member.task is None:  # a supervised task between two runs
        assert member.meta is not None
        return member.meta.task_id
    return member.task.get_name()


def _task_exit(member: JoinSetMember) -> TaskExit:
    meta = member.meta
    return TaskExit._make(
        name=_name(member),
        task_id=None if meta is None else meta.task_id,
        age=None if meta is None else meta.age,
        silence=None if meta is None else meta.silence,
        error=member.error,
        where=await_chain(member.task)
        if member.outcome == "stuck" and member.task is not None
        else [],
    )
