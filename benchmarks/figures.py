"""Rows, and how their contenders are measured in turns."""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from time import thread_time
from typing import Any

# The measured code never waits, so the processor time of the thread is the time of the
# work, and the time that other programs take from the machine does not count.
clock = thread_time

Round = Callable[[], Awaitable[float]]
"""Runs one round of a contender's work; returns the measured seconds."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster ours is than a rival."""

    best: float  # of the best rounds of both
    median: float  # of the ratios, round by round
    must: float | None  # the target; None: there is none

    @property
    def short(self) -> bool:
        return self.must is not None and self.best < self.must


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table.

    A row of times has ratios, and its figures are ns per item. A row with a limit has
    no ratios: ours must not exceed the limit.
    """

    what: str
    n: int
    unit: str
    figures: Mapping[str, float]  # by contender; ours is "ours"
    ratios: Mapping[str, Ratio] = field(default_factory=dict)  # by rival
    limit: float | None = None

    @property
    def short(self) -> bool:
        if self.limit is not None and self.figures["ours"] > self.limit:
            return True
        return any(ratio.short for ratio in self.ratios.values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"short": self.short}


def row_from_dict(fields: dict[str, Any]) -> Row:
    """Make a row from what as_dict() returned."""
    ratios = {rival: Ratio(**ratio) for rival, ratio in fields["ratios"].items()}
    names = ("what", "n", "unit", "figures", "limit")
    return Row(**{name: fields[name] for name in names}, ratios=ratios)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure, and with how much effort."""

    loop: str
    rounds: int
    quick: bool  # less memory, smaller sizes
    scale: float
    only: str

    def size(self, n: int, least: int = 20) -> int:
        """Return the n of a row at this scale."""
        return max(least, round(n * self.scale))


def show_progress(text: str) -> None:
    """Show on stderr what is being measured."""
    print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="", file=sys.stderr)
    if not sys.stderr.isatty():
        print(file=sys.stderr)
    sys.stderr.flush()


async def compete(
    settings: Settings, label: str, contenders: Mapping[str, Round]
) -> dict[str, list[float]]:
    """Run the contenders in turns, round by round; return the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    if not sys.stderr.isatty():
        show_progress(f"{settings.loop}: {label}")
    for number in range(settings.rounds):
        if sys.stderr.isatty():
            place = f"round {number + 1} of {settings.rounds}"
            show_progress(f"{settings.loop}: {label}, {place}")
        for name, run in contenders.items():
            await tidy_up()
            seconds[name].append(await run())
    return seconds


async def tidy_up() -> None:
    """Clear away the timers, tasks and garbage of the previous round."""
    for _ in range(3):
        await asyncio.sleep(0)
    gc.collect()


async def time_row(
    settings: Settings,
    what: str,
    n: int,
    contenders: Mapping[str, Round],
    musts: Mapping[str, float],
    items: int | None = None,
) -> Row:
    """Measure a row of times.

    contenders: by name, one of them "ours".  musts: the target of the ratio to each
    rival.  items: how many items a round has; None: n.
    """
    seconds = await compete(settings, f"{what}, n = {n:,}", contenders)
    ours = seconds.pop("ours")
    ratios = {}
    for rival, theirs in seconds.items():
        pairs = [their / our for their, our in zip(theirs, ours, strict=True)]
        best = min(theirs) / min(ours)
        ratios[rival] = Ratio(best, median(pairs), musts.get(rival))
    seconds["ours"] = ours
    figures = {
        name: min(rounds) / (items or n) * 1e9 for name, rounds in seconds.items()
    }
    return Row(what, n, "ns", figures, ratios)
