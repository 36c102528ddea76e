"""Done callbacks, and handles of their own, that others put on a child."""

import asyncio
from collections.abc import Callable
from typing import Any

from pyasynclife import TaskGroup, TaskRegistry
from support.marks import needs_capture

FEW, MANY = 250, 1000


class Counts:
    """A done callback that counts its comparisons."""

    compared = 0

    def __eq__(self, other: object) -> Any:
        Counts.compared += 1
        return self is other or NotImplemented

    def __hash__(self) -> int:
        return id(self)

    def __call__(self, task: object) -> None:
        pass


async def run_with_callbacks(number: int) -> int:
    """How many comparisons that many callbacks cost, added before the first step."""
    Counts.compared = 0
    async with TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0))
        for _ in range(number):
            task.add_done_callback(Counts())
    return Counts.compared


async def test_callbacks_before_the_first_step_take_linear_time() -> None:
    few = await run_with_callbacks(FEW)
    many = await run_with_callbacks(MANY)
    assert many <= few * MANY // FEW


async def test_callbacks_that_differ_from_everything_keep_their_order() -> None:
    class Differs(Counts):
        def __eq__(self, other: object) -> bool:
            return self is other

        def __hash__(self) -> int:
            return id(self)

        def __call__(self, task: object) -> None:
            log.append(self)

    log: list[object] = []
    async with TaskGroup() as group:
        task = group.create_task(asyncio.sleep(0))
        plain = [log.append for _ in range(3)]
        calls = [Differs(), plain[0], Differs(), plain[1], Differs()]
        for call in calls:
            task.add_done_callback(call)
        task.add_done_callback(lambda task: log.append(task in group._tasks))
    wanted = [call if isinstance(call, Differs) else task for call in calls]
    assert log == [*wanted, False]


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts its iterations without a `_run_once` of its own."""

    iterations = 0

    def _process_events(self, events: Any) -> None:
        self.iterations += 1
        super()._process_events(events)  # type: ignore[misc]


async def start_in_group(make: Callable[[], Any], log: list[Any]) -> None:
    loop: Any = asyncio.get_running_loop()

    async def waits() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            log.append(("sibling cancelled", loop.iterations))

    async def fails() -> None:
        raise ValueError

    def hook(task: asyncio.Task[Any]) -> None:
        log.append((task in group._tasks, sibling.cancelling(), loop.iterations))

    try:
        async with make() as group:
            sibling = group.create_task(waits())
            await asyncio.sleep(0)
            loop.call_soon(hook, group.create_task(fails()))
    except* ValueError:
        pass


def play_in_group(make: Callable[[], Any]) -> list[Any]:
    loop = CountingLoop()
    log: list[Any] = []
    loop.run_until_complete(start_in_group(make, log))
    loop.close()
    return log


def test_call_soon_of_a_child_runs_before_the_group_is_notified() -> None:
    assert play_in_group(TaskGroup) == play_in_group(asyncio.TaskGroup)


@needs_capture
def test_call_soon_of_a_registered_task_runs_before_its_end_is_known() -> None:
    async def job() -> None:
        log.append("step")

    async def main() -> None:
        registry = TaskRegistry(on_finish=lambda _: log.append("on_finish"))
        task, _ = registry.register(job()).result()
        asyncio.get_running_loop().call_soon(lambda _: log.append("hook"), task)
        await registry.wait()

    log: list[str] = []
    asyncio.run(main())
    assert log == ["step", "hook", "on_finish"]
