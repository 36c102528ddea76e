"""What became of a whole batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar, cast, overload

from pyasynclife._core import TaskResult
from pyasynclife._errors import BatchError, NotRunError
from pyasynclife._sealed import Sealed
from pyasynclife._states import BatchStatus, TaskState

T = TypeVar("T")

_PENDING = 0  # of the native states


@dataclass(frozen=True, slots=True, init=False)
class BatchProgress(Sealed):
    """How far a batch is: a snapshot.

    ``failed`` counts those whose time ran out too; ``timed_out`` tells how many.
    ``running`` counts those that were given up because they did not stop, too.
    """

    total: int | None
    started: int
    running: int
    done: int
    failed: int
    cancelled: int
    timed_out: int
    elapsed: float


def make_progress(counts: tuple[Any, ...]) -> BatchProgress:
    """Make the snapshot of the books' counts."""
    self = BatchProgress._make()
    total = None if counts[0] < 0 else counts[0]
    for name, value in zip(BatchProgress.__slots__, (total, *counts[1:]), strict=True):
        object.__setattr__(self, name, value)
    return self


class BatchResult(Sealed, Sequence[TaskResult[T]], Generic[T]):
    """What became of every item of a batch, in input order.

    It holds every item that was pulled and, of a list, tuple or range, the rest too.
    One that is dropped unread although it holds failures is reported to the loop's
    exception handler, as a Task would be.
    """

    __slots__ = (
        "_added",
        "_failed",
        "_key",
        "_loop",
        "_read",
        "_rest",
        "_results",
        "_why_rest",
        "duration",
        "exhausted",
        "status",
    )

    status: BatchStatus
    exhausted: bool
    duration: float
    _results: list[TaskResult[T]]
    _rest: Sequence[Any]  # of the items as they were given, never started
    _added: Sequence[Any]  # and of those that were added
    _why_rest: str | None
    _key: Callable[[Any], str] | None
    _loop: asyncio.AbstractEventLoop
    _read: bool
    _failed: int

    @property
    def ok(self) -> bool:
        """Whether it ran to its end, the source too, and every item succeeded."""
        self._read = True
        return (
            self.status is BatchStatus.COMPLETED
            and self.exhausted
            and all(result.success for result in self._all())
        )

    def values(self) -> list[T]:
        """Return the data of all items in input order.

        Raises:
            BatchError: of all that are not successes, if there are any.
        """
        results = self._all()
        failures = [result for result in results if not result.success]
        if failures:
            raise BatchError(
                f"{len(failures)} of {len(results)} items did not succeed",
                [as_exception(result) for result in failures],
                self,
            )
        return [cast(T, result.data) for result in results]

    def successes(self) -> list[TaskResult[T]]:
        """Return the results of the items that succeeded."""
        return [result for result in self._all() if result.success]

    def failures(self) -> list[TaskResult[T]]:
        """Return the results of all other items: failed, cancelled, never started."""
        return [result for result in self._all() if not result.success]

    def by_id(self) -> dict[str, TaskResult[T]]:
        """Return the results by task id; of two items with one id, the later one."""
        return {result.task_id: result for result in self._all()}

    def __len__(self) -> int:
        self._read = True
        return len(self._results) + len(self._rest) + len(self._added)

    @overload
    def __getitem__(self, index: int) -> TaskResult[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[TaskResult[T]]: ...
    def __getitem__(self, index: int | slice) -> TaskResult[T] | list[TaskResult[T]]:
        return self._all()[index]

    def __iter__(self) -> Iterator[TaskResult[T]]:
        return iter(self._all())

    def __repr__(self) -> str:
        size = len(self._results) + length_of(self._rest) + len(self._added)
        return (
            f"<BatchResult {self.status.value}: {count_items(size)}, "
            f"{self._failed} failed>"
        )

    def _all(self) -> list[TaskResult[T]]:
        """All results; those of items that were never started are made now."""
        self._read = True
        if self._rest or self._added:
            rest, added = self._rest, self._added
            self._rest = self._added = ()
            first = len(self._results)
            try:
                self._results += [
                    self._unstarted(item, index)
                    for index, item in enumerate(chain(rest, added), first)
                ]
            except BaseException:  # an exit in the key, or no memory
                self._rest, self._added = rest, added
                raise
        return self._results

    def _unstarted(self, item: Any, index: int) -> TaskResult[T]:
        error: BaseException
        if self._why_rest is None:
            error = asyncio.CancelledError()
        else:
            error = TimeoutError(self._why_rest)
        task_id = None
        if self._key is not None:
            try:
                answer = self._key(item)
            except Exception:
                answer = ""  # a batch that is over cannot end for it
            task_id = str(answer) if isinstance(answer, str) and answer else None
        return TaskResult._restore(
            task_id,
            None,
            error,
            index,
            item,
            _PENDING,
            self._why_rest is not None,
            0.0,
        )

    def __del__(self) -> None:
        try:
            unread = not self._read and self._failed > 0 and not self._loop.is_closed()
        except AttributeError:
            return  # never filled in
        if unread:
            error = next((r.error for r in self._results if r.error is not None), None)
            self._loop.call_exception_handler(
                {
                    "message": f"{self!r} was dropped unread: look at failures(), "
                    "or call values()",
                    "exception": error,
                }
            )


def count_items(number: int) -> str:
    """Say how many items."""
    return f"{number} item" if number == 1 else f"{number} items"


def length_of(items: Sequence[Any]) -> int:
    """Return the length, also of a range too long for len()."""
    if isinstance(items, range) and items:
        return (items[-1] - items[0]) // items.step + 1
    return len(items)


def as_exception(result: TaskResult[Any]) -> Exception:
    """Return what stands for an item that is no success in a BatchError."""
    error = result.error
    if isinstance(error, Exception):
        return error
    what = {
        TaskState.PENDING: "was never started",
        TaskState.RUNNING: "did not stop when it was cancelled",
    }.get(result.state, "was cancelled")
    if error is None:
        return RuntimeError(f"task {result.task_id!r} failed and gave no error")
    if not isinstance(error, asyncio.CancelledError):
        what = f"ended with {type(error).__name__}"
    standing = NotRunError(f"task {result.task_id!r} {what}")
    standing.__cause__ = error
    return standing
