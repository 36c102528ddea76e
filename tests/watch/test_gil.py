"""C code that holds the GIL: the stack is had without it."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pyasynclife import BlockedLoop, LoopWatch
from pyasynclife._core import LoopPulse
from support.loops import until
from support.watching import DEADLINE, hold, hold_gil

HUGE = (1 << 2_500_000) - 1
OTHER = (1 << 2_500_000) - 3
ENOUGH = 0.4  # seconds in C that the watch sees, if the machine is not busy

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads memory")


def calls_c() -> int:
    hold_gil(0.5)
    return 1


def multiplies() -> int:
    """No call, no loop: the interpreter looks for other threads only later."""
    one, other = HUGE, OTHER
    return one * other


def multiply_longer() -> None:
    global HUGE, OTHER
    HUGE, OTHER = HUGE**2, OTHER**2


def runs_code_that_exec_made() -> None:
    exec("def inner():\n    return HUGE * OTHER\ninner()", globals())


async def blocked_by(function: Callable[[], object]) -> BlockedLoop:
    """The report of a block by C code; again where a busy machine missed it.

    And with larger numbers where a fast one was done too soon.
    """
    for _ in range(20):
        reports: list[BlockedLoop] = []
        async with LoopWatch(0.1, on_block=reports.append) as watch:
            await asyncio.sleep(0)
            began = time.monotonic()
            function()
            held = time.monotonic() - began
            count = watch.lag.count
            await until(lambda watch=watch, count=count: watch.lag.count > count)
        by_c = [one for one in reports if one.held_gil]
        if by_c:
            return by_c[0]
        if held < ENOUGH:
            multiply_longer()
    raise AssertionError(reports)


def place_of(function: Callable[[], object], line: int) -> str:
    code = function.__code__
    return f"{__file__}:{code.co_firstlineno + line} in {function.__qualname__}"


@needs_linux
async def test_stacks_are_read_without_the_gil_on_this_version() -> None:
    async with LoopWatch() as watch:
        assert watch._pulse is not None
        assert watch._pulse.can_read


async def test_the_caller_of_c_code_that_holds_the_gil_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = await blocked_by(calls_c)
    assert place_of(calls_c, 1) in one.where
    assert "C code held the GIL" in caplog.text


@needs_linux
async def test_a_line_that_calls_nothing_is_named_too() -> None:
    one = await blocked_by(multiplies)
    assert one.where[-1] == place_of(multiplies, 3)


@needs_linux
async def test_code_that_is_gone_when_the_gil_is_free_is_named() -> None:
    one = await blocked_by(runs_code_that_exec_made)
    assert one.where[-1] == "<string>:2 in inner"
    assert place_of(runs_code_that_exec_made, 1) in one.where


@needs_linux
@pytest.mark.parametrize(
    "name", ["caf\xe9", "\u043f\u0430\u0443\u0437\u0430", "x" * 500]
)
async def test_a_name_of_any_alphabet_and_length_is_shown(name: str) -> None:
    names: dict[str, Callable[[], object]] = {}
    exec(f"def {name}():\n    return HUGE * OTHER", globals(), names)
    one = await blocked_by(names[name])
    assert one.where[-1] == f"<string>:2 in {name[:400]}"


async def test_a_callback_of_c_alone_is_no_error() -> None:
    loop = asyncio.get_running_loop()

    def schedule() -> None:
        loop.call_soon(hold_gil, 0.5)

    reports: list[BlockedLoop] = []
    async with LoopWatch(0.1, on_block=reports.append):
        schedule()
        await until(lambda: reports)
    assert reports[0].seconds > 0.1


async def test_a_deep_stack_is_cut_and_not_read_without_the_gil() -> None:
    def deeper(depth: int) -> None:
        if depth:
            deeper(depth - 1)
        else:
            hold_gil(0.5)

    one = await blocked_by(lambda: deeper(600))
    assert sum(line.endswith("deeper") for line in one.where) > 500


async def test_python_code_beside_other_threads_does_not_hold_the_gil() -> None:
    over = False

    def spin() -> None:
        while not over:
            pass

    other = threading.Thread(target=spin)
    reports: list[BlockedLoop] = []
    other.start()
    try:
        async with LoopWatch(0.1, on_block=reports.append) as watch:
            hold(watch, enough=0.5)
            await until(lambda: reports)
    finally:
        over = True
        other.join()
    assert any("in hold" in line for one in reports for line in one.where)


class Impatient(LoopWatch):
    """It takes the stack that was read without the GIL, always."""

    def _new_pulse(self) -> LoopPulse:
        return LoopPulse(self._threshold, self._interval, -1.0, self._pulse)


async def test_frames_that_come_and_go_while_they_are_read_crash_nothing() -> None:
    def churn(depth: int) -> int:
        return depth and sum(churn(depth - 1) for _ in range(2))

    def read() -> bool:
        return any(one.held_gil and one.where for one in reports)

    reports: list[BlockedLoop] = []
    async with Impatient(0.001, interval=0.001, on_block=reports.append):
        began = time.monotonic()
        # Two seconds of reading; longer only where a busy machine has read nothing.
        while time.monotonic() < began + (2.0 if read() else DEADLINE):
            held = time.monotonic()
            while time.monotonic() < held + 0.005:  # late, on a fast machine too
                churn(8)
                exec("def f(n):\n    return n and f(n - 1)\nf(50)", {})
            await asyncio.sleep(0)
    assert read()
