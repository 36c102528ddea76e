"""One service, run by asyncio.run, aiorun, uvicorn and pyasynclife, to be signalled.

python -m benchmarks.shutdown_programs CONTENDER SCENARIO DEADLINE

benchmarks.shutdown_peers starts it. The service prints "ready", then waits for the
signal; it prints "cleaned" for each cleanup that has run to its end. Each contender
starts it as its own documentation shows, with the options that limit a shutdown.
"""

import asyncio
import importlib
import itertools
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

Spawn = Callable[[Coroutine[Any, Any, None]], object]
Service = Callable[[Spawn], Coroutine[Any, Any, None]]

TASKS = 100
MANY_TASKS = 1_000
STORM = 1_000
HANGS = 60.0  # seconds; longer than anybody waits


# ------------------------------------------------------------------ the service


def say(word: str) -> None:
    print(word, flush=True)


async def wait_and_clean_up(seconds: float) -> None:
    try:
        await asyncio.sleep(HANGS)
    finally:
        await asyncio.sleep(seconds)  # cleanup
        say("cleaned")


async def read_frame() -> None:
    while True:
        try:
            await asyncio.sleep(HANGS)  # swallow
        except asyncio.CancelledError:
            pass


async def follow_feed() -> None:
    await read_frame()


def write_archive() -> None:
    time.sleep(HANGS)  # executor


def never_return() -> None:
    while True:  # busy
        pass


def hold_the_gil() -> None:
    all(itertools.repeat(True))  # gil


async def tasks(spawn: Spawn) -> None:
    for _ in range(TASKS):
        spawn(wait_and_clean_up(0.1))


async def storm(spawn: Spawn) -> None:
    """Block the loop while 1,000 SIGHUPs and then a SIGTERM arrive."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # reload
    spawn(wait_and_clean_up(0.1))

    def send() -> None:
        say("ready")
        for _ in range(STORM):
            os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)

    loop.call_later(0.5, send)  # when a server has started


async def quick(spawn: Spawn) -> None:
    spawn(wait_and_clean_up(0.5))


async def hang(spawn: Spawn) -> None:
    spawn(wait_and_clean_up(HANGS))


async def swallow(spawn: Spawn) -> None:
    spawn(follow_feed())


async def executor(spawn: Spawn) -> None:
    asyncio.get_running_loop().run_in_executor(None, write_archive)


async def busy(spawn: Spawn) -> None:
    asyncio.get_running_loop().call_later(0.3, never_return)


async def gil(spawn: Spawn) -> None:
    asyncio.get_running_loop().call_later(0.3, hold_the_gil)


async def rows() -> AsyncIterator[int]:
    try:
        yield 1
        yield 2
    finally:
        await asyncio.sleep(0.1)
        say("cleaned")


async def generator(spawn: Spawn) -> None:
    iterator = rows()
    kept.append(iterator)
    await anext(iterator)  # it is left suspended in its `try`


async def many(spawn: Spawn) -> None:
    for _ in range(MANY_TASKS):
        spawn(wait_and_clean_up(HANGS))


kept: list[object] = []
# The request of "request" and "endless" is made by the client.
SCENARIOS: dict[str, Service] = {
    "tasks": tasks, "storm": storm, "double": quick, "thrice": hang,
    "swallow": swallow, "interrupt": swallow, "executor": executor, "busy": busy,
    "gil": gil, "generator": generator, "many": many, "request": tasks,
    "endless": tasks,
}  # fmt: skip


async def serve(scenario: str, spawn: Spawn) -> None:
    await SCENARIOS[scenario](spawn)
    if scenario != "storm":
        say("ready")
    await asyncio.Event().wait()


def spawn_task(coro: Coroutine[Any, Any, None]) -> None:
    kept.append(asyncio.create_task(coro))


# --------------------------------------------------------------- the contenders


def with_asyncio(scenario: str, deadline: float) -> None:
    asyncio.run(serve(scenario, spawn_task))


def with_handlers(scenario: str, deadline: float) -> None:
    """Cancel main at a signal: the few lines that many services have."""

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, task.cancel)
        try:
            await serve(scenario, spawn_task)
        except asyncio.CancelledError:
            pass

    asyncio.run(main())


def with_aiorun(scenario: str, deadline: float) -> None:
    aiorun = importlib.import_module("aiorun")
    aiorun.run(serve(scenario, spawn_task), timeout_task_shutdown=deadline)


def with_pyasynclife(scenario: str, deadline: float) -> None:
    from pyasynclife import run

    run(serve(scenario, spawn_task), shutdown_timeout=deadline)


Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


def serve_http(lifespan: Lifespan, deadline: float) -> None:
    """Run uvicorn, with a third of the time for requests."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def answer(request: Request) -> PlainTextResponse:
        say("received")
        await asyncio.sleep(float(request.path_params["seconds"]))
        return PlainTextResponse("answered")

    app = Starlette(lifespan=lifespan, routes=[Route("/{seconds}", answer)])
    config = uvicorn.Config(app, timeout_graceful_shutdown=max(1, round(deadline / 3)))
    listener = socket.create_server(("127.0.0.1", 0))
    say(f"port {listener.getsockname()[1]}")
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # as in uvicorn.run()
        pass


def with_uvicorn(scenario: str, deadline: float) -> None:
    """End the tasks in the lifespan, and wait for them for a third of the time."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        running: set[asyncio.Task[None]] = set()

        def spawn(coro: Coroutine[Any, Any, None]) -> None:
            running.add(asyncio.create_task(coro))

        spawn(serve(scenario, spawn))
        await asyncio.sleep(0)
        yield
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=deadline / 3)

    serve_http(lifespan, deadline)


def with_both(scenario: str, deadline: float) -> None:
    from pyasynclife import SignalCoordinator, TaskRegistry
    from pyasynclife.contrib import asgi

    registry = TaskRegistry()
    coordinator = SignalCoordinator(
        deadline * 2 / 3, registry=registry, kill_after=deadline, force_exit=True
    )

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with asgi.lifespan(coordinator, registry)(app):
            registry.register(serve(scenario, registry.register))
            yield

    serve_http(lifespan, deadline)


CONTENDERS: dict[str, tuple[Callable[[str, float], None], tuple[str, ...]]] = {
    "asyncio.run": (with_asyncio, ()),
    "asyncio.run with handlers": (with_handlers, ()),
    "aiorun": (with_aiorun, ("aiorun",)),
    "uvicorn": (with_uvicorn, ("uvicorn", "starlette")),
    "pyasynclife.run": (with_pyasynclife, ()),
    "uvicorn with pyasynclife": (with_both, ("uvicorn", "starlette")),
}
"""The functions, and the packages that each needs."""


if __name__ == "__main__":
    for signum in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored under nohup
    logging.basicConfig(level=logging.INFO)
    CONTENDERS[sys.argv[1]][0](sys.argv[2], float(sys.argv[3]))
