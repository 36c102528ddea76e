"""A coroutine that is refused is closed, whoever made its type; a hook's answer too.

CPython's warning "was never awaited" is an error in this suite, so a coroutine that
stays open fails its test.
"""

import asyncio
import gc
import inspect
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import pytest

from pyasynclife import (
    SignalCoordinator,
    TaskGroup,
    TaskRegistry,
    add_task_observers,
    bounded_gather,
    cancel_all_tasks,
    cancellation_with_retry,
    gather_with_error_handling,
    gather_with_timeout_and_budget,
    monitor_tasks,
    process_batch_with_deadline,
    shielded_operation,
    task_with_individual_timeout,
    wait_for_first_completion,
)
from support.coroutines import echo, echo_later, forever
from support.loops import settle

LoopErrors = list[dict[str, Any]]


class Foreign(Coroutine[Any, Any, None]):
    """A coroutine of another type, with the attributes that Cython's have."""

    cr_running = False
    cr_await: object = None

    def __init__(self) -> None:
        self.closed = 0

    def __await__(self) -> Generator[Any, None, None]:
        yield from ()

    def send(self, value: Any) -> Any:
        raise StopIteration

    def throw(self, *args: Any) -> Any:
        raise args[0]

    def close(self) -> None:
        self.closed += 1


class Bare:
    """A coroutine as mypyc makes it: it does not show its state."""

    def __init__(self) -> None:
        self.closed = 0

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def send(self, value: Any) -> Any:
        raise StopIteration

    __next__ = throw = send

    def close(self) -> None:
        self.closed += 1


KINDS: dict[str, Callable[[], Any]] = {
    "native": echo,
    "foreign": Foreign,
    "bare": Bare,
}


def is_closed(coro: Any) -> bool:
    if inspect.iscoroutine(coro):
        return inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    return bool(coro.closed == 1)


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[], Any]:
    return KINDS[request.param]


Call = Callable[[Any, Any], object]

