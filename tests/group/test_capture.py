"""The capture: many steps of Tasks in one handle of the loop, and nobody can tell.

A scenario takes a class of group and returns what it saw; it must see the same of
asyncio's, and of ours with the capture and without. What random programs can do is in
test_differential.py; here is what they cannot.
"""

import asyncio
import asyncio.events
import asyncio.tasks
import contextlib
import contextvars
import decimal
import gc
import inspect
import os
import signal
import sys
import textwrap
import threading
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyasynclife import (
    SignalCoordinator,
    TaskGroup,
    TaskRegistry,
    _core,
    bounded_gather,
)
from support.children import run_child
from support.coroutines import Boom, forever
from support.differential import in_order
from support.loops import ready_queue, settle
from support.marks import needs_capture

# Before, a group that fails may leave a cancellation behind (gh-117407).
STOCK_IS_A_GUIDE = sys.version_info >= (3, 13)
Scenario = Callable[[Any], Coroutine[Any, Any, list[Any]]]


@contextmanager
def capture(allowed: bool) -> Iterator[None]:
    was = _core.allow_capture(allowed)
    try:
        yield
    finally:
        _core.allow_capture(was)


def scheduled() -> int:
    """How many handles the loop has ready."""
    return len(ready_queue(asyncio.get_running_loop()))


async def handles(number: int = 5) -> int:
    """How many handles the starts of so many children take."""
    async with TaskGroup() as group:
        before = scheduled()
        for _ in range(number):
            group.create_task(settle(0))
        return scheduled() - before


# ------------------------------------------------------------------ it is there


@needs_capture
async def test_children_start_from_one_handle() -> None:
    assert await handles(100) == 1


@needs_capture
@pytest.mark.parametrize("number", [2, 5, 100])
async def test_the_ends_of_children_are_told_from_one_handle(number: int) -> None:
    seen: list[int] = []
    async with TaskGroup() as group:
        for _ in range(number):
            group.create_task(settle(0))
        asyncio.get_running_loop().call_soon(lambda: seen.append(scheduled()))
    assert seen == [1]


@pytest.mark.parametrize("last", [None, 0, 511, 512, 1300])
async def test_many_more_than_a_burst_takes(last: int | None) -> None:
    async def scenario(Group: Any) -> list[Any]:
        log: list[Any] = []

        async def child(number: int) -> None:
            log.append(number)
            await asyncio.sleep(0)
            if number == last:
                raise Boom
            log.append(-number)

        loop = asyncio.get_running_loop()
        with contextlib.suppress(ExceptionGroup):
            async with Group() as group:
                for number in range(1500):
                    task = group.create_task(child(number))
                    if number % 400 == 0:
                        task.add_done_callback(lambda _: log.append("done"))
                loop.call_soon(log.append, "turn 1")
                await asyncio.sleep(0)
                log.append("body")
        return log

    assert await scenario(TaskGroup) == await scenario(in_order(asyncio.TaskGroup))


@needs_capture
async def test_registered_tasks_start_and_are_cancelled_from_one_handle() -> None:
    registry = TaskRegistry()
    for _ in range(100):
        await registry.register(forever())
    assert scheduled() == 1
    await settle()
    registry.cancel_all()
    assert scheduled() == 1
    await settle(2)
    assert len(registry) == 0


@needs_capture
async def test_a_group_is_aborted_from_one_handle() -> None:
    async with TaskGroup() as group:
        for _ in range(100):
            group.create_task(forever())
        await settle()
        group.cancel()
        assert scheduled() <= 2  # the children's, and the body's own


async def test_the_plain_way_takes_a_handle_for_each() -> None:
    with capture(False):
        assert await handles(5) == 5


def test_the_environment_turns_it_off() -> None:
    code = """
        import asyncio, pyasynclife
        async def main():
            async with pyasynclife.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(asyncio.sleep(0))
                print(len(asyncio.get_running_loop()._ready))
        asyncio.run(main())
    """
    environment = os.environ | {"PYASYNCLIFE_PLAIN": "1"}
    assert run_child(code, env=environment).stdout.strip() == "5"
    environment["PYASYNCLIFE_PLAIN"] = "0"
    assert run_child(code, env=environment).stdout.strip() == "1"


def test_nothing_is_tried_at_import() -> None:
    code = """
        import asyncio, _asyncio
        tasks = []
        class Watched(_asyncio.Task):
            def __init__(self, *args, **keywords):
                tasks.append(self)
                super().__init__(*args, **keywords)
        _asyncio.Task = Watched
        import pyasynclife
        print(len(tasks))
    """
    assert run_child(code).stdout.strip() == "0"


