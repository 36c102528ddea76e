"""Follow hundreds of live market feeds on one event loop, in a few lines.

    python examples/market_feed.py [seconds]

Needs `websockets`. The feed server (a separate process), the WebSocket client and the
counting come from `python -m pyasynclife demo`, which shows more while it runs.
"""

import asyncio
import logging
import math
import sys

from pyasynclife import SignalCoordinator, TaskMetadata, TaskRegistry, bounded_gather
from pyasynclife._demo.client import FeedClient
from pyasynclife._demo.market import symbol_names
from pyasynclife._demo.meter import Figures, Meter
from pyasynclife._demo.process import FeedProcess
from pyasynclife._demo.report import print_report

SYMBOLS = symbol_names(500)
UPDATES_A_SECOND = 50_000


async def follow_the_market(server: FeedProcess, seconds: float) -> None:
    """Fetch a snapshot of every symbol, then follow them all until the time is up."""
    meter = Meter(SYMBOLS)

    def count(_: TaskMetadata) -> None:
        meter.stale_seen += 1

    # Once the feed runs, a symbol that is silent for a second is stale. The registry
    # checks five times a second, and calls on_stale for each newly stale symbol.
    registry = TaskRegistry(0.2, stale_threshold=math.inf, on_stale=count)
    client = FeedClient(server.url, registry, meter)

    snapshots = await bounded_gather(
        client.fetch_snapshot, SYMBOLS, max_concurrent=50, timeout=5.0
    )
    print(f"{len(snapshots.values())} snapshots taken", flush=True)

    # In the block, Ctrl-C and SIGTERM become events. The registry's tasks are shut down
    # at the end, and five seconds after the signal the block has been left.
    coordinator = SignalCoordinator(shutdown_timeout=5.0, registry=registry)
    async with coordinator, registry:
        # Each subscription is a task that calls registry.heartbeat(symbol) on every
        # frame. When the server drops it, registry.supervise() starts it again.
        client.supervise_all()
        registry.register(server.keep_feeding(), "feeder", stale_after=math.inf)
        registry.register(client.begin_judging(), "judge", stale_after=math.inf)
        began = meter.read()

        loop = asyncio.get_running_loop()
        loop.call_later(seconds, coordinator.request_shutdown, "the time is up")
        await coordinator.wait_for_shutdown()
        run = Figures.between(began, meter.read())

        # Cancel all tasks at once; return at the deadline even if one is still running.
        report = await coordinator.graceful_shutdown()
    print_report(meter, run, registry.stats(), report)


def main() -> None:
    """Start the feed server and follow it for the seconds given, or for 10."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    logging.basicConfig(level=logging.CRITICAL)  # the report names what failed
    with FeedProcess(len(SYMBOLS), UPDATES_A_SECOND, seconds) as server:
        asyncio.run(follow_the_market(server, seconds))


if __name__ == "__main__":
    main()
