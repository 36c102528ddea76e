"""The programs that tools/instructions.py measures.

python tools/counted.py ROW COLUMN COUNT

Runs one program over COUNT items. The programs of a row do the same work, each in the
way that its column names.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

# At the end, so that an installed pyasynclife comes before the checkout's.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import peers, seed
from benchmarks.gather_rows import (
    Function,
    SeedFunction,
    return_at_once,
    return_at_once_seed,
    sleep_0,
    sleep_0_seed,
)
from pyasynclife import Backoff, TaskGroup, TaskRegistry

Program = Callable[[list[str]], Coroutine[Any, Any, Any]]

OURS = "ours"
STOCK = "stock"  # the running version's asyncio, or the articles' own code
HAND = "by hand"
UNTIMED = "no timeout"  # by hand, without a timeout
FLOOR = "floor"
COLUMNS = (STOCK, HAND, UNTIMED, FLOOR, OURS)


async def await_each(function: Function, items: list[str]) -> list[str]:
    """Await the coroutines one after another: the least possible work."""
    return [await function(item) for item in items]


def gather_programs(
    function: Function, seed_function: SeedFunction
) -> dict[str, Program]:
    """Return the programs that run a function on every item and keep its results.

    seed_function does the same work, and returns the articles' TaskResult.
    """
    gather_seed = partial(
        seed.gather_with_timeout_and_budget,
        seed_function,
        timeout=peers.TIMEOUT,
        max_concurrent=peers.LIMIT,
    )
    return {
        OURS: partial(peers.ours_timed, function),
        STOCK: gather_seed,
        HAND: partial(peers.hand_timed, function),
        UNTIMED: partial(peers.hand, function),
        FLOOR: partial(await_each, function),
    }


async def enter_groups(group_type: type[Any], size: int, items: list[str]) -> None:
    """Run a child for each item, in groups of `size`, one group after another."""
    for begin in range(0, len(items), size):
        async with group_type() as group:
            for item in items[begin : begin + size]:
                group.create_task(return_at_once(item))


def group_programs(size: int) -> dict[str, Program]:
    """Return the programs that run the items as children of groups of `size`."""
    return {
        OURS: partial(enter_groups, TaskGroup, size),
        STOCK: partial(enter_groups, asyncio.TaskGroup, size),
    }


async def register_each(registry_type: type[Any], items: list[str]) -> None:
    """Register a task for each item, with the item as its id, and let all finish."""
    registry = registry_type()
    for item in items:
        await registry.register(return_at_once(item), item)
    for _ in range(3):
        await asyncio.sleep(0)


async def supervise_each(items: list[str]) -> None:
    """Let 100 supervised tasks run once for each item, each run ending at once."""
    registry = TaskRegistry()
    left = len(items)
    done = asyncio.Event()

    async def run() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            done.set()
            await asyncio.sleep(60)

    options: Any = {"restart": "always", "backoff": Backoff(0), "max_restarts": 10**9}
    for number in range(100):
        registry.supervise(run, f"task {number}", **options)
    await done.wait()
    await registry.shutdown()


STALE, ALIVE = 10, 500


async def with_silent_tasks(
    use: Callable[[TaskRegistry, list[str]], Coroutine[Any, Any, None]],
    items: list[str],
) -> None:
    """Pass a registry of 500 tasks, 10 of them stale, to a function, with the items."""
    async with TaskRegistry() as registry:
        for number in range(ALIVE):
            silence = 0.0 if number < STALE else 1e9
            coro = asyncio.sleep(1e9)
            await registry.register(coro, f"task {number}", stale_after=silence)
        await asyncio.sleep(0)
        assert len(await registry.get_stale_tasks()) == STALE
        await use(registry, items)
        await registry.shutdown()


async def beat_for_each(registry: TaskRegistry, items: list[str]) -> None:
    """Record ten heartbeats by id for each item, of one task after another."""
    ids = list(await registry.get_status())
    for index in range(10 * len(items)):
        registry.heartbeat(ids[index % ALIVE])


async def ask_for_each(registry: TaskRegistry, items: list[str]) -> None:
    """Ask ten times for the stale tasks for each item."""
    for _ in range(10 * len(items)):
        registry.get_stale_tasks()


ROWS: Mapping[str, Mapping[str, Program]] = {
    "gather, item returns at once": gather_programs(
        return_at_once, return_at_once_seed
    ),
    "gather, item does sleep(0)": gather_programs(sleep_0, sleep_0_seed),
    "group of 100, per child": group_programs(100),
    "group of 5, per child": group_programs(5),
    "group of 1, per child": group_programs(1),
    "register, run, finish": {
        OURS: partial(register_each, TaskRegistry),
        STOCK: partial(register_each, seed.TaskRegistry),
    },
    "supervised, per run": {OURS: supervise_each},
    "10 heartbeats by id": {OURS: partial(with_silent_tasks, beat_for_each)},
    "10 times get_stale_tasks": {OURS: partial(with_silent_tasks, ask_for_each)},
}


def main(row: str, column: str, count: str) -> None:
    """Run the program of a row and a column on that many items."""
    gc.disable()
    items = [f"SYM{index}" for index in range(int(count))]
    asyncio.run(ROWS[row][column](items))


if __name__ == "__main__":
    main(*sys.argv[1:])
