"""LoopWatch: the lag of the loop, and what held it up."""

import asyncio
import contextvars
import math
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pyasynclife import BlockedLoop, LoopWatch, TaskRegistry, _core
from pyasynclife.testing import HangError
from support.children import run_child
from support.loops import in_virtual_time, until
from support.watching import hold, seen_in

Blocked = list[BlockedLoop]


def threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "pyasynclife watch"]


async def after_a_tick(watch: LoopWatch) -> None:
    """Let the watch notice that the loop runs again."""
    count = watch.lag.count
    await until(lambda: watch.lag.count > count)


# ---------------------------------------------------------------- what it sees


async def test_it_names_the_line_and_the_task_that_held_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked: Blocked = []
    async with LoopWatch(0.1, on_block=blocked.append) as watch:

        async def compute() -> float:
            return hold(watch)

        seconds = await asyncio.create_task(compute(), name="feed 7")
        await after_a_tick(watch)
    one = seen_in(compute, blocked)
    assert one.task == "feed 7"
    assert one.task_id is None
    assert one.seconds > 0.1
    assert one.seconds > seconds - 0.05
    outer, inner = (
        next(at for at, line in enumerate(one.where) if line.endswith(f" in {name}"))
        for name in (compute.__qualname__, "hold")
    )
    assert outer < inner
    line = compute.__code__.co_firstlineno + 1
    assert one.where[outer] == f"{__file__}:{line} in {compute.__qualname__}"
    assert watch.blocked == len(blocked)
    assert watch.longest == max(each.seconds for each in blocked)
    record = next(r for r in caplog.records if "feed 7" in r.getMessage())
    assert record.levelname == "WARNING"
    assert record.name == "pyasynclife"
    assert f"{one.seconds:.3f} s in task 'feed 7'" in record.getMessage()
    assert one.where[inner] in record.getMessage()


async def test_a_callback_that_held_the_loop_has_no_task() -> None:
    blocked: Blocked = []
    async with LoopWatch(0.1, on_block=blocked.append) as watch:

        def callback() -> None:
            hold(watch)

        asyncio.get_running_loop().call_soon(callback)
        await until(lambda: watch.blocked)
        await after_a_tick(watch)
    assert seen_in(callback, blocked).task is None


async def test_the_stack_that_was_seen_longest_is_reported() -> None:
    for _ in range(10):  # a machine that stalls may prolong what was brief
        blocked = await blocked_briefly_and_for_long()
        where = [line.rpartition(".")[2] for one in blocked for line in one.where]
        if "for_long" in where and "briefly" not in where:
            break
    assert where.count("for_long") == 1
    assert "briefly" not in where


async def blocked_briefly_and_for_long() -> Blocked:
    blocked: Blocked = []
    async with LoopWatch(0.1, interval=0.01, on_block=blocked.append) as watch:

        def briefly() -> None:
            hold(watch, enough=0.0)

        def for_long() -> None:
            until_then = watch._seen.until + 0.5
            deadline = time.monotonic() + 30.0
            while watch._seen.until < until_then and time.monotonic() < deadline:
                time.sleep(0.05)

        briefly()
        for_long()
        await after_a_tick(watch)
    return blocked


async def test_the_id_is_that_of_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    owner: contextvars.ContextVar[Any] = contextvars.ContextVar("owner")
    monkeypatch.setattr(_core, "owner", owner, raising=False)
    blocked: Blocked = []
    async with LoopWatch(0.1, on_block=blocked.append) as watch:

        async def child() -> None:
            hold(watch)

        async def job() -> None:
            owner.set(SimpleNamespace(task_id="job-1"))
            await asyncio.create_task(child(), name="child")

        await asyncio.create_task(job())
        await after_a_tick(watch)
    one = seen_in(child, blocked)
    assert (one.task, one.task_id) == ("child", "job-1")


@pytest.mark.skipif(not hasattr(_core, "owner"), reason="no id in the context")
async def test_a_registered_task_is_named_by_its_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked: Blocked = []
    registry = TaskRegistry()
    async with LoopWatch(0.1, on_block=blocked.append) as watch:

        async def child() -> None:
            hold(watch)

        async def job() -> None:
            await asyncio.create_task(child(), name="child")

        await registry.register(job(), "job-1").result()[0]
        await after_a_tick(watch)
    assert seen_in(child, blocked).task_id == "job-1"
    ids = [getattr(record, "task_id", None) for record in caplog.records]
    assert "job-1" in ids


async def test_the_thread_looks_only_while_the_loop_is_late() -> None:
    late: list[float] = []

    class Noting(LoopWatch):
        def _note(self, loop: Any, due: float, seconds: float, *others: Any) -> None:
            late.append(seconds)
            super()._note(loop, due, seconds, *others)

    async with Noting(0.1) as watch:
        await until_count(watch, 20)
        quiet = len(late)
        hold(watch)
    assert len(late) > quiet
    assert min(late) >= 0.05


