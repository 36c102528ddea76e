"""A market on loopback, for the other examples: a feed that sometimes fails.

    python examples/feed_server.py               answers each line, a symbol, with JSON
    python examples/feed_server.py --websocket   streams ws://.../SYMBOL (websockets)

The server prints its address. With `--lifetime S`, each connection is dropped without a
word, or falls silent, after S seconds on average. The examples start the server by
`local_feed()`, as a process of its own; in your program there is a real feed instead.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from pyasynclife import SignalCoordinator, TaskRegistry, run

SILENT = 0.1  # the share of failing connections that fall silent instead of closing


@contextlib.contextmanager
def local_feed(address: str | None, *options: str) -> Iterator[str]:
    """Start a feed server for the duration of a block, unless there is an address."""
    if address is not None:
        scheme = "ws://" if "--websocket" in options else ""
        host, _, port = address.removeprefix(scheme).rpartition(":")
        if not (address.startswith(scheme) and host and port.isdecimal()):
            raise SystemExit(f"--feed must be {scheme}HOST:PORT, not {address!r}")
        yield address
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--child", *options],
        stdin=subprocess.PIPE,  # ends when we end, however that is, and so the server
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal does not reach the server
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            if not (address := server.stdout.readline().strip()):
                raise SystemExit("the feed server did not start")
            yield address
        finally:
            server.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(2.0)
            server.kill()


class Market:
    """Makes up prices: a random walk for each symbol."""

    def __init__(self, lifetime: float, interval: float) -> None:
        self.lifetime = lifetime
        self.interval = interval
        self.prices: dict[str, float] = {}

    def failing_at(self) -> float:
        """Return the time at which a new connection fails."""
        if self.lifetime == math.inf:
            return math.inf
        return time.monotonic() + random.expovariate(1 / self.lifetime)

    def depth(self, symbol: str) -> str:
        """Return the best bids and asks of a symbol, as JSON."""
        price = self.prices.get(symbol) or random.uniform(50.0, 500.0)
        price = self.prices[symbol] = price * random.uniform(0.997, 1.003)
        levels = [(level / 100, random.randint(1, 500)) for level in (1, 2, 3)]
        bids = [(round(price - far, 2), size) for far, size in levels]
        asks = [(round(price + far, 2), 501 - size) for far, size in levels]
        return json.dumps({"symbol": symbol, "bids": bids, "asks": asks})

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer each line, a symbol, with a line."""
        end = self.failing_at()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while line := await reader.readline():
                if time.monotonic() > end:
                    if random.random() < SILENT:
                        await reader.read()
                    break
                writer.write(f"{self.depth(line.decode().strip())}\n".encode())
                await writer.drain()
        writer.transport.abort()

    async def stream(self, connection: Any) -> None:
        """Send the depth of one symbol, the path, again and again."""
        end = self.failing_at()
        symbol = connection.request.path.strip("/")
        await asyncio.sleep(random.uniform(0.0, self.interval))
        while time.monotonic() < end:
            await connection.send(self.depth(symbol))
            await asyncio.sleep(self.interval)
        if random.random() < SILENT:
            await connection.wait_closed()
        connection.transport.abort()


async def main(coordinator: SignalCoordinator, registry: TaskRegistry) -> None:
    """Serve until a signal or, as a child, until the end of stdin."""
    parser = argparse.ArgumentParser(description="A feed on loopback.")
    parser.add_argument("--websocket", action="store_true")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--interval", type=float, default=0.1, help="of a stream")
    parser.add_argument("--lifetime", type=float, default=math.inf)
    parser.add_argument("--child", action="store_true")
    given = parser.parse_args()
    market = Market(given.lifetime, given.interval)
    server: Any
    if given.websocket:
        from websockets.asyncio.server import serve

        logging.getLogger("websockets").setLevel(logging.CRITICAL)
        server = await serve(
            market.stream,
            *("127.0.0.1", given.port),
            compression=None,
            ping_interval=None,
            backlog=1000,
        )
    else:
        server = await asyncio.start_server(market.answer, "127.0.0.1", given.port)
    host, port = server.sockets[0].getsockname()
    print(f"{'ws://' if given.websocket else ''}{host}:{port}", flush=True)
    if given.child:

        def end_with_stdin() -> None:
            os.read(0, 1)
            coordinator.request_shutdown("stdin has ended")

        threading.Thread(target=end_with_stdin, daemon=True).start()
    await coordinator.wait_for_shutdown()
    server.close()


if __name__ == "__main__":
    run(main, shutdown_timeout=3.0)
