"""One native lifecycle for asyncio tasks: launch, observe, cancel, shut down."""

from pyasynclife._core import Ready
from pyasynclife._errors import (
    BatchError,
    DuplicateTaskError,
    NotRunError,
    PyAsyncLifeError,
    SignalSetupError,
    UnknownTaskError,
)
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife._states import BatchStatus, TaskHealth, TaskState

__version__ = "0.1.0"

__all__ = [
    "BatchError",
    "BatchStatus",
    "DuplicateTaskError",
    "NotRunError",
    "PyAsyncLifeError",
    "Ready",
    "SignalCoordinator",
    "SignalSetupError",
    "TaskHealth",
    "TaskState",
    "UnknownTaskError",
]
