"""Other threads, for which a loop in virtual time waits while they are at work."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import thread as _executor_threads
from types import FrameType
from weakref import WeakKeyDictionary, WeakSet

PATIENCE = 5.0
"""How many seconds a loop waits for threads at work that do not wake it."""

POLL = 0.01
"""How often it looks whether they are still at work, in seconds."""

GLANCE = 0.0005
"""How long a thread that has just been given a job gets to begin it, in seconds."""

_CONDITION_WAIT = threading.Condition.wait.__code__
_EXECUTOR_WORKER = _executor_threads._worker.__code__
_SHOWN = 5  # names of threads in a message


Seconds = WeakKeyDictionary[threading.Thread, float]

_waited_for_older: Seconds = WeakKeyDictionary()
"""How long all loops have waited for threads older than they were. A thread of a test
runner or a debugger never wakes a loop, and costs the process the time only once."""


class OtherThreads:
    """The threads besides that of a loop, and how long it has waited for each."""

    def __init__(self) -> None:
        self._older = WeakSet(threading.enumerate())
        self._waited: Seconds = WeakKeyDictionary()

    def at_work(self, *, older: bool) -> list[threading.Thread]:
        """Return the threads at work for which the loop should wait.

        Args:
            older: Whether to include threads that were started before this object was
                made.
        """
        if threading.active_count() == 1:
            return []
        threads = [
            thread
            for thread in _others()
            if (older or thread not in self._older)
            and self._seconds(thread).get(thread, 0.0) < PATIENCE
        ]
        frames = _frames_of(threads)
        if any(frame and frame.f_code is _EXECUTOR_WORKER for frame in frames):
            # Such a thread may have taken a job from the queue and wait for the GIL.
            del frames
            time.sleep(GLANCE)
            frames = _frames_of(threads)
        return [
            thread
            for thread, frame in zip(threads, frames, strict=True)
            if not _is_waiting(frame)
        ]

    def have_been_waited_for(
        self, threads: list[threading.Thread], seconds: float
    ) -> None:
        """Count the time for which the loop has waited in vain."""
        for thread in threads:
            waited = self._seconds(thread)
            waited[thread] = waited.get(thread, 0.0) + seconds

    def have_woken_the_loop(self) -> None:
        """Begin to count again, except for older threads that are not waited for."""
        self._waited.clear()
        for thread, seconds in list(_waited_for_older.items()):
            if seconds < PATIENCE:
                del _waited_for_older[thread]

    def _seconds(self, thread: threading.Thread) -> Seconds:
        return _waited_for_older if thread in self._older else self._waited


def describe_other_threads() -> str:
    """Return the part of a message that names the other threads; "" without any."""
    names = [repr(thread.name) for thread in _others()]
    if not names:
        return ""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    threads = (
        "1 other thread is" if len(names) == 1 else f"{len(names)} other threads are"
    )
    return (
        f"; {threads} alive: {shown}. If one of them is to wake the loop, wait for it "
        "inside `with loop.real_time():`"
    )


def _others() -> list[threading.Thread]:
    this = threading.get_ident()
    return [thread for thread in threading.enumerate() if thread.ident != this]


def _frames_of(threads: list[threading.Thread]) -> list[FrameType | None]:
    frames = sys._current_frames()
    return [frames.get(thread.ident or 0) for thread in threads]


def _is_waiting(frame: FrameType | None) -> bool:
    """Tell whether a thread waits, for any time, until another thread wakes it.

    Recognised are waits for a `threading.Condition`, on which queues, events and
    futures are built, and idle threads of a ThreadPoolExecutor.
    """
    if frame is None:  # it has ended, perhaps after a call of call_soon_threadsafe
        return False
    if frame.f_code is _CONDITION_WAIT:
        # notify() removes the waiter: from then on the thread counts as at work, even
        # before it has the GIL.
        names = frame.f_locals
        waiter = names.get("waiter")
        waiters = getattr(names.get("self"), "_waiters", ())
        return waiter is not None and names.get("timeout") is None and waiter in waiters
    if frame.f_code is _EXECUTOR_WORKER:
        names = frame.f_locals
        return names.get("work_item") is None and names["work_queue"].empty()
    return False
