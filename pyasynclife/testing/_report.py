"""What `cancel_everywhere` found, as numbers and as text."""

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
"""The loop turns at whose beginning the caller was cancelled."""

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that did not hold at one point.

    ``swallowed``: a cancellation was accepted, something else than CancelledError came
    out, and none was pending. ``replaced``: another CancelledError came out than those
    thrown in. ``task left``: tasks were alive when the scenario had been left.
    ``cancelling``: the caller's count was not that of the cancellations.
    ``finally``: a coroutine or an asynchronous generator stayed suspended.
    ``warning``, ``unraisable``: one was issued. ``unretrieved``: an exception that
    nobody asked for; ``loop error``: whatever else the exception handler was told.
    ``hang``, ``endless``: the scenario did not end. ``check``: ``check()`` raised.
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
    """What `cancel_everywhere` did and found; ``str()`` is for a person.

    scenario: its name.  turns: how many turns of the loop it takes undisturbed.
    points: how many times it was run and cancelled.  violations: what did not hold.
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
