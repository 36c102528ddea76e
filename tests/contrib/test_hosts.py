"""Other people's servers, unmodified, end in the same order and with the same status
as without us, while requests, streams and WebSockets are open."""

import asyncio
import functools
import os
import signal
import time
from collections import defaultdict
from typing import Any

import pytest

from support.children import run_child
from support.hosts import (
    HOSTS,
    LIMIT,
    Clients,
    Event,
    Server,
    need,
    only_with_all,
    serving,
)
from support.signals import needs_posix

pytestmark = needs_posix

TERM, INT = signal.SIGTERM, signal.SIGINT

# The rank of each event in the end of a process.
RANKS = {
    "signal draining": 1,
    "stream ends": 2,
    "slow ends": 3,
    "feed ends": 4,
    "report ok": 5,
}

SOME = [
    ("uvicorn", TERM, False),
    ("uvicorn-workers", TERM, False),
    ("hypercorn-w0", TERM, False),
    ("gunicorn-aiohttp", INT, False),
    ("aiohttp-uvloop", TERM, False),
]
OTHERS = [
    ("uvicorn", INT, False),
    ("uvicorn-uvloop", TERM, False),
    ("uvicorn-reload", TERM, False),
    ("uvicorn-reload", INT, True),
    ("hypercorn", TERM, False),
    ("hypercorn-uvloop", INT, False),
    ("gunicorn-uvicorn", TERM, False),
    ("gunicorn-preload", TERM, False),
    ("gunicorn-aiohttp", TERM, False),
    ("aiohttp", TERM, False),
    ("aiohttp", INT, False),
]


@functools.cache
def status_without_us(name: str, signum: int, group: bool) -> int:
    """How the same application ends without us, and without clients."""

    async def end(server: Server) -> int:
        await server.is_up()
        server.kill(signum, group)
        return await server.ended()

    with serving(HOSTS[name], with_us=False) as server:
        return asyncio.run(end(server))


def in_order(events: list[Event]) -> dict[int, list[str]]:
    """The first of each event in the end of each process."""
    ends: dict[int, list[str]] = defaultdict(list)
    for event in events:
        if event.name in RANKS and event.name not in ends[event.pid]:
            ends[event.pid].append(event.name)
    return dict(ends)


@pytest.mark.parametrize(
    ("name", "signum", "group"), [*SOME, *(only_with_all(*one) for one in OTHERS)]
)
def test_a_host_ends_in_order_and_with_its_own_status(
    name: str, signum: int, group: bool
) -> None:
    host = HOSTS[name]
    need(host)
    import httpx

    async def end(server: Server) -> dict[str, Any]:
        await server.is_up()
        return await Clients(server).run(signum, group)

    for attempt in range(5):
        with serving(host) as server:
            try:
                got = asyncio.run(end(server))
            except httpx.RemoteProtocolError:
                # Ctrl-C reaches uvicorn's worker, and so does a SIGTERM of its
                # supervisor. If that comes during the handler of the first, uvicorn
                # takes it for a second Ctrl-C and cuts requests, also without us.
                assert group
                assert attempt < 4
                assert "Waiting for connections" not in server.output()
                continue
            ends = in_order(server.events())
            output = server.output()
        break
    assert got == {
        "slow": 200,
        "stream": ["data: hello", "data: bye"],
        "websocket": "hello",
        "status": status_without_us(name, signum, group),
    }
    assert len(ends) == host.processes
    seen = set()
    for end_of_one in ends.values():
        assert end_of_one == sorted(end_of_one, key=lambda event: RANKS[event])
        assert {"signal draining", "report ok"} <= set(end_of_one)
        seen.update(end_of_one)
    assert seen == set(RANKS)
    assert "Traceback" not in output


# ------------------------------------------------- lame duck, and the kubelet's part


async def probe(server: Server, path: str = "/readyz") -> int | None:
    """The status of a probe on a new connection; None if it is refused."""
    import httpx

    try:
        async with httpx.AsyncClient(timeout=LIMIT) as client:
            return (await client.get(f"http://{server.url}{path}")).status_code
    except httpx.TransportError:
        return None


LAME = ["uvicorn-uvloop", "hypercorn-w0", "gunicorn-uvicorn", "aiohttp"]


@pytest.mark.parametrize("name", ["uvicorn", *map(only_with_all, LAME)])
def test_a_lame_duck_answers_503_and_then_refuses_connections(name: str) -> None:
    host = HOSTS[name]
    need(host)

    async def play_kubelet(server: Server) -> tuple[list[int | None], int]:
        """Poll readiness, send SIGTERM twice, and wait: SIGKILL is never needed."""
        await server.is_up()
        assert await probe(server, "/livez") == 200
        assert await probe(server) == 200
        assert await probe(server, "/feed") == 200
        server.kill(TERM)
        seen: list[int | None] = []
        while server.process.poll() is None:
            if (status := await probe(server)) not in seen:
                seen.append(status)
                if status == 503:  # it still takes requests
                    last = asyncio.create_task(probe(server, "/slow?seconds=5"))
                    await server.until(lambda: server.events("slow begins"))
                    server.kill(TERM)
            await asyncio.sleep(0.02)
        assert 503 in seen
        assert await last == 200
        return seen, await server.ended()

    with serving(host, lame_duck=3.0) as server:
        seen, status = asyncio.run(play_kubelet(server))
        (end_of_one,) = in_order(server.events()).values()
    assert [one for one in seen if one != 200] == [503, None]
    assert end_of_one == ["signal draining", "slow ends", "feed ends", "report ok"]
    assert status == status_without_us(name, TERM, False)


