"""cancel_everywhere: run a scenario, cancelled at every iteration of its loop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pyasynclife._arguments import (
    check_count,
    check_flag,
    check_hook,
    check_seconds,
    short,
)
from pyasynclife.testing._report import CancelReport, Point, Violation
from pyasynclife.testing._run import Run, Scenario


def cancel_everywhere(
    scenario: Scenario,
    *,
    again: Iterable[int] = (0, 1, 2, 5),
    points: Iterable[Point] | None = None,
    settle: float = 0.0,
    check: Callable[[], object] | None = None,
    task_factory: Any = None,
    max_turns: int = 10_000,
    first: bool = False,
) -> CancelReport:
    """Run a scenario many times, each time cancelled at another loop iteration.

    A *turn* is one iteration of the loop. The scenario first runs undisturbed. Then its
    caller, a Task, is cancelled at the beginning of the first turn, in the next run of
    the second, and so on, until the scenario ends before its cancellation. Each of
    these runs is followed by others with a second cancellation some turns later. Each
    run has a `VirtualTimeLoop` of its own. These rules are checked after each run:

    - The CancelledError propagates, and is the same object that was thrown in. Another
      outcome is correct only if the cancellation is still pending and will be thrown in
      at the next ``await``.
    - The caller's ``cancelling()`` has increased by the number of these cancellations.
    - No other task is alive, and no coroutine or asynchronous generator is suspended:
      every ``finally`` ran.
    - No warning was issued, every exception was retrieved, and neither the loop's
      exception handler nor ``sys.unraisablehook`` was called.
    - The scenario ended: it did not hang, or take more than ``max_turns`` turns. One
      that does not end undisturbed is not cancelled anywhere.

    Args:
        scenario: Called without arguments for each run; returns a coroutine. It must
            handle the errors that it provokes, and behave the same in each run.
        again: How many turns the second cancellation comes after the first; each number
            makes a run of its own. 0: in the same turn; (): no second one.
        points: Run only these. Each is a tuple of the turns at which to cancel, as
            reports show them: ``[(7,), (7, 9)]``; ``[()]``: undisturbed.
        settle: Virtual seconds in which tasks that outlive the scenario may end by
            themselves. 0: no task may outlive it.
        check: Called after each run; an exception that it raises is a violation.
        task_factory: The task factory of the loops, for example
            ``asyncio.eager_task_factory``.
        max_turns: A scenario that takes more turns than this is reported as endless.
        first: Whether the CancelledError that propagates must be the first one that was
            thrown in. It is not if a second cancellation interrupts an ``await`` of the
            scenario's cleanup; a TaskGroup and a Batch absorb it.

    Returns:
        A report of all runs, for ``assert report.ok, report``.

    Raises:
        TypeError, ValueError: An argument is wrong. Nothing has been run.
        RuntimeError: A loop is already running in this thread.
        Exception: The exception that the scenario raises when it runs undisturbed.

    Example::

        async def scenario() -> None:
            async with asyncio.timeout(10):
                await transfer()

        report = cancel_everywhere(scenario)
        assert report.ok, report
    """
    _refuse(scenario)
    check_hook("check", check)
    offsets = [check_count("again", one) for one in _members("again", again)]
    chosen = None if points is None else _check_points(points)
    harness = _Harness(
        scenario,
        check_seconds("settle", settle),
        check,
        task_factory,
        check_count("max_turns", max_turns, 1),
        check_flag("first", first),
    )
    with _frozen_heap():
        if chosen is not None:
            for point in chosen:
                harness.run(point)
        else:
            harness.run_all(offsets)
    return CancelReport(
        getattr(scenario, "__qualname__", None) or repr(scenario),
        harness.turns,
        harness.points,
        harness.violations,
    )


class _Harness:
    """Runs a scenario at many points and adds up the violations."""

    def __init__(
        self,
        scenario: Scenario,
        settle: float,
        check: Callable[[], object] | None,
        task_factory: Any,
        max_turns: int,
        first: bool,
    ) -> None:
        self._scenario = scenario
        self._settings = (settle, max_turns, task_factory, check, first)
        self._suspended: weakref.WeakSet[Any] = weakref.WeakSet()
        self.turns = 0
        self.points = 0
        self.violations: list[Violation] = []

    def run_all(self, again: list[int]) -> None:
        self.run(())
        if any(one.kind in ("hang", "endless") for one in self.violations):
            return  # nor would it end at any other point
        for turn in itertools.count(1):
            last = self.run((turn,))
            if not last:
                return
            for later in again:
                if turn + later <= last:
                    self.run((turn, turn + later))

    def run(self, point: Point) -> int:
        """Run the scenario, cancelled at one point.

        Returns:
            The turn in which it ended; 0 if it ended before its cancellation.
        """
        run = Run(point, *self._settings, self._suspended)
        run.go(self._scenario)
        if run.error is not None:
            run.error.add_note(f"raised by {self._scenario!r}, undisturbed")
            raise run.error
        if run.cancels < len(point):
            return 0
        if point:
            self.points += 1
        else:
            self.turns = run.turns
        self.violations += run.violations
        return run.turns


def _refuse(scenario: Any) -> None:
    """Refuse a scenario that cannot be called, and a call inside a running loop."""
    if asyncio.iscoroutine(scenario):
        scenario.close()
    if not callable(scenario):
        raise TypeError(
            "scenario must be a function that returns a coroutine, got "
            f"{short(scenario)}: it is called for each run"
        )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "cancel_everywhere() runs loops of its own: call it from a plain function"
    )


def _check_points(points: Any) -> list[Point]:
    """Return the points, each a sorted tuple; a turn of 0 would never come."""
    return [
        tuple(sorted(check_count("a turn of points", turn, 1) for turn in turns))
        for turns in [_members("a point", one) for one in _members("points", points)]
    ]


def _members(name: str, value: Any) -> list[Any]:
    """Return what is in a collection that is no text."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        form = "[(2,), (2, 5)]" if name == "points" else "(2, 5)"
        raise TypeError(
            f"{name} must be a collection such as {form}, got {short(value)}"
        )
    return list(value)


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Within the block, collect garbage only explicitly, and only new objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
