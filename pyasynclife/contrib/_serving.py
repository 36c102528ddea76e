"""What the adapters for web servers share: the block and the probes."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from pyasynclife._arguments import check_optional_type, short
from pyasynclife._log import logger
from pyasynclife._monitor.answers import alive_first, stats_as_json
from pyasynclife._registry import TaskRegistry
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife._waiting import absorbing_after

PROBES = ("/livez", "/readyz", "/tasks")
METHODS = ("GET", "HEAD")


class Answer(NamedTuple):
    """The answer to a request, for any server."""

    status: int
    content_type: str
    body: bytes

    def headers(self) -> dict[str, str]:
        """Return the headers; no proxy may store the answer."""
        headers = {
            "content-type": self.content_type,
            "content-length": str(len(self.body)),
            "cache-control": "no-store",
        }
        if self.status == 405:
            headers["allow"] = ", ".join(METHODS)
        return headers


def check_arguments(coordinator: Any, registry: Any) -> None:
    """Refuse anything but a coordinator, and a registry or None, with TypeError."""
    if not isinstance(coordinator, SignalCoordinator):
        raise TypeError(
            f"coordinator must be a SignalCoordinator, got {short(coordinator)}"
        )
    check_optional_type("registry", registry, TaskRegistry)


def answer(
    coordinator: SignalCoordinator,
    registry: TaskRegistry | None,
    method: str,
    path: str,
) -> Answer:
    """Answer a request for a probe."""
    if path not in PROBES or (path == "/tasks" and registry is None):
        return _text(404, "not found")
    if method not in METHODS:
        return METHOD_NOT_ALLOWED
    if path == "/livez":
        return _text(200, "alive")
    if path == "/readyz":
        return _text(200 if coordinator.ready else 503, coordinator.phase)
    assert registry is not None
    body = json.dumps(tasks_as_json(registry), separators=(",", ":"))
    return Answer(200, "application/json", body.encode())


def _text(status: int, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


METHOD_NOT_ALLOWED = _text(405, "use GET")


def tasks_as_json(registry: TaskRegistry) -> dict[str, Any]:
    """Return the counts and the tasks of a registry, for ``json.dumps``.

    The tasks that are alive come first, then the history.
    """
    return {
        "stats": stats_as_json(registry.stats()),
        "tasks": [meta.as_dict(json=True) for meta in alive_first([registry])],
    }


@asynccontextmanager
async def running(
    coordinator: SignalCoordinator, registry: TaskRegistry | None
) -> AsyncIterator[None]:
    """Enter the coordinator and the registry; at the end, shut down and log the report.

    The coordinator's block ends first, so that its ``drain`` holds for the registry.
    """

    async def shut_down(*exc: object) -> None:
        with absorbing_after(*exc):
            if coordinator._attached:
                report = await coordinator.graceful_shutdown()
                level = logging.INFO if report.ok else logging.ERROR
                logger.log(level, "%s", report)

    if registry is not None and registry not in coordinator._attached.registries():
        coordinator.attach(registry)
    async with AsyncExitStack() as stack:
        if registry is not None:
            await stack.enter_async_context(registry)
        await stack.enter_async_context(coordinator)
        stack.push_async_exit(shut_down)
        yield
