"""For CPython's own leak hunter, regrtest -R; pytest does not collect it.

python -m test -R 3:3 --testdir tests/regrtest test_pyasynclife
"""

import asyncio
import logging
import unittest

from pyasynclife import SignalCoordinator, TaskGroup, TaskRegistry, bounded_gather


async def echo(value):
    await asyncio.sleep(0)
    return value


async def forever():
    await asyncio.get_running_loop().create_future()


async def fails():
    raise ValueError("no price")


class LeaksNothing(unittest.IsolatedAsyncioTestCase):
    loop_factory = asyncio.SelectorEventLoop

    def setUp(self):
        logging.getLogger("pyasynclife").disabled = True

    async def test_registry(self):
        registry = TaskRegistry(history=3)
        for _ in range(20):
            registry.register(echo(1))
            registry.register(fails())
            _, name = await registry.register(forever())
            await registry.heartbeat(name)
            registry.track(asyncio.create_task(echo(2)))
            await asyncio.sleep(0)
            registry.cancel(name)
        registry.dump()
        self.assertEqual(len(await registry.get_status()), len(registry) + 3)
        report = await registry.shutdown(5)
        self.assertFalse(report.stuck)

    async def test_gather(self):
        results = await bounded_gather(echo, range(100), max_concurrent=7)
        self.assertEqual(list(range(100)), results.values())
        async for result in bounded_gather(echo, range(100), timeout=5):
            self.assertTrue(result.success)
        batch = bounded_gather(lambda _: forever(), range(10), budget=0.01)
        self.assertFalse((await batch).ok)
        self.assertTrue((await batch).failures())

    async def test_group(self):
        async with TaskGroup() as group:
            for i in range(20):
                group.create_task(echo(i))
            group.create_task(forever())
            group.cancel()
        with self.assertRaises(ExceptionGroup):
            async with TaskGroup() as group:
                group.create_task(fails())
                group.create_task(forever())

    async def test_coordinator(self):
        async with SignalCoordinator(registry=TaskRegistry()) as coordinator:
            coordinator.request_shutdown("test")
            await coordinator.wait_for_shutdown()


if __name__ == "__main__":
    unittest.main()
