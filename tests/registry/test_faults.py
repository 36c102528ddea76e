"""Every allocation of the registry, of Ready and of JoinSet fails once.

The operation succeeds or raises MemoryError, and the registry is as it should be.

Only a build with PYASYNCLIFE_FAULTS has fault points; tools/sanitize.sh makes one.
"""

import asyncio
import contextlib
import contextvars
import copy
import gc
import importlib.util
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from unittest.mock import patch

import pytest

from pyasynclife import Backoff, TaskRegistry
from pyasynclife._core import (
    EXIT_CANCELLED,
    EXIT_FINISHED,
    JoinSet,
    Registry,
    adopt_methods,
    owner,
)
from support.coroutines import echo, forever, swallow
from support.faults import (
    fail_each_allocation,
    failing,
    ignores_what_cannot_be_raised,
    needs_faults,
)
from support.loops import eager, settle, task_factory, until
from support.registries import adds_up

pytestmark = needs_faults

ROUNDS = 400
TRIES = 5  # enough to see one block that is lost each time


@pytest.fixture
def quiet(
    monkeypatch: pytest.MonkeyPatch, loop_errors: list[Any], freed_memory_errors: None
) -> None:
    """Errors that cannot be raised are reported elsewhere; ignore those reports."""
    monkeypatch.setattr(sys, "unraisablehook", lambda *_: None)


async def raises() -> None:
    raise ValueError("no price")


Operation = Callable[[TaskRegistry], object]


async def ends(registry: TaskRegistry) -> None:
    """Tasks end; their ends are recorded and reported."""
    registry.cancel("beating")
    await settle(4)


async def shuts_down(registry: TaskRegistry) -> None:
    await registry.shutdown(0.01)


async def waits(registry: TaskRegistry) -> None:
    registry.cancel_all()
    await registry.wait(5)


async def enters(registry: TaskRegistry) -> None:
    async with registry:
        await settle()


async def awaits(registry: TaskRegistry) -> None:
    assert await registry.heartbeat("beating")
    assert not await registry.heartbeat("nobody")
    assert isinstance(await registry.get_status(), dict)
    ready: Any = registry.get_stale_tasks()
    repr(ready)
    assert ready.result() == await ready


async def from_inside(registry: TaskRegistry) -> None:
    async def inside() -> None:
        await registry.heartbeat()
        await registry.wait(0)
        await registry.shutdown(0)

    await registry.register(inside()).result()[0]


async def eagerly(registry: TaskRegistry) -> None:
    async def first() -> None:
        await registry.heartbeat()
        registry.cancel("eager", "msg")
        await registry.shutdown(0)

    with task_factory(eager):
        registry.register(first(), "eager")
    await settle(3)


def reads_durations(registry: TaskRegistry) -> None:
    durations = registry.stats().durations
    assert durations.count == sum(durations.counts)
    assert len(durations.bounds) == 26
    assert durations.quantile(1) != durations.sum
    assert repr(durations)


def copies_durations(registry: TaskRegistry) -> None:
    durations = registry.stats().durations
    assert hash(durations) == hash(copy.copy(durations))
    assert TaskRegistry().stats().durations.quantile(1) != 0.0


async def tracks(registry: TaskRegistry) -> None:
    task = asyncio.create_task(forever())
    try:
        registry.track(task)
        registry.track(task, task.get_name())
        assert task.get_name() in registry
    except MemoryError:
        task.cancel()
        raise


async def tracks_a_finished_task(registry: TaskRegistry) -> None:
    task = asyncio.create_task(echo(1))
    await task
    registry.track(task, "tracked")


async def drains(registry: TaskRegistry) -> None:
    loop = asyncio.get_running_loop()
    over = loop.create_task(echo(1))
    odd = [loop.create_task(swallow()), loop.create_task(forever())]
    await settle()
    try:
        drain = JoinSet()
        drain.add(over, registry["beating"])
        for task in odd:
            drain.add(task)
        drain.cancel(5)
        drain.enter(odd[0])
        assert drain.left(odd[0]) == 1
        assert [node.task for node in drain.stuck(odd[0])] == [odd[1]]
        assert [node.task for node in drain.stuck(None)] == [odd[1], odd[0]]
        await settle()
        log = drain.log
        assert log.counts() == (1, 1, 0, 1)
        ((name, task_id, age, _, error),) = log.exits(EXIT_CANCELLED, 5)
        assert (name, task_id, age, error) == (odd[1].get_name(), None, None, None)
        assert len(log.exits(EXIT_FINISHED, 5)) == 1
        assert drain.pending == 0
    finally:
        for task in odd:
            task.cancel()
        await asyncio.gather(*odd, return_exceptions=True)
        if "drain" in locals():
            assert drain.pending == 0


