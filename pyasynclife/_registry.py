"""TaskRegistry: what waits and what reads; the rest of it is native."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from pyasynclife._checks import check_callable, check_count, check_seconds
from pyasynclife._core import Registry, TaskMetadata, adopt_methods
from pyasynclife._dump import await_chain, dump_tasks
from pyasynclife._report import ShutdownReport, follow_drain, wait_among
from pyasynclife._sealed import Sealed
from pyasynclife._states import logger


@dataclass(init=False, frozen=True, slots=True)
class RegistryStats(Sealed):
    """The numbers of a registry at one moment.

    ``alive = pending + healthy + stale + unknown`` are now; the rest are since the
    start.
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
    """Every task under an id: started, observed, cancelled, waited for.

    heartbeat_interval: seconds between two looks of monitor_loop().
    stale_threshold: seconds of silence after which a task is stale; math.inf: never.
    history: how many finished tasks are remembered.  keep_results: with their results.
    keep_errors: how many of the newest failures keep their exception, and with it the
    frames that it pins; older ones keep its text.
    shutdown_timeout: seconds that shutdown() waits.
    on_stale: called by the monitor with a TaskMetadata, once per silence.
    on_finish: called with the TaskMetadata of every task that has ended.

    A task that failed is logged once, at ERROR, by the logger "pyasynclife".  Binds to
    the loop it is first used on; once empty, and that loop closed, it binds again.

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
        check_callable("on_stale", on_stale)
        check_callable("on_finish", on_finish)
        self._configure(
            threshold,
            check_count("history", history),
            bool(keep_results),
            check_count("keep_errors", keep_errors),
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
        """Return the numbers of now; costs what is newly stale, not what is alive."""
        return RegistryStats._make(
            **dict(zip(RegistryStats.__slots__, self._counts(), strict=True))
        )

    def where(self, task_id: str) -> list[str]:
        """Return where a task waits: "file:line in function", outermost first.

        Of the current task it is the live stack, of a PENDING one the line of its
        ``def``, of a finished one nothing.  Raises UnknownTaskError.
        """
        task = self[task_id].task
        return [] if task is None else await_chain(task)

    def dump(self) -> str:
        """Return where all tasks wait, as text; equal await chains once, counted."""
        tasks = [meta.task for meta in self.get_status().result().values()]
        return dump_tasks(task for task in tasks if task is not None)

    async def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """Cancel every task but the calling one, and wait for them.

        Tasks that are registered meanwhile are cancelled too.  Returns at the deadline
        although some run on: they are ``stuck`` in the report.

        timeout: seconds; None: ``shutdown_timeout``; math.inf: for ever.
        Cancelled, it leaves at once; the tasks stay cancelled.
        """
        seconds = (
            self.shutdown_timeout
            if timeout is None
            else check_seconds("timeout", timeout)
        )
        loop = asyncio.get_running_loop()
        started = loop.time()
        drain = self._begin_shutdown(asyncio.current_task())
        try:
            if self._starting:  # in an eager first step: cancelled when that is over
                await asyncio.sleep(0)
            return await follow_drain(drain, started, started + seconds)
        finally:
            self._end_shutdown()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until every task but the calling one has ended; cancel nothing.

        timeout: seconds; None: for ever.  Returns True if all have ended.
        """
        seconds = math.inf if timeout is None else check_seconds("timeout", timeout)
        self._bind("TaskRegistry.wait()")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._others_alive():
            if loop.time() >= deadline:
                await asyncio.sleep(0)  # who asks in a loop stops nobody
                return not self._others_alive()
            await wait_among(self._waiters, deadline)
        return True

    def _others_alive(self) -> bool:
        current = asyncio.current_task()
        known = current is not None and self._find(current) is not None
        return len(self) > known

    async def monitor_loop(self) -> None:
        """Look for stale tasks every ``heartbeat_interval`` seconds until cancelled.

        Each silence is logged once, as a warning, and given to ``on_stale``, whose
        exceptions go to the loop's exception handler.
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
                self._tell_stale(meta)

    def _tell_stale(self, meta: TaskMetadata) -> None:
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
        """Start monitor_loop() in a task of its own."""
        if self._monitor is not None:
            raise RuntimeError(f"{self!r} is entered already")
        self._bind("TaskRegistry.__aenter__()")
        self._monitor = asyncio.create_task(
            self.monitor_loop(), name="pyasynclife monitor"
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        """End the monitor and shut down; log what did not stop."""
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


adopt_methods(TaskRegistry)  # makes a heartbeat a tenth faster
