"""TaskPool: jobs with a limit, for as long as a service lives."""

from __future__ import annotations

import asyncio
import itertools
import math
import sys
import warnings
import weakref
from collections.abc import Awaitable, Callable, Hashable, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, final, overload

from pyasynclife._arguments import (
    check_count,
    check_flag,
    check_function,
    check_hook,
    check_optional_seconds,
    check_optional_type,
    check_size,
)
from pyasynclife._core import MODE_BLOCK, MODE_OPEN, Job, PoolCore, TaskResult
from pyasynclife._errors import PoolFullError
from pyasynclife._limits import check_limits
from pyasynclife._pool_shutdown import shut_down_pool
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import ShutdownReport
from pyasynclife._results import BatchProgress
from pyasynclife._retry import Retry
from pyasynclife._sealed import refuse_pickling
from pyasynclife._waiting import Deadline

T = TypeVar("T")

_numbers: weakref.WeakKeyDictionary[TaskRegistry, Iterator[int]] = (
    weakref.WeakKeyDictionary()
)
"""The numbers of default ids, which all pools of a registry share."""


@final
class TaskPool:
    """Run functions that are submitted at any time, a limited number at once.

    ``submit()`` queues a call and returns its `Job` at once: await it, or drop it. A
    failed job disturbs no other. The pool keeps nothing of a job that has ended;
    the Job keeps its value or error for as long as somebody holds it.

    As a block (``async with``), the pool waits for every job when the block is left,
    also for those that jobs submit meanwhile; if an exception leaves the block, the
    jobs are cancelled first. Without a block, call `shutdown` at the end. A pool
    belongs to the loop of its first use. One that is dropped while jobs run cancels
    them, with a ResourceWarning.

    A failure that nobody receives is reported to the loop's exception handler, once,
    when the job has ended and its Job is dropped, as that of a Task is. SystemExit and
    KeyboardInterrupt end the run of the loop, as if a Task had raised them; any other
    exception affects only its job.

    Args:
        max_concurrent: The maximum number of jobs that run at once.
        timeout: Seconds for each job, from the call of its function; None: no limit.
        cancel_grace: Seconds that a job has to stop after it is cancelled or times out.
            One that does not is abandoned: its state is RUNNING, and the next job takes
            its place. None: no limit.
        max_pending: How many jobs may wait: for a slot, for their key, for the rate or
            for another attempt. None: any number. A free slot has room for one more.
        on_result: Called with the TaskResult of each job that has started, when it
            ends. Its exceptions go to the loop's exception handler.
        task_per_item: Run each job in an ``asyncio.Task`` of its own, named by its task
            id, for code that depends on the current task. None: only if the loop has a
            task factory that is not asyncio's eager one.
        registry: Register the task of each job under its task id; implies
            ``task_per_item``. The registry logs its failure, which then counts as
            received. When the registry shuts down, the pool ends as if it were
            cancelled.
        max_per_second: How many jobs may start in a second, further attempts too; the
            starts are evenly spaced. Waiting for a start counts for no timeout. None:
            no limit.
        retry: When a failed job is tried again. Each attempt runs in a fresh copy of
            the context of `submit`; between two attempts the job holds no slot.
        limit_by: Called by `submit` with the arguments of the job; returns its key,
            which is hashable. A job whose key is full waits aside and holds no slot.
            The key None has no limit.
        max_per_key: The maximum number of jobs of one key that run at once.

    Raises:
        TypeError, ValueError: An argument is wrong.

    Example::

        async with TaskPool(10) as pool:
            job = pool.submit(fetch, url)
            ...
            page = await job
    """

    __slots__ = ("__weakref__", "_core", "_max_concurrent")

    _core: PoolCore
    _max_concurrent: int

    def __init__(
        self,
        max_concurrent: int = 50,
        *,
        timeout: float | None = None,
        cancel_grace: float | None = None,
        max_pending: int | None = None,
        on_result: Callable[[TaskResult[Any]], object] | None = None,
        task_per_item: bool | None = None,
        registry: TaskRegistry | None = None,
        max_per_second: float | None = None,
        retry: Retry | None = None,
        limit_by: Callable[..., Hashable] | None = None,
        max_per_key: int = 1,
    ) -> None:
        if hasattr(self, "_core"):
            raise RuntimeError("this pool exists already: make another one")
        limit = check_count("max_concurrent", max_concurrent, 1)
        seconds = check_optional_seconds("timeout", timeout, math.inf)
        grace = check_optional_seconds("cancel_grace", cancel_grace, math.inf)
        pending = -1 if max_pending is None else check_size("max_pending", max_pending)
        check_hook("on_result", on_result)
        check_optional_type("registry", registry, TaskRegistry)
        tasks = -1  # the task factory decides
        if task_per_item is not None:
            tasks = check_flag("task_per_item", task_per_item)
        # The jobs are all in memory already: there is nothing to read ahead of.
        limits = check_limits(limit_by, max_per_key, sys.maxsize, max_per_second, retry)
        numbers = None
        if registry is not None:
            numbers = _numbers.setdefault(registry, itertools.count())
        self._max_concurrent = limit
        self._core = PoolCore(
            min(limit, sys.maxsize),
            seconds,
            grace,
            pending,
            on_result,
            True if registry is not None else tasks,
            registry,
            numbers,
            limits,
        )
        if registry is not None:
            registry._batches.add(self)

    @property
    def max_concurrent(self) -> int:
        """The maximum number of jobs that run at once.

        It may be set at any time. A higher limit lets more jobs start immediately. A
        lower one does not stop running jobs.

        Raises:
            TypeError, ValueError: The new limit is not an int of 1 or more.
        """
        return self._max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        limit = check_count("max_concurrent", value, 1)
        self._core.set_limit(min(limit, sys.maxsize))
        self._max_concurrent = limit

    @property
    def paused(self) -> bool:
        """Whether the pool is paused, so that no job starts."""
        return self._core.paused

    @property
    def progress(self) -> BatchProgress:
        """A snapshot of the pool's progress; ``total`` is all that was submitted.

        A job that is cancelled while it waits has not started: it counts only there.
        """
        return BatchProgress._of(self._core)

    @overload
    def submit(
        self,
        fn: Callable[..., Awaitable[TaskResult[T]]],
        /,
        *args: Any,
        task_id: str | None = None,
    ) -> Job[T]: ...
    @overload
    def submit(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        task_id: str | None = None,
    ) -> Job[T]: ...
    def submit(
        self,
        fn: Any,
        /,
        *args: Any,
        task_id: str | None = None,
    ) -> Job[Any]:
        """Queue a call of ``fn(*args)`` and return its job at once.

        The function is called when a slot is free, in a copy of the current context.

        Args:
            fn: An ``async def``, or any function that returns an awaitable. If it
                returns a `TaskResult`, the job's outcome takes task_id, success, data
                and error from it.
            args: Its arguments. Pass keyword arguments with ``functools.partial``.
            task_id: The job's id; None: "job_0", "job_1" and so on.

        Returns:
            The job, to be awaited, cancelled or dropped. The ``item`` of its outcome is
            the tuple of the arguments.

        Raises:
            PoolFullError: ``max_pending`` jobs wait already; `put` waits for room.
            ClosedError: The pool was stopped, or its block has ended.
            DuplicateTaskError: With ``registry``: a task with this id is alive, or a
                job with it waits.
            TypeError: ``fn`` is not a function; a coroutine is closed. Or the key is
                not hashable.
            Exception: What ``limit_by`` raises; nothing is submitted.
            RuntimeError: No loop runs in this thread, or the pool belongs to another.
        """
        if not callable(fn):
            check_function("pool.submit(fetch, url)", fn, *args)
        return self._core.submit(fn, args, task_id)

    @overload
    async def put(
        self,
        fn: Callable[..., Awaitable[TaskResult[T]]],
        /,
        *args: Any,
        task_id: str | None = None,
    ) -> Job[T]: ...
    @overload
    async def put(
        self,
        fn: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        task_id: str | None = None,
    ) -> Job[T]: ...
    async def put(
        self,
        fn: Any,
        /,
        *args: Any,
        task_id: str | None = None,
    ) -> Job[Any]:
        """Wait until the pool has room, then submit.

        It waits while `submit` would raise PoolFullError, and raises the other errors
        of `submit`. If the caller is cancelled while it waits, nothing is submitted.
        """
        if not callable(fn):
            check_function("pool.put(fetch, url)", fn, *args)
        while True:
            while self._core.is_full:
                await self._core.wait_room()
            try:
                return self._core.submit(fn, args, task_id)
            except PoolFullError:  # since limit_by was called, or its own error
                if not self._core.is_full:
                    raise

    async def join(self) -> None:
        """Wait until no job runs and none waits.

        Jobs may be submitted meanwhile, and later. If the caller is cancelled, the jobs
        go on.

        Raises:
            RuntimeError: A job of this pool calls it, and would wait for itself.
        """
        self._refuse_own_jobs("join")
        await self._core.wait_idle()

    def pause(self) -> None:
        """Stop starting jobs. Running jobs and their timeouts continue."""
        self._core.set_paused(True)

    def resume(self) -> None:
        """Start jobs again after `pause`."""
        self._core.set_paused(False)

    def stop(self) -> None:
        """Take no more jobs, and cancel those that wait; running jobs go on.

        Raises:
            RuntimeError: This is not the thread of the pool's loop.
        """
        self._core.drain()

    def cancel(self, msg: str | None = None) -> None:
        """Take no more jobs, and cancel those that wait and those that run.

        Each call also cancels jobs again that were cancelled before.

        Args:
            msg: The message of each running job's CancelledError.
        """
        self._core.cancel(msg)

    async def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """Cancel all jobs, wait until they have ended, and report.

        Args:
            timeout: Seconds; None: as long as it takes. At the deadline the call
                returns, even if some jobs are still running.

        Returns:
            A report of the jobs that had begun and not ended when the call was made, by
            their ids: one that waits for its next attempt, too. A failure that it lists
            counts as received.

        If the caller is cancelled, the CancelledError propagates at once; the jobs stay
        cancelled.

        Raises:
            RuntimeError: A job of this pool calls it, and would wait for itself.
        """
        wait = check_optional_seconds("timeout", timeout, math.inf)
        self._refuse_own_jobs("shutdown")
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = Deadline.after(loop, started, wait)
        return await shut_down_pool(self, started, deadline)

    async def __aenter__(self) -> Self:
        self._core.use(MODE_OPEN)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        tb: TracebackType | None = None,
    ) -> None:
        """Wait for every job; if an exception left the block, cancel them first.

        If the caller is cancelled meanwhile, so are the jobs; the CancelledError
        propagates when they have ended.
        """
        core = self._core
        core.use(MODE_BLOCK)
        if exc is not None:
            core.stop()
        error: BaseException | None = None
        try:
            if not core.over:
                await core.wait(isinstance(exc, asyncio.CancelledError))
            if exc is None and not core.delivered:
                error, core.delivered = core.fatal, True
            if error is not None:
                raise error
        finally:
            if core.over:
                core.report_unread()
            del self, core, error  # the traceback holds this frame

    def _refuse_own_jobs(self, name: str) -> None:
        """Raise if a job of the pool would wait for itself."""
        caller = asyncio.current_task()
        for worker, job in self._core.running():
            if worker._task is caller:
                raise RuntimeError(
                    f"{job!r} cannot wait for its own pool, whose {name}() ends after "
                    "it: call stop() or cancel(), or wait elsewhere"
                )

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    def __repr__(self) -> str:
        """Return the state and the limit."""
        core = self._core
        state = "ended" if core.over else "open" if core.begun else "not begun"
        return f"<TaskPool {state}, max_concurrent={self._max_concurrent}>"

    def __del__(self) -> None:
        """Cancel the jobs of a pool that was dropped, with a ResourceWarning."""
        try:
            core = self._core
        except AttributeError:
            return  # __init__() failed
        if not core.begun:
            return
        loop: asyncio.AbstractEventLoop = core.loop
        if loop.is_closed() or sys.is_finalizing():
            return
        try:
            if not (core.over or core.is_idle or core.stopping):
                warnings.warn(
                    f"{self!r} was dropped while it ran and is cancelled: use `async "
                    "with`, or keep it until shutdown()",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
        finally:
            try:
                core.detach()
            except RuntimeError:  # collected in another thread
                loop.call_soon_threadsafe(core.detach)
