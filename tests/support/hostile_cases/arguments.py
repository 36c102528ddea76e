"""Ids, seconds and limits that are no such thing."""

import asyncio
import math
from typing import Any

from pyasynclife import (
    BatchStatus,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import echo_later, forever
from support.hostile import case
from support.hostile_cases.common import (
    REFUSED,
    refuses,
    works,
)
from support.loops import settle

# ----------------------------------------------------------------------- ids


class Id(str):
    """An id whose comparison and hash use the registry and raise."""

    registry: TaskRegistry

    def __eq__(self, other: object) -> bool:
        Id.registry.register(echo_later())
        raise LookupError("eq")

    def __hash__(self) -> int:
        Id.registry.cancel_all()
        raise LookupError("hash")

    def __str__(self) -> str:
        raise LookupError("str")


@case("an id that is a hostile kind of str")
async def hostile_id() -> None:
    Id.registry = registry = TaskRegistry()
    task, task_id = await registry.register(forever(), Id("odd"))
    assert type(task_id) is str
    assert await registry.heartbeat(Id("odd"))
    assert Id("odd") in registry
    assert registry[Id("odd")].task_id == "odd"
    assert await registry.cancel(Id("odd"))
    await settle(5)
    assert task.cancelled()
    await works()


@case("ids of surrogates, of nothing, and without end")
async def odd_ids() -> None:
    registry = TaskRegistry()
    for task_id in ("\udcff", "\0", "x" * 10_000_000, " "):
        task, given = await registry.register(forever(), task_id)
        assert given == task_id
        assert registry.dump()
        repr(registry[task_id])
        assert await registry.cancel(task_id)
        await settle(5)
        assert task.cancelled()
    await works()


BAD_IDS: dict[str, Any] = {
    "bytes": b"x",
    "a number": 5,
    "a list": [],
    "a float": math.nan,
    "a type": str,
    "the registry": TaskRegistry,
}


def _id_case(kind: str) -> None:
    @case(f"an id that is {kind}, at every method")
    async def run() -> None:
        registry = TaskRegistry()
        bad = BAD_IDS[kind]
        coro = forever()
        refuses(registry.register, coro, bad)
        coro.close()
        task = asyncio.ensure_future(forever())
        refuses(registry.track, task, bad)
        refuses(registry.heartbeat, bad)
        refuses(registry.complete, bad)
        refuses(registry.cancel, bad)
        refuses(registry.where, bad)
        assert bad not in registry
        try:
            registry[bad]
        except (*REFUSED, LookupError):
            pass
        assert len(registry) == 0
        task.cancel()
        await settle(5)
        await works()


for _kind in BAD_IDS:
    _id_case(_kind)


# ------------------------------------------------------------------- numbers


class BadFloat:
    def __float__(self) -> float:
        raise LookupError("float")


BAD_SECONDS: dict[str, Any] = {
    "negative": -1.0,
    "nan": math.nan,
    "a string": "5",
    "a list": [],
    "a failing __float__": BadFloat(),
    "complex": 1j,
}


def _seconds_case(kind: str) -> None:
    @case(f"seconds that are {kind}, wherever seconds are taken")
    async def run() -> None:
        bad = BAD_SECONDS[kind]
        either = (*REFUSED, LookupError)

        def refused(function: Any, *args: Any, **options: Any) -> None:
            try:
                answer = function(*args, **options)
            except either:
                return
            if hasattr(answer, "close"):
                answer.close()
            raise AssertionError(f"{function} took {bad!r}")

        for option in ("timeout", "budget", "cancel_grace"):
            refused(bounded_gather, echo_later, [1], **{option: bad})
        refused(TaskRegistry, bad)
        refused(TaskRegistry, stale_threshold=bad)
        registry = TaskRegistry()
        coro = forever()
        refused(registry.register, coro, stale_after=bad)
        coro.close()
        for method in (registry.shutdown, registry.wait):
            awaitable: Any = None
            try:
                awaitable = method(bad)
                await awaitable
            except either:
                pass
            if hasattr(awaitable, "close"):
                awaitable.close()
        await works()


for _kind in BAD_SECONDS:
    _seconds_case(_kind)


@case("seconds without end, and none")
async def odd_seconds() -> None:
    for seconds in (math.inf, 1e308, 10**9):
        results = await bounded_gather(
            echo_later, range(3), timeout=seconds, budget=seconds
        )
        assert results.values() == [0, 1, 2]
        registry = TaskRegistry()
        registry.register(echo_later(), stale_after=seconds)
        assert await registry.wait(seconds)
    results = await bounded_gather(forever, range(3), timeout=0)
    assert all(result.timed_out for result in results)
    results = await bounded_gather(forever, range(3), budget=0)
    assert results.status is BatchStatus.TIMED_OUT
    assert results.failures()
    registry = TaskRegistry()
    registry.register(forever())
    assert not await registry.wait(0)
    await registry.shutdown(0)
    await works()


@case("limits that are no limits")
async def bad_limits() -> None:
    for option in ("max_concurrent", "max_errors", "buffer"):
        for bad in (-1, "5", 2.5, [], math.nan, -(2**70)):
            refuses(bounded_gather, echo_later, [1], **{option: bad})
    refuses(bounded_gather, echo_later, [1], max_concurrent=0)
    await works()
