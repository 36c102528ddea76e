"""A pool that a SignalCoordinator ends, and its jobs."""

from __future__ import annotations

import asyncio
from typing import Any

from pyasynclife._attached_members import AttachedWithMembers, Exit, Member
from pyasynclife._pool_shutdown import job_exit, resting


class AttachedPool(AttachedWithMembers):
    _cancelled = False  # again would cancel its jobs again

    def _running(self) -> list[Member]:
        pool = self.what
        if pool is None:
            return []
        running = [
            Member(job, job.task_id, worker._task, worker)
            for worker, job in pool._core.running()
        ]
        return running + [
            Member(job, job.task_id, task) for task, _, job, _ in resting(pool._core)
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
            pool._core.stop("shutdown")
        else:
            pool.stop()
        return by_us and bool(members)

    def _exits(self, members: list[Member]) -> list[Exit]:
        exits = []
        for member in members:
            how, one = job_exit(member.worker, member.one, member.name)
            if how == "swallowed" and member.by_itself:
                how = "finished"
            exits.append((how, one))
        return exits
