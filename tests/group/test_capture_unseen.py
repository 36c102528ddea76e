"""No program notices the capture unless it patches asyncio.

A scenario takes a class of group and returns a log. The log must be the same for ours
with the capture, for ours without it, and for asyncio's. Random programs are in
test_differential.py; the scenarios do what these cannot do.
"""

import asyncio
import contextvars
import decimal
import signal
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import TaskGroup, TaskRegistry
from support.capture import PROGRAMS, capture, play
from support.children import run_child
from support.coroutines import Boom, forever
from support.loops import settle
from support.marks import needs_capture

# Before, a group that fails may leave a cancellation behind (gh-117407).
ASYNCIO_IS_A_GUIDE = sys.version_info >= (3, 13)

Scenario = Callable[[Any], Coroutine[Any, Any, list[Any]]]


# ------------------------------------------------------------------ scenarios


async def what_a_child_is_before_its_first_step(Group: Any) -> list[Any]:
    async with Group() as group:
        task = group.create_task(forever(), name="one")
        seen = [
            task in asyncio.all_tasks(),
            task.get_loop() is asyncio.get_running_loop(),
            len(task.get_stack()),
            task.done(),
            task.get_name(),
            task.cancelling(),
            type(task) is asyncio.Task,
            "pending" in repr(task) and "forever" in repr(task),
        ]
        task.cancel()
    return [*seen, task.cancelled()]


async def cancelled_before_the_first_step(Group: Any) -> list[Any]:
    log: list[Any] = []

    async def child(number: int) -> None:
        log.append(number)

    async with Group() as group:
        tasks = [group.create_task(child(number)) for number in range(5)]
        tasks[1].cancel()
        tasks[3].cancel()
        if sys.version_info >= (3, 13):
            tasks[3].uncancel()
    return [*log, *(task.cancelled() for task in tasks)]


async def a_failing_child_lets_the_others_start(Group: Any) -> list[Any]:
    started = []

    async def child(number: int) -> None:
        started.append(number)
        if number == 0:
            raise Boom
        await forever()

    try:
        async with Group() as group:
            for number in range(5000):
                group.create_task(child(number))
    except* Boom:
        pass
    return started


async def contexts(Group: Any) -> list[Any]:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    log: list[Any] = []
    decimal.setcontext(decimal.Context(prec=11))

    async def child(value: str) -> None:
        log.append((var.get(), decimal.getcontext().prec))
        var.set(value)
        decimal.setcontext(decimal.Context(prec=7))
        await asyncio.sleep(0)
        log.append((var.get(), decimal.getcontext().prec))

    shared = contextvars.copy_context()
    async with Group() as group:
        group.create_task(child("one"))
        var.set("changed")
        group.create_task(child("two"))
        group.create_task(child("three"), context=shared)
        group.create_task(child("four"), context=shared)
    return [*log, var.get(), shared.get(var), decimal.getcontext().prec]


async def tracebacks(Group: Any) -> list[Any]:
    async def child() -> None:
        raise Boom

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as group:
            group.create_task(child())
    (error,) = caught.value.exceptions
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


async def callbacks_of_others_come_after(Group: Any) -> list[Any]:
    log: list[Any] = []

    async def child(group: Any, known: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda task: log.append(task in group._tasks))
        if not known:
            await asyncio.sleep(0)

    async with Group() as group:
        for known in (True, False):
            task = group.create_task(child(group, known))
            task.add_done_callback(lambda task: log.append(task in group._tasks))
    return log


async def iterations_of_a_chain(Group: Any) -> list[Any]:
    loop: Any = asyncio.get_running_loop()
    log: list[Any] = []
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    iteration = 0

    def tick() -> None:
        nonlocal iteration, handle
        iteration += 1
        handle = loop.call_soon(tick)

    async def consume(after: Any) -> None:
        if after is not None:
            await after
        for _ in range(3):
            log.append((iteration, await queue.get()))

    async def produce() -> None:
        for number in range(9):
            await queue.put(number)
            log.append((iteration, -number))

    handle = loop.call_soon(tick)
    async with Group() as group:
        last = None
        for _ in range(3):
            last = group.create_task(consume(last))
        group.create_task(produce())
    handle.cancel()
    return log


async def tasks_made_by_signal_handlers(Group: Any) -> list[Any]:
    log: list[Any] = []

    async def late(number: int) -> None:
        log.append(("late", number))

    async def child(number: int) -> None:
        log.append(number)
        if number % 2:
            signal.raise_signal(signal.SIGUSR1)
        await asyncio.sleep(0)

    async with Group() as group:
        was = signal.signal(
            signal.SIGUSR1, lambda *_: group.create_task(late(len(log)))
        )
        try:
            for number in range(6):
                group.create_task(child(number))
            await settle(3)
        finally:
            signal.signal(signal.SIGUSR1, was)
    return log


async def a_profiler_looks_on(Group: Any) -> list[Any]:
    seen: list[Any] = []

    async def child(number: int) -> None:
        await asyncio.sleep(0)

    def profile(frame: Any, event: str, arg: Any) -> None:
        if frame.f_code is child.__code__:
            seen.append((event, frame.f_locals["number"]))

    sys.setprofile(profile)
    try:
        async with Group() as group:
            for number in range(4):
                group.create_task(child(number))
    finally:
        sys.setprofile(None)
    return seen


