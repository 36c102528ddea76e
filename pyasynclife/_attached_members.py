"""An attached object whose tasks or items a coordinator notes: the base class."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pyasynclife._attachment import (
    AttachedRegistry,
    Attachment,
    Part,
)
from pyasynclife._core import SHUTDOWN_UNREPORTED, TaskMetadata
from pyasynclife._report import TaskExit, make_exit, report_from_lists
from pyasynclife._waiting import Deadline, wait_for_idle

if TYPE_CHECKING:
    from pyasynclife._attached import Attachments


class Member:
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


class AttachedWithMembers(Attachment):
    """A group or batch, whose tasks or items are noted when they are cancelled.

    A registry that is attached too reports those that it has.
    """

    def __init__(self, what: Any, order: int, others: Attachments) -> None:
        super().__init__(what, order, others)
        self._members: list[Member] = []
        self._alive: list[Member] | None = None  # at the beginning
        self._elsewhere: set[Any] = set()  # then registries had their tasks
        self._covers = False  # registries report some that it has cancelled

    def _running(self) -> list[Member]:
        """Return what runs, or waits for its next attempt."""
        raise NotImplementedError

    def begin(self) -> None:
        if self._alive is None:
            known = {member.one for member in self._members}
            registries = self._others.attached_registries()
            self._alive = []
            for member in self._running():
                if registry_of(member, registries) is not None:
                    self._elsewhere.add(member.one)
                elif member.one not in known:
                    self._alive.append(member)

    def _join(self, members: list[Member]) -> bool:
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
            found = registry_of(member, registries)
            if found is None:
                if member.task is not None or member.one not in self._elsewhere:
                    self._members.append(member)
            else:
                cancelled += found[0].cover(found[1])
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
            caller = asyncio.current_task()
            await wait_for_idle(lambda: self.is_idle(caller), self.wait_idle, deadline)
        lists: dict[str, list[TaskExit]] = {}
        news = False
        for member, (outcome, one) in zip(members, self._exits(members), strict=True):
            lists.setdefault(outcome, []).append(one)
            if outcome == "stuck":
                news |= not member.reported
                member.reported = True
        now = loop.time()
        return report_from_lists(lists, now - started, now > deadline.due), news

    def _exits(self, members: list[Member]) -> list[Exit]:
        """Return how each member has ended."""
        raise NotImplementedError

    def close(self) -> None:
        exits = zip(self._members, self._exits(self._members), strict=True)
        self._members = [member for member, (how, _) in exits if how == "stuck"]
        self._alive, self._elsewhere, self._covers = None, set(), False


def registry_of(
    member: Member, registries: list[AttachedRegistry]
) -> tuple[AttachedRegistry, TaskMetadata] | None:
    """Return the attached registry that has a member's task, and its entry."""
    for registry in registries if member.task is not None else ():
        meta = registry.find(member.task)
        if meta is not None:
            return registry, meta
    return None


def member_exit(name: str, error: BaseException | None, where: list[str]) -> TaskExit:
    return make_exit(name, None, None, None, error, where)
