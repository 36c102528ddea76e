"""The client's side of the feed: snapshots, and subscriptions that mend themselves."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from pyasynclife import TaskRegistry
from pyasynclife._demo.market import FEED_PATH, SNAPSHOT_PATH, Snapshot, Update
from pyasynclife._demo.meter import Meter

FIRST_DELAY = 0.1  # seconds: the longest wait before the first attempt to reconnect
LONGEST_DELAY = 5.0
HANDSHAKES = 50  # at once, so that the loop has time for those who are connected

decode = json.JSONDecoder().raw_decode  # json.loads without its search for blanks


def backoff(attempt: int) -> float:
    """Return the seconds to wait: exponential, with full jitter."""
    return random.uniform(0.0, min(LONGEST_DELAY, FIRST_DELAY * 2**attempt))


class FeedClient:
    """Subscriptions to one feed server, known to one registry."""

    def __init__(self, url: str, registry: TaskRegistry, meter: Meter) -> None:
        self.url = url
        self.registry = registry
        self.meter = meter
        self.connected: set[str] = set()  # those that have been, once at least
        self.all_connected = asyncio.Event()
        self.handshakes = asyncio.Semaphore(HANDSHAKES)

    @asynccontextmanager
    async def connection(self, path: str) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket, close it politely, and take long over neither."""
        async with self.handshakes:
            connection = await connect(
                self.url + path,
                proxy=None,
                compression=None,
                ping_interval=None,  # silence is the registry's business
                open_timeout=5.0,
                close_timeout=0.3,
                max_queue=64,
            )
        try:
            yield connection
        finally:
            await connection.close()

    async def fetch_snapshot(self, symbol: str) -> Snapshot:
        """Ask for the last price of `symbol`."""
        async with self.connection(SNAPSHOT_PATH + symbol) as connection:
            snapshot: Snapshot = json.loads(await connection.recv())
            return snapshot

    async def subscribe(self, symbol: str) -> None:
        """Follow `symbol` until cancelled, through any number of connections."""
        attempt = 0
        while True:
            try:
                async with self.connection(FEED_PATH + symbol) as connection:
                    attempt = 0
                    self.note_connected(symbol)
                    await self.follow(symbol, connection)
            except (OSError, WebSocketException):
                pass  # whatever it was, the remedy is the same
            self.meter.reconnects += 1
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    def note_connected(self, symbol: str) -> None:
        """Tell those who wait for `all_connected` when it has come to that."""
        self.connected.add(symbol)
        if len(self.connected) == len(self.meter.tracks):
            self.all_connected.set()

    async def follow(self, symbol: str, connection: ClientConnection) -> None:
        """Take every update of one connection: the path that 50,000 a second go."""
        receive, heartbeat = connection.recv, self.registry.heartbeat
        track = self.meter.tracks[symbol]
        track.expected = 0
        while True:
            update: Update = decode(await receive(True))[0]
            heartbeat(symbol)
            track.take(update)
