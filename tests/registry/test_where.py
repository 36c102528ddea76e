"""where() and dump(): where tasks wait."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import Batch, TaskGroup, TaskRegistry, bounded_gather
from support.coroutines import echo, forever, swallow
from support.loops import settle, until
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
    assert names == ["outer", "inner"]
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


async def test_dump_of_one_task_counts_in_the_singular() -> None:
    async with a_registry() as registry:
        registry.register(forever())
        await settle()
        assert "1 task, 1 place\n" in registry.dump()


# ---------------------------------------------------------------- through a batch


async def collects(batch: Batch[Any]) -> None:
    await batch


async def blocks(batch: Batch[Any]) -> None:
    async with batch:
        pass


async def iterates(batch: Batch[Any]) -> None:
    async with batch:
        async for _ in batch:
            pass


async def stuck(item: object) -> None:
    if item == 1:
        await forever()


def short(lines: list[str]) -> list[str]:
    """The functions of the lines, indented as these are; other lines as they are."""
    return [
        " " * (len(line) - len(line.lstrip())) + line.rpartition(".")[2].split()[-1]
        if " in " in line
        else line
        for line in lines
    ]


USES = [collects, blocks, iterates]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("way", ["workers", "tasks"])
async def test_where_goes_on_to_the_items_of_a_batch(
    use: Callable[[Batch[Any]], Awaitable[None]], way: str
) -> None:
    async with a_registry() as registry:
        batch = bounded_gather(stuck, range(3), task_per_item=way == "tasks")
        registry.register(use(batch), "prices")  # type: ignore[arg-type]
        await settle(5)
        lines = registry.where("prices")
        at = lines.index("item '1':")
        inner = [line.strip() for line in lines[at + 1 :]]
        assert all(line.startswith("  ") for line in lines[at + 1 :])
        assert short(inner) == ["stuck", "forever"]
        assert use.__name__ in lines[0]
        assert "item '1':" in registry.dump()


async def test_a_report_names_the_items_that_are_stuck() -> None:
    registry = TaskRegistry()
    release = asyncio.Event()

    async def item(number: int) -> None:
        while number == 1 and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                pass

    async def refresh_prices() -> None:
        await bounded_gather(item, range(3))

    registry.register(refresh_prices(), "prices")
    await settle()
    report = await registry.shutdown(0.01)
    (exit_,) = report.stuck
    at = exit_.where.index("item '1':")
    assert short(exit_.where[at:]) == ["item '1':", "  item", "  wait"]
    assert "    item '1':" in str(report).splitlines()
    release.set()
    assert await registry.wait()


async def test_where_shows_a_few_of_many_items_with_their_ids_cut() -> None:
    async with a_registry() as registry:
        urls = ["x" * 1000, *(f"item {n}" for n in range(9))]
        batch = bounded_gather(forever, urls)
        registry.register(collects(batch), "many")
        await until(lambda: batch.progress.running == 10)
        lines = registry.where("many")
        assert lines[-1] == "and 7 more"
        labels = [line for line in lines if line.startswith("item ")]
        assert labels == [
            f"item '{'x' * 117}...':",
            "item 'item 0':",
            "item 'item 1':",
        ]


async def test_where_goes_through_a_batch_in_a_batch_and_its_source() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await forever()

    async def inner(_: int) -> None:
        await bounded_gather(forever, ["deep"])

    async with a_registry() as registry:
        registry.register(collects(bounded_gather(inner, source())), "outer")
        await settle(5)
        lines = short(registry.where("outer"))
        at = lines.index("item '1':")
        assert lines[at:] == [
            "item '1':",
            "  inner",
            "  collect",
            "  item 'deep':",
            "    forever",
            "task 'bounded_gather inner source':",
            "  read_source",
            "  source",
            "  forever",
        ]


async def test_where_goes_on_to_the_children_of_a_group() -> None:
    async def parent() -> None:
        async with TaskGroup() as group:
            for n in range(5):
                group.create_task(forever(), name=f"child {n}")

    async with a_registry() as registry:
        registry.register(parent(), "parent")
        await settle()
        assert short(registry.where("parent")) == [
            "parent",
            "task 'child 0':",
            "  forever",
            "task 'child 1':",
            "  forever",
            "task 'child 2':",
            "  forever",
            "and 2 more",
        ]


async def test_where_ends_in_tasks_that_wait_for_each_other() -> None:
    async with a_registry() as registry:
        batch = bounded_gather(lambda _: wait_for_the_batch(), ["one"])

        async def wait_for_the_batch() -> None:
            async with TaskGroup() as group:
                group.create_task(collects(other), name="child")

        async def wait_for_the_group(_: object) -> None:
            async for _ in batch:
                pass

        other = bounded_gather(wait_for_the_group, ["two"])
        registry.register(wait_for_the_batch(), "first")
        await settle(8)
        lines = registry.where("first")
        assert 5 < len(lines) < 100
        assert any("item 'two':" in line for line in lines)
        batch.cancel()


async def test_where_of_a_batch_that_waits_for_nothing_ends_there() -> None:
    async with a_registry() as registry:
        batch = bounded_gather(echo, [1])
        batch.pause()
        registry.register(collects(batch), "paused")
        await settle()
        assert short(registry.where("paused"))[:2] == ["collects", "collect"]
        batch.resume()
        await settle()
