"""examples/run_application.py: serves, and ends on a signal or without its feed."""

import json
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.example_programs import (
    LIMIT,
    child_of,
    read_until,
    start,
    start_feed,
    wait_until_gone,
)

NAME = "run_application"


def state_at(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=LIMIT) as response:
        return json.load(response)


def poll(url: str, good: Callable[[Any], object]) -> None:
    until = time.monotonic() + LIMIT
    while not good(state := state_at(url)):
        if time.monotonic() > until:
            pytest.fail(f"the state is still {state}")
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_although_a_client_hangs(signum: int) -> None:
    with start(NAME, "--port", "0") as child:
        url = read_until(child, "http://.*")[0]
        poll(url, lambda state: state["latest"] and len(state["tasks"]) == 3)
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port), LIMIT) as client:
            client.sendall(b"GET / HT")
            poll(url, lambda state: len(state["tasks"]) == 4)
            feed = child_of(child.pid)
            child.send_signal(signum)
            done = child.finish(LIMIT)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert re.search(r"cancelled +3\n", done.stdout)
    assert re.search(r"stuck +0\n", done.stdout)
    wait_until_gone(feed)


def test_it_ends_with_status_1_when_the_feed_stays_away() -> None:
    with (
        start_feed() as feed,
        start(NAME, "--port", "0", "--feed", feed.address) as child,
    ):
        url = read_until(child, "http://.*")[0]
        poll(url, lambda state: state["latest"])
        feed.kill()
        reason = read_until(child, "^vital task 'data' gave up")
        done = child.finish(LIMIT)
    assert reason
    assert done.returncode == 1
    assert re.search(r"cancelled +1\n", done.stdout)
