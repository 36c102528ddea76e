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
from pyasynclife.testing._threads import POLL, OtherThreads, describe_other_threads

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class HangError(PyAsyncLifeError, RuntimeError):
    """A loop would wait forever; the message says where each task waits."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A selector event loop that jumps to its next timer instead of waiting for it.

    The clock starts at 0 and stands still while code runs. When nothing is ready, it
    jumps to the next timer, so a test that spans hours takes no time and gives the same
    result on every machine.

    While something real is pending, the loop waits for it, and the clock follows the
    system's. A watched descriptor (a socket, a pipe), a job in an executor
    (``to_thread``, ``getaddrinfo``) and a child process count as real. So does a thread
    at work that was started since the loop was created (``anyio.to_thread``, sync
    endpoints of Starlette and FastAPI), until the loop has waited for it for 5 seconds
    in which nothing woke the loop. A thread that waits for a queue, an event or a
    future without a timeout is not at work. The loop cannot foresee a signal or a later
    ``call_soon_threadsafe``: use `real_time` for these.

    If nothing is ready, no timer is set and nothing real is pending, the loop would
    wait forever: ``run_until_complete`` raises `HangError` at once. If any other thread
    is at work, even an older one, the loop waits for it first, as above. The loop
    remains usable, so ``asyncio.Runner`` can cancel the remaining tasks.

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
        self._threads = OtherThreads()
        # asyncio's: a timer that is due within this time is due now.
        self._clock_resolution: float
        # Called at the beginning of each turn; returns True if it made something ready.
        self._at_turn: Callable[[int], bool] | None = None
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        """Return the virtual time: seconds since the loop was created."""
        return self._now

    @property
    def turns(self) -> int:
        """The number of turns (iterations) that the loop has begun."""
        return self._turns

    @contextmanager
    def real_time(self) -> Iterator[None]:
        """Within the block, wait in real time and report no hang."""
        self._real += 1
        try:
            yield
        finally:
            self._real -= 1

    # Besides watched descriptors, these methods make something real pending.

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run a function in an executor; the job counts as real until it is done."""
        future = super().run_in_executor(executor, func, *args)
        self._real += 1
        future.add_done_callback(self._job_has_ended)
        return future

    def _job_has_ended(self, future: asyncio.Future[Any]) -> None:
        self._real -= 1

    async def shutdown_default_executor(self, *args: Any, **kwargs: Any) -> None:
        """Wait in real time for the threads of the default executor."""
        with self.real_time():
            await super().shutdown_default_executor(*args, **kwargs)

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """Start a child process, which counts as real until it exits."""
        return await self._started(super().subprocess_exec(*args, **kwargs))

    async def subprocess_shell(self, *args: Any, **kwargs: Any) -> Any:
        """Start a shell as a child process, which counts as real until it exits."""
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
            "the loop would wait forever: nothing is ready, no timer is set, and no "
            "descriptor, executor job or child process is pending"
            f"{describe_other_threads()}\n{dump_tasks(asyncio.all_tasks(self))}"
        )


class _VirtualSelector(selectors.BaseSelector):
    """The system's selector, but it jumps to the next timer instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop
        self._selector = selectors.DefaultSelector()

    def select(
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        timeout = loop._begin_turn(timeout)
        if timeout is not None and timeout <= 0:
            return self._look()
        if loop._is_real_pending(len(self.get_map())):
            return self._wait(timeout)
        when = loop._next_timer()
        while True:
            # In this order: a thread that is not at work any more has woken the loop.
            threads = loop._threads.at_work(older=when == math.inf)
            events = self._look()
            if events or (threads and loop._now >= when):
                return events
            if not threads:
                break
            before = loop._now
            events = self._wait(min(POLL, when - before))
            if events:
                return events
            loop._threads.have_been_waited_for(threads, loop._now - before)
        if when == math.inf:
            raise loop._hang()
        loop._jump_to(when)
        return events

    def _look(self) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._selector.select(0)
        if events:
            self._loop._threads.have_woken_the_loop()
        return events

    def _wait(self, timeout: float | None) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait in real time, which the loop's clock follows."""
        began = time.monotonic()
        events = self._selector.select(timeout)
        self._loop._now += time.monotonic() - began
        if events:
            self._loop._threads.have_woken_the_loop()
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