OPERATIONS: dict[str, Operation] = {
    "register": lambda r: r.register(forever()),
    "register an id": lambda r: r.register(forever(), "mine", stale_after=7.0),
    "register over": lambda r: r.register(forever(), "over"),
    "register in a context": lambda r: r.register(
        forever(), context=contextvars.copy_context()
    ),
    "register many": lambda r: [r.register(forever()) for _ in range(20)],
    "track": tracks,
    "track a finished task": tracks_a_finished_task,
    "heartbeat": lambda r: r.heartbeat("beating"),
    "heartbeat of none": lambda r: r.heartbeat(),
    "complete": lambda r: r.complete("beating", 5),
    "complete failed": lambda r: r.complete("beating", error=ValueError("no price")),
    "cancel": lambda r: r.cancel("beating", "msg"),
    "cancel_all": lambda r: r.cancel_all(),
    "get_status": lambda r: r.get_status(),
    "get_stale_tasks": lambda r: r.get_stale_tasks(),
    "newly stale": lambda r: r._newly_stale(),
    "stats": lambda r: r.stats(),
    "durations": reads_durations,
    "durations, copied": copies_durations,
    "where": lambda r: r.where("beating"),
    "dump": lambda r: r.dump(),
    "iterate": list,
    "look up": lambda r: ("beating" in r, r["beating"], r["over"], repr(r["over"])),
    "set stale_threshold": lambda r: setattr(r, "stale_threshold", r.stale_threshold),
    "metadata": lambda r: (r["beating"].as_dict(), r["failed"].as_dict()),
    "metadata for JSON": lambda r: [
        r[task_id].as_dict(json=True)
        for task_id in ("beating", "failed", "huge", "over")
    ],
    "ends": ends,
    "shutdown": shuts_down,
    "wait": waits,
    "enter": enters,
    "await": awaits,
    "from inside": from_inside,
    "drain": drains,
    "eager": eagerly,
}

UNCHANGED = {
    OPERATIONS[name]
    for name in OPERATIONS
    if name.startswith(("register", "heartbeat", "complete"))
    and name != "register many"
}


async def prepared() -> TaskRegistry:
    registry = TaskRegistry(
        5.0, 0.0, history=4, keep_errors=1, on_finish=lambda meta: meta.silence
    )
    for coro, task_id in (
        (echo("caf\xe9"), "over"),
        (echo(10**5000), "huge"),
        (raises(), "failed"),
        (forever(), "beating"),
        (swallow(), "swallows"),
    ):
        registry.register(coro, task_id)
    await settle()
    registry.heartbeat("beating")
    registry.register(raises(), "will fail", stale_after=math.inf)
    registry.register(forever(), "pending", stale_after=1.0)
    return registry


async def attempt(operation: Operation, nth: int) -> bool:
    """Run it with the nth allocation failing; return whether it got that far."""
    registry = await prepared()
    before = registry.stats()
    raised = False
    with failing(nth) as left:
        try:
            done = operation(registry)
            if isinstance(done, Awaitable) and asyncio.iscoroutine(done):
                await done
        except MemoryError:
            raised = True
    adds_up(registry)
    if raised and operation in UNCHANGED:
        assert registry.stats() == before
    await until(lambda: not registry.closing)
    if "mine" not in registry:
        task, _ = await registry.register(echo(5), "mine")
        assert await task == 5
    registry.heartbeat("beating")
    for _ in range(2):
        registry.cancel_all()
        await settle()
    assert await registry.wait(5)
    await settle()
    adds_up(registry)
    return left == [0]


@pytest.mark.parametrize("name", OPERATIONS)
async def test_each_allocation_fails_once(name: str, quiet: None) -> None:
    if name == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")
    for nth in range(1, ROUNDS):
        if not await attempt(OPERATIONS[name], nth):
            break
    else:
        pytest.fail(f"more than {ROUNDS} allocations")


@pytest.mark.parametrize("name", OPERATIONS)
async def test_a_failed_allocation_leaks_nothing(
    name: str, quiet: None, loop_errors: list[Any]
) -> None:
    if name == "eager" and sys.version_info < (3, 12):
        pytest.skip("eager tasks came with 3.12")
    nth = 1
    while await attempt(OPERATIONS[name], nth):
        growths = []
        for _ in range(40):  # caches may grow at first
            gc.collect()
            blocks = sys.getallocatedblocks()
            for _ in range(TRIES):
                await attempt(OPERATIONS[name], nth)
                loop_errors.clear()
            gc.collect()
            growths.append(sys.getallocatedblocks() - blocks)
            if growths[-1] < TRIES:
                break
        assert min(growths) < TRIES, (nth, growths)
        nth += 1


