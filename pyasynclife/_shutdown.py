"""SignalCoordinator: events from signals, and a shutdown that meets its deadline."""

from __future__ import annotations

import asyncio
import math
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
from pyasynclife._registry import ONCE, UNREPORTED, TaskRegistry
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import refuse_pickling
from pyasynclife._signal_events import SignalEvents, is_request
from pyasynclife._waiting import GRACE, Deadline, join_and_report

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
        kill_after: Seconds from the first of the shutdown signals; then the process is
            ended by that signal, whatever holds it up, and the Python stack of every
            thread is written to stderr. Nothing stops the clock once a signal has come,
            not even `remove_handlers`. A forked child has a clock only if it calls
            `setup_handlers`. None: the process is never ended.
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
        kill_after: float | None = None,
        on_signal: Callable[[int, int], object] | None = None,
    ) -> None:
        check_hook("on_signal", on_signal)
        check_optional_type("registry", registry, TaskRegistry)
        self._shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        seconds = check_optional_seconds("kill_after", kill_after, math.inf, zero=False)
        super().__init__(
            shutdown_signals,
            reload_signals,
            take_ignored,
            None if seconds == math.inf else seconds,
            on_signal,
        )
        self._registry = registry
        self._phase: Phase = "running"
        self._signum: int | None = None
        self._deadline: Deadline | None = None  # from a signal or request
        self._called: Deadline | None = None  # from graceful_shutdown() without one
        self._join_set: JoinSet | None = None
        self._joining: set[asyncio.Task[Any]] = set()
        self._calls = 0
        self._on_begin: Callable[[int | None, float], object] | None = None  # of run()

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
            or any(map(is_request, self._undelivered.copy()))
            or not self._shutdown_signals.isdisjoint(self.received)
        ):
            return "draining"  # the loop may be too busy to deliver the signal
        return self._phase

    @property
    def ready(self) -> bool:
        """Whether the phase is ``"running"``, for a readiness probe."""
        return self.phase == "running"

    @property
    def deadline(self) -> float | None:
        """The loop time by which the shutdown must end; None before a shutdown."""
        if self._deadline is not None:
            return self._deadline.due
        return None if self._called is None else self._called.until

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """Begin the shutdown at the first signal or request; ignore later ones."""
        assert self._loop is not None
        if self._deadline is not None:
            return
        self._signum = signum
        due = self._loop.time() - seconds_ago + self._shutdown_timeout
        grace = min(GRACE, self._shutdown_timeout)
        self._deadline = Deadline(due, due, grace, self._loop)
        if self._registry is not None:
            self._registry._set_deadline(self._deadline)
        if self._phase == "running":
            self._phase = "draining"
        self._shutdown.set()
        if self._on_begin is not None:
            self._on_begin(signum, seconds_ago)
        if signum is not None:
            logger.info("%s: shutting down", _signals.name_of(signum))
        else:
            logger.info("shutting down: %s", self.reason or "requested")

    def _enter(self) -> None:
        super()._enter()
        if self._registry is not None:
            self._registry._forget_deadline_that_is_over()

    def _leave(self) -> None:
        """Remove the handlers, at the end of a block."""
        self.remove_handlers()
        self._over = self._deadline is not None or self._phase == "stopped"
        if self._deadline is not None:
            self._deadline.over = True

    def _begin_afresh(self) -> None:
        super()._begin_afresh()
        if self._registry is not None and self._deadline is not None:
            self._registry._forget_deadline(self._deadline)
        self._phase = "running"
        self._signum = None
        self._deadline = self._called = None

    # ------------------------------------------------------------ actions

    async def wait_for_shutdown(self) -> int | None:
        """Wait until the shutdown begins.

        Returns:
            The signal that began it, or None if it was requested.

        Raises:
            SystemExit, KeyboardInterrupt: A handler that was installed before ours has
                raised it; it is raised once.
            RuntimeError: The coordinator belongs to another loop.
        """
        self._bind("wait_for_shutdown()")
        await self._shutdown.wait()
        self._raise_exit()
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

        The call returns at the deadline even if some tasks are still running. Tasks
        that are cancelled only then have a little longer to clean up: one second, or
        ``shutdown_timeout`` if that is less; the deadline counts as missed. The calling
        task is left out.

        A second call joins the shutdown in progress: no task is cancelled twice, and
        both calls report on all tasks. Nor does it cancel tasks of the registry that an
        earlier shutdown has cancelled; it waits for them.

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
        return (await self._shut_down(chosen, seconds, ONCE))[0]

    async def _shut_down(
        self, tasks: list[asyncio.Task[Any]] | None, seconds: float | None, whom: int
    ) -> tuple[ShutdownReport, bool]:
        """Shut down tasks, or those of the registry.

        Returns:
            The report, and whether it lists a stuck task that none before has listed.
        """
        self._bind("graceful_shutdown()")
        loop = asyncio.get_running_loop()
        now = loop.time()
        if seconds is None and self._deadline is not None:
            deadline = self._deadline
        else:
            wait = self._shutdown_timeout if seconds is None else seconds
            deadline = self._called = Deadline.after(loop, now, wait)
        self._phase = "cancelling"
        self._shutdown.set()
        self._calls += 1
        try:
            if tasks is not None:
                report, news = await self._shut_down_tasks(tasks, deadline)
            else:
                report, news = await self._shut_down_registry(whom, deadline)
        finally:
            self._calls -= 1
            if not self._calls:
                self._join_set = None
                self._joining = set()
        if not self._calls:
            self._phase = "stopped"
            self._over = not self._armed
        return report, news

    async def _shut_down_registry(
        self, whom: int, deadline: Deadline
    ) -> tuple[ShutdownReport, bool]:
        registry = self._registry
        assert registry is not None
        mine = self._deadline is None and deadline.until <= (
            deadline.loop.time() + self._shutdown_timeout
        )
        if mine:  # the registry's own block may be left meanwhile
            registry._set_deadline(deadline)
        try:
            return await registry._shut_down(whom, deadline)
        finally:
            if mine:
                registry._forget_deadline(deadline)
                if self._deadline is not None:  # a signal came meanwhile
                    registry._set_deadline(self._deadline)

    async def _shut_down_tasks(
        self, tasks: list[asyncio.Task[Any]], deadline: Deadline
    ) -> tuple[ShutdownReport, bool]:
        started = deadline.loop.time()
        join_set = self._joined(tasks)
        if join_set.pending:
            deadline.extend(started)
        report = await join_and_report(join_set, started, deadline)
        registry = self._registry
        return report, registry is not None and registry._note_stuck(report)

    def _joined(self, tasks: list[asyncio.Task[Any]]) -> JoinSet:
        """Cancel the tasks that no call in progress has cancelled; return all."""
        if self._join_set is None:
            self._join_set = JoinSet()
        current = asyncio.current_task()
        for task in tasks:
            if task is not current and task not in self._joining:
                self._joining.add(task)
                known = None
                if self._registry is not None:
                    known = self._registry._find(task)
                    if known is not None:
                        self._registry._note_shutdown(known, False)
                self._join_set.add(task, known)
        return self._join_set

    def __enter__(self) -> Self:
        """Call `setup_handlers`; after a shutdown, begin afresh."""
        self._enter()
        return self

    def __exit__(self, *exc: object) -> None:
        """Call `remove_handlers`.

        Raises:
            SystemExit, KeyboardInterrupt: As `wait_for_shutdown`, if that did not.
        """
        self._leave()
        if exc[0] is None:
            self._raise_exit()

    async def __aenter__(self) -> Self:
        """Call `setup_handlers`; after a shutdown, begin afresh.

        Then the phase is ``"running"`` again, and `received` is empty.
        """
        self._enter()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Shut down the registry's tasks, if there is one, and remove the handlers.

        Tasks that did not stop are logged at ERROR. A task that an earlier shutdown has
        cancelled, in the block or by the registry, is not cancelled again, and one that
        was reported as stuck is neither awaited nor logged again. If the caller is
        cancelled, the handlers are removed and the CancelledError propagates at once.

        Raises:
            SystemExit, KeyboardInterrupt: As `wait_for_shutdown`, if that did not.
        """
        try:
            if self._registry is not None:
                report, news = await self._shut_down(None, None, UNREPORTED)
                if news:
                    logger.error("%s", report)
        finally:
            self._leave()
        if exc[0] is None:
            self._raise_exit()
