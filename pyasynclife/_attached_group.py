"""A task group that a SignalCoordinator ends, and its children."""

from __future__ import annotations

import asyncio
from typing import Any

from pyasynclife._attached_members import (
    AttachedWithMembers,
    Exit,
    Member,
    member_exit,
)
from pyasynclife._attachment import AttachedRegistry
from pyasynclife._await_chain import await_chain


class AttachedGroup(AttachedWithMembers):
    _cancelled: frozenset[asyncio.Task[Any]] = frozenset()  # not to be again

    def _tasks(self, caller: asyncio.Task[Any] | None) -> list[asyncio.Task[Any]]:
        group = self.what
        tasks = () if group is None else group._tasks
        return [task for task in tasks if task is not caller and not task.done()]

    def _running(self) -> list[Member]:
        return [Member(task, task.get_name(), task) for task in self._tasks(None)]

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
        tasks = [one for one in self._tasks(caller) if one not in self._cancelled]
        tasks.sort(key=lambda task: task.get_name())  # of a factory, perhaps
        registries = self._others.attached_registries()
        left = [task for task in tasks if _claim(task, registries)]
        self._join([Member(task, task.get_name(), task) for task in tasks])
        self._cancelled = self._cancelled.union(tasks)
        if caller is not None and (
            caller is group._parent_task or caller in group._tasks
        ):  # the block goes on, and so does the caller
            for task in left:
                task.cancel()
        elif len(left) == len(tasks):
            group.cancel()
        else:
            group._cancel_others(frozenset(tasks).difference(left))
        return bool(left)

    def close(self) -> None:
        super().close()
        self._cancelled = frozenset(one for one in self._cancelled if not one.done())

    def _exits(self, members: list[Member]) -> list[Exit]:
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
            exits.append((outcome, member_exit(member.name, error, await_chain(task))))
        return exits


def _claim(task: asyncio.Task[Any], registries: list[AttachedRegistry]) -> bool:
    """Note in all registries that the group cancels a task; False: it is not to."""
    claims = [one.claim(task) for one in registries]
    return all(claims)
