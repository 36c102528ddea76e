"""A lifespan and probes for Starlette, FastAPI and plain ASGI applications.

Nothing but the standard library is needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
)
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any

from pyasynclife._arguments import short
from pyasynclife._registry import TaskRegistry
from pyasynclife._shutdown import SignalCoordinator
from pyasynclife.contrib import _dashboard
from pyasynclife.contrib._serving import (
    METHOD_NOT_ALLOWED,
    METHODS,
    Answer,
    answer,
    check_arguments,
    running,
)

__all__ = ["lifespan", "probes"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_PAGE = _dashboard.PAGE.encode()


def lifespan(
    coordinator: SignalCoordinator, registry: TaskRegistry | None = None
) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """Return a lifespan that runs an application inside a coordinator.

    Args:
        coordinator: It is entered at startup. At shutdown, when the server has answered
            the last request, `SignalCoordinator.graceful_shutdown` ends what it looks
            after, and the report is logged: at INFO, or at ERROR if a task failed or is
            stuck.
        registry: It is entered too, so that its monitor runs.

    Returns:
        A function for the ``lifespan=`` of Starlette or FastAPI. It takes the
        application, which it ignores, and returns an asynchronous context manager.

    Raises:
        TypeError: An argument is of another type.

    The signal handlers are set at startup, and the server's keep working. Where there
    are none (Starlette's TestClient runs the application in a thread), create the
    coordinator with ``required=False``; startup raises `SignalSetupError` otherwise.
    An application may be started again and again with the same coordinator::

        registry = TaskRegistry()
        coordinator = SignalCoordinator(10.0, registry=registry, required=False)
        app = FastAPI(lifespan=lifespan(coordinator, registry))

    Enter it in a lifespan of your own to combine the two::

        @asynccontextmanager
        async def own(app):
            async with lifespan(coordinator, registry)(app), open_pool() as pool:
                yield {"pool": pool}
    """
    check_arguments(coordinator, registry)

    def enter(app: Any = None) -> AbstractAsyncContextManager[None]:
        return running(coordinator, registry)

    return enter


def probes(
    coordinator: SignalCoordinator,
    registry: TaskRegistry | None = None,
    *,
    app: _App | None = None,
) -> _App:
    """Return an ASGI application that answers probes, with GET and HEAD.

    ``/livez`` is 200 whenever the loop answers. ``/readyz`` is 200 until the first
    signal or request for a shutdown, then 503; its text is the coordinator's `phase`.
    ``/tasks`` is a JSON object: ``"stats"``, the registry's counts, and ``"tasks"``,
    the live tasks and then the history as `TaskMetadata.as_dict` gives them. To a
    browser it is a page with a live table; ``/tasks/events`` sends that one update a
    second, until the shutdown begins. Any other path is 404, and any other method is
    405.

    Args:
        coordinator: Whose state ``/readyz`` shows.
        registry: Whose tasks ``/tasks`` shows; None: ``/tasks`` is 404.
        app: An application that gets everything else; None: mount the probes, as
            ``fastapi_app.mount("/", probes(...))`` after all other routes, or serve
            them alone, on a port of their own.

    Raises:
        TypeError: An argument is of another type.

    ``/tasks`` shows ids and the text of errors: do not let it be reached from outside.
    """
    check_arguments(coordinator, registry)
    if app is not None and not callable(app):
        raise TypeError(f"app must be an ASGI application or None, got {short(app)}")

    async def serve(scope: _Message, receive: _Receive, send: _Send) -> None:
        kind = scope["type"]
        reply = None
        if kind == "http":
            path = _path_below(scope)
            if registry is not None and path == _dashboard.EVENTS:
                if scope["method"] in METHODS:
                    await _stream(coordinator, registry, scope, receive, send)
                    return
                reply = METHOD_NOT_ALLOWED
            elif registry is not None and path == "/tasks" and _wants_html(scope):
                reply = Answer(200, "text/html; charset=utf-8", _PAGE)
            else:
                reply = answer(coordinator, registry, scope["method"], path)
        if app is not None and (reply is None or reply.status == 404):
            await app(scope, receive, send)
        elif reply is not None:
            headers = reply.headers()
            if reply.body is _PAGE:
                headers["content-security-policy"] = _dashboard.POLICY
            await send(_start(reply.status, headers))
            body = b"" if scope["method"] == "HEAD" else reply.body
            await send({"type": "http.response.body", "body": body})
        elif kind == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1000})  # 403
        elif kind == "lifespan":
            await _pass_lifespan(receive, send)

    return serve


def _path_below(scope: _Message) -> str:
    """Return the path without the prefix under which this application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _start(status: int, headers: Mapping[str, str]) -> _Message:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def _wants_html(scope: _Message) -> bool:
    """Tell whether a browser asks; what asks for JSON, or for anything, is none."""
    if scope["method"] not in METHODS:
        return False
    accepted = [value for name, value in scope.get("headers", ()) if name == b"accept"]
    return b"text/html" in b",".join(accepted)


async def _stream(
    coordinator: SignalCoordinator,
    registry: TaskRegistry,
    scope: _Message,
    receive: _Receive,
    send: _Send,
) -> None:
    """Send the events of the page until its reader leaves or the shutdown begins."""
    headers = {
        "content-type": "text/event-stream",
        "cache-control": "no-store",
        "x-accel-buffering": "no",  # nginx would hold the events back
    }
    await send(_start(200, headers))
    if scope["method"] == "HEAD":
        await send({"type": "http.response.body", "body": b""})
        return
    query = scope.get("query_string", b"")
    events = _dashboard.updates(coordinator, registry, query)
    sending = asyncio.ensure_future(_send_all(events, send))
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        both = [sending, leaving]
        for task in both:
            task.cancel()
        await asyncio.wait(both)
    if not sending.cancelled():
        with suppress(OSError):  # the reader has left, says the server
            sending.result()


async def _send_all(events: AsyncGenerator[bytes, None], send: _Send) -> None:
    async with aclosing(events):
        async for event in events:
            body = {"type": "http.response.body", "body": event, "more_body": True}
            await send(body)
    await send({"type": "http.response.body", "body": b""})


async def _left(receive: _Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _pass_lifespan(receive: _Receive, send: _Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
