"""The coroutine between a Task and the scenario that is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from pyasynclife._await_chain import dump_tasks


class Between(Coroutine[Any, Any, None]):
    """Passes everything that a Task sends or throws to a scenario; records its outcome.

    It ends without an exception, whatever the outcome of the scenario. If the Task was
    cancelled and no CancelledError propagated, it waits for one more loop iteration, in
    which a cancellation that is still pending is thrown in.
    """

    def __init__(self, scenario: Coroutine[Any, Any, Any]) -> None:
        self.scenario = scenario
        self.task: asyncio.Task[None] | None = None
        self.cancels = 0  # how often the Task was cancelled
        self.has_ended = False
        self.is_pending = False  # a cancellation was thrown in after the end
        self.returned: Any = None
        self.error: BaseException | None = None
        self.cancelling = 0  # the Task's count at the end
        self.others = ""  # where the other tasks, if any, waited at the end
        self._thrown: list[asyncio.CancelledError] = []
        self._first = 0  # of these, the first after `cancel` was called

    def cancel(self) -> None:
        """Cancel the Task."""
        assert self.task is not None
        self.cancels += 1
        self.task.cancel(f"cancel_everywhere: {self.cancels}")

    def raised_as_thrown(self) -> bool:
        """Tell whether the exception that propagated is one that was thrown in."""
        return any(self.error is one for one in self._thrown)

    def raised_the_first(self) -> bool:
        """Tell whether no later cancellation than the first was the one to propagate.

        It may be an earlier one, such as that of a timeout inside the scenario.
        """
        return any(self.error is one for one in self._thrown[: self._first + 1])

    def forget(self) -> None:
        """Drop the references that keep frames alive."""
        self.error = self.returned = None
        self._thrown.clear()

    # ------------------------------------------------------------- for the Task

    def send(self, value: Any) -> Any:
        if self.has_ended:
            raise StopIteration
        return self._step(self.scenario.send, value)

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        error = value if value is not None else kind
        if isinstance(error, type):
            error = error()
        if self.has_ended:
            if isinstance(error, asyncio.CancelledError):
                self.is_pending = True
                raise StopIteration
            raise error
        if isinstance(error, asyncio.CancelledError):
            self._thrown.append(error)
            if not self.cancels:
                self._first = len(self._thrown)
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
        return None if self.has_ended else self.scenario

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
        self._end()
        if self.cancels and not isinstance(self.error, asyncio.CancelledError):
            return None  # yield once, as sleep(0) does
        raise StopIteration

    def _end(self) -> None:
        assert self.task is not None
        self.has_ended = True
        self.cancelling = self.task.cancelling()
        others = asyncio.all_tasks() - {self.task}
        if others:
            self.others = dump_tasks(others)
