"""supervise(): one entry for many runs."""

import asyncio
import gc
import logging
import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import (
    Backoff,
    ClosedError,
    DuplicateTaskError,
    TaskHealth,
    TaskMetadata,
    TaskRegistry,
    TaskState,
)
from pyasynclife.testing import VirtualTimeLoop
from support.capture import capture
from support.coroutines import Boom, echo, forever
from support.loops import ManualClockLoop, eager, settle, task_factory, until
from support.marks import needs_eager
from support.registries import adds_up

AT_ONCE = Backoff(0)
SLOWLY = Backoff(1, factor=2, max_delay=100, jitter=0)

Main = Callable[[], Coroutine[Any, Any, None]]


def virtually(main: Main) -> Callable[[], None]:
    """A test that runs in virtual time."""

    def test() -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(main())

    test.__name__, test.__doc__ = main.__name__, main.__doc__
    return test


class Runs:
    """A function to supervise: each run is noted and does the next thing of a list."""

    def __init__(self, *things: Any, then: Any = None) -> None:
        self.things = list(things)
        self.then = then
        self.times: list[float] = []
        self.running = 0

    def __call__(self) -> Coroutine[Any, Any, Any]:
        return self.run(self.things.pop(0) if self.things else self.then)

    async def run(self, thing: Any) -> Any:
        self.times.append(asyncio.get_running_loop().time())
        self.running += 1
        assert self.running == 1
        try:
            if isinstance(thing, BaseException):
                raise thing
            if isinstance(thing, (int, float)):
                await asyncio.sleep(thing)
                raise Boom(f"after {thing} s")
            if callable(thing):
                return await thing()
            return thing or await forever()
        finally:
            self.running -= 1

    @property
    def begun(self) -> list[float]:
        """When each run began, in seconds after the first, rounded."""
        return [round(time - self.times[0], 3) for time in self.times]


@pytest.mark.parametrize("allowed", [True, False], ids=["captured", "plain"])
async def test_it_runs_again_after_a_failure_under_one_entry(allowed: bool) -> None:
    seen: list[TaskMetadata] = []
    registry = TaskRegistry(on_finish=seen.append)
    runs = Runs(Boom("one"), Boom("two"), then="value")
    with capture(allowed):
        assert await registry.supervise(runs, "feed", backoff=AT_ONCE) == "feed"
        meta = registry["feed"]
        assert meta.state is TaskState.PENDING
        task = meta.task
        assert task is not None
        assert task.get_name() == "feed"
        assert await registry.join("feed", 60) is meta
    assert [meta] == seen
    assert (meta.state, meta.result, meta.restarts) == (TaskState.DONE, "value", 2)
    assert meta.error_text == "Boom: two"  # of the last failure
    assert (meta.task, meta.error) == (None, None)
    stats = registry.stats()
    assert (stats.registered, stats.done, stats.restarts) == (1, 1, 2)
    adds_up(registry)


@virtually
async def test_between_two_runs_it_is_alive_without_a_task_and_never_stale() -> None:
    registry = TaskRegistry(stale_threshold=1.5)
    runs = Runs(Boom("no price"), then=forever)
    registry.supervise(runs, "feed", backoff=Backoff(100, max_delay=100, jitter=0))
    await asyncio.sleep(50)
    meta = registry["feed"]
    assert (meta.state, meta.task) == (TaskState.RUNNING, None)
    assert meta.health is TaskHealth.UNKNOWN
    assert meta.stale_after == 1.5
    assert meta.error_text == "Boom: no price"
    assert await registry.get_stale_tasks() == []
    assert "feed" in registry
    assert registry.where("feed") == []
    assert registry.dump() is not None
    adds_up(registry)
    assert await registry.heartbeat("feed")
    assert registry["feed"].health is TaskHealth.HEALTHY
    await asyncio.sleep(51)
    assert meta.task is not None
    assert meta.silence < 1.5  # it counts from the beginning of the run
    assert meta.restarts == 1
    await asyncio.sleep(2)
    assert meta.health is TaskHealth.STALE
    assert await registry.get_stale_tasks() == ["feed"]
    adds_up(registry)
    await registry.shutdown()


