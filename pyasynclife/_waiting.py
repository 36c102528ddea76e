"""Waiting for many tasks: until a drain is empty, or until a deadline."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Any

from pyasynclife._core import Drain
from pyasynclife._report import ShutdownReport, make_report

# A deadline in the past still leaves these loop iterations: an obedient task needs
# them to end.
_ITERATIONS = 5


async def follow_drain(drain: Drain, started: float, deadline: float) -> ShutdownReport:
    """Wait until a drain is empty or its deadline has passed, and report.

    Args:
        drain: The tasks that were cancelled. The calling task is not waited for.
        started: Loop time at which the shutdown began.
        deadline: Loop time; ``math.inf``: no deadline.

    Cancelled, it leaves at once; the tasks stay cancelled.
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
    """Add a future to a list and wait until it is done, or until a loop time.

    Whoever owns the list wakes the waiters: the native core, or `wake`.
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

    That is the caller itself. If it is in the drain too, all callers are excluded:
    they would wait for each other.
    """
    if any(node.task is caller for node in drain.nodes):
        return drain.callers
    return [caller]
