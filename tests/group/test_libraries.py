"""TaskGroup in other code: aiohttp, Starlette, anyio, timeouts, Ctrl-C.

From 3.13 on each test runs with asyncio's own group too: a library must not notice the
difference. Before 3.13 asyncio's has the faults of test_versions.py.
"""

import asyncio
import contextlib
import importlib.util
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import pyasynclife
from support.children import start_child
from support.coroutines import Boom, forever
from support.group_scenarios import cancelling, fail, me
from support.loops import settle

GROUPS: dict[str, Any] = {"ours": pyasynclife.TaskGroup}
if sys.version_info >= (3, 13):
    GROUPS["asyncio's"] = asyncio.TaskGroup


@pytest.fixture(params=GROUPS)
def Group(request: pytest.FixtureRequest) -> Any:
    return GROUPS[request.param]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


# ------------------------------------------------------------------ aiohttp


@contextlib.asynccontextmanager
async def aiohttp_server(begun: list[str], ended: list[str]) -> AsyncIterator[str]:
    from aiohttp import web

    async def answer(request: Any) -> Any:
        await asyncio.sleep(0.01)
        return web.Response(text=request.query["n"])

    async def refuse(request: Any) -> Any:
        await asyncio.sleep(0.05)
        raise web.HTTPServiceUnavailable

    async def hang(request: Any) -> Any:
        begun.append("hang")
        try:
            await forever()
        finally:
            ended.append("hang")

    app = web.Application()
    app.router.add_get("/answer", answer)
    app.router.add_get("/refuse", refuse)
    app.router.add_get("/hang", hang)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@needs("aiohttp")
async def test_many_aiohttp_requests_are_all_answered(Group: Any) -> None:
    import aiohttp

    async def get(n: int) -> str:
        async with session.get(f"{url}/answer", params={"n": n}) as response:
            return await response.text()

    connector = aiohttp.TCPConnector(limit=5)
    async with (
        aiohttp_server([], []) as url,
        aiohttp.ClientSession(connector=connector) as session,
        Group() as group,
    ):
        tasks = [group.create_task(get(n)) for n in range(40)]
    assert [task.result() for task in tasks] == [str(n) for n in range(40)]


