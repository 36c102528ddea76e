"""examples/monitored_worker.py: what becomes of workers that fail or fall silent."""

import signal
from contextlib import ExitStack

from support.children import Child
from support.example_programs import (
    LOOPS,
    finish,
    number_in,
    read_number,
    read_until,
    start,
    start_changed,
)

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def test_workers_are_seen_until_they_end_and_the_report_names_the_rest() -> None:
    with ExitStack() as stack:
        quiet = ("monitored_worker", "--workers=2", "--drop-every=0", "--hang-every=0")
        children = [stack.enter_context(start(*quiet, *loop)) for loop in LOOPS]
        for child, signum in zip(children, SIGNALS, strict=False):
            line = read_until(child, r"\b2 done").string
            assert line.startswith("3 alive")  # two services, and what prints the line
            assert "0 failed, 0 cancelled; 0 restarts" in line
            assert number_in(line, r"(\d+) jobs") > 20
            child.send_signal(signum)
            done = finish(child)
            assert "shutdown of 3 tasks" in done.stdout
            assert "deadline met" in done.stdout
            assert number_in(done.stdout, r"cancelled +(\d+)") == 3


def test_a_server_that_drops_connections_or_hangs_is_survived() -> None:
    with ExitStack() as stack:

        def begin(loop: list[str], *trouble: str) -> Child:
            options = ("monitored_worker", "--workers=2", *trouble, *loop)
            return stack.enter_context(start(*options))

        drops = [begin(loop, "--drop-every=40", "--hang-every=0") for loop in LOOPS]
        hangs = [begin(loop, "--drop-every=0", "--hang-every=40") for loop in LOOPS]
        for child in drops:
            line = read_until(child, r"[1-9]\d* failed.* ([2-9]|\d\d+) restarts").string
            jobs = number_in(line, r"(\d+) jobs")
            while jobs == number_in(read_until(child, "jobs").string, r"(\d+) jobs"):
                pass  # no other job yet
        for child in hangs:
            silent = read_until(child, r"^shift-\d is silent").string  # by the monitor
            assert "monitored_worker.py" in silent  # where it waits
            read_until(child, r"[1-9]\d* cancelled; [1-9]\d* restarts")
        for child, signum in zip(drops + hangs, SIGNALS * 2, strict=False):
            child.send_signal(signum)
        for child in drops:
            done = finish(child)
            assert "the server has left after" in done.stderr
            assert "deadline met" in done.stdout
        for child in hangs:
            done = finish(child)
            assert "is stale: no heartbeat for" in done.stderr
            assert "deadline met" in done.stdout


def test_a_service_worker_that_ends_slowly_is_replaced_and_not_ended() -> None:
    change = """
import asyncio
worker = m.monitored_worker
async def slow(*args, **options):
    try:
        return await worker(*args, **options)
    finally:
        await asyncio.sleep(2)  # the monitor looks meanwhile, too
m.monitored_worker = slow
"""
    options = ("--workers=1", "--drop-every=0", "--hang-every=10")
    with start_changed("monitored_worker", change, *options) as child:
        read_number(child, r"(\d+) restarts", 2)
        child.send_signal(signal.SIGTERM)
        done = finish(child)
    assert "service-0 is silent" not in done.stdout
