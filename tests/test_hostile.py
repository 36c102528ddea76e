"""The registry and the drain among strangers: odd Tasks, factories, clocks, hooks."""

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import run_child, settle

from pyasynclife import DuplicateTaskError, TaskHealth, TaskRegistry, TaskState
from pyasynclife._core import JoinSet

needs_eager = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="eager tasks came with 3.12"
)


async def forever() -> None:
    await asyncio.sleep(3600)


async def returns(value: Any) -> Any:
    return value


def adds_up(registry: TaskRegistry) -> None:
    """What must hold of a registry's numbers at every moment."""
    stats = registry.stats()
    now = stats.pending + stats.healthy + stats.stale + stats.unknown
    assert stats.alive == now == len(registry) == len(list(registry))
    ended = stats.done + stats.failed + stats.cancelled
    assert stats.registered == stats.alive + ended
    status = registry.get_status().result()
    assert len(status) >= len(registry)
    assert all(registry[task_id] is meta for task_id, meta in status.items())
    alive = [meta for meta in status.values() if meta.finished_at is None]
    assert [meta.task_id for meta in alive] == list(registry)


@contextmanager
def task_factory(factory: Callable[..., Any]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


def eager(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    options.pop("eager_start", None)
    return asyncio.Task(coro, loop=loop, eager_start=True, **options)  # type: ignore[call-arg]


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock may do anything."""

    now = 1000.0
    hook: Callable[[], object] | None = None

    def time(self) -> float:
        if self.hook is not None:
            hook, self.hook = self.hook, None
            hook()
        return self.now


# ---------------------------------------------------------------- an eager first step


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
async def test_a_shutdown_begun_below_an_eager_first_step_cancels_it() -> None:
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
async def test_a_cancellation_in_an_eager_first_step_keeps_its_message() -> None:
    registry = TaskRegistry()

    async def suicidal() -> None:
        registry.cancel("feed", "first")
        registry.cancel("feed", "told to")
        await forever()

    with task_factory(eager):
        task, _ = await registry.register(suicidal(), "feed")
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert caught.value.args == ("told to",)
    await registry.wait()


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


# ------------------------------------------------------------------- odd Tasks


class OddTask(asyncio.Task):  # type: ignore[type-arg]
    """A Task whose methods do what a test says, once."""

    odd: dict[str, Callable[[], object]]

    def _oddly(self, name: str) -> None:
        hook = getattr(self, "odd", {}).pop(name, None)
        if hook is not None:
            hook()

    def cancel(self, msg: object = None) -> bool:
        self._oddly("cancel")
        return super().cancel(msg)

    def cancelling(self) -> int:
        self._oddly("cancelling")
        return super().cancelling()

    def get_coro(self) -> Any:
        self._oddly("get_coro")
        return super().get_coro()

    def cancelled(self) -> bool:
        self._oddly("cancelled")
        return super().cancelled()

    def exception(self) -> BaseException | None:
        self._oddly("exception")
        return super().exception()

    def add_done_callback(self, *args: Any, **options: Any) -> None:
        self._oddly("add_done_callback")
        super().add_done_callback(*args, **options)


def odd_factory(**odd: Callable[[], object]) -> Callable[..., Any]:
    def make(loop: Any, coro: Any, **options: Any) -> Any:
        options.pop("eager_start", None)
        task = OddTask(coro, loop=loop, **options)
        task.odd = dict(odd)
        return task

    return make


def fails() -> None:
    raise LookupError("odd")


@pytest.mark.parametrize("method", ["cancel", "cancelling", "cancelled", "exception"])
async def test_a_task_whose_method_raises_once_is_told_of_and_counted(
    method: str, loop_errors: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    async def swallows() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            pass

    registry = TaskRegistry()
    with task_factory(odd_factory(**{method: fails})):
        task, _ = await registry.register(swallows(), "odd")
    registry.register(forever(), "plain")
    await settle()
    report = await registry.shutdown(0.02)
    assert [one.task_id for one in report.cancelled] == ["plain"]
    if method == "cancel":
        assert [one.task_id for one in report.stuck] == ["odd"]
        registry.cancel("odd")
        await registry.wait()
    assert len(registry) == 0
    assert await task is None
    adds_up(registry)
    assert loop_errors or registry["odd"].error_text == "LookupError: odd"


async def test_a_task_that_cannot_be_watched_is_refused_and_cancelled() -> None:
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


async def test_a_task_that_ends_in_the_middle_of_register_and_then_fails() -> None:
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


async def test_metadata_called_as_the_done_callback_it_is_changes_nothing() -> None:
    registry = TaskRegistry()
    task, _ = await registry.register(forever(), "feed")
    meta: Any = registry["feed"]
    for args in ((), (None,), (task,), (task, 1)):
        with pytest.raises(TypeError, match="not for calling"):
            meta(*args) if args != (None,) else meta()
    assert "feed" in registry
    adds_up(registry)
    registry.cancel("feed")
    await registry.wait()
    meta(task)
    adds_up(registry)


async def test_a_tracked_task_that_runs_is_running_behind_one_that_does_not() -> None:
    registry = TaskRegistry()
    task = asyncio.create_task(forever(), name="theirs")
    await settle()
    registry.register(forever(), "new")
    registry.track(task)
    assert registry.stats().pending == 1
    assert registry.stats().unknown == 1
    registry.cancel_all()
    await registry.wait()


# ------------------------------------------------------------------- hooks


@pytest.mark.parametrize("exit_error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["on_finish", "str", "log"])
def test_an_exit_in_a_hook_leaves_the_loop_as_from_any_callback(
    exit_error: type[BaseException], where: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            if where == "str":
                raise exit_error(where)
            return "mute"

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if where == "log":
                raise exit_error(where)

    def finish(meta: object) -> None:
        if where == "on_finish":
            raise exit_error(where)

    async def raises() -> None:
        raise Mute

    async def main() -> None:
        registry.register(raises(), "feed")
        await forever()

    registry = TaskRegistry(on_finish=finish)
    handler = Handler()
    logger = logging.getLogger("pyasynclife")
    logger.addHandler(handler)
    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(exit_error, match=where):
            loop.run_until_complete(task)
        assert len(registry) == 0
        adds_up(registry)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()
        logger.removeHandler(handler)


def test_of_two_exits_at_one_end_the_first_is_raised() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt("str")

    def finish(meta: object) -> None:
        raise SystemExit("on_finish")

    async def main() -> None:
        async def raises() -> None:
            raise Mute

        registry.register(raises(), "feed")
        await forever()

    registry = TaskRegistry(on_finish=finish)
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt, match="str"):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


@pytest.mark.parametrize("raised_by", ["cancel", "handler"])
def test_an_exit_that_cannot_be_passed_on_ends_the_run_a_turn_later(
    raised_by: str,
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt("second ^C") if raised_by == "cancel" else ValueError

    def handle(loop: object, context: object) -> None:
        raise KeyboardInterrupt("second ^C")

    async def main() -> list[str]:
        for name in "abc":
            task = OddTask(forever())
            if name == "b":
                task.odd = {"cancel": stop}
            registry.track(task, name)
        await settle()
        report = await registry.shutdown(0.05)
        left.extend(asyncio.all_tasks() - {asyncio.current_task()})
        return [one.task_id for one in report.cancelled]

    registry, left = TaskRegistry(), []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(handle)
    task = loop.create_task(main())
    with pytest.raises(KeyboardInterrupt, match="second"):
        loop.run_until_complete(task)
    assert not task.done()
    assert loop.run_until_complete(task) == ["a", "c"]
    for other in left:
        other.cancel()
    loop.run_until_complete(asyncio.wait(left))
    loop.close()


async def test_an_exit_is_told_where_the_loop_takes_no_callback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Loop(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("no")

    def stop() -> None:
        raise KeyboardInterrupt("second ^C")

    async def main() -> None:
        registry = TaskRegistry()
        task = OddTask(forever())
        task.odd = {"cancel": stop}
        registry.track(task)
        await settle()
        await registry.shutdown(0.01)
        task.cancel()
        await registry.wait()

    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    loop = Loop()
    await asyncio.to_thread(loop.run_until_complete, main())
    loop.close()
    assert [one.exc_type for one in told] == [RuntimeError, KeyboardInterrupt]


async def test_complete_with_an_error_whose_str_ends_the_task_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = TaskRegistry(history=0)

    class Evil(Exception):
        def __str__(self) -> str:
            meta: Any = registry["feed"]
            task.remove_done_callback(meta)
            task.odd = {"cancelled": fails, "done": fails}
            real = OddTask.done
            OddTask.done = lambda self: True  # type: ignore[method-assign]
            try:
                meta(task)
            finally:
                OddTask.done = real  # type: ignore[method-assign]
            return "evil"

    task = OddTask(forever())
    registry.track(task, "feed")
    await registry.complete("feed", error=Evil())
    assert "feed" not in registry
    assert registry.stats().failed == 1
    task.cancel()
    await settle()


async def test_a_failure_that_complete_told_of_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error, other = ValueError("no price"), ValueError("other")

    async def raises(error: BaseException) -> None:
        raise error

    registry = TaskRegistry()
    registry.register(returns(1), "told")
    registry.register(raises(error), "same")
    registry.register(raises(other), "two")
    for task_id in ("told", "same", "two"):
        await registry.complete(task_id, error=error)
        assert registry[task_id].error_text is None
    await registry.wait()
    assert [record.getMessage() for record in caplog.records] == [
        "task told failed: ValueError: no price",
        "task same failed: ValueError: no price",
        "task two failed: ValueError: no price",
        "task two failed after it was completed: ValueError: other",
    ]
    assert registry["two"].error_text == "ValueError: no price"


# ------------------------------------------------------------------- clocks


def test_a_clock_that_uses_the_registry() -> None:
    registry = TaskRegistry()
    loop = VirtualLoop()

    async def main() -> None:
        await returns(1)
        registry.register(forever(), "first")
        # The clock takes the id that is being given.
        loop.hook = lambda: registry.register(forever(), "feed")
        with pytest.raises(DuplicateTaskError):
            registry.register(forever(), "feed")
        adds_up(registry)
        loop.hook = lambda: registry.register(forever(), "task_0")
        with pytest.raises(DuplicateTaskError):
            registry.register(forever())
        adds_up(registry)
        for call in (
            lambda: registry.heartbeat("feed"),
            lambda: registry["feed"].health,
            lambda: registry["feed"].age,
            registry.stats,
            registry.get_stale_tasks,
        ):
            loop.hook = registry.cancel_all
            call()
            loop.hook = fails
            with pytest.raises(LookupError):
                call()
        before = registry.stats()
        loop.hook = fails
        with pytest.raises(LookupError):
            registry.heartbeat("feed")
        loop.hook = fails
        with pytest.raises(LookupError):
            registry.register(forever())
        assert registry.stats() == before
        assert await registry.wait()

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@pytest.mark.parametrize("now", [-1.0, math.nan, math.inf, -math.inf, 0.0])
def test_a_clock_that_tells_nonsense(now: float) -> None:
    registry = TaskRegistry(stale_threshold=1.0)
    loop = VirtualLoop()

    async def main() -> None:
        for number in range(10):
            loop.now = now if number % 3 else 1000.0 - number
            registry.register(forever(), str(number), stale_after=number % 2)
            await settle()
            registry.heartbeat(str(number))
            registry.get_stale_tasks()
            adds_up(registry)
            registry["0"].as_dict()
        registry.cancel_all()
        loop.now = 5.0
        assert await registry.wait()
        adds_up(registry)

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_a_shutdown_keeps_its_deadline_in_virtual_time() -> None:
    registry = TaskRegistry()
    loop = VirtualLoop()

    async def swallows() -> None:
        while loop.now < 2000:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass

    async def main() -> None:
        registry.register(swallows(), "stuck")
        await settle()
        loop.call_soon(setattr, loop, "now", 1030.0)
        report = await registry.shutdown(30)
        assert (report.duration, len(report.stuck)) == (30.0, 1)
        assert report.stuck[0].age == 30.0
        loop.call_soon(setattr, loop, "now", 1090.0)
        assert not await registry.wait(60)
        assert not (await registry.shutdown(0)).deadline_met
        loop.now = 2000
        assert (await registry.shutdown(math.inf)).ok

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


# ------------------------------------------------------------------- waiting


async def test_tasks_that_shut_down_in_their_cleanup_do_not_wait_for_each_other() -> (
    None
):
    registry = TaskRegistry()
    reports = []

    async def service(number: int) -> None:
        try:
            await forever()
        finally:
            report = await registry.shutdown(math.inf)
            reports.append(report)
            await asyncio.sleep(0.001 * number)

    async def slow() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0.01)

    for number in range(3):
        registry.register(service(number), str(number))
    registry.register(slow(), "slow")
    await settle()
    report = await asyncio.wait_for(registry.shutdown(math.inf), 5)
    assert report.ok
    assert len(report.cancelled) == 4
    assert len(reports) == 3
    assert all(one.deadline_met for one in reports)
    assert all("slow" in [e.task_id for e in one.cancelled] for one in reports)
    adds_up(registry)


async def test_shutdowns_from_inside_that_cancel_each_other_all_end() -> None:
    registry = TaskRegistry()

    async def closer() -> None:
        await settle()
        await registry.shutdown(math.inf)

    for _ in range(5):
        registry.register(closer())
    registry.register(forever())
    assert await asyncio.wait_for(registry.wait(), 5)
    adds_up(registry)


@pytest.mark.parametrize("turn", range(8))
async def test_a_shutdown_whose_caller_is_cancelled_at_every_turn(turn: int) -> None:
    registry = TaskRegistry()

    async def slow() -> None:
        try:
            await forever()
        finally:
            await settle(4)

    registry.register(slow())
    registry.register(forever())
    await settle()
    one = asyncio.create_task(registry.shutdown(math.inf))
    two = asyncio.create_task(registry.shutdown(math.inf))
    await settle(turn)
    asked = one.cancel()
    outcomes = await asyncio.gather(one, two, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError) == asked
    assert outcomes[1].ok  # type: ignore[union-attr]
    assert len(registry) == 0
    # The next task runs: nothing of the shutdown is left.
    task, _ = await registry.register(returns(5))
    assert await task == 5
    await registry.wait()


async def test_a_shutdown_that_cannot_begin_leaves_nothing() -> None:
    registry = TaskRegistry()
    with task_factory(odd_factory(get_coro=fails)):
        registry.register(forever(), "odd")
    with pytest.raises(TypeError, match="timeout"):
        await registry.shutdown("soon")  # type: ignore[arg-type]
    task, _ = await registry.register(returns(5))
    await settle()
    assert await task == 5
    registry.cancel_all()
    await registry.wait()


async def test_a_cancellation_reaches_the_caller_of_wait_at_once() -> None:
    registry = TaskRegistry()
    registry.register(forever(), "feed")
    await settle()

    async def waits() -> bool:
        asyncio.current_task().cancel("me")  # type: ignore[union-attr]
        return await registry.wait(0)

    with pytest.raises(asyncio.CancelledError, match="me"):
        await asyncio.create_task(waits())
    registry.cancel_all()
    await registry.wait()


async def test_polling_with_wait_gives_the_loop_its_turns() -> None:
    registry = TaskRegistry()
    registry.register(settle(5))
    turns = 0
    while not await registry.wait(0):
        turns += 1
        assert turns < 100
    assert turns


# ------------------------------------------------------------------- strangers


def test_waiting_in_another_loop_is_refused() -> None:
    registry = TaskRegistry()
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def register() -> None:
        registry.register(forever())

    async def waits() -> None:
        for call in (registry.wait, registry.monitor_loop, registry.__aenter__):
            with pytest.raises(RuntimeError, match="one registry per loop"):
                await call()

    try:
        first.run_until_complete(register())
        thread = threading.Thread(target=second.run_until_complete, args=(waits(),))
        thread.start()
        thread.join()
        second.run_until_complete(waits())
        registry.cancel_all()
        assert first.run_until_complete(registry.wait(5))
    finally:
        first.close()
        second.close()


async def test_a_heartbeat_without_an_id_belongs_to_the_loops_thread() -> None:
    registry = TaskRegistry()

    async def beats() -> None:
        with pytest.raises(RuntimeError, match="another thread"):
            await asyncio.to_thread(registry.heartbeat)
        assert (await asyncio.to_thread(registry.heartbeat, "feed")).result()

    task, _ = await registry.register(beats(), "feed")
    await task
    await registry.wait()
    assert registry["feed"].heartbeats == 1


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


async def test_readers_in_other_threads_while_the_loop_goes_on() -> None:
    registry = TaskRegistry(history=3, stale_threshold=0.0)
    errors: list[BaseException] = []
    over = threading.Event()

    def read() -> None:
        try:
            while not over.is_set():
                for number in range(20):
                    registry.heartbeat(str(number))
                registry.stats()
                registry.get_stale_tasks()
                registry.get_status()
                registry.dump()
                list(registry)
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            for number in range(20):
                if str(number) not in registry:
                    registry.register(settle(number % 7), str(number))
            await settle(2)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert not errors
    await registry.wait()
    adds_up(registry)


async def test_a_report_does_not_fail_for_a_strangers_property() -> None:
    registry = TaskRegistry()

    class Odd:
        def __await__(self) -> Any:
            return self

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> None:
            return None

        def __getattr__(self, name: str) -> Any:
            if name.startswith(("cr_", "gi_", "ag_")):
                raise ValueError(name)
            raise AttributeError(name)

    async def waits() -> None:
        await Odd()

    registry.register(waits(), "odd")
    await settle()
    assert "waits" in registry.where("odd")[0]
    assert "waits" in registry.dump()
    registry.cancel("odd")
    await registry.wait()


def test_a_long_chain_of_results_is_freed_without_overflow() -> None:
    child = run_child(
        """
        import asyncio, resource, sys, os
        from pyasynclife import TaskRegistry

        if len(sys.argv) == 1:  # a small stack: it shows with less
            most = resource.getrlimit(resource.RLIMIT_STACK)[1]
            resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, most))
            os.execv(sys.executable, [*sys.orig_argv, "again"])

        async def returns(value):
            return value

        async def main():
            registry = TaskRegistry(history=1)
            meta = None
            for number in range(30_000):
                registry.register(returns(meta), str(number))
                meta = registry[str(number)]
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            del meta
            await registry.wait()
            await registry.register(returns(1), "end")
            await registry.wait()

        asyncio.run(main())
        print("over")
        """,
        timeout=120,
    )
    assert (child.returncode, child.stdout, child.stderr) == (0, "over\n", "")


async def test_the_health_of_each_state() -> None:
    registry = TaskRegistry(stale_threshold=0.0)
    registry.register(forever(), "feed")
    assert registry["feed"].health is TaskHealth.UNKNOWN
    await settle()
    assert registry["feed"].health is TaskHealth.STALE
    registry.cancel("feed")
    await registry.wait()
    assert registry["feed"].health is TaskHealth.UNKNOWN
