"""The aiohttp application of the host tests; as a program it calls run_app()."""

import asyncio
import sys
from collections.abc import AsyncIterator

from aiohttp import web

from pyasynclife.contrib.aiohttp import setup
from support.hosts_events import WITH_US, make, note

coordinator, registry = make()


async def up(request: web.Request) -> web.Response:
    return web.Response(text="up")


async def slow(request: web.Request) -> web.Response:
    note("slow begins")
    await asyncio.sleep(float(request.query.get("seconds", "1")))
    note("slow ends")
    return web.Response(text="done")


async def events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(b"data: hello\n\n")
    await coordinator.shutdown_event.wait()
    note("stream ends")
    await response.write(b"data: bye\n\n")
    return response


async def ws(request: web.Request) -> web.WebSocketResponse:
    # it reads no closing handshake once it ends, so waiting 10 s for it is in vain
    socket = web.WebSocketResponse(timeout=0.2)
    await socket.prepare(request)
    await socket.send_str("hello")
    await coordinator.shutdown_event.wait()
    note("stream ends")
    await socket.send_str("bye")
    await socket.close(code=1001)
    return socket


async def feed(request: web.Request) -> web.Response:
    async def follow() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            note("feed ends")

    registry.register(follow())
    return web.Response(text="started")


async def noted(app: web.Application) -> AsyncIterator[None]:
    note("start")
    yield


app = web.Application()
for path, handler in (
    ("/up", up),
    ("/slow", slow),
    ("/events", events),
    ("/ws", ws),
    ("/feed", feed),
):
    app.router.add_get(path, handler)
if WITH_US:
    setup(app, coordinator, registry)
app.cleanup_ctx.append(noted)

if __name__ == "__main__":
    if sys.argv[2] == "uvloop":
        import uvloop

        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, loop=loop)
