"""The file to which CPython writes the number of each signal, to wake the loop."""

from __future__ import annotations

import os
import signal
import sys

_at_fork_registered = False


def cut_off_forked_children() -> None:
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
