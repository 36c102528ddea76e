"""Objects made by force, awaitables driven by hand, and hooks of the interpreter."""

import asyncio
import contextlib
import contextvars
import copy
import gc
import pickle
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

from pyasynclife import (
    TaskGroup,
    TaskRegistry,
    TaskResult,
    bounded_gather,
)
from support.coroutines import echo_later, forever
from support.hostile import case
from support.hostile_cases.common import (
    REFUSED,
    core,
    refuses,
    works,
)
from support.loops import settle

# ------------------------------------------------------ objects made by __new__

TYPES = {
    name: value
    for name, value in vars(core).items()
    if isinstance(value, type) and value.__module__.startswith("pyasynclife")
}


def use_all(thing: Any) -> None:
    """Read and call all its members; they may raise anything."""
    for name in dir(type(thing)):
        if name in ("__class__", "__init_subclass__", "__subclasshook__"):
            continue
        with contextlib.suppress(Exception):
            member = getattr(thing, name)
            if callable(member):
                for args in ((), (1,), ("x",), (None, None), (thing,)):
                    with contextlib.suppress(Exception):
                        answer = member(*args)
                        if hasattr(answer, "close"):
                            answer.close()
                            del answer
    with contextlib.suppress(Exception):
        repr(thing)
    with contextlib.suppress(Exception):
        hash(thing)


def _new_case(name: str) -> None:
    cls = TYPES[name]

    @case(f"{name} made by __new__ alone, and everything of it used")
    async def run() -> None:
        try:
            thing = cls.__new__(cls)
        except TypeError:
            refuses(object.__new__, cls)
            await works()
            return
        use_all(thing)
        del thing
        gc.collect()
        await settle(5)
        await works()

    @case(f"{name} subclassed, copied, pickled and written to")
    async def changed() -> None:
        with contextlib.suppress(Exception):
            sub: Any = type("Sub", (cls,), {"__init__": lambda self: None})
            use_all(sub())
        with contextlib.suppress(Exception):
            thing = cls.__new__(cls)
            for action in (copy.copy, copy.deepcopy, pickle.dumps):
                with contextlib.suppress(Exception):
                    action(thing)
            for attribute in ("__class__", "__dict__", "_loop", "x", "state"):
                with contextlib.suppress(Exception):
                    setattr(thing, attribute, 5)
                with contextlib.suppress(Exception):
                    delattr(thing, attribute)
        with contextlib.suppress(TypeError):
            cls.x = 5
            assert name == "TaskGroup", "the type can be written to"
        await works()


for _name in TYPES:
    _new_case(_name)


@case("TaskGroup's methods replaced and deleted while groups are in use")
async def replaced_methods() -> None:
    cls: Any = TaskGroup
    own = dict(vars(cls))
    own.pop("__new__")  # a C type that was given another one never gets it back
    names = [*own, "__del__", "__getattr__", "__hash__", "__eq__", "__bases__"]
    for name in names:
        for value in (5, lambda *args, **options: None, asyncio.TaskGroup):
            group: Any = TaskGroup()
            task = None
            with contextlib.suppress(Exception):
                await own["__aenter__"](group)
                task = own["create_task"](group, forever())
                await settle()
            with contextlib.suppress(Exception):
                setattr(cls, name, value)
            with contextlib.suppress(Exception):
                use_all(group)
                cls()
            with contextlib.suppress(Exception):
                delattr(cls, name)
            with contextlib.suppress(Exception):
                if name in own:
                    setattr(cls, name, own[name])
            if task is not None:
                task.cancel()
                await own["__aexit__"](group, None, None, None)
    await works()


@case("a second __init__ of all, in the middle")
async def second_init() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "alive")
    for args in ((), (1.0,), (1.0, 2.0)):
        with contextlib.suppress(*REFUSED):
            registry.__init__(*args)  # type: ignore[misc]
    assert "alive" in registry
    registry.cancel_all()
    assert await registry.wait(5)
    result = TaskResult("a", True, 1)
    with contextlib.suppress(*REFUSED):
        result.__init__("b", False)  # type: ignore[misc]
    assert (result.task_id, result.success) == ("a", True)
    async with TaskGroup() as group:
        group.create_task(settle())
        with contextlib.suppress(*REFUSED):
            group.__init__()  # type: ignore[misc]
    await works()


@case("results of all kinds compared, hashed, copied, pickled")
async def results_used() -> None:
    class Hostile:
        def __eq__(self, other: object) -> bool:
            raise LookupError("eq")

        __hash__ = None  # type: ignore[assignment]

    one, two = (TaskResult("a", True, Hostile()) for _ in range(2))
    try:
        assert one == two
    except LookupError:
        pass
    assert one != 5
    refuses(hash, one)
    plain: TaskResult[int] = TaskResult("a", True, 1)
    assert plain == pickle.loads(pickle.dumps(plain)) == copy.deepcopy(plain)
    cycle: list[Any] = []
    cycle.append(TaskResult("a", True, cycle))
    assert "..." in repr(cycle[0])
    await works()


