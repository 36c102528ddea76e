"""Wait for many tasks: until all have ended, or until a deadline."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from pyasynclife._core import JoinSet
from pyasynclife._report import ShutdownReport, make_report

# If the deadline has passed already, obedient tasks still need these loop iterations to
# end.
_ITERATIONS = 5


async def join_and_report(
    join_set: JoinSet, started: float, deadline: float
) -> ShutdownReport:
    """Wait until a join set is empty or its deadline has passed, and report.

    Args:
        join_set: The tasks that were cancelled. The calling task is not waited for.
        started: Loop time at which the shutdown began.
        deadline: Loop time; ``math.inf``: no deadline.

    If the caller is cancelled, the CancelledError propagates at once; the tasks remain
    cancelled.
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
    """Add a future to a list and wait until it is done or the deadline has passed.

    Args:
        waiters: The list. Its owner sets the futures' results, in C or by `wake`.
        deadline: Loop time; ``math.inf``: no deadline.
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
    """Wake a waiter; has no effect if it is done already."""
    if not waiter.done():
        waiter.set_result(None)


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

    This is the caller itself or, if the join set contains the caller, all callers: they
    would wait for each other.
    """
    if any(member.task is caller for member in join_set.members):
        return join_set.callers
    return [caller]