# What is called with two fresh coroutines, and what the message says.
CALLS: dict[str, tuple[Call, str]] = {
    "gather(coro, [1])": (lambda a, _: bounded_gather(a, [1]), "the function first"),
    "gather(coro, coro)": (lambda a, b: bounded_gather(a, b), "the function first"),
    "gather([coros])": (lambda a, b: bounded_gather([a, b]), "the function first"),
    "gather((coros))": (lambda a, b: bounded_gather((a, b)), r"gather\(fetch, urls\)"),
    "gather([coros], [1])": (lambda a, b: bounded_gather([a, b], [1]), "first"),
    "gather(fn, coro)": (lambda a, _: bounded_gather(echo, a), "await it first"),
    "gather(fn, [coros])": (lambda a, b: bounded_gather(echo, [a, b]), "instead of"),
    "gather(fn, {coros})": (lambda a, b: bounded_gather(echo, {a, b}), "instead of"),
    "gather(fn, dict)": (lambda a, b: bounded_gather(echo, {1: a, 2: b}), "instead of"),
    "gather(key)": (lambda a, _: bounded_gather(echo, [1], key=a), "key must be"),
    "gather(on_result)": (
        lambda a, _: bounded_gather(echo, [1], on_result=a),
        "on_result must be",
    ),
    "gather(registry)": (
        lambda a, _: bounded_gather(echo, [1], registry=a),
        "registry must be",
    ),
    "gather(timeout)": (lambda a, _: bounded_gather(echo, [1], timeout=a), "seconds"),
    "gather(max_errors)": (
        lambda a, _: bounded_gather(echo, [1], max_errors=a),
        "must be an int",
    ),
    "add": (lambda a, _: bounded_gather(echo, [1]).add(a), "the items are coroutines"),
    "source": (
        lambda a, _: bounded_gather(echo, iter([a])).collect(),
        "the items are coroutines",
    ),
    "asynchronous source": (
        lambda a, _: bounded_gather(echo, one_by_one(a)).collect(),
        "the items are coroutines",
    ),
    "key()": (
        lambda a, _: bounded_gather(echo, [1], key=lambda _: a).collect(),
        "key returned",
    ),
    "register(context)": (
        lambda a, _: TaskRegistry().register(a, context=5),  # type: ignore[arg-type]
        "context",
    ),
    "register(context=coro)": (
        lambda a, b: TaskRegistry().register(a, context=b),
        "context",
    ),
    "register(id, coro)": (
        lambda a, _: TaskRegistry().register("feed", a),  # type: ignore[arg-type]
        "takes a coroutine",
    ),
    "register(coro, coro)": (
        lambda a, b: TaskRegistry().register(a, b),
        "a task id must be a str",
    ),
    "register(task_id=coro)": (
        lambda a, _: TaskRegistry().register(5, task_id=a),  # type: ignore[arg-type]
        "takes a coroutine",
    ),
    "register(coro, id, coro)": (
        lambda a, b: TaskRegistry().register(a, "feed", b),  # type: ignore[misc]
        "at most 2 positional",
    ),
    "heartbeat": (lambda a, _: TaskRegistry().heartbeat(a), "a task id must be"),
    "cancel": (lambda a, _: TaskRegistry().cancel(a), "a task id must be a str"),
    "complete": (lambda a, _: TaskRegistry().complete(a), "a task id must be a str"),
    "complete(error)": (
        lambda a, _: TaskRegistry().complete("feed", error=a),
        "error is an exception",
    ),
    "get": (lambda a, _: TaskRegistry().get(a), "a task id must be a str"),
    "track(task_id)": (
        lambda a, _: TaskRegistry().track(current(), a),
        "a task id must be a str",
    ),
    "supervise(task_id)": (
        lambda a, _: TaskRegistry().supervise(forever, a),
        "a task id must be a str",
    ),
    "supervise(backoff)": (
        lambda a, _: TaskRegistry().supervise(forever, "feed", backoff=a),
        "backoff must be",
    ),
    "supervise(restart)": (
        lambda a, _: TaskRegistry().supervise(forever, "feed", restart=a),
        "restart must be",
    ),
    "supervise(vital)": (
        lambda a, _: TaskRegistry().supervise(forever, "feed", vital=a),
        "vital must be",
    ),
    "TaskRegistry(keep_results)": (
        lambda a, _: TaskRegistry(keep_results=a),
        "keep_results must be",
    ),
    "TaskGroup.create_task(coro, name)": (
        lambda a, _: TaskGroup().create_task(a, "feed"),  # type: ignore[misc]
        "takes 1 positional",
    ),
    "track": (lambda a, _: TaskRegistry().track(a), "expected an asyncio.Task"),
    "TaskRegistry(on_finish)": (
        lambda a, _: TaskRegistry(on_finish=a),
        "on_finish must be",
    ),
    "TaskRegistry(on_stale)": (
        lambda a, _: TaskRegistry(on_stale=a),
        "on_stale must be",
    ),
    "SignalCoordinator(on_signal)": (
        lambda a, _: SignalCoordinator(on_signal=a),
        "on_signal must be",
    ),
    "SignalCoordinator(registry)": (
        lambda a, _: SignalCoordinator(registry=a),
        "registry must be",
    ),
    "graceful_shutdown": (
        lambda a, b: SignalCoordinator().graceful_shutdown([a, b]),
        "expected an asyncio.Task",
    ),
    "handling(coro, coro)": (
        lambda a, b: gather_with_error_handling(a, b),
        r"gather_with_error_handling\(fetch, urls\)",
    ),
    "handling([coros])": (
        lambda a, b: gather_with_error_handling([a, b]),  # type: ignore[call-overload]
        "the function first",
    ),
    "budget([coros])": (
        lambda a, b: gather_with_timeout_and_budget([a, b]),  # type: ignore[call-overload]
        "the function first",
    ),
    "budget(fn, [coros], -1)": (
        lambda a, b: gather_with_timeout_and_budget(echo, [a, b], -1),
        "the items are coroutines",
    ),
    "deadline([coros])": (
        lambda a, b: process_batch_with_deadline([a, b]),  # type: ignore[call-overload]
        "the function first",
    ),
    "deadline(fn, [coros], -1)": (
        lambda a, b: process_batch_with_deadline(echo, [a, b], -1),
        "the items are coroutines",
    ),
    "first(coro)": (lambda a, _: wait_for_first_completion(a), "in a list"),
    "first([coro, 5])": (
        lambda a, b: wait_for_first_completion([a, b, 5]),  # type: ignore[list-item]
        "expected a coroutine",
    ),
    "first([coros], no timeout)": (
        lambda a, b: wait_for_first_completion([a, b], None),  # type: ignore[arg-type]
        "must be a number",
    ),
    "timeout([coros])": (
        lambda a, b: task_with_individual_timeout([a, b]),  # type: ignore[arg-type]
        "expected a coroutine",
    ),
    "timeout(coro, no timeout)": (
        lambda a, _: task_with_individual_timeout(a, None),  # type: ignore[arg-type]
        "must be a number",
    ),
    "shield([coros])": (
        lambda a, b: shielded_operation([a, b]),  # type: ignore[arg-type]
        "expected a coroutine",
    ),
    "shield(coro, -1)": (lambda a, _: shielded_operation(a, timeout=-1), "0 or more"),
    "retry(coro)": (lambda a, _: cancellation_with_retry(a), "the function first"),
    "cancel_all_tasks(coro)": (lambda a, _: cancel_all_tasks(a), "expected tasks"),
    "cancel_all_tasks([coros], -1)": (
        lambda a, b: cancel_all_tasks([a, b], timeout=-1),
        "expected an asyncio.Task",
    ),
    "monitor_tasks([coros], 0)": (
        lambda a, b: monitor_tasks([a, b], 0),
        "expected an asyncio.Task",
    ),
    "monitor_tasks(report)": (
        lambda a, _: monitor_tasks([], report=a),
        "report must be",
    ),
    "add_task_observers([coros], 5)": (
        lambda a, b: add_task_observers([a, b], 5),  # type: ignore[arg-type]
        "expected an asyncio.Task",
    ),
    "add_task_observers(observer)": (
        lambda a, _: add_task_observers([], a),
        "observer must be",
    ),
}
ONE = {name for name, (call, _) in CALLS.items() if call.__code__.co_varnames[1] == "_"}


