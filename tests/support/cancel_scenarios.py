"""Scenarios of each public coroutine, to be cancelled at every iteration.

tests/testing/test_cancel_everywhere.py runs a sample, tools/cancel_everywhere.py all;
cancel_scenarios_live.py and cancel_scenarios_articles.py add more scenarios.

A scenario leaves nothing behind, whenever its caller is cancelled. Where tasks end
after it, ``settle`` is the time they may take: TaskRegistry.shutdown(),
graceful_shutdown() and the end of an ``async with`` of either return at once when they
are cancelled, while the tasks that they have cancelled still end.
"""

import asyncio
import contextlib
import functools
import itertools
import logging
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyasynclife import (
    Backoff,
    BatchError,
    ClosedError,
    LoopWatch,
    Retry,
    SignalCoordinator,
    TaskGroup,
    TaskRegistry,
    TaskResult,
    _waiting,
    bounded_gather,
)
from support.coroutines import Boom
from support.items import Counted

EAGER = sys.version_info >= (3, 12)


Check = Callable[[], object]


def handlers_are_back() -> Check:
    """Return a check that the signal handlers are the present ones."""
    before = handlers()

    def check() -> None:
        assert handlers() == before, f"{handlers()}, before {before}"

    return check


def handlers() -> list[Any]:
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [signal.getsignal(signum) for signum in signals]


@dataclass(frozen=True)
class Case:
    name: str
    scenario: Callable[[], Coroutine[Any, Any, Any]]
    settle: float = 0.0
    check: Check = field(default_factory=handlers_are_back)
    first: bool = False
    """Whether the first CancelledError propagates, although there is a second."""
    cancels: int = 1
    """How often an item or the source of a batch may be cancelled."""

    def check_all(self) -> None:
        cancels = max(CANCELS.values(), default=0)
        CANCELS.clear()
        self.check()
        assert cancels <= self.cancels, f"an item was cancelled {cancels} times"


OURS: list[Case] = []


def case(
    settle: float = 0.0, *, first: bool = False, cancels: int = 1
) -> Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]:
    def note(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        @functools.wraps(scenario)
        async def run() -> Any:
            allow_unread_reports()
            return await scenario()

        one = Case(scenario.__name__, run, settle, first=first, cancels=cancels)
        OURS.append(one)
        return scenario

    return note


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off the registry's log of tasks that fail."""
    logger = logging.getLogger("pyasynclife")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def allow_unread_reports() -> None:
    """Receive the reports of failures that a cancelled caller of a batch cannot."""

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, error = context["message"], context.get("exception")
        expected = isinstance(error, Boom | ExceptionGroup | TimeoutError)
        if not (expected and (" unread: " in message or "a batch failed" in message)):
            handler(loop, context)

    loop = asyncio.get_running_loop()
    handler: Any = loop.get_exception_handler()
    loop.set_exception_handler(handle)


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def fail(after: float) -> None:
    await asyncio.sleep(after)
    raise Boom(after)


async def cleans_up(seconds: float = 1.0) -> None:
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0)
        await asyncio.sleep(0.5)


async def fails_cleaning_up() -> None:
    try:
        await asyncio.sleep(1.0)
    finally:
        await asyncio.sleep(0)
        raise Boom


async def swallows_once() -> str:
    try:
        await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        await asyncio.sleep(0)
    return "swallowed"


async def nothing() -> None:
    pass


# ------------------------------------------------------------------ bounded_gather

CANCELS: Counter[int] = Counter()
_calls = itertools.count()


async def counted(function: Callable[[Any], Any], argument: Any) -> Any:
    """Await ``function(argument)``, and count how often it is cancelled."""
    return await Counted(function(argument), CANCELS, next(_calls))


ITEMS = ["at once", 0, 1, "fail", "fail later", "clean", "swallow", 2, "at once"]


async def do(item: Any) -> Any:
    return await counted(do_uncounted, item)


async def do_uncounted(item: Any) -> Any:
    if item == "at once":
        return item
    if item == "fail":
        raise Boom
    if item == "fail later":
        return await fail(0.5)
    if item == "clean":
        return await cleans_up()
    if item == "swallow":
        return await swallows_once()
    return await sleep(item)


