"""Batch: what `bounded_gather` returns, to be awaited, iterated or entered."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pyasynclife._arguments import check_count
from pyasynclife._constants import (
    MODE_BLOCK,
    MODE_COLLECT,
    MODE_OPEN,
    MODE_STREAM,
    STOP_ERRORS,
)
from pyasynclife._core import Books, TaskResult
from pyasynclife._errors import BatchError, as_exception
from pyasynclife._results import (
    BatchProgress,
    BatchResult,
    count_items,
    is_failure,
    status_of,
)
from pyasynclife._sealed import Sealed
from pyasynclife._states import BatchStatus

if TYPE_CHECKING:
    from pyasynclife._registry import TaskRegistry

T = TypeVar("T")


class Batch(Sealed, Generic[T]):
    """Many items on their way through one function; made by `bounded_gather`.

    Its first use decides who takes the results: awaiting it keeps them all, iterating
    it yields each of them, and an ``async with`` block that does neither passes them to
    ``on_result``, counts them, and waits for all items at its end.
    """

    __slots__ = ("__weakref__", "_awaited", "_books", "_budget", "_delivered", "_items",
                 "_key", "_max_concurrent", "_max_errors", "_result")  # fmt: skip

    _books: Books
    _items: Any  # the source, if it is a list, tuple or range; else None
    _key: Callable[[Any], str] | None
    _budget: float
    _max_concurrent: int
    _max_errors: int  # -1: any number
    _awaited: bool
    _delivered: bool  # some caller has received the outcome
    _result: BatchResult[T] | None

    @classmethod
    def _create(
        cls,
        fn: Callable[[Any], Awaitable[T]],
        items: Any,
        *,
        is_async: bool,
        max_concurrent: int,
        timeout: float,
        budget: float,
        max_errors: int,
        cancel_grace: float,
        ordered: bool,
        buffer: int,
        key: Callable[[Any], str] | None,
        on_result: Callable[[TaskResult[T]], object] | None,
        task_per_item: bool,
        registry: TaskRegistry | None,
    ) -> Self:
        """Make a batch of arguments that `bounded_gather` has checked.

        No time limit is ``math.inf``; no ``max_errors`` and the default ``buffer``
        are -1.
        """
        self = cls._make()
        self._items = items if type(items) in (list, tuple, range) else None
        self._key = key
        self._budget = budget
        self._max_concurrent = max_concurrent
        self._max_errors = max_errors
        self._awaited = self._delivered = False
        self._result = None
        self._books = Books(
            fn,
            items,
            is_async,
            "bounded_gather",
            min(max_concurrent, sys.maxsize),
            timeout,
            budget,
            cancel_grace,
            max_errors,
            ordered,
            buffer,
            key,
            on_result,
            task_per_item,
            registry,
        )
        return self

    @property
    def max_concurrent(self) -> int:
        """How many items run at once, at most.

        It may be set while the batch runs. Raised, it lets more items start at once;
        lowered, it leaves running items alone, and none start until fewer run.
        """
        return self._max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        limit = check_count("max_concurrent", value, 1)
        self._books.set("limit", min(limit, sys.maxsize))
        self._max_concurrent = limit

    @property
    def paused(self) -> bool:
        """Whether the batch is paused: no item starts."""
        return self._books.paused

    @property
    def progress(self) -> BatchProgress:
        """A snapshot of how far the batch is."""
        return BatchProgress._of(self._books)

    @property
    def status(self) -> BatchStatus | None:
        """How the batch ended; None while it runs, and before."""
        return status_of(self._books)

    async def collect(self) -> BatchResult[T]:
        """Run all items and return their results; ``await batch`` does the same.

        Returns:
            The results in input order. Called again, it returns the same object.

        Raises:
            BatchError: More than ``max_errors`` items failed. Its ``result`` has the
                results of all items.
            RuntimeError: The batch is being iterated, or another caller awaits it.

        An exception of the source or of ``key`` propagates as it is, once the running
        items have been cancelled and have ended. So do SystemExit, KeyboardInterrupt
        and other exits of an item. If the caller is cancelled, so are the items; once
        they have ended, that CancelledError propagates, and awaiting the batch again
        returns the result. A SystemExit or KeyboardInterrupt of an item is raised in
        place of the CancelledError.
        """
        if self._awaited:
            raise RuntimeError("another caller is awaiting this batch")
        self._books.use(MODE_COLLECT)
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
        """Yield each result; ``anext()`` takes it when it is awaited."""
        self._books.use(MODE_STREAM)
        return self._books.stream(self)

    async def __aenter__(self) -> Self:
        self._books.use(MODE_OPEN)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        books = self._books
        if books.mode == MODE_OPEN:
            books.use(MODE_BLOCK)
        if exc is not None or books.mode == MODE_STREAM:
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
                    "message": "a batch failed while another exception left its block",
                    "exception": books.fatal,
                }
            )

    def add(self, item: Any) -> None:
        """Add an item at the end, after all items of the source.

        Items of an asynchronous source and added items run in the order in which they
        arrive. An await ends when the source is exhausted and no item runs or waits; an
        iteration ends when the consumer then asks for the next result; a block does
        not end before it is left. So the consumer of a batch may add to it.

        Raises:
            RuntimeError: The batch has ended or was closed, or this is not the thread
                of its loop.
            TypeError: The item is a coroutine, which is closed.
        """
        self._books.add(item)

    def close(self) -> None:
        """Accept no more items: the batch ends when no item runs or waits."""
        self._books.set("closed", 1)

    def pause(self) -> None:
        """Start no item. Running items go on; so do timeouts and the budget."""
        self._books.set("paused", 1)

    def resume(self) -> None:
        """Start items again."""
        self._books.set("paused", 0)

    def cancel(self, msg: str | None = None) -> None:
        """Cancel the running items and start no more; again: cancel them once more.

        The await or iteration then ends with status CANCELLED. No effect after the end.
        """
        self._books.stop(msg)

    def _outcome(self) -> BatchResult[T]:
        """Return the BatchResult; make it at the first call."""
        if self._result is None:
            self._result = BatchResult._of(
                self._books, self._items, self._key, self._budget
            )
            self._items = None
        return self._result

    def _failure(self) -> BaseException | None:
        """Return the exception that the end of the batch raises, if any."""
        books = self._books
        if books.fatal is not None:
            return books.fatal
        if books.stopping != STOP_ERRORS:
            return None
        result = None
        if books.mode == MODE_COLLECT:
            result = self._outcome()
            errors = [as_exception(one.error, one) for one in result if is_failure(one)]
        else:
            errors = [as_exception(error) for error in books.errors]
        return BatchError(
            f"{count_items(len(errors))} failed, where max_errors is "
            f"{self._max_errors}",
            errors,
            result,
        )

    def _raise_exit(self) -> None:
        """Raise the SystemExit or KeyboardInterrupt that ended the batch, if any."""
        fatal = self._books.fatal
        if isinstance(fatal, SystemExit | KeyboardInterrupt):
            self._delivered = True
            raise fatal

    def _ended(self) -> None:
        """Raise the failure of the batch, if any: called at the end of an iteration."""
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
            return  # _create() failed
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
