"""TaskRegistry: the methods that wait or report; the others are native."""

from __future__ import annotations

import asyncio
import math
import os
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar, final, overload

from pyasynclife._arguments import (
    check_answer,
    check_flag,
    check_hook,
    check_optional_seconds,
    check_path,
    check_seconds,
    check_size,
    cut,
    short_id,
)
from pyasynclife._await_chain import await_chain, dump_tasks
from pyasynclife._backoff import Backoff
from pyasynclife._core import (
    SHUTDOWN_AGAIN,
    SHUTDOWN_UNREPORTED,
    Histogram,
    Ready,
    Registry,
    TaskMetadata,
    adopt_methods,
)
from pyasynclife._core_tasks import close_with
from pyasynclife._errors import UnknownTaskError
from pyasynclife._lateness import is_late, let_tasks_run, sleep_and_measure
from pyasynclife._log import logger
from pyasynclife._monitor.server import serve
from pyasynclife._registry_shutdown import ShutdownDeadlines, shut_down
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import SealedValue, refuse_pickling
from pyasynclife._supervise import Restart, Supervisor
from pyasynclife._timeline import Recording
from pyasynclife._waiting import Deadline, absorbing_after, wait_among

_D = TypeVar("_D")


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
        restarts: Runs of supervised tasks after the first one.
        durations: How long the tasks that ended had lived, as a `Histogram`.
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
    restarts: int
    durations: Histogram


