"""TaskRegistry under bad input, foreign loops and hostile objects."""

import asyncio
import gc
import inspect
import math
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from pyasynclife import DuplicateTaskError, TaskRegistry, TaskState, UnknownTaskError
from support.children import run_child
from support.coroutines import echo, forever
from support.loops import settle

BAD = [
    (TypeError, "call it", lambda r: r.register(forever)),
    (TypeError, "coroutine", lambda r: r.register(42)),
    (TypeError, "coroutine", lambda r: r.register(None)),
    (TypeError, "track", lambda r: r.register(asyncio.current_task())),
    (TypeError, "register", lambda r: r.register()),
    (TypeError, "unexpected", lambda r: r.register(forever(), ident="x")),
    (TypeError, "positional", lambda r: r.register(forever(), "x", 1.0)),
    (TypeError, "multiple", lambda r: r.register(forever(), coro=1)),
    (TypeError, "7", lambda r: r.register(forever(), 7)),
    (ValueError, "non-empty", lambda r: r.register(forever(), "")),
    (DuplicateTaskError, "'alive'", lambda r: r.register(forever(), "alive")),
    (ValueError, "-1", lambda r: r.register(forever(), stale_after=-1)),
    (ValueError, "nan", lambda r: r.register(forever(), stale_after=math.nan)),
    (TypeError, "'5'", lambda r: r.register(forever(), stale_after="5")),
    (TypeError, "True", lambda r: r.register(forever(), stale_after=True)),
    (TypeError, "Context", lambda r: r.register(forever(), context={})),
    (TypeError, "Task", lambda r: r.track(7)),
    (ValueError, "-2", lambda r: r.track(asyncio.current_task(), stale_after=-2)),
    (DuplicateTaskError, "alive", lambda r: r.track(asyncio.current_task(), "alive")),
    (TypeError, "int", lambda r: r.heartbeat(7)),
    (TypeError, "int", lambda r: r.cancel(7)),
    (TypeError, "error", lambda r: r.complete("alive", error="no price")),
    (UnknownTaskError, "'nobody'", lambda r: r.complete("nobody")),
    (UnknownTaskError, "'nobody'", lambda r: r["nobody"]),
    (UnknownTaskError, "'nobody'", lambda r: r.where("nobody")),
]


@pytest.mark.parametrize(("error", "words", "call"), BAD)
async def test_bad_input_is_refused_before_anything_has_changed(
    error: type[Exception], words: str, call: Callable[[TaskRegistry], object]
) -> None:
    registry = TaskRegistry()
    registry.register(forever(), "alive")
    before = registry.stats()
    with pytest.raises(error, match=words):
        call(registry)
    assert registry.stats() == before
    assert list(registry) == ["alive"]
    gc.collect()  # "never awaited" would be an error here
    registry.cancel_all()
    await registry.wait()


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"heartbeat_interval": 0}),
        (ValueError, {"heartbeat_interval": -1}),
        (ValueError, {"stale_threshold": math.nan}),
        (TypeError, {"stale_threshold": "15"}),
        (ValueError, {"shutdown_timeout": -1}),
        (TypeError, {"shutdown_timeout": None}),
        (ValueError, {"history": -1}),
        (TypeError, {"history": 1.5}),
        (TypeError, {"keep_errors": True}),
        (TypeError, {"on_stale": 5}),
        (TypeError, {"on_finish": "call me"}),
        (TypeError, {"interval": 5}),
    ],
)
def test_bad_options_are_refused_by_name(
    error: type[Exception], options: dict[str, Any]
) -> None:
    with pytest.raises(error, match=next(iter(options))):
        TaskRegistry(**options)


async def test_a_coroutine_that_runs_or_has_run_is_refused_and_left_alone() -> None:
    registry = TaskRegistry()

    async def registers_itself() -> None:
        coro = asyncio.current_task().get_coro()  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="started already"):
            registry.register(coro)  # type: ignore[arg-type]

    await asyncio.create_task(registers_itself())
    task = asyncio.create_task(forever())
    await settle()
    with pytest.raises(RuntimeError, match="started already"):
        registry.register(task.get_coro())  # type: ignore[arg-type]
    assert not task.done()
    task.cancel()
    over = echo(1)
    await over
    with pytest.raises(RuntimeError, match="started already"):
        registry.register(over)
    assert len(registry) == 0
    await asyncio.wait([task])