def plain(items: list[Any]) -> Any:
    return items


def generator(items: list[Any]) -> Any:
    return (item for item in items)


async def stream(items: list[Any]) -> AsyncIterator[Any]:
    call = next(_calls)
    try:
        for number, item in enumerate(items):
            await Counted(asyncio.sleep(0.25 * (number % 3)), CANCELS, call)
            yield item
    finally:
        await Counted(asyncio.sleep(0), CANCELS, call)


async def awaited(batch: Any) -> None:
    (await batch).failures()


async def collected(batch: Any) -> None:
    (await batch.collect()).failures()


async def collected_with_a_timeout(batch: Any) -> None:
    try:
        async with asyncio.timeout(0.75):
            (await batch).failures()
    except TimeoutError:
        (await batch).failures()


async def iterated(batch: Any) -> None:
    async with batch:
        async for _ in batch:
            pass


async def iterated_slowly(batch: Any) -> None:
    async with batch:
        async for result in batch:
            await asyncio.sleep(0.3 * (result.index % 2))


async def left_early(batch: Any) -> None:
    async with batch:
        async for result in batch:
            if result.index == 3:
                break


async def closed_early(batch: Any) -> None:
    results = aiter(batch)
    try:
        async for result in results:
            if result.index == 2:
                break
    finally:
        await results.aclose()


async def left_by_an_error(batch: Any) -> None:
    with contextlib.suppress(Boom):
        async with batch:
            await asyncio.sleep(0.6)
            raise Boom


async def entered(batch: Any) -> None:
    async with batch:
        await asyncio.sleep(0.3)


async def entered_and_collected(batch: Any) -> None:
    async with batch:
        (await batch.collect()).failures()


async def cancelled(batch: Any) -> None:
    asyncio.get_running_loop().call_later(0.6, batch.cancel)
    (await batch).failures()


USES = [
    awaited,
    collected,
    collected_with_a_timeout,
    iterated,
    iterated_slowly,
    left_early,
    closed_early,
    left_by_an_error,
    entered,
    entered_and_collected,
    cancelled,
]
SOURCES = [plain, generator, stream]
Options = dict[str, Any]
OPTIONS: list[Options] = [
    {"max_concurrent": 3},
    {"max_concurrent": 1, "timeout": 0.75},
    {"max_concurrent": 4, "timeout": 0.75, "ordered": False},
    {"max_concurrent": 3, "budget": 1.25, "buffer": 0},
    {"max_concurrent": 3, "max_errors": 0},
    {"max_concurrent": 2, "max_errors": 1, "timeout": 0.75, "ordered": False},
]


def batch_case(
    name: str,
    use: Callable[[Any], Any],
    make: Callable[[Callable[[TaskResult[Any]], None]], Any],
    settle: float = 0.0,
) -> Case:
    """``use(make(on_result))``, where ``on_result`` must get each result once.

    Only `cancelled` calls Batch.cancel(), which cancels items once more.
    """
    results: list[TaskResult[Any]] = []
    box: list[Any] = []

    async def scenario() -> None:
        allow_unread_reports()
        batch = make(results.append)
        box.append(batch)
        with contextlib.suppress(BatchError):
            await use(batch)

    def check() -> None:
        indices = [result.index for result in results]
        started = box[0].progress.started if box else 0
        results.clear()
        box.clear()
        assert len(set(indices)) == len(indices), f"reported twice: {indices}"
        assert len(indices) == started, f"{started} started, reported: {indices}"

    scenario.__qualname__ = name
    cancels = 2 if use is cancelled else 1
    return Case(name, scenario, settle, check, True, cancels)


def usual_case(use: Callable[[Any], Any], source: Any, options: Options) -> Case:
    def make(on_result: Any) -> Any:
        return bounded_gather(do, source(ITEMS), on_result=on_result, **options)

    shown = " ".join(f"{name}={value}" for name, value in options.items())
    return batch_case(f"batch {use.__name__}, {source.__name__}, {shown}", use, make)


OURS += [usual_case(*shape) for shape in itertools.product(USES, SOURCES, OPTIONS)]
OURS += [
    usual_case(use, stream, options | {"task_per_item": True})
    for use, options in itertools.product(USES, OPTIONS)
]

