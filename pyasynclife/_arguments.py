"""Argument checks: one function for each kind of argument, shared by every option.

A wrong argument raises TypeError or ValueError at the call. The message names the
option, the values that it accepts, and the value that it was given. This module imports
nothing from the package, because the native core imports it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import operator
import os
import sys
from collections.abc import Coroutine, Iterable
from typing import Any, NoReturn, TypeVar

D = TypeVar("D")

_ID_LENGTH = 120


def check_seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """Return a duration as a float.

    Args:
        name: The name of the option, for the message.
        value: Seconds, as any real number: an int, a float, a Decimal, a Fraction, a
            numpy scalar. A number too large for a float becomes ``math.inf``.
        zero: Whether 0 is allowed.

    Raises:
        TypeError: The value is not a number, or is a bool.
        ValueError: The value is negative or nan, or is 0 and ``zero`` is false.
    """
    return _seconds(name, value, zero, "")


def check_optional_seconds(
    name: str, value: Any, default: D, *, zero: bool = True
) -> float | D:
    """Return a duration as a float, or ``default`` for None; see `check_seconds`."""
    return default if value is None else _seconds(name, value, zero, " or None")


def _seconds(name: str, value: Any, zero: bool, or_none: str) -> float:
    kind = type(value)
    if kind is bool or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
        raise _not_seconds(name, value, or_none)
    try:
        seconds = float(value)
    except TypeError:  # an array, for example
        raise _not_seconds(name, value, or_none) from None
    except OverflowError:  # an int or a Fraction of more than 308 digits
        seconds = math.inf if value > 0 else -math.inf
    except ValueError:  # Decimal("sNaN")
        seconds = math.nan
    if math.isnan(seconds) or seconds < 0 or (seconds == 0 and not zero):
        least = "0 or more seconds" if zero else "more than 0 seconds"
        raise ValueError(f"{name} must be {least}, got {_shortened(value)}")
    return seconds


def _not_seconds(name: str, value: Any, or_none: str) -> TypeError:
    close_unstarted(value)
    return TypeError(f"{name} must be a number of seconds{or_none}, got {short(value)}")


def check_number(
    name: str, value: Any, least: float, greatest: float = math.inf
) -> float:
    """Return a finite number between two bounds as a float.

    Raises:
        TypeError: The value is not a number, or is a bool.
        ValueError: The value is nan, infinite or out of bounds.
    """
    kind = type(value)
    if kind is bool or not (hasattr(kind, "__float__") or hasattr(kind, "__index__")):
        close_unstarted(value)
        raise TypeError(f"{name} must be a number, got {short(value)}")
    try:
        number = float(value)
    except TypeError:  # an array, for example
        raise TypeError(f"{name} must be a number, got {short(value)}") from None
    except (OverflowError, ValueError):
        number = math.nan
    if not (least <= number <= greatest) or math.isinf(number):
        bounds = (
            f"{least:g} or more"
            if math.isinf(greatest)
            else f"from {least:g} to {greatest:g}"
        )
        raise ValueError(f"{name} must be {bounds}, got {_shortened(value)}")
    return number


def check_count(name: str, value: Any, least: int = 0) -> int:
    """Return a count as an int of any size.

    Raises:
        TypeError: The value has no ``__index__``, or is a bool.
        ValueError: The value is less than ``least``.
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        close_unstarted(value)
        raise TypeError(f"{name} must be an int, got {short(value)}")
    number = int(operator.index(value))
    if number < least:
        raise ValueError(f"{name} must be {least} or more, got {_shortened(number)}")
    return number


def check_size(name: str, value: Any, least: int = 0) -> int:
    """Return a count for the native core, reduced to ``sys.maxsize`` if larger."""
    return min(check_count(name, value, least), sys.maxsize)


