"""What is patched is called: in the class, in place, or watched by a tool.

The programs run in a process of their own, since they change asyncio for good. Each
prints what it saw with asyncio's own group and with ours; both must be the same.
"""

import asyncio
import asyncio.events
import sys
from typing import Any

import pytest

from pyasynclife import TaskGroup, _core_fast_paths
from support.children import run_child
from support.loops import ready_queue, settle
from support.marks import HAS_UVLOOP, needs_capture, needs_uvloop

# Replaces a function's code, and keeps its file and names, as ddtrace does.
WRAP = """
import asyncio, asyncio.events, sys
from types import FunctionType
from pyasynclife import TaskGroup, TaskRegistry, bounded_gather

def wrap(f, hook):
    inner = FunctionType(
        f.__code__, f.__globals__, f.__name__, f.__defaults__, f.__closure__)
    inner.__kwdefaults__ = f.__kwdefaults__
    f.__globals__["__hook"], f.__globals__["__inner"] = hook, inner
    exec("def w(*a, **k): __hook(*a); return __inner(*a, **k)", f.__globals__,
         names := {})
    f.__code__ = names["w"].__code__.replace(
        co_filename=inner.__code__.co_filename,
        co_name=inner.__code__.co_name,
        co_qualname=inner.__code__.co_qualname,
        co_firstlineno=inner.__code__.co_firstlineno)
    f.__kwdefaults__ = None

async def child(_=None):
    pass

async def group(Group):
    async with Group() as group:
        for _ in range(3):
            group.create_task(child())

async def register():
    registry = TaskRegistry()
    for _ in range(3):
        registry.register(child())
    await registry.wait()

async def items():
    await bounded_gather(child, range(3), task_per_item=True)

async def workers():
    await bounded_gather(child, [0, 1, 2], max_concurrent=3)

async def read():
    async def source():
        for n in range(2):
            yield n
    await bounded_gather(child, source(), max_concurrent=2)

def count(what, *args):
    # more than for a main that does nothing
    counts = []
    for main in (child(), what(*args)):
        seen.clear()
        asyncio.run(main)
        counts.append(len(seen))
    return counts[1] - counts[0]

seen = []
if "warm" in sys.argv:
    asyncio.run(group(TaskGroup))
"""

IN_PLACE = """
wrap(asyncio.BaseEventLoop.create_task, lambda *_: seen.append(1))
print(count(group, asyncio.TaskGroup), count(group, TaskGroup), count(register),
      count(items), count(workers), count(read))
"""

# The wrapper sees whose step it is, one for each call.
HANDLES = """
def see(handle):
    owner = getattr(handle._callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        seen.append(owner)

wrap(asyncio.events.Handle._run, see)
async def steps(Group):
    async with Group() as group:
        for _ in range(3):
            group.create_task(asyncio.sleep(0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
print(count(steps, asyncio.TaskGroup), count(steps, TaskGroup))
"""

MONITORED = """
monitoring = sys.monitoring
monitoring.use_tool_id(2, "tool")
event = monitoring.events.PY_START
monitoring.register_callback(2, event, lambda *_: seen.append(1))
code = asyncio.BaseEventLoop.create_task.__code__
monitoring.set_local_events(2, code, event)
print(count(group, asyncio.TaskGroup), count(group, TaskGroup), count(register))
monitoring.set_local_events(2, code, 0)
print(count(group, TaskGroup))
"""


