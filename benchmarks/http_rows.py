"""End to end: requests by aiohttp, 50 at once, to a server on loopback."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from statistics import median
from time import perf_counter, thread_time
from typing import Any

from benchmarks.contenders import OURS, SEMAPHORE, WORKERS
from benchmarks.figures import Ratio, Row, Settings, show_progress, tidy_up
from benchmarks.hand import gather_by_hand
from benchmarks.machine import ROOT
from benchmarks.seed import TaskResult, gather_with_timeout_and_budget
from pyasynclife import bounded_gather

LIMIT = 50
TIMEOUT = 5.0
RATE = "HTTP requests by aiohttp, in a second"
P99 = "HTTP requests by aiohttp, 99th percentile"
CPU = "HTTP requests by aiohttp, processor time of the client"
ROWS = (RATE, P99, CPU)

Fetch = Callable[[str], Awaitable[str]]


async def _seed(fetch: Fetch, paths: list[str]) -> int:
    async def fetch_result(path: str) -> TaskResult:
        return TaskResult(task_id=path, success=True, data=await fetch(path))

    results = await gather_with_timeout_and_budget(fetch_result, paths, TIMEOUT, LIMIT)
    return sum(result.success for result in results.values())


async def _hand(fetch: Fetch, paths: list[str]) -> int:
    results = await gather_by_hand(fetch, paths, TIMEOUT, LIMIT)
    return sum(isinstance(result, str) for result in results)


async def _ours(fetch: Fetch, paths: list[str]) -> int:
    batch = bounded_gather(fetch, paths, max_concurrent=LIMIT, timeout=TIMEOUT)
    return len((await batch).values())


async def _round(
    session: Any, gather: Callable[[Fetch, list[str]], Awaitable[int]], paths: list[str]
) -> tuple[float, float, float]:
    """Return the figures of a round, in the order and the units of the rows."""
    seconds: list[float] = []

    async def fetch(path: str) -> str:
        begin = perf_counter()
        async with session.get(path) as response:
            text: str = await response.text()
        seconds.append(perf_counter() - begin)
        return text

    begin, cpu = perf_counter(), thread_time()
    assert len(paths) == await gather(fetch, paths)
    cpu = thread_time() - cpu
    rate = len(paths) / (perf_counter() - begin)
    p99 = sorted(seconds)[int(len(seconds) * 0.99)]
    return rate, p99 * 1e3, cpu / len(paths) * 1e6


def _row(what: str, n: int, unit: str, rounds: dict[str, list[float]]) -> Row:
    """Compare round by round; a ratio above 1 says that ours is better."""
    best = max if what == RATE else min
    ours = rounds[OURS]
    ratios = {}
    for name in rounds.keys() - {OURS}:
        pairs = zip(rounds[name], ours, strict=True)
        quotients = [our / their if what == RATE else their / our
                     for their, our in pairs]  # fmt: skip
        bests = best(ours) / best(rounds[name])
        ratio = bests if what == RATE else 1 / bests
        ratios[name] = Ratio(ratio, median(quotients), None)
    figures = {name: best(each) for name, each in rounds.items()}
    return Row(what, n, unit, figures, ratios)


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure the rows in the same rounds, two by the wall clock: requests wait."""
    if not any(settings.only in what for what in ROWS):
        return
    if importlib.util.find_spec("aiohttp") is None:
        print("\nnot installed: aiohttp", file=sys.stderr)
        return
    import aiohttp

    n = settings.size(10_000)
    paths = [f"/SYM{index}" for index in range(n)]
    gathers = {SEMAPHORE: _seed, WORKERS: _hand, OURS: _ours}
    figures: dict[str, list[tuple[float, ...]]] = {name: [] for name in gathers}
    command = [sys.executable, "-m", "benchmarks.http_server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = int(await asyncio.to_thread(server.stdout.readline))
        async with aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0)
        ) as session:
            await _round(session, _hand, paths[:LIMIT])  # opens the connections
            for number in range(settings.rounds):
                show_progress(f"{settings.loop}: HTTP, n = {n:,}, round {number + 1}")
                for name, gather in gathers.items():
                    await tidy_up()
                    figures[name].append(await _round(session, gather, paths))
        server.communicate("")
    for index, (what, unit) in enumerate(zip(ROWS, ("1/s", "ms", "µs"), strict=True)):
        rounds = {name: [f[index] for f in each] for name, each in figures.items()}
        yield _row(what, n, unit, rounds)
