"""Ids: any text finds the task that has it, among thousands, and no other."""

import asyncio
import gc
import random
from typing import Any

import pytest

from pyasynclife import DuplicateTaskError, TaskRegistry
from support.coroutines import forever
from support.loops import SEED, settle

ODD = [
    "\0",
    "a\0b",
    " ",
    "é",
    "日本",
    "\U0001f600",
    "\udcff",
    "\ud800\udc00",
    "\U00010000",
]


class Hostile(str):
    """A str that equals everything, and runs code where it is looked up."""

    __slots__ = ()

    def __hash__(self) -> int:
        gc.collect(0)
        return 1

    def __eq__(self, other: object) -> bool:
        return True


def alike(text: str, choice: random.Random) -> str:
    """The text, as an object that the registry may not have seen."""
    copy = (text + ".")[:-1]
    return choice.choice([text, copy, Hostile(text)])


def many_ids() -> list[str]:
    lowest_bits_alike = (f"id{n}" for n in range(10**6) if hash(f"id{n}") & 255 == 7)
    long = ["x" * 10**6, "x" * (10**6 - 1) + "y"]
    few = [next(lowest_bits_alike) for _ in range(100)]
    return [*ODD, *long, *few, *(f"n{n}" for n in range(1000))]


async def test_a_registry_of_many_ids_agrees_with_a_dict() -> None:
    choice = random.Random(SEED)
    registry = TaskRegistry(history=50)
    ids = many_ids()
    alive: dict[str, asyncio.Task[Any]] = {}
    for step in range(6000):
        if step % 200 == 0:
            await settle(4)
            assert list(registry) == list(alive)
            for text in ids:
                meta = registry.get(alike(text, choice))
                assert (alike(text, choice) in registry) == (text in alive)
                assert meta is None or meta.task_id == text
                assert text not in alive or meta.task is alive[text]  # type: ignore[union-attr]
        # It grows to most of the ids and shrinks again, several times.
        text = choice.choice(ids)
        entering = step % 3000 < 2000
        if text in alive:
            with pytest.raises(DuplicateTaskError):
                registry.register(forever(), alike(text, choice))
            assert registry.heartbeat(alike(text, choice)).result()
        elif entering:
            task, task_id = registry.register(forever(), alike(text, choice)).result()
            assert task_id == text
            assert type(task_id) is str
            alive[text] = task
        if not entering and choice.random() < 0.9 and alive:
            gone = choice.choice(list(alive))
            assert registry.cancel(alike(gone, choice)).result()
            del alive[gone]
    registry.cancel_all()
    await registry.wait()


async def test_an_id_may_be_taken_while_the_result_of_the_task_before_goes() -> None:
    registry = TaskRegistry()
    seen = []

    class Last:
        def __del__(self) -> None:
            seen.append(registry["feed"].state.name)
            registry.register(forever(), "other")
            with pytest.raises(DuplicateTaskError):
                registry.register(forever(), "feed")

    async def ends() -> Last:
        return Last()

    registry.register(ends(), "feed")
    await registry.wait()
    await settle()
    registry.register(forever(), Hostile("feed"))
    assert seen == ["PENDING"]
    assert list(registry) == ["feed", "other"]
    registry.cancel_all()
    await registry.wait()
