"""`Backoff`: how long to wait before another attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pyasynclife._arguments import check_number, check_seconds


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing delays between attempts, with jitter.

    The n-th delay is ``min(delay * factor ** (n - 1), max_delay)`` seconds, times a
    random number between ``1 - jitter`` and 1. With full jitter, the default, tasks
    that failed together do not start again together.

    Attributes:
        delay: Seconds before the second attempt, without jitter.
        factor: By how much a delay is multiplied for the next one; 1 or more.
        max_delay: The longest delay, in seconds.
        jitter: The part of a delay that is random, from 0 to 1.

    Raises:
        TypeError: A value is not a number.
        ValueError: A value is negative, nan or out of its range.
    """

    delay: float = 0.1
    factor: float = 2.0
    max_delay: float = 30.0
    jitter: float = 1.0

    def __post_init__(self) -> None:
        checked = {
            "delay": check_seconds("delay", self.delay),
            "factor": check_number("factor", self.factor, 1.0),
            "max_delay": check_seconds("max_delay", self.max_delay),
            "jitter": check_number("jitter", self.jitter, 0.0, 1.0),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # Decimal and numpy's as floats

    def _after(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts, 1 or more, have failed."""
        try:
            seconds = min(self.delay * self.factor ** (attempts - 1), self.max_delay)
        except OverflowError:
            seconds = self.max_delay if self.delay else 0.0
        return seconds * (1.0 - self.jitter * random.random())
