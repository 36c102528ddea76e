"""Make one allocation of the whole process fail, each in turn, on ours and on asyncio.

python tools/nomemory.py [STEP]: start a child process for every STEP-th allocation of
each scenario. That allocation fails there, even one of the interpreter's own. A table
shows how the child processes ended; asyncio itself does not survive all failures.

"loop died": the MemoryError was raised by the loop's own code. "hang": the loop has
nothing left to do, and its exception handler was called for a call that was lost:
asyncio's Handle and Task lose a call when they cannot allocate memory for it. "silent
hang": the same, but the handler was not called. "CPython's": a Task ran with an
exception set, because it was not entered and PyDict_SetDefaultRef() did not report
that. Ours must have no silent hang, no crash and no SystemError.
"""

import _testcapi  # type: ignore[import-not-found]
import asyncio
import faulthandler
import gc
import os
import resource
import selectors
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from pyasynclife import TaskGroup, TaskRegistry, bounded_gather

ENDS = ["went on", "MemoryError", "another error", "loop died", "hang", "CPython's"]
ENDS += ["SystemError", "silent hang", "crash"]
OURS = ["SystemError", "silent hang", "crash"]
SECONDS = 10
MOST = 2000


async def echo(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def stock_group() -> None:
    async with asyncio.TaskGroup() as group:
        for i in range(4):
            group.create_task(echo(i))


async def our_group() -> None:
    async with TaskGroup() as group:
        for i in range(4):
            group.create_task(echo(i))


async def stock_gather() -> None:
    await asyncio.gather(*(echo(i) for i in range(4)))


async def our_gather() -> None:
    (await bounded_gather(echo, range(4))).values()


async def stock_tasks() -> None:
    await asyncio.wait([asyncio.create_task(echo(i)) for i in range(4)])


async def our_tasks() -> None:
    registry = TaskRegistry()
    for i in range(4):
        registry.register(echo(i))
    await registry.wait()


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def stock_cancel() -> None:
    tasks = [asyncio.create_task(forever()) for _ in range(4)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def our_cancel() -> None:
    registry = TaskRegistry()
    for _ in range(4):
        registry.register(forever())
    await asyncio.sleep(0)
    registry.cancel_all()
    await registry.wait()


Scenario = Callable[[], Awaitable[None]]
SCENARIOS: list[tuple[str, Scenario, Scenario]] = [
    ("a group of 4", stock_group, our_group),
    ("gather of 4", stock_gather, our_gather),
    ("4 tasks, waited for", stock_tasks, our_tasks),
    ("4 tasks, cancelled", stock_cancel, our_cancel),
]


def is_no_memory(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_no_memory, error.exceptions))
    return isinstance(error, MemoryError)


async def injected(scenario: Scenario, nth: int) -> int:
    await scenario()  # warm
    await scenario()
    status = ENDS.index("went on")
    gc.collect()
    gc.disable()
    _testcapi.set_nomemory(nth, nth + 1)
    try:
        await scenario()
    except SystemError:
        status = ENDS.index("SystemError")
    except BaseException as error:
        name = "MemoryError" if is_no_memory(error) else "another error"
        status = ENDS.index(name)
    _testcapi.remove_mem_hooks()
    return status


class Selector(selectors.DefaultSelector):
    """Ends the process when its loop would wait for ever."""

    def __init__(self, reports: list[str]) -> None:
        super().__init__()
        self.reports = reports

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            os._exit(ENDS.index("hang" if self.reports else "silent hang"))
        return super().select(timeout)


def child(scenario: Scenario, nth: int) -> int:
    faulthandler.disable()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    reports: list[str] = []
    sys.unraisablehook = lambda _: reports.append("unraisable")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)  # for a child that spins
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    loop = asyncio.SelectorEventLoop(Selector(reports))
    loop.set_exception_handler(
        lambda _, context: reports.append(repr(context.get("exception")))
    )
    asyncio.set_event_loop(loop)
    task = loop.create_task(injected(scenario, nth))
    status = loop.run_until_complete(task)
    entered_wrongly = any("Leaving task" in report for report in reports)
    if status == ENDS.index("SystemError") and entered_wrongly:
        return ENDS.index("CPython's")
    return status


def end_of(scenario: Scenario, nth: int) -> str:
    forked = os.fork()
    if not forked:
        status = ENDS.index("loop died")
        try:
            status = child(scenario, nth)
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1])
    if status == -signal.SIGALRM:
        return "silent hang"
    return ENDS[status] if status >= 0 else "crash"


def sweep(scenario: Scenario, step: int) -> "Counter[str]":
    """Count the ends, failing each allocation until many in a row are not reached."""
    ends: Counter[str] = Counter()
    quiet = 0
    for nth in count(0, step):
        end = end_of(scenario, nth)
        ends[end] += 1
        quiet = quiet + 1 if end == "went on" else 0
        if quiet > max(60 // step, 8) or nth > MOST:
            ends[end] -= quiet
            return ends
    raise AssertionError


def main(step: int) -> int:
    print("CPython", sys.version.split()[0])
    width = max(map(len, ENDS))
    print(f"{'':28}", *(f"{end:>{width}}" for end in ENDS))
    worse = 0
    for name, stock, ours in SCENARIOS:
        found = {"asyncio": sweep(stock, step), "pyasynclife": sweep(ours, step)}
        for whose, ends in found.items():
            counts = (f"{ends[end]:>{width}}" for end in ENDS)
            print(f"{name + ', ' + whose:28}"[:40].ljust(34), *counts, flush=True)
        worse += sum(found["pyasynclife"][end] for end in OURS)
    print(f"nomemory: {worse} silent hangs, crashes and SystemErrors of ours")
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
