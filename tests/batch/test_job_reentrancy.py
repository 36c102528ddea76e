"""Jobs that are asked and cancelled while the batch is at work on their item.

From key, from limit_by, from a Retry, and from what is dropped in between.
"""

import asyncio
import gc
from typing import Any, TypeVar

import pytest

from pyasynclife import (
    Batch,
    Job,
    Retry,
    TaskRegistry,
    TaskResult,
    TaskState,
    bounded_gather,
)
from pyasynclife.testing import VirtualTimeLoop
from support.loops import in_virtual_time

T = TypeVar("T")

WAYS = [
    pytest.param({}, id="workers"),
    pytest.param({"task_per_item": True}, id="tasks"),
    pytest.param({"task_per_item": True, "registry": ...}, id="registry"),
]


def options(way: dict[str, Any]) -> dict[str, Any]:
    return way | {"registry": TaskRegistry()} if "registry" in way else way


def later(attempt: int, error: Exception) -> float:
    return 1.0


async def slow(item: T) -> T:
    await asyncio.sleep(1)
    return item


async def fail(item: Any) -> Any:
    raise ValueError(item)


@pytest.mark.parametrize("way", WAYS)
def test_key_may_cancel_its_own_job(way: dict[str, Any]) -> None:
    async def main() -> None:
        jobs: dict[str, Job[str]] = {}
        answers = []

        def key(item: str) -> str:
            if item == "b":
                with pytest.raises(RuntimeError, match="its own answer"):
                    print(jobs["b"].task_id)
                answers.append(jobs["b"].cancel())
            return f"key {item}"

        batch = bounded_gather(slow, [], max_concurrent=1, key=key, **options(way))
        async with batch:
            jobs.update((item, batch.add(item)) for item in "abc")
            assert await jobs["c"] == "c"
        assert answers == [True]
        states = [job.state for job in jobs.values()]
        assert states == [TaskState.DONE, TaskState.PENDING, TaskState.DONE]
        assert jobs["b"].cancelled()

    in_virtual_time(main())


@pytest.mark.parametrize("grace", [None, 2.0])
@pytest.mark.parametrize("way", WAYS)
def test_limit_by_and_hash_may_cancel_the_job_which_never_starts(
    way: dict[str, Any], grace: float | None
) -> None:
    async def main() -> None:
        jobs: dict[str, Job[str]] = {}
        begun = []

        class Key:
            def __hash__(self) -> int:
                assert jobs["c"].cancel()
                return 1

        def limit_by(item: str) -> Any:
            if item in "be":
                assert jobs[item].cancel()
            return Key() if item == "c" else None if item == "e" else "key"

        async def fn(item: str) -> str:
            begun.append(item)
            return await slow(item)

        batch = bounded_gather(
            fn, [], limit_by=limit_by, cancel_grace=grace, **options(way)
        )
        async with batch:
            for item in "abcdef":
                jobs[item] = batch.add(item)
            assert [await jobs[item] for item in "adf"] == ["a", "d", "f"]
        assert begun == ["a", "d", "f"]
        assert [jobs[item].state for item in "bce"] == [TaskState.PENDING] * 3
        assert batch.progress.started == 3

    in_virtual_time(main())


