"""Coordinator and registry, nested in any way: one cancellation, report and deadline.

Most tests run in virtual time, in which no signal waits for the loop.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import ShutdownReport, SignalCoordinator, TaskRegistry
from support.loops import in_virtual_time, settle
from support.signals import Start, finish, needs_posix

pytestmark = pytest.mark.usefixtures("no_lag")

STARTED = pytest.approx


class Swallower:
    """A task that catches each cancellation and goes on until it is freed."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.free = asyncio.Event()

    async def __call__(self) -> None:
        while not self.free.is_set():
            try:
                await self.free.wait()
            except asyncio.CancelledError:
                self.cancelled += 1


class Flusher:
    """A task whose cleanup takes some time; does it come to its end?"""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.flushed = False
        self.cancelled = 0

    async def __call__(self) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(self.seconds)
            self.flushed = True
            raise


Enter = Callable[
    [SignalCoordinator, TaskRegistry], contextlib.AbstractAsyncContextManager[None]
]


@contextlib.asynccontextmanager
async def coordinator_outside(
    coordinator: SignalCoordinator, registry: TaskRegistry
) -> AsyncIterator[None]:
    async with coordinator, registry:
        yield


@contextlib.asynccontextmanager
async def registry_outside(
    coordinator: SignalCoordinator, registry: TaskRegistry
) -> AsyncIterator[None]:
    async with registry, coordinator:
        yield


@contextlib.asynccontextmanager
async def one_with_per_line(
    coordinator: SignalCoordinator, registry: TaskRegistry
) -> AsyncIterator[None]:
    async with coordinator, registry:
        yield


@contextlib.asynccontextmanager
async def exit_stack(
    coordinator: SignalCoordinator, registry: TaskRegistry
) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(registry)
        await stack.enter_async_context(coordinator)
        yield


