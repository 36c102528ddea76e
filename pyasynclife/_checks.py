"""Checks of arguments that several rooms share: the value seen, and the remedy."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Iterable
from typing import Any


def check_seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """Return a duration as a float: a number that is not nan and not negative.

    Raises TypeError for what is no number (a bool is none), ValueError otherwise;
    with ``zero=False`` 0 is refused too.
    """
    if isinstance(value, (bool, str, bytes)):
        raise TypeError(f"{name} is a number of seconds, got {value!r}")
    try:
        seconds = float(value)
    except TypeError:
        raise TypeError(f"{name} is a number of seconds, got {value!r}") from None
    if math.isnan(seconds) or seconds < 0 or (seconds == 0 and not zero):
        least = "0 or more (math.inf: for ever)" if zero else "more than 0"
        raise ValueError(f"{name} is a number of seconds, {least}, got {value!r}")
    return seconds


def check_count(name: str, value: Any, least: int = 0) -> int:
    """Return a number of things: an int, no bool, not below ``least``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is an int, got {value!r}")
    if value < least:
        raise ValueError(f"{name} is {least} or more, got {value}")
    return value


def check_callable(name: str, value: Any) -> None:
    """Refuse a hook that is neither None nor callable."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} is a function or None, got {value!r}")


def check_tasks(
    tasks: Iterable[asyncio.Task[Any]], loop: asyncio.AbstractEventLoop
) -> list[asyncio.Task[Any]]:
    """Return the tasks, each once; refuse what is no Task, or of another loop.

    Coroutines among them that have not started are closed then.
    """
    if asyncio.isfuture(tasks) or not isinstance(tasks, Iterable):
        raise TypeError(f"expected tasks, got {tasks!r}: wrap it in a list")
    chosen: list[Any] = list(dict.fromkeys(tasks))
    for task in chosen:
        if not (asyncio.isfuture(task) and hasattr(task, "get_coro")):
            close_unstarted(*chosen)
            raise TypeError(f"expected an asyncio.Task, got {task!r}")
        if task.get_loop() is not loop:
            raise RuntimeError(
                f"{task!r} belongs to {task.get_loop()!r}, not to the running "
                f"loop {loop!r}"
            )
    return chosen


def close_unstarted(*values: Any) -> None:
    """Close the coroutines among what is refused, those that have not started."""
    for coro in filter(inspect.iscoroutine, values):
        if inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
            coro.close()


def check_function(call: str, fn: Any, *others: Any) -> None:
    """Refuse what is no function; ``call`` is how it should have been."""
    if callable(fn):
        return
    close_unstarted(fn, *others)
    what = "a coroutine" if inspect.iscoroutine(fn) else repr(fn)
    raise TypeError(f"fn is a function, got {what}: pass the function first: {call}")
