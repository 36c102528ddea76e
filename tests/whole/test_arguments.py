"""Every option of one kind is checked alike, wherever it is: seconds, counts, hooks."""

import asyncio
import functools
import inspect
import math
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from pyasynclife import (
    LoopWatch,
    SignalCoordinator,
    TaskRegistry,
    add_task_observers,
    bounded_gather,
    cancel_all_tasks,
    cancellation_with_retry,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    monitor_tasks,
    process_batch_with_deadline,
    shielded_operation,
    task_with_individual_timeout,
    wait_for_first_completion,
)
from pyasynclife.console import track
from pyasynclife.testing import cancel_everywhere

Call = Callable[[Any], object]


async def echo(item: Any = None) -> Any:
    return item


def gather(name: str) -> Call:
    return lambda value: bounded_gather(echo, [1], **{name: value})


def made(cls: type[Any], name: str) -> Call:
    return lambda value: cls(**{name: value})


def set_later(name: str) -> Call:
    return lambda value: setattr(TaskRegistry(), name, value)


def set_limit(value: Any) -> None:
    bounded_gather(echo, [1]).max_concurrent = value


async def track_a_task(value: Any) -> None:
    registry = TaskRegistry()
    task = asyncio.create_task(echo())
    try:
        registry.track(task, "mine", stale_after=value)
    finally:
        await task


async def register(value: Any) -> None:
    registry = TaskRegistry()
    coro = echo()
    try:
        registry.register(coro, stale_after=value)
    except BaseException:
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
        raise
    assert await registry.wait()


def everywhere(name: str) -> Call:
    return lambda value: cancel_everywhere(echo, points=(), **{name: value})


# One row for each option: its name in a message, whether it takes None, whether 0.
SECONDS: dict[str, tuple[str, bool, bool, Call]] = {
    "TaskRegistry(heartbeat_interval)": (
        "heartbeat_interval",
        False,
        False,
        made(TaskRegistry, "heartbeat_interval"),
    ),
    "TaskRegistry(stale_threshold)": (
        "stale_threshold",
        False,
        True,
        made(TaskRegistry, "stale_threshold"),
    ),
    "TaskRegistry(shutdown_timeout)": (
        "shutdown_timeout",
        False,
        True,
        made(TaskRegistry, "shutdown_timeout"),
    ),
    "registry.heartbeat_interval": (
        "heartbeat_interval",
        False,
        False,
        set_later("heartbeat_interval"),
    ),
    "registry.stale_threshold": (
        "stale_threshold",
        False,
        True,
        set_later("stale_threshold"),
    ),
    "registry.shutdown_timeout": (
        "shutdown_timeout",
        False,
        True,
        set_later("shutdown_timeout"),
    ),
    "register": ("stale_after", True, True, register),
    "track": ("stale_after", True, True, track_a_task),
    "registry.shutdown": (
        "timeout",
        True,
        True,
        lambda value: TaskRegistry().shutdown(value),
    ),
    "registry.wait": ("timeout", True, True, lambda value: TaskRegistry().wait(value)),
    "gather(timeout)": ("timeout", True, True, gather("timeout")),
    "gather(budget)": ("budget", True, True, gather("budget")),
    "gather(cancel_grace)": ("cancel_grace", True, True, gather("cancel_grace")),
    "SignalCoordinator": (
        "shutdown_timeout",
        False,
        True,
        made(SignalCoordinator, "shutdown_timeout"),
    ),
    "SignalCoordinator(drain)": (
        "drain",
        False,
        True,
        lambda value: SignalCoordinator(math.inf, drain=value),
    ),
    "graceful_shutdown": (
        "timeout",
        True,
        True,
        lambda value: SignalCoordinator().graceful_shutdown([], timeout=value),
    ),
    "gather_with_error_handling": (
        "timeout",
        True,
        True,
        lambda value: gather_with_error_handling(echo, [], timeout=value),
    ),
    "gather_with_timeout_and_budget": (
        "timeout",
        True,
        True,
        lambda value: gather_with_timeout_and_budget(echo, [], value),
    ),
    "process_batch_with_deadline": (
        "deadline",
        True,
        True,
        lambda value: process_batch_with_deadline(echo, [], value),
    ),
    "wait_for_first_completion": (
        "timeout",
        False,
        True,
        lambda value: wait_for_first_completion([echo()], value),
    ),
    "task_with_individual_timeout": (
        "timeout",
        False,
        True,
        lambda value: task_with_individual_timeout(echo(), value),
    ),
    "cancellation_with_retry": (
        "retry_delay",
        False,
        True,
        lambda value: cancellation_with_retry(echo, 1, value),
    ),
    "shielded_operation": (
        "timeout",
        True,
        True,
        lambda value: shielded_operation(echo(), timeout=value),
    ),
    "cancel_all_tasks": (
        "timeout",
        True,
        True,
        lambda value: cancel_all_tasks([], timeout=value),
    ),
    "monitor_tasks": (
        "interval",
        False,
        False,
        lambda value: monitor_tasks([], value),
    ),
    "console.track": (
        "interval",
        False,
        False,
        lambda value: track(bounded_gather(echo, [1]), interval=value),
    ),
    "cancel_everywhere": ("settle", False, True, everywhere("settle")),
}

