"""One lifecycle for asyncio tasks: start, observe, cancel, shut down."""

from pyasynclife import _interrupts  # noqa: F401  # before the other imports
from pyasynclife._articles_await import (
    cancellation_with_retry,
    shielded_operation,
    task_with_individual_timeout,
)
from pyasynclife._articles_gather import (
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    process_batch_with_deadline,
    wait_for_first_completion,
)
from pyasynclife._articles_tasks import (
    add_task_observers,
    cancel_all_tasks,
    monitor_tasks,
)
from pyasynclife._backoff import Backoff
from pyasynclife._batch import Batch
from pyasynclife._blocked_loop import BlockedLoop
from pyasynclife._core import (
    Histogram,
    Job,
    Ready,
    TaskGroup,
    TaskMetadata,
    TaskResult,
)
from pyasynclife._errors import (
    BatchError,
    ClosedError,
    DuplicateTaskError,
    NotRunError,
    PoolFullError,
    PyAsyncLifeError,
    SignalSetupError,
    UnknownTaskError,
)
from pyasynclife._gather import bounded_gather
from pyasynclife._pool import TaskPool
from pyasynclife._registry import RegistryStats, TaskRegistry
from pyasynclife._report import ShutdownReport, TaskExit
from pyasynclife._results import BatchProgress, BatchResult
from pyasynclife._retry import Retry
from pyasynclife._run import run
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife._states import BatchStatus, TaskHealth, TaskState
from pyasynclife._watch import LoopWatch

__version__ = "0.2.0"

__all__ = [
    "Backoff",
    "Batch",
    "BatchError",
    "BatchProgress",
    "BatchResult",
    "BatchStatus",
    "BlockedLoop",
    "ClosedError",
    "DuplicateTaskError",
    "Histogram",
    "Job",
    "LoopWatch",
    "NotRunError",
    "PoolFullError",
    "PyAsyncLifeError",
    "Ready",
    "RegistryStats",
    "Retry",
    "ShutdownReport",
    "SignalCoordinator",
    "SignalSetupError",
    "TaskExit",
    "TaskGroup",
    "TaskHealth",
    "TaskMetadata",
    "TaskPool",
    "TaskRegistry",
    "TaskResult",
    "TaskState",
    "UnknownTaskError",
    "add_task_observers",
    "bounded_gather",
    "cancel_all_tasks",
    "cancellation_with_retry",
    "gather_with_error_handling",
    "gather_with_timeout_and_budget",
    "monitor_tasks",
    "process_batch_with_deadline",
    "run",
    "shielded_operation",
    "task_with_individual_timeout",
    "wait_for_first_completion",
]
