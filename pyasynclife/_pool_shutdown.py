"""The shutdown of a TaskPool: wait for its jobs, and report how each has ended."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from pyasynclife._await_chain import _chain_of
from pyasynclife._core import BatchCore, Job, PoolCore
from pyasynclife._report import ShutdownReport, TaskExit
from pyasynclife._states import TaskState
from pyasynclife._waiting import Deadline

if TYPE_CHECKING:
    from pyasynclife._pool import TaskPool

_ITERATIONS = 5
"""Obedient jobs need these loop iterations to end, if the deadline has passed."""

_OUTCOMES = {
    TaskState.DONE: "swallowed",
    TaskState.FAILED: "failed",
    TaskState.RUNNING: "stuck",
}


async def shut_down_pool(
    pool: TaskPool, started: float, deadline: Deadline
) -> ShutdownReport:
    """Cancel all jobs, wait until they have ended or the deadline, and report.

    Args:
        pool: The pool.
        started: Loop time at which the shutdown began.
        deadline: When to return.
    """
    core = pool._core
    pairs = core.running()
    pairs += [(None, job) for _, _, job, _ in resting(core)]
    begun = [(*pair, pair[1].task_id) for pair in pairs]
    pool.cancel("shutdown")
    await _wait_idle(core, deadline)
    lists: dict[str, list[TaskExit]] = {
        outcome: [] for outcome in ShutdownReport.__slots__[:5]
    }
    for one in begun:
        outcome, how = job_exit(*one)
        lists[outcome].append(how)
    now = deadline.loop.time()
    return ShutdownReport._make(
        **lists,
        duration=now - started,
        deadline_met=not (now > deadline.due or lists["stuck"]),
    )


async def _wait_idle(core: PoolCore, deadline: Deadline) -> None:
    """Wait until no job of a pool is left, or until a deadline."""
    loop = deadline.loop
    for _ in range(_ITERATIONS if deadline.until <= loop.time() else 0):
        if not core.is_idle:
            await asyncio.sleep(0)
    if core.is_idle or loop.time() >= deadline.until:
        return
    until = None if deadline.until == math.inf else deadline.until
    try:
        async with asyncio.timeout_at(until):
            await core.wait_idle()
    except TimeoutError:
        pass


def resting(core: BatchCore) -> list[tuple[Any, int, Any, BaseException]]:
    """List what waits for its next attempt.

    For each item: the Task of the last attempt, while that has not ended, or None; the
    index; the id, or in a pool the Job; and the error of the last attempt.
    """
    entries = iter(core.resting())
    return list(zip(entries, entries, entries, entries, strict=True))


def job_exit(worker: Any, job: Job[Any], name: str) -> tuple[str, TaskExit]:
    """Return how a job that was cancelled has ended, for a report.

    Args:
        worker: What ran it; None: it waited for its next attempt.
        job: The job; its outcome counts as received.
        name: Its id.
    """
    outcome = job.outcome
    how, error, where = "cancelled", None, []
    if outcome is None:
        how = "stuck" if not job.done() else how
    else:
        how, error = _OUTCOMES.get(outcome.state, how), outcome.error
    if how == "stuck" and worker is not None:
        where = _chain_of(worker._coro, set())
    if how != "failed":
        error = None
    one = TaskExit._make(
        name=name, task_id=None, age=None, silence=None, error=error, where=where
    )
    return how, one
