"""Wait for many tasks: until all have ended, or until a deadline."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Self

from pyasynclife._core import JoinSet
from pyasynclife._report import ShutdownReport, make_report

# If the deadline has passed already, obedient tasks still need these loop iterations to
# end.
_ITERATIONS = 5

# So many tasks are cancelled in one loop iteration, which takes a few milliseconds: in
# the next one they end, and the loop has other callbacks to call, too. A number and not
# a time: on a slow or virtual clock the same tasks are cancelled together.
SLICE = 1000

# What is cancelled at or after the deadline has as many seconds to clean up, but no
# more than the whole shutdown.
GRACE = 1.0


def absorbing_after(*exc: object) -> AbstractContextManager[None]:
    """Guard the exit of a block: the CancelledError that has left the body propagates.

    The arguments are those of ``__aexit__()``. After a CancelledError, a further one
    only ends the wait inside the guard, and remains in the count of ``cancelling()``;
    any other error is replaced by it, as usual.
    """
    if any(isinstance(one, asyncio.CancelledError) for one in exc):
        return suppress(asyncio.CancelledError)
    return nullcontext()


class Deadline:
    """When a shutdown ends, in loop time; shared by all that take part in it.

    Attributes:
        due: A report that is made later has missed the deadline.
        until: How long the shutdown waits: until ``due``, unless it cancelled tasks
            only then.
        grace: Seconds that such tasks have to clean up.
        loop: The loop whose time this is.
        over: Whether the block of the coordinator that set it has been left.
    """

    __slots__ = ("due", "grace", "loop", "over", "until")

    def __init__(
        self, due: float, until: float, grace: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.due = due
        self.until = until
        self.grace = grace
        self.loop = loop
        self.over = False

    @classmethod
    def after(cls, loop: asyncio.AbstractEventLoop, start: float, wait: float) -> Self:
        """Return the deadline of a shutdown that begins at ``start``.

        A shutdown of 0 s ends when the tasks had a few loop iterations; it is met if
        all have ended by then.
        """
        due = start + wait
        return cls(due if wait else math.inf, due, min(GRACE, wait), loop)

    def extend(self, now: float) -> None:
        """Allow for tasks that were cancelled now."""
        if now >= self.due:
            self.until = max(self.until, now + self.grace)


def cancel_in_slices(join_set: JoinSet) -> None:
    """Cancel the queued tasks of a join set, in order: the first ones at once.

    A callback of the loop cancels the others, so that goes on whatever becomes of the
    caller.
    """
    if not join_set.in_slices:
        _cancel_slice(join_set)


def _cancel_slice(join_set: JoinSet) -> None:
    join_set.in_slices = False
    if join_set.cancel(SLICE):
        asyncio.get_running_loop().call_soon(_cancel_slice, join_set)
        join_set.in_slices = True


def cancel_rest(join_set: JoinSet) -> bool:
    """Cancel at once what slices have left over; tell whether anything was."""
    queued = join_set.queued > 0
    if queued:
        join_set.cancel(sys.maxsize)
    return queued


async def join_and_report(
    join_set: JoinSet, started: float, deadline: Deadline
) -> ShutdownReport:
    """Wait until a join set is empty or its deadline has passed, and report.

    Args:
        join_set: The tasks that are cancelled, some of them perhaps in later slices.
            The calling task is not waited for.
        started: Loop time at which the shutdown began.
        deadline: When to return. It may change if the waiters are woken.

    At the deadline, or if the caller is cancelled, the slices that are left are
    cancelled at once. What was cancelled only at the deadline has a grace. The
    CancelledError of the caller propagates at once; the tasks remain cancelled.
    """
    loop = asyncio.get_running_loop()
    caller = asyncio.current_task()
    waiters = join_set.enter(caller)
    try:
        iterations = _ITERATIONS if deadline.until <= loop.time() else 0
        while join_set.left(caller):
            if loop.time() < deadline.until:
                await wait_among(waiters, deadline.until)
            elif cancel_rest(join_set):
                deadline.extend(loop.time())
                iterations = _ITERATIONS
            elif iterations:
                iterations -= 1
                await asyncio.sleep(0)
            else:
                break
        now = loop.time()
        report = make_report(join_set, caller, now - started, now > deadline.due)
    except BaseException:
        join_set.leave(caller)
        if not loop.is_closed():
            cancel_rest(join_set)
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


async def wait_for_idle(
    is_idle: Callable[[], bool],
    wait_idle: Callable[[], Awaitable[object]],
    deadline: Deadline,
) -> None:
    """Wait until a batch, group or pool is idle, or until a deadline."""
    loop = deadline.loop
    for _ in range(_ITERATIONS if deadline.until <= loop.time() else 0):
        if not is_idle():
            await asyncio.sleep(0)
    if is_idle() or loop.time() >= deadline.until:
        return
    until = None if deadline.until == math.inf else deadline.until
    try:
        async with asyncio.timeout_at(until):
            await wait_idle()
    except TimeoutError:
        pass