LIMITS: list[Options] = [
    {"limit_by": str, "max_concurrent": 3},
    {"limit_by": type, "lookahead": 2, "retry": Retry(2, Boom, Backoff(0.25))},
    {"max_per_second": 4, "retry": Retry(3, backoff=Backoff(0), attempt_timeout=0.75)},
]
OURS += [
    usual_case(use, source, options | own)
    for use, source, options, own in itertools.product(
        USES, (generator, stream), LIMITS, ({}, {"task_per_item": True})
    )
]


@case(first=True)
async def batch_of_futures() -> None:
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[int]] = [loop.create_future() for _ in range(3)]

    def resolve(number: int) -> None:
        if not futures[number].done():
            futures[number].set_result(number)

    for number in range(3):
        loop.call_later(number, resolve, number)
    (await bounded_gather(lambda future: future, futures)).failures()


@case(first=True)
async def batch_of_batches() -> None:
    def inner(_: int) -> Awaitable[Any]:
        return bounded_gather(sleep, [0, 1, 2], max_concurrent=2)

    for result in await bounded_gather(inner, range(3), max_concurrent=2):
        if result.success:
            result.unwrap().failures()


async def unwrap(result: Any) -> Any:
    await asyncio.sleep(0.25)
    return result.unwrap()


@case()
async def pipeline_of_batches() -> None:
    first = bounded_gather(do, ITEMS, max_concurrent=2)
    async with bounded_gather(
        unwrap, first, max_concurrent=2, on_result=lambda result: None
    ) as second:
        async for _ in second:
            pass


@case()
async def pipeline_of_batches_with_a_timeout() -> None:
    first = bounded_gather(do, stream(ITEMS), max_concurrent=2)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            (await bounded_gather(unwrap, first, max_concurrent=2)).failures()


@case()
async def pipeline_of_batches_that_aborts() -> None:
    first = bounded_gather(do, ITEMS, max_concurrent=2)
    with contextlib.suppress(BatchError):
        await bounded_gather(unwrap, first, max_concurrent=2, max_errors=0)


@case(first=True)
async def batch_of_groups() -> None:
    async def group(number: int) -> None:
        async with TaskGroup() as tasks:
            tasks.create_task(cleans_up())
            tasks.create_task(fail(number))

    (await bounded_gather(group, [0, 1, 3], timeout=2.0)).failures()


@case(first=True)
async def batch_in_wait_for() -> None:
    batch = bounded_gather(do, ITEMS, max_concurrent=2)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.25):
            async with batch:
                pass


@case()
async def batches_in_a_group() -> None:
    async with TaskGroup() as group:
        for limit in (1, 2):
            batch = bounded_gather(sleep, stream([0, 1, 2]), max_concurrent=limit)
            group.create_task(batch.collect())


# ------------------------------------------------------------------ TaskGroup

Shape = Callable[[Any], Coroutine[Any, Any, None]]
"""A coroutine function whose argument is a class of group: ours, or asyncio's."""

SHAPES: list[Shape] = []


def shape(function: Shape) -> Shape:
    SHAPES.append(function)
    return function


@shape
async def children_that_end(Group: Any) -> None:
    async with Group() as group:
        group.create_task(nothing())
        group.create_task(sleep(0))
        group.create_task(sleep(1))
        group.create_task(cleans_up())


@shape
async def children_awaited_in_the_body(Group: Any) -> None:
    async with Group() as group:
        tasks = [group.create_task(sleep(number)) for number in range(3)]
        for task in tasks:
            await task


@shape
async def a_body_that_lives_longer(Group: Any) -> None:
    async with Group() as group:
        group.create_task(nothing())
        group.create_task(sleep(1))
        await asyncio.sleep(2)


@shape
async def a_child_that_fails(Group: Any) -> None:
    try:
        async with Group() as group:
            group.create_task(fail(1))
            group.create_task(cleans_up(5))
            group.create_task(sleep(5))
            await asyncio.sleep(5)
    except* Boom:
        pass
    await asyncio.sleep(0)


@shape
async def a_child_that_fails_at_once(Group: Any) -> None:
    try:
        async with Group() as group:
            group.create_task(fail(0))
            group.create_task(cleans_up(5))
    except* Boom:
        pass
    await asyncio.sleep(1)


