"""One run of a scenario, cancelled at given loop iterations, and its violations.

A *turn* is one iteration of the loop.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from types import CoroutineType
from typing import Any

from pyasynclife._arguments import counted, short
from pyasynclife._await_chain import dump_tasks
from pyasynclife.testing._between import Between
from pyasynclife.testing._report import Kind, Point, Violation
from pyasynclife.testing._virtual import HangError, VirtualTimeLoop

Scenario = Callable[[], Coroutine[Any, Any, Any]]

# How often remaining tasks are cancelled before they are abandoned.
_ROUNDS = 10


class _EndlessError(Exception):
    """The scenario takes more than ``max_turns`` turns."""


class Run:
    """One run of a scenario; `go` may be called once."""

    def __init__(
        self,
        point: Point,
        settle: float,
        max_turns: int,
        task_factory: Any,
        check: Callable[[], object] | None,
        first: bool,
        suspended: weakref.WeakSet[Any],
    ) -> None:
        self.point = point
        self.violations: list[Violation] = []
        self.turns = 0  # the turn in which the scenario ended
        self.cancels = 0
        self.error: BaseException | None = None  # of an undisturbed scenario
        self._settle = settle
        self._max_turns = self._last_turn = max_turns
        self._task_factory = task_factory
        self._check = check
        self._first = first
        self._suspended = suspended  # in earlier runs
        self._begun: weakref.WeakSet[AsyncGenerator[Any, Any]] = weakref.WeakSet()
        self._dropped: list[AsyncGenerator[Any, Any]] = []

    def go(self, scenario: Scenario) -> None:
        """Run the scenario, record the violations, and clean up."""
        old_hook = sys.unraisablehook
        sys.unraisablehook = self._on_unraisable
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                self._go(scenario)
                gc.collect()
                for warning in warned:
                    name = warning.category.__name__
                    self._found("warning", f"{name}: {warning.message}")
        finally:
            sys.unraisablehook = old_hook

    def _go(self, scenario: Scenario) -> None:
        loop = VirtualTimeLoop()
        try:
            loop.set_exception_handler(self._on_loop_error)
            loop.set_task_factory(self._task_factory)
            between = Between(_coroutine_of(scenario))
            between.task = asyncio.Task(between, loop=loop)
            loop._at_turn = lambda turn: self._at_turn(between, turn)
            try:
                loop.run_until_complete(between.task)
                self.turns = self.turns or loop.turns
                self._judge(between)
                self._last_turn = loop.turns + self._max_turns
                self._settle_down(between, loop)
            except HangError as hang:
                self._found("hang", str(hang))
            except _EndlessError:
                where = dump_tasks(asyncio.all_tasks(loop))
                self._found("endless", f"{counted(self._max_turns, 'turn')}\n{where}")
            self.turns = self.turns or loop.turns
            self.cancels = between.cancels
            if not self.point:
                self.error = between.error
            between.forget()
            self._last_turn = loop.turns + self._max_turns
            if self._end_tasks(loop):
                self._look_for_suspended()
                self._dropped.extend(self._begun)
                for generator in self._dropped:
                    loop.run_until_complete(_close(generator))
                self._dropped.clear()
        finally:
            loop.close()
        if self._check is not None:
            try:
                self._check()
            except Exception as error:
                self._found("check", f"{type(error).__name__}: {error}")

    def _at_turn(self, between: Between, turn: int) -> bool:
        if turn > self._last_turn:
            raise _EndlessError
        if turn == 1:
            self._watch_generators()
        if between.has_ended:
            self.turns = self.turns or turn - 1
            return False
        for _ in range(self.point.count(turn)):
            between.cancel()
        return turn in self.point

    def _watch_generators(self) -> None:
        """Keep asynchronous generators alive that are dropped while suspended.

        asyncio's own hook would close them, but too late. Call this in the running
        loop, which has set its own hooks by then and will remove ours with them.
        """
        begin = sys.get_asyncgen_hooks().firstiter

        def firstiter(generator: AsyncGenerator[Any, Any]) -> None:
            self._begun.add(generator)
            if begin is not None:
                begin(generator)

        sys.set_asyncgen_hooks(firstiter, self._dropped.append)

    # --------------------------------------------------------------- judgement

    def _found(self, kind: Kind, text: str) -> None:
        self.violations.append(Violation(self.point, kind, text))

    def _judge(self, between: Between) -> None:
        cancels, error = between.cancels, between.error
        if cancels and isinstance(error, asyncio.CancelledError):
            if not between.raised_as_thrown():
                self._found("replaced", f"{error!r} was raised but never thrown in")
            elif self._first and not between.raised_the_first():
                self._found("replaced", f"{error!r} was raised: it is not the first")
        elif cancels and not between.is_pending:
            if error is not None:
                what = f"{type(error).__name__}: {error} was raised"
            else:
                what = f"{between.returned!r} was returned"
            self._found("swallowed", what)
        if between.cancelling != cancels:
            requests = counted(cancels, "cancellation")
            self._found("cancelling", f"{between.cancelling} after {requests}")

    def _settle_down(self, between: Between, loop: VirtualTimeLoop) -> None:
        left = between.others
        if left and self._settle:
            until = loop.time() + self._settle
            while asyncio.all_tasks(loop) and loop.time() < until:
                _wait(loop, until - loop.time())
            tasks = asyncio.all_tasks(loop)
            left = dump_tasks(tasks) if tasks else ""
        if left:
            self._found("task left", left)

    def _end_tasks(self, loop: VirtualTimeLoop) -> bool:
        try:
            for _ in range(_ROUNDS):
                left = asyncio.all_tasks(loop)
                if not left:
                    return True
                for task in left:
                    task.cancel()
                _wait(loop, 3600.0)
        except _EndlessError:
            pass
        loop.set_exception_handler(lambda *_: None)
        return False

    def _look_for_suspended(self) -> None:
        generators: list[Any] = [*self._begun, *self._dropped]
        found = [one for one in generators if one.ag_frame is not None]
        found += [
            one
            for one in gc.get_objects()
            if type(one) is CoroutineType and one.cr_suspended
        ]
        new = [one for one in found if one not in self._suspended]
        self._suspended.update(new)
        if new:
            names = ", ".join(sorted(one.__qualname__ for one in new))
            self._found("finally", f"left suspended: {names}")

    def _on_loop_error(
        self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        message, error = context.get("message", ""), context.get("exception")
        kind: Kind = "unretrieved" if "never retrieved" in message else "loop error"
        about = "" if error is None else f" ({type(error).__name__}: {error})"
        self._found(kind, message + about)

    def _on_unraisable(self, unraisable: Any) -> None:
        error, where = unraisable.exc_value, unraisable.object
        text = f"{type(error).__name__}: {error}, {unraisable.err_msg or 'ignored in'}"
        self._found("unraisable", f"{text} {where!r}")


def _coroutine_of(scenario: Scenario) -> Coroutine[Any, Any, Any]:
    coro = scenario()
    if not asyncio.iscoroutine(coro):
        raise TypeError(
            f"scenario must return a coroutine, got {short(coro)}: pass an `async def`"
        )
    return coro


def _wait(loop: VirtualTimeLoop, timeout: float) -> None:
    """Wait until all tasks of a loop have ended or the timeout has expired."""
    loop.run_until_complete(asyncio.wait(asyncio.all_tasks(loop), timeout=timeout))


async def _close(generator: AsyncGenerator[Any, Any]) -> None:
    try:
        await generator.aclose()
    except Exception:
        pass
