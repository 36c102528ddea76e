"""register(): a Task and its id, in the caller's context, by any task factory."""

import asyncio
import contextvars
import inspect
from typing import Any

import pytest

from pyasynclife import DuplicateTaskError, TaskRegistry, TaskState
from pyasynclife._core import JoinSet
from support.coroutines import echo, forever
from support.loops import eager, settle, task_factory
from support.marks import needs_eager
from support.registries import a_registry, adds_up
from support.tasks import OddTask, fails, odd_factory


async def test_register_gives_a_real_task_named_by_its_id() -> None:
    async with a_registry() as registry:
        task, task_id = await registry.register(forever(), "feed")
        assert isinstance(task, asyncio.Task)
        assert (task_id, task.get_name()) == ("feed", "feed")
        assert "feed" in registry
        assert registry["feed"].task is task


async def test_register_acts_when_called() -> None:
    async with a_registry() as registry:
        registry.register(forever(), "feed")
        assert list(registry) == ["feed"]


async def test_ids_of_the_registry_are_never_the_same_again() -> None:
    async with a_registry(history=0) as registry:
        first = (await registry.register(echo(1)))[1]
        await registry.wait()
        second = (await registry.register(forever()))[1]
        registry.register(forever(), "task_2")
        third = (await registry.register(forever()))[1]
        assert [first, second, third] == ["task_0", "task_1", "task_3"]


async def test_a_finished_id_may_come_back_in_its_old_place() -> None:
    async with a_registry() as registry:
        await registry.register(echo(1), "feed")
        registry.register(echo(2), "other")
        await registry.wait()
        await registry.register(forever(), "feed")
        assert registry["feed"].state is TaskState.PENDING
        assert list(await registry.get_status()) == ["other", "feed"]


async def test_a_subclass_of_str_is_taken_as_an_exact_str() -> None:
    class Id(str):
        def __hash__(self) -> int:
            raise AssertionError("the registry called a subclass's __hash__")

    async with a_registry() as registry:
        _, task_id = await registry.register(forever(), Id("feed"))
        assert type(task_id) is str
        assert registry.heartbeat(Id("feed")).result()


async def test_the_task_runs_in_the_given_context() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("v")

    async def read() -> int:
        return variable.get()

    context = contextvars.copy_context()
    context.run(variable.set, 7)
    registry = TaskRegistry()
    task, _ = await registry.register(read(), context=context)
    assert await task == 7
    await registry.wait()


async def test_a_coroutine_that_was_garbage_but_for_the_registry_lives() -> None:
    import gc

    async with a_registry() as registry:
        registry.register(forever(), "feed")
        await settle()
        gc.collect()
        assert "feed" in registry


async def test_a_coroutine_that_runs_or_has_run_is_refused_and_left_alone() -> None:
    registry = TaskRegistry()

    async def registers_itself() -> None:
        coro = asyncio.current_task().get_coro()  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match="started already"):
            registry.register(coro)  # type: ignore[arg-type]

    await asyncio.create_task(registers_itself())
    task = asyncio.create_task(forever())
    await settle()
    with pytest.raises(RuntimeError, match="started already"):
        registry.register(task.get_coro())  # type: ignore[arg-type]
    assert not task.done()
    task.cancel()
    over = echo(1)
    await over
    with pytest.raises(RuntimeError, match="started already"):
        registry.register(over)
    assert len(registry) == 0
    await asyncio.wait([task])


async def test_a_coroutine_that_was_closed_is_refused() -> None:
    registry = TaskRegistry()
    coro = forever()
    coro.close()
    with pytest.raises(RuntimeError, match="started already"):
        registry.register(coro)
    assert len(registry) == 0


async def test_a_coroutine_refused_by_any_argument_is_closed() -> None:
    registry = TaskRegistry()
    for bad in (
        {"what": 1, "coro": forever()},
        {"task_id": 5, "coro": forever()},
        {"coro": forever(), "what": 1, "why": 2},
    ):
        with pytest.raises(TypeError):
            registry.register(**bad)  # type: ignore[call-overload]
        bad.clear()
    assert len(registry) == 0