async def test_each_allocation_of_the_import_fails_once(quiet: None) -> None:
    spec = importlib.util.find_spec("pyasynclife._core")
    assert spec is not None
    assert spec.loader is not None
    for nth in range(1, 1000):
        module = importlib.util.module_from_spec(spec)
        with failing(nth) as left:
            try:
                spec.loader.exec_module(module)
            except MemoryError:
                pass
        if left != [0]:
            break
        del module
        gc.collect()
    assert nth > 100


# --------------------------------------- allocations that the above do not reach


class WithoutStr(Exception):
    def __str__(self) -> str:
        raise LookupError("str")


async def closes_an_awaitable() -> None:
    registry = TaskRegistry()
    task, _ = registry.register(forever()).result()
    waiting = registry.wait(5)
    try:
        waiting.close()
    finally:
        waiting.close()
        task.cancel()


async def reports_an_error_without_str() -> None:
    async def raises() -> None:
        raise WithoutStr

    registry = TaskRegistry()
    registry.register(raises(), "mute")
    await settle()
    assert registry["mute"].error_text in ("WithoutStr: <str() failed>", None)


async def nests_registries() -> None:
    registries = [TaskRegistry(history=0) for _ in range(3)]
    seen: list[str | None] = []

    async def nest(depth: int) -> None:
        if depth == 6:  # each has an outer one of the same registry
            seen.extend(registry.current_id() for registry in registries)
            repr(contextvars.copy_context().get(owner))
            return
        task, _ = registries[depth % 3].register(nest(depth + 1), f"{depth}").result()
        await task

    await nest(0)
    assert seen == ["3", "4", "5"]


async def joins() -> None:
    registry = TaskRegistry()
    registry.register(echo(5), "job", info="mine")
    assert (await registry.join("job", 60)).result == 5


async def supervises() -> None:
    left = [OSError("no connection"), ValueError("no price"), None]

    async def run(error: Exception | None) -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "value"

    def fn() -> Coroutine[Any, Any, str]:
        error = left.pop(0)
        if isinstance(error, OSError):
            raise error
        return run(error)

    registry = TaskRegistry()
    registry.supervise(fn, "job", backoff=Backoff(0), max_restarts=9, stale_after=7)
    try:
        meta = await registry.join("job", 60)
        assert meta.state in ("done", "failed")
        adds_up(registry)
    finally:
        await registry.shutdown(60)
    assert len(registry) == 0


async def ends_a_supervised_one() -> None:
    registry = TaskRegistry()
    try:
        for n in range(3):
            registry.supervise(raises, f"{n}", backoff=Backoff(9, 1, 9, 0))
        await settle(6)
        registry.cancel("0", "enough")
        registry.complete("1", 5)  # if the policy could be asked
        assert registry["1"].result == 5 or registry["1"].state == "failed"
    finally:
        while len(registry):
            with contextlib.suppress(MemoryError):
                await registry.shutdown(60)


async def cancels_a_stale_run() -> None:
    registry = TaskRegistry()
    with (
        patch("pyasynclife._supervise._STUCK_FIRST", 0.001),
        contextlib.ExitStack() as stack,
    ):
        stack.callback(registry.cancel_all)
        registry.supervise(
            forever,
            "job",
            restart_stale=True,
            stale_after=0,
            backoff=Backoff(0),
            max_restarts=1,
        )
        meta = await registry.join("job", 60)
        assert meta.state in ("failed", "cancelled")


async def makes_a_registry() -> None:
    TaskRegistry(history=1)


async def copies_the_methods() -> None:
    type("Own", (Registry,), {})
    adopt_methods(type("Own", (Registry,), {}))


SCENARIOS = [
    closes_an_awaitable,
    reports_an_error_without_str,
    nests_registries,
    joins,
    supervises,
    ends_a_supervised_one,
    cancels_a_stale_run,
    makes_a_registry,
    copies_the_methods,
]


@ignores_what_cannot_be_raised
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_each_allocation_of_a_scenario_fails_once(
    scenario: Callable[[], Awaitable[None]], loop_errors: list[dict[str, Any]]
) -> None:
    await fail_each_allocation(scenario, loop_errors)
