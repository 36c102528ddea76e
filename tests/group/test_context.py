"""The contexts of a group's done callbacks: those that asyncio's have."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from pyasynclife import TaskGroup
from support.capture import capture

request = ContextVar("request", default="default")
both_paths = pytest.mark.parametrize(
    "allowed", [True, False], ids=["captured", "plain"]
)


async def create_late(make: Callable[[], Any], started: asyncio.Event) -> None:
    """Create children in several contexts, and end before they fail."""

    async def fails() -> None:
        await started.wait()
        raise ValueError

    group = make()
    request.set("entry")
    await group.__aenter__()
    for name in ("first", "second"):
        request.set(name)
        group.create_task(fails())


@both_paths
async def test_a_late_child_is_reported_in_the_context_of_its_creation(
    allowed: bool, loop_errors: list[dict[str, Any]]
) -> None:
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: seen.append(request.get()))
    for make in (asyncio.TaskGroup, TaskGroup):
        started = asyncio.Event()
        with capture(allowed):
            await asyncio.create_task(create_late(make, started))
            await asyncio.sleep(0)
            started.set()
            for _ in range(3):
                await asyncio.sleep(0)
    assert seen == ["first", "second"] * 2


@both_paths
@pytest.mark.parametrize("iterations", [1])
async def test_the_callback_of_a_child_has_a_context_of_its_own(
    allowed: bool, iterations: int
) -> None:
    def read(task: Any) -> list[tuple[Any, str]]:
        contexts = [context for _, context in task._callbacks or ()]
        return [(type(one), one[request]) for one in contexts]

    async def child() -> None:
        request.set("set by the child")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    seen = []
    for make in (asyncio.TaskGroup, TaskGroup):
        with capture(allowed):
            async with make() as group:
                tasks = []
                for name in ("first", "second"):
                    request.set(name)
                    tasks.append(group.create_task(child()))
                for _ in range(iterations):
                    await asyncio.sleep(0)
                seen.append([read(task) for task in tasks])
    assert seen[1] == seen[0]
    assert [[name for _, name in one] for one in seen[0]] == [["first"], ["second"]]
