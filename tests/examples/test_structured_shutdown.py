"""examples/structured_shutdown.py: a signal or an error ends all workers, in time."""

import re
import signal
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from support.example_programs import (
    LIMIT,
    child_of,
    read_until,
    start,
    start_feed,
    wait_until_gone,
)

NAME = "structured_shutdown"
SYMBOLS = ["A", "B", "C"]


@contextmanager
def fake_feed(answers: Iterator[bytes]) -> Iterator[str]:
    """Give each connection the next answer, and close it."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(next(answers))

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_workers(signum: int) -> None:
    with start(NAME, *SYMBOLS) as child:
        for symbol in SYMBOLS:
            read_until(child, rf"^{symbol}: [\d.]+ / [\d.]+$")
        feed = child_of(child.pid)
        child.send_signal(signum)
        done = child.finish(LIMIT)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "shutdown of 3 tasks" in done.stdout
    assert re.search(r"failed +0\n", done.stdout)
    assert re.search(r"stuck +0\n", done.stdout)
    wait_until_gone(feed)


def test_a_feed_that_hangs_does_not_hold_up_the_shutdown() -> None:
    with (
        start_feed() as feed,
        start(NAME, "--feed", feed.address, *SYMBOLS) as child,
    ):
        read_until(child, "^A: ")
        feed.hang()
        child.send_signal(signal.SIGTERM)
        done = child.finish(LIMIT)
    assert done.returncode == 0
    assert "shutdown of 3 tasks" in done.stdout
    assert re.search(r"stuck +0\n", done.stdout)


def test_dropped_connections_are_tried_again() -> None:
    def answers() -> Iterator[bytes]:
        yield from [b""] * 3
        while True:
            yield b'{"bids": [[1.5, 1]], "asks": [[2.5, 1]]}\n'

    with (
        fake_feed(answers()) as address,
        start(NAME, "--feed", address, *SYMBOLS) as child,
    ):
        read_until(child, r"^[ABC]: 1\.5 / 2\.5$")
        child.send_signal(signal.SIGTERM)
        done = child.finish(LIMIT)
    assert done.returncode == 0


def test_an_error_ends_all_workers_with_status_1() -> None:
    def answers() -> Iterator[bytes]:
        while True:
            yield b"no price\n"

    with (
        fake_feed(answers()) as address,
        start(NAME, "--feed", address, *SYMBOLS) as child,
    ):
        done = child.finish(LIMIT)
    assert done.returncode == 1
    assert "a worker failed: JSONDecodeError(" in done.stdout
    assert "shutdown of" not in done.stdout