def check_flag(name: str, value: Any) -> bool:
    """Return a flag as a bool: ``"no"`` or an object that happens to be true is none.

    Raises:
        TypeError: The value is neither a bool nor numpy's.
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    close_unstarted(value)
    raise TypeError(f"{name} must be True or False, got {short(value)}")


def check_hook(name: str, value: Any) -> None:
    """Refuse a hook that cannot be called, or that would have to be awaited.

    Raises:
        TypeError: The hook is neither None nor callable, or calling it makes a
            coroutine: it is an ``async def``, a partial of one, or an object whose
            ``__call__`` is one.
    """
    if value is None:
        return
    if not callable(value):
        close_unstarted(value)
        raise TypeError(f"{name} must be a function or None, got {short(value)}")
    if _is_coroutine_function(value):
        raise TypeError(
            f"{name} is called, not awaited: pass a plain function, got {short(value)}"
        )


def check_answer(name: str, answer: Any) -> None:
    """Refuse a coroutine that a hook has returned: nobody would await it.

    A Task, a Future or a Ready that a hook returns has begun or acted already, and is
    left alone.

    Raises:
        TypeError: The answer is a coroutine, which is closed.
    """
    if answer is not None and is_coroutine(answer):
        close_unstarted(answer)
        raise TypeError(
            f"{name} is called, not awaited, and returned {short(answer)}, which is "
            "closed: pass a plain function; it may start a task"
        )


def refuse_key(key: Any, error: TypeError) -> NoReturn:
    """Refuse a key that limit_by has returned; ``error`` is that of its hash."""
    raise TypeError(
        "limit_by must return a hashable key, such as a str or a tuple, got "
        f"{short(key)}"
    ) from error


def _is_coroutine_function(value: Any) -> bool:
    while isinstance(value, functools.partial):
        value = value.func
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(
        type(value).__call__
    )


def check_optional_type(name: str, value: Any, kind: type) -> None:
    """Refuse a value that is neither None nor of a type."""
    if value is not None and not isinstance(value, kind):
        close_unstarted(value)
        raise TypeError(f"{name} must be a {kind.__name__} or None, got {short(value)}")


def check_function(call: str, fn: Any, *others: Any) -> None:
    """Refuse a first argument that is not a function.

    ``call`` shows the correct call, for the message. If ``fn`` is refused, unstarted
    coroutines in ``fn`` and ``others`` are closed.
    """
    if callable(fn):
        return
    close_unstarted(fn, *others)
    what = "a coroutine" if is_coroutine(fn) else short(fn)
    raise TypeError(
        f"fn must be a function, got {what}: pass the function first: {call}"
    )


def check_awaitable(call: str, value: Any) -> None:
    """Refuse a value that cannot be awaited; ``call`` shows the correct call."""
    if not inspect.isawaitable(value):
        raise TypeError(f"expected a coroutine, got {short(value)}: call it: {call}")


def check_tasks(
    tasks: Iterable[asyncio.Task[Any]], loop: asyncio.AbstractEventLoop
) -> list[asyncio.Task[Any]]:
    """Return the tasks as a list without duplicates.

    Raises:
        TypeError: An item is not a Task. Unstarted coroutines among them are closed.
        RuntimeError: A task belongs to another loop.
    """
    if (
        asyncio.isfuture(tasks)
        or is_coroutine(tasks)
        or not isinstance(tasks, Iterable)
    ):
        close_unstarted(tasks)
        raise TypeError(f"expected tasks, got {short(tasks)}: wrap it in a list")
    chosen: list[Any] = list(dict.fromkeys(tasks))
    try:
        for task in chosen:
            if type(task) is asyncio.Task and task.get_loop() is loop:
                continue  # that was quick: there may be many
            if not (asyncio.isfuture(task) and hasattr(task, "get_coro")):
                raise TypeError(f"expected an asyncio.Task, got {short(task)}")
            check_loop(task, loop)
    except BaseException:
        close_unstarted(chosen)
        raise
    return chosen


def check_path(path: Any) -> str:
    """Return a path as text.

    Raises:
        TypeError: It is neither text nor bytes, and has no ``__fspath__``.
    """
    try:
        return os.fsdecode(path)
    except TypeError:
        close_unstarted(path)
        raise


def check_loop(future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
    """Refuse a future of another loop than the running one, with RuntimeError."""
    if future.get_loop() is not loop:
        raise RuntimeError(
            f"{future!r} belongs to {future.get_loop()!r}, not to the running loop "
            f"{loop!r}"
        )


def is_coroutine(value: Any) -> bool:
    """Tell whether a value is a coroutine, also one of Cython or mypyc.

    Its type is asked alone, so no code of the value runs. A plain generator is none,
    although `asyncio.iscoroutine` takes it for one on 3.11.
    """
    return issubclass(type(value), Coroutine)


def close_unstarted(*values: Any) -> None:
    """Close the unstarted coroutines among refused arguments.

    Each value is looked at, and if it is a list, tuple, set or dict, its members are.
    """
    for value in values:
        if is_coroutine(value):
            if not is_started(value):
                value.close()
        elif type(value) in (list, tuple, set, frozenset, dict):
            members = value.values() if type(value) is dict else value
            for member in filter(is_coroutine, members):
                close_unstarted(member)


def is_started(coro: Any) -> bool:
    """Tell whether a coroutine has started, as far as it shows that."""
    running = getattr(coro, "cr_running", False)
    # mypyc's coroutines have no such attributes, and Cython's not all of them.
    suspended = getattr(coro, "cr_suspended", getattr(coro, "cr_await", None))
    return bool(running or suspended)


def short(value: Any) -> str:
    """Describe a value for a message: its type and its repr, shortened if long."""
    return f"{type(value).__name__} {_shortened(value)}"


def short_id(task_id: str) -> str:
    """Return an id for a message, quoted, and cut if it is long: a URL, a document."""
    return repr(task_id if len(task_id) <= _ID_LENGTH else cut(task_id, _ID_LENGTH))


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: "1 item", "2 items"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def cut(text: str, length: int) -> str:
    """Return a text, or its beginning and "..." if it is longer than ``length``."""
    return text if len(text) <= length else text[: length - 3] + "..."


def _shortened(value: Any) -> str:
    if type(value) in (str, bytes, bytearray):
        value = value[:60]  # enough for the message, and no repr of 5 MB
    try:
        text = repr(value)
    except Exception:  # an int of more than 4,300 digits, or a broken __repr__
        text = object.__repr__(value)
    return cut(text, 60)