def test_without_a_running_loop_the_coroutine_is_closed() -> None:
    registry = TaskRegistry()
    coro = forever()
    with pytest.raises(RuntimeError, match="running event loop"):
        registry.register(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    assert len(registry) == 0


async def test_a_call_from_another_thread_is_refused() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "feed")
    raised: list[BaseException] = []

    def call(method: Callable[..., object], *args: object) -> None:
        try:
            method(*args)
        except BaseException as error:
            raised.append(error)

    for method, *args in (
        (registry.cancel, "feed"),
        (registry.cancel_all,),
        (registry.complete, "feed"),
    ):
        thread = threading.Thread(target=call, args=(method, *args))
        thread.start()
        thread.join()
    assert [type(error) for error in raised] == [RuntimeError] * 3
    assert all("another thread" in str(error) for error in raised)
    # What only reads may be asked from anywhere.
    assert await asyncio.to_thread(list, registry) == ["feed"]
    assert (await asyncio.to_thread(registry.stats)).alive == 1
    registry.cancel_all()
    await registry.wait()


def test_one_loop_at_a_time_and_the_next_when_it_is_closed_and_empty() -> None:
    registry = TaskRegistry()

    async def run() -> None:
        registry.register(echo(1), "feed")
        assert await registry.wait(5)

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    with closing(second):
        with closing(first):
            first.run_until_complete(run())
            with pytest.raises(RuntimeError, match="one registry per loop"):
                second.run_until_complete(run())
        second.run_until_complete(run())
    assert registry.stats().done == 2


def test_track_refuses_a_task_of_another_loop() -> None:
    async def track() -> None:
        with pytest.raises(RuntimeError, match="belongs to"):
            TaskRegistry().track(task)

    other = asyncio.new_event_loop()
    with closing(other):
        task = other.create_task(echo(1))
        asyncio.run(track())
        other.run_until_complete(task)


async def test_configuring_a_registry_that_is_in_use_is_refused() -> None:
    registry = TaskRegistry()
    registry.register(echo(1))
    with pytest.raises(RuntimeError, match="in use"):
        registry.__init__()  # type: ignore[misc]
    await registry.wait()


def test_a_registry_made_by_new_alone_works() -> None:
    async def run() -> None:
        registry = TaskRegistry.__new__(TaskRegistry)
        registry.register(echo(1), "feed")
        await registry.wait()
        assert registry["feed"].result == 1

    asyncio.run(run())


async def test_a_subclass_may_add_to_it() -> None:
    class Mine(TaskRegistry):
        def __init__(self) -> None:
            super().__init__(history=0)
            self.extra = 1

    registry = Mine()
    registry.register(echo(1), "feed")
    await registry.wait()
    assert await registry.get_status() == {}


