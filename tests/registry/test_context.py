"""The context in which on_finish and the log of a failure run."""

import asyncio
import gc
import logging
import weakref
from contextvars import ContextVar
from typing import Any

import pytest

from pyasynclife import TaskMetadata, TaskRegistry
from support.capture import capture, play
from support.coroutines import echo
from support.loops import eager, task_factory
from support.marks import needs_eager

request: ContextVar[Any] = ContextVar("request", default=None)
both_paths = pytest.mark.parametrize(
    "allowed", [True, False], ids=["captured", "plain"]
)


@both_paths
async def test_hooks_and_log_see_the_variables_of_the_registration(
    allowed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str, Any]] = []

    def remember(record: logging.LogRecord) -> bool:
        assert isinstance(record.args, tuple)
        seen.append(("log", str(record.args[0]), request.get()))
        return True

    async def job(error: Exception | None) -> None:
        request.set("set by the job")  # in the task's context alone
        await asyncio.sleep(0)
        if error is not None:
            raise error

    async def serve(name: str, error: Exception | None) -> None:
        request.set(name)
        if name == "tracked":
            task = asyncio.create_task(job(error))
            registry.track(task, name)
        else:
            task, _ = await registry.register(job(error), name)
        request.set("set after the registration")
        await asyncio.wait([task])

    registry = TaskRegistry(
        on_finish=lambda meta: seen.append(("end", meta.task_id, request.get()))
    )
    caplog.handler.addFilter(remember)
    with capture(allowed), caplog.at_level(logging.ERROR, "pyasynclife"):
        for name in ("first", "second", "tracked"):
            await asyncio.create_task(serve(name, None))
        await asyncio.create_task(serve("fails", ValueError()))
        await registry.wait()
    caplog.handler.removeFilter(remember)
    assert seen == [
        ("end", "first", "first"),
        ("end", "second", "second"),
        ("end", "tracked", "tracked"),
        ("log", "fails", "fails"),
        ("end", "fails", "fails"),
    ]


@both_paths
async def test_what_is_cancelled_ends_in_the_context_of_its_registration(
    allowed: bool,
) -> None:
    seen: list[tuple[str, Any]] = []
    registry = TaskRegistry(
        on_finish=lambda meta: seen.append((meta.task_id, request.get()))
    )
    with capture(allowed):
        for name in ("a", "b", "c"):
            request.set(name)
            registry.register(asyncio.sleep(3600), name)
        await asyncio.sleep(0)
        request.set("canceller")
        registry.cancel_all()
        await registry.wait()
    assert seen == [("a", "a"), ("b", "b"), ("c", "c")]


@needs_eager
async def test_a_heartbeat_in_an_eager_first_step_does_not_pass_its_context_on() -> (
    None
):
    seen: list[Any] = []

    async def beats(iterations: int) -> None:
        request.set("set by the job")
        await registry.heartbeat()
        for _ in range(iterations):
            await asyncio.sleep(0)

    registry = TaskRegistry(on_finish=lambda _: seen.append(request.get()))
    request.set("caller")
    with task_factory(eager):
        for iterations in range(2):
            registry.register(beats(iterations))
    await registry.wait()
    assert seen == ["caller", "caller"]


@both_paths
async def test_what_a_hook_sets_is_gone_at_the_next_end(allowed: bool) -> None:
    seen: list[Any] = []

    def on_finish(_: TaskMetadata) -> None:
        seen.append(request.get())
        request.set("set by the hook")

    registry = TaskRegistry(on_finish=on_finish)
    request.set("caller")
    with capture(allowed):
        for _ in range(3):
            registry.register(echo())
        await registry.wait()
    assert seen == ["caller"] * 3


@both_paths
async def test_a_registry_does_not_hold_the_context_of_its_first_user(
    allowed: bool,
) -> None:
    class Session:
        pass

    async def serve() -> "weakref.ref[Session]":
        request.set(Session())
        await registry.register(echo())
        await registry.wait()
        return weakref.ref(request.get())

    registry = TaskRegistry()
    with capture(allowed):
        session = await asyncio.create_task(serve())
    await asyncio.sleep(0)
    gc.collect()
    assert session() is None


# Jupyter's nest_asyncio runs the loop from inside its callbacks; a hook or a logging
# handler that is synchronous over asyncio does so too.
NESTED_HOOK = """
import logging
from pyasynclife import TaskRegistry

def run_the_loop(*_):
    called.append(1)
    loop = asyncio.get_running_loop()
    loop.run_inside(loop.create_task(asyncio.sleep(0.01)))

class Handler(logging.Handler):
    def emit(self, record):
        run_the_loop()

async def job(n):
    await asyncio.sleep(0.001 * n)
    if fails:
        raise ValueError

async def main():
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: errors.append(c))
    registry = TaskRegistry(on_finish=None if fails else run_the_loop)
    for n in range(4):
        registry.register(job(n))
    log.append(await registry.wait(20))
    log.append((len(called), len(registry), errors))

for fails in (False, True):
    called = []
    logging.getLogger("pyasynclife").handlers[:] = [Handler()] if fails else []
    NestingLoop().run_until_complete(main())
"""


@pytest.mark.parametrize("capture", [0, 1])
def test_no_end_is_lost_where_a_hook_runs_the_loop(capture: int) -> None:
    assert play(NESTED_HOOK, capture).strip() == "[True, (4, 0, []), True, (4, 0, [])]"
