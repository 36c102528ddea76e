"""lame_duck: a host's own handler is called later, and never not at all."""

import asyncio
import importlib.util
import math
import os
import signal
import textwrap
import time
from typing import Any

import pytest

from pyasynclife import SignalCoordinator
from support.signals import Run, Start, needs_posix

pytestmark = needs_posix

HOSTS = {
    "signal.signal": "signal.signal(S, lambda *_: host())",
    "add_signal_handler": "asyncio.get_running_loop().add_signal_handler(S, host)",
    "both": """asyncio.get_running_loop().add_signal_handler(S, host)
        signal.signal(signal.SIGUSR1, lambda *_: None)""",
}

HOST = """
    S = signal.SIGTERM
    times = []
    def host():
        times.append(time.monotonic())
    async def main():
        {host}
        {main}
    run(main())
"""


def with_host(host: str, main: str) -> str:
    body = textwrap.indent(textwrap.dedent(main), "        ").strip()
    return textwrap.dedent(HOST).format(
        host=textwrap.dedent(HOSTS[host]).replace("\n        ", "\n    "),
        main=textwrap.dedent(body).replace("\n        ", "\n    "),
    )


hosts = pytest.mark.parametrize("host", ["signal.signal", "add_signal_handler"])


@hosts
def test_the_host_is_called_when_it_is_over_once(run: Run, host: str) -> None:
    done = run(
        with_host(
            host,
            """
            before = actions()
            async with SignalCoordinator(20, lame_duck=1.5) as c:
                began = time.monotonic()
                kill(S)
                await c.wait_for_shutdown()
                await asyncio.sleep(0.1)
                kill(S)     # a kubelet may send it twice
                await asyncio.sleep(0.05)
                print(c.ready, times)
                await until(lambda: times)
                print(len(times), 1.49 < times[0] - began < 9)
                kill(S)
                await until(lambda: len(times) == 2)
                await asyncio.sleep(0.05)
                print(len(times), actions() == before)
            print(actions() == before)
            kill(S)
            await until(lambda: len(times) == 3)
            """,
        )
    )
    assert done.stdout == "False []\n1 True\n2 False\nTrue\n"


@hosts
def test_the_removal_calls_the_host(run: Run, host: str) -> None:
    done = run(
        with_host(
            host,
            """
            with SignalCoordinator(5, lame_duck=5) as c:
                kill(S)
                await c.wait_for_shutdown()
                print(times)
            await until(lambda: times)
            await asyncio.sleep(0.05)
            print(len(times))
            """,
        )
    )
    assert done.stdout == "[]\n1\n"


@hosts
def test_the_removal_calls_no_host_without_a_signal(run: Run, host: str) -> None:
    done = run(
        with_host(
            host,
            """
            for _ in range(3):
                with SignalCoordinator(5, lame_duck=5) as c:
                    await asyncio.sleep(0.01)
            print(times)
            kill(S)
            await until(lambda: times)
            print(len(times), len(os.listdir("/proc/self/fd")) < 30)
            """,
        )
    )
    assert done.stdout == "[]\n1 True\n"


@hosts
def test_a_second_press_ends_it_and_calls_the_host_once(
    start: Start, host: str
) -> None:
    source = with_host(
        host,
        """
        async with SignalCoordinator(50, lame_duck=50) as c:
            print("ready")
            await until(lambda: times)
            await asyncio.sleep(0.05)
            print(len(times), c.phase)
        """,
    ).replace("signal.SIGTERM", "signal.SIGINT")
    with start(source) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert child.stdout == "ready\n"
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.stdout == "ready\n1 cancelling\n"
    assert done.returncode == 0


@hosts
def test_a_press_after_sigterm_calls_the_host_for_sigterm(
    start: Start, host: str
) -> None:
    source = with_host(
        host,
        """
        async with SignalCoordinator(50, lame_duck=50) as c:
            task = asyncio.current_task()
            print("ready")
            try:
                await asyncio.sleep(20)
            except asyncio.CancelledError:
                task.uncancel()
            await until(lambda: times)
            print(len(times))
        """,
    )
    with start(source) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        assert child.finish().stdout == "ready\n1\n"


