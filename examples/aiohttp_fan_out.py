"""A thousand HTTP requests, 50 at once, with timeouts, and retries as the server asks.

    python examples/aiohttp_fan_out.py [--requests 1000] [--limit 50] [--uvloop]

Needs aiohttp. The server, which this program starts beside the client, is a bad one: to
some requests it answers 503 with a Retry-After header, to others nothing at all, or it
drops the connection. A request has four attempts, and each of them a second. A request
that waits for its next attempt holds no connection and no slot.

After Ctrl-C or SIGTERM no other request starts, and the open ones end.

From the article that opens with "When a market data feed delivers 50,000 price updates
per second across 500 symbols", section "Limiting Concurrency with Semaphores".

What was wrong: all tasks were created at once, to wait for a semaphore; one error or
timeout discarded all results, and the other requests ran on. Here a request starts when
a slot is free, and each has an outcome of its own.
"""

import argparse
import asyncio
import email.utils
import functools
import itertools
import random
import time
from collections import Counter
from contextlib import suppress

import aiohttp
from aiohttp import web

from pyasynclife import Batch, Retry, SignalCoordinator, TaskResult, bounded_gather, run

LONGEST = 30.0  # seconds to wait, whatever the server asks for
BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)


class Unavailable(Exception):
    """The server asks to come back later."""

    def __init__(self, status: int, header: str | None) -> None:
        super().__init__(f"status {status}, Retry-After: {header}")
        self.header = header


async def fetch_ticker(session: aiohttp.ClientSession, symbol: str) -> float:
    """Make one request; what can be tried again is an exception of its own."""
    async with session.get(f"/tickers/{symbol}") as response:
        if response.status in (429, 503):
            raise Unavailable(response.status, response.headers.get("Retry-After"))
        response.raise_for_status()  # any other error is final
        price: float = (await response.json())["price"]
        return price


def seconds_to_wait(attempt: int, error: Exception) -> float:
    """Return what the server asks for, or a random part of a growing delay."""
    if isinstance(error, Unavailable) and error.header is not None:
        if error.header.isdecimal():
            return min(float(error.header), LONGEST)
        with suppress(ValueError):  # neither seconds nor a date
            due = email.utils.parsedate_to_datetime(error.header).timestamp()
            return min(max(0.0, due - time.time()), LONGEST)
    return random.uniform(0.0, 0.2 * attempt)


def show(result: TaskResult[float]) -> None:
    """Print a line now and then."""
    if result.index % 250 == 249:
        print(f"{result.task_id}: {result.state}", flush=True)


def fetch_with_limit(
    session: aiohttp.ClientSession, symbols: list[str], concurrency: int
) -> Batch[float]:
    """Return the batch of the requests; await it for their results."""
    retry = Retry(
        attempts=4,
        on=(Unavailable, *BROKEN, TimeoutError),
        backoff=seconds_to_wait,
        attempt_timeout=1.0,
    )
    fetch = functools.partial(fetch_ticker, session)
    return bounded_gather(
        fetch, symbols, max_concurrent=concurrency, retry=retry, on_result=show
    )


def bad_server(trouble_every: int) -> web.Application:
    """Return a server that fails, in turn, in three ways."""
    well = [""] * (trouble_every - 1)
    troubles = itertools.cycle([*well, "503", *well, "hang", *well, "drop"])

    async def ticker(request: web.Request) -> web.Response:
        trouble = next(troubles)
        if trouble == "503":
            return web.Response(status=503, headers={"Retry-After": "1"})
        if trouble == "drop" and request.transport is not None:
            request.transport.abort()
        await asyncio.sleep(3600 if trouble == "hang" else 0.01)
        return web.json_response({"price": 150.25})

    app = web.Application()
    app.router.add_get("/tickers/{symbol}", ticker)
    return app


async def fan_out(
    options: argparse.Namespace, coordinator: SignalCoordinator, _: object
) -> None:
    """Start the server, make the requests, and say what became of them."""
    server = bad_server(options.trouble_every)
    runner = web.AppRunner(server, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = "http://{}:{}".format(*runner.addresses[0][:2])
        symbols = [f"SYM{number}" for number in range(options.requests)]
        connector = aiohttp.TCPConnector(limit=options.limit)
        async with aiohttp.ClientSession(url, connector=connector) as session:
            batch = fetch_with_limit(session, symbols, options.limit)
            coordinator.attach(batch)  # a signal stops it
            result = await batch
    finally:
        await runner.cleanup()
    states = Counter(str(one.state) for one in result)
    print(f"{result.status} in {result.duration:.1f} s: {dict(states)}")
    print("attempts:", dict(sorted(Counter(one.attempts for one in result).items())))
    if coordinator.shutdown_event.is_set():
        print(await coordinator.graceful_shutdown())


def main() -> None:
    """Read the options, and make the requests until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--trouble-every", type=int, default=20, help="requests")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    new_loop = asyncio.new_event_loop
    if options.uvloop:
        from uvloop import new_event_loop as new_loop
    body = functools.partial(fan_out, options)
    run(body, shutdown_timeout=10.0, loop_factory=new_loop)


if __name__ == "__main__":
    main()
