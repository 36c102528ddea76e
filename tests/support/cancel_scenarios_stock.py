"""Scenarios of asyncio's own tools in their usual form, for the table in docs.

No scenario shields and none creates a task that it does not wait for; each is right as
long as it is not cancelled.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from support.cancel_scenarios import (
    SHAPES,
    Case,
    cleans_up,
    fail,
    group_case,
    sleep,
)
from support.coroutines import Boom

STOCK: dict[str, list[Case]] = {
    "TaskGroup": [group_case(one, asyncio.TaskGroup, "asyncio") for one in SHAPES]
}


def stock(column: str) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    def note(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        STOCK.setdefault(column, []).append(Case(scenario.__name__, scenario))
        return scenario

    return note


@stock("gather")
async def gather_that_ends() -> None:
    await asyncio.gather(sleep(0), sleep(1), cleans_up())


@stock("gather")
async def gather_of_results() -> None:
    await asyncio.gather(fail(0.5), cleans_up(), sleep(1), return_exceptions=True)


@stock("gather")
async def gather_whose_last_child_fails() -> None:
    with contextlib.suppress(Boom):
        await asyncio.gather(sleep(0.5), cleans_up(0), fail(1))
    await asyncio.sleep(0)


@stock("gather")
async def gather_of_two_that_fail_together() -> None:
    with contextlib.suppress(Boom):
        await asyncio.gather(fail(1), fail(1))
    await asyncio.sleep(0)


@stock("gather")
async def gather_behind_a_semaphore() -> None:
    semaphore = asyncio.Semaphore(2)

    async def limited(seconds: float) -> None:
        async with semaphore:
            await asyncio.wait_for(cleans_up(seconds), 2)

    await asyncio.gather(*map(limited, [0, 0.5, 1, 1]))


@stock("wait_for")
async def wait_for_what_ends_in_time() -> None:
    await asyncio.wait_for(sleep(1), 5)
    await asyncio.sleep(0)


@stock("wait_for")
async def wait_for_what_does_not() -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(cleans_up(5), 1)
    await asyncio.sleep(0)


@stock("wait_for")
async def wait_for_a_queue() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    asyncio.get_running_loop().call_later(1, queue.put_nowait, 1)
    await asyncio.wait_for(queue.get(), 5)
    await asyncio.sleep(0)


@stock("wait_for")
async def wait_for_an_event_again_and_again() -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(1.2, event.set)
    while not event.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), 0.5)


@stock("timeout")
async def timeout_that_is_kept() -> None:
    async with asyncio.timeout(5):
        await cleans_up()
    await asyncio.sleep(0)


@stock("timeout")
async def timeout_that_runs_out() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await cleans_up(5)
    await asyncio.sleep(0)


@stock("timeout")
async def timeout_within_a_timeout() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await cleans_up(5)
            await asyncio.sleep(1)
    await asyncio.sleep(0)


@stock("timeout")
async def timeout_of_nothing() -> None:
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                await asyncio.sleep(1)


@stock("wait, as_completed")
async def wait_for_all() -> None:
    tasks = [asyncio.create_task(sleep(seconds)) for seconds in (0, 1)]
    try:
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@stock("wait, as_completed")
async def the_first_of_two() -> None:
    tasks = [asyncio.create_task(cleans_up(seconds)) for seconds in (1, 2)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@stock("wait, as_completed")
async def as_completed_to_its_end() -> None:
    for future in asyncio.as_completed([sleep(0), sleep(1), sleep(0.5)]):
        await future


@stock("task awaited")
async def task_awaited() -> None:
    await asyncio.create_task(cleans_up())
    await asyncio.sleep(0)


@stock("task awaited")
async def task_cancelled_and_awaited() -> None:
    task = asyncio.create_task(cleans_up(5))
    try:
        await asyncio.sleep(1)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
