"""The feed server, a separate process: `python -m pyasynclife._demo.server`.

It prints its port as the first line of stdout, reads the rate from lines of stdin, and
ends when stdin is closed, so it cannot outlive the client. To test the client, it drops
and stalls connections at random.
"""

import argparse
import asyncio
import json
import logging
import random
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from websockets.asyncio.server import Server, ServerConnection, serve

from pyasynclife._demo.market import FEED_PATH, SNAPSHOT_PATH, Quote, symbol_names
from pyasynclife._demo.options import loop_factory
from pyasynclife._demo.pacing import Pacer

TICK = 0.005  # seconds between two rounds of sending
VISIT = 0.08  # seconds between two writes to one socket, if the rate allows
MAX_UNSENT = 256 * 1024  # bytes; a client that is further behind loses updates
NEARLY_ALL = 0.9  # the share of symbols that must be connected before it sends
DROPPED = 0.1  # the share of connections that a run drops
STALLED = 0.01  # the share of connections that a run stalls
STALL = (1.5, 3.0)  # seconds: the shortest and the longest stall


class Subscriber:
    """One feed connection: a symbol and the number of its next frame."""

    __slots__ = ("quote", "seq", "stalled_until", "transport")

    def __init__(self, quote: Quote, transport: asyncio.WriteTransport) -> None:
        self.quote = quote
        self.transport = transport
        self.seq = 0
        self.stalled_until = 0.0

    def send(self, count: int) -> bool:
        """Write the next frames together; return False if it is stalled or closing."""
        now = time.monotonic()
        if now < self.stalled_until or self.transport.is_closing():
            return False
        if self.transport.get_write_buffer_size() < MAX_UNSENT:
            self.transport.write(self.quote.frames(self.seq, count, now))
        self.seq += count
        return True


class FeedServer:
    """Sends updates to all connected clients, evenly and at a given total rate."""

    def __init__(self, symbols: int, rate: float) -> None:
        self.quotes = {name: Quote(name) for name in symbol_names(symbols)}
        self.pacer = Pacer(rate)
        self.ring: deque[Subscriber] = deque()
        self.populated = asyncio.Event()

    async def handle(self, connection: ServerConnection) -> None:
        """Serve one connection according to its path."""
        assert connection.request is not None
        path = connection.request.path
        quote = self.quotes[path.rpartition("/")[2]]
        if path.startswith(SNAPSHOT_PATH):
            symbol, price = quote.symbol.decode(), round(quote.price, 2)
            await connection.send(json.dumps({"symbol": symbol, "price": price}))
        elif path.startswith(FEED_PATH):
            subscriber = Subscriber(quote, connection.transport)
            self.ring.append(subscriber)
            if len(self.ring) >= NEARLY_ALL * len(self.quotes):
                self.populated.set()
            try:
                await connection.wait_closed()
            finally:
                self.ring.remove(subscriber)

    async def keep_dealing(self) -> None:
        """Send the updates as they fall due, once nearly all symbols are connected."""
        await self.populated.wait()
        pacer = self.pacer = Pacer(self.pacer.rate)  # no updates are due yet
        while True:
            await asyncio.sleep(TICK)
            pacer.pay(self.deal(pacer.tick()))

    def deal(self, owed: float) -> int:
        """Send a burst to one subscriber after another while a whole one is owed."""
        burst = max(1, round(self.pacer.rate * VISIT / len(self.quotes)))
        dealt = 0
        for _ in range(len(self.ring)):
            if dealt + burst > owed:
                break
            subscriber = self.ring[0]
            self.ring.rotate(-1)
            if subscriber.send(burst):
                dealt += burst
        return dealt

    async def misbehave(self, seconds: float) -> None:
        """In each period, drop a tenth of the connections and stall a few."""
        drops = round(DROPPED * len(self.quotes))
        stalls = max(3, round(STALLED * len(self.quotes)))
        await self.populated.wait()
        while True:
            plan = [(random.uniform(0.1, 0.9), self.drop) for _ in range(drops)]
            plan += [(random.uniform(0.1, 0.5), self.stall) for _ in range(stalls)]
            began = time.monotonic()
            for moment, disturb in sorted(plan, key=lambda step: step[0]):
                await asyncio.sleep(began + moment * seconds - time.monotonic())
                if self.ring:
                    disturb(random.choice(self.ring))
            await asyncio.sleep(began + seconds - time.monotonic())

    def drop(self, victim: Subscriber) -> None:
        """Abort a connection without a closing handshake."""
        victim.transport.abort()

    def stall(self, victim: Subscriber) -> None:
        """Leave a connection open, but send nothing on it for a while."""
        victim.stalled_until = time.monotonic() + random.uniform(*STALL)

    async def read_rates(self, stdin: asyncio.StreamReader) -> None:
        """Set the rate from each line of stdin, until its end."""
        while line := await stdin.readline():
            self.pacer.set_rate(float(line))


@asynccontextmanager
async def open_stdin() -> AsyncIterator[asyncio.StreamReader]:
    """Make stdin, a pipe, readable without blocking."""
    reader = asyncio.StreamReader()
    protocol = partial(asyncio.StreamReaderProtocol, reader)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(protocol, sys.stdin)
    try:
        yield reader
    finally:
        transport.close()
        await asyncio.sleep(0)  # it closes in the next loop iteration


def port_of(server: Server) -> int:
    """Return the port that the system chose."""
    port: int = next(iter(server.sockets)).getsockname()[1]
    return port


async def main(symbols: int, rate: float, seconds: float) -> None:
    """Serve until stdin ends."""
    feed = FeedServer(symbols, rate)
    listener = serve(
        feed.handle,
        "127.0.0.1",
        0,
        backlog=symbols,
        compression=None,
        ping_interval=None,
        close_timeout=0.2,
    )
    async with listener as server:
        print(port_of(server), flush=True)
        work = [
            asyncio.create_task(feed.keep_dealing()),
            asyncio.create_task(feed.misbehave(seconds)),
        ]
        async with open_stdin() as stdin:
            await feed.read_rates(stdin)
        for task in work:
            task.cancel()


def run() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--uvloop", action="store_true")
    given = parser.parse_args()
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
    with (
        suppress(BrokenPipeError),
        asyncio.Runner(loop_factory=loop_factory(given.uvloop)) as runner,
    ):
        runner.run(main(given.symbols, given.rate, given.seconds))


if __name__ == "__main__":
    run()
