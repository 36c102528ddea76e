"""examples/aiohttp_fan_out.py: a bad server, and a signal in the middle."""

import signal
from contextlib import ExitStack

import pytest

from support.example_programs import (
    LOOPS,
    finish,
    number_in,
    read_until,
    start,
    start_changed,
)

pytest.importorskip("aiohttp")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def test_requests_are_tried_again_when_the_server_fails() -> None:
    with ExitStack() as stack:
        name = "aiohttp_fan_out"
        children = [stack.enter_context(start(name, *loop)) for loop in LOOPS]
        for child in children:
            done = finish(child)
            assert "completed in" in done.stdout
            # On a machine that stalls for seconds a request may fail four times.
            assert number_in(done.stdout, r"'done': (\d+)") > 950
            assert number_in(done.stdout, r"attempts: .*\b2: (\d+)") > 10
            assert done.stderr == ""


def test_a_signal_starts_no_other_request_and_lets_the_open_ones_end() -> None:
    with ExitStack() as stack:
        options = ("aiohttp_fan_out", "--requests=100000")
        children = [stack.enter_context(start(*options, *loop)) for loop in LOOPS]
        for child, signum in zip(children, SIGNALS, strict=False):
            read_until(child, r"^SYM")
            child.send_signal(signum)
        for child in children:
            done = finish(child)
            assert "stopped in" in done.stdout
            assert "deadline met" in done.stdout
            assert number_in(done.stdout, r"'done': (\d+)") > 100
            assert number_in(done.stdout, r"'pending': (\d+)") > 1000
            assert done.stderr == ""


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("86400", 30, 30),
        ("9" * 400, 30, 30),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 30, 30),
        ("Mon, 01 Jan 1990 00:00:00 GMT", 0, 0),
        *((hostile, 0, 0.2) for hostile in ("", "soon", "inf", "nan", "-5")),
    ],
)
def test_what_the_server_asks_for_is_limited(
    header: str, least: float, most: float
) -> None:
    """A header that is neither seconds nor a date counts as none."""
    change = f"""
error = m.Unavailable(503, {header!r})
sys.exit(not {least} <= m.seconds_to_wait(1, error) <= {most})
"""
    with start_changed("aiohttp_fan_out", change) as child:
        finish(child)