@shape
async def children_that_fail_together(Group: Any) -> None:
    try:
        async with Group() as group:
            for _ in range(3):
                group.create_task(fail(1))
    except* Boom:
        pass
    await asyncio.sleep(1)


@shape
async def children_that_fail_when_cancelled(Group: Any) -> None:
    try:
        async with Group() as group:
            group.create_task(fails_cleaning_up())
            group.create_task(fails_cleaning_up())
            await asyncio.sleep(0)
    except* Boom:
        pass
    await asyncio.sleep(1)


@shape
async def children_that_swallow(Group: Any) -> None:
    async with Group() as group:
        group.create_task(swallows_once())
        group.create_task(swallows_once())
        await asyncio.sleep(0.5)


@shape
async def a_body_that_fails(Group: Any) -> None:
    try:
        async with Group() as group:
            group.create_task(cleans_up(5))
            await asyncio.sleep(1)
            raise Boom
    except* Boom:
        pass
    await asyncio.sleep(0)


@shape
async def nested_groups(Group: Any) -> None:
    async with Group() as outer:
        outer.create_task(cleans_up())
        async with Group() as inner:
            inner.create_task(sleep(1))
            inner.create_task(cleans_up())
        outer.create_task(sleep(1))


@shape
async def nested_groups_that_fail_together(Group: Any) -> None:
    # gh-116720
    try:
        async with Group() as outer:
            try:
                async with Group() as inner:
                    inner.create_task(fail(1))
                    outer.create_task(fail(1))
            except* Boom:
                pass
            await asyncio.sleep(1)
    except* Boom:
        pass
    await asyncio.sleep(0)


@shape
async def three_groups_the_innermost_fails(Group: Any) -> None:
    try:
        async with Group() as first:
            first.create_task(cleans_up())
            async with Group() as second:
                second.create_task(cleans_up())
                async with Group() as third:
                    third.create_task(fail(0.5))
                    third.create_task(cleans_up())
    except* Boom:
        pass
    await asyncio.sleep(1)


@shape
async def a_group_in_a_child(Group: Any) -> None:
    async def child() -> None:
        async with Group() as group:
            group.create_task(sleep(1))
            group.create_task(cleans_up())

    async with Group() as group:
        group.create_task(child())
        group.create_task(child())


@shape
async def children_that_start_children(Group: Any) -> None:
    async with Group() as group:

        async def child(depth: int) -> None:
            if depth:
                group.create_task(child(depth - 1))
            try:
                await asyncio.sleep(1)
            finally:
                await asyncio.sleep(0)

        group.create_task(child(3))


@shape
async def children_started_while_it_ends(Group: Any) -> None:
    with contextlib.suppress(RuntimeError):
        try:
            async with Group() as group:

                async def child() -> None:
                    try:
                        await asyncio.sleep(5)
                    finally:
                        await asyncio.sleep(0.5)
                        with contextlib.suppress(RuntimeError):
                            late = sleep(0)
                            try:
                                group.create_task(late)
                            finally:
                                late.close() if not late.cr_running else None

                group.create_task(cleans_up(5))
                group.create_task(fail(1))
        except* Boom:
            pass
    await asyncio.sleep(0)


@shape
async def a_group_with_a_timeout(Group: Any) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            async with Group() as group:
                group.create_task(cleans_up(5))
                await asyncio.sleep(5)
    await asyncio.sleep(0)


@shape
async def a_timeout_within_a_group(Group: Any) -> None:
    async with Group() as group:
        group.create_task(sleep(2))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await asyncio.sleep(5)
        await asyncio.sleep(0)


@shape
async def a_timeout_and_a_failure_together(Group: Any) -> None:
    try:
        async with asyncio.timeout(1):
            async with Group() as group:
                group.create_task(fail(1))
                group.create_task(sleep(5))
    except* (Boom, TimeoutError):
        pass
    await asyncio.sleep(0)


@shape
async def a_group_one_after_the_other(Group: Any) -> None:
    for _ in range(3):
        async with Group() as group:
            group.create_task(sleep(0))
            group.create_task(sleep(0.5))


