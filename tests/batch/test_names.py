"""The names of a batch's Tasks and coroutines: what people look for in a log."""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyasynclife import TaskRegistry, bounded_gather

names: list[tuple[str, str]] = []


def note() -> None:
    task: Any = asyncio.current_task()
    names.append((task.get_name(), task.get_coro().__qualname__))


async def parse_page(page: Any) -> None:
    note()


class Parser:
    async def parse(self, page: Any) -> None:
        note()

    @classmethod
    async def made(cls, page: Any) -> None:
        note()

    async def __call__(self, page: Any) -> None:
        note()


class Raises(Parser):
    def __getattr__(self, name: str) -> Any:
        raise ValueError(name)


class Gives(Parser):
    def __init__(self, name: object) -> None:
        self.__qualname__ = name  # type: ignore[assignment]


class Text(str):
    __slots__ = ()

    def rpartition(self, sep: str, /) -> Any:
        raise ValueError


class Meta(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ValueError


class OfMeta(Parser, metaclass=Meta):
    pass


def of_itself() -> Any:
    partial = functools.partial(parse_page)
    partial.__setstate__((partial, (), {}, {}))  # type: ignore[attr-defined]
    return partial


def nested() -> Any:
    async def inner(page: Any) -> None:
        note()

    return inner


CALLABLES: list[tuple[Any, str]] = [
    (parse_page, "parse_page"),
    (functools.partial(parse_page), "parse_page"),
    (functools.partial(Parser().parse), "Parser.parse"),
    (Parser().parse, "Parser.parse"),
    (Parser.made, "Parser.made"),
    (lambda page: parse_page(page), "<lambda>"),
    (nested(), "inner"),
    (Parser(), "Parser"),
    (Raises(), "Raises"),
    (Gives(None), "Gives"),
    (Gives(3), "Gives"),
    (Gives(""), "Gives"),
    (Gives(Text("text")), "Gives"),
    (Gives("x" * 200), "x" * 117 + "..."),
    (OfMeta(), "OfMeta"),
]

# Indexes, for pytest looks at the attributes of a parameter.
each_callable = pytest.mark.parametrize("index", range(len(CALLABLES)))


@each_callable
async def test_a_worker_is_named_after_the_function(index: int) -> None:
    fn, name = CALLABLES[index]
    names.clear()
    (await bounded_gather(fn, [1])).values()
    assert names == [(f"bounded_gather {name}", name)]


@each_callable
async def test_the_coroutine_of_an_item_is_named_after_the_function(
    index: int,
) -> None:
    fn, name = CALLABLES[index]
    names.clear()
    (await bounded_gather(fn, ["item"], task_per_item=True)).values()
    (await bounded_gather(fn, ["known"], registry=TaskRegistry())).values()
    assert names == [("item", name), ("known", name)]


async def test_a_partial_of_itself_has_a_name() -> None:
    batch = bounded_gather(of_itself(), [1])
    batch.cancel()


async def test_the_reader_of_a_source_is_named_as_such() -> None:
    async def source() -> AsyncIterator[int]:
        note()
        yield 1

    names.clear()
    await bounded_gather(parse_page, source())
    assert names[0] == ("bounded_gather parse_page source", "read_source")


@pytest.mark.standard_loop_only
@pytest.mark.parametrize("own", [False, True])
async def test_asyncio_names_the_function_of_a_slow_step(
    own: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(page: Any) -> None:
        time.sleep(0.15)

    loop = asyncio.get_running_loop()
    before = loop.get_debug()
    loop.set_debug(True)
    try:
        with caplog.at_level(logging.WARNING, "asyncio"):
            await bounded_gather(slow, [1], task_per_item=own)
    finally:
        loop.set_debug(before)
    text = " ".join(record.getMessage() for record in caplog.records)
    assert "coro=<slow() " in text
    assert ("name='bounded_gather slow'" in text) is not own
