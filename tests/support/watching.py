"""Ways to hold the event loop up, until a LoopWatch has seen it or for a while."""

import ctypes
import time
from collections.abc import Callable

from pyasynclife import BlockedLoop, LoopWatch

DEADLINE = 30.0  # of a machine that stands still itself


def hold(*watches: LoopWatch, enough: float = 0.15) -> float:
    """Run Python code until each watch has seen it; return the seconds."""
    began = time.monotonic()
    seen = [watch._seen for watch in watches]
    while time.monotonic() < began + DEADLINE:
        fresh = all(
            watch._seen is not before and watch._seen.until > enough
            for watch, before in zip(watches, seen, strict=True)
        )
        if fresh:
            break
    return time.monotonic() - began


def hold_gil(seconds: float) -> None:
    """Run C code that does not release the GIL."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


def seen_in(function: Callable[..., object], blocked: list[BlockedLoop]) -> BlockedLoop:
    """The one report whose stack has a function of a test."""
    name = f" in {function.__qualname__}"
    (one,) = [b for b in blocked if any(line.endswith(name) for line in b.where)]
    return one
