"""examples/bounded_connection_manager.py: the limits hold, and so does the drain."""

import ast
import re
import signal
from contextlib import ExitStack

from support.example_programs import LOOPS, finish, number_in, read_until, start

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAME = "bounded_connection_manager"


def check_limits(text: str) -> None:
    assert number_in(text, r"at most (\d+) connections") <= 40
    assert number_in(text, r"(\d+) of one host") <= 8


def test_bad_hosts_are_asked_again_and_the_limits_hold() -> None:
    with ExitStack() as stack:
        options = (NAME, "--requests=3000", "--trouble-every=40")
        children = [stack.enter_context(start(*options, *loop)) for loop in LOOPS]
        for child in children:
            done = finish(child)
            found = re.search(r"^3000 done; attempts: (.*)$", done.stdout, re.M)
            assert found, done.stdout
            attempts = ast.literal_eval(found[1])
            assert sum(attempts.values()) == 3000
            assert sum(n for times, n in attempts.items() if times > 1) >= 40
            check_limits(done.stdout)
            assert done.stderr == ""


def test_a_signal_ends_it_when_the_open_requests_have_ended() -> None:
    with ExitStack() as stack:
        options = (NAME, "--requests=1000000")
        children = [stack.enter_context(start(*options, *loop)) for loop in LOOPS]
        for child, signum in zip(children, SIGNALS, strict=False):
            read_until(child, r"^\d+ done")
            child.send_signal(signum)
        for child in children:
            done = finish(child)
            assert "deadline met" in done.stdout
            check_limits(done.stdout)
            assert done.stderr == ""
