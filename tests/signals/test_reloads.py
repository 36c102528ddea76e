"""SIGHUP does what it did before until somebody asks for reloads; reloads()."""

import asyncio
import os
import pty
import select
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import SignalCoordinator
from support.loops import settle, until
from support.signals import Run, Start, actions, needs_posix, program

pytestmark = needs_posix


def hang_up(number: int = 1) -> None:
    for _ in range(number):
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pty.fork()
def test_a_closed_terminal_ends_the_process(loop: str) -> None:
    pytest.importorskip("uvloop" if loop == "uvloop" else "asyncio")
    source = """
    async def main():
        async with SignalCoordinator() as c:
            print("ready", flush=True)
            await c.wait_for_shutdown()
    run(main())
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["LOOP"] = loop
        os.execv(sys.executable, [sys.executable, *program(source)])
    output = b""
    while b"ready" not in output:
        assert select.select([terminal], [], [], 20)[0]
        output += os.read(terminal, 100)
    os.close(terminal)
    deadline = time.monotonic() + 20
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == -signal.SIGHUP


def reads_the_event(coordinator: SignalCoordinator) -> None:
    assert not coordinator.reload_event.is_set()


def waits(coordinator: SignalCoordinator) -> None:
    asyncio.ensure_future(coordinator.wait_for_reload()).add_done_callback(str)


def iterates(coordinator: SignalCoordinator) -> None:
    coordinator.reloads()


@pytest.mark.parametrize("ask", [reads_the_event, waits, iterates])
async def test_whoever_asks_takes_sighup_and_removal_puts_it_back(
    ask: Callable[[SignalCoordinator], None],
) -> None:
    before = actions()
    with SignalCoordinator() as coordinator:
        assert signal.getsignal(signal.SIGHUP) is before[2]
        ask(coordinator)
        await settle()
        assert signal.getsignal(signal.SIGHUP) is not before[2]
        hang_up()
        await settle()
        assert coordinator.received == {signal.SIGHUP: 1}
    assert actions() == before


async def test_who_has_asked_before_takes_it_at_setup() -> None:
    coordinator = SignalCoordinator()
    event = coordinator.reload_event
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    with coordinator:
        hang_up()
        await asyncio.wait_for(event.wait(), 5)
    with coordinator:  # again
        hang_up()
        await settle()
    assert coordinator.received == {signal.SIGHUP: 2}
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_asked_for_in_a_thread_it_is_taken_at_the_next_setup() -> None:
    with SignalCoordinator() as coordinator:
        thread = threading.Thread(target=lambda: coordinator.reload_event)
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        coordinator.setup_handlers()
        hang_up()
        await asyncio.wait_for(coordinator.wait_for_reload(), 5)


@pytest.mark.parametrize("ask", [None, waits, iterates])
async def test_asked_for_in_a_thread_it_is_taken_in_the_loop_or_when_that_asks_too(
    ask: Callable[[SignalCoordinator], None] | None,
) -> None:
    with SignalCoordinator() as coordinator:
        thread = threading.Thread(target=lambda: coordinator.reload_event)
        thread.start()
        thread.join()
        if ask is not None:
            ask(coordinator)
        await settle()
        assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        hang_up()
        await settle()
        assert coordinator.received == {signal.SIGHUP: 1}
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize("signals", [[], [signal.SIGUSR1]])
async def test_with_signals_of_ones_own_sighup_is_never_taken(
    signals: list[int],
) -> None:
    with SignalCoordinator(reload_signals=signals) as coordinator:
        assert not coordinator.reload_event.is_set()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_an_ignored_sighup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalCoordinator() as coordinator:
            assert not coordinator.reload_event.is_set()
            assert not coordinator.reload_event.is_set()
            hang_up()
            await settle()
            assert coordinator.received == {}
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_reloads_yields_each_signal_until_the_shutdown() -> None:
    seen = []
    signals = [signal.SIGHUP, signal.SIGUSR1]
    with SignalCoordinator(reload_signals=signals) as coordinator:

        async def reload() -> None:
            async for signum in coordinator.reloads():
                seen.append(signum)
                if len(seen) == 1:
                    hang_up(3)  # during a reload: one more
                    os.kill(os.getpid(), signal.SIGUSR1)
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(reload())
        await settle()
        hang_up()
        await until(lambda: len(seen) == 3)
        await asyncio.sleep(0.1)
        assert sorted(seen) == sorted([signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1])
        assert not coordinator.reload_event.is_set()
        coordinator.request_shutdown()
        await asyncio.wait_for(task, 5)
        hang_up()
        await settle()
        assert [one async for one in coordinator.reloads()] == []


async def test_a_graceful_shutdown_without_a_signal_ends_reloads_too() -> None:
    with SignalCoordinator() as coordinator:

        async def reload() -> list[int]:
            return [signum async for signum in coordinator.reloads()]

        task = asyncio.create_task(reload())
        await settle()
        await coordinator.graceful_shutdown([])
        assert await asyncio.wait_for(task, 5) == []


async def test_of_several_iterators_each_signal_goes_to_one() -> None:
    seen: list[int] = []
    with SignalCoordinator() as coordinator:

        async def reload() -> None:
            async for signum in coordinator.reloads():
                seen.append(signum)

        tasks = [asyncio.create_task(reload()) for _ in range(3)]
        await settle()
        for number in range(1, 4):
            hang_up()
            await settle(6)
            assert len(seen) == number
        coordinator.request_shutdown()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)


async def test_what_wait_for_reload_has_consumed_is_not_yielded() -> None:
    with SignalCoordinator() as coordinator:
        reloads = coordinator.reloads()
        hang_up()
        await coordinator.wait_for_reload()
        step = asyncio.ensure_future(anext(reloads))
        await settle()
        assert not step.done()
        hang_up()
        assert await asyncio.wait_for(step, 5) == signal.SIGHUP


async def test_an_iteration_can_be_left_and_begun_again() -> None:
    with SignalCoordinator() as coordinator:
        for _ in range(2):
            hang_up_later = asyncio.get_running_loop().call_later(0.01, hang_up)
            async for signum in coordinator.reloads():
                assert signum == signal.SIGHUP
                break
            hang_up_later.cancel()


def test_a_coordinator_of_another_loop_is_refused_by_the_step(run: Run) -> None:
    done = run("""
    c = SignalCoordinator()
    async def first():
        c.reload_event
    loop = new_loop()
    loop.run_until_complete(first())
    async def second():
        try:
            async for _ in c.reloads():
                pass
        except RuntimeError as error:
            print(str(error)[:9])
    run(second())
    loop.close()
    """)
    assert done.stdout == "reloads()\n"


async def test_a_callback_gets_its_signal_in_the_loop() -> None:
    calls: list[Any] = []
    this = asyncio.get_running_loop()

    def dump(signum: int) -> None:
        calls.append((signum, asyncio.get_running_loop() is this))

    before = signal.getsignal(signal.SIGUSR1)
    with SignalCoordinator(
        callbacks={signal.SIGUSR1: dump}, on_signal=lambda *call: calls.append(call)
    ) as coordinator:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR1)
        await settle()
        assert calls == [(signal.SIGUSR1, 3), (signal.SIGUSR1, True)]
        assert coordinator.received == {signal.SIGUSR1: 3}
        assert coordinator.ready
        assert not coordinator.shutdown_event.is_set()
    assert signal.getsignal(signal.SIGUSR1) == before


async def test_a_callback_that_raises_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def started(signum: int) -> None: ...

    def makes_a_coroutine(signum: int) -> Awaitable[None]:
        return started(signum)

    def raises(signum: int) -> None:
        raise ValueError(signum)

    with SignalCoordinator(
        callbacks={signal.SIGUSR1: raises, signal.SIGUSR2: makes_a_coroutine}
    ):
        for signum in (signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), signum)
        await settle()
    kinds = [type(error["exception"]) for error in loop_errors]
    assert kinds == [ValueError, TypeError]
    assert "SIGUSR1" in loop_errors[0]["message"]
    loop_errors.clear()


async def asynchronous(signum: int) -> None: ...


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"callbacks": [signal.SIGUSR1]}, TypeError, "map signals"),
        ({"callbacks": {signal.SIGUSR1: None}}, TypeError, "None"),
        ({"callbacks": {signal.SIGUSR1: asynchronous}}, TypeError, "not awaited"),
        ({"callbacks": {"SIGUSR1": print}}, TypeError, "'SIGUSR1'"),
        ({"callbacks": {signal.SIGTERM: print}}, ValueError, "SIGTERM"),
        (
            {"callbacks": {signal.SIGHUP: print}, "reload_signals": [signal.SIGHUP]},
            ValueError,
            "SIGHUP",
        ),
    ],
)
def test_bad_callbacks_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SignalCoordinator(**options)


async def test_a_callback_takes_sighup_from_the_reloads() -> None:
    calls: list[int] = []
    with SignalCoordinator(callbacks={signal.SIGHUP: calls.append}) as coordinator:
        assert not coordinator.reload_event.is_set()
        hang_up()
        await settle()
        assert (calls, coordinator.reload_event.is_set()) == ([signal.SIGHUP], False)


def test_a_sighup_while_nobody_has_asked_reaches_the_host(start: Start) -> None:
    with start("""
    async def main():
        signal.signal(signal.SIGHUP, lambda *_: print("host"))
        async with SignalCoordinator() as c:
            print("ready")
            await c.wait_for_shutdown()
            print(dict(c.received) == {signal.SIGTERM: 1})
    run(main())
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGHUP)
        child.wait_for("host")
        child.send_signal(signal.SIGTERM)
        assert child.finish().stdout == "ready\nhost\nTrue\n"


async def test_asking_for_reloads_puts_no_displaced_handler_back() -> None:
    def host(signum: int, frame: object) -> None: ...

    with SignalCoordinator() as coordinator:
        ours = signal.signal(signal.SIGTERM, host)
        assert not coordinator.reload_event.is_set()
        assert signal.getsignal(signal.SIGTERM) is host
        assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL
        signal.signal(signal.SIGTERM, ours)