@pytest.mark.parametrize("way", WAYS[:2])  # a registry logs the error
def test_a_job_may_be_cancelled_as_its_last_error_is_dropped(
    way: dict[str, Any],
) -> None:
    async def main() -> None:
        jobs: list[Job[Any]] = []
        seen = []
        calls = 0

        class Mine(Exception):
            def __del__(self) -> None:
                seen.append((jobs[0].task_id, jobs[0].cancel()))

        async def fn(item: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise Mine
            await asyncio.sleep(5)

        batch = bounded_gather(fn, [], retry=Retry(3, backoff=later), **options(way))
        async with batch:
            jobs.append(batch.add(()))
            await asyncio.sleep(30)
            gc.collect()
        assert seen == [("0", True)]
        assert jobs[0].state is TaskState.CANCELLED

    in_virtual_time(main())


def test_a_job_has_ended_when_the_key_of_its_limit_is_dropped() -> None:
    async def main() -> None:
        jobs: list[Job[Any]] = []
        seen = []

        class Key:
            def __del__(self) -> None:
                seen.append((jobs[0].task_id, jobs[0].cancel()))

        batch: Batch[Any] = bounded_gather(slow, [], limit_by=lambda item: Key())
        async with batch:
            jobs.append(batch.add(("x",)))
            assert await jobs[0] == ("x",)
        assert seen == [("0", False)]

    in_virtual_time(main())


def test_cancelling_a_job_may_drop_its_batch() -> None:
    async def main() -> None:
        held: dict[str, Batch[Any]] = {}

        def on_result(result: TaskResult[Any]) -> None:
            held.clear()
            gc.collect()

        held["batch"] = batch = bounded_gather(
            fail, [], retry=Retry(3, backoff=later), on_result=on_result
        )
        await batch.__aenter__()
        job = batch.add(1)
        del batch
        await asyncio.sleep(0.5)
        held["batch"].pause()
        await asyncio.sleep(3)  # no timer and no worker is left
        assert not job.done()
        assert job.cancel()
        assert not held
        assert job.state is TaskState.CANCELLED

    in_virtual_time(main())


def test_a_clock_that_fails_while_a_waiting_job_is_cancelled_stops_the_batch() -> None:
    class Loop(VirtualTimeLoop):
        broken = False

        def time(self) -> float:
            if self.broken:
                self.broken = False
                raise OSError("no clock")
            return super().time()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        with pytest.raises(OSError, match="no clock"):
            async with bounded_gather(fail, [], retry=Retry(3, backoff=later)) as batch:
                jobs = [batch.add(item) for item in range(3)]
                await asyncio.sleep(0.5)
                loop.broken = True
                assert jobs[0].cancel()
        assert [job.state for job in jobs] == [TaskState.CANCELLED] * 3

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


def test_the_message_of_a_cancellation_reaches_a_job_that_waits_for_a_retry() -> None:
    async def main() -> None:
        async with bounded_gather(fail, [], retry=Retry(3, backoff=later)) as batch:
            job = batch.add(1)
            await asyncio.sleep(0.5)
            assert job.cancel("enough")
            with pytest.raises(asyncio.CancelledError, match="enough") as caught:
                await job
        assert isinstance(caught.value.__context__, ValueError)

    in_virtual_time(main())


@pytest.mark.parametrize("way", WAYS)
def test_a_cancelled_job_is_not_tried_again_whatever_it_raises(
    way: dict[str, Any],
) -> None:
    async def main() -> None:
        calls = []

        async def fn(item: int) -> None:
            calls.append(item)
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                if item == 1:
                    raise ValueError("was cancelled") from None
                await asyncio.sleep(5)

        retry = Retry(3, backoff=later, attempt_timeout=2)
        async with bounded_gather(fn, [], retry=retry, **options(way)) as batch:
            jobs = [batch.add(1), batch.add(2)]
            await asyncio.sleep(0.5)
            jobs[0].cancel()
            await asyncio.sleep(2)  # the second has timed out, and is cleaning up
            jobs[1].cancel()
            with pytest.raises(ValueError, match="cancelled"):
                await jobs[0]
            with pytest.raises(TimeoutError):
                await jobs[1]
        assert calls == [1, 2]

    in_virtual_time(main())


@pytest.mark.parametrize("limits", [{}, {"limit_by": str}, {"limit_by": bool}])
def test_an_ordered_iteration_passes_over_cancelled_jobs(
    limits: dict[str, Any],
) -> None:
    async def main() -> None:
        batch = bounded_gather(
            slow, [], ordered=True, max_concurrent=2, buffer=1, **limits
        )
        got = []
        async with asyncio.timeout(100), batch:
            jobs = [batch.add(item) for item in range(20)]
            for item in (0, 5, 6, 19):
                jobs[item].cancel()
            async for result in batch:
                got.append(result.item)
                jobs[12].cancel()
        assert got == [item for item in range(20) if item not in (0, 5, 6, 12, 19)]

    in_virtual_time(main())


@pytest.mark.parametrize("way", WAYS)
def test_an_item_with_a_timeout_may_cancel_its_own_job(way: dict[str, Any]) -> None:
    async def main() -> None:
        async def fn(item: int) -> None:
            if item == 0:
                jobs[0].cancel()
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                if item:
                    raise
                await asyncio.sleep(20)

        batch = bounded_gather(fn, [], timeout=5, cancel_grace=2, **options(way))
        async with batch:
            jobs = [batch.add(0), batch.add(1)]
            began = asyncio.get_running_loop().time()
            with pytest.raises(asyncio.CancelledError, match="did not stop"):
                await jobs[0]
            assert asyncio.get_running_loop().time() - began == pytest.approx(2)
            with pytest.raises(TimeoutError):
                await jobs[1]
            assert asyncio.get_running_loop().time() - began == pytest.approx(5)
        await asyncio.sleep(20)  # the first ends

    in_virtual_time(main())
