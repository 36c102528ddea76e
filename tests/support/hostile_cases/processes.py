"""Imports, forks, sub-interpreters and exits."""

import asyncio
import gc
import importlib.util
import os
import sys
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pyasynclife
from pyasynclife import (
    SignalCoordinator,
    TaskGroup,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import echo_later, forever
from support.hostile import case
from support.hostile_cases.common import (
    Wakes,
    core,
    in_thread,
    refuses,
    works,
)
from support.loops import settle


@case("the package imported twice")
async def imported_twice() -> None:
    first = dict(sys.modules)
    for name in list(sys.modules):
        if name.split(".")[0] == "pyasynclife":
            del sys.modules[name]
    again: Any = importlib.import_module("pyasynclife")
    assert again is not pyasynclife
    assert (await again.bounded_gather(echo_later, range(2))).values() == [0, 1]
    registry = again.TaskRegistry()
    task, _ = await registry.register(echo_later(1))
    assert await task == 1
    refuses(lambda: core.Registry.heartbeat(5))
    sys.modules.update(first)
    await works()


@case("the module executed twice and dropped")
async def executed_twice() -> None:
    spec = importlib.util.find_spec("pyasynclife._core")
    assert spec is not None
    assert spec.loader is not None
    for _ in range(5):
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        thing = module.Registry()
        del module
        gc.collect()
        repr(thing)
        del thing
        gc.collect()
    await works()


def _interpreter_case(kind: str) -> None:
    @case(f"a sub-interpreter that {kind}")
    def run() -> None:
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters  # type: ignore
        code = f"import sys; sys.path[:] = {sys.path!r}\n"
        code += "import pyasynclife, asyncio\n"
        if kind == "works":
            code += "async def echo(n): return n\n"
            code += "async def main():\n"
            code += "    r = await pyasynclife.bounded_gather(echo, range(3))\n"
            code += "    assert r.values() == [0, 1, 2]\n"
            code += "loop = asyncio.SelectorEventLoop()\n"
            code += "loop.run_until_complete(main()); loop.close()\n"
        code = f"try:\n{_indented(code)}except ImportError as error: print(error)\n"

        def twice() -> None:
            for _ in range(2):
                interpreter = interpreters.create()
                failure = interpreters.run_string(interpreter, code)
                interpreters.destroy(interpreter)
                assert failure is None, failure

        in_thread(twice)  # 3.11 has one running loop for all interpreters of a thread


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


@case("a fork in the middle of everything")
async def forks() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "alive")
    batch = bounded_gather(forever, range(3))
    collecting = asyncio.ensure_future(batch.collect())
    await settle(5)
    warnings.simplefilter("ignore", DeprecationWarning)  # faulthandler's thread
    child = os.fork()
    if child == 0:
        registry.stats()
        registry.heartbeat("alive")
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    batch.cancel()
    registry.cancel_all()
    await collecting
    assert await registry.wait(5)
    await works()


KEPT: list[Any] = []


def _exit_case(kind: str, make: Callable[[], Awaitable[Any]]) -> None:
    @case(f"an exit with {kind}")
    async def run() -> None:
        KEPT.append(await make())


async def a_registry() -> Any:
    registry = TaskRegistry()
    registry.register(forever(), "alive")
    registry.register(echo_later())
    await settle(5)
    return registry


async def a_ready() -> Any:
    registry = TaskRegistry()
    return registry, registry.heartbeat(), registry.get_status(), registry.stats()


async def a_batch() -> Any:
    batch = bounded_gather(forever, range(3))
    collecting = asyncio.ensure_future(batch.collect())
    await settle(5)
    return batch, collecting


async def an_unused_batch() -> Any:
    return bounded_gather(forever, range(3))


async def a_batch_with_timers() -> Any:
    batch = bounded_gather(forever, range(3), timeout=100, budget=100)
    collecting = asyncio.ensure_future(batch.collect())
    await settle(5)
    return batch, collecting


async def a_group() -> Any:
    group = TaskGroup()

    async def enters() -> None:
        async with group:
            group.create_task(forever())

    task = asyncio.ensure_future(enters())
    await settle(5)
    return group, task


async def a_coordinator() -> Any:
    coordinator = SignalCoordinator(registry=TaskRegistry())
    coordinator.setup_handlers()
    coordinator.remove_handlers()
    return coordinator


async def a_wait() -> Any:
    registry = TaskRegistry()
    registry.register(forever())
    return registry, asyncio.ensure_future(registry.wait(100))


async def a_monitor() -> Any:
    registry = TaskRegistry()
    return registry, asyncio.ensure_future(registry.monitor_loop())


async def a_cycle_of_all() -> Any:
    made = [await a_registry(), await a_batch(), await a_group()]
    made.append(made)
    return made


async def everything_in_a_finalizer() -> Any:
    registry, ready, *_ = await a_ready()
    return Wakes(lambda: (registry.stats(), list(registry), repr(ready)))


for _kind, _make in {
    "a registry alive": a_registry,
    "ready awaitables unawaited": a_ready,
    "a batch in the middle": a_batch,
    "a batch never used": an_unused_batch,
    "a batch whose timers run": a_batch_with_timers,
    "a group in the middle": a_group,
    "a coordinator": a_coordinator,
    "a wait in the middle": a_wait,
    "a monitor running": a_monitor,
    "a cycle of everything": a_cycle_of_all,
    "a finalizer that uses it": everything_in_a_finalizer,
}.items():
    _exit_case(_kind, _make)

_interpreter_case("imports it")
# On 3.12 asyncio alone corrupts the heap. On 3.11 the child has hung where a plain
# process did not; the cause is not known.
if sys.version_info >= (3, 13):
    _interpreter_case("works")
