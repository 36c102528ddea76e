"""What a user relies on of TaskRegistry, while nothing goes wrong."""

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pyasynclife import (
    DuplicateTaskError,
    RegistryStats,
    TaskHealth,
    TaskMetadata,
    TaskRegistry,
    TaskState,
    UnknownTaskError,
)
from support.coroutines import echo, forever, raises
from support.loops import settle


async def swallows(times: float = math.inf) -> str:
    while times > 0:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            times -= 1
    return "swallowed"


@asynccontextmanager
async def a_registry(**options: Any) -> AsyncIterator[TaskRegistry]:
    """A registry whose tasks are gone at the end."""
    registry = TaskRegistry(**options)
    yield registry
    registry.cancel_all()
    assert await registry.wait(5)


# ------------------------------------------------------------------- register


async def test_register_gives_a_real_task_named_by_its_id() -> None:
    async with a_registry() as registry:
        task, task_id = await registry.register(forever(), "feed")
        assert isinstance(task, asyncio.Task)
        assert (task_id, task.get_name()) == ("feed", "feed")
        assert "feed" in registry
        assert registry["feed"].task is task


async def test_register_acts_when_called() -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        assert list(registry) == ["feed"]


async def test_result_and_await_of_a_ready_agree_any_number_of_times() -> None:
    async with a_registry() as registry:
        ready = registry.register(forever())
        assert await ready == await ready == ready.result()
        assert await asyncio.gather(ready) == [ready.result()]
        assert await asyncio.wait_for(ready, 1) == ready.result()


async def test_a_ready_has_no_truth_value() -> None:
    registry = TaskRegistry()
    with pytest.raises(TypeError, match="await this"):
        bool(registry.cancel("nobody"))


async def test_a_ready_is_no_coroutine() -> None:
    ready = TaskRegistry().cancel("nobody")
    assert not asyncio.iscoroutine(ready)
    with pytest.raises(TypeError):
        asyncio.create_task(ready)  # type: ignore[arg-type]


async def test_ids_of_the_registry_are_never_the_same_again() -> None:
    async with a_registry(history=0) as registry:
        first = (await registry.register(echo(1)))[1]
        await registry.wait()
        second = (await registry.register(forever()))[1]
        registry.register(forever(), "task_2")
        third = (await registry.register(forever()))[1]
        assert [first, second, third] == ["task_0", "task_1", "task_3"]


async def test_a_finished_id_may_come_back_in_its_old_place() -> None:
    async with a_registry() as registry:
        await registry.register(echo(1), "feed")
        registry.register(echo(2), "other")
        await registry.wait()
        await registry.register(forever(), "feed")
        assert registry["feed"].state is TaskState.PENDING
        assert list(await registry.get_status()) == ["other", "feed"]


async def test_a_subclass_of_str_is_taken_as_an_exact_str() -> None:
    class Id(str):
        def __hash__(self) -> int:
            raise AssertionError("the registry asked a foreign hash")

    async with a_registry() as registry:
        _, task_id = await registry.register(forever(), Id("feed"))
        assert type(task_id) is str
        assert registry.heartbeat(Id("feed")).result()


async def test_the_task_runs_in_the_given_context() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("v")

    async def read() -> int:
        return variable.get()

    context = contextvars.copy_context()
    context.run(variable.set, 7)
    registry = TaskRegistry()
    task, _ = await registry.register(read(), context=context)
    assert await task == 7
    await registry.wait()


async def test_a_coroutine_that_was_garbage_but_for_the_registry_lives() -> None:
    import gc

    async with a_registry() as registry:
        registry.register(forever(), "feed")
        await settle()
        gc.collect()
        assert "feed" in registry


# --------------------------------------------------------------------- states


async def test_pending_ends_at_the_first_step_as_everybody_sees_it() -> None:
    seen: list[TaskState] = []
    registry = TaskRegistry()

    async def look() -> None:
        seen.extend(registry[name].state for name in ("a", "b", "c"))

    registry.register(look(), "a")
    registry.register(look(), "b")
    registry.register(look(), "c")
    assert registry.stats().pending == 3
    await registry.wait()
    running, pending = TaskState.RUNNING, TaskState.PENDING
    assert seen[:3] == [running, pending, pending]
    assert seen[3:6] == [running, running, pending]
    assert seen[6:] == [running, running, running]