@shape
async def a_group_in_a_finally(Group: Any) -> None:
    try:
        await asyncio.sleep(1)
    finally:
        async with Group() as group:
            group.create_task(cleans_up(0))
            group.create_task(sleep(1))


@shape
async def a_producer_and_its_consumers(Group: Any) -> None:
    queue: asyncio.Queue[int | None] = asyncio.Queue(1)

    async def consume() -> None:
        while await queue.get() is not None:
            await asyncio.sleep(0.5)

    async with Group() as group:
        for _ in range(2):
            group.create_task(consume())
        for number in (1, 2, 3, None, None):
            await queue.put(number)


def group_case(function: Shape, Group: Any, name: str) -> Case:
    async def scenario() -> None:
        await function(Group)

    scenario.__qualname__ = f"{name}: {function.__name__}"
    return Case(scenario.__qualname__, scenario)


OURS += [group_case(function, TaskGroup, "group") for function in SHAPES]


@case()
async def group_cancelled_by_itself() -> None:
    async with TaskGroup() as group:
        group.create_task(cleans_up(5))
        await asyncio.sleep(1)
        group.cancel()
        await asyncio.sleep(5)


@case()
async def group_cancelled_by_a_child() -> None:
    async with TaskGroup() as group:

        async def child() -> None:
            await asyncio.sleep(1)
            group.cancel()
            await asyncio.sleep(0)

        group.create_task(child())
        group.create_task(cleans_up(5))


@case()
async def group_cancelled_before_it_is_entered() -> None:
    group = TaskGroup()
    group.cancel()
    async with group:
        await asyncio.sleep(1)
    await asyncio.sleep(0)


@case()
async def group_cancelled_inside_a_group() -> None:
    async with TaskGroup() as outer:
        outer.create_task(cleans_up())
        async with TaskGroup() as inner:
            inner.create_task(cleans_up(5))
            asyncio.get_running_loop().call_later(0.5, inner.cancel)
        async with TaskGroup() as inner:
            inner.create_task(sleep(1))
            asyncio.get_running_loop().call_later(1, outer.cancel)
            await asyncio.sleep(1)
        await asyncio.sleep(5)
    await asyncio.sleep(0)


if EAGER:

    @case()
    async def group_of_eager_children() -> None:
        factory = asyncio.get_running_loop().get_task_factory()
        how: dict[str, Any] = {} if factory else {"eager_start": True}
        try:
            async with TaskGroup() as group:
                group.create_task(nothing(), **how)
                group.create_task(cleans_up(), **how)
                group.create_task(fail(1), **how)
                group.create_task(sleep(1))
        except* Boom:
            pass
        await asyncio.sleep(0)


# ------------------------------------------------------------------ TaskRegistry

LONG = 50.0


def furnish(registry: TaskRegistry) -> None:
    for coro in (nothing(), sleep(1), fail(0.5), cleans_up(), swallows_once()):
        registry.register(coro)


@case(LONG, first=True)
async def registry_entered() -> None:
    async with TaskRegistry() as registry:
        furnish(registry)
        await asyncio.sleep(0.75)


@case(LONG, first=True)
async def registry_entered_with_a_deadline() -> None:
    async with TaskRegistry(heartbeat_interval=0.2, shutdown_timeout=0.25) as registry:
        furnish(registry)
        await asyncio.sleep(0.5)


@case(LONG)
async def registry_shutdown() -> None:
    registry = TaskRegistry()
    furnish(registry)
    await registry.shutdown()


@case(LONG)
async def registry_shutdown_at_once() -> None:
    registry = TaskRegistry()
    furnish(registry)
    try:
        await asyncio.sleep(0.5)
    finally:
        await registry.shutdown(0)


@case(LONG)
async def registry_shutdown_twice_at_once() -> None:
    registry = TaskRegistry()
    furnish(registry)
    async with TaskGroup() as group:
        group.create_task(registry.shutdown(0.25))
        group.create_task(registry.shutdown())


@case(LONG)
async def registry_shutdown_in_slices() -> None:
    registry = TaskRegistry()
    furnish(registry)
    slices, _waiting.SLICE = _waiting.SLICE, 1
    try:
        await registry.shutdown()
    finally:
        _waiting.SLICE = slices


