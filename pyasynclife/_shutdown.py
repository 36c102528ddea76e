"""SignalCoordinator: signals to events, and a shutdown that keeps its deadline."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, Self

from pyasynclife import _signals
from pyasynclife._signal_events import SignalEvents
from pyasynclife._states import logger

Phase = Literal["running", "draining", "cancelling", "stopped"]


class SignalCoordinator(SignalEvents):
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
        super().__init__(shutdown_signals, reload_signals, take_ignored, on_signal)
        self._registry = registry
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

    async def __aenter__(self) -> Self:
        self.setup_handlers()
        return self

    async def __aexit__(
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
