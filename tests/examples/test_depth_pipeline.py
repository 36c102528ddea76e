"""examples/depth_pipeline.py: 500 WebSockets, a feed that fails, and the shutdown."""

import re
import signal
from contextlib import ExitStack

import pytest

from support.example_programs import (
    LIMIT,
    LOOPS,
    SOON,
    child_of,
    read_number,
    start,
    start_changed,
    start_feed,
    wait_until_gone,
)

pytest.importorskip("websockets", reason="websockets is not installed")

NAME = "depth_pipeline"
CONNECTED = r"^(\d+) connected"
RESTARTS = r", (\d+) restarts"
RATE = r", (\d+) updates/s"


def test_it_follows_500_symbols_and_ends_all_on_a_signal() -> None:
    with start(NAME, *LOOPS[-1]) as child:
        read_number(child, CONNECTED, 490)  # a few are being replaced
        read_number(child, RATE, 500)
        feed = child_of(child.pid)
        child.send_signal(signal.SIGTERM)
        done = child.finish(LIMIT)
    assert done.returncode == 0  # at the deadline it would end by the signal
    assert re.search(r"cancelled +501\n", done.stdout)
    assert re.search(r"stuck +0\n", done.stdout)
    assert done.stdout.endswith(" updates, 0 connections open\n")
    wait_until_gone(feed)


def test_it_survives_a_feed_that_drops_connections_and_hangs() -> None:
    with start_feed("--websocket") as feed, ExitStack() as stack:
        options = ["--feed", feed.address, "--symbols", "60"]
        children = [
            stack.enter_context(start_changed(NAME, SOON, *options, *loop))
            for loop in LOOPS
        ]
        for child in children:
            read_number(child, CONNECTED, 60)
        feed.kill()
        restarts = [read_number(child, RESTARTS, 60) for child in children]
        feed.start()
        for child in children:
            read_number(child, RATE, 60)
        feed.hang()
        for child, before in zip(children, restarts, strict=True):
            read_number(child, RESTARTS, before + 60)
        feed.go_on()
        for child in children:
            read_number(child, RATE, 60)
        feed.hang()
        for child in children:
            child.send_signal(signal.SIGINT)
        ends = [child.finish(LIMIT) for child in children]
    for done in ends:
        assert done.returncode == 0
        assert re.search(r"cancelled +61\n", done.stdout)
        assert re.search(r"stuck +0\n", done.stdout)
        assert done.stdout.endswith(" updates, 0 connections open\n")
        assert "Unhandled" not in done.stderr
        assert "never retrieved" not in done.stderr
