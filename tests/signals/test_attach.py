"""attach(): batches, groups and registries end with the shutdown, in order."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pyasynclife import (
    BatchError,
    SignalCoordinator,
    TaskGroup,
    TaskPool,
    TaskRegistry,
    bounded_gather,
)
from support.coroutines import forever
from support.loops import in_virtual_time, settle, task_factory, until

PyTask: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

pytestmark = pytest.mark.usefixtures("no_lag")


def at(seconds: float) -> Any:
    return pytest.approx(seconds, abs=0.01)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    in_virtual_time(main())


def now() -> float:
    return asyncio.get_running_loop().time()


class Job:
    """A function of one item whose cleanup takes some time."""

    def __init__(self, cleanup: float = 0, swallows: bool = False) -> None:
        self.cleanup, self.swallows = cleanup, swallows
        self.cancelled_at: list[float] = []
        self.ended_at: list[float] = []

    async def __call__(self, item: object = None) -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            self.cancelled_at.append(now())
            await asyncio.sleep(self.cleanup)
            self.ended_at.append(now())
            if not self.swallows:
                raise


def test_a_registry_that_is_attached_is_shut_down_and_keeps_the_deadline() -> None:
    async def main() -> None:
        first, second = TaskRegistry(), TaskRegistry()
        jobs = Job(0.5), Job(0.25)
        coordinator = SignalCoordinator(5, registry=first)
        coordinator.attach(second)
        async with coordinator, second:
            first.register(jobs[0](), "one")
            second.register(jobs[1](), "two")
            await settle()
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            report = await coordinator.graceful_shutdown()
            assert [one.task_id for one in report.cancelled] == ["one", "two"]
            assert (report.ok, report.deadline_met) == (True, True)
            assert report.duration == at(0.5)
        assert [job.cancelled_at for job in jobs] == [[at(0)], [at(0)]]

    run(main)


def test_a_lower_order_is_cancelled_and_awaited_first() -> None:
    async def main() -> None:
        jobs, feeds, last = TaskRegistry(), TaskRegistry(), TaskRegistry()
        job, feed, end = Job(0.5), Job(0.25), Job()
        coordinator = SignalCoordinator(5)
        coordinator.attach(last, order=7)
        coordinator.attach(feeds, order=1)
        coordinator.attach(jobs, order=-1)
        async with coordinator:
            for registry, one in ((jobs, job), (feeds, feed), (last, end)):
                registry.register(one())
            await settle()
            report = await coordinator.graceful_shutdown()
            assert (len(report.cancelled), report.duration) == (3, at(0.75))
        assert (job.cancelled_at, feed.cancelled_at) == ([at(0)], [at(0.5)])
        assert end.cancelled_at == [at(0.75)]

    run(main)


@pytest.mark.parametrize("by_itself", [True, False])
def test_at_the_deadline_the_orders_that_are_left_are_cancelled_with_a_grace(
    by_itself: bool,
) -> None:
    async def main() -> None:
        jobs, feeds = TaskRegistry(), TaskRegistry()
        stubborn, feed = Job(60), Job(0.25)
        coordinator = SignalCoordinator(2, cancel_on_signal=by_itself)
        coordinator.attach(jobs)
        coordinator.attach(feeds, order=1)
        async with coordinator:
            jobs.register(stubborn(), "mule")
            feeds.register(feed(), "feed")
            await settle()
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            if by_itself:
                await asyncio.sleep(2.5)
            report = await coordinator.graceful_shutdown()
            assert feed.cancelled_at == [at(2)]
            assert feed.ended_at == [at(2.25)]
            assert [one.task_id for one in report.stuck] == ["mule"]
            assert [one.task_id for one in report.cancelled] == ["feed"]
            assert not report.deadline_met
        await jobs.shutdown(100)

    run(main)


def test_by_itself_the_orders_follow_one_another() -> None:
    async def main() -> None:
        jobs, feeds = TaskRegistry(), TaskRegistry()
        job, feed = Job(0.5), Job(0.25)
        coordinator = SignalCoordinator(5, drain=1, cancel_on_signal=True)
        coordinator.attach(jobs)
        coordinator.attach(feeds, order=1)
        async with coordinator:
            jobs.register(job())
            feeds.register(feed())
            await settle()
            coordinator.request_shutdown()
            await asyncio.sleep(3)
            assert (job.cancelled_at, feed.cancelled_at) == ([at(1)], [at(1.5)])
            report = await coordinator.graceful_shutdown()
            assert len(report.cancelled) == 2
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(main)


def test_a_group_is_cancelled_and_its_children_are_in_the_report() -> None:
    async def main() -> None:
        job, swallows = Job(0.5), Job(swallows=True)
        coordinator = SignalCoordinator(5)
        left = []

        async def serve() -> None:
            async with TaskGroup() as group:
                coordinator.attach(group)
                group.create_task(job(), name="a")
                group.create_task(swallows(), name="b")
                await forever()
            left.append(now())

        server = asyncio.create_task(serve())
        await settle()
        async with coordinator:
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            assert coordinator.phase == "draining"
            report = await coordinator.graceful_shutdown()
            assert [one.name for one in report.cancelled] == ["a"]
            assert [one.name for one in report.swallowed] == ["b"]
            assert report.duration == at(0.5)
        await server
        assert left == [at(0.5)]

    run(main)


def test_children_that_a_task_factory_makes_need_not_be_asyncios() -> None:
    async def main() -> None:
        coordinator = SignalCoordinator(5, required=False)

        async def serve() -> None:
            async with TaskGroup() as group:
                coordinator.attach(group)
                with task_factory(make):
                    for name in ("b", "a"):
                        group.create_task(forever(), name=name)

        def make(loop: Any, coro: Any, **how: Any) -> Any:
            return PyTask(coro, loop=loop, **how)

        server = asyncio.create_task(serve())
        await settle()
        async with coordinator:
            report = await coordinator.graceful_shutdown()
        assert [one.name for one in report.cancelled] == ["a", "b"]
        await asyncio.wait([server])

    run(main)


def test_the_block_of_a_group_that_calls_goes_on() -> None:
    async def main() -> None:
        job = Job(0.5)
        coordinator = SignalCoordinator(5)
        async with coordinator, TaskGroup() as group:
            coordinator.attach(group)
            group.create_task(job(), name="a")
            await settle()
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            report = await coordinator.graceful_shutdown()
            assert [one.name for one in report.cancelled] == ["a"]
        assert now() == at(0.5)

    run(main)


def test_a_child_that_calls_is_left_out() -> None:
    async def main() -> None:
        job, reports = Job(0.5), []
        coordinator = SignalCoordinator(5)

        async def ends() -> None:
            reports.append(await coordinator.graceful_shutdown())

        async with coordinator, TaskGroup() as group:
            coordinator.attach(group)
            group.create_task(job(), name="a")
            await settle()
            group.create_task(ends(), name="ends")
        assert [one.name for one in reports[0].cancelled] == ["a"]

    run(main)


def test_a_stuck_child_is_named_with_where_it_waits_and_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        job = Job(60)
        coordinator = SignalCoordinator(1)
        group = TaskGroup()
        coordinator.attach(group)

        async def serve() -> None:
            async with group:
                group.create_task(job(), name="mule")

        server = asyncio.create_task(serve())
        await settle()
        async with coordinator:
            coordinator.request_shutdown()
            report = await coordinator.graceful_shutdown()
            assert [one.name for one in report.stuck] == ["mule"]
            assert "in Job.__call__" in report.stuck[0].where[0]
            assert not report.deadline_met
        assert now() == at(1)
        assert len(job.cancelled_at) == 1
        await server

    run(main)
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


@pytest.mark.parametrize("mode", ["await", "iterate", "block"])
def test_a_batch_is_cancelled_and_its_items_are_in_the_report(mode: str) -> None:
    async def main() -> None:
        job = Job(0.5)
        batch = bounded_gather(job, list("abc"), max_concurrent=2, key=str)
        coordinator = SignalCoordinator(5)
        coordinator.attach(batch)

        async def use() -> None:
            if mode == "await":
                await batch
            elif mode == "iterate":
                async for _ in batch:
                    pass
            else:
                async with batch:
                    pass

        user = asyncio.create_task(use())
        await until(lambda: batch.progress.running == 2)
        async with coordinator:
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            report = await coordinator.graceful_shutdown()
            assert [one.name for one in report.cancelled] == ["a", "b"]
            assert (report.ok, report.duration) == (True, at(0.5))
        await user
        assert job.cancelled_at == [at(0)] * 2

    run(main)


def test_items_that_finish_or_fail_all_the_same_are_reported_so() -> None:
    async def main() -> None:
        async def job(item: str) -> None:
            try:
                await forever()
            except asyncio.CancelledError:
                if item == "bad":
                    raise ValueError(item) from None
                if item == "stuck":
                    await asyncio.sleep(60)

        batch = bounded_gather(job, ["good", "bad", "stuck"], key=str)
        coordinator = SignalCoordinator(1)
        coordinator.attach(batch)
        task = asyncio.create_task(batch.collect())
        await until(lambda: batch.progress.running == 3)
        async with coordinator:
            report = await coordinator.graceful_shutdown()
        assert [one.name for one in report.finished] == ["good"]
        assert [(one.name, type(one.error)) for one in report.failed] == [
            ("bad", ValueError)
        ]
        assert [one.name for one in report.stuck] == ["stuck"]
        assert "in test_items" in report.stuck[0].where[0]
        assert len((await task).failures()) == 1

    run(main)


def test_drain_waits_for_a_batch_and_a_group_and_no_longer() -> None:
    async def main() -> None:
        batch = bounded_gather(asyncio.sleep, [1, 2])
        coordinator = SignalCoordinator(10, drain=5)
        group = TaskGroup()
        for what in (batch, group, bounded_gather(asyncio.sleep, [])):
            coordinator.attach(what)

        async def serve() -> None:
            async with group:
                group.create_task(asyncio.sleep(3))

        tasks = [asyncio.create_task(batch.collect()), asyncio.create_task(serve())]
        await until(lambda: batch.progress.running == 2)
        async with coordinator:
            coordinator.request_shutdown()
        assert now() == at(3)
        await tasks[1]
        assert [one.success for one in tasks[0].result()] == [True, True]

    run(main)


def test_a_caller_cancelled_while_a_batch_ends_is_not_held() -> None:
    async def main() -> None:
        batch = bounded_gather(Job(30), ["a", "b"])
        coordinator = SignalCoordinator(60)
        coordinator.attach(batch)
        user = asyncio.create_task(batch.collect())
        await until(lambda: batch.progress.running == 2)
        with coordinator:
            call = asyncio.create_task(coordinator.graceful_shutdown())
            await asyncio.sleep(1)
            call.cancel("host")
            with pytest.raises(asyncio.CancelledError, match="host"):
                await call
            assert now() == at(1)
        await user
        assert now() == at(30)

    run(main)


@pytest.mark.parametrize("when", ["before", "draining", "cancelling"])
def test_stop_is_called_at_the_beginning_or_at_once(when: str) -> None:
    class Stoppable(TaskRegistry):
        stopped = 0

        def stop(self) -> None:
            self.stopped += 1

    async def main() -> None:
        registry = Stoppable()
        coordinator = SignalCoordinator(5, cancel_on_signal=when == "cancelling")
        async with coordinator:
            registry.register(forever())
            if when == "before":
                coordinator.attach(registry)
                assert registry.stopped == 0
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            await settle()
            coordinator.attach(registry)
            coordinator.attach(registry)
            assert registry.stopped == 1
            await settle()
            assert len(registry) == (0 if when == "cancelling" else 1)

    run(main)


def test_what_is_attached_is_held_weakly() -> None:
    async def main() -> None:
        coordinator = SignalCoordinator(5)
        coordinator.attach(TaskRegistry())
        coordinator.attach(TaskGroup())
        coordinator.attach(bounded_gather(forever, []))
        gc.collect()
        with coordinator, pytest.raises(ValueError, match=r"attach\(\)"):
            await coordinator.graceful_shutdown()

    run(main)


def test_attached_twice_it_is_one_with_the_last_order() -> None:
    async def main() -> None:
        first, second = TaskRegistry(), TaskRegistry()
        job, feed = Job(0.5), Job()
        coordinator = SignalCoordinator(5, registry=first)
        coordinator.attach(second, order=-1)
        coordinator.attach(second, order=-1)
        coordinator.attach(first, order=-2)
        async with coordinator:
            first.register(job())
            second.register(feed())
            await settle()
            report = await coordinator.graceful_shutdown()
        assert len(report.cancelled) == 2
        assert feed.cancelled_at == [at(0.5)]

    run(main)


@pytest.mark.parametrize("order", [1.5, "1", None, True])
def test_a_bad_order_is_refused(order: Any) -> None:
    coordinator = SignalCoordinator()
    with pytest.raises(TypeError, match="order"):
        coordinator.attach(TaskRegistry(), order=order)
    assert not coordinator._attached


async def test_what_cannot_be_attached_is_refused() -> None:
    coordinator = SignalCoordinator()
    task = asyncio.current_task()
    for bad in (task, [TaskRegistry()], None, TaskRegistry, forever(), object()):
        with pytest.raises(
            TypeError, match="Batch, TaskGroup, TaskPool or TaskRegistry"
        ):
            coordinator.attach(bad)  # type: ignore[arg-type]


async def test_another_thread_cannot_attach_and_nothing_has_changed() -> None:
    errors: list[str] = []

    def attach() -> None:
        try:
            coordinator.attach(registry)
        except RuntimeError as error:
            errors.append(str(error))

    coordinator, registry = SignalCoordinator(), TaskRegistry()
    for begun in (False, True):
        coordinator.shutdown_event  # noqa: B018  (binds)
        if begun:
            coordinator.request_shutdown()
        await asyncio.to_thread(attach)
        assert not coordinator._attached
        assert not registry._coordinators
    assert ["call_soon_threadsafe" in error for error in errors] == [True, True]


def test_a_caller_cancelled_between_two_orders_leaves_nothing_running() -> None:
    async def main() -> None:
        jobs, feeds = TaskRegistry(), TaskRegistry()
        job, feed = Job(5), Job()
        coordinator = SignalCoordinator(60)
        coordinator.attach(jobs)
        coordinator.attach(feeds, order=1)

        async def serve() -> None:
            async with coordinator:
                jobs.register(job())
                feeds.register(feed())
                await settle()
                await coordinator.graceful_shutdown()

        server = asyncio.create_task(serve())
        await asyncio.sleep(1)
        server.cancel()
        await asyncio.wait([server])
        assert server.cancelled()
        assert feed.cancelled_at == [at(1)]
        assert len(job.cancelled_at) == 1
        await jobs.wait()

    run(main)


def test_what_a_stop_raises_goes_to_the_loops_exception_handler() -> None:
    class Broken(TaskRegistry):
        def stop(self) -> None:
            raise ValueError("broken")

    async def main() -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: errors.append(context)
        )
        first, second = Broken(), TaskRegistry()
        coordinator = SignalCoordinator(5, cancel_on_signal=True)
        coordinator.attach(first)
        coordinator.attach(second)
        async with coordinator:
            second.register(forever())
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            await asyncio.sleep(0.1)
            assert len(second) == 0
        assert [type(error["exception"]) for error in errors] == [ValueError]
        assert "stopping" in errors[0]["message"]

    run(main)


def test_a_child_reported_as_stuck_is_not_awaited_beside_one_that_ends_just_then() -> (
    None
):
    async def main() -> None:
        stubborn, last = Job(60), Job(0.5 - 5e-10)  # in the same iteration
        coordinator = SignalCoordinator(30)

        async def use() -> None:
            async with TaskGroup() as group:
                coordinator.attach(group)
                group.create_task(stubborn(), name="mule")
                group.create_task(last(), name="last")

        using = asyncio.create_task(use())
        async with coordinator:
            await settle()
            report = await coordinator.graceful_shutdown(timeout=0.5)
            assert "mule" in [one.name for one in report.stuck]
        assert now() == at(0.5)
        await using

    run(main)


def test_a_tracked_child_reported_as_stuck_is_not_awaited_again_at_the_end() -> None:
    async def main() -> None:
        registry, stubborn = TaskRegistry(), Job(60)
        coordinator = SignalCoordinator(30, registry=registry)

        async def use() -> None:
            async with TaskGroup() as group:
                coordinator.attach(group)
                registry.track(group.create_task(stubborn(), name="mule"))

        using = asyncio.create_task(use())
        async with coordinator:
            await settle()
            report = await coordinator.graceful_shutdown(timeout=0.5)
            assert [one.name for one in report.stuck] == ["mule"]
        assert now() == at(0.5)
        assert stubborn.cancelled_at == [at(0)]
        await using

    run(main)


@pytest.mark.parametrize("how", ["budget", "a failure", "batch.cancel", "job.cancel"])
@pytest.mark.parametrize("by_itself", [True, False])
def test_an_item_that_was_cancelled_is_not_cancelled_again(
    how: str, by_itself: bool
) -> None:
    async def main() -> None:
        job, leave = Job(2), asyncio.Event()
        coordinator = SignalCoordinator(30, cancel_on_signal=by_itself)

        async def do(item: int) -> None:
            if item == 1 and how == "a failure":
                raise ValueError
            await job()

        batch = bounded_gather(
            do,
            [0],
            max_errors=0,
            budget=1 if how == "budget" else 9,
            on_result=lambda result: None,
        )
        coordinator.attach(batch)

        async def use() -> None:
            async with batch:
                one = batch.add(2)
                if how == "a failure":
                    batch.add(1)
                await settle()
                if how == "job.cancel":
                    one.cancel()
                elif how == "batch.cancel":
                    batch.cancel()
                await leave.wait()

        using = asyncio.create_task(use())
        async with coordinator:
            await asyncio.sleep(1.5)
            before = len(job.cancelled_at)
            assert before == (1 if how == "job.cancel" else 2)
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            await asyncio.sleep(0.1)
            report = await coordinator.graceful_shutdown()
            assert len(report.cancelled) == 2
        assert len(job.cancelled_at) == len(job.ended_at) == 2
        leave.set()
        await asyncio.wait([using])
        assert isinstance(using.exception(), BatchError) == (how == "a failure")

    run(main)


@pytest.mark.parametrize("by_itself", [True, False])
def test_a_job_of_a_pool_that_was_cancelled_is_not_cancelled_again(
    by_itself: bool,
) -> None:
    async def main() -> None:
        job = Job(2)
        coordinator = SignalCoordinator(30, cancel_on_signal=by_itself)
        pool = TaskPool(5)
        coordinator.attach(pool)
        async with coordinator:
            pool.submit(job)
            await settle()
            pool.cancel()
            await asyncio.sleep(0.5)
            coordinator.request_shutdown()
            await coordinator.wait_for_shutdown()
            await asyncio.sleep(0.5)
            report = await coordinator.graceful_shutdown()
            assert len(report.cancelled) == 1
        assert (job.cancelled_at, job.ended_at) == ([at(0)], [at(2)])

    run(main)
