"""Nothing is lost, whatever happens between two lines of the coordinator."""

import asyncio
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry
from support.lines import at_each_line, interrupted
from support.signals import needs_posix


def in_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def note(
    reported: list[dict[str, Any]],
    loop: asyncio.AbstractEventLoop,
    context: dict[str, Any],
) -> None:
    reported.append(context)


@pytest.fixture
def failing_host() -> Iterator[None]:
    def handler(signum: int, frame: object) -> None:
        raise ValueError("host")

    before = signal.signal(signal.SIGHUP, handler)
    yield
    signal.signal(signal.SIGHUP, before)


@needs_posix
@pytest.mark.parametrize("asked", ["before", "after"])
def test_a_loop_in_another_thread_may_begin_at_any_moment(
    asked: str, failing_host: None, caplog: pytest.LogCaptureFixture
) -> None:
    for line in itertools.count(1):
        coordinator = SignalCoordinator(reload_signals=[signal.SIGHUP])
        loop = asyncio.SelectorEventLoop()
        reported: list[dict[str, Any]] = []
        loop.set_exception_handler(partial(note, reported))
        answers: list[int | None] = []

        async def bind(coordinator: SignalCoordinator = coordinator) -> None:
            _ = coordinator.shutdown_event

        async def wait(
            coordinator: SignalCoordinator = coordinator,
            answers: list[int | None] = answers,
        ) -> None:
            async with asyncio.timeout(5):
                answers.append(await coordinator.wait_for_shutdown())

        def use(coordinator: SignalCoordinator = coordinator) -> None:
            with coordinator:
                signal.raise_signal(signal.SIGHUP)

        caplog.clear()
        if asked == "before":
            coordinator.request_shutdown()
        begin = partial(loop.run_until_complete, bind())
        was_interrupted = interrupted(use, line, partial(in_thread, begin))
        if asked == "after":
            coordinator.request_shutdown()
        if not was_interrupted:
            begin()
        in_thread(partial(loop.run_until_complete, wait()))
        loop.close()
        assert (line, answers) == (line, [None])
        assert (line, coordinator.received) == (line, {signal.SIGHUP: 1})
        assert (line, len(reported) + len(caplog.records)) == (line, 1)
        if not was_interrupted:
            break
    assert line > 100


async def test_a_signal_handler_may_ask_at_any_moment_of_a_new_beginning() -> None:
    for line in itertools.count(1):
        coordinator = SignalCoordinator(registry=TaskRegistry())
        with coordinator:
            coordinator.request_shutdown("old")
            await coordinator.wait_for_shutdown()
        ask = partial(coordinator.request_shutdown, "between")
        was_interrupted = interrupted(coordinator.__enter__, line, ask)
        coordinator.request_shutdown("new")
        async with asyncio.timeout(5):
            assert await coordinator.wait_for_shutdown() is None
        assert coordinator.reason in ("between", "new")
        assert (line, coordinator.phase) == (line, "draining")
        assert coordinator.deadline is not None
        coordinator.__exit__(None, None, None)
        if not was_interrupted:
            break
    assert line > 50


async def test_a_thread_may_read_the_reason_at_any_moment() -> None:
    coordinator = SignalCoordinator()
    assert not coordinator.shutdown_event.is_set()
    seen: list[str | None] = []
    for reason in ("first", "second"):
        in_thread(partial(coordinator.request_shutdown, reason))
    with at_each_line(lambda: seen.append(coordinator.reason)):
        await coordinator.wait_for_shutdown()
    assert set(seen) == {"first"}
