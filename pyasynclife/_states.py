"""The states of a task, an item and a batch.

Their members are str: ``json.dumps()`` and f-strings give the value.
"""

from __future__ import annotations

import enum


class TaskState(enum.StrEnum):
    """The state of a task or item.

    Attributes:
        PENDING: It has not started. In the result of an item: it never started.
        RUNNING: It has started. In the result of an item: it did not stop within
            ``cancel_grace``.
        DONE: It has returned a value.
        CANCELLED: It was cancelled.
        FAILED: It has raised an exception, or an item ran out of time.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class TaskHealth(enum.StrEnum):
    """The health of a task.

    Attributes:
        HEALTHY: Its last heartbeat is recent, or it ended as DONE.
        STALE: It has been silent for longer than ``stale_after``.
        FAILED: It ended as FAILED.
        UNKNOWN: It has not started or has not sent a heartbeat, or it ended as
            CANCELLED.
    """

    HEALTHY = "healthy"
    STALE = "stale"
    FAILED = "failed"
    UNKNOWN = "unknown"


class BatchStatus(enum.StrEnum):
    """How a batch ended.

    Attributes:
        COMPLETED: Every item ran to its end, whether it succeeded or failed.
        STOPPED: ``stop()`` was called, and items were left that had not started, or a
            part of the source that had not been read.
        TIMED_OUT: The budget ran out.
        ABORTED: More than ``max_errors`` items failed; or an exception of the source or
            of ``key``, or an exit that an item raised, ended the batch.
        CANCELLED: ``cancel()`` was called, or the caller was cancelled.
    """

    COMPLETED = "completed"
    STOPPED = "stopped"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
