"""How a TaskRegistry is made, extended, collected, and left at exit."""

import asyncio
import gc
import weakref

import pytest

from pyasynclife import TaskRegistry
from support.children import run_child
from support.coroutines import echo, forever
from support.loops import settle


def test_a_registry_made_by_new_alone_works() -> None:
    async def run() -> None:
        registry = TaskRegistry.__new__(TaskRegistry)
        registry.register(echo(1), "feed")
        await registry.wait()
        assert registry["feed"].result == 1

    asyncio.run(run())


async def test_a_subclass_may_add_to_it() -> None:
    class Mine(TaskRegistry):
        def __init__(self) -> None:
            super().__init__(history=0)
            self.extra = 1

    registry = Mine()
    registry.register(echo(1), "feed")
    await registry.wait()
    assert await registry.get_status() == {}


async def test_a_dropped_registry_is_freed_with_its_cycles() -> None:
    registry = TaskRegistry()
    for number in range(10):
        registry.register(echo(number))
    await registry.wait()
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


async def test_a_registry_is_freed_with_results_that_refer_to_it() -> None:
    registry = TaskRegistry()
    for number in range(10):
        registry.register(echo((registry, number)), info=registry)
    await registry.wait()
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


async def test_a_dropped_registry_lives_while_its_tasks_do() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever())
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is not None
    task.cancel()
    await asyncio.wait([task])
    await settle()
    gc.collect()
    assert gone() is None


async def test_the_collector_at_every_allocation() -> None:
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        registry = TaskRegistry(history=10, stale_threshold=0.0)
        for number in range(50):
            registry.register(forever(), str(number), stale_after=number % 3)
        await settle()
        await registry.get_stale_tasks()
        await registry.get_status()
        registry.dump()
        await registry.shutdown()
    finally:
        gc.set_threshold(*threshold)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_exit_with_everything_alive_prints_nothing(loop: str) -> None:
    pytest.importorskip(loop)
    child = run_child(
        f"""
        import asyncio, {loop}
        from pyasynclife import TaskRegistry

        async def swallows():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        async def main():
            global registry
            registry = TaskRegistry()
            for _ in range(10):
                registry.register(asyncio.sleep(3600))
            await asyncio.sleep(0)
            await registry.cancel_all()
            registry.register(asyncio.sleep(3600), "never started")

        loop = {loop}.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(main())
        print("over")
        """,
        # A debug build warns of the loop that is not closed.
        env={"PYTHONWARNINGS": "ignore::ResourceWarning"},
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "over\n", "")
