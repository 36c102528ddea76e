"""Workers that send heartbeats: a silent one is noticed, ended, and started again.

    python examples/monitored_worker.py [--workers 8] [--uvloop]

Each worker holds a connection to a job server, which this program starts beside them,
and sends a heartbeat with each job. The server drops some connections, and on others it
stops answering.

- A `service` worker runs as long as the program, and is supervised: it is started again
  when it fails, and cancelled and started again when it is stale. The log says where it
  waited.
- A `shift` worker works for three seconds and returns. It is only registered: the
  monitor notices that it is stale, and `on_stale` decides what happens.

A line a second shows the counts. Ctrl-C or SIGTERM ends all tasks, with a report.

From the article that opens with "The Problem Nobody Warns You About", section "Pattern
4: Task Supervision and Monitoring".

What was wrong: a worker that failed was registered for ever, as stale; each heartbeat
took a lock; `CancelledError` was a NameError; and a stale worker was left to itself.
Here the registry sees how each task ends, and failed and stale workers are replaced.
"""

import argparse
import asyncio
import functools
import logging
import math
from typing import Any

from pyasynclife import SignalCoordinator, TaskGroup, TaskMetadata, TaskRegistry, run

HOST = "127.0.0.1"
JOB_SECONDS = 0.02


class JobServer:
    """Hands out jobs, one a line. Every so many requests something goes wrong."""

    def __init__(self, serving: TaskGroup, drop_every: int, hang_every: int) -> None:
        self.serving = serving
        self.drop_every, self.hang_every = drop_every, hang_every
        self.jobs = 0

    def accept(self, *streams: Any) -> None:
        self.serving.create_task(self.serve(*streams))

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while await reader.readline():
                self.jobs += 1
                if self.drop_every and self.jobs % self.drop_every == 0:
                    break
                if self.hang_every and self.jobs % self.hang_every == 0:
                    await reader.read()  # no answer, until the worker has gone
                    break
                writer.write(b"job %d\n" % self.jobs)
                await writer.drain()
        except ConnectionError:
            pass  # the worker has gone
        finally:
            writer.close()


async def monitored_worker(
    registry: TaskRegistry, port: int, work_duration: float = math.inf
) -> dict[str, object]:
    """Do jobs for so many seconds, and send a heartbeat with each."""
    loop = asyncio.get_running_loop()
    end, jobs = loop.time() + work_duration, 0
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        while loop.time() < end:
            writer.write(b"next\n")
            if not await reader.readline():
                raise ConnectionError(f"the server has left after {jobs} jobs")
            await asyncio.sleep(JOB_SECONDS)  # the work
            jobs += 1
            registry.heartbeat()  # of the current task; it need not know its id
        return {"status": "complete", "jobs": jobs}
    finally:  # also when it is cancelled
        writer.close()


async def show(registry: TaskRegistry, server: JobServer) -> None:
    """Print a line a second."""
    while True:
        now = registry.stats()
        print(
            f"{now.alive} alive, {now.healthy} healthy, {now.stale} stale; "
            f"{now.done} done, {now.failed} failed, {now.cancelled} cancelled; "
            f"{now.restarts} restarts; {server.jobs} jobs",
            flush=True,
        )
        await asyncio.sleep(1)


async def serve_workers(
    options: argparse.Namespace, coordinator: SignalCoordinator, _: object
) -> None:
    """Run the server and the workers until a signal comes."""

    def end_it(meta: TaskMetadata) -> None:
        if meta.info == "shift":  # cancel() would end a service worker for good
            print(f"{meta.task_id} is silent, at {registry.where(meta.task_id)[0]}")
            registry.cancel(meta.task_id, f"silent for {meta.silence:.1f} s")

    # Looks twice a second. A worker that says nothing for two seconds is stale.
    registry = TaskRegistry(0.5, stale_threshold=2.0, on_stale=end_it)
    coordinator.attach(registry)  # the signal ends its tasks, by the deadline
    async with TaskGroup() as serving:
        server = JobServer(serving, options.drop_every, options.hang_every)
        listener = await asyncio.start_server(server.accept, HOST, 0)
        port = listener.sockets[0].getsockname()[1]
        async with listener, registry:
            for number in range(options.workers):
                registry.supervise(
                    functools.partial(monitored_worker, registry, port),
                    f"service-{number}",
                    restart_stale=True,
                    max_restarts=100,  # in a minute; then the registry gives it up
                )
                work = monitored_worker(registry, port, work_duration=3.0)
                registry.register(work, f"shift-{number}", info="shift")
            registry.register(show(registry, server), "show", stale_after=math.inf)
            await coordinator.wait_for_shutdown()
            print(await coordinator.graceful_shutdown())


def main() -> None:
    """Read the options, and run until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=8, help="of each kind")
    parser.add_argument("--drop-every", type=int, default=700, help="requests; 0: not")
    parser.add_argument("--hang-every", type=int, default=900, help="requests; 0: not")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    new_loop = asyncio.new_event_loop
    if options.uvloop:
        from uvloop import new_event_loop as new_loop
    body = functools.partial(serve_workers, options)
    run(body, shutdown_timeout=10.0, loop_factory=new_loop)


if __name__ == "__main__":
    main()
