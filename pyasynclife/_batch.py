"""Batch: items on their way through a function."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pyasynclife._arguments import check_count
from pyasynclife._core import Books, TaskResult
from pyasynclife._errors import BatchError
from pyasynclife._results import (
    BatchProgress,
    BatchResult,
    count_items,
    length_of,
    make_progress,
)
from pyasynclife._sealed import Sealed
from pyasynclife._states import BatchStatus, TaskState

T = TypeVar("T")

# Who takes the results, and why a batch was stopped: as csrc/batch.c and item.h count.
_BLOCK_OPEN, _COLLECT, _STREAM, _NOBODY = 1, 2, 3, 4
_BUDGET, _ERRORS = 1, 2
_STATUS = (
    BatchStatus.COMPLETED,
    BatchStatus.TIMED_OUT,
    BatchStatus.ABORTED,
    BatchStatus.CANCELLED,
    BatchStatus.ABORTED,
)


class Batch(Sealed, Generic[T]):
    """Items on their way through a function; made by `bounded_gather`.

    The first use decides what becomes of the results: awaiting keeps them all,
    iterating hands each over, an ``async with`` block that does neither sends them to
    ``on_result`` and the counts and waits for all at its end.
    """

    __slots__ = ("__weakref__", "_awaited", "_books", "_budget", "_delivered", "_items",
                 "_key", "_max_concurrent", "_max_errors", "_result")  # fmt: skip

    _books: Books
    _items: Any
    _key: Callable[[Any], str] | None
    _budget: float
    _max_concurrent: int
    _max_errors: int
    _awaited: bool
    _delivered: bool  # somebody was told how it ended
    _result: BatchResult[T] | None

    @property
    def max_concurrent(self) -> int:
        """How many items run at once, at most.

        May be set while it runs: raised, it starts more at once; lowered, items that
        run are left alone, and no more are started until fewer run.
        """
        return self._max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        limit = check_count("max_concurrent", value, 1)
        self._books.set("limit", min(limit, sys.maxsize))
        self._max_concurrent = limit

    @property
    def paused(self) -> bool:
        """Whether nothing new is started."""
        return self._books.paused

    @property
    def progress(self) -> BatchProgress:
        """How far it is: a snapshot."""
        return make_progress(self._books.counts())

    @property
    def status(self) -> BatchStatus | None:
        """How it ended; None while it runs, and before."""
        return _STATUS[self._books.stopping] if self._books.over else None

    async def collect(self) -> BatchResult[T]:
        """Run all items and return their results: what ``await batch`` does.

        Returns:
            The results in input order; the same again if asked again.

        Raises:
            BatchError: more than ``max_errors`` items failed; ``result`` has all.
            RuntimeError: it is being iterated, or awaited by somebody else.

        A source's or ``key``'s exception comes out as it is, when the items that ran
        have been cancelled and have ended; so does a SystemExit, KeyboardInterrupt or
        the like of an item. If the caller is cancelled, so are the items; when they
        have ended, that CancelledError comes out, and awaiting again gives the result.
        A SystemExit or KeyboardInterrupt goes before all of these.
        """
        if self._awaited:
            raise RuntimeError("this batch is being awaited by somebody else")
        self._books.use(_COLLECT)
        if not self._books.over:
            self._awaited = True
            try:
                await self._books.wait()
            except MemoryError:
                self._books.stop()
                raise
            except asyncio.CancelledError:
                self._raise_exit()
                raise
            finally:
                self._awaited = False
        self._delivered = True
        error: BaseException | None = self._failure()
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # the traceback holds this frame
        return self._outcome()

    def __await__(self) -> Generator[Any, None, BatchResult[T]]:
        return self.collect().__await__()

    def __aiter__(self) -> AsyncIterator[TaskResult[T]]:
        """Hand over each result; ``anext()`` takes it when it is awaited."""
        self._books.use(_STREAM)
        return self._books.stream(self)

    async def __aenter__(self) -> Self:
        self._books.use(_BLOCK_OPEN)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        books = self._books
        if books.mode == _BLOCK_OPEN:
            books.use(_NOBODY)
        if exc is not None or books.mode == _STREAM:
            books.stop()
        if not books.over:
            try:
                await books.wait()
            except asyncio.CancelledError:
                self._raise_exit()
                raise
        if self._delivered:
            return
        self._delivered = True
        if exc is None:
            error: BaseException | None = self._failure()
            if error is not None:
                try:
                    raise error
                finally:
                    del self, error
        elif books.fatal is not None and books.fatal is not exc:
            if not isinstance(books.fatal, Exception):
                raise books.fatal
            books.loop.call_exception_handler(
                {
                    "message": "a batch failed while its block was being left with "
                    "another exception",
                    "exception": books.fatal,
                }
            )

    def add(self, item: Any) -> None:
        """Add an item, behind all others: those of the source come first.

        Items of an asynchronous source and added ones run in the order in which they
        arrive. An await ends when the source is done and nothing runs or waits; an
        iteration when the consumer then asks for one more; a block not before it is
        left. So what consumes a batch may add to it.

        Raises:
            RuntimeError: it has ended, or was closed; another thread than its loop's.
            TypeError: for a coroutine, which is closed.
        """
        self._books.add(item)

    def close(self) -> None:
        """Say that no more will be added: it ends when nothing runs."""
        self._books.set("closed", 1)

    def pause(self) -> None:
        """Start nothing new; what runs goes on, and so do timeouts and the budget."""
        self._books.set("paused", 1)

    def resume(self) -> None:
        """Start items again."""
        self._books.set("paused", 0)

    def cancel(self, msg: str | None = None) -> None:
        """Cancel the items that run and start no more; again: cancel them once more.

        Await or iteration then end with status CANCELLED. After the end: no effect.
        """
        self._books.stop(msg)

    def _outcome(self) -> BatchResult[T]:
        """The BatchResult, made once."""
        if self._result is not None:
            return self._result
        books, items = self._books, self._items
        running, _, failed, _, _, elapsed = books.counts()[2:]
        failed += running  # did not stop in time
        result: BatchResult[T] = BatchResult._make()
        result._failed = 0
        result._results = books.results
        result._rest = ()
        result._added = books.queued
        result._why_rest = None
        result._key = self._key
        result._loop = books.loop
        result._read = False
        if type(items) in (list, tuple, range) and not books.exhausted:
            result._rest = items[books.own :]
        if books.stopping == _BUDGET:
            result._why_rest = (
                f"never started: the budget of {self._budget} s for the whole batch"
                " ran out"
            )
            failed += length_of(result._rest) + len(result._added)
        result.exhausted = books.exhausted or type(items) in (list, tuple, range)
        result.status = _STATUS[books.stopping]
        result.duration = elapsed
        result._failed = failed
        self._items = None
        self._result = result
        return result

    def _failure(self) -> BaseException | None:
        """What the end raises."""
        books = self._books
        if books.fatal is not None:
            return books.fatal
        if books.stopping != _ERRORS:
            return None
        result = None
        errors = books.errors  # as they failed; None: without an error
        if books.mode == _COLLECT:
            result = self._outcome()
            errors = [r.error for r in result if _is_failure(r)]
        return BatchError(
            f"{count_items(len(errors))} failed, where max_errors is "
            f"{self._max_errors}",
            [_as_exception(error) for error in errors],
            result,
        )

    def _raise_exit(self) -> None:
        """Raise what is to end the loop's run, if that is what ended the batch."""
        fatal = self._books.fatal
        if isinstance(fatal, SystemExit | KeyboardInterrupt):
            self._delivered = True
            raise fatal

    def _ended(self) -> None:
        """The iteration has come to its end: raise why, if there is a why."""
        self._delivered = True
        error = self._failure()
        if error is not None:
            try:
                raise error
            finally:
                del self, error

    def __repr__(self) -> str:
        status = self.status
        if status is not None:
            state = status.value
        else:
            state = "running" if self._books.begun else "not begun"
        return f"<Batch {state}, max_concurrent={self._max_concurrent}>"

    def __del__(self) -> None:
        try:
            books = self._books
        except AttributeError:
            return
        if not books.begun or (books.over and self._delivered):
            return
        loop: asyncio.AbstractEventLoop = books.loop
        if loop.is_closed() or sys.is_finalizing():
            return
        try:
            if not (books.quiet or books.stopping or books.over):
                warnings.warn(
                    f"{self!r} was dropped while it ran and is cancelled: iterate it "
                    "to its end, or use `async with`",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
        finally:
            try:
                books.drop()
            except RuntimeError:  # collected in another thread
                loop.call_soon_threadsafe(books.drop)


def _is_failure(result: TaskResult[Any]) -> bool:
    """Tell whether an item counts for max_errors."""
    return result.state is TaskState.FAILED or (
        result.state is TaskState.RUNNING and result.timed_out
    )


def _as_exception(error: BaseException | None) -> Exception:
    """Return what stands for a failed item's error in a BatchError."""
    if isinstance(error, Exception):
        return error
    return RuntimeError(repr(error) if error else "an item failed and gave no error")