def current() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def one_by_one(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize("name", CALLS)
async def test_a_refused_coroutine_is_closed_and_the_right_call_shown(
    name: str, make: Callable[[], Any]
) -> None:
    call, says = CALLS[name]
    coros = [make() for _ in range(1 if name in ONE else 2)]
    with pytest.raises((TypeError, ValueError), match=says):
        answer = call(coros[0], coros[-1])
        if asyncio.iscoroutine(answer):
            await answer
    assert [is_closed(coro) for coro in coros] == [True] * len(coros)


@pytest.mark.parametrize("suspended", [{"cr_await": 5}, {"cr_running": True}])
def test_a_refused_coroutine_that_has_started_is_left_alone(suspended: Any) -> None:
    coro = Foreign()
    vars(coro).update(suspended)
    with pytest.raises(TypeError, match="the function first"):
        bounded_gather(coro, [1])  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="running event loop"):
        TaskRegistry().track(coro)  # type: ignore[arg-type]
    assert coro.closed == 0


def test_track_closes_a_coroutine_where_no_loop_runs() -> None:
    coro = echo()
    with pytest.raises(RuntimeError, match="running event loop"):
        TaskRegistry().track(coro)  # type: ignore[arg-type]
    assert is_closed(coro)


async def test_a_native_coroutine_that_has_started_is_left_alone() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="the function first"):
            bounded_gather(running, [1])  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="expected an asyncio"):
            TaskRegistry().track(waiting)  # type: ignore[arg-type]

    waiting = forever()
    task = asyncio.create_task(waiting)
    running = main()
    await settle()
    await running
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


def test_tasks_futures_and_generators_may_be_items() -> None:
    async def main() -> None:
        generator = (x for x in ())
        future = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(echo())
        items = [generator, future, task]
        assert (await bounded_gather(echo, items)).values() == items
        await task

    asyncio.run(main())


# ---------------------------------------------------------------- hooks


async def on_result(hook: Any) -> None:
    await bounded_gather(echo_later, [1], on_result=hook)


async def on_finish(hook: Any) -> None:
    registry = TaskRegistry(on_finish=hook)
    registry.register(echo())
    await registry.wait()


async def on_stale(hook: Any) -> None:
    async with TaskRegistry(0.001, 0.0, on_stale=hook) as registry:
        registry.register(asyncio.sleep(0.05))
        await registry.wait()


async def on_signal(hook: Any) -> None:
    async with SignalCoordinator(on_signal=hook) as coordinator:
        signal.raise_signal(signal.SIGTERM)
        await coordinator.wait_for_shutdown()


async def callbacks(hook: Any) -> None:
    async with SignalCoordinator(callbacks={signal.SIGUSR1: hook}) as coordinator:
        signal.raise_signal(signal.SIGUSR1)
        while not coordinator.received:
            await asyncio.sleep(0)
        await settle()


async def report(hook: Any) -> None:
    await monitor_tasks([asyncio.create_task(echo())], report=hook)


async def observer(hook: Any) -> None:
    task = asyncio.create_task(echo())
    add_task_observers([task], hook)
    await task
    await settle()


HOOKS = [on_result, on_finish, on_stale, on_signal, callbacks, report, observer]


@pytest.mark.parametrize("use", HOOKS, ids=lambda use: use.__name__)
async def test_a_coroutine_that_a_hook_returns_is_closed_and_reported(
    use: Callable[[Any], Coroutine[Any, Any, None]],
    make: Callable[[], Any],
    loop_errors: LoopErrors,
) -> None:
    made = []

    def hook(*_: Any) -> Any:
        made.append(make())
        return made[-1]

    await use(hook)
    assert [is_closed(coro) for coro in made] == [True]
    (error,) = [context["exception"] for context in loop_errors]
    assert isinstance(error, TypeError)
    name = "the callback" if use is callbacks else use.__name__
    assert f"{name} is called, not awaited, and returned" in str(error)
    assert "pass a plain function" in str(error)


@pytest.mark.parametrize("use", HOOKS, ids=lambda use: use.__name__)
async def test_a_task_that_a_hook_starts_and_returns_is_left_alone(
    use: Callable[[Any], Coroutine[Any, Any, None]],
) -> None:
    started: list[asyncio.Task[Any]] = []

    def hook(*_: Any) -> Any:
        started.append(asyncio.create_task(echo_later(1)))
        return started[-1]

    await use(hook)
    assert [await task for task in started] == [1]


async def test_a_ready_that_a_hook_returns_is_left_alone() -> None:
    registry = TaskRegistry()
    await on_result(lambda _: registry.heartbeat("nobody"))
    assert registry.stats().unknown_heartbeats == 1
    gc.collect()
