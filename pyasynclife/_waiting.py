"""Wait for many tasks: until all have ended, or until a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any

from pyasynclife._core import Drain
from pyasynclife._report import ShutdownReport, make_report

# If the deadline has passed already, obedient tasks still need these loop iterations to
# end.
_ITERATIONS = 5


async def follow_drain(drain: Drain, started: float, deadline: float) -> ShutdownReport:
    """Wait until a drain is empty or its deadline has passed, and report.

    Args:
        drain: The tasks that were cancelled. The calling task is not waited for.
        started: Loop time at which the shutdown began.
        deadline: Loop time; ``math.inf``: no deadline.

    If the caller is cancelled, the CancelledError propagates at once; the tasks remain
    cancelled.
    """
    loop = asyncio.get_running_loop()
    caller = asyncio.current_task()
    drain.callers.append(caller)
    try:
        for _ in range(_ITERATIONS if deadline <= loop.time() else 0):
            if _is_waiting(drain, caller):
                await asyncio.sleep(0)
        while loop.time() < deadline and _is_waiting(drain, caller):
            await wait_among(drain.waiters, deadline)
        excluded = _excluded(drain, caller)
        return make_report(drain.nodes, caller, excluded, loop.time() - started)
    finally:
        drain.callers.remove(caller)


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


def drain_tasks(tasks: Iterable[asyncio.Task[Any]]) -> Drain:
    """Cancel tasks, all at once, each once; return their Drain."""
    drain = Drain()
    for task in {id(task): task for task in tasks}.values():
        drain.add(task)
    return drain


def _is_waiting(drain: Drain, caller: asyncio.Task[Any] | None) -> bool:
    """Tell whether the drain has a task that the caller has to wait for."""
    if not 0 < drain.pending <= len(drain.callers):
        return drain.pending > 0
    excluded = _excluded(drain, caller)
    return any(node.task not in excluded for node in drain.nodes if node.how == "stuck")


def _excluded(
    drain: Drain, caller: asyncio.Task[Any] | None
) -> list[asyncio.Task[Any] | None]:
    """Return the tasks that the caller does not wait for.

    This is the caller itself or, if the drain contains the caller, all callers: they
    would wait for each other.
    """
    if any(node.task is caller for node in drain.nodes):
        return drain.callers
    return [caller]
