"""The base of SignalCoordinator: receives signals and delivers them in the loop."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable

from pyasynclife import _signals
from pyasynclife._arguments import check_answer, short
from pyasynclife._core import SignalHandler


class SignalEvents:
    """Receive signals and requests at any time, and deliver them in the loop.

    A native handler, or a thread, records an event and wakes the loop. ``_deliver``
    then takes all events recorded so far; it may be called at any time. A subclass
    defines in ``_begin`` what a shutdown is.
    """

    _shutdown: asyncio.Event
    _reload: asyncio.Event

    def __init__(
        self,
        shutdown_signals: Iterable[int] | None,
        reload_signals: Iterable[int] | None,
        take_ignored: bool,
        on_signal: Callable[[int, int], object] | None,
    ) -> None:
        self._shutdown_signals = _signal_set(
            shutdown_signals, "shutdown_signals", (signal.SIGTERM, signal.SIGINT)
        )
        hangup = [getattr(signal, "SIGHUP", None)]
        self._reload_signals = _signal_set(
            reload_signals,
            "reload_signals",
            (s for s in hangup if s is not None and s not in self._shutdown_signals),
        )
        for signum in self._shutdown_signals & self._reload_signals:
            name = _signals.name_of(signum)
            raise ValueError(f"{name} cannot both shut down and reload: choose one")
        self._take_ignored = bool(take_ignored)
        self._on_signal = on_signal
        self._shutdown = asyncio.Event()
        self._reload = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()
        self._handlers: dict[int, SignalHandler] = {}
        self._armed = False
        self._past: Counter[int] = Counter()  # signals counted by removed handlers
        # Events not delivered yet: monotonic time, signal (None: a request), count.
        self._undelivered: list[tuple[float, int | None, int]] = []

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """Begin a shutdown, in the loop; ``signum`` is None for a request."""
        raise NotImplementedError

    @property
    def received(self) -> dict[int, int]:
        """How many times each signal was received: a snapshot; 0 for any other."""
        counts = self._past.copy()
        for signum, handler in tuple(self._handlers.items()):
            if handler.count:
                counts[signum] += handler.count
        return counts

    # ---------------------------------------------------------------- handlers

    def setup_handlers(self) -> None:
        """Handle the signals from now on; a second call has no effect.

        Call it in the main thread, inside the running loop or before it runs. Signals
        that arrive before the loop runs are delivered when it starts.

        Raises:
            SignalSetupError: Signals cannot be handled in this thread, interpreter,
                loop or platform, or one of them can never be handled. Nothing has
                changed.
            RuntimeError: The coordinator belongs to another loop.
        """
        if self._armed:
            return
        _signals.check_place("setup_handlers()")
        for signum in self._handled_signals():
            _signals.check_signal(signum)
        loop = self._bind("setup_handlers()")
        self._armed = True
        try:
            for signum in self._handled_signals():
                handler = _signals.install(
                    signum, loop, self._wake_loop, self._on_wakeup, self._take_ignored
                )
                if handler is not None:
                    self._handlers[signum] = handler
        except BaseException:
            self.remove_handlers()
            raise

    def remove_handlers(self) -> None:
        """Restore exactly the previous handlers; a second call has no effect.

        A handler that other code has installed over ours stays.

        Raises:
            SignalSetupError: This is not the main thread. Nothing has changed.
        """
        if not self._armed:
            return
        _signals.check_place("remove_handlers()")
        while self._handlers:
            signum, handler = next(reversed(self._handlers.items()))
            _signals.remove(handler, self._loop)
            self._collect()
            self._past[signum] += handler.count
            del self._handlers[signum]
        self._past += Counter()  # drops the zeros
        self._armed = False
        if self._undelivered:
            self._deliver_soon()

    def _handled_signals(self) -> tuple[int, ...]:
        return (*sorted(self._shutdown_signals), *sorted(self._reload_signals))

    def _wake_loop(self) -> bool:
        """Wake the loop; a native handler calls this, between any two bytecodes.

        Returns False if the loop is closed.
        """
        loop = self._loop
        if loop is None:
            return True  # delivered when there is a loop
        if loop.is_closed():
            return False
        loop.call_soon_threadsafe(self._deliver, context=self._context)
        return True

    def _on_wakeup(self, signum: int) -> None:
        """Deliver the events; the loop's own handler of the signal calls this.

        Usually our handler has recorded the signal already, and this is only the
        wake-up. If our handler is displaced, only this call reports the signal.
        """
        handler = self._handlers.get(signum)
        if handler is not None:
            handler.on_loop_wakeup(_signals.is_on_top(handler))
        self._deliver()

    # ---------------------------------------------------------------- delivery

    def _bind(self, what: str | None = None) -> asyncio.AbstractEventLoop | None:
        """Bind to the running loop, if there is one, and return it.

        If the coordinator is bound to another loop, and that is open, return None, or
        raise RuntimeError if the caller gives its own name as ``what``.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return None
        before = self._loop
        if loop is before:
            return loop
        if before is not None and not before.is_closed():
            if what is None:
                return None
            raise RuntimeError(
                f"{what}: this coordinator belongs to {before!r}, and {loop!r} is "
                "running: make one for each loop"
            )
        main = _signals.is_main_thread()
        again = before is not None and self._armed and main
        if again:
            self.remove_handlers()
        if before is not None:
            self._shutdown = _same_state(self._shutdown)
            self._reload = _same_state(self._reload)
        self._context = contextvars.copy_context()
        self._loop = loop
        if again:
            self.setup_handlers()
        elif main:
            for handler in self._handlers.values():
                if _signals.is_on_top(handler):
                    _signals.attach(handler, loop, self._on_wakeup)
        self._deliver()
        return loop

    def _deliver_soon(self) -> None:
        """Schedule a delivery in the loop, from any thread or signal handler."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # delivered when there is a loop
        try:
            loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            pass  # closed meanwhile

    def _collect(self) -> None:
        """Take the new signals from the handlers."""
        for signum, handler in self._handlers.items():
            since = handler.since
            if handler.take():
                count = self._past[signum] + handler.count
                self._undelivered.append((since, signum, count))

    def _deliver(self) -> None:
        """Deliver the events since the last call; called in the loop."""
        self._collect()
        events, self._undelivered = self._undelivered, []
        events.sort(key=lambda event: event[0])
        for since, signum, _ in events:
            if signum is None or signum in self._shutdown_signals:
                self._begin(signum, time.monotonic() - since)
            else:
                self._reload.set()
        for _, signum, count in events:
            if signum is not None and self._on_signal is not None:
                self._call_on_signal(self._on_signal, signum, count)

    def _call_on_signal(
        self, on_signal: Callable[[int, int], object], signum: int, count: int
    ) -> None:
        assert self._loop is not None
        try:
            check_answer("on_signal", on_signal(signum, count))
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": f"on_signal failed for {_signals.name_of(signum)}",
                    "exception": error,
                }
            )


def _same_state(event: asyncio.Event) -> asyncio.Event:
    """Return a new Event with the same state, for another loop."""
    fresh = asyncio.Event()
    if event.is_set():
        fresh.set()
    return fresh


def _signal_set(
    signals: Iterable[int] | None, name: str, default: Iterable[int]
) -> frozenset[int]:
    if isinstance(signals, int):
        raise TypeError(f"{name} must be a list of signals, got {short(signals)}")
    chosen = tuple(default if signals is None else signals)
    for signum in chosen:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"{name} must hold signal numbers, got {short(signum)}")
    return frozenset(chosen)
