"""The handlers that a SignalCoordinator has installed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from pyasynclife import _relay
from pyasynclife._core import SignalHandler, Watchdog
from pyasynclife._errors import SignalSetupError
from pyasynclife._handler_chain import (
    covers_loop_handler,
    displaced_by,
    is_default,
    is_on_top,
)
from pyasynclife._handler_install import attach, install, remove
from pyasynclife._log import logger
from pyasynclife._signal_arguments import Options
from pyasynclife._signal_events import EventQueue, SignalEvent

_BySignal = dict[int, tuple[SignalHandler, ...]]


class OwnHandlers:
    """The handlers of a coordinator, what they have counted, and its watchdog.

    Threads and signal handlers read at any time. So what they iterate over, the
    handlers and the counts, is replaced and never changed.

    Args:
        options: Of the coordinator.
        queue: Where the signals go that the handlers have counted.

    Attributes:
        by_signal: Of each signal, the newest last: a newer one covers a host that has
            displaced the one before.
        armed: Whether they are set up.
        watchdog: Keeps ``kill_after``, while they are set up.
    """

    def __init__(self, options: Options, queue: EventQueue) -> None:
        self.by_signal: _BySignal = {}
        self.armed = False
        self.watchdog: Watchdog | None = None
        self._options = options
        self._queue = queue
        self._set_up: frozenset[int] = frozenset()  # handled, or left ignored
        self._past: dict[int, int] = {}  # signals counted by removed handlers
        self._warned: set[int] = set()  # signals that are displaced, as was logged
        self._holder = object()

    def has(self, signals: tuple[int, ...] | frozenset[int]) -> bool:
        """Tell whether all of these signals are set up."""
        return self.armed and self._set_up.issuperset(signals)

    def counts(self) -> dict[int, int]:
        """Return how often each signal has come: a snapshot."""
        by_signal, past = self.by_signal, self._past
        counts = Counter(past)
        for signum, ours in by_signal.items():
            counts[signum] += sum(handler.count for handler in ours)
        return +counts  # drops the zeros

    def collect(self) -> None:
        """Take the new signals, and what chained handlers raised, from the handlers."""
        for signum, ours in self.by_signal.items():
            for handler in ours:
                since = handler.since
                if handler.take():
                    count = self.counts()[signum]
                    self._queue.events.append(SignalEvent(since, signum, count))
                for error in handler.take_errors():
                    now = time.monotonic()
                    self._queue.errors.append(SignalEvent(now, signum, error=error))

    def forget(self) -> None:
        """Forget handlers that were removed, or that are a parent process's."""
        self.by_signal, self.armed, self._past = {}, False, {}
        self.watchdog = None

    # ------------------------------------------------------------ set up, remove

    def set_up(
        self,
        signals: tuple[int, ...],
        again: bool,
        loop: asyncio.AbstractEventLoop | None,
        wake_loop: Callable[[], bool],
        on_wakeup: Callable[[int], object],
        adopt: Callable[[SignalHandler], object],
    ) -> None:
        """Install the handlers that are missing; if one fails, none.

        Args:
            signals: All that are to be handled.
            again: Also put those back on top that were displaced.
            loop: The running loop, or None.
            wake_loop: As for `install`.
            on_wakeup: As for `install`.
            adopt: Called with each new handler before it is listed.
        """
        was_armed, before = self.armed, self.by_signal
        self.armed = True
        try:
            self._arm_watchdog()
            for signum in signals:
                ours = self.by_signal.get(signum, ())
                known = was_armed and signum in self._set_up
                lost = again and ours and displaced_by(ours) is not None
                if known and not lost:
                    continue
                handler = install(
                    signum,
                    loop,
                    wake_loop,
                    on_wakeup,
                    self._options.take_ignored,
                    ours[-1] if ours else None,
                )
                if handler is not None:
                    adopt(handler)
                    self.by_signal = {**self.by_signal, signum: (*ours, handler)}
        except BaseException:
            self._remove(before, loop)
            self.armed = was_armed
            if not was_armed:
                self._disarm_watchdog()
            raise
        self._set_up = frozenset(signals)
        if again:
            self._warned = set()

    def attach(
        self, loop: asyncio.AbstractEventLoop, on_wakeup: Callable[[int], object]
    ) -> None:
        """Have a loop woken that runs only now."""
        for ours in self.by_signal.values():
            if is_on_top(ours[-1]):
                attach(ours[-1], loop, on_wakeup)

    def remove(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Restore the previous handlers, and stop the watchdog."""
        self._remove({}, loop)
        self.armed = False
        self._disarm_watchdog()

    def _remove(self, kept: _BySignal, loop: asyncio.AbstractEventLoop | None) -> None:
        """Remove all handlers but some, the newest first."""
        for signum, ours in reversed(self.by_signal.items()):
            for handler in reversed(ours[len(kept.get(signum, ())) :]):
                handler.release()
                remove(handler, loop)
                self.collect()
                left = {**self.by_signal, signum: self.by_signal[signum][:-1]}
                if not left[signum]:
                    del left[signum]
                past = {**self._past, signum: self._past.get(signum, 0) + handler.count}
                self.by_signal, self._past = left, past
        self.by_signal = kept

    def _arm_watchdog(self) -> None:
        if self._options.kill_after is None or self.watchdog is not None:
            return
        try:
            self.watchdog = Watchdog(
                self._options.kill_after, self._options.shutdown_signals
            )
        except (OSError, RuntimeError) as error:
            raise SignalSetupError(
                f"kill_after cannot be kept: {error}; leave it out, or make fewer "
                "coordinators"
            ) from error

    def _disarm_watchdog(self) -> None:
        """Stop the watchdog, unless a signal has come: then nothing stops it."""
        if self.watchdog is not None:
            self.watchdog.disarm()
            self.watchdog = None

    # ------------------------------------------------------------ displaced

    def displaced(self) -> Iterator[tuple[int, Any]]:
        """Yield the signals whose newest handler was displaced, and by what."""
        for signum, ours in self.by_signal.items():
            by = displaced_by(ours)
            # Another thread may be removing ours: it is disarmed first.
            if by is not None and ours[-1].alive:
                yield signum, by

    def newly_displaced(
        self, loop: asyncio.AbstractEventLoop | None, ending: bool
    ) -> list[tuple[int, Any]]:
        """Return what has displaced our handlers since the last call.

        Args:
            loop: The loop of the coordinator, or None.
            ending: Whether a shutdown has begun.
        """
        if loop is not None and loop.is_closed():
            return []  # it has removed them itself
        displaced = dict(self.displaced())
        if ending:
            # A host that has ended puts back what was there before it: uvicorn does so
            # at a second Ctrl-C, while the lifespan has not ended.
            displaced = {
                signum: by for signum, by in displaced.items() if not is_default(by)
            }
        news = [one for one in displaced.items() if one[0] not in self._warned]
        self._warned = set(displaced)
        return news

    # ------------------------------------------------------------ the lame duck

    def hold_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hold back the shutdown signals from handlers of the loop, for a lame duck.

        Handlers that were installed by `signal.signal` are held by ours themselves.
        """
        held = frozenset(
            signum
            for signum in self._options.shutdown_signals & self.by_signal.keys()
            if covers_loop_handler(self.by_signal[signum][0], loop)
        )
        if not held:
            return
        try:
            _relay.hold(loop, self._holder, held)
        except (OSError, RuntimeError) as error:
            logger.warning("lame_duck has no effect on handlers of %r: %s", loop, error)

    def release(self) -> None:
        """Call the hosts' handlers that ours have held."""
        for ours in self.by_signal.values():
            for handler in ours:
                handler.release()

    def release_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Let the handlers of the loop be called, too."""
        _relay.release(loop, self._holder)
