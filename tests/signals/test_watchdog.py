"""kill_after: the process ends by its deadline, whatever holds it up."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import SignalCoordinator, _core
from support.children import Child, run_child
from support.signals import Run, Start, needs_posix, program

pytestmark = needs_posix

UNSHARE = ["unshare", "--pid", "--fork", "--user", "--map-root-user"]
AFTER = 0.6
PROCESSES = int(os.environ.get("PYASYNCLIFE_PROCESSES", "5"))

# What holds the process up, from the line after which the signal comes.
HANGS = {
    "C code holds the GIL": """
        async def main():
            async with SignalCoordinator(0.1, kill_after=AFTER):
                reader, writer = os.pipe()
                print("ready")
                hang_here = ctypes.PyDLL(None).read  # restarts after the signal
                hang_here(reader, ctypes.create_string_buffer(1), 1)
        run(main())
    """,
    "a callback does not return": """
        def hang_here():
            print("ready")
            while True: pass
        async def main():
            async with SignalCoordinator(0.1, kill_after=AFTER):
                asyncio.get_running_loop().call_soon(hang_here)
                await asyncio.sleep(60)
        run(main())
    """,
    "a thread of an executor sleeps": """
        def hang_here():
            print("ready")
            time.sleep(60)
        async def main():
            async with SignalCoordinator(0.1, kill_after=AFTER) as c:
                asyncio.get_running_loop().run_in_executor(None, hang_here)
                await c.wait_for_shutdown()
        run(main())
    """,
    "a task swallows cancellations after the block": """
        async def hang_here():
            print("ready")
            while True:
                try: await asyncio.sleep(60)
                except asyncio.CancelledError: pass
        async def main():
            global task
            async with SignalCoordinator(0.1, kill_after=AFTER) as c:
                task = asyncio.create_task(hang_here())
                await c.wait_for_shutdown()
        run(main())
    """,
    "a function hangs at exit": """
        import atexit
        def hang_here(): time.sleep(60)
        atexit.register(hang_here)
        async def main():
            async with SignalCoordinator(0.1, kill_after=AFTER) as c:
                print("ready")
                await c.wait_for_shutdown()
        run(main())
    """,
}


def source(text: str) -> str:
    return f"import ctypes\nAFTER = {AFTER}\n" + textwrap.dedent(text)


def killed_by(child: Child, signum: int) -> str:
    """Send a signal, and wait for the end by it, not before the deadline; stderr."""
    child.wait_for("ready")
    sent = time.monotonic()
    child.send_signal(signum)
    done = child.finish()
    took = time.monotonic() - sent
    assert done.returncode == -signum, done.stderr
    assert took >= AFTER - 0.001
    return done.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hang", HANGS)
def test_the_process_is_dumped_and_ends_by_the_signal(
    start: Start, hang: str, signum: signal.Signals
) -> None:
    with start(source(HANGS[hang])) as child:
        stderr = killed_by(child, signum)
    first = stderr.splitlines()[0]
    assert first.startswith("pyasynclife: the process still runs ")
    assert first.endswith(f"after {signum.name}: it is ended by {signum.name}")
    assert "(most recent call first):" in stderr
    if "swallows" not in hang and "GIL" not in hang:
        assert "in hang_here" in stderr


@pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="uvicorn is not installed"
)
def test_a_task_that_swallows_does_not_keep_uvicorn_alive(start: Start) -> None:
    with start(
        source("""
        import uvicorn
        from contextlib import asynccontextmanager
        from starlette.applications import Starlette
        async def swallow():
            while True:
                try: await asyncio.sleep(60)
                except asyncio.CancelledError: pass
        @asynccontextmanager
        async def lifespan(app):
            global task
            async with SignalCoordinator(0.1, kill_after=5 * AFTER):
                task = asyncio.create_task(swallow())
                asyncio.get_running_loop().call_later(0.2, print, "ready")
                yield
            print("left", flush=True)
        app = Starlette(lifespan=lifespan)
        run(uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical")).serve())
        """)
    ) as child:
        assert "ended by SIGINT" in killed_by(child, signal.SIGINT)
        assert "left" in child.stdout


CLEAN = """
    async def main(kill_after):
        async with SignalCoordinator(1, kill_after=kill_after) as c:
            print("ready")
            await c.wait_for_shutdown()
"""


def test_a_process_that_ends_in_time_is_left_alone(start: Start) -> None:
    for _ in range(PROCESSES):
        with start(source(CLEAN) + "run(main(30))") as child:
            child.wait_for("ready")
            child.send_signal(signal.SIGTERM)
            done = child.finish()
        assert (done.returncode, done.stderr) == (0, "")


def test_nothing_stops_the_clock_after_the_first_signal(start: Start) -> None:
    with start(
        source(CLEAN) + "run(main(2 * AFTER))\nprint('goes on')\ntime.sleep(60)"
    ) as child:
        killed_by(child, signal.SIGTERM)
    assert "goes on" in child.stdout


def test_the_first_signal_counts_and_chooses_how_the_process_ends(
    start: Start,
) -> None:
    with start(source(HANGS["a callback does not return"])) as child:
        child.wait_for("ready")
        sent = time.monotonic()
        child.send_signal(signal.SIGINT)
        for _ in range(4):
            time.sleep(0.1)
            child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert done.returncode == -signal.SIGINT
    assert time.monotonic() - sent < 10 * AFTER


def test_removed_before_a_signal_it_does_nothing(run: Run) -> None:
    done = run(
        source("""
        threads = lambda: len(os.listdir("/proc/self/task"))
        async def main():
            before = threads()
            async with SignalCoordinator(1):
                print("without", threads() - before)
            async with SignalCoordinator(1, kill_after=AFTER):
                print("with", threads() - before)
            print("after", threads() - before)
        run(main())
        signal.signal(signal.SIGTERM, lambda *_: print("host"))
        kill(signal.SIGTERM)
        time.sleep(AFTER + 0.3)
        print("alive")
        """)
    )
    assert done.stdout.split("\n")[:-1] == [
        "without 0",
        "with 1",
        "after 0",
        "host",
        "alive",
    ]


KERNEL = """
    class Action(ctypes.Structure):
        _fields_ = [("handler", ctypes.c_void_p), ("rest", ctypes.c_char * 144)]
    def kernel(signals=(1, 2, 15)):
        found = []
        for signum in signals:
            action = Action()
            ctypes.CDLL(None).sigaction(signum, None, ctypes.byref(action))
            found.append((action.handler, bytes(action.rest)))
        return found
"""


def test_the_kernels_actions_are_put_back_exactly(run: Run) -> None:
    done = run(
        source(KERNEL)
        + textwrap.dedent("""
        import logging
        logging.disable()  # that ours was replaced
        async def main():
            before = kernel(), actions()
            async with SignalCoordinator(1, kill_after=60):
                first = kernel(), actions()
                async with SignalCoordinator(1, kill_after=60):
                    print(actions() != first[1])
                print((kernel(), actions()) == first)
                async with SignalCoordinator(1):
                    pass
                print((kernel(), actions()) == first)
            print((kernel(), actions()) == before)
            c = SignalCoordinator(1, kill_after=60)
            c.setup_handlers()
            host = lambda *_: None
            signal.signal(signal.SIGTERM, host)
            hosts = kernel()[2]
            c.remove_handlers()
            print(kernel()[:2] == before[0][:2], kernel()[2] == hosts)
            print(actions()[2] is host)
        for handler in (signal.SIG_DFL, lambda *_: None):
            signal.signal(signal.SIGTERM, handler)
            run(main())
        """)
    )
    assert done.stdout.split() == ["True"] * 14


def test_the_shorter_of_two_deadlines_holds(start: Start) -> None:
    with start(
        source("""
        async def main():
            async with SignalCoordinator(1, kill_after=60):
                async with SignalCoordinator(1, kill_after=AFTER):
                    async with SignalCoordinator(1):
                        print("ready")
                        time.sleep(60)
        run(main())
        """)
    ) as child:
        killed_by(child, signal.SIGTERM)


def test_an_outer_deadline_is_kept_when_an_inner_block_was_left(start: Start) -> None:
    with start(
        source("""
        async def main():
            async with SignalCoordinator(1, kill_after=AFTER):
                async with SignalCoordinator(1, kill_after=60):
                    pass
                reader, writer = os.pipe()
                print("ready")
                ctypes.PyDLL(None).read(reader, ctypes.create_string_buffer(1), 1)
        run(main())
        """)
    ) as child:
        killed_by(child, signal.SIGTERM)


@pytest.mark.parametrize("displace", ["signal.signal(15, host)", "uvicorn"])
def test_a_displaced_handler_starts_the_clock(start: Start, displace: str) -> None:
    if displace == "uvicorn":  # as uvicorn does: put back, and raised again
        displace = "old = signal.signal(15, host); signal.signal(15, old)"
    with start(
        source(f"""
        def host(*_): print("host")
        async def main():
            async with SignalCoordinator(1, kill_after=AFTER) as c:
                await asyncio.sleep(0.1)
                {displace}
                print("ready")
                await c.wait_for_shutdown()
            await asyncio.sleep(60)
        run(main())
        """)
    ) as child:
        killed_by(child, signal.SIGTERM)


def test_a_forked_child_has_a_clock_only_if_it_arms_one(run: Run) -> None:
    done = run(
        source("""
        import warnings
        warnings.simplefilter("ignore")  # of a fork with threads
        async def main(c):
            async with c:
                print("armed", flush=True)
                kill(signal.SIGTERM)
                time.sleep(60)
        def status(child):
            pid = os.fork()
            if pid == 0:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                child()
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        c = SignalCoordinator(1, kill_after=AFTER)
        c.setup_handlers()
        def inert():
            signal.signal(signal.SIGTERM, lambda *_: print("host", flush=True))
            kill(signal.SIGTERM)
            time.sleep(AFTER + 0.3)
        print(status(inert))
        print(status(lambda: run(main(c))))
        print(status(lambda: run(main(SignalCoordinator(1, kill_after=AFTER)))))
        time.sleep(0.2)
        print(dict(c.received))
        """)
    )
    assert done.stdout.split("\n")[:-1] == [
        *("host", "0", "armed", "-15", "armed", "-15", "{}")
    ]


def test_a_stderr_that_nobody_reads_does_not_hold_the_end_up(start: Start) -> None:
    with start(
        source("""
        reader, writer = os.pipe()
        os.dup2(writer, 2)
        os.set_blocking(2, False)
        try:
            while True: os.write(2, b"x" * 4096)
        except BlockingIOError:
            os.set_blocking(2, True)
        """)
        + textwrap.dedent(source(HANGS["a callback does not return"]))
    ) as child:
        killed_by(child, signal.SIGTERM)


def test_a_closed_stderr_does_not_hold_the_end_up(start: Start) -> None:
    hang = source(HANGS["a callback does not return"])
    with start("import os\nos.close(2)\n" + hang) as child:
        assert killed_by(child, signal.SIGTERM) == ""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        [*UNSHARE, "true"],
        capture_output=True,
        check=False,
    ).returncode
    != 0,
    reason="no namespaces",
)
def test_process_1_of_a_container_ends_too() -> None:
    hang = """
        async def main():
            async with SignalCoordinator(1, kill_after=AFTER):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
        print(os.getpid(), flush=True)
        run(main())
    """
    done = subprocess.run(
        [*UNSHARE, sys.executable, *program(source(hang))],
        env=os.environ | {"LOOP": "asyncio"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "1\n")
    assert "it is ended by SIGTERM" in done.stderr


def test_a_signal_that_stops_processes_ends_this_one(start: Start) -> None:
    with start(
        source("""
        signals = [signal.SIGTSTP, signal.SIGWINCH]
        async def main():
            async with SignalCoordinator(
                1, kill_after=AFTER, shutdown_signals=signals
            ) as c:
                print("ready")
                await c.wait_for_shutdown()
            await asyncio.sleep(60)
        run(main())
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTSTP)
        assert child.finish().returncode == 128 + signal.SIGTSTP


