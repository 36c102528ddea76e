"""SignalCoordinator: events from signals, and a shutdown that meets its deadline."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Literal, Self

from pyasynclife import _signals
from pyasynclife._arguments import (
    check_count,
    check_flag,
    check_hook,
    check_optional_seconds,
    check_optional_type,
    check_seconds,
    check_tasks,
)
from pyasynclife._attached import Attachments
from pyasynclife._batch import Batch
from pyasynclife._core import SHUTDOWN_ONCE, SHUTDOWN_UNREPORTED, TaskGroup
from pyasynclife._log import logger
from pyasynclife._passed_tasks import PassedTasks
from pyasynclife._pool import TaskPool
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import refuse_pickling
from pyasynclife._signal_events import Reloads, SignalEvents, note_ending
from pyasynclife._waiting import GRACE, Deadline, absorbing_after

Phase = Literal["running", "draining", "cancelling", "stopped"]


class SignalCoordinator(SignalEvents):
    """Turn SIGTERM, SIGINT and SIGHUP into events, and shut down gracefully.

    Args:
        shutdown_timeout: Seconds from the first signal to the deadline.
        shutdown_signals: The signals that begin the shutdown; None: SIGTERM and SIGINT.
        reload_signals: The signals that request a reload; None: SIGHUP, if the platform
            has it. That default is handled only once reloads are asked for, by
            `reload_event`, `wait_for_reload` or `reloads`; until then SIGHUP has the
            effect that it had before.
        callbacks: Other signals, each with a function that is called in the loop with
            the signal; once for all that arrived while the loop was busy.
        take_ignored: Handle a signal even if the process ignores it (``nohup``).
        registry: The registry whose tasks `graceful_shutdown` cancels: it is attached,
            with the order 0.
        required: If False, `setup_handlers` only logs, at DEBUG, that signals cannot be
            handled: in another thread (Starlette's TestClient), or on Windows.
        lame_duck: Seconds from the signal or request until the existing handler of a
            host is called: uvicorn, for example, goes on serving while a probe already
            finds that `ready` is False. A second SIGINT, and `remove_handlers`, end it.
        drain: Seconds from the signal or request during which `graceful_shutdown`
            cancels nothing, unless all that is attached has ended.
        cancel_on_signal: Cancel what is attached at the end of ``drain`` even if
            `graceful_shutdown` has not been called by then.
        force_exit: End the process at the third SIGINT, by that signal, after a dump of
            all threads and tasks on stderr.
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

    A SIGINT that comes more than 0.3 s after the first signal ends ``drain`` and
    cancels what is attached. If no `graceful_shutdown` is under way, it also does what
    SIGINT did before: asyncio.run() cancels its main task. So Ctrl-C twice always ends
    a program. Other signals after the first have no effect.

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
        callbacks: Mapping[int, Callable[[int], object]] | None = None,
        take_ignored: bool = False,
        registry: TaskRegistry | None = None,
        required: bool = True,
        lame_duck: float = 0.0,
        drain: float = 0.0,
        cancel_on_signal: bool = False,
        force_exit: bool = False,
        kill_after: float | None = None,
        on_signal: Callable[[int, int], object] | None = None,
    ) -> None:
        check_hook("on_signal", on_signal)
        check_optional_type("registry", registry, TaskRegistry)
        self._shutdown_timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        kill = check_optional_seconds("kill_after", kill_after, math.inf, zero=False)
        self._drain = check_seconds("drain", drain)
        lame = check_seconds("lame_duck", lame_duck)
        for name, seconds in (("drain", self._drain), ("lame_duck", lame)):
            if seconds > self._shutdown_timeout:
                raise ValueError(
                    f"{name} must not be longer than shutdown_timeout, which includes "
                    f"it, got {seconds} and {self._shutdown_timeout}"
                )
        super().__init__(
            shutdown_signals,
            reload_signals,
            take_ignored,
            None if kill == math.inf else kill,
            on_signal,
            callbacks=callbacks,
            required=required,
            force_exit=force_exit,
            lame_duck=lame,
        )
        self._cancel_on_signal = check_flag("cancel_on_signal", cancel_on_signal)
        self._registry = registry
        self._attached = Attachments()
        if registry is not None:
            self._attached.add(registry, 0)
            registry._coordinators.add(self)
        self._phase: Phase = "running"
        self._signum: int | None = None
        self._deadline: Deadline | None = None  # from a signal or request
        self._called: Deadline | None = None  # from graceful_shutdown() without one
        self._passed = PassedTasks(self._attached)
        self._on_begin: Callable[[int | None, float], object] | None = None  # of run()
        # The task of run() in which main runs, and when it will be cancelled.
        self._main: tuple[asyncio.Task[Any], float] | None = None
        self._caller: asyncio.Task[Any] | None = None
        self._calls = 0  # of graceful_shutdown() that are under way
        self._shutdowns = 0  # how many are over: the calls of those count no more
        self._started: float | None = None  # loop time of the signal or request
        self._drain_until: float | None = None  # loop time, from the beginning on
        self._drains: set[asyncio.Timeout] = set()  # of calls that wait for its end
        self._drain_timer: asyncio.TimerHandle | None = None
        self._lame_timer: asyncio.TimerHandle | None = None
        self._hurried = False  # a second SIGINT has come
        self._cancelling = False  # what is attached has been cancelled
        self._sequence: asyncio.Task[None] | None = None  # cancels one after another

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
        """The Event that a reload signal sets; `wait_for_reload` clears it.

        Reading it counts as asking for reloads: see ``reload_signals``.
        """
        self._bind()
        self._ask_for_reloads()
        return self._reload

    @property
    def phase(self) -> Phase:
        """``"running"``, ``"draining"``, ``"cancelling"`` or ``"stopped"``."""
        if self._phase == "running" and (
            self._shutdown.is_set()
            or self._rung > 0
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
        self._note_beginning(signum)
        due = self._loop.time() - seconds_ago + self._shutdown_timeout
        grace = min(GRACE, self._shutdown_timeout)
        self._deadline = Deadline(due, due, grace, self._loop)
        for registry in self._attached.registries():
            registry._deadlines.follow(self._deadline)
        if self._phase == "running":
            self._phase = "draining"
        self._set_shutdown()
        if self._on_begin is not None:
            self._on_begin(signum, seconds_ago)
        if signum is not None:
            logger.info("%s: shutting down", _signals.name_of(signum))
        else:
            logger.info("shutting down: %s", self.reason or "requested")
        self._attached.begin()
        self._attached.stop()
        self._started = began = self._loop.time() - seconds_ago
        if self._holds and self._lame_duck != math.inf:
            self._lame_timer = self._loop.call_at(
                began + self._lame_duck, self._lame_duck_is_over
            )
        self._drain_until = began + self._drain
        if self._cancel_on_signal and self._drain != math.inf:
            self._drain_timer = self._loop.call_at(
                self._drain_until, self._cancel_by_itself
            )

    def _lame_duck_is_over(self) -> None:
        self._end_lame_duck()
        self._deliver()  # what the hosts' handlers have raised

    def _cancel_by_itself(self) -> None:
        """Cancel what is attached, though no `graceful_shutdown` may be under way."""
        assert self._loop is not None
        assert self._deadline is not None
        if self._calls:
            return  # it cancels
        if len({one.order for one in self._attached}) > 1:
            self._sequence = self._loop.create_task(
                self._attached.cancel_in_order(self._deadline),
                name="pyasynclife shutdown",
            )
            self._begin_cancelling()
        else:
            self._cancel_attached(None)

    def _cancel_attached(self, caller: asyncio.Task[Any] | None) -> None:
        self._begin_cancelling()
        if self._attached.cancel(caller) and self._deadline is not None:
            self._deadline.extend(self._deadline.loop.time())

    def _begin_cancelling(self) -> None:
        self._cancelling = True
        if self._phase != "stopped":
            self._phase = "cancelling"

    def _climb(self, rung: int) -> None:
        """Do what a second SIGINT does, in the loop."""
        if rung >= 2 and not self._hurried:
            self._hurried = True
            self._end_lame_duck()
            for waiting in self._drains:
                waiting.reschedule(-math.inf)
            self._cancel_attached(self._caller)
        if signal.SIGINT in self._shutdown_signals:
            _signals.announce(self._next_rung(rung))

    def _next_rung(self, rung: int) -> str:
        """Say what the present step does, and what the next SIGINT will do."""
        if rung == 1:
            return "Ctrl-C again cancels everything at once"
        if self._force_exit:
            return "cancelling everything; Ctrl-C again ends the process"
        if self._calls and self._deadline is not None and self._loop is not None:
            left = max(0.0, self._deadline.until - self._loop.time())
            return f"cancelling everything; the deadline is in {left:.1f} s"
        return "cancelling everything; Ctrl-C again interrupts the program"

    def _is_ending(self) -> bool:
        return self._calls > 0

    def _enter(self) -> None:
        super()._enter()
        for registry in self._attached.registries():
            registry._deadlines.forget_if_over()

    def _leave(self) -> None:
        try:
            super()._leave()
        finally:
            self._end_sequence()
        self._over = self._phase != "running"
        if self._deadline is not None:
            self._deadline.over = True

    def _end_sequence(self) -> None:
        """Let what is attached run again; nothing cancels it by itself any more."""
        timer, self._drain_timer = self._drain_timer, None
        if timer is not None:
            timer.cancel()
        if not self._holds and self._lame_timer is not None:
            self._lame_timer.cancel()
            self._lame_timer = None
        sequence, self._sequence = self._sequence, None
        if sequence is not None and not sequence.get_loop().is_closed():
            sequence.cancel()
        if not self._calls:
            self._attached.close()

    def _begin_afresh(self) -> None:
        if self._deadline is not None:
            for registry in self._attached.registries():
                registry._deadlines.forget(self._deadline)
        if self._calls:
            self._end_calls()
        super()._begin_afresh()

    def _fresh(self) -> dict[str, Any]:
        return super()._fresh() | {
            "_shutdowns": self._shutdowns + 1,
            "_started": None,
            "_drain_until": None,
            "_hurried": False,
            "_cancelling": False,
            "_phase": "running",
            "_signum": None,
            "_deadline": None,
            "_called": None,
        }

    def _end_calls(self) -> None:
        """Forget the calls of `graceful_shutdown`: the last one has ended."""
        self._calls = 0
        note_ending(self, False)
        self._caller = None
        self._end_sequence()
        self._passed.end()

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
        self._warn_displaced()
        try:
            await self._shutdown.wait()
        finally:
            self._warn_displaced()
        self._raise_exit()
        return self._signum

    async def wait_for_reload(self) -> None:
        """Wait for a reload signal and consume it.

        All signals that arrive during a reload cause one more reload.

        Raises:
            RuntimeError: The coordinator belongs to another loop.
        """
        self._bind("wait_for_reload()")
        self._ask_for_reloads()
        self._warn_displaced()
        await self._reload.wait()
        self._reload.clear()

    def reloads(self) -> AsyncIterator[int]:
        """Iterate over the reload signals, consuming them, until the shutdown begins.

        A signal that arrives several times during a reload is yielded once more. Of
        several iterators, each signal goes to one. The iteration can be left and begun
        again::

            async for signum in coordinator.reloads():
                await load_configuration()

        Raises:
            RuntimeError: The coordinator belongs to another loop; raised by the step.
        """
        self._bind()
        self._ask_for_reloads()
        return Reloads(self)

    def attach(
        self,
        what: Batch[Any] | TaskGroup | TaskPool | TaskRegistry,
        *,
        order: int = 0,
    ) -> None:
        """Let the shutdown end a batch, pool, task group or registry.

        The first signal or request calls its ``stop()``, if it has that. The end of
        ``drain`` or a second SIGINT cancels it, and `graceful_shutdown` waits for it
        and reports its tasks. It is held weakly. If a shutdown has begun already, this
        holds at once. Call it in the thread of the loop.

        Args:
            what: The object. If it is attached already, only its order changes.
            order: A lower order is cancelled and awaited first: consumers, then the
                producers that they read from.

        Raises:
            TypeError: ``what`` cannot be attached, or ``order`` is not an int.
            RuntimeError: The coordinator's loop runs in another thread. Nothing has
                changed.
        """
        self._refuse_other_threads("attach()")
        number = check_count("order", order, least=-sys.maxsize)
        one = self._attached.add(what, number)
        if isinstance(what, TaskRegistry):
            what._coordinators.add(self)
        if one is None:
            return
        if self._deadline is not None and isinstance(what, TaskRegistry):
            what._deadlines.follow(self._deadline)
        if self.phase in ("draining", "cancelling"):
            one.begin()
            self._attached.stop_one(one)
        if self._cancelling and self.phase == "cancelling":
            one.cancel(asyncio.current_task(), SHUTDOWN_ONCE)

    async def graceful_shutdown(
        self,
        tasks: Iterable[asyncio.Task[Any]] | None = None,
        *,
        timeout: float | None = None,
    ) -> ShutdownReport:
        """Cancel tasks all at once, wait for them, and report how each ended.

        Nothing is cancelled while ``drain`` lasts; it ends early when all tasks have
        ended. What runs at the signal or request and ends by itself is in the report. A
        job that is in an attached registry, too, is listed once. What is attached with
        a lower order is cancelled and awaited first.

        Many tasks are cancelled in slices, as by `TaskRegistry.shutdown`. The call
        returns at the deadline even if some tasks are still running. Tasks that are
        cancelled only then have a little longer to clean up: one second, or
        ``shutdown_timeout`` if that is less; the deadline counts as missed. The calling
        task is left out.

        A second call joins the shutdown in progress: no task is cancelled twice, and
        both calls report on all tasks. Nor does it cancel tasks that an earlier call,
        or a shutdown of an attached registry, has cancelled; it waits for them.

        Args:
            tasks: Tasks of the running loop; None: all that is attached, the registry
                first, including any tasks that are registered meanwhile.
            timeout: Seconds from now; None: until `deadline` or, if no shutdown has
                begun, ``shutdown_timeout`` from now; in the main of `run`, until just
                before that is cancelled. ``math.inf``: no limit.

        Returns:
            The report. Tasks that are still running are listed in its ``stuck``.

        Raises:
            ValueError: There are no tasks, and nothing is attached.
            TypeError: An item is not a Task. Nothing has been cancelled.
            RuntimeError: A task, or the coordinator, belongs to another loop. Nothing
                has been cancelled.

        If the caller is cancelled, the CancelledError propagates at once; the tasks
        remain cancelled.
        """
        loop = asyncio.get_running_loop()
        # First, for this closes what it refuses.
        chosen = None if tasks is None else check_tasks(tasks, loop)
        seconds = check_optional_seconds("timeout", timeout, None)
        if tasks is None and not self._attached:
            raise ValueError(
                "graceful_shutdown() has no tasks to cancel: pass tasks, create the "
                "coordinator with registry=, or call attach()"
            )
        return (await self._shut_down(chosen, seconds, SHUTDOWN_ONCE))[0]

    async def _shut_down(
        self, tasks: list[asyncio.Task[Any]] | None, seconds: float | None, whom: int
    ) -> tuple[ShutdownReport, bool]:
        """Shut down tasks, or what is attached.

        Returns:
            The report, and whether it lists a stuck task that none before has listed.
        """
        self._bind("graceful_shutdown()")
        self._deliver()  # a signal that has come already begins the drain
        self._warn_displaced()
        loop = asyncio.get_running_loop()
        now = loop.time()
        if seconds is None:
            seconds = self._seconds_of_main(now)
        if seconds is None and self._deadline is not None:
            deadline = self._deadline
        else:
            wait = self._shutdown_timeout if seconds is None else seconds
            deadline = self._called = Deadline.after(loop, now, wait)
        started = now if self._started is None else self._started
        if self._phase == "running":
            self._phase = "draining"
        self._set_shutdown()
        if tasks is None:
            self._attached.begin()
        shutdown = self._shutdowns
        self._calls += 1
        self._caller = asyncio.current_task()
        note_ending(self, True)
        try:
            await self._wait_out_drain(tasks, deadline)
            if shutdown == self._shutdowns:
                self._phase = "cancelling"
                self._cancelling |= tasks is None
            if tasks is not None:
                report, news = await self._passed.shut_down(tasks, started, deadline)
            else:
                follow = seconds is None and self._deadline is None
                report, news = await self._shut_down_attached(
                    whom, started, deadline, follow
                )
        finally:
            if shutdown == self._shutdowns:
                self._calls -= 1
                if not self._calls:
                    self._end_calls()
        if shutdown == self._shutdowns and not self._calls:
            self._phase = "stopped"
            self._over = not self._armed
        return report, news

    def _seconds_of_main(self, now: float) -> float | None:
        """Return how long a call in the main of run() may take, if that is limited.

        Main is cancelled before the deadline, and must have its report by then.
        """
        if self._main is None or self._main[0] is not asyncio.current_task():
            return None
        left = self._main[1] - now
        return left * 0.95 if left > 0 else None

    async def _wait_out_drain(
        self, tasks: list[asyncio.Task[Any]] | None, deadline: Deadline
    ) -> None:
        """Wait until drain is over, or nothing runs that is to be cancelled.

        If the caller is cancelled meanwhile, everything is cancelled.
        """
        if self._drain_until is None or self._hurried or self._cancelling:
            return
        until = min(self._drain_until, deadline.until)
        if until <= deadline.loop.time():
            return
        caller = asyncio.current_task()
        timeout = asyncio.timeout_at(None if until == math.inf else until)
        try:
            async with timeout:
                self._drains.add(timeout)
                try:
                    if tasks is None:
                        await self._attached.wait_idle()
                    elif others := [t for t in tasks if t is not caller]:
                        await asyncio.wait(others)
                finally:
                    self._drains.discard(timeout)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            if tasks is not None:
                self._passed.join(tasks)  # cancels them
            else:
                self._cancel_attached(caller)
            raise

    async def _shut_down_attached(
        self, whom: int, started: float, deadline: Deadline, follow: bool
    ) -> tuple[ShutdownReport, bool]:
        """Shut down what is attached.

        Args:
            whom: As for `shut_down` of `_registry_shutdown`.
            started: Loop time at which the shutdown began.
            deadline: When to return.
            follow: Whether it holds for the registries, too: for the end of their own
                blocks, for example.
        """
        registries = self._attached.registries() if follow else []
        for registry in registries:
            registry._deadlines.follow(deadline)
        try:
            return await self._attached.end(
                whom, started, deadline, lambda: self._hurried
            )
        finally:
            for registry in registries:
                registry._deadlines.forget(deadline)
                if self._deadline is not None:  # a signal came meanwhile
                    registry._deadlines.follow(self._deadline)

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
        if not any(exc):
            self._raise_exit()

    async def __aenter__(self) -> Self:
        """Call `setup_handlers`; after a shutdown, begin afresh.

        Then the phase is ``"running"`` again, and `received` is empty.
        """
        self._enter()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Shut down what is attached, if anything is, and remove the handlers.

        Tasks that did not stop are logged at ERROR. A task that an earlier shutdown has
        cancelled, in the block or by the registry, is not cancelled again, and one that
        was reported as stuck is neither awaited nor logged again. If the caller is
        cancelled, the handlers are removed and the CancelledError propagates at once:
        the one that has left the body, if one has.

        Raises:
            SystemExit, KeyboardInterrupt: As `wait_for_shutdown`, if that did not.
        """
        try:
            if self._attached:
                with absorbing_after(*exc):
                    whom = SHUTDOWN_UNREPORTED
                    report, news = await self._shut_down(None, None, whom)
                    if news:
                        logger.error("%s", report)
        finally:
            self._leave()
        if not any(exc):
            self._raise_exit()