def play(*programs: str, warm: bool, **env: str) -> list[str]:
    code = "\n".join([WRAP, *programs])
    done = run_child(["-c", code, "warm" if warm else "cold"], env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("warm", [False, True])
def test_a_create_task_that_was_patched_in_place_is_called(warm: bool) -> None:
    stock, group, register, items, workers, reader = play(IN_PLACE, warm=warm)
    assert [group, register, items] == [stock] * 3 == ["3"] * 3
    assert int(workers) >= 1
    assert int(reader) >= 2


@pytest.mark.parametrize("warm", [False, True])
def test_a_handle_that_was_patched_in_place_sees_each_step(warm: bool) -> None:
    stock, ours = play(HANDLES, warm=warm)
    assert int(stock) >= 6
    assert ours == stock


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
@pytest.mark.parametrize("warm", [False, True])
def test_a_create_task_that_a_tool_monitors_is_called(warm: bool) -> None:
    assert play(MONITORED, warm=warm) == ["3", "3", "3", "0"]


# Counts the frames of create_task; a profiler alone does not select the plain path.
PROFILED = """
def profile(frame, what, arg):
    if what == "call" and frame.f_code is create_task:
        seen.append(1)
create_task = asyncio.BaseEventLoop.create_task.__code__
sys.setprofile(profile)
print(count(group, asyncio.TaskGroup), count(group, TaskGroup), count(register),
      count(items), count(workers), count(read))
"""


def test_the_environment_has_each_task_made_by_the_loop() -> None:
    counts = play(PROFILED, warm=False, PYASYNCLIFE_PLAIN="1")
    assert counts[:4] == ["3"] * 4
    assert int(counts[4]) >= 1
    assert int(counts[5]) >= 2


@needs_capture
@pytest.mark.standard_loop_only
async def test_the_capture_returns_when_a_patch_in_place_is_undone() -> None:
    async def handles() -> int:
        async with TaskGroup() as group:
            ready = ready_queue(asyncio.get_running_loop())
            before = len(ready)
            for _ in range(5):
                group.create_task(settle(0))
            return len(ready) - before

    function: Any = asyncio.BaseEventLoop._call_soon  # type: ignore[attr-defined]
    code = function.__code__
    assert await handles() == 1
    function.__code__ = code.replace(co_consts=(*code.co_consts, "patched"))
    try:
        assert await handles() == 5
    finally:
        function.__code__ = code
    assert await handles() == 1


# ------------------------------------------------------------------ each handle


@needs_capture
@pytest.mark.standard_loop_only
@pytest.mark.parametrize("warm", [False, True])
async def test_a_handle_class_that_was_replaced_sees_each_step(
    warm: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    class Spy(asyncio.events.Handle):
        def _run(self) -> None:
            owner = getattr(self._callback, "__self__", None)  # type: ignore[attr-defined]
            seen.append(isinstance(owner, asyncio.Task))
            super()._run()

    async def run(Group: Any) -> list[bool]:
        seen.clear()
        async with Group() as group:
            for _ in range(3):
                group.create_task(settle(1))
        return list(seen)

    if warm:
        await run(TaskGroup)
    monkeypatch.setattr(asyncio.events, "Handle", Spy)
    expected = await run(asyncio.TaskGroup)
    assert await run(TaskGroup) == expected


def test_a_loop_with_its_own_run_once_sees_each_task() -> None:
    class Loop(asyncio.SelectorEventLoop):
        def _run_once(self) -> None:
            owners = [getattr(h._callback, "__self__", None) for h in self._ready]  # type: ignore[attr-defined]
            seen.extend(o.get_name() for o in owners if isinstance(o, asyncio.Task))
            super()._run_once()  # type: ignore[misc]

    async def main(Group: Any) -> None:
        async with Group() as group:
            for number in range(3):
                group.create_task(settle(0), name=f"child {number}")

    seen: list[str] = []
    logs = []
    for Group in (asyncio.TaskGroup, TaskGroup):
        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main(Group))
        logs.append([name for name in seen if name.startswith("child")])
        seen.clear()
    assert logs[0] == ["child 0", "child 1", "child 2"]
    assert logs[1] == logs[0]


# ------------------------------------------------------------------ two types of loop


@needs_uvloop
def test_two_types_of_loop_in_turn_are_examined_once() -> None:
    import uvloop

    async def main() -> None:
        async with TaskGroup() as group:
            group.create_task(settle(0))

    def profile(frame: Any, what: str, _: object) -> None:
        examined.append(frame.f_code is examine and what == "call")

    examined: list[bool] = []
    examine = _core_fast_paths.loop_fast_paths.__code__
    loops = asyncio.SelectorEventLoop(), uvloop.new_event_loop()
    for loop in loops:
        loop.run_until_complete(main())
    sys.setprofile(profile)
    for _ in range(20):
        for loop in loops:
            loop.run_until_complete(main())
    sys.setprofile(None)
    for loop in loops:
        loop.close()
    assert sum(examined) == 0


def test_many_types_of_loop_in_turn_work() -> None:
    async def main() -> int:
        async with TaskGroup() as group:
            tasks = [group.create_task(settle(0)) for _ in range(3)]
        return sum(task.done() for task in tasks)

    bases: list[Any] = [asyncio.SelectorEventLoop]
    if HAS_UVLOOP:
        import uvloop

        bases.append(uvloop.Loop)
    for number in range(20):
        for base in bases:
            loop = type(f"Loop{number}", (base,), {})()
            assert loop.run_until_complete(main()) == 3
            loop.close()


# ------------------------------------------------------------------ the running loop


# As trio-asyncio does: asyncio's own accessors know nothing of the loop.
FOREIGN = """
import asyncio, asyncio.events as events, asyncio.tasks as tasks
from pyasynclife import TaskGroup, TaskRegistry, bounded_gather

loop = None
real = tasks.current_task
def get_running_loop():
    if loop is None:
        raise RuntimeError("no running event loop")
    return loop
names = "get_running_loop", "_get_running_loop"
for name, accessor in zip(names, (get_running_loop, lambda: loop)):
    setattr(events, name, accessor)
    setattr(asyncio, name, accessor)
tasks.current_task = asyncio.current_task = lambda it=None: real(it or loop)

class Loop(asyncio.SelectorEventLoop):
    def run_forever(self):
        global loop
        loop = self
        self._thread_id = 1
        try:
            while not self._stopping:
                self._run_once()
        finally:
            self._stopping, self._thread_id, loop = False, None, None

async def child(number=1):
    await asyncio.sleep(0)
    return number

async def group(Group):
    async with Group() as group:
        task = group.create_task(child())
    return task.result()

async def register():
    async with TaskRegistry() as registry:
        task, _ = await registry.register(child())
        await registry.heartbeat()
        return await task

async def gather():
    return (await bounded_gather(child, [1])).values()[0]

for main in (group(asyncio.TaskGroup), group(TaskGroup), register(), gather()):
    print(Loop().run_until_complete(main))
try:
    TaskGroup().__aenter__().send(None)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="asyncio's own tasks ask the C accessor"
)
def test_the_running_loop_is_the_one_that_asyncio_was_told_of() -> None:
    done = run_child(FOREIGN)
    *values, error = done.stdout.splitlines()
    assert values == ["1"] * 4, done.stderr
    assert error.startswith("a TaskGroup needs a running event loop")
