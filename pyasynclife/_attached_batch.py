"""A batch that a SignalCoordinator ends, and its items."""

from __future__ import annotations

import asyncio
from typing import Any

from pyasynclife._attached_members import (
    AttachedWithMembers,
    Exit,
    Member,
    member_exit,
)
from pyasynclife._await_chain import _chain_of
from pyasynclife._batch import Batch
from pyasynclife._pool_shutdown import resting

_OUTCOMES = {"done": "finished", "failed": "failed"}


class AttachedBatch(AttachedWithMembers):
    _cancelled = False  # again would cancel its items again
    _lost = 0  # how many items had not succeeded, at the beginning
    _knows = False  # that all that ended by themselves since then have succeeded

    def _running(self) -> list[Member]:
        batch = self.what
        if batch is None:
            return []
        running = [
            Member(one._index, one._task_id, one._task, one) for one in _workers(batch)
        ]
        return running + [
            Member(index, name, task) for task, index, name, _ in resting(batch._core)
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
            batch._core.stop("shutdown")
        return by_us and bool(members)

    def _exits(self, members: list[Member]) -> list[Exit]:
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
            exits.append((outcome, member_exit(member.name, error, where)))
        return exits


def _workers(batch: Batch[Any]) -> list[Any]:
    """Return the workers that have an item."""
    if not batch._core.begun or batch._core.over:
        return []
    waits_for = batch._core.wait(False, True)._waits_for  # type: ignore[attr-defined]
    return [one for one in waits_for if hasattr(one, "_task_id")]
