"""Show the progress of a batch; needs ``pyasynclife[console]``."""

from __future__ import annotations

import asyncio
import contextlib
import math
import weakref
from collections.abc import Generator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pyasynclife._arguments import (
    check_optional_type,
    check_seconds,
    close_unstarted,
    short,
)
from pyasynclife._batch import Batch, ResultIterator
from pyasynclife._core import TaskResult
from pyasynclife._results import BatchProgress, BatchResult
from pyasynclife._terminal import is_terminal

try:
    from rich.console import Console

    from pyasynclife._progress_bar import Bar, ended, figures, rate
except ImportError as error:
    raise ImportError(
        "pyasynclife.console draws with rich, which is not installed: "
        "pip install 'pyasynclife[console]'"
    ) from error

__all__ = ["Tracked", "track"]

T = TypeVar("T")

_REFRESH = 0.1  # seconds between two updates of the bar


def track(
    batch: Batch[T],
    description: str = "items",
    *,
    interval: float = 5.0,
    console: Console | None = None,
) -> Tracked[T]:
    """Show the progress of a batch while it runs.

    On a terminal, this is a bar with the rate, the failures and the time left; several
    batches have their bars one below the other. A bar takes one line of the terminal,
    however narrow. Elsewhere, it is a line every few
    seconds and one at the end. Nothing is shown, and nothing runs, before the first
    use.

    Args:
        batch: The batch that `bounded_gather` returned, before it is awaited.
        description: Text in front of the bar or the numbers; not parsed as markup.
        interval: Seconds between two lines, if there is no terminal.
        console: The rich Console to draw on; None: stderr.

    Returns:
        An object to await, iterate over or enter in place of the batch.

    Raises:
        TypeError: ``batch`` is not a Batch, ``console`` not a Console, or ``interval``
            not a number.
        ValueError: ``interval`` is not more than 0.

    Results and exceptions of the batch pass through unchanged. A cancellation cancels
    the batch; the bar shows the final state when the items have ended. If an iteration
    is left early without ``async with``, the bar ends when the Batch is deallocated.

    Example::

        result = await track(bounded_gather(fetch, urls), "fetching")

        async with track(bounded_gather(fetch, urls), "fetching") as stream:
            async for result in stream:
                ...
    """
    _check_batch(batch)
    seconds = check_seconds("interval", interval, zero=False)
    check_optional_type("console", console, Console)
    return Tracked(batch, _Display(batch, str(description), seconds, console))


def _check_batch(batch: Any) -> None:
    if not isinstance(batch, Batch):
        close_unstarted(batch)
        raise TypeError(
            f"track() takes the batch itself, got {short(batch)}: "
            "await track(bounded_gather(fetch, urls))"
        )


class Tracked(Generic[T]):
    """A batch whose progress is shown: returned by `track`, used like the batch.

    Attributes:
        batch: The batch itself.
    """

    def __init__(self, batch: Batch[T], display: _Display) -> None:
        self.batch = batch
        self._display = display
        self._stream: ResultIterator[TaskResult[T]] | None = None

    def __await__(self) -> Generator[object, None, BatchResult[T]]:
        """Await the batch."""
        return self.collect().__await__()

    async def collect(self) -> BatchResult[T]:
        """Await the batch; a coroutine, for ``create_task`` and ``asyncio.run``.

        Returns and raises whatever the batch does.
        """
        self._display.start()
        try:
            return await self.batch.collect()
        finally:
            self._display.update()

    def __aiter__(self) -> Self:
        """Start an iteration over the batch."""
        self._stream = self.batch.__aiter__()
        return self

    async def __anext__(self) -> TaskResult[T]:
        """Return the next result."""
        if self._stream is None:
            self._stream = self.batch.__aiter__()
        self._display.start()
        try:
            return await anext(self._stream)
        except BaseException:
            self._display.update()
            raise

    async def aclose(self) -> None:
        """Cancel the items that are left and wait until they have ended.

        Raises what leaving the batch's block raises. Before the iteration nothing
        happens.
        """
        try:
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            self._display.update()

    async def __aenter__(self) -> Self:
        """Enter the batch."""
        self._display.start()
        await self.batch.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the batch, which waits for its items, and show its final state."""
        try:
            await self.batch.__aexit__(exc_type, exc, traceback)
        finally:
            self._display.update()


class _Display:
    """Show the progress of a batch at intervals for as long as the batch exists."""

    def __init__(
        self,
        batch: Batch[Any],
        description: str,
        interval: float,
        console: Console | None,
    ) -> None:
        self._batch: weakref.ref[Batch[Any]] = weakref.ref(batch, self._end)
        self._description = description
        self._interval = interval
        self._console = console
        self._view: Bar | _Lines | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    def start(self) -> None:
        """Begin to show the progress; a second call has no effect."""
        if self._view is not None or self._over:
            return
        try:
            self._open()
        except Exception as error:  # a closed file, for example; the batch continues
            self._fail(error)
        else:
            self._schedule()

    def _open(self) -> None:
        console = self._console or Console(stderr=True)
        if console.is_interactive and (self._console or is_terminal(console.file)):
            self._interval = _REFRESH
            self._view = Bar(console, self._description)
        else:
            self._view = _Lines(console, self._description)

    def update(self) -> None:
        """Show the progress, for the last time if the batch has ended or is gone."""
        if self._view is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        batch = self._batch()
        over = batch is None or batch.status is not None
        try:
            self._view.show(None if batch is None else batch.progress, over)
            if over:
                self._end()
            else:
                self._schedule()
        except Exception as error:  # as in start()
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Show nothing more, and report why."""
        with contextlib.suppress(Exception):  # the same
            self._end()
        message = "the progress of a batch cannot be shown"
        context = {"message": message, "exception": error}
        asyncio.get_running_loop().call_exception_handler(context)

    def _end(self, _: object = None) -> None:
        """Stop; the last state stays on the screen."""
        view, self._view, self._over = self._view, None, True
        if view is not None:
            view.close()

    def _schedule(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval, self.update)


class _Lines:
    """Shows a batch as lines of text."""

    def __init__(self, console: Console, description: str) -> None:
        self._console = console
        self._description = description

    def show(self, now: BatchProgress | None, over: bool) -> None:
        if now is None:
            return
        words = [figures(now)]
        if over:
            words.append(f"in {now.elapsed:.1f} s")
        elif (left := _seconds_left(now)) != math.inf:
            words.append(f"{left:.0f} s left")
        line = f"{self._description}: {', '.join(words)}"
        print(line, file=self._console.file, flush=True)

    def close(self) -> None:
        pass


def _seconds_left(now: BatchProgress) -> float:
    speed = rate(now)
    if now.total is None or speed == 0:
        return math.inf
    return max(0, now.total - ended(now)) / speed