# Its name in a message, the least that it takes.
COUNTS: dict[str, tuple[str, int, Call]] = {
    "gather(max_concurrent)": ("max_concurrent", 1, gather("max_concurrent")),
    "batch.max_concurrent": ("max_concurrent", 1, set_limit),
    "gather(max_errors)": ("max_errors", 0, gather("max_errors")),
    "gather(buffer)": ("buffer", 0, gather("buffer")),
    "gather_with_timeout_and_budget": (
        "max_concurrent",
        1,
        lambda value: gather_with_timeout_and_budget(echo, [], 1.0, value),
    ),
    "TaskRegistry(history)": ("history", 0, made(TaskRegistry, "history")),
    "TaskRegistry(keep_errors)": ("keep_errors", 0, made(TaskRegistry, "keep_errors")),
    "cancellation_with_retry": (
        "max_retries",
        1,
        lambda value: cancellation_with_retry(echo, value),
    ),
    "cancel_everywhere": ("max_turns", 1, everywhere("max_turns")),
}

HOOKS: dict[str, tuple[str, Call]] = {
    "TaskRegistry(on_stale)": ("on_stale", made(TaskRegistry, "on_stale")),
    "registry.on_stale": (
        "on_stale",
        set_later("on_stale"),
    ),
    "TaskRegistry(on_finish)": ("on_finish", made(TaskRegistry, "on_finish")),
    "LoopWatch": ("on_block", made(LoopWatch, "on_block")),
    "SignalCoordinator": ("on_signal", made(SignalCoordinator, "on_signal")),
    "gather(key)": ("key", gather("key")),
    "gather(on_result)": ("on_result", gather("on_result")),
    "monitor_tasks": ("report", lambda value: monitor_tasks([], report=value)),
    "add_task_observers": (
        "observer",
        lambda value: add_task_observers([], value),
    ),
    "cancel_everywhere": ("check", everywhere("check")),
}

FLAGS: dict[str, Call] = {
    "ordered": gather("ordered"),
    "task_per_item": gather("task_per_item"),
    "keep_results": made(TaskRegistry, "keep_results"),
    "take_ignored": made(SignalCoordinator, "take_ignored"),
}

FUNCTIONS: dict[str, Call] = {
    "bounded_gather": lambda value: bounded_gather(value, [1]),
    "gather_with_error_handling": lambda value: gather_with_error_handling(value, []),
    "gather_with_timeout_and_budget": lambda value: gather_with_timeout_and_budget(
        value, []
    ),
    "process_batch_with_deadline": lambda value: process_batch_with_deadline(value, []),
    "cancellation_with_retry": lambda value: cancellation_with_retry(value),
}

TASKS: dict[str, Call] = {
    "cancel_all_tasks": cancel_all_tasks,
    "monitor_tasks": monitor_tasks,
    "add_task_observers": add_task_observers,
    "graceful_shutdown": lambda value: SignalCoordinator().graceful_shutdown(value),
}


