"""VirtualTimeLoop jumps to the next timer, reports hangs, waits for real events."""

import asyncio
import contextlib
import contextvars
import math
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pyasynclife import PyAsyncLifeError, TaskRegistry, bounded_gather
from pyasynclife.testing import HangError, VirtualTimeLoop
from support.loops import settle


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)


def now() -> float:
    return asyncio.get_running_loop().time()


# ------------------------------------------------------------------ its clock


def test_a_year_takes_no_time() -> None:
    async def main() -> list[float]:
        times = [now()]
        for seconds in (0.1, 3600, 365 * 86400):
            await asyncio.sleep(seconds)
            times.append(now())
        return times

    began = time.monotonic()
    assert run(main()) == [0.0, 0.1, 0.1 + 3600, 0.1 + 3600 + 365 * 86400]
    assert time.monotonic() - began < 5


def test_the_clock_stands_still_while_code_runs() -> None:
    async def main() -> float:
        time.sleep(0.01)
        await settle(10)
        return now()

    assert run(main()) == 0.0


def test_timers_run_in_order_each_at_its_time() -> None:
    async def main() -> list[object]:
        loop = asyncio.get_running_loop()
        seen: list[object] = []

        def see(name: str) -> None:
            seen.append((name, loop.time()))

        for name, delay in [("c", 2.5), ("a", 1.0), ("d", 2.75), ("b", 2.0)]:
            loop.call_later(delay, see, name)
        loop.call_later(0.5, see, "never").cancel()
        await asyncio.sleep(3)
        return seen

    assert run(main()) == [("a", 1.0), ("b", 2.0), ("c", 2.5), ("d", 2.75)]


def test_timeouts_of_the_package_follow_the_clock() -> None:
    async def main() -> tuple[list[bool], float, float, list[str]]:
        result = await bounded_gather(asyncio.sleep, [10, 1000], timeout=60)
        registry = TaskRegistry(stale_threshold=15)
        task, _ = registry.register(asyncio.sleep(20), "quiet").result()
        await asyncio.sleep(16)
        stale = registry.get_stale_tasks().result()
        await task
        return [r.timed_out for r in result], result.duration, now(), stale

    assert run(main()) == ([False, True], 60.0, 80.0, ["quiet"])


def test_iterations_are_counted() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        before = loop.turns
        await settle(5)
        return loop.turns - before

    assert run(main()) == 5


# ------------------------------------------------------------------ hangs


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


def test_a_hang_is_reported_at_once_with_the_place_where_each_task_waits() -> None:
    async def main() -> None:
        task = asyncio.create_task(wait_for_ever(), name="the other one")
        await task

    began = time.monotonic()
    with pytest.raises(HangError, match="the loop would wait forever") as caught:
        run(main())
    assert time.monotonic() - began < 5
    text = str(caught.value)
    assert "2 tasks" in text
    assert "the other one" in text
    assert "in wait_for_ever" in text
    assert f"{__file__}:" in text
    assert isinstance(caught.value, PyAsyncLifeError)


def test_after_a_hang_the_runner_cancels_the_tasks() -> None:
    ended = []

    async def main() -> None:
        try:
            await wait_for_ever()
        finally:
            await asyncio.sleep(5)
            ended.append(now())

    with pytest.raises(HangError):
        run(main())
    assert ended == [5.0]


def test_a_timer_at_infinity_is_a_hang() -> None:
    with pytest.raises(HangError):
        run(asyncio.sleep(math.inf))


def test_a_cancelled_timer_is_a_hang() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(5, print).cancel()
        await wait_for_ever()

    with pytest.raises(HangError):
        run(main())


# ------------------------------------------------------------------ real events


def test_a_job_in_an_executor_is_waited_for() -> None:
    async def main() -> tuple[str, str, float]:
        first = await asyncio.to_thread(lambda: time.sleep(0.05) or "done")
        with ThreadPoolExecutor() as pool:
            loop = asyncio.get_running_loop()
            second = await loop.run_in_executor(pool, lambda: time.sleep(0.05) or "own")
        return str(first), str(second), now()

    first, second, took = run(main())
    assert (first, second) == ("done", "own")
    assert 0 < took < 5


def test_a_timeout_does_not_overtake_a_job() -> None:
    async def main() -> str:
        async with asyncio.timeout(30):
            return str(await asyncio.to_thread(lambda: time.sleep(0.05) or "in time"))

    assert run(main()) == "in time"


def test_a_timeout_of_a_job_takes_real_time() -> None:
    release = threading.Event()

    async def main() -> float:
        began = time.monotonic()
        try:
            async with asyncio.timeout(0.05):
                await asyncio.to_thread(release.wait)
        except TimeoutError:
            pass
        finally:
            release.set()
        return time.monotonic() - began

    assert 0.045 <= run(main()) < 5


def test_when_a_job_has_ended_time_jumps_again() -> None:
    async def main() -> None:
        assert await asyncio.to_thread(int) == 0
        await asyncio.sleep(86400)
        await wait_for_ever()

    with pytest.raises(HangError):
        run(main())


