"""The limits of batches and pools besides ``max_concurrent``, checked for the core."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import TypeAlias

from pyasynclife._arguments import (
    check_hook,
    check_number,
    check_optional_type,
    check_size,
)
from pyasynclife._retry import Retry

# limit_by, max_per_key, lookahead, the seconds between two starts (0.0: any), what
# decides about a retry, attempts in all, attempt_timeout (inf: none)
Limits: TypeAlias = tuple[
    Callable[..., Hashable] | None,
    int,
    int,
    float,
    Callable[[tuple[int, Exception]], float | None] | None,
    int,
    float,
]

_MAX_ATTEMPTS = 2**31 - 1  # an int of C
_MAX_INTERVAL = 1e8  # three years: loops do not take any number of seconds


def check_limits(
    limit_by: Callable[..., Hashable] | None,
    max_per_key: int,
    lookahead: int,
    max_per_second: float | None,
    retry: Retry | None,
) -> Limits | None:
    """Return the limits for the native core, or None if there are none.

    Raises:
        TypeError, ValueError: An option is wrong, or is of no use without another.
    """
    check_hook("limit_by", limit_by)
    per_key = check_size("max_per_key", max_per_key, 1)
    if limit_by is None and per_key != 1:
        raise ValueError(
            f"max_per_key is {per_key}, and there is no limit_by: pass the function "
            "that returns the key, such as the host of a URL"
        )
    ahead = check_size("lookahead", lookahead, 1)
    interval = _interval(max_per_second)
    check_optional_type("retry", retry, Retry)
    if retry is None:
        if limit_by is None and not interval:
            return None
        return limit_by, per_key, ahead, interval, None, 1, math.inf
    attempts = min(retry.attempts, _MAX_ATTEMPTS)
    timeout = math.inf if retry.attempt_timeout is None else retry.attempt_timeout
    return limit_by, per_key, ahead, interval, retry._decide, attempts, timeout


def _interval(max_per_second: float | None) -> float:
    """Return the seconds between two starts; 0.0: there is no limit."""
    if max_per_second is None:
        return 0.0
    if type(max_per_second) is float and max_per_second == math.inf:
        raise ValueError(
            "max_per_second must be finite, got inf: pass None for no limit"
        )
    rate = check_number("max_per_second", max_per_second, 0.0)
    if rate == 0.0:
        raise ValueError(
            "max_per_second must be more than 0, got 0: pass None for no limit, or "
            "pause() to start nothing"
        )
    return min(1.0 / rate, _MAX_INTERVAL)