async def until_count(watch: LoopWatch, count: int) -> None:
    async with asyncio.timeout(30):
        while watch.lag.count < count:
            await asyncio.sleep(0.01)


async def test_a_thread_that_reads_the_lag_may_do_so_while_the_block_is_entered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = LoopWatch(0.05)
    make, entered = LoopWatch._new_pulse, threading.Event()

    def slowly(self: LoopWatch) -> Any:
        pulse = make(self)
        if threading.current_thread() is reader:
            reading.set()
            entered.wait(30)
        return pulse

    monkeypatch.setattr(LoopWatch, "_new_pulse", slowly)
    reading = threading.Event()
    reader = threading.Thread(target=lambda: watch.lag)
    reader.start()
    await asyncio.to_thread(reading.wait, 30)
    async with watch:
        thread = watch._thread
        entered.set()
        await asyncio.to_thread(reader.join, 30)
        await until(lambda: watch.lag.count > 0)
    assert thread is not None
    await asyncio.to_thread(thread.join, 30)
    assert not thread.is_alive()


async def test_lag_counts_each_beat_of_the_timer() -> None:
    watch = LoopWatch(0.05)
    assert watch.lag.count == 0
    async with watch:
        await until_count(watch, 3)
        hold(watch, enough=0.3)
        await after_a_tick(watch)
    lag = watch.lag
    assert lag.count >= 4
    assert lag.quantile(1) > 0.3
    assert lag.sum >= 0.3
    before = watch.lag
    async with watch:
        await after_a_tick(watch)
    assert watch.lag.count > before.count
    assert watch.lag.sum >= before.sum


async def test_two_watches_see_the_same() -> None:
    first: Blocked = []
    second: Blocked = []
    async with LoopWatch(0.1, on_block=first.append) as outer:
        async with LoopWatch(0.2, on_block=second.append) as inner:
            assert len(threads()) == 2

            def block() -> None:
                hold(outer, inner, enough=0.3)

            block()
            await after_a_tick(outer)
            await after_a_tick(inner)
        assert len(threads()) == 1
    assert seen_in(block, first)
    assert seen_in(block, second)


def test_a_loop_in_another_thread_is_watched() -> None:
    blocked: Blocked = []
    blocks: list[Callable[[], None]] = []

    async def main() -> None:
        async with LoopWatch(0.1, on_block=blocked.append) as watch:

            def block() -> None:
                blocks.append(block)
                hold(watch)

            block()
            await after_a_tick(watch)

    def busy() -> None:
        while other.is_alive():
            time.sleep(0.001)

    other = threading.Thread(target=lambda: asyncio.run(main()))
    other.start()
    busy()
    other.join()
    one = seen_in(blocks[0], blocked)
    assert not any(line.endswith("busy") for line in one.where)


async def test_a_task_that_does_not_tell_its_name_is_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nameless:
        def get_name(self) -> str:
            raise LookupError

    blocked: Blocked = []
    async with LoopWatch(0.1, on_block=blocked.append) as watch:
        monkeypatch.setattr(asyncio, "current_task", lambda loop=None: Nameless())

        def block() -> None:
            hold(watch)

        block()
        monkeypatch.undo()
        await after_a_tick(watch)
    assert seen_in(block, blocked).task is None


async def test_a_look_that_found_no_memory_is_reported_and_not_the_last(
    loop_errors: list[dict[str, Any]],
) -> None:
    failed: list[bool] = []

    class Failing(LoopWatch):
        def _note(self, *args: Any) -> None:
            if not failed:
                failed.append(True)
                raise MemoryError
            super()._note(*args)

    async with Failing(0.1) as watch:
        deadline = time.monotonic() + 30.0
        while not watch._seen.places and time.monotonic() < deadline:
            pass
        await asyncio.sleep(0.01)
    assert isinstance(loop_errors[0]["exception"], MemoryError)
    assert loop_errors[0]["message"].endswith("saw nothing")


# ---------------------------------------------------------------- on_block


async def test_an_on_block_that_raises_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    def fail(blocked: BlockedLoop) -> None:
        raise LookupError(blocked.seconds)

    async with LoopWatch(0.1, on_block=fail) as watch:
        hold(watch)
        await after_a_tick(watch)
        hold(watch)
        await after_a_tick(watch)
    assert watch.blocked == len(loop_errors) >= 2
    assert isinstance(loop_errors[0]["exception"], LookupError)
    assert loop_errors[0]["message"].startswith("on_block of <LoopWatch threshold=0.1")


async def test_a_coroutine_that_on_block_returns_is_closed_and_reported(
    loop_errors: list[dict[str, Any]],
) -> None:
    async def page(blocked: BlockedLoop) -> None:
        raise AssertionError

    def call(blocked: BlockedLoop) -> object:
        return page(blocked)

    async with LoopWatch(0.1, on_block=call) as watch:
        hold(watch)
        await after_a_tick(watch)
    assert "on_block is called, not awaited" in str(loop_errors[0]["exception"])