@case(LONG)
async def registry_shutdown_from_within() -> None:
    registry = TaskRegistry()
    furnish(registry)

    async def ends_all() -> None:
        await registry.shutdown(10)

    task, _ = await registry.register(ends_all(), "ends all")
    await registry.wait()
    await task


@case(LONG)
async def registry_shutdown_of_one_that_registers() -> None:
    registry = TaskRegistry()

    async def again(times: int) -> None:
        try:
            await asyncio.sleep(1)
        finally:
            if times:
                with contextlib.suppress(ClosedError):
                    registry.register(again(0))
                registry.track(asyncio.create_task(again(times - 1)))

    registry.register(again(3))
    await asyncio.sleep(0)
    await registry.shutdown()


@case(LONG)
async def registry_wait() -> None:
    registry = TaskRegistry()
    furnish(registry)
    await registry.wait()


@case(LONG)
async def registry_wait_with_a_timeout() -> None:
    registry = TaskRegistry()
    furnish(registry)
    while not await registry.wait(0.3):
        pass


@case(LONG)
async def registry_wait_by_many() -> None:
    registry = TaskRegistry()
    furnish(registry)
    async with TaskGroup() as group:
        for seconds in (0.0, 0.3, None):
            group.create_task(registry.wait(seconds))


@case(LONG)
async def registry_join() -> None:
    registry = TaskRegistry()
    furnish(registry)
    async with TaskGroup() as group:
        for task_id in registry:
            group.create_task(registry.join(task_id))
    assert not registry._joiners


@case(LONG)
async def registry_join_with_a_timeout() -> None:
    registry = TaskRegistry()
    furnish(registry)
    for task_id in list(registry):
        while registry[task_id].finished_at is None:
            with contextlib.suppress(TimeoutError):
                await registry.join(task_id, 0.2)
    assert not registry._joiners


@case(LONG)
async def registry_supervises() -> None:
    left = [1, 2]

    async def run() -> None:
        await asyncio.sleep(0.1)
        if left:
            raise OSError(f"{left.pop()} left")

    async with TaskRegistry(heartbeat_interval=0.2) as registry:
        registry.supervise(run, "job", backoff=Backoff(0.1, jitter=0))
        await registry.join("job")


@case(LONG)
async def registry_shuts_down_supervised_tasks() -> None:
    async def fails() -> None:
        raise OSError

    registry = TaskRegistry()
    registry.supervise(cleans_up, "runs", restart="always")
    registry.supervise(fails, "rests", backoff=Backoff(9, jitter=0))
    try:
        await asyncio.sleep(0.1)
    finally:
        await registry.shutdown()


@case(LONG)
async def registry_monitor_loop() -> None:
    seen: list[Any] = []
    registry = TaskRegistry(0.5, 0.75, on_stale=seen.append)
    furnish(registry)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(3):
            await registry.monitor_loop()


@case(LONG)
async def loop_watch_entered_twice() -> None:
    watch = LoopWatch()
    for _ in range(2):
        async with watch, LoopWatch():
            await cleans_up()


@case(LONG)
async def registry_ready_awaitables() -> None:
    registry = TaskRegistry()
    task, task_id = await registry.register(cleans_up(), "one")
    await registry.heartbeat(task_id)
    await asyncio.sleep(0)
    await registry.cancel(task_id)
    await registry.cancel_all()
    await asyncio.wait([task])


@case(LONG)
async def registry_in_a_group() -> None:
    async with TaskGroup() as group, TaskRegistry() as registry:
        furnish(registry)
        group.create_task(registry.wait())
        await asyncio.sleep(0.25)


# ------------------------------------------------------------------ SignalCoordinator


def raise_later(signum: int, seconds: float) -> asyncio.TimerHandle:
    loop = asyncio.get_running_loop()
    return loop.call_later(seconds, signal.raise_signal, signum)


@case()
async def coordinator_wait_for_shutdown() -> None:
    with SignalCoordinator() as coordinator:
        timer = raise_later(signal.SIGTERM, 1)
        try:
            assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        finally:
            timer.cancel()


@case()
async def coordinator_wait_for_a_request() -> None:
    coordinator = SignalCoordinator()
    asyncio.get_running_loop().call_later(1, coordinator.request_shutdown)
    assert await coordinator.wait_for_shutdown() is None


