"""The report of `cancel_everywhere`, as numbers and as text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyasynclife._arguments import counted

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
"""The turns (loop iterations) at whose beginnings the caller was cancelled."""

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that was broken at one point.

    Attributes:
        point: The turns at which the caller was cancelled.
        kind: The rule:

            - ``swallowed``: the scenario was cancelled, its outcome was not
              CancelledError, and no cancellation was pending.
            - ``replaced``: the CancelledError that propagated was not one of those
              thrown in; with ``first``, not the first of them.
            - ``task left``: tasks were alive when the scenario had ended.
            - ``cancelling``: the caller's ``cancelling()`` differed from the number of
              cancellations.
            - ``finally``: a coroutine or an asynchronous generator stayed suspended.
            - ``warning``: a warning was issued.
            - ``unretrieved``: an exception was never retrieved.
            - ``loop error``: the loop's exception handler was called for another
              reason.
            - ``unraisable``: ``sys.unraisablehook`` was called.
            - ``hang``, ``endless``: the scenario did not end.
            - ``check``: ``check()`` raised an exception.
        text: The details.
    """

    point: Point
    kind: Kind
    text: str

    def __str__(self) -> str:
        """Return the kind, the point and the details."""
        turns = ", ".join(map(str, self.point))
        when = f"cancelled at turn {turns}" if turns else "undisturbed"
        return f"{self.kind}, {when}: {self.text}"


@dataclass(frozen=True, slots=True)
class CancelReport:
    """The result of `cancel_everywhere`; ``str()`` gives a readable report.

    Attributes:
        scenario: The name of the scenario.
        turns: How many turns (loop iterations) it takes undisturbed.
        points: How many runs of it were cancelled.
        violations: The broken rules.
    """

    scenario: str
    turns: int
    points: int
    violations: list[Violation]

    @property
    def ok(self) -> bool:
        """Whether there are no violations."""
        return not self.violations

    @property
    def wrong(self) -> list[Point]:
        """The points with a violation; pass them as ``points`` to run them again."""
        return list(dict.fromkeys(one.point for one in self.violations))

    def __str__(self) -> str:
        """Return the counts and the first violations."""
        head = (
            f"{self.scenario}: cancelled at {counted(self.points, 'point')} in "
            f"{counted(self.turns, 'turn')}, "
            f"{counted(len(self.violations), 'violation')}"
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
