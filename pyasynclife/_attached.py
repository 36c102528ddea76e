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
from pyasynclife._core import (
    SHUTDOWN_ONCE,
    SHUTDOWN_UNREPORTED,
    TaskGroup,
    TaskMetadata,
)
from pyasynclife._ended_tasks import note_swallowed, report_ended
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

    def __init__(self, what: Any, order: int, others: Attachments) -> None:
        self._ref: weakref.ref[Any] = weakref.ref(what)
        self.order = order
        self._others = others

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


class _AttachedRegistry(Attachment):
    """The registry knows itself which tasks a shutdown has cancelled."""

    def __init__(self, what: TaskRegistry, order: int, others: Attachments) -> None:
        super().__init__(what, order, others)
        self._open: TaskRegistry | None = None
        self._alive: list[TaskMetadata] | None = None  # at the beginning
        self._covered: dict[TaskMetadata, None] = {}  # another attachment cancels them
        self._ended: ShutdownReport | None = None  # before the registry shut down

    @property
    def is_shutting_down(self) -> bool:
        """Whether `cancel` has cancelled its tasks."""
        return self._open is not None

    def begin(self) -> None:
        registry = self.what
        if registry is not None and self._alive is None:
            self._alive = registry._list_alive()

    def find(self, task: asyncio.Task[Any]) -> TaskMetadata | None:
        """Return the entry of a task of this registry, which reports it."""
        registry = self.what
        found: TaskMetadata | None = None if registry is None else registry._find(task)
        return found

    def cover(self, meta: TaskMetadata) -> None:
        """Report a task, but do not cancel it: another attachment does that now."""
        if self._open is None:
            self.what._note_shutdown(meta, False)
            self._covered[meta] = None

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
        _, cancelled = registry._start_shutdown(caller, whom)
        self._open = registry
        return cancelled

    async def join(self, whom: int, deadline: Deadline) -> Part:
        registry = self.what
        if registry is None:
            return make_report({}, 0.0, False), False
        report, news = await registry._shut_down(whom, deadline)
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
            registry._finish_shutdown()


class _Member:
    """One task or item that a report lists."""

    def __init__(self, one: Any, name: str, task: Any) -> None:
        self.one = one
        self.name = name
        self.task = task
        self.by_itself = False  # it ended before it was to be cancelled
        self.reported = False  # as stuck


Exit = tuple[str, TaskExit]
"""How a member ended, "stuck", or "unknown"."""


class _WithMembers(Attachment):
    """A group or batch, whose tasks or items are noted when they are cancelled.

    A registry that is attached too reports those that it has.
    """

    def __init__(self, what: Any, order: int, others: Attachments) -> None:
        super().__init__(what, order, others)
        self._members: list[_Member] = []
        self._alive: list[_Member] | None = None  # at the beginning
        self._covers = False  # registries report some that it has cancelled

    def _running(self) -> list[_Member]:
        """Return what runs."""
        raise NotImplementedError

    def begin(self) -> None:
        if self._alive is None:
            known = {member.one for member in self._members}
            registries = self._others.attached_registries()
            self._alive = [
                member
                for member in self._running()
                if member.one not in known and _registry_of(member, registries) is None
            ]

    def _join(self, members: list[_Member]) -> bool:
        """Note what is about to be cancelled, and what has ended by itself.

        Returns:
            False if registries have cancelled all of them already.
        """
        known = {member.one for member in members}
        alive, self._alive = self._alive or [], []
        for member in alive:
            if member.one not in known:
                member.by_itself = True
                self._members.append(member)
        registries = self._others.attached_registries()
        cancelled = 0
        for member in members:
            found = _registry_of(member, registries)
            if found is None:
                self._members.append(member)
            else:
                cancelled += found[0].is_shutting_down
                found[0].cover(found[1])
                self._covers = True
        return not members or cancelled < len(members)

    async def join(self, whom: int, deadline: Deadline) -> Part:
        loop = asyncio.get_running_loop()
        started = loop.time()
        members = [
            member
            for member in self._members
            if not (whom == SHUTDOWN_UNREPORTED and member.reported)
        ]
        if members or self._covers:
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
        self._alive, self._covers = None, False


