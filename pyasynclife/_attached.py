"""What a SignalCoordinator ends: registries, task groups and batches, in order."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from pyasynclife._arguments import close_unstarted, short
from pyasynclife._await_chain import _chain_of, await_chain
from pyasynclife._batch import Batch
from pyasynclife._core import SHUTDOWN_ONCE, SHUTDOWN_UNREPORTED, TaskGroup
from pyasynclife._pool import TaskPool, job_exit
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import (
    ShutdownReport,
    TaskExit,
    make_exit,
    merge_reports,
)
from pyasynclife._waiting import Deadline

# If the deadline has passed already, obedient tasks still need these loop iterations to
# end.
_ITERATIONS = 5

Part = tuple[ShutdownReport, bool]
"""A report, and whether it lists a stuck task that none before has listed."""


class Attachment:
    """One attached object, held weakly; a subclass for each type.

    Its methods are called in the loop. Each may be called again without effect.
    """

    def __init__(self, what: Any, order: int) -> None:
        self._ref: weakref.ref[Any] = weakref.ref(what)
        self.order = order

    @property
    def what(self) -> Any:
        """The object; None when it is gone."""
        return self._ref()

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


class _AttachedRegistry(Attachment):
    """The registry knows itself which tasks a shutdown has cancelled."""

    def __init__(self, what: TaskRegistry, order: int) -> None:
        super().__init__(what, order)
        self._open: TaskRegistry | None = None

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
        _, cancelled = registry._start_shutdown(caller, whom)
        self._open = registry
        return cancelled

    async def join(self, whom: int, deadline: Deadline) -> Part:
        registry = self.what
        if registry is None:
            return make_report({}, 0.0, False), False
        part: Part = await registry._shut_down(whom, deadline)
        return part

    def close(self) -> None:
        registry, self._open = self._open, None
        if registry is not None:
            registry._finish_shutdown()


class _Member:
    """One task or item that was cancelled."""

    def __init__(self, one: Any, name: str) -> None:
        self.one = one
        self.name = name
        self.reported = False  # as stuck


Exit = tuple[str, TaskExit]
"""How a member ended, or "stuck"."""


class _WithMembers(Attachment):
    """A group or batch, whose tasks or items are noted when they are cancelled."""

    def __init__(self, what: Any, order: int) -> None:
        super().__init__(what, order)
        self._members: list[_Member] = []

    async def join(self, whom: int, deadline: Deadline) -> Part:
        loop = asyncio.get_running_loop()
        started = loop.time()
        members = [
            member
            for member in self._members
            if not (whom == SHUTDOWN_UNREPORTED and member.reported)
        ]
        if members:
            await self._wait_until(deadline)
        lists: dict[str, list[TaskExit]] = {}
        news = False
        for member, (outcome, one) in zip(members, self._exits(members), strict=True):
            lists.setdefault(outcome, []).append(one)
            if outcome == "stuck":
                news |= not member.reported
                member.reported = True
        now = loop.time()
        return make_report(lists, now - started, now > deadline.due), news

    def _exits(self, members: list[_Member]) -> list[Exit]:
        """Return how each member has ended."""
        raise NotImplementedError

    async def _wait_until(self, deadline: Deadline) -> None:
        loop = asyncio.get_running_loop()
        caller = asyncio.current_task()
        for _ in range(_ITERATIONS if deadline.until <= loop.time() else 0):
            if not self.is_idle(caller):
                await asyncio.sleep(0)
        if loop.time() >= deadline.until or self.is_idle(caller):
            return
        try:
            async with asyncio.timeout_at(
                None if deadline.until == math.inf else deadline.until
            ):
                await self.wait_idle()
        except TimeoutError:
            pass

    def close(self) -> None:
        exits = zip(self._members, self._exits(self._members), strict=True)
        self._members = [member for member, (how, _) in exits if how == "stuck"]


class _AttachedGroup(_WithMembers):
    def _others(self, caller: asyncio.Task[Any] | None) -> list[asyncio.Task[Any]]:
        group = self.what
        return [] if group is None else [t for t in group._tasks if t is not caller]

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        return not self._others(caller)

    async def wait_idle(self) -> None:
        caller = asyncio.current_task()
        while tasks := self._others(caller):
            await asyncio.wait(tasks)

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        group = self.what
        if group is None:
            return False
        known = {member.one for member in self._members}
        tasks = [task for task in self._others(caller) if task not in known]
        tasks.sort(key=lambda task: task.get_name())  # of a factory, perhaps
        self._members += [_Member(task, task.get_name()) for task in tasks]
        if caller is None or not (
            caller is group._parent_task or caller in group._tasks
        ):
            group.cancel()
        else:  # the block goes on, and so does the caller
            for task in tasks:
                task.cancel()
        return bool(tasks)

    def _exits(self, members: list[_Member]) -> list[Exit]:
        exits = []
        for member in members:
            task: asyncio.Task[Any] = member.one
            error = None
            if not task.done():
                outcome = "stuck"
            elif task.cancelled():
                outcome = "cancelled"
            elif (error := task.exception()) is not None:
                outcome = "failed"
            else:
                outcome = "swallowed" if task.cancelling() else "finished"
            exits.append((outcome, _task_exit(member.name, error, await_chain(task))))
        return exits


class _AttachedBatch(_WithMembers):
    _cancelled = False  # again would cancel its items again

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        batch = self.what
        return batch is None or not batch._core.begun or batch._core.over

    async def wait_idle(self) -> None:
        batch = self.what
        if batch is not None and batch._core.begun and not batch._core.over:
            await batch._core.wait(False, True)

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        batch = self.what
        if batch is None or batch._core.over or self._cancelled:
            return False
        self._cancelled = True
        workers = _workers(batch)
        self._members += [_Member(worker, worker._task_id) for worker in workers]
        batch.cancel("shutdown")
        return bool(workers)

    def _exits(self, members: list[_Member]) -> list[Exit]:
        batch = self.what
        running = set() if batch is None else set(_workers(batch))
        results: list[Any] = []
        if batch is not None:
            taken = batch._result
            results = batch._core.results if taken is None else taken._results
        kept = {result.task_id: result for result in results if result is not None}
        exits = []
        for member in members:
            error, where = None, []
            outcome = "cancelled"  # or not known: no result is kept
            if member.one in running:
                outcome = "stuck"
                where = _chain_of(member.one._coro, set())
            elif (result := kept.get(member.name)) is not None:
                error = result.error
                outcome = _OUTCOMES.get(result.state.value, "cancelled")
            exits.append((outcome, _task_exit(member.name, error, where)))
        return exits


class _AttachedPool(_WithMembers):
    _cancelled = False  # again would cancel its jobs again

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        pool = self.what
        return pool is None or not [
            worker for worker, _ in pool._core.running() if worker._task is not caller
        ]

    async def wait_idle(self) -> None:
        pool = self.what
        caller = asyncio.current_task()
        if pool is None:
            return
        jobs = [job for worker, job in pool._core.running() if worker._task is caller]
        if not jobs:
            await pool._core.wait_idle()
        while not self.is_idle(caller):
            await asyncio.sleep(0)

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        pool = self.what
        if pool is None or self._cancelled:
            return False
        self._cancelled = True
        running = pool._core.running()
        self._members += [_Member(pair, pair[1].task_id) for pair in running]
        pool.cancel("shutdown")
        return bool(running)

    def _exits(self, members: list[_Member]) -> list[Exit]:
        return [
            job_exit(worker, job, member.name)
            for member in members
            for worker, job in [member.one]
        ]


_OUTCOMES = {"done": "finished", "failed": "failed"}


def _workers(batch: Batch[Any]) -> list[Any]:
    """Return the workers that have an item."""
    if not batch._core.begun or batch._core.over:
        return []
    waits_for = batch._core.wait(False, True)._waits_for  # type: ignore[attr-defined]
    return [one for one in waits_for if hasattr(one, "_task_id")]


_KINDS: dict[type, Callable[[Any, int], Attachment]] = {
    TaskRegistry: _AttachedRegistry,
    TaskGroup: _AttachedGroup,
    Batch: _AttachedBatch,
    TaskPool: _AttachedPool,
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
        one = makes[0](what, order)
        self._all.append(one)
        return one

    def registries(self) -> list[TaskRegistry]:
        return [one.what for one in self if isinstance(one.what, TaskRegistry)]

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
        self, whom: int, deadline: Deadline, hurried: Callable[[], bool]
    ) -> Part:
        """Cancel everything, the lowest order first, wait for it, and report.

        Args:
            whom: As for `TaskRegistry._shut_down`.
            deadline: When to return. What is cancelled only then has a grace.
            hurried: Tells whether to cancel all orders at once.

        If the caller is cancelled, everything is cancelled before that propagates.
        """
        caller = asyncio.current_task()
        started = deadline.loop.time()
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
    if len(reports) == 1:
        return reports[0]
    now = deadline.loop.time()
    return merge_reports(reports, now - started, now > deadline.due)


_LISTS = ("finished", "cancelled", "failed", "swallowed", "stuck")


def make_report(
    lists: dict[str, list[TaskExit]], duration: float, late: bool
) -> ShutdownReport:
    """Return a report of tasks by their outcome."""
    every = {outcome: lists.get(outcome, []) for outcome in _LISTS}
    return ShutdownReport._make(
        **every, duration=duration, deadline_met=not (late or every["stuck"])
    )


def _task_exit(name: str, error: BaseException | None, where: list[str]) -> TaskExit:
    return make_exit(name, None, None, None, error, where)
