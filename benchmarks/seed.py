"""The articles' own code for the same work, with which this project began.

It is printed in "A Complete Guide to asyncio Task Lifecycle", patterns 1, 3 and 4. Only
what it needs to run has been added: the missing imports, the function for each item as
a parameter instead of a global, type arguments. Its bugs are left in.
"""

import asyncio
import time
from asyncio import CancelledError
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


@dataclass
class TaskResult:
    task_id: str
    success: bool
    data: Any = None
    error: BaseException | None = None


async def gather_with_timeout_and_budget(
    fetch_market_data: Callable[[str], Coroutine[Any, Any, TaskResult]],
    symbols: list[str],
    timeout: float = 5.0,
    max_concurrent: int = 50,
) -> dict[str, TaskResult]:
    """
    Execute tasks with bounded concurrency and timeout.

    Semaphore limits concurrent connections to avoid overwhelming
    the downstream service or exhausting OS file descriptors.
    """
    results: dict[str, TaskResult] = {}
    semaphore = asyncio.Semaphore(max_concurrent)

    async def bounded_fetch(symbol: str) -> tuple[str, TaskResult]:
        async with semaphore:
            try:
                result = await asyncio.wait_for(
                    fetch_market_data(symbol), timeout=timeout
                )
                return (symbol, result)
            except asyncio.TimeoutError:  # noqa: UP041
                return (
                    symbol,
                    TaskResult(
                        task_id=symbol,
                        success=False,
                        error=TimeoutError(f"Timeout after {timeout}s for {symbol}"),
                    ),
                )
            except asyncio.CancelledError:
                return (
                    symbol,
                    TaskResult(
                        task_id=symbol,
                        success=False,
                        error=CancelledError(f"Cancelled during execution: {symbol}"),
                    ),
                )

    # Create tasks
    tasks = [asyncio.create_task(bounded_fetch(s)) for s in symbols]

    # gather with return_exceptions to avoid cancellation cascade
    completed = await asyncio.gather(*tasks, return_exceptions=True)

    for item in completed:
        if isinstance(item, tuple):
            symbol, result = item
            results[symbol] = result
        else:
            # Unexpected exception
            pass

    return results


class TaskHealth(Enum):
    HEALTHY = "healthy"
    STALE = "stale"  # Heartbeat overdue
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass
class TaskMetadata:
    task_id: str
    created_at: float = field(default_factory=time.time)
    last_heartbeat: float = field(default_factory=time.time)
    health: TaskHealth = TaskHealth.UNKNOWN
    error: Exception | None = None
    result: Any = None


class TaskRegistry:
    """
    Tracks all active tasks with heartbeat monitoring.
    Enables observability across thousands of concurrent coroutines.
    """

    def __init__(
        self, heartbeat_interval: float = 5.0, stale_threshold: float = 15.0
    ) -> None:
        self._tasks: dict[str, asyncio.Task[Any]] = {}
        self._metadata: dict[str, TaskMetadata] = {}
        self._lock = asyncio.Lock()
        self._heartbeat_interval = heartbeat_interval
        self._stale_threshold = stale_threshold
        self._monitor_task: asyncio.Task[Any] | None = None

    async def register(
        self, coro: Any, task_id: str | None = None
    ) -> tuple[asyncio.Task[Any], str]:
        """Register and start a task with metadata tracking."""
        async with self._lock:
            if task_id is None:
                task_id = f"task_{len(self._tasks)}"

            task = asyncio.create_task(coro, name=task_id)
            self._tasks[task_id] = task
            self._metadata[task_id] = TaskMetadata(task_id=task_id)

            return task, task_id

    async def heartbeat(self, task_id: str) -> None:
        """Update heartbeat timestamp for a task."""
        async with self._lock:
            if task_id in self._metadata:
                self._metadata[task_id].last_heartbeat = time.time()
                self._metadata[task_id].health = TaskHealth.HEALTHY

    async def cancel_all(self) -> None:
        """Cancel all registered tasks."""
        async with self._lock:
            for task in self._tasks.values():
                if not task.done():
                    task.cancel()

    async def get_stale_tasks(self) -> list[str]:
        """Get list of task IDs with overdue heartbeats."""
        stale = []
        cutoff = time.time() - self._stale_threshold

        async with self._lock:
            for task_id, meta in self._metadata.items():
                if meta.last_heartbeat < cutoff:
                    meta.health = TaskHealth.STALE
                    stale.append(task_id)

        return stale


class SignalCoordinator:
    """The end of the articles' coordinator, without its prints."""

    def __init__(self) -> None:
        self._shutdown_timeout = 30.0  # seconds

    async def graceful_shutdown(self, tasks: list[asyncio.Task[Any]]) -> None:
        """
        Execute graceful shutdown with timeout.
        Force-kills tasks that don't respect cancellation.
        """
        # Signal all tasks to stop
        for task in tasks:
            if not task.done():
                task.cancel()

        # Wait for tasks to acknowledge cancellation
        end_time = asyncio.get_running_loop().time() + self._shutdown_timeout

        for task in tasks:
            remaining = end_time - asyncio.get_running_loop().time()
            if remaining <= 0:
                break

            try:
                await asyncio.wait_for(task, timeout=remaining)
            except asyncio.CancelledError:
                pass
            except asyncio.TimeoutError:  # noqa: UP041
                pass
