"""examples/market_data_pipeline.py: loses nothing, and its components end together."""

import re
import signal

from support.example_programs import (
    LIMIT,
    child_of,
    read_until,
    start,
    start_changed,
    start_feed,
    wait_until_gone,
)

NAME = "market_data_pipeline"
ALERT = r"^SYM\d+: [\d.]+, mean [\d.]+$"


def counts(stdout: str) -> dict[str, int]:
    last = stdout.splitlines()[-1]
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", last)}


def test_what_was_fetched_is_finished_before_it_ends() -> None:
    with start(NAME) as child:
        read_until(child, ALERT)
        feed = child_of(child.pid)
        child.send_signal(signal.SIGINT)
        done = child.finish(LIMIT)
    assert done.returncode == 0
    assert re.search(r"finished +3\n", done.stdout)
    count = counts(done.stdout)
    assert count["fetched"] == count["aggregated"] > 0
    assert count["alerts"] == count["shown"] > 0
    wait_until_gone(feed)


def test_it_survives_a_feed_that_drops_connections_and_hangs() -> None:
    with (
        start_feed() as feed,
        start(NAME, "--feed", feed.address) as child,
    ):
        read_until(child, ALERT)
        feed.kill()
        feed.start()  # its prices are others
        for _ in range(20):
            read_until(child, ALERT)
        feed.hang()
        child.send_signal(signal.SIGTERM)
        done = child.finish(LIMIT)
    assert done.returncode == 0
    assert re.search(r"stuck +0\n", done.stdout)
    assert counts(done.stdout)["fetched"] >= 40  # of both feeds


def test_a_component_that_fails_ends_the_others() -> None:
    change = """
async def fail(self):
    await self._ticks.get()
    raise ValueError("no such price")
m.MarketDataPipeline._run_aggregator = fail
"""
    with start_changed(NAME, change) as child:
        done = child.finish(LIMIT)
    assert done.returncode == 1
    assert "ValueError: no such price" in done.stderr
    assert "ExceptionGroup" in done.stderr
