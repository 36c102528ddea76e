"""SignalCoordinator: events from signals, and a shutdown that meets its deadline."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any, Self

from pyasynclife._arguments import (
    check_count,
    check_flag,
    check_hook,
    check_optional_seconds,
    check_optional_type,
    check_seconds,
    check_tasks,
)
from pyasynclife._batch import Batch
from pyasynclife._core import SHUTDOWN_ONCE, SHUTDOWN_UNREPORTED, TaskGroup
from pyasynclife._log import logger
from pyasynclife._pool import TaskPool
from pyasynclife._registry import TaskRegistry
from pyasynclife._reloads import Reloads
from pyasynclife._report import ShutdownReport
from pyasynclife._sealed import refuse_pickling
from pyasynclife._shutdown_sequence import ShutdownSequence
from pyasynclife._shutdown_state import Phase
from pyasynclife._signal_arguments import Options, choose_signals
from pyasynclife._waiting import absorbing_after


class SignalCoordinator(ShutdownSequence):
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
        timeout = check_seconds("shutdown_timeout", shutdown_timeout)
        kill = check_optional_seconds("kill_after", kill_after, math.inf, zero=False)
        drained = check_seconds("drain", drain)
        lame = check_seconds("lame_duck", lame_duck)
        for name, seconds in (("drain", drained), ("lame_duck", lame)):
            if seconds > timeout:
                raise ValueError(
                    f"{name} must not be longer than shutdown_timeout, which includes "
                    f"it, got {seconds} and {timeout}"
                )
        chosen = choose_signals(shutdown_signals, reload_signals, callbacks)
        options = Options(
            shutdown_timeout=timeout,
            drain=drained,
            lame_duck=lame,
            kill_after=None if kill == math.inf else kill,
            on_signal=on_signal,
            shutdown_signals=chosen[0],
            reload_signals=chosen[1],
            reloads_asked=reload_signals is not None,
            callbacks=chosen[2],
            required=check_flag("required", required),
            force_exit=check_flag("force_exit", force_exit),
            take_ignored=check_flag("take_ignored", take_ignored),
            cancel_on_signal=check_flag("cancel_on_signal", cancel_on_signal),
        )
        super().__init__(options, registry)

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    # ------------------------------------------------------------ state

    @property
    def shutdown_event(self) -> asyncio.Event:
        """The Event that the first shutdown signal or request sets; never cleared."""
        self._bind()
        return self._state.event

    @property
    def reload_event(self) -> asyncio.Event:
        """The Event that a reload signal sets; `wait_for_reload` clears it.

        Reading it counts as asking for reloads: see ``reload_signals``.
        """
        self._bind()
        self._ask_for_reloads()
        return self._reloads.event

    @property
    def phase(self) -> Phase:
        """``"running"``, ``"draining"``, ``"cancelling"`` or ``"stopped"``."""
        if self._state.phase == "running" and (
            self._state.event.is_set()
            or self._state.rung > 0
            or not self._options.shutdown_signals.isdisjoint(self.received)
        ):
            return "draining"  # the loop may be too busy to deliver the signal
        return self._state.phase

    @property
    def ready(self) -> bool:
        """Whether the phase is ``"running"``, for a readiness probe."""
        return self.phase == "running"

    @property
    def deadline(self) -> float | None:
        """The loop time by which the shutdown must end; None before a shutdown."""
        if self._state.deadline is not None:
            return self._state.deadline.due
        return None if self._state.called is None else self._state.called.until

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
            await self._state.event.wait()
        finally:
            self._warn_displaced()
        self._raise_exit()
        return self._state.signum

    async def wait_for_reload(self) -> None:
        """Wait for a reload signal and consume it.

        All signals that arrive during a reload cause one more reload.

        Raises:
            RuntimeError: The coordinator belongs to another loop.
        """
        self._bind("wait_for_reload()")
        self._ask_for_reloads()
        self._warn_displaced()
        await self._reloads.event.wait()
        self._reloads.event.clear()

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
        if self._state.deadline is not None and isinstance(what, TaskRegistry):
            what._deadlines.follow(self._state.deadline)
        if self.phase in ("draining", "cancelling"):
            one.begin()
            self._attached.stop_one(one)
        if self._state.cancelling and self.phase == "cancelling":
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
        cancelled only then have a little longer to clean up: one second, or ``timeout``
        (without it ``shutdown_timeout``) if that is less; the deadline counts as
        missed. The calling task is left out.

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
