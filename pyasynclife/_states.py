"""The states of a task, an item and a batch."""

from __future__ import annotations

import enum


class TaskState(enum.Enum):
    """The state of a task or item.

    Attributes:
        PENDING: It has not started; of an item: it never did.
        RUNNING: It has started; of an item: it did not stop in ``cancel_grace``.
        DONE: It has returned a value.
        CANCELLED: It was cancelled.
        FAILED: It has raised an exception; of an item: or it ran out of time.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class TaskHealth(enum.Enum):
    """The health of a task.

    Attributes:
        HEALTHY: Its last heartbeat is recent; or it has ended, DONE.
        STALE: It has been silent for longer than ``stale_after``.
        FAILED: It has ended, FAILED.
        UNKNOWN: It has not started, or sent no heartbeat yet; or it has ended,
            CANCELLED.
    """

    HEALTHY = "healthy"
    STALE = "stale"
    FAILED = "failed"
    UNKNOWN = "unknown"


class BatchStatus(enum.Enum):
    """How a batch ended.

    Attributes:
        COMPLETED: Every item ran to its end, whether it succeeded or failed.
        TIMED_OUT: The budget ran out.
        ABORTED: More than ``max_errors`` items failed; or an exception of the source or
            of ``key``, or an exit of an item, ended the batch.
        CANCELLED: The batch was cancelled, by ``cancel()`` or with its caller.
    """

    COMPLETED = "completed"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
