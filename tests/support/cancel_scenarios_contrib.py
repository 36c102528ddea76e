"""Scenarios of what contrib offers, of serve() and record(); see cancel_scenarios."""

import asyncio
import contextlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator

from pyasynclife import SignalCoordinator, TaskRegistry
from pyasynclife.contrib.asgi import lifespan
from pyasynclife.contrib.systemd import notify
from support.cancel_scenarios import LONG, case, furnish


@case(LONG, first=True)
async def lifespan_entered() -> None:
    registry = TaskRegistry()
    async with lifespan(SignalCoordinator(0.25), registry)(None):
        furnish(registry)
        await asyncio.sleep(0.25)


@case(LONG, first=True)
async def lifespan_after_a_request_with_a_drain() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(4, drain=0.5, registry=registry)
    async with lifespan(coordinator, registry)(None):
        furnish(registry)
        await asyncio.sleep(0.25)
        coordinator.request_shutdown()


@contextlib.contextmanager
def systemd() -> Iterator[None]:
    """Listen as systemd does, with a watchdog."""
    name = f"pyasynclife/scenario/{os.getpid()}"
    variables = {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "400000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        os.environ.update(variables)
        try:
            yield
        finally:
            for variable in variables:
                del os.environ[variable]


@case(LONG, first=True)
async def notify_entered() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(1, registry=registry)
    with systemd():
        async with coordinator, registry, notify(coordinator, registry):
            furnish(registry)
            await asyncio.sleep(0.25)


@case(LONG, first=True)
async def notify_around_a_shutdown() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(1, registry=registry)
    with systemd():
        async with notify(coordinator), coordinator:
            furnish(registry)
            asyncio.get_running_loop().call_later(0.25, coordinator.request_shutdown)
            await coordinator.wait_for_shutdown()
            await coordinator.graceful_shutdown()


@case(LONG)
async def serve_on_a_socket() -> None:
    registry = TaskRegistry()
    furnish(registry)
    with tempfile.TemporaryDirectory(prefix="pal-") as directory:
        path = os.path.join(directory, "socket")
        try:
            async with asyncio.timeout(0.25):
                await registry.serve(path)
        except TimeoutError:
            pass
        finally:
            assert not os.path.exists(path)
            await registry.shutdown(1)


@case(LONG, first=True)
async def recorded_to_a_file() -> None:
    registry = TaskRegistry()
    with tempfile.TemporaryDirectory(prefix="pal-") as directory:
        path = os.path.join(directory, "tasks.json")
        try:
            async with registry.record(path), registry:
                furnish(registry)
                await asyncio.sleep(0.25)
        finally:
            if os.path.exists(path):  # else it was cancelled before its first step
                with open(path) as file:
                    json.load(file)
