"""TaskRegistry: the methods that wait or report; the others are native."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, final

from pyasynclife._arguments import (
    check_answer,
    check_hook,
    check_optional_seconds,
    check_seconds,
    check_size,
    cut,
    short_id,
)
from pyasynclife._await_chain import await_chain, dump_tasks
from pyasynclife._core import Registry, TaskMetadata, adopt_methods
from pyasynclife._log import logger
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import SealedValue, refuse_pickling
from pyasynclife._waiting import join_and_report, wait_among


@final
@dataclass(init=False, frozen=True, slots=True)
class RegistryStats(SealedValue):
    """A snapshot of a registry's counts.

    ``alive = pending + healthy + stale + unknown``. The counts after ``unknown`` are
    totals since the registry was created.

    Attributes:
        alive: Tasks that have not ended.
        pending: Live tasks that have not started.
        healthy: Live tasks whose last heartbeat is recent.
        stale: Live tasks that have been silent for longer than ``stale_after``.
        unknown: Live tasks that have started but have not sent a heartbeat.
        done: Tasks that ended with a value.
        failed: Tasks that ended with an exception.
        cancelled: Tasks that were cancelled.
        registered: Tasks that were registered or tracked.
        heartbeats: Heartbeats that were recorded.
        unknown_heartbeats: Heartbeats whose id no live task had.
    """

    alive: int
    pending: int
    healthy: int
    stale: int
    unknown: int
    done: int
    failed: int
    cancelled: int
    registered: int
    heartbeats: int
    unknown_heartbeats: int


class TaskRegistry(Registry):
    """Start, observe, cancel and await tasks, each under an id.

    Args:
        heartbeat_interval: Seconds between two checks of monitor_loop().
        stale_threshold: Seconds of silence after which a task is stale; math.inf:
            never.
        history: How many finished tasks are remembered.
        keep_results: Whether finished tasks keep their results.
        keep_errors: How many of the newest failures keep their exception, and with it
            the frames of its traceback. Older failures keep only the text.
        shutdown_timeout: Seconds that shutdown() waits by default.
        on_stale: Called by the monitor with the TaskMetadata of a stale task, once per
            period of silence.
        on_finish: Called with the TaskMetadata of each task that has ended.

    Attributes:
        heartbeat_interval: Seconds between two checks; may be set.
        stale_threshold: The default of ``stale_after``; setting it has no effect.
        shutdown_timeout: The default timeout of shutdown(); may be set.
        on_stale: The function that the monitor calls, or None; may be set.

    Each task that fails is logged once, at ERROR, to the logger "pyasynclife". The
    registry binds to the loop on which it is first used. Once it is empty and that loop
    is closed, it can bind to another.

    Example::

        async with TaskRegistry() as registry:
            task, task_id = await registry.register(worker(), "worker")
            ...

    Source: the articles' TaskRegistry.
    """

    __slots__ = (
        "__weakref__",
        "_monitor",
        "_on_stale",
        "heartbeat_interval",
        "shutdown_timeout",
        "stale_threshold",
    )

    heartbeat_interval: float
    stale_threshold: float
    shutdown_timeout: float
    _on_stale: Callable[[TaskMetadata], object] | None
    _monitor: asyncio.Task[None] | None

    def __init__(
        self,
        heartbeat_interval: float = 5.0,
        stale_threshold: float = 15.0,
        *,
        history: int = 1000,
        keep_results: bool = True,
        keep_errors: int = 20,
        shutdown_timeout: float = 30.0,
        on_stale: Callable[[TaskMetadata], object] | None = None,
        on_finish: Callable[[TaskMetadata], object] | None = None,
    ) -> None:
        interval = check_seconds("heartbeat_interval", heartbeat_interval, zero=False)
        threshold = check_seconds("stale_threshold", stale_threshold)
        timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        check_hook("on_finish", on_finish)
        self.on_stale = on_stale
        self._configure(
            threshold,
            check_size("history", history),
            bool(keep_results),
            check_size("keep_errors", keep_errors),
            on_finish,
        )
        self.heartbeat_interval = interval
        self.stale_threshold = threshold
        self.shutdown_timeout = timeout
        self._monitor = None

    def __repr__(self) -> str:
        """Return the type and the number of live tasks."""
        return f"<{type(self).__name__} alive={len(self)}>"

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    @property
    def on_stale(self) -> Callable[[TaskMetadata], object] | None:
        """The function that the monitor calls with a stale task, or None.

        Raises:
            TypeError: The new value is not a function, or would have to be awaited.
        """
        return self._on_stale

    @on_stale.setter
    def on_stale(self, value: Callable[[TaskMetadata], object] | None) -> None:
        check_hook("on_stale", value)
        self._on_stale = value

    def stats(self) -> RegistryStats:
        """Return a snapshot of the counts; costs O(newly stale tasks)."""
        return RegistryStats._make(
            **dict(zip(RegistryStats.__slots__, self._counts(), strict=True))
        )

    def where(self, task_id: str) -> list[str]:
        """Return where a task waits: "file:line in function", outermost first.

        The current task gives its live stack, a PENDING task gives the line of its
        ``def``, and a finished task gives an empty list. If the task waits for a batch
        or a TaskGroup, a line with the id or name of each of the first running items or
        children follows, with the chain of that, indented.

        Raises:
            UnknownTaskError: No task with this id is alive or in the history.
        """
        task = self[task_id].task
        return [] if task is None else await_chain(task)

    def dump(self) -> str:
        """Return where all tasks wait, as text; equal chains grouped with a count."""
        tasks = [meta.task for meta in self.get_status().result().values()]
        return dump_tasks(task for task in tasks if task is not None)

    async def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """Cancel all tasks except the calling one, wait for them, and report.

        Tasks that are registered meanwhile are cancelled too. The call returns at the
        deadline even if some tasks are still running.

        Args:
            timeout: Seconds; None: ``shutdown_timeout``; ``math.inf``: no limit.

        Returns:
            The report. Tasks that are still running are listed in its ``stuck``.

        Raises:
            RuntimeError: The registry belongs to another loop or thread.

        If the caller is cancelled, the CancelledError propagates at once; the tasks
        remain cancelled.
        """
        seconds = check_optional_seconds("timeout", timeout, self.shutdown_timeout)
        loop = asyncio.get_running_loop()
        started = loop.time()
        join_set = self._begin_shutdown(asyncio.current_task())
        try:
            if self._starting:  # a task in its eager first step is cancelled after it
                await asyncio.sleep(0)
            return await join_and_report(join_set, started, started + seconds)
        finally:
            self._end_shutdown()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until all tasks except the calling one have ended; cancel nothing.

        Args:
            timeout: Seconds; None: no limit.

        Returns:
            True if all have ended, False if the timeout expired first.

        Raises:
            RuntimeError: The registry belongs to another loop or thread.

        If the caller is cancelled, the CancelledError propagates at once.
        """
        seconds = check_optional_seconds("timeout", timeout, math.inf)
        self._bind("TaskRegistry.wait()")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._others_alive():
            if loop.time() >= deadline:
                await asyncio.sleep(0)  # a loop around wait(0) must let others run
                return not self._others_alive()
            await wait_among(self._waiters, deadline)
        return True

    def _others_alive(self) -> bool:
        current = asyncio.current_task()
        known = current is not None and self._find(current) is not None
        return len(self) > known

    async def monitor_loop(self) -> None:
        """Check for stale tasks every ``heartbeat_interval`` seconds until cancelled.

        A task that has become stale is logged at WARNING and passed to ``on_stale``,
        once per period of silence. Exceptions of ``on_stale`` go to the loop's
        exception handler. ``async with registry`` runs this in a task.

        Raises:
            RuntimeError: The registry belongs to another loop or thread.
        """
        self._bind("TaskRegistry.monitor_loop()")
        while True:
            await asyncio.sleep(self.heartbeat_interval)
            stale = self._newly_stale()
            if stale:
                some = ", ".join(cut(meta.task_id, 120) for meta in stale[:5])
                more = ", ..." if len(stale) > 5 else ""
                logger.warning("newly stale: %d (%s%s)", len(stale), some, more)
            for meta in stale:
                if self._on_stale is not None:
                    self._call_on_stale(self._on_stale, meta)

    def _call_on_stale(
        self, on_stale: Callable[[TaskMetadata], object], meta: TaskMetadata
    ) -> None:
        try:
            check_answer("on_stale", on_stale(meta))
        except Exception as error:
            about: dict[str, Any] = {
                "message": f"on_stale of {self!r} failed for task "
                f"{short_id(meta.task_id)}",
                "exception": error,
            }
            asyncio.get_running_loop().call_exception_handler(about)

    async def __aenter__(self) -> Self:
        """Start monitor_loop() in a task.

        Raises:
            RuntimeError: The registry has been entered already, or belongs to another
                loop or thread.
        """
        if self._monitor is not None:
            raise RuntimeError(f"{self!r} is already entered")
        self._bind("TaskRegistry.__aenter__()")
        self._monitor = asyncio.create_task(
            self.monitor_loop(), name="pyasynclife monitor"
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the monitor and shut down; log the tasks that did not stop.

        If the caller is cancelled, the CancelledError propagates once the monitor has
        ended; the tasks remain cancelled.
        """
        monitor, self._monitor = self._monitor, None
        assert monitor is not None
        monitor.cancel()
        try:
            report = await self.shutdown()
        finally:
            if not monitor.done():
                await asyncio.wait([monitor])
        if report.stuck:
            logger.error("%s", report)


adopt_methods(TaskRegistry)  # this takes a tenth off the cost of a heartbeat
