"""A whole application in a few lines: a data fetcher, an HTTP server, one deadline.

    python examples/run_application.py [--feed HOST:PORT] [--port 8080]
    curl http://127.0.0.1:8080/

The server answers with the latest data and the state of both tasks. Ctrl-C or SIGTERM
ends the application within ten seconds, whatever happens, with a report.

From the article that opens with "The Problem Nobody Warns You About", section "Pattern
3: Signal-Driven Graceful Shutdown": `run_application`, the "complete application
template".

What was wrong: if the fetcher or the server failed, the application waited on as if
nothing had happened; a task that ignored its cancellation kept the process alive, in
`wait_for` and again in `asyncio.run`. Here both are vital: they are started again a few
times, then the application ends. And `run()` ends the process by the deadline.
"""

import argparse
import asyncio
import json
import sys
from functools import partial
from math import inf
from typing import Any

from feed_server import local_feed

from pyasynclife import SignalCoordinator, TaskRegistry, run

latest: dict[str, Any] = {}


async def run_data_fetcher(feed: str, registry: TaskRegistry) -> None:
    host, _, port = feed.rpartition(":")
    async with asyncio.timeout(5.0):
        reader, writer = await asyncio.open_connection(host, port)
    try:
        while True:
            async with asyncio.timeout(5.0):
                writer.write(b"AAPL\n")
                line = await reader.readline()
            if not line:
                raise ConnectionError("closed by the feed")
            latest.update(json.loads(line))
            registry.heartbeat()
            await asyncio.sleep(0.2)
    finally:
        writer.close()


async def run_http_server(port: int, registry: TaskRegistry) -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            async with asyncio.timeout(5.0):  # a client may hang as well
                await reader.readuntil(b"\r\n\r\n")
                tasks = {name: registry[name].health for name in registry}
                body = json.dumps({"latest": latest, "tasks": tasks})
                head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n{body}\n".encode())
                await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass  # the client's fault, or its loss
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if registry.closing:
            writer.close()
        else:  # cancelled by the shutdown, and in its report
            registry.register(answer(reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    print("http://{}:{}/".format(*server.sockets[0].getsockname()), flush=True)
    async with server:
        await server.serve_forever()


async def run_application(
    feed: str, port: int, coordinator: SignalCoordinator, registry: TaskRegistry
) -> int:
    data, http = partial(run_data_fetcher, feed), partial(run_http_server, port)
    registry.supervise(partial(data, registry), "data", vital=True)
    registry.supervise(partial(http, registry), "http", vital=True, stale_after=inf)
    signum = await coordinator.wait_for_shutdown()
    print(coordinator.reason or f"signal {signum}")
    print(await coordinator.graceful_shutdown())
    return 0 if signum else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A data fetcher and an HTTP server.")
    parser.add_argument("--feed", help="host:port of a feed_server.py")
    parser.add_argument("--port", type=int, default=8080)
    given = parser.parse_args()
    with local_feed(given.feed) as feed:
        application = partial(run_application, feed, given.port)
        sys.exit(run(application, shutdown_timeout=10.0))
