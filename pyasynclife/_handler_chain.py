"""Which handlers of a signal lie over and under ours, and whose they are.

Each handler knows the one that it was installed over, so those of several coordinators
form a chain from the installed one down to that of the host.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Iterable
from typing import Any

from pyasynclife._core import SignalHandler
from pyasynclife._log import logger
from pyasynclife._signals import name_of


def is_on_top(handler: SignalHandler) -> bool:
    """Tell whether our handler is the installed one."""
    top: object = signal.getsignal(handler.signum)
    return top is handler


def just_above(handler: SignalHandler, top: Any) -> SignalHandler | None:
    while isinstance(top, SignalHandler):
        if top.previous is handler:
            return top
        top = top.previous
    return None


def displaced_by(ours: Iterable[SignalHandler]) -> Any:
    """Return the handler that has displaced ours of one signal, or None.

    Handlers of other coordinators on top of ours call it.
    """
    for handler in ours:
        top = signal.getsignal(handler.signum)
        if top is handler or just_above(handler, top) is not None:
            return None
    while isinstance(top, SignalHandler):  # another coordinator's, over a host
        top = top.previous
    return "a handler of C code" if top is None else top


def is_default(found: Any) -> bool:
    """Tell whether a handler is one that Python or asyncio.Runner has set."""
    return found is signal.SIG_DFL or raises_keyboard_interrupt(found)


def log_displaced(
    displaced: Iterable[tuple[int, Any]], loop: asyncio.AbstractEventLoop | None
) -> None:
    """Log the signals whose handler was displaced, with what has displaced it."""
    names: dict[str, list[str]] = {}
    for signum, by in displaced:
        names.setdefault(_describe(signum, by, loop), []).append(name_of(signum))
    for by, which in names.items():
        logger.warning(
            "%s: %s has replaced our handler; setup_handlers(), called again, puts "
            "ours back on top",
            ", ".join(which),
            by,
        )


def _describe(signum: int, found: Any, loop: asyncio.AbstractEventLoop | None) -> str:
    if loop is not None and is_of_loop(loop, signum, found):
        return "a handler of loop.add_signal_handler()"
    return found if isinstance(found, str) else repr(found)


def covers_loop_handler(
    handler: SignalHandler, loop: asyncio.AbstractEventLoop
) -> bool:
    """Tell whether the handler below ours is one of ``loop.add_signal_handler``."""
    if handler.registered_loop is not None:
        return False
    found = handler.previous
    while isinstance(found, SignalHandler):
        if found.registered_loop is not None:
            return False
        found = found.previous
    return is_of_loop(loop, handler.signum, found)


def is_registered(loop: asyncio.AbstractEventLoop, signum: int, found: Any) -> bool:
    """Tell whether the loop already has a handler for the signal."""
    while isinstance(found, SignalHandler):
        if found.registered_loop is loop:
            return True
        found = found.previous
    return is_of_loop(loop, signum, found)


def is_of_loop(loop: asyncio.AbstractEventLoop, signum: int, found: Any) -> bool:
    """Tell whether a handler is the one that ``loop.add_signal_handler`` sets.

    In uvloop it is a method of the loop. In asyncio it is a function of the module that
    defines ``add_signal_handler``, shared by all loops, so the loop's own table of
    handlers decides.
    """
    if not callable(found):
        return False
    if getattr(found, "__self__", None) is loop:
        return True
    home = getattr(found, "__module__", None)
    homes = {
        getattr(base.__dict__.get("add_signal_handler"), "__module__", None)
        for base in type(loop).__mro__
    }
    if home is None or home not in homes:
        return False
    entries = getattr(loop, "_signal_handlers", None)
    return not isinstance(entries, dict) or signum in entries


def is_left_by_closing(loop: asyncio.AbstractEventLoop, signum: int, top: Any) -> bool:
    """Tell whether ``loop.close()`` has unregistered and so removed our handler."""
    default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    return loop.is_closed() and top == default


def raises_keyboard_interrupt(found: Any) -> bool:
    """Tell whether this is the SIGINT handler of Python or of asyncio.Runner."""
    runner = getattr(getattr(found, "func", None), "__self__", None)
    return found is signal.default_int_handler or (
        isinstance(found, functools.partial) and isinstance(runner, asyncio.Runner)
    )
