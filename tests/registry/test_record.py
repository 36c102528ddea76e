"""TaskRegistry.record(): a timeline of all tasks, as Chrome trace events."""

import asyncio
import gc
import inspect
import json
import os
import resource
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyasynclife import Backoff, TaskMetadata, TaskRegistry
from support.children import start_child
from support.coroutines import echo, fail, forever
from support.loops import Iterations, in_virtual_time, settle
from support.registries import a_registry

Event = dict[str, Any]
LoopErrors = list[dict[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tasks.json"


def rows(path: Path) -> dict[str, list[tuple[str, int, int]]]:
    """What a file shows: name, begin and end of the bars of each row, in seconds."""
    events = json.loads(path.read_text(), parse_constant=pytest.fail)
    names: dict[int, str] = {}
    for event in events:
        assert event["pid"] == os.getpid()
        if event["ph"] == "M" and event["name"] == "thread_name":
            assert event["tid"] not in names
            names[event["tid"]] = event["args"]["name"]
    assert events[0]["name"] == "process_name"
    assert events[0]["args"]["name"]
    shown: dict[str, list[tuple[str, int, int]]] = {}
    for event in events:
        if event["ph"] == "X":
            begin, end = event["ts"], event["ts"] + event["dur"]
            bar = (event["name"], round(begin / 1e6), round(end / 1e6))
            shown.setdefault(names[event["tid"]], []).append(bar)
    assert set(shown) <= set(names.values())
    for bars in shown.values():
        bars.sort(key=lambda bar: (bar[1], -bar[2]))
    return shown


def marks(path: Path) -> list[tuple[str, int, Any]]:
    """The marks of a file: name, time in seconds and reason."""
    return [
        (event["name"], round(event["ts"] / 1e6), event["args"].get("reason"))
        for event in json.loads(path.read_text())
        if event["ph"] == "i"
    ]


def args(path: Path, task_id: str) -> Event:
    """The arguments of the bar of a task."""
    [found] = [
        event["args"]
        for event in json.loads(path.read_text())
        if event["ph"] == "X" and event.get("args", {}).get("id") == task_id
    ]
    return dict(found)


def recorded(
    path: Path, main: Callable[[TaskRegistry], Awaitable[Any]], **options: Any
) -> dict[str, list[tuple[str, int, int]]]:
    """Record what a function does in virtual time; the rows of the file."""

    async def run() -> None:
        registry = TaskRegistry(heartbeat_interval=1.0, **options)
        async with registry.record(path), registry:
            await main(registry)

    in_virtual_time(run())
    return rows(path)


def test_each_task_is_a_row_with_its_state_from_its_begin_to_its_end(
    path: Path,
) -> None:
    async def main(registry: TaskRegistry) -> None:
        registry.register(asyncio.sleep(10), "done")
        registry.register(asyncio.sleep(10**6), "shut down")
        await asyncio.sleep(5)
        registry.register(fail("no price"), "failed")
        registry.register(forever(), "cancelled")
        await asyncio.sleep(2)
        await registry.cancel("cancelled", "enough")
        await asyncio.sleep(8)

    shown = recorded(path, main, stale_threshold=10**6)
    assert shown == {
        "done": [("done", 0, 10)],
        "failed": [("failed", 5, 5)],
        "cancelled": [("cancelled", 5, 7)],
        "shut down": [("cancelled", 0, 15)],
    }
    assert list(shown) == ["failed", "cancelled", "done", "shut down"]  # by the end
    assert args(path, "failed")["error"] == "ValueError: no price"
    assert args(path, "cancelled")["cancel_reason"] == "enough"
    assert args(path, "done").keys() == {"id", "heartbeats", "restarts", "age"}


def test_periods_without_a_heartbeat_are_bars_in_the_row(path: Path) -> None:
    async def feed(registry: TaskRegistry) -> None:
        registry.heartbeat()
        await asyncio.sleep(20)  # stale after 5 s
        registry.heartbeat()
        await asyncio.sleep(3)
        registry.heartbeat()
        await asyncio.sleep(10)  # again, until the end

    async def main(registry: TaskRegistry) -> None:
        await asyncio.sleep(1)
        registry.register(feed(registry), "feed")
        registry.register(forever(), "healthy", stale_after=10**6)
        await asyncio.sleep(60)

    shown = recorded(path, main, stale_threshold=5)
    assert shown["feed"] == [("done", 1, 34), ("stale", 6, 21), ("stale", 29, 34)]
    assert shown["healthy"] == [("cancelled", 1, 61)]


def test_each_run_of_a_supervised_task_is_a_bar_and_each_restart_a_mark(
    path: Path,
) -> None:
    async def feed() -> None:
        await asyncio.sleep(10)  # stale after 5 s
        raise ValueError("no price")

    async def main(registry: TaskRegistry) -> None:
        backoff = Backoff(20, max_delay=20, jitter=0)
        registry.supervise(feed, "feed", backoff=backoff, max_restarts=1)
        await registry.join("feed")

    shown = recorded(path, main, stale_threshold=5)
    runs = [("failed", 0, 10), ("failed", 30, 40)]
    periods = [("stale", 5, 10), ("stale", 35, 40)]
    assert shown == {"feed": [runs[0], periods[0], runs[1], periods[1]]}
    assert marks(path) == [("restart 1", 30, "ValueError: no price")]
    [first, last] = [
        event["args"]
        for event in json.loads(path.read_text())
        if event["name"] == "failed"
    ]
    assert first == {"run": 1, "error": "ValueError: no price"}
    assert last["restarts"] == 1


def test_a_mark_has_the_reason_of_the_restart(path: Path) -> None:
    runs = iter(["returns", "is cancelled", "fails", "is silent", "lasts"])

    async def feed() -> None:
        match next(runs):
            case "is cancelled":
                raise asyncio.CancelledError
            case "fails":
                raise ValueError("no price")
            case "is silent":
                await asyncio.sleep(10**6)
            case "lasts":
                await asyncio.sleep(1)

    async def main(registry: TaskRegistry) -> None:
        options: dict[str, Any] = {"restart": "always", "restart_stale": True}
        backoff = Backoff(10, factor=1, jitter=0)
        registry.supervise(feed, "feed", backoff=backoff, stale_after=5, **options)
        await asyncio.sleep(45.5)
        await registry.complete("feed", None)
        await registry.join("feed")

    recorded(path, main)
    assert marks(path) == [
        ("restart 1", 10, "the run before was done"),
        ("restart 2", 20, "the run before was cancelled"),
        ("restart 3", 30, "ValueError: no price"),
        ("restart 4", 45, "TimeoutError: stale: no heartbeat for 5.0 s"),
    ]


def test_a_function_that_raises_is_a_run_of_no_length(path: Path) -> None:
    def feed() -> Any:
        raise ValueError("no price")

    async def main(registry: TaskRegistry) -> None:
        backoff = Backoff(10, factor=1, jitter=0)
        registry.supervise(feed, "feed", backoff=backoff, max_restarts=2)
        await registry.join("feed")

    shown = recorded(path, main)
    assert shown["feed"] == [("failed", at, at) for at in (0, 10, 20)]
    assert [at for _, at, _ in marks(path)] == [10, 20]


def test_an_end_between_two_runs_is_a_mark(path: Path) -> None:
    async def main(registry: TaskRegistry) -> None:
        registry.supervise(
            lambda: fail("no price"), "feed", backoff=Backoff(60, jitter=0)
        )
        await asyncio.sleep(10)
        await registry.cancel("feed", "enough")

    assert recorded(path, main) == {"feed": [("failed", 0, 0)]}
    assert marks(path) == [("cancelled", 10, None)]


def test_a_task_that_is_older_than_the_file_begins_when_it_began(path: Path) -> None:
    first = path.with_suffix(".first")

    async def main() -> None:
        async with TaskRegistry(stale_threshold=10**6) as registry:
            registry.register(asyncio.sleep(30), "feed")
            registry.register(asyncio.sleep(5), "earlier")
            await asyncio.sleep(10)
            async with registry.record(first):
                await asyncio.sleep(5)
            await asyncio.sleep(5)
            async with registry.record(path):
                await asyncio.sleep(20)

    in_virtual_time(main())
    assert rows(first) == {"feed": [("running", 0, 15)]}
    assert rows(path) == {"feed": [("done", 0, 30)]}


def test_what_was_stale_before_the_file_is_shown(path: Path) -> None:
    async def main() -> None:
        registry = TaskRegistry(heartbeat_interval=1.0, stale_threshold=5)
        async with registry:
            registry.register(forever(), "feed")
            await asyncio.sleep(10)
            async with registry.record(path):
                await asyncio.sleep(10)
                registry.heartbeat("feed")
                await asyncio.sleep(2)

    in_virtual_time(main())
    assert rows(path) == {"feed": [("running", 0, 22), ("stale", 5, 20)]}


@pytest.mark.parametrize("rests", [False, True])
def test_runs_that_ended_before_the_file_are_one_bar(path: Path, rests: bool) -> None:
    async def feed() -> None:
        await asyncio.sleep(10)
        raise ValueError("no price")

    async def main() -> None:
        async with TaskRegistry(stale_threshold=10**6) as registry:
            backoff = Backoff(10, factor=1, jitter=0)
            registry.supervise(feed, "feed", backoff=backoff)
            await asyncio.sleep(35 if rests else 45)
            async with registry.record(path):
                await asyncio.sleep(30 if rests else 20)

    in_virtual_time(main())
    if rests:
        runs = [("earlier runs", 0, 35), ("failed", 40, 50), ("running", 60, 65)]
        at = [40, 60]
    else:
        runs = [("earlier runs", 0, 45), ("failed", 45, 50), ("running", 60, 65)]
        at = [60]
    assert rows(path) == {"feed": runs}
    reason = "ValueError: no price"
    first = 2 if rests else 3
    assert marks(path) == [
        (f"restart {number}", when, reason) for number, when in enumerate(at, first)
    ]


def test_nothing_is_written_between_two_recordings(path: Path) -> None:
    async def feed() -> None:
        await asyncio.sleep(10)
        raise ValueError("no price")

    async def main() -> None:
        async with TaskRegistry(stale_threshold=10**6) as registry:
            backoff = Backoff(10, factor=1, jitter=0)
            registry.supervise(feed, "feed", backoff=backoff)
            await asyncio.sleep(5)
            async with registry.record(path):
                await asyncio.sleep(10)  # it rests now
            before = path.read_bytes()
            registry.register(echo(), "job")
            await asyncio.sleep(30)
            assert path.read_bytes() == before

    in_virtual_time(main())
    assert rows(path) == {"feed": [("failed", 0, 10)]}


def test_an_id_that_comes_back_is_another_row(path: Path) -> None:
    async def main(registry: TaskRegistry) -> None:
        for _ in range(3):
            await registry.register(echo(), "job")
            await registry.wait()

    assert recorded(path, main) == {"job": [("done", 0, 0)] * 3}
    assert path.read_text().count('"thread_name"') == 3


async def test_on_finish_is_called_as_before(
    path: Path, loop_errors: LoopErrors
) -> None:
    seen: list[str] = []

    def finish(meta: TaskMetadata) -> None:
        seen.append(meta.task_id)
        raise ValueError("of the hook")

    async with a_registry(on_finish=finish) as registry:
        async with registry.record(path):
            registry.register(echo(), "one")
            await settle()
        registry.register(echo(), "two")
        await settle()
    assert seen == ["one", "two"]
    assert list(rows(path)) == ["one"]
    assert [str(context["exception"]) for context in loop_errors] == ["of the hook"] * 2
    assert "on_finish" in loop_errors[0]["message"]


@pytest.mark.parametrize("task_id", ['"quoted"\n', "\ud800", "\0", "x" * 20_000, "ü"])
async def test_any_id_can_be_written(path: Path, task_id: str) -> None:
    async with a_registry() as registry, registry.record(path):
        registry.register(echo(), task_id)
        await settle()
    [name] = rows(path)
    assert name[:100] == task_id[:100]
    assert len(name) <= 120
    assert args(path, task_id)["id"] == task_id


async def test_nothing_is_kept_of_tasks_that_have_ended(path: Path) -> None:
    class Result:
        pass

    async def work() -> Result:
        return Result()

    async with a_registry(history=0) as registry, registry.record(path) as recording:
        task, _ = await registry.register(work())
        kept = weakref.ref(await task)
        del task
        for _ in range(1000):
            registry.register(work())
        await registry.wait()
        await settle()
        gc.collect()
        assert kept() is None
        assert not recording._rows
        assert not recording._stale_since
        assert recording._file is not None
        assert len(recording._file._waiting) < 2**16
    assert len(json.loads(path.read_text())) == 1 + 2 * 1001


async def test_the_file_is_complete_json_while_it_is_written(path: Path) -> None:
    sizes = set()
    async with a_registry() as registry, registry.record(path):
        for _ in range(10):
            for _ in range(100):
                registry.register(echo())
            await registry.wait()
            sizes.add(len(json.loads(path.read_text())))
    assert len(sizes) > 2
    assert len(json.loads(path.read_text())) == 2001


@contextmanager
def a_full_disk(size: int) -> Iterator[None]:
    """Let no file grow above a size."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_an_error_of_the_disk_is_reported_once_and_leaves_complete_json(
    path: Path, loop_errors: LoopErrors
) -> None:
    ended = 0

    def finish(meta: TaskMetadata) -> None:
        nonlocal ended
        ended += 1

    async with a_registry(on_finish=finish) as registry, registry.record(path):
        with a_full_disk(100_000):
            for _ in range(2000):
                registry.register(echo())
            await registry.wait()
        registry.register(echo(), "later")
        await registry.wait()
    assert ended == 2001
    [context] = loop_errors
    assert isinstance(context["exception"], OSError)
    assert f"recording to str {str(path)[:20]!r}"[:-1] in context["message"]
    size = path.stat().st_size
    assert 50_000 < size < 100_000
    names = [event["name"] for event in json.loads(path.read_text())]
    assert names.count("done") > 100
    assert "later" not in path.read_text()


async def test_a_file_that_was_closed_costs_no_task_its_hook_and_no_run(
    path: Path, loop_errors: LoopErrors
) -> None:
    ended: list[str] = []
    runs = 0

    async def feed() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise ValueError("x" * 500)

    async with (
        a_registry(on_finish=lambda meta: ended.append(meta.task_id)) as registry,
        registry.record(path) as recording,
    ):
        assert recording._file is not None
        os.close(recording._file._file.fileno())  # a program that becomes a daemon
        recording._file._waiting += b" " * 2**16
        registry.supervise(feed, "feed", backoff=Backoff(0))
        await registry.join("feed")
        await registry.register(echo(), "job")
        await registry.join("job")
    assert runs == 2
    assert ended == ["feed", "job"]
    [context] = loop_errors
    assert "recording to" in context["message"]


async def test_two_recordings_never_write_one_file(path: Path) -> None:
    async with a_registry() as one, a_registry() as other:
        async with one.record(path):
            one.register(echo(), "of one")
            with pytest.raises(OSError, match="another recording writes it"):
                async with other.record(path):
                    pytest.fail("entered")
            program = f"""
                import asyncio
                from pyasynclife import TaskRegistry
                async def main():
                    async with TaskRegistry().record({str(path)!r}):
                        pass
                asyncio.run(main())
            """
            with start_child(program) as child:
                assert "another recording writes it" in child.finish().stderr
            await settle()
        assert list(rows(path)) == ["of one"]
        async with other.record(path):
            other.register(echo(), "of other")
            await settle()
    assert list(rows(path)) == ["of other"]


async def test_a_process_that_was_forked_meanwhile_keeps_no_file(path: Path) -> None:
    async with a_registry() as registry:
        async with registry.record(path):
            program = [sys.executable, "-c", "input()"]
            assert registry._recording is not None
            file = registry._recording._file
            assert file is not None
            os.set_inheritable(file._file.fileno(), True)
            child = subprocess.Popen(program, stdin=subprocess.PIPE, close_fds=False)
        try:
            async with registry.record(path):
                pass
        finally:
            child.communicate(b"\n")


async def test_a_pipe_that_nobody_reads_does_not_block_the_loop(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with a_registry() as registry:
        with pytest.raises(OSError, match=r"\[Errno \d+\]"):
            async with registry.record(tmp_path / "pipe"):
                pytest.fail("entered")


async def test_a_file_that_cannot_be_opened_is_an_oserror_and_records_nothing(
    tmp_path: Path,
) -> None:
    async with a_registry() as registry:
        for bad in (tmp_path, tmp_path / "missing" / "x.json", Path("/dev/full")):
            with pytest.raises(OSError, match=r"\[Errno \d+\]"):
                async with registry.record(bad):
                    pytest.fail("entered")
        async with registry.record(tmp_path / "good.json"):
            pass
    assert rows(tmp_path / "good.json") == {}


async def test_one_recording_at_a_time(path: Path) -> None:
    async with a_registry() as registry, registry.record(path):
        with pytest.raises(RuntimeError, match=r"has <Recording '.*'> already"):
            async with registry.record(path.with_suffix(".other")):
                pytest.fail("entered")
    assert not path.with_suffix(".other").exists()


async def test_a_task_can_record_the_others_for_a_while(path: Path) -> None:
    async def record(registry: TaskRegistry) -> None:
        async with registry.record(path):
            await settle(20)

    ended: list[str] = []
    on_finish = lambda meta: ended.append(meta.task_id)  # noqa: E731
    async with a_registry(on_finish=on_finish) as registry:
        registry.register(forever(), "feed")
        await settle()
        registry.register(record(registry), "recorder")
        await settle(2)
        registry.register(echo(), "job")
        await registry.join("recorder")
        registry.register(echo(), "later")
        await registry.join("later")
    shown = {name: [bar[0] for bar in bars] for name, bars in rows(path).items()}
    assert shown == {"job": ["done"], "feed": ["running"], "recorder": ["running"]}
    assert ended == ["job", "recorder", "later", "feed"]


def test_the_file_of_a_process_that_was_killed_can_be_read(path: Path) -> None:
    program = f"""
        import asyncio, os, signal
        from pyasynclife import TaskRegistry

        async def job():
            pass

        async def main():
            registry = TaskRegistry(heartbeat_interval=0.01)
            async with registry.record({str(path)!r}), registry:
                for number in range(100):
                    registry.register(job(), f"job-{{number}}")
                await registry.wait()
                while os.path.getsize({str(path)!r}) < 1000:
                    await asyncio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)

        asyncio.run(main())
    """
    with start_child(program) as child:
        child.finish()
    names = [event["name"] for event in json.loads(path.read_text())]
    assert names.count("done") == 100


async def test_the_end_of_the_block_lets_the_loop_go_on(path: Path) -> None:
    async with a_registry() as registry:
        for _ in range(1000):
            registry.register(forever())
        async with Iterations() as iterations:
            async with registry.record(path):
                await settle(2)
                before = iterations.count
            assert 5 <= iterations.count - before < 10
    assert len(rows(path)) == 1000


def test_many_tasks_that_wake_up_are_written_in_slices(path: Path) -> None:
    async def main() -> None:
        registry = TaskRegistry(heartbeat_interval=10, stale_threshold=5)
        async with registry.record(path) as recording:
            ids = [f"task {number}" for number in range(1000)]
            for task_id in ids:
                registry.register(forever(), task_id)
            monitor = asyncio.ensure_future(registry.monitor_loop())
            await asyncio.sleep(15)
            assert len(recording._stale_since) == 1000
            for task_id in ids:
                registry.heartbeat(task_id)
            before = path.stat().st_size
            async with Iterations() as iterations:
                await settle()
                seen = iterations.count
                await recording.note_check()
                assert 5 <= iterations.count - seen < 10
            assert not recording._stale_since
            assert path.stat().st_size > before
            monitor.cancel()
            await asyncio.wait([monitor])
        await registry.shutdown()

    in_virtual_time(main())
    assert [bars[-1] for bars in rows(path).values()] == [("stale", 5, 15)] * 1000


async def test_a_block_that_is_cancelled_at_its_end_writes_the_rest_at_once(
    path: Path,
) -> None:
    async def record(registry: TaskRegistry) -> None:
        async with registry.record(path):
            pass

    async with a_registry() as registry:
        for _ in range(1000):
            registry.register(forever())
        recording = asyncio.ensure_future(record(registry))
        await settle(2)
        assert not recording.done()
        recording.cancel()
        await asyncio.wait([recording])
        assert recording.cancelled()
    assert len(rows(path)) == 1000


@pytest.mark.standard_loop_only
def test_a_registry_of_another_loop_is_not_recorded(path: Path) -> None:
    registry = TaskRegistry()

    async def use() -> None:
        registry.register(forever())

    async def record() -> None:
        async with registry.record(path):
            pass

    with asyncio.Runner() as first:
        first.run(use())
        with asyncio.Runner() as second, pytest.raises(RuntimeError, match="per loop"):
            second.run(record())
        assert not path.exists()
        first.run(registry.shutdown())
    asyncio.run(record())  # the first loop is closed, and the registry empty
    assert rows(path) == {}


@pytest.mark.parametrize("bad", [3, None, ["x"]])
def test_a_path_of_another_type_is_refused_at_the_call(bad: Any) -> None:
    with pytest.raises(TypeError, match=r"expected str, bytes or os.PathLike object"):
        TaskRegistry().record(bad)


async def test_a_coroutine_in_place_of_a_path_is_closed() -> None:
    registry = TaskRegistry()
    coro = forever()
    with pytest.raises(TypeError, match="not coroutine"):
        registry.record(coro)  # type: ignore[arg-type]
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    coro = forever()
    with pytest.raises(TypeError, match="not coroutine"):
        await registry.serve(coro)  # type: ignore[arg-type]
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED


async def test_an_exception_of_the_block_propagates_and_the_file_is_whole(
    path: Path,
) -> None:
    async with a_registry() as registry:
        with pytest.raises(ValueError, match="of the block"):
            async with registry.record(path):
                registry.register(forever(), "feed")
                await settle()
                raise ValueError("of the block")
    assert [bar[0] for bar in rows(path)["feed"]] == ["running"]
