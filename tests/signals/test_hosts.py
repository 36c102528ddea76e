"""Servers and libraries that handle signals themselves go on working."""

import importlib.util
import signal
import textwrap

import pytest

from support.signals import Run, Start, needs_posix

pytestmark = needs_posix


def _needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


@_needs("aiohttp")
def test_aiohttp_run_app_still_ends_by_sigterm(start: Start) -> None:
    with start("""
        from aiohttp import web
        async def coordinate(app):
            async with SignalCoordinator(on_signal=lambda *_: print("signalled")) as c:
                yield
            print("cleaned up")
        app = web.Application()
        app.cleanup_ctx.append(coordinate)
        async def started(app):
            asyncio.get_running_loop().call_later(0.1, print, "ready")
        app.on_startup.append(started)
        web.run_app(app, host="127.0.0.1", port=0, print=None, loop=new_loop())
        print("end")
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert (
        done.returncode,
        done.stdout.split("\n")[:-1],
    ) == (0, ["ready", "signalled", "cleaned up", "end"])


UVICORN = """
    import uvicorn
    from contextlib import asynccontextmanager
    from starlette.applications import Starlette
    def serve(lifespan=None):
        app = Starlette(lifespan=lifespan)
        config = uvicorn.Config(app, port=0, log_level="critical")
        return uvicorn.Server(config)
"""


@_needs("uvicorn", "starlette")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_drains_with_a_coordinator_in_its_lifespan(
    start: Start, signum: int
) -> None:
    with start(
        textwrap.dedent(UVICORN)
        + textwrap.dedent("""
        @asynccontextmanager
        async def lifespan(app):
            async with SignalCoordinator(on_signal=lambda *_: print("signalled")) as c:
                asyncio.get_running_loop().call_later(0.2, print, "ready")
                yield
                print(c.phase)
        try:
            run(serve(lifespan).serve())
        except KeyboardInterrupt:
            pass
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signum)
        done = child.finish()
    # uvicorn raises the signal again when it is done, so the process dies of it;
    # SIGINT is the Runner's by then.
    assert done.stdout.split() == ["ready", "signalled", "draining"]
    assert done.returncode in (-signum, 0)


@_needs("uvicorn", "starlette")
def test_uvicorn_inside_a_coordinator_ends_both(start: Start) -> None:
    with start(
        textwrap.dedent(UVICORN)
        + textwrap.dedent("""
        async def main():
            async with SignalCoordinator() as c:
                asyncio.get_running_loop().call_later(0.3, print, "ready")
                await serve().serve()
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
        run(main())
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert (done.returncode, done.stdout) == (0, "ready\n15\n")


@_needs("hypercorn", "starlette")
def test_hypercorn_drains_with_a_coordinator_in_its_lifespan(start: Start) -> None:
    with start("""
        from contextlib import asynccontextmanager
        from hypercorn.asyncio import serve
        from hypercorn.config import Config
        from starlette.applications import Starlette
        @asynccontextmanager
        async def lifespan(app):
            async with SignalCoordinator() as c:
                asyncio.get_running_loop().call_later(0.2, print, "ready")
                yield
                print(c.phase)
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.loglevel = "critical"
        run(serve(Starlette(lifespan=lifespan), config))
        print("end")
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert (done.returncode, done.stdout) == (0, "ready\ndraining\nend\n")


@_needs("anyio")
def test_anyio_open_signal_receiver_still_receives(run: Run) -> None:
    done = run("""
        import anyio
        async def main():
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                with SignalCoordinator() as c:
                    kill(signal.SIGTERM)
                    async for signum in signals:
                        print("anyio", int(signum))
                        break
                    print("ours", await c.wait_for_shutdown())
                kill(signal.SIGTERM)
                async for signum in signals:
                    print("anyio", int(signum))
                    break
        run(main())
    """)
    assert done.stdout == "anyio 15\nours 15\nanyio 15\n"
