"""The file to which CPython writes the number of each signal, to wake the loop."""

from __future__ import annotations

import os
import signal
import sys

from pyasynclife._core import SignalHandler

_at_fork_registered = False


def cut_off_forked_children() -> None:
    """Let the signals of forked children end them, and keep them to themselves.

    A child inherits the loop's wake-up pipe, and our handlers with SA_RESTART. By that
    flag a child in read() or in a semaphore, such as a worker of multiprocessing, would
    stay there, and never call the handler that ends it.
    """
    global _at_fork_registered
    if not _at_fork_registered:
        _at_fork_registered = True
        os.register_at_fork(after_in_child=_cut_off)


def _cut_off() -> None:
    if sys.version_info < (3, 12):  # later asyncio does this
        try:
            signal.set_wakeup_fd(-1)
        except ValueError:
            pass  # a sub-interpreter, which handles no signals
    for signum in signal.valid_signals():
        if isinstance(signal.getsignal(signum), SignalHandler):
            signal.siginterrupt(signum, True)


def warn_on_full_pipe(warn: bool) -> None:
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
