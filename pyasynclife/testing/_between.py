"""The coroutine between a Task and the scenario that is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from pyasynclife._await_chain import dump_tasks


class Between(Coroutine[Any, Any, None]):
    """Passes on everything that a Task sends and throws; records how the scenario ends.

    It ends without an exception, whatever the outcome of the scenario. If the Task was
    cancelled and no CancelledError propagated, it stays for one more loop iteration:
    if a cancellation is still pending, it is thrown in then.
    """

    def __init__(self, scenario: Coroutine[Any, Any, Any]) -> None:
        self.scenario = scenario
        self.task: asyncio.Task[None] | None = None
        self.given = 0
        self.is_left = False
        self.is_pending = False  # a cancellation came one iteration later
        self.returned: Any = None
        self.error: BaseException | None = None
        self.cancelling = 0
        self.left = ""  # where the other tasks waited at that time, if any
        self._thrown: list[asyncio.CancelledError] = []

    def cancel(self) -> None:
        """Cancel the Task."""
        assert self.task is not None
        self.given += 1
        self.task.cancel(f"cancel_everywhere: {self.given}")

    def is_one_of_ours(self) -> bool:
        """Whether the exception that propagated is one that was thrown in."""
        return any(self.error is one for one in self._thrown)

    def forget(self) -> None:
        """Drop every reference that keeps frames alive."""
        self.error = self.returned = None
        self._thrown.clear()

    # ------------------------------------------------------------- for the Task

    def send(self, value: Any) -> Any:
        if self.is_left:
            raise StopIteration
        return self._step(self.scenario.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        error = value if value is not None else kind
        if isinstance(error, type):
            error = error()
        if self.is_left:
            if isinstance(error, asyncio.CancelledError):
                self.is_pending = True
                raise StopIteration
            raise error
        if isinstance(error, asyncio.CancelledError):
            self._thrown.append(error)
        return self._step(self.scenario.throw, error)

    def close(self) -> None:
        self.scenario.close()

    def __await__(self) -> Generator[Any, None, None]:
        raise TypeError("only a Task can run this")

    # The await chain of a Task continues through these attributes.

    @property
    def cr_frame(self) -> None:
        return None

    @property
    def cr_await(self) -> Any:
        return None if self.is_left else self.scenario

    @property
    def cr_running(self) -> bool:
        return bool(getattr(self.scenario, "cr_running", False))

    def _step(self, resume: Callable[[Any], Any], value: Any) -> Any:
        try:
            return resume(value)
        except StopIteration as stop:
            self.returned = stop.value
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.error = error
        self._leave()
        if self.given and not isinstance(self.error, asyncio.CancelledError):
            return None  # as sleep(0) does
        raise StopIteration

    def _leave(self) -> None:
        assert self.task is not None
        self.is_left = True
        self.cancelling = self.task.cancelling()
        others = asyncio.all_tasks() - {self.task}
        if others:
            self.left = dump_tasks(others)
