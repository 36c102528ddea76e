"""A coordinator that is entered again begins afresh."""

import asyncio
import os
import signal
import time

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry
from support.coroutines import forever
from support.loops import settle
from support.signals import Run, needs_posix

pytestmark = needs_posix


@pytest.mark.parametrize("cause", ["signal", "request"])
@pytest.mark.parametrize("way", ["with", "async with"])
async def test_after_a_shutdown_all_begins_afresh(cause: str, way: str) -> None:
    coordinator = SignalCoordinator(5, reload_signals=[signal.SIGHUP])
    events = []

    async def use() -> None:
        assert (coordinator.phase, coordinator.ready) == ("running", True)
        assert coordinator.deadline is None
        assert coordinator.reason is None
        assert coordinator.received == {}
        assert not coordinator.shutdown_event.is_set()
        assert not coordinator.reload_event.is_set()
        os.kill(os.getpid(), signal.SIGHUP)
        if cause == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            coordinator.request_shutdown("enough")
        got = await coordinator.wait_for_shutdown()
        assert got == (signal.SIGTERM if cause == "signal" else None)
        assert coordinator.reason == (None if cause == "signal" else "enough")
        events.append(coordinator.shutdown_event)

    for _ in range(3):
        if way == "with":
            with coordinator:
                await use()
        else:
            async with coordinator:
                await use()
        assert not coordinator.ready  # until it is entered again
    assert all(event.is_set() for event in events)  # what is over stays so
    assert len(set(events)) == 3


def test_a_coordinator_of_a_module_serves_one_run_after_the_other(run: Run) -> None:
    done = run("""
        from pyasynclife import TaskRegistry
        registry = TaskRegistry()
        c = SignalCoordinator(5, registry=registry)
        async def main():
            async with c, registry:
                registry.register(asyncio.sleep(60))
                print(c.phase, dict(c.received))
                kill(signal.SIGTERM)
                print(await c.wait_for_shutdown())
                print((await c.graceful_shutdown()).ok)
        for _ in range(2):
            run(main())
    """)
    assert done.stdout == "running {}\n15\nTrue\n" * 2


async def test_after_a_graceful_shutdown_without_a_signal_too() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(5, registry=registry)
    for _ in range(2):
        async with coordinator:
            assert coordinator.phase == "running"
            registry.register(forever(), "feed")
            await settle()
        assert coordinator.phase == "stopped"


async def test_without_a_shutdown_counts_and_reloads_go_on() -> None:
    coordinator = SignalCoordinator(reload_signals=[signal.SIGHUP])
    with coordinator:
        os.kill(os.getpid(), signal.SIGHUP)
        await settle()
    with coordinator:
        assert coordinator.received == {signal.SIGHUP: 1}
        await coordinator.wait_for_reload()


async def test_a_request_before_the_block_is_not_forgotten() -> None:
    coordinator = SignalCoordinator()
    await asyncio.to_thread(coordinator.request_shutdown, "early")
    async with coordinator:
        assert await coordinator.wait_for_shutdown() is None
        assert coordinator.reason == "early"
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_request_after_the_block_belongs_to_the_shutdown_that_is_over() -> None:
    coordinator = SignalCoordinator()
    async with coordinator:
        coordinator.request_shutdown()
    coordinator.request_shutdown("late")
    async with coordinator:
        assert (coordinator.phase, coordinator.reason) == ("running", None)


@pytest.mark.parametrize("runs", ["one run", "two runs"])
def test_a_signal_that_the_block_has_not_seen_is_not_forgotten(
    run: Run, runs: str
) -> None:
    done = run(f"""
        c = SignalCoordinator()
        async def use(number):
            async with c:
                print(c.phase)
                if number == 0:
                    kill(signal.SIGTERM)    # nothing has looked at it
            await asyncio.sleep(0.01)
        async def both():
            for number in range(2):
                await use(number)
        if {runs == "one run"}:
            run(both())
        else:
            for number in range(2):
                run(use(number))
    """)
    assert done.stdout == "running\ndraining\n"


def test_a_second_signal_of_an_old_shutdown_does_not_begin_the_next(run: Run) -> None:
    done = run("""
        c = SignalCoordinator()
        async def main():
            async with c:
                print(c.phase)
                kill(signal.SIGTERM)
                await c.wait_for_shutdown()
                kill(signal.SIGTERM)        # just before the end
        for _ in range(2):
            run(main())
    """)
    assert done.stdout == "running\nrunning\n"


async def test_handlers_set_up_by_hand_in_a_shutdown_change_no_phase() -> None:
    coordinator = SignalCoordinator()
    coordinator.setup_handlers()
    coordinator.request_shutdown()
    coordinator.remove_handlers()
    coordinator.setup_handlers()
    assert coordinator.phase == "draining"
    coordinator.remove_handlers()


async def test_a_new_coordinator_is_not_bound_by_the_deadline_of_an_old_one() -> None:
    registry = TaskRegistry()
    async with SignalCoordinator(0.0, registry=registry) as old:
        old.request_shutdown()
    flushed = False

    async def flusher() -> None:
        nonlocal flushed
        try:
            await forever()
        finally:
            await asyncio.sleep(0.05)
            flushed = True

    registry.register(flusher())
    await settle()
    async with SignalCoordinator(5.0, registry=registry), registry:
        began = time.monotonic()
    assert flushed
    assert time.monotonic() - began < 4
    assert old.phase == "stopped"