def test_other_signals_of_the_loop_are_not_delayed(run: Run) -> None:
    done = run(
        with_host(
            "add_signal_handler",
            """
            loop, others = asyncio.get_running_loop(), []
            loop.add_signal_handler(signal.SIGUSR1, others.append, 1)
            with SignalCoordinator(5, lame_duck=5) as c:
                kill(S)
                await c.wait_for_shutdown()
                kill(signal.SIGUSR1)
                await until(lambda: others)
                print(times)
            await until(lambda: times)
            print(len(times), len(others))
            """,
        )
    )
    assert done.stdout == "[]\n1 1\n"


def test_two_coordinators_hold_the_same_loop(run: Run) -> None:
    done = run(
        with_host(
            "add_signal_handler",
            """
            outer = SignalCoordinator(5, lame_duck=5)
            inner = SignalCoordinator(5, lame_duck=5)
            outer.setup_handlers()
            inner.setup_handlers()
            kill(S)
            await inner.wait_for_shutdown()
            outer.remove_handlers()
            await asyncio.sleep(0.05)
            print(times)
            inner.remove_handlers()
            await until(lambda: times)
            print(len(times))
            """,
        )
    )
    assert done.stdout == "[]\n1\n"


def test_a_handler_added_later_is_not_deaf(run: Run) -> None:
    done = run(
        with_host(
            "add_signal_handler",
            """
            loop, others = asyncio.get_running_loop(), []
            with SignalCoordinator(5, lame_duck=0.2) as c:
                loop.add_signal_handler(signal.SIGUSR1, others.append, 1)
                kill(S)
                kill(signal.SIGUSR1)
                await until(lambda: times and others)
            kill(S)
            await until(lambda: len(times) == 2)
            print(len(times), len(others))
            """,
        )
    )
    assert done.stdout == "2 1\n"


def test_a_loop_that_ends_meanwhile_breaks_nothing(run: Run) -> None:
    done = run("""
        c = SignalCoordinator(5, lame_duck=5)
        def host():
            print("host")
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, host)
            c.setup_handlers()
            kill(signal.SIGTERM)
            await c.wait_for_shutdown()
        run(main())
        c.remove_handlers()
        print(signal.set_wakeup_fd(-1))
    """)
    assert done.stdout.splitlines()[-1] == "-1"


def test_a_loop_that_stops_and_runs_again_is_not_deaf(run: Run) -> None:
    done = run("""
        c = SignalCoordinator(5, lame_duck=5)
        calls = []
        loop = new_loop()
        async def first():
            loop.add_signal_handler(signal.SIGTERM, calls.append, 1)
            c.setup_handlers()
            kill(signal.SIGTERM)
            await c.wait_for_shutdown()
        loop.run_until_complete(first())
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(9)]
        async def second():
            c.remove_handlers()
            await until(lambda: calls)
            kill(signal.SIGTERM)
            await until(lambda: len(calls) == 2)
            print(len(calls))
        loop.run_until_complete(second())
        loop.close()
    """)
    assert done.stdout == "2\n"


def test_what_the_host_raises_is_delivered_when_it_is_over(run: Run) -> None:
    done = run("""
        def host(*_):
            raise SystemExit(7)
        signal.signal(signal.SIGTERM, host)
        async def main():
            with SignalCoordinator(5, lame_duck=1) as c:
                kill(signal.SIGTERM)
                await c.wait_for_shutdown()
                print("lame")
                await asyncio.sleep(3)
        try:
            run(main())
        except SystemExit as error:
            print(error.code)
    """)
    assert done.stdout == "lame\n7\n"


def test_after_a_shutdown_it_begins_afresh(run: Run) -> None:
    done = run(
        with_host(
            "signal.signal",
            """
            c = SignalCoordinator(5, lame_duck=1)
            for number in range(1, 3):
                async with c:
                    kill(S)
                    await c.wait_for_shutdown()
                    print(len(times))
                    await until(lambda: len(times) == number)
            """,
        )
    )
    assert done.stdout == "0\n1\n"