def test_without_a_running_loop_the_coroutine_is_closed() -> None:
    registry = TaskRegistry()
    coro = forever()
    with pytest.raises(RuntimeError, match="running event loop"):
        registry.register(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    assert len(registry) == 0


@pytest.mark.parametrize("makes", ["raises", "nonsense"])
async def test_a_bad_task_factory_changes_nothing(makes: str) -> None:
    registry = TaskRegistry()

    class Nonsense:
        def set_name(self, name: str) -> None:
            """3.11 and 3.12 warn of a Task that has none."""

    def factory(loop: Any, coro: Any, **options: Any) -> Any:
        coro.close()
        if makes == "raises":
            raise LookupError("no tasks today")
        return Nonsense()

    with (
        task_factory(factory),
        pytest.raises((LookupError, AttributeError, TypeError)),
    ):
        registry.register(forever(), "feed")
    assert len(registry) == 0
    registry.register(echo(1), "feed")
    await registry.wait()
    assert registry["feed"].result == 1


async def test_a_task_that_takes_no_done_callback_is_refused_and_cancelled() -> None:
    registry = TaskRegistry()
    with (
        task_factory(odd_factory(add_done_callback=fails)),
        pytest.raises(LookupError),
    ):
        registry.register(forever(), "odd")
    assert "odd" not in registry
    adds_up(registry)
    task = OddTask(forever())
    task.odd = {"add_done_callback": fails}
    with pytest.raises(LookupError):
        registry.track(task)
    drain = JoinSet()
    task.odd = {"add_done_callback": fails}
    with pytest.raises(LookupError):
        drain.add(task)
    assert drain.pending == 0
    task.cancel()
    await settle()
    adds_up(registry)


async def test_a_task_that_ends_in_a_register_that_fails_is_not_counted() -> None:
    registry = TaskRegistry()

    class Sudden(OddTask):
        def add_done_callback(self, callback: Any, **options: Any) -> None:
            if callback.__class__.__name__ == "TaskMetadata":
                callback(self)
                raise LookupError("odd")

        def cancelled(self) -> bool:
            return True

    def make(loop: Any, coro: Any, **options: Any) -> Any:
        options.pop("eager_start", None)
        return Sudden(coro, loop=loop, **options)

    with task_factory(make), pytest.raises(LookupError):
        registry.register(forever(), "odd")
    adds_up(registry)
    assert registry.stats().registered == registry.stats().cancelled == 0
    await settle()


@needs_eager
async def test_an_eager_task_is_in_the_registry_in_its_first_step() -> None:
    registry = TaskRegistry()
    seen: list[object] = []

    async def first() -> None:
        seen.append(registry["feed"].state)
        seen.append(await registry.heartbeat())
        seen.append(await registry.heartbeat("feed"))
        asyncio.create_task(child())
        await asyncio.sleep(0)

    async def child() -> None:
        seen.append(await registry.heartbeat())

    with task_factory(eager):
        task, _ = await registry.register(first(), "feed")
        assert registry["feed"].task is task
        await registry.wait()
    assert seen == [TaskState.RUNNING, True, True, True]
    assert registry["feed"].heartbeats == 3


@needs_eager
async def test_an_eager_task_may_cancel_itself_by_id_and_end_at_once() -> None:
    registry = TaskRegistry()

    async def cancels_itself() -> None:
        assert await registry.cancel("feed")
        await asyncio.sleep(3600)

    with task_factory(eager):
        registry.register(cancels_itself(), "feed")
        registry.register(echo(5), "quick")
        assert await registry.wait(5)
    assert registry["feed"].state is TaskState.CANCELLED
    assert registry["quick"].result == 5


@needs_eager
async def test_a_cancellation_in_an_eager_first_step_keeps_its_message() -> None:
    registry = TaskRegistry()

    async def cancels_itself() -> None:
        registry.cancel("feed", "first")
        registry.cancel("feed", "enough")
        await forever()

    with task_factory(eager):
        task, _ = await registry.register(cancels_itself(), "feed")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("enough",)
    await registry.wait()


@needs_eager
async def test_an_eager_first_step_may_shut_the_registry_down() -> None:
    registry = TaskRegistry()

    async def closes() -> int:
        return len((await registry.shutdown(5)).cancelled)

    registry.register(forever(), "other")
    with task_factory(eager):
        task, _ = await registry.register(closes(), "closer")
    assert await task == 1
    await registry.wait()
    assert registry["closer"].state is TaskState.DONE
    adds_up(registry)


@needs_eager
async def test_a_shutdown_started_in_an_eager_first_step_cancels_its_task() -> None:
    registry = TaskRegistry()
    closing: list[asyncio.Task[Any]] = []

    async def outer() -> None:
        closing.append(asyncio.create_task(registry.shutdown(5)))
        await forever()

    with task_factory(eager):
        registry.register(outer(), "outer")
    (report,) = await asyncio.gather(*closing)
    assert [one.task_id for one in report.cancelled] == ["outer"]
    adds_up(registry)


@needs_eager
async def test_an_eager_first_step_may_do_everything_else() -> None:
    registry = TaskRegistry()

    async def busy(depth: int) -> int:
        name = f"busy {depth}"
        assert name in registry
        with pytest.raises(DuplicateTaskError):
            registry.register(forever(), name)
        with pytest.raises(RuntimeError, match="in use"):
            registry.__init__()  # type: ignore[misc]
        assert registry[name].state is TaskState.RUNNING
        registry.where(name)
        registry.dump()
        if depth % 2:
            assert await registry.heartbeat()
            assert registry.track(asyncio.current_task()) == name  # type: ignore[arg-type]
        await registry.complete(name, depth)
        if depth < 5:
            registry.register(busy(depth + 1), f"busy {depth + 1}")
        assert len(registry) >= depth + 1
        return depth

    with task_factory(eager):
        registry.register(busy(0), "busy 0")
    await registry.wait()
    status = await registry.get_status()
    assert sorted(meta.result for meta in status.values()) == list(range(6))
    adds_up(registry)
