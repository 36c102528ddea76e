"""bounded_gather and its peers, limit 50, results kept; cost and memory against n."""

import sys
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks import peers
from benchmarks.contenders import OURS, SEMAPHORE, STREAMED, WORKERS
from benchmarks.figures import (
    Round,
    Row,
    Settings,
    clock,
    show_progress,
    tidy_up,
    time_row,
)
from benchmarks.gather_rows import MEGABYTE, return_at_once, sleep_0
from benchmarks.peers import Function, Peer
from pyasynclife import bounded_gather

PEERS = "peers, item returns at once"
PEERS_0 = "peers, item does sleep(0)"
PEERS_TIMED = "peers with a timeout, item returns at once"
COST = "cost of an item against n, no timeout"
COST_TIMED = "cost of an item against n, with a timeout"
MEMORY = "peak memory against n, results kept"

MUST = 10.0  # the target: so many times faster than each library of the same run
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
MOST_TASKS = 100_000  # where all tasks, 4 KB each, are created at the start
QUICK_FROM = 100_000  # from here on three rounds are as good as eleven
# Above this n, a round with these takes seconds.
MOST_SLOW = 10_000
SLOW = {"aiometer", "anyio, CapacityLimiter", "aiostream"}

UNTIMED: dict[str, Peer] = {
    "gather, no limit": peers.plain_gather,
    "TaskGroup, no limit": peers.task_group,
    SEMAPHORE: peers.semaphore,
    WORKERS: peers.hand,
    OURS: peers.ours,
}
TIMED: dict[str, Peer] = {
    SEMAPHORE: peers.semaphore_timed,
    WORKERS: peers.hand_timed,
    OURS: peers.ours_timed,
}
# Those that create a task for each item at the start.
GROWING = {SEMAPHORE, "gather, no limit", "TaskGroup, no limit", "quattro", "aiojobs",
           "aiometer", "anyio, CapacityLimiter"}  # fmt: skip


def _round(peer: Peer, function: Function, items: Sequence[str]) -> Round:
    async def run() -> float:
        begin = clock()
        results = await peer(function, items)
        seconds = clock() - begin
        assert len(results) == len(items)
        return seconds

    return run


async def _peers_row(
    settings: Settings, what: str, contenders: dict[str, Peer], function: Function
) -> Row:
    """Measure ours against all of them; the target applies to the libraries."""
    n = settings.size(10_000)
    items = [f"SYM{index}" for index in range(n)]
    rounds = {name: _round(peer, function, items) for name, peer in contenders.items()}
    musts = dict.fromkeys(peers.LIBRARIES, MUST) if function is return_at_once else {}
    return await time_row(settings, what, n, rounds, musts)


def _sizes(settings: Settings) -> list[int]:
    sizes = SIZES[:4] if settings.quick else SIZES
    return sorted({settings.size(n) for n in sizes})


def _bounded(timed: bool) -> dict[str, Peer]:
    """Return the contenders that have a limit."""
    if timed:
        return peers.installed(peers.TIMED_LIBRARIES) | TIMED
    untimed = peers.installed(peers.LIBRARIES) | UNTIMED
    return {name: untimed[name] for name in untimed if "no limit" not in name}


def _can_grow_to(n: int, name: str) -> bool:
    if name in SLOW:
        return n <= MOST_SLOW
    return n <= MOST_TASKS or name not in GROWING


async def _cost_rows(
    settings: Settings, what: str, contenders: dict[str, Peer]
) -> AsyncIterator[Row]:
    for n in _sizes(settings):
        items = [f"SYM{index}" for index in range(n)]
        rounds = {
            name: _round(peer, return_at_once, items)
            for name, peer in contenders.items()
            if _can_grow_to(n, name)
        }
        fewest = min(settings.rounds, 3) if n >= QUICK_FROM else settings.rounds
        yield await time_row(replace(settings, rounds=fewest), what, n, rounds, {})


async def _stream(function: Function, items: Sequence[str]) -> Sequence[Any]:
    batch = bounded_gather(function, items, max_concurrent=peers.LIMIT)
    async for _ in batch:
        pass
    return items


async def _memory_rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the peak memory above that of the items themselves."""
    contenders = _bounded(timed=False) | {STREAMED: _stream}
    for n in _sizes(settings):
        show_progress(f"{settings.loop}: {MEMORY}, n = {n:,}")
        items = [f"SYM{index}" for index in range(n)]
        figures = {}
        for name, peer in contenders.items():
            if not _can_grow_to(n, name):
                continue
            # One-time allocations do not count.
            await peer(return_at_once, items[:20])
            await tidy_up()
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                results = await peer(return_at_once, items)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert len(results) == n
            del results
            figures[name] = (peak - before) / MEGABYTE
        yield Row(MEMORY, n, "MB", figures)


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the selected rows."""
    if any(settings.only in what for what in (PEERS, PEERS_0)) and peers.missing():
        print(f"\nnot installed: {', '.join(peers.missing())}", file=sys.stderr)
    untimed = peers.installed(peers.LIBRARIES) | UNTIMED
    if settings.only in PEERS:
        yield await _peers_row(settings, PEERS, untimed, return_at_once)
    if settings.only in PEERS_0:
        yield await _peers_row(settings, PEERS_0, untimed, sleep_0)
    if settings.only in PEERS_TIMED:
        timed = peers.installed(peers.TIMED_LIBRARIES) | TIMED
        yield await _peers_row(settings, PEERS_TIMED, timed, return_at_once)
    for what, timed in ((COST, False), (COST_TIMED, True)):
        if settings.only in what:
            async for row in _cost_rows(settings, what, _bounded(timed)):
                yield row
    if settings.only in MEMORY:
        async for row in _memory_rows(settings):
            yield row
