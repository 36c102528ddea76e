"""The search for the highest rate that the client sustains."""

import asyncio

from pyasynclife._demo.meter import Figures, Meter, milliseconds
from pyasynclife._demo.process import FeedProcess

FIRST_RATE = 50  # updates per second and symbol
STEP = 1.1
SETTLE = 0.5  # seconds between setting a new rate and measuring it
MEASURE = 1.5
MIN_ARRIVED = 0.98
MAX_P99 = 0.050


class Ramp:
    """Raises the rate by a tenth every two seconds until it cannot be sustained."""

    def __init__(self, server: FeedProcess, meter: Meter, first_rate: float) -> None:
        self.server = server
        self.meter = meter
        self.rate = first_rate
        self.held = 0.0
        self.verdict = "no rate was measured"

    async def run(self) -> None:
        """Run until a rate is not sustained; `held` is the last one that was."""
        while await self.holds():
            self.held = self.rate
            self.rate *= STEP
            self.server.rate = self.rate

    async def holds(self) -> bool:
        """Measure the current rate; return whether it is sustained."""
        await asyncio.sleep(SETTLE)
        before = self.meter.read()
        await asyncio.sleep(MEASURE)
        figures = Figures.between(before, self.meter.read())
        arrived, p99 = figures.rate / self.rate, figures.percentile(0.99)
        self.verdict = (
            f"of {self.rate:,.0f} {arrived:.1%} arrived, p99 {milliseconds(p99)}"
        )
        return arrived >= MIN_ARRIVED and p99 <= MAX_P99

    def __str__(self) -> str:
        return f"last rate held: {self.held:,.0f} updates a second ({self.verdict})"
