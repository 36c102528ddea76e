"""Hostile coroutines and task factories, run by the registry, a batch and a group."""

import asyncio
import contextlib
import gc
import sys
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pyasynclife import (
    TaskGroup,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import echo_later, raises
from support.hostile import case
from support.hostile_cases.common import (
    REFUSED,
    numbers,
    raise_hostile,
    works,
)
from support.loops import settle, task_factory

# ------------------------------------------------ three ways to run a coroutine

Run = Callable[[Any], Awaitable[BaseException | None]]


async def by_register(coro: Any) -> BaseException | None:
    task, _ = await TaskRegistry().register(coro)
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def by_gather(coro: Any) -> BaseException | None:
    return (await bounded_gather(lambda _: coro, [0]))[0].error


async def by_group(coro: Any) -> BaseException | None:
    try:
        async with TaskGroup() as group:
            task = group.create_task(coro)
    except ExceptionGroup as many:
        return many.exceptions[0]
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def by_asyncio(coro: Any) -> BaseException | None:
    task = asyncio.Task(coro)
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()


RUNS: dict[str, Run] = {
    "register": by_register,
    "gather": by_gather,
    "group": by_group,
}


# ---------------------------------------------------------------- coroutines


class Made(Coroutine[Any, Any, Any]):
    """A coroutine whose methods can be replaced."""

    def __init__(self, **methods: Any) -> None:
        self.methods = methods

    def _do(self, name: str, *args: Any) -> Any:
        return self.methods[name](*args) if name in self.methods else None

    def send(self, value: Any) -> Any:
        self._do("send", value)
        raise StopIteration(1)

    def throw(self, *thrown: Any) -> Any:
        self._do("throw", *thrown)
        raise StopIteration(2)

    def close(self) -> None:
        self._do("close")

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    __await__ = __iter__


class FutureLike:
    """An object that a Task takes for a future, with one fault."""

    _asyncio_future_blocking = True

    def __init__(self, wrong: str) -> None:
        self.wrong = wrong

    def get_loop(self) -> Any:
        return asyncio.get_running_loop()

    def add_done_callback(self, callback: Any, *, context: Any = None) -> None:
        asyncio.get_running_loop().call_soon(callback, self, context=context)

    def result(self) -> Any:
        if self.wrong == "result":
            raise LookupError(self.wrong)
        return 5

    def cancel(self, msg: Any = None) -> bool:
        raise LookupError("cancel")

    def __iter__(self) -> Any:
        return (yield self)

    __await__ = __iter__


@types.coroutine
def give(*values: Any) -> Any:
    yield from values


async def gives(*values: Any) -> None:
    await give(*values)


def of_another_loop() -> Any:
    loop = asyncio.SelectorEventLoop()
    future = loop.create_future()
    loop.close()

    async def awaits() -> None:
        await future

    return awaits()


def done_future() -> Any:
    future = asyncio.get_running_loop().create_future()
    future.set_result(1)
    return future


def itself() -> Any:
    async def awaits() -> None:
        await coro

    coro = awaits()
    return coro


async def likes(wrong: str) -> Any:
    return await FutureLike(wrong)


class Mute(Exception):
    def __str__(self) -> str:
        raise LookupError("str")

    __repr__ = __str__


class Rude(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise LookupError(name)


class OddCancel(asyncio.CancelledError):
    pass


async def deep(levels: int) -> None:
    if levels:
        await deep(levels - 1)
    await asyncio.sleep(0)


async def recursive() -> None:
    await recursive()


async def stubborn() -> None:
    for _ in range(3):
        try:
            await asyncio.sleep(0)
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            pass


async def own_cancel() -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(0)


def used() -> Any:
    coro = echo_later()
    coro.close()
    return coro


COROUTINES: dict[str, Callable[[], Any]] = {
    "that yields no future": lambda: gives(42),
    "that yields many things": lambda: gives(None, None, "x", []),
    "that yields a done future": lambda: gives(done_future()),
    "that yields itself": itself,
    "of another loop's future": of_another_loop,
    "that was closed": used,
    "that raises StopIteration": lambda: raises(StopIteration(1)),
    "that raises StopAsyncIteration": lambda: raises(StopAsyncIteration()),
    "that raises CancelledError": lambda: raises(asyncio.CancelledError("mine")),
    "that raises a kind of CancelledError": lambda: raises(OddCancel()),
    "whose error has no str": lambda: raises(Mute()),
    "that raises a group": lambda: raises(ExceptionGroup("x", [ValueError()])),
    "that raises InvalidStateError": lambda: raises(asyncio.InvalidStateError()),
    "that recurses for ever": recursive,
    "that is deep": lambda: deep(200),
    "that swallows its own cancels": stubborn,
    "that cancels itself": own_cancel,
    "by its methods": Made,
    "whose send raises": lambda: Made(send=raise_hostile),
    "whose close raises": lambda: Made(close=raise_hostile),
    "with a future called back soon": lambda: likes(""),
    "with a future whose result raises": lambda: likes("result"),
}


def _coroutine_case(run_by: str, kind: str) -> None:
    @case(f"{run_by} of a coroutine {kind}")
    async def run() -> None:
        expected = await by_asyncio(COROUTINES[kind]())
        try:
            error = await RUNS[run_by](COROUTINES[kind]())
        except REFUSED:
            assert kind == "that was closed"
        else:
            same = type(error) if expected is None else type(expected)
            assert isinstance(error, same), (expected, error)
        await works()


for _run_by in RUNS:
    for _kind in COROUTINES:
        _coroutine_case(_run_by, _kind)


def _not_a_coroutine_case(run_by: str, kind: str, make: Callable[[], Any]) -> None:
    @case(f"{run_by} of {kind}")
    async def run() -> None:
        try:
            error = await RUNS[run_by](make())
        except REFUSED:
            pass
        else:
            assert isinstance(error, REFUSED) or run_by == "gather", error
        await works()


for _run_by in RUNS:
    for _kind, _make in {
        "a number": lambda: 42,
        "None": lambda: None,
        "a coroutine function": lambda: echo_later,
        "an async generator": lambda: numbers(),
        "a future": lambda: asyncio.get_running_loop().create_future(),
        "a class": lambda: Made,
        "a proxy": lambda: weakref.proxy(FutureLike("")),
    }.items():
        if (_run_by, _kind) != ("gather", "a future"):
            _not_a_coroutine_case(_run_by, _kind, _make)


# ------------------------------------------------------------- task factories


def finished(loop: Any, coro: Any, **options: Any) -> Any:
    coro.close()
    future = loop.create_future()
    future.set_result(1)
    return future


class OddTask(asyncio.Task):  # type: ignore[type-arg]
    def add_done_callback(self, *args: Any, **options: Any) -> None:
        raise LookupError("add_done_callback")


def gives_none(loop: Any, coro: Any, **options: Any) -> Any:
    coro.close()


def gives_the_caller(loop: Any, coro: Any, **options: Any) -> Any:
    coro.close()
    return asyncio.current_task()


def gives_a_number(loop: Any, coro: Any, **options: Any) -> Any:
    coro.close()
    return 42


def raises_at_once(loop: Any, coro: Any, **options: Any) -> Any:
    coro.close()
    raise LookupError("factory")


def raises_an_exit(loop: Any, coro: Any, **options: Any) -> Any:
    coro.close()
    raise GeneratorExit


def makes_python_tasks(loop: Any, coro: Any, **options: Any) -> Any:
    options.pop("eager_start", None)
    return asyncio.tasks._PyTask(coro, loop=loop, **options)  # type: ignore[attr-defined]


def makes_eager_tasks(loop: Any, coro: Any, **options: Any) -> Any:
    options.pop("eager_start", None)
    if sys.version_info >= (3, 12):
        options["eager_start"] = True
    return asyncio.Task(coro, loop=loop, **options)


def collects(loop: Any, coro: Any, **options: Any) -> Any:
    options.pop("eager_start", None)
    gc.collect()
    task: Any = asyncio.Task(coro, loop=loop, **options)
    task.cancel()
    return task


FACTORIES: dict[str, tuple[Any, bool]] = {
    "a finished future": (finished, True),
    "nothing": (gives_none, True),
    "the caller's own task": (gives_the_caller, True),
    "a number": (gives_a_number, True),
    "an error": (raises_at_once, True),
    "an exit": (raises_an_exit, True),
    "tasks of Python": (makes_python_tasks, False),
    "eager tasks": (makes_eager_tasks, False),
    "cancelled tasks": (collects, True),
}


def _factory_case(run_by: str, kind: str) -> None:
    make, may_fail = FACTORIES[kind]
    endless = kind == "the caller's own task"

    @case(f"{run_by} where the task factory gives {kind}")
    async def run() -> None:
        caller = asyncio.current_task()
        assert caller is not None
        with task_factory(make):
            coro = echo_later(1)
            try:
                async with asyncio.timeout(0.2 if endless else 20) as limit:
                    error = await RUNS[run_by](coro)
            except (Exception, GeneratorExit, asyncio.CancelledError) as failed:
                error = failed
        assert may_fail or error is None, error
        assert endless or not limit.expired()
        with contextlib.suppress(RuntimeError):
            coro.close()  # a batch that could not begin has not called for it
        while caller.cancelling():
            caller.uncancel()
        await settle(5)
        for task in asyncio.all_tasks() - {caller}:
            task.cancel()
        await settle(5)
        await works()


for _run_by in RUNS:
    for _kind in FACTORIES:
        if _run_by != "register" and _kind == "the caller's own task":
            continue  # the caller waits for itself, as with asyncio
        _factory_case(_run_by, _kind)
