"""An id may be a document of 5 MB: messages, Task names and logs show its beginning."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    TaskRegistry,
    TaskResult,
    add_task_observers,
    bounded_gather,
    cancel_all_tasks,
)
from support.coroutines import echo, fail, forever
from support.items import Stubborn
from support.loops import settle

HUGE = "x" * 20_000
SHORT = "'" + "x" * 117 + "...'"
LoopErrors = list[dict[str, Any]]


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    return str(caught.value)


@pytest.mark.parametrize("own_tasks", [False, True])
async def test_a_timeout_names_the_beginning_of_the_item(own_tasks: bool) -> None:
    for options in ({"timeout": 0.001}, {"budget": 0.001}):
        batch = bounded_gather(forever, [HUGE], task_per_item=own_tasks, **options)  # type: ignore[arg-type]
        (result,) = await batch
        assert str(result.error).startswith(SHORT)
        assert len(str(result.error)) < 200
        assert result.task_id is HUGE
        assert result.item is HUGE
        assert len(repr(result)) < 400
        assert repr(result).startswith(f"TaskResult({SHORT}, success=False, ")


async def test_an_item_that_does_not_stop_is_named_by_its_beginning() -> None:
    stubborn = Stubborn()
    (result,) = await bounded_gather(stubborn, [HUGE], timeout=0.001, cancel_grace=0)
    assert str(result.error).startswith(SHORT)
    assert len(str(result.error)) < 200
    await stubborn.release()


async def test_a_batcherror_names_the_beginning() -> None:
    batch = bounded_gather(forever, [HUGE])
    task = asyncio.create_task(batch.collect())
    await settle()
    batch.cancel()
    with pytest.raises(BatchError) as caught:
        (await task).values()
    assert str(caught.value.exceptions[0]) == f"task {SHORT} was cancelled"
    assert TaskResult(HUGE, False).task_id == HUGE
    said = message_of(TaskResult(HUGE, False).unwrap)
    assert said == f"task {SHORT} failed and gave no error"


async def test_the_task_of_an_item_is_named_by_its_beginning() -> None:
    async def name(_: object) -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    (named,) = (await bounded_gather(name, [HUGE], task_per_item=True)).values()
    assert named == "x" * 117 + "..."
    registry = TaskRegistry()
    (named,) = (await bounded_gather(name, [HUGE], registry=registry)).values()
    assert named == "x" * 117 + "..."
    assert registry[HUGE].task_id == HUGE
    short = "x" * 120
    assert (await bounded_gather(name, [short], task_per_item=True)).values() == [short]


async def test_a_registry_names_the_beginning_and_knows_the_whole() -> None:
    registry = TaskRegistry()
    registry.register(forever(), HUGE)
    other = HUGE + "y"
    for call in (
        lambda: registry.register(echo(), HUGE),
        lambda: registry[other],
        lambda: registry.where(other),
        lambda: registry.complete(other),
        lambda: registry.track(next(iter([registry[HUGE].task])), other),  # type: ignore[arg-type]
    ):
        assert "x" * 50 in message_of(call)
        assert len(message_of(call)) < 400
    assert HUGE in registry
    assert list(registry) == [HUGE]
    assert len(repr(registry[HUGE])) < 200
    await settle()
    assert len(registry.dump()) < 1000
    report = await registry.shutdown()
    assert report.cancelled[0].task_id == HUGE


async def test_a_report_shows_the_beginning_of_ids_and_errors() -> None:
    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ValueError(HUGE) from None

    tasks = [asyncio.create_task(stubborn(), name=HUGE)]
    await settle()
    report = await cancel_all_tasks(tasks)
    assert len(str(report)) < 1000
    assert str(report.failed[0].error) == HUGE


async def test_log_records_show_the_beginning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pyasynclife")
    registry = TaskRegistry(0.001, 0.0)
    async with registry:
        registry.register(fail(1), HUGE + "failed")
        registry.register(asyncio.sleep(0.05), HUGE + "stale")
        await registry.wait()
    tasks = [asyncio.create_task(coro, name=HUGE) for coro in (fail(1), echo())]
    add_task_observers(tasks)
    await asyncio.wait(tasks)
    await settle()
    assert len(caplog.records) >= 4
    for record in caplog.records:
        assert len(record.getMessage()) < 300
        assert "x" * 50 in record.getMessage()


async def test_an_error_of_on_stale_names_the_beginning(
    loop_errors: LoopErrors,
) -> None:
    def on_stale(_: object) -> None:
        raise ValueError

    async with TaskRegistry(0.001, 0.0, on_stale=on_stale) as registry:
        registry.register(asyncio.sleep(0.05), HUGE)
        await registry.wait()
    assert loop_errors
    assert all(len(context["message"]) < 300 for context in loop_errors)


def test_a_refused_argument_is_shown_by_its_beginning() -> None:
    class Big:
        def __repr__(self) -> str:
            return "<" + HUGE + ">"

    calls: list[Callable[[], object]] = [
        lambda: bounded_gather(HUGE, [1]),  # type: ignore[call-overload]
        lambda: bounded_gather(echo, HUGE),
        lambda: bounded_gather(echo, Big()),  # type: ignore[call-overload]
        lambda: bounded_gather(echo, [1], timeout=HUGE),  # type: ignore[call-overload]
        lambda: TaskRegistry(on_stale=Big()),  # type: ignore[arg-type]
        lambda: TaskResult("a", False, None, Big()),  # type: ignore[arg-type]
        lambda: TaskResult(Big(), False),  # type: ignore[arg-type]
        lambda: TaskRegistry().register(Big()),  # type: ignore[arg-type]
    ]
    for call in calls:
        assert len(message_of(call)) < 400
    batch = bounded_gather(echo, [1], key=lambda _: Big())  # type: ignore[arg-type, return-value]
    assert len(message_of(lambda: asyncio.run(batch.collect()))) < 400