@pytest.mark.parametrize(
    ("restart", "end", "again"),
    [
        ("always", "value", True),
        ("always", Boom(), True),
        ("always", asyncio.CancelledError(), True),
        ("on_failure", "value", False),
        ("on_failure", Boom(), True),
        ("on_failure", asyncio.CancelledError(), False),
        ("never", "value", False),
        ("never", Boom(), False),
    ],
)
async def test_what_is_started_again(restart: Any, end: Any, again: bool) -> None:
    registry = TaskRegistry()
    runs = Runs(end, then=forever)
    registry.supervise(runs, "feed", restart=restart, backoff=AT_ONCE)
    await settle(10)
    assert len(runs.times) == 1 + again
    assert ("feed" in registry) == again
    assert registry["feed"].restarts == again
    await registry.shutdown()


@virtually
async def test_delays_grow_and_begin_anew_after_a_long_run() -> None:
    registry = TaskRegistry()
    runs = Runs(0, 0, 0, 100, 0, then=forever)
    registry.supervise(runs, "feed", backoff=SLOWLY)
    await asyncio.sleep(1000)
    # 1, 2, 4 s; the fourth run lasts 100 s: then 1 and 2 s.
    assert runs.begun == [0, 1, 3, 7, 108, 110]
    await registry.shutdown()


@virtually
async def test_it_gives_up_when_it_restarts_too_often_within_a_time() -> None:
    given_up: list[tuple[str, TaskState]] = []
    registry = TaskRegistry(
        on_give_up=lambda meta: given_up.append((meta.task_id, meta.state))
    )
    runs = Runs(then=0)
    registry.supervise(runs, "fast", backoff=AT_ONCE, max_restarts=3, within=10)
    meta = await registry.join("fast", 60)
    assert (len(runs.times), meta.restarts) == (4, 3)
    assert (meta.state, meta.error_text) == (TaskState.FAILED, "Boom: after 0 s")
    assert isinstance(meta.error, Boom)
    # Four runs of 4 s each need longer than 10 s for three restarts.
    slow = Runs(then=4)
    registry.supervise(slow, "slow", backoff=AT_ONCE, max_restarts=3, within=10)
    await asyncio.sleep(401)
    assert "slow" in registry
    assert len(slow.times) == 101
    await registry.shutdown()
    assert given_up == [("fast", TaskState.FAILED)]


async def test_without_a_restart_left_the_first_failure_is_the_end() -> None:
    given_up: list[TaskMetadata] = []
    registry = TaskRegistry(on_give_up=given_up.append)
    registry.supervise(Runs(Boom()), "feed", max_restarts=0)
    meta = await registry.join("feed", 60)
    assert (meta.state, meta.restarts, given_up) == (TaskState.FAILED, 0, [meta])


async def test_it_may_give_up_though_no_run_has_failed() -> None:
    given_up: list[TaskMetadata] = []
    registry = TaskRegistry()
    registry.on_give_up = given_up.append
    registry.supervise(
        Runs(then="value"), "feed", restart="always", backoff=AT_ONCE, max_restarts=2
    )
    meta = await registry.join("feed", 60)
    assert (meta.state, meta.result, meta.restarts) == (TaskState.DONE, "value", 2)
    assert given_up == [meta]


CANCELS: dict[str, Callable[[TaskRegistry], Awaitable[Any]]] = {
    "cancel": lambda registry: registry.cancel("feed", "enough"),
    "cancel_all": lambda registry: registry.cancel_all("enough"),
    "shutdown": lambda registry: registry.shutdown(60),
}


