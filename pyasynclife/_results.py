"""BatchResult and BatchProgress: the outcome and the progress of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, Self, TypeVar, cast, final, overload

from pyasynclife._core import (
    RESULT_PENDING,
    STOP_BUDGET,
    STOP_CANCEL,
    STOP_ERRORS,
    STOP_FATAL,
    STOP_NONE,
    BatchCore,
    TaskResult,
)
from pyasynclife._core_support import report_unread
from pyasynclife._errors import BatchError, as_exception, count_items
from pyasynclife._sealed import Sealed
from pyasynclife._states import BatchStatus, TaskState

T = TypeVar("T")

_STATUS = {
    STOP_NONE: BatchStatus.COMPLETED,
    STOP_BUDGET: BatchStatus.TIMED_OUT,
    STOP_ERRORS: BatchStatus.ABORTED,
    STOP_CANCEL: BatchStatus.CANCELLED,
    STOP_FATAL: BatchStatus.ABORTED,
}


@final
@dataclass(init=False, frozen=True, slots=True)
class BatchProgress(Sealed):
    """A snapshot of a batch's progress.

    Attributes:
        total: The number of items; None while it is unknown.
        started: Items that have started.
        running: Items that are running, or were abandoned because they did not stop.
        done: Items that succeeded.
        failed: Items that failed, including timeouts.
        cancelled: Items that were cancelled.
        timed_out: Failed items that ran out of time.
        elapsed: Seconds from the start of the batch until now, or until its end.
    """

    total: int | None
    started: int
    running: int
    done: int
    failed: int
    cancelled: int
    timed_out: int
    elapsed: float

    @classmethod
    def _of(cls, core: BatchCore) -> Self:
        total, *others = core.counts()
        counts = (None if total < 0 else total, *others)
        return cls._make(**dict(zip(cls.__slots__, counts, strict=True)))


@final
class BatchResult(Sealed, Sequence[TaskResult[T]], Generic[T]):
    """The results of all items of a batch, in input order.

    It covers every item that was read from the source or added; if the source is a
    list, tuple or range, also the items that were never read. A result that has
    failures and is dropped unread is reported to the loop's exception handler, as a
    Task's exception is.

    Attributes:
        status: How the batch ended.
        exhausted: Whether the source was read to its end; if not, some items may be
            missing.
        duration: Seconds from the start of the batch to its end.
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
    _rest: Sequence[Any]  # unstarted items of a list, tuple or range
    _added: Sequence[Any]  # unstarted items that were added
    _why_rest: str | None
    _key: Callable[[Any], str] | None
    _loop: asyncio.AbstractEventLoop
    _read: bool
    _failed: int

    @classmethod
    def _of(
        cls,
        core: BatchCore,
        items: Any,
        key: Callable[[Any], str] | None,
        budget: float,
    ) -> Self:
        """Make the result of a batch that has ended.

        Args:
            core: The native half of the batch.
            items: Its source, if that is a list, tuple or range; else None.
            key: Its ``key``, for items that were never started.
            budget: Its ``budget``, for the error of such items.
        """
        running, _, failed, _, _, elapsed = core.counts()[2:]
        self = cls._make()
        self._rest = () if items is None or core.exhausted else items[core.from_items :]
        self._added = core.queued
        self._why_rest = None
        self._key = key
        self._loop = core.loop
        self._read = core.observed  # on_result has received what was started
        failed += running  # these did not stop in time
        if core.stopping == STOP_BUDGET:
            self._why_rest = (
                f"never started: the budget of {budget} s for the whole batch ran out"
            )
            unstarted = length_of(self._rest) + len(self._added)
            self._read = self._read and not unstarted
            failed += unstarted
        self.status = _STATUS[core.stopping]
        self.exhausted = core.exhausted or items is not None
        self.duration = elapsed
        self._results = core.take_results()
        self._failed = failed  # last: without it, __del__ reports nothing
        return self

    @property
    def ok(self) -> bool:
        """Whether the source was read to its end and every item succeeded."""
        self._read = True
        return (
            self.status is BatchStatus.COMPLETED
            and self.exhausted
            and all(result.success for result in self._all())
        )

    def values(self) -> list[T]:
        """Return the data of all items in input order.

        Raises:
            BatchError: Some items did not succeed; it holds their errors.
        """
        results = self._all()
        failures = [result for result in results if not result.success]
        if failures:
            raise BatchError(
                f"{len(failures)} of {len(results)} items did not succeed",
                [as_exception(one.error, one) for one in failures],
                self,
            )
        return [cast(T, result.data) for result in results]

    def successes(self) -> list[TaskResult[T]]:
        """Return the results of the items that succeeded."""
        return [result for result in self._all() if result.success]

    def failures(self) -> list[TaskResult[T]]:
        """Return the other results: the item failed, was cancelled or never started."""
        return [result for result in self._all() if not result.success]

    def by_id(self) -> dict[str, TaskResult[T]]:
        """Return the results by task id; the last one if several have the same id."""
        return {result.task_id: result for result in self._all()}

    def __len__(self) -> int:
        """Return the number of items."""
        self._read = True
        return len(self._results) + len(self._rest) + len(self._added)

    @overload
    def __getitem__(self, index: int) -> TaskResult[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[TaskResult[T]]: ...
    def __getitem__(self, index: int | slice) -> TaskResult[T] | list[TaskResult[T]]:
        """Return the result at an index, or a list of the results in a slice."""
        return self._all()[index]

    def __iter__(self) -> Iterator[TaskResult[T]]:
        """Iterate over the results in input order."""
        return iter(self._all())

    def __repr__(self) -> str:
        """Return the status and the counts, without reading the results."""
        size = len(self._results) + length_of(self._rest) + len(self._added)
        return (
            f"<BatchResult {self.status.value}: {count_items(size)}, "
            f"{self._failed} failed>"
        )

    def _all(self) -> list[TaskResult[T]]:
        """Return all results; the first call makes those of unstarted items."""
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
            except BaseException:  # the key raised an exit, or memory ran out
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
                answer = ""  # the batch has ended and can no longer fail
            task_id = str(answer) if isinstance(answer, str) and answer else None
        return TaskResult._restore(
            task_id,
            None,
            error,
            index,
            item,
            RESULT_PENDING,
            self._why_rest is not None,
            0.0,
        )

    def __del__(self) -> None:
        """Report failures that nobody has looked at to the loop's exception handler."""
        try:
            unread = not self._read and self._failed > 0 and not self._loop.is_closed()
        except AttributeError:
            return  # _of() failed
        if unread:
            error = next((r.error for r in self._results if r.error is not None), None)
            remedy = "look at failures(), or call values()"
            report_unread(self._loop, f"{self!r} was dropped", remedy, error)


def status_of(core: BatchCore) -> BatchStatus | None:
    """Return how a batch ended; None until then."""
    return _STATUS[core.stopping] if core.over else None


def length_of(items: Sequence[Any]) -> int:
    """Return the length of a sequence, even of a range that is too long for len()."""
    if isinstance(items, range) and items:
        return (items[-1] - items[0]) // items.step + 1
    return len(items)


def is_failure(result: TaskResult[Any]) -> bool:
    """Tell whether an item counts towards ``max_errors``."""
    return result.state is TaskState.FAILED or (
        result.state is TaskState.RUNNING and result.timed_out
    )
