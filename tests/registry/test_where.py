"""where() and dump(): where tasks wait."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pyasynclife import TaskRegistry
from support.coroutines import forever, swallow
from support.loops import settle
from support.registries import a_registry


async def test_where_follows_through_generators_to_the_last_await() -> None:
    async def forever() -> None:
        await asyncio.sleep(3600)

    async def ticks() -> AsyncIterator[int]:
        await forever()
        yield 1

    async def consume() -> None:
        async for _ in ticks():
            pass

    async with a_registry() as registry:
        registry.register(consume(), "feed")
        (pending,) = registry.where("feed")
        assert "consume" in pending
        await settle()
        names = [line.rpartition(" in ")[2] for line in registry.where("feed")]
        assert [name.rpartition(".")[2] for name in names] == [
            "consume",
            "ticks",
            "forever",
            "sleep",
        ]
        file, line = registry.where("feed")[0].split(" in ")[0].rsplit(":", 1)
        assert file == __file__
        assert int(line) > 0
    assert registry.where("feed") == []


async def test_where_of_the_current_task_is_its_live_stack() -> None:
    registry = TaskRegistry()

    async def outer() -> list[str]:
        return inner()

    def inner() -> list[str]:
        return registry.where("feed")

    task, _ = await registry.register(outer(), "feed")
    names = [line.rpartition(".")[2] for line in await task]
    assert names[:2] == ["outer", "inner"]
    await registry.wait()


async def test_where_and_dump_survive_attributes_that_raise() -> None:
    registry = TaskRegistry()

    class Odd:
        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> None:
            return None

        def __getattr__(self, name: str) -> Any:
            if name.startswith(("cr_", "gi_", "ag_")):
                raise ValueError(name)
            raise AttributeError(name)

    async def waits() -> None:
        await Odd()

    registry.register(waits(), "odd")
    await settle()
    assert "waits" in registry.where("odd")[0]
    assert "waits" in registry.dump()
    registry.cancel("odd")
    await registry.wait()


async def test_dump_groups_equal_chains() -> None:
    async with a_registry() as registry:
        for _ in range(100):
            registry.register(forever())
        registry.register(swallow(), "odd")
        await settle()
        text = registry.dump()
        assert "101 tasks, 2 places" in text
        assert "100 x task_0" in text
        assert "1 x odd" in text