@pytest.mark.parametrize("how", CANCELS)
@pytest.mark.parametrize("rests", [True, False])
async def test_a_cancellation_ends_it_for_good(how: str, rests: bool) -> None:
    given_up: list[TaskMetadata] = []
    ended: list[TaskMetadata] = []
    registry = TaskRegistry(on_finish=ended.append, on_give_up=given_up.append)
    runs = Runs(Boom()) if rests else Runs()
    registry.supervise(runs, "feed", restart="always", backoff=Backoff(1e6, 1, 1e6, 0))
    await settle(6)
    meta = registry["feed"]
    assert (meta.task is None) == rests
    answer = await CANCELS[how](registry)
    assert await registry.join("feed", 60) is meta
    await settle(6)
    assert (meta.state, len(runs.times)) == (TaskState.CANCELLED, 1)
    assert (ended, given_up) == ([meta], [])
    if how == "shutdown":
        assert [one.task_id for one in answer.cancelled] == ["feed"]
        assert answer.cancelled[0].name == "feed"
        assert answer.ok
        assert answer.deadline_met
        assert str(answer)
        assert meta.cancel_reason is None
    else:
        assert answer == 1
        assert meta.cancel_reason == "enough"
    assert registry.stats().cancelled == 1
    adds_up(registry)


async def test_a_run_that_swallows_its_cancellation_is_the_last() -> None:
    async def swallows() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return "swallowed"

    registry = TaskRegistry()
    runs = Runs(then=swallows)
    registry.supervise(runs, "feed", restart="always", backoff=AT_ONCE)
    await settle()
    report = await registry.shutdown(60)
    assert [one.task_id for one in report.swallowed] == ["feed"]
    assert (registry["feed"].state, len(runs.times)) == (TaskState.DONE, 1)


async def test_a_run_that_fails_in_a_shutdown_is_not_started_again() -> None:
    async def fails() -> None:
        try:
            await forever()
        finally:
            raise Boom("in cleanup")

    registry = TaskRegistry()
    runs = Runs(then=fails)
    registry.supervise(runs, "feed", backoff=AT_ONCE)
    await settle()
    report = await registry.shutdown(60)
    assert [one.task_id for one in report.failed] == ["feed"]
    assert (registry["feed"].state, len(runs.times)) == (TaskState.FAILED, 1)


@pytest.mark.parametrize("how", CANCELS)
@pytest.mark.parametrize("restarts", [5, 0])
async def test_a_run_that_failed_just_before_ends_as_one_that_waits(
    how: str, restarts: int, caplog: pytest.LogCaptureFixture
) -> None:
    given_up: list[TaskMetadata] = []
    registry = TaskRegistry(on_give_up=given_up.append)
    connected = asyncio.Event()

    async def feed() -> None:
        await connected.wait()
        raise Boom("connection lost")

    registry.supervise(feed, "feed", backoff=AT_ONCE, max_restarts=restarts)
    meta = registry["feed"]
    await settle()
    connected.set()
    while meta.task is not None and not meta.task.done():
        await asyncio.sleep(0)
    assert meta.task is not None  # its done callback has not been called
    answer = await CANCELS[how](registry)
    await registry.join("feed", 60)
    again = restarts > 0  # else no further run would have followed in any case
    assert meta.state == (TaskState.CANCELLED if again else TaskState.FAILED)
    assert (meta.error_text, meta.restarts) == ("Boom: connection lost", 0)
    levels = [one.levelname for one in caplog.records if one.levelname != "INFO"]
    assert levels == [] if again else ["ERROR"]
    if how == "shutdown":
        ended = answer.cancelled if again else answer.failed
        assert [one.task_id for one in ended] == ["feed"]
        assert answer.ok == again
    adds_up(registry)


async def test_a_run_that_ended_for_good_just_before_ends_as_it_did() -> None:
    registry = TaskRegistry()
    connected = asyncio.Event()

    async def feed() -> str:
        await connected.wait()
        return "closed"

    registry.supervise(feed, "feed", backoff=AT_ONCE)
    meta = registry["feed"]
    await settle()
    connected.set()
    while meta.task is not None and not meta.task.done():
        await asyncio.sleep(0)
    report = await registry.shutdown(60)
    assert [one.task_id for one in report.finished] == ["feed"]
    assert (meta.state, meta.result) == (TaskState.DONE, "closed")


async def test_a_run_that_shuts_down_is_spared_and_is_the_last() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "other")

    async def ends_all() -> str:
        report = await registry.shutdown(60)
        return ",".join(str(one.task_id) for one in report.cancelled)

    runs = Runs(then=ends_all)
    registry.supervise(runs, "feed", restart="always", backoff=AT_ONCE)
    meta = await registry.join("feed", 60)
    await settle(6)
    assert (meta.state, meta.result) == (TaskState.DONE, "other")
    assert len(runs.times) == 1


