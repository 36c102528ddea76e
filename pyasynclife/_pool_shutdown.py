"""The shutdown of a TaskPool: wait for its jobs, and report how each has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyasynclife._await_chain import _chain_of
from pyasynclife._core import BatchCore, Job
from pyasynclife._report import (
    ShutdownReport,
    TaskExit,
    make_exit,
    report_from_lists,
)
from pyasynclife._states import TaskState
from pyasynclife._waiting import Deadline, wait_for_idle

if TYPE_CHECKING:
    from pyasynclife._pool import TaskPool

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
    await wait_for_idle(lambda: core.is_idle, core.wait_idle, deadline)
    lists: dict[str, list[TaskExit]] = {}
    for one in begun:
        outcome, how = job_exit(*one)
        lists.setdefault(outcome, []).append(how)
    now = deadline.loop.time()
    return report_from_lists(lists, now - started, now > deadline.due)


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
    return how, make_exit(name, None, None, None, error, where)
