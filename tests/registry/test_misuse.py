"""What a TaskRegistry refuses: bad input, other loops, other threads."""

import asyncio
import gc
import inspect
import math
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from pyasynclife import DuplicateTaskError, TaskRegistry, UnknownTaskError
from support.coroutines import echo, forever
from support.loops import settle
from support.registries import adds_up

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
    (ValueError, "non-empty", lambda r: r.heartbeat("")),
    (TypeError, "int", lambda r: r.cancel(7)),
    (ValueError, "non-empty", lambda r: r.cancel("")),
    (ValueError, "non-empty", lambda r: r.complete("")),
    (ValueError, "non-empty", lambda r: r[""]),
    (ValueError, "non-empty", lambda r: r.track(asyncio.current_task(), "")),
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


async def test_configuring_a_registry_that_is_in_use_is_refused() -> None:
    registry = TaskRegistry()
    registry.register(echo(1))
    with pytest.raises(RuntimeError, match="in use"):
        registry.__init__()  # type: ignore[misc]
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


def test_waiting_in_another_loop_is_refused() -> None:
    registry = TaskRegistry()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def register() -> None:
        registry.register(forever())

    async def waits() -> None:
        for call in (registry.wait, registry.monitor_loop, registry.__aenter__):
            with pytest.raises(RuntimeError, match="one registry per loop"):
                await call()

    try:
        first.run_until_complete(register())
        thread = threading.Thread(target=second.run_until_complete, args=(waits(),))
        thread.start()
        thread.join()
        second.run_until_complete(waits())
        registry.cancel_all()
        assert first.run_until_complete(registry.wait(5))
    finally:
        first.close()
        second.close()


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
    # Methods that only read may be called from any thread.
    assert await asyncio.to_thread(list, registry) == ["feed"]
    assert (await asyncio.to_thread(registry.stats)).alive == 1
    registry.cancel_all()
    await registry.wait()


async def test_a_call_in_another_thread_is_told_how_to_reach_the_loop() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "feed")
    with pytest.raises(RuntimeError, match=r"heartbeat\(task_id\)"):
        await asyncio.to_thread(registry.heartbeat)
    assert await (await asyncio.to_thread(registry.heartbeat, "feed"))
    coro = echo(1)
    with pytest.raises(RuntimeError, match="run_coroutine_threadsafe") as caught:
        await asyncio.to_thread(registry.register, coro)
    call = "loop.call_soon_threadsafe(registry.register, coro, task_id)"
    assert call in str(caught.value)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    task = asyncio.create_task(forever())
    with pytest.raises(RuntimeError, match=r"threadsafe\(registry\.track, task\)"):
        await asyncio.to_thread(registry.track, task)
    task.cancel()
    for method in (registry.cancel_all, registry.complete, registry.cancel):
        args = [] if method == registry.cancel_all else ["feed"]
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(method, *args)  # type: ignore[arg-type]
    # The calls that the messages name work.
    loop = asyncio.get_running_loop()

    async def register() -> str:
        return (await registry.register(echo(2), "two"))[1]

    def in_thread() -> str:
        loop.call_soon_threadsafe(registry.register, echo(1), "one")
        return asyncio.run_coroutine_threadsafe(register(), loop).result(5)

    assert await asyncio.to_thread(in_thread) == "two"
    registry.cancel("feed")
    await registry.wait()
    assert registry["one"].result == 1


def test_register_without_any_loop_names_the_remedy() -> None:
    with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
        TaskRegistry().register(echo(1))


async def test_get_returns_the_default_for_an_unknown_id() -> None:
    registry = TaskRegistry()
    registry.register(echo(1), "feed")
    assert registry.get("feed") is registry["feed"]
    await registry.wait()
    assert registry.get("feed") is registry["feed"]
    assert registry.get("nobody") is None
    assert registry.get("nobody", 5) == 5
    with pytest.raises(TypeError, match="str"):
        registry.get(7)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="non-empty"):
        registry.get("")


async def test_other_threads_may_read_while_the_loop_runs() -> None:
    registry = TaskRegistry(history=3, stale_threshold=0.0)
    errors: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                for number in range(20):
                    registry.heartbeat(str(number))
                registry.stats()
                registry.get_stale_tasks()
                registry.get_status()
                registry.dump()
                list(registry)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            for number in range(20):
                if str(number) not in registry:
                    registry.register(settle(number % 7), str(number))
            await settle(2)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not errors
    await registry.wait()
    adds_up(registry)