async def test_a_pending_task_that_is_cancelled_never_runs() -> None:
    registry = TaskRegistry()
    ran = []

    async def run() -> None:
        ran.append(1)

    registry.register(run(), "late")
    assert await registry.cancel("late")
    assert registry["late"].state is TaskState.PENDING
    await registry.wait()
    assert registry["late"].state is TaskState.CANCELLED
    assert ran == []


async def test_each_end_has_its_state_its_health_and_its_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    error = ValueError("no price")
    registry.register(echo(5), "done")
    registry.register(raises(error), "failed")
    registry.register(raises(asyncio.CancelledError()), "cancelled")
    await registry.wait()

    done, failed, cancelled = (registry[n] for n in ("done", "failed", "cancelled"))
    assert (done.state, done.health) == (TaskState.DONE, TaskHealth.HEALTHY)
    assert (done.result, done.error, done.error_text) == (5, None, None)
    assert (failed.state, failed.health) == (TaskState.FAILED, TaskHealth.FAILED)
    assert (failed.result, failed.error) == (None, error)
    assert failed.error_text == "ValueError: no price"
    assert cancelled.state is TaskState.CANCELLED
    assert cancelled.health is TaskHealth.UNKNOWN
    assert done.task is failed.task is cancelled.task is None
    assert len(registry) == 0


async def test_a_failure_is_logged_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    registry.register(raises(ValueError("no price")), "feed")
    await registry.wait()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("pyasynclife", logging.ERROR)
    assert "feed" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


async def test_metadata_is_live_and_tells_the_time() -> None:
    async with a_registry() as registry:
        before = time.time()
        await registry.register(forever(), "feed")
        meta = registry["feed"]
        await asyncio.sleep(0.02)
        assert before <= meta.created_at <= time.time()
        assert meta.last_heartbeat == meta.created_at
        assert 0.015 < meta.age < 5
        assert 0.015 < meta.silence < 5
        await registry.heartbeat("feed")
        assert meta.silence < 0.015
        assert meta.heartbeats == 1
        assert abs(meta.last_heartbeat - time.time()) < 0.01
        assert meta.finished_at is None
        registry.cancel("feed")
        await registry.wait()
        age = meta.age
        await asyncio.sleep(0.01)
        assert meta.age == age
        assert meta.finished_at == pytest.approx(time.time(), abs=1)


async def test_as_dict_says_what_the_attributes_say() -> None:
    registry = TaskRegistry()
    await registry.register(echo(5), "feed")
    await registry.wait()
    meta = registry["feed"]
    for name, value in meta.as_dict().items():
        assert getattr(meta, name) == value
    assert len(meta.as_dict()) == 14


def test_metadata_and_stats_are_not_for_making() -> None:
    for made in (TaskMetadata, RegistryStats):
        with pytest.raises(TypeError):
            made()


# ------------------------------------------------------------------ heartbeats


async def test_health_follows_the_heartbeats() -> None:
    async with a_registry(stale_threshold=0.03) as registry:
        await registry.register(forever(), "feed")
        assert registry["feed"].health is TaskHealth.UNKNOWN
        await settle()
        assert registry["feed"].health is TaskHealth.UNKNOWN
        await registry.heartbeat("feed")
        assert registry["feed"].health is TaskHealth.HEALTHY
        await asyncio.sleep(0.04)
        assert registry["feed"].health is TaskHealth.STALE
        await registry.heartbeat("feed")
        assert registry["feed"].health is TaskHealth.HEALTHY
        assert await registry.get_stale_tasks() == []


async def test_stale_tasks_come_longest_silence_first_across_thresholds() -> None:
    async with a_registry(stale_threshold=0.01) as registry:
        for number, threshold in enumerate([0.02, None, 0.005, math.inf, None]):
            registry.register(forever(), str(number), stale_after=threshold)
        await settle()
        for task_id in ("4", "2", "1", "3", "0"):
            await registry.heartbeat(task_id)
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.03)
        assert await registry.get_stale_tasks() == ["4", "2", "1", "0"]
        await registry.heartbeat("2")
        assert await registry.get_stale_tasks() == ["4", "1", "0"]


