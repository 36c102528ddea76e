"""Tasks: several at once, one that is cancelled, and one whose methods misbehave."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from support.loops import settle


def create_tasks(*coros: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(coro) for coro in coros]


async def cancelled_after(
    iterations: int, make: Callable[[], Coroutine[Any, Any, Any]]
) -> asyncio.Task[Any]:
    """Run a coroutine in a Task, cancel it after some iterations, wait for its end."""
    task = asyncio.create_task(make())
    await settle(iterations)
    task.cancel("stop")
    await asyncio.wait([task])
    return task


def callbacks_of(future: asyncio.Future[Any]) -> int:
    """How many done callbacks it has."""
    return len(future._callbacks or ())


class OddTask(asyncio.Task):  # type: ignore[type-arg]
    """A Task whose methods do what a test says, once."""

    odd: dict[str, Callable[[], object]]

    def _oddly(self, name: str) -> None:
        hook = getattr(self, "odd", {}).pop(name, None)
        if hook is not None:
            hook()

    def cancel(self, msg: object = None) -> bool:
        self._oddly("cancel")
        return super().cancel(msg)

    def cancelling(self) -> int:
        self._oddly("cancelling")
        return super().cancelling()

    def get_coro(self) -> Any:
        self._oddly("get_coro")
        return super().get_coro()

    def cancelled(self) -> bool:
        self._oddly("cancelled")
        return super().cancelled()

    def exception(self) -> BaseException | None:
        self._oddly("exception")
        return super().exception()

    def add_done_callback(self, *args: Any, **options: Any) -> None:
        self._oddly("add_done_callback")
        super().add_done_callback(*args, **options)


def odd_factory(**odd: Callable[[], object]) -> Callable[..., Any]:
    """A task factory whose Tasks are OddTasks."""

    def make(loop: Any, coro: Any, **options: Any) -> Any:
        options.pop("eager_start", None)
        task = OddTask(coro, loop=loop, **options)
        task.odd = dict(odd)
        return task

    return make


def fails() -> None:
    """What an OddTask may do."""
    raise LookupError("odd")
