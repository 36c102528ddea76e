"""While shutdown() runs, the registry says so and takes no new task."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any

import pytest

from pyasynclife import (
    ClosedError,
    PyAsyncLifeError,
    SignalCoordinator,
    TaskMetadata,
    TaskRegistry,
)
from support.coroutines import echo, forever, swallow
from support.loops import eager, settle, task_factory
from support.registries import adds_up


async def in_shutdown(
    registry: TaskRegistry, during: Coroutine[Any, Any, Any]
) -> BaseException | None:
    """Run a coroutine while the registry shuts down; return its error."""
    registry.register(swallow(times=2), "slow")
    await settle()
    shutdown = asyncio.create_task(registry.shutdown(60))
    await settle()
    task = asyncio.create_task(during)
    await asyncio.wait([task])
    registry.cancel("slow")
    await shutdown
    return task.exception()


async def test_register_is_refused_and_changes_nothing() -> None:
    registry = TaskRegistry()
    task_ids = []

    async def registers() -> None:
        before = registry.stats()
        for task_id in (None, "feed"):
            with pytest.raises(ClosedError, match=r"registry\.closing") as caught:
                registry.register(forever(), task_id)
            task_ids.append(str(task_id) in str(caught.value))
        assert registry.stats() == before
        assert list(registry) == ["slow"]

    assert await in_shutdown(registry, registers()) is None
    assert task_ids == [False, True]
    gc.collect()  # "never awaited" would be an error here
    _, task_id = await registry.register(echo(1))
    assert task_id == "task_0"
    await registry.wait()


def test_the_error_is_of_both_trees() -> None:
    assert issubclass(ClosedError, PyAsyncLifeError)
    assert issubclass(ClosedError, RuntimeError)


async def test_bad_arguments_are_refused_as_ever() -> None:
    registry = TaskRegistry()

    async def registers() -> None:
        with pytest.raises(TypeError, match="coroutine"):
            registry.register(7)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="stale_after"):
            registry.register(forever(), stale_after=-1)

    assert await in_shutdown(registry, registers()) is None


async def test_closing_is_true_from_the_call_until_the_last_shutdown_returns() -> None:
    registry = TaskRegistry()
    registry.register(swallow(times=2), "stuck")
    await settle()
    assert not registry.closing
    one = asyncio.create_task(registry.shutdown(60))
    two = asyncio.create_task(registry.shutdown(0.01))
    await settle()
    assert registry.closing
    await two  # at its deadline
    assert registry.closing
    one.cancel()
    await asyncio.wait([one])
    assert not registry.closing
    await registry.register(echo(1))
    await registry.shutdown(60)
    assert not registry.closing


@pytest.mark.parametrize("by", ["block", "coordinator"])
async def test_a_registry_closes_whoever_shuts_it_down(by: str) -> None:
    registry = TaskRegistry()
    seen = []

    async def looks() -> None:
        try:
            await forever()
        finally:
            seen.append(registry.closing)

    if by == "block":
        async with registry:
            registry.register(looks())
            await settle()
    else:
        registry.register(looks())
        await settle()
        await SignalCoordinator(registry=registry).graceful_shutdown()
    assert seen == [True]
    assert not registry.closing


async def test_a_task_that_begins_the_shutdown_may_not_register_meanwhile() -> None:
    registry = TaskRegistry()

    async def shuts_down() -> None:
        async def tries() -> None:
            with pytest.raises(ClosedError):
                registry.register(forever())

        helper = asyncio.create_task(tries())
        await registry.shutdown()
        await helper

    registry.register(forever())
    task, _ = await registry.register(shuts_down())
    await settle()
    await task
    await registry.wait()


@pytest.mark.skipif("sys.version_info < (3, 12)", reason="no eager tasks")
@pytest.mark.standard_loop_only
async def test_a_task_whose_eager_first_step_shuts_down_is_registered() -> None:
    registry = TaskRegistry()

    async def shuts_down() -> int:
        shutdown = asyncio.create_task(registry.shutdown())
        await asyncio.sleep(0)
        return len((await shutdown).cancelled)

    with task_factory(eager):
        task, task_id = await registry.register(shuts_down())
    assert task_id in registry
    with pytest.raises(asyncio.CancelledError):
        await task
    await registry.wait()
    adds_up(registry)


@pytest.mark.skipif("sys.version_info < (3, 12)", reason="no eager tasks")
@pytest.mark.standard_loop_only
async def test_a_shutdown_does_not_wait_for_a_task_that_could_not_be_registered() -> (
    None
):
    registry = TaskRegistry()
    shutdowns: list[Any] = []

    async def shuts_down() -> None:
        registry.heartbeat()  # the registry has the task now
        shutdown = registry.shutdown(60)
        shutdowns.append(eager(asyncio.get_running_loop(), shutdown))
        await forever()

    def fails(loop: Any, coro: Any, **options: Any) -> Any:
        eager(loop, coro, **options)
        raise ZeroDivisionError

    with task_factory(fails), pytest.raises(ZeroDivisionError):
        registry.register(shuts_down(), "refused")
    report = await asyncio.wait_for(shutdowns[0], 5)
    assert [one.task_id for one in report.cancelled] == ["refused"]
    assert 0 <= report.cancelled[0].age < 5  # type: ignore[operator]
    assert report.deadline_met
    assert len(registry) == 0


async def test_a_restart_from_on_finish_ends_with_the_shutdown(
    loop_errors: list[dict[str, Any]],
) -> None:
    starts = []

    def restart(meta: TaskMetadata) -> None:
        starts.append(meta.task_id)
        registry.register(forever(), meta.task_id)

    registry = TaskRegistry(on_finish=restart)
    for number in range(50):
        registry.register(forever(), f"feed_{number}")
    await settle()
    report = await registry.shutdown(60)
    assert report.ok
    assert len(starts) == 50
    assert len(registry) == 0
    (about,) = loop_errors
    assert isinstance(about["exception"], ClosedError)
    assert "feed_0" in str(about["exception"])
    assert "once for each shutdown" in about["message"]
    # The next shutdown reports it anew.
    registry.register(forever(), "again")
    await registry.shutdown(60)
    assert len(loop_errors) == 2


async def test_a_restart_that_asks_closing_leaves_nothing_stuck() -> None:
    def restart(meta: TaskMetadata) -> None:
        if not registry.closing:
            registry.register(forever(), meta.task_id)

    registry = TaskRegistry(on_finish=restart)
    registry.register(forever(), "feed")
    await settle()
    registry.cancel("feed")
    await settle()
    assert list(registry) == ["feed"]
    report = await registry.shutdown(60)
    assert report.stuck == []
    assert [one.task_id for one in report.cancelled] == ["feed"]
