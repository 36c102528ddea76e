"""Many requests over few connections: so many in all, and so many to each host.

    python examples/bounded_connection_manager.py [--requests 20000] [--uvloop]

Eight TCP servers, which this program starts, stand for eight hosts. At most 40
connections are open, at most 8 to one host, and idle ones are used again. At times a
host drops one, does not answer, or is busy: the request is tried again. After Ctrl-C or
SIGTERM the open requests have five seconds; then connections and servers are closed.

From the article that opens with "The Problem Nobody Warns You About", section "Failure
Mode 3: File Descriptor Exhaustion".

What was wrong: the semaphore was in a function that nobody could call, a request that
waited was a task, and there was no pool and no timeout. Here such a request is no task,
and connections are used again, and closed in order.
"""

import argparse
import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress

from pyasynclife import ClosedError, Retry, SignalCoordinator, TaskGroup, TaskPool

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class ConnectionManager:
    """Sends requests, of a line each, to hosts that are ports of this machine."""

    def __init__(self, limit: int, per_host: int) -> None:
        self.idle: dict[int, list[Connection]] = {}
        self.open: Counter[int] = Counter()  # connections, by port
        self.limit, self.most, self.most_of_one = limit, 0, 0
        self.attempts: Counter[int] = Counter()
        self.pool = TaskPool(
            limit,
            limit_by=lambda port, line: port,
            max_per_key=per_host,
            max_pending=1000,
            retry=Retry(5, on=OSError, attempt_timeout=1.0),
            on_result=lambda result: self.attempts.update([result.attempts]),
        )

    async def fetch(self, port: int, line: bytes) -> bytes:
        """Send a request, and return the answer; submit this to the pool."""
        reader, writer = await self._connect(port)
        try:
            writer.write(line + b"\n")
            answer = await reader.readline()
            if not answer:
                raise ConnectionError(f"port {port} has closed the connection")
        except BaseException:  # an answer may still come over it
            self.close(port, writer)
            raise
        self.idle.setdefault(port, []).append((reader, writer))
        if answer == b"busy\n":
            raise ConnectionError(f"port {port} is busy")
        return answer

    async def _connect(self, port: int) -> Connection:
        while idle := self.idle.get(port):
            reader, writer = idle.pop()
            if not reader.at_eof():
                return reader, writer
            self.close(port, writer)  # the host has closed it meanwhile
        if self.open.total() == self.limit:  # so another host has an idle connection
            other = max(self.idle, key=lambda one: len(self.idle[one]))
            self.close(other, self.idle[other].pop(0)[1])
        self.open[port] += 1
        self.most = max(self.most, self.open.total())
        self.most_of_one = max(self.most_of_one, self.open[port])
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except BaseException:
            self.open[port] -= 1
            raise

    def close(self, port: int, writer: asyncio.StreamWriter) -> None:
        writer.close()
        self.open[port] -= 1


@asynccontextmanager
async def bounded_connection_manager(
    limit: int = 40, per_host: int = 8
) -> AsyncIterator[ConnectionManager]:
    """Leaving the block waits for the requests, and then closes the connections."""
    manager = ConnectionManager(limit, per_host)
    try:
        async with manager.pool:  # an exception cancels the requests
            yield manager
    finally:
        for port, connections in manager.idle.items():
            for _, writer in connections:
                manager.close(port, writer)


async def send_requests(requests: int, trouble_every: int) -> None:
    well = ["well"] * (trouble_every - 1)
    answers = itertools.cycle([*well, "busy", *well, "hang", *well, "drop"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError), closing(writer):
            while await reader.readline() and (answer := next(answers)) != "drop":
                if answer == "hang":
                    await reader.read()  # until the other end has gone
                await asyncio.sleep(0.005)
                writer.write(f"{answer}\n".encode())

    coordinator = SignalCoordinator(10.0, drain=5.0, kill_after=12.0)
    async with coordinator, TaskGroup() as group, AsyncExitStack() as stack:
        ports = []
        for _ in range(8):
            server = await asyncio.start_server(
                lambda *streams: group.create_task(serve(*streams)), "127.0.0.1", 0
            )
            await stack.enter_async_context(server)
            ports.append(server.sockets[0].getsockname()[1])
        manager = await stack.enter_async_context(bounded_connection_manager())
        coordinator.attach(manager.pool)
        with suppress(ClosedError):  # after a signal the pool takes no more
            for number in range(requests):
                await manager.pool.put(manager.fetch, ports[number % 8], b"hello")
                if number % 2000 == 1999:
                    print(manager.pool.progress.done, "done", flush=True)
            await manager.pool.join()
        if coordinator.shutdown_event.is_set():
            print(await coordinator.graceful_shutdown())
    print(manager.pool.progress.done, "done; attempts:", dict(manager.attempts))
    print(f"at most {manager.most} connections, {manager.most_of_one} of one host")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--trouble-every", type=int, default=150, help="requests")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    new_loop = asyncio.new_event_loop
    if options.uvloop:
        from uvloop import new_event_loop as new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(send_requests(options.requests, options.trouble_every))


if __name__ == "__main__":
    main()
