"""Supervision: when a task is started again, and what happens when it is not."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from pyasynclife._arguments import (
    check_count,
    check_flag,
    check_function,
    check_optional_type,
    check_seconds,
    close_unstarted,
    cut,
    short,
    short_id,
)
from pyasynclife._await_chain import await_chain
from pyasynclife._backoff import Backoff
from pyasynclife._core import Ready, Supervision, TaskMetadata
from pyasynclife._log import logger

if TYPE_CHECKING:
    from pyasynclife._registry import TaskRegistry

Restart = Literal["always", "on_failure", "never"]

# The outcomes of a run: al_outcome in csrc/aio/task.h.
_FAILED = 2
_OUTCOMES = ("done", "cancelled", "failed")
# Whether another run follows each of them.
_AGAIN: dict[Restart, tuple[bool, bool, bool]] = {
    "always": (True, True, True),
    "on_failure": (False, False, True),
    "never": (False, False, False),
}

# A silent task may have had no chance to send a heartbeat, for the loop stood still: so
# many loop iterations later it is judged.
_ITERATIONS = 5
# A task whose stale_after is longer, or changes, is looked at this often.
_LONGEST_LOOK = 60.0
# The seconds between two records about a stale run that does not end: at least so many,
# doubled each time, and at most so many.
_STUCK_FIRST = 1.0
_STUCK_LONGEST = 60.0


class Supervisor(Supervision):
    """Decides about the runs of one supervised task; the core makes them."""

    __slots__ = (
        "_again",
        "_attempts",
        "_backoff",
        "_beginning",
        "_gave_up",
        "_loop",
        "_max_restarts",
        "_registry",
        "_restart_stale",
        "_restarts",
        "_started",
        "_stuck_wait",
        "_timer",
        "_vital",
        "_watch",
        "_within",
    )

    def __init__(
        self,
        registry: TaskRegistry,
        fn: Any,
        restart: Any,
        restart_stale: Any,
        backoff: Any,
        max_restarts: Any,
        within: Any,
        vital: Any,
    ) -> None:
        check_function("supervise(fn, task_id)", fn)
        if restart not in ("always", "on_failure", "never"):
            close_unstarted(restart)
            raise ValueError(
                "restart must be 'always', 'on_failure' or 'never', got "
                f"{short(restart)}"
            )
        check_optional_type("backoff", backoff, Backoff)
        self._again = _AGAIN[restart]
        self._restart_stale = check_flag("restart_stale", restart_stale)
        if self._restart_stale and restart == "never":
            raise ValueError(
                "restart_stale=True contradicts restart='never': use 'on_failure'"
            )
        self._backoff: Backoff = Backoff() if backoff is None else backoff
        self._max_restarts = check_count("max_restarts", max_restarts)
        self._within = check_seconds("within", within)
        self._vital = check_flag("vital", vital)
        self._registry = registry
        self._loop: asyncio.AbstractEventLoop
        self._restarts: deque[float] = deque()  # loop times, of the last `within` s
        self._attempts = 0  # runs in a row that were short
        self._started = 0.0
        self._beginning = False
        self._gave_up = False
        self._timer: asyncio.Handle | None = None  # of the next run
        self._watch: asyncio.Handle | None = None  # looks whether it is stale
        self._stuck_wait = 0.0

    # ------------------------------------------------------------ runs

    def begin(
        self, fn: Any, task_id: str, stale_after: float | None, info: Any
    ) -> Ready[str]:
        """Register the task and begin its first run."""
        self._registry._bind("TaskRegistry.supervise()")
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._beginning = True
        try:
            ready = self._registry._supervise(self, fn, task_id, stale_after, info)
        finally:
            self._beginning = False
        if self._restart_stale:
            self._begin_watching()
        return ready

    def _begin(self, now: float | None = None) -> None:
        """Begin the next run."""
        self._timer = None
        if now is None:  # by the timer
            now = self._loop.time()
            recording, meta = self._registry._recording, self._meta
            if recording is not None and meta is not None:
                recording.note_restart(meta)
        self._started = now
        self._beginning = True
        try:
            self._run()
        finally:
            self._beginning = False
        if self._restart_stale:
            self._begin_watching()

    def _run_ended(
        self, outcome: int, error: BaseException | None, stops: bool
    ) -> bool:
        """Decide about a run that has ended; called by the core.

        Args:
            outcome: How it ended.
            error: Its exception, if it failed.
            stops: Whether the task ends now in any case: it is being cancelled.

        Returns:
            True if another run has begun or will begin, or would begin if the task did
            not stop; False: this is the end.
        """
        if self._watch is not None:
            self._stop_watching()
        if not self._again[outcome]:
            return False
        now = self._loop.time()
        restarts = self._restarts
        while restarts and now - restarts[0] > self._within:
            restarts.popleft()
        if len(restarts) >= self._max_restarts:
            self._gave_up = not stops
            return False
        if stops:
            self._log_last_failure(outcome)
            return True
        restarts.append(now)
        backoff = self._backoff
        if now - self._started >= backoff.max_delay:
            self._attempts = 0
        self._attempts += 1
        delay = backoff._after(self._attempts) if backoff.delay else 0.0
        meta = self._meta
        recording = self._registry._recording
        if recording is not None and meta is not None:
            recording.note_run_end(meta, _OUTCOMES[outcome], error)
        if outcome == _FAILED and meta is not None:
            self._log_failure(meta, error, delay)
        if self._meta is None:  # the backoff, or a handler of the log, has ended it
            return False
        if delay or self._beginning:  # fn() may fail at once: the loop must go on
            self._timer = self._loop.call_later(delay, self._begin)
        else:
            if recording is not None and meta is not None:
                recording.note_restart(meta)
            self._begin(now)
        return True

    def _log_failure(
        self, meta: TaskMetadata, error: BaseException | None, delay: float
    ) -> None:
        text = "task %s failed: %s; it starts again in %.3g s (restart %d)"
        args = meta.error_text, delay, meta.restarts + 1
        self._warn(meta, text, *args, error=error)

    def _log_last_failure(self, outcome: int) -> None:
        meta = self._meta
        if outcome == _FAILED and meta is not None:
            logger.info(
                "task %s failed: %s; it is being cancelled, and does not start again",
                cut(meta.task_id, 120),
                meta.error_text,
                extra={"task_id": meta.task_id},
            )

    def _warn(
        self,
        meta: TaskMetadata,
        text: str,
        *args: object,
        error: BaseException | None = None,
    ) -> None:
        """Log a warning about the task; an error of logging must not end it."""
        extra = {"task_id": meta.task_id}
        try:
            logger.warning(
                text, cut(meta.task_id, 120), *args, exc_info=error, extra=extra
            )
        except Exception as problem:
            about = {"message": "logging about a supervised task failed"}
            self._loop.call_exception_handler({**about, "exception": problem})

    def _ended(self, meta: TaskMetadata, by_itself: bool) -> None:
        """Do what follows the end for good; called by the core."""
        self._stop_watching()
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        on_give_up = self._registry.on_give_up
        if self._gave_up and on_give_up is not None:
            self._registry._call_hook("on_give_up", on_give_up, meta)
        if self._vital and by_itself:
            self._end_service(meta)

    def _end_service(self, meta: TaskMetadata) -> None:
        how = "gave up" if self._gave_up else "ended"
        if meta.error_text is not None and meta.state == "failed":
            how = f"{how}: {cut(meta.error_text, 200)}"
        reason = f"vital task {short_id(meta.task_id)} {how}"
        coordinators = list(self._registry._coordinators)
        for coordinator in coordinators:
            coordinator.request_shutdown(reason)
        if not coordinators:
            logger.error(
                "%s; nothing shuts down: no SignalCoordinator has this registry, pass "
                "registry= to one or attach() it",
                reason,
                extra={"task_id": meta.task_id},
            )

    # ------------------------------------------------------------ staleness

    def _begin_watching(self) -> None:
        meta = self._meta
        if meta is not None and meta.task is not None:
            try:
                self._look_in(meta.stale_after)
            except Exception:  # for want of memory: the run has begun all the same
                self._look_in(_STUCK_FIRST)

    def _look_in(self, seconds: float) -> None:
        self._watch = self._loop.call_later(min(seconds, _LONGEST_LOOK), self._look, 0)

    def _look(self, iterations: int) -> None:
        """Cancel the run if it is stale, or look again when it could be."""
        self._watch = None
        meta = self._meta
        if meta is None or meta.task is None:
            return
        try:
            left = meta.stale_after - meta.silence
            if left >= 0:
                self._look_in(left + 1e-3)  # stale is what is silent for longer
            elif iterations < _ITERATIONS:
                self._watch = self._loop.call_soon(self._look, iterations + 1)
            else:
                self._cancel_run(meta)
        except BaseException:
            self._stop_watching()
            self._look_in(_STUCK_FIRST)
            raise

    def _cancel_run(self, meta: TaskMetadata) -> None:
        error = TimeoutError(f"stale: no heartbeat for {meta.silence:.1f} s")
        wait = max(_STUCK_FIRST, min(meta.stale_after, _STUCK_LONGEST))
        self._log_stale(meta, "task %s is stale: no heartbeat for %.1f s; cancelled")
        self._cancel_stale(error)
        self._stuck_wait = wait
        self._watch = self._loop.call_later(wait, self._look_if_stuck)

    def _look_if_stuck(self) -> None:
        """Log that a stale run has not ended, again and again."""
        self._watch = None
        meta = self._meta
        if meta is None or meta.task is None:
            return
        self._stuck_wait = min(self._stuck_wait * 2, _STUCK_LONGEST)
        self._watch = self._loop.call_later(self._stuck_wait, self._look_if_stuck)
        self._log_stale(
            meta,
            "task %s does not end, though it was cancelled because it was stale; "
            "silent for %.1f s; no other run begins beside it",
        )

    def _log_stale(self, meta: TaskMetadata, text: str) -> None:
        assert meta.task is not None
        where = "".join(f"\n    {line}" for line in await_chain(meta.task))
        self._warn(meta, f"{text}%s", meta.silence, where)

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
