"""Wait for many tasks: until all have ended, or until a deadline."""

from __future__ import annotations

import asyncio
import math

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
    waiters = join_set.enter(caller)
    try:
        for _ in range(_ITERATIONS if deadline <= loop.time() else 0):
            if join_set.left(caller):
                await asyncio.sleep(0)
        while loop.time() < deadline and join_set.left(caller):
            await wait_among(waiters, deadline)
        report = make_report(join_set, caller, loop.time() - started)
    except BaseException:
        join_set.leave(caller)
        raise
    if join_set.left(caller):
        # Later: the next caller with this deadline need not report this one as stuck.
        loop.call_soon(join_set.leave, caller)
    return report


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