@needs("aiohttp")
async def test_an_aiohttp_request_that_fails_cancels_the_rest(Group: Any) -> None:
    import aiohttp

    begun: list[str] = []
    ended: list[str] = []

    async def get(path: str) -> str:
        async with session.get(url + path, raise_for_status=True) as response:
            return await response.text()

    connector = aiohttp.TCPConnector(limit=5)
    async with (
        aiohttp_server(begun, ended) as url,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        with pytest.raises(ExceptionGroup) as caught:
            async with Group() as group:
                # four wait for the server, ten for a connection
                tasks = [group.create_task(get("/hang")) for _ in range(4)]
                failing = group.create_task(get("/refuse"))
                tasks += [group.create_task(get("/hang")) for _ in range(10)]
        (error,) = caught.value.exceptions
        assert isinstance(error, aiohttp.ClientResponseError)
        assert error.status == 503
        assert error is failing.exception()
        assert all(task.cancelled() for task in tasks)
        assert cancelling() == 0

        # the five connections are free again, and the server's handlers ended
        async with asyncio.timeout(5), Group() as group:
            for n in range(10):
                group.create_task(get(f"/answer?n={n}"))
        async with asyncio.timeout(5):
            while len(ended) < len(begun):
                await asyncio.sleep(0.01)
    assert len(begun) in (4, 5)  # the fifth may take the connection of the failed one


# ------------------------------------------------------------------ Starlette


@contextlib.asynccontextmanager
async def uvicorn_server(
    handler: Any, patience: float = 1
) -> AsyncIterator[tuple[Any, str, int]]:
    """Run a server that ends at most `patience` seconds after it is asked to."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Route

    config = uvicorn.Config(
        Starlette(routes=[Route("/", handler)]),
        host="127.0.0.1",
        port=0,
        lifespan="off",
        log_config=None,
        timeout_graceful_shutdown=patience,  # type: ignore[arg-type]
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        yield server, host, port
    finally:
        server.should_exit = True
        await serving


async def ask(host: str, port: int) -> tuple[Any, Any]:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    return reader, writer


async def hang_up(writer: Any) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@needs("uvicorn", "starlette")
async def test_a_starlette_handler_answers_from_its_group(Group: Any) -> None:
    from starlette.responses import PlainTextResponse

    async def part(n: int) -> str:
        await settle(n)
        return str(n)

    async def handler(request: Any) -> Any:
        async with Group() as group:
            parts = [group.create_task(part(n)) for n in range(5)]
        return PlainTextResponse("".join(part.result() for part in parts))

    async with uvicorn_server(handler) as (_, host, port):
        reader, writer = await ask(host, port)
        answer = await reader.read()
        await hang_up(writer)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"01234")


@needs("uvicorn", "starlette")
async def test_a_client_that_hangs_up_ends_the_group_of_the_handler(Group: Any) -> None:
    from starlette.responses import PlainTextResponse

    started, ended = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    class HungUp(Exception):
        pass

    async def work() -> None:
        started.set()
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            seen.append("work ended")

    async def watch(request: Any) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        raise HungUp

    async def handler(request: Any) -> Any:
        try:
            async with Group() as group:
                group.create_task(work())
                group.create_task(watch(request))
        except* HungUp:
            seen.append("hung up")
        await asyncio.sleep(0)
        seen.append(f"cancelling {cancelling()}")
        ended.set()
        return PlainTextResponse("nobody reads this")

    async with uvicorn_server(handler) as (_, host, port), asyncio.timeout(10):
        _, writer = await ask(host, port)
        await started.wait()
        await hang_up(writer)
        await ended.wait()
    assert seen == ["work ended", "hung up", "cancelling 0"]


@needs("uvicorn", "starlette")
async def test_a_server_that_cancels_the_handler_ends_its_group(Group: Any) -> None:
    started = asyncio.Event()
    seen: list[str] = []

    async def work(n: int) -> None:
        started.set()
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)
            seen.append("work ended")

    async def handler(request: Any) -> Any:
        try:
            async with Group() as group:
                for n in range(3):
                    group.create_task(work(n))
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async with uvicorn_server(handler, 0.05) as (server, host, port):
        _, writer = await ask(host, port)
        await started.wait()
        server.should_exit = True
        async with asyncio.timeout(10):
            while "cancelled" not in seen:
                await asyncio.sleep(0.02)
        await hang_up(writer)
    assert seen == ["work ended"] * 3 + ["cancelled"]


# ------------------------------------------------------------------ anyio


@needs("anyio")
async def test_an_anyio_scope_in_a_child_ends_at_its_edge(Group: Any) -> None:
    import anyio

    async def child() -> str:
        with anyio.move_on_after(0.01) as scope:
            await forever()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        await anyio.sleep(0.01)
        return f"cancelling {cancelling()}"

    async with Group() as group:
        tasks = [group.create_task(child()) for _ in range(3)]
        other = group.create_task(asyncio.sleep(0.05, "other"))
    assert [task.result() for task in tasks] == ["cancelling 0"] * 3
    assert other.result() == "other"


@needs("anyio")
async def test_an_anyio_shield_in_a_child_ends_before_the_group(Group: Any) -> None:
    import anyio

    seen: list[str] = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
                seen.append("cleaned up")

    with pytest.raises(ExceptionGroup):
        async with Group() as group:
            group.create_task(child())
            group.create_task(fail(3))
    assert seen == ["cleaned up"]


async def wait_in_anyio(ended: list[str], name: str) -> None:
    import anyio

    try:
        await anyio.sleep_forever()
    finally:
        ended.append(name)


@needs("anyio")
async def test_an_anyio_group_inside_ours_fails_as_one_child(Group: Any) -> None:
    import anyio

    ended: list[str] = []

    async def child() -> None:
        async with anyio.create_task_group() as inner:
            inner.start_soon(wait_in_anyio, ended, "inner")
            inner.start_soon(fail, 3)

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as group:
            group.create_task(wait_in_anyio(ended, "outer"))
            group.create_task(child())
    (inner_group,) = caught.value.exceptions
    assert isinstance(inner_group, ExceptionGroup)
    assert [type(error) for error in inner_group.exceptions] == [Boom]
    assert ended == ["inner", "outer"]
    assert cancelling() == 0


@needs("anyio")
async def test_our_failure_reaches_an_anyio_group_inside(Group: Any) -> None:
    import anyio

    ended: list[str] = []

    async def child() -> None:
        async with anyio.create_task_group() as inner:
            inner.start_soon(wait_in_anyio, ended, "one")
            inner.start_soon(wait_in_anyio, ended, "two")

    with pytest.raises(ExceptionGroup):
        async with Group() as group:
            task = group.create_task(child())
            group.create_task(fail(5))
    assert task.cancelled()
    assert sorted(ended) == ["one", "two"]


@needs("anyio")
async def test_our_group_inside_an_anyio_group_is_cancelled_by_it(Group: Any) -> None:
    import anyio

    ended: list[str] = []

    async def slow_to_end(name: str) -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.02)  # outside anyio's scopes: cancelled once
            ended.append(name)

    async def host() -> None:
        async with Group() as group:
            for name in ("one", "two"):
                group.create_task(slow_to_end(name))
        ended.append("continued")

    async with anyio.create_task_group() as outer:
        outer.start_soon(host)
        await anyio.sleep(0.01)
        outer.cancel_scope.cancel()
    assert sorted(ended) == ["one", "two"]
    assert outer.cancel_scope.cancelled_caught or cancelling() == 0
    assert cancelling() == 0
    await asyncio.sleep(0)


@needs("anyio")
@pytest.mark.parametrize("body", ["waits", "at its end"])
async def test_a_group_survives_the_repeated_cancels_of_anyio(
    Group: Any, body: str
) -> None:
    import anyio

    ended: list[str] = []
    waited = 0

    async def slow_to_end() -> None:
        nonlocal waited
        try:
            await forever()
        finally:
            for _ in range(50):  # anyio cancels the host in every iteration of these
                await asyncio.sleep(0)
                waited += 1
            ended.append("child")

    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_later(0.01, scope.cancel)
        async with Group() as group:
            group.create_task(slow_to_end())
            if body == "waits":
                await forever()
        ended.append("continued")
    assert scope.cancelled_caught
    assert ended == ["child"]
    assert waited == 50
    assert cancelling() == 0
    await asyncio.sleep(0)


@needs("anyio")
async def test_an_error_while_anyio_cancels_propagates(Group: Any) -> None:
    import anyio

    async def child() -> None:
        try:
            await forever()
        finally:
            await settle(5)
            raise Boom

    with pytest.raises(ExceptionGroup):
        with anyio.CancelScope() as scope:
            async with Group() as group:
                group.create_task(child())
                await asyncio.sleep(0)
                scope.cancel()
                await forever()
    assert scope.cancel_called
    assert cancelling() == 0
    await asyncio.sleep(0)


@needs("anyio")
async def test_our_failure_inside_an_anyio_scope_does_not_cancel_it(Group: Any) -> None:
    import anyio

    with anyio.CancelScope() as scope:
        with pytest.raises(ExceptionGroup):
            async with Group() as group:
                group.create_task(fail(1))
                await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
    assert not scope.cancelled_caught
    assert cancelling() == 0


# ------------------------------------------------------------------ asyncio.timeout


async def test_a_timeout_around_a_group_ends_it(Group: Any) -> None:
    ended: list[int] = []

    async def child(n: int) -> None:
        try:
            await forever()
        finally:
            await settle(n)
            ended.append(n)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), Group() as group:
            for n in range(3):
                group.create_task(child(n))
    assert ended == [0, 1, 2]
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_a_timeout_in_the_body_leaves_the_group_alone(Group: Any) -> None:
    async with Group() as group:
        task = group.create_task(asyncio.sleep(0.03, "late"))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await forever()
        assert not task.done()
    assert task.result() == "late"


async def test_a_timeout_in_a_child_is_the_error_of_that_child(Group: Any) -> None:
    async def child() -> None:
        async with asyncio.timeout(0.01):
            await forever()

    with pytest.raises(ExceptionGroup) as caught:
        async with Group() as group:
            group.create_task(child())
            other = group.create_task(forever())
    assert [type(error) for error in caught.value.exceptions] == [TimeoutError]
    assert other.cancelled()
    assert cancelling() == 0


async def test_a_failure_inside_a_timeout_is_no_timeout(Group: Any) -> None:
    with pytest.raises(ExceptionGroup):
        async with asyncio.timeout(5) as timeout, Group() as group:
            group.create_task(fail(1))
            await forever()
    assert not timeout.expired()
    assert cancelling() == 0
    await asyncio.sleep(0)


async def test_wait_for_of_a_group_is_a_timeout(Group: Any) -> None:
    tasks: list[Any] = []

    async def life() -> None:
        async with Group() as group:
            tasks.append(group.create_task(forever()))

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(life(), 0.01)
    assert tasks[0].cancelled()
    assert cancelling() == 0
    assert me() is asyncio.current_task()


# ------------------------------------------------------------------ Ctrl-C

CTRL_C = """
    import asyncio
    from {module} import TaskGroup
    seen = []  # asyncio cancels its children in any order
    async def child(n):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(n)
            if {slow} and len(seen) == 2:
                # printed later: the second signal must not come while a child runs
                asyncio.get_running_loop().call_later(0.2, print, "cleaning")
                await asyncio.sleep(60)
            raise
    def tick(loop):
        # A Runner's Ctrl-C does not wake a loop that was just about to wait.
        loop.call_later(0.05, tick, loop)
    async def main():
        tick(asyncio.get_running_loop())
        try:
            async with TaskGroup() as group:
                for n in range(2):
                    group.create_task(child(n), name=f"child {{n}}")
                await asyncio.sleep(0)
                asyncio.get_running_loop().call_later(0.1, print, "ready")
                {body}
        except BaseException as error:
            print("main", type(error).__name__, asyncio.current_task().cancelling())
            raise
    with asyncio.Runner() as runner:
        try:
            runner.run(main())
        except KeyboardInterrupt as error:
            print("interrupted", type(error.__context__).__name__)
    print("end", sorted(seen))
"""


def interrupt(body: str, twice: bool) -> list[subprocess.CompletedProcess[str]]:
    """How ours ends, and how asyncio's own does."""
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                start_child(CTRL_C.format(module=module, body=body, slow=twice))
            )
            for module in ("pyasynclife", "asyncio")
        ]
        for marker in ("ready", "cleaning")[: 1 + twice]:
            for child in children:
                child.wait_for(marker)
                child.send_signal(signal.SIGINT)
        return [child.finish() for child in children]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("body", ["await asyncio.sleep(60)", "pass"])
def test_ctrl_c_under_a_runner_ends_as_with_asyncio(body: str, twice: bool) -> None:
    ours, theirs = interrupt(body, twice)
    assert ours.stdout.splitlines() == theirs.stdout.splitlines()
    assert (ours.returncode, ours.stderr) == (theirs.returncode, theirs.stderr)
    lines = ours.stdout.splitlines()
    assert lines[-1] == "end [0, 1]"
    assert any(line.startswith("interrupted") for line in lines)
    assert ours.stderr == ""
