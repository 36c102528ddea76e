"""The FastAPI application of the host tests: slow requests, streams, WebSockets."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from pyasynclife.contrib.asgi import lifespan, probes
from support.hosts_events import WITH_US, make, note

coordinator, registry = make()


@asynccontextmanager
async def noted(app: FastAPI) -> AsyncIterator[None]:
    if not WITH_US:
        note("start")
        yield
        return
    async with lifespan(coordinator, registry)(app):
        if "HOSTS_SLOW_START" in os.environ:
            note("connecting")
            connecting = asyncio.create_task(asyncio.sleep(3600))
            stopped = asyncio.create_task(coordinator.wait_for_shutdown())
            both = (connecting, stopped)
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            connecting.cancel()
        note("start")
        yield


app = FastAPI(lifespan=noted)


@app.get("/up")
async def up() -> str:
    return "up"


@app.get("/slow")
async def slow(seconds: float = 1.0) -> str:
    note("slow begins")
    await asyncio.sleep(seconds)
    note("slow ends")
    return "done"


@app.get("/events")
async def events() -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        yield "data: hello\n\n"
        await coordinator.shutdown_event.wait()
        note("stream ends")
        yield "data: bye\n\n"

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.websocket("/ws")
async def ws(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await coordinator.shutdown_event.wait()
    note("stream ends")
    with suppress(Exception):  # the server may have closed it first, with 1012
        await socket.send_text("bye")
        await socket.close(1001)


@app.get("/feed")
async def feed() -> str:
    async def follow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            note("feed ends")

    registry.register(follow())
    return "started"


if WITH_US:
    app.mount("/", probes(coordinator, registry))