class Index:
    """A number of things that is no int, as numpy has them."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Float:
    """A number of seconds that is no float."""

    def __float__(self) -> float:
        return 1.5


class Hook:
    async def __call__(self, *args: object) -> None: ...

    async def method(self, *args: object) -> None: ...


class Unspeakable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


NO_SECONDS: list[tuple[Any, str]] = [
    ("5", "str '5'"),
    (b"5", "bytes b'5'"),
    (True, "bool True"),
    ([], "list []"),
    (1j, "complex 1j"),
    (echo, "function <function echo"),
    ("x" * 1000, f"str '{'x' * 56}..."),
    (Unspeakable(), "Unspeakable <"),
]

BELOW_0: list[tuple[Any, str]] = [
    (-1, "-1"),
    (-0.5, "-0.5"),
    (math.nan, "nan"),
    (-math.inf, "-inf"),
    (Decimal(-2), "Decimal('-2')"),
    (Decimal("NaN"), "Decimal('NaN')"),
    (Decimal("sNaN"), "Decimal('sNaN')"),
    (Fraction(-1, 3), "Fraction(-1, 3)"),
    (-(10**400), f"-1{'0' * 55}..."),
    (-(10**5000), "<int object at"),
]

NO_COUNTS: list[tuple[Any, str]] = [
    (True, "bool True"),
    (5.0, "float 5.0"),
    ("5", "str '5'"),
    (Decimal(5), "Decimal Decimal('5')"),
    (math.nan, "float nan"),
]

NUMBERS: list[Any] = [
    5,
    5.0,
    math.inf,
    Decimal("1.5"),
    Fraction(3, 2),
    10**400,
    Fraction(10**400),
    Index(5),
    Float(),
]


async def outcome(call: Call, value: Any) -> Exception | None:
    """Make a call, await what it returns; return what it raised."""
    if call.__qualname__.startswith("everywhere"):
        return await asyncio.to_thread(run_outside_a_loop, call, value)
    try:
        answer = call(value)
        if inspect.iscoroutine(answer):
            await answer
    except Exception as error:
        return error
    return None


def run_outside_a_loop(call: Call, value: Any) -> Exception | None:
    try:
        call(value)
    except Exception as error:
        return error
    return None


def said(error: Exception | None, kind: type[Exception]) -> str:
    assert type(error) is kind
    assert error.__cause__ is None
    text = str(error)
    assert len(text) < 250
    return text


@pytest.mark.parametrize("option", SECONDS)
async def test_seconds_that_are_no_number_are_refused(option: str) -> None:
    name, or_none, _, call = SECONDS[option]
    for value, shown in NO_SECONDS:
        text = said(await outcome(call, value), TypeError)
        words = " or None" if or_none else ""
        assert text.startswith(
            f"{name} must be a number of seconds{words}, got {shown}"
        )


@pytest.mark.parametrize("option", SECONDS)
async def test_seconds_below_0_and_nan_are_refused(option: str) -> None:
    name, _, zero, call = SECONDS[option]
    for value, shown in BELOW_0:
        text = said(await outcome(call, value), ValueError)
        least = "0 or more seconds" if zero else "more than 0 seconds"
        assert text.startswith(f"{name} must be {least}, got {shown}")


@pytest.mark.parametrize("option", SECONDS)
async def test_seconds_of_any_numeric_type_are_taken(option: str) -> None:
    for value in NUMBERS:
        assert await outcome(SECONDS[option][3], value) is None


@pytest.mark.parametrize("option", SECONDS)
async def test_none_and_0_are_seconds_where_the_option_says_so(option: str) -> None:
    _, or_none, zero, call = SECONDS[option]
    error = await outcome(call, None)
    assert (error is None) is or_none
    error = await outcome(call, 0)
    assert isinstance(error, ValueError) is not zero


@pytest.mark.parametrize("option", COUNTS)
async def test_counts_that_are_no_int_are_refused(option: str) -> None:
    name, _, call = COUNTS[option]
    for value, shown in NO_COUNTS:
        text = said(await outcome(call, value), TypeError)
        assert text == f"{name} must be an int, got {shown}"


@pytest.mark.parametrize("option", COUNTS)
async def test_counts_that_are_too_small_are_refused(option: str) -> None:
    name, least, call = COUNTS[option]
    for value in (least - 1, -3, -(10**30), Index(-3)):
        text = said(await outcome(call, value), ValueError)
        shown = value.value if isinstance(value, Index) else value
        assert text == f"{name} must be {least} or more, got {shown}"


@pytest.mark.parametrize("option", COUNTS)
async def test_counts_of_any_size_and_int_type_are_taken(option: str) -> None:
    _, least, call = COUNTS[option]
    for value in (least, sys.maxsize, 10**30, Index(3)):
        assert await outcome(call, value) is None


@pytest.mark.parametrize("option", FLAGS)
async def test_flags_that_are_no_bool_are_refused(option: str) -> None:
    bad = [("no", "str 'no'"), (1, "int 1"), (None, "NoneType None")]
    if option == "task_per_item":
        bad.pop()  # None: the loop's task factory decides
    for value, shown in bad:
        text = said(await outcome(FLAGS[option], value), TypeError)
        assert text == f"{option} must be True or False, got {shown}"
    numpys = type("bool_", (), {"__bool__": lambda self: False})()
    for value in (True, False, numpys):
        assert await outcome(FLAGS[option], value) is None


@pytest.mark.parametrize("option", HOOKS)
async def test_hooks_that_are_no_function_are_refused(option: str) -> None:
    name, call = HOOKS[option]
    for value, shown in ((5, "int 5"), ("print", "str 'print'")):
        text = said(await outcome(call, value), TypeError)
        assert text == f"{name} must be a function or None, got {shown}"


@pytest.mark.parametrize("option", HOOKS)
@pytest.mark.parametrize(
    "hook",
    [
        echo,
        functools.partial(echo, 1),
        Hook(),
        Hook().method,
        functools.partial(Hook()),
        functools.partial(functools.partial(Hook().method, 1), 2),
    ],
    ids=lambda hook: type(hook).__name__,
)
async def test_hooks_that_would_have_to_be_awaited_are_refused(
    option: str, hook: Any
) -> None:
    name, call = HOOKS[option]
    text = said(await outcome(call, hook), TypeError)
    assert text.startswith(f"{name} is called, not awaited: pass a plain function, got")


@pytest.mark.parametrize("option", HOOKS)
async def test_any_other_callable_is_a_hook(option: str) -> None:
    for value in (None, print, [].append, functools.partial(print, 1), dict):
        assert await outcome(HOOKS[option][1], value) is None


@pytest.mark.parametrize("option", FUNCTIONS)
async def test_what_is_no_function_is_refused_and_closed(option: str) -> None:
    call = FUNCTIONS[option]
    text = said(await outcome(call, "AAPL"), TypeError)
    wanted = "fn must be a function, got str 'AAPL': pass the function first: "
    assert text.startswith(f"{wanted}{option}(fetch")
    coro = echo(1)
    text = said(await outcome(call, coro), TypeError)
    assert text.startswith("fn must be a function, got a coroutine: pass the function")
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


@pytest.mark.parametrize("option", TASKS)
async def test_what_is_no_task_is_refused_and_closed(option: str) -> None:
    call = TASKS[option]
    text = said(await outcome(call, 5), TypeError)
    assert text == "expected tasks, got int 5: wrap it in a list"
    coro = echo(1)
    text = said(await outcome(call, [coro]), TypeError)
    assert text.startswith("expected an asyncio.Task, got coroutine <coroutine")
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    future = asyncio.get_running_loop().create_future()
    text = said(await outcome(call, [future]), TypeError)
    assert text.startswith("expected an asyncio.Task, got ")


async def test_an_int_that_register_takes_is_a_float() -> None:
    registry = TaskRegistry()
    for value, seconds in (
        (5, 5.0),
        (2**62, 2.0**62),
        (2**63, 2.0**63),
        (10**400, math.inf),
        (Decimal("0.5"), 0.5),
    ):
        _, task_id = await registry.register(echo(), stale_after=value)
        assert registry[task_id].stale_after == seconds
    await registry.wait()
