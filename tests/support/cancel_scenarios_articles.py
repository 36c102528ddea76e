"""Scenarios of the articles' helpers: see cancel_scenarios."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from pyasynclife import (
    BatchError,
    TaskGroup,
    TaskResult,
    add_task_observers,
    cancel_all_tasks,
    cancellation_with_retry,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    monitor_tasks,
    process_batch_with_deadline,
    shielded_operation,
    task_with_individual_timeout,
    wait_for_first_completion,
)
from support.cancel_scenarios import (
    ITEMS,
    LONG,
    OURS,
    Case,
    Options,
    allow_unread_reports,
    case,
    cleans_up,
    counted,
    do,
    fail,
    nothing,
    sleep,
    stream,
    swallows_once,
)
from support.coroutines import Boom

# ------------------------------------------------------------------ many items


def many(gather: Callable[..., Coroutine[Any, Any, Any]]) -> None:
    """Add cases of a helper that runs ``do`` over items."""

    def add(name: str, items: Callable[[], Any], how: Options) -> None:
        async def scenario() -> None:
            allow_unread_reports()
            with contextlib.suppress(BatchError):
                await gather(items(), **how)

        scenario.__qualname__ = name
        OURS.append(Case(name, scenario, first=True))

    for way, how in [("workers", {}), ("tasks", {"task_per_item": True})]:
        add(f"{gather.__name__}, {way}, list", lambda: ITEMS, how)
        add(f"{gather.__name__}, {way}, stream", lambda: stream(ITEMS), how)


@many
async def gathered(items: Any, **how: Any) -> None:
    await gather_with_error_handling(do, items, **how)


@many
async def gathered_until_two_fail(items: Any, **how: Any) -> None:
    await gather_with_error_handling(do, items, max_concurrent=3, max_errors=1, **how)


@many
async def gathered_with_a_budget(items: Any, **how: Any) -> None:
    await gather_with_timeout_and_budget(do, items, 0.75, 3, budget=1.5, **how)


@many
async def gathered_by_a_deadline(items: Any, **how: Any) -> None:
    await process_batch_with_deadline(do, items, 0.75, max_errors=None, **how)


@many
async def gathered_by_a_deadline_until_one_fails(items: Any, **how: Any) -> None:
    await process_batch_with_deadline(do, items, max_concurrent=2, **how)


# ------------------------------------------------------------------ a race


@case(first=True)
async def race() -> None:
    entrants = [sleep(2), sleep(1), counted(cleans_up, 5), swallows_once()]
    assert (await wait_for_first_completion(entrants))[0] == 1


@case(first=True)
async def race_that_two_win() -> None:
    await wait_for_first_completion(
        [sleep(1), counted(cleans_up, 1), sleep(1), nothing()]
    )


def expect_reports() -> None:
    """Allow the report of a failure in the iteration in which the caller leaves."""
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    assert before is not None

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Boom):
            before(loop, context)

    loop.set_exception_handler(handler)


@case(first=True)
async def race_that_the_first_fails() -> None:
    expect_reports()
    with contextlib.suppress(Boom):
        await wait_for_first_completion([counted(cleans_up, 5), fail(1)])


@case(first=True)
async def race_against_time() -> None:
    with contextlib.suppress(TimeoutError):
        await wait_for_first_completion([counted(cleans_up, 5), sleep(5)], 0.5)


@case(first=True)
async def race_of_tasks_and_a_batch() -> None:
    async with TaskGroup() as group:
        task = group.create_task(sleep(1))
        await wait_for_first_completion(
            [task, gather_with_error_handling(do, ITEMS), counted(cleans_up, 2)]
        )


# ------------------------------------------------------------------ one operation


@case()
async def limited() -> None:
    assert await task_with_individual_timeout(sleep(1), 2) == 1
    with contextlib.suppress(TimeoutError):
        await task_with_individual_timeout(cleans_up(5), 0.5)
    await asyncio.sleep(0)


@case()
async def limited_to_nothing() -> None:
    for function in (asyncio.sleep, cleans_up, sleep):
        with contextlib.suppress(TimeoutError):
            await task_with_individual_timeout(function(1), 0)
    await task_with_individual_timeout(nothing(), 0)


@case()
async def limited_in_the_same_iteration() -> None:
    with contextlib.suppress(TimeoutError):
        await task_with_individual_timeout(sleep(1), 1)
    with contextlib.suppress(TimeoutError, Boom):
        await task_with_individual_timeout(fail(1), 1)


@case()
async def limited_within_a_limit() -> None:
    inner = task_with_individual_timeout(cleans_up(5), 1)
    with contextlib.suppress(TimeoutError):
        await task_with_individual_timeout(inner, 1)
    await asyncio.sleep(0)


@case()
async def limited_task() -> None:
    task = asyncio.create_task(cleans_up(5))
    with contextlib.suppress(TimeoutError):
        await task_with_individual_timeout(task, 1)


@case()
async def retried() -> None:
    attempts = iter([fail(0.5), fail(0), cleans_up()])
    try:
        await cancellation_with_retry(lambda: next(attempts))
    finally:
        for attempt in attempts:
            attempt.close()


@case()
async def retried_in_vain() -> None:
    with contextlib.suppress(Boom):
        await cancellation_with_retry(lambda: fail(0.5), retry_delay=0)


@case()
async def retried_with_a_limit() -> None:
    def attempt() -> Any:
        return task_with_individual_timeout(cleans_up(5), 1)

    with contextlib.suppress(TimeoutError):
        await cancellation_with_retry(attempt, 2, retry_on=TimeoutError)


# ------------------------------------------------------------------ a shield

ENDED: list[str] = []


async def operation() -> str:
    ENDED.append("begun")
    await cleans_up()
    ENDED.append("ended")
    return "value"


def it_ended() -> None:
    """However the callers were cancelled, each operation that began has ended."""
    events, ENDED[:] = list(ENDED), []
    assert events.count("ended") == events.count("begun"), events


def shielded(scenario: Any) -> Any:
    OURS.append(Case(scenario.__name__, scenario, LONG, it_ended))
    return scenario


@shielded
async def shield() -> None:
    assert await shielded_operation(operation()) == "value"


@shielded
async def shield_with_a_limit() -> None:
    with contextlib.suppress(TimeoutError):
        await shielded_operation(operation(), timeout=0.5)
    await asyncio.sleep(0)


@shielded
async def shield_in_a_limit() -> None:
    with contextlib.suppress(TimeoutError):
        await task_with_individual_timeout(shielded_operation(operation()), 1)


@shielded
async def shield_shared() -> None:
    task = asyncio.create_task(operation())
    # cancelled before its first step the operation would never begin
    await asyncio.sleep(0)
    async with TaskGroup() as group:
        for limit in (None, 2, 5):
            group.create_task(shielded_operation(task, timeout=limit))
        await shielded_operation(task)


@case(LONG)
async def shield_of_what_fails() -> None:
    task = asyncio.create_task(fail(1))
    task.add_done_callback(asyncio.Task.exception)
    with contextlib.suppress(Boom):
        await shielded_operation(task)


# ------------------------------------------------------------------ other tasks


def some_tasks() -> list[asyncio.Task[Any]]:
    """Tasks, one of which runs on unless it is cancelled."""
    coros = [nothing(), sleep(1), cleans_up(), swallows_once(), sleep(2 * LONG)]
    return [asyncio.create_task(coro) for coro in coros]


@case(LONG)
async def tasks_cancelled() -> None:
    tasks = some_tasks()
    try:
        await asyncio.sleep(0.5)
    finally:
        await cancel_all_tasks(tasks)


@case(LONG)
async def tasks_cancelled_with_a_deadline() -> None:
    tasks = some_tasks()
    await cancel_all_tasks(tasks, timeout=0)
    await cancel_all_tasks(tasks, timeout=0.25)


@case(LONG)
async def tasks_cancelled_by_two() -> None:
    tasks = some_tasks()
    try:
        async with TaskGroup() as group:
            group.create_task(cancel_all_tasks(tasks))
            group.create_task(cancel_all_tasks(tasks, timeout=0.25))
    finally:
        for task in tasks:
            task.cancel()


@case()
async def tasks_monitored() -> None:
    seen: list[TaskResult[Any]] = []
    async with TaskGroup() as group:
        tasks = [group.create_task(coro) for coro in (sleep(1), cleans_up(), nothing())]
        await monitor_tasks(tasks, 0.4, report=lambda _, ended: seen.extend(ended))
        assert len(seen) == len(tasks)


@case(LONG)
async def tasks_monitored_while_they_are_cancelled() -> None:
    seen: list[TaskResult[Any]] = []
    tasks = some_tasks()
    add_task_observers(tasks, seen.append)
    async with TaskGroup() as group:
        group.create_task(monitor_tasks(tasks, 0.3))
        try:
            await asyncio.sleep(0.5)
        finally:
            await cancel_all_tasks(tasks)
    assert len(seen) == len(tasks)
