"""How signals and requests come in at any time, and are delivered in the loop."""

from __future__ import annotations

import asyncio
import contextvars
import signal
import time
from collections.abc import Callable

from pyasynclife import _signals
from pyasynclife._arguments import check_answer
from pyasynclife._await_chain import dump_tasks
from pyasynclife._handler_chain import is_on_top
from pyasynclife._log import logger
from pyasynclife._own_handlers import OwnHandlers
from pyasynclife._reloads import ReloadQueue
from pyasynclife._shutdown_state import ShutdownState
from pyasynclife._signal_arguments import Options
from pyasynclife._signal_events import EventQueue, SignalEvent, is_request

# A SIGINT that comes sooner after the beginning does not count as a second press.
_PRESS = 0.3


class SignalDelivery:
    """Note signals and requests at any time, and deliver them in the loop.

    A native handler, or a thread, records an event and wakes the loop. ``_deliver``
    then takes all events recorded so far; it may be called at any time. A subclass
    defines in ``_begin`` what a shutdown is.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._state = ShutdownState(options.lame_duck > 0)
        self._reloads = ReloadQueue()
        self._queue = EventQueue()
        self._handlers = OwnHandlers(options, self._queue)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()
        self._pid: int | None = None  # the process to which this state belongs
        self._on_wake: Callable[[], object] | None = None  # of run(): at a signal
        self._exit: BaseException | None = None  # for wait_for_shutdown() to raise

    def _begin(self, signum: int | None, seconds_ago: float) -> None:
        """Begin a shutdown, in the loop; ``signum`` is None for a request."""
        raise NotImplementedError

    def _climb(self, rung: int) -> None:
        """Take a step of the ladder, in the loop."""
        raise NotImplementedError

    def _is_ending(self) -> bool:
        """Tell whether a `graceful_shutdown` is under way."""
        raise NotImplementedError

    def _warn_displaced(self) -> None:
        """Log the handlers that have displaced ours, each once."""
        raise NotImplementedError

    def _note_beginning(self, signum: int | None) -> None:
        """Note the first signal or request, at the moment when it comes."""
        # The clock first: another thread, or a signal handler, may run during the call.
        began = (time.monotonic(), signum)
        if self._state.rung == 0:
            self._state.began, self._state.rung = began, 1

    def _set_shutdown(self) -> None:
        self._state.event.set()
        self._reloads.wake()

    # ------------------------------------------------------------ called by handlers

    def _wake_loop(self) -> bool:
        """Wake the loop; a native handler calls this, between any two bytecodes.

        Returns False if the loop is closed.
        """
        if self._on_wake is not None:
            self._on_wake()
        loop = self._loop
        if loop is None:
            return True  # delivered when there is a loop
        if loop.is_closed():
            return False
        try:
            loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            if not loop.is_closed():
                raise
            return False  # closed meanwhile, in another thread
        return True

    def _notice(self, signum: int) -> int:
        """Note a shutdown signal; the native handler calls this, in the main thread.

        Signals of one kind that are less than 0.3 s apart come here once.

        Returns:
            How many times the handler that was there before ours is to be called,
            although it is not chained.
        """
        if self._state.rung == 0:
            self._note_beginning(signum)
            return 0
        if signum != signal.SIGINT or time.monotonic() - self._state.began[0] <= _PRESS:
            return 0
        self._state.rung += 1
        self._state.holds = False
        self._handlers.release()
        if self._state.rung > 2 and self._options.force_exit:
            _signals.end_by(signum, self._dump)
        self._deliver_soon()
        if any(one._pid == self._pid and one._is_ending() for one in _shutdowns):
            return 0
        # If nothing was delivered since the first press, the loop is blocked, and a
        # cancellation of main has no effect either: the second call of the Runner's
        # handler raises KeyboardInterrupt.
        return 1 if self._state.event.is_set() else 2

    def _dump(self) -> str:
        loop = self._loop
        return "" if loop is None else dump_tasks(asyncio.all_tasks(loop))

    def _on_wakeup(self, signum: int) -> None:
        """Deliver the events; the loop's own handler of the signal calls this.

        Usually our handler has recorded the signal already, and this is only the
        wake-up. If our handler is displaced, only this call reports the signal.
        """
        ours = self._handlers.by_signal.get(signum)
        if ours:
            on_top = next(filter(is_on_top, ours), None)
            (on_top or ours[-1]).on_loop_wakeup(on_top is not None)
        self._deliver()

    # ------------------------------------------------------------ in the loop

    def _deliver_soon(self) -> None:
        """Schedule a delivery in the loop, from any thread or signal handler."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # delivered when there is a loop
        try:
            loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            pass  # closed meanwhile

    def _deliver(self) -> None:
        """Deliver the events since the last call; called in the loop."""
        self._handlers.collect()
        self._deliver_events()
        rung = self._state.rung
        if rung > self._state.announced and self._state.event.is_set():
            first, self._state.announced = self._state.announced == 0, rung
            if not (first and rung == 1 and self._state.began[1] is None):
                self._climb(rung)

    def _deliver_events(self) -> None:
        events = [
            *self._queue.take(self._note_request),
            *self._queue.take_errors(),
        ]
        if not events:
            return
        events.sort(key=lambda event: event.since)
        for event in events:
            if event.error is not None and _is_exit(event.error):
                self._log_exit(event.signum, event.error)
                self._exit = self._exit or event.error
            elif event.error is not None:
                self._report_error(event.signum, event.error)
                continue
            elif event.signum in self._options.reload_signals:
                self._reloads.add(event.signum)
                continue
            elif event.signum in self._options.callbacks:
                continue
            self._begin(event.signum, time.monotonic() - event.since)
        self._warn_displaced()
        self._call_hooks(events)

    def _note_request(self, event: SignalEvent) -> None:
        """Note the first request, which `reason` then finds here."""
        if is_request(event) and self._state.request is None:
            self._state.request = event

    def _call_hooks(self, events: list[SignalEvent]) -> None:
        on_signal, callbacks = self._options.on_signal, self._options.callbacks
        for event in events:
            if event.number and on_signal is not None:
                assert event.signum is not None
                self._call_hook("on_signal", on_signal, event.signum, event.number)
        for event in events:
            if event.number and event.signum in callbacks:
                self._call_hook("the callback", callbacks[event.signum], event.signum)

    def _call_hook(
        self, name: str, hook: Callable[..., object], signum: int, *more: int
    ) -> None:
        assert self._loop is not None
        try:
            check_answer(name, hook(signum, *more))
        except Exception as error:
            self._loop.call_exception_handler(
                {
                    "message": f"{name} failed for {_signals.name_of(signum)}",
                    "exception": error,
                }
            )

    # ------------------------------------------------------------ chained handlers

    def _log_exit(self, signum: int | None, error: BaseException) -> None:
        logger.info(
            "the previous handler of %s raised %r: wait_for_shutdown() raises it",
            "a signal" if signum is None else _signals.name_of(signum),
            error,
        )

    def _report_error(self, signum: int | None, error: BaseException) -> None:
        assert self._loop is not None
        assert signum is not None
        name = _signals.name_of(signum)
        self._loop.call_exception_handler(
            {"message": f"the previous handler of {name} failed", "exception": error}
        )

    def _log_errors(self) -> None:
        """Log what chained handlers raised if there is no loop to report it to."""
        for event in self._queue.take_errors():
            assert event.signum is not None
            assert event.error is not None
            name = _signals.name_of(event.signum)
            if _is_exit(event.error):  # raised by the block; and it begins a shutdown
                self._exit = self._exit or event.error
                self._note_beginning(None)
                self._queue.events.append(SignalEvent(event.since, None, reason=name))
                continue
            logger.error(
                "the previous handler of %s failed", name, exc_info=event.error
            )

    def _raise_exit(self) -> None:
        """Raise the exit of the handler that was there before ours, once."""
        error, self._exit = self._exit, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # the traceback holds this frame


# Those with a graceful_shutdown() under way, in any loop.
_shutdowns: set[SignalDelivery] = set()


def note_ending(coordinator: SignalDelivery, ending: bool) -> None:
    """Note that a `graceful_shutdown` begins, or that the last one has ended."""
    if ending:
        _shutdowns.add(coordinator)
    else:
        _shutdowns.discard(coordinator)


def _is_exit(error: BaseException) -> bool:
    """Tell whether an exception is meant to end the process, as SystemExit is."""
    return not isinstance(error, (Exception, asyncio.CancelledError))