def _registry_of(
    member: _Member, registries: list[_AttachedRegistry]
) -> tuple[_AttachedRegistry, TaskMetadata] | None:
    """Return the attached registry that has a member's task, and its entry."""
    for registry in registries if member.task is not None else ():
        meta = registry.find(member.task)
        if meta is not None:
            return registry, meta
    return None


class _AttachedGroup(_WithMembers):
    def _tasks(self, caller: asyncio.Task[Any] | None) -> list[asyncio.Task[Any]]:
        group = self.what
        return [] if group is None else [t for t in group._tasks if t is not caller]

    def _running(self) -> list[_Member]:
        return [_Member(task, task.get_name(), task) for task in self._tasks(None)]

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        return not self._tasks(caller)

    async def wait_idle(self) -> None:
        caller = asyncio.current_task()
        while tasks := self._tasks(caller):
            await asyncio.wait(tasks)

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        group = self.what
        if group is None:
            return False
        known = {member.one for member in self._members}
        tasks = [task for task in self._tasks(caller) if task not in known]
        tasks.sort(key=lambda task: task.get_name())  # of a factory, perhaps
        self._join([_Member(task, task.get_name(), task) for task in tasks])
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
    _lost = 0  # how many items had not succeeded, at the beginning
    _knows = False  # that all that ended by themselves since then have succeeded

    def _running(self) -> list[_Member]:
        batch = self.what
        workers = [] if batch is None else _workers(batch)
        return [_Member(one, one._task_id, one._task) for one in workers]

    def begin(self) -> None:
        if self._alive is None and self.what is not None:
            self._lost = self._count_lost(self.what)
        super().begin()

    def _count_lost(self, batch: Batch[Any]) -> int:
        progress = batch.progress
        return progress.failed + progress.cancelled

    def is_idle(self, caller: asyncio.Task[Any] | None) -> bool:
        batch = self.what
        return batch is None or not batch._core.begun or batch._core.over

    async def wait_idle(self) -> None:
        batch = self.what
        if batch is not None and batch._core.begun and not batch._core.over:
            await batch._core.wait(False, True)

    def cancel(self, caller: asyncio.Task[Any] | None, whom: int) -> bool:
        batch = self.what
        if batch is None or self._cancelled:
            return False
        self._cancelled = True
        self._knows = self._count_lost(batch) == self._lost
        members = self._running()
        by_us = self._join(members)
        if by_us and not batch._core.over:
            batch.cancel("shutdown")
        return by_us and bool(members)

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
            elif member.by_itself:  # no result is kept
                outcome = "finished" if self._knows else "unknown"
            exits.append((outcome, _task_exit(member.name, error, where)))
        return exits


class _AttachedPool(_WithMembers):
    _cancelled = False  # again would cancel its jobs again

    def _running(self) -> list[_Member]:
        pool = self.what
        running = [] if pool is None else pool._core.running()
        return [_Member(pair, pair[1].task_id, pair[0]._task) for pair in running]

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
        members = self._running()
        if by_us := self._join(members):
            pool.cancel("shutdown")
        else:
            pool.stop()
        return by_us and bool(members)

    def _exits(self, members: list[_Member]) -> list[Exit]:
        exits = []
        for member in members:
            worker, job = member.one
            how, one = job_exit(worker, job, member.name)
            if how == "swallowed" and member.by_itself:
                how = "finished"
            exits.append((how, one))
        return exits


_OUTCOMES = {"done": "finished", "failed": "failed"}


def _workers(batch: Batch[Any]) -> list[Any]:
    """Return the workers that have an item."""
    if not batch._core.begun or batch._core.over:
        return []
    waits_for = batch._core.wait(False, True)._waits_for  # type: ignore[attr-defined]
    return [one for one in waits_for if hasattr(one, "_task_id")]


_KINDS: dict[type, Callable[[Any, int, Attachments], Attachment]] = {
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
        one = makes[0](what, order, self)
        self._all.append(one)
        return one

    def registries(self) -> list[TaskRegistry]:
        return [one.what for one in self if isinstance(one.what, TaskRegistry)]

    def attached_registries(self) -> list[_AttachedRegistry]:
        return [one for one in self if isinstance(one, _AttachedRegistry)]

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
            whom: As for `TaskRegistry._shut_down`.
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
