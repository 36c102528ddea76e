"""One native lifecycle for asyncio tasks: launch, observe, cancel, shut down."""

from pyasynclife._batch import Batch
from pyasynclife._core import Ready, TaskGroup, TaskMetadata, TaskResult
from pyasynclife._errors import (
    BatchError,
    DuplicateTaskError,
    NotRunError,
    PyAsyncLifeError,
    SignalSetupError,
    UnknownTaskError,
)
from pyasynclife._gather import bounded_gather
from pyasynclife._registry import RegistryStats, TaskRegistry
from pyasynclife._report import ShutdownReport, TaskExit
from pyasynclife._results import BatchProgress, BatchResult
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife._states import BatchStatus, TaskHealth, TaskState

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchError",
    "BatchProgress",
    "BatchResult",
    "BatchStatus",
    "DuplicateTaskError",
    "NotRunError",
    "PyAsyncLifeError",
    "Ready",
    "RegistryStats",
    "ShutdownReport",
    "SignalCoordinator",
    "SignalSetupError",
    "TaskExit",
    "TaskGroup",
    "TaskHealth",
    "TaskMetadata",
    "TaskRegistry",
    "TaskResult",
    "TaskState",
    "UnknownTaskError",
    "bounded_gather",
]