async def test_a_task_that_never_beat_is_stale_by_its_registration() -> None:
    async with a_registry(stale_threshold=0.02) as registry:
        registry.register(forever(), "mute")
        registry.register(forever(), "beating")
        await settle()
        for _ in range(6):
            await asyncio.sleep(0.005)
            registry.heartbeat("beating")
        assert await registry.get_stale_tasks() == ["mute"]


async def test_a_task_that_has_not_started_is_not_stale() -> None:
    async with a_registry(stale_threshold=0.0) as registry:
        registry.register(forever(), "late")
        time.sleep(0.001)
        assert await registry.get_stale_tasks() == []
        assert registry["late"].health is TaskHealth.UNKNOWN


async def test_a_finished_task_is_never_stale() -> None:
    registry = TaskRegistry(stale_threshold=0.0)
    registry.register(echo(1), "feed")
    await registry.wait()
    time.sleep(0.001)
    assert await registry.get_stale_tasks() == []
    assert registry["feed"].health is TaskHealth.HEALTHY


async def test_a_heartbeat_of_nobody_is_false_and_counted() -> None:
    registry = TaskRegistry()
    assert not await registry.heartbeat("nobody")
    assert not await registry.heartbeat()
    await registry.register(echo(1), "gone")
    await registry.wait()
    assert not await registry.heartbeat("gone")
    assert registry.stats().unknown_heartbeats == 3


async def test_an_id_is_known_by_the_object_and_by_its_text() -> None:
    async with a_registry() as registry:
        given = "".join(["feed", "-1"])
        _, task_id = await registry.register(forever(), given)
        copy = "".join(["feed", "-", "1"])
        assert copy is not task_id
        await settle()
        assert await registry.heartbeat(task_id)
        assert await registry.heartbeat(copy)
        assert 2 == registry[given].heartbeats


async def test_an_id_object_is_nobodys_after_the_end_and_the_next_ones_then() -> None:
    async with a_registry() as registry:
        task, task_id = await registry.register(echo(1), "feed")
        await task
        await settle()
        assert not await registry.heartbeat(task_id)
        assert not await registry.cancel(task_id)
        first = registry[task_id]
        await registry.register(forever(), task_id)
        assert await registry.heartbeat(task_id)
        assert (0, 1) == (first.heartbeats, registry[task_id].heartbeats)


async def test_an_override_in_a_subclass_is_heard() -> None:
    class Counting(TaskRegistry):
        beaten = 0

        def heartbeat(self, task_id: str | None = None) -> Any:
            self.beaten += 1
            return super().heartbeat(task_id)

    registry = Counting()
    task, task_id = await registry.register(forever())
    assert await registry.heartbeat(task_id)
    assert 1 == registry.beaten
    task.cancel()
    assert await registry.wait(5)


async def test_a_heartbeat_without_id_is_the_current_tasks() -> None:
    registry = TaskRegistry()
    tracked: list[bool] = []

    async def beat() -> None:
        asyncio.current_task().set_name("renamed")  # type: ignore[union-attr]
        tracked.append(await registry.heartbeat())
        inner = asyncio.create_task(outsider())
        await inner

    async def outsider() -> None:
        tracked.append(await registry.heartbeat())

    await registry.register(beat(), "feed")
    await registry.wait()
    assert tracked == [True, False]
    assert registry["feed"].heartbeats == 1


async def test_heartbeats_may_come_from_any_thread() -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        await settle()
        beats = [asyncio.to_thread(registry.heartbeat, "feed") for _ in range(8)]
        assert all(ready.result() for ready in await asyncio.gather(*beats))
        assert registry["feed"].heartbeats == 8


async def test_wall_clock_jumps_make_nothing_stale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        await settle()
        registry.heartbeat("feed")
        monkeypatch.setattr(time, "time", lambda: 0.0)
        assert await registry.get_stale_tasks() == []


async def test_stats_add_up() -> None:
    async with a_registry(stale_threshold=0.02) as registry:
        registry.register(echo(1))
        registry.register(forever(), "cancelled")
        registry.register(forever(), "stale")
        registry.register(forever(), "healthy")
        await settle()
        registry.cancel("cancelled")
        registry.heartbeat("stale")
        await asyncio.sleep(0.03)
        registry.register(forever(), "unknown")
        registry.heartbeat("healthy")
        await settle()
        registry.register(forever(), "pending")
        stats = registry.stats()
        assert stats.alive == 4
        assert (stats.pending, stats.healthy, stats.stale, stats.unknown) == (1,) * 4
        assert (stats.done, stats.failed, stats.cancelled) == (1, 0, 1)
        assert (stats.registered, stats.heartbeats) == (6, 2)


