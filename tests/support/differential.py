"""Random programs of tasks, played with one class of group or another.

A program is a tree of tuples, so that it can be printed and shrunk. `run` plays it in
virtual time and returns the log of its effects, each with its iteration of the loop.
Two classes with the same log behave the same in that program.
"""

import asyncio
import contextvars
import heapq
import importlib.util
import os
import random
import selectors
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from support.children import ROOT
from support.coroutines import Boom
from support.loops import ready_queue

Op = tuple[Any, ...]
Body = tuple[Op, ...]
Log = list[tuple[int, Any]]

NEWEST = Path(
    os.environ.get("PYASYNCLIFE_CPYTHON_315", "")
    or ROOT / ".matrix/tree/usr/lib/python3.15"
)
LATE = 1000.0  # a program that still runs then waits for something that never comes
MOST_ITERATIONS = 5000

color: contextvars.ContextVar[str] = contextvars.ContextVar("color", default="none")


def reference() -> tuple[type, str] | None:
    """CPython 3.15's TaskGroup and where it is from; None where it is not there."""
    if sys.version_info >= (3, 15):
        return asyncio.TaskGroup, "the running version's"
    path = NEWEST / "asyncio/taskgroups.py"
    if not path.exists():
        return None
    futures: Any = asyncio.futures
    if not hasattr(futures, "future_add_to_awaited_by"):
        # There is no await graph: the module gets functions that do nothing.
        shim = types.ModuleType("asyncio.futures_without_graph")
        vars(shim).update(vars(futures))
        for name in ("future_add_to_awaited_by", "future_discard_from_awaited_by"):
            setattr(shim, name, lambda *_: None)
        futures = shim
    spec = importlib.util.spec_from_file_location("asyncio.taskgroups_315", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    was = asyncio.futures
    asyncio.futures = sys.modules["asyncio.futures"] = futures
    try:
        spec.loader.exec_module(module)
    finally:
        asyncio.futures = sys.modules["asyncio.futures"] = was
    return module.TaskGroup, f"3.15's, from {path}"


class Ordered(dict[Any, None]):
    """A set in insertion order; asyncio cancels children in the order of a set."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)


def in_order(group: type) -> Any:
    """A subclass that cancels its children in the order of their creation.

    `trapped` is true once a group has left a cancellation behind that cannot be taken
    back, as asyncio's does on 3.11 and 3.12 (gh-117407). It is then no guide: ours
    requests the cancellation again an iteration later.
    """

    class InOrder(group):  # type: ignore[misc,valid-type]
        trapped = False

        def __init__(self) -> None:
            super().__init__()
            self._tasks = Ordered()

        async def __aexit__(self, *error: Any) -> Any:
            task = current()
            try:
                return await super().__aexit__(*error)
            finally:
                if sys.version_info < (3, 13) and task._must_cancel:  # type: ignore
                    InOrder.trapped = True

    return InOrder


# ------------------------------------------------------------------ the programs


class Writer:
    """Writes a random program."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.left = self.random.choice((8, 20, 45))  # operations

    def program(self) -> Body:
        return self.body(depth=0, groups=0)

    def body(self, depth: int, groups: int) -> Body:
        ops = []
        for _ in range(self.random.randint(1, 6 if depth else 9)):
            if self.left <= 0:
                break
            self.left -= 1
            ops.append(self.op(depth, groups))
        return tuple(ops)

    def op(self, depth: int, groups: int) -> Op:
        r = self.random
        deep = depth < 5
        choices: list[tuple[int, Callable[[], Op]]] = [
            (3, lambda: ("pause", r.randint(1, 3))),
            (1, lambda: ("sleep", r.choice((0.0, 1.0, 2.0)))),
            (3, lambda: ("soon", self.act(groups))),
            (2, lambda: ("later", r.choice((0.0, 0.0, 1.0, 2.0)), self.act(groups))),
            (2, lambda: ("do", self.act(groups))),
            (2, lambda: ("await", r.randrange(99))),
            (1, lambda: ("wait", r.randrange(3))),
            (1, lambda: ("share", r.randrange(2))),
            (1, lambda: ("color", r.choice("rgb"))),
            (1, lambda: ("uncancel",)),
            (1, lambda: ("own callback",)),
            (1, lambda: ("boom",)),
        ]
        if r.random() < 0.04:
            return (r.choice(("interrupt", "exit")),)
        if deep:
            choices += [
                (3, lambda: ("group", self.body(depth + 1, groups + 1))),
                (1, lambda: ("try", self.body(depth + 1, groups), r.random() < 0.5)),
                (1, lambda: ("finally", self.body(depth + 1, groups))),
                (
                    1,
                    lambda: ("timeout", r.choice((0, 1)), self.body(depth + 1, groups)),
                ),
                (2, lambda: ("foreign", self.body(depth + 1, groups))),
                (2, lambda: ("register", self.body(depth + 1, groups))),
                (1, lambda: ("gather", r.randrange(99), r.randrange(99))),
                (1, lambda: ("shield", r.randrange(99))),
            ]
        if deep and groups:
            children = (9, lambda: self.child(depth, groups))
            choices += [children, (3, lambda: ("many", r.randint(2, 6), self.small()))]
        weights = [weight for weight, _ in choices]
        return r.choices(choices, weights)[0][1]()

    def child(self, depth: int, groups: int) -> Op:
        inside = self.body(depth + 1, groups)
        return ("child", self.random.randrange(groups), inside)

    def small(self) -> Body:
        r = self.random
        bodies: list[Body] = [
            (),
            (("pause", 1),),
            (("boom",),),
            (("sleep", 1.0),),
            (("wait", 0),),
            (("share", 0),),
            (("own callback",),),
            (("own callback",), ("pause", 1)),
            (("do", ("nothing",)), (r.choice(("interrupt", "exit", "boom")),)),
        ]
        return r.choice(bodies)

    def act(self, groups: int) -> Op:
        """Something that a callback can do, and a coroutine without awaiting."""
        r = self.random
        acts: list[Op] = [
            ("nothing",),
            ("raise",),
            ("cancel", r.randrange(99)),
            ("callback", r.randrange(99)),
            ("callback", -1),
            ("set", r.randrange(3)),
            ("resolve", r.randrange(2)),
            ("register", self.small()),
            ("register", self.small()),
            ("cancel all",),
            ("spawn", self.small()),
            ("soon", ("nothing",)),
            ("look", r.randrange(99)),
        ]
        if groups:
            acts += 2 * [("adopt", r.randrange(groups), self.small())]
            acts += [("cancel group", r.randrange(groups))]
        return r.choice(acts)


def smaller(body: Body) -> Iterator[Body]:
    """Smaller programs, those without a whole operation first."""
    for i, op in enumerate(body):
        yield body[:i] + body[i + 1 :]
        for j, part in enumerate(op):
            if isinstance(part, tuple) and (not part or isinstance(part[0], tuple)):
                yield body[:i] + part + body[i + 1 :]
                for less in smaller(part):
                    yield (*body[:i], (*op[:j], less, *op[j + 1 :]), *body[i + 1 :])


def shrink(program: Body, fails: Callable[[Body], bool]) -> Body:
    tries = 3000
    while tries:
        for less in smaller(program):
            tries -= 1
            if fails(less):
                program = less
                break
            if not tries:
                break
        else:
            break
    return program


# ------------------------------------------------------------------ playing one


class VirtualLoop(asyncio.SelectorEventLoop):
    """Counts its iterations; its clock jumps to the next timer when it is idle.

    The selector does both: a loop with a `_run_once` of its own takes the plain path.
    """

    iterations = 0
    now = 0.0

    def __init__(self) -> None:
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def begin_iteration(self, timeout: float | None) -> float | None:
        self.iterations += 1
        if self.iterations > MOST_ITERATIONS:
            raise RuntimeError("the program does not end")
        if timeout:
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        return timeout and 0


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        return super().select(self._loop.begin_iteration(timeout))


def uvloop_type() -> type | None:
    """The same on uvloop; None where uvloop is not installed.

    The first callback of each iteration counts it and runs the timers that are due.
    """
    try:
        import uvloop
    except ImportError:
        return None

    class VirtualUvloop(uvloop.Loop):
        iterations = 0
        now = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.timers: list[asyncio.TimerHandle] = []
            self.call_soon(self.tick)
            self.ready = ready_queue(self)

        def time(self) -> float:
            return self.now

        def call_later(self, delay: float, *args: Any, context: Any = None) -> Any:
            return self.call_at(self.now + delay, *args, context=context)

        def call_at(self, when: float, *args: Any, context: Any = None) -> Any:
            handle = asyncio.TimerHandle(when, args[0], args[1:], self, context)
            heapq.heappush(self.timers, handle)
            return handle

        def _timer_handle_cancelled(self, handle: Any) -> None:
            self.timers = [timer for timer in self.timers if timer is not handle]
            heapq.heapify(self.timers)

        def tick(self) -> None:
            idle = not self.ready
            self.iterations += 1
            self.call_soon(self.tick)
            if self.iterations > MOST_ITERATIONS:
                raise SystemExit("the program does not end")
            if self.timers and idle:
                self.now = max(self.now, self.timers[0].when())
            while self.timers and self.timers[0].when() <= self.now:
                heapq.heappop(self.timers)._run()

    return VirtualUvloop


class Registry:
    """A reference TaskRegistry, by hand: what it does to the tasks it starts."""

    def __init__(self, *, on_finish: Callable[[Any], None]) -> None:
        self.on_finish = on_finish
        self.tasks = Ordered()

    async def register(self, coro: Any) -> tuple["asyncio.Task[Any]", str]:
        task = asyncio.get_running_loop().create_task(coro)
        self.tasks.add(task)
        task.add_done_callback(self.finished)
        return task, ""

    def finished(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        self.on_finish(task)

    def cancel_all(self) -> None:
        for task in list(self.tasks):
            task.cancel()


class Player:
    """Plays one program with one class of group, one of registry and one of loop."""

    def __init__(self, group: Any, registry: Any, loop: Any) -> None:
        self.group = group
        self.registry = registry(on_finish=lambda _: self.say("finished"))
        self.loop = loop()
        self.loop.set_exception_handler(self.report)
        self.log: Log = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.started = 0
        self.events: list[asyncio.Event] = []
        self.futures: list[asyncio.Future[Any]] = []

    def say(self, *what: Any) -> None:
        self.log.append((self.loop.iterations, what))

    def report(self, loop: Any, context: dict[str, Any]) -> None:
        message = context["message"]
        if message.startswith(("Exception in callback", "Task <")):
            self.say("handler", message[:9], type(context.get("exception")).__name__)

    def run(self, program: Body) -> Log:
        self.events = [asyncio.Event() for _ in range(3)]
        self.futures = [self.loop.create_future() for _ in range(2)]
        main = self.loop.create_task(self.body(program, "0", []))
        self.tasks.append(main)
        self.loop.call_later(LATE, self.cancel_rest)
        for _ in range(99):
            try:
                self.loop.run_until_complete(self.wait_all())
                break
            except (KeyboardInterrupt, SystemExit) as error:
                self.say("out of the loop", type(error).__name__)
        self.finish()
        return self.log

    async def wait_all(self) -> None:
        await asyncio.sleep(5.0)  # no timer of a program is longer
        while pending := [task for task in self.tasks if not task.done()]:
            await asyncio.wait(pending)
            await asyncio.sleep(5.0)

    def cancel_rest(self) -> None:
        self.say("too late")
        for task in self.tasks:
            task.cancel()
        self.loop.call_later(LATE, self.cancel_rest)

    def finish(self) -> None:
        for i, task in enumerate(self.tasks):
            self.say("ended", i, outcome(task))
        self.loop.close()

    # ---------------------------------------------------------- operations

    async def body(self, ops: Body, name: str, groups: list[Any]) -> str:
        number = len(self.tasks)
        self.say("begin", name, color.get())
        try:
            await self.steps(ops, name, groups)
        except BaseException as error:
            self.say("end", name, kind(error))
            raise
        self.say("end", name, number and "ok")
        return name

    async def steps(self, ops: Body, name: str, groups: list[Any]) -> None:
        for i, op in enumerate(ops):
            self.say("at", name, i, op[0])
            await self.step(op, f"{name}.{i}", groups)

    async def step(self, op: Op, name: str, groups: list[Any]) -> None:
        match op:
            case ("pause", iterations):
                for _ in range(iterations):
                    await asyncio.sleep(0)
            case ("sleep", delay):
                await asyncio.sleep(delay)
            case ("soon", act):
                self.loop.call_soon(self.act, act, name, groups)
            case ("later", delay, act):
                self.loop.call_later(delay, self.act, act, name, groups)
            case ("do", act):
                self.act(act, name, groups)
            case ("await", index):
                await self.join(self.younger(index))
            case ("gather", one, two):
                some = [self.younger(one), self.younger(two)]
                await self.join(asyncio.gather(*filter(None, some)))
            case ("shield", index):
                task = self.younger(index)
                await self.join(task and asyncio.shield(task))
            case ("wait", event):
                await self.events[event].wait()
            case ("share", future):
                self.say("shared", await self.futures[future])
            case ("color", value):
                color.set(value)
            case ("uncancel",):
                self.say("uncancel", current().uncancel())
            case ("own callback",):
                current().add_done_callback(lambda task: self.called(name, task))
            case ("boom",):
                raise Boom(name)
            case ("interrupt",):
                raise KeyboardInterrupt(name)
            case ("exit",):
                raise SystemExit(name)
            case ("child", group, ops):
                self.adopt(groups[group], ops, name, groups)
            case ("register", ops):
                self.register(ops, name, groups)
            case ("many", number, ops):
                for i in range(number):
                    self.adopt(groups[-1], ops, f"{name}*{i}", groups)
            case ("foreign", ops):
                self.tasks.append(self.loop.create_task(self.body(ops, name, groups)))
            case _:
                await self.block(op, name, groups)

    async def block(self, op: Op, name: str, groups: list[Any]) -> None:
        match op:
            case ("group", ops):
                try:
                    async with self.group() as group:
                        await self.steps(ops, name, [*groups, group])
                except BaseExceptionGroup as error:
                    self.say("left", name, kind(error))
                self.say("count", name, current().cancelling())
            case ("try", ops, swallow):
                try:
                    await self.steps(ops, name, groups)
                except asyncio.CancelledError:
                    self.say("cancelled", name, current().cancelling())
                    if not swallow:
                        raise
            case ("finally", ops):
                try:
                    await self.steps(ops, name, groups)
                finally:
                    self.say("finally", name)
                    await asyncio.sleep(0)
            case ("timeout", delay, ops):
                try:
                    async with asyncio.timeout(delay):
                        await self.steps(ops, name, groups)
                except TimeoutError:
                    self.say("timeout", name)
            case _:
                raise AssertionError(op)

    def younger(self, index: int) -> "asyncio.Task[Any] | None":
        """A task created after the current one, so that no tasks wait in a circle."""
        at = self.tasks.index(current()) + 1
        later = self.tasks[at:]
        return later[index % len(later)] if later else None

    async def join(self, future: Any) -> None:
        if future is None:
            return
        try:
            result = await future
        except Boom as error:
            self.say("joined", kind(error))
        else:
            self.say("joined", result)

    def adopt(self, group: Any, ops: Body, name: str, groups: list[Any]) -> None:
        coro = self.body(ops, name, groups)
        try:
            self.tasks.append(group.create_task(coro))
        except RuntimeError as error:
            self.say("refused", name, str(error).rpartition(">")[2])
            coro.close()

    def register(self, ops: Body, name: str, groups: list[Any]) -> None:
        coro = self.body(ops, name, groups)
        self.tasks.append(at_once(self.registry.register(coro))[0])

    def act(self, op: Op, name: str, groups: list[Any]) -> None:
        self.say("act", name, op[0], color.get())
        match op:
            case ("nothing",):
                pass
            case ("raise",):
                raise Boom(name)
            case ("cancel", index):
                self.say(self.tasks[index % len(self.tasks)].cancel())
            case ("callback", index):
                task = self.tasks[index % len(self.tasks)]
                task.add_done_callback(lambda task: self.called(name, task))
            case ("set", event):
                self.events[event].set()
                self.events[event].clear()
            case ("resolve", future):
                if not self.futures[future].done():
                    self.futures[future].set_result(name)
                self.futures[future] = self.loop.create_future()
            case ("register", ops):
                self.register(ops, name, groups)
            case ("cancel all",):
                self.registry.cancel_all()
            case ("spawn", ops):
                self.tasks.append(self.loop.create_task(self.body(ops, name, groups)))
            case ("soon", act):
                self.loop.call_soon(self.act, act, name + ".soon", groups)
            case ("look", index):
                task = self.tasks[index % len(self.tasks)]
                self.say("looks", outcome(task), task.cancelling())
            case ("adopt", group, ops):
                self.adopt(groups[group], ops, name, groups)
            case ("cancel group", group):
                groups[group].cancel()
            case _:
                raise AssertionError(op)

    def called(self, name: str, task: "asyncio.Task[Any]") -> None:
        self.say("called", name, self.tasks.index(task), outcome(task), color.get())


def at_once(awaitable: Any) -> Any:
    """The value of an awaitable that is ready."""
    try:
        next(awaitable.__await__())
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it is not ready")


def current() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None
    return task


def kind(error: BaseException) -> Any:
    if isinstance(error, BaseExceptionGroup):
        return [type(error).__name__, *map(kind, error.exceptions)]
    return type(error).__name__


def outcome(task: "asyncio.Task[Any]") -> Any:
    if not task.done():
        return "pending"
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return task.result() if error is None else kind(error)


def run(group: Any, registry: Any, program: Body, loop: Any = VirtualLoop) -> Log:
    """Play a program with these classes and return its log."""
    return Player(group, registry, loop).run(program)


def show(program: Body, mark: str = "") -> str:
    lines = []
    for op in program:
        parts = [part for part in op if not isinstance(part, tuple) or part == ()]
        acts = [p for p in op if isinstance(p, tuple) and p and isinstance(p[0], str)]
        lines.append(f"{mark}{' '.join(map(str, [*parts, *acts]))}")
        for part in op:
            if isinstance(part, tuple) and part and isinstance(part[0], tuple):
                lines.append(show(part, mark + "    "))
    return "\n".join(lines)
