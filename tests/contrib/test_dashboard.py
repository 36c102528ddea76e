"""The page of contrib.asgi's /tasks, and the events that it shows."""

import asyncio
import json
import os
import re
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pyasynclife import LoopWatch, SignalCoordinator, TaskPool, TaskRegistry
from pyasynclife.contrib.asgi import probes
from support.browser import needs_browser, opened
from support.children import PATH, Child, start_child
from support.coroutines import forever
from support.registries import a_registry

Message = dict[str, Any]


class Reader:
    """A client of an ASGI application, as a server presents it."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.left = asyncio.Event()
        self._asked = False

    async def receive(self) -> Message:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.put_nowait(message)

    async def event(self) -> dict[str, Any]:
        message = await asyncio.wait_for(self.sent.get(), 20)
        body = message["body"].decode()
        assert body.startswith("data: ")
        assert body.endswith("\n\n")
        event: dict[str, Any] = json.loads(body[6:])
        return event


def scope(path: str, query: bytes = b"", accept: bytes = b"*/*") -> Message:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query,
        "headers": [(b"accept", accept)],
    }


@asynccontextmanager
async def streaming(
    coordinator: SignalCoordinator, registry: TaskRegistry, query: bytes = b""
) -> AsyncIterator[Reader]:
    reader = Reader()
    app = probes(coordinator, registry)
    task = asyncio.ensure_future(
        app(scope("/tasks/events", query), reader.receive, reader.send)
    )
    try:
        yield reader
    finally:
        reader.left.set()
        await asyncio.wait_for(task, 20)


async def page(accept: bytes) -> tuple[dict[bytes, bytes], bytes]:
    reader = Reader()
    async with a_registry() as registry:
        app = probes(SignalCoordinator(), registry)
        await app(scope("/tasks", accept=accept), reader.receive, reader.send)
    start, body = reader.sent.get_nowait(), reader.sent.get_nowait()
    assert start["status"] == 200
    return dict(start["headers"]), body["body"]


async def test_a_browser_gets_a_page_and_everybody_else_json() -> None:
    headers, body = await page(b"text/html,application/xhtml+xml,*/*;q=0.8")
    assert headers[b"content-type"].startswith(b"text/html")
    assert body.startswith(b"<!doctype html>")
    for accept in (b"*/*", b"application/json", b""):
        headers, body = await page(accept)
        assert headers[b"content-type"] == b"application/json"
        assert json.loads(body)["tasks"] == []


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    headers, body = await page(b"text/html")
    assert b"default-src 'none'" in headers[b"content-security-policy"]
    for foreign in (b"http:", b"https:", b" src=", b"@import", b"url("):
        assert foreign not in body


async def test_the_events_show_the_tasks_as_asked() -> None:
    async with a_registry() as registry:
        for name in ("feed-0", "feed-1", "other"):
            registry.register(forever(), name)
            await asyncio.sleep(0)
        query = b"sort=age&filter=feed"
        async with streaming(SignalCoordinator(), registry, query) as reader:
            start = await asyncio.wait_for(reader.sent.get(), 20)
            headers = dict(start["headers"])
            assert headers[b"content-type"] == b"text/event-stream"
            for _ in range(2):
                event = await reader.event()
                assert [row["id"] for row in event["rows"]] == ["feed-0", "feed-1"]
                assert event["stats"]["alive"] == 3
                assert event["phase"] == "running"


async def test_the_events_have_the_lag_and_the_pools_of_the_coordinator() -> None:
    coordinator = SignalCoordinator()
    async with a_registry() as registry, LoopWatch(600.0), TaskPool(2) as pool:
        coordinator.attach(pool)
        job = pool.submit(forever)
        await asyncio.sleep(0)
        async with streaming(coordinator, registry) as reader:
            await reader.sent.get()
            event = await reader.event()
        job.cancel()
    assert event["lag"]["blocked"] == 0
    [work] = event["work"]
    assert (work["kind"], work["total"], work["running"]) == ("TaskPool", 1, 1)


async def test_the_stream_ends_when_the_shutdown_begins() -> None:
    coordinator = SignalCoordinator()
    async with a_registry() as registry, streaming(coordinator, registry) as reader:
        await reader.sent.get()
        await reader.event()
        coordinator.request_shutdown()
        assert (await reader.event())["phase"] == "draining"
        last = await asyncio.wait_for(reader.sent.get(), 20)
        assert not last.get("more_body")


async def test_the_stream_ends_with_its_reader() -> None:
    async with a_registry() as registry:
        async with streaming(SignalCoordinator(), registry) as reader:
            await reader.sent.get()
            await reader.event()
        assert not [t for t in asyncio.all_tasks() if "_send_all" in repr(t)]


async def test_options_that_make_no_sense_are_an_event() -> None:
    async with a_registry() as registry:
        query = b"sort=%ff&filter=\xff"
        async with streaming(SignalCoordinator(), registry, query) as reader:
            await reader.sent.get()
            assert "sort must be one of" in (await reader.event())["error"]


async def test_without_a_registry_there_are_no_events() -> None:
    reader = Reader()
    app = probes(SignalCoordinator())
    await app(scope("/tasks/events"), reader.receive, reader.send)
    assert reader.sent.get_nowait()["status"] == 404


@pytest.mark.parametrize("mount", [b"", b"/admin"])
async def test_events_answer_get_and_head_alone(mount: bytes) -> None:
    async with a_registry() as registry:
        app = probes(SignalCoordinator(), registry)
        for method, status in (("HEAD", 200), ("POST", 405), ("DELETE", 405)):
            reader = Reader()
            path, root = f"{mount.decode()}/tasks/events", mount.decode()
            about = scope(path) | {"method": method, "root_path": root}
            await asyncio.wait_for(app(about, reader.receive, reader.send), 20)
            start, end = reader.sent.get_nowait(), reader.sent.get_nowait()
            assert start["status"] == status
            headers = dict(start["headers"])
            if method == "HEAD":
                assert headers[b"content-type"] == b"text/event-stream"
                assert end["body"] == b""
            else:
                assert headers[b"allow"] == b"GET, HEAD"
            assert not end.get("more_body")


async def test_a_reader_that_has_left_is_no_error_of_the_application() -> None:
    class Gone(Reader):
        async def send(self, message: Message) -> None:
            await super().send(message)
            if message["type"] == "http.response.body":
                raise OSError("the client has left")

    async with a_registry() as registry:
        app, reader = probes(SignalCoordinator(), registry), Gone()
        await asyncio.wait_for(
            app(scope("/tasks/events"), reader.receive, reader.send), 20
        )


# ------------------------------------------------------------ in a browser

SERVER = """
import asyncio, socket
import uvicorn
from pyasynclife import LoopWatch, SignalCoordinator, TaskPool, TaskRegistry
from pyasynclife.contrib.asgi import lifespan, probes

