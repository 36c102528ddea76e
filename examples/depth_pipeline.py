"""Follow the market depth of 500 symbols, each over a WebSocket of its own.

    python examples/depth_pipeline.py [--feed ws://HOST:PORT] [--symbols 500] [--uvloop]

Needs websockets (`pip install websockets`). The feed sends ten updates a second for
each symbol, drops connections, and lets some fall silent; these are replaced. Ctrl-C
or SIGTERM ends all 500 in at most ten seconds, with a report of how each ended.

From the article that opens with "When a market data feed delivers 50,000 price updates
per second across 500 symbols", section "Production Patterns: Real-Time Data Pipeline".

What was wrong: consumers held the semaphore for ever, so only the first 50 of the 100
symbols were ever followed; one error ended all; the shutdown had no deadline. Here the
semaphore limits the handshakes alone, and each consumer is supervised.
"""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from feed_server import local_feed
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from pyasynclife import Backoff, SignalCoordinator, TaskRegistry, run

STALE = 10.0  # seconds of silence, after which a consumer is replaced
STATUS = 1.0  # seconds between two lines of output


@dataclass(slots=True)
class DepthSnapshot:
    """The best bids and asks of one symbol."""

    symbol: str
    bids: list[tuple[float, float]]  # price and size
    asks: list[tuple[float, float]]


class DepthPipeline:
    """The consumers of all symbols, and what they have computed."""

    def __init__(self, feed: str, symbols: list[str], registry: TaskRegistry) -> None:
        self.feed = feed
        self.symbols = symbols
        self.registry = registry
        self.handshakes = asyncio.Semaphore(50)
        self.connected = 0
        self.updates = 0
        self.pressure: dict[str, float] = {}

    def start(self) -> None:
        """Start a consumer for each symbol, and the status line."""
        for symbol in self.symbols:
            self.registry.supervise(
                partial(self._consume_depth, symbol),
                symbol,
                restart="always",
                restart_stale=True,
                stale_after=STALE,
                backoff=Backoff(0.2, max_delay=5.0),
                max_restarts=sys.maxsize,  # however long the feed is gone
            )
        self.registry.register(self.print_status(), "status", stale_after=inf)

    async def _consume_depth(self, symbol: str) -> None:
        """Follow one symbol for as long as its connection lasts.

        A lost connection is normal: this returns, and the next run connects again. Any
        other error is logged by the registry, which then starts the next run, too.
        """
        try:
            async with self.handshakes:  # given back before the first update is read
                self.registry.heartbeat()  # the wait for it is not the feed's silence
                connection = await connect(
                    f"{self.feed}/{symbol}", proxy=None, close_timeout=1.0
                )
        except (OSError, WebSocketException) as error:
            logging.info("%s: no connection: %r", symbol, error)
            return
        self.connected += 1
        try:
            await self._depth_loop(connection)
        except WebSocketException as error:
            logging.info("%s: the connection was lost: %r", symbol, error)
        finally:
            self.connected -= 1
            await connection.close()  # takes close_timeout at most

    async def _depth_loop(self, connection: ClientConnection) -> None:
        while True:
            frame = await connection.recv()
            self._process_snapshot(DepthSnapshot(**json.loads(frame)))
            self.registry.heartbeat()

    def _process_snapshot(self, snapshot: DepthSnapshot) -> None:
        bid_volume = sum(size for _, size in snapshot.bids)
        ask_volume = sum(size for _, size in snapshot.asks)
        self.pressure[snapshot.symbol] = bid_volume / max(ask_volume, 1)
        self.updates += 1

    async def print_status(self) -> None:
        """Print a line from time to time."""
        while True:
            before = self.updates
            await asyncio.sleep(STATUS)
            rate = (self.updates - before) / STATUS
            top = sorted(self.pressure, key=self.pressure.__getitem__)[-3:]
            line = f"{self.connected} connected, {self.registry.stats().restarts} "
            line += f"restarts, {rate:.0f} updates/s, most bought: {', '.join(top)}"
            print(line, flush=True)


async def follow(
    feed: str, symbols: int, coordinator: SignalCoordinator, registry: TaskRegistry
) -> None:
    """Run the pipeline until the shutdown begins."""
    pipeline = DepthPipeline(feed, [f"SYM{n:03}" for n in range(symbols)], registry)
    pipeline.start()
    await coordinator.wait_for_shutdown()
    print(await coordinator.graceful_shutdown())
    print(f"{pipeline.updates} updates, {pipeline.connected} connections open")


def main() -> None:
    """Start a feed, unless one is given, and follow it."""
    parser = argparse.ArgumentParser(description="Follow the depth of many symbols.")
    parser.add_argument("--feed", help="ws://host:port of a feed_server.py")
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if given.uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with local_feed(given.feed, "--websocket", "--lifetime=60") as feed:
        service = partial(follow, feed, given.symbols)
        run(service, shutdown_timeout=10.0, loop_factory=factory)


if __name__ == "__main__":
    main()
