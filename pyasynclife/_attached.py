"""What a SignalCoordinator ends: registries, task groups and batches, in order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

from pyasynclife._arguments import close_unstarted, short
from pyasynclife._attached_batch import AttachedBatch
from pyasynclife._attached_group import AttachedGroup
from pyasynclife._attached_pool import AttachedPool
from pyasynclife._attachment import AttachedRegistry, Attachment, Part
from pyasynclife._batch import Batch
from pyasynclife._core import SHUTDOWN_ONCE, TaskGroup
from pyasynclife._pool import TaskPool
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import ShutdownReport, merge_reports
from pyasynclife._waiting import Deadline

_KINDS: dict[type, Callable[[Any, int, Attachments], Attachment]] = {
    TaskRegistry: AttachedRegistry,
    TaskGroup: AttachedGroup,
    Batch: AttachedBatch,
    TaskPool: AttachedPool,
}


class Attachments:
    """All that is attached to a coordinator."""

    def __init__(self) -> None:
        self._all: list[Attachment] = []

    def __iter__(self) -> Iterator[Attachment]:
        """Iterate over those that still exist, by their order."""
        self._all = [one for one in self._all if one.what is not None]
        return iter(sorted(self._all, key=lambda one: one.order))

    def __bool__(self) -> bool:
        return any(True for _ in self)

    def add(self, what: Any, order: int) -> Attachment | None:
        """Add an object; return None if it is there already, which gets the order.

        Raises:
            TypeError: It is of no type that can be attached.
        """
        makes = [make for kind, make in _KINDS.items() if isinstance(what, kind)]
        if not makes:
            close_unstarted(what)
            raise TypeError(
                "attach() takes a Batch, TaskGroup, TaskPool or TaskRegistry, got "
                f"{short(what)}: pass tasks to graceful_shutdown()"
            )
        for one in self:
            if one.what is what:
                one.order = order
                return None
        one = makes[0](what, order, self)
        self._all.append(one)
        return one

    def registries(self) -> list[TaskRegistry]:
        return [one.what for one in self if isinstance(one.what, TaskRegistry)]

    def attached_registries(self) -> list[AttachedRegistry]:
        return [one for one in self if isinstance(one, AttachedRegistry)]

    def begin(self) -> None:
        """Note what runs; an error goes to the loop's exception handler."""
        for one in self:
            try:
                one.begin()
            except Exception as error:
                _report_error("listing the tasks of", one, error)

    def stop(self) -> None:
        for one in self:
            self.stop_one(one)

    def stop_one(self, one: Attachment) -> None:
        """Call its ``stop()``; an error goes to the loop's exception handler."""
        try:
            one.stop()
        except Exception as error:
            _report_error("stopping", one, error)

    def is_idle(self) -> bool:
        caller = asyncio.current_task()
        return all(one.is_idle(caller) for one in self)

    async def wait_idle(self) -> None:
        """Wait until nothing but the calling task runs."""
        while not self.is_idle():
            for one in self:
                await one.wait_idle()

    def cancel(
        self, caller: asyncio.Task[Any] | None, whom: int = SHUTDOWN_ONCE
    ) -> bool:
        """Cancel everything at once, whatever its order; tell whether anything was.

        What that raises goes to the loop's exception handler.
        """
        cancelled = False
        for one in self:
            try:
                cancelled |= one.cancel(caller, whom)
            except Exception as error:
                _report_error("cancelling", one, error)
        return cancelled

    async def cancel_in_order(self, deadline: Deadline) -> None:
        """Cancel the lowest order, wait until it has ended, cancel the next one."""
        ended: list[Attachment] = []
        try:
            async with asyncio.timeout_at(
                None if deadline.due == math.inf else deadline.due
            ):
                while left := [one for one in self if one not in ended]:
                    left = [one for one in left if one.order == left[0].order]
                    for one in left:
                        one.cancel(None, SHUTDOWN_ONCE)
                    for one in left:
                        await one.wait_idle()
                    ended += left
        except TimeoutError:
            self.cancel(None)

    async def end(
        self, whom: int, started: float, deadline: Deadline, hurried: Callable[[], bool]
    ) -> Part:
        """Cancel everything, the lowest order first, wait for it, and report.

        Args:
            whom: As for `shut_down` of `_registry_shutdown`.
            started: Loop time at which the shutdown began.
            deadline: When to return. What is cancelled only then has a grace.
            hurried: Tells whether to cancel all orders at once.

        If the caller is cancelled, everything is cancelled before that propagates.
        """
        caller = asyncio.current_task()
        ended: list[Attachment] = []
        parts: list[Part] = []
        try:
            while left := [one for one in self if one not in ended]:
                if not hurried() and deadline.loop.time() < deadline.due:
                    left = [one for one in left if one.order == left[0].order]
                for one in left:
                    if one.cancel(caller, whom):
                        deadline.extend(deadline.loop.time())
                for one in left:
                    parts.append(await one.join(whom, deadline))
                ended += left
        except asyncio.CancelledError:
            self.cancel(caller, whom)
            raise
        report = _merged([report for report, _ in parts], started, deadline)
        return report, any(news for _, news in parts)

    def close(self) -> None:
        """Forget what was cancelled; another shutdown cancels and reports anew."""
        for one in self:
            one.close()


def _report_error(doing: str, one: Attachment, error: Exception) -> None:
    """Report what no caller can receive."""
    asyncio.get_running_loop().call_exception_handler(
        {"message": f"{doing} {one.what!r} failed", "exception": error}
    )


def _merged(
    reports: list[ShutdownReport], started: float, deadline: Deadline
) -> ShutdownReport:
    now = deadline.loop.time()
    return merge_reports(reports, now - started, now > deadline.due)