registry = TaskRegistry()
coordinator = SignalCoordinator(5, registry=registry)

async def feed():
    while True:
        await asyncio.sleep(0.05)
        registry.heartbeat()

async def main():
    async with (
        LoopWatch(600.0),
        TaskPool(2) as pool,
        lifespan(coordinator, registry)(None),
    ):
        coordinator.attach(pool)
        for delay in (0, 0, 0, 900):
            pool.submit(asyncio.sleep, delay)
        registry.register(feed(), "feed-0")
        registry.register(asyncio.sleep(900), "<b>silent</b>", stale_after=0.001)
        listener = socket.create_server(("127.0.0.1", 0))
        print(listener.getsockname()[1])
        app = probes(coordinator, registry)
        config = uvicorn.Config(app, log_level="warning", lifespan="off")
        await uvicorn.Server(config).serve([listener])

asyncio.run(main())
"""


@pytest.fixture
def server() -> Iterator[tuple[Child, int]]:
    pytest.importorskip("uvicorn")
    with start_child(SERVER, env=PATH) as child:
        yield child, int(child.read_line())


def test_a_server_with_an_open_page_ends_at_once(server: tuple[Child, int]) -> None:
    child, port = server
    url = f"http://127.0.0.1:{port}/tasks/events"
    with urllib.request.urlopen(url, timeout=20) as stream:
        assert stream.readline().startswith(b"data: {")
        child.send_signal(signal.SIGTERM)
        assert b'"phase":"draining"' in stream.read()
    assert child.finish().returncode in (0, -signal.SIGTERM)


@needs_browser
def test_a_browser_shows_the_tasks_live(server: tuple[Child, int]) -> None:
    child, port = server
    with opened(f"http://127.0.0.1:{port}/tasks") as page:
        page.until("document.querySelectorAll('#rows tr').length == 2")
        first = "document.querySelector('#rows tr').innerText"
        assert page.evaluate(first).split()[:3] == [
            "<b>silent</b>",
            "running",
            "stale",
        ]
        page.until(
            "/^TaskPool of 2: 3 of 4 ended, 1 running$/.test(find('work').innerText)"
        )
        assert page.evaluate("document.querySelector('#work progress').value") == 3
        shown = page.evaluate("find('lag').innerText")
        assert re.fullmatch(r"loop lag p99 (more|[\d.]+ ms); blocked 0 times", shown)
        if picture := os.environ.get("PYASYNCLIFE_PICTURE"):
            page.screenshot(picture)
        page.evaluate(
            "document.querySelector('[name=filter]').value = 'feed';"
            "document.querySelector('form').dispatchEvent(new Event('input'))"
        )
        page.until("document.querySelectorAll('#rows tr').length == 1")
        assert page.evaluate(first).startswith("feed-0")
        beats = "document.querySelectorAll('#rows td')[5].innerText"
        before = page.evaluate(beats)
        page.until(f"{beats} != '{before}'")
        child.send_signal(signal.SIGTERM)
        page.until("/draining|does not answer/.test(document.body.innerText)")
    child.finish()
