"""Hold back signals from the signal handlers of a loop, for a lame duck."""

from __future__ import annotations

import asyncio
import os
import signal
import weakref

_relays: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Relay]
_relays = weakref.WeakKeyDictionary()


class Relay:
    """A pipe before the wake-up file of a loop.

    CPython writes the number of each signal to the wake-up file, from which the loop
    calls the handlers of ``add_signal_handler()``. A relay takes the place of that
    file, passes the numbers on, and keeps those that are held until they are released.
    There is one for each loop.

    If other code takes its place, for example by another ``add_signal_handler()``, the
    loop receives the signals directly: too early, but none is lost.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._held: dict[object, frozenset[int]] = {}  # by owner
        self._kept: set[int] = set()
        self._unsent = b""
        self._target = -1
        self._identity: tuple[int, int] | None = None  # of the target
        self._reader, self._writer = os.pipe()
        try:
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)
            loop.add_reader(self._reader, self._pass_on)
        except BaseException:
            self._close()
            raise

    def hold(self, owner: object, signals: frozenset[int]) -> None:
        """Hold back signals until `release`, and take the place of the file."""
        self._held[owner] = signals
        before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        if before not in (-1, self._writer):
            self._target, self._identity = before, _identity_of(before)
        elif self._target == -1:
            signal.set_wakeup_fd(before)  # the loop handles no signals

    def release(self, owner: object) -> None:
        """Pass on what was held for an owner; the last one removes the relay."""
        self._held.pop(owner, None)
        loop = self._loop()
        if loop is None or loop.is_closed():
            self._unsent, self._kept = b"", set()
            self._restore(-1)
            return
        self._pass_on()
        if not self._held and self._restore(self._target):
            self._read()  # what came meanwhile
            if not self._send():  # else it goes on sending
                self._remove(loop)

    def _pass_on(self) -> None:
        self._read()
        self._send()

    def _read(self) -> None:
        try:
            numbers = set(os.read(self._reader, 65536))
        except (BlockingIOError, OSError):
            numbers = set()
        held = frozenset().union(*self._held.values())
        numbers |= self._kept
        self._kept = numbers & held
        self._unsent += bytes(sorted(numbers - held))

    def _send(self) -> bool:
        """Write to the loop's file; tell whether something is left."""
        loop = self._loop()
        if not self._unsent or loop is None or loop.is_closed():
            return False
        if _identity_of(self._target) != self._identity:
            self._find_target()
        try:
            self._unsent = self._unsent[os.write(self._target, self._unsent) :]
        except BlockingIOError:
            pass  # the loop is about to read
        except OSError:
            self._unsent = b""  # it has closed its file
        if self._unsent:
            loop.call_soon(self._send_on)
        return bool(self._unsent)

    def _find_target(self) -> None:
        """Find the wake-up file of a loop that has stopped and runs again: uvloop."""
        now = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        if now == self._writer:
            now = -1
        self._target, self._identity = now, _identity_of(now)

    def _send_on(self) -> None:
        loop = self._loop()
        if not self._send() and not self._held and loop is not None:
            self._remove(loop)

    def _restore(self, target: int) -> bool:
        """Give up the place of the file; tell whether it was ours."""
        try:
            now = signal.set_wakeup_fd(target, warn_on_full_buffer=False)
        except (ValueError, OSError):  # the loop has closed its file
            now = signal.set_wakeup_fd(-1)
        if now == self._writer:
            if _identity_of(target) != self._identity:
                signal.set_wakeup_fd(-1)
            return True
        signal.set_wakeup_fd(now, warn_on_full_buffer=False)
        return now == target or now == -1

    def _remove(self, loop: asyncio.AbstractEventLoop) -> None:
        if _relays.get(loop) is self:
            del _relays[loop]
            loop.remove_reader(self._reader)
            self._close()

    def _close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def _identity_of(descriptor: int) -> tuple[int, int] | None:
    """Identify an open file: its descriptor may be closed, and given to another one."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def hold(
    loop: asyncio.AbstractEventLoop, owner: object, signals: frozenset[int]
) -> None:
    """Hold back signals from a loop's handlers, for an owner.

    Raises:
        OSError: There are no file descriptors left.
        NotImplementedError: The loop has no ``add_reader()``.
    """
    relay = _relays.get(loop)
    if relay is None:
        relay = _relays[loop] = Relay(loop)
    relay.hold(owner, signals)


def release(loop: asyncio.AbstractEventLoop | None, owner: object) -> None:
    """Pass on what was held for an owner; no effect if nothing was."""
    relay = None if loop is None else _relays.get(loop)
    if relay is not None:
        relay.release(owner)
