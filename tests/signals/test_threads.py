"""What other threads ask for is never lost."""

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pyasynclife import SignalCoordinator
from support.loops import settle
from support.signals import Run, needs_posix


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def test_a_request_interrupted_anywhere_by_another_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thread is stopped in its call of the clock, where CPython may switch threads,
    while another thread asks too and the loop delivers that."""
    coordinator = SignalCoordinator()
    assert not coordinator.shutdown_event.is_set()
    stopped, go_on = threading.Event(), threading.Event()
    real, main = time.monotonic, threading.main_thread()
    first = threading.Thread(target=coordinator.request_shutdown, args=["first"])

    def clock() -> float:
        if threading.current_thread() is first:
            stopped.set()
            go_on.wait(5)
        return real()

    assert threading.current_thread() is main
    monkeypatch.setattr(time, "monotonic", clock)
    first.start()
    assert stopped.wait(5)
    second = threading.Thread(target=coordinator.request_shutdown, args=["second"])
    second.start()
    second.join()
    await settle()
    go_on.set()
    first.join()
    async with asyncio.timeout(5):
        assert await coordinator.wait_for_shutdown() is None
    assert coordinator.phase == "draining"
    assert coordinator.deadline is not None


@needs_posix
@pytest.mark.parametrize("cause", ["request", "signal"])
async def test_once_not_ready_it_never_is_ready_again(cause: str) -> None:
    """A thread may look at any time; here the loop's thread does at each call."""
    seen: list[bool] = []
    with SignalCoordinator() as coordinator:
        assert not coordinator.shutdown_event.is_set()  # bound to the loop
        thread = threading.Thread(target=coordinator.request_shutdown)
        sys.setprofile(lambda *_: seen.append(coordinator.ready))
        try:
            if cause == "signal":
                signal.raise_signal(signal.SIGTERM)
            else:
                thread.start()
                thread.join()
            await coordinator.wait_for_shutdown()
        finally:
            sys.setprofile(None)
    assert seen == sorted(seen, reverse=True)
    assert (seen[0], seen[-1]) == (True, False)


async def test_requests_of_many_threads_at_once_are_not_lost(
    frequent_switches: None,
) -> None:
    for _ in range(100):
        coordinator = SignalCoordinator()
        assert not coordinator.shutdown_event.is_set()
        barrier = threading.Barrier(4)

        def ask(
            coordinator: SignalCoordinator = coordinator,
            barrier: threading.Barrier = barrier,
        ) -> None:
            barrier.wait(5)
            coordinator.request_shutdown()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await coordinator.wait_for_shutdown()


@needs_posix
async def test_a_request_amid_a_storm_of_signals_is_not_lost(
    frequent_switches: None,
) -> None:
    for _ in range(20):
        with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
            thread = threading.Thread(target=coordinator.request_shutdown)
            thread.start()
            while thread.is_alive() or not coordinator.received:
                os.kill(os.getpid(), signal.SIGHUP)
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await coordinator.wait_for_shutdown()


@needs_posix
async def test_threads_may_read_while_handlers_come_and_go(
    frequent_switches: None,
) -> None:
    coordinator = SignalCoordinator(reload_signals=[signal.SIGHUP])
    errors, seen = [], []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                seen.append(coordinator.received.get(signal.SIGHUP, 0))
                assert coordinator.phase == "running"
                assert coordinator.reason is None
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 200):
        with coordinator:
            os.kill(os.getpid(), signal.SIGHUP)
            await settle(1)
        assert coordinator.received[signal.SIGHUP] >= number
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert max(seen) <= coordinator.received[signal.SIGHUP]  # none counted twice


@needs_posix
def test_a_loop_in_another_thread_delivers_while_handlers_come_and_go(
    run: Run,
) -> None:
    done = run("""
        sys.setswitchinterval(1e-6)
        c = SignalCoordinator(reload_signals=[signal.SIGHUP])
        async def main():
            c.shutdown_event
            while c.phase == "running":
                c._deliver()
                await asyncio.sleep(0)
            print(await c.wait_for_shutdown())
        thread = threading.Thread(target=lambda: run(main()))
        thread.start()
        for _ in range(30):
            with c:
                kill(signal.SIGHUP)
        c.request_shutdown()
        while thread.is_alive():
            time.sleep(0.01)
        print(c.received[signal.SIGHUP])
    """)
    assert done.stdout == "None\n30\n"


@pytest.mark.parametrize("asked", ["before", "after"])
async def test_the_first_reason_is_known_before_the_loop_has_delivered_it(
    asked: str,
) -> None:
    coordinator = SignalCoordinator()
    if asked == "after":
        assert not coordinator.shutdown_event.is_set()
    for reason in ("first", "second"):
        thread = threading.Thread(target=coordinator.request_shutdown, args=[reason])
        thread.start()
        thread.join()
    assert (coordinator.reason, coordinator.phase) == ("first", "draining")
    await coordinator.wait_for_shutdown()
    assert (coordinator.reason, coordinator.phase) == ("first", "draining")
