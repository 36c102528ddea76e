"""The base of SignalCoordinator: receives signals and delivers them in the loop."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self

from pyasynclife import _handler_chain, _handler_install, _relay, _signals
from pyasynclife._arguments import check_answer, check_flag
from pyasynclife._await_chain import dump_tasks
from pyasynclife._core import SignalHandler, Watchdog
from pyasynclife._errors import SignalSetupError
from pyasynclife._log import logger
from pyasynclife._signal_arguments import choose_signals
from pyasynclife._waiting import wait_among, wake

# A SIGINT that comes sooner after the beginning does not count as a second press.
_PRESS = 0.3


class _Event(NamedTuple):
    """What has happened and is still to be delivered in the loop."""

    since: float  # monotonic time
    signum: int | None  # None: a request
    number: int = 0  # how many of this signal so far; 0: not a signal
    reason: str | None = None  # of a request
    error: BaseException | None = None  # raised by the handler that was there before


class SignalEvents:
    """Receive signals and requests at any time, and deliver them in the loop.

    A native handler, or a thread, records an event and wakes the loop. ``_deliver``
    then takes all events recorded so far; it may be called at any time. A subclass
    defines in ``_begin`` what a shutdown is.

    Threads and signal handlers read and write at any time. So what they append to is
    never replaced, and what they iterate over is replaced and never changed.
    """

    _shutdown: asyncio.Event
    _reload: asyncio.Event

    def __init__(
        self,
        shutdown_signals: Iterable[int] | None,
        reload_signals: Iterable[int] | None,
        take_ignored: bool,
        kill_after: float | None,
        on_signal: Callable[[int, int], object] | None,
        *,
        callbacks: Mapping[int, Callable[[int], object]] | None,
        required: bool,
        force_exit: bool,
        lame_duck: float,
    ) -> None:
        chosen = choose_signals(shutdown_signals, reload_signals, callbacks)
        self._shutdown_signals, self._reload_signals, self._callbacks = chosen
        self._reloads_asked = reload_signals is not None
        self._required = check_flag("required", required)
        self._force_exit = check_flag("force_exit", force_exit)
        self._take_ignored = check_flag("take_ignored", take_ignored)
        self._kill_after = kill_after
        self._watchdog: Watchdog | None = None
        self._on_wake: Callable[[], object] | None = None  # of run(): at a signal
        self._on_signal = on_signal
        self._shutdown = asyncio.Event()
        self._reload = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = contextvars.Context()
        # Of each signal, the newest last: a newer one covers a host that has displaced
        # the one before.
        self._handlers: dict[int, tuple[SignalHandler, ...]] = {}
        self._set_up: frozenset[int] = frozenset()  # handled, or left ignored
        self._due: dict[int, None] = {}  # reload signals that reloads() has not yielded
        self._reload_waiters: list[asyncio.Future[None]] = []
        # The ladder: 0 before a shutdown, 1 from its beginning, then one more with each
        # SIGINT. Written by signal handlers.
        self._rung = 0
        self._began: tuple[float, int | None] = (math.inf, None)
        self._announced = 0
        self._lame_duck = lame_duck
        self._holds = lame_duck > 0  # the handlers of a host, until it is over
        self._holder = object()
        self._warned: set[int] = set()  # signals that are displaced, as was logged
        self._armed = False
        self._entered = False
        self._entered_in: asyncio.AbstractEventLoop | None = None
        self._pid: int | None = None  # the process to which this state belongs
        self._past: dict[int, int] = {}  # signals counted by removed handlers
        self._undelivered: deque[_Event] = deque()  # signals and requests
        self._errors: deque[_Event] = deque()  # what chained handlers have raised
        self._over = False  # the block was left after a shutdown had begun
        self._requested = False
        self._reason: str | None = None
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

    def _begin_afresh(self) -> None:
        """Forget a shutdown that is over."""
        self._exit = None
        # In one step: a signal handler in the middle might request a shutdown, and some
        # of what it notes would be forgotten.
        vars(self).update(self._fresh())

    def _fresh(self) -> dict[str, Any]:
        """Return the state without a shutdown."""
        return {
            "_shutdown": asyncio.Event(),
            "_reload": asyncio.Event(),
            "_due": {},
            "_past": {},
            "_rung": 0,
            "_announced": 0,
            "_began": (math.inf, None),
            "_holds": self._lame_duck > 0,
            "_over": False,
            "_requested": False,
            "_reason": None,
        }

    @property
    def received(self) -> dict[int, int]:
        """How many times each signal was received: a snapshot; 0 for any other.

        A signal that a host raises again when its own shutdown is done counts once.
        """
        handlers, past = self._handlers, self._past
        counts = Counter(past)
        for signum, ours in handlers.items():
            counts[signum] += sum(handler.count for handler in ours)
        return +counts  # drops the zeros

    @property
    def reason(self) -> str | None:
        """The text of what was first passed to `request_shutdown`, or None."""
        events = self._undelivered.copy()  # first: they may be delivered meanwhile
        if self._requested:
            return self._reason
        first = next(filter(is_request, events), None)
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
        event = _Event(time.monotonic(), None, reason=_text_of(reason))
        self._note_beginning(None)
        if not self._requested:
            self._undelivered.append(event)
        if self._loop is not None and self._loop is _running_loop():
            self._deliver()
        self._deliver_soon()  # even here: a signal handler may have called us

    # ---------------------------------------------------------------- handlers

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
            if self._required:
                raise
            logger.debug("%s (required=False)", error)
            self._bind("setup_handlers()")

    def _set_up_handlers(self, again: bool) -> None:
        """Install the handlers that are missing.

        Args:
            again: Also put those back on top that were displaced.
        """
        signals = self._handled_signals()
        complete = self._armed and self._set_up.issuperset(signals)
        if complete and not (again and any(self._displaced())):
            return
        _signals.check_place("setup_handlers()")
        loop = self._bind("setup_handlers()")
        if again:
            self._warn_displaced()
        was_armed, before = self._armed, self._handlers
        self._armed = True
        try:
            self._arm_watchdog()
            for signum in signals:
                ours = self._handlers.get(signum, ())
                known = was_armed and signum in self._set_up
                lost = again and ours and _handler_chain.displaced_by(ours) is not None
                if known and not lost:
                    continue
                handler = _handler_install.install(
                    signum,
                    loop,
                    self._wake_loop,
                    self._on_wakeup,
                    self._take_ignored,
                    ours[-1] if ours else None,
                )
                if handler is not None:
                    # One that asks for a reload is rather counted twice than lost.
                    handler.replayable = signum not in self._reload_signals
                    if signum in self._shutdown_signals:
                        handler.notice = self._notice
                        handler.holds = self._holds
                    self._handlers = {**self._handlers, signum: (*ours, handler)}
        except BaseException:
            self._remove(before)
            self._armed = was_armed
            if not was_armed:
                self._disarm_watchdog()
            raise
        self._set_up = frozenset(signals)
        if again:
            self._warned = set()
        self._hold_loop()

    def remove_handlers(self) -> None:
        """Restore exactly the previous handlers; a second call has no effect.

        A handler that other code has installed over ours stays, and is logged at
        WARNING, unless it was before.

        Raises:
            SignalSetupError: This is not the main thread. Nothing has changed.
        """
        if not self._armed:
            return
        _signals.check_place("remove_handlers()")
        displaced = self._newly_displaced()
        self._end_lame_duck()
        self._holds = self._lame_duck > 0 and self._rung == 0  # for the next setup
        self._remove({})
        self._armed = False
        self._disarm_watchdog()
        if self._loop is None or self._loop.is_closed():
            self._log_errors()
        if self._undelivered or self._errors:
            self._deliver_soon()  # a loop in another thread may be bound meanwhile
        _handler_chain.log_displaced(displaced, self._loop)

    def _arm_watchdog(self) -> None:
        if self._kill_after is None or self._watchdog is not None:
            return
        try:
            self._watchdog = Watchdog(self._kill_after, self._shutdown_signals)
        except (OSError, RuntimeError) as error:
            raise SignalSetupError(
                f"kill_after cannot be kept: {error}; leave it out, or make fewer "
                "coordinators"
            ) from error

    def _disarm_watchdog(self) -> None:
        """Stop the watchdog, unless a signal has come: then nothing stops it."""
        if self._watchdog is not None:
            self._watchdog.disarm()
            self._watchdog = None

    def _remove(self, kept: dict[int, tuple[SignalHandler, ...]]) -> None:
        """Remove all handlers but some, the newest first."""
        for signum, ours in reversed(self._handlers.items()):
            for handler in reversed(ours[len(kept.get(signum, ())) :]):
                handler.release()
                _handler_install.remove(handler, self._loop)
                self._collect()
                left = {**self._handlers, signum: self._handlers[signum][:-1]}
                if not left[signum]:
                    del left[signum]
                past = {**self._past, signum: self._past.get(signum, 0) + handler.count}
                self._handlers, self._past = left, past
        self._handlers = kept

    def _displaced(self) -> Iterator[tuple[int, Any]]:
        """Yield the signals whose newest handler was displaced, and by what."""
        for signum, ours in self._handlers.items():
            by = _handler_chain.displaced_by(ours)
            # Another thread may be removing ours: it is disarmed first.
            if by is not None and ours[-1].alive:
                yield signum, by

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
        if self._over and not self._armed:
            self._forget_events()  # they came too late for the old shutdown
            self._begin_afresh()
        self.setup_handlers()
        self._entered, self._entered_in = True, _running_loop()

    def _leave(self) -> None:
        """Remove the handlers, at the end of a block."""
        self._entered, self._entered_in = False, None
        self.remove_handlers()

    def _raise_exit(self) -> None:
        """Raise the exit of the handler that was there before ours, once."""
        error, self._exit = self._exit, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # the traceback holds this frame

    def _check_process(self) -> None:
        """In a forked child, forget the handlers, signals and loop of the parent."""
        pid = os.getpid()
        if self._pid is not None and self._pid != pid:
            self._handlers, self._armed, self._loop = {}, False, None
            self._watchdog = None
            self._entered, self._entered_in = False, None
            self._forget_events()
            self._begin_afresh()
        self._pid = pid

    def _forget_events(self) -> None:
        self._undelivered.clear()
        self._errors.clear()

    def _handled_signals(self) -> tuple[int, ...]:
        reloads = self._reload_signals if self._reloads_asked else ()
        return (
            *sorted(self._shutdown_signals),
            *sorted(reloads),
            *sorted(self._callbacks),
        )

    def _ask_for_reloads(self) -> None:
        """Handle the reload signals from now on, or from the next setup."""
        asked, self._reloads_asked = self._reloads_asked, True
        self._check_process()
        if not self._armed or self._set_up.issuperset(self._reload_signals):
            return
        if _signals.is_main_thread():
            self._set_up_if_possible(False)
        elif not asked and self._loop is not None and self._loop is not _running_loop():
            with suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._ask_for_reloads)

    def _warn_displaced(self) -> None:
        """Log the handlers that have displaced ours, each once."""
        _handler_chain.log_displaced(self._newly_displaced(), self._loop)

    def _newly_displaced(self) -> list[tuple[int, Any]]:
        """Return what has displaced our handlers since the last call."""
        if self._loop is not None and self._loop.is_closed():
            return []  # it has removed them itself
        displaced = dict(self._displaced())
        if self._rung > 0:
            # A host that has ended puts back what was there before it: uvicorn does so
            # at a second Ctrl-C, while the lifespan has not ended.
            displaced = {
                signum: by
                for signum, by in displaced.items()
                if not _handler_chain.is_default(by)
            }
        news = [one for one in displaced.items() if one[0] not in self._warned]
        self._warned = set(displaced)
        return news

    # ---------------------------------------------------------------- the ladder

    def _note_beginning(self, signum: int | None) -> None:
        """Note the first signal or request, at the moment when it comes."""
        # The clock first: another thread, or a signal handler, may run during the call.
        began = (time.monotonic(), signum)
        if self._rung == 0:
            self._began, self._rung = began, 1

    def _notice(self, signum: int) -> int:
        """Note a shutdown signal; the native handler calls this, in the main thread.

        Signals of one kind that are less than 0.3 s apart come here once.

        Returns:
            How many times the handler that was there before ours is to be called,
            although it is not chained.
        """
        if self._rung == 0:
            self._note_beginning(signum)
            return 0
        if signum != signal.SIGINT or time.monotonic() - self._began[0] <= _PRESS:
            return 0
        self._rung += 1
        self._release_handlers()
        if self._rung > 2 and self._force_exit:
            _signals.end_by(signum, self._dump)
        self._deliver_soon()
        if any(one._pid == self._pid and one._is_ending() for one in _shutdowns):
            return 0
        # If nothing was delivered since the first press, the loop is blocked, and a
        # cancellation of main has no effect either: the second call of the Runner's
        # handler raises KeyboardInterrupt.
        return 1 if self._shutdown.is_set() else 2

    # ---------------------------------------------------------------- the lame duck

    def _hold_loop(self) -> None:
        """Hold back the shutdown signals from handlers of the loop, for a lame duck."""
        loop = self._loop
        if not self._holds or loop is None or loop.is_closed():
            return
        held = frozenset(
            signum
            for signum in self._shutdown_signals & self._handlers.keys()
            if _handler_chain.covers_loop_handler(self._handlers[signum][0], loop)
        )
        if not held:
            return
        try:
            _relay.hold(loop, self._holder, held)
        except (OSError, RuntimeError) as error:
            logger.warning("lame_duck has no effect on handlers of %r: %s", loop, error)

    def _release_handlers(self) -> None:
        """Call the hosts' handlers that were held."""
        self._holds = False
        for ours in self._handlers.values():
            for handler in ours:
                handler.release()

    def _end_lame_duck(self) -> None:
        """Let the host shut down, too."""
        self._release_handlers()
        _relay.release(self._loop, self._holder)
        self._collect()

    def _dump(self) -> str:
        loop = self._loop
        return "" if loop is None else dump_tasks(asyncio.all_tasks(loop))

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

    def _on_wakeup(self, signum: int) -> None:
        """Deliver the events; the loop's own handler of the signal calls this.

        Usually our handler has recorded the signal already, and this is only the
        wake-up. If our handler is displaced, only this call reports the signal.
        """
        ours = self._handlers.get(signum)
        if ours:
            on_top = next(filter(_handler_chain.is_on_top, ours), None)
            (on_top or ours[-1]).on_loop_wakeup(on_top is not None)
        self._deliver()

    # ---------------------------------------------------------------- delivery

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
        again = before is not None and self._armed and main
        if again:
            self.remove_handlers()
        if before is not None:
            self._shutdown = _same_state(self._shutdown)
            self._reload = _same_state(self._reload)
        self._context = contextvars.copy_context()
        self._loop = loop
        if again:
            self.setup_handlers()
        elif main:
            for ours in self._handlers.values():
                if _handler_chain.is_on_top(ours[-1]):
                    _handler_install.attach(ours[-1], loop, self._on_wakeup)
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

    def _deliver_soon(self) -> None:
        """Schedule a delivery in the loop, from any thread or signal handler."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return  # delivered when there is a loop
        try:
            loop.call_soon_threadsafe(self._deliver, context=self._context)
        except RuntimeError:
            pass  # closed meanwhile

    def _collect(self) -> None:
        """Take the new signals, and what chained handlers raised, from the handlers."""
        for signum, ours in self._handlers.items():
            for handler in ours:
                since = handler.since
                if handler.take():
                    count = self.received[signum]
                    self._undelivered.append(_Event(since, signum, count))
                for error in handler.take_errors():
                    now = time.monotonic()
                    self._errors.append(_Event(now, signum, error=error))

    def _deliver(self) -> None:
        """Deliver the events since the last call; called in the loop."""
        self._collect()
        self._deliver_events()
        rung = self._rung
        if rung > self._announced and self._shutdown.is_set():
            first, self._announced = self._announced == 0, rung
            if not (first and rung == 1 and self._began[1] is None):
                self._climb(rung)

    def _deliver_events(self) -> None:
        events = [*self._take_events(), *_drain(self._errors)]
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
            elif event.signum in self._reload_signals:
                self._due[event.signum] = None
                self._reload.set()
                self._wake_reloads()
                continue
            elif event.signum in self._callbacks:
                continue
            self._begin(event.signum, time.monotonic() - event.since)
        self._warn_displaced()
        for event in events:
            if event.number and self._on_signal is not None:
                assert event.signum is not None
                self._call_hook(
                    "on_signal", self._on_signal, event.signum, event.number
                )
        for event in events:
            if event.number and event.signum in self._callbacks:
                self._call_hook(
                    "the callback", self._callbacks[event.signum], event.signum
                )

    def _take_events(self) -> Iterator[_Event]:
        """Take the signals and requests; `reason` is known at each moment."""
        while self._undelivered:
            try:
                first = self._undelivered[0]
                if is_request(first) and not self._requested:
                    self._requested, self._reason = True, first.reason
                event = self._undelivered.popleft()
            except IndexError:
                return  # a signal handler has called us meanwhile
            yield event

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
        for event in _drain(self._errors):
            assert event.signum is not None
            assert event.error is not None
            name = _signals.name_of(event.signum)
            if _is_exit(event.error):  # raised by the block; and it begins a shutdown
                self._exit = self._exit or event.error
                self._note_beginning(None)
                self._undelivered.append(_Event(event.since, None, reason=name))
                continue
            logger.error(
                "the previous handler of %s failed", name, exc_info=event.error
            )

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

    # ---------------------------------------------------------------- reloads

    def _set_shutdown(self) -> None:
        self._shutdown.set()
        self._wake_reloads()

    def _wake_reloads(self) -> None:
        for waiter in tuple(self._reload_waiters):
            wake(waiter)

    async def _next_reload(self) -> int | None:
        """Wait for a reload signal and consume it; None: the shutdown has begun."""
        self._bind("reloads()")
        self._warn_displaced()
        shutdown = self._shutdown
        while not shutdown.is_set():
            if not self._reload.is_set():
                self._due = {}  # wait_for_reload() has consumed them
                await wait_among(self._reload_waiters)
                continue
            signum = next(iter(self._due), None)
            if signum is not None:
                del self._due[signum]
            if not self._due:
                self._reload.clear()
            if signum is not None:
                return signum
        return None


class Reloads:
    """The iterator that `SignalCoordinator.reloads` returns."""

    def __init__(self, coordinator: SignalEvents) -> None:
        self._coordinator: SignalEvents | None = coordinator

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> int:
        if self._coordinator is not None:
            signum = await self._coordinator._next_reload()
            if signum is not None:
                return signum
            self._coordinator = None  # over, also when the coordinator begins afresh
        raise StopAsyncIteration


# Those with a graceful_shutdown() under way, in any loop.
_shutdowns: set[SignalEvents] = set()


def note_ending(coordinator: SignalEvents, ending: bool) -> None:
    """Note that a `graceful_shutdown` begins, or that the last one has ended."""
    if ending:
        _shutdowns.add(coordinator)
    else:
        _shutdowns.discard(coordinator)


def _text_of(reason: object) -> str | None:
    if reason is None or isinstance(reason, str):
        return reason
    try:
        return str(reason)
    except Exception:  # of the caller's object: the shutdown begins all the same
        return object.__repr__(reason)


def is_request(event: _Event) -> bool:
    return event.signum is None


def _drain(events: deque[_Event]) -> Iterator[_Event]:
    """Take out all events; others may do so, too, meanwhile."""
    try:
        while True:
            yield events.popleft()
    except IndexError:
        pass


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_exit(error: BaseException) -> bool:
    """Tell whether an exception is meant to end the process, as SystemExit is."""
    return not isinstance(error, (Exception, asyncio.CancelledError))


def _same_state(event: asyncio.Event) -> asyncio.Event:
    """Return a new Event with the same state, for another loop."""
    fresh = asyncio.Event()
    if event.is_set():
        fresh.set()
    return fresh
