"""The sequence of a shutdown: its beginning, drain, cancellation, wait and end."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable
from typing import Any

from pyasynclife import _signals
from pyasynclife._attached import Attachments
from pyasynclife._log import logger
from pyasynclife._passed_tasks import PassedTasks
from pyasynclife._registry import TaskRegistry
from pyasynclife._report import ShutdownReport
from pyasynclife._signal_arguments import Options
from pyasynclife._signal_delivery import note_ending
from pyasynclife._signal_setup import SignalSetup
from pyasynclife._waiting import GRACE, Deadline


class ShutdownSequence(SignalSetup):
    """Shut down what is attached, step by step, and meet the deadline.

    A signal or request begins it. The end of ``drain``, a second SIGINT or a call of
    `graceful_shutdown` cancels; only a call waits and reports.
    """

    def __init__(self, options: Options, registry: TaskRegistry | None) -> None:
        super().__init__(options)
        self._registry = registry  # kept alive: what is attached is held weakly
        self._attached = Attachments()
        if registry is not None:
            self._attached.add(registry, 0)
            registry._coordinators.add(self)
        self._passed = PassedTasks(self._attached)
        self._on_begin: Callable[[int | None, float], object] | None = None  # of run()
        # The task of run() in which main runs, and when it will be cancelled.
        self._main: tuple[asyncio.Task[Any], float] | None = None
        self._caller: asyncio.Task[Any] | None = None
        self._calls = 0  # of graceful_shutdown() that are under way
        self._drains: set[asyncio.Timeout] = set()  # of calls that wait for its end
        self._drain_timer: asyncio.TimerHandle | None = None
        self._lame_timer: asyncio.TimerHandle | None = None
        self._sequence: asyncio.Task[None] | None = None  # cancels one after another

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """Begin the shutdown at the first signal or request; ignore later ones."""
        assert self._loop is not None
        if self._state.deadline is not None:
            return
        self._state.signum = signum
        self._note_beginning(signum)
        due = self._loop.time() - seconds_ago + self._options.shutdown_timeout
        grace = min(GRACE, self._options.shutdown_timeout)
        self._state.deadline = Deadline(due, due, grace, self._loop)
        for registry in self._attached.registries():
            registry._deadlines.follow(self._state.deadline)
        if self._state.phase == "running":
            self._state.phase = "draining"
        self._set_shutdown()
        if self._on_begin is not None:
            self._on_begin(signum, seconds_ago)
        if signum is not None:
            logger.info("%s: shutting down", _signals.name_of(signum))
        else:
            logger.info("shutting down: %s", self.reason or "requested")
        self._attached.begin()
        self._attached.stop()
        self._state.started = began = self._loop.time() - seconds_ago
        if self._state.holds and self._options.lame_duck != math.inf:
            self._lame_timer = self._loop.call_at(
                began + self._options.lame_duck, self._lame_duck_is_over
            )
        self._state.drain_until = began + self._options.drain
        if self._options.cancel_on_signal and self._options.drain != math.inf:
            self._drain_timer = self._loop.call_at(
                self._state.drain_until, self._cancel_by_itself
            )

    def _lame_duck_is_over(self) -> None:
        self._end_lame_duck()
        self._deliver()  # what the hosts' handlers have raised

    def _cancel_by_itself(self) -> None:
        """Cancel what is attached, though no `graceful_shutdown` may be under way."""
        assert self._loop is not None
        assert self._state.deadline is not None
        if self._calls:
            return  # it cancels
        if len({one.order for one in self._attached}) > 1:
            self._sequence = self._loop.create_task(
                self._attached.cancel_in_order(self._state.deadline),
                name="pyasynclife shutdown",
            )
            self._begin_cancelling()
        else:
            self._cancel_attached(None)

    def _cancel_attached(self, caller: asyncio.Task[Any] | None) -> None:
        self._begin_cancelling()
        if self._attached.cancel(caller) and self._state.deadline is not None:
            self._state.deadline.extend(self._state.deadline.loop.time())

    def _begin_cancelling(self) -> None:
        self._state.cancelling = True
        if self._state.phase != "stopped":
            self._state.phase = "cancelling"

    def _climb(self, rung: int) -> None:
        """Do what a second SIGINT does, in the loop."""
        if rung >= 2 and not self._state.hurried:
            self._state.hurried = True
            self._end_lame_duck()
            for waiting in self._drains:
                waiting.reschedule(-math.inf)
            self._cancel_attached(self._caller)
        if signal.SIGINT in self._options.shutdown_signals:
            _signals.announce(self._next_rung(rung))

    def _next_rung(self, rung: int) -> str:
        """Say what the present step does, and what the next SIGINT will do."""
        if rung == 1:
            return "Ctrl-C again cancels everything at once"
        if self._options.force_exit:
            return "cancelling everything; Ctrl-C again ends the process"
        if self._calls and self._state.deadline is not None and self._loop is not None:
            left = max(0.0, self._state.deadline.until - self._loop.time())
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
        self._state.over = self._state.phase != "running"
        if self._state.deadline is not None:
            self._state.deadline.over = True

    def _end_sequence(self) -> None:
        """Let what is attached run again; nothing cancels it by itself any more."""
        timer, self._drain_timer = self._drain_timer, None
        if timer is not None:
            timer.cancel()
        if not self._state.holds and self._lame_timer is not None:
            self._lame_timer.cancel()
            self._lame_timer = None
        sequence, self._sequence = self._sequence, None
        if sequence is not None and not sequence.get_loop().is_closed():
            sequence.cancel()
        if not self._calls:
            self._attached.close()

    def _begin_afresh(self) -> None:
        if self._state.deadline is not None:
            for registry in self._attached.registries():
                registry._deadlines.forget(self._state.deadline)
        if self._calls:
            self._end_calls()
        super()._begin_afresh()

    def _end_calls(self) -> None:
        """Forget the calls of `graceful_shutdown`: the last one has ended."""
        self._calls = 0
        note_ending(self, False)
        self._caller = None
        self._end_sequence()
        self._passed.end()

    # ------------------------------------------------------------ the calls

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
        if seconds is None and self._state.deadline is not None:
            deadline = self._state.deadline
        else:
            wait = self._options.shutdown_timeout if seconds is None else seconds
            deadline = self._state.called = Deadline.after(loop, now, wait)
        started = now if self._state.started is None else self._state.started
        if self._state.phase == "running":
            self._state.phase = "draining"
        self._set_shutdown()
        if tasks is None:
            self._attached.begin()
        state = self._state
        self._calls += 1
        self._caller = asyncio.current_task()
        note_ending(self, True)
        try:
            await self._wait_out_drain(tasks, deadline)
            if state is self._state:
                self._state.phase = "cancelling"
                self._state.cancelling |= tasks is None
            if tasks is not None:
                report, news = await self._passed.shut_down(tasks, started, deadline)
            else:
                follow = seconds is None and self._state.deadline is None
                report, news = await self._shut_down_attached(
                    whom, started, deadline, follow
                )
        finally:
            if state is self._state:
                self._calls -= 1
                if not self._calls:
                    self._end_calls()
        if state is self._state and not self._calls:
            self._state.phase = "stopped"
            self._state.over = not self._handlers.armed
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
        state = self._state
        if state.drain_until is None or state.hurried or state.cancelling:
            return
        until = min(state.drain_until, deadline.until)
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
                whom, started, deadline, lambda: self._state.hurried
            )
        finally:
            for registry in registries:
                registry._deadlines.forget(deadline)
                if self._state.deadline is not None:  # a signal came meanwhile
                    registry._deadlines.follow(self._state.deadline)
