"""The tasks that `SignalCoordinator.graceful_shutdown` is called with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pyasynclife._core import JoinSet
from pyasynclife._registry_shutdown import note_stuck
from pyasynclife._report import ShutdownReport
from pyasynclife._waiting import (
    Deadline,
    cancel_in_slices,
    cancel_rest,
    join_and_report,
)

if TYPE_CHECKING:
    from pyasynclife._attached import Attachments
    from pyasynclife._registry import TaskRegistry

JOINED = 10_000  # tasks that are joined in one loop iteration


class PassedTasks:
    """Cancels each task once and joins all, whatever call they were passed to.

    Calls that are under way at once have one join set.
    """

    def __init__(self, attached: Attachments) -> None:
        self._attached = attached
        self._join_set: JoinSet | None = None
        self._joining: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[Any]] = set()  # by calls that have ended

    async def shut_down(
        self, tasks: list[asyncio.Task[Any]], started: float, deadline: Deadline
    ) -> tuple[ShutdownReport, bool]:
        """Cancel tasks, wait for all, and report.

        Args:
            tasks: The tasks.
            started: Loop time at which the shutdown began.
            deadline: When to return.

        Returns:
            The report, and whether it lists a stuck task that none before has listed.
        """
        now = deadline.loop.time()
        join_set, cancelled = self.join(tasks[:JOINED])
        for first in range(JOINED, len(tasks), JOINED):
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.join(tasks)  # cancels the others, too
                cancel_rest(join_set)
                raise
            cancelled |= self.join(tasks[first : first + JOINED])[1]
        if cancelled:
            deadline.extend(now)
        report = await join_and_report(join_set, started, deadline)
        registries = self._attached.registries()
        return report, bool(registries) and note_stuck(registries[0], join_set)

    def join(self, tasks: list[asyncio.Task[Any]]) -> tuple[JoinSet, bool]:
        """Cancel the tasks that no shutdown has cancelled, and join all.

        Returns:
            The join set of all, and whether any was cancelled.
        """
        if self._join_set is None:
            self._join_set = JoinSet()
        join_set = self._join_set
        current = asyncio.current_task()
        known = self._joining
        new = [task for task in tasks if task is not current and task not in known]
        self._joining = known.union(new)
        before = join_set.queued
        try:
            registries = self._attached.registries()
            for task in new:
                if registries or self._cancelled:
                    self._join_one(join_set, task, registries)
                else:
                    join_set.add(task)
            return join_set, join_set.queued > before
        finally:
            cancel_in_slices(join_set)

    def _join_one(
        self,
        join_set: JoinSet,
        task: asyncio.Task[Any],
        registries: list[TaskRegistry],
    ) -> None:
        known, again = None, task in self._cancelled
        for registry in registries:
            known = registry._find(task)
            if known is not None:
                again |= registry._note_shutdown(known, False)
                break
        join_set.add(task, known, again)

    def end(self) -> None:
        """Note that the last call has ended."""
        join_set, self._join_set = self._join_set, None
        self._joining = set()
        if join_set is not None:
            cancel_rest(join_set)
            self._cancelled = set(filter(_runs, self._cancelled))
            stuck = (one.task for one in join_set.stuck(None))
            self._cancelled.update(task for task in stuck if task is not None)


def _runs(task: asyncio.Task[Any]) -> bool:
    try:
        return not task.done()
    except Exception:  # of another library's Task
        return False
