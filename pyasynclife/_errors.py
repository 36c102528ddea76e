"""The exceptions of pyasynclife: one tree.

::

    PyAsyncLifeError
    ├── DuplicateTaskError (ValueError)
    ├── UnknownTaskError   (KeyError)
    ├── SignalSetupError   (RuntimeError)
    ├── NotRunError
    ├── BatchError         (ExceptionGroup)
    └── testing.HangError  (RuntimeError)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pyasynclife._states import TaskState

if TYPE_CHECKING:
    from pyasynclife._core import TaskResult
    from pyasynclife._results import BatchResult


class PyAsyncLifeError(Exception):
    """The base of all exceptions of this package."""


class DuplicateTaskError(PyAsyncLifeError, ValueError):
    """A task id was registered while another task of this id is alive."""


class UnknownTaskError(PyAsyncLifeError, KeyError):
    """No task of this id is alive or in the history."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError.__str__ returns the repr


class SignalSetupError(PyAsyncLifeError, RuntimeError):
    """Signal handlers cannot be set in this thread, interpreter or loop."""


class NotRunError(PyAsyncLifeError):
    """Stands in a BatchError for an item that was cancelled or never started."""


class BatchError(PyAsyncLifeError, ExceptionGroup[Exception]):
    """The errors of the failed items of a batch.

    Attributes:
        result: The BatchResult; None after an iteration, which keeps no results.
    """

    result: BatchResult[Any] | None

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        result: BatchResult[Any] | None = None,
    ) -> Self:
        self = super().__new__(cls, message, exceptions)
        self.result = result
        return self

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        result: BatchResult[Any] | None = None,
    ) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception]) -> BatchError:  # type: ignore[override]
        return BatchError(self.message, excs, self.result)


def as_exception(
    error: BaseException | None, result: TaskResult[Any] | None = None
) -> Exception:
    """Return the exception that a BatchError holds for an item without success.

    Args:
        error: The item's error.
        result: Its result, for the message; None if nobody has kept it.
    """
    if isinstance(error, Exception):
        return error
    item = "an item" if result is None else f"task {result.task_id!r}"
    if error is None:
        return RuntimeError(f"{item} failed and gave no error")
    if not isinstance(error, asyncio.CancelledError):
        what = f"ended with {type(error).__name__}"
    elif result is not None and result.state is TaskState.PENDING:
        what = "was never started"
    elif result is not None and result.state is TaskState.RUNNING:
        what = "did not stop when it was cancelled"
    else:
        what = "was cancelled"
    standing = NotRunError(f"{item} {what}")
    standing.__cause__ = error
    return standing
