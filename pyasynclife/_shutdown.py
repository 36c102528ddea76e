"""SignalCoordinator: signals to events, and a shutdown that keeps its deadline."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self

from pyasynclife import _signals
from pyasynclife._core import SignalHandler
from pyasynclife._states import logger

Phase = Literal["running", "draining", "cancelling", "stopped"]


class SignalCoordinator:
    """Turn SIGTERM, SIGINT and SIGHUP into events, and shut down in order.

    Args:
        shutdown_timeout: Seconds from the first signal to the deadline.
        shutdown_signals: Which signals shut down; None: SIGTERM and SIGINT.
        reload_signals: Which signals reload; None: SIGHUP, where there is one.
        take_ignored: Handle even a signal that was found ignored (``nohup``).
        registry: Whose tasks :meth:`graceful_shutdown` ends.
        on_signal: Called in the loop with a signal and how many of it came so far;
            once for those that came while the loop was busy.

    Handlers of a host (uvicorn, aiohttp, hypercorn, anyio) go on working, and each
    signal has what it had before when :meth:`remove_handlers` returns::

        async with SignalCoordinator(registry=registry) as coordinator:
            await coordinator.wait_for_shutdown()
    """

    __slots__ = (
        "__weakref__",
        "_armed",
        "_context",
        "_deadline",
        "_handlers",
        "_loop",
        "_news",
        "_on_signal",
        "_past",
        "_phase",
        "_reason",
        "_registry",
        "_reload",
        "_reload_signals",
        "_requested",
        "_shutdown",
        "_shutdown_signals",
        "_shutdown_timeout",
        "_signum",
        "_take_ignored",
    )

    def __init__(
        self,
        shutdown_timeout: float = 30.0,
        *,
        shutdown_signals: Iterable[int] | None = None,
        reload_signals: Iterable[int] | None = None,
        take_ignored: bool = False,
        registry: Any = None,
        on_signal: Callable[[int, int], object] | None = None,
    ) -> None:
        if on_signal is not None and not callable(on_signal):
            raise TypeError(f"on_signal must be callable, not {on_signal!r}")
        if inspect.iscoroutinefunction(on_signal):
            raise TypeError("on_signal is called, not awaited: pass a plain function")
        self._shutdown_timeout = check_duration(shutdown_timeout, "shutdown_timeout")
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
        self._registry = registry
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
        self._requested = False
        self._reason: str | None = None
        self._phase: Phase = "running"
        self._signum: int | None = None
        self._deadline: float | None = None

    # ------------------------------------------------------------ what there is

    @property
    def shutdown_event(self) -> asyncio.Event:
        """Set by the first shutdown signal, or request, and never cleared."""
        self._bind()
        return self._shutdown

    @property
    def reload_event(self) -> asyncio.Event:
        """Set by a reload signal; :meth:`wait_for_reload` consumes it."""
        self._bind()
        return self._reload

    @property
    def received(self) -> dict[int, int]:
        """How many of each signal came; a snapshot, 0 for those that did not."""
        counts = self._past.copy()
        for signum, handler in tuple(self._handlers.items()):
            if handler.count:
                counts[signum] += handler.count
        return counts

    @property
    def phase(self) -> Phase:
        """``"running"``, ``"draining"``, ``"cancelling"`` or ``"stopped"``."""
        if self._phase == "running" and (
            self._shutdown.is_set()
            or self._requested
            or not self._shutdown_signals.isdisjoint(self.received)
        ):
            return "draining"  # the loop may be too busy to have been told
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether the phase is ``"running"``: what a readiness probe answers."""
        return self.phase == "running"

    @property
    def reason(self) -> str | None:
        """What :meth:`request_shutdown` was told, or None."""
        return self._reason

    @property
    def deadline(self) -> float | None:
        """Loop time by which all is over; None before a shutdown."""
        return self._deadline

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
            handler.hear(signal.getsignal(signum) is handler)
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
        again = before is not None and self._armed
        if again:
            self.remove_handlers()
        if before is not None:
            self._shutdown = _same_state(self._shutdown)
            self._reload = _same_state(self._reload)
        self._context = contextvars.copy_context()
        self._loop = loop
        if again:
            self.setup_handlers()
        elif _signals.is_main_thread():
            for handler in self._handlers.values():
                if signal.getsignal(handler.signum) is handler:
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

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """The first of all signals and requests begins the shutdown."""
        assert self._loop is not None
        if self._deadline is not None:
            return
        self._signum = signum
        self._deadline = self._loop.time() - seconds_ago + self._shutdown_timeout
        if self._phase == "running":
            self._phase = "draining"
        self._shutdown.set()
        if signum is not None:
            logger.info("%s: shutting down", _signals.name_of(signum))
        else:
            logger.info("shutting down: %s", self._reason or "requested")

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

    # ------------------------------------------------------------ what one does

    def request_shutdown(self, reason: str | None = None) -> None:
        """Begin the shutdown without a signal, from any thread, on any platform.

        Args:
            reason: For the log and :attr:`reason`; the first one stays.
        """
        if not self._requested:
            self._requested = True
            self._reason = reason
            self._news.append((time.monotonic(), None, 0))
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._deliver()
        self._wake()  # even here: a signal handler may have called us

    async def wait_for_shutdown(self) -> int | None:
        """Wait for the first shutdown signal; return it, or None when requested."""
        self._bind("wait_for_shutdown()")
        await self._shutdown.wait()
        return self._signum

    async def wait_for_reload(self) -> None:
        """Wait for a reload signal and consume it.

        Those that come while one reload is under way give one more.
        """
        self._bind("wait_for_reload()")
        await self._reload.wait()
        self._reload.clear()

    def __enter__(self) -> Self:
        self.setup_handlers()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove_handlers()


def check_duration(value: float, name: str) -> float:
    """Return seconds as a float; TypeError or ValueError names what is not."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {value!r}")
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must be 0 or more seconds, not {value!r}")
    return float(value)


def _same_state(event: asyncio.Event) -> asyncio.Event:
    """A fresh event, for another loop."""
    fresh = asyncio.Event()
    if event.is_set():
        fresh.set()
    return fresh


def _signal_set(
    signals: Iterable[int] | None, name: str, default: Iterable[int]
) -> frozenset[int]:
    chosen = tuple(default if signals is None else signals)
    for signum in chosen:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"{name} must hold signal numbers, not {signum!r}")
    return frozenset(chosen)
