"""What a SignalCoordinator notes of one shutdown."""

from __future__ import annotations

import asyncio
import math
from typing import Literal

from pyasynclife._signal_events import SignalEvent
from pyasynclife._waiting import Deadline

Phase = Literal["running", "draining", "cancelling", "stopped"]


class ShutdownState:
    """All that signals, requests and calls note of one shutdown.

    A coordinator that begins afresh replaces it in one step: a signal handler in the
    middle might request a shutdown, and some of what it notes would be forgotten. A
    call that has kept its state compares it with the present one, to see whether the
    coordinator has begun afresh meanwhile.

    Attributes:
        holds: Whether handlers of a host are held back: until the lame duck is over.
        event: Set by the beginning.
        request: The first request that was taken from the queue.
        rung: The ladder: 0 before a shutdown, 1 from its beginning, then one more with
            each SIGINT. Written by signal handlers.
        began: When the beginning came, in monotonic time, and its signal.
        announced: The rung up to which the steps were taken in the loop.
        signum: The signal that began the shutdown in the loop.
        phase: As `SignalCoordinator.phase`, as far as the loop has delivered it.
        started: Loop time of the signal or request.
        deadline: From a signal or request.
        called: From `graceful_shutdown` without a signal or request.
        drain_until: Loop time; None before the beginning.
        hurried: Whether a second SIGINT has come.
        cancelling: Whether what is attached has been cancelled.
        over: Whether the block was left after the beginning.
    """

    def __init__(self, holds: bool) -> None:
        self.holds = holds
        self.event = asyncio.Event()
        self.request: SignalEvent | None = None
        self.rung = 0
        self.began: tuple[float, int | None] = (math.inf, None)
        self.announced = 0
        self.signum: int | None = None
        self.phase: Phase = "running"
        self.started: float | None = None
        self.deadline: Deadline | None = None
        self.called: Deadline | None = None
        self.drain_until: float | None = None
        self.hurried = False
        self.cancelling = False
        self.over = False


def same_state(event: asyncio.Event) -> asyncio.Event:
    """Return a new Event with the same state, for another loop."""
    fresh = asyncio.Event()
    if event.is_set():
        fresh.set()
    return fresh
