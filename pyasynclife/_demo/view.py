"""The display during a run: a live table on a terminal, plain lines elsewhere."""

import asyncio
import sys
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Protocol

from pyasynclife import RegistryStats, TaskRegistry
from pyasynclife._demo.meter import Figures, Meter, resident_mib

if TYPE_CHECKING:
    from rich.console import RenderableType

SLOWEST = 8  # symbols shown: one for each row of the table


@dataclass(frozen=True, slots=True)
class Second:
    """The figures of the last second."""

    elapsed: float
    rate: float
    p50: float  # milliseconds from the server's stamp until the update is handled
    p99: float
    lag: float  # milliseconds
    reconnects: int
    resident: float  # MiB
    slowest: list[tuple[str, float, float]]


class View(Protocol):
    """Shows the figures of a second."""

    refresh: float  # seconds

    def start(self) -> None: ...
    def show(self, second: Second, stats: RegistryStats) -> None: ...
    def stop(self) -> None: ...


class PlainView:
    """One line a second."""

    refresh = 1.0

    def start(self) -> None:
        """Do nothing."""

    def show(self, second: Second, stats: RegistryStats) -> None:
        """Print the line."""
        print(
            f"t={second.elapsed:.0f} rate={second.rate:.0f}"
            f" alive={stats.alive} healthy={stats.healthy} stale={stats.stale}"
            f" reconnects={second.reconnects} lag_ms={second.lag:.1f}"
            f" p50_ms={second.p50:.1f} p99_ms={second.p99:.1f}"
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
        self.live.update(draw(second, stats), refresh=True)

    def stop(self) -> None:
        """Release the terminal; the last table stays on it."""
        self.live.stop()


def draw(second: Second, stats: RegistryStats) -> "RenderableType":
    """Make the table: totals on the left, the slowest symbols on the right.

    A single table with fixed widths costs half as much, since rich need not measure it.
    """
    from rich.table import Table

    whole = (
        ("updates a second", f"[bold]{second.rate:,.0f}"),
        ("alive", f"{stats.alive:,}"),
        ("healthy", f"[green]{stats.healthy:,}"),
        ("stale", f"[yellow]{stats.stale:,}"),
        ("reconnects", f"{second.reconnects:,}"),
        ("loop lag", f"{second.lag:.1f} ms"),
        ("latency p50 / p99", f"[bold]{second.p50:.1f} / {second.p99:.1f} ms"),
        ("resident memory", f"{second.resident:.1f} MiB"),
    )
    table = Table(title=f"market feed, {second.elapsed:.0f} s", width=77)
    table.add_column("all symbols", width=17)
    table.add_column("now", width=16, justify="right")
    table.add_column("slowest", width=9)
    table.add_column("price", width=8, justify="right")
    table.add_column("latency", width=11, justify="right")
    slowest = [
        (symbol, f"{price:.2f}", f"{latency * 1e3:.1f} ms")
        for symbol, price, latency in second.slowest
    ]
    for left, right in zip_longest(whole, slowest, fillvalue=("", "", "")):
        table.add_row(*left, *right)
    return table


async def watch(view: View, registry: TaskRegistry, meter: Meter) -> None:
    """Show the figures of each second and the current counts, until cancelled."""
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
        p50=figures.percentile(0.50) * 1e3,
        p99=figures.percentile(0.99) * 1e3,
        lag=meter.take_lag() * 1e3,
        reconnects=meter.reconnects,
        resident=resident_mib(),
        slowest=meter.take_slowest(SLOWEST),
    )


def wants_live_view(plain: bool) -> bool:
    """Return whether stdout is a terminal for the live table."""
    return not plain and sys.stdout.isatty()


def choose_view(plain: bool) -> View:
    """Return the live table if it is wanted, otherwise the plain lines."""
    return LiveView() if wants_live_view(plain) else PlainView()
