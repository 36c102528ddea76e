"""The tasks of a registry that ended between the beginning of a shutdown and its end.

A report has their TaskExits made when they are read, of the entries: see `_report`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pyasynclife._core import TaskMetadata
from pyasynclife._report import ShutdownReport, TaskExit, make_exit

_OUTCOMES = {"done": "finished", "cancelled": "cancelled", "failed": "failed"}


class _EndedTasks:
    """A source of reports: entries that have ended."""

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[str, list[TaskMetadata]]) -> None:
        self._entries = entries

    def _exits(self, outcome: str) -> list[TaskExit]:
        return [
            make_exit(one.task_id, one.task_id, one.age, one.silence, one.error, [])
            for one in self._entries.get(outcome, ())
        ]

    def _count(self, outcome: str) -> int:
        return len(self._entries.get(outcome, ()))


def report_ended(
    entries: Iterable[TaskMetadata], cancelled: Collection[TaskMetadata]
) -> ShutdownReport:
    """Report on tasks that have ended.

    Args:
        entries: The tasks.
        cancelled: Those of them that the shutdown has cancelled.
    """
    lists: dict[str, list[TaskMetadata]] = {}
    for one in entries:
        outcome = _OUTCOMES[one.state]
        if outcome == "finished" and one in cancelled:
            outcome = "swallowed"
        lists.setdefault(outcome, []).append(one)
    return ShutdownReport._make(
        _sources=(_EndedTasks(lists),), stuck=[], duration=0.0, deadline_met=True
    )


def note_swallowed(report: ShutdownReport, ids: Collection[str]) -> ShutdownReport:
    """List tasks as swallowed that returned a value although they were cancelled.

    Args:
        report: A report of a registry.
        ids: The tasks that a pool or batch has cancelled. It takes its cancellations
            back, by ``uncancel()``, so the registry takes them for finished.
    """
    finished = [one for one in report.finished if one.task_id not in ids]
    swallowed = [one for one in report.finished if one.task_id in ids]
    return ShutdownReport._make(
        finished=finished,
        cancelled=report.cancelled,
        failed=report.failed,
        swallowed=report.swallowed + swallowed,
        stuck=report.stuck,
        duration=report.duration,
        deadline_met=report.deadline_met,
    )
