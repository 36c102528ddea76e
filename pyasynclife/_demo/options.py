"""The options of a demo run."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass

from pyasynclife._terminal import is_dumb, is_terminal


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, checked."""

    symbols: int = 500
    rate: int = 50_000  # updates a second, all symbols together; 0: find the highest
    seconds: float | None = 10.0  # None: until the highest rate is found
    uvloop: bool = False
    plain: bool = False


def loop_factory(uvloop: bool) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the function that creates the event loop."""
    if not uvloop:
        return asyncio.new_event_loop
    from uvloop import new_event_loop

    return new_event_loop


def wants_live_view(plain: bool) -> bool:
    """Return whether stdout is a terminal for the live table."""
    return not plain and is_terminal(sys.stdout) and not is_dumb()
