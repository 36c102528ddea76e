"""`Retry`: when a failed item is tried again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyasynclife._arguments import (
    check_answer,
    check_count,
    check_hook,
    check_number,
    check_optional_seconds,
    close_unstarted,
    short,
)
from pyasynclife._backoff import Backoff

_BACKOFF = Backoff()


@dataclass(frozen=True, slots=True)
class Retry:
    """When, how often and after how long `bounded_gather` tries a failed item again.

    Between two attempts the item holds no slot and no place of its key. Each attempt
    runs in a fresh copy of the batch's context, and after an attempt that failed in a
    worker, in another task. An attempt that is cancelled is never followed by another,
    whatever ``on`` says, and neither is one that the item's ``timeout`` or the budget
    has ended.

    Attributes:
        attempts: The total number of attempts; 1: an item is never tried again.
        on: What is tried again: an exception type, a tuple of them, or a function that
            is called with the exception and returns whether to try again.
        backoff: The delays between the attempts: a `Backoff`, or a function that is
            called with the number of attempts so far and the exception of the last one,
            and returns the seconds until the next one, such as those of a
            ``Retry-After`` header.
        attempt_timeout: Seconds for each attempt; it then fails with TimeoutError,
            which is tried again if ``on`` says so. None: no limit.

    Raises:
        TypeError, ValueError: A value is wrong.

    If ``on`` or ``backoff`` raises, or returns what it should not, the item fails with
    that exception, whose ``__context__`` is the failure of the attempt.

    Example::

        retry = Retry(attempts=5, on=(ConnectionError, TimeoutError))
        batch = await bounded_gather(fetch, urls, retry=retry)
    """

    attempts: int = 3
    on: type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool] = (
        Exception
    )
    backoff: Backoff | Callable[[int, Exception], float] = _BACKOFF
    attempt_timeout: float | None = None

    def __post_init__(self) -> None:
        checked = {
            "attempts": check_count("attempts", self.attempts, 1),
            "attempt_timeout": check_optional_seconds(
                "attempt_timeout", self.attempt_timeout, None, zero=False
            ),
        }
        _check_on(self.on)
        _check_backoff(self.backoff)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def _decide(self, failure: tuple[int, Exception]) -> float | None:
        """Return the seconds until the next attempt; None: there is none.

        Args:
            failure: The number of attempts so far, and the exception of the last one.
        """
        attempts, error = failure
        try:
            return self._delay(attempts, error)
        except BaseException as hook_error:
            _chain(hook_error, error)
            raise

    def _delay(self, attempts: int, error: Exception) -> float | None:
        if isinstance(self.on, type | tuple):
            again = isinstance(error, self.on)
        else:
            again = self.on(error)
            check_answer("on", again)
        if not again:
            return None
        if isinstance(self.backoff, Backoff):
            return self.backoff._after(attempts)
        seconds = self.backoff(attempts, error)
        check_answer("backoff", seconds)
        return check_number("what backoff returns", seconds, 0.0)


def _check_on(on: object) -> None:
    """Refuse what is no exception type, tuple of them or function."""
    kinds = on if isinstance(on, tuple) else (on,)
    if isinstance(on, type | tuple):
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                raise TypeError(
                    "on must be a subclass of Exception, a tuple of them, or a "
                    f"function, got {short(kind)}: a cancellation or an exit is never "
                    "tried again"
                )
        if not kinds:
            raise ValueError("on is (), so nothing is tried again: leave the retry out")
    elif callable(on):
        check_hook("on", on)
    else:
        close_unstarted(on)
        raise TypeError(
            "on must be a subclass of Exception, a tuple of them, or a function, got "
            f"{short(on)}"
        )


def _check_backoff(backoff: object) -> None:
    """Refuse what is neither a Backoff nor a function."""
    if isinstance(backoff, Backoff):
        return
    if not callable(backoff):
        close_unstarted(backoff)
        raise TypeError(
            "backoff must be a Backoff or a function of (attempt, error), got "
            f"{short(backoff)}: pass Backoff(1.0) for delays from a second on"
        )
    check_hook("backoff", backoff)


def _chain(error: BaseException, failure: Exception) -> None:
    """Make a failure the last context of an error that it has led to."""
    contexts, failures = _contexts(error), _contexts(failure)
    last = list(contexts.values())[-1]
    # Otherwise there would be a cycle, or there is one.
    if contexts.keys().isdisjoint(failures) and last.__context__ is None:
        last.__context__ = failure


def _contexts(error: BaseException | None) -> dict[int, BaseException]:
    """Return an exception and its contexts, by id."""
    seen: dict[int, BaseException] = {}
    while error is not None and id(error) not in seen:
        seen[id(error)] = error
        error = error.__context__
    return seen
