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

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pyasynclife._results import BatchResult


class PyAsyncLifeError(Exception):
    """Every exception of this package."""


class DuplicateTaskError(PyAsyncLifeError, ValueError):
    """A task id was registered again while its task is alive."""


class UnknownTaskError(PyAsyncLifeError, KeyError):
    """No task of this id is alive or in the history."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would show a repr of it


class SignalSetupError(PyAsyncLifeError, RuntimeError):
    """Signal handlers cannot be set here: thread, interpreter or loop."""


class NotRunError(PyAsyncLifeError):
    """Stands in a BatchError for an item that was cancelled or never started."""


class BatchError(PyAsyncLifeError, ExceptionGroup[Exception]):
    """The failed items of a batch; ``result`` is its BatchResult, if it has one."""

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
