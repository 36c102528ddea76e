"""The shutdown of a TaskRegistry: what it cancels, and by which deadline it ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pyasynclife._core import JoinSet
from pyasynclife._log import logger
from pyasynclife._report import ShutdownReport
from pyasynclife._waiting import Deadline, cancel_in_slices, join_and_report

if TYPE_CHECKING:
    from pyasynclife._registry import TaskRegistry


class ShutdownDeadlines:
    """The deadlines by which the shutdowns of one registry end.

    That of a coordinator whose shutdown has begun takes precedence. Shutdowns that
    began before it, by the registry's own timeout, end by it, too.
    """

    __slots__ = ("_coordinators", "_own")

    def __init__(self) -> None:
        self._coordinators: Deadline | None = None
        self._own: dict[Deadline, JoinSet] = {}

    def coordinators_on(self, loop: asyncio.AbstractEventLoop) -> Deadline | None:
        """Return the deadline that a coordinator has set on this loop, if any."""
        deadline = self._coordinators
        return deadline if deadline is not None and deadline.loop is loop else None

    def follow(self, deadline: Deadline) -> None:
        """Follow the deadline of a coordinator, unless another one ends earlier."""
        before = self.coordinators_on(deadline.loop)
        if before is None or before.over or deadline.due < before.due:
            self._coordinators = deadline
        for own, join_set in tuple(self._own.items()):
            if own.loop is deadline.loop:
                own.due = min(own.due, deadline.due)
                own.until = min(own.until, deadline.until)
                join_set.wake_callers()

    def forget(self, deadline: Deadline) -> None:
        """Follow the deadline of a coordinator no longer."""
        if self._coordinators is deadline:
            self._coordinators = None

    def forget_if_over(self) -> None:
        """Follow no deadline of a coordinator whose block has been left."""
        if self._coordinators is not None and self._coordinators.over:
            self._coordinators = None

    def forget_any(self) -> None:
        """Follow no deadline of a coordinator."""
        self._coordinators = None

    def add_own(self, deadline: Deadline, join_set: JoinSet) -> None:
        """Note a shutdown by the registry's own timeout, until `remove_own`."""
        self._own[deadline] = join_set

    def remove_own(self, deadline: Deadline) -> None:
        """Note that a shutdown by the registry's own timeout has ended."""
        del self._own[deadline]


async def shut_down(
    registry: TaskRegistry, whom: int, deadline: Deadline | None
) -> tuple[ShutdownReport, bool]:
    """Cancel all tasks except the calling one, wait for them, and report.

    Args:
        registry: The registry.
        whom: What to do to tasks that a shutdown has cancelled before:
            SHUTDOWN_AGAIN: the same. SHUTDOWN_ONCE: wait for them.
            SHUTDOWN_UNREPORTED: wait for those that no report has listed as stuck.
        deadline: When to return; None: at that of the coordinator or, before its
            shutdown, after ``shutdown_timeout``.

    Returns:
        The report, and whether it lists a stuck task that none before has listed.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    deadlines = registry._deadlines
    join_set, cancelled = begin_shutdown(registry, asyncio.current_task(), whom)
    own = None
    try:
        if deadline is None:
            deadline = deadlines.coordinators_on(loop)
        if deadline is None:
            deadline = Deadline.after(loop, started, registry.shutdown_timeout)
            deadlines.add_own(deadline, join_set)
            own = deadline
        if cancelled:
            deadline.extend(loop.time())
        if registry._starting:  # a task in its eager first step is cancelled after it
            await asyncio.sleep(0)
        report = await join_and_report(join_set, started, deadline)
        return report, note_stuck(registry, join_set)
    finally:
        if own is not None:
            deadlines.remove_own(own)
        end_shutdown(registry)


def begin_shutdown(
    registry: TaskRegistry, caller: asyncio.Task[Any] | None, whom: int
) -> tuple[JoinSet, bool]:
    """Begin a shutdown or join the running one, and begin to cancel the tasks.

    Returns:
        The join set, and whether any task is cancelled. `end_shutdown` must follow.
    """
    join_set, queued = registry._begin_shutdown(caller, whom)
    try:
        cancel_in_slices(join_set)
        _end_batches(registry)
    except BaseException:
        end_shutdown(registry)
        raise
    return join_set, queued > 0


def _end_batches(registry: TaskRegistry) -> None:
    """End the batches and pools in a moment: their items may wait without a task.

    What a coordinator cancels together with the registry is cancelled before.
    """
    loop = asyncio.get_running_loop()
    for core in [one._core for one in list(registry._batches)]:
        if core.begun and not core.over:
            loop.call_soon(core.end_with_registry)


def end_shutdown(registry: TaskRegistry) -> None:
    """End a shutdown; after the last, log how many failures were not logged."""
    unlogged = registry._end_shutdown()
    if unlogged:
        logger.error(
            "%d more tasks failed during the shutdown; its report lists them in failed",
            unlogged,
        )


def note_stuck(registry: TaskRegistry, join_set: JoinSet) -> bool:
    """Note which tasks a report has listed as stuck; tell whether any is new.

    They may belong to other registries too, or to none.
    """
    news = False
    for member in join_set.stuck(asyncio.current_task()):
        if member.meta is not None:
            news |= not registry._note_shutdown(member.meta, True)
    return news
