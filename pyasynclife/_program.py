"""A program of run(): its main coroutine, and the end of everything else."""

from __future__ import annotations

import _thread
import asyncio
import inspect
import math
import signal
import threading
import time
from collections.abc import Coroutine
from typing import Any

from pyasynclife import _signals
from pyasynclife._arguments import short
from pyasynclife._core import Watchdog, end_process
from pyasynclife._forced_end import (
    describe_tasks,
    describe_threads,
    flush_everything,
    flush_stdio,
    other_threads,
    print_error,
)
from pyasynclife._registry import TaskRegistry
from pyasynclife._shutdown import SignalCoordinator

# Seconds after the deadline. At the deadline the loop ends the process; if the loop is
# blocked or closed, a Python thread does; if no Python code runs, the watchdog does.
_THREAD_LATE = 0.1
_WATCHDOG_LATE = 0.25

# What a forced end flushes gets as many seconds, before the watchdog ends the process.
_FLUSH = 1.0


class Program:
    """The body of `run`, and its end.

    Main runs in the Task of the body, so that `asyncio.all_tasks` shows what it would
    show under `asyncio.run`. What begins the end, cancels main and ends the process at
    the deadline are therefore callbacks.
    """

    def __init__(
        self,
        main: Any,
        takes_both: bool,
        timeout: float,
        drain: float,
        force_exit: bool,
    ) -> None:
        self._main = main
        self._takes_both = takes_both
        self._timeout = timeout
        self._drain = drain
        self._registry = TaskRegistry(shutdown_timeout=timeout)
        self._coordinator = SignalCoordinator(
            timeout,
            registry=self._registry,
            force_exit=force_exit,
            kill_after=timeout + _WATCHDOG_LATE,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._own: set[asyncio.Task[Any]] = set()
        self._rest: asyncio.Task[None] | None = None  # shuts down the other tasks
        self._main_runs = False
        self._stuck = False  # something did not end by the deadline
        self._signum: int | None = None  # that ends the process at the deadline
        self._watchdog: Watchdog | None = None
        self._before = set(other_threads())
        self._has_thread = False
        self._ended = threading.Event()
        self._ending = threading.Lock()  # taken by the thread that ends the process

    async def body(self) -> Any:
        """Run main, then end everything else."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._coordinator._on_begin = self._begin
        self._coordinator._on_wake = self._start_thread
        try:
            with self._coordinator:
                self._watchdog = self._coordinator._handlers.watchdog
                try:
                    return await self._run_main()
                finally:
                    await self._end()
        finally:
            self._coordinator._on_begin = self._coordinator._on_wake = None
            self._coordinator._main = None
            if not self._stuck and self._before.issuperset(other_threads()):
                self._ended.set()
                if self._watchdog is not None:
                    self._watchdog.cancel()  # the process may go on

    def close(self, runner: asyncio.Runner, sets_loop: bool) -> None:
        """Close the loop, once `body` has ended."""
        loop, task = self._loop, self._task
        if loop is None or task is None:
            runner.close()
            return
        if not task.done():  # SystemExit or KeyboardInterrupt has stopped the loop
            task.cancel()
            try:
                loop.run_until_complete(task)
            except (Exception, asyncio.CancelledError):
                pass  # the exit is being raised
        if not self._stuck:
            runner.close()
            return
        if sets_loop:
            asyncio.set_event_loop(None)
        loop.close()  # the runner would wait for the stuck tasks for ever

    # ------------------------------------------------------------ main

    async def _run_main(self) -> Any:
        assert self._task is not None
        self._main_runs = True
        try:
            if not self._takes_both:
                return await self._call_main()
            await self._registry.__aenter__()
            return await self._call_main(self._coordinator, self._registry)
        except asyncio.CancelledError:
            if self._signum is None:
                raise
            return None
        finally:
            while self._task.cancelling():
                self._task.uncancel()

    async def _call_main(self, *arguments: Any) -> Any:
        try:
            coro = self._main
            if callable(coro):
                coro = coro(*arguments)
                if not inspect.isawaitable(coro):
                    raise TypeError(f"main must return a coroutine, got {short(coro)}")
            return await coro
        finally:
            self._main_runs = False
            if self._coordinator.deadline is None:
                self._coordinator.request_shutdown("main has ended")

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """Begin the shutdown; the coordinator calls this in the loop, once."""
        assert self._loop is not None
        if signum is None and not self._main_runs:
            return  # main has ended by itself
        self._signum = signal.SIGTERM if signum is None else signum
        deadline = self._coordinator.deadline
        if self._watchdog is not None and deadline is not None:
            self._watchdog.begin(self._signum, seconds_ago)
            self._loop.call_at(deadline, self._kill)
            self._start_thread()
        wait = self._drain - seconds_ago
        if wait > 0:
            assert self._task is not None
            self._coordinator._main = self._task, self._loop.time() + wait
            self._loop.call_later(wait, self._cancel_main)
        else:
            self._cancel_main()

    def _cancel_main(self) -> None:
        assert self._loop is not None
        assert self._task is not None
        if self._main_runs:
            self._task.cancel()
        deadline = self._coordinator.deadline
        if deadline is not None and deadline != math.inf:
            half = (self._loop.time() + deadline) / 2
            self._loop.call_at(half, self._shut_down_rest)

    # ------------------------------------------------------------ the end

    def _start(self, coro: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        assert self._loop is not None
        task = self._loop.create_task(coro, name=f"pyasynclife {name}")
        self._own.add(task)
        return task

    async def _end(self) -> None:
        """End all that is left; a cancellation does not interrupt this."""
        assert self._task is not None
        self._main_runs = False
        ending = self._start(self._end_all(), "end")
        while not ending.done():
            try:
                await asyncio.wait([ending])
            except asyncio.CancelledError:
                self._task.uncancel()
        ending.result()

    async def _end_all(self) -> None:
        assert self._loop is not None
        await asyncio.wait([self._shut_down_rest()])
        if self._takes_both:
            await self._registry.__aexit__(None, None, None)
        closing = self._start(self._loop.shutdown_asyncgens(), "asyncgens")
        await self._wait_for(closing)
        joining = self._start(self._loop.shutdown_default_executor(), "executor")
        await self._wait_for(joining)
        if self._stuck and self._signum is None:
            print_error(self._describe(f"main has ended {self._timeout:g} s ago"))

    async def _wait_for(self, task: asyncio.Task[None]) -> None:
        assert self._loop is not None
        deadline = self._coordinator.deadline
        assert deadline is not None
        left = None
        if deadline != math.inf:
            left = max(deadline - self._loop.time(), _THREAD_LATE)
        done, _ = await asyncio.wait([task], timeout=left)
        if not done:
            self._stuck = True
        elif not task.cancelled() and (error := task.exception()) is not None:
            self._report_error(error, task)

    def _shut_down_rest(self) -> asyncio.Task[None]:
        """Cancel all other tasks, once."""
        if self._rest is None:
            self._rest = self._start(self._cancel_rest(), "shutdown")
        return self._rest

    async def _cancel_rest(self) -> None:
        """Cancel the other tasks, and those that they start meanwhile."""
        seen: set[asyncio.Task[Any]] = set()
        while rest := self._others() - seen:
            seen |= rest
            report = await self._coordinator.graceful_shutdown(rest)
            self._stuck |= bool(report.stuck)
            for one in report.failed:
                if one.task_id is None and one.error is not None:
                    self._report_error(one.error, None)
            if self._stuck:
                break

    def _others(self) -> set[asyncio.Task[Any]]:
        tasks = asyncio.all_tasks(self._loop) - self._own
        return {task for task in tasks if task is not self._task}

    def _report_error(
        self, error: BaseException, task: asyncio.Task[Any] | None
    ) -> None:
        assert self._loop is not None
        about: dict[str, Any] = {
            "message": "unhandled exception during the shutdown of run()",
            "exception": error,
        }
        if task is not None:
            about["task"] = task
        self._loop.call_exception_handler(about)

    # ------------------------------------------------------------ the deadline

    def _start_thread(self) -> None:
        """Have a thread keep the deadline, too, once a signal has come.

        A signal handler may call this, so it takes no lock.
        """
        if self._watchdog is None or not self._watchdog.signum or self._has_thread:
            return
        self._has_thread = True
        try:
            _thread.start_new_thread(self._kill_from_thread, ())
        except RuntimeError:
            pass  # no more threads: the loop and the watchdog are left

    def _kill_from_thread(self) -> None:
        assert self._watchdog is not None
        due = self._watchdog.due - _WATCHDOG_LATE + _THREAD_LATE
        if not self._ended.wait(max(due - time.monotonic(), 0.0)):
            self._kill()

    def _kill(self) -> None:
        """End the process; called at the deadline, in the loop or in a thread."""
        if self._ended.is_set() or not self._ending.acquire(blocking=False):
            return
        assert self._watchdog is not None
        signum = self._watchdog.signum
        name = _signals.name_of(signum)
        self._watchdog.postpone(_FLUSH)
        try:
            flush_stdio()
            print_error(
                self._describe(
                    f"the process still runs {self._timeout:g} s after {name}: it is "
                    f"ended by {name}"
                )
            )
            flush_everything()
        except BaseException as error:
            print_error(f"{type(error).__name__}: {error}")
        finally:
            end_process(signum)

    def _describe(self, reason: str) -> str:
        """Return a report on the tasks and threads that still run."""
        try:
            tasks = self._others()
        except RuntimeError:
            tasks = set()  # the loop's thread starts tasks all the time
        if self._main_runs and self._task is not None:
            tasks.add(self._task)
        threads = set(other_threads()) - self._before
        if threading.current_thread() is not threading.main_thread():
            threads.add(threading.main_thread())
        return "\n".join(
            [
                f"pyasynclife: {reason}",
                *describe_tasks(tasks, self._registry),
                *describe_threads(threads),
            ]
        )
