"""bounded_gather: run a function over many items, a bounded number at once."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import warnings
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
)
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pyasynclife._core import Books, TaskResult
from pyasynclife._errors import BatchError
from pyasynclife._registry import TaskRegistry
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
_BUDGET, _ERRORS, _FATAL = 1, 2, 4
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
        limit = _count("max_concurrent", value, 1)
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
            await books.wait()
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
        if books.over and books.fatal is not None and not self._delivered:
            if not books.loop.is_closed():
                books.loop.call_exception_handler(
                    {
                        "message": f"{self!r} failed and was dropped before anybody "
                        "was told",
                        "exception": books.fatal,
                    }
                )
            return
        if not books.begun or books.over:
            return
        loop: asyncio.AbstractEventLoop = books.loop
        if loop.is_closed() or sys.is_finalizing():
            return
        try:
            if not books.quiet and not books.stopping:
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


def bounded_gather(
    fn: Callable[[Any], Awaitable[T]],
    items: Iterable[Any] | AsyncIterable[Any],
    *,
    max_concurrent: int = 50,
    timeout: float | None = None,
    budget: float | None = None,
    max_errors: int | None = None,
    cancel_grace: float | None = None,
    ordered: bool = True,
    buffer: int | None = None,
    key: Callable[[Any], str] | None = None,
    on_result: Callable[[TaskResult[T]], object] | None = None,
    task_per_item: bool = False,
    registry: TaskRegistry | None = None,
) -> Batch[T]:
    """Run ``fn(item)`` for every item, at most ``max_concurrent`` at once.

    Nothing runs before the batch is awaited, iterated or entered.

    Args:
        fn: What to run: an ``async def`` of one argument, or anything that returns an
            awaitable. Called only when there is room for its item. It may return a
            `TaskResult`, from which task_id, success, data and error are then taken.
        items: Any iterable, read lazily, or an asynchronous one, read by one task.
        max_concurrent: How many items run at once, at most.
        timeout: Seconds for each item, from the call of ``fn``.
        budget: Seconds for all items, from the start; then the rest is cancelled.
        max_errors: How many items may fail, timeouts among them, before the rest is
            cancelled; 0: stop at the first. None: any number.
        cancel_grace: How many seconds an item that was cancelled, also for its timeout,
            has to stop. One that does not has state RUNNING, its place is taken by the
            next, and the batch ends without it; its task is held until it ends, and
            what it then fails with is reported as of any task. None: however long.
        ordered: Whether an iteration is in input order, or as items end.
        buffer: How many results may wait for a slow consumer of an iteration; twice
            ``max_concurrent`` by default.
        key: The task id of an item, a non-empty str.
        on_result: Called with the TaskResult of each item as it ends. What it raises
            goes to the loop's exception handler.
        task_per_item: Give each item an ``asyncio.Task`` of its own, named by its task
            id, for what is keyed by the current task. The same in all else.
        registry: Register the item's task in it, under its task id; implies
            ``task_per_item``. An item whose id a living task has fails with
            DuplicateTaskError; its function is not called.

    Returns:
        The batch: await it for all results, or iterate it (``async for``) to have
        each and keep none, or enter it (``async with``) so that what is left when the
        block is left is cancelled and waited for.

    Raises:
        TypeError, ValueError: For what cannot work, before anything has started.

    Example::

        batch = await bounded_gather(fetch, urls, max_concurrent=20, timeout=5.0)
        pages = batch.values()

    Source: the articles' ``gather_with_timeout_and_budget``.
    """
    is_async = _check_sources(fn, items)
    limit = _count("max_concurrent", max_concurrent, 1)
    _check_callable("key", key)
    _check_callable("on_result", on_result)
    if registry is not None and not isinstance(registry, TaskRegistry):
        raise TypeError(
            f"registry must be a TaskRegistry or None, got {_short(registry)}"
        )
    batch: Batch[T] = Batch._make()
    batch._items = items if type(items) in (list, tuple, range) else None
    batch._key = key
    batch._max_concurrent = limit
    batch._max_errors = -1 if max_errors is None else _count("max_errors", max_errors)
    batch._budget = _seconds("budget", budget)
    batch._awaited = batch._delivered = False
    batch._result = None
    batch._books = Books(
        fn,
        items,
        is_async,
        "bounded_gather",
        min(limit, sys.maxsize),
        _seconds("timeout", timeout),
        batch._budget,
        _seconds("cancel_grace", cancel_grace),
        min(batch._max_errors, sys.maxsize),
        bool(ordered),
        -1 if buffer is None else min(_count("buffer", buffer), sys.maxsize),
        key,
        on_result,
        bool(task_per_item) or registry is not None,
        registry,
    )
    return batch


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


def _check_sources(fn: Any, items: Any) -> bool:
    """Refuse what cannot be run or read; tell whether the items are asynchronous."""
    if not callable(fn):
        raise TypeError(
            f"fn must be a function, got {_short(fn)}: pass the function first, then "
            "the items: bounded_gather(fetch, urls)"
        )
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(
            f"items is {_short(items)}, which would be run letter by letter: wrap it "
            "in a list"
        )
    if inspect.iscoroutine(items):
        items.close()
        raise TypeError(
            "items is a coroutine: await it first, or pass the function and its "
            "arguments: bounded_gather(fetch, urls)"
        )
    if isinstance(items, AsyncIterable):
        return True
    if not isinstance(items, Iterable) and not hasattr(type(items), "__getitem__"):
        raise TypeError(
            f"items must be iterable (a list, a generator, an async generator), got "
            f"{_short(items)}"
        )
    if type(items) in (list, tuple) and items and inspect.iscoroutine(items[0]):
        items[0].close()
        raise TypeError(
            "the items are coroutines, which bounded_gather makes itself: pass "
            "the function and its arguments, bounded_gather(fetch, urls) for "
            "[fetch(url) for url in urls]"
        )
    return False


def _check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function or None, got {_short(value)}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(
            f"{name} is called and not awaited: pass a plain function, not `async def "
            f"{getattr(value, '__name__', name)}`"
        )


def _count(name: str, value: Any, least: int = 0) -> int:
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an int, got {_short(value)}")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def _seconds(name: str, value: Any) -> float:
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be seconds (a number) or None, got {_short(value)}"
        )
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more seconds, got {value}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _short(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:57] + '...' if len(text) > 60 else text}"
