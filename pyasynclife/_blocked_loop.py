"""BlockedLoop: what a LoopWatch says of a loop that stood still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pyasynclife._arguments import cut
from pyasynclife._log import logger
from pyasynclife._sealed import SealedValue

_SHOWN = 30  # lines of a stack in the log
_NAME = 120  # characters of a Task's name in the log


@final
@dataclass(init=False, frozen=True, slots=True)
class BlockedLoop(SealedValue):
    """What held an event loop up.

    Attributes:
        seconds: By how much the loop's timer was late.
        task: The name of the task that ran; None for a callback of the loop, or if it
            is unknown.
        task_id: The id of the registered task in whose context that was: the task
            itself, or the one that started this child or item; None if there is none.
        where: The stack of the loop's thread that was seen longest: "file:line in
            function", outermost first. Empty if no stack was seen.
        held_gil: Whether C code held the GIL, so that all threads stood still.
    """

    seconds: float
    task: str | None
    task_id: str | None
    where: list[str]
    held_gil: bool


class Seen:
    """The stacks that were seen while one beat was late, with seconds for each."""

    __slots__ = ("due", "places", "stopped", "until")

    def __init__(self, due: float) -> None:
        self.due = due
        self.stopped = False
        self.until = 0.0
        self.places: dict[tuple[tuple[str, ...], str | None, str | None, bool], float]
        self.places = {}

    def add(
        self, late: float, place: tuple[tuple[str, ...], str | None, str | None, bool]
    ) -> None:
        """Add what a look has shown, for the time since the one before."""
        self.places[place] = self.places.get(place, 0.0) + late - self.until
        self.until = late

    def blocked_loop(self, late: float) -> BlockedLoop:
        """Return what was seen longest."""
        lines, task, task_id, held = max(
            self.places, key=self.places.__getitem__, default=((), None, None, False)
        )
        return BlockedLoop._make(
            seconds=late, task=task, task_id=task_id, where=list(lines), held_gil=held
        )


def log(blocked: BlockedLoop) -> None:
    """Log it at WARNING."""
    of = []
    if blocked.task is not None:
        of.append(f" in task {cut(blocked.task, _NAME)!r}")
    if blocked.task_id not in (None, blocked.task):
        of.append(f" of {cut(str(blocked.task_id), _NAME)!r}")
    if blocked.held_gil:
        of.append("; C code held the GIL")
    stack = "".join(f"\n  {line}" for line in blocked.where[-_SHOWN:])
    logger.warning(
        "the event loop stood still for %.3f s%s%s",
        blocked.seconds,
        "".join(of),
        stack,
        extra={} if blocked.task_id is None else {"task_id": blocked.task_id},
    )
