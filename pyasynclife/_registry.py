"""TaskRegistry: its waiting and reporting methods; the others are native."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from pyasynclife._arguments import (
    check_hook,
    check_optional_seconds,
    check_seconds,
    check_size,
)
from pyasynclife._await_chain import await_chain, dump_tasks
from pyasynclife._core import Registry, TaskMetadata, adopt_methods
from pyasynclife._log import logger
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import Sealed
from pyasynclife._waiting import follow_drain, wait_among


@dataclass(init=False, frozen=True, slots=True)
class RegistryStats(Sealed):
    """The numbers of a registry: a snapshot.

    ``alive = pending + healthy + stale + unknown``. The numbers after ``unknown`` count
    from the start of the registry.

    Attributes:
        alive: Tasks that have not ended.
        pending: Tasks alive that have not started.
        healthy: Tasks alive whose last heartbeat is recent.
        stale: Tasks alive that have been silent for longer than ``stale_after``.
        unknown: Tasks alive that have started and sent no heartbeat yet.
        done: Tasks that ended with a value.
        failed: Tasks that ended with an exception.
        cancelled: Tasks that were cancelled.
        registered: Tasks that were registered or tracked.
        heartbeats: Heartbeats that were recorded.
        unknown_heartbeats: Heartbeats for an id of which no task was alive.
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
            the frames of its traceback. Older ones keep its text.
        shutdown_timeout: Seconds that shutdown() waits by default.
        on_stale: Called by the monitor with the TaskMetadata of a stale task, once for
            each silence.
        on_finish: Called with the TaskMetadata of each task that has ended.

    Attributes:
        heartbeat_interval: Seconds between two checks; may be set.
        stale_threshold: The default of ``stale_after``, as it was given.
        shutdown_timeout: The default timeout of shutdown(); may be set.
        on_stale: The hook of the monitor; may be set.

    A task that fails is logged once, at ERROR, by the logger "pyasynclife". The
    registry binds to the loop on which it is first used. When it is empty and that loop
    is closed, it may bind to another.

    Example::

        async with TaskRegistry() as registry:
            task, task_id = await registry.register(worker(), "worker")
            ...

    Source: the articles' TaskRegistry.
    """

    __slots__ = (
        "__weakref__",
        "_monitor",
        "heartbeat_interval",
        "on_stale",
        "shutdown_timeout",
        "stale_threshold",
    )

    heartbeat_interval: float
    stale_threshold: float
    shutdown_timeout: float
    on_stale: Callable[[TaskMetadata], object] | None
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
        check_hook("on_stale", on_stale)
        check_hook("on_finish", on_finish)
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
        self.on_stale = on_stale
        self._monitor = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} alive={len(self)}>"

    def stats(self) -> RegistryStats:
        """Return a snapshot of the numbers; costs O(tasks newly stale)."""
        return RegistryStats._make(
            **dict(zip(RegistryStats.__slots__, self._counts(), strict=True))
        )

    def where(self, task_id: str) -> list[str]:
        """Return where a task waits: "file:line in function", outermost first.

        For the current task it is the live stack, for a PENDING task the line of its
        ``def``, for a finished task an empty list.

        Raises:
            UnknownTaskError: No task of this id is alive or in the history.
        """
        task = self[task_id].task
        return [] if task is None else await_chain(task)

    def dump(self) -> str:
        """Return where all tasks wait, as text; equal chains once, with a count."""
        tasks = [meta.task for meta in self.get_status().result().values()]
        return dump_tasks(task for task in tasks if task is not None)

    async def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """Cancel all tasks but the calling one, and wait for them.

        Tasks that are registered meanwhile are cancelled too. It returns at the
        deadline even if some tasks run on; these are ``stuck`` in the report.

        Args:
            timeout: Seconds; None: ``shutdown_timeout``; ``math.inf``: no limit.

        Cancelled, it leaves at once; the tasks stay cancelled.
        """
        seconds = check_optional_seconds("timeout", timeout, self.shutdown_timeout)
        loop = asyncio.get_running_loop()
        started = loop.time()
        drain = self._begin_shutdown(asyncio.current_task())
        try:
            if self._starting:  # tasks in an eager first step are cancelled after it
                await asyncio.sleep(0)
            return await follow_drain(drain, started, started + seconds)
        finally:
            self._end_shutdown()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until all tasks but the calling one have ended; cancel nothing.

        Args:
            timeout: Seconds; None: no limit.

        Returns:
            True if all have ended, False if the time was up before.
        """
        seconds = check_optional_seconds("timeout", timeout, math.inf)
        self._bind("TaskRegistry.wait()")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._others_alive():
            if loop.time() >= deadline:
                await asyncio.sleep(0)  # a loop of wait(0) must not block the others
                return not self._others_alive()
            await wait_among(self._waiters, deadline)
        return True

    def _others_alive(self) -> bool:
        current = asyncio.current_task()
        known = current is not None and self._find(current) is not None
        return len(self) > known

    async def monitor_loop(self) -> None:
        """Check for stale tasks every ``heartbeat_interval`` seconds until cancelled.

        Each silence of a task is logged once, at WARNING, and passed to ``on_stale``.
        Exceptions of ``on_stale`` go to the loop's exception handler.
        """
        self._bind("TaskRegistry.monitor_loop()")
        while True:
            await asyncio.sleep(self.heartbeat_interval)
            stale = self._newly_stale()
            if stale:
                some = ", ".join(meta.task_id for meta in stale[:5])
                more = ", ..." if len(stale) > 5 else ""
                logger.warning("newly stale: %d (%s%s)", len(stale), some, more)
            for meta in stale if self.on_stale is not None else ():
                self._call_on_stale(meta)

    def _call_on_stale(self, meta: TaskMetadata) -> None:
        assert self.on_stale is not None
        try:
            self.on_stale(meta)
        except Exception as error:
            about: dict[str, Any] = {
                "message": f"on_stale of {self!r} failed for task {meta.task_id!r}",
                "exception": error,
            }
            asyncio.get_running_loop().call_exception_handler(about)

    async def __aenter__(self) -> Self:
        """Start monitor_loop() in a task."""
        if self._monitor is not None:
            raise RuntimeError(f"{self!r} is already entered")
        self._bind("TaskRegistry.__aenter__()")
        self._monitor = asyncio.create_task(
            self.monitor_loop(), name="pyasynclife monitor"
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the monitor and shut down; log the tasks that did not stop."""
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


adopt_methods(TaskRegistry)  # a heartbeat takes a tenth less
