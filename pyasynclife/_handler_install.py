"""Install our handler on top of a signal's current one, and restore that one later.

``loop.add_signal_handler`` only serves to wake the loop. The loop's self-pipe may be
full, so a native handler, installed on top, records each signal. If the loop already
has a handler for the signal, that one stays registered below ours.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pyasynclife._core import SignalHandler, watch_signal
from pyasynclife._errors import SignalSetupError
from pyasynclife._handler_chain import (
    is_left_by_closing,
    is_of_loop,
    is_registered,
    just_above,
    raises_keyboard_interrupt,
)
from pyasynclife._signals import REMEDY, name_of
from pyasynclife._wakeup_file import cut_off_forked_children, warn_on_full_pipe

# Loop iterations from the self-pipe to a callback, and some to spare.
_ITERATIONS = 5


def install(
    signum: int,
    loop: asyncio.AbstractEventLoop | None,
    wake_loop: Callable[[], bool],
    on_wakeup: Callable[[int], object],
    take_ignored: bool,
    covered: SignalHandler | None = None,
) -> SignalHandler | None:
    """Install our handler over the current one of a signal.

    Args:
        signum: The signal.
        loop: The loop to wake; None: it is not running yet.
        wake_loop: Called by our handler; wakes the loop.
        on_wakeup: Called with the signal by the loop's own handler.
        take_ignored: Whether to handle a signal that is ignored.
        covered: Our handler that the current one has displaced, if there is one.

    Returns:
        Our handler, or None if the signal is ignored and stays so.

    Raises:
        SignalSetupError: The signal cannot be handled. Nothing has changed.
    """
    cut_off_forked_children()
    with _blocked(signum):
        found = signal.getsignal(signum)
        while isinstance(found, SignalHandler) and not found.alive:
            _restore(found)  # from a parent process, or put back by a host
            found = found.previous
        handler = SignalHandler(signum, found, wake_loop)
        if handler.ignored and not take_ignored:
            return None
        if covered is not None:
            handler.cover(covered)
        try:
            if loop is None:
                _put_on_top(handler)
            else:
                attach(handler, loop, on_wakeup)
            handler.arm(not raises_keyboard_interrupt(found))
        except BaseException as error:
            handler.disarm()
            _unregister(handler)
            if signal.getsignal(signum) is not found:
                _restore(handler)
            if not isinstance(error, (ValueError, RuntimeError, OSError)):
                raise  # NotImplementedError is a RuntimeError
            why = str(error) or "the loop has no signal handlers"
            raise SignalSetupError(
                f"cannot handle {name_of(signum)}: {why}; {REMEDY}"
            ) from error
        return handler


def attach(
    handler: SignalHandler,
    loop: asyncio.AbstractEventLoop,
    on_wakeup: Callable[[int], object],
) -> None:
    """Register the signal with the loop, and put our handler on top again."""
    with _blocked(handler.signum):
        if not is_registered(loop, handler.signum, handler.previous):
            handler.set_installing(True)
            handler.registered_loop = loop
            loop.add_signal_handler(handler.signum, on_wakeup, handler.signum)
            loop.call_soon(_end_installing, handler, loop, _ITERATIONS)
        _put_on_top(handler)
    if isinstance(loop, asyncio.SelectorEventLoop):
        warn_on_full_pipe(False)


def _end_installing(
    handler: SignalHandler, loop: asyncio.AbstractEventLoop, iterations: int
) -> None:
    """End the installation once the loop has delivered the signals from that time."""
    if iterations:
        loop.call_soon(_end_installing, handler, loop, iterations - 1)
    else:
        handler.set_installing(False)


def remove(handler: SignalHandler, loop: asyncio.AbstractEventLoop | None) -> None:
    """Restore the handler below ours; handlers that others set on top stay."""
    with _blocked(handler.signum):
        _uninstall(handler)
    if (
        isinstance(loop, asyncio.SelectorEventLoop)
        and not loop.is_closed()
        and not any(
            isinstance(signal.getsignal(signum), SignalHandler)
            for signum in signal.valid_signals()
        )
    ):
        warn_on_full_pipe(True)


def _put_on_top(handler: SignalHandler) -> None:
    signal.signal(handler.signum, handler)
    signal.siginterrupt(handler.signum, False)  # signal() resets it
    watch_signal(handler.signum)


def _uninstall(handler: SignalHandler) -> None:
    handler.disarm()
    signum, top = handler.signum, signal.getsignal(handler.signum)
    above = just_above(handler, top)
    loop = handler.registered_loop
    if top is handler or (loop is not None and is_left_by_closing(loop, signum, top)):
        _unregister(handler)
        _restore(handler)
    elif above is not None:
        above.take_over(handler)
    elif loop is not None and not is_of_loop(loop, signum, top):
        # A host has called signal.signal(): its handler stays, ours is unregistered.
        host = SignalHandler(signum, top, bool)
        _unregister(handler)
        _restore(host)


def _restore(handler: SignalHandler) -> None:
    if handler.previous is not None:
        signal.signal(handler.signum, handler.previous)
    # None stands for a handler of C code, which only sigaction() can put back.
    handler.restore_action()
    if isinstance(handler.previous, SignalHandler):
        watch_signal(handler.signum)


def _unregister(handler: SignalHandler) -> None:
    loop, handler.registered_loop = handler.registered_loop, None
    if loop is None:
        return
    try:
        # On a uvloop that has stopped this does nothing.
        loop.remove_signal_handler(handler.signum)
    except (ValueError, RuntimeError, OSError):
        pass  # signal.signal() puts the action back in any case


@contextmanager
def _blocked(signum: int) -> Iterator[None]:
    """Block a signal while its handler is being replaced."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signum})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
