"""drain and cancel_on_signal: when what is attached is cancelled; in virtual time."""

import asyncio
import logging
import math
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry
from support.loops import in_virtual_time, settle

pytestmark = pytest.mark.usefixtures("no_lag")


def at(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.01)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_virtual_time(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class Worker:
    """A task that ends by itself, and notes when it is cancelled."""

    def __init__(self, seconds: float = 3600, cleanup: float = 0) -> None:
        self.seconds, self.cleanup = seconds, cleanup
        self.cancelled_at: float | None = None
        self.clean = False

    async def __call__(self) -> None:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled_at = now()
            await asyncio.sleep(self.cleanup)
            self.clean = True
            raise


@pytest.mark.parametrize("block", ["call", "end of the block"])
def test_a_signal_that_the_loop_has_not_seen_yet_begins_the_drain(block: str) -> None:
    async def main() -> None:
        worker, registry = Worker(102), TaskRegistry()
        coordinator = SignalCoordinator(10, drain=4, registry=registry)
        async with coordinator:
            registry.register(worker(), "worker")
            await asyncio.sleep(100)
            while coordinator.ready:
                signal.raise_signal(signal.SIGTERM)
            if block == "call":
                report = await coordinator.graceful_shutdown()
                assert [one.task_id for one in report.finished] == ["worker"]
        assert worker.cancelled_at is None
        assert coordinator.deadline == at(110)

    run(main)


@pytest.mark.parametrize("cause", ["signal", "request"])
@pytest.mark.parametrize("passed", [True, False])
def test_nothing_is_cancelled_before_drain_is_over(cause: str, passed: bool) -> None:
    async def main() -> None:
        worker, registry = Worker(), TaskRegistry()
        coordinator = SignalCoordinator(10, drain=4, registry=registry)
        async with coordinator:
            task, _ = registry.register(worker()).result()
            await asyncio.sleep(100)
            if cause == "signal":
                signal.raise_signal(signal.SIGTERM)
            else:
                coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            await asyncio.sleep(1)
            assert coordinator.phase == "draining"
            tasks = [task] if passed else None
            report = await coordinator.graceful_shutdown(tasks)
            assert worker.cancelled_at == at(104)
            assert (len(report.cancelled), report.ok) == (1, True)
            assert (coordinator.phase, now()) == ("stopped", at(104))

    run(main)


@pytest.mark.parametrize("passed", [True, False])
def test_drain_ends_early_when_all_have_ended(passed: bool) -> None:
    async def main() -> None:
        registry = TaskRegistry()
        coordinator = SignalCoordinator(10, drain=4, registry=registry)
        async with coordinator:
            worker = Worker(2.5)
            task, _ = registry.register(worker()).result()
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown([task] if passed else None)
            assert now() == at(2.5)
            # A task that had ended by then counts by how it ended.
            assert len(report.finished) == 1
            assert (worker.cancelled_at, report.ok) == (None, True)

    run(main)


def test_the_exit_of_the_block_waits_for_drain_too() -> None:
    async def main() -> None:
        worker, registry = Worker(cleanup=0.5), TaskRegistry()
        async with SignalCoordinator(10, drain=4, registry=registry) as coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
        assert worker.cancelled_at == at(4)
        assert (worker.clean, now()) == (True, at(4.5))

    run(main)


def test_without_a_signal_or_request_there_is_no_drain() -> None:
    async def main() -> None:
        worker, registry = Worker(), TaskRegistry()
        async with SignalCoordinator(10, drain=4, registry=registry):
            registry.register(worker())
            await settle()
        assert (worker.cancelled_at, now()) == (at(0), at(0))

    run(main)


def test_a_timeout_of_the_call_cuts_drain_short_and_leaves_a_grace() -> None:
    async def main() -> None:
        worker, registry = Worker(cleanup=0.5), TaskRegistry()
        coordinator = SignalCoordinator(10, drain=4, registry=registry)
        async with coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            report = await coordinator.graceful_shutdown(timeout=1)
            assert (worker.cancelled_at, worker.clean) == (at(1), True)
            assert (now(), report.deadline_met) == (at(1.5), False)

    run(main)


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_drain_as_long_as_the_whole_leaves_the_grace(by_itself: bool) -> None:
    async def main() -> None:
        worker, registry = Worker(cleanup=0.5), TaskRegistry()
        async with SignalCoordinator(
            10, drain=10, cancel_on_signal=by_itself, registry=registry
        ) as coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
            if by_itself:
                await asyncio.sleep(10.1)
        assert (worker.cancelled_at, worker.clean) == (at(10), True)

    run(main)


def test_a_drain_without_end_ends_with_the_tasks() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        async with SignalCoordinator(
            math.inf, drain=math.inf, cancel_on_signal=True, registry=registry
        ) as coordinator:
            registry.register(Worker(1000)())
            coordinator.request_shutdown()
        assert now() == at(1000)

    run(main)


@pytest.mark.parametrize("way", ["call", "exit"])
def test_a_caller_that_is_cancelled_in_drain_leaves_nothing_running(way: str) -> None:
    async def main() -> None:
        worker, registry = Worker(), TaskRegistry()

        async def serve() -> None:
            async with SignalCoordinator(10, drain=4, registry=registry) as coordinator:
                task, _ = registry.register(worker()).result()
                await settle()
                coordinator.request_shutdown()
                await coordinator.wait_for_shutdown()
                if way == "call":
                    await coordinator.graceful_shutdown([task])

        server = asyncio.create_task(serve())
        await asyncio.sleep(1)
        server.cancel("host")
        with pytest.raises(asyncio.CancelledError, match="host"):
            await server
        assert (worker.cancelled_at, now()) == (at(1), at(1))

    run(main)


def test_two_calls_wait_for_the_same_drain_and_report_alike() -> None:
    async def main() -> None:
        worker, registry = Worker(), TaskRegistry()
        coordinator = SignalCoordinator(10, drain=4, registry=registry)
        async with coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            reports = await asyncio.gather(
                *(coordinator.graceful_shutdown() for _ in range(2))
            )
            assert [len(report.cancelled) for report in reports] == [1, 1]
            assert now() == at(4)

    run(main)


@pytest.mark.parametrize("drain", [0, 4])
def test_cancel_on_signal_cancels_by_itself_and_the_report_has_all(
    drain: float,
) -> None:
    async def main() -> None:
        worker, registry = Worker(cleanup=0.5), TaskRegistry()
        coordinator = SignalCoordinator(
            10, drain=drain, cancel_on_signal=True, registry=registry
        )
        async with coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
            await asyncio.sleep(8)  # the host drains
            assert worker.cancelled_at == at(drain)
            assert worker.clean
            assert coordinator.phase == "cancelling"
            report = await coordinator.graceful_shutdown()
            assert (len(report.cancelled), report.ok) == (1, True)
            assert (coordinator.phase, now()) == ("stopped", at(8))

    run(main)


def test_what_a_host_s_drain_has_outlasted_was_clean_long_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "pyasynclife")

    async def main() -> None:
        worker, registry = Worker(cleanup=0.2), TaskRegistry()
        async with SignalCoordinator(
            1.0, cancel_on_signal=True, registry=registry
        ) as coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
            await asyncio.sleep(1.5)
            assert worker.clean
        assert now() == at(1.5)

    run(main)
    assert not caplog.records


