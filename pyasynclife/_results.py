"""BatchResult and BatchProgress: the outcome and the progress of a batch."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import Any, Generic, Self, TypeVar, cast, final, overload

from pyasynclife import _errors
from pyasynclife._arguments import counted
from pyasynclife._core import (
    RESULT_PENDING,
    STOP_BUDGET,
    STOP_CANCEL,
    STOP_DRAIN,
    STOP_ERRORS,
    STOP_FATAL,
    STOP_NONE,
    BatchCore,
    TaskResult,
)
from pyasynclife._core_reports import report_unread
from pyasynclife._errors import BatchError, as_exception
from pyasynclife._sealed import Sealed, SealedValue
from pyasynclife._states import BatchStatus, TaskState

T = TypeVar("T")

_STATUS = {
    STOP_NONE: BatchStatus.COMPLETED,
    STOP_DRAIN: BatchStatus.STOPPED,
    STOP_BUDGET: BatchStatus.TIMED_OUT,
    STOP_ERRORS: BatchStatus.ABORTED,
    STOP_CANCEL: BatchStatus.CANCELLED,
    STOP_FATAL: BatchStatus.ABORTED,
}


_SHOWN = 10
"""How many results the repr of a slice shows."""


@final
@dataclass(init=False, frozen=True, slots=True)
class BatchProgress(SealedValue):
    """A snapshot of a batch's progress.

    Attributes:
        total: The number of items; None while it is unknown.
        started: Items that have started; those that ``limit_by`` set aside have not.
        running: Items that are running, or were abandoned because they did not stop.
            An item that waits for its next attempt is not.
        done: Items that succeeded.
        failed: Items that failed, including timeouts.
        cancelled: Items that were cancelled after they had started.
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
    list, tuple or range, also the items that were never read, as they were when the
    batch ended. A result that has failures and is dropped unread is reported to the
    loop's exception handler, as a Task's exception is. It may be pickled and copied,
    which makes and reads all results.

    The results of items that were never started are made each time they are asked for,
    and share one error; two of the same item are equal, but not the same object.
    Indexing and slicing make only what is asked for, one at a time, so ``result[-1]``
    takes the same time for any number of items. `failures`, `values` and `by_id` make
    all, in a few microseconds each.

    Attributes:
        status: How the batch ended.
        exhausted: Whether the source was read to its end; if not, some items may be
            missing.
        duration: Seconds from the start of the batch to its end.
    """

    __slots__ = (
        "_added",
        "_done",
        "_failed",
        "_key",
        "_loop",
        "_read",
        "_rest",
        "_rest_error",
        "_rest_timed_out",
        "_results",
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
    _rest_error: BaseException  # of all unstarted items
    _rest_timed_out: bool
    _key: Callable[[Any], str] | None
    _loop: asyncio.AbstractEventLoop
    _read: bool
    _done: int
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
        running, done, failed, _, _, elapsed = core.counts()[2:]
        self = cls._make()
        self._rest = () if items is None or core.exhausted else items[core.from_items :]
        self._added = core.queued
        self._rest_timed_out = core.stopping == STOP_BUDGET
        self._rest_error = (
            TimeoutError(
                f"never started: the budget of {budget} s for the whole batch ran out"
            )
            if self._rest_timed_out
            else asyncio.CancelledError()
        )
        self._key = key
        self._loop = core.loop
        self._read = core.observed  # on_result has received what was started
        self._done = done
        failed += running  # these did not stop in time
        if self._rest_timed_out:
            unstarted = length_of(self._rest) + len(self._added)
            self._read = self._read and not unstarted + core.refused
            failed += unstarted + core.refused
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
            and self._done == self._size()
        )

    def values(self) -> list[T]:
        """Return the data of all items in input order.

        Raises:
            BatchError: Some items did not succeed; it holds the error of each, also of
                those that were never started.
        """
        failures = self.failures()
        if failures:
            raise BatchError(
                f"{len(failures)} of {counted(self._size(), 'item')} did not succeed",
                [as_exception(one.error, one) for one in failures],
                self,
            )
        return [cast(T, result.data) for result in self._results]

    def successes(self) -> list[TaskResult[T]]:
        """Return the results of the items that succeeded.

        The time that it takes depends on the items that were started, not on all.
        """
        self._read = True
        return [result for result in self._results if result.success]

    def failures(self) -> list[TaskResult[T]]:
        """Return the other results: the item failed, was cancelled or never started.

        This makes a result for every item that was never started, and the loop waits
        meanwhile. If these may be millions, iterate instead.
        """
        return [result for result in self if not result.success]

    def by_id(self) -> dict[str, TaskResult[T]]:
        """Return the results by task id; the last one if several have the same id.

        Like `failures`, this makes a result for every item that was never started.
        """
        return {result.task_id: result for result in self}

    def __len__(self) -> int:
        """Return the number of items.

        Raises:
            OverflowError: There are more than ``sys.maxsize``, as for a range.
        """
        self._read = True
        return self._size()

    @overload
    def __getitem__(self, index: int) -> TaskResult[T]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TaskResult[T]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> TaskResult[T] | Sequence[TaskResult[T]]:
        """Return the result at an index, or a sequence of the results in a slice.

        The sequence is a view: it holds the whole BatchResult, and makes the results of
        unstarted items when it is read.
        """
        self._read = True
        indexes = range(self._size())
        if isinstance(index, slice):
            return _Slice._make(_result=self, _indexes=indexes[index])
        return self._at(_index_in(indexes, index))

    def __iter__(self) -> Iterator[TaskResult[T]]:
        """Iterate over the results in input order."""
        self._read = True
        return chain(
            self._results,
            map(
                self._unstarted,
                chain(self._rest, self._added),
                count(len(self._results)),
            ),
        )

    def __reduce__(self) -> Any:
        fields = self.status, self.exhausted, self.duration, self._done, self._failed
        return _restore_result, (*fields, list(self))

    def __repr__(self) -> str:
        """Return the status and the counts, without reading the results."""
        return (
            f"<BatchResult {self.status.value}: {counted(self._size(), 'item')}, "
            f"{self._failed} failed>"
        )

    def _size(self) -> int:
        return len(self._results) + length_of(self._rest) + len(self._added)

    def _at(self, index: int) -> TaskResult[T]:
        """Return the result at an index from 0, which is in range."""
        if index < len(self._results):
            return self._results[index]
        after = index - len(self._results)
        rest = length_of(self._rest)
        item = self._rest[after] if after < rest else self._added[after - rest]
        return self._unstarted(item, index)

    def _unstarted(self, item: Any, index: int) -> TaskResult[T]:
        """Make the result of an item that was never started."""
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
            self._rest_error.with_traceback(None),  # unwrap() may have raised it
            index,
            item,
            RESULT_PENDING,
            self._rest_timed_out,
            0.0,
            0,
        )

    def __del__(self) -> None:
        """Report failures that nobody has looked at to the loop's exception handler."""
        try:
            unread = not self._read and self._failed > 0 and not self._loop.is_closed()
        except AttributeError:
            return  # _of() failed
        if not unread:
            return
        failures = [result for result in self._results if is_failure(result)]
        left = [result for result in failures if result._leave()]  # not to its job
        if self._failed > len(failures) - len(left):
            error = next((r.error for r in left if r.error is not None), None)
            remedy = "look at failures(), or call values()"
            report_unread(self._loop, f"{self!r} was dropped", remedy, error)