@pytest.mark.parametrize("how", ["cancel", "complete"])
@pytest.mark.parametrize("reading", range(1, 6))
def test_a_clock_may_end_the_resting_task_that_a_shutdown_ends(
    reading: int, how: str
) -> None:
    async def main() -> None:
        registry = TaskRegistry()
        registry.supervise(Runs(then=Boom()), "feed", backoff=Backoff(9, max_delay=9))
        await settle()
        assert registry["feed"].task is None
        left = reading

        def ends() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                getattr(registry, how)("feed")
            else:
                loop.hook = ends

        loop.hook = ends
        report = await registry.shutdown(60)
        loop.hook = None
        assert len(report.cancelled) <= 1
        assert len(registry) == 0
        adds_up(registry)

    with asyncio.Runner(loop_factory=ManualClockLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, ManualClockLoop)
        runner.run(main())


async def test_supervise_is_refused_while_the_registry_shuts_down() -> None:
    seen: list[BaseException] = []

    async def cleans_up() -> None:
        try:
            await forever()
        finally:
            try:
                registry.supervise(Runs(), "late")
            except ClosedError as error:
                seen.append(error)

    registry = TaskRegistry()
    registry.register(cleans_up())
    await settle()
    await registry.shutdown(60)
    assert len(seen) == 1
    assert "late" not in registry


async def test_a_living_id_is_refused_and_fn_is_not_called() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "feed")
    runs = Runs()
    with pytest.raises(DuplicateTaskError):
        registry.supervise(runs, "feed")
    assert runs.times == []
    registry.supervise(runs, "other")
    with pytest.raises(DuplicateTaskError):
        registry.register(echo(), "other")
    assert registry.stats().registered == 2
    await registry.shutdown()


async def test_an_error_of_the_function_is_a_failed_run() -> None:
    calls: list[int] = []

    def fn() -> Coroutine[Any, Any, str]:
        calls.append(1)
        if len(calls) < 3:
            raise Boom("cannot connect")
        return echo("value")

    registry = TaskRegistry()
    registry.supervise(fn, "feed", backoff=AT_ONCE)
    meta = registry["feed"]
    assert (meta.state, meta.task) == (TaskState.RUNNING, None)
    adds_up(registry)
    assert await registry.join("feed", 60) is meta
    assert (meta.state, meta.result, meta.restarts) == (TaskState.DONE, "value", 2)
    assert meta.error_text == "Boom: cannot connect"


async def test_a_function_that_always_fails_leaves_the_loop_free() -> None:
    def fn() -> Any:
        raise Boom("cannot connect")

    registry = TaskRegistry()
    registry.supervise(fn, "feed", backoff=AT_ONCE, max_restarts=10**9)
    await until(lambda: registry["feed"].restarts > 9)
    await registry.cancel("feed")
    assert "feed" not in registry


async def test_a_function_that_returns_no_fresh_coroutine_is_refused() -> None:
    registry = TaskRegistry()
    same = forever()
    with pytest.raises(TypeError, match="must return a coroutine, got 5"):
        registry.supervise(lambda: 5, "feed")  # type: ignore[arg-type,return-value]
    assert registry.supervise(lambda: same, "same", backoff=AT_ONCE).result() == "same"
    with pytest.raises(RuntimeError, match="has been started already"):
        await asyncio.sleep(0)
        registry.supervise(lambda: same, "feed")
    assert list(registry) == ["same"]
    assert registry.stats().registered == 1
    assert "feed" not in registry.get_status().result()
    await registry.shutdown()


