"""The report of a shutdown: how each task ended.

An object for each of many tasks would take longer than the shutdown itself, so a report
has them made when they are read: of the ended tasks from the join set's log, and of the
stuck ones, whose await chains do not keep, at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from pyasynclife._arguments import counted
from pyasynclife._await_chain import await_chain
from pyasynclife._core import (
    EXIT_CANCELLED,
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_SWALLOWED,
)
from pyasynclife._report_table import describe
from pyasynclife._sealed import SealedValue

if TYPE_CHECKING:
    from pyasynclife._core import ExitLog, JoinSet, JoinSetMember


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


class _Source(Protocol):
    """Where a report has its tasks from."""

    def _exits(self, outcome: str) -> list[TaskExit]: ...
    def _count(self, outcome: str) -> int: ...


class _Lazy(SealedValue):
    """The base of ShutdownReport, with what its lists are made of."""

    __slots__ = ("_sources",)

    _sources: tuple[_Source, ...]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> list[TaskExit]:
            """Make a list when it is read first; later reads find it in its slot."""
            if name not in _OUTCOMES:
                raise AttributeError(
                    f"{type(self).__name__!r} object has no attribute {name!r}",
                    name=name,
                    obj=self,
                )
            made = [one for part in self._sources for one in part._exits(name)]
            object.__setattr__(self, name, made)
            return made


@final
@dataclass(init=False, frozen=True, slots=True)
class ShutdownReport(_Lazy):
    """How each task of a shutdown ended; ``str()`` gives a readable table.

    The lists are made when they are read. In the table, tasks that ended alike or are
    stuck at the same line are one group, with their number; the largest come first.

    Attributes:
        finished: Tasks that returned a value before the cancellation reached them, or
            after they had taken it back with ``uncancel()``. A report of
            `SignalCoordinator.graceful_shutdown` has those that returned since the
            signal or request, too; likewise in the two lists that follow.
        cancelled: Tasks that the cancellation ended.
        failed: Tasks that ended with an exception.
        swallowed: Tasks that caught the cancellation and returned a value in time.
        stuck: Tasks that still ran at the deadline.
        duration: Seconds that the shutdown took, from the signal or request on.
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
        return not self._count("failed") and not self._count("stuck")

    def __str__(self) -> str:
        """Return a table of the counts, with details of the tasks that went wrong."""
        counts = {outcome: self._count(outcome) for outcome in _OUTCOMES}
        met = "deadline met" if self.deadline_met else "DEADLINE MISSED"
        tasks = counted(sum(counts.values()), "task")
        lines = [f"shutdown of {tasks} in {self.duration:.3f} s, {met}"]
        lines += [f"  {outcome:<10}{count:>8}" for outcome, count in counts.items()]
        for outcome in ("failed", "swallowed", "stuck"):
            if counts[outcome]:
                lines += describe(outcome, getattr(self, outcome))
        return "\n".join(lines)

    def _exits(self, outcome: str) -> list[TaskExit]:
        exits: list[TaskExit] = getattr(self, outcome)
        return exits

    def _count(self, outcome: str) -> int:
        """Return the length of a list, which is not made for that."""
        try:
            return len(_SLOTS[outcome].__get__(self))
        except AttributeError:
            return sum(part._count(outcome) for part in self._sources)


_OUTCOMES = ("finished", "cancelled", "failed", "swallowed", "stuck")
_SLOTS: dict[str, Any] = {name: vars(ShutdownReport)[name] for name in _OUTCOMES}

# ---------------------------------------------------------------- making it

_KINDS = {
    "finished": EXIT_FINISHED,
    "cancelled": EXIT_CANCELLED,
    "failed": EXIT_FAILED,
    "swallowed": EXIT_SWALLOWED,
}


class _Ended:
    """The tasks of a join set that had ended when its report was made."""

    __slots__ = ("_counts", "_log")

    def __init__(self, log: ExitLog) -> None:
        self._log = log
        self._counts = log.counts()

    def _exits(self, outcome: str) -> list[TaskExit]:
        made = self._log.exits(_KINDS[outcome], self._count(outcome))
        return [make_exit(*one, []) for one in made]

    def _count(self, outcome: str) -> int:
        return self._counts[_KINDS[outcome]]


def make_report(
    join_set: JoinSet, caller: asyncio.Task[Any] | None, duration: float, late: bool
) -> ShutdownReport:
    """Report on the tasks of a join set.

    Args:
        join_set: The tasks that were cancelled.
        caller: The calling task; it is left out of the report.
        duration: Seconds since the shutdown began.
        late: Whether the deadline has passed.
    """
    stuck = [_stuck_exit(member) for member in join_set.stuck(caller)]
    return ShutdownReport._make(
        _sources=(_Ended(join_set.log),),
        stuck=stuck,
        duration=duration,
        deadline_met=not (late or stuck),
    )


def report_from_lists(
    lists: dict[str, list[TaskExit]], duration: float, late: bool
) -> ShutdownReport:
    """Return a report of tasks by their outcome."""
    every = {outcome: lists.get(outcome, []) for outcome in _OUTCOMES}
    return ShutdownReport._make(
        **every, duration=duration, deadline_met=not (late or every["stuck"])
    )


def merge_reports(
    reports: Sequence[ShutdownReport], duration: float, late: bool
) -> ShutdownReport:
    """Return one report of the tasks of several."""
    stuck = any(report._count("stuck") for report in reports)
    return ShutdownReport._make(
        _sources=tuple(reports), duration=duration, deadline_met=not (late or stuck)
    )


def make_exit(
    name: str | None,
    task_id: str | None,
    age: float | None,
    silence: float | None,
    error: BaseException | None,
    where: list[str],
) -> TaskExit:
    """Make a TaskExit: as `_make`, but in half the time."""
    one = _new(TaskExit)
    _set_name(one, "<get_name() failed>" if name is None else name)
    _set_task_id(one, task_id)
    _set_age(one, age)
    _set_silence(one, silence)
    _set_error(one, error)
    _set_where(one, where)
    return one


_new = object.__new__
_set_name, _set_task_id, _set_age, _set_silence, _set_error, _set_where = (
    vars(TaskExit)[name].__set__ for name in TaskExit.__slots__
)


def _stuck_exit(member: JoinSetMember) -> TaskExit:
    meta = member.meta
    name: str | None
    if member.task is not None:
        name, where = _name_of(member.task), await_chain(member.task)
    else:  # a supervised task between two runs
        assert meta is not None
        name, where = meta.task_id, []
    if meta is None:
        return make_exit(name, None, None, None, None, where)
    return make_exit(name, meta.task_id, meta.age, meta.silence, None, where)


def _name_of(task: asyncio.Task[Any]) -> str | None:
    try:
        return task.get_name()
    except Exception as error:
        about = {"message": "asking a task for its name failed", "exception": error}
        asyncio.get_running_loop().call_exception_handler(about)
        return None
