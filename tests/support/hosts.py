"""Servers in child processes, and the clients that they serve while they end."""

import asyncio
import contextlib
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.children import ROOT

LIMIT = 30.0
"""Seconds for anything: a start, an answer, an end."""


class Host(NamedTuple):
    """A way to run one of our applications."""

    name: str
    modules: tuple[str, ...]  # that must be installed
    command: str  # after `python -m`, with {port} and {app}
    app: str = "support.hosts_fastapi:app"
    processes: int = 1  # that serve
    options: tuple[tuple[str, Any], ...] = ()  # of the coordinator


_UVICORN = "uvicorn {app} --host 127.0.0.1 --port {port} --no-access-log"
_GUNICORN = "gunicorn {app} -b 127.0.0.1:{port} --graceful-timeout 20"
_QUIT = (("shutdown_signals", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]),)
_AIOHTTP = "support.hosts_aiohttp:app"
_ASGI = ("uvicorn", "fastapi", "httpx", "websockets")

HOSTS = {
    host.name: host
    for host in (
        Host("uvicorn", _ASGI, f"{_UVICORN} --loop asyncio"),
        Host("uvicorn-uvloop", (*_ASGI, "uvloop"), f"{_UVICORN} --loop uvloop"),
        Host("uvicorn-reload", _ASGI, f"{_UVICORN} --reload --reload-dir {{folder}}"),
        Host("uvicorn-max-requests", _ASGI, f"{_UVICORN} --limit-max-requests 3"),
        Host("uvicorn-workers", _ASGI, f"{_UVICORN} --workers 2", processes=2),
        Host("hypercorn", (*_ASGI, "hypercorn"), "support.hosts_hypercorn {port} std"),
        Host(
            "hypercorn-uvloop",
            (*_ASGI, "hypercorn", "uvloop"),
            "support.hosts_hypercorn {port} uvloop",
        ),
        Host(
            "hypercorn-w0",
            (*_ASGI, "hypercorn"),
            "hypercorn -w 0 -b 127.0.0.1:{port} {app}",
        ),
        Host(
            "hypercorn-w1",
            (*_ASGI, "hypercorn"),
            "hypercorn -w 1 -b 127.0.0.1:{port} {app}",
        ),
        Host(
            "gunicorn-preload",
            (*_ASGI, "gunicorn", "uvicorn_worker"),
            f"{_GUNICORN} -k uvicorn_worker.UvicornWorker --preload",
            options=_QUIT,
        ),
        Host(
            "gunicorn-uvicorn",
            (*_ASGI, "gunicorn", "uvicorn_worker"),
            f"{_GUNICORN} -k uvicorn_worker.UvicornWorker",
            options=_QUIT,
        ),
        Host(
            "gunicorn-aiohttp",
            (*_ASGI, "gunicorn", "aiohttp"),
            f"{_GUNICORN} -k aiohttp.GunicornWebWorker",
            _AIOHTTP,
            options=_QUIT,
        ),
        Host(
            "aiohttp",
            (*_ASGI, "aiohttp"),
            "support.hosts_aiohttp {port} std",
            _AIOHTTP,
        ),
        Host(
            "aiohttp-uvloop",
            (*_ASGI, "aiohttp", "uvloop"),
            "support.hosts_aiohttp {port} uvloop",
            _AIOHTTP,
        ),
    )
}


def need(host: Host) -> None:
    """Skip the test if the host is not installed."""
    missing = [name for name in host.modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}: the extra hosts has them")


class Event(NamedTuple):
    """What the application has noted."""

    name: str
    pid: int
    time: float


