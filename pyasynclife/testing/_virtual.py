"""VirtualTimeLoop: a loop whose clock jumps to the next timer."""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from pyasynclife._await_chain import dump_tasks
from pyasynclife._errors import PyAsyncLifeError

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class HangError(PyAsyncLifeError, RuntimeError):
    """A loop would wait for ever; the message says where every task waits."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop of the standard kind that does not wait for its timers.

    Its clock starts at 0 and stands still while code runs. When nothing is ready, the
    clock jumps to the next timer, so a test of hours takes no time and gives the same
    result on every machine.

    While something real is pending, the loop waits for it, and its clock follows the
    system's. A watched descriptor (a socket, a pipe), a job in an executor
    (``to_thread``, ``getaddrinfo``) and a child process count as real. The loop cannot
    foresee a signal, or another thread's ``call_soon_threadsafe``: use `real_time` for
    these.

    When nothing is ready, no timer is set and nothing real is pending, nothing would
    ever happen again: ``run_until_complete`` raises `HangError` at once. The loop can
    be used again afterwards, so that ``asyncio.Runner`` can cancel the remaining tasks.

    Example::

        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())

    Source: trio's ``MockClock(autojump_threshold=0)``.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._turns = 0
        self._real = 0
        self._children: set[asyncio.SubprocessTransport] = set()
        # asyncio's: a timer that is due within this time is due now.
        self._clock_resolution: float
        # Called at the beginning of each turn; returns True if it made something ready.
        self._at_turn: Callable[[int], bool] | None = None
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        """Return the virtual seconds since the loop was created."""
        return self._now

    @property
    def turns(self) -> int:
        """How many turns (iterations) the loop has begun."""
        return self._turns

    @contextmanager
    def real_time(self) -> Iterator[None]:
        """Within the block, wait for something real and report no hang."""
        self._real += 1
        try:
            yield
        finally:
            self._real -= 1

    # The methods that make something real pending, besides watched descriptors.

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._real += 1
        future.add_done_callback(self._job_has_ended)
        return future

    def _job_has_ended(self, future: asyncio.Future[Any]) -> None:
        self._real -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        with self.real_time():
            await super().shutdown_default_executor(*args, **kwargs)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        return await self._started(super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        return await self._started(super().subprocess_shell(*args, **kwargs))

    async def _started(self, starting: Coroutine[Any, Any, Any]) -> Any:
        with self.real_time():
            transport, protocol = await starting
        self._children.add(transport)
        return transport, protocol

    def _is_real_pending(self, watched: int) -> bool:
        if self._children:
            self._children = {c for c in self._children if c.get_returncode() is None}
        return self._real > 0 or watched > 1 or bool(self._children)

    def _begin_turn(self, timeout: float | None) -> float | None:
        self._turns += 1
        if self._at_turn is not None and self._at_turn(self._turns):
            return 0.0
        return timeout

    def _next_timer(self) -> float:
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        return timers[0].when() if timers else math.inf

    def _jump_to(self, when: float) -> None:
        self._now = max(self._now, when)
        # After months of virtual time, floats are coarser than the clock's resolution,
        # and the loop would not see that a timer is due.
        finest = 2 * math.ulp(self._now)
        self._clock_resolution = max(self._clock_resolution, finest)

    def _hang(self) -> HangError:
        return HangError(
            "the loop would wait for ever: nothing is ready, no timer is set, and no "
            "descriptor, executor job or child process is pending\n"
            + dump_tasks(asyncio.all_tasks(self))
        )


class _VirtualSelector(selectors.BaseSelector):
    """The system's selector, except that it jumps instead of waiting for a timer."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._selector = selectors.DefaultSelector()

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        timeout = loop._begin_turn(timeout)
        if timeout is not None and timeout <= 0:
            return self._selector.select(0)
        if loop._is_real_pending(len(self.get_map())):
            began = time.monotonic()
            events = self._selector.select(timeout)
            loop._now += time.monotonic() - began
            return events
        events = self._selector.select(0)  # woken by a thread or a signal
        if not events:
            when = loop._next_timer()
            if when == math.inf:
                raise loop._hang()
            loop._jump_to(when)
        return events

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._selector.register(fileobj, events, data)

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._selector.unregister(fileobj)

    def modify(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        return self._selector.modify(fileobj, events, data)

    def get_key(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        return self._selector.get_key(fileobj)

    def get_map(self) -> Any:
        return self._selector.get_map()

    def close(self) -> None:
        self._selector.close()
