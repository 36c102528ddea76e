"""Batch: what `bounded_gather` returns, to be awaited, iterated or entered."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable, Generator
from types import EllipsisType, TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, final

import pyasynclife._core_batch  # noqa: F401  C imports it; for what freezes programs
from pyasynclife._arguments import check_count
from pyasynclife._core import (
    MODE_BLOCK,
    MODE_COLLECT,
    MODE_OPEN,
    MODE_STREAM,
    STOP_DRAIN,
    STOP_ERRORS,
    STOP_NONE,
    BatchCore,
    Job,
    TaskResult,
)
from pyasynclife._errors import as_exception, too_many_errors
from pyasynclife._limits import Limits
from pyasynclife._registry import TaskRegistry
from pyasynclife._results import BatchProgress, BatchResult, is_failure, status_of
from pyasynclife._sealed import Sealed
from pyasynclife._states import BatchStatus

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class ResultIterator(Protocol[R_co]):
    """The asynchronous iterator of a batch's results, for ``contextlib.aclosing``."""

    def __aiter__(self) -> Self:
        """Return the iterator itself."""

    def __anext__(self) -> Awaitable[R_co]:
        """Return an awaitable of the next result."""

    def aclose(self) -> Awaitable[None]:
        """Cancel the items that are left and wait until they have ended."""