def test_the_programs_own_faulthandler_goes_on(run: Run) -> None:
    done = run(
        source(KERNEL)
        + textwrap.dedent("""
        import faulthandler, tempfile
        unused = range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
        before = kernel(unused)
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.register(signal.SIGUSR1, file)
            faulthandler.dump_traceback_later(0.3, file=file)
            async def main():
                async with SignalCoordinator(1, kill_after=60):
                    kill(signal.SIGUSR1)
                    until = time.monotonic() + 10
                    while b"Timeout" not in os.pread(file.fileno(), 1 << 20, 0):
                        assert time.monotonic() < until
                        await asyncio.sleep(0.01)
                    await asyncio.sleep(0.3)
            run(main())
            faulthandler.unregister(signal.SIGUSR1)
            file.seek(0)
            text = file.read()
            print("Timeout" in text, text.count("most recent call first"))
        print(kernel(unused) == before)
        """)
    )
    timeout, count, same = done.stdout.split()
    assert (timeout, int(count) >= 2, same) == ("True", True, "True")


def test_more_deadlines_than_there_is_room_for_are_refused(run: Run) -> None:
    done = run(
        source("""
        async def main():
            made = [SignalCoordinator(kill_after=60) for _ in range(9)]
            for c in made[:8]: c.setup_handlers()
            before = actions()
            try: made[8].setup_handlers()
            except SignalSetupError as error: print(error)
            print(actions() == before)
            for c in reversed(made): c.remove_handlers()
            made[8].setup_handlers()
            made[8].remove_handlers()
        run(main())
        """)
    )
    assert "8 coordinators with kill_after" in done.stdout.split("\n")[0]
    assert done.stdout.split("\n")[1:] == ["True", ""]


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), ("1", TypeError)],
)
def test_a_wrong_kill_after_is_refused(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="kill_after"):
        SignalCoordinator(kill_after=value)


