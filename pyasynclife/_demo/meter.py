"""Count the updates, cheaply enough for 50,000 a second.

Memory use does not grow with time. The counts of a `Meter` only rise; the figures for
an interval are the difference between two readings.
"""

import asyncio
import heapq
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from math import inf, isnan, nan
from time import monotonic
from typing import Self

from pyasynclife._demo.market import Update

BUCKETS_PER_SECOND = 10_000  # a bucket of the histogram is 0.1 ms wide
LAST_BUCKET = 5_000  # this bucket holds every latency of 0.5 s or more
LONGEST = LAST_BUCKET / BUCKETS_PER_SECOND
LAG_INTERVAL = 0.05  # seconds between two measurements of the loop's lag


class Track:
    """Counts the updates of one symbol."""

    __slots__ = ("expected", "latencies", "meter", "price", "symbol", "worst")

    def __init__(self, meter: "Meter", symbol: str) -> None:
        self.meter = meter
        self.latencies = meter.latencies
        self.symbol = symbol
        self.price = nan
        self.expected = 0
        self.worst = 0.0

    def take(self, update: Update) -> None:
        """Count one update, its latency, and the updates lost before it."""
        latency = monotonic() - update["stamp"]
        seq = update["seq"]
        if seq != self.expected:
            self.meter.lost += seq - self.expected
        self.expected = seq + 1
        self.price = update["price"]
        if latency > self.worst:
            self.worst = latency
        bucket = int(latency * BUCKETS_PER_SECOND)
        self.latencies[bucket if bucket < LAST_BUCKET else LAST_BUCKET] += 1


@dataclass(frozen=True, slots=True)
class Reading:
    """The counts at one moment, in seconds of monotonic time."""

    moment: float
    latencies: "array[int]"


class Meter:
    """The counts of the whole run."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self.latencies = array("L", [0] * (LAST_BUCKET + 1))
        self.tracks = {symbol: Track(self, symbol) for symbol in symbols}
        self.lost = 0
        self.stale_seen = 0
        self.lag = 0.0

    def read(self) -> Reading:
        """Return the current counts."""
        return Reading(monotonic(), self.latencies[:])

    def take_slowest(self, count: int) -> list[tuple[str, float, float]]:
        """Return symbol, price and latency of the slowest since the last call.

        The latency is the worst of the symbol's updates, in seconds. Symbols without an
        update are not among them.
        """
        tracks = self.tracks.values()
        updated = (track for track in tracks if track.worst)
        worst = heapq.nlargest(count, updated, key=lambda track: track.worst)
        slowest = [(track.symbol, track.price, track.worst) for track in worst]
        for track in tracks:
            track.worst = 0.0
        return slowest

    def take_lag(self) -> float:
        """Return the longest delay of a timer since the last call."""
        lag, self.lag = self.lag, 0.0
        return lag

    async def watch_lag(self) -> None:
        """Measure how late timers are, until cancelled."""
        while True:
            due = monotonic() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self.lag = max(self.lag, monotonic() - due)


@dataclass(frozen=True, slots=True)
class Figures:
    """The updates between two readings."""

    seconds: float
    latencies: list[int]

    @classmethod
    def between(cls, before: Reading, after: Reading) -> Self:
        """Return the difference between two readings."""
        return cls(
            after.moment - before.moment,
            [b - a for a, b in zip(before.latencies, after.latencies, strict=True)],
        )

    @property
    def updates(self) -> int:
        """The number of updates."""
        return sum(self.latencies)

    @property
    def rate(self) -> float:
        """The number of updates per second."""
        return self.updates / self.seconds

    def percentile(self, share: float) -> float:
        """Return the latency in seconds that `share` of the updates did not exceed.

        inf: It is at least `LONGEST`; nan: there were no updates.
        """
        updates = self.updates
        if not updates:
            return nan
        bucket = bisect_left(list(accumulate(self.latencies)), share * updates)
        return (bucket + 1) / BUCKETS_PER_SECOND if bucket < LAST_BUCKET else inf


def milliseconds(seconds: float) -> str:
    """Return a latency as text, also one that is not known exactly."""
    if isnan(seconds):
        return "-"
    if seconds == inf:
        return f">= {LONGEST * 1e3:.0f} ms"
    return f"{seconds * 1e3:.1f} ms"


def resident_mib() -> float:
    """Return the resident memory of this process; nan where there is no /proc."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) / 256
    except OSError:
        return nan
