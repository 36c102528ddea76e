"""The figures of the demo: what is not known is not printed as if it were."""

import asyncio
import html
import math
import os
import re
from time import monotonic

import pytest

from pyasynclife import TaskRegistry
from pyasynclife._demo.market import Update
from pyasynclife._demo.meter import Figures, Meter, milliseconds
from pyasynclife._demo.view import PlainView, draw, summarize
from pyasynclife.testing import VirtualTimeLoop
from support.children import ROOT


def figures_of(*latencies: float) -> tuple[Meter, Figures]:
    """Count updates of the symbol A that were sent so many seconds ago."""
    meter = Meter(["A", "B"])
    before = meter.read()
    track = meter.tracks["A"]
    for latency in latencies:
        stamp = monotonic() - latency
        track.take(Update(symbol="A", seq=track.expected, price=1.0, stamp=stamp))
    return meter, Figures.between(before, meter.read())


def test_a_latency_beyond_the_histogram_is_not_printed_as_a_figure() -> None:
    _, figures = figures_of(*[0.0] * 60, *[3.0] * 40)
    assert figures.percentile(0.5) < 0.5
    assert figures.percentile(0.99) == math.inf
    assert milliseconds(figures.percentile(0.99)) == ">= 500 ms"


def test_without_an_update_there_is_no_latency() -> None:
    _, figures = figures_of()
    assert math.isnan(figures.percentile(0.5))
    assert milliseconds(figures.percentile(0.5)) == "-"
    assert figures.rate == 0.0


@pytest.mark.parametrize(
    ("latencies", "printed"),
    [((), "p50_ms=- p99_ms=- "), ((3.0,), "p50_ms=>=500 p99_ms=>=500 ")],
)
def test_a_plain_line_has_the_same_honest_figures(
    latencies: tuple[float, ...], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    meter, figures = figures_of(*latencies)
    PlainView().show(summarize(figures, 1.0, meter), TaskRegistry().stats())
    assert printed in capsys.readouterr().out


def test_only_symbols_with_an_update_are_among_the_slowest() -> None:
    meter, figures = figures_of(0.7)
    second = summarize(figures, 1.0, meter)
    assert [symbol for symbol, *_ in second.slowest] == ["A"]
    assert meter.take_slowest(5) == []


@pytest.mark.parametrize("width", [20, 36, 40, 73, 80, 109, 110, 160, 400])
def test_the_table_is_never_wider_than_the_terminal(width: int) -> None:
    console = pytest.importorskip("rich.console")
    meter, figures = figures_of(0.7, 1.7)
    table = draw(summarize(figures, 1.0, meter), TaskRegistry().stats(), width)
    with open(os.devnull, "w") as nowhere:
        screen = console.Console(width=width, file=nowhere, record=True)
        screen.print(table)
    lines = screen.export_text().splitlines()
    assert max(map(len, lines)) <= width
    if width >= 36:
        assert len(lines) == 14
        assert ">= 500 ms" in "".join(lines)


def test_nothing_is_stale_before_the_feed_has_begun() -> None:
    pytest.importorskip("websockets")
    from pyasynclife._demo.client import STALE_AFTER, FeedClient

    async def follow() -> None:
        registry = TaskRegistry(stale_threshold=math.inf)
        client = FeedClient("", registry, Meter(["A"]))
        async with registry:
            registry.register(asyncio.sleep(1e6), "A")
            judging = asyncio.create_task(client.begin_judging())
            await asyncio.sleep(100)
            client.all_connected.set()
            assert await registry.get_stale_tasks() == []
            client.feeding.set()
            await asyncio.sleep(STALE_AFTER * 0.9)
            assert await registry.get_stale_tasks() == []
            await asyncio.sleep(STALE_AFTER * 0.2)
            assert await registry.get_stale_tasks() == ["A"]
            await judging
            registry.cancel_all()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(follow())


def test_the_picture_of_the_demo_shows_its_command_and_the_rows_of_its_table() -> None:
    pytest.importorskip("rich")
    svg = (ROOT / "docs" / "live-table.svg").read_text()
    text = html.unescape(re.sub(r"<[^>]*>", "", svg)).replace("\xa0", " ")
    assert "$ python -m pyasynclife demo" in text
    meter, figures = figures_of()
    table = draw(summarize(figures, 1.0, meter), TaskRegistry().stats(), 80)
    for label in [
        *table.columns[0].cells,
        *(column.header for column in table.columns),
    ]:
        assert str(label) in text
