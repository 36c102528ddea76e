"""required=False: where signals cannot be handled, everything else works."""

import asyncio
import importlib.util
import logging
import signal
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, SignalSetupError, TaskRegistry
from support.coroutines import forever
from support.loops import in_virtual_time
from support.signals import actions


def in_a_thread(main: Coroutine[Any, Any, Any]) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


async def shut_down_by_request(coordinator: SignalCoordinator) -> None:
    registry = TaskRegistry()
    coordinator.attach(registry)
    async with coordinator:
        assert coordinator.ready
        task, _ = registry.register(forever()).result()
        asyncio.get_running_loop().call_soon(coordinator.request_shutdown, "enough")
        assert await coordinator.wait_for_shutdown() is None
        assert coordinator.reason == "enough"
    assert task.cancelled()
    assert coordinator.phase == "stopped"


def test_in_a_thread_all_but_signals_works_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "pyasynclife")
    before = actions()
    coordinator = SignalCoordinator(5, required=False)
    for _ in range(2):
        in_a_thread(shut_down_by_request(coordinator))
    assert actions() == before
    logged = [r.getMessage() for r in caplog.records if "required" in r.getMessage()]
    assert len(logged) == 2
    assert "thread" in logged[0]
    assert {r.levelno for r in caplog.records} <= {logging.DEBUG, logging.INFO}


def test_on_a_loop_without_signal_handlers_too() -> None:
    class Loop(asyncio.SelectorEventLoop):
        def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
            raise NotImplementedError

    before = actions()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(shut_down_by_request(SignalCoordinator(5, required=False)))
        with pytest.raises(SignalSetupError):
            runner.run(shut_down_by_request(SignalCoordinator(5)))
    assert actions() == before


def test_where_signals_are_handled_it_makes_no_difference() -> None:
    async def main() -> None:
        async with SignalCoordinator(5, required=False) as coordinator:
            signal.raise_signal(signal.SIGTERM)
            assert await coordinator.wait_for_shutdown() == signal.SIGTERM

    in_virtual_time(main())


@pytest.mark.parametrize("signum", [signal.SIGKILL, 12345])
def test_a_signal_that_can_never_be_handled_is_refused_all_the_same(
    signum: int,
) -> None:
    coordinator = SignalCoordinator(shutdown_signals=[signum], required=False)
    with pytest.raises(SignalSetupError):
        coordinator.setup_handlers()


def test_handlers_that_are_not_set_are_not_missed_at_the_removal() -> None:
    async def main() -> None:
        coordinator = SignalCoordinator(required=False)
        coordinator.setup_handlers()
        coordinator.setup_handlers()
        assert not coordinator.reload_event.is_set()
        coordinator.remove_handlers()

    in_a_thread(main())


@pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("starlette", "httpx")),
    reason="not installed: starlette, httpx",
)
@pytest.mark.filterwarnings("ignore:Using `httpx`")
def test_a_module_level_app_works_under_test_client_twice() -> None:
    from contextlib import asynccontextmanager

    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from starlette.testclient import TestClient

    registry = TaskRegistry()
    coordinator = SignalCoordinator(5, registry=registry, required=False)

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        async with coordinator, registry:
            registry.register(forever(), "feed")
            yield

    async def ready(request: Any) -> Any:
        return JSONResponse(coordinator.ready)

    app = Starlette(lifespan=lifespan, routes=[Route("/ready", ready)])
    for _ in range(2):
        with TestClient(app) as client:
            assert client.get("/ready").json() is True
            assert len(registry) == 1
        assert len(registry) == 0