async def test_the_same_coroutine_twice_is_a_failed_run() -> None:
    async def fails() -> None:
        raise Boom

    same = fails()
    registry = TaskRegistry()
    registry.supervise(lambda: same, "feed", backoff=AT_ONCE, max_restarts=2)
    meta = await registry.join("feed", 60)
    assert meta.state is TaskState.FAILED
    assert "has been started already: each run needs a fresh" in str(meta.error_text)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"restart": "sometimes"}, ValueError, "'always', 'on_failure' or 'never'"),
        ({"restart": []}, ValueError, "'always', 'on_failure' or 'never'"),
        ({"restart_stale": 1}, TypeError, "restart_stale"),
        ({"restart": "never", "restart_stale": True}, ValueError, "contradicts"),
        ({"backoff": 5}, TypeError, "backoff must be a Backoff or None, got int 5"),
        ({"max_restarts": -1}, ValueError, "max_restarts"),
        ({"max_restarts": 1.5}, TypeError, "max_restarts"),
        ({"within": -1}, ValueError, "within"),
        ({"within": math.nan}, ValueError, "within"),
        ({"vital": "yes"}, TypeError, "vital"),
        ({"stale_after": -1}, ValueError, "stale_after"),
        (
            {"stale_after": math.inf, "restart_stale": True},
            ValueError,
            "stale_after=inf, which means never: pass seconds",
        ),
    ],
)
async def test_a_wrong_argument_is_refused_before_the_first_run(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    registry = TaskRegistry()
    runs = Runs()
    with pytest.raises(error, match=message):
        registry.supervise(runs, "feed", **options)
    assert (len(registry), runs.times) == (0, [])


async def test_what_is_no_function_or_id_is_refused() -> None:
    registry = TaskRegistry()
    with pytest.raises(TypeError, match="pass the function first"):
        registry.supervise(forever(), "feed")  # type: ignore[arg-type]
    for bad in (5, ""):
        with pytest.raises((TypeError, ValueError), match="task id must be a"):
            registry.supervise(Runs(), bad)  # type: ignore[arg-type]
    assert len(registry) == 0


def test_without_a_running_loop_it_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"TaskRegistry\.supervise\(\)"):
        TaskRegistry().supervise(Runs(), "feed")


async def test_complete_lets_no_other_run_begin() -> None:
    registry = TaskRegistry()
    runs = Runs(lambda: asyncio.sleep(0), Boom("one"))
    registry.supervise(runs, "runs", restart="always", backoff=AT_ONCE)
    await settle(1)
    registry.complete("runs", "enough")
    meta = await registry.join("runs", 60)
    assert (meta.state, meta.result, len(runs.times)) == (TaskState.DONE, "enough", 1)
    resting = Runs(Boom("one"))
    registry.supervise(resting, "rests", backoff=Backoff(1e6, 1, 1e6, 0))
    await settle(6)
    assert registry["rests"].task is None
    registry.complete("rests", "enough")
    assert (registry["rests"].state, "rests" in registry) == (TaskState.DONE, False)


async def test_each_failed_run_is_one_record_with_the_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    registry.supervise(Runs(then=0), "feed", backoff=AT_ONCE, max_restarts=2)
    with caplog.at_level(logging.WARNING, "pyasynclife"):
        await registry.join("feed", 60)
    assert [record.levelname for record in caplog.records] == [
        "WARNING",
        "WARNING",
        "ERROR",
    ]
    assert {record.task_id for record in caplog.records} == {"feed"}  # type: ignore[attr-defined]
    assert all(record.exc_info for record in caplog.records)
    assert "starts again in 0 s (restart 1)" in caplog.messages[0]
    assert caplog.messages[2] == (
        "task feed failed and is not started again: Boom: after 0 s"
    )


async def test_each_run_has_the_id_and_a_context_of_its_own() -> None:
    seen: list[Any] = []
    registry = TaskRegistry()

    async def child() -> None:
        seen.append((registry.current_id(), await registry.heartbeat()))

    async def job() -> None:
        await asyncio.create_task(child())
        raise Boom

    registry.supervise(job, "feed", backoff=AT_ONCE, max_restarts=1, info="mine")
    meta = await registry.join("feed", 60)
    assert seen == [("feed", True)] * 2
    assert (meta.heartbeats, meta.info) == (2, "mine")
    assert registry.current_id() is None


