"""Taking a signal over from whoever had it, and giving it back as it was.

The loop's ``add_signal_handler`` is used for the wake-up alone: over it lies a native
handler that holds the fact, for the loop's self-pipe may be full. What the loop or a
host had is never replaced twice: an entry that the loop has is left alone and covered.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyasynclife._core import SignalHandler
from pyasynclife._errors import SignalSetupError

_REMEDY = (
    "signal handlers can be set in the main thread of the main interpreter only, on a "
    "loop that has add_signal_handler(); elsewhere call request_shutdown(), which "
    "works everywhere"
)


# From the self-pipe to a callback: read, then called, and some to spare.
_TURNS = 5


def name_of(signum: int) -> str:
    """Return ``"SIGTERM"`` for 15, and ``"signal 99"`` for what has no name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {int(signum)}"


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def check_place(what: str) -> None:
    """Raise SignalSetupError where signals cannot be handled at all."""
    if not hasattr(signal, "siginterrupt"):
        raise SignalSetupError(
            f"{what}: no signal handlers on this platform; {_REMEDY}"
        )
    if not is_main_thread():
        here = threading.current_thread().name
        raise SignalSetupError(f"{what} was called in thread {here!r}; {_REMEDY}")


def check_signal(signum: int) -> None:
    """Raise SignalSetupError for a signal that nobody can handle."""
    if signum in (signal.SIGKILL, signal.SIGSTOP):
        raise SignalSetupError(f"{name_of(signum)} cannot be handled; leave it out")
    if signum not in signal.valid_signals():
        raise SignalSetupError(f"there is no signal {int(signum)}; leave it out")


def install(
    signum: int,
    loop: asyncio.AbstractEventLoop | None,
    poke: Callable[[], bool],
    heard: Callable[[int], object],
    take_ignored: bool,
) -> SignalHandler | None:
    """Cover what handles a signal now; None if it is ignored and shall stay so.

    ``poke()`` is called in the handler, ``heard(signum)`` by the loop. After an error
    everything is as it was.
    """
    with _blocked(signum):
        found = signal.getsignal(signum)
        while isinstance(found, SignalHandler) and not found.alive:
            _restore(found)  # of a parent process, or brought back by a host
            found = found.previous
        handler = SignalHandler(signum, found, poke)
        if handler.ignored and not take_ignored:
            return None
        try:
            if loop is None:
                _lay_over(handler)
            else:
                attach(handler, loop, heard)
            handler.arm(not _raises_keyboard_interrupt(found))
        except BaseException as error:
            handler.disarm()
            _drop_entry(handler)
            if signal.getsignal(signum) is not found:
                _restore(handler)
            if not isinstance(error, (ValueError, RuntimeError, OSError)):
                raise  # NotImplementedError is a RuntimeError
            why = str(error) or "the loop has no signal handlers"
            raise SignalSetupError(
                f"cannot handle {name_of(signum)}: {why}; {_REMEDY}"
            ) from error
        return handler


def attach(
    handler: SignalHandler,
    loop: asyncio.AbstractEventLoop,
    heard: Callable[[int], object],
) -> None:
    """Have the loop woken by the signal too, and the handler on top."""
    with _blocked(handler.signum):
        if not _is_woken(loop, handler.signum, handler.previous):
            handler.set_installing(True)
            handler.registered_loop = loop
            loop.add_signal_handler(handler.signum, heard, handler.signum)
            loop.call_soon(_close, handler, loop, _TURNS)
        _lay_over(handler)
    if isinstance(loop, asyncio.SelectorEventLoop):
        _warn_on_full_pipe(False)


def _close(handler: SignalHandler, loop: asyncio.AbstractEventLoop, turns: int) -> None:
    """Close the gap of attach(), once the loop has told what came in it."""
    if turns:
        loop.call_soon(_close, handler, loop, turns - 1)
    else:
        handler.set_installing(False)