@case()
async def coordinator_wait_for_reload() -> None:
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        timers = [raise_later(signal.SIGHUP, seconds) for seconds in (1, 2)]
        try:
            for _ in timers:
                await coordinator.wait_for_reload()
                await asyncio.sleep(0)
        finally:
            for timer in timers:
                timer.cancel()


@case(LONG)
async def coordinator_entered() -> None:
    registry = TaskRegistry()
    async with SignalCoordinator(5, registry=registry) as coordinator:
        furnish(registry)
        asyncio.get_running_loop().call_later(0.5, coordinator.request_shutdown)
        await coordinator.wait_for_shutdown()
        await coordinator.graceful_shutdown()


@case(LONG, first=True)
async def coordinator_entered_with_a_deadline() -> None:
    registry = TaskRegistry()
    async with SignalCoordinator(0.25, registry=registry), registry:
        furnish(registry)
        await asyncio.sleep(0.25)


@case(LONG)
async def coordinator_inside_its_registry_after_a_request() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(0.25, registry=registry)
    async with registry, coordinator:
        furnish(registry)
        await asyncio.sleep(0.25)
        coordinator.request_shutdown()
        await coordinator.wait_for_shutdown()


@case(LONG)
async def coordinator_entered_again() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(0.25, registry=registry)
    for _ in range(2):
        async with coordinator, registry:
            assert coordinator.ready
            registry.register(cleans_up(5))
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            await asyncio.sleep(0.5)  # past the deadline


@case()
async def coordinator_reloads() -> None:
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        timers = [raise_later(signal.SIGHUP, seconds) for seconds in (1, 2)]
        asyncio.get_running_loop().call_later(3, coordinator.request_shutdown)
        try:
            async for signum in coordinator.reloads():
                assert signum == signal.SIGHUP
                await asyncio.sleep(0)
        finally:
            for timer in timers:
                timer.cancel()


@case(LONG)
async def coordinator_drains() -> None:
    registry = TaskRegistry()
    async with SignalCoordinator(4, drain=2, registry=registry) as coordinator:
        registry.register(cleans_up(5))
        coordinator.request_shutdown()
        await coordinator.wait_for_shutdown()
        await coordinator.graceful_shutdown()


@case(LONG)
async def coordinator_ends_what_is_attached_in_order() -> None:
    jobs, feeds = TaskRegistry(), TaskRegistry()
    coordinator = SignalCoordinator(4, drain=1, cancel_on_signal=True, registry=jobs)
    coordinator.attach(feeds, order=1)
    async with coordinator:
        jobs.register(cleans_up(5))
        feeds.register(cleans_up(5))
        coordinator.request_shutdown()
        await asyncio.sleep(1.5)


@case(LONG)
async def coordinator_ends_a_batch_and_a_group() -> None:
    batch, group = bounded_gather(cleans_up, [5, 5]), TaskGroup()
    coordinator = SignalCoordinator(4)
    coordinator.attach(batch)
    coordinator.attach(group, order=1)
    user = asyncio.create_task(batch.collect())
    try:
        async with coordinator, group:
            group.create_task(cleans_up(5))
            await asyncio.sleep(0)
            await coordinator.graceful_shutdown()
    finally:
        await asyncio.wait([user])


@case(LONG)
async def coordinator_graceful_shutdown() -> None:
    coordinator = SignalCoordinator(registry=TaskRegistry())
    tasks = [asyncio.create_task(coro) for coro in (sleep(5), cleans_up(5))]
    tasks.append(asyncio.create_task(swallows_once()))
    try:
        await asyncio.sleep(0)
    finally:
        await coordinator.graceful_shutdown(tasks, timeout=3)


@case(LONG)
async def coordinator_graceful_shutdown_by_two() -> None:
    coordinator = SignalCoordinator(2)
    tasks = [asyncio.create_task(coro) for coro in (sleep(5), cleans_up(5))]
    try:
        async with TaskGroup() as group:
            group.create_task(coordinator.graceful_shutdown(tasks))
            await asyncio.sleep(0)
            group.create_task(coordinator.graceful_shutdown(tasks, timeout=0))
    finally:
        for task in tasks:
            task.cancel()