# --------------------------------------------------- awaitables driven by hand


def _awaitable_case(kind: str, make: Callable[[], Any]) -> None:
    @case(f"{kind} driven by hand, and wrongly")
    async def run() -> None:
        warnings.simplefilter("ignore", ResourceWarning)
        for drive in (
            lambda it: it.send(5),
            lambda it: it.throw(LookupError("mine")),
            lambda it: it.throw(LookupError, "mine", None),
            lambda it: it.throw(5),
            lambda it: it.throw(),
            lambda it: it.close(),
            lambda it: (it.close(), it.send(None)),
            lambda it: (it.send(None), it.send(None)),
            lambda it: (it.send(None), it.throw(GeneratorExit)),
            lambda it: [next(it) for _ in range(3)],
            lambda it: iter(it),
        ):
            awaitable = make()
            awaitable = getattr(awaitable, "__await__", lambda a=awaitable: a)()
            with contextlib.suppress(Exception, GeneratorExit, asyncio.CancelledError):
                drive(awaitable)
            with contextlib.suppress(Exception, GeneratorExit, asyncio.CancelledError):
                awaitable.close()
            del awaitable
            gc.collect()
        await settle(5)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await settle(5)
        await works()


def _waiting() -> Any:
    registry = TaskRegistry()
    registry.register(forever())
    return registry.wait(0.01)


for _kind, _make in {
    "a heartbeat": lambda: TaskRegistry().heartbeat("x"),
    "a wait": _waiting,
    "a shutdown": lambda: TaskRegistry().shutdown(0),
    "a collect": lambda: bounded_gather(forever, range(2)).collect(),
    "a batch": lambda: bounded_gather(forever, range(2)),
    "a stream's next": lambda: bounded_gather(forever, [1]).__aiter__().__anext__(),
    "a group's enter": lambda: TaskGroup().__aenter__(),
    "a group's exit": lambda: TaskGroup().__aexit__(None, None, None),
}.items():
    _awaitable_case(_kind, _make)


@case("a context that is entered already")
async def entered_context() -> None:
    registry = TaskRegistry()
    here = contextvars.copy_context()
    task, _ = here.run(registry.register, echo_later(1), context=here).result()
    assert await task == 1
    await works()


# -------------------------------------------------------------------- hooks


def _hook_case(kind: str) -> None:
    @case(f"a {kind} hook that calls back")
    async def run() -> None:
        registry = TaskRegistry()
        registry.register(forever(), "alive")
        busy = False

        def hook(frame: Any, event: str, arg: Any) -> Any:
            nonlocal busy
            if not busy:
                busy = True
                registry.heartbeat("alive")
                registry.stats()
                list(registry)
                busy = False
            return hook if kind == "trace" else None

        install = sys.settrace if kind == "trace" else sys.setprofile
        install(hook)
        try:
            await works()
        finally:
            install(None)
        registry.cancel_all()
        assert await registry.wait(5)


_hook_case("trace")
_hook_case("profile")


@case("the collector at every allocation")
async def collects_always() -> None:
    gc.set_threshold(1)
    for _ in range(3):
        await works()
    gc.set_threshold(700, 10, 10)


@case("the collector calls back")
async def collector_calls_back() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "alive")

    def uses(phase: str, info: Any) -> None:
        registry.heartbeat("alive")
        registry.stats()

    gc.callbacks.append(uses)
    gc.set_threshold(5)
    await works()
    gc.callbacks.remove(uses)
    registry.cancel_all()
    assert await registry.wait(5)


@case("an audit hook that looks on")
async def audits() -> None:
    sys.addaudithook(lambda event, args: None)
    await works()


@case("a recursion limit that is near")
async def near_limit() -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    sys.unraisablehook = lambda about: None

    def digs(levels: int) -> Any:
        if levels:
            return digs(levels - 1)
        registry = TaskRegistry()
        coro = echo_later()
        with contextlib.suppress(RecursionError):
            registry.register(coro)
        return None

    for levels in range(sys.getrecursionlimit() - 60, sys.getrecursionlimit(), 3):
        with contextlib.suppress(RecursionError):
            digs(levels)
    await settle(20)
    await works()


@case("threads that read while the loop works")
async def threads_read() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "alive")
    over = threading.Event()

    def reads() -> None:
        while not over.is_set():
            registry.stats()
            list(registry)
            registry.heartbeat("alive")

    threads = [threading.Thread(target=reads) for _ in range(3)]
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for thread in threads:
        thread.start()
    for _ in range(20):
        registry.register(echo_later())
        await settle(5)
    over.set()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    sys.setswitchinterval(old)
    registry.cancel_all()
    assert await registry.wait(5)
    await works()