async def test_an_infinite_kill_after_is_none() -> None:
    async with SignalCoordinator(kill_after=float("inf")) as coordinator:
        assert coordinator._handlers.watchdog is None


def test_another_interpreter_makes_no_watchdog() -> None:
    done = run_child("""
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        interpreter = interpreters.create()
        failure = interpreters.run_string(interpreter, '''if True:
            try:
                from pyasynclife import _core
                _core.Watchdog(1.0, [15])
            except (ImportError, RuntimeError) as error:
                print("refused", error)
        ''')
        print(failure)
    """)
    if done.returncode != 0:
        pytest.skip("asyncio alone breaks this interpreter")
    assert done.stdout.split("\n")[0].startswith("refused")


def watchdog(seconds: float, signals: list[int]) -> Any:
    return _core.Watchdog(seconds, signals)


@pytest.mark.parametrize(
    "call",
    [
        lambda: watchdog(1.0, 15),  # type: ignore[arg-type]
        lambda: watchdog(1.0, [-1]),
        lambda: watchdog("1", [15]),  # type: ignore[arg-type]
        lambda: _core.Watchdog(),  # type: ignore[call-arg]
        lambda: _core.Watchdog(1.0, signals=[1]),  # type: ignore[call-arg]
        lambda: _core.watch_signal("x"),  # type: ignore[arg-type]
    ],
)
def test_the_core_refuses_wrong_arguments(call: Callable[[], object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        call()
    _core.watch_signal(0)
    _core.watch_signal(10_000)


def test_a_watchdog_that_was_cancelled_goes_on_for_ever() -> None:
    dog = watchdog(0.2, [signal.SIGUSR1])
    assert dog.signum == 0
    dog.begin(signal.SIGUSR1, 0.0)
    dog.begin(signal.SIGTERM, 5.0)  # the first one counts
    assert dog.signum == signal.SIGUSR1
    before = dog.due
    dog.postpone(60.0)
    assert dog.due > before + 30
    dog.postpone(1.0)
    assert dog.due > before + 30
    dog.disarm()  # too late
    assert dog.signum == signal.SIGUSR1
    dog.cancel()
    dog.cancel()
    dog.disarm()
    dog.begin(signal.SIGTERM, 0.0)
    dog.postpone(0.0)
    assert (dog.signum, dog.due) == (0, 0.0)


def test_a_watchdog_that_is_dropped_frees_its_place() -> None:
    for _ in range(20):
        watchdog(60.0, [signal.SIGUSR1])
