"""bounded_gather when an allocation of ours fails: every one, in turn."""

import asyncio
import contextlib
import gc

import pytest

from pyasynclife import BatchError, TaskRegistry, TaskResult, _core, bounded_gather

BOTH_WAYS = True

if not hasattr(_core, "fail_allocation"):
    pytest.skip("a build without PYASYNCLIFE_FAULTS", allow_module_level=True)


async def fn(x):
    if x % 3 == 1:
        await asyncio.sleep(0)
    if x == 4:
        raise ValueError(x)
    if x == 5:
        await asyncio.sleep(0.02)
    if x == 6:
        asyncio.current_task().cancel()
    return x


async def numbers():
    for i in range(8):
        yield i


async def collected():
    result = await bounded_gather(
        fn, range(8), max_concurrent=3, timeout=0.005, budget=60, key=str
    )
    result.failures()
    result.by_id()


async def collected_from_a_generator():
    result = await bounded_gather(
        fn, (i for i in range(8)), timeout=0.005, on_result=lambda r: None
    )
    result.failures()
    [r.task_id for r in result]


async def read_by_a_reader():
    (await bounded_gather(fn, numbers(), max_concurrent=2, timeout=0.005)).failures()


async def streamed():
    async for result in bounded_gather(fn, range(12), max_concurrent=3, timeout=0.05):
        result.as_dict()
        repr(result)


async def streamed_as_finished():
    batch = bounded_gather(fn, range(8), max_concurrent=3, buffer=0, ordered=False)
    async with batch:
        async for _ in batch:
            await asyncio.sleep(0)


async def decided_late():
    async with bounded_gather(fn, range(8), ordered=False) as batch:
        await asyncio.sleep(0.001)
        (await batch).failures()


async def aborted():
    with pytest.raises((BatchError, MemoryError)) as caught:
        await bounded_gather(fn, range(8), max_errors=0)
    if caught.type is MemoryError:
        raise caught.value


async def cancelled():
    batch = bounded_gather(fn, numbers(), max_concurrent=1)
    asyncio.get_running_loop().call_later(0.001, batch.cancel)
    (await batch).failures()


async def lived():
    batch = bounded_gather(fn, range(3), max_concurrent=1)
    batch.add(3)
    async with batch:
        async for result in batch:
            if result.index < 2:
                with contextlib.suppress(RuntimeError):  # it has failed
                    batch.add(7)
                batch.max_concurrent = 4
                batch.pause()
                await asyncio.sleep(0)
                batch.resume()
        batch.close()


async def given_up():
    free = asyncio.Event()

    async def stubborn(x):
        while x and not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass

    try:
        result = await bounded_gather(
            stubborn, range(3), timeout=0.001, cancel_grace=0.001, max_concurrent=2
        )
        result.failures()
    finally:
        free.set()


async def registered():
    registry = TaskRegistry(history=2)

    async def beat(x):
        registry.heartbeat()
        return await fn(x)

    result = await bounded_gather(
        beat, [0, 1, 2, 1, 6], registry=registry, max_concurrent=4
    )
    result.failures()


async def results():
    result = TaskResult("a", False, [1], ValueError())
    result.as_dict()
    repr(result)
    result.__reduce__()
    TaskResult("b", True) == result  # noqa: B015


@pytest.mark.filterwarnings("ignore:.*dropped while it ran:ResourceWarning")
@pytest.mark.parametrize(
    "scenario",
    [
        collected,
        collected_from_a_generator,
        read_by_a_reader,
        streamed,
        streamed_as_finished,
        decided_late,
        aborted,
        cancelled,
        lived,
        given_up,
        registered,
        results,
    ],
)
async def test_every_allocation_may_fail(scenario, loop_errors):
    failed = 0
    for nth in range(1, 2000):
        _core.fail_allocation(nth)
        try:
            async with asyncio.timeout(10):
                await scenario()
        except MemoryError:
            failed += 1
        except TimeoutError:
            pytest.fail(f"allocation {nth}: hang")
        finally:
            left = _core.fail_allocation(0)
        for _ in range(20):
            if len(asyncio.all_tasks()) == 1:
                break
            await asyncio.sleep(0.001)
        assert len(asyncio.all_tasks()) == 1, f"allocation {nth}: tasks left"
        for context in loop_errors:
            assert isinstance(context.get("exception"), MemoryError | ValueError)
        loop_errors.clear()
        if left:
            break
        if nth % 20 == 0:
            gc.collect()
    else:
        pytest.fail("allocations without end")
    assert failed
    await scenario()
