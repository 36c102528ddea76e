"""The parts of the demo put together: snapshots, subscriptions, view, shutdown."""

import asyncio
import gc
import logging
import math
import resource
from contextlib import suppress

from pyasynclife import (
    SignalCoordinator,
    TaskGroup,
    TaskMetadata,
    TaskRegistry,
    bounded_gather,
)
from pyasynclife._demo.client import FeedClient
from pyasynclife._demo.market import symbol_names
from pyasynclife._demo.meter import Figures, Meter
from pyasynclife._demo.options import Options, loop_factory
from pyasynclife._demo.process import FeedProcess
from pyasynclife._demo.ramp import FIRST_RATE, Ramp
from pyasynclife._demo.report import print_report
from pyasynclife._demo.view import choose_view, watch
from pyasynclife._interrupts import raise_interrupts

MONITOR_INTERVAL = 0.2  # seconds between checks for stale symbols
SHUTDOWN_TIMEOUT = 5.0
SNAPSHOT_LIMIT = 50
SNAPSHOT_TIMEOUT = 5.0
SPARE_FILES = 100  # open files besides the subscriptions


class Demo:
    """One run of the demo; needs a started feed server and a running loop."""

    def __init__(self, options: Options, server: FeedProcess) -> None:
        self.options = options
        self.server = server
        self.symbols = symbol_names(options.symbols)
        self.meter = Meter(self.symbols)
        self.registry = TaskRegistry(
            MONITOR_INTERVAL, math.inf, on_stale=self.count_stale
        )
        self.client = FeedClient(server.url, self.registry, self.meter)
        self.coordinator = SignalCoordinator(SHUTDOWN_TIMEOUT, registry=self.registry)
        self.ramp = Ramp(server, self.meter, first_rate(options))
        self.began = self.meter.read()

    async def run(self) -> None:
        """Run until a signal arrives or the time is up, then shut down and report."""
        view = choose_view(self.options.plain)
        async with self.coordinator, self.registry:
            async with TaskGroup() as group:
                group.create_task(self.server.keep_feeding())
                group.create_task(self.feed())
                group.create_task(self.client.begin_judging())
                group.create_task(self.meter.watch_lag())
                group.create_task(watch(view, self.registry, self.meter))
                await self.coordinator.wait_for_shutdown()
                group.cancel()
            run = Figures.between(self.began, self.meter.read())
            report = await self.coordinator.graceful_shutdown()
        if not self.options.rate:
            print(self.ramp)
        print_report(self.meter, run, self.registry.stats(), report)

    async def feed(self) -> None:
        """Fetch snapshots, subscribe, and request the shutdown when the time is up."""
        await self.take_snapshots()
        self.client.supervise_all()
        await self.client.warm_up()
        print(f"{len(self.client.connected)} subscriptions are live", flush=True)
        gc.freeze()  # the collector need not scan these objects, which stay alive
        self.began = self.meter.read()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.seconds):
                if self.options.rate:
                    await asyncio.Event().wait()
                await self.ramp.run()
        self.coordinator.request_shutdown("the time is up")

    async def take_snapshots(self) -> None:
        """Fetch the last price of every symbol, a few at a time."""
        snapshots = await bounded_gather(
            self.client.fetch_snapshot,
            self.symbols,
            max_concurrent=SNAPSHOT_LIMIT,
            timeout=SNAPSHOT_TIMEOUT,
        )
        for snapshot in snapshots.values():
            self.meter.tracks[snapshot["symbol"]].price = snapshot["price"]

    def count_stale(self, _: TaskMetadata) -> None:
        """Count a symbol that has become stale."""
        self.meter.stale_seen += 1


def first_rate(options: Options) -> float:
    """Return the rate to start with."""
    return options.rate or FIRST_RATE * options.symbols


def allow_sockets(count: int) -> None:
    """Raise the limit on open files if it is too low; the server inherits it.

    Raises:
        ValueError: It cannot be raised far enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def run_demo(options: Options) -> None:
    """Start the feed server, run the client, stop the server."""
    logging.basicConfig(level=logging.ERROR)
    factory = loop_factory(options.uvloop)
    raise_interrupts()
    server = FeedProcess(
        options.symbols,
        first_rate(options),
        options.seconds or 10.0,
        uvloop=options.uvloop,
    )
    with server, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(Demo(options, server).run())
