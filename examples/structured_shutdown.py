"""Workers in one scope: a signal lets them finish, an error ends them all.

    python examples/structured_shutdown.py [--feed HOST:PORT] [SYMBOL ...]

Each worker asks a feed for one symbol, again and again. The first Ctrl-C or SIGTERM
lets each worker finish the request that it is at, for at most two seconds; then it is
cancelled. A request that fails ten times, or an answer that is no JSON, ends all
workers, with exit status 1.

From the article that opens with "When a market data feed delivers 50,000 price updates
per second across 500 symbols", section "The TaskGroup + Signal Combination".

What was wrong: leaving the block of a group waits for the workers and does not cancel
them, so one that hung held up the shutdown for ever; an error left the function before
it was printed; the signal handlers stayed behind. Here the coordinator ends the group
by a deadline, reports how each worker ended, and restores the handlers.
"""

import argparse
import asyncio
import json
import sys
from contextlib import suppress

from feed_server import local_feed

from pyasynclife import SignalCoordinator, TaskGroup, cancellation_with_retry


async def process_market_data(feed: str, symbol: str) -> None:
    """Ask the feed for a symbol once, and print the answer."""
    host, _, port = feed.rpartition(":")
    async with asyncio.timeout(1.0):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(f"{symbol}\n".encode())
            line = await reader.readline()
        finally:
            writer.close()
    if not line:
        raise ConnectionError("closed by the feed")
    depth = json.loads(line)
    print(f"{symbol}: {depth['bids'][0][0]} / {depth['asks'][0][0]}", flush=True)


async def run_with_structured_shutdown(feed: str, symbols: list[str]) -> int:
    """Run a worker for each symbol until a signal or an error; return how many failed.

    It needs no `run()`: this may be called in the loop of any program, from its main
    thread. `kill_after` ends a process that nothing else ends.
    """
    coordinator = SignalCoordinator(shutdown_timeout=5.0, drain=2.0, kill_after=10.0)
    shutdown = coordinator.shutdown_event
    errors: list[BaseException] = []

    async def watched_worker(symbol: str) -> None:
        while not shutdown.is_set():
            await cancellation_with_retry(
                lambda: process_market_data(feed, symbol),
                max_retries=10,
                retry_delay=0.5,
                retry_on=OSError,  # of which TimeoutError is one
            )
            with suppress(TimeoutError):  # a second's pause, which the signal ends
                await asyncio.wait_for(shutdown.wait(), 1.0)

    try:
        async with coordinator, TaskGroup() as group:
            tasks = [group.create_task(watched_worker(s), name=s) for s in symbols]
            await coordinator.wait_for_shutdown()
            print(await coordinator.graceful_shutdown(tasks))
    except* Exception as failed:
        errors.extend(failed.exceptions)
    for error in errors:
        print(f"a worker failed: {error!r}")
    return len(errors)


def main() -> int:
    """Start a feed, unless one is given, and run the workers."""
    parser = argparse.ArgumentParser(description="Workers in one scope.")
    parser.add_argument("symbols", nargs="*", default=["AAPL", "GOOGL", "NVDA"])
    parser.add_argument("--feed", help="host:port of a feed_server.py")
    given = parser.parse_args()
    with local_feed(given.feed, "--lifetime=0.05") as feed:
        errors = asyncio.run(run_with_structured_shutdown(feed, given.symbols))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