NESTINGS = [coordinator_outside, registry_outside, one_with_per_line, exit_stack]
nestings = pytest.mark.parametrize("enter", NESTINGS)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_virtual_time(main())


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The reports that were logged at ERROR."""
    caplog.set_level(logging.DEBUG, "pyasynclife")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "pyasynclife" and record.levelno >= logging.ERROR
    ]


@needs_posix
@nestings
@pytest.mark.parametrize("called", [True, False])
def test_the_coordinators_deadline_holds_in_any_nesting(
    enter: Enter, called: bool, logged: Callable[[], list[str]]
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry(shutdown_timeout=30)
        coordinator = SignalCoordinator(1.0, registry=registry)
        async with enter(coordinator, registry):
            registry.register(swallower(), "mule")
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await coordinator.wait_for_shutdown()
            began = now()
            if called:
                report = await coordinator.graceful_shutdown()
                assert [one.task_id for one in report.stuck] == ["mule"]
                assert not report.deadline_met
        assert now() - began == STARTED(1.0, abs=0.01)
        assert swallower.cancelled == 1
        # Returned to the caller, or logged: reported once.
        assert len(logged()) == (0 if called else 1)
        assert coordinator.phase == "stopped"
        swallower.free.set()
        await settle()
        assert len(registry) == 0

    run(main)


@needs_posix
@nestings
def test_the_coordinators_deadline_holds_if_the_registrys_is_shorter(
    enter: Enter,
) -> None:
    async def main() -> None:
        flusher = Flusher(2.0)
        registry = TaskRegistry(shutdown_timeout=0.5)
        coordinator = SignalCoordinator(5.0, registry=registry)
        async with enter(coordinator, registry):
            registry.register(flusher())
            await settle()
            coordinator.request_shutdown()
        assert flusher.flushed
        assert now() == STARTED(2.0, abs=0.01)

    run(main)


@needs_posix
@nestings
def test_without_a_signal_the_blocks_wait_once(
    enter: Enter, logged: Callable[[], list[str]]
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry(shutdown_timeout=2.0)
        coordinator = SignalCoordinator(2.0, registry=registry)
        async with enter(coordinator, registry):
            registry.register(swallower())
            await settle()
        assert now() == STARTED(2.0, abs=0.01)
        assert (swallower.cancelled, len(logged())) == (1, 1)
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
def test_a_registry_in_no_coordinators_care_keeps_its_own_timeout() -> None:
    async def main() -> None:
        swallower = Swallower()
        registry, other = TaskRegistry(), TaskRegistry(shutdown_timeout=3.0)
        coordinator = SignalCoordinator(1.0, registry=registry)
        async with coordinator, registry, other:
            other.register(swallower())
            await settle()
            coordinator.request_shutdown()
        assert now() == STARTED(3.0, abs=0.01)
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
def test_a_signal_shortens_a_shutdown_that_runs_by_the_registrys_timeout(
    logged: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry(shutdown_timeout=30.0)
        coordinator = SignalCoordinator(1.0, registry=registry)
        loop = asyncio.get_running_loop()
        async with coordinator, registry:
            registry.register(swallower())
            await settle()
            loop.call_later(0.5, signal.raise_signal, signal.SIGTERM)
        assert now() == STARTED(1.5, abs=0.01)
        assert (swallower.cancelled, len(logged())) == (1, 1)
        swallower.free.set()
        await settle()

    run(main)


async def test_a_request_in_another_loop_shortens_no_shutdown_of_this_one() -> None:
    swallower = Swallower()
    registry = TaskRegistry(shutdown_timeout=30.0)
    coordinator = SignalCoordinator(0.0, registry=registry)

    async def elsewhere() -> None:
        assert not coordinator.shutdown_event.is_set()
        coordinator.request_shutdown()
        assert coordinator.shutdown_event.is_set()

    registry.register(swallower())
    await settle()
    shutdown = asyncio.create_task(registry.shutdown())
    await settle()
    await asyncio.to_thread(asyncio.run, elsewhere())
    await settle()
    waits = not shutdown.done()
    swallower.free.set()
    assert (await asyncio.wait_for(shutdown, 5)).deadline_met
    assert waits


@needs_posix
@nestings
@pytest.mark.parametrize(("timeout", "seconds"), [(0.2, 0.2), (3.0, 3.0)])
def test_an_explicit_timeout_holds_for_its_call_and_nothing_waits_again(
    enter: Enter, timeout: float, seconds: float, logged: Callable[[], list[str]]
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry()
        coordinator = SignalCoordinator(1.0, registry=registry)
        async with enter(coordinator, registry):
            registry.register(swallower())
            await settle()
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown(timeout=timeout)
            assert len(report.stuck) == 1
        assert now() == STARTED(seconds, abs=0.01)
        assert (swallower.cancelled, logged()) == (1, [])
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
@nestings
def test_tasks_passed_to_graceful_shutdown_are_not_shut_down_again(
    enter: Enter, logged: Callable[[], list[str]]
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry()
        coordinator = SignalCoordinator(1.0, registry=registry)
        async with enter(coordinator, registry):
            task, _ = registry.register(swallower()).result()
            await settle()
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown([task])
            assert len(report.stuck) == 1
        assert now() == STARTED(1.0, abs=0.01)
        assert (swallower.cancelled, logged()) == (1, [])
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
@nestings
def test_a_task_registered_after_a_shutdown_is_shut_down_by_the_exit(
    enter: Enter,
) -> None:
    async def main() -> None:
        swallower, flusher = Swallower(), Flusher(0.5)
        registry = TaskRegistry()
        coordinator = SignalCoordinator(1.0, registry=registry)
        async with enter(coordinator, registry):
            registry.register(swallower())
            await settle()
            coordinator.request_shutdown()
            await coordinator.graceful_shutdown()
            registry.register(flusher())
            await settle()
        # It was cancelled at the deadline, so it has a grace.
        assert now() == STARTED(1.5, abs=0.01)
        assert (swallower.cancelled, flusher.cancelled) == (1, 1)
        assert flusher.flushed
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
@nestings
def test_exits_of_a_cancelled_caller_cancel_each_task_once(enter: Enter) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry(shutdown_timeout=30)
        coordinator = SignalCoordinator(2.0, registry=registry)

        async def serve() -> None:
            async with enter(coordinator, registry):
                registry.register(swallower())
                await settle()
                coordinator.request_shutdown()
                await asyncio.sleep(3600)

        server = asyncio.create_task(serve())
        await asyncio.sleep(0.1)
        server.cancel("first")
        await asyncio.sleep(0.1)
        server.cancel("second")
        with pytest.raises(asyncio.CancelledError):
            await server
        assert swallower.cancelled == 1
        assert now() <= 2.01
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
def test_what_was_cancelled_but_not_reported_is_awaited_by_the_outer_exit(
    logged: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        flusher, swallower = Flusher(1.0), Swallower()
        registry = TaskRegistry()
        coordinator = SignalCoordinator(2.0, registry=registry)

        async def serve() -> None:
            async with coordinator, registry:
                registry.register(flusher(), "flusher")
                registry.register(swallower(), "mule")
                await settle()
                coordinator.request_shutdown()

        server = asyncio.create_task(serve())
        await asyncio.sleep(0.5)
        server.cancel()  # the registry's exit ends at once, the coordinator's waits
        with pytest.raises(asyncio.CancelledError):
            await server
        assert flusher.flushed
        assert (flusher.cancelled, swallower.cancelled) == (1, 1)
        assert now() == STARTED(2.0, abs=0.01)
        assert ["mule" in text and "flusher" not in text for text in logged()] == [True]
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
def test_two_coordinators_over_one_registry_keep_the_earlier_deadline(
    logged: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry(shutdown_timeout=30)
        slow = SignalCoordinator(5.0, registry=registry)
        fast = SignalCoordinator(1.0, registry=registry)
        async with slow, fast, registry:
            registry.register(swallower())
            await settle()
            signal.raise_signal(signal.SIGTERM)
            await slow.wait_for_shutdown()
            await fast.wait_for_shutdown()
        assert now() == STARTED(1.0, abs=0.01)
        assert (swallower.cancelled, len(logged())) == (1, 1)
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
def test_a_watchers_shutdown_ends_the_exit_that_waits_for_the_same_tasks(
    logged: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        swallower = Swallower()
        registry = TaskRegistry(shutdown_timeout=30)
        coordinator = SignalCoordinator(1.0, registry=registry)
        reports: list[ShutdownReport] = []

        async def watch() -> None:
            reports.append(await coordinator.graceful_shutdown())

        async with coordinator, registry:
            registry.register(swallower())
            await settle()
            watcher = asyncio.create_task(watch())
            await settle()
        await watcher
        assert now() == STARTED(1.0, abs=0.01)
        assert [len(report.stuck) for report in reports] == [1]
        assert (swallower.cancelled, logged()) == (1, [])
        swallower.free.set()
        await settle()

    run(main)


def test_another_call_of_shutdown_cancels_again() -> None:
    async def main() -> None:
        swallower, registry = Swallower(), TaskRegistry(shutdown_timeout=1.0)
        registry.register(swallower())
        await settle()
        for count in (1, 2):
            assert len((await registry.shutdown()).stuck) == 1
            assert swallower.cancelled == count
        swallower.free.set()
        await settle()

    run(main)


def test_another_graceful_shutdown_waits_and_reports_and_cancels_nothing() -> None:
    async def main() -> None:
        swallower, registry = Swallower(), TaskRegistry()
        coordinator = SignalCoordinator(1.0, registry=registry)
        registry.register(swallower())
        await settle()
        coordinator.request_shutdown()
        await coordinator.graceful_shutdown()
        assert len((await coordinator.graceful_shutdown()).stuck) == 1
        assert now() == STARTED(1.0, abs=0.01)  # past the deadline: no wait
        asyncio.get_running_loop().call_later(2.0, swallower.free.set)
        report = await coordinator.graceful_shutdown(timeout=5.0)
        assert (len(report.swallowed), swallower.cancelled) == (1, 1)
        assert now() == STARTED(3.0, abs=0.01)

    run(main)


async def _registry_first(
    registry: TaskRegistry, coordinator: SignalCoordinator, task: asyncio.Task[None]
) -> None:
    await registry.shutdown(0.1)
    await coordinator.graceful_shutdown([task], timeout=0.1)


async def _registry_meanwhile(
    registry: TaskRegistry, coordinator: SignalCoordinator, task: asyncio.Task[None]
) -> None:
    shutdown = asyncio.create_task(registry.shutdown(1.0))
    await settle()
    await coordinator.graceful_shutdown([task], timeout=0.1)
    await shutdown


async def _passed_first(
    registry: TaskRegistry, coordinator: SignalCoordinator, task: asyncio.Task[None]
) -> None:
    await coordinator.graceful_shutdown([task], timeout=0.1)
    await coordinator.graceful_shutdown(timeout=0.1)


async def _passed_twice(
    registry: TaskRegistry, coordinator: SignalCoordinator, task: asyncio.Task[None]
) -> None:
    for _ in range(3):
        report = await coordinator.graceful_shutdown([task], timeout=0.1)
        assert len(report.stuck) == 1


@pytest.mark.parametrize(
    "shut_down", [_registry_first, _registry_meanwhile, _passed_first, _passed_twice]
)
@pytest.mark.parametrize("care", ["registry=", "attach()", "none"])
def test_a_task_that_is_passed_is_not_cancelled_again(
    shut_down: Callable[..., Coroutine[Any, Any, None]], care: str
) -> None:
    if care == "none" and shut_down is not _passed_twice:
        pytest.skip("nothing is attached")

    async def main() -> None:
        swallower, registry = Swallower(), TaskRegistry()
        if care == "registry=":
            coordinator = SignalCoordinator(registry=registry)
        else:
            coordinator = SignalCoordinator()
        if care == "attach()":
            coordinator.attach(registry)
        if care == "none":
            task = asyncio.create_task(swallower())
        else:
            task, _ = registry.register(swallower()).result()
        await settle()
        await shut_down(registry, coordinator, task)
        assert swallower.cancelled == 1
        swallower.free.set()
        report = await coordinator.graceful_shutdown([task])
        assert len(report.swallowed) == 1

    run(main)


@pytest.mark.parametrize("timeout", [0, 0.5])
def test_the_timeout_of_a_call_ends_no_shutdown_of_the_registry(timeout: float) -> None:
    async def main() -> None:
        flusher, registry = Flusher(5.0), TaskRegistry(shutdown_timeout=30)
        coordinator = SignalCoordinator(1.0, registry=registry)
        registry.register(flusher())
        await settle()
        shutdown = asyncio.create_task(registry.shutdown())
        await settle()
        report = await coordinator.graceful_shutdown(timeout=timeout)
        assert (len(report.stuck), now()) == (1, STARTED(timeout))
        report = await shutdown
        assert (len(report.cancelled), now()) == (1, STARTED(5.0))

    run(main)


@needs_posix
@pytest.mark.parametrize("way", ["shutdown()", "block"])
def test_a_registry_that_outlives_the_coordinators_block_has_its_own_timeout(
    way: str,
) -> None:
    async def main() -> None:
        registry = TaskRegistry(shutdown_timeout=30)
        async with SignalCoordinator(1.0, registry=registry) as coordinator:
            coordinator.request_shutdown()
        await asyncio.sleep(2.0)
        began, flusher = now(), Flusher(5.0)
        if way == "block":
            async with registry:
                registry.register(flusher())
                await settle()
        else:
            registry.register(flusher())
            await settle()
            report = await registry.shutdown()
            assert report.deadline_met
        assert (flusher.flushed, now() - began) == (True, STARTED(5.0))

    run(main)


@needs_posix
def test_in_its_block_a_registry_keeps_the_deadline_of_an_inner_block() -> None:
    async def main() -> None:
        swallower, registry = Swallower(), TaskRegistry(shutdown_timeout=30)
        async with registry:
            async with SignalCoordinator(1.0, registry=registry) as coordinator:
                registry.register(swallower())
                await settle()
                coordinator.request_shutdown()
            report = await registry.shutdown()
            assert (len(report.stuck), report.deadline_met) == (1, False)
        assert now() == STARTED(2.0, abs=0.01)  # cancelled anew, with a grace
        swallower.free.set()
        await settle()

    run(main)


# ------------------------------------------------------------------ the clock


@pytest.mark.parametrize("tasks", ["registry", "list", "none"])
def test_a_report_after_the_deadline_has_missed_it(tasks: str) -> None:
    async def main() -> None:
        registry = TaskRegistry()
        coordinator = SignalCoordinator(1.0, registry=registry)
        assert not coordinator.shutdown_event.is_set()  # bound to the loop
        task, _ = registry.register(asyncio.sleep(3600)).result()
        if tasks == "none":
            task.cancel()
        coordinator.request_shutdown()
        await asyncio.sleep(5.0)
        report = await coordinator.graceful_shutdown(
            [task] if tasks == "list" else None
        )
        assert not report.deadline_met
        assert report.ok
        assert "DEADLINE MISSED" in str(report)

    run(main)


async def test_a_loop_that_stood_still_until_after_the_deadline_has_missed_it() -> None:
    async def blocks() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            time.sleep(0.1)

    registry = TaskRegistry()
    registry.register(blocks())
    await settle()
    report = await registry.shutdown(0.05)
    assert (report.ok, report.deadline_met) == (True, False)


@pytest.mark.parametrize("tasks", ["registry", "list"])
@pytest.mark.parametrize(
    ("timeout", "needs", "flushed", "ends"),
    [(1.0, 0.2, True, 3.2), (1.0, 5.0, False, 4.0), (0.5, 5.0, False, 3.5)],
)
def test_what_is_cancelled_after_the_deadline_has_a_grace(
    tasks: str, timeout: float, needs: float, flushed: bool, ends: float
) -> None:
    async def main() -> None:
        flusher, registry = Flusher(needs), TaskRegistry()
        coordinator = SignalCoordinator(timeout, registry=registry)
        assert not coordinator.shutdown_event.is_set()  # bound to the loop
        task, _ = registry.register(flusher()).result()
        await settle()
        coordinator.request_shutdown()
        await asyncio.sleep(3.0)  # a host serves its last requests
        report = await coordinator.graceful_shutdown(
            [task] if tasks == "list" else None
        )
        assert (flusher.flushed, bool(report.stuck)) == (flushed, not flushed)
        assert not report.deadline_met
        assert now() == STARTED(ends, abs=0.01)
        await asyncio.wait([task])

    run(main)


def test_who_joins_after_the_deadline_does_not_move_it() -> None:
    async def main() -> None:
        swallower, registry = Swallower(), TaskRegistry()
        coordinator = SignalCoordinator(1.0, registry=registry)
        assert not coordinator.shutdown_event.is_set()  # bound to the loop
        task, _ = registry.register(swallower()).result()
        await settle()
        coordinator.request_shutdown()
        await asyncio.sleep(3.0)

        async def join(after: float) -> ShutdownReport:
            await asyncio.sleep(after)
            return await coordinator.graceful_shutdown([task])

        reports = await asyncio.gather(*map(join, [0.0, 0.4, 0.8]))
        assert [len(report.stuck) for report in reports] == [1, 1, 1]
        assert (now(), swallower.cancelled) == (STARTED(4.0, abs=0.01), 1)
        swallower.free.set()
        await settle()

    run(main)


@needs_posix
@nestings
def test_blocks_left_after_the_deadline_share_one_grace(enter: Enter) -> None:
    async def main() -> None:
        swallower, flusher = Swallower(), Flusher(0.5)
        registry = TaskRegistry()
        coordinator = SignalCoordinator(2.0, registry=registry)
        async with enter(coordinator, registry):
            registry.register(swallower())
            registry.register(flusher())
            await settle()
            coordinator.request_shutdown()
            await asyncio.sleep(3.0)
        assert flusher.flushed
        assert now() == STARTED(4.0, abs=0.01)
        assert swallower.cancelled == 1
        swallower.free.set()
        await settle()

    run(main)


# ------------------------------------------------------------------ real processes

SERVICE = """
    from pyasynclife import TaskRegistry
    async def stubborn():
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                print("cancelled")
    async def main():
        registry = TaskRegistry()
        coordinator = SignalCoordinator({timeout}, registry=registry)
        async with {nesting}:
            registry.register(stubborn())
            await asyncio.sleep(0.05)
            print("ready")
            await coordinator.wait_for_shutdown()
            began = time.monotonic()
            print(len((await coordinator.graceful_shutdown()).stuck))
        print(time.monotonic() - began < 10)
        os._exit(0)
    run(main())
"""


@needs_posix
@pytest.mark.parametrize("nesting", ["coordinator, registry", "registry, coordinator"])
def test_a_real_service_is_gone_by_the_deadline(start: Start, nesting: str) -> None:
    with start(SERVICE.format(nesting=nesting, timeout=0.3)) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = finish(child)
    assert (done.returncode, done.stdout) == (0, "ready\ncancelled\n1\nTrue\n")


@needs_posix
def test_a_real_host_that_drains_too_long_leaves_time_to_clean_up(start: Start) -> None:
    with start("""
        import logging
        from pyasynclife import TaskRegistry
        logging.disable()
        async def flusher():
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(0.2)
                print("flushed")
        async def main():
            registry = TaskRegistry()
            async with SignalCoordinator(0.5, registry=registry) as c:
                registry.register(flusher())
                await asyncio.sleep(0.05)
                print("ready")
                await c.wait_for_shutdown()
                await asyncio.sleep(0.7)    # the host finishes its requests
            signal.raise_signal(signal.SIGTERM)     # as uvicorn does
        run(main())
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = finish(child)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "ready\nflushed\n")