@final
class Batch(Sealed, Generic[T]):
    """A run of one function over many items, returned by `bounded_gather`.

    Its first use decides what happens to the results. Awaiting the batch keeps them
    all. Iterating over it yields each result and keeps none. An ``async with`` block
    that does neither only passes them to ``on_result``, and waits for all items at its
    end; with ``on_result`` it keeps none, and may be awaited or iterated only before
    the first result.

    Failures that nobody receives are reported to the loop's exception handler, once,
    when the block ends or the batch is dropped.
    """

    __slots__ = ("__weakref__", "_awaited", "_budget", "_core", "_items", "_key",
                 "_max_concurrent", "_max_errors", "_result",
                 "_traceback")  # fmt: skip

    _core: BatchCore
    _items: Any  # the source, if it is a list, tuple or range; else None
    _key: Callable[[Any], str] | None
    _budget: float
    _max_concurrent: int
    _max_errors: int  # -1: any number
    _awaited: bool
    _result: BatchResult[T] | None
    _traceback: TracebackType | EllipsisType | None  # of a fatal error; ...: not raised

    @classmethod
    def _create(
        cls,
        fn: Callable[[Any], Awaitable[T]],
        items: Any,
        *,
        kind: int,
        max_concurrent: int,
        timeout: float,
        budget: float,
        max_errors: int,
        cancel_grace: float,
        ordered: bool,
        buffer: int,
        key: Callable[[Any], str] | None,
        on_result: Callable[[TaskResult[T]], object] | None,
        task_per_item: bool | None,
        registry: TaskRegistry | None,
        limits: Limits | None,
    ) -> Self:
        """Make a batch from arguments that `bounded_gather` has checked.

        ``math.inf`` stands for no time limit, and -1 for no ``max_errors`` and for the
        default ``buffer``.
        """
        self = cls._make()
        self._items = items if type(items) in (list, tuple, range) else None
        self._key = key
        self._budget = budget
        self._max_concurrent = max_concurrent
        self._max_errors = max_errors
        self._awaited = False
        self._result = None
        self._traceback = ...
        self._core = BatchCore(
            fn,
            items,
            kind,
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
            -1 if task_per_item is None else task_per_item,
            registry,
            limits,
        )
        if registry is not None:
            registry._batches.add(self)
        return self

    @property
    def max_concurrent(self) -> int:
        """The maximum number of items that run at once.

        It may be set while the batch runs. A higher limit lets more items start
        immediately. A lower one does not stop running items; new ones start when fewer
        than the limit are running.

        Raises:
            TypeError, ValueError: The new limit is not an int of 1 or more.
        """
        return self._max_concurrent

    @max_concurrent.setter
    def max_concurrent(self, value: int) -> None:
        limit = check_count("max_concurrent", value, 1)
        self._core.set_limit(min(limit, sys.maxsize))
        self._max_concurrent = limit

    @property
    def paused(self) -> bool:
        """Whether the batch is paused, so that no item starts."""
        return self._core.paused

    @property
    def progress(self) -> BatchProgress:
        """A snapshot of the batch's progress."""
        return BatchProgress._of(self._core)

    @property
    def status(self) -> BatchStatus | None:
        """How the batch ended; None until then."""
        return status_of(self._core)

    async def collect(self) -> BatchResult[T]:
        """Run all items and return their results; ``await batch`` does the same.

        Returns:
            The results in input order. Called again, it returns the same object.

        Raises:
            BatchError: More than ``max_errors`` items failed. Its ``result`` has the
                results of all items.
            RuntimeError: The batch is being iterated, another caller is awaiting it, or
                it has begun in another loop.

        An exception of the source or of ``key`` propagates unchanged, after the running
        items have been cancelled and have ended. So does a SystemExit,
        KeyboardInterrupt or other exit of an item. If the caller is cancelled, so are
        the items; when they have ended, the first CancelledError propagates, and
        awaiting the batch again returns the result. If an item raised SystemExit or
        KeyboardInterrupt, that propagates in place of the CancelledError.
        """
        if self._awaited:
            raise RuntimeError("another caller is awaiting this batch")
        self._core.use(MODE_COLLECT)
        if not self._core.over:
            self._awaited = True
            try:
                await self._core.wait()
            except MemoryError:
                self._core.stop()
                raise
            except asyncio.CancelledError:
                self._raise_exit()
                raise
            finally:
                self._awaited = False
        error = self._take_failure()
        if error is not None:
            try:
                raise error
            finally:
                del self, error  # the traceback holds this frame
        return self._outcome()

    def __await__(self) -> Generator[Any, None, BatchResult[T]]:
        """Run all items and return their results, as `collect` does."""
        return self.collect().__await__()

    def __aiter__(self) -> ResultIterator[TaskResult[T]]:
        """Start an iteration, which yields the result of each item and keeps none.

        ``anext()`` takes a result when it is awaited, not when it is called.

        The iterator has an ``aclose()``, which does what leaving the batch's block
        does: ``contextlib.aclosing(aiter(batch))`` works, and a batch that is the
        source of another one is closed with it.

        Raises:
            RuntimeError: The batch has been awaited, its block has ended, its results
                go to ``on_result``, or it has begun in another loop.

        At its end the iteration raises the failure of the batch, as `collect` does, but
        without a ``result``. Leaving it early does not cancel the items, unless an
        ``async with`` block is left too, or the batch is dropped.
        """
        self._core.use(MODE_STREAM)
        return self._core.stream(self)

    async def _aclose(self) -> None:
        """Cancel what is left and wait for it: ``aclose()`` of the iterator.

        Raises what leaving the block raises; not in place of an exception, such as a
        CancelledError, that the caller is handling.
        """
        await self.__aexit__(None, sys.exception(), None)

    async def __aenter__(self) -> Self:
        """Start the batch, which ends no later than the block."""
        self._core.use(MODE_OPEN)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Wait until all items have ended, and raise the failure of the batch, if any.

        If the block raised an exception or left an iteration early, the items are
        cancelled first. If the caller is cancelled meanwhile, so are the items that
        were not cancelled yet; the CancelledError propagates when they have ended. If a
        CancelledError left the block, that one propagates, however often the caller is
        cancelled meanwhile.

        Failures that nobody has received by then are reported to the loop's exception
        handler: all of them if the block neither awaited nor iterated, otherwise those
        that an iteration was left before. So is the failure of the batch, if another
        exception propagates.
        """
        core = self._core
        if core.mode == MODE_OPEN:
            core.use(MODE_BLOCK)
        if exc is not None or core.mode == MODE_STREAM:
            core.stop()
        error: BaseException | None = None
        try:
            if not core.over:
                try:
                    await core.wait(isinstance(exc, asyncio.CancelledError))
                except asyncio.CancelledError:
                    self._raise_exit()
                    raise
            if not core.delivered and (
                exc is None or not isinstance(core.fatal, Exception | None)
            ):
                error = self._take_failure()
            elif exc is core.fatal:
                core.delivered = True
            if error is not None:
                raise error
        finally:
            # A batch that was awaited may be awaited again; any other ends here.
            if core.over and core.mode != MODE_COLLECT:
                core.report_unread()
            del self, core, error  # the traceback holds this frame

    def add(self, item: Any) -> Job[T]:
        """Add an item after all items of the source.

        If the source is asynchronous, its items and the added ones run in the order in
        which they arrive. An await ends when the source is exhausted and no item is
        running or waiting. An iteration ends when its consumer asks for another result
        after that, and a block when it is left; until then, items may be added.

        Returns:
            The item's job, to be awaited, cancelled or dropped.

        Raises:
            RuntimeError: The batch has ended, was closed, or was stopped: by `stop`,
                `cancel`, its budget or a failure. Or this is not the thread of its
                loop, or another loop runs.
            TypeError: The item is a coroutine, which is closed.
        """
        return self._core.add(item)

    def close(self) -> None:
        """Accept no more items; the batch ends when no item is running or waiting."""
        self._core.close()

    def pause(self) -> None:
        """Stop starting items. Running items, timeouts and the budget continue."""
        self._core.set_paused(True)

    def resume(self) -> None:
        """Start items again after `pause`."""
        self._core.set_paused(False)

    def stop(self) -> None:
        """Start no more items and read the source no further; running ones continue.

        When the running items have ended, the await, iteration or block ends with
        status STOPPED, or with COMPLETED if there was nothing left to start. In the
        BatchResult, items that were never started are PENDING. A generator or an
        asynchronous source is closed; if that is another batch, its items are
        cancelled, so stop the first batch of a pipeline. Timeouts, the budget,
        ``max_errors`` and `cancel` still end the running items. A call after the end
        has no effect.

        Raises:
            RuntimeError: This is not the thread of the batch's loop.
        """
        self._core.drain()

    def cancel(self, msg: str | None = None) -> None:
        """Cancel the running items and start no more.

        The await or iteration then ends with status CANCELLED. Each call also cancels
        items that were cancelled before, by another call or for another reason; nothing
        else cancels an item twice. A call after the end has no effect.

        Args:
            msg: The message of each item's CancelledError, as in ``Task.cancel()``.
        """
        self._core.cancel(msg)

    def _outcome(self) -> BatchResult[T]:
        """Return the BatchResult, which the first call makes."""
        if self._result is None:
            self._result = BatchResult._of(
                self._core, self._items, self._key, self._budget
            )
            self._items = None
        return self._result

    def _failure(self) -> BaseException | None:
        """Return the exception that the end of the batch raises, if any."""
        core = self._core
        if core.fatal is not None:
            return self._fatal(core.fatal)
        if core.stopping != STOP_ERRORS:
            return None
        if core.mode != MODE_COLLECT:
            return too_many_errors(core.errors, self._max_errors)
        result = self._outcome()
        errors = [as_exception(one.error, one) for one in result if is_failure(one)]
        return too_many_errors(errors, self._max_errors, result)

    def _raise_exit(self) -> None:
        """Raise the SystemExit or KeyboardInterrupt that ended the batch, if any."""
        if isinstance(self._core.fatal, SystemExit | KeyboardInterrupt):
            self._ended()

    def _fatal(self, error: BaseException) -> BaseException:
        """Return a fatal error with the traceback that it had before it was raised.

        Otherwise each raise would make the traceback longer.
        """
        if self._traceback is ...:
            self._traceback = error.__traceback__
        return error.with_traceback(self._traceback)

    def _take_failure(self) -> BaseException | None:
        """Return the failure of the batch, if any, which the caller raises."""
        error = self._failure()
        self._core.delivered = True
        return error

    def _ended(self) -> None:
        """Raise the failure of the batch, if any; the core calls it after iteration."""
        error = self._take_failure()
        if error is not None:
            try:
                raise error
            finally:
                del self, error

    def __repr__(self) -> str:
        """Return the status and the limit."""
        status = self.status
        if status is not None:
            state = status.value
        else:
            state = "running" if self._core.begun else "not begun"
        return f"<Batch {state}, max_concurrent={self._max_concurrent}>"

    def __del__(self) -> None:
        """Cancel a running batch that was dropped, with a ResourceWarning."""
        try:
            core = self._core
        except AttributeError:
            return  # _create() failed
        if not core.begun:
            core.detach()  # its jobs never start
            return
        loop: asyncio.AbstractEventLoop = core.loop
        if loop.is_closed() or sys.is_finalizing():
            return
        try:
            ends = core.over or core.is_idle
            if not ends and core.stopping in (STOP_NONE, STOP_DRAIN):
                warnings.warn(
                    f"{self!r} was dropped while it ran and is cancelled: iterate it "
                    "to its end, or use `async with`",
                    ResourceWarning,
                    stacklevel=2,
                    source=self,
                )
        finally:
            try:
                core.detach()
            except RuntimeError:  # collected in another thread
                loop.call_soon_threadsafe(core.detach)
