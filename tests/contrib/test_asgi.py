"""contrib.asgi: a lifespan and probes for ASGI applications."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, SignalSetupError, TaskRegistry
from pyasynclife.contrib.asgi import lifespan, probes

Message = dict[str, Any]


async def request(
    app: Any, path: str, method: str = "GET", **scope: Any
) -> tuple[int, dict[str, str], str]:
    """Send one request to an application; its status, headers and body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": method, "path": path, **scope}, receive, send)
    start, body = sent
    headers = {key.decode(): value.decode() for key, value in start["headers"]}
    return start["status"], headers, body["body"].decode()


async def talk(app: Any, kind: str, *received: str) -> list[str]:
    """Send messages of a scope of another type; the types of the answers."""
    sent: list[str] = []
    messages = iter(received)

    async def receive() -> Message:
        return {"type": next(messages)}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    await app({"type": kind, "path": "/livez"}, receive, send)
    return sent


async def sleep_for_ever() -> None:
    await asyncio.sleep(3600)


# ------------------------------------------------------------------ the probes


@pytest.fixture
def coordinator() -> SignalCoordinator:
    return SignalCoordinator(5.0)


async def test_readyz_is_503_from_the_beginning_of_the_shutdown(
    coordinator: SignalCoordinator,
) -> None:
    app = probes(coordinator)
    assert (await request(app, "/readyz"))[0::2] == (200, "running\n")
    coordinator.request_shutdown()
    assert (await request(app, "/readyz"))[0::2] == (503, "draining\n")
    assert (await request(app, "/livez"))[0] == 200


async def test_tasks_lists_the_counts_the_live_tasks_and_the_history(
    coordinator: SignalCoordinator,
) -> None:
    async with TaskRegistry() as registry:
        ended, _ = await registry.register(asyncio.sleep(0), "ended")
        await ended
        await registry.register(sleep_for_ever(), "alive", stale_after=float("inf"))
        status, headers, body = await request(probes(coordinator, registry), "/tasks")
    assert (status, headers["content-type"]) == (200, "application/json")
    got = json.loads(body, parse_constant=pytest.fail)
    assert list(got) == ["stats", "tasks"]
    assert (got["stats"]["alive"], got["stats"]["done"]) == (1, 1)
    assert got["stats"]["durations"]["count"] == 1
    assert [(one["task_id"], one["state"]) for one in got["tasks"]] == [
        ("alive", "pending"),
        ("ended", "done"),
    ]


async def test_head_gives_the_headers_of_get_without_a_body(
    coordinator: SignalCoordinator,
) -> None:
    app = probes(coordinator, TaskRegistry())
    for path in ("/livez", "/readyz", "/tasks"):
        status, headers, body = await request(app, path)
        assert await request(app, path, "HEAD") == (status, headers, "")
        assert int(headers["content-length"]) == len(body)