def test_a_failed_and_an_abandoned_job_are_not_waited_for() -> None:
    release = threading.Event()

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        job = asyncio.get_running_loop().run_in_executor(None, release.wait)
        job.cancel()
        try:
            await wait_for_ever()
        finally:
            release.set()

    with pytest.raises(HangError):
        run(main())


def test_a_socket_is_waited_for() -> None:
    left, right = socket.socketpair()

    def answer() -> None:
        time.sleep(0.05)
        right.sendall(b"late")

    async def main() -> bytes:
        reader, writer = await asyncio.open_connection(sock=left)
        thread = threading.Thread(target=answer)
        thread.start()
        async with asyncio.timeout(30):
            data = await reader.read(4)
        thread.join()
        writer.close()
        await writer.wait_closed()
        return data

    with left, right:
        assert run(main()) == b"late"


def test_a_server_and_its_client() -> None:
    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async def main() -> bytes:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            host, port = server.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"hello\n")
            line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return line

    assert run(main()) == b"HELLO\n"


@pytest.mark.parametrize("pipes", [False, True], ids=["no pipes", "pipes"])
def test_a_child_process_is_waited_for(pipes: bool) -> None:
    code = "import time; time.sleep(0.05); print('out'); raise SystemExit(3)"
    out = asyncio.subprocess.PIPE if pipes else asyncio.subprocess.DEVNULL

    async def main() -> tuple[int | None, bytes | None]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stdout=out
        )
        async with asyncio.timeout(60):
            data, _ = await child.communicate()
        return child.returncode, data

    assert run(main()) == (3, b"out\n" if pipes else None)


def test_a_shell_is_waited_for() -> None:
    async def main() -> int:
        child = await asyncio.create_subprocess_shell("sleep 0.05; exit 4")
        return await child.wait()

    assert run(main()) == 4


def test_after_a_child_has_ended_a_hang_is_reported() -> None:
    async def main() -> None:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
        await child.wait()
        await wait_for_ever()

    with pytest.raises(HangError):
        run(main())


def test_another_thread_is_waited_for_inside_real_time() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        future: asyncio.Future[str] = loop.create_future()

        def answer() -> None:
            time.sleep(0.05)
            loop.call_soon_threadsafe(future.set_result, "from afar")

        thread = threading.Thread(target=answer)
        thread.start()
        with loop.real_time():
            async with asyncio.timeout(60):
                result = await future
        thread.join()
        return result

    assert run(main()) == "from afar"


def test_a_call_from_a_thread_comes_before_a_jump() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(event.set,))
        thread.start()
        thread.join()
        async with asyncio.timeout(60):
            await event.wait()
        return now()

    assert run(main()) == 0.0


def test_a_pipe_is_waited_for() -> None:
    async def main() -> bytes:
        loop = asyncio.get_running_loop()
        inlet, outlet = os.pipe()
        got: asyncio.Future[bytes] = loop.create_future()
        loop.add_reader(inlet, lambda: got.set_result(os.read(inlet, 9)))
        job = threading.Timer(0.05, os.write, (outlet, b"x"))
        job.start()
        data = await got
        loop.remove_reader(inlet)
        job.join()
        os.close(inlet)
        os.close(outlet)
        return data

    assert run(main()) == b"x"


# ---------------------------------------------------------------- other threads