class TaskRegistry(Registry):
    """Start, observe, cancel and await tasks, each under an id.

    Args:
        heartbeat_interval: Seconds between two checks of monitor_loop().
        stale_threshold: Seconds of silence after which a task is stale; math.inf:
            never.
        history: How many finished tasks are remembered. When there are more, those
            that did not fail are dropped first, the oldest first.
        keep_results: Whether finished tasks keep their results.
        keep_errors: How many of the newest failures keep their exception, and with it
            the frames of its traceback. Older failures keep only the text.
        shutdown_timeout: Seconds that shutdown() waits by default.
        on_stale: Called by the monitor with the TaskMetadata of a stale task, once per
            period of silence.
        on_finish: Called with the TaskMetadata of each task that has ended.
        on_give_up: Called with the TaskMetadata of a supervised task that has ended
            because it was started again too often, after ``on_finish``.

    `heartbeat_interval`, `stale_threshold`, `shutdown_timeout` and the three functions
    may be set later.

    Each task that fails is logged once, at ERROR, to the logger "pyasynclife"; the
    record's ``task_id`` is its id. The registry binds to the loop on which it is first
    used. Once it is empty and that loop is closed, it can bind to another.

    ``len(registry)`` is the number of live tasks, ``task_id in registry`` is whether a
    task is alive, and an iteration yields the ids of the live tasks in the order of
    their registration. ``registry[task_id]`` is the TaskMetadata of a task that is
    alive or in the history; for any other id it raises UnknownTaskError.

    Example::

        async with TaskRegistry() as registry:
            task, task_id = await registry.register(worker(), "worker")
            ...
    """

    __slots__ = (
        "__weakref__",
        "_batches",
        "_coordinators",
        "_deadlines",
        "_heartbeat_interval",
        "_monitor",
        "_on_finish",
        "_on_give_up",
        "_on_stale",
        "_recording",
        "_shutdown_timeout",
    )

    _heartbeat_interval: float
    _shutdown_timeout: float
    _on_stale: Callable[[TaskMetadata], object] | None
    _on_finish: Callable[[TaskMetadata], object] | None
    _on_give_up: Callable[[TaskMetadata], object] | None
    # The SignalCoordinators that have this registry, for the end of a vital task.
    _coordinators: weakref.WeakSet[Any]
    _monitor: asyncio.Task[None] | None
    _recording: Recording | None
    _batches: weakref.WeakSet[Any]  # batches and pools whose items' tasks it has
    _deadlines: ShutdownDeadlines

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
        on_give_up: Callable[[TaskMetadata], object] | None = None,
    ) -> None:
        check_hook("on_finish", on_finish)
        check_hook("on_stale", on_stale)
        check_hook("on_give_up", on_give_up)
        interval = _check_interval(heartbeat_interval)
        threshold = check_seconds("stale_threshold", stale_threshold)
        timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        self._configure(
            check_size("history", history),
            check_flag("keep_results", keep_results),
            check_size("keep_errors", keep_errors),
            on_finish,
        )
        self._heartbeat_interval = interval
        self._stale_threshold = threshold
        self._shutdown_timeout = timeout
        self._on_stale = on_stale
        self._on_finish = on_finish
        self._on_give_up = on_give_up
        self._recording = None
        self._batches = weakref.WeakSet()
        self._coordinators = weakref.WeakSet()
        self._monitor = None
        self._deadlines = ShutdownDeadlines()

    def __repr__(self) -> str:
        """Return the type and the number of live tasks."""
        return f"<{type(self).__name__} alive={len(self)}>"

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    @property
    def heartbeat_interval(self) -> float:
        """The seconds between two checks of monitor_loop().

        A new value applies from the next check on.

        Raises:
            TypeError, ValueError: The new value is not a number of seconds above 0.
        """
        return self._heartbeat_interval

    @heartbeat_interval.setter
    def heartbeat_interval(self, value: float) -> None:
        self._heartbeat_interval = _check_interval(value)

    @property
    def stale_threshold(self) -> float:
        """The ``stale_after`` of the tasks that were registered without one.

        A new value applies at once to all of them.

        Raises:
            TypeError, ValueError: The new value is not a number of seconds.
        """
        return self._stale_threshold

    @stale_threshold.setter
    def stale_threshold(self, value: float) -> None:
        self._stale_threshold = check_seconds("stale_threshold", value)

    @property
    def shutdown_timeout(self) -> float:
        """The seconds that shutdown() waits by default.

        Raises:
            TypeError, ValueError: The new value is not a number of seconds.
        """
        return self._shutdown_timeout

    @shutdown_timeout.setter
    def shutdown_timeout(self, value: float) -> None:
        self._shutdown_timeout = check_seconds("shutdown_timeout", value)

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

    @property
    def on_finish(self) -> Callable[[TaskMetadata], object] | None:
        """The function that is called with each task that has ended, or None.

        Raises:
            TypeError: The new value is not a function, or would have to be awaited.
        """
        return self._on_finish

    @on_finish.setter
    def on_finish(self, value: Callable[[TaskMetadata], object] | None) -> None:
        check_hook("on_finish", value)
        self._on_finish = value
        self._record_to(self._recording)

    @property
    def on_give_up(self) -> Callable[[TaskMetadata], object] | None:
        """The function called with a task that is not restarted again, or None.

        Raises:
            TypeError: The new value is not a function, or would have to be awaited.
        """
        return self._on_give_up

    @on_give_up.setter
    def on_give_up(self, value: Callable[[TaskMetadata], object] | None) -> None:
        check_hook("on_give_up", value)
        self._on_give_up = value

    def supervise(
        self,
        fn: Callable[[], Coroutine[Any, Any, Any]],
        task_id: str,
        *,
        restart: Restart = "on_failure",
        restart_stale: bool = False,
        backoff: Backoff | None = None,
        max_restarts: int = 5,
        within: float = 60.0,
        vital: bool = False,
        stale_after: float | None = None,
        info: Any = None,
    ) -> Ready[str]:
        """Keep a task running: start it again when it fails, under one id.

        The first run begins at once. Each run is a Task of its own, named ``task_id``;
        there are never two at once. There is one TaskMetadata for all runs: between two
        of them it is RUNNING, its `task` is None, and it is never stale. `restarts` is
        the number of runs after the first, and `error_text` is that of the last
        failure. A failure that is followed by another run is logged at WARNING.

        cancel(), cancel_all() and shutdown() end it for good; between two runs it ends
        within that call. After complete() no other run begins.

        Args:
            fn: Called without arguments for the coroutine of each run. If it raises,
                that is a failed run.
            task_id: A non-empty str that no living task has.
            restart: When another run begins. ``"always"``: whenever a run has ended.
                ``"on_failure"``: after a run that raised an exception or was stale.
                ``"never"``: not at all.
            restart_stale: Cancel a run that has sent no heartbeat for longer than
                ``stale_after``, and start the next when it has ended. While it
                does not end, this is logged now and then, with the place where it
                waits.
            backoff: The delays between two runs; None: ``Backoff()``. After a run of
                ``max_delay`` seconds or more they start over.
            max_restarts: The maximum number of restarts in ``within`` seconds. A task
                that would need one more is not restarted.
            within: The period for ``max_restarts``, in seconds.
            vital: When the task ends by itself and is not restarted, call the
                ``request_shutdown`` of each `SignalCoordinator` that has this registry,
                by ``registry=`` or ``attach()``; if there is none, log an ERROR.
            stale_after: As for register(). The silence counts from the beginning of a
                run.
            info: Any object, for `TaskMetadata.info`.

        Returns:
            A Ready of the id.

        Raises:
            DuplicateTaskError: A living task has the id.
            ClosedError: A shutdown() is under way.
            TypeError, ValueError: An argument is wrong, or ``fn`` returned no coroutine
                in its first call.
            RuntimeError: ``fn`` returned a coroutine that has been started; or there is
                no running loop, or this is another loop or thread.

        If it raises, nothing has changed.
        """
        supervisor = Supervisor(
            self, fn, restart, restart_stale, backoff, max_restarts, within, vital
        )
        seconds = check_optional_seconds("stale_after", stale_after, None)
        if restart_stale and seconds == math.inf:
            raise ValueError(
                "restart_stale=True has no effect with stale_after=inf, which means "
                "never: pass seconds, or None for the registry's stale_threshold"
            )
        return supervisor.begin(fn, task_id, seconds, info)

    @overload
    def get(self, task_id: str) -> TaskMetadata | None: ...
    @overload
    def get(self, task_id: str, default: _D) -> TaskMetadata | _D: ...
    def get(self, task_id: str, default: Any = None) -> Any:
        """Return the metadata of a task that is alive or in the history, or a default.

        Raises:
            TypeError, ValueError: The id is not a non-empty str.
        """
        try:
            return self[task_id]
        except UnknownTaskError:
            return default

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
        """Return where all tasks wait, as text.

        Equal await chains are grouped, with their number.
        """
        tasks = [meta.task for meta in self.get_status().result().values()]
        return dump_tasks(task for task in tasks if task is not None)

    async def shutdown(self, timeout: float | None = None) -> ShutdownReport:
        """Cancel all tasks except the calling one, wait for them, and report.

        Meanwhile `closing` is true, register() raises ClosedError, and a task that is
        passed to track() is cancelled too. The call returns at the deadline even if
        some tasks are still running; then the registry may be used again. Tasks are
        cancelled in the order of their registration, a thousand at once and the next
        thousand one loop iteration later, so that the loop can go on; at the deadline,
        and when the caller is cancelled, all that are left are cancelled at once.

        Args:
            timeout: Seconds; None: ``shutdown_timeout`` or, once a signal or request
                has begun the shutdown of a coordinator of this registry, until its
                deadline, unless the coordinator's block has been left and the registry
                is in no block; ``math.inf``: no limit.

        Returns:
            The report. Tasks that are still running are listed in its ``stuck``.

        Raises:
            RuntimeError: The registry belongs to another loop or thread.

        If the caller is cancelled, the CancelledError propagates at once; the tasks
        remain cancelled. A task that did not stop is cancelled again by another call.
        """
        seconds = check_optional_seconds("timeout", timeout, None)
        loop = asyncio.get_running_loop()
        if self._monitor is None:  # no block that is to keep it
            self._deadlines.forget_if_over()
        deadline = None
        if seconds is not None:
            deadline = Deadline.after(loop, loop.time(), seconds)
        return (await shut_down(self, SHUTDOWN_AGAIN, deadline))[0]

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

    async def join(self, task_id: str, timeout: float | None = None) -> TaskMetadata:
        """Wait until one task has ended, a supervised one for good; cancel nothing.

        Args:
            task_id: The id of a task that is alive or in the history.
            timeout: Seconds; None: no limit.

        Returns:
            Its TaskMetadata, with `state`, `result` and `error`. Nothing that the task
            has raised is raised here.

        Raises:
            UnknownTaskError: No task with this id is alive or in the history.
            TimeoutError: The task still runs when the timeout expires.
            RuntimeError: The task is the calling one, or the registry belongs to
                another loop or thread.

        If the caller is cancelled, the CancelledError propagates at once; the task goes
        on.
        """
        seconds = check_optional_seconds("timeout", timeout, math.inf)
        self._bind("TaskRegistry.join()")
        meta = self[task_id]
        loop = asyncio.get_running_loop()
        if meta.task is not None and meta.task is asyncio.current_task():
            raise RuntimeError(f"task {short_id(task_id)} cannot wait for itself")
        deadline = loop.time() + seconds
        while self._is_alive(meta):
            if loop.time() >= deadline:
                await asyncio.sleep(0)  # a loop around join(0) must let others run
                if not self._is_alive(meta):
                    break
                raise TimeoutError(
                    f"task {short_id(task_id)} still runs after {seconds:g} s"
                )
            try:
                futures = self._joiners.setdefault(meta, [])
                await wait_among(futures, deadline)
            finally:
                if not futures and self._joiners.get(meta) is futures:
                    del self._joiners[meta]
        return meta

    def _is_alive(self, meta: TaskMetadata) -> bool:
        # A registration may have been undone.
        return meta.finished_at is None and self.get(meta.task_id) is meta

    def _others_alive(self) -> bool:
        current = asyncio.current_task()
        known = current is not None and self._find(current) is not None
        return len(self) > known

    async def serve(self, path: str | os.PathLike[str]) -> None:
        """Answer `top` and `tasks` on a Unix socket until cancelled.

        Args:
            path: Where the socket's file is made, with mode 0600, and removed at the
                end. A file that a dead process has left there is replaced.

        Raises:
            OSError: A living process serves there, the path is not a socket or has more
                than 107 bytes, or the system refuses it.
            RuntimeError: The registry belongs to another loop or thread.

        Only processes of the same user are answered. They see ids, states, the lines at
        which tasks wait and the text of errors, and may cancel a task. An answer about
        many tasks is made in slices, between which the loop goes on::

            async with TaskRegistry() as registry, asyncio.TaskGroup() as group:
                group.create_task(registry.serve("/run/feeds/monitor.sock"))
                ...

        Then ``python -m pyasynclife top /run/feeds/monitor.sock`` shows the tasks.
        """
        where = check_path(path)
        self._bind("TaskRegistry.serve()")
        await serve([self], where)

    def record(self, path: str | os.PathLike[str]) -> Recording:
        """Return a block that writes the life of each task to a file, as a timeline.

        Only ``async with`` opens the file and begins to record; the call alone does
        nothing. The block may be entered at any time. Around the block of the registry,
        it also records the tasks that the shutdown cancels::

            registry = TaskRegistry()
            async with registry.record("tasks.json"), registry:
                ...

        The file has Chrome trace events; https://ui.perfetto.dev shows it. Each task is
        a row with its id, written when the task has ended. Its bar has the name of its
        state. Each run of a supervised task is a bar, and each restart a mark with the
        reason. A task that is older than the recording begins when it was registered,
        and one that is alive at the end of the block is written then. The monitor adds
        the periods in which a task was stale, accurate to ``heartbeat_interval``.

        Args:
            path: A file; if it exists, it is overwritten.

        Raises:
            OSError: The file cannot be written, or another recording, also of another
                process, writes it; from ``async with``.
            RuntimeError: The registry is recorded already, or belongs to another loop
                or thread; from ``async with``.

        If an error of the disk comes later, it is passed to the loop's exception
        handler, the recording stops, and the tasks go on. The file is complete JSON
        whenever something has been written: after 64 KiB, and by each check of the
        monitor. Nothing is kept of tasks that have ended.
        """
        return Recording(self, check_path(path))

    def _record_to(self, recording: Recording | None) -> None:
        """Have a recording called at the end of each task, before ``on_finish``."""
        self._recording = recording
        on_finish = self._on_finish

        def note(meta: TaskMetadata) -> object:
            assert recording is not None
            recording.note_end(meta)
            return None if on_finish is None else on_finish(meta)

        self._set_on_finish(on_finish if recording is None else note)

    async def monitor_loop(self) -> None:
        """Check for stale tasks every ``heartbeat_interval`` seconds until cancelled.

        A task that has become stale is logged at WARNING and passed to ``on_stale``,
        once per period of silence. Exceptions of ``on_stale`` go to the loop's
        exception handler. ``async with registry`` runs this in a task.

        While the loop is blocked, healthy tasks cannot send heartbeats. So before a
        task counts as stale, all tasks get a few iterations of the loop and, if the
        check itself came late, as much time as it was late, at most
        ``heartbeat_interval``. A check that comes more than half a second late is
        logged at WARNING, with the seconds.

        Raises:
            RuntimeError: The registry belongs to another loop or thread.
        """
        self._bind("TaskRegistry.monitor_loop()")
        while True:
            late = await sleep_and_measure(self.heartbeat_interval)
            if is_late(late):
                logger.warning("the event loop stood still for %.3f s", late)
            if self.get_stale_tasks().result():
                await let_tasks_run(min(late, self.heartbeat_interval))
            for coordinator in list(self._coordinators):
                coordinator._warn_displaced()
            newly_stale = self._newly_stale()
            recording = self._recording
            if recording is not None:
                recording.note_stale(newly_stale)
            for meta in newly_stale:
                logger.warning(
                    "task %s is stale: no heartbeat for %.1f s",
                    cut(meta.task_id, 120),
                    meta.silence,
                    extra={"task_id": meta.task_id},
                )
                if self._on_stale is not None:
                    self._call_hook("on_stale", self._on_stale, meta)
            if recording is not None:
                await recording.note_check()

    def _call_hook(
        self, name: str, hook: Callable[[TaskMetadata], object], meta: TaskMetadata
    ) -> None:
        try:
            check_answer(name, hook(meta))
        except Exception as error:
            about: dict[str, Any] = {
                "message": f"{name} of {self!r} failed for task "
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
        self._deadlines.forget_if_over()
        monitor = self.monitor_loop()
        self._monitor = asyncio.create_task(monitor, name="pyasynclife monitor")
        close_with(self._monitor, monitor)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the monitor and shut down; log the tasks that did not stop.

        Once a signal or request has begun the shutdown of a coordinator of this
        registry, its deadline holds, in place of ``shutdown_timeout``. A task that an
        earlier shutdown has cancelled is not cancelled again, and one that was reported
        as stuck is neither awaited nor logged again.

        If the caller is cancelled, the CancelledError propagates once the monitor has
        ended; the tasks remain cancelled. If a CancelledError has left the body, that
        one propagates.
        """
        with absorbing_after(*exc):
            await self._leave()

    async def _leave(self) -> None:
        monitor, self._monitor = self._monitor, None
        assert monitor is not None
        monitor.cancel()
        try:
            report, news = await shut_down(self, SHUTDOWN_UNREPORTED, None)
        finally:
            self._deadlines.forget_any()
            if not monitor.done():
                await asyncio.wait([monitor])
        if news:
            logger.error("%s", report)


def _check_interval(value: Any) -> float:
    return check_seconds("heartbeat_interval", value, zero=False)


adopt_methods(TaskRegistry)  # this takes a tenth off the cost of a heartbeat
