"""A pipeline of three components that start, fail and stop together.

    python examples/market_data_pipeline.py [--feed HOST:PORT] [SYMBOL ...]

A fetch loop polls a feed, an aggregator keeps the mean price of each symbol, and an
alert monitor prints the prices that are far from it. Ctrl-C or SIGTERM stops the fetch
loop; the other two finish what is queued, in at most five seconds. The last line has
the counts: nothing that was fetched is lost.

From the article that opens with "The Problem Nobody Warns You About", section "Pattern
2: TaskGroup for Hierarchical Cancellation".

What was wrong: there was no TaskGroup in it, so a component that failed was not noticed
until the end; the components were cancelled in the same instant that they were asked
to stop, and what they held was lost; `timeout` was ignored. Here they are children of a
group and joined by bounded queues, and are cancelled if they do not stop in time.
"""

import argparse
import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, Self

from feed_server import local_feed

from pyasynclife import (
    ShutdownReport,
    SignalCoordinator,
    TaskGroup,
    TaskRegistry,
    bounded_gather,
    cancel_all_tasks,
    run,
)

SYMBOLS = [f"SYM{number:02}" for number in range(20)]
Tick = tuple[str, float]


class MarketDataPipeline:
    """A fetch loop, an aggregator and an alert monitor."""

    def __init__(self, feed: str, symbols: list[str]) -> None:
        self.host, _, self.port = feed.rpartition(":")
        self.symbols = symbols
        self.tasks: list[asyncio.Task[None]] = []
        self.report: ShutdownReport | None = None
        self.fetched = self.missed = self.aggregated = self.alerts = self.shown = 0
        self._means: dict[str, float] = {}
        self._shutdown_event = asyncio.Event()
        # None is the end. A full queue makes the component before it wait.
        self._ticks: asyncio.Queue[Tick | None] = asyncio.Queue(100)
        self._alerts: asyncio.Queue[Tick | None] = asyncio.Queue(100)

    @asynccontextmanager
    async def managed_lifecycle(self) -> AsyncIterator[Self]:
        """Run the components during a block; if one fails, cancel all and the block."""
        async with TaskGroup() as group:
            for name, component in (
                ("fetch loop", self._run_fetch_loop),
                ("aggregator", self._run_aggregator),
                ("alert monitor", self._run_alert_monitor),
            ):
                self.tasks.append(group.create_task(component(), name=name))
            try:
                yield self
            finally:
                self.report = await self.shutdown()

    async def shutdown(self, timeout: float = 5.0) -> ShutdownReport:
        """Let the components finish, and cancel those that are not done in time."""
        self._shutdown_event.set()
        await asyncio.wait(self.tasks, timeout=timeout)
        return await cancel_all_tasks(self.tasks, timeout=1.0)

    async def _run_fetch_loop(self) -> None:
        while not self._shutdown_event.is_set():
            batch = bounded_gather(
                self._fetch, self.symbols, max_concurrent=10, timeout=1.0
            )
            for result in await batch:
                if result.success:
                    await self._ticks.put(result.unwrap())
                    self.fetched += 1
                else:
                    logging.warning("%s: %r", result.task_id, result.error)
                    self.missed += 1  # the next round fetches it again
            with suppress(TimeoutError):
                await asyncio.wait_for(self._shutdown_event.wait(), 0.5)
        await self._ticks.put(None)

    async def _fetch(self, symbol: str) -> Tick:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(f"{symbol}\n".encode())
            depth: dict[str, Any] = json.loads(await reader.readuntil())
        finally:
            writer.close()
        return symbol, (depth["bids"][0][0] + depth["asks"][0][0]) / 2

    async def _run_aggregator(self) -> None:
        while (tick := await self._ticks.get()) is not None:
            symbol, price = tick
            mean = self._means.get(symbol, price)
            self._means[symbol] = mean + (price - mean) / 10
            self.aggregated += 1
            if abs(price / mean - 1) > 0.005:
                self.alerts += 1
                await self._alerts.put(tick)
        await self._alerts.put(None)

    async def _run_alert_monitor(self) -> None:
        while (tick := await self._alerts.get()) is not None:
            symbol, price = tick
            print(f"{symbol}: {price:.2f}, mean {self._means[symbol]:.2f}", flush=True)
            self.shown += 1


async def follow(
    feed: str, symbols: list[str], coordinator: SignalCoordinator, _: TaskRegistry
) -> None:
    """Run the pipeline until the shutdown begins."""
    async with MarketDataPipeline(feed, symbols).managed_lifecycle() as pipeline:
        await coordinator.wait_for_shutdown()
    print(pipeline.report)
    print(
        f"{pipeline.fetched} fetched, {pipeline.aggregated} aggregated, "
        f"{pipeline.alerts} alerts, {pipeline.shown} shown, {pipeline.missed} missed"
    )


def main() -> None:
    """Start a feed, unless one is given, and follow it."""
    parser = argparse.ArgumentParser(description="Fetch, aggregate, and alert.")
    parser.add_argument("symbols", nargs="*", default=SYMBOLS)
    parser.add_argument("--feed", help="host:port of a feed_server.py")
    given = parser.parse_args()
    with local_feed(given.feed, "--lifetime=0.05") as feed:
        run(partial(follow, feed, given.symbols), shutdown_timeout=10.0)


if __name__ == "__main__":
    main()