def set_later(future: asyncio.Future[str], seconds: float) -> threading.Thread:
    """A thread, not started, that works and then answers."""
    loop = asyncio.get_running_loop()

    def answer() -> None:
        time.sleep(seconds)
        loop.call_soon_threadsafe(future.set_result, "from afar")

    return threading.Thread(target=answer)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that waits for threads at work for longer than a test may take."""
    monkeypatch.setattr("pyasynclife.testing._threads.PATIENCE", 3600.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyasynclife.testing._threads.PATIENCE", 0.05)


def test_a_thread_at_work_is_waited_for() -> None:
    async def main() -> tuple[str, float]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        thread = set_later(future, 0.05)
        thread.start()
        result = await future
        thread.join()
        return result, now()

    result, took = run(main())
    assert result == "from afar"
    assert 0.04 < took < 5


def test_a_timeout_does_not_overtake_a_thread_at_work() -> None:
    async def main() -> tuple[str, float]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        thread = set_later(future, 0.05)
        thread.start()
        async with asyncio.timeout(30):
            result = await future
        thread.join()
        return result, now()

    result, took = run(main())
    assert result == "from afar"
    assert took < 5


def test_a_timeout_of_a_thread_at_work_takes_real_time() -> None:
    async def main() -> float:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        thread = set_later(future, 0.1)
        thread.start()
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.03):
                await asyncio.Event().wait()
        took = time.monotonic() - began
        await future
        thread.join()
        return took

    assert 0.02 < run(main()) < 5


def wait_for_an_event(end: threading.Event) -> None:
    end.wait()


def wait_for_a_queue(end: threading.Event) -> None:
    jobs: queue.Queue[None] = queue.Queue()
    waker = threading.Thread(target=lambda: (end.wait(), jobs.put(None)))
    waker.start()
    jobs.get()
    waker.join()


def wait_in_an_executor(end: threading.Event) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        end.wait()


@pytest.mark.parametrize(
    "wait", [wait_for_an_event, wait_for_a_queue, wait_in_an_executor]
)
@pytest.mark.usefixtures("patient")
def test_an_idle_thread_is_not_waited_for(
    wait: Callable[[threading.Event], None],
) -> None:
    end = threading.Event()
    thread = threading.Thread(target=wait, args=(end,), name="a pool")

    async def main() -> None:
        thread.start()
        await asyncio.sleep(86400)
        await wait_for_ever()

    try:
        with pytest.raises(HangError, match=r"alive: .*'a pool'.*real_time\(\)"):
            run(main())
    finally:
        end.set()
        thread.join()


@pytest.mark.usefixtures("patient")
def test_a_thread_that_ends_without_a_word_is_a_hang() -> None:
    async def main() -> None:
        threading.Thread(target=time.sleep, args=(0.05,)).start()
        await wait_for_ever()

    with pytest.raises(HangError) as caught:
        run(main())
    assert "is alive" not in str(caught.value)


@pytest.mark.usefixtures("impatient")
def test_a_hang_waits_only_once_for_an_older_thread_that_never_answers() -> None:
    end = []

    def work() -> None:
        while not end:
            time.sleep(0.001)

    def hang() -> float:
        loop = VirtualTimeLoop()
        task = loop.create_task(wait_for_ever())
        with pytest.raises(HangError, match="'the runner'"):
            loop.run_until_complete(task)
        waited = loop.time()
        task.cancel()
        loop.run_until_complete(asyncio.wait([task]))
        loop.close()
        return waited

    thread = threading.Thread(target=work, name="the runner")
    thread.start()
    try:
        assert 0.05 <= hang() < 5
        assert run(asyncio.to_thread(int)) == 0  # wakes a loop
        assert hang() == 0
    finally:
        end.append(True)
        thread.join()


def test_a_hang_names_a_thread_that_works_on_and_on(impatient: None) -> None:
    end = []

    def work() -> None:
        while not end:
            time.sleep(0.001)

    thread = threading.Thread(target=work, name="busy")
    loop = VirtualTimeLoop()
    try:
        thread.start()
        assert loop.run_until_complete(asyncio.sleep(86400, "a day")) == "a day"
        with pytest.raises(HangError, match="1 other thread is alive: 'busy'"):
            loop.run_until_complete(wait_for_ever())
    finally:
        end.append(True)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@pytest.mark.usefixtures("patient")
def test_time_jumps_beside_a_thread_that_is_older_than_the_loop() -> None:
    release: list[asyncio.Future[str]] = []

    def work() -> None:
        while not release:
            time.sleep(0.001)
        time.sleep(0.05)
        loop = release[0].get_loop()
        loop.call_soon_threadsafe(release[0].set_result, "before a hang")

    async def main() -> str:
        await asyncio.sleep(86400)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        release.append(future)
        return await future

    thread = threading.Thread(target=work)
    thread.start()
    assert run(main()) == "before a hang"
    thread.join()


@pytest.mark.usefixtures("patient")
def test_anyios_threads_are_waited_for_and_their_pool_is_not() -> None:
    import anyio
    import anyio.from_thread
    import anyio.to_thread

    def ask() -> str:
        return anyio.from_thread.run(asyncio.sleep, 3600, "asked")

    async def main() -> list[str | None]:
        results: list[str | None] = []
        for _ in range(50):
            work = anyio.to_thread.run_sync(lambda: time.sleep(0.001) or "done")
            with anyio.fail_after(30):
                results.append(await work)
        results.append(await anyio.to_thread.run_sync(ask))
        await asyncio.sleep(86400)
        with anyio.move_on_after(5):
            await wait_for_ever()
        return results

    assert run(main()) == ["done"] * 50 + ["asked"]

    async def hang() -> None:
        await anyio.to_thread.run_sync(int)
        await wait_for_ever()

    with pytest.raises(HangError, match="'AnyIO worker thread'"):
        run(hang())


@pytest.mark.usefixtures("patient")
def test_a_sync_endpoint_of_starlette_answers() -> None:
    httpx = pytest.importorskip("httpx", reason="httpx is not installed")
    pytest.importorskip("starlette", reason="Starlette is not installed")
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    def endpoint(request: Request) -> PlainTextResponse:
        time.sleep(0.01)
        return PlainTextResponse("hello")

    async def main() -> list[str]:
        app = Starlette(routes=[Route("/", endpoint)])
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://t"
        ) as client:
            return [(await client.get("/")).text for _ in range(3)]

    assert run(main()) == ["hello"] * 3


def test_contexts_and_debug_mode_work() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def main() -> int:
        variable.set(5)
        return await asyncio.create_task(asyncio.sleep(1, variable.get()))

    with asyncio.Runner(loop_factory=VirtualTimeLoop, debug=True) as runner:
        assert runner.run(main()) == 5
