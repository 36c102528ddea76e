"""What signals tell, and the loop that is told: the ground of SignalCoordinator."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable

from pyasynclife import _signals
from pyasynclife._core import SignalHandler


class SignalEvents:
    """Receives signals and requests at any time and tells them in the loop.

    A native handler or a thread leaves the fact and pokes the loop; ``_deliver``
    takes all there is, as often as it is called. A subclass says what they mean.
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
        self._past: Counter[int] = Counter()
        # What came and is not told yet: when (monotonic), which, how many so far.
        self._news: list[tuple[float, int | None, int]] = []

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """A shutdown signal came, or, None, a request. In the loop."""
        raise NotImplementedError

    @property
    def received(self) -> dict[int, int]:
        """How many of each signal came; a snapshot, 0 for those that did not."""
        counts = self._past.copy()
        for signum, handler in tuple(self._handlers.items()):
            if handler.count:
                counts[signum] += handler.count
        return counts

    # ---------------------------------------------------------------- handlers

    def setup_handlers(self) -> None:
        """Handle the signals from now on; a second call has no effect.

        Call it in the main thread, inside the running loop or before it runs. What
        comes before the loop runs is told at its start.

        Raises:
            SignalSetupError: Not here (thread, interpreter, platform, loop), or not
                this signal. Nothing has changed.
        """
        if self._armed:
            return
        _signals.check_place("setup_handlers()")
        for signum in self._signals():
            _signals.check_signal(signum)
        loop = self._bind("setup_handlers()")
        self._armed = True
        try:
            for signum in self._signals():
                handler = _signals.install(
                    signum, loop, self._poke, self._heard, self._take_ignored
                )
                if handler is not None:
                    self._handlers[signum] = handler
        except BaseException:
            self.remove_handlers()
            raise

    def remove_handlers(self) -> None:
        """Put back exactly what was there; a second call has no effect.

        A handler that somebody has set over ours since then stays.
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
        self._past += Counter()  # drops what is 0
        self._armed = False
        if self._news:
            self._wake()

    def _signals(self) -> tuple[int, ...]:
        return (*sorted(self._shutdown_signals), *sorted(self._reload_signals))

    def _poke(self) -> bool:
        """Called by a native handler, between any two bytecodes."""
        loop = self._loop
        if loop is None:
            return True  # told when there is one
        if loop.is_closed():
            return False
        loop.call_soon_threadsafe(self._deliver, context=self._context)
        return True

    def _heard(self, signum: int) -> None:
        """Called by the loop: a wake-up or, where we were displaced, the news."""
        handler = self._handlers.get(signum)
        if handler is not None:
            handler.on_loop_wakeup(_signals.is_on_top(handler))
        self._deliver()

    # ---------------------------------------------------------------- delivery

    def _bind(self, what: str | None = None) -> asyncio.AbstractEventLoop | None:
        """Belong to the running loop, if there is one, and return it.

        Another open loop than ours is an error where ``what`` says who asks.
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
                    _signals.attach(handler, loop, self._heard)
        self._deliver()
        return loop

    def _wake(self) -> None:
        """Have what came told in the loop, from wherever we are."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # told when there is one
        try:
            loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            pass  # closed meanwhile

    def _collect(self) -> None:
        for signum, handler in self._handlers.items():
            since = handler.since
            if handler.take():
                count = self._past[signum] + handler.count
                self._news.append((since, signum, count))

    def _deliver(self) -> None:
        """Tell what came since the last time. In the loop, as often as one likes."""
        self._collect()
        news, self._news = self._news, []
        news.sort(key=lambda item: item[0])
        for since, signum, _ in news:
            if signum is None or signum in self._shutdown_signals:
                self._begin(signum, time.monotonic() - since)
            else:
                self._reload.set()
        for _, signum, count in news:
            if signum is not None and self._on_signal is not None:
                self._call_on_signal(self._on_signal, signum, count)

    def _call_on_signal(
        self, on_signal: Callable[[int, int], object], signum: int, count: int
    ) -> None:
        assert self._loop is not None
        try:
            on_signal(signum, count)
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": f"on_signal failed for {_signals.name_of(signum)}",
                    "exception": error,
                }
            )


def _same_state(event: asyncio.Event) -> asyncio.Event:
    """A fresh event, for another loop."""
    fresh = asyncio.Event()
    if event.is_set():
        fresh.set()
    return fresh


def _signal_set(
    signals: Iterable[int] | None, name: str, default: Iterable[int]
) -> frozenset[int]:
    if isinstance(signals, int):
        raise TypeError(f"{name} must be a list of signals, not {signals!r}")
    chosen = tuple(default if signals is None else signals)
    for signum in chosen:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"{name} must hold signal numbers, not {signum!r}")
    return frozenset(chosen)
