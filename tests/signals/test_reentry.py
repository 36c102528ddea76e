"""A coordinator that is entered again begins afresh."""

import asyncio
import os
import signal
import time

import pytest

from pyasynclife import SignalCoordinator, SignalSetupError, TaskRegistry
from support.coroutines import forever, swallow
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


@pytest.mark.parametrize("cause", ["passed", "attached"])
async def test_after_a_shutdown_whose_caller_was_cancelled_too(cause: str) -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry if cause == "attached" else None)
    task, _ = await registry.register(swallow(times=2), "mule")
    await settle()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), coordinator:
            if cause == "passed":
                await coordinator.graceful_shutdown([task])
    assert coordinator.phase == "cancelling"
    task.cancel()
    async with coordinator:
        assert (coordinator.phase, coordinator.ready) == ("running", True)
        assert not coordinator.shutdown_event.is_set()
    await registry.wait()


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_call_of_the_old_block_changes_nothing_in_the_new_one(
    ends: str,
) -> None:
    coordinator = SignalCoordinator(5.0)
    old = asyncio.create_task(swallow(times=2))
    await settle()
    with coordinator:
        coordinator.request_shutdown()
        call = asyncio.create_task(coordinator.graceful_shutdown([old]))
        await settle()
    with coordinator:
        assert (coordinator.phase, coordinator.received) == ("running", {})
        if ends == "before":
            old.cancel()
            await call
            assert coordinator.phase == "running"
        new = asyncio.create_task(forever())
        await settle()
        report = await coordinator.graceful_shutdown([new])
        assert [one.name for one in report.cancelled] == [new.get_name()]
        assert coordinator.phase == "stopped"
        old.cancel()
        assert len((await call).swallowed) == 1
        assert coordinator.phase == "stopped"


async def test_a_call_of_the_old_block_leaves_the_new_sequence_alone() -> None:
    coordinator = SignalCoordinator(5.0, drain=0.05, cancel_on_signal=True)
    registry = TaskRegistry()
    old = asyncio.create_task(swallow(times=2))
    await settle()
    with coordinator:
        call = asyncio.create_task(coordinator.graceful_shutdown([old]))
        await settle()
    coordinator.attach(registry)
    feed, _ = await registry.register(forever())
    await settle()
    with coordinator:
        coordinator.request_shutdown()
        old.cancel()
        await call
        async with asyncio.timeout(5):
            await asyncio.wait([feed])  # drain is over
        assert feed.cancelled()
        assert coordinator.phase == "cancelling"


@pytest.mark.parametrize("inner", ["with", "async with"])
@pytest.mark.parametrize("outer", ["with", "async with"])
def test_a_block_in_its_own_block_is_refused_and_changes_nothing(
    run: Run, outer: str, inner: str
) -> None:
    done = run(f"""
        async def main():
            c = SignalCoordinator()
            c.setup_handlers()      # before the block: no entry
            {outer} c:
                before = actions()
                try:
                    {inner} c:
                        print("entered")
                except RuntimeError as error:
                    print(error)
                assert actions() == before
                kill(signal.SIGTERM)
                print(await c.wait_for_shutdown())
            {outer} c:
                print(c.phase)
        run(main())
    """)
    first, *others = done.stdout.splitlines()
    assert "SignalCoordinator" in first
    assert "is already entered" in first
    assert others == ["15", "running"]


def test_a_block_outside_a_loop_counts_in_every_loop(run: Run) -> None:
    done = run("""
        c = SignalCoordinator()
        async def main():
            async with c:
                print("entered")
        with c:
            for _ in range(2):
                try:
                    run(main())
                except RuntimeError:
                    print("refused")
        run(main())
    """)
    assert done.stdout == "refused\nrefused\nentered\n"


def test_a_block_that_a_closed_loop_has_abandoned_is_over(run: Run) -> None:
    done = run("""
        c = SignalCoordinator()
        async def abandoned(entered):
            async with c:
                entered.set_result(None)
                await asyncio.sleep(60)
        async def main():
            async with c:
                print(c.phase)
                kill(signal.SIGTERM)
                print(await c.wait_for_shutdown())
        loop = new_loop()
        entered = loop.create_future()
        task = loop.create_task(abandoned(entered))
        task._log_destroy_pending = False
        loop.run_until_complete(entered)
        c.request_shutdown()
        loop.run_until_complete(c.wait_for_shutdown())
        loop.close()
        run(main())
        os._exit(0)
    """)
    assert done.stdout == "running\n15\n"


async def test_handlers_that_cannot_be_set_up_leave_the_block_unentered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coordinator = SignalCoordinator()
    with monkeypatch.context() as patch:
        patch.delattr(signal, "siginterrupt")
        for _ in range(2):
            with pytest.raises(SignalSetupError), coordinator:
                pytest.fail("entered")
    with coordinator:
        assert coordinator.ready
