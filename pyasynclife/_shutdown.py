"""SignalCoordinator: events from signals, and a shutdown that keeps its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

from pyasynclife import _signals
from pyasynclife._arguments import (
    check_hook,
    check_optional_seconds,
    check_seconds,
    check_tasks,
    short,
)
from pyasynclife._core import Drain
from pyasynclife._log import logger
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import ShutdownReport
from pyasynclife._signal_events import SignalEvents
from pyasynclife._waiting import follow_drain

Phase = Literal["running", "draining", "cancelling", "stopped"]


class SignalCoordinator(SignalEvents):
    """Turn SIGTERM, SIGINT and SIGHUP into events, and shut down in order.

    Args:
        shutdown_timeout: Seconds from the first signal to the deadline.
        shutdown_signals: The signals that shut down; None: SIGTERM and SIGINT.
        reload_signals: The signals that reload; None: SIGHUP, where there is one.
        take_ignored: Handle a signal even if it is ignored (``nohup``).
        registry: The registry whose tasks :meth:`graceful_shutdown` ends.
        on_signal: Called in the loop with a signal and how many of it have come so
            far; once for all that came while the loop was busy.

    Existing handlers of a host (uvicorn, aiohttp, hypercorn, anyio) keep working, and
    :meth:`remove_handlers` puts back exactly the handlers from before::

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
        registry: TaskRegistry | None = None,
        on_signal: Callable[[int, int], object] | None = None,
    ) -> None:
        check_hook("on_signal", on_signal)
        if registry is not None and not isinstance(registry, TaskRegistry):
            raise TypeError(
                f"registry must be a TaskRegistry or None, got {short(registry)}"
            )
        self._shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        super().__init__(shutdown_signals, reload_signals, take_ignored, on_signal)
        self._registry = registry
        self._requested = False
        self._reason: str | None = None
        self._phase: Phase = "running"
        self._signum: int | None = None
        self._deadline: float | None = None
        self._until: float | None = None
        self._drain: Drain | None = None
        self._draining: set[asyncio.Task[Any]] = set()
        self._calls = 0

    # ------------------------------------------------------------ state

    @property
    def shutdown_event(self) -> asyncio.Event:
        """Set by the first shutdown signal or request, and never cleared."""
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
            return "draining"  # the loop may be too busy to deliver it
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether the phase is ``"running"``, for a readiness probe."""
        return self.phase == "running"

    @property
    def reason(self) -> str | None:
        """The reason that :meth:`request_shutdown` was given, or None."""
        return self._reason

    @property
    def deadline(self) -> float | None:
        """The loop time by which the shutdown must end; None before a shutdown."""
        return self._until if self._deadline is None else self._deadline

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """Begin the shutdown at the first signal or request; ignore later ones."""
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

    # ------------------------------------------------------------ actions

    def request_shutdown(self, reason: str | None = None) -> None:
        """Begin the shutdown without a signal, from any thread, on any platform.

        Args:
            reason: For the log and :attr:`reason`; later ones are ignored.
        """
        if not self._requested:
            self._requested = True
            self._reason = reason
            self._undelivered.append((time.monotonic(), None, 0))
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._deliver()
        self._deliver_soon()  # even here: a signal handler may have called us

    async def wait_for_shutdown(self) -> int | None:
        """Wait for the shutdown; return its signal, or None if it was requested."""
        self._bind("wait_for_shutdown()")
        await self._shutdown.wait()
        return self._signum

    async def wait_for_reload(self) -> None:
        """Wait for a reload signal and consume it.

        All signals that come during one reload lead to one more.
        """
        self._bind("wait_for_reload()")
        await self._reload.wait()
        self._reload.clear()

    async def graceful_shutdown(
        self,
        tasks: Iterable[asyncio.Task[Any]] | None = None,
        *,
        timeout: float | None = None,
    ) -> ShutdownReport:
        """Cancel tasks, all at once, wait for them, and report how each ended.

        It returns at the deadline even if some tasks run on; these are ``stuck`` in the
        report. The calling task is left out. A second call joins the shutdown that is
        under way: no task is cancelled twice, and both calls return a report of all.

        Args:
            tasks: Tasks of the running loop; None: all tasks of the registry, and those
                registered meanwhile.
            timeout: Seconds from now; None: until :attr:`deadline` or, if no signal has
                come, ``shutdown_timeout`` from now; ``math.inf``: no limit.

        Raises:
            ValueError: There are neither tasks nor a registry.
            TypeError: One of ``tasks`` is not a Task. Nothing has been cancelled.
            RuntimeError: One belongs to another loop. Nothing has been cancelled.

        Cancelled, it leaves at once; the tasks stay cancelled.
        """
        seconds = check_optional_seconds("timeout", timeout, None)
        if tasks is None and self._registry is None:
            raise ValueError(
                "graceful_shutdown() has nothing to end: pass tasks, or make the "
                "coordinator with registry="
            )
        loop = asyncio.get_running_loop()
        chosen = None if tasks is None else check_tasks(tasks, loop)
        self._bind("graceful_shutdown()")
        now = loop.time()
        if seconds is not None:
            until = now + seconds
        elif self._deadline is not None:
            until = self._deadline
        else:
            until = now + self._shutdown_timeout
        self._until = until
        self._phase = "cancelling"
        self._shutdown.set()
        self._calls += 1
        try:
            if chosen is None:
                assert self._registry is not None
                report = await self._registry.shutdown(max(until - now, 0.0))
            else:
                report = await follow_drain(self._joined(chosen), now, until)
        finally:
            self._calls -= 1
            if not self._calls:
                self._drain = None
                self._draining = set()
        if not self._calls:
            self._phase = "stopped"
        return report

    def _joined(self, tasks: list[asyncio.Task[Any]]) -> Drain:
        """Cancel the tasks that no call under way has cancelled."""
        if self._drain is None:
            self._drain = Drain()
        current = asyncio.current_task()
        for task in tasks:
            if task is not current and task not in self._draining:
                self._draining.add(task)
                known = self._registry is not None and self._registry._find(task)
                self._drain.add(task, known or None)
        return self._drain

    def __enter__(self) -> Self:
        self.setup_handlers()
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove_handlers()

    async def __aenter__(self) -> Self:
        self.setup_handlers()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the tasks of the registry, if there is one; remove the handlers."""
        try:
            if self._registry is not None:
                report = await self.graceful_shutdown()
                if report.stuck:
                    logger.error("%s", report)
        finally:
            self.remove_handlers()
