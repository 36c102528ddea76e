"""A service that polls the depth of many symbols, and replaces workers that fail.

    python examples/market_data_service.py [--feed HOST:PORT] [--uvloop] [SYMBOL ...]

Each symbol has a worker with a connection of its own. The feed drops connections and
lets some fall silent: watch `restarts`. Ctrl-C or SIGTERM ends the service in at most
ten seconds, with a report of how each worker ended. If the feed is gone for most of a
minute, the service ends too, with exit status 1.

From the article that opens with "When a market data feed delivers 50,000 price updates
per second across 500 symbols", section "The asyncio.Event Shutdown Pattern".

What was wrong: a worker that failed was not noticed until the end; one that hung held
up the shutdown for ever; `signal.Signum` does not exist. Here each worker is
supervised, sends heartbeats, and is cancelled by a deadline.
"""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from feed_server import local_feed

from pyasynclife import Backoff, SignalCoordinator, TaskRegistry, run

INTERVAL = 0.05  # seconds between two requests of a worker: 20 a second
STALE = 3.0  # seconds without an answer, after which a worker is replaced
STATUS = 1.0  # seconds between two lines of output
RESTARTS = 20  # of one worker in a minute, after which the feed counts as gone


class MarketDataService:
    """The latest depth of each symbol, and the workers that fetch it."""

    def __init__(self, feed: str, symbols: list[str], registry: TaskRegistry) -> None:
        self.host, _, self.port = feed.rpartition(":")
        self.symbols = symbols
        self.registry = registry
        self.depths: dict[str, dict[str, Any]] = {}  # the latest
        self.updates = 0
        self.open_connections = 0

    def start(self) -> None:
        """Start a worker for each symbol, and the status line."""
        for symbol in self.symbols:
            self.registry.supervise(
                partial(self._depth_worker, symbol),
                symbol,
                restart="always",
                restart_stale=True,
                stale_after=STALE,
                backoff=Backoff(0.1, max_delay=4.0, jitter=0.5),
                max_restarts=RESTARTS,
                within=60.0,
                vital=True,  # the service ends then, for its own supervisor to see
            )
        self.registry.register(self.print_status(), "status", stale_after=inf)

    async def _depth_worker(self, symbol: str) -> None:
        """Follow one symbol for as long as its connection lasts.

        A lost connection is normal: this returns, and the next run connects again. Any
        other error is logged by the registry, which then starts the next run, too.
        """
        try:
            async with asyncio.timeout(STALE):
                reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError as error:  # TimeoutError is one
            logging.warning("%s: no connection: %r", symbol, error)
            return
        self.open_connections += 1
        try:
            while True:
                self._process(await self._fetch_depth(symbol, reader, writer))
                self.registry.heartbeat()
                await asyncio.sleep(INTERVAL)
        except OSError as error:
            logging.warning("%s: the connection was lost: %s", symbol, error)
        finally:
            self._cleanup(writer)

    async def _fetch_depth(
        self, symbol: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> dict[str, Any]:
        writer.write(f"{symbol}\n".encode())
        await writer.drain()
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("closed by the feed")
        return dict(json.loads(line))

    def _process(self, depth: dict[str, Any]) -> None:
        self.depths[depth["symbol"]] = depth
        self.updates += 1

    def _cleanup(self, writer: asyncio.StreamWriter) -> None:  # awaits nothing
        writer.close()
        self.open_connections -= 1

    async def print_status(self) -> None:
        """Print a line from time to time."""
        while True:
            now = self.registry.stats()
            health = f"{now.healthy} healthy, {now.stale} stale, {now.restarts}"
            print(f"{self.updates} updates, {health} restarts", flush=True)
            await asyncio.sleep(STATUS)


async def serve(
    feed: str,
    symbols: list[str],
    coordinator: SignalCoordinator,
    registry: TaskRegistry,
) -> int:
    """Run the service until the shutdown begins, and return the exit status."""
    service = MarketDataService(feed, symbols, registry)
    service.start()
    signum = await coordinator.wait_for_shutdown()
    print("shutting down:", coordinator.reason or f"signal {signum}")
    print(await coordinator.graceful_shutdown())
    print(f"{service.updates} updates, {service.open_connections} connections open")
    return 1 if signum is None else 0


def main() -> int | None:
    """Start a feed, unless one is given, and run the service."""
    parser = argparse.ArgumentParser(description="Poll the depth of symbols.")
    parser.add_argument("symbols", nargs="*", default=["AAPL", "GOOGL", "NVDA"])
    parser.add_argument("--feed", help="host:port of a feed_server.py")
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if given.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with local_feed(given.feed, "--lifetime=10") as feed:
        service = partial(serve, feed, given.symbols)
        return run(service, shutdown_timeout=10.0, loop_factory=factory)


if __name__ == "__main__":
    sys.exit(main())