class Server:
    """A host that runs, in a process group of its own."""

    def __init__(self, host: Host, folder: Path, with_us: bool, options: Any) -> None:
        self._host = host
        self.folder = folder
        self._events = folder / "events"
        self._output = open(folder / "output", "w+")  # noqa: SIM115
        self.port = _free_port()
        values = {"port": self.port, "app": host.app, "folder": folder}
        command = host.command.format(**values).split()
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            env=os.environ
            | {
                "PYTHONPATH": path,
                "HOSTS_EVENTS": str(self._events),
                "HOSTS_OPTIONS": json.dumps({**dict(host.options), **options}),
                "HOSTS_WITH_US": "1" if with_us else "0",
            },
        )

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def output(self) -> str:
        self._output.seek(0)
        return self._output.read()

    def events(self, *names: str) -> list[Event]:
        """What was noted so far: all, or what has one of these names."""
        if not self._events.exists():
            return []
        lines = self._events.read_text().splitlines()
        events = [Event(*json.loads(line)) for line in lines]
        return [one for one in events if not names or one.name in names]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds; the server must run meanwhile."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, (self.output(), self.events())
            await asyncio.sleep(0.02)

    async def is_up(self) -> None:
        """Wait until each process has started, and the port is open."""
        await self.until(lambda: len(self.events("start")) >= self._host.processes)
        await self.until(lambda: _is_open(self.port))

    async def is_closed(self) -> None:
        """Wait until no process of the host holds the port."""
        deadline = time.monotonic() + LIMIT
        while _is_open(self.port):
            assert time.monotonic() < deadline, "the port is still served"
            await asyncio.sleep(0.02)

    def kill(self, signum: int, group: bool = False) -> None:
        """Send a signal to the first process, or as a terminal does to all."""
        if group:
            os.killpg(self.process.pid, signum)
        else:
            os.kill(self.process.pid, signum)

    async def ended(self) -> int:
        """Wait for the end; the status."""
        deadline = time.monotonic() + LIMIT
        while (status := self.process.poll()) is None:
            assert time.monotonic() < deadline, (self.output(), self.events())
            await asyncio.sleep(0.02)
        return status

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()


@contextlib.contextmanager
def serving(host: Host, with_us: bool = True, **options: Any) -> Iterator[Server]:
    """Start a host; killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "watched.py").touch()  # by --reload
        server = Server(host, Path(folder), with_us, options)
        try:
            yield server
        finally:
            server.close()


def _free_port() -> int:
    """A port that is free, and that the kernel gives to no one before it is used."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def _is_open(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(LIMIT)
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Clients:
    """A slow request, a stream and a WebSocket that are open when the signal comes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.open = 0

    async def run(self, signum: int, group: bool) -> dict[str, Any]:
        """Open them, send the signal, and return what each has got."""
        import httpx

        async with httpx.AsyncClient(timeout=LIMIT) as client:
            url = f"http://{self._server.url}"
            assert (await client.get(f"{url}/feed")).status_code == 200
            pending = [
                asyncio.create_task(one)
                for one in (self.read_stream(client, url), self._websocket())
            ]
            await self._server.until(lambda: self.open == 2)
            slow = asyncio.create_task(client.get(f"{url}/slow"))
            await self._server.until(lambda: self._server.events("slow begins"))
            self._server.kill(signum, group)
            stream, websocket = await asyncio.gather(*pending)
            answer = await slow
        return {
            "slow": answer.status_code,
            "stream": stream,
            "websocket": websocket,
            "status": await self._server.ended(),
        }

    async def read_stream(self, client: Any, url: str) -> list[str]:
        lines = []
        async with client.stream("GET", f"{url}/events") as response:
            async for line in response.aiter_lines():
                if line:
                    lines.append(line)
                    self.open += len(lines) == 1
        return lines

    async def _websocket(self) -> str:
        from websockets.asyncio.client import connect
        from websockets.exceptions import ConnectionClosed

        async with connect(f"ws://{self._server.url}/ws", proxy=None) as socket:
            first = await socket.recv()
            self.open += 1
            with contextlib.suppress(ConnectionClosed):
                while True:
                    await socket.recv()
            return str(first)


def only_with_all(*values: Any) -> Any:
    """A parameter set that `make test` leaves out: all of them would take minutes."""
    skip = pytest.mark.skipif(
        os.environ.get("PYASYNCLIFE_HOSTS") != "1", reason="make hosts runs it"
    )
    return pytest.param(*values, marks=skip)