def test_a_host_put_below_by_a_second_setup_is_held_too(run: Run) -> None:
    done = run("""
        import logging
        logging.disable()  # that ours was replaced
        times = []
        async def main():
            async with SignalCoordinator(5, lame_duck=1) as c:
                signal.signal(signal.SIGTERM, lambda *_: times.append(1))
                c.setup_handlers()
                kill(signal.SIGTERM)
                await c.wait_for_shutdown()
                print(times)
                await until(lambda: times)
        run(main())
    """)
    assert done.stdout == "[]\n"


async def test_without_a_host_nothing_is_held() -> None:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    async with SignalCoordinator(5, lame_duck=5) as coordinator:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
    assert asyncio.get_running_loop().is_running()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lame_duck": -1}, ValueError, "lame_duck"),
        ({"lame_duck": math.nan}, ValueError, "nan"),
        ({"lame_duck": "1"}, TypeError, "lame_duck"),
        ({"lame_duck": 31}, ValueError, "shutdown_timeout"),
    ],
)
def test_bad_durations_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SignalCoordinator(**options)


def _needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


PROBE = """
    import urllib.request
    def ask(port):
        url = f"http://127.0.0.1:{port}/"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()
    async def probe(port):
        ready = False
        while True:
            try:
                answer = await asyncio.to_thread(ask, port)
            except OSError:
                if ready:
                    raise
                answer = "does not listen yet"
            else:
                if not ready:
                    print("ready", flush=True)
                ready = True
            if answer == "draining":
                print("serves, not ready", flush=True)
                return
            await asyncio.sleep(0.01)
"""


@_needs("uvicorn", "starlette")
def test_uvicorn_serves_while_it_is_not_ready(start: Start) -> None:
    with start(
        textwrap.dedent(PROBE)
        + textwrap.dedent("""
        import uvicorn
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        c = SignalCoordinator(lame_duck=2)
        @asynccontextmanager
        async def lifespan(app):
            async with c:
                async def begin():
                    await until(lambda: getattr(server, "servers", None))
                    sock = server.servers[0].sockets[0]
                    await probe(sock.getsockname()[1])
                task = asyncio.create_task(begin())
                yield
                print(c.phase, task.done())
        async def phase(request):
            return PlainTextResponse(c.phase)
        app = Starlette(lifespan=lifespan, routes=[Route("/", phase)])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        run(server.serve())
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "ready\nserves, not ready\ndraining True\n"


@_needs("aiohttp")
def test_aiohttp_serves_while_it_is_not_ready(start: Start) -> None:
    with start(
        textwrap.dedent(PROBE)
        + textwrap.dedent("""
        import socket
        from aiohttp import web
        c = SignalCoordinator(lame_duck=2)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        async def coordinate(app):
            async with c:
                task = asyncio.create_task(probe(sock.getsockname()[1]))
                yield
                print(c.phase, task.done())
        async def phase(request):
            return web.Response(text=c.phase)
        app = web.Application()
        app.router.add_get("/", phase)
        app.cleanup_ctx.append(coordinate)
        web.run_app(app, sock=sock, print=None, loop=new_loop())
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert done.returncode == 0
    assert done.stdout == "ready\nserves, not ready\ndraining True\n"


@_needs("hypercorn", "starlette")
def test_hypercorn_serves_while_it_is_not_ready(start: Start) -> None:
    with start(
        textwrap.dedent(PROBE)
        + textwrap.dedent("""
        import socket
        from contextlib import asynccontextmanager
        from hypercorn.asyncio import serve
        from hypercorn.config import Config
        from starlette.applications import Starlette
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route
        c = SignalCoordinator(lame_duck=2)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.close()
        @asynccontextmanager
        async def lifespan(app):
            async with c:
                task = asyncio.create_task(probe(port))
                yield
                print(c.phase, task.done())
        async def phase(request):
            return PlainTextResponse(c.phase)
        app = Starlette(lifespan=lifespan, routes=[Route("/", phase)])
        config = Config()
        config.bind = [f"127.0.0.1:{port}"]
        config.loglevel = "critical"
        run(serve(app, config))
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert done.stdout == "ready\nserves, not ready\ndraining True\n"
