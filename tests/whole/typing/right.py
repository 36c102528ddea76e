"""Code that type checkers must accept; tests/whole/test_typing.py runs them."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, assert_type

from pyasynclife import (
    Batch,
    BatchError,
    BatchProgress,
    BatchResult,
    BatchStatus,
    Job,
    Ready,
    RegistryStats,
    ShutdownReport,
    SignalCoordinator,
    TaskGroup,
    TaskMetadata,
    TaskPool,
    TaskRegistry,
    TaskResult,
    add_task_observers,
    bounded_gather,
    cancel_all_tasks,
    cancellation_with_retry,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    monitor_tasks,
    process_batch_with_deadline,
    shielded_operation,
    task_with_individual_timeout,
    wait_for_first_completion,
)


async def fetch(symbol: str) -> int:
    return len(symbol)


async def price(symbol: str) -> TaskResult[float]:
    return TaskResult(symbol, True, 1.5)


async def parse(result: TaskResult[int]) -> bytes:
    return bytes(result.unwrap())


async def anything(item: Any) -> Any:
    return item


async def with_options(symbol: str, retries: int = 3, *, deep: bool = False) -> int:
    return retries


async def symbols() -> AsyncIterator[str]:
    yield "a"


class Client:
    async def get(self, url: str) -> bytes:
        return url.encode()


def note(result: TaskResult[int]) -> None:
    print(result.task_id)


async def functions() -> None:
    assert_type(bounded_gather(fetch, ["a"]), Batch[int])
    assert_type(bounded_gather(fetch, ("a", "b")), Batch[int])
    assert_type(bounded_gather(fetch, {"a": 1}), Batch[int])
    assert_type(bounded_gather(fetch, symbols()), Batch[int])
    assert_type(bounded_gather(price, ["a"]), Batch[float])
    assert_type((await bounded_gather(price, ["a"])).values(), list[float])
    assert_type(bounded_gather(lambda s: fetch(s), ["a"]), Batch[int])
    assert_type(bounded_gather(lambda s: price(s), ["a"]), Batch[float])
    assert_type(bounded_gather(lambda s: asyncio.sleep(1, s), ["a"]), Batch[str])
    assert_type(bounded_gather(lambda s: asyncio.to_thread(len, s), ["a"]), Batch[int])
    assert_type(bounded_gather(asyncio.sleep, [1.0]), Batch[None])
    assert_type(bounded_gather(anything, range(3)), Batch[Any])
    assert_type(bounded_gather(with_options, ["a"]), Batch[int])
    assert_type(bounded_gather(Client().get, ["a"]), Batch[bytes])
    assert_type(bounded_gather(partial(with_options, deep=True), ["a"]), Batch[int])
    assert_type(bounded_gather(parse, bounded_gather(fetch, ["a"])), Batch[bytes])


async def options(registry: TaskRegistry) -> None:
    ended: list[TaskResult[int]] = []
    batch = bounded_gather(
        fetch,
        ["a"],
        max_concurrent=5,
        timeout=1,
        budget=None,
        max_errors=0,
        cancel_grace=1.0,
        ordered=False,
        buffer=10,
        key=lambda item: str(item),
        on_result=ended.append,
        task_per_item=True,
        registry=registry,
    )
    assert_type(batch, Batch[int])
    assert_type(bounded_gather(fetch, ["a"], on_result=note), Batch[int])
    assert_type(bounded_gather(fetch, ["a"], on_result=print), Batch[int])
    assert_type(
        bounded_gather(fetch, [], on_result=lambda r: print(r.data)), Batch[int]
    )
    assert_type(
        await gather_with_error_handling(fetch, ["a"], max_concurrent=2, budget=1.0),
        list[TaskResult[int]],
    )
    assert_type(await gather_with_error_handling(price, ["a"]), list[TaskResult[float]])
    assert_type(
        await gather_with_timeout_and_budget(fetch, ["a"], 1.0, 5, budget=2, key=str),
        dict[str, TaskResult[int]],
    )
    assert_type(
        await process_batch_with_deadline(fetch, ["a"], 1.0, max_errors=3, timeout=1),
        list[int],
    )
    assert_type(await process_batch_with_deadline(price, symbols()), list[float])


async def results() -> None:
    batch = bounded_gather(fetch, ["a"])
    assert_type(batch.progress, BatchProgress)
    assert_type(batch.status, BatchStatus | None)
    async with batch:
        batch.add("b")
        async for one in batch:
            assert_type(one, TaskResult[int])
    results = await bounded_gather(fetch, ["a"])
    assert_type(results, BatchResult[int])
    assert_type(results.values(), list[int])
    assert_type(results[0].unwrap(), int)
    for result in results:
        match result:
            case TaskResult(task_id, True, data):
                assert_type((task_id, data), tuple[str, int | None])
            case TaskResult(task_id, False, _, failure):
                assert_type(failure, BaseException | None)
    try:
        results.values()
    except BatchError as error:
        assert_type(error.result, BatchResult[Any] | None)


async def registries(coordinator: SignalCoordinator) -> None:
    async with TaskRegistry() as registry, TaskGroup() as group:
        ready = registry.register(fetch("a"), "a")
        assert_type(ready, Ready[tuple[asyncio.Task[int], str]])
        task, task_id = await ready
        assert_type((task, task_id), tuple[asyncio.Task[int], str])
        if await registry.cancel("a"):
            assert_type(registry.stats(), RegistryStats)
        assert_type(await registry.supervise(lambda: fetch("a"), "b"), str)
        assert_type(await registry.join("b", 5), TaskMetadata)
        assert_type(registry.current_id(), str | None)
        if registry.heartbeat("a").result():
            assert_type(registry["a"], TaskMetadata)
        assert_type(group.create_task(fetch("a")), asyncio.Task[int])
        assert_type(await registry.shutdown(), ShutdownReport)
        assert_type(await coordinator.graceful_shutdown([task]), ShutdownReport)


async def helpers(task: asyncio.Task[int]) -> None:
    assert_type(await wait_for_first_completion([fetch("a")]), tuple[int, int])
    assert_type(await task_with_individual_timeout(fetch("a"), 1), int)
    assert_type(
        await cancellation_with_retry(lambda: fetch("a"), retry_on=OSError), int
    )
    assert_type(await shielded_operation(task), int)
    assert_type(await cancel_all_tasks([task]), ShutdownReport)
    await monitor_tasks(
        [task], report=lambda running, ended: print(running, len(ended))
    )
    add_task_observers([task], print)


async def jobs() -> None:
    async with bounded_gather(fetch, ["a"]) as batch:
        job = batch.add("b")
        assert_type(job, Job[int])
        assert_type(await job, int)
        assert_type(job.result(), int)
        assert_type(job.outcome, TaskResult[int] | None)
        assert_type(await asyncio.wait_for(job, 1), int)
        assert_type(job.cancel("enough"), bool)
        job.add_done_callback(lambda one: print(one.result() + 1))
        batch.stop()
    prices: list[Job[float]] = [bounded_gather(price, ["a"]).add("b")]
    print(await asyncio.gather(*prices))


async def pools(registry: TaskRegistry) -> None:
    async with TaskPool(10, max_pending=5, registry=registry) as pool:
        assert_type(pool, TaskPool)
        job = pool.submit(fetch, "a", task_id="one")
        assert_type(job, Job[int])
        assert_type(await job, int)
        assert_type(await pool.put(fetch, "a"), Job[int])
        assert_type(pool.submit(price, "a"), Job[float])
        assert_type(pool.submit(partial(with_options, deep=True), "a"), Job[int])
        # A limit of pyright: it does not solve the type variables of a generic fn that
        # is passed as Callable[..., Awaitable[T]], and gets Job[_R]. With a lambda it
        # gets the type, as mypy does.
        assert_type(
            pool.submit(asyncio.to_thread, len, "a"),  # pyright: ignore
            Job[Any],
        )
        assert_type(pool.submit(lambda: asyncio.to_thread(len, "a")), Job[int])
        assert_type(pool.progress, BatchProgress)
        pool.max_concurrent = 5
        await pool.join()
        assert_type(await pool.shutdown(5), ShutdownReport)
    SignalCoordinator().attach(pool)