def test_what_is_registered_after_cancel_on_signal_runs_no_longer() -> None:
    async def main() -> None:
        late, registry = Worker(), TaskRegistry()
        coordinator = SignalCoordinator(10, cancel_on_signal=True, registry=registry)
        async with coordinator:
            registry.register(Worker()())
            await settle()
            coordinator.request_shutdown()
            await asyncio.sleep(1)
            try:
                registry.register(late())
            except RuntimeError:
                pass  # it is closed
            await asyncio.sleep(1)
            assert len(registry) == 0

    run(main)


def test_a_block_that_is_left_before_drain_ends_forgets_the_timer() -> None:
    async def main() -> None:
        worker, registry = Worker(), TaskRegistry()
        coordinator = SignalCoordinator(
            10, drain=4, cancel_on_signal=True, registry=registry
        )
        with coordinator:
            registry.register(worker())
            await settle()
            coordinator.request_shutdown()
            await asyncio.sleep(1)
        await asyncio.sleep(10)
        assert worker.cancelled_at is None
        with coordinator:  # afresh
            assert coordinator.phase == "running"
        await registry.shutdown()

    run(main)


def test_a_coordinator_entered_again_drains_again() -> None:
    async def main() -> None:
        registry = TaskRegistry()
        coordinator = SignalCoordinator(
            10, drain=4, cancel_on_signal=True, registry=registry
        )
        for began in (0, 4):
            worker = Worker()
            async with coordinator:
                registry.register(worker())
                await settle()
                coordinator.request_shutdown()
                await coordinator.wait_for_shutdown()
            assert worker.cancelled_at == at(began + 4)

    run(main)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"drain": -1}, ValueError, "drain"),
        ({"drain": math.nan}, ValueError, "nan"),
        ({"drain": None}, TypeError, "drain"),
        ({"drain": 31}, ValueError, "shutdown_timeout"),
        ({"shutdown_timeout": 1, "drain": 2}, ValueError, "2"),
    ],
)
def test_bad_durations_are_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SignalCoordinator(**options)
