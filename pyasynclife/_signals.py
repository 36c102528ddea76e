"""Install a handler over the one that a signal has, and put that one back.

``loop.add_signal_handler`` serves for the wake-up only. The loop's self-pipe may be
full, so a native handler on top of it records each signal. A handler that the loop has
for the signal already stays registered, under ours.
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


# Loop iterations from the self-pipe to a callback: read, called, and some to spare.
_ITERATIONS = 5


def name_of(signum: int) -> str:
    """Return ``"SIGTERM"`` for 15, and ``"signal 99"`` for a number without a name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {int(signum)}"


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def check_place(what: str) -> None:
    """Raise SignalSetupError in a place where no signal can be handled."""
    if not hasattr(signal, "siginterrupt"):
        raise SignalSetupError(
            f"{what}: no signal handlers on this platform; {_REMEDY}"
        )
    if not is_main_thread():
        here = threading.current_thread().name
        raise SignalSetupError(f"{what} was called in thread {here!r}; {_REMEDY}")


def check_signal(signum: int) -> None:
    """Raise SignalSetupError for a signal that can never be handled."""
    if signum in (signal.SIGKILL, signal.SIGSTOP):
        raise SignalSetupError(f"{name_of(signum)} cannot be handled; leave it out")
    if signum not in signal.valid_signals():
        raise SignalSetupError(f"there is no signal {int(signum)}; leave it out")


def install(
    signum: int,
    loop: asyncio.AbstractEventLoop | None,
    wake_loop: Callable[[], bool],
    on_wakeup: Callable[[int], object],
    take_ignored: bool,
) -> SignalHandler | None:
    """Install our handler over the current one of a signal.

    ``wake_loop()`` is called in the handler, ``on_wakeup(signum)`` by the loop. Returns
    None if the signal is ignored and stays so. After an error nothing has changed.
    """
    with _blocked(signum):
        found = signal.getsignal(signum)
        while isinstance(found, SignalHandler) and not found.alive:
            _restore(found)  # of a parent process, or brought back by a host
            found = found.previous
        handler = SignalHandler(signum, found, wake_loop)
        if handler.ignored and not take_ignored:
            return None
        try:
            if loop is None:
                _lay_over(handler)
            else:
                attach(handler, loop, on_wakeup)
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
    on_wakeup: Callable[[int], object],
) -> None:
    """Register the signal with the loop, and put our handler on top again."""
    with _blocked(handler.signum):
        if not _is_woken(loop, handler.signum, handler.previous):
            handler.set_installing(True)
            handler.registered_loop = loop
            loop.add_signal_handler(handler.signum, on_wakeup, handler.signum)
            loop.call_soon(_close, handler, loop, _ITERATIONS)
        _lay_over(handler)
    if isinstance(loop, asyncio.SelectorEventLoop):
        _warn_on_full_pipe(False)


def _close(
    handler: SignalHandler, loop: asyncio.AbstractEventLoop, iterations: int
) -> None:
    """Close the gap of attach(), once the loop has delivered the signals in it."""
    if iterations:
        loop.call_soon(_close, handler, loop, iterations - 1)
    else:
        handler.set_installing(False)


def remove(handler: SignalHandler, loop: asyncio.AbstractEventLoop | None) -> None:
    """Put back the handler under ours; handlers that others set over it stay."""
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
    """Tell whether no other handler has been set since."""
    top: object = signal.getsignal(handler.signum)
    return top is handler


def _lay_over(handler: SignalHandler) -> None:
    signal.signal(handler.signum, handler)
    signal.siginterrupt(handler.signum, False)  # signal() resets it


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
        # A host has set its handler by signal.signal(): that stays, our entry goes.
        host = SignalHandler(signum, top, bool)
        _drop_entry(handler)
        _restore(host)


def _restore(handler: SignalHandler) -> None:
    if handler.previous is not None:
        signal.signal(handler.signum, handler.previous)
    # None stands for a handler of C code, which only sigaction() can put back.
    handler.restore_action()


def _drop_entry(handler: SignalHandler) -> None:
    loop, handler.registered_loop = handler.registered_loop, None
    if loop is None:
        return
    try:
        # On a uvloop that has stopped this does nothing.
        loop.remove_signal_handler(handler.signum)
    except (ValueError, RuntimeError, OSError):
        pass  # signal.signal() puts the action back in any case


def _just_above(handler: SignalHandler, top: Any) -> SignalHandler | None:
    while isinstance(top, SignalHandler):
        if top.previous is handler:
            return top
        top = top.previous
    return None


def _is_left_by_closing(loop: asyncio.AbstractEventLoop, signum: int, top: Any) -> bool:
    """Tell whether ``loop.close()`` has removed our entry, and our handler with it."""
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

    That of uvloop is a method of the loop. That of asyncio is a function of the module
    that defines ``add_signal_handler``, shared by all loops; each loop knows its
    entries.
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
    """Tell whether this is the SIGINT handler of Python or of asyncio.Runner."""
    runner = getattr(getattr(found, "func", None), "__self__", None)
    return found is signal.default_int_handler or (
        isinstance(found, functools.partial) and isinstance(runner, asyncio.Runner)
    )


@contextmanager
def _blocked(signum: int) -> Iterator[None]:
    """Block a signal while its handler is being replaced."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _warn_on_full_pipe(warn: bool) -> None:
    """Set whether CPython writes to stderr when the wake-up file is full.

    The flag can only be set together with the file, and the file only be found by
    setting another one. The bytes that signals write to that one are passed on.
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
