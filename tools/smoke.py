"""Check that an installed pyasynclife works, with nothing else installed.

python tools/smoke.py

Runs a registry, a supervised task, a batch, a pool, a group, LoopWatch and a shutdown
by a real SIGTERM, in one process. make wheels and the release workflow run it for each
wheel, on a bare interpreter of its version.
"""

import asyncio
import logging
import os
import platform
import signal
import time

import pyasynclife
from pyasynclife import (
    BlockedLoop,
    LoopWatch,
    SignalCoordinator,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    bounded_gather,
    run,
)


async def double(number: int) -> int:
    await asyncio.sleep(0)
    if number < 0:
        raise ValueError(number)
    return number * 2


async def feed(registry: TaskRegistry) -> None:
    while True:
        registry.heartbeat()
        await asyncio.sleep(0.01)


async def check_batches() -> None:
    batch = await bounded_gather(double, range(1000), max_concurrent=7, timeout=60)
    assert batch.values() == [number * 2 for number in range(1000)]
    streamed = [r async for r in bounded_gather(double, [1, -1, 2], max_errors=9)]
    assert sorted(r.success for r in streamed) == [False, True, True], streamed
    async with TaskPool(max_concurrent=3) as pool:
        jobs = [pool.submit(double, number) for number in range(10)]
        assert [await job for job in jobs] == list(range(0, 20, 2))
    late = await bounded_gather(asyncio.sleep, [3600], timeout=0.01)
    assert isinstance(late[0].error, TimeoutError), late[0]


async def check_group() -> None:
    async with TaskGroup() as group:
        tasks = [group.create_task(double(number)) for number in range(100)]
    assert [task.result() for task in tasks] == list(range(0, 200, 2))
    lost = True
    try:
        async with TaskGroup() as group:
            group.create_task(asyncio.sleep(3600))
            group.create_task(double(-1))
    except* ValueError:
        lost = False
    assert not lost


async def check_watch() -> None:
    blocked: list[BlockedLoop] = []
    async with LoopWatch(0.05, on_block=blocked.append) as watch:
        await asyncio.sleep(0)
        time.sleep(0.5)
        while not blocked:
            await asyncio.sleep(0.01)
    assert watch.longest > 0.05, watch.longest


async def main(coordinator: SignalCoordinator, registry: TaskRegistry) -> int:
    await check_batches()
    await check_group()
    await check_watch()
    for number in range(100):
        registry.register(feed(registry), f"feed {number}")
    registry.supervise(lambda: feed(registry), "supervised")
    while not all(registry[task_id].heartbeats for task_id in registry):
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await coordinator.wait_for_shutdown()
    report = await coordinator.graceful_shutdown()
    assert report.ok, report
    assert len(report.cancelled) == 101, report
    return coordinator.received[signal.SIGTERM]


if __name__ == "__main__":
    logging.getLogger("pyasynclife").setLevel(logging.ERROR)
    signals = run(main, shutdown_timeout=120)
    assert signals == 1, signals
    machine = ", ".join([platform.machine(), *filter(None, platform.libc_ver())])
    print(
        f"pyasynclife {pyasynclife.__version__} works on",
        f"{platform.python_implementation()} {platform.python_version()} ({machine})",
    )
