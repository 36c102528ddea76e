"""Groups, batches and pools that a SignalCoordinator ends, and their members."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from pyasynclife._attachment import (
    AttachedRegistry,
    Attachment,
    Part,
    report_from_lists,
)
from pyasynclife._await_chain import _chain_of, await_chain
from pyasynclife._batch import Batch
from pyasynclife._core import SHUTDOWN_UNREPORTED, TaskMetadata
from pyasynclife._pool_shutdown import job_exit, resting
from pyasynclife._report import TaskExit, make_exit
from pyasynclife._waiting import Deadline

if TYPE_CHECKING:
    from pyasynclife._attached import Attachments

# If the deadline has passed already, obedient tasks still need these loop iterations to
# end.
_ITERATIONS = 5


class _Member:
    """One task or item that a report lists.

    Args:
        one: What it is known by, whatever runs it.
        name: Its name in the report.
        task: Its Task; None: it waits for its next attempt.
        worker: What runs it, if anything does.
    """

    def __init__(self, one: Any, name: str, task: Any, worker: Any = None) -> None:
        self.one = one
        self.name = name
        self.task = task
        self.worker = worker
        self.by_itself = False  # it ended before it was to be cancelled
        self.failure: BaseException | None = None  # stop() left it no other attempt
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
        self._elsewhere: set[Any] = set()  # then registries had their tasks
        self._covers = False  # registries report some that it has cancelled

    def _running(self) -> list[_Member]:
        """Return what runs, or waits for its next attempt."""
        raise NotImplementedError

    def begin(self) -> None:
        if self._alive is None:
            known = {member.one for member in self._members}
            registries = self._others.attached_registries()
            self._alive = []
            for member in self._running():
                if _registry_of(member, registries) is not None:
                    self._elsewhere.add(member.one)
                elif member.one not in known:
                    self._alive.append(member)

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
                if member.task is not None or member.one not in self._elsewhere:
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
        return report_from_lists(lists, now - started, now > deadline.due), news

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
        self._alive, self._elsewhere, self._covers = None, set(), False


def _registry_of(
    member: _Member, registries: list[AttachedRegistry]
) -> tuple[AttachedRegistry, TaskMetadata] | None:
    """Return the attached registry that has a member's task, and its entry."""
    for registry in registries if member.task is not None else ():
        meta = registry.find(member.task)
        if meta is not None:
            return registry, meta
    return None


class AttachedGroup(_WithMembers):
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


class AttachedBatch(_WithMembers):
    _cancelled = False  # again would cancel its items again
    _lost = 0  # how many items had not succeeded, at the beginning
    _knows = False  # that all that ended by themselves since then have succeeded

    def _running(self) -> list[_Member]:
        batch = self.what
        if batch is None:
            return []
        running = [
            _Member(one._index, one._task_id, one._task, one) for one in _workers(batch)
        ]
        return running + [
            _Member(index, name, task) for task, index, name, _ in resting(batch._core)
        ]

    def begin(self) -> None:
        if self._alive is None and self.what is not None:
            self._lost = self._count_lost(self.what)
        super().begin()

    def stop(self) -> None:
        batch = self.what
        waiting = [] if batch is None else resting(batch._core)
        super().stop()
        failures = {index: error for _, index, _, error in waiting}
        self._lost += len(failures)
        for member in self._alive or ():
            member.failure = failures.get(member.one)

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
        running = {} if batch is None else {one._index: one for one in _workers(batch)}
        results: list[Any] = []
        if batch is not None:
            taken = batch._result
            results = batch._core.results if taken is None else taken._results
        kept = {result.index: result for result in results if result is not None}
        exits = []
        for member in members:
            error, where = None, []
            outcome = "cancelled"  # or not known: no result is kept
            if member.one in running:
                outcome = "stuck"
                where = _chain_of(running[member.one]._coro, set())
            elif (result := kept.get(member.one)) is not None:
                error = result.error
                outcome = _OUTCOMES.get(result.state.value, "cancelled")
            elif member.failure is not None:
                error, outcome = member.failure, "failed"
            elif member.by_itself:  # no result is kept
                outcome = "finished" if self._knows else "unknown"
            exits.append((outcome, _task_exit(member.name, error, where)))
        return exits


class AttachedPool(_WithMembers):
    _cancelled = False  # again would cancel its jobs again

    def _running(self) -> list[_Member]:
        pool = self.what
        if pool is None:
            return []
        running = [
            _Member(job, job.task_id, worker._task, worker)
            for worker, job in pool._core.running()
        ]
        return running + [
            _Member(job, job.task_id, task) for task, _, job, _ in resting(pool._core)
        ]

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
            how, one = job_exit(member.worker, member.one, member.name)
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


def _task_exit(name: str, error: BaseException | None, where: list[str]) -> TaskExit:
    return make_exit(name, None, None, None, error, where)