def test_an_exit_of_on_block_ends_the_loops_run() -> None:
    def leave(blocked: BlockedLoop) -> None:
        raise SystemExit(7)

    async def main() -> None:
        async with LoopWatch(0.1, on_block=leave) as watch:
            hold(watch)
            await asyncio.sleep(3600)

    with pytest.raises(SystemExit, match="7"):
        asyncio.run(main())
    assert not threads()


# ---------------------------------------------------------------- entering and leaving


@pytest.mark.parametrize("value", [0, -1, 0.0001, math.nan, math.inf])
def test_a_number_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^threshold must be 0\.001 or more, got "):
        LoopWatch(value)
    with pytest.raises(ValueError, match=r"^interval must be 0\.001 or more, got "):
        LoopWatch(interval=value)


@pytest.mark.parametrize("value", ["1", True, None, [1]])
def test_a_threshold_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^threshold must be a number, got "):
        LoopWatch(value)


async def test_entered_twice_is_an_error_and_again_afterwards_is_none() -> None:
    watch = LoopWatch()
    for _ in range(3):
        async with watch:
            with pytest.raises(RuntimeError, match="is already entered"):
                await watch.__aenter__()
            assert len(threads()) == 1
        assert not threads()


def test_a_watch_is_used_in_one_loop_after_another() -> None:
    watch = LoopWatch()

    async def main() -> None:
        async with watch:
            await after_a_tick(watch)

    asyncio.run(main())
    count = watch.lag.count
    asyncio.run(main())
    assert watch.lag.count > count


async def test_a_cancelled_block_leaves_no_thread_and_no_timer() -> None:
    watch = LoopWatch(0.01)

    async def main() -> None:
        async with watch:
            await asyncio.sleep(3600)

    task = asyncio.create_task(main())
    await until(threads)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not threads()
    count = watch.lag.count
    await asyncio.sleep(0.05)
    assert watch.lag.count == count


async def test_where_no_thread_can_be_started_nothing_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    watch = LoopWatch()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            await watch.__aenter__()
    async with watch:
        await after_a_tick(watch)


def test_on_a_virtual_clock_it_does_nothing() -> None:
    blocked: Blocked = []

    async def main() -> float:
        async with LoopWatch(0.001, on_block=blocked.append):
            time.sleep(0.05)
            assert not threads()
            await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    async def hangs() -> None:
        async with LoopWatch():
            await asyncio.Event().wait()

    assert in_virtual_time(main()) == 3600.0
    assert not blocked
    with pytest.raises(HangError):
        in_virtual_time(hangs())


def test_a_loop_that_does_not_run_is_not_blocked() -> None:
    blocked: Blocked = []
    watch = LoopWatch(0.1, on_block=blocked.append)

    def between() -> None:
        deadline = time.monotonic() + 30.0
        while not watch._seen.stopped and time.monotonic() < deadline:
            time.sleep(0.01)

    with asyncio.Runner() as runner:
        runner.run(watch.__aenter__())
        between()
        runner.run(after_a_tick(watch))
        runner.run(watch.__aexit__())
    assert not any("between" in line for one in blocked for line in one.where)


def test_a_loop_that_is_closed_under_it_ends_the_thread() -> None:
    watch = LoopWatch(0.01)
    with asyncio.Runner() as runner:
        runner.run(watch.__aenter__())
    for thread in threads():
        thread.join(30.0)
    assert not threads()


async def test_a_test_that_moves_the_clock_is_no_lag(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    async with LoopWatch(0.1) as watch:
        hold(watch)
        blocked, count = watch.blocked, watch.lag.count
        timer, pulse = watch._timer, watch._pulse
        assert timer is not None
        assert pulse is not None
        timer.cancel()
        with monkeypatch.context() as patch:
            patch.setattr(time, "monotonic", time.perf_counter)
            watch._tick(loop, pulse)
        assert (watch.blocked, watch.lag.count) == (blocked, count)


# ---------------------------------------------------------------- the end, and a fork


def test_the_interpreter_exits_while_it_runs() -> None:
    code = """
        import asyncio, sys
        from pyasynclife import LoopWatch

        async def main():
            watch = LoopWatch(60.0, interval=0.01)
            await watch.__aenter__()
            await asyncio.sleep(0.05)
            globals()["kept"] = watch

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        print("ended")
    """
    child = run_child(code)
    assert (child.stdout, child.stderr, child.returncode) == ("ended\n", "", 0)


def test_a_forked_child_leaves_the_block_without_the_thread() -> None:
    code = """
        import asyncio, os, warnings
        from pyasynclife import LoopWatch

        warnings.simplefilter("ignore")

        async def main():
            async with LoopWatch(60.0, interval=0.01):
                await asyncio.sleep(0.05)
                child = os.fork()
            if child == 0:
                print("left", flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            print("ended")

        asyncio.run(main())
    """
    child = run_child(code)
    assert child.stdout.split() == ["left", "ended"]
    assert "Error" not in child.stderr
    assert child.returncode == 0
