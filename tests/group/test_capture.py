"""The capture runs many steps of Tasks from one handle of the loop, or gives way.

That a program cannot notice it is tested in test_capture_unseen.py.
"""

import asyncio
import asyncio.events
import asyncio.tasks
import contextlib
import gc
import os
import sys
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pyasynclife import (
    SignalCoordinator,
    TaskGroup,
    TaskRegistry,
    bounded_gather,
)
from support.capture import CAPTURED, capture, play
from support.children import run_child
from support.coroutines import Boom, forever
from support.differential import in_order
from support.loops import ready_queue, settle
from support.marks import needs_capture
from support.memory import objects_left_by


def scheduled() -> int:
    """How many handles the loop has ready."""
    return len(ready_queue(asyncio.get_running_loop()))


async def handles(number: int = 5) -> int:
    """How many handles it takes to start so many children."""
    async with TaskGroup() as group:
        before = scheduled()
        for _ in range(number):
            group.create_task(settle(0))
        return scheduled() - before


# ------------------------------------------------------------------ one handle for many


@needs_capture
async def test_children_start_from_one_handle() -> None:
    assert await handles(100) == 1


@needs_capture
@pytest.mark.parametrize("number", [2, 5, 100])
async def test_a_group_is_notified_of_ends_from_one_handle(number: int) -> None:
    seen: list[int] = []
    async with TaskGroup() as group:
        for _ in range(number):
            group.create_task(settle(0))
        asyncio.get_running_loop().call_soon(lambda: seen.append(scheduled()))
    assert seen == [1]


@pytest.mark.parametrize("last", [None, 0, 511, 512, 1300])
async def test_many_more_children_than_one_handle_takes(last: int | None) -> None:
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
                loop.call_soon(log.append, "iteration 1")
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


# ------------------------------------------------------------------ turned off


async def test_the_plain_path_takes_a_handle_for_each() -> None:
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


def test_the_self_test_does_not_run_at_import() -> None:
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


# A loop that fails the self-test, and then another loop.
OFF = """
class Loop(asyncio.SelectorEventLoop):
    def create_future(self):
        return asyncio.futures._PyFuture(loop=self)

async def main():
    async with TaskGroup() as group:
        for _ in range(5):
            group.create_task(asyncio.sleep(0))
        log.append(len(asyncio.get_running_loop()._ready))
if sys.argv[1] == "1":
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    log.clear()
asyncio.run(main())
"""


def test_another_loops_futures_do_not_turn_the_capture_off() -> None:
    assert play(OFF, 1, CAPTURED) == play(OFF, 0, CAPTURED)


# Raises SIGINT in the Python code of the capture's self-test: the first Task's is the
# self-test's.
UNTRIED = """
signal.signal(signal.SIGINT, signal.default_int_handler)
fired = False

def profile(frame, what, arg):
    global fired
    if not fired and what == "call" and frame.f_code.co_name == "add":
        fired = True
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)

async def main():
    async with TaskGroup() as group:
        sys.setprofile(profile)
        group.create_task(asyncio.sleep(0))
        sys.setprofile(None)
try:
    asyncio.new_event_loop().run_until_complete(main())
except KeyboardInterrupt:
    log.append("interrupted")
log.append(fired)
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="no Python in the self-test")
def test_an_interrupt_in_the_self_test_is_not_lost() -> None:
    assert play(UNTRIED, 1, CAPTURED).strip() == "['interrupted', True]"


# ------------------------------------------------------------------ the plain path


@needs_capture
@pytest.mark.parametrize("name", ["call_soon", "create_task"])
async def test_a_loop_patched_in_its_dict_takes_the_plain_path(name: str) -> None:
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
    original = getattr(owner, name)
    calls = []

    def patched(self: Any, *args: Any, **keywords: Any) -> Any:
        calls.append(self)
        return original(self, *args, **keywords)

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
async def test_a_patched_class_takes_the_plain_path(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plain_while_patched(owner, name, monkeypatch)


@needs_capture
@pytest.mark.parametrize("name", ["call_soon", "create_task", "get_debug"])
async def test_a_patched_type_of_loop_takes_the_plain_path(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = type(asyncio.get_running_loop())
    await plain_while_patched(owner, name, monkeypatch)


@needs_capture
async def test_a_patch_between_two_starts_sees_the_second() -> None:
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


# Patches what a handle is made by before the first Task is started.
PATCHED = """
import asyncio.base_events as base, asyncio.events as events
seen = []
where, name = {"init": (events.Handle, "__init__"),
               "soon": (base.BaseEventLoop, "_call_soon")}[sys.argv[1]]
real = getattr(where, name)

def patched(self, *args, **kwargs):
    seen.append(args)
    return real(self, *args, **kwargs)
setattr(where, name, patched)

async def main():
    async with TaskGroup() as group:
        seen.clear()
        for _ in range(5):
            group.create_task(asyncio.sleep(0))
        log.append(len(seen))
asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["init", "soon"])
def test_a_patch_of_what_makes_handles_sees_each(what: str) -> None:
    assert play(PATCHED, what, CAPTURED).strip() == "[5]"


@needs_capture
@pytest.mark.standard_loop_only
async def test_another_handle_class_takes_the_plain_path(
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


@needs_capture
async def test_debug_mode_and_a_task_factory_take_the_plain_path() -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    assert await handles(5) == 5
    loop.set_debug(False)
    loop.set_task_factory(lambda loop, coro, **kw: asyncio.Task(coro, loop=loop, **kw))
    assert await handles(5) == 5
    loop.set_task_factory(None)
    assert await handles(5) == 1


@needs_capture
@pytest.mark.standard_loop_only  # uvloop does not look at asyncio.tasks.Task
async def test_a_task_type_in_python_takes_the_plain_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # as nest_asyncio does
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


@needs_capture
async def test_a_future_that_others_wait_for_is_cancelled_by_the_plain_path() -> None:
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


# ------------------------------------------------------------------ what is freed


@pytest.fixture
async def collected() -> AsyncIterator[None]:
    gc.collect()
    yield
    gc.collect()


async def test_captured_tasks_leave_no_object(collected: None) -> None:
    async def rounds(number: int) -> None:
        for _ in range(number):
            async with TaskGroup() as group:
                for _ in range(5):
                    group.create_task(settle(0))
                for _ in range(5):
                    group.create_task(forever())
                await settle(1)
                group.cancel()

    assert await objects_left_by(rounds) < 50


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


def test_a_task_that_never_ran_is_freed_with_its_loop() -> None:
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


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="the dict costs nothing from 3.13 on"
)
def test_the_dict_of_the_loop_is_never_created() -> None:
    # Once created, it makes each call_soon() of 3.11 and 3.12 a fifth slower.
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
