"""LoopWatch: the lag of an event loop, and what holds it up."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextvars import Context
from typing import Any, Self

from pyasynclife import _core
from pyasynclife._arguments import check_answer, check_hook, check_number
from pyasynclife._blocked_loop import BlockedLoop, Seen, log
from pyasynclife._core import Histogram, LoopPulse
from pyasynclife._core_fast_paths import loop_clock, monotonic
from pyasynclife._log import logger
from pyasynclife._sealed import refuse_pickling

_LEAST = 0.001  # seconds
_JOIN = 1.0  # seconds for the thread to end, which needs the GIL for an instant

_entered: weakref.WeakSet[LoopWatch] = weakref.WeakSet()


def watches_of(loop: asyncio.AbstractEventLoop) -> list[LoopWatch]:
    """Return the watches that look on at a loop."""
    return [watch for watch in list(_entered) if watch._loop is loop]


class LoopWatch:
    """Watch the running event loop, and name what blocks it.

    A timer in the loop measures its lag. While the timer is late, a thread looks where
    the loop's thread is; otherwise the thread sleeps. When a loop that was late by
    ``threshold`` or more runs again, that is logged at WARNING by the logger
    "pyasynclife" and passed to ``on_block``.

    Args:
        threshold: Seconds, 0.001 or more. A blocking call that takes as long as
            ``threshold`` and ``interval`` together is always noticed, and one that is
            shorter than ``threshold`` never.
        interval: Seconds between two timers; None: a quarter of ``threshold``.
        on_block: Called in the loop with each BlockedLoop. Its exceptions go to the
            loop's exception handler.

    Raises:
        TypeError, ValueError: A number is out of range, or ``on_block`` is not a
            function or would have to be awaited.

    Once it has been left, it may be entered again, also in another loop; its figures
    continue.
    On a loop with a clock of its own, such as a virtual clock, it does nothing: such a
    loop has no lag.

    Example::

        async with LoopWatch(0.1):
            await serve()
    """

    __slots__ = (
        "__weakref__",
        "_blocked",
        "_interval",
        "_longest",
        "_loop",
        "_on_block",
        "_pulse",
        "_seen",
        "_thread",
        "_threshold",
        "_timer",
    )

    def __init__(
        self,
        threshold: float = 0.1,
        *,
        interval: float | None = None,
        on_block: Callable[[BlockedLoop], object] | None = None,
    ) -> None:
        self._threshold = check_number("threshold", threshold, _LEAST)
        self._interval = (
            max(self._threshold / 4, _LEAST)
            if interval is None
            else check_number("interval", interval, _LEAST)
        )
        check_hook("on_block", on_block)
        self._on_block = on_block
        self._blocked = 0
        self._longest = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pulse: LoopPulse | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None
        self._seen = Seen(0.0)

    @property
    def lag(self) -> Histogram:
        """By how much the loop's timer has been late so far, in seconds."""
        pulse = self._pulse  # read once: a scrape comes from another thread
        return (self._new_pulse() if pulse is None else pulse).lag

    @property
    def blocked(self) -> int:
        """How often the loop was late by ``threshold`` or more."""
        return self._blocked

    @property
    def longest(self) -> float:
        """The longest time by which the loop was late, in seconds; at first 0.0."""
        return self._longest

    def __repr__(self) -> str:
        """Return the type, the threshold and the count."""
        name = type(self).__name__
        return f"<{name} threshold={self._threshold} blocked={self._blocked}>"

    def __reduce__(self) -> Any:
        refuse_pickling(self)

    async def __aenter__(self) -> Self:
        """Start the timer and the thread.

        Raises:
            RuntimeError: The watch is entered already, or no thread can be started.
        """
        if self._loop is not None:
            raise RuntimeError(f"{self!r} is already entered")
        loop = asyncio.get_running_loop()
        if loop_clock(loop) == 0 and abs(loop.time() - time.monotonic()) > 1.0:
            logger.debug("%r does nothing: %r has a clock of its own", self, loop)
            self._loop = loop
            return self
        pulse = self._new_pulse()
        thread = threading.Thread(
            target=self._look_on,
            args=(loop, pulse),
            name="pyasynclife watch",
            daemon=True,
        )
        thread.start()
        try:
            self._timer = loop.call_later(self._interval, self._tick, loop, pulse)
        except BaseException:
            pulse.close()
            raise
        self._loop, self._pulse, self._thread = loop, pulse, thread
        _entered.add(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Stop the timer and the thread, and wait at most a second for the thread."""
        _entered.discard(self)
        self._loop = None
        timer, self._timer = self._timer, None
        thread, self._thread = self._thread, None
        if timer is not None and thread is not None and self._pulse is not None:
            timer.cancel()
            self._pulse.close()
            thread.join(_JOIN)

    def _new_pulse(self) -> LoopPulse:
        patience = 0.02 + 4 * sys.getswitchinterval()
        return LoopPulse(self._threshold, self._interval, patience, self._pulse)

    # ------------------------------------------------------------ in the loop

    def _tick(self, loop: asyncio.AbstractEventLoop, pulse: LoopPulse) -> None:
        # A test that patches time.monotonic() moves the loop's clock, not the pulse's.
        measures = time.monotonic is monotonic
        due = pulse.due
        late = pulse.beat(measures)
        self._timer = loop.call_later(self._interval, self._tick, loop, pulse)
        if late < self._threshold or not measures:
            return
        for _ in range(20):
            if not (pulse.looking and self._thread and self._thread.is_alive()):
                break
            time.sleep(0.001)  # the thread has waited for the GIL, and takes it now
        seen = self._seen if self._seen.due == due else Seen(due)
        if not seen.stopped:
            self._report(loop, seen.blocked_loop(late))

    def _report(self, loop: asyncio.AbstractEventLoop, blocked: BlockedLoop) -> None:
        self._blocked += 1
        self._longest = max(self._longest, blocked.seconds)
        log(blocked)
        if self._on_block is None:
            return
        try:
            check_answer("on_block", self._on_block(blocked))
        except Exception as error:
            loop.call_exception_handler(
                {"message": f"on_block of {self!r} failed", "exception": error}
            )

    # ------------------------------------------------------------ in the thread

    def _look_on(self, loop: asyncio.AbstractEventLoop, pulse: LoopPulse) -> None:
        while not loop.is_closed():
            try:
                look = pulse.wait()
                if look is None:
                    return
                self._note(loop, *look)
            except Exception as error:  # MemoryError
                about = {"message": f"{self!r} saw nothing", "exception": error}
                with contextlib.suppress(RuntimeError):  # closed
                    loop.call_soon_threadsafe(loop.call_exception_handler, about)

    def _note(
        self,
        loop: asyncio.AbstractEventLoop,
        due: float,
        late: float,
        moved_on: bool,
        held: bool,
        stack: list[tuple[str, int, str]],
        context: Context | None,
    ) -> None:
        """Note where the loop's thread was found; ``moved_on``: perhaps too late."""
        task = None if moved_on else _task_of(loop)
        if self._seen.due != due:
            self._seen = Seen(due)
        if not loop.is_running():
            self._seen.stopped = True  # between two runs, no timer fires
        elif held or not moved_on:
            self._seen.add(late, (_lines_of(stack), task, _task_id_in(context), held))


def _lines_of(stack: list[tuple[str, int, str]]) -> tuple[str, ...]:
    """Return "file:line in function" of each frame but ours, outermost first."""
    return tuple(
        f"{file}:{line} in {function}"
        for file, line, function in reversed(stack)
        if file != __file__
    )


def _task_of(loop: asyncio.AbstractEventLoop) -> str | None:
    task = asyncio.current_task(loop)
    try:
        return None if task is None else str(task.get_name())
    except Exception:  # of a task factory's own tasks
        return None


def _task_id_in(context: Context | None) -> str | None:
    """Return the id of the registered task in whose context code runs."""
    owner: Any = getattr(_core, "owner", None)  # a ContextVar
    found = None if context is None or owner is None else context.get(owner)
    return getattr(found, "task_id", None)
