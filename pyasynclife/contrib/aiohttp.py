"""A coordinator, a registry and probes for an application of aiohttp.web."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiohttp import hdrs, web

from pyasynclife._arguments import short
from pyasynclife._registry import TaskRegistry
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife.contrib._serving import (
    METHODS,
    PROBES,
    answer,
    check_arguments,
    running,
)

__all__ = ["setup"]


def setup(
    app: web.Application,
    coordinator: SignalCoordinator,
    registry: TaskRegistry | None = None,
) -> None:
    """Run an application inside a coordinator, and add the probes as routes.

    Args:
        app: The application, not started yet. Its ``cleanup_ctx`` enters the
            coordinator at startup. At cleanup, when the server has answered the last
            request, `SignalCoordinator.graceful_shutdown` ends what it looks after, and
            the report is logged: at INFO, or at ERROR if a task failed or is stuck.
        coordinator: Its state is shown by ``/readyz``: 200, and 503 from the first
            signal on.
        registry: It is entered too, so that its monitor runs, and ``/tasks`` shows its
            tasks; None: there is no ``/tasks``.

    Raises:
        TypeError: An argument is of another type. Nothing has changed.
        RuntimeError: The application has been started, or has one of the routes
            ``/livez``, ``/readyz`` and ``/tasks``. Nothing has changed.

    The handlers of ``run_app`` keep working. See `pyasynclife.contrib.asgi.probes` for
    the answers.
    """
    if not isinstance(app, web.Application):
        raise TypeError(f"app must be an aiohttp.web.Application, got {short(app)}")
    check_arguments(coordinator, registry)

    paths = [path for path in PROBES if path != "/tasks" or registry is not None]
    _check_routes(app, paths)

    async def probe(request: web.Request) -> web.Response:
        path = f"/{request.path.rpartition('/')[2]}"  # below that of a sub-application
        reply = answer(coordinator, registry, request.method, path)
        return web.Response(
            status=reply.status, headers=reply.headers(), body=reply.body
        )

    async def run(app: web.Application) -> AsyncIterator[Any]:
        async with running(coordinator, registry):
            yield

    for path in paths:
        app.router.add_get(path, probe)
    app.cleanup_ctx.append(run)


def _check_routes(app: web.Application, paths: list[str]) -> None:
    """Raise RuntimeError if the probes cannot be added, or would never be reached."""
    if app.frozen:
        raise RuntimeError(f"{app!r} has been started: call setup() before that")
    for route in app.router.routes():
        path = None if route.resource is None else route.resource.canonical
        if path in paths and route.method in (*METHODS, hdrs.METH_ANY):
            raise RuntimeError(
                f"{app!r} has a route {route.method} {path} already, in front of the "
                "probe: rename it, and call setup() once"
            )
