"""The states of a task, an item and a batch."""

from __future__ import annotations

import enum


class TaskState(enum.Enum):
    """The state of a task or item; PENDING until its first step."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


class TaskHealth(enum.Enum):
    """The health of a task: from its heartbeats, and after its end from its outcome."""

    HEALTHY = "healthy"
    STALE = "stale"
    FAILED = "failed"
    UNKNOWN = "unknown"


class BatchStatus(enum.Enum):
    """How a batch ended."""

    COMPLETED = "completed"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    CANCELLED = "cancelled"
