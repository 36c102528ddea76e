"""The report of `cancel_everywhere`, as numbers and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "swallowed",
    "replaced",
    "task left",
    "cancelling",
    "finally",
    "warning",
    "unretrieved",
    "loop error",
    "unraisable",
    "hang",
    "endless",
    "check",
]

Point = tuple[int, ...]
"""The turns (loop iterations) at whose beginning the caller was cancelled."""

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that was broken at one point.

    ``swallowed``: the scenario was cancelled, its outcome was not CancelledError, and
    no cancellation was pending. ``replaced``: the CancelledError that propagated was
    not one of those thrown in. ``task left``: tasks were alive when the scenario had
    ended. ``cancelling``: the caller's count differed from the number of cancellations.
    ``finally``: a coroutine or an asynchronous generator stayed suspended.
    ``warning``: a warning was issued. ``unraisable``: an exception was unraisable.
    ``unretrieved``: an exception was never retrieved. ``loop error``: the loop's
    exception handler was called for any other reason. ``hang``, ``endless``: the
    scenario did not end. ``check``: ``check()`` raised.
    """

    point: Point
    kind: Kind
    text: str

    def __str__(self) -> str:
        turns = ", ".join(map(str, self.point))
        when = f"cancelled at turn {turns}" if turns else "undisturbed"
        return f"{self.kind}, {when}: {self.text}"


@dataclass(frozen=True, slots=True)
class CancelReport:
    """The result of `cancel_everywhere`; ``str()`` of it is a report for people.

    scenario: its name.  turns: how many loop iterations it takes undisturbed.
    points: how many times it was run and cancelled.  violations: the broken rules.
    """

    scenario: str
    turns: int
    points: int
    violations: list[Violation]

    @property
    def ok(self) -> bool:
        """Whether there was no violation."""
        return not self.violations

    @property
    def wrong(self) -> list[Point]:
        """The points with a violation: pass them as ``points`` to see them again."""
        return list(dict.fromkeys(one.point for one in self.violations))

    def __str__(self) -> str:
        head = (
            f"{self.scenario}: cancelled at {self.points} points in {self.turns} "
            f"turns, {len(self.violations)} violations"
        )
        if self.ok:
            return head
        lines = [head]
        for one in self.violations[:_SHOWN]:
            first, *rest = str(one).splitlines()
            lines.append(f"  {first}")
            lines += [f"    {line}" for line in rest if line]
        if len(self.violations) > _SHOWN:
            lines.append(f"  ... and {len(self.violations) - _SHOWN} more")
        lines.append(f"again: cancel_everywhere(..., points={self.wrong[:_SHOWN]})")
        return "\n".join(lines)
