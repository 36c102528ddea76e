"""bounded_gather and its peers, limit 50, results kept; cost and memory against n."""

import sys
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from benchmarks import peers
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
COST = "cost per item against n"
MEMORY = "memory against n, results kept"

MUST = 10.0  # the target: so many times faster than each library of the same run
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
MOST_TASKS = 100_000  # where all tasks, 4 KB each, are created at the start
QUICK_FROM = 100_000  # from here on three rounds are as good as eleven

UNTIMED: dict[str, Peer] = {
    "gather, no limit": peers.plain_gather,
    "TaskGroup, no limit": peers.task_group,
    "50 workers by hand": peers.hand,
    "ours": peers.ours,
}
TIMED: dict[str, Peer] = {
    "the seed's pattern": peers.semaphore_timed,
    "50 workers by hand": peers.hand_timed,
    "ours": peers.ours_timed,
}
GROWING = ("the seed's pattern", "gather, no limit", "TaskGroup, no limit", "quattro",
           "aiojobs", "aiometer", "anyio, CapacityLimiter")  # fmt: skip


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


async def _cost_rows(settings: Settings) -> AsyncIterator[Row]:
    contenders = TIMED | peers.installed(peers.TIMED_LIBRARIES)
    for n in _sizes(settings):
        items = [f"SYM{index}" for index in range(n)]
        rounds = {
            name: _round(peer, return_at_once, items)
            for name, peer in contenders.items()
            if n <= MOST_TASKS or name not in GROWING
        }
        effort = replace(settings, quick=settings.quick or n >= QUICK_FROM)
        yield await time_row(effort, COST, n, rounds, {})


async def _stream(function: Function, items: Sequence[str]) -> Sequence[Any]:
    batch = bounded_gather(
        function, items, max_concurrent=peers.LIMIT, timeout=peers.TIMEOUT
    )
    async for _ in batch:
        pass
    return items


async def _memory_rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the peak memory above that of the items themselves."""
    contenders = TIMED | peers.installed(peers.TIMED_LIBRARIES)
    contenders["ours, streamed"] = _stream
    for n in _sizes(settings):
        show_progress(f"{settings.loop}: {MEMORY}, n = {n:,}")
        items = [f"SYM{index}" for index in range(n)]
        figures = {}
        for name, peer in contenders.items():
            if n > MOST_TASKS and name in GROWING:
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
    if settings.only in COST:
        async for row in _cost_rows(settings):
            yield row
    if settings.only in MEMORY:
        async for row in _memory_rows(settings):
            yield row
