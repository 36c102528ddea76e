"""What has happened, and waits until the loop takes it: signals, requests, errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple


class SignalEvent(NamedTuple):
    """What has happened and is still to be delivered in the loop."""

    since: float  # monotonic time
    signum: int | None  # None: a request
    number: int = 0  # how many of this signal so far; 0: not a signal
    reason: str | None = None  # of a request
    error: BaseException | None = None  # raised by the handler that was there before


class EventQueue:
    """The events that the loop has not taken yet.

    Threads and signal handlers append at any time, and another thread or a signal
    handler in the middle may take, too. So the two queues are never replaced, and what
    is taken is never put back.
    """

    def __init__(self) -> None:
        self.events: deque[SignalEvent] = deque()  # signals and requests
        self.errors: deque[SignalEvent] = deque()  # what chained handlers have raised

    def __bool__(self) -> bool:
        return bool(self.events or self.errors)

    def take(self, note: Callable[[SignalEvent], object]) -> Iterator[SignalEvent]:
        """Take out all signals and requests.

        Args:
            note: Called with each before it is taken out, so that it can be found at
                every moment: in the queue, or where it was noted.
        """
        while self.events:
            try:
                note(self.events[0])
                event = self.events.popleft()
            except IndexError:
                return  # a signal handler has called us meanwhile
            yield event

    def take_errors(self) -> Iterator[SignalEvent]:
        """Take out all errors."""
        try:
            while True:
                yield self.errors.popleft()
        except IndexError:
            pass

    def forget(self) -> None:
        """Drop everything."""
        self.events.clear()
        self.errors.clear()


def is_request(event: SignalEvent) -> bool:
    return event.signum is None
