"""What signals are called, where they can be handled, and words for the terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

from pyasynclife._errors import SignalSetupError
from pyasynclife._log import logger

REMEDY = (
    "signal handlers can be set in the main thread of the main interpreter only, on a "
    "loop that has add_signal_handler(); elsewhere call request_shutdown(), which "
    "works everywhere"
)


def name_of(signum: int) -> str:
    """Return ``"SIGTERM"`` for 15, and ``"signal 99"`` for a number without a name."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {int(signum)}"


def announce(text: str) -> None:
    """Write a line for the person who has pressed Ctrl-C, or log it at INFO."""
    try:
        if sys.stderr.isatty():
            sys.stderr.write(f"pyasynclife: {text}\n")
            sys.stderr.flush()
            return
    except Exception:  # closed, or None
        pass
    logger.info("%s", text)


def end_by(signum: int, dump: Callable[[], str]) -> None:
    """Write where all threads and tasks are to stderr, then end by a signal.

    Called in a signal handler, so only the file descriptor is used: the lock of
    ``sys.stderr`` may be held.
    """
    try:
        import faulthandler  # a sub-interpreter cannot import it

        faulthandler.dump_traceback(file=2)
        os.write(2, f"\n{dump()}\n{name_of(signum)}: the end\n".encode())
    except BaseException:  # the end comes in any case
        pass
    signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signum})
    os.kill(os.getpid(), signum)


def is_main_thread() -> bool:
    """Tell whether this is the main thread."""
    return threading.current_thread() is threading.main_thread()


def check_place(what: str) -> None:
    """Raise SignalSetupError if signals cannot be handled in this place."""
    if not hasattr(signal, "siginterrupt"):
        raise SignalSetupError(f"{what}: no signal handlers on this platform; {REMEDY}")
    if not is_main_thread():
        here = threading.current_thread().name
        raise SignalSetupError(f"{what} was called in thread {here!r}; {REMEDY}")


def check_signal(signum: int) -> None:
    """Raise SignalSetupError for a signal that can never be handled."""
    if signum in (signal.SIGKILL, signal.SIGSTOP):
        raise SignalSetupError(f"{name_of(signum)} cannot be handled; leave it out")
    if signum not in signal.valid_signals():
        raise SignalSetupError(f"there is no signal {int(signum)}; leave it out")
