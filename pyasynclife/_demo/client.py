"""The client side of the feed: snapshots, and subscriptions that reconnect."""

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
HANDSHAKES = 50  # at once, so that the loop has time for the open connections

decode = json.JSONDecoder().raw_decode  # json.loads, but without skipping whitespace


def backoff(attempt: int) -> float:
    """Return the seconds to wait: exponential backoff with full jitter."""
    return random.uniform(0.0, min(LONGEST_DELAY, FIRST_DELAY * 2**attempt))


class FeedClient:
    """The subscriptions to one feed server, whose tasks are in one registry."""

    def __init__(self, url: str, registry: TaskRegistry, meter: Meter) -> None:
        self.url = url
        self.registry = registry
        self.meter = meter
        self.connected: set[str] = set()  # at least once
        self.all_connected = asyncio.Event()
        self.handshakes = asyncio.Semaphore(HANDSHAKES)

    @asynccontextmanager
    async def connection(self, path: str) -> AsyncIterator[ClientConnection]:
        """Open a WebSocket and close it with a handshake, with a timeout for each."""
        async with self.handshakes:
            connection = await connect(
                self.url + path,
                proxy=None,
                compression=None,
                ping_interval=None,  # the registry watches for silence
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
        """Follow `symbol` until cancelled, reconnecting as often as necessary."""
        attempt = 0
        while True:
            try:
                async with self.connection(FEED_PATH + symbol) as connection:
                    attempt = 0
                    self.note_connected(symbol)
                    await self.follow(symbol, connection)
            except (OSError, WebSocketException):
                pass  # whatever the error, reconnect
            self.meter.reconnects += 1
            await asyncio.sleep(backoff(attempt))
            attempt += 1

    def note_connected(self, symbol: str) -> None:
        """Set `all_connected` once every symbol has been connected."""
        self.connected.add(symbol)
        if len(self.connected) == len(self.meter.tracks):
            self.all_connected.set()

    async def follow(self, symbol: str, connection: ClientConnection) -> None:
        """Take every update of one connection: the hot path, 50,000 times a second."""
        receive, heartbeat = connection.recv, self.registry.heartbeat
        track = self.meter.tracks[symbol]
        track.expected = 0
        while True:
            update: Update = decode(await receive(True))[0]
            heartbeat(symbol)
            track.take(update)