# ------------------------------------------------------------------- factories


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_an_eager_task_is_in_the_registry_in_its_first_step() -> None:
    registry = TaskRegistry()
    seen: list[object] = []

    async def first() -> None:
        seen.append(registry["feed"].state)
        seen.append(await registry.heartbeat())
        seen.append(await registry.heartbeat("feed"))
        asyncio.create_task(outsider())
        await asyncio.sleep(0)

    async def outsider() -> None:
        seen.append(await registry.heartbeat())

    loop = asyncio.get_running_loop()

    def eager(
        loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        options.pop("eager_start", None)
        return asyncio.Task(coro, loop=loop, eager_start=True, **options)

    loop.set_task_factory(eager)
    try:
        task, _ = await registry.register(first(), "feed")
        assert registry["feed"].task is task
        await registry.wait()
    finally:
        loop.set_task_factory(None)
    assert seen == [TaskState.RUNNING, True, True, False]
    assert registry["feed"].heartbeats == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
async def test_an_eager_task_may_cancel_itself_by_id_and_end_at_once() -> None:
    registry = TaskRegistry()

    async def suicidal() -> None:
        assert await registry.cancel("feed")
        await asyncio.sleep(3600)

    def eager(
        loop: asyncio.AbstractEventLoop, coro: Any, **options: Any
    ) -> asyncio.Task[Any]:
        options.pop("eager_start", None)
        return asyncio.Task(coro, loop=loop, eager_start=True, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(eager)
    try:
        registry.register(suicidal(), "feed")
        registry.register(echo(5), "quick")
        assert await registry.wait(5)
    finally:
        loop.set_task_factory(None)
    assert registry["feed"].state is TaskState.CANCELLED
    assert registry["quick"].result == 5


@pytest.mark.parametrize("makes", ["raises", "nonsense"])
async def test_a_bad_task_factory_changes_nothing(makes: str) -> None:
    registry = TaskRegistry()

    class Nonsense:
        def set_name(self, name: str) -> None:
            """3.11 and 3.12 warn of a Task that has none."""

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        coro.close()
        if makes == "raises":
            raise LookupError("no tasks today")
        return Nonsense()

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        with pytest.raises((LookupError, AttributeError, TypeError)):
            registry.register(forever(), "feed")
    finally:
        loop.set_task_factory(None)
    assert len(registry) == 0
    registry.register(echo(1), "feed")
    await registry.wait()
    assert registry["feed"].result == 1


# --------------------------------------------------------------------- hostile


async def test_an_error_whose_str_raises_is_told_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("I say nothing")

    async def fails() -> None:
        raise Mute

    registry = TaskRegistry()
    registry.register(fails(), "feed")
    await registry.wait()
    assert registry["feed"].state is TaskState.FAILED
    assert "Mute" in str(registry["feed"].error_text)
    caplog.clear()


async def test_callbacks_that_use_the_registry_they_are_called_by() -> None:
    def reenter(meta: Any) -> None:
        registry.cancel_all()
        registry.heartbeat(meta.task_id)
        registry.stats()
        if len(made) < 20:
            made.append(registry.register(echo(1)))

    made: list[object] = []
    registry = TaskRegistry(history=3, on_finish=reenter)
    for _ in range(10):
        registry.register(forever())
    registry.cancel_all()
    assert await registry.wait(5)
    assert registry.stats().registered == 30
    assert len(await registry.get_status()) == 3


async def test_results_that_come_back_when_they_are_dropped() -> None:
    registry = TaskRegistry(history=2, keep_results=True)
    dropped = []

    class Bomb:
        def __del__(self) -> None:
            dropped.append(len(registry))
            registry.register(echo(None), f"from the grave {len(dropped)}")

    for number in range(6):
        registry.register(echo(Bomb()), str(number))
        await registry.wait()
    await registry.wait()
    assert dropped
    assert len(await registry.get_status()) == 2
    for _ in range(4):
        registry.register(echo(None))
        await registry.wait()


async def test_the_collector_at_every_allocation() -> None:
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        registry = TaskRegistry(history=10, stale_threshold=0.0)
        for number in range(50):
            registry.register(forever(), str(number), stale_after=number % 3)
        await settle()
        await registry.get_stale_tasks()
        await registry.get_status()
        registry.dump()
        await registry.shutdown()
    finally:
        gc.set_threshold(*threshold)


async def test_a_dropped_registry_takes_its_cycles_along() -> None:
    registry = TaskRegistry()
    for number in range(10):
        registry.register(echo(number))
    await registry.wait()
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is None


async def test_a_dropped_registry_lives_while_its_tasks_do() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever())
    gone = weakref.ref(registry)
    del registry
    gc.collect()
    assert gone() is not None
    task.cancel()
    await asyncio.wait([task])
    await settle()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("trace", [sys.settrace, sys.setprofile])
async def test_readies_are_awaited_alike_under_a_trace_function(
    trace: Callable[[Any], None],
) -> None:
    registry = TaskRegistry()

    async def awaits() -> list[object]:
        _, task_id = await registry.register(echo(1))
        return [
            task_id,
            await registry.heartbeat(task_id),
            await registry.heartbeat("nobody"),
            await registry.complete(task_id),
            await registry.cancel_all(),
            await registry.get_stale_tasks(),
        ]

    plain = await awaits()
    trace(lambda *_: None)
    try:
        traced = await awaits()
    finally:
        trace(None)
    assert plain[1:4] == traced[1:4] == [True, False, None]
    assert plain[5] == traced[5] == []
    await registry.wait()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_exit_with_everything_alive_prints_nothing(loop: str) -> None:
    pytest.importorskip(loop)
    child = run_child(
        f"""
        import asyncio, {loop}
        from pyasynclife import TaskRegistry

        async def swallows():
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

        async def main():
            global registry
            registry = TaskRegistry()
            for _ in range(10):
                registry.register(asyncio.sleep(3600))
            await asyncio.sleep(0)
            await registry.cancel_all()
            registry.register(asyncio.sleep(3600), "never started")

        loop = {loop}.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)
        loop.run_until_complete(main())
        print("over")
        """,
        # A debug build warns of the loop that nobody closes.
        env={"PYTHONWARNINGS": "ignore::ResourceWarning"},
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "over\n", "")
