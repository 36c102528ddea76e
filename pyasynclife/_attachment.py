"""An object that a SignalCoordinator ends: the base class, and registries."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

from pyasynclife._core import TaskMetadata
from pyasynclife._ended_tasks import note_swallowed, report_ended
from pyasynclife._registry import TaskRegistry
from pyasynclife._registry_shutdown import begin_shutdown, end_shutdown, shut_down
from pyasynclife._report import ShutdownReport, merge_reports, report_from_lists
from pyasynclife._waiting import Deadline

if TYPE_CHECKING:
    from pyasynclife._attached import Attachments

Part = tuple[ShutdownReport, bool]
"""A report, and whether it lists a stuck task that none before has listed."""


class Attachment:
    """One attached object, held weakly; a subclass for each type.

    Its methods are called in the loop. Each may be called again without effect.
    """

    def __init__(self, what: Any, order: int, others: Attachments) -> None:
        self._ref: weakref.ref[Any] = weakref.ref(what)
        self.order = order
        self._others: Attachments = weakref.proxy(others)  # they own this

    @property
    def what(self) -> Any:
        """The object; None when it is gone."""
        return self._ref()

    def begin(self) -> None:
        """Note what runs in it: what ends from now on is in the report."""
        raise NotImplementedError

    def stop(self) -> None:
        """Let it start nothing new, if it can do that."""
        stop = getattr(self.what, "stop", None)
        if stop is not None:
            stop()

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        """Tell whether nothing runs in it but perhaps the calling task."""
        raise NotImplementedError

    async def wait_idle(self) -> None:
        """Wait until nothing but the calling task runs in it; cancel nothing."""
        raise NotImplementedError

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        """Cancel what runs in it, but not the caller; tell whether anything was."""
        raise NotImplementedError

    async def join(self, whom: int, deadline: Deadline) -> Part:
        """Wait until what was cancelled has ended, and report."""
        raise NotImplementedError

    def close(self) -> None:
        """Forget what was cancelled: it has been reported."""


class AttachedRegistry(Attachment):
    """The registry knows itself which tasks a shutdown has cancelled."""

    def __init__(self, what: TaskRegistry, order: int, others: Attachments) -> None:
        super().__init__(what, order, others)
        self._open: TaskRegistry | None = None
        self._alive: list[TaskMetadata] | None = None  # at the beginning
        self._covered: dict[TaskMetadata, None] = {}  # another attachment cancels them
        self._ended: ShutdownReport | None = None  # before the registry shut down

    def begin(self) -> None:
        registry = self.what
        if registry is not None and self._alive is None:
            self._alive = registry._list_alive()

    def find(self, task: asyncio.Task[Any]) -> TaskMetadata | None:
        """Return the entry of a task of this registry, which reports it."""
        registry = self.what
        found: TaskMetadata | None = None if registry is None else registry._find(task)
        return found

    def claim(self, task: asyncio.Task[Any]) -> bool:
        """Note that another attachment is about to cancel a task.

        Returns False if it is not to: a shutdown of the registry has cancelled it.
        """
        meta = self.find(task)
        return meta is None or not self.what._note_shutdown(meta, False)

    def cover(self, meta: TaskMetadata) -> bool:
        """Report a task, but do not cancel it: another attachment does that now.

        Returns True if it is not to: a shutdown of the registry has cancelled it.
        """
        if self._open is not None:
            return True
        self._covered[meta] = None
        before: bool = self.what._note_shutdown(meta, False)
        return before

    def _note_ended(self, registry: TaskRegistry) -> None:
        """Keep what has ended by now, unless another shutdown has reported it."""
        covered = self._covered
        alive, self._alive = self._alive or [], []
        ended = [one for one in alive if one.finished_at is not None]
        ended = [
            one
            for one in ended
            if one not in covered and not registry._note_shutdown(one, False)
        ]
        ended += [one for one in covered if one.finished_at is not None]
        self._ended = report_ended(ended, covered) if ended else None

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        registry = self.what
        return registry is None or not registry._others_alive()

    async def wait_idle(self) -> None:
        registry = self.what
        if registry is not None:
            await registry.wait()

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        registry = self.what
        if registry is None or self._open is not None:
            return False
        cancelled: bool
        self._note_ended(registry)
        _, cancelled = begin_shutdown(registry, caller, whom)
        self._open = registry
        return cancelled

    async def join(self, whom: int, deadline: Deadline) -> Part:
        registry = self.what
        if registry is None:
            return report_from_lists({}, 0.0, False), False
        report, news = await shut_down(registry, whom, deadline)
        if self._covered:
            report = note_swallowed(report, {one.task_id for one in self._covered})
        if self._ended is not None:
            late = not report.deadline_met
            report = merge_reports([self._ended, report], report.duration, late)
        return report, news

    def close(self) -> None:
        registry, self._open = self._open, None
        self._alive, self._covered, self._ended = None, {}, None
        if registry is not None:
            end_shutdown(registry)
