"""The lateness of a timer in the loop, by which the loop shows that it stood still."""

from __future__ import annotations

import asyncio

_LATE = 0.5  # seconds
_ITERATIONS = 10  # from the data in a socket to the heartbeat of its reader
_ATTEMPTS = 5


def is_late(seconds: float) -> bool:
    """Tell whether something came so late that the loop must have stood still."""
    return seconds > _LATE


async def sleep_and_measure(seconds: float) -> float:
    """Sleep, and return by how many seconds the end of it came late, 0 or more."""
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds
    await asyncio.sleep(seconds)
    return max(loop.time() - due, 0.0)


async def let_tasks_run(seconds: float) -> None:
    """Let the other tasks run for so many seconds, and for some loop iterations.

    If the loop stands still meanwhile, begin again; but not for ever, as otherwise a
    loop that stands still all the time would hide the tasks that are stale.
    """
    for _ in range(_ATTEMPTS):
        late = await sleep_and_measure(seconds)
        for _ in range(_ITERATIONS):
            late = max(late, await sleep_and_measure(0.0))
        if not is_late(late):
            return
