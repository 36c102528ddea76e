"""End to end: requests by aiohttp, 50 at once, to a server on loopback."""

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

from benchmarks.figures import Row, Settings, show_progress, tidy_up
from benchmarks.hand import gather_by_hand
from benchmarks.machine import ROOT
from benchmarks.seed import TaskResult, gather_with_timeout_and_budget
from pyasynclife import bounded_gather

LIMIT = 50
TIMEOUT = 5.0
RATE = "HTTP requests by aiohttp, in a second"
P99 = "HTTP requests by aiohttp, 99th percentile"

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
) -> tuple[float, float]:
    """Return the requests per second, and the 99th percentile of their seconds."""
    seconds: list[float] = []

    async def fetch(path: str) -> str:
        begin = perf_counter()
        async with session.get(path) as response:
            text: str = await response.text()
        seconds.append(perf_counter() - begin)
        return text

    begin = perf_counter()
    assert len(paths) == await gather(fetch, paths)
    rate = len(paths) / (perf_counter() - begin)
    return rate, sorted(seconds)[int(len(seconds) * 0.99)]


async def rows(settings: Settings) -> AsyncIterator[Row]:
    """Measure both rows in the same rounds, by the wall clock, since requests wait."""
    if settings.only not in RATE and settings.only not in P99:
        return
    if importlib.util.find_spec("aiohttp") is None:
        print("\nnot installed: aiohttp", file=sys.stderr)
        return
    import aiohttp

    n = settings.size(10_000)
    paths = [f"/SYM{index}" for index in range(n)]
    gathers = {"seed": _seed, "hand": _hand, "ours": _ours}
    rates: dict[str, list[float]] = {name: [] for name in gathers}
    p99s: dict[str, list[float]] = {name: [] for name in gathers}
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
                    rate, p99 = await _round(session, gather, paths)
                    rates[name].append(rate)
                    p99s[name].append(p99)
        server.communicate("")
    yield Row(RATE, n, "1/s", {name: max(rates[name]) for name in gathers})
    yield Row(P99, n, "ms", {name: min(p99s[name]) * 1e3 for name in gathers})