@pytest.mark.parametrize("method", ["POST", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_with_the_allowed_ones(
    coordinator: SignalCoordinator, method: str
) -> None:
    status, headers, _ = await request(probes(coordinator), "/readyz", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/livez/", "/tasks", "/other"])
async def test_other_paths_are_404(coordinator: SignalCoordinator, path: str) -> None:
    # so is /tasks without a registry
    assert (await request(probes(coordinator), path))[0] == 404


@pytest.mark.parametrize(
    ("path", "root_path"),
    [("/probes/livez", "/probes"), ("/livez", "/api"), ("/livez", "/")],
)
async def test_a_prefix_of_the_mount_or_a_proxy_is_left_out(
    coordinator: SignalCoordinator, path: str, root_path: str
) -> None:
    status, _, _ = await request(probes(coordinator), path, root_path=root_path)
    assert status == 200


async def test_a_lifespan_is_answered_and_a_websocket_refused(
    coordinator: SignalCoordinator,
) -> None:
    app = probes(coordinator)
    assert await talk(app, "lifespan", "lifespan.startup", "lifespan.shutdown") == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert await talk(app, "websocket", "websocket.connect") == ["websocket.close"]


async def test_a_wrapped_application_gets_all_but_the_probes(
    coordinator: SignalCoordinator,
) -> None:
    got = []

    async def app(scope: Message, receive: Any, send: Any) -> None:
        got.append((scope["type"], scope["path"]))
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"mine"})

    both = probes(coordinator, app=app)
    assert (await request(both, "/other"))[2] == "mine"
    assert (await request(both, "/tasks"))[2] == "mine"
    assert (await request(both, "/readyz"))[2] == "running\n"
    await talk(both, "lifespan")
    await talk(both, "websocket")
    assert got == [
        ("http", "/other"),
        ("http", "/tasks"),
        ("lifespan", "/livez"),
        ("websocket", "/livez"),
    ]


# ---------------------------------------------------------------- the lifespan


async def test_the_end_of_the_lifespan_ends_the_tasks_and_logs_the_report(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pyasynclife")
    registry = TaskRegistry()
    coordinator = SignalCoordinator(5.0)  # without registry=
    async with lifespan(coordinator, registry)(None):
        task, _ = await registry.register(sleep_for_ever(), "feed")
        await asyncio.sleep(0)
        assert coordinator.ready
    assert task.cancelled()
    assert coordinator.phase == "stopped"
    (record,) = [r for r in caplog.records if "shutdown of" in r.getMessage()]
    assert record.levelno == logging.INFO
    assert re.match("shutdown of 1 task in .* deadline met", record.getMessage())


async def test_a_task_that_does_not_stop_is_in_one_report_at_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    let_go = asyncio.Event()

    async def stubborn() -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                pass

    registry = TaskRegistry()
    async with lifespan(SignalCoordinator(0.05, registry=registry), registry)(None):
        task, _ = await registry.register(stubborn(), "stubborn")
        await asyncio.sleep(0)
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "stuck: stubborn" in record.getMessage()
    let_go.set()
    await task


async def test_the_lifespan_waits_out_the_drain_of_the_coordinator() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(20.0, registry=registry, drain=10.0)
    finish = asyncio.Event()
    async with lifespan(coordinator, registry)(None):
        task, _ = await registry.register(finish.wait(), "job")
        coordinator.request_shutdown()
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(finish.set)
    assert task.result() is True


async def test_the_order_of_an_attached_registry_stays() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(5.0)
    coordinator.attach(registry, order=7)
    async with lifespan(coordinator, registry)(None):
        assert [one.order for one in coordinator._attached] == [7]


async def test_a_startup_that_fails_leaves_nothing_behind() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(5.0, registry=registry)
    with pytest.raises(OSError, match="no database"):
        async with lifespan(coordinator, registry)(None):
            task, _ = await registry.register(sleep_for_ever(), "feed")
            raise OSError("no database")
    assert task.cancelled()
    assert len(registry) == 0  # and the fixtures look for handlers


async def test_a_lifespan_without_anything_to_end_just_ends() -> None:
    coordinator = SignalCoordinator(5.0)
    async with lifespan(coordinator)(None):
        assert coordinator.ready


def test_wrong_arguments_are_named() -> None:
    coordinator = SignalCoordinator()
    with pytest.raises(TypeError, match="coordinator must be a SignalCoordinator, got"):
        lifespan(TaskRegistry())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="registry must be a TaskRegistry or None"):
        lifespan(coordinator, coordinator)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="coordinator must be a SignalCoordinator, got"):
        probes(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="app must be an ASGI application or None, got"):
        probes(coordinator, app=3)  # type: ignore[arg-type]


# --------------------------------------------------------- Starlette and FastAPI


@pytest.fixture(params=["starlette", "fastapi"])
def framework(request: pytest.FixtureRequest) -> Any:
    name = str(request.param)
    if name == "fastapi":
        return pytest.importorskip("fastapi").FastAPI
    return pytest.importorskip("starlette.applications").Starlette


@pytest.fixture
def client_class() -> Iterator[Any]:
    pytest.importorskip("httpx")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for httpx2
        yield pytest.importorskip("starlette.testclient").TestClient


def test_an_application_of_a_module_works_under_testclient_again_and_again(
    framework: Any, client_class: Any
) -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(5.0, registry=registry, required=False)
    app = framework(lifespan=lifespan(coordinator, registry))
    app.mount("/", probes(coordinator, registry))
    for _ in range(3):
        with client_class(app) as client:
            assert client.get("/readyz").status_code == 200
            client.portal.call(registry.register, sleep_for_ever(), "feed")
            assert client.get("/tasks").json()["stats"]["alive"] == 1
            coordinator.request_shutdown()
            assert client.get("/readyz").status_code == 503
            assert client.get("/nothing").status_code == 404
        assert registry.stats().alive == 0
        assert coordinator.phase == "stopped"


def test_probes_below_a_path_and_around_an_application(
    framework: Any, client_class: Any
) -> None:
    coordinator = SignalCoordinator(5.0, required=False)
    inner = framework(lifespan=lifespan(coordinator))
    inner.mount("/health", probes(coordinator))
    with client_class(probes(coordinator, app=inner)) as client:
        assert client.get("/health/readyz").text == "running\n"
        assert client.get("/readyz").text == "running\n"
        assert client.get("/health/other").status_code == 404


def test_a_lifespan_combines_with_another_one(
    framework: Any, client_class: Any
) -> None:
    events = []
    coordinator = SignalCoordinator(5.0, required=False)

    @asynccontextmanager
    async def pool() -> AsyncIterator[str]:
        events.append(f"open {coordinator.phase}")
        yield "pool"
        events.append(f"close {coordinator.phase}")

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        inside: AbstractAsyncContextManager[None] = lifespan(coordinator)(app)
        async with pool() as opened, inside:
            yield {"pool": opened}

    with client_class(framework(lifespan=own)):
        events.append(f"serve {coordinator.phase}")
        coordinator.request_shutdown()
    assert events[:2] == ["open running", "serve running"]
    assert events[2].startswith("close")


def test_a_required_coordinator_says_why_it_cannot_start_in_a_thread(
    framework: Any, client_class: Any
) -> None:
    app = framework(lifespan=lifespan(SignalCoordinator(5.0)))
    with pytest.raises(SignalSetupError, match="in thread"), client_class(app):
        pass
