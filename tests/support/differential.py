"""Plays the random programs of differential_programs.py, with one class of group or
another.

`run` plays a program in virtual time and returns the log of its effects, each with its
iteration of the loop. Two classes with the same log behave the same in that program.
"""

import asyncio
import contextvars
import functools
import heapq
import importlib.util
import os
import selectors
import signal
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.children import ROOT
from support.coroutines import Boom
from support.differential_programs import CONTEXTS, Body, Op
from support.loops import in_turns, ready_queue

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

    `trapped` is true once asyncio's group is no guide: it left a cancellation behind
    that cannot be taken back, on 3.11 and 3.12 (gh-117407), where ours requests it
    again an iteration later; or a cancellation has replaced the error of the body,
    after the group's cancel(), where ours raises the error.
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
            except asyncio.CancelledError:
                body = error[0]
                if body and not issubclass(body, asyncio.CancelledError):
                    InOrder.trapped = True
                raise
            finally:
                if sys.version_info < (3, 13) and task._must_cancel:  # type: ignore
                    InOrder.trapped = True

    return InOrder


# ------------------------------------------------------------------ playing one


class VirtualLoop(asyncio.SelectorEventLoop):
    """Counts its iterations; its clock jumps to the next timer when it is idle.

    The selector does both: a loop with a `_run_once` of its own takes the plain path.
    """

    iterations = 0
    awake_until = 0  # the clock stands still up to this iteration
    now = 0.0

    def __init__(self) -> None:
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def begin_iteration(self, timeout: float | None) -> None:
        self.iterations += 1
        if self.iterations > MOST_ITERATIONS:
            raise RuntimeError("the program does not end")
        if timeout and self.iterations > self.awake_until:
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        self._loop.begin_iteration(timeout)
        return super().select(0)


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
        awake_until = 0
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
            self.iterations += 1
            idle = not self.ready and self.iterations > self.awake_until
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

    async def register(
        self, coro: Any, **keywords: Any
    ) -> tuple["asyncio.Task[Any]", str]:
        task = asyncio.get_running_loop().create_task(coro, **keywords)
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
        self.registry = registry(on_finish=lambda _: self.say("finished", color.get()))
        self.loop = loop()
        self.loop.set_exception_handler(self.report)
        self.log: Log = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.started = 0
        self.events: list[asyncio.Event] = []
        self.futures: list[asyncio.Future[Any]] = []
        self.contexts = [contextvars.copy_context() for _ in range(CONTEXTS)]
        self.callbacks: list[tuple[asyncio.Task[Any], Callable[..., Any]]] = []

    def say(self, *what: Any) -> None:
        self.log.append((self.loop.iterations, what))

    def report(self, loop: Any, context: dict[str, Any]) -> None:
        message = context["message"]
        if message.startswith(("Exception in callback", "Task <")):
            error = type(context.get("exception")).__name__
            self.say("handler", message[:9], error, color.get())

    def run(self, program: Body) -> Log:
        self.events = [asyncio.Event() for _ in range(3)]
        self.futures = [self.loop.create_future() for _ in range(2)]
        main = self.loop.create_task(self.body(program, "0", []))
        self.tasks.append(main)
        self.loop.call_later(LATE, self.cancel_rest)
        waiter = self.loop.create_task(self.wait_all())
        waiter.add_done_callback(lambda _: self.loop.stop())
        forever = False
        while not waiter.done():
            try:
                if forever:
                    self.loop.run_forever()
                else:
                    self.loop.run_until_complete(waiter)
                self.say("stopped")
            except (KeyboardInterrupt, SystemExit) as error:
                self.say("out of the loop", type(error).__name__)
            except RuntimeError as error:
                if "stopped before" not in str(error):
                    raise
                self.say("stopped early")
            forever = not forever
            if self.loop.iterations > MOST_ITERATIONS:
                raise AssertionError("the program does not end")
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
            case ("wait for", index, delay):
                task = self.younger(index)
                await self.join(task and asyncio.wait_for(task, delay))
            case ("own callback",):
                self.add_callback(current(), name)
            case ("own hook",):
                # A documented limit: the step that schedules it must not end the task.
                self.loop.call_soon(self.hook(name), current())
                await asyncio.sleep(0)
            case ("boom",):
                raise Boom(name)
            case ("interrupt",):
                raise KeyboardInterrupt(name)
            case ("exit",):
                raise SystemExit(name)
            case ("child", group, ops):
                self.adopt(groups[group], ops, name, groups)
            case ("child in", context, ops):
                self.adopt(groups[-1], ops, name, groups, self.contexts[context])
            case ("register", ops):
                self.register(ops, name, groups)
            case ("register in", context, ops):
                self.register(ops, name, groups, self.contexts[context])
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
        except (Boom, TimeoutError) as error:
            self.say("joined", kind(error))
        else:
            self.say("joined", result)

    def adopt(
        self,
        group: Any,
        ops: Body,
        name: str,
        groups: list[Any],
        context: contextvars.Context | None = None,
    ) -> None:
        coro = self.body(ops, name, groups)
        try:
            self.tasks.append(group.create_task(coro, context=context))
        except RuntimeError as error:
            self.say("refused", name, str(error).rpartition(">")[2])
            coro.close()

    def register(
        self,
        ops: Body,
        name: str,
        groups: list[Any],
        context: contextvars.Context | None = None,
    ) -> None:
        coro = self.body(ops, name, groups)
        self.tasks.append(at_once(self.registry.register(coro, context=context))[0])

    def act(self, op: Op, name: str, groups: list[Any]) -> None:
        self.say("act", name, op[0], color.get())
        match op:
            case ("nothing",):
                pass
            case ("raise",):
                raise Boom(name)
            case ("cancel", index):
                self.say(self.at(index).cancel())
            case ("callback", index):
                self.add_callback(self.at(index), name)
            case ("callbacks", index, number):
                for i in range(number):
                    self.add_callback(self.at(index), f"{name}*{i}")
            case ("callback in", index, context):
                self.add_callback(self.at(index), name, self.contexts[context])
            case ("remove", number):
                self.remove_callbacks(number)
            case ("hook", index):
                self.call_with(self.loop.call_soon, self.hook(name), self.at(index))
            case ("hook and callback", index):
                hook = self.hook(name)
                self.at(index).add_done_callback(hook)
                self.call_with(self.loop.call_soon, hook, self.at(index))
            case ("hook cancel", index):
                cancel = asyncio.Task.cancel
                self.call_with(self.loop.call_soon, cancel, self.at(index))
            case ("thread hook", index):
                self.call_with(self.from_thread, self.hook(name), self.at(index))
            case ("adopt and hook", group, ops):
                self.adopt(groups[group], ops, name, groups)
                self.call_with(self.loop.call_soon, self.hook(name), self.tasks[-1])
            case ("thread", act):
                self.from_thread(self.act, act, name + ".thread", groups)
            case ("signal", act):
                self.in_handler(lambda: self.act(act, name + ".signal", groups))
            case ("loop signal", act):
                name += ".loop signal"
                self.loop.add_signal_handler(
                    signal.SIGUSR2, self.act, act, name, groups
                )
                # The byte that wakes the loop is nowhere in its queue.
                self.loop.awake_until = self.loop.iterations + 2
                signal.raise_signal(signal.SIGUSR2)
            case ("stop",):
                self.loop.stop()
            case ("interrupt",):
                raise KeyboardInterrupt(name)
            case ("switch", what, iterations):
                self.switch(what, True)
                in_turns(iterations, self.switch, what, False)
            case ("color", value):
                color.set(value)
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
                task = self.at(index)
                self.say("looks", outcome(task), task.cancelling())
            case ("adopt", group, ops):
                self.adopt(groups[group], ops, name, groups)
            case ("cancel group", group):
                groups[group].cancel()
            case _:
                raise AssertionError(op)

    def at(self, index: int) -> "asyncio.Task[Any]":
        return self.tasks[index % len(self.tasks)]

    def add_callback(
        self,
        task: "asyncio.Task[Any]",
        name: str,
        context: contextvars.Context | None = None,
    ) -> None:
        def callback(task: "asyncio.Task[Any]") -> None:
            self.say("called", name, self.tasks.index(task), outcome(task), color.get())

        self.callbacks.append((task, callback))
        task.add_done_callback(callback, context=context)

    def remove_callbacks(self, number: int) -> None:
        newest = self.callbacks[-number:]
        del self.callbacks[-number:]
        removed = [task.remove_done_callback(callback) for task, callback in newest]
        self.say("removed", sum(removed))

    def hook(self, name: str) -> Callable[..., None]:
        def hook(task: "asyncio.Task[Any]") -> None:
            self.say("hooked", name, self.tasks.index(task), outcome(task), color.get())

        return hook

    def call_with(
        self, call: Callable[..., Any], hook: Any, task: "asyncio.Task[Any]"
    ) -> None:
        """Schedule a hook with a task, but for the task that runs: see "own hook"."""
        if task is asyncio.current_task():
            self.say("not hooked")
        else:
            call(hook, task)

    def from_thread(self, call: Callable[..., Any], *args: Any) -> None:
        """call_soon_threadsafe() from a thread that has ended before we go on."""
        thread = threading.Thread(
            target=self.loop.call_soon_threadsafe, args=(call, *args)
        )
        thread.start()
        thread.join()

    def in_handler(self, call: Callable[[], None]) -> None:
        """Let the handler of a signal make the call."""
        was = signal.signal(signal.SIGUSR1, lambda *_: call())
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, was)

    def switch(self, what: str, on: bool) -> None:
        """Something that turns the capture off, or on again."""
        self.say("switch", what, on)
        if what == "debug":
            self.loop.set_debug(on)
        elif what == "factory":
            self.loop.set_task_factory(make_task if on else None)
        elif on:
            self.loop.call_soon = functools.partial(
                type(self.loop).call_soon, self.loop
            )
        else:
            vars(self.loop).pop("call_soon", None)


def make_task(loop: Any, coro: Any, **keywords: Any) -> "asyncio.Task[Any]":
    return asyncio.Task(coro, loop=loop, **keywords)


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
