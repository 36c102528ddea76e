"""Chromium, driven by its DevTools protocol."""

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(
    BROWSER is None or importlib.util.find_spec("websockets") is None,
    reason="Chromium or websockets is not installed",
)


@contextmanager
def opened(url: str) -> Iterator["Page"]:
    """Show a URL in a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        page = Page(directory, url)
        try:
            yield page
        finally:
            page.close()


class Page:
    """A page in Chromium, by its DevTools protocol."""

    def __init__(self, directory: str, url: str) -> None:
        assert BROWSER is not None
        options = ["--headless=new", "--no-sandbox", "--disable-gpu"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={directory}"]
        self.process = subprocess.Popen(
            [BROWSER, *options, "--window-size=1200,700", url],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            # A sanitizer is preloaded into this process, and stops a browser.
            env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
        )
        self._stack = contextlib.ExitStack()
        try:
            self._connect(directory)
        except BaseException:
            self.close()
            raise

    def _connect(self, directory: str) -> None:
        from websockets.sync.client import connect

        port = self._read(Path(directory, "DevToolsActivePort")).split()[0]
        pages = json.load(
            urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20)
        )
        (page,) = (each for each in pages if each["type"] == "page")
        address = page["webSocketDebuggerUrl"]
        self.socket = self._stack.enter_context(connect(address, max_size=None))

    def _read(self, path: Path) -> str:
        deadline = time.monotonic() + 60
        while not (path.exists() and path.read_text().count("\n")):
            assert time.monotonic() < deadline, "the browser does not start"
            time.sleep(0.05)
        return path.read_text()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        message = {"id": 1, "method": method, "params": parameters}
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            if answer.get("id") == 1:
                result: dict[str, Any] = answer["result"]
                return result

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression; of a promise, what it resolves to."""
        options = {"awaitPromise": True, "returnByValue": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        deadline = time.monotonic() + 60
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, self.evaluate("document.body.innerText")
            time.sleep(0.1)

    def screenshot(self, path: str) -> None:
        image = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(image))

    def close(self) -> None:
        self._stack.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