@final
class _Slice(Sealed, Sequence[TaskResult[T]], Generic[T]):
    """A slice of a BatchResult, whose results are made when it is read."""

    __slots__ = ("_indexes", "_result")

    _indexes: range
    _result: BatchResult[T]

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> TaskResult[T]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TaskResult[T]]: ...
    def __getitem__(
        self, index: int | slice
    ) -> TaskResult[T] | Sequence[TaskResult[T]]:
        """Return the result at an index, or a slice of this slice."""
        if isinstance(index, slice):
            return _Slice._make(_result=self._result, _indexes=self._indexes[index])
        return self._result._at(_index_in(self._indexes, index))

    def __iter__(self) -> Iterator[TaskResult[T]]:
        """Iterate over the results."""
        return map(self._result._at, self._indexes)

    def __eq__(self, other: object) -> bool:
        """Tell whether the other is a list or slice of equal results."""
        if not isinstance(other, (list, _Slice)):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    def __reduce__(self) -> Any:
        return list, (list(self),)

    def __repr__(self) -> str:
        """Return the first results, as a list shows them."""
        first = [repr(result) for result in islice(self, _SHOWN)]
        more = ["..."] if self._indexes[_SHOWN:] else []
        return f"[{', '.join(first + more)}]"


def _index_in(indexes: range, index: int) -> int:
    """Return the index at an index, which may be negative."""
    try:
        return indexes[operator.index(index)]
    except IndexError:
        raise IndexError(f"there is no result {index}") from None


def _restore_result(
    status: BatchStatus,
    exhausted: bool,
    duration: float,
    done: int,
    failed: int,
    results: list[TaskResult[Any]],
) -> BatchResult[Any]:
    """Make a BatchResult from the parts of one that was pickled or copied."""
    return BatchResult._make(
        status=status,
        exhausted=exhausted,
        duration=duration,
        _done=done,
        _failed=failed,
        _results=results,
        _rest=(),
        _added=(),
        _rest_error=None,
        _rest_timed_out=False,
        _key=None,
        _loop=None,
        _read=True,  # so it is never reported to a loop, which it does not have
    )


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


# typing.get_type_hints(BatchError) looks the name up there, where no import can be.
vars(_errors)["BatchResult"] = BatchResult