async def a_tracer_looks_on(Group: Any) -> list[Any]:
    seen: list[Any] = []

    async def child(number: int) -> None:
        await asyncio.sleep(0)

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is child.__code__:
            seen.append((event, frame.f_locals["number"]))
            return trace
        return None

    was = sys.gettrace()
    sys.settrace(trace)
    try:
        async with Group() as group:
            for number in range(4):
                group.create_task(child(number))
    finally:
        sys.settrace(was)
    return seen


async def a_thread_calls_in(Group: Any) -> list[Any]:
    log: list[Any] = []
    loop = asyncio.get_running_loop()

    def call() -> None:
        loop.call_soon_threadsafe(log.append, "thread")

    async def child(number: int) -> None:
        log.append(number)

    async with Group() as group:
        for number in range(6):
            group.create_task(child(number))
            if number in (1, 4):
                thread = threading.Thread(target=call)
                thread.start()
                thread.join()
    return log


SCENARIOS: list[Scenario] = [
    what_a_child_is_before_its_first_step,
    cancelled_before_the_first_step,
    a_failing_child_lets_the_others_start,
    contexts,
    tracebacks,
    callbacks_of_others_come_after,
    iterations_of_a_chain,
    tasks_made_by_signal_handlers,
    a_profiler_looks_on,
    a_tracer_looks_on,
    a_thread_calls_in,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_scenario_does_not_notice_the_capture(scenario: Scenario) -> None:
    with capture(False):
        expected = await scenario(TaskGroup)
    with capture(True):
        assert await scenario(TaskGroup) == expected
    if ASYNCIO_IS_A_GUIDE:
        assert await scenario(asyncio.TaskGroup) == expected
    assert expected


async def stop_in_a_child(Group: Any, log: list[int]) -> None:
    loop = asyncio.get_running_loop()

    async def child(number: int) -> None:
        log.append(number)
        if number == 1:
            loop.stop()
        await asyncio.sleep(0)
        log.append(-number)

    async with Group() as group:
        for number in range(4):
            group.create_task(child(number))


def test_stopping_the_loop_in_a_child() -> None:
    def play(group: Any) -> tuple[list[int], list[int]]:
        log: list[int] = []
        loop = asyncio.SelectorEventLoop()
        task = loop.create_task(stop_in_a_child(group, log))
        loop.run_forever()
        seen = list(log)
        loop.run_until_complete(task)
        loop.close()
        return seen, log

    assert play(TaskGroup) == play(asyncio.TaskGroup)


# ------------------------------------------------------------------ programs


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_prints_the_same_with_the_capture_and_without(name: str) -> None:
    program = PROGRAMS[name]
    assert play(program, 1) == play(program, 0)


# The one known difference, by design: of two handles that call f(task) nothing says
# which belongs to a done callback.
AFTER = """
async def other():
    await asyncio.sleep(1)

async def main():
    loop = asyncio.get_running_loop()
    async def fails():
        task = asyncio.current_task()
        loop.call_soon(lambda _: log.append(sleeper.cancelling()), task)
        raise ValueError
    try:
        async with TaskGroup() as group:
            sleeper = group.create_task(other())
            group.create_task(fails())
    except* ValueError:
        pass
asyncio.run(main())
"""


@needs_capture
@pytest.mark.parametrize(("capture", "cancelling"), [(0, 0), (1, 1)])
def test_call_soon_of_a_task_with_itself_runs_after_the_group_is_notified(
    capture: int, cancelling: int
) -> None:
    assert play(AFTER, capture).strip() == f"[{cancelling}]"


# ------------------------------------------------------------------ interrupts


# It comes before the handle is scheduled: asyncio's own cancel() loses the wake-up.
@needs_capture
def test_an_interrupt_before_the_wake_up_is_scheduled_does_not_lose_it() -> None:
    program = PROGRAMS["KeyboardInterrupt in the call_soon of a wake-up"]
    expected = play(program, 1)
    assert "'interrupted'" in expected
    assert "reported" not in expected
    assert play(program.replace('"return"', '"call"'), 1) == expected


# A Task that could not be scheduled is closed; it must never run.
START = """
async def child():
    log.append("ran")

async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: log.append("reported"))
    async with TaskGroup() as group:
        interrupt_next("return")
        try:
            group.create_task(child())
        except KeyboardInterrupt:
            log.append("interrupted")
        log.append(len(asyncio.all_tasks()))
        await asyncio.sleep(0)
        group.create_task(child())
asyncio.new_event_loop().run_until_complete(main())
"""


@needs_capture
def test_an_interrupted_start_starts_nothing() -> None:
    assert play(START, 1).strip() == "['interrupted', 1, 'ran']"


INTERRUPT = """
    import asyncio, signal, sys, pyasynclife
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    Group = asyncio.TaskGroup if sys.argv[1] == "asyncio" else pyasynclife.TaskGroup

    async def child(number):
        print("start", number)
        try:
            if number == 3:
                {how}
            await asyncio.sleep(0)
            print("on", number)
            await asyncio.sleep(3600)
        finally:
            print("end", number)

    async def main():
        try:
            async with Group() as group:
                for number in range(8):
                    group.create_task(child(number))
                asyncio.get_running_loop().call_soon(print, "after the children")
        finally:
            print("left")

    try:
        asyncio.run(main())
    except BaseException as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize(
    "how",
    [
        "signal.raise_signal(signal.SIGINT)",
        "raise KeyboardInterrupt",
        "raise SystemExit(3)",
        "signal.default_int_handler(2, None)",
    ],
)
def test_an_interrupt_keeps_the_order_of_the_other_children(how: str) -> None:
    command = ["-c", textwrap.dedent(INTERRUPT.format(how=how))]
    ours, plain = (
        run_child([*command, "ours"], env={"PYASYNCLIFE_PLAIN": off}).stdout
        for off in ("0", "1")
    )
    assert ours == plain
    assert "left\n" in ours
    assert "after the children" in ours
    if ASYNCIO_IS_A_GUIDE:
        theirs = run_child([*command, "asyncio"]).stdout.splitlines()
        # asyncio cancels its children in the order of their hashes.
        assert sorted(ours.splitlines()) == sorted(theirs)
        assert in_line(ours.splitlines()) == in_line(theirs)


def in_line(lines: list[str]) -> list[str]:
    """The lines whose order is the same in all."""
    return [line for line in lines if not line.startswith("end")]


# ------------------------------------------------------------------ contexts


@needs_capture  # asyncio, the plain path, cannot report it from 3.12 on
def test_a_context_entered_around_the_loop_is_reported_and_the_rest_runs() -> None:
    started: list[int] = []
    reported: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    around = contextvars.copy_context()

    async def child(number: int) -> None:
        started.append(number)

    async def main() -> None:
        registry = TaskRegistry()
        for number, context in ((1, None), (2, around), (3, None)):
            task, _ = await registry.register(child(number), context=context)
            tasks.append(task)
        await settle(3)
        loop.stop()

    loop = asyncio.SelectorEventLoop()
    loop.set_exception_handler(lambda _, about: reported.append(about))
    loop.create_task(main())
    around.run(loop.run_forever)
    loop.close()
    assert started == [1, 3]
    assert [type(about["exception"]) for about in reported] == [RuntimeError]
    handle = reported[0]["handle"]
    assert isinstance(handle, asyncio.Handle)
    assert reported[0]["message"] == f"Exception in callback {handle!r}"
    assert [task.done() for task in tasks] == [True, False, True]
    # as in asyncio, nothing will ever start it
    tasks[1]._log_destroy_pending = False  # type: ignore[attr-defined]
    coro = tasks[1].get_coro()
    assert coro is not None
    coro.close()


# ------------------------------------------------------------------ cancelling


async def cancelling(cancel: Any, register: Any) -> list[Any]:
    """Cancel tasks that wait for everything a task can wait for."""
    log: list[Any] = []
    loop = asyncio.get_running_loop()
    shared: asyncio.Future[None] = loop.create_future()
    other = loop.create_task(forever())

    async def waits(name: str, what: Callable[[], Any]) -> None:
        try:
            await what()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            assert task is not None
            log.append((name, error.args, task.cancelling()))
            if name == "swallows":
                task.add_done_callback(lambda _: log.append("own"))
                await asyncio.sleep(0)
                log.append("continues")
                return
            raise

    async def on_shared() -> None:
        await shared

    kinds: dict[str, Callable[[], Any]] = {
        "sleep": lambda: asyncio.sleep(3600),
        "event": forever,
        "swallows": forever,
        "shared": on_shared,
        "shared too": on_shared,
        "shield": lambda: asyncio.shield(other),
        "gather": lambda: asyncio.gather(forever(), forever()),
        "wait_for": lambda: asyncio.wait_for(forever(), 3600),
        "queue": lambda: asyncio.Queue[int]().get(),
        "after": forever,
    }
    tasks = [register(waits(name, what)) for name, what in kinds.items()]
    for task in tasks:
        task.add_done_callback(lambda _: log.append("done")) if task is tasks[3] else 0
    await settle(3)
    await cancel(tasks)
    await settle(5)
    log.append([task.cancelled() for task in tasks])
    other.cancel()
    return log


async def test_tasks_are_cancelled_as_by_asyncio() -> None:
    async def theirs() -> list[Any]:
        async def cancel(tasks: list[Any]) -> None:
            for task in tasks:
                task.cancel("why")

        return await cancelling(cancel, asyncio.create_task)

    async def ours() -> list[Any]:
        registry = TaskRegistry()

        async def cancel(tasks: list[Any]) -> None:
            registry.cancel_all("why")

        def register(coro: Any) -> Any:
            with pytest.raises(StopIteration) as stop:
                next(registry.register(coro).__await__())
            return stop.value.value[0]

        return await cancelling(cancel, register)

    expected = await theirs()
    with capture(False):
        assert await ours() == expected
    with capture(True):
        assert await ours() == expected
