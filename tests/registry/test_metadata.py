"""TaskMetadata and RegistryStats: states, health, times and numbers."""

import asyncio
import enum
import json
import math
import time
from typing import Any

import pytest

from pyasynclife import (
    BatchStatus,
    RegistryStats,
    TaskHealth,
    TaskMetadata,
    TaskRegistry,
    TaskState,
)
from support.coroutines import echo, forever, raises
from support.loops import in_virtual_time, settle
from support.registries import a_registry, adds_up


async def test_a_task_is_pending_until_its_first_step() -> None:
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


async def test_metadata_is_live_and_knows_its_times() -> None:
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
        assert meta.silence < meta.age - 0.015
        assert meta.heartbeats == 1
        assert 0.015 < meta.last_heartbeat - meta.created_at < 5
        assert meta.finished_at is None
        registry.cancel("feed")
        await registry.wait()
        age = meta.age
        await asyncio.sleep(0.01)
        assert meta.age == age
        assert meta.finished_at == pytest.approx(time.time(), abs=1)


async def test_as_dict_has_the_attributes_values() -> None:
    registry = TaskRegistry()
    await registry.register(echo(5), "feed")
    await registry.wait()
    meta = registry["feed"]
    for name, value in meta.as_dict().items():
        assert getattr(meta, name) == value
    assert len(meta.as_dict()) == 17


class Symbol(enum.StrEnum):
    AAPL = "aapl"


# A result, and what stands for it in JSON.
RESULTS: dict[str, tuple[Any, Any]] = {
    "None": (None, None),
    "bool": (True, True),
    "int": (5, 5),
    "long": (2**64, 2**64),
    "too long": (-(10**5000), None),
    "float": (1.5, 1.5),
    "inf": (math.inf, None),
    "-inf": (-math.inf, None),
    "nan": (math.nan, None),
    "str": ("done", "done"),
    "enum": (Symbol.AAPL, "aapl"),
    "surrogate": ("feed-\udcff-\xe9", "feed-\\udcff-\xe9"),
    "bytes": (b"bytes", None),
    "list": ([1], None),
    "dict": ({"a": 1}, None),
    "object": (object(), None),
}


@pytest.mark.parametrize("kind", RESULTS)
async def test_as_dict_for_json_has_only_what_json_takes(kind: str) -> None:
    result, shown = RESULTS[kind]
    registry = TaskRegistry()
    registry.register(echo(result), "feed", stale_after=math.inf)
    await registry.wait()
    meta = registry["feed"]
    row = meta.as_dict(json=True)
    assert row["result"] == shown
    assert type(row["result"]) is type(shown)
    assert row["stale_after"] is None
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert json.dumps(row, ensure_ascii=False).encode()  # as FastAPI does


async def test_as_dict_for_json_says_how_a_task_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with a_registry() as registry:
        registry.register(raises(ValueError("no price")), "failed")
        registry.register(forever(), "alive")
        await settle()
        registry.heartbeat("alive")
        row = registry["failed"].as_dict(json=True)
        assert row.keys() == registry["failed"].as_dict().keys() - {"task"}
        assert row["error"] == row["error_text"] == "ValueError: no price"
        assert row["state"] == row["health"] == "failed"
        assert type(row["state"]) is type(row["health"]) is str
        rows = [
            meta.as_dict(json=True) for meta in (await registry.get_status()).values()
        ]
        assert json.loads(json.dumps(rows, allow_nan=False)) == rows
        assert rows[1]["state"] == "running"
        assert rows[1]["finished_at"] is None


async def test_the_json_flag_of_as_dict_is_checked() -> None:
    registry = TaskRegistry()
    registry.register(echo(1), "feed")
    await registry.wait()
    meta: Any = registry["feed"]
    with pytest.raises(TypeError, match="json must be True or False, got 'yes'"):
        meta.as_dict(json="yes")
    with pytest.raises(TypeError, match="positional"):
        meta.as_dict(True)
    assert meta.as_dict(json=False) == meta.as_dict()


async def test_a_fastapi_route_may_return_a_tasks_dict() -> None:
    encoders = pytest.importorskip("fastapi.encoders")
    async with a_registry() as registry:
        registry.register(forever(), "feed", stale_after=math.inf)
        await settle()
        row = registry["feed"].as_dict(json=True)
        assert encoders.jsonable_encoder(row) == row


def test_states_are_the_text_of_their_value() -> None:
    for kind in (TaskState, TaskHealth, BatchStatus):
        for member in kind:
            assert isinstance(member, str)
            assert f"{member}" == str(member) == member.value == member.name.lower()
            assert json.loads(json.dumps(member)) == member.value
            assert kind(member.value) is member


def test_stats_add_up() -> None:
    async def main() -> None:
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
            assert (stats.pending, stats.healthy, stats.stale, stats.unknown) == (
                1,
            ) * 4
            assert (stats.done, stats.failed, stats.cancelled) == (1, 0, 1)
            assert (stats.registered, stats.heartbeats) == (6, 2)

    in_virtual_time(main())


def test_metadata_and_stats_cannot_be_constructed() -> None:
    for made in (TaskMetadata, RegistryStats):
        with pytest.raises(TypeError):
            made()


async def test_calling_metadata_by_hand_changes_nothing() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever(), "feed")
    meta: Any = registry["feed"]
    for args in ((), (None,), (task,), (task, 1)):
        with pytest.raises(TypeError, match="not for calling"):
            meta(*args) if args != (None,) else meta()
    assert "feed" in registry
    adds_up(registry)
    registry.cancel("feed")
    await registry.wait()
    meta(task)
    adds_up(registry)


async def test_info_is_the_users_and_may_be_set() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(echo(), "job", info={"shard": 3})
    meta = registry["job"]
    assert meta.info == {"shard": 3}
    meta.info = 5
    await task
    await registry.wait()
    assert registry["job"].as_dict()["info"] == 5
    assert registry["job"].as_dict(json=True)["info"] == 5
    meta.info = object()
    assert registry["job"].as_dict(json=True)["info"] is None
    with pytest.raises(AttributeError, match="set it to None"):
        del meta.info
    task, other = await registry.register(echo())
    assert registry[other].info is None
    await task


async def test_the_reason_of_a_cancellation_is_the_msg_of_the_first() -> None:
    registry = TaskRegistry()
    for name in ("a", "b", "c"):
        registry.register(forever(), name)
    await asyncio.sleep(0)
    registry.cancel("a", "too slow")
    registry.cancel("b")
    assert registry["c"].cancel_reason is None
    registry.cancel_all("the end")
    await registry.wait()
    reasons = {name: registry[name].cancel_reason for name in "abc"}
    assert reasons == {"a": "too slow", "b": None, "c": "the end"}
    assert registry["a"].as_dict(json=True)["cancel_reason"] == "too slow"


async def test_a_shutdown_is_no_reason_and_comes_first() -> None:
    async def stubborn() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            await forever()

    registry = TaskRegistry()
    await registry.register(stubborn(), "job")
    await asyncio.sleep(0)
    await registry.shutdown(0)
    registry.cancel("job", "at last")
    assert (await registry.join("job")).cancel_reason is None


async def test_a_stale_task_is_one_record_with_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TaskRegistry(0.005, 0.001) as registry:
        registry.register(forever(), "a")
        registry.register(forever(), "b")
        while len(caplog.records) < 2:
            await asyncio.sleep(0.005)
    assert [record.task_id for record in caplog.records] == ["a", "b"]  # type: ignore[attr-defined]
    assert caplog.messages[0].startswith("task a is stale: no heartbeat for ")
