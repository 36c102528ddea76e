"""The exceptions of pyasynclife: one tree.

::

    PyAsyncLifeError
    ├── DuplicateTaskError (ValueError)
    ├── UnknownTaskError   (KeyError)
    ├── SignalSetupError   (RuntimeError)
    ├── ClosedError        (RuntimeError)
    ├── PoolFullError
    ├── NotRunError
    ├── BatchError         (ExceptionGroup)
    └── testing.HangError  (RuntimeError)
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from pyasynclife._arguments import counted, short_id
from pyasynclife._states import TaskState

if TYPE_CHECKING:
    from pyasynclife._core import TaskResult
    from pyasynclife._results import BatchResult


class PyAsyncLifeError(Exception):
    """The base class of all exceptions in this package."""


class DuplicateTaskError(PyAsyncLifeError, ValueError):
    """A task was registered under the id of another task that is still alive."""


class UnknownTaskError(PyAsyncLifeError, KeyError):
    """No task with this id is alive or in the history."""

    def __str__(self) -> str:
        """Return the message."""
        return Exception.__str__(self)  # KeyError.__str__ returns the repr


class SignalSetupError(PyAsyncLifeError, RuntimeError):
    """A signal cannot be handled in this thread, interpreter or loop, or anywhere."""


class ClosedError(PyAsyncLifeError, RuntimeError):
    """The registry is shutting down, or the pool takes no more jobs."""


class PoolFullError(PyAsyncLifeError):
    """A job was submitted while ``max_pending`` others wait for a slot."""


class NotRunError(PyAsyncLifeError):
    """Represents, in a BatchError, an item that was cancelled or never started."""


class BatchError(PyAsyncLifeError, ExceptionGroup[Exception]):
    """The errors of the failed items of a batch.

    It may be pickled, for example by a process pool, as its message and its errors.

    Attributes:
        result: The BatchResult; None after an iteration or a block, which keep no
            results, and if it was pickled: items and values may be large, and a value
            that cannot be pickled would hide the errors.
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
        """Return a BatchError with the same result: ``split()`` calls this."""
        return BatchError(self.message, excs, self.result)

    def __reduce__(self) -> Any:
        state = {k: v for k, v in vars(self).items() if k != "result"}
        return type(self), (self.message, list(self.exceptions)), state or None

    def __copy__(self) -> Self:
        cls, args, state = self.__reduce__()
        copied: Self = cls(*args, self.result)
        vars(copied).update(state or {})
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        cls, args, state = copy.deepcopy(self.__reduce__(), memo)
        copied: Self = cls(*args, copy.deepcopy(self.result, memo))
        vars(copied).update(state or {})
        return copied


def too_many_errors(
    errors: Sequence[BaseException | None],
    max_errors: int,
    result: BatchResult[Any] | None = None,
) -> BatchError:
    """Return the error of a batch of which more than ``max_errors`` items failed."""
    return BatchError(
        f"{counted(len(errors), 'item')} failed; max_errors is {max_errors}",
        [as_exception(error) for error in errors],
        result,
    )


def as_exception(
    error: BaseException | None, result: TaskResult[Any] | None = None
) -> Exception:
    """Return the exception that represents an unsuccessful item in a BatchError.

    Args:
        error: The item's error.
        result: The item's result, for the message; None if it was not kept.
    """
    if isinstance(error, Exception):
        return error
    item = "an item" if result is None else f"task {short_id(result.task_id)}"
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
    not_run = NotRunError(f"{item} {what}")
    not_run.__cause__ = error
    return not_run
