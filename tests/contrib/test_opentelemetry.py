"""contrib.opentelemetry: what the SDK's in-memory reader gets."""

import asyncio
import gc
import itertools
import logging
from typing import Any

import pytest

from pyasynclife import TaskRegistry, bounded_gather
from support.coroutines import echo
from support.scrape import (
    TASKS,
    Watch,
    a_busy_registry,
    a_running_batch,
    an_ended_batch,
    while_blocked,
)

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")

from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from pyasynclife.contrib.opentelemetry import instrument

Values = dict[tuple[Any, ...], float]


class Telemetry:
    """A provider with a meter, and what its reader has."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], shutdown_on_exit=False)
        self.meter = self.provider.get_meter("tests")

    def read(self) -> dict[str, Any]:
        """The metrics by name."""
        data = self.reader.get_metrics_data()
        found = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        assert len({metric.name for metric in found}) == len(found)
        return {metric.name: metric for metric in found}


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def values(metric: Any, *keys: str, name: str = "default") -> Values:
    """The values that have a name, by their other attributes."""
    return {
        tuple(point.attributes[key] for key in keys): point.value
        for point in metric.data.data_points
        if point.attributes["name"] == name
    }


async def test_the_reader_gets_the_counts_of_a_registry(telemetry: Telemetry) -> None:
    async with a_busy_registry() as registry:
        instrument(telemetry.meter, registry=registry)
        got = while_blocked(telemetry.read)  # the loop has no part in it
    assert values(got["pyasynclife.tasks"], "state", "health") == TASKS
    assert values(got["pyasynclife.finished"], "state") == {
        ("done",): 1,
        ("failed",): 1,
        ("cancelled",): 0,
    }
    for name, expected in (
        ("registered", 6),
        ("heartbeats", 1),
        ("unknown_heartbeats", 1),
        ("restarts", 0),
    ):
        assert values(got[f"pyasynclife.{name}"]) == {(): expected}
    for name, metric in got.items():
        assert isinstance(metric.data, Sum)
        assert metric.data.is_monotonic == (name != "pyasynclife.tasks")
        assert metric.description


async def test_the_durations_are_three_counters(telemetry: Telemetry) -> None:
    async with a_busy_registry() as registry:
        instrument(telemetry.meter, registry=registry)
        got = while_blocked(telemetry.read)
        durations = registry.stats().durations
    assert values(got["pyasynclife.task_duration.count"]) == {(): 2}
    total = got["pyasynclife.task_duration.sum"]
    assert (values(total), total.unit) == ({(): pytest.approx(durations.sum)}, "s")
    buckets = values(got["pyasynclife.task_duration.bucket"], "le")
    assert list(buckets.values()) == list(itertools.accumulate(durations.counts))
    bounds = [float(bound) for (bound,) in buckets]
    assert bounds == [*durations.bounds, float("inf")]


async def test_the_reader_gets_items_and_lag(telemetry: Telemetry) -> None:
    ended = await an_ended_batch()
    async with a_busy_registry() as registry:
        lag = registry.stats().durations
    watch = Watch(lag, 3)
    async with a_running_batch(range(5)) as running:
        instrument(telemetry.meter, batch=ended, pool=running, watch=watch)
        got = while_blocked(telemetry.read)
    items = values(got["pyasynclife.items"], "source", "state")
    assert {key: value for key, value in items.items() if value} == {
        ("batch", "done"): 1,
        ("batch", "failed"): 1,
        ("batch", "timed_out"): 1,
        ("pool", "pending"): 3,
        ("pool", "running"): 2,
    }
    assert values(got["pyasynclife.loop_blocked"]) == {(): 3}
    assert values(got["pyasynclife.loop_lag.count"]) == {(): lag.count}
    assert "pyasynclife.tasks" not in got


def test_the_reader_gets_the_counts_when_the_loop_is_closed(
    telemetry: Telemetry,
) -> None:
    registry = TaskRegistry()

    async def main() -> None:
        await registry.register(echo())
        await registry.wait()

    asyncio.run(main())
    instrument(telemetry.meter, registry=registry)
    assert values(telemetry.read()["pyasynclife.finished"], "state")["done",] == 1


def test_a_meter_observes_several_names_and_each_can_be_stopped(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    prices, orders = TaskRegistry(), TaskRegistry()
    stop = instrument(telemetry.meter, registry=prices, name="prices")
    again = telemetry.provider.get_meter("tests")
    instrument(again, registry=orders, name="orders")
    registered = telemetry.read()["pyasynclife.registered"]
    assert len(registered.data.data_points) == 2
    stop()
    stop()
    registered = telemetry.read()["pyasynclife.registered"]
    assert values(registered, name="orders") == {(): 0}
    assert len(registered.data.data_points) == 1
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_a_name_that_is_taken_is_refused_until_it_is_stopped(
    telemetry: Telemetry,
) -> None:
    registry, other = TaskRegistry(), TaskRegistry()
    stop = instrument(telemetry.meter, registry=registry)
    with pytest.raises(ValueError, match=r"a registry with the name .*: pass another"):
        instrument(telemetry.meter, registry=other)
    batch = bounded_gather(echo, [1])
    instrument(telemetry.meter, batch=batch)
    stop()
    instrument(telemetry.meter, registry=other)
    assert {"pyasynclife.tasks", "pyasynclife.items"} <= set(telemetry.read())
    instrument(Telemetry().meter, registry=other)  # another meter


def test_the_objects_are_held_weakly(telemetry: Telemetry) -> None:
    registry = TaskRegistry()
    instrument(telemetry.meter, registry=registry)
    assert telemetry.read()
    del registry
    gc.collect()
    assert telemetry.read() == {}
    registry = TaskRegistry()
    instrument(telemetry.meter, registry=registry)
    assert telemetry.read()


def test_a_meter_that_observes_nothing_is_fine() -> None:
    registry = TaskRegistry()
    instrument(NoOpMeter("none"), registry=registry)()


def test_wrong_arguments_are_refused_with_the_value(telemetry: Telemetry) -> None:
    with pytest.raises(TypeError, match=r"meter must be an .* Meter, got Telemetry"):
        instrument(telemetry, registry=TaskRegistry())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"instrument\(\) has nothing to observe"):
        instrument(telemetry.meter)
    with pytest.raises(TypeError, match="registry must be a TaskRegistry or None"):
        instrument(telemetry.meter, registry=1)  # type: ignore[arg-type]
    assert telemetry.read() == {}
