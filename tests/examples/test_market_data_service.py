"""examples/market_data_service.py: polls, survives its feed, and ends by a deadline."""

import re
import signal
from contextlib import ExitStack

from support.example_programs import (
    LIMIT,
    LOOPS,
    SOON,
    child_of,
    read_number,
    read_until,
    start,
    start_changed,
    start_feed,
    wait_until_gone,
)

NAME = "market_data_service"
SYMBOLS = ["A", "B", "C", "D", "E"]
UPDATES = r"^(\d+) updates, "
RESTARTS = r"(\d+) restarts$"


def test_it_brings_its_own_feed_and_leaves_nothing_behind() -> None:
    with start(NAME) as child:
        read_number(child, r"(\d+) healthy", 3)
        feed = child_of(child.pid)
        child.send_signal(signal.SIGINT)
        done = child.finish(LIMIT)
    assert done.returncode == 0
    assert re.search(r"cancelled +4\n", done.stdout)
    assert done.stdout.endswith(" updates, 0 connections open\n")
    wait_until_gone(feed)


def test_it_survives_a_feed_that_drops_connections_and_hangs() -> None:
    with start_feed() as feed, ExitStack() as stack:
        children = [
            stack.enter_context(
                start_changed(
                    NAME,
                    f"{SOON}m.RESTARTS = 1000",
                    *("--feed", feed.address, *loop, *SYMBOLS),
                )
            )
            for loop in LOOPS
        ]
        updates = [read_number(child, UPDATES, 20) for child in children]
        feed.kill()
        restarts = [read_number(child, RESTARTS, 5) for child in children]
        feed.start()
        for child, before in zip(children, updates, strict=True):
            read_number(child, UPDATES, before + 50)
        feed.hang()
        for child, before in zip(children, restarts, strict=True):
            read_number(child, RESTARTS, before + 5)
        feed.go_on()
        for child in children:
            read_number(child, UPDATES, read_number(child, UPDATES, 0) + 50)
        feed.hang()
        for child in children:
            child.send_signal(signal.SIGTERM)
        ends = [child.finish(LIMIT) for child in children]
    for done in ends:
        assert done.returncode == 0  # at the deadline it would end by the signal
        assert "shutting down: signal 15\n" in done.stdout
        assert re.search(r"cancelled +6\n", done.stdout)
        assert re.search(r"stuck +0\n", done.stdout)
        assert done.stdout.endswith(" updates, 0 connections open\n")
        assert "Unhandled" not in done.stderr
        assert "never retrieved" not in done.stderr


def test_it_ends_with_status_1_when_the_feed_stays_away() -> None:
    with start_feed() as feed:
        options = ["--feed", feed.address]
        with start_changed(NAME, f"{SOON}m.RESTARTS = 2", *options, *SYMBOLS) as child:
            read_number(child, UPDATES, 1)
            feed.kill()
            reason = read_until(child, "^shutting down: (.*)")[1]
            done = child.finish(LIMIT)
    assert re.fullmatch("vital task '[A-E]' gave up", reason)
    assert done.returncode == 1
    assert done.stdout.endswith(" updates, 0 connections open\n")
