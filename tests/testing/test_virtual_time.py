"""VirtualTimeLoop jumps to the next timer, reports hangs, waits for real events."""

import asyncio
import contextvars
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Coroutine
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


def test_contexts_and_debug_mode_work() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def main() -> int:
        variable.set(5)
        return await asyncio.create_task(asyncio.sleep(1, variable.get()))

    with asyncio.Runner(loop_factory=VirtualTimeLoop, debug=True) as runner:
        assert runner.run(main()) == 5
