"""Functions, hooks and objects that misuse supervise() and the id in the context."""

import asyncio
import contextvars
import gc
from typing import Any

from pyasynclife import Backoff, TaskRegistry
from support.coroutines import echo_later, forever, raises
from support.hostile import case
from support.hostile_cases.common import REFUSED, core, works
from support.loops import settle, task_factory, until


@case("a function to supervise that cancels, drops and collects its registry")
async def function_drops_the_registry() -> None:
    registries = [TaskRegistry()]

    def fn() -> Any:
        registries.pop().cancel_all()
        gc.collect()
        return forever()

    registries[0].supervise(fn, "job")
    await settle()
    await works()


@case("a function to supervise that supervises its own id")
async def function_supervises_itself() -> None:
    registry = TaskRegistry()
    calls: list[int] = []

    def fn() -> Any:
        calls.append(1)
        if len(calls) < 4:
            try:
                registry.supervise(fn, "job")
            except REFUSED:
                pass
            raise LookupError("again")
        return echo_later(5)

    registry.supervise(fn, "job", backoff=Backoff(0))
    assert (await registry.join("job", 5)).result == 5
    await works()


@case("an on_finish that supervises the same id for ever")
async def on_finish_supervises() -> None:
    again: list[Any] = []

    def on_finish(meta: Any) -> None:
        again.append(meta)
        if len(again) < 200:
            registry.supervise(echo_later, "job")

    registry = TaskRegistry(on_finish=on_finish, history=0)
    registry.supervise(echo_later, "job")
    while len(again) < 200:
        await settle()
    assert len(registry) == 0
    await works()


@case("a backoff that ends the task that it is asked about")
async def backoff_ends_the_task() -> None:
    registry = TaskRegistry()

    class Ends(Backoff):
        __slots__ = ()

        def _after(self, attempts: int) -> float:
            registry.cancel("job")
            gc.collect()
            return 0.0

    registry.supervise(raises, "job", backoff=Ends())
    await settle(6)
    assert "job" not in registry
    assert registry.stats().registered == 1
    await works()


@case("a Supervision without a policy, and used twice")
async def bare_supervision() -> None:
    registry = TaskRegistry()
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, about: reported.append(about)
    )
    bare = core.Supervision()
    assert bare._meta is None
    bare._run()
    assert not bare._cancel_stale(ValueError())
    registry._supervise(bare, raises, "job", None, None)
    bare._run()
    for args in ((bare, forever, "other", None, None), (5, forever, "a", None, None)):
        try:
            registry._supervise(*args)
        except REFUSED:
            pass
        else:
            raise AssertionError
    await settle(6)
    assert len(registry) == 0
    assert reported
    await works()


@case("a task factory that returns nothing for a run")
async def factory_without_tasks() -> None:
    registry = TaskRegistry()

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        coro.close()

    with task_factory(factory):
        registry.supervise(forever, "job", backoff=Backoff(0), max_restarts=3)
        await until(lambda: "job" not in registry)
    assert "job" not in registry
    await works()


@case("the variable of the id set by hand, and left by a task factory")
async def variable_set_by_hand() -> None:
    registry = TaskRegistry()
    core.owner.set("not an owner")
    assert registry.current_id() is None
    assert not await registry.heartbeat()
    task, _ = await registry.register(echo_later(1))
    assert await task == 1
    try:
        core.Owner()
    except REFUSED:
        pass
    else:
        raise AssertionError
    context = contextvars.copy_context()
    task, _ = await registry.register(echo_later(2), context=context)
    assert await task == 2
    assert context[core.owner].task_id
    await works()