@needs_eager
async def test_eager_runs_are_runs() -> None:
    registry = TaskRegistry()
    runs = Runs(Boom("one"), Boom("two"), then="value")
    with task_factory(eager):
        registry.supervise(runs, "feed", backoff=AT_ONCE)
        meta = await registry.join("feed", 60)
    assert (meta.state, meta.restarts) == (TaskState.DONE, 2)
    adds_up(registry)


@needs_eager
@pytest.mark.parametrize("how", CANCELS)
async def test_an_eager_run_that_ends_its_own_entry_is_the_last(how: str) -> None:
    registry = TaskRegistry()
    if how == "shutdown":
        pytest.skip("a run that shuts down is spared")

    async def job() -> None:
        await CANCELS[how](registry)
        await forever()

    runs = Runs(then=job)
    with task_factory(eager):
        registry.supervise(runs, "feed", restart="always", backoff=AT_ONCE)
        meta = await registry.join("feed", 60)
    assert (meta.state, len(runs.times)) == (TaskState.CANCELLED, 1)


@pytest.mark.parametrize("how", CANCELS)
async def test_a_function_that_ends_its_own_entry_makes_no_run(how: str) -> None:
    registry = TaskRegistry()
    ran: list[int] = []
    shutdowns: list[asyncio.Task[Any]] = []

    async def job() -> None:
        ran.append(1)

    def fn() -> Coroutine[Any, Any, None]:
        if how == "shutdown":
            registry._begin_shutdown(None, 0)
            registry._end_shutdown()
        else:
            CANCELS[how](registry)
        return job()

    registry.supervise(fn, "feed", restart="always", backoff=AT_ONCE)
    await settle(6)
    assert (registry["feed"].state, ran) == (TaskState.CANCELLED, [])
    assert len(registry) == 0
    assert shutdowns == []


async def test_a_task_factory_that_fails_is_a_failed_run() -> None:
    calls: list[int] = []

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) < 3:
            raise OSError("no task today")
        return asyncio.Task(coro, loop=loop, **options)

    registry = TaskRegistry()
    with task_factory(factory):
        registry.supervise(lambda: echo(5), "feed", backoff=AT_ONCE)
        while len(calls) < 3:
            await asyncio.sleep(0)
    meta = await registry.join("feed", 60)
    assert (meta.state, meta.result, meta.restarts) == (TaskState.DONE, 5, 2)


async def test_a_hook_that_fails_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    def fail(meta: TaskMetadata) -> None:
        raise LookupError(meta.task_id)

    registry = TaskRegistry(on_give_up=fail)
    registry.supervise(Runs(Boom()), "feed", max_restarts=0)
    await registry.join("feed", 60)
    assert [str(context["exception"]) for context in loop_errors] == ["feed"]
    with pytest.raises(TypeError, match="on_give_up"):
        registry.on_give_up = forever  # type: ignore[assignment]


async def test_a_registry_that_nobody_holds_goes_on_supervising() -> None:
    runs = Runs(Boom(), Boom(), then=forever)

    def begin() -> None:
        TaskRegistry().supervise(runs, "feed", backoff=Backoff(0.001, 1, 0.001))

    begin()
    while len(runs.times) < 3:
        gc.collect()
        await asyncio.sleep(0.001)
    for task in asyncio.all_tasks():
        if task.get_name() == "feed":
            task.cancel()
            await asyncio.wait([task])


async def test_ten_thousand_restarts_leave_nothing_behind() -> None:
    async def churn(times: int) -> None:
        registry = TaskRegistry(history=0)
        left = times

        async def job() -> None:
            nonlocal left
            left -= 1
            if left:
                raise Boom
            await forever()

        registry.supervise(job, "feed", backoff=AT_ONCE, max_restarts=10**9, within=0)
        while left:
            await asyncio.sleep(0)
        assert registry["feed"].restarts == times - 1
        gc.collect()
        counts.append(sys.getallocatedblocks())
        await registry.shutdown(60)

    logger = logging.getLogger("pyasynclife")
    logger.setLevel(logging.CRITICAL)
    counts: list[int] = []
    try:
        for times in (1_000, 1_000, 10_000):
            await churn(times)
    finally:
        logger.setLevel(logging.NOTSET)
    assert counts[2] < counts[1] + 500
