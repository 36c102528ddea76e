"""Which batches give each item a Task of its own: the task factory decides."""

import asyncio
import contextvars
from typing import Any

import pytest

from pyasynclife import TaskRegistry, bounded_gather
from support.loops import task_factory
from support.marks import needs_eager

scope: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("scope")


def forks_scope(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    """Make a Task with a fork of the scope, which is mutable, as Sentry's does."""

    async def with_own_scope() -> Any:
        scope.set(dict(scope.get({})))
        return await coro

    return asyncio.Task(with_own_scope(), loop=loop, **options)


async def tagged(number: int) -> tuple[int, Any]:
    scope.get()["user"] = number
    await asyncio.sleep(0)
    return number, scope.get()["user"]


async def tasks_of(options: dict[str, Any]) -> int:
    async def fn(number: int) -> Any:
        await asyncio.sleep(0)
        return asyncio.current_task()

    result = await bounded_gather(fn, range(6), max_concurrent=2, **options)
    return len(set(result.values()))


async def test_tags_of_one_item_do_not_land_on_another() -> None:
    scope.set({})
    with task_factory(forks_scope):
        gathered = await asyncio.gather(*map(tagged, range(4)))
        result = await bounded_gather(tagged, range(4))
        assert result.values() == gathered == [(n, n) for n in range(4)]
        assert scope.get() == {}
        shared = await bounded_gather(tagged, range(4), task_per_item=False)
        assert shared.values() != gathered


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 6),
        ({"task_per_item": None}, 6),
        ({"task_per_item": False}, 2),
        ({"task_per_item": True}, 6),
        ({"task_per_item": False, "registry": ...}, 6),
    ],
)
async def test_a_factory_that_is_not_asyncios_gives_each_item_a_task(
    options: dict[str, Any], expected: int
) -> None:
    if "registry" in options:
        options = options | {"registry": TaskRegistry()}
    with task_factory(forks_scope):
        assert await tasks_of(options) == expected


async def test_without_a_factory_workers_run_the_items() -> None:
    assert await tasks_of({}) == 2


@needs_eager
@pytest.mark.standard_loop_only
@pytest.mark.parametrize("made", [False, True])
async def test_asyncios_eager_factories_are_no_reason(made: bool) -> None:
    own: Any = asyncio
    factory = own.eager_task_factory
    if made:
        factory = own.create_eager_task_factory(asyncio.Task)
    with task_factory(factory):
        assert await tasks_of({}) < 6


async def test_the_factory_counts_when_the_batch_begins() -> None:
    async def fn(number: int) -> Any:
        await asyncio.sleep(0)
        return asyncio.current_task()

    batch = bounded_gather(fn, range(6), max_concurrent=2)
    with task_factory(forks_scope):
        late = bounded_gather(fn, range(6), max_concurrent=2)
        assert len(set((await batch).values())) == 6
    assert len(set((await late).values())) == 2


class Silent(asyncio.SelectorEventLoop):
    """A loop that does not tell its task factory."""

    error: type[Exception] = LookupError

    def create_task(self, coro: Any, **options: Any) -> Any:
        return super().create_task(coro, **options)

    def get_task_factory(self) -> Any:
        raise self.error


def test_a_loop_that_does_not_tell_begins_nothing() -> None:
    called = []

    async def fn(number: int) -> int:
        called.append(number)
        return number

    async def main() -> None:
        batch = bounded_gather(fn, range(3))
        with pytest.raises(LookupError):
            await batch
        assert called == []
        Silent.error = NotImplementedError  # as an AbstractEventLoop does
        assert (await batch).values() == [0, 1, 2]

    with asyncio.Runner(loop_factory=Silent) as runner:
        runner.run(main())
