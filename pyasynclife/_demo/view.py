"""The display during a run: a live table on a terminal, plain lines elsewhere."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyasynclife import RegistryStats, TaskRegistry
from pyasynclife._demo.meter import Figures, Meter, milliseconds, resident_mib
from pyasynclife._demo.options import wants_live_view

if TYPE_CHECKING:
    from rich.table import Table

TOTALS = (17, 12)  # widths of the columns of the totals
SLOW = (9, 8, 11)  # and of those for the slowest symbols: symbol, price, latency
BORDERS = 3  # characters of a column besides its text
ROWS = 9  # of the table: as many as there are totals
MOST = 3  # triples of columns for the slowest symbols, on a wide terminal


@dataclass(frozen=True, slots=True)
class Second:
    """The figures of the last second."""

    elapsed: float
    rate: float
    p50: str  # milliseconds from the server's stamp until the update is handled
    p99: str
    lag: str
    resident: float  # MiB
    slowest: list[tuple[str, float, float]]


class View(Protocol):
    """Shows the figures of a second."""

    refresh: float  # seconds between two calls of `show`

    def start(self) -> None:
        """Begin to show figures."""

    def show(self, second: Second, stats: RegistryStats) -> None:
        """Show the figures of the last second and the current counts."""

    def stop(self) -> None:
        """Stop; the last figures stay on the screen."""


class PlainView:
    """Prints one line a second."""

    refresh = 1.0

    def start(self) -> None:
        """Do nothing."""

    def show(self, second: Second, stats: RegistryStats) -> None:
        """Print the line, whose values have neither units nor spaces."""
        lag, p50, p99 = (
            value.removesuffix(" ms").replace(" ", "")
            for value in (second.lag, second.p50, second.p99)
        )
        print(
            f"t={second.elapsed:.0f} rate={second.rate:.0f}"
            f" alive={stats.alive} healthy={stats.healthy} stale={stats.stale}"
            f" reconnects={stats.restarts} lag_ms={lag} p50_ms={p50} p99_ms={p99}"
            f" rss_mib={second.resident:.2f}",
            flush=True,
        )

    def stop(self) -> None:
        """Do nothing."""


class LiveView:
    """A table that rich redraws in place."""

    refresh = 0.25

    def __init__(self) -> None:
        from rich.live import Live

        self.live = Live(auto_refresh=False)

    def start(self) -> None:
        """Take over the terminal."""
        self.live.start()

    def show(self, second: Second, stats: RegistryStats) -> None:
        """Redraw the table."""
        table = draw(second, stats, self.live.console.width)
        self.live.update(table, refresh=True)

    def stop(self) -> None:
        """Release the terminal; the last table stays on it."""
        self.live.stop()


def draw(second: Second, stats: RegistryStats, width: int) -> "Table":
    """Make the table: totals on the left, then as many slow symbols as there is room.

    One table with fixed widths costs half as much, since rich does not measure it.
    """
    from rich.table import Table

    totals = (
        ("updates a second", f"[bold]{second.rate:,.0f}"),
        ("alive", f"{stats.alive:,}"),
        ("healthy", f"[green]{stats.healthy:,}"),
        ("stale", f"[yellow]{stats.stale:,}"),
        ("restarts", f"{stats.restarts:,}"),
        ("loop lag", second.lag),
        ("latency p50", f"[bold]{second.p50}"),
        ("latency p99", f"[bold]{second.p99}"),
        ("resident memory", f"{second.resident:.1f} MiB"),
    )
    triples = max(0, min(MOST, (width - total(TOTALS) - 1) // total(SLOW)))
    widths = TOTALS + SLOW * triples
    spare = max(0, width - total(widths) - 1) // len(widths) if triples else 0
    names = ("all symbols", "now") + ("slowest", "price", "latency") * triples
    table = Table(title=f"market feed, {second.elapsed:.0f} s")
    for number, (name, room) in enumerate(zip(names, widths, strict=True)):
        left = number == 0 or name == "slowest"
        table.add_column(name, width=room + spare, justify="left" if left else "right")
    slowest = [
        (symbol, f"{price:.2f}", milliseconds(latency))
        for symbol, price, latency in second.slowest
    ]
    slowest += [("", "", "")] * (ROWS * triples - len(slowest))
    for row, pair in enumerate(totals):
        found = (slowest[row + ROWS * number] for number in range(triples))
        table.add_row(*pair, *(text for triple in found for text in triple))
    return table


def total(widths: tuple[int, ...]) -> int:
    """Return the width of columns with these widths of text."""
    return sum(widths) + BORDERS * len(widths)


async def watch(view: View, registry: TaskRegistry, meter: Meter) -> None:
    """Show the figures of the last second and the current counts, until cancelled."""
    view.start()
    try:
        first = last = meter.read()
        second: Second | None = None
        while True:
            await asyncio.sleep(view.refresh)
            now = meter.read()
            if now.moment - last.moment >= 0.99:
                elapsed = now.moment - first.moment
                second = summarize(Figures.between(last, now), elapsed, meter)
                last = now
            if second is not None:
                view.show(second, registry.stats())
    finally:
        view.stop()


def summarize(figures: Figures, elapsed: float, meter: Meter) -> Second:
    """Return the figures of the last second."""
    return Second(
        elapsed=elapsed,
        rate=figures.rate,
        p50=milliseconds(figures.percentile(0.50)),
        p99=milliseconds(figures.percentile(0.99)),
        lag=milliseconds(meter.take_lag()),
        resident=resident_mib(),
        slowest=meter.take_slowest(ROWS * MOST),
    )


def choose_view(plain: bool) -> View:
    """Return the live table if it is wanted, otherwise the plain lines."""
    return LiveView() if wants_live_view(plain) else PlainView()
