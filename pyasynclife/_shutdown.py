"""SignalCoordinator: events from signals, and a shutdown that meets its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

from pyasynclife import _signals
from pyasynclife._arguments import (
    check_hook,
    check_optional_seconds,
    check_optional_type,
    check_seconds,
    check_tasks,
)
from pyasynclife._core import JoinSet
from pyasynclife._log import logger
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import refuse_pickling
from pyasynclife._signal_events import SignalEvents
from pyasynclife._waiting import join_and_report

Phase = Literal["running", "draining", "cancelling", "stopped"]


class SignalCoordinator(SignalEvents):
    """Turn SIGTERM, SIGINT and SIGHUP into events, and shut down gracefully.

    Args:
        shutdown_timeout: Seconds from the first signal to the deadline.
        shutdown_signals: The signals that begin the shutdown; None: SIGTERM and SIGINT.
        reload_signals: The signals that request a reload; None: SIGHUP, if the platform
            has it.
        take_ignored: Handle a signal even if the process ignores it (``nohup``).
        registry: The registry whose tasks `graceful_shutdown` cancels.
        on_signal: Called in the loop with the signal and the number received so far;
            once for all that arrived while the loop was busy. Its exceptions go to the
            loop's exception handler.

    Raises:
        TypeError, ValueError: An argument is wrong.

    Existing handlers of a host (uvicorn, aiohttp, hypercorn, anyio) keep working, and
    `remove_handlers` restores exactly the previous handlers::

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
        check_optional_type("registry", registry, TaskRegistry)
        self._shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        super().__init__(shutdown_signals, reload_signals, take_ignored, on_signal)
        self._registry = registry
        self._requested = False
        self._reason: str | None = None
        self._phase: Phase = "running"
        self._signum: int | None = None
        self._deadline: float | None = None
        self._until: float | None = None
        self._join_set: JoinSet | None = None
        self._joining: set[asyncio.Task[Any]] = set()
        self._calls = 0

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    # ------------------------------------------------------------ state

    @property
    def shutdown_event(self) -> asyncio.Event:
        """The Event that the first shutdown signal or request sets; never cleared."""
        self._bind()
        return self._shutdown

    @property
    def reload_event(self) -> asyncio.Event:
        """The Event that a reload signal sets; `wait_for_reload` clears it."""
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
            return "draining"  # the loop may be too busy to deliver the signal
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether the phase is ``"running"``, for a readiness probe."""
        return self.phase == "running"

    @property
    def reason(self) -> str | None:
        """The reason that was passed to `request_shutdown`, or None."""
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
            reason: Text for the log and `reason`; only the first call's is used.
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
        """Wait until the shutdown begins.

        Returns:
            The signal that began it, or None if it was requested.

        Raises:
            RuntimeError: The coordinator belongs to another loop.
        """
        self._bind("wait_for_shutdown()")
        await self._shutdown.wait()
        return self._signum

    async def wait_for_reload(self) -> None:
        """Wait for a reload signal and consume it.

        All signals that arrive during a reload cause one more reload.

        Raises:
            RuntimeError: The coordinator belongs to another loop.
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
        """Cancel tasks all at once, wait for them, and report how each ended.

        The call returns at the deadline even if some tasks are still running. The
        calling task is left out. A second call joins the shutdown in progress: no task
        is cancelled twice, and both calls report on all tasks.

        Args:
            tasks: Tasks of the running loop; None: all tasks of the registry, including
                any that are registered meanwhile.
            timeout: Seconds from now; None: until `deadline` or, if no shutdown has
                begun, ``shutdown_timeout`` from now; ``math.inf``: no limit.

        Returns:
            The report. Tasks that are still running are listed in its ``stuck``.

        Raises:
            ValueError: There are neither tasks nor a registry.
            TypeError: An item is not a Task. Nothing has been cancelled.
            RuntimeError: A task, or the coordinator, belongs to another loop. Nothing
                has been cancelled.

        If the caller is cancelled, the CancelledError propagates at once; the tasks
        remain cancelled.
        """
        seconds = check_optional_seconds("timeout", timeout, None)
        if tasks is None and self._registry is None:
            raise ValueError(
                "graceful_shutdown() has no tasks to cancel: pass tasks, or create the "
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
                report = await join_and_report(self._joined(chosen), now, until)
        finally:
            self._calls -= 1
            if not self._calls:
                self._join_set = None
                self._joining = set()
        if not self._calls:
            self._phase = "stopped"
        return report

    def _joined(self, tasks: list[asyncio.Task[Any]]) -> JoinSet:
        """Cancel the tasks that no call in progress has cancelled; return all."""
        if self._join_set is None:
            self._join_set = JoinSet()
        current = asyncio.current_task()
        for task in tasks:
            if task is not current and task not in self._joining:
                self._joining.add(task)
                known = self._registry is not None and self._registry._find(task)
                self._join_set.add(task, known or None)
        return self._join_set

    def __enter__(self) -> Self:
        """Call `setup_handlers`."""
        self.setup_handlers()
        return self

    def __exit__(self, *exc: object) -> None:
        """Call `remove_handlers`."""
        self.remove_handlers()

    async def __aenter__(self) -> Self:
        """Call `setup_handlers`."""
        self.setup_handlers()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Shut down the registry's tasks, if there is one, and remove the handlers.

        Tasks that did not stop are logged at ERROR. If the caller is cancelled, the
        handlers are removed and the CancelledError propagates at once.
        """
        try:
            if self._registry is not None:
                report = await self.graceful_shutdown()
                if report.stuck:
                    logger.error("%s", report)
        finally:
            self.remove_handlers()
