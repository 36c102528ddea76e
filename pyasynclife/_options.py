"""What bounded_gather takes: refused at the call, with the value and the remedy."""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterable, Iterable
from typing import Any


def check_sources(fn: Any, items: Any) -> bool:
    """Refuse what cannot be run or read; tell whether the items are asynchronous."""
    if not callable(fn):
        raise TypeError(
            f"fn must be a function, got {short(fn)}: pass the function first, then "
            "the items: bounded_gather(fetch, urls)"
        )
    if isinstance(items, (str, bytes, bytearray)):
        raise TypeError(
            f"items is {short(items)}, which would be run letter by letter: wrap it "
            "in a list"
        )
    if inspect.iscoroutine(items):
        items.close()
        raise TypeError(
            "items is a coroutine: await it first, or pass the function and its "
            "arguments: bounded_gather(fetch, urls)"
        )
    if isinstance(items, AsyncIterable):
        return True
    if not isinstance(items, Iterable) and not hasattr(type(items), "__getitem__"):
        raise TypeError(
            f"items must be iterable (a list, a generator, an async generator), got "
            f"{short(items)}"
        )
    first = None
    if type(items) in (list, tuple, set, frozenset, dict) and items:
        first = next(iter(items.values() if type(items) is dict else items))
    if inspect.iscoroutine(first):
        first.close()
        raise TypeError(
            "the items are coroutines, which bounded_gather makes itself: pass "
            "the function and its arguments, bounded_gather(fetch, urls) for "
            "[fetch(url) for url in urls]"
        )
    return False


def check_hook(name: str, value: Any) -> None:
    """Refuse a hook that cannot be called, or would have to be awaited."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a function or None, got {short(value)}")
    if inspect.iscoroutinefunction(value):
        raise TypeError(
            f"{name} is called and not awaited: pass a plain function, not `async def "
            f"{getattr(value, '__name__', name)}`"
        )


def count_option(name: str, value: Any, least: int = 0) -> int:
    """Return a number of things as an int of any size."""
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise TypeError(f"{name} must be an int, got {short(value)}")
    number = int(value.__index__())
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {number}")
    return number


def seconds_option(name: str, value: Any) -> float:
    """Return a duration as a float; math.inf for None."""
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} must be seconds (a number) or None, got {short(value)}"
        )
    if not value >= 0:
        raise ValueError(f"{name} must be 0 or more seconds, got {value}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def short(value: Any) -> str:
    """Say what a value is, in few letters."""
    text = repr(value)
    return f"{type(value).__name__} {text[:57] + '...' if len(text) > 60 else text}"
