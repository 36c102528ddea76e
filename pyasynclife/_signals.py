"""Install our handler on top of a signal's current one, and restore that one later.

``loop.add_signal_handler`` only serves to wake the loop. The loop's self-pipe may be
full, so a native handler, installed on top, records each signal. If the loop already
has a handler for the signal, that one stays registered below ours.
"""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pyasynclife._core import SignalHandler, watch_signal
from pyasynclife._errors import SignalSetupError
from pyasynclife._log import logger

_REMEDY = (
    "signal handlers can be set in the main thread of the main interpreter only, on a "
    "loop that has add_signal_handler(); elsewhere call request_shutdown(), which "
    "works everywhere"
)

_at_fork_registered = False

# Loop iterations from the self-pipe to a callback, and some to spare.
_ITERATIONS = 5


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
    _cut_off_forked_children()
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
            handler.arm(not _raises_keyboard_interrupt(found))
        except BaseException as error:
            handler.disarm()
            _unregister(handler)
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
        if not _is_registered(loop, handler.signum, handler.previous):
            handler.set_installing(True)
            handler.registered_loop = loop
            loop.add_signal_handler(handler.signum, on_wakeup, handler.signum)
            loop.call_soon(_end_installing, handler, loop, _ITERATIONS)
        _put_on_top(handler)
    if isinstance(loop, asyncio.SelectorEventLoop):
        _warn_on_full_pipe(False)


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
        _warn_on_full_pipe(True)


def is_on_top(handler: SignalHandler) -> bool:
    """Tell whether our handler is the installed one."""
    top: object = signal.getsignal(handler.signum)
    return top is handler


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
    return _is_of_loop(loop, handler.signum, found)


def displaced_by(ours: Iterable[SignalHandler]) -> Any:
    """Return the handler that has displaced ours of one signal, or None.

    Handlers of other coordinators on top of ours call it.
    """
    for handler in ours:
        top = signal.getsignal(handler.signum)
        if top is handler or _just_above(handler, top) is not None:
            return None
    while isinstance(top, SignalHandler):  # another coordinator's, over a host
        top = top.previous
    return "a handler of C code" if top is None else top


def is_default(found: Any) -> bool:
    """Tell whether a handler is one that Python or asyncio.Runner has set."""
    return found is signal.SIG_DFL or _raises_keyboard_interrupt(found)


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
    if loop is not None and _is_of_loop(loop, signum, found):
        return "a handler of loop.add_signal_handler()"
    return found if isinstance(found, str) else repr(found)


def _cut_off_forked_children() -> None:
    """Keep signals of forked children out of the loop's wake-up pipe.

    A child inherits the pipe. CPython 3.12 and newer clear the wake-up file in the
    child, too, in asyncio.
    """
    global _at_fork_registered
    if sys.version_info < (3, 12) and not _at_fork_registered:
        _at_fork_registered = True
        os.register_at_fork(after_in_child=_clear_wakeup_fd)


def _clear_wakeup_fd() -> None:
    try:
        signal.set_wakeup_fd(-1)
    except ValueError:
        pass  # a sub-interpreter, which handles no signals


def _put_on_top(handler: SignalHandler) -> None:
    signal.signal(handler.signum, handler)
    signal.siginterrupt(handler.signum, False)  # signal() resets it
    watch_signal(handler.signum)


def _uninstall(handler: SignalHandler) -> None:
    handler.disarm()
    signum, top = handler.signum, signal.getsignal(handler.signum)
    above = _just_above(handler, top)
    loop = handler.registered_loop
    if top is handler or (loop is not None and _is_left_by_closing(loop, signum, top)):
        _unregister(handler)
        _restore(handler)
    elif above is not None:
        above.take_over(handler)
    elif loop is not None and not _is_of_loop(loop, signum, top):
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


def _just_above(handler: SignalHandler, top: Any) -> SignalHandler | None:
    while isinstance(top, SignalHandler):
        if top.previous is handler:
            return top
        top = top.previous
    return None


def _is_left_by_closing(loop: asyncio.AbstractEventLoop, signum: int, top: Any) -> bool:
    """Tell whether ``loop.close()`` has unregistered and so removed our handler."""
    default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
    return loop.is_closed() and top == default


def _is_registered(loop: asyncio.AbstractEventLoop, signum: int, found: Any) -> bool:
    """Tell whether the loop already has a handler for the signal."""
    while isinstance(found, SignalHandler):
        if found.registered_loop is loop:
            return True
        found = found.previous
    return _is_of_loop(loop, signum, found)


def _is_of_loop(loop: asyncio.AbstractEventLoop, signum: int, found: Any) -> bool:
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

    The flag can be set only together with the file, and the file can be found only by
    setting another one. Bytes that signals write to that other file are passed on.
    """
    try:
        reader, writer = os.pipe()
    except OSError:
        return  # no descriptors left: the warning is not worth an error
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
            pass  # nothing to pass on, or the loop's pipe is full and wakes it anyway
    finally:
        os.close(reader)
        os.close(writer)
