"""contrib.prometheus: scrapes over HTTP, read by Prometheus's parsers."""

import asyncio
import gc
import itertools
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

import pyasynclife
from pyasynclife import TaskRegistry, bounded_gather
from support.children import run_child
from support.coroutines import echo, forever
from support.loops import until
from support.scrape import (
    TASKS,
    Watch,
    a_busy_registry,
    a_running_batch,
    an_ended_batch,
    while_blocked,
)

pytest.importorskip("prometheus_client", reason="the extra prometheus has it")

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from pyasynclife.contrib.prometheus import Collector

Values = dict[tuple[str, ...], float]
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class Server:
    """Prometheus's application on loopback, and what a scrape finds there."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        app = make_wsgi_app(self.registry)
        self.http = make_server("127.0.0.1", 0, app, handler_class=Quiet)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.query = ""

    def text(self, accept: str = "text/plain") -> str:
        """What is sent to a client that accepts so."""
        url = f"http://127.0.0.1:{self.http.server_port}/metrics{self.query}"
        request = urllib.request.Request(url, headers={"accept": accept})
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())

    def scrape(self) -> dict[str, Any]:
        """The families by name, from the text format; of OpenMetrics they are equal."""
        families = {family.name: family for family in parse_text(self.text())}
        strict = {one.name: one for one in parse_openmetrics(self.text(OPENMETRICS))}
        assert families.keys() == strict.keys()
        for name, family in families.items():
            assert family.type == strict[name].type
        return families


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()
    server.thread.join()


def values(family: Any, *labels: str, name: str = "default") -> Values:
    """The values of the samples with a name, by their other labels."""
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for sample in family.samples
        if sample.labels["name"] == name
    }


async def test_a_scrape_shows_the_counts_of_a_registry(server: Server) -> None:
    async with a_busy_registry() as registry:
        server.registry.register(Collector(registry=registry))
        got = while_blocked(server.scrape)
    counters = {name: family for name, family in got.items() if "total" in name}
    assert counters == {}  # the parsers take _total off, once
    assert {name: family.type for name, family in got.items()} == {
        "pyasynclife_tasks": "gauge",
        "pyasynclife_registered": "counter",
        "pyasynclife_finished": "counter",
        "pyasynclife_heartbeats": "counter",
        "pyasynclife_unknown_heartbeats": "counter",
        "pyasynclife_restarts": "counter",
        "pyasynclife_task_duration_seconds": "histogram",
    }
    assert values(got["pyasynclife_tasks"], "state", "health") == TASKS
    assert values(got["pyasynclife_finished"], "state") == {
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
        [sample] = got[f"pyasynclife_{name}"].samples
        assert sample.name == f"pyasynclife_{name}_total"
        assert sample.value == expected
    assert all(family.documentation for family in got.values())


async def test_the_durations_are_a_histogram_with_cumulative_buckets(
    server: Server,
) -> None:
    async with a_busy_registry() as registry:
        server.registry.register(Collector(registry=registry))
        got = while_blocked(server.scrape)
        durations = registry.stats().durations
    samples = got["pyasynclife_task_duration_seconds"].samples
    buckets = {
        sample.labels["le"]: sample.value
        for sample in samples
        if sample.name.endswith("_bucket")
    }
    assert len(buckets) == 27
    assert list(buckets)[-1] == "+Inf"
    assert [float(bound) for bound in buckets][:-1] == list(durations.bounds)
    assert list(buckets.values()) == list(itertools.accumulate(durations.counts))
    rest = {sample.name.rpartition("_")[2]: sample.value for sample in samples[27:]}
    assert rest == {"count": 2, "sum": pytest.approx(durations.sum)}


async def test_the_items_of_a_batch_are_counted_by_states_that_do_not_overlap(
    server: Server,
) -> None:
    ended = await an_ended_batch()
    async with a_running_batch(range(5)) as running:
        server.registry.register(Collector(batch=ended, pool=running))
        got = while_blocked(server.scrape)
    assert list(got) == ["pyasynclife_items"]
    items = values(got["pyasynclife_items"], "source", "state")
    assert items == {
        ("batch", "pending"): 0,
        ("batch", "running"): 0,
        ("batch", "done"): 1,
        ("batch", "failed"): 1,
        ("batch", "timed_out"): 1,
        ("batch", "cancelled"): 0,
        ("pool", "pending"): 3,
        ("pool", "running"): 2,
        ("pool", "done"): 0,
        ("pool", "failed"): 0,
        ("pool", "timed_out"): 0,
        ("pool", "cancelled"): 0,
    }


async def test_pending_items_of_a_source_of_unknown_length_are_not_shown(
    server: Server,
) -> None:
    async with a_running_batch(itertools.count()) as batch:
        server.registry.register(Collector(batch=batch))
        got = while_blocked(server.scrape)
    items = values(got["pyasynclife_items"], "state")
    assert ("pending",) not in items
    assert items["running",] == 2


async def test_a_watch_gives_the_lag_and_how_often_the_loop_was_blocked(
    server: Server,
) -> None:
    async with a_busy_registry() as registry:
        lag = registry.stats().durations
    watch = Watch(lag, 3)
    server.registry.register(Collector(watch=watch))
    got = while_blocked(server.scrape)
    assert list(got) == ["pyasynclife_loop_lag_seconds", "pyasynclife_loop_blocked"]
    [blocked] = got["pyasynclife_loop_blocked"].samples
    assert (blocked.name, blocked.value) == ("pyasynclife_loop_blocked_total", 3)
    lags = got["pyasynclife_loop_lag_seconds"].samples
    assert lags[-2].value == lag.count or lags[-1].value == lag.count


@pytest.mark.skipif(
    not hasattr(pyasynclife, "LoopWatch"), reason="there is no LoopWatch yet"
)
async def test_a_loopwatch_is_shown(server: Server) -> None:
    async with pyasynclife.LoopWatch(60.0, interval=0.001) as watch:  # type: ignore[attr-defined, unused-ignore]
        server.registry.register(Collector(watch=watch))
        await until(lambda: watch.lag.count)
        count = watch.lag.count
        got = while_blocked(server.scrape)
    family = got["pyasynclife_loop_lag_seconds"]
    found = {sample.name: sample.value for sample in family.samples}
    assert found["pyasynclife_loop_lag_seconds_count"] == count
    assert got["pyasynclife_loop_blocked"].samples[0].value == 0


async def test_a_scrape_is_answered_while_the_loop_is_blocked(server: Server) -> None:
    async with a_running_batch([1, 2]) as batch, a_busy_registry() as registry:
        server.registry.register(Collector(registry=registry, batch=batch))
        got = while_blocked(server.scrape)
    assert values(got["pyasynclife_tasks"], "state", "health") == TASKS
    assert values(got["pyasynclife_items"], "state")["running",] == 2


def test_a_scrape_is_answered_when_the_loop_is_closed(server: Server) -> None:
    registry = TaskRegistry()

    async def main() -> None:
        await registry.register(echo())
        await registry.wait()

    asyncio.run(main())
    server.registry.register(Collector(registry=registry))
    got = server.scrape()
    assert values(got["pyasynclife_finished"], "state")["done",] == 1


@pytest.mark.parametrize("module", ["asyncio", "uvloop"])
def test_a_task_that_its_loop_left_behind_is_shown(server: Server, module: str) -> None:
    registry = TaskRegistry()
    loop = pytest.importorskip(module).new_event_loop()

    async def main() -> asyncio.Task[None]:
        task, _ = await registry.register(forever(), "feed")
        await asyncio.sleep(0)
        return task

    task = loop.run_until_complete(main())
    loop.close()
    server.registry.register(Collector(registry=registry))
    got = server.scrape()
    assert sum(values(got["pyasynclife_tasks"], "state", "health").values()) == 1
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    task.get_coro().close()  # type: ignore[union-attr]


def test_a_registry_that_was_never_used_has_zeros(server: Server) -> None:
    registry = TaskRegistry()
    server.registry.register(Collector(registry=registry))
    got = server.scrape()
    assert set(values(got["pyasynclife_tasks"], "state", "health").values()) == {0}


async def test_collectors_with_different_names_are_registered_together(
    server: Server,
) -> None:
    prices, orders = TaskRegistry(), TaskRegistry()
    prices.register(echo())
    await prices.wait()
    server.registry.register(Collector(registry=prices, name="prices"))
    server.registry.register(Collector(registry=orders, name="orders"))
    server.registry.register(Collector(registry=orders))
    samples = [
        (sample.labels["name"], sample.value)
        for family in parse_text(while_blocked(server.text))
        for sample in family.samples
        if sample.name == "pyasynclife_registered_total"
    ]
    assert samples == [("prices", 1), ("orders", 0), ("default", 0)]


async def test_added_objects_share_the_header_of_each_metric(server: Server) -> None:
    prices, orders = TaskRegistry(), TaskRegistry()
    prices.register(echo())
    await prices.wait()
    collector = Collector(registry=prices, name="prices")
    server.registry.register(collector)
    collector.add(registry=orders, name="orders")
    got = while_blocked(server.scrape)  # the parser of OpenMetrics is strict
    for name, expected in (("prices", 1), ("orders", 0)):
        assert values(got["pyasynclife_registered"], name=name) == {(): expected}


@pytest.mark.parametrize("name", ["default", "prices", 'a "b"\n{}'])
def test_a_name_that_is_taken_is_refused(server: Server, name: str) -> None:
    registry, other = TaskRegistry(), TaskRegistry()
    collector = Collector(registry=registry, name=name)
    server.registry.register(collector)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        server.registry.register(Collector(registry=other, name=name))
    with pytest.raises(ValueError, match=r"there is a registry with the name .* pass"):
        collector.add(registry=other, name=name)
    collector.add(batch=(batch := bounded_gather(echo, [1])), name=name)
    got = server.scrape()
    assert values(got["pyasynclife_registered"], name=name) == {(): 0}
    assert values(got["pyasynclife_items"], "state", name=name)["pending",] == 1
    assert repr(name) in repr(collector)
    server.registry.unregister(collector)
    server.registry.register(Collector(registry=other, name=name))
    del batch


def test_the_objects_are_held_weakly_and_a_name_is_free_again(server: Server) -> None:
    registry = TaskRegistry()
    batch = bounded_gather(echo, [1])
    collector = Collector(registry=registry, batch=batch)
    server.registry.register(collector)
    assert "pyasynclife_items" in server.scrape()
    del batch
    gc.collect()
    assert "pyasynclife_items" not in server.scrape()
    del registry
    gc.collect()
    assert server.scrape() == {}
    registry = TaskRegistry()
    collector.add(registry=registry, name="default")
    assert "pyasynclife_tasks" in server.scrape()


def test_one_metric_can_be_asked_for_by_name(server: Server) -> None:
    registry = TaskRegistry()
    server.registry.register(Collector(registry=registry))
    server.query = "?name[]=pyasynclife_heartbeats_total"
    assert list(server.scrape()) == ["pyasynclife_heartbeats"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({}, r"Collector\(\) has nothing to observe: pass registry="),
    ({"registry": 1}, "registry must be a TaskRegistry or None, got int 1"),
    ({"batch": TaskRegistry()}, "batch must be a Batch or None, got TaskRegistry"),
    ({"pool": "x"}, "pool must be a TaskPool or None, got str 'x'"),
    ({"watch": 0.1}, "watch must be a LoopWatch or None, got float 0.1"),
    ({"name": 1}, "name must be a non-empty str, got int 1"),
    ({"name": ""}, "name must be a non-empty str, got str ''"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_wrong_arguments_are_refused_with_the_value(
    options: dict[str, Any], message: str
) -> None:
    if "name" in options:
        options = {**options, "registry": TaskRegistry()}
    with pytest.raises(TypeError, match=message):
        Collector(**options)


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("prometheus", "prometheus_client", "prometheus"),
        ("opentelemetry", "opentelemetry", "opentelemetry"),
    ],
)
def test_a_missing_package_is_an_importerror_that_names_the_extra(
    module: str, package: str, extra: str
) -> None:
    child = run_child(
        f"""
        import sys
        sys.modules["{package}"] = None
        try:
            import pyasynclife.contrib.{module}
        except ImportError as error:
            print(error)
        """
    )
    assert child.stderr == ""
    assert f"pip install 'pyasynclife[{extra}]'" in child.stdout


def test_the_core_imports_neither() -> None:
    child = run_child(
        """
        import sys, pyasynclife, pyasynclife.contrib, pyasynclife.contrib.logging
        print({"prometheus_client", "opentelemetry"} & set(sys.modules))
        """
    )
    assert child.stdout == "set()\n", (child.stderr, sys.version)
