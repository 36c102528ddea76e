"""A batch belongs to the loop in which it has begun; a waiter absorbs CancelledError
and nothing else."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from pyasynclife import Batch, BatchStatus, TaskState, bounded_gather
from support.coroutines import Boom, echo_later, sleep_for
from support.items import Cleaning
from support.loops import settle, until
from support.marks import HAS_UVLOOP

BOTH_WAYS = True


def loop_factories() -> Iterator[Callable[[], asyncio.AbstractEventLoop]]:
    yield asyncio.SelectorEventLoop
    if HAS_UVLOOP:
        import uvloop

        yield uvloop.new_event_loop


@pytest.fixture(params=loop_factories(), ids=lambda factory: factory.__module__)
def loops(request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """Two loops; what their exception handlers receive is not looked at."""
    made = [request.param(), request.param()]
    for loop in made:
        loop.set_exception_handler(lambda *_: None)
    yield made
    for loop in made:
        if not loop.is_closed():
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.close()


async def enter(batch: Batch[Any]) -> None:
    async with batch:
        pass


async def collect(batch: Batch[Any]) -> None:
    await batch


async def iterate(batch: Batch[Any]) -> None:
    async for _ in batch:
        pass


def call(name: str, *args: Any) -> Callable[[Batch[Any]], Awaitable[None]]:
    async def use(batch: Batch[Any]) -> None:
        getattr(batch, name)(*args)

    use.__name__ = name
    return use


async def limit(batch: Batch[Any]) -> None:
    batch.max_concurrent = 50


async def leave(batch: Batch[Any]) -> None:
    await batch.__aexit__(None, None, None)


async def leave_by_an_error(batch: Batch[Any]) -> None:
    error = asyncio.CancelledError()
    await batch.__aexit__(type(error), error, None)


USES = [
    enter,
    collect,
    iterate,
    leave,
    leave_by_an_error,
    limit,
    call("add", 1),
    call("close"),
    call("pause"),
    call("resume"),
]


@pytest.mark.parametrize("begin", ["enter", "iterate", "collect"])
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
@pytest.mark.parametrize("closed", [False, True])
def test_another_loop_is_refused_before_anything_has_changed(
    begin: str, use: Any, closed: bool, loops: list[Any]
) -> None:
    async def first() -> None:
        if begin == "enter":
            await batch.__aenter__()
        elif begin == "iterate":
            async for _ in batch:
                break
        else:
            task = asyncio.create_task(batch.collect())
            await settle(3)
            pending.append(task)
        await settle(3)

    async def second() -> None:
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError) as caught:
                await use(batch)
        text = str(caught.value)
        if use is collect and begin == "collect":
            assert "another caller is awaiting" in text
            return
        assert repr(mine) in text
        assert repr(other) in text
        assert "use it in its own loop, or make a new one" in text

    mine, other = loops
    pending: list[asyncio.Task[Any]] = []
    batch = bounded_gather(sleep_for, [0.0, 10, 10, 10], max_concurrent=2)
    mine.run_until_complete(first())
    before = (batch.progress.started, batch._core.mode, batch._core.stopping)
    if closed and not pending:
        for task in asyncio.all_tasks(mine):
            task.cancel()
        mine.run_until_complete(settle(3))
        before = (batch.progress.started, batch._core.mode, batch._core.stopping)
        mine.close()
    other.run_until_complete(second())
    assert (batch.progress.started, batch._core.mode, batch._core.stopping) == before
    assert not batch.paused
    assert batch.max_concurrent == 2
    if closed and not pending:
        del batch
        gc.collect()
        return

    async def end() -> None:
        batch.cancel()
        if pending:
            (await pending[0]).failures()
        else:
            await batch.__aexit__(None, None, None)

    mine.run_until_complete(end())
    assert batch.status is BatchStatus.CANCELLED


def test_a_batch_that_has_ended_may_be_used_in_any_loop() -> None:
    batch = bounded_gather(echo_later, [1, 2])

    async def main() -> Any:
        async with batch:
            return (await batch).values()

    for _ in range(2):
        assert asyncio.run(main()) == [1, 2]


def test_a_batch_may_be_cancelled_from_another_loop(loops: list[Any]) -> None:
    async def first() -> None:
        tasks.append(asyncio.create_task(batch.collect()))
        await settle(5)

    async def second() -> None:
        batch.cancel("elsewhere")

    tasks: list[asyncio.Task[Any]] = []
    batch = bounded_gather(sleep_for, [10])
    mine, other = loops
    mine.run_until_complete(first())
    other.run_until_complete(second())
    (result,) = mine.run_until_complete(tasks[0]).failures()
    assert result.error.args == ("elsewhere",)


def test_a_batch_may_be_changed_while_its_loop_does_not_run(loops: list[Any]) -> None:
    async def first() -> None:
        async for result in batch:
            seen.append(result.item)
            break

    async def again() -> None:
        async with batch:
            async for result in batch:
                seen.append(result.item)

    seen: list[int] = []
    batch = bounded_gather(echo_later, [1, 2])
    loops[0].run_until_complete(first())
    batch.add(3)
    batch.close()
    loops[0].run_until_complete(again())
    assert seen == [1, 2, 3]


def test_an_iterator_kept_for_another_loop_raises_at_once(loops: list[Any]) -> None:
    async def first() -> Any:
        stream = aiter(batch)
        assert (await anext(stream)).item == 0.0
        return stream

    async def second(stream: Any) -> None:
        async with asyncio.timeout(5):
            with pytest.raises(RuntimeError, match="attached to a different loop"):
                await anext(stream)

    batch = bounded_gather(sleep_for, [0.0, 0.1])
    mine, other = loops
    stream = mine.run_until_complete(first())
    other.run_until_complete(second(stream))

    async def rest() -> list[Any]:
        return [result.item async for result in batch]

    assert mine.run_until_complete(rest()) == [0.1]


# ------------------------------------------- other exceptions that are thrown in


@pytest.mark.parametrize("error", [Boom, RuntimeError, MemoryError, GeneratorExit])
@pytest.mark.parametrize("after_cancel", [False, True])
async def test_any_other_exception_propagates_at_once_and_stops_the_batch(
    error: type[BaseException], after_cancel: bool
) -> None:
    fn = Cleaning()
    batch = bounded_gather(fn, [1, 2])
    coro = batch.collect()
    coro.send(None)._asyncio_future_blocking = False
    await until(lambda: len(fn.began) == 2)
    if after_cancel:
        coro.throw(asyncio.CancelledError())._asyncio_future_blocking = False
        await settle(2)
    thrown = error()
    with pytest.raises(error) as caught:
        coro.throw(thrown)
    assert caught.value is thrown
    result = await batch
    assert result.status is BatchStatus.CANCELLED
    assert [r.state for r in result.failures()] == [TaskState.CANCELLED] * 2
    assert fn.cancels == {1: 1, 2: 1}
    assert sorted(fn.cleaned) == [1, 2]


async def test_an_exception_thrown_into_an_exit_propagates_at_once() -> None:
    fn = Cleaning()
    batch = bounded_gather(fn, [1])
    await batch.__aenter__()
    coro = batch.__aexit__(None, None, None)
    coro.send(None)._asyncio_future_blocking = False
    await until(lambda: fn.began)
    with pytest.raises(Boom):
        coro.throw(Boom())
    await batch.__aexit__(None, None, None)
    assert fn.cancels == {1: 1}
    assert fn.cleaned == [1]


async def test_an_exception_thrown_into_an_iteration_stops_nothing() -> None:
    batch = bounded_gather(echo_later, [1, 2])
    stream = aiter(batch)
    step: Any = anext(stream).__await__()
    step.send(None)._asyncio_future_blocking = False
    with pytest.raises(Boom):
        step.throw(Boom())
    assert [result.data async for result in batch] == [1, 2]
