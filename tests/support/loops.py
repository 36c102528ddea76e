"""Iterations of the loop, its queue, its task factory, and the seed of the run."""

import asyncio
import gc
import os
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Self

from pyasynclife.testing import VirtualTimeLoop

SEED = os.environ.get("PYASYNCLIFE_SEED") or str(random.randrange(2**32))
"""The seed of every random choice. The header of a run prints it, and so does the end
of a run that failed."""


async def settle(iterations: int = 3) -> None:
    """Let the loop run some iterations."""
    for _ in range(iterations):
        await asyncio.sleep(0)


class Iterations:
    """Counts the iterations of the loop from its first one, while it is entered."""

    count = 0

    async def _run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])


def ready_queue(loop: asyncio.AbstractEventLoop) -> deque[Any]:
    """The handles that a loop has ready; uvloop has no public name for them."""
    if hasattr(loop, "_ready"):
        return loop._ready  # type: ignore[no-any-return]
    return next(x for x in gc.get_referents(loop) if type(x) is deque)


def in_turns(iterations: int, call: Callable[..., object], *args: object) -> None:
    """Call a function after some iterations of the loop."""
    loop = asyncio.get_running_loop()
    if iterations > 0:
        loop.call_soon(in_turns, iterations - 1, call, *args)
    else:
        call(*args)


@contextmanager
def task_factory(factory: Callable[..., Any]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


def eager(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    options.pop("eager_start", None)
    return asyncio.Task(coro, loop=loop, eager_start=True, **options)  # type: ignore[call-arg]


class ManualClockLoop(asyncio.SelectorEventLoop):
    """A loop whose clock a test sets; a hook is called once, when the clock is read."""

    now = 1000.0
    hook: Callable[[], object] | None = None

    def time(self) -> float:
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
        return self.now


def in_virtual_time(main: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on a loop whose clock jumps to the next timer."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def result_of(task: asyncio.Future[Any]) -> Any:
    """Wait for a task, and fail if it hangs."""
    await asyncio.wait([task], timeout=30)
    assert task.done()
    return task.result()
