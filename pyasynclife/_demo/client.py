"""The client side of the feed: snapshots, and subscriptions."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

from websockets.asyncio.client import ClientConnection, connect

from pyasynclife import Backoff, TaskRegistry
from pyasynclife._demo.market import FEED_PATH, SNAPSHOT_PATH, Snapshot, Update
from pyasynclife._demo.meter import Meter

BACKOFF = Backoff(0.1, max_delay=5.0)  # of reconnections
MAX_RESTARTS = 30  # a minute; more than these delays allow if the server is down
STALE_AFTER = 1.0
WARM_UP = 10.0  # seconds for the subscriptions to connect
HANDSHAKES = 50  # at once; leaves the loop time for the open connections

decode = json.JSONDecoder().raw_decode  # json.loads, but without skipping whitespace


class FeedClient:
    """The subscriptions to one feed server, whose tasks are in one registry."""

    def __init__(self, url: str, registry: TaskRegistry, meter: Meter) -> None:
        self.url = url
        self.registry = registry
        self.meter = meter
        self.connected: set[str] = set()  # symbols that have ever been connected
        self.all_connected = asyncio.Event()
        self.feeding = asyncio.Event()  # the first update has arrived
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
        """Fetch the last price of a symbol."""
        async with self.connection(SNAPSHOT_PATH + symbol) as connection:
            snapshot: Snapshot = json.loads(await connection.recv())
            return snapshot

    def supervise_all(self) -> None:
        """Subscribe to all symbols; a subscription that breaks is started again."""
        for symbol in self.meter.tracks:
            self.registry.supervise(
                partial(self.subscribe, symbol),
                symbol,
                backoff=BACKOFF,
                max_restarts=MAX_RESTARTS,
            )

    async def subscribe(self, symbol: str) -> None:
        """Follow a symbol until cancelled, or until the connection breaks: an error."""
        async with self.connection(FEED_PATH + symbol) as connection:
            self.connected.add(symbol)
            if len(self.connected) == len(self.meter.tracks):
                self.all_connected.set()
            await self.follow(symbol, connection)

    async def follow(self, symbol: str, connection: ClientConnection) -> None:
        """Receive a connection's updates: the hot path, 50,000 times a second."""
        receive, heartbeat = connection.recv, self.registry.heartbeat
        track = self.meter.tracks[symbol]
        track.expected = 0
        update: Update = decode(await receive(True))[0]
        self.feeding.set()
        while True:
            heartbeat(symbol)
            track.take(update)
            update = decode(await receive(True))[0]

    async def warm_up(self) -> None:
        """Wait until all subscriptions are live, or for `WARM_UP` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self.all_connected.wait(), WARM_UP)

    async def begin_judging(self) -> None:
        """Let silent symbols be stale, once the feed has run for `STALE_AFTER`.

        Until then nothing is stale, though most subscriptions are older than the feed.
        """
        await self.warm_up()
        await self.feeding.wait()
        await asyncio.sleep(STALE_AFTER)
        self.registry.stale_threshold = STALE_AFTER