# --------------------------------------------------------------------- monitor


async def test_the_monitor_tells_of_a_silence_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[str] = []
    registry = TaskRegistry(
        heartbeat_interval=0.005,
        stale_threshold=0.01,
        on_stale=lambda meta: told.append(meta.task_id),
    )
    async with registry:
        registry.register(forever(), "feed")
        await asyncio.sleep(0.05)
        assert told == ["feed"]
        await registry.get_stale_tasks()
        registry.heartbeat("feed")
        await asyncio.sleep(0.05)
        assert told == ["feed", "feed"]
    assert [r.levelname for r in caplog.records] == ["WARNING", "WARNING"]


async def test_an_on_stale_that_raises_goes_to_the_loops_handler(
    loop_errors: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(meta: TaskMetadata) -> None:
        raise LookupError(meta.task_id)

    async with TaskRegistry(0.005, 0.001, on_stale=fail) as registry:
        registry.register(forever(), "a")
        registry.register(forever(), "b")
        await asyncio.sleep(0.05)
    assert [str(context["exception"]) for context in loop_errors] == ["a", "b"]


async def test_leaving_the_registry_ends_everything_and_says_who_is_stuck(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TaskRegistry(shutdown_timeout=0.02) as registry:
        registry.register(forever(), "feed")
        stuck, _ = await registry.register(swallows(times=1), "slow")
        await settle()
    assert "feed" not in registry
    assert not caplog.records
    async with TaskRegistry(shutdown_timeout=0.02) as registry:
        stuck, _ = await registry.register(swallows(times=2), "stuck")
        await settle()
    assert "stuck: stuck" in caplog.text
    assert "in swallows" in caplog.text
    stuck.cancel()
    await stuck


# -------------------------------------------------------------------- complete


async def test_complete_fixes_the_outcome_and_the_task_lives_on() -> None:
    registry = TaskRegistry()
    registry.register(swallows(times=1), "feed")
    await settle()
    await registry.complete("feed", result="first")
    await registry.complete("feed", error=ValueError("second"))
    assert registry["feed"].state is TaskState.RUNNING
    assert registry["feed"].result is None
    assert len(registry) == 1
    assert await registry.cancel("feed")
    await registry.wait()
    assert registry["feed"].state is TaskState.DONE
    assert registry["feed"].result == "first"
    await registry.complete("feed", result="third")
    assert registry["feed"].result == "first"


async def test_complete_with_an_error_or_a_cancellation() -> None:
    registry = TaskRegistry()
    registry.register(echo(1), "failed")
    registry.register(echo(1), "cancelled")
    await registry.complete("failed", error=ValueError("no price"))
    await registry.complete("cancelled", error=asyncio.CancelledError("told"))
    await registry.wait()
    assert registry["failed"].state is TaskState.FAILED
    assert registry["failed"].error_text == "ValueError: no price"
    assert registry["cancelled"].state is TaskState.CANCELLED


async def test_another_error_after_complete_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry()
    registry.register(raises(ValueError("later")), "feed")
    await registry.complete("feed", result=1)
    await registry.wait()
    assert registry["feed"].result == 1
    assert "after it was completed" in caplog.text


async def test_complete_of_nobody_names_the_id() -> None:
    with pytest.raises(UnknownTaskError) as caught:
        TaskRegistry().complete("nobody")
    assert "'nobody'" in str(caught.value)
    assert not str(caught.value).startswith('"')
    assert isinstance(caught.value, KeyError)


# --------------------------------------------------------------------- history


async def test_the_history_keeps_its_limits_and_the_newest_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=5, keep_errors=2, keep_results=False)
    for number in range(8):
        registry.register(raises(ValueError(number)), str(number))
        await registry.wait()
    registry.register(echo(1), "value")
    await registry.wait()
    status = await registry.get_status()
    assert list(status) == ["4", "5", "6", "7", "value"]
    kept = [meta.task_id for meta in status.values() if meta.error is not None]
    assert kept == ["6", "7"]
    assert status["4"].error_text == "ValueError: 4"
    assert status["value"].result is None
    with pytest.raises(UnknownTaskError):
        registry["3"]


async def test_the_history_never_touches_the_exception(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(keep_errors=0)
    error = ValueError("kept by its owner")
    task, _ = await registry.register(raises(error))
    await registry.wait()
    with pytest.raises(ValueError, match="kept by"):
        await task
    assert error.__traceback__ is not None


async def test_on_finish_hears_of_every_end(caplog: pytest.LogCaptureFixture) -> None:
    ends: list[tuple[str, TaskState]] = []
    registry = TaskRegistry(
        on_finish=lambda meta: ends.append((meta.task_id, meta.state))
    )
    registry.register(echo(1), "a")
    registry.register(raises(ValueError()), "b")
    registry.register(forever(), "c")
    registry.cancel("c")
    await registry.wait()
    assert sorted(ends) == [
        ("a", TaskState.DONE),
        ("b", TaskState.FAILED),
        ("c", TaskState.CANCELLED),
    ]


async def test_an_on_finish_that_raises_goes_to_the_loops_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    def fail(meta: TaskMetadata) -> None:
        raise LookupError(meta.task_id)

    registry = TaskRegistry(on_finish=fail)
    registry.register(echo(1), "a")
    await registry.wait()
    assert [str(context["exception"]) for context in loop_errors] == ["a"]


# ---------------------------------------------------------------------- cancel


async def test_cancel_passes_the_message_and_says_if_it_was_asked() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever(), "feed")
    await settle()
    assert await registry.cancel("feed", "told to")
    assert not await registry.cancel("nobody")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("told to",)
    await registry.wait()
    assert not await registry.cancel("feed")


async def test_cancel_all_tells_how_many_were_asked() -> None:
    registry = TaskRegistry()
    for _ in range(10):
        registry.register(forever())
    assert await registry.cancel_all() == 10
    await registry.wait()
    assert await registry.cancel_all() == 0


# ----------------------------------------------------------------------- track


async def test_track_keeps_a_task_that_somebody_else_made() -> None:
    registry = TaskRegistry(stale_threshold=0.0)
    task = asyncio.create_task(forever(), name="theirs")
    assert registry.track(task) == "theirs"
    assert registry.track(task) == "theirs"
    assert registry.track(task, "theirs") == "theirs"
    with pytest.raises(DuplicateTaskError, match="theirs"):
        registry.track(task, "mine")
    await settle()
    time.sleep(0.001)
    assert registry["theirs"].stale_after == math.inf
    assert await registry.get_stale_tasks() == []
    task.cancel()
    await registry.wait()
    assert registry["theirs"].state is TaskState.CANCELLED


async def test_track_makes_an_id_where_the_name_is_taken() -> None:
    registry = TaskRegistry()
    one = asyncio.create_task(forever(), name="same")
    two = asyncio.create_task(forever(), name="same")
    assert registry.track(one) == "same"
    assert registry.track(two) == "task_0"
    registry.cancel_all()
    await registry.wait()


async def test_track_of_a_task_that_is_done_goes_to_the_history() -> None:
    registry = TaskRegistry()
    task = asyncio.create_task(echo(5))
    await task
    task_id = registry.track(task, "over")
    assert (task_id, len(registry)) == ("over", 0)
    assert registry["over"].result == 5


# ------------------------------------------------------------ wait and shutdown


async def test_wait_cancels_nothing_and_keeps_its_timeout() -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        assert not await registry.wait(0.01)
        assert "feed" in registry
    assert await registry.wait(0)


async def test_wait_from_inside_does_not_wait_for_itself() -> None:
    registry = TaskRegistry()

    async def inside() -> bool:
        return await registry.wait(5)

    task, _ = await registry.register(inside())
    registry.register(asyncio.sleep(0.01))
    assert await task
    await registry.wait()


async def test_shutdown_says_what_became_of_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails_when_told() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("in cleanup") from None

    async def goes_on() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        return "meant to"

    registry = TaskRegistry()
    registry.register(forever(), "cancelled")
    registry.register(fails_when_told(), "failed")
    registry.register(swallows(times=1), "swallowed")
    registry.register(goes_on(), "finished")
    stuck, _ = await registry.register(swallows(times=2), "stuck")
    await settle()
    began = time.monotonic()
    report = await registry.shutdown(0.05)
    assert 0.04 < time.monotonic() - began < 1
    for how in ("finished", "cancelled", "failed", "swallowed", "stuck"):
        assert [one.task_id for one in getattr(report, how)] == [how], how
    assert not report.ok
    assert not report.deadline_met
    assert 0.04 < report.duration < 1
    (one,) = report.stuck
    assert one.age is not None
    assert one.age >= 0.04
    assert "in swallows" in one.where[0]
    assert "sleep" in one.where[-1]
    assert "stuck: stuck" in str(report)
    again = await registry.shutdown()
    assert [one.task_id for one in again.swallowed] == ["stuck"]
    assert again.ok
    assert await stuck == "swallowed"


async def test_shutdown_cancels_what_is_registered_meanwhile() -> None:
    registry = TaskRegistry()

    async def spawns() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await registry.register(forever(), "late")

    registry.register(spawns(), "spawner")
    await settle()
    report = await registry.shutdown(5)
    assert sorted(str(one.task_id) for one in report.cancelled) == ["late", "spawner"]
    assert report.ok


async def test_shutdown_from_inside_spares_the_caller() -> None:
    registry = TaskRegistry()

    async def inside() -> int:
        return len((await registry.shutdown(5)).cancelled)

    registry.register(forever())
    task, _ = await registry.register(inside())
    assert await task == 1
    await registry.wait()


async def test_two_shutdowns_at_once_cancel_each_task_once() -> None:
    registry = TaskRegistry()
    cancelled = []

    async def counts() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(0.02 if cancelled else 3600)
            except asyncio.CancelledError as error:
                cancelled.append(error)

    registry.register(counts(), "feed")
    await settle()
    one, two = await asyncio.gather(registry.shutdown(5), registry.shutdown(5))
    assert len(cancelled) == 1
    assert len(one.swallowed) == len(two.swallowed) == 1


async def test_a_cancelled_shutdown_lets_its_caller_go_at_once() -> None:
    registry = TaskRegistry()
    registry.register(swallows(times=2), "stuck")
    await settle()
    closing = asyncio.create_task(registry.shutdown(60))
    await settle()
    closing.cancel("enough")
    with pytest.raises(asyncio.CancelledError) as caught:
        await closing
    assert caught.value.args == ("enough",)
    registry.cancel("stuck")
    assert await registry.wait(5)


async def test_a_shutdown_of_nothing_is_over_at_once() -> None:
    report = await TaskRegistry().shutdown()
    assert report.ok
    assert report.deadline_met


# --------------------------------------------------------------- where and dump


async def test_where_follows_through_generators_to_the_last_await() -> None:
    async def forever() -> None:
        await asyncio.sleep(3600)

    async def ticks() -> AsyncIterator[int]:
        await forever()
        yield 1

    async def consume() -> None:
        async for _ in ticks():
            pass

    async with a_registry() as registry:
        registry.register(consume(), "feed")
        (pending,) = registry.where("feed")
        assert "consume" in pending
        await settle()
        names = [line.rpartition(" in ")[2] for line in registry.where("feed")]
        assert [name.rpartition(".")[2] for name in names] == [
            "consume",
            "ticks",
            "forever",
            "sleep",
        ]
        file, line = registry.where("feed")[0].split(" in ")[0].rsplit(":", 1)
        assert file == __file__
        assert int(line) > 0
    assert registry.where("feed") == []


async def test_where_of_the_current_task_is_its_live_stack() -> None:
    registry = TaskRegistry()

    async def outer() -> list[str]:
        return inner()

    def inner() -> list[str]:
        return registry.where("feed")

    task, _ = await registry.register(outer(), "feed")
    names = [line.rpartition(".")[2] for line in await task]
    assert names[:2] == ["outer", "inner"]
    await registry.wait()


async def test_dump_groups_equal_chains() -> None:
    async with a_registry() as registry:
        for _ in range(100):
            registry.register(forever())
        registry.register(swallows(times=1), "odd")
        await settle()
        text = registry.dump()
        assert "101 tasks, 2 places" in text
        assert "100 x task_0" in text
        assert "1 x odd" in text