@pytest.mark.parametrize("name", ["aiohttp", only_with_all("uvicorn")])
def test_tasks_may_be_cancelled_while_the_host_still_drains(name: str) -> None:
    host = HOSTS[name]
    need(host)

    async def end(server: Server) -> dict[str, Any]:
        await server.is_up()
        return await Clients(server).run(TERM, False)

    with serving(host, cancel_on_signal=True) as server:
        got = asyncio.run(end(server))
        (end_of_one,) = in_order(server.events()).values()
    assert got["slow"] == 200
    assert end_of_one.index("feed ends") < end_of_one.index("slow ends")
    assert end_of_one[-1] == "report ok"


def test_reload_replaces_a_process_that_has_streams_open() -> None:
    host = HOSTS["uvicorn-reload"]
    need(host)

    async def touch(server: Server) -> list[str]:
        await server.is_up()
        clients = Clients(server)
        import httpx

        async with httpx.AsyncClient(timeout=LIMIT) as client:
            stream = asyncio.create_task(
                clients.read_stream(client, f"http://{server.url}")
            )
            await server.until(lambda: clients.open == 1)
            later = time.time() + 10
            os.utime(server.folder / "watched.py", (later, later))
            lines = await stream
            await server.until(lambda: len(server.events("start")) == 2)
            await server.until(lambda: server.events("report ok"))
        server.kill(TERM)
        await server.ended()
        return lines

    with serving(host) as server:
        lines = asyncio.run(touch(server))
        ends = in_order(server.events())
    assert lines == ["data: hello", "data: bye"]
    assert list(ends.values()) == [
        ["signal draining", "stream ends", "report ok"],
        ["signal draining", "report ok"],
    ]


@pytest.mark.parametrize("name", ["uvicorn"])
def test_a_signal_during_a_slow_startup_ends_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = HOSTS[name]
    need(host)
    monkeypatch.setenv("HOSTS_SLOW_START", "1")

    async def end(server: Server) -> int:
        await server.until(lambda: server.events("connecting"))
        server.kill(TERM)
        return await server.ended()

    with serving(host) as server:
        status = asyncio.run(end(server))
        (end_of_one,) = in_order(server.events()).values()
    assert end_of_one == ["signal draining", "report ok"]
    assert status == status_without_us(name, TERM, False)


@pytest.mark.parametrize(
    "name", [only_with_all("uvicorn"), only_with_all("uvicorn-reload")]
)
def test_a_closed_terminal_ends_a_host_as_without_us(name: str) -> None:
    host = HOSTS[name]
    need(host)

    async def hang_up(server: Server) -> int:
        await server.is_up()
        server.kill(signal.SIGHUP, group=True)
        status = await server.ended()
        await server.is_closed()
        return status

    with serving(host) as server:
        status = asyncio.run(hang_up(server))
    assert status == status_without_us(name, signal.SIGHUP, True)


def test_a_server_in_a_thread_runs_without_signals() -> None:
    need(HOSTS["uvicorn"])
    done = run_child("""
        import threading, time, urllib.request
        import uvicorn
        from fastapi import FastAPI
        from pyasynclife import SignalCoordinator
        from pyasynclife.contrib.asgi import lifespan, probes

        coordinator = SignalCoordinator(5.0, required=False)
        app = FastAPI(lifespan=lifespan(coordinator))
        app.mount("/", probes(coordinator))
        for _ in range(2):
            config = uvicorn.Config(app, port=0, log_level="critical")
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run)
            thread.start()
            while not server.started:
                time.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as answer:
                print(answer.read().decode().strip())
            coordinator.request_shutdown()
            server.should_exit = True
            thread.join()
            print(coordinator.ready)
    """)
    assert (done.stdout.split(), done.stderr) == (["running", "False"] * 2, "")


# --------------------------------------------- what cannot notify the coordinator


@pytest.mark.parametrize("name", [only_with_all("hypercorn-w1")])
def test_a_host_that_tells_its_workers_by_other_means_still_ends_the_tasks(
    name: str,
) -> None:
    host = HOSTS[name]
    need(host)

    async def end(server: Server) -> int:
        await server.is_up()
        assert await probe(server, "/feed") == 200
        server.kill(TERM)
        return await server.ended()

    with serving(host) as server:
        status = asyncio.run(end(server))
        (end_of_one,) = in_order(server.events()).values()
    assert end_of_one == ["feed ends", "report ok"]
    assert status == status_without_us(name, TERM, False)


@pytest.mark.parametrize("name", [only_with_all("uvicorn-max-requests")])
def test_a_host_that_ends_without_a_signal_still_ends_the_tasks(name: str) -> None:
    host = HOSTS[name]
    need(host)

    async def use_up(server: Server, paths: list[str]) -> int:
        await server.is_up()
        for path in paths:
            await probe(server, path)
        return await server.ended()

    with serving(host) as server:
        status = asyncio.run(use_up(server, ["/feed", "/up", "/up"]))
        (end_of_one,) = in_order(server.events()).values()
    assert end_of_one == ["feed ends", "report ok"]
    with serving(host, with_us=False) as server:
        assert asyncio.run(use_up(server, ["/up", "/up", "/up"])) == status
