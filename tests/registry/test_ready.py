"""Ready: what register(), heartbeat() and their like return."""

import asyncio
import sys
import weakref
from collections.abc import Callable, Generator
from typing import Any

import pytest

from pyasynclife import TaskRegistry
from support.coroutines import echo, forever
from support.loops import settle
from support.registries import a_registry


async def test_result_and_await_of_a_ready_agree_any_number_of_times() -> None:
    async with a_registry() as registry:
        ready = registry.register(forever())
        assert await ready == await ready == ready.result()
        assert await asyncio.gather(ready) == [ready.result()]
        assert await asyncio.wait_for(ready, 1) == ready.result()


async def test_a_ready_has_no_truth_value() -> None:
    registry = TaskRegistry()
    with pytest.raises(TypeError, match="await this"):
        bool(registry.cancel("nobody"))


async def test_a_ready_cannot_be_iterated_or_unpacked() -> None:
    async with a_registry() as registry:
        for use in (list, iter, tuple, dict, sum):
            with pytest.raises(TypeError, match=r"await this: .*\.result\(\)"):
                use(registry.get_status())  # type: ignore[operator]
        with pytest.raises(TypeError, match="await this"):
            _, _ = registry.register(forever())  # type: ignore[misc]


async def test_an_await_method_may_delegate_to_a_ready() -> None:
    registry = TaskRegistry()

    class Returns:
        def __await__(self) -> Generator[Any, None, bool]:
            return registry.heartbeat("nobody").__await__()

    class Delegates:
        def __await__(self) -> Generator[Any, None, bool]:
            return (yield from registry.heartbeat("nobody").__await__())

    assert await Returns() is False
    assert await Delegates() is False
    iterator = registry.heartbeat("nobody").__await__()
    with pytest.raises(StopIteration) as caught:
        iterator.send(None)
    assert caught.value.value is False
    with pytest.raises(LookupError):
        registry.heartbeat("nobody").__await__().throw(LookupError())
    registry.heartbeat("nobody").__await__().close()


async def test_a_stop_iteration_that_somebody_keeps_stays_as_it_is() -> None:
    async with a_registry() as registry:
        ready: Any = registry.register(forever())
        wanted = ready.result()
        with pytest.raises(StopIteration) as caught:
            next(ready)
        kept = caught.value
        del ready, caught
        for _ in range(3):
            assert await registry.register(forever()) != wanted
        assert kept.value is wanted
        assert kept.args == (wanted,)


async def test_a_stop_iteration_that_was_changed_and_dropped_is_not_raised_again() -> (
    None
):
    async with a_registry() as registry:
        _, task_id = await registry.register(forever())
        ready: Any = registry.heartbeat(task_id)
        for change in ("value", "args"):
            try:
                next(ready)
            except StopIteration as stop:
                setattr(stop, change, [task_id])
                stop.__traceback__ = None
            assert await registry.heartbeat(task_id) is True
            with pytest.raises(StopIteration) as caught:
                next(ready)
            assert caught.value.args == (True,)
            del caught


async def test_the_args_of_each_stop_iteration_have_a_hash_of_their_own() -> None:
    found, wanted = [], []
    async with a_registry() as registry:
        for _ in range(3):
            ready: Any = registry.register(forever())
            try:
                next(ready)
            except StopIteration as stop:
                found.append(hash(stop.args))
                stop.__traceback__ = None
            wanted.append(hash((ready.result(),)))
            del ready
    assert found == wanted


async def test_readies_that_are_awaited_in_turn_keep_their_values() -> None:
    async with a_registry() as registry:
        readies = [registry.register(forever()) for _ in range(3)]
        values = [await ready for ready in readies for _ in range(2)]
        assert values == [ready.result() for ready in readies for _ in range(2)]


async def test_a_value_is_freed_with_its_ready() -> None:
    registry = TaskRegistry(history=0)
    task, _ = await registry.register(echo(1))
    gone = weakref.ref(task)
    del task
    await registry.wait()
    await settle()
    assert gone() is None


async def test_a_ready_is_not_a_coroutine() -> None:
    ready = TaskRegistry().cancel("nobody")
    assert not asyncio.iscoroutine(ready)
    with pytest.raises(TypeError):
        asyncio.create_task(ready)  # type: ignore[arg-type]


@pytest.mark.parametrize("trace", [sys.settrace, sys.setprofile])
async def test_readies_are_awaited_alike_under_a_trace_function(
    trace: Callable[[Any], None],
) -> None:
    registry = TaskRegistry()

    async def awaits() -> list[object]:
        _, task_id = await registry.register(echo(1))
        return [
            task_id,
            await registry.heartbeat(task_id),
            await registry.heartbeat("nobody"),
            await registry.complete(task_id),
            await registry.cancel_all(),
            await registry.get_stale_tasks(),
        ]

    untraced = await awaits()
    trace(lambda *_: None)
    try:
        traced = await awaits()
    finally:
        trace(None)
    assert untraced[1:4] == traced[1:4] == [True, False, None]
    assert untraced[5] == traced[5] == []
    await registry.wait()
