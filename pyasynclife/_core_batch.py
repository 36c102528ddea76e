"""The coroutines that the Tasks of a batch run, and its queues.

The native core imports them by name, from the table in csrc/base/state.h: change both
together, and remove no name because no Python code uses it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Awaitable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:

    class _Pump(Protocol):
        closed: bool

        def demand(self) -> Awaitable[None]: ...
        def offer(self, item: Any, backlog: int = 0) -> None: ...
        def reader_reopens(self) -> bool: ...

    class _ItemHandle(Protocol):
        def pause(self) -> Awaitable[None] | None: ...
        def begin(self) -> Awaitable[Any]: ...
        def returned(self, value: Any) -> Any: ...
        def raised(self, error: BaseException) -> bool: ...


async def run_worker(step: Awaitable[Any]) -> Any:
    """Run items one after another; the native ``step`` does all the work.

    Returns:
        None, or the value of the worker's last item if that was abandoned.
    """
    return await step


async def run_item(handle: _ItemHandle) -> Any:
    """Run one item in a Task of its own, and pass its outcome to the core.

    The Task does not raise SystemExit or KeyboardInterrupt: see `read_source`.
    """
    try:
        while (pause := handle.pause()) is not None:
            await pause
        value = await handle.begin()
    except BaseException as error:
        if handle.raised(error):
            return None
        raise
    return handle.returned(value)


async def read_source(source: AsyncIterable[Any], pump: _Pump) -> BaseException | None:
    """Read an asynchronous source to its end, one item ahead of the pump.

    Returns:
        None, or the SystemExit or KeyboardInterrupt that the source raised. It is not
        raised here, since a Task that raises it stops the loop at once. The batch
        raises it when all items have ended.
    """
    iterator = None
    try:
        try:
            iterator = aiter(source)
            async for item in iterator:
                pump.offer(item)
                await pump.demand()
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


# What get() and get_nowait() raise if there is nothing (3.13: and nothing more comes).
QUEUE_HAS_NONE: tuple[type[Exception], ...] = (
    asyncio.QueueEmpty,
    getattr(asyncio, "QueueShutDown", asyncio.QueueEmpty),
)

_QUEUE_TAKES_NONE: tuple[type[Exception], ...] = (asyncio.QueueFull, *QUEUE_HAS_NONE)


async def read_queue(queue: asyncio.Queue[Any], pump: _Pump) -> BaseException | None:
    """Wait for the items of a queue until it is shut down, or closed and empty.

    An item is taken only when a worker is free. Workers that are free already take
    what is in the queue by themselves.

    Returns:
        As `read_source`.
    """
    task: Any = asyncio.current_task()
    while True:
        try:
            await pump.demand()
            item = queue.get_nowait() if pump.closed else await queue.get()
            pump.offer(item, queue.qsize())
        except QUEUE_HAS_NONE:
            return None
        except asyncio.CancelledError:
            if not pump.reader_reopens():
                raise
            task.uncancel()
        except (SystemExit, KeyboardInterrupt) as error:
            return error


def put_back(queue: asyncio.Queue[Any], item: Any) -> None:
    """Return an item to its queue, which is not lost then, and count it as done once.

    A full queue, and one that was shut down, takes none back.
    """
    try:
        queue.put_nowait(item)
    except _QUEUE_TAKES_NONE:
        pass
    finally:
        queue.task_done()


def check_queue(queue: asyncio.Queue[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Refuse a queue that belongs to another loop.

    A queue belongs to the loop in which somebody has first waited for it.
    """
    bound: Any = getattr(queue, "_loop", None)
    if bound is not None and bound is not loop:
        raise RuntimeError(
            f"the batch's queue belongs to {bound!r}, and the running loop is "
            f"{loop!r}: make the queue in the loop that uses it"
        )


_name_of_type = vars(type)["__name__"].__get__  # whatever a metaclass says


def function_name(fn: Any) -> str:
    """Return what the Tasks of a batch call its function: ``parse``, ``Page.parse``.

    Without a name of its own, a callable object goes by its type. A bad name does no
    harm: it only serves people who look at Tasks.
    """
    name: Any = None
    try:
        for _ in range(10):  # a partial can be made to contain itself
            if not issubclass(type(fn), functools.partial):
                break
            fn = fn.func
        name = fn.__qualname__
    except Exception:
        name = None  # a property of the user's code may raise anything
    if type(name) is not str or not name:
        name = _name_of_type(type(fn))
    name = name.rpartition("<locals>.")[2] or name
    return name if len(name) <= 120 else f"{name[:117]}..."