async def test_a_name_is_that_of_one_task() -> None:
    async with TaskGroup() as group:
        one = group.create_task(settle(0), name="one")
        with pytest.raises(TypeError):
            group.create_task(settle(0), name="odd", color="red")
        other = group.create_task(settle(0))
        none = group.create_task(settle(0), name=None)
        assert one.get_name() == "one"
        assert other.get_name().startswith("Task-")
        assert none.get_name().startswith("Task-")


# ------------------------------------------------------------------ where it is not


@needs_capture
@pytest.mark.parametrize("name", ["call_soon", "create_task"])
async def test_a_loop_patched_in_its_dict_goes_the_plain_way(name: str) -> None:
    loop = asyncio.get_running_loop()
    calls = []

    def patched(*args: Any, **keywords: Any) -> Any:
        calls.append(args)
        return getattr(type(loop), name)(loop, *args, **keywords)

    setattr(loop, name, patched)
    try:
        assert await handles(5) == 5
        assert len(calls) >= 5
    finally:
        delattr(loop, name)
    assert await handles(5) == 1


async def plain_while_patched(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await handles(5) == 1
    stock = getattr(owner, name)
    calls = []

    def patched(self: Any, *args: Any, **keywords: Any) -> Any:
        calls.append(self)
        return stock(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, patched)
        assert await handles(5) == 5
        assert len(calls) >= 5
    assert await handles(5) == 1


@needs_capture
@pytest.mark.standard_loop_only
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (asyncio.BaseEventLoop, "call_soon"),
        (asyncio.BaseEventLoop, "_call_soon"),
        (asyncio.BaseEventLoop, "create_task"),
        (asyncio.BaseEventLoop, "get_debug"),
        (asyncio.events.Handle, "_run"),
        (asyncio.events.Handle, "__init__"),
    ],
)
async def test_a_patched_class_goes_the_plain_way(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plain_while_patched(owner, name, monkeypatch)


@needs_capture
@pytest.mark.parametrize("name", ["call_soon", "create_task", "get_debug"])
async def test_a_patched_type_of_loop_goes_the_plain_way(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = type(asyncio.get_running_loop())
    await plain_while_patched(owner, name, monkeypatch)


@needs_capture
async def test_a_patch_in_the_middle_of_a_burst_sees_what_follows() -> None:
    loop = asyncio.get_running_loop()
    calls = []

    def patched(*args: Any, **keywords: Any) -> Any:
        calls.append(args)
        return type(loop).call_soon(loop, *args, **keywords)

    async with TaskGroup() as group:
        group.create_task(settle(0))
        group.create_task(settle(0))
        loop.call_soon = patched  # type: ignore[method-assign]
        group.create_task(settle(0))
        assert len(calls) == 1
        del loop.call_soon
        group.create_task(settle(0))
        assert scheduled() == 3


@needs_capture
async def test_debug_mode_and_a_task_factory_go_the_plain_way() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    assert await handles(5) == 5
    loop.set_debug(False)
    loop.set_task_factory(lambda loop, coro, **kw: asyncio.Task(coro, loop=loop, **kw))
    assert await handles(5) == 5
    loop.set_task_factory(None)
    assert await handles(5) == 1


@needs_capture
@pytest.mark.standard_loop_only  # uvloop's own create_task takes no heed of it
async def test_python_s_own_task_goes_the_plain_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # what nest_asyncio does
    python: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.tasks, "Task", python)
        assert await handles(5) == 5
        async with TaskGroup() as group:
            assert type(group.create_task(settle(0))) is python


@needs_capture
@pytest.mark.standard_loop_only
async def test_a_loop_whose_queue_is_no_deque_starts_a_handle_for_each() -> None:
    class Queue(type(asyncio.get_running_loop()._ready)):  # type: ignore[misc]
        pass

    loop: Any = asyncio.get_running_loop()
    loop._ready = Queue(loop._ready)
    assert await handles(5) == 5


# ------------------------------------------------------------------ scenarios


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


async def turns_of_a_chain(Group: Any) -> list[Any]:
    loop: Any = asyncio.get_running_loop()
    log: list[Any] = []
    queue: asyncio.Queue[int] = asyncio.Queue(1)
    turn = 0

    def tick() -> None:
        nonlocal turn, handle
        turn += 1
        handle = loop.call_soon(tick)

    async def consume(after: Any) -> None:
        if after is not None:
            await after
        for _ in range(3):
            log.append((turn, await queue.get()))

    async def produce() -> None:
        for number in range(9):
            await queue.put(number)
            log.append((turn, -number))

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
    turns_of_a_chain,
    tasks_made_by_signal_handlers,
    a_profiler_looks_on,
    a_tracer_looks_on,
    a_thread_calls_in,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_nobody_can_tell(scenario: Scenario) -> None:
    with capture(False):
        expected = await scenario(TaskGroup)
    with capture(True):
        assert expected == await scenario(TaskGroup)
    if STOCK_IS_A_GUIDE:
        assert expected == await scenario(asyncio.TaskGroup)
    assert expected


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

    assert play(asyncio.TaskGroup) == play(TaskGroup)


# ------------------------------------------------------------------ interrupts

INTERRUPT = """
    import asyncio, signal, sys, pyasynclife
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    Group = asyncio.TaskGroup if sys.argv[1] == "stock" else pyasynclife.TaskGroup

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
def test_an_interrupt_leaves_the_rest_in_its_place(how: str) -> None:
    command = ["-c", textwrap.dedent(INTERRUPT.format(how=how))]
    ours, plain = (
        run_child([*command, "ours"], env={"PYASYNCLIFE_PLAIN": off}).stdout
        for off in ("0", "1")
    )
    assert ours == plain
    assert "left\n" in ours
    assert "after the children" in ours
    if STOCK_IS_A_GUIDE:
        stock = run_child([*command, "stock"]).stdout.splitlines()
        # It cancels its children in the order of their hashes.
        assert sorted(stock) == sorted(ours.splitlines())
        assert in_line(stock) == in_line(ours.splitlines())


def in_line(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("end")]


# ------------------------------------------------------------------ odd contexts


@needs_capture  # the plain way is asyncio's, which cannot tell its handler from 3.12 on
def test_a_context_entered_around_the_loop_is_told_and_the_rest_goes_on() -> None:
    started: list[int] = []
    told: list[Any] = []
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
    loop.set_exception_handler(lambda _, about: told.append(about))
    loop.create_task(main())
    around.run(loop.run_forever)
    loop.close()
    assert started == [1, 3]
    assert [type(about["exception"]) for about in told] == [RuntimeError]
    handle = told[0]["handle"]
    assert isinstance(handle, asyncio.Handle)
    assert told[0]["message"] == f"Exception in callback {handle!r}"
    assert [task.done() for task in tasks] == [True, False, True]
    # as with asyncio nothing will ever start it
    tasks[1]._log_destroy_pending = False  # type: ignore[attr-defined]
    coro = tasks[1].get_coro()
    assert coro is not None
    coro.close()


# ------------------------------------------------------------------ what is freed


@pytest.fixture
async def collected() -> AsyncIterator[None]:
    gc.collect()
    yield
    gc.collect()


async def test_finalizers_inside_create_task_can_do_anything(collected: None) -> None:
    ran: list[int] = []
    made = 0

    class Garbage:
        def __init__(self, group: Any) -> None:
            self.group, self.me = group, self

        def __del__(self) -> None:
            nonlocal made
            if self.group is not None:
                made += 1
                self.group.create_task(count())
                asyncio.get_running_loop().call_soon(ran.append, 0)

    async def count() -> None:
        ran.append(1)

    threshold = gc.get_threshold()
    gc.set_threshold(3)
    try:
        async with TaskGroup() as group:
            for _ in range(500):
                Garbage(group)
                group.create_task(count())
            gc.collect()
            await settle()
    finally:
        gc.set_threshold(*threshold)
    assert made > 100
    assert ran.count(1) == 500 + made
    assert ran.count(0) == made


async def test_captured_tasks_leave_nothing(collected: None) -> None:
    async def rounds(number: int) -> None:
        for _ in range(number):
            async with TaskGroup() as group:
                for _ in range(5):
                    group.create_task(settle(0))
                for _ in range(5):
                    group.create_task(forever())
                await settle(1)
                group.cancel()

    await rounds(20)
    gc.collect()
    before = len(gc.get_objects())
    await rounds(100)
    gc.collect()
    assert len(gc.get_objects()) - before < 50


def test_what_never_ran_is_freed_with_its_loop() -> None:
    refs = []

    async def child() -> None:
        raise AssertionError("the loop had ended")

    async def main() -> None:
        group = TaskGroup()
        await group.__aenter__()
        for _ in range(3):
            task = group.create_task(child())
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coro = task.get_coro()
            assert coro is not None
            coro.close()
            refs.append(weakref.ref(task))
        loop.stop()

    loop = asyncio.SelectorEventLoop()
    loop.create_task(main())
    loop.run_forever()
    loop.close()
    gc.collect()
    assert [ref() for ref in refs] == [None] * 3


async def test_a_loop_that_was_closed_is_told_of_by_its_error() -> None:
    loop = asyncio.SelectorEventLoop()
    group = TaskGroup()

    async def enter() -> None:
        await group.__aenter__()

    await asyncio.to_thread(loop.run_until_complete, enter())
    loop.close()
    coro = settle(0)
    with pytest.raises(RuntimeError):
        group.create_task(coro)
    coro.close()


# ------------------------------------------------------------------ cancelling


async def cancelling(Group: Any, register: Any) -> list[Any]:
    """Tasks that wait for all that one can wait for."""
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
                log.append("goes on")
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
    await Group(tasks)
    await settle(5)
    log.append([task.cancelled() for task in tasks])
    other.cancel()
    return log


async def test_cancelling_is_like_asyncio_s() -> None:
    async def stock() -> list[Any]:
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

    expected = await stock()
    with capture(False):
        assert expected == await ours()
    with capture(True):
        assert expected == await ours()


@needs_capture
async def test_a_future_that_others_wait_for_is_cancelled_the_plain_way() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen: list[bool] = []
    future.add_done_callback(lambda future: seen.append(future.cancelled()))

    async def waits() -> None:
        await future

    async with TaskGroup() as group:
        group.create_task(waits())
        await settle(1)
        group.cancel()
    assert seen == [True]
    assert future.get_loop() is asyncio.get_running_loop()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="there it costs nothing")
def test_the_loop_is_not_slowed_by_a_look_at_its_dict() -> None:
    # Once asked for, it makes every call_soon() of 3.11 and 3.12 a fifth slower.
    async def main() -> None:
        registry = TaskRegistry()
        await registry.register(settle())
        async with TaskGroup() as group:
            group.create_task(settle())
        await bounded_gather(settle, [1, 2], max_concurrent=2)
        async with SignalCoordinator():
            await registry.shutdown()

    loop = asyncio.SelectorEventLoop()
    loop.run_until_complete(main())
    own = [x for x in gc.get_referents(loop) if isinstance(x, dict) and "_ready" in x]
    loop.close()
    assert own == []


@needs_capture
@pytest.mark.standard_loop_only
async def test_another_handle_class_goes_the_plain_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Handle(asyncio.events.Handle):
        runs = 0

        def _run(self) -> None:
            Handle.runs += 1
            super()._run()

    assert await handles(5) == 1
    with monkeypatch.context() as patch:
        patch.setattr(asyncio.events, "Handle", Handle)
        assert await handles(5) == 5
        assert Handle.runs >= 5


async def names(Group: Any) -> list[object]:
    """The names of some children; for a number, how far it is from the first."""
    async with Group() as group:
        first = group.create_task(settle(0))
        tasks = [
            group.create_task(settle(0), **keywords)
            for keywords in ({"name": "x"}, {}, {"name": "y"}, {}, {"name": None}, {})
        ]
    start = int(first.get_name().removeprefix("Task-"))
    return [
        name
        if not name.startswith("Task-")
        else int(name.removeprefix("Task-")) - start
        for name in (task.get_name() for task in tasks)
    ]


async def test_tasks_are_numbered_as_in_asyncio() -> None:
    assert await names(TaskGroup) == await names(asyncio.TaskGroup)


async def test_registered_tasks_use_up_numbers_as_named_ones_do() -> None:
    def number(task: asyncio.Task[Any]) -> int:
        return int(task.get_name().removeprefix("Task-"))

    registry = TaskRegistry()
    spent = []
    for make in (
        lambda: registry.register(settle(0), "a name"),
        lambda: asyncio.create_task(settle(0), name="a name"),
    ):
        before = asyncio.create_task(settle(0))
        make()
        after = asyncio.create_task(settle(0))
        spent.append(number(after) - number(before))
        await settle()
    assert spent[0] == spent[1]


async def test_a_task_factory_is_asked_whatever_the_loop_says_of_it() -> None:
    loop = asyncio.get_running_loop()
    made = []

    def factory(loop: Any, coro: Any, **keywords: Any) -> Any:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **keywords)

    loop.set_task_factory(factory)
    loop.get_task_factory = lambda: None  # type: ignore[method-assign]
    try:
        async with TaskGroup() as group:
            group.create_task(settle(0))
    finally:
        del loop.get_task_factory  # type: ignore[attr-defined]
        loop.set_task_factory(None)
    assert len(made) == 1


async def test_the_loop_is_no_keyword_of_create_task() -> None:
    coro = settle(0)
    async with TaskGroup() as group:
        with pytest.raises(TypeError, match="loop"):
            group.create_task(coro, loop=None)  # type: ignore[call-arg]
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
