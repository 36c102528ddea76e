"""Waiting for many tasks: until a join set is empty, or until a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any

from pyasynclife._core import JoinSet
from pyasynclife._report import ShutdownReport, make_report

# A deadline in the past still leaves these loop iterations: an obedient task needs
# them to end.
_ITERATIONS = 5


async def join_and_report(
    join_set: JoinSet, started: float, deadline: float
) -> ShutdownReport:
    """Wait until a join set is empty or its deadline has passed, and report.

    Args:
        join_set: The tasks that were cancelled. The calling task is not waited for.
        started: Loop time at which the shutdown began.
        deadline: Loop time; ``math.inf``: no deadline.

    Cancelled, it leaves at once; the tasks stay cancelled.
    """
    loop = asyncio.get_running_loop()
    caller = asyncio.current_task()
    join_set.callers.append(caller)
    try:
        for _ in range(_ITERATIONS if deadline <= loop.time() else 0):
            if _is_waiting(join_set, caller):
                await asyncio.sleep(0)
        while loop.time() < deadline and _is_waiting(join_set, caller):
            await wait_among(join_set.waiters, deadline)
        excluded = _excluded(join_set, caller)
        return make_report(join_set.members, caller, excluded, loop.time() - started)
    finally:
        join_set.callers.remove(caller)


async def wait_among(
    waiters: list[asyncio.Future[None]], deadline: float = math.inf
) -> None:
    """Add a future to a list and wait until it is done, or until a loop time.

    The owner of the list wakes the waiters: the native core, or a caller of `wake`.
    """
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()
    timer = None
    if deadline != math.inf:
        timer = loop.call_at(deadline, wake, waiter)
    waiters.append(waiter)
    try:
        await waiter
    finally:
        if timer is not None:
            timer.cancel()
        if waiter in waiters:
            waiters.remove(waiter)


def wake(waiter: asyncio.Future[None]) -> None:
    """Wake a waiter; no effect if it is done already."""
    if not waiter.done():
        waiter.set_result(None)


def cancel_tasks(tasks: Iterable[asyncio.Task[Any]]) -> JoinSet:
    """Cancel tasks, all at once, each once; return their JoinSet."""
    join_set = JoinSet()
    for task in {id(task): task for task in tasks}.values():
        join_set.add(task)
    return join_set


def _is_waiting(join_set: JoinSet, caller: asyncio.Task[Any] | None) -> bool:
    """Tell whether the join set has a task that the caller has to wait for."""
    if not 0 < join_set.pending <= len(join_set.callers):
        return join_set.pending > 0
    excluded = _excluded(join_set, caller)
    return any(
        member.task not in excluded
        for member in join_set.members
        if member.outcome == "stuck"
    )


def _excluded(
    join_set: JoinSet, caller: asyncio.Task[Any] | None
) -> list[asyncio.Task[Any] | None]:
    """Return the tasks that the caller does not wait for.

    That is the caller itself. If it is in the join set too, all callers are excluded:
    they would wait for each other.
    """
    if any(member.task is caller for member in join_set.members):
        return join_set.callers
    return [caller]
