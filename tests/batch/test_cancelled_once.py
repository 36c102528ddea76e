"""An item is cancelled once, whatever comes together; only Batch.cancel() cancels it
again. The caller receives its first CancelledError, when the items have ended."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from pyasynclife import (
    BatchError,
    TaskGroup,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
    process_batch_with_deadline,
    wait_for_first_completion,
)
from support.coroutines import Boom, Fatal, forever
from support.items import Cleaning, Counted
from support.loops import (
    eager,
    in_turns,
    in_virtual_time,
    settle,
    task_factory,
    until,
)
from support.marks import needs_eager

BOTH_WAYS = True


async def awaits(batch: Any) -> None:
    await batch


async def streams(batch: Any) -> None:
    async with batch:
        async for _ in batch:
            pass


async def enters(batch: Any) -> None:
    async with batch:
        pass


async def waits_in_a_block(batch: Any) -> None:
    async with batch:
        await forever()


async def awaits_in_a_block(batch: Any) -> None:
    async with batch:
        await batch


USES: dict[str, Callable[[Any], Coroutine[Any, Any, None]]] = {
    "await": awaits,
    "stream": streams,
    "block": enters,
    "waiting block": waits_in_a_block,
    "await in a block": awaits_in_a_block,
}


# --------------------------------------------- more than one reason to stop


@pytest.mark.parametrize("items", [["fails"], ["fails late"], ["fails", "fails late"]])
@pytest.mark.parametrize("is_async", [False, True])
async def test_a_failure_after_the_limit_cancels_nothing_again(
    items: list[str], is_async: bool
) -> None:
    fn = Cleaning()
    names = [1, 2, "fails", *items]
    source = fn.source(*names) if is_async else names
    with pytest.raises(BatchError):
        await bounded_gather(fn, source, max_errors=0)
    left = {1, 2} | ({"source"} if is_async else set())
    assert left <= set(fn.cleaned)
    assert all(fn.cancels[name] == 1 for name in left)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("use", ["await", "stream", "block"])
@pytest.mark.usefixtures("loop_errors")
async def test_a_cancelled_caller_cancels_nothing_again_that_a_failure_has(
    use: str, is_async: bool
) -> None:
    fn = Cleaning()
    names = ["fails", 1, 2]
    source = fn.source(*names) if is_async else names
    batch = bounded_gather(fn, source, max_errors=0)
    task = asyncio.create_task(USES[use](batch))
    await until(lambda: fn.cancels[1] and fn.cancels[2])
    task.cancel("outer")
    with pytest.raises(asyncio.CancelledError, match="outer"):
        await task
    assert {1, 2} <= set(fn.cleaned)
    assert set(fn.cancels.values()) == {1}


@pytest.mark.usefixtures("loop_errors")
async def test_a_dropped_batch_cancels_nothing_again() -> None:
    async def main(batch: Any) -> None:
        async for _ in batch:
            pass

    fn = Cleaning()
    task = asyncio.create_task(main(bounded_gather(fn, ["fails", 1, 2], max_errors=0)))
    await until(lambda: fn.cancels[1] and fn.cancels[2])
    task.cancel()
    await asyncio.wait([task])
    del task
    gc.collect()
    await until(lambda: len(fn.cleaned) == 2)
    assert fn.cancels == {1: 1, 2: 1}
    await settle(5)


@pytest.mark.usefixtures("loop_errors")
async def test_leaving_cancels_nothing_again() -> None:
    fn = Cleaning()
    with pytest.raises(Boom):
        async with bounded_gather(fn, ["fails", 1, 2], max_errors=0):
            await until(lambda: fn.cancels[1] and fn.cancels[2])
            raise Boom
    assert sorted(fn.cleaned) == [1, 2]
    assert fn.cancels == {1: 1, 2: 1}


@pytest.mark.usefixtures("loop_errors")
async def test_an_error_that_ends_the_batch_cancels_nothing_again() -> None:
    async def fn(item: Any) -> Any:
        if item != "fatal":
            return await cleaning(item)
        try:
            await forever()
        finally:
            await settle(3)
            raise Fatal

    cleaning = Cleaning()
    with pytest.raises(Fatal):
        await bounded_gather(fn, ["fails", "fatal", 1, 2], max_errors=0)
    assert sorted(cleaning.cleaned) == [1, 2]
    assert cleaning.cancels == {1: 1, 2: 1}


# ------------------------------------------------------ timeouts and budgets


class Slow:
    """Items that take their own time in seconds, and again to end once cancelled."""

    def __init__(self) -> None:
        self.cancels: Counter[Any] = Counter()
        self.cleaned: list[Any] = []

    async def __call__(self, seconds: float) -> None:
        await Counted(self._work(seconds), self.cancels, seconds)

    async def _work(self, seconds: float) -> None:
        try:
            await asyncio.sleep(10 if seconds else 1)
            if not seconds:
                raise ValueError
        finally:
            if seconds:
                await asyncio.sleep(seconds)
                self.cleaned.append(seconds)

    def check(self, *items: float) -> None:
        assert sorted(self.cleaned) == list(items)
        assert self.cancels == dict.fromkeys(items, 1)


async def by_a_deadline(fn: Slow, **options: Any) -> None:
    await process_batch_with_deadline(fn, [1, 2, 3], 1, **options)


async def by_a_budget_after_a_failure(fn: Slow, **options: Any) -> None:
    await bounded_gather(fn, [0, 2, 3], max_errors=0, budget=2, **options)


async def by_a_timeout_of_the_caller_after_a_failure(fn: Slow, **options: Any) -> None:
    batch = bounded_gather(fn, [0, 2, 3], max_errors=0, **options)
    await asyncio.wait_for(batch.collect(), 2)


async def by_a_timeout_of_each_item(fn: Slow, **options: Any) -> None:
    await bounded_gather(fn, [1, 2, 3], max_errors=0, timeout=1, **options)


async def by_a_failure_and_a_timeout(fn: Slow, **options: Any) -> None:
    await bounded_gather(fn, [0, 2, 3], max_errors=0, timeout=2, **options)


async def by_a_timeout_and_the_budget(fn: Slow, **options: Any) -> None:
    result = await bounded_gather(fn, [1, 2, 3], timeout=1, budget=1.5, **options)
    assert len(result.failures()) == 3


async def by_the_budget_and_a_timeout(fn: Slow, **options: Any) -> None:
    result = await bounded_gather(fn, [1, 2, 3], timeout=1.5, budget=1, **options)
    assert len(result.failures()) == 3


async def by_a_timeout_and_the_caller(fn: Slow, **options: Any) -> None:
    async with asyncio.timeout(1.5):
        await bounded_gather(fn, [1, 2, 3], timeout=1, **options)


async def by_a_timeout_and_leaving(fn: Slow, **options: Any) -> None:
    async with bounded_gather(fn, [1, 2, 3], timeout=1, **options):
        await asyncio.sleep(1.5)
        raise ValueError


@pytest.mark.parametrize(
    "how",
    [
        by_a_deadline,
        by_a_budget_after_a_failure,
        by_a_timeout_of_the_caller_after_a_failure,
        by_a_timeout_of_each_item,
        by_a_failure_and_a_timeout,
        by_a_timeout_and_the_budget,
        by_the_budget_and_a_timeout,
        by_a_timeout_and_the_caller,
        by_a_timeout_and_leaving,
    ],
)
@pytest.mark.parametrize("grace", [None, 60])
@pytest.mark.usefixtures("loop_errors")
def test_an_item_is_cancelled_once_in_time(how: Any, grace: Any, way: str) -> None:
    fn = Slow()

    async def main() -> None:
        try:
            await how(fn, task_per_item=way == "tasks", cancel_grace=grace)
        except (BatchError, TimeoutError, ValueError):
            pass

    in_virtual_time(main())
    failing = "failure" in how.__name__
    fn.check(*((2, 3) if failing else (1, 2, 3)))


def test_a_timeout_after_the_budget_keeps_the_first_reason(way: str) -> None:
    async def main() -> None:
        per_item = way == "tasks"
        result = await bounded_gather(
            Slow(), [1], timeout=1.5, budget=1, task_per_item=per_item
        )
        assert "budget of 1" in str(result[0].error)
        result = await bounded_gather(
            Slow(), [1], timeout=1, budget=1.5, task_per_item=per_item
        )
        assert "timed out after 1" in str(result[0].error)

    in_virtual_time(main())


def test_a_timeout_after_the_stop_gives_no_second_grace(way: str) -> None:
    """The grace counts from the first cancellation."""
    ended = []

    async def stubborn(_: int) -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                ended.append(asyncio.get_running_loop().time() - began)

    async def main() -> None:
        nonlocal began
        began = asyncio.get_running_loop().time()
        batch = bounded_gather(
            stubborn,
            [1],
            timeout=2,
            budget=1,
            cancel_grace=3,
            task_per_item=way == "tasks",
        )
        result = await batch
        assert result[0].state is TaskState.RUNNING
        assert asyncio.get_running_loop().time() - began == pytest.approx(4)
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

    began = 0.0
    in_virtual_time(main())
    assert ended == [pytest.approx(1)]


def test_a_race_cancels_its_losers_once() -> None:
    fn = Slow()

    async def main() -> None:
        race = wait_for_first_completion([fn(2), asyncio.sleep(0.8)], 1)
        assert (await race)[0] == 1

    in_virtual_time(main())
    fn.check(2)


# ------------------------------------------------------- a cancelled caller


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("times", [2, 5, 15])
async def test_a_caller_cancelled_again_waits_for_its_items(
    use: str, times: int
) -> None:
    fn = Cleaning(iterations=2 * times + 5)
    batch = bounded_gather(fn, fn.source(1, 2))

    async def main() -> Any:
        try:
            await USES[use](batch)
        except asyncio.CancelledError as error:
            return error, asyncio.current_task().cancelling()

    task = asyncio.create_task(main())
    await until(lambda: len(fn.began) == 2)
    for number in range(times):
        task.cancel(f"{number}")
        await settle(2)
    error, count = await task
    assert error.args == ("0",)
    assert count == times
    assert set(fn.cleaned) == {1, 2, "source"}
    assert fn.cancels == {1: 1, 2: 1, "source": 1}


@pytest.mark.parametrize("times", [2, 5])
async def test_a_race_whose_caller_is_cancelled_again_cancels_once(times: int) -> None:
    fn = Cleaning()
    race = wait_for_first_completion([fn(1), fn(2)])
    task = asyncio.create_task(race)
    await until(lambda: len(fn.began) == 2)
    for number in range(times):
        task.cancel(f"{number}")
        await settle(2)
    with pytest.raises(asyncio.CancelledError, match="0"):
        await task
    assert sorted(fn.cleaned) == [1, 2]
    assert fn.cancels == {1: 1, 2: 1}


@pytest.mark.parametrize("use", USES)
async def test_at_any_iteration_the_first_cancellation_leaves(use: str) -> None:
    """The second comes at each iteration, up to the one in which the batch ends."""
    for later in range(1, 50):
        fn = Cleaning(iterations=3)
        task = asyncio.create_task(USES[use](bounded_gather(fn, [1, 2])))
        await settle(6)
        assert len(fn.began) == 2
        task.cancel("first")
        await settle(later)
        was_done = not task.cancel("second")
        with pytest.raises(asyncio.CancelledError, match="first"):
            await task
        assert fn.cancels == {1: 1, 2: 1}
        assert sorted(fn.cleaned) == [1, 2]
        if was_done:
            return
    pytest.fail("it never ended")


async def test_the_object_that_left_the_body_leaves_the_block() -> None:
    fn = Cleaning()
    seen: list[BaseException] = []

    async def main() -> None:
        try:
            async with bounded_gather(fn, [1]):
                try:
                    await forever()
                except asyncio.CancelledError as error:
                    seen.append(error)
                    raise
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    task = asyncio.create_task(main())
    await until(lambda: fn.began)
    task.cancel("first")
    await settle(3)
    task.cancel("second")
    await asyncio.wait([task])
    assert seen[0] is seen[1]
    assert seen[0].__context__ is None
    assert fn.cleaned == [1]


@pytest.mark.parametrize("error", [None, Boom])
async def test_a_cancellation_while_a_block_is_left_cancels_nothing_again(
    error: type[Exception] | None,
) -> None:
    fn = Cleaning()
    seen: list[BaseException] = []

    async def main() -> None:
        try:
            async with bounded_gather(fn, ["returns", 1, 2]) as batch:
                async for _ in batch:
                    if error is not None:
                        raise error
                    break
        except BaseException as caught:
            seen.append(caught)
            raise

    task = asyncio.create_task(main())
    await until(lambda: fn.cancels[1] and fn.cancels[2])
    for number in range(3):
        task.cancel(f"{number}")
        await settle(2)
    await asyncio.wait([task])
    (caught,) = seen
    assert isinstance(caught, asyncio.CancelledError)
    assert caught.args == ("0",)
    assert type(caught.__context__) is (error or type(None))
    assert fn.cancels == {1: 1, 2: 1}
    assert sorted(fn.cleaned) == [1, 2]


async def test_an_exit_of_an_item_goes_before_the_cancellation() -> None:
    async def fn(item: int) -> None:
        try:
            await forever()
        finally:
            await settle(3)
            raise SystemExit(item)

    async def main() -> BaseException | None:
        try:
            async with bounded_gather(fn, [1]):
                await forever()
        except SystemExit as error:
            return error

    task = asyncio.create_task(main())
    await settle(4)
    task.cancel()
    await settle(2)
    task.cancel()
    assert isinstance(await task, SystemExit)


# ------------------------------------------------------------- anyio's scope


@pytest.mark.parametrize("use", USES)
async def test_a_scope_of_anyio_cancels_an_item_once(use: str) -> None:
    fn = Cleaning(iterations=20)
    with anyio.CancelScope() as scope:
        in_turns(12, scope.cancel)
        await USES[use](bounded_gather(fn, fn.source(1, 2)))
    assert scope.cancelled_caught
    assert fn.cancels == {1: 1, 2: 1, "source": 1}
    assert set(fn.cleaned) == {1, 2, "source"}
    assert asyncio.current_task().cancelling() == 0


async def test_a_scope_of_anyio_cancels_a_race_once() -> None:
    fn = Cleaning(iterations=20)
    with anyio.CancelScope() as scope:
        in_turns(12, scope.cancel)
        await wait_for_first_completion([fn(1), fn(2)])
    assert scope.cancelled_caught
    assert fn.cancels == {1: 1, 2: 1}
    assert sorted(fn.cleaned) == [1, 2]


async def test_a_scope_of_anyio_inside_a_group_cancels_an_item_once() -> None:
    fn = Cleaning(iterations=20)
    async with anyio.create_task_group() as group:
        for use in USES.values():
            group.start_soon(use, bounded_gather(fn, [object()]))
        in_turns(12, group.cancel_scope.cancel)
    assert set(fn.cancels.values()) == {1}
    assert len(fn.cleaned) == len(USES)


# ------------------------------------------------------ what cancels again


async def test_cancel_cancels_again_what_a_failure_has_cancelled() -> None:
    fn = Cleaning()
    batch = bounded_gather(fn, fn.source("fails", 1, 2), max_errors=0)
    task = asyncio.create_task(batch.collect())
    await until(lambda: fn.cancels[1] and fn.cancels[2] and fn.cancels["source"])
    batch.cancel()
    with pytest.raises(BatchError):
        await task
    assert fn.cancels == {1: 2, 2: 2, "source": 2}
    assert fn.cleaned == []


async def test_cancel_in_the_cleanup_of_an_item_reaches_the_others_again() -> None:
    async def fn(item: Any) -> Any:
        if item != "cancels":
            return await cleaning(item)
        try:
            await forever()
        finally:
            await settle(2)
            batch.cancel("again")
            await settle(1)

    cleaning = Cleaning()
    batch = bounded_gather(fn, ["fails", "cancels", 1, 2], max_errors=0)
    with pytest.raises(BatchError) as caught:
        await batch
    assert [r.state for r in caught.value.result][1:] == [TaskState.CANCELLED] * 3
    assert cleaning.cancels == {1: 2, 2: 2}


async def test_cancel_in_on_result_cancels_what_a_failure_has_cancelled() -> None:
    def on_result(result: TaskResult[Any]) -> None:
        if result.item == "fails":
            batch.cancel()

    fn = Cleaning()
    batch = bounded_gather(fn, ["fails", 1, 2], max_errors=0, on_result=on_result)
    with pytest.raises(BatchError):
        await batch
    assert max(fn.cancels.values()) <= 2


async def test_a_registry_cancels_an_item_again() -> None:
    registry = TaskRegistry()
    fn = Cleaning()
    batch = bounded_gather(fn, ["fails", 1, 2], max_errors=0, registry=registry)
    task = asyncio.create_task(batch.collect())
    await until(lambda: fn.cancels[1] and fn.cancels[2])
    registry.cancel("1")
    with pytest.raises(BatchError):
        await task
    assert fn.cancels == {1: 2, 2: 1}
    assert fn.cleaned == [2]


@needs_eager
@pytest.mark.parametrize("use", USES)
async def test_eager_items_are_cancelled_once(use: str) -> None:
    with task_factory(eager):
        fn = Cleaning()
        task = asyncio.create_task(USES[use](bounded_gather(fn, fn.source(1, 2))))
        await until(lambda: len(fn.began) == 2)
        for number in range(4):
            task.cancel(f"{number}")
            await settle(2)
        with pytest.raises(asyncio.CancelledError, match="0"):
            await task
    assert fn.cancels == {1: 1, 2: 1, "source": 1}


async def test_a_group_and_a_batch_leave_in_the_same_way() -> None:
    async def batch(fn: Cleaning) -> None:
        async with bounded_gather(fn, [1]):
            await forever()

    async def group(fn: Cleaning) -> None:
        async with TaskGroup() as tasks:
            tasks.create_task(fn(1))
            await forever()

    for form in (batch, group):
        fn = Cleaning()
        task = asyncio.create_task(form(fn))
        await until(lambda fn=fn: fn.began)
        task.cancel("first")
        await settle(3)
        task.cancel("second")
        with pytest.raises(asyncio.CancelledError, match="first"):
            await task
        assert (fn.cancels, fn.cleaned) == ({1: 1}, [1])