def remove(handler: SignalHandler, loop: asyncio.AbstractEventLoop | None) -> None:
    """Put back what the handler covers; what others laid over it stays."""
    with _blocked(handler.signum):
        _take_away(handler)
    if (
        isinstance(loop, asyncio.SelectorEventLoop)
        and not loop.is_closed()
        and not any(
            isinstance(signal.getsignal(signum), SignalHandler)
            for signum in signal.valid_signals()
        )
    ):
        _warn_on_full_pipe(True)


def is_on_top(handler: SignalHandler) -> bool:
    """Tell whether nobody has set another handler since."""
    top: object = signal.getsignal(handler.signum)
    return top is handler


def _lay_over(handler: SignalHandler) -> None:
    signal.signal(handler.signum, handler)
    signal.siginterrupt(handler.signum, False)  # signal() forgets it


def _take_away(handler: SignalHandler) -> None:
    handler.disarm()
    signum, top = handler.signum, signal.getsignal(handler.signum)
    above = _just_above(handler, top)
    loop = handler.registered_loop
    if top is handler or (loop is not None and _is_left_by_closing(loop, signum, top)):
        _drop_entry(handler)
        _restore(handler)
    elif above is not None:
        above.take_over(handler)
    elif loop is not None and not _is_of_loop(loop, signum, top):
        # A host went over us by signal.signal(): the entry goes, the host stays.
        host = SignalHandler(signum, top, bool)
        _drop_entry(handler)
        _restore(host)


def _restore(handler: SignalHandler) -> None:
    if handler.previous is not None:
        signal.signal(handler.signum, handler.previous)
    # None was set by C code, and can be put back by the kernel alone.
    handler.restore_action()


def _drop_entry(handler: SignalHandler) -> None:
    loop, handler.registered_loop = handler.registered_loop, None
    if loop is None:
        return
    try:
        # On a uvloop that has stopped it does nothing.
        loop.remove_signal_handler(handler.signum)
    except (ValueError, RuntimeError, OSError):
        pass  # the action is put back by signal.signal() in any case


def _just_above(handler: SignalHandler, top: Any) -> SignalHandler | None:
    while isinstance(top, SignalHandler):
        if top.previous is handler:
            return top
        top = top.previous
    return None


def _is_left_by_closing(loop: asyncio.AbstractEventLoop, signum: int, top: Any) -> bool:
    """Tell whether ``loop.close()`` took our entry away, and us with it."""
    default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    return loop.is_closed() and top == default


def _is_woken(loop: asyncio.AbstractEventLoop, signum: int, found: Any) -> bool:
    """Tell whether the loop has an entry for the signal already."""
    while isinstance(found, SignalHandler):
        if found.registered_loop is loop:
            return True
        found = found.previous
    return _is_of_loop(loop, signum, found)


def _is_of_loop(loop: asyncio.AbstractEventLoop, signum: int, found: Any) -> bool:
    """Tell whether a handler is the one that ``loop.add_signal_handler`` sets.

    uvloop's is a method of the loop; asyncio's a function of the module that has
    ``add_signal_handler``, the same for all its loops, which know their entries.
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


def _raises_keyboard_interrupt(found: Any) -> bool:
    """Tell whether this is Python's, or asyncio.Runner's, answer to Ctrl-C."""
    runner = getattr(getattr(found, "func", None), "__self__", None)
    return found is signal.default_int_handler or (
        isinstance(found, functools.partial) and isinstance(runner, asyncio.Runner)
    )


@contextmanager
def _blocked(signum: int) -> Iterator[None]:
    """Keep a signal waiting while its handler is neither one nor the other."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _warn_on_full_pipe(warn: bool) -> None:
    """Have CPython write to stderr, or not, when the wake-up file is full.

    The flag can only be set with the file, and the file only be learnt by setting
    another: what signals write to that one meanwhile is passed on.
    """
    reader, writer = os.pipe()
    try:
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            signal.set_wakeup_fd(wakeup, warn_on_full_buffer=warn)
        except (ValueError, OSError):
            signal.set_wakeup_fd(-1)  # its owner has closed it
            return
        try:
            missed = os.read(reader, 4096)
            if wakeup != -1:
                os.write(wakeup, missed)
        except BlockingIOError:
            pass  # nothing was missed, or the loop's pipe is full, so it wakes
    finally:
        os.close(reader)
        os.close(writer)
