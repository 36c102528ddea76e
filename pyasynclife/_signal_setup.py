"""The handlers of a SignalCoordinator: in its block, its loop and its process."""

from __future__ import annotations

import asyncio
import contextvars
import os
import time
from contextlib import suppress
from typing import Any

from pyasynclife import _signals
from pyasynclife._core import SignalHandler
from pyasynclife._errors import SignalSetupError
from pyasynclife._handler_chain import log_displaced
from pyasynclife._log import logger
from pyasynclife._shutdown_state import ShutdownState, same_state
from pyasynclife._signal_arguments import Options
from pyasynclife._signal_delivery import SignalDelivery
from pyasynclife._signal_events import SignalEvent, is_request


class SignalSetup(SignalDelivery):
    """Set handlers up and remove them, and bind to the loop that delivers.

    It belongs to one loop and one process at a time. The next loop, once that one is
    closed, takes over what has not been delivered; a forked child forgets it.
    """

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._reloads_asked = options.reloads_asked
        self._entered = False
        self._entered_in: asyncio.AbstractEventLoop | None = None

    @property
    def received(self) -> dict[int, int]:
        """How many times each signal was received: a snapshot; 0 for any other.

        A signal that a host raises again when its own shutdown is done counts once.
        """
        return self._handlers.counts()

    @property
    def reason(self) -> str | None:
        """The text of what was first passed to `request_shutdown`, or None."""
        events = self._queue.events.copy()  # first: they may be delivered meanwhile
        first = self._state.request or next(filter(is_request, events), None)
        return None if first is None else first.reason

    def request_shutdown(self, reason: object = None) -> None:
        """Begin the shutdown without a signal, from any thread, on any platform.

        Args:
            reason: Text for the log and `reason`; only the first call's is used. Of
                another object it is ``str()``. So the end of a task can be a request:
                ``task.add_done_callback(coordinator.request_shutdown)``.
        """
        self._check_process()
        # The clock first: another thread may run during the call.
        event = SignalEvent(time.monotonic(), None, reason=_text_of(reason))
        self._note_beginning(None)
        if self._state.request is None:
            self._queue.events.append(event)
        if self._loop is not None and self._loop is _running_loop():
            self._deliver()
        self._deliver_soon()  # even here: a signal handler may have called us

    # ------------------------------------------------------------ set up, remove

    def setup_handlers(self) -> None:
        """Handle the signals from now on.

        Call it in the main thread, inside the running loop or before it runs. Signals
        that arrive before the loop runs are delivered when it starts.

        A second call puts our handler on top again if other code has installed its own
        since then; that one is called, too, and the displacement is logged at WARNING,
        unless it was before. Otherwise a second call has no effect. In a forked child
        it handles the signals of the child.

        Raises:
            SignalSetupError: Signals cannot be handled in this thread, interpreter,
                loop or platform, or one of them can never be handled. Nothing has
                changed. With ``required=False``, only the last of these is raised, and
                the others are logged at DEBUG.
            RuntimeError: The coordinator belongs to another loop.
        """
        for signum in self._handled_signals():
            _signals.check_signal(signum)
        self._check_process()
        self._set_up_if_possible(True)

    def _set_up_if_possible(self, again: bool) -> None:
        try:
            self._set_up_handlers(again)
        except SignalSetupError as error:
            if self._options.required:
                raise
            logger.debug("%s (required=False)", error)
            self._bind("setup_handlers()")

    def _set_up_handlers(self, again: bool) -> None:
        """Install the handlers that are missing.

        Args:
            again: Also put those back on top that were displaced.
        """
        signals = self._handled_signals()
        complete = self._handlers.has(signals)
        if complete and not (again and any(self._handlers.displaced())):
            return
        _signals.check_place("setup_handlers()")
        loop = self._bind("setup_handlers()")
        if again:
            self._warn_displaced()
        self._handlers.set_up(
            signals, again, loop, self._wake_loop, self._on_wakeup, self._adopt
        )
        self._hold_loop()

    def _adopt(self, handler: SignalHandler) -> None:
        # One that asks for a reload is rather counted twice than lost.
        handler.replayable = handler.signum not in self._options.reload_signals
        if handler.signum in self._options.shutdown_signals:
            handler.notice = self._notice
            handler.holds = self._state.holds

    def remove_handlers(self) -> None:
        """Restore exactly the previous handlers; a second call has no effect.

        A handler that other code has installed over ours stays, and is logged at
        WARNING, unless it was before.

        Raises:
            SignalSetupError: This is not the main thread. Nothing has changed.
        """
        if not self._handlers.armed:
            return
        _signals.check_place("remove_handlers()")
        displaced = self._newly_displaced()
        self._end_lame_duck()
        # For the next setup.
        self._state.holds = self._options.lame_duck > 0 and self._state.rung == 0
        self._handlers.remove(self._loop)
        if self._loop is None or self._loop.is_closed():
            self._log_errors()
        if self._queue:
            self._deliver_soon()  # a loop in another thread may be bound meanwhile
        log_displaced(displaced, self._loop)

    def _warn_displaced(self) -> None:
        log_displaced(self._newly_displaced(), self._loop)

    def _newly_displaced(self) -> list[tuple[int, Any]]:
        return self._handlers.newly_displaced(self._loop, self._state.rung > 0)

    def _hold_loop(self) -> None:
        """Hold back the shutdown signals from handlers of the loop, for a lame duck."""
        loop = self._loop
        if self._state.holds and loop is not None and not loop.is_closed():
            self._handlers.hold_loop(loop)

    def _end_lame_duck(self) -> None:
        """Let the host shut down, too."""
        self._state.holds = False
        self._handlers.release()
        self._handlers.release_loop(self._loop)
        self._handlers.collect()

    # ------------------------------------------------------------ which signals

    def _handled_signals(self) -> tuple[int, ...]:
        reloads = self._options.reload_signals if self._reloads_asked else ()
        return (
            *sorted(self._options.shutdown_signals),
            *sorted(reloads),
            *sorted(self._options.callbacks),
        )

    def _ask_for_reloads(self) -> None:
        """Handle the reload signals from now on, or from the next setup."""
        asked, self._reloads_asked = self._reloads_asked, True
        self._check_process()
        reloads = self._options.reload_signals
        if not self._handlers.armed or self._handlers.has(reloads):
            return
        if _signals.is_main_thread():
            self._set_up_if_possible(False)
        elif not asked and self._loop is not None and self._loop is not _running_loop():
            with suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._ask_for_reloads)

    # ------------------------------------------------------------ the block

    def _enter(self) -> None:
        """Set up the handlers; after a shutdown that is over, begin afresh."""
        self._check_process()
        if self._entered:
            loop = self._entered_in
            if loop is None or not loop.is_closed():
                raise RuntimeError(
                    f"{self!r} is already entered: call setup_handlers() to put its "
                    "handlers back on top"
                )
            self._leave()  # closed, the loop has abandoned the block
        if self._state.over and not self._handlers.armed:
            self._forget_events()  # they came too late for the old shutdown
            self._begin_afresh()
        self.setup_handlers()
        self._entered, self._entered_in = True, _running_loop()

    def _leave(self) -> None:
        """Remove the handlers, at the end of a block."""
        self._entered, self._entered_in = False, None
        self.remove_handlers()

    def _begin_afresh(self) -> None:
        """Forget a shutdown that is over."""
        fresh = ShutdownState(self._options.lame_duck > 0)
        self._exit = None
        self._reloads.forget()
        self._state = fresh  # one step: see ShutdownState

    # ------------------------------------------------------------ loop and process

    def _check_process(self) -> None:
        """In a forked child, forget the handlers, signals and loop of the parent."""
        pid = os.getpid()
        if self._pid is not None and self._pid != pid:
            self._forget_events()
            self._loop = None
            self._entered, self._entered_in = False, None
            self._begin_afresh()
        self._pid = pid

    def _forget_events(self) -> None:
        self._handlers.forget()
        self._queue.forget()

    def _bind(self, what: str | None = None) -> asyncio.AbstractEventLoop | None:
        """Bind to the running loop, if there is one, and return it.

        If the coordinator is bound to another loop, and that is open, return None, or
        raise RuntimeError if the caller gives its own name as ``what``.
        """
        loop = _running_loop()
        if loop is None:
            return None
        self._check_process()
        before = self._loop
        if loop is before:
            return loop
        if before is not None and not before.is_closed():
            if what is None:
                return None
            raise RuntimeError(
                f"{what}: this coordinator belongs to {before!r}, and {loop!r} is "
                "running: make one for each loop"
            )
        main = _signals.is_main_thread()
        again = before is not None and self._handlers.armed and main
        if again:
            self.remove_handlers()
        if before is not None:
            self._state.event = same_state(self._state.event)
            self._reloads.event = same_state(self._reloads.event)
        self._context = contextvars.copy_context()
        self._loop = loop
        if again:
            self.setup_handlers()
        elif main:
            self._handlers.attach(loop, self._on_wakeup)
            self._hold_loop()
        self._deliver()
        return loop

    def _refuse_other_threads(self, what: str) -> None:
        """Raise RuntimeError if the coordinator's loop runs, and not in this thread."""
        self._check_process()
        loop = self._loop
        if loop is not None and loop.is_running() and loop is not _running_loop():
            raise RuntimeError(
                f"{what} was called outside the thread of {loop!r}: use "
                "loop.call_soon_threadsafe()"
            )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _text_of(reason: object) -> str | None:
    if reason is None or isinstance(reason, str):
        return reason
    try:
        return str(reason)
    except Exception:  # of the caller's object: the shutdown begins all the same
        return object.__repr__(reason)
