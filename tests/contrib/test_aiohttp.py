"""contrib.aiohttp: a coordinator, a registry and probes for aiohttp.web."""

import asyncio
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry

web = pytest.importorskip("aiohttp.web")
test_utils = pytest.importorskip("aiohttp.test_utils")
contrib = pytest.importorskip("pyasynclife.contrib.aiohttp")


async def sleep_for_ever() -> None:
    await asyncio.sleep(3600)


async def test_the_probes_are_routes_and_the_cleanup_ends_the_tasks() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(5.0)
    app = web.Application()
    contrib.setup(app, coordinator, registry)
    async with test_utils.TestClient(test_utils.TestServer(app)) as client:
        task, _ = await registry.register(sleep_for_ever(), "feed")
        got: list[Any] = [(await client.get("/livez")).status]
        got.append((await client.get("/readyz")).status)
        tasks = await (await client.get("/tasks")).json()
        got.append([one["task_id"] for one in tasks["tasks"]])
        head = await client.head("/tasks")
        got += [head.status, await head.text()]
        got.append((await client.post("/readyz")).status)
        coordinator.request_shutdown()
        refused = await client.get("/readyz")
        got += [refused.status, await refused.text(), refused.headers["cache-control"]]
    assert got == [200, 200, ["feed"], 200, "", 405, 503, "draining\n", "no-store"]
    assert task.cancelled()
    assert coordinator.phase == "stopped"


async def test_an_application_below_another_has_its_probes_there() -> None:
    coordinator = SignalCoordinator(5.0)
    inner = web.Application()
    contrib.setup(inner, coordinator)
    app = web.Application()
    app.add_subapp("/inner", inner)
    async with test_utils.TestClient(test_utils.TestServer(app)) as client:
        assert (await client.get("/inner/readyz")).status == 200
        assert (await client.get("/inner/tasks")).status == 404


async def test_wrong_arguments_are_named_and_change_nothing() -> None:
    app = web.Application()
    with pytest.raises(TypeError, match=r"app must be an aiohttp\.web\.Application"):
        contrib.setup(None, SignalCoordinator())
    with pytest.raises(TypeError, match="coordinator must be a SignalCoordinator, got"):
        contrib.setup(app, app)
    with pytest.raises(TypeError, match="registry must be a TaskRegistry or None"):
        contrib.setup(app, SignalCoordinator(), 3)
    assert len(app.cleanup_ctx) == 0
    assert len(app.router.routes()) == 0


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/tasks"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "*"])
async def test_a_probe_that_would_never_be_reached_is_refused(
    path: str, method: str
) -> None:
    async def own(request: Any) -> Any:
        return web.Response()

    app = web.Application()
    app.router.add_route(method, path, own)
    app.router.add_get("/other", own)
    before = len(app.router.routes())
    with pytest.raises(RuntimeError, match=f"route .* {path} already.*: rename it"):
        contrib.setup(app, SignalCoordinator(), TaskRegistry())
    assert len(app.router.routes()) == before
    assert len(app.cleanup_ctx) == 0


async def test_setup_is_called_once_and_before_the_start() -> None:
    app = web.Application()
    contrib.setup(app, SignalCoordinator())
    with pytest.raises(RuntimeError, match="call setup\\(\\) once"):
        contrib.setup(app, SignalCoordinator())
    assert len(app.cleanup_ctx) == 1
    app = web.Application()
    app.freeze()
    with pytest.raises(RuntimeError, match="has been started"):
        contrib.setup(app, SignalCoordinator())


async def test_another_method_of_a_probes_path_stays_the_applications() -> None:
    async def own(request: Any) -> Any:
        return web.Response(text="own")

    app = web.Application()
    app.router.add_post("/tasks", own)
    contrib.setup(app, SignalCoordinator(5.0), TaskRegistry())
    async with test_utils.TestClient(test_utils.TestServer(app)) as client:
        assert await (await client.post("/tasks")).text() == "own"
        assert (await client.get("/tasks")).status == 200
