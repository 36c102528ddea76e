"""run(): a program has one deadline, from the signal to the end of its process."""

import asyncio
import importlib.util
import os
import re
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import pyasynclife
from pyasynclife import SignalCoordinator, SignalSetupError, TaskRegistry
from support.children import PATH, Child, run_child, start_child
from support.signals import needs_posix, press, program

pytestmark = needs_posix

TIMEOUT = 0.6
PROCESSES = int(os.environ.get("PYASYNCLIFE_PROCESSES", "3"))

NAMES = """
import atexit, ctypes, logging, logging.handlers, pyasynclife
from concurrent.futures import ThreadPoolExecutor
TIMEOUT = 0.6
def run(main, **options):
    options = {"shutdown_timeout": 30} | options
    return pyasynclife.run(main, loop_factory=new_loop, **options)
async def swallow():
    while True:
        try: await asyncio.sleep(60)
        except asyncio.CancelledError: pass
"""

Launch = Callable[[str], AbstractContextManager[Child]]


@pytest.fixture
def launch(loop_name: str) -> Launch:
    """Start a program whose stdout is buffered, as that of a service in a pipe."""
    env = {"LOOP": loop_name, "PYTHONUNBUFFERED": ""}
    return lambda source: start_child(program(NAMES + textwrap.dedent(source)), env=env)


def stop(
    child: Child, signum: int = signal.SIGTERM
) -> subprocess.CompletedProcess[str]:
    """Send a signal once the child is ready, and wait for its end."""
    child.wait_for("ready")
    child.send_signal(signum)
    return child.finish()


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    return done.stdout.split("\n")[:-1]


def test_the_parameters_and_their_order() -> None:
    import inspect

    parameters = inspect.signature(pyasynclife.run).parameters
    assert {name: one.default for name, one in parameters.items()} == {
        "main": inspect.Parameter.empty,
        "shutdown_timeout": 25.0,
        "drain": None,
        "force_exit": True,
        "loop_factory": None,
        "debug": None,
    }


# ------------------------------------------------------------------ a clean stop


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "main",
    [
        "async def main(): print('ready', flush=True); await asyncio.sleep(60)",
        """
async def main():
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(asyncio.sleep(60)) for _ in range(100)]
    await loop.run_in_executor(None, print, "ready")
    sys.stdout.flush()
    await asyncio.wait(tasks)
""",
        """
async def main(coordinator, registry):
    for _ in range(100): registry.register(asyncio.sleep(60))
    print("ready", flush=True)
    await coordinator.wait_for_shutdown()
""",
        """
async def main(coordinator, registry):
    registry.register(asyncio.sleep(60))
    print("ready", flush=True)
    await coordinator.wait_for_shutdown()
    assert (await coordinator.graceful_shutdown()).ok
""",
    ],
    ids=["nothing", "tasks", "registry", "graceful_shutdown"],
)
def test_a_program_that_stops_has_status_0(
    launch: Launch, main: str, signum: int
) -> None:
    for _ in range(PROCESSES):
        with launch(textwrap.dedent(main) + "\nprint(run(main))") as child:
            done = stop(child, signum)
        assert (done.returncode, lines(done), done.stderr) == (
            *(0, ["ready", "None"]),
            "",
        )


def test_the_value_of_main_is_returned_also_after_a_signal(launch: Launch) -> None:
    with launch("""
        async def main(coordinator, registry):
            print("ready", flush=True)
            return await coordinator.wait_for_shutdown()
        async def swallows_once():
            try: await asyncio.sleep(60)
            except asyncio.CancelledError: return "swallowed"
        print(run(main))
        asyncio.new_event_loop().close()
        async def again():
            asyncio.get_running_loop().call_soon(kill, signal.SIGINT)
            return await swallows_once()
        print(run(again), run(asyncio.sleep(0, "no signal")))
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done), done.stderr) == (
        *(0, ["ready", "15", "swallowed no signal"]),
        "",
    )


def test_cleanup_runs_and_everything_is_closed_in_order(launch: Launch) -> None:
    with launch("""
        async def cleans_up(name):
            try: await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                print(name)
        async def generate():
            try: yield
            finally: print("generator")
        def work():
            time.sleep(0.2)
            print("thread")
        async def main():
            global generator
            asyncio.create_task(cleans_up("child"))
            generator = generate()
            await anext(generator)
            asyncio.get_running_loop().run_in_executor(None, work)
            print("ready", flush=True)
            await cleans_up("main")
        before = actions()
        run(main)
        print(actions() == before, threading.active_count())
    """) as child:
        done = stop(child)
    assert lines(done) == [*("ready", "main", "child", "generator", "thread", "True 1")]
    assert (done.returncode, done.stderr) == (0, "")


def test_more_signals_during_the_cleanup_change_nothing(launch: Launch) -> None:
    with launch("""
        async def main():
            try:
                print("ready", flush=True)
                await asyncio.sleep(60)
            finally:
                for _ in range(3):
                    kill(signal.SIGTERM)
                    await asyncio.sleep(0.05)
                print("clean")
        run(main, shutdown_timeout=30)
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done), done.stderr) == (0, ["ready", "clean"], "")


def test_the_process_may_go_on_after_a_clean_stop(launch: Launch) -> None:
    with launch("""
        async def main():
            print("ready", flush=True)
            await asyncio.sleep(60)
        run(main, shutdown_timeout=2)
        time.sleep(2.5)
        print("goes on", len(os.listdir("/proc/self/task")))
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done)) == (0, ["ready", "goes on 1"])


# ------------------------------------------------------------------ Ctrl-C again


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("force_exit", [True, False])
def test_the_second_press_cancels_main_and_the_registry_at_once(
    launch: Launch, first: int, force_exit: bool
) -> None:
    with launch(f"""
        async def feed():
            try: await asyncio.sleep(60)
            finally: print("feed")
        async def main(coordinator, registry):
            registry.register(feed())
            await asyncio.sleep(0)
            print("ready", flush=True)
            await coordinator.wait_for_shutdown()
            try: await asyncio.sleep(60)        # it drains
            finally: print("main", coordinator.phase)
        print(run(main, shutdown_timeout=50, drain=45, force_exit={force_exit}))
    """) as child:
        child.wait_for("ready")
        press(child, first)
        assert child.process.poll() is None
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(lines(done)) == ["None", "feed", "main cancelling", "ready"]


@pytest.mark.parametrize("blocked", [True, False])
def test_the_third_press_dumps_and_ends_the_process_by_sigint(
    launch: Launch, blocked: bool
) -> None:
    then = "time.sleep(60)" if blocked else "await asyncio.sleep(60)"
    with launch(f"""
        async def feed_of_prices():
            await asyncio.sleep(60)
        async def main():
            task = asyncio.create_task(feed_of_prices(), name="prices")
            await asyncio.sleep(0)
            print("ready", flush=True)
            while True:
                try: {then}
                except (KeyboardInterrupt, asyncio.CancelledError): pass
        run(main, shutdown_timeout=50)
    """) as child:
        child.wait_for("ready")
        press(child)
        press(child)
        assert child.process.poll() is None
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.returncode == -signal.SIGINT
    assert "in main" in done.stderr
    assert "in feed_of_prices" in done.stderr


def test_without_force_exit_the_third_press_raises_keyboard_interrupt(
    launch: Launch,
) -> None:
    with launch("""
        async def main():
            print("ready", flush=True)
            while True:
                try: await asyncio.sleep(60)
                except asyncio.CancelledError: pass
        try:
            run(main, shutdown_timeout=3, force_exit=False)
        except KeyboardInterrupt:
            print("interrupted")
    """) as child:
        child.wait_for("ready")
        press(child)
        press(child)
        child.send_signal(signal.SIGINT)
        done = child.finish()
    # Main does not stop, so the deadline does.
    assert done.returncode == -signal.SIGINT
    assert "is ended by SIGINT" in done.stderr


def test_sigterm_never_climbs(launch: Launch) -> None:
    with launch("""
        async def main(coordinator, registry):
            print("ready", flush=True)
            while coordinator.received.get(signal.SIGTERM, 0) < 4:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            print(coordinator.phase)
        run(main, shutdown_timeout=50)
    """) as child:
        child.wait_for("ready")
        for _ in range(4):
            press(child, signal.SIGTERM)
        done = child.finish()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done) == ["ready", "draining"]


def test_two_presses_end_a_program_whose_loop_is_blocked(launch: Launch) -> None:
    with launch("""
        async def feed():
            try: await asyncio.sleep(60)
            finally: print("feed")
        async def main():
            task = asyncio.create_task(feed())
            await asyncio.sleep(0)
            print("ready", flush=True)
            time.sleep(60)
        run(main, shutdown_timeout=50)
    """) as child:
        child.wait_for("ready")
        press(child)
        assert child.process.poll() is None
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.returncode == -signal.SIGINT
    assert lines(done) == ["ready", "feed"]
    assert "KeyboardInterrupt" in done.stderr


def test_a_request_ends_main_too(launch: Launch) -> None:
    with launch("""
        async def main(coordinator, registry):
            threading.Timer(0.1, coordinator.request_shutdown, ["enough"]).start()
            try: await asyncio.sleep(60)
            finally: print(coordinator.reason)
        print(run(main, drain=0.1))
    """) as child:
        done = child.finish()
    assert (done.returncode, lines(done), done.stderr) == (0, ["enough", "None"], "")


def test_an_error_of_a_task_during_the_shutdown_is_reported(launch: Launch) -> None:
    with launch("""
        async def fails():
            try: await asyncio.sleep(60)
            finally: raise ValueError("while closing")
        async def main():
            asyncio.create_task(fails())
            print("ready", flush=True)
            await asyncio.sleep(60)
        run(main)
    """) as child:
        done = stop(child)
    assert done.returncode == 0
    assert "unhandled exception during the shutdown of run()" in done.stderr
    assert "ValueError: while closing" in done.stderr


def test_tasks_that_are_started_during_the_shutdown_are_cancelled(
    launch: Launch,
) -> None:
    with launch("""
        async def parent(depth):
            try: await asyncio.sleep(60)
            finally:
                print(depth)
                if depth: asyncio.create_task(parent(depth - 1))
                await asyncio.sleep(0)
        async def main():
            asyncio.create_task(parent(3))
            print("ready", flush=True)
            await asyncio.sleep(60)
        run(main)
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done)) == (0, ["ready", "3", "2", "1", "0"])


def test_main_may_cancel_all_other_tasks(launch: Launch) -> None:
    with launch("""
        async def main(coordinator, registry):
            registry.register(asyncio.sleep(60))
            print("ready", flush=True)
            await coordinator.wait_for_shutdown()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others: task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            return "done"
        print(run(main))
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done), done.stderr) == (0, ["ready", "done"], "")


# ------------------------------------------------------------------ drain


@pytest.mark.parametrize(
    ("main", "timeout", "options", "least"),
    [
        ("async def main(c, r)", 6.0, "", 4.0),
        ("async def main(c, r)", 30.0, "drain=0.3", 0.3),
        ("async def main()", 30.0, "drain=0.3", 0.3),
        ("async def main()", 30.0, "", 0.0),
        ("async def main(c, r)", 30.0, "drain=0", 0.0),
    ],
)
def test_main_is_cancelled_when_the_drain_is_over(
    launch: Launch, main: str, timeout: float, options: str, least: float
) -> None:
    with launch(f"""
        {main}:
            began = time.monotonic()
            kill(signal.SIGTERM)
            try: await asyncio.sleep(60)
            finally: print(time.monotonic() - began)
        run(main, shutdown_timeout={timeout}, {options})
    """) as child:
        done = child.finish()
    assert (done.returncode, done.stderr) == (0, "")
    # uvloop counts in milliseconds
    assert least - 0.003 <= float(done.stdout) < least + 5


def test_other_tasks_are_cancelled_though_main_swallows(launch: Launch) -> None:
    with launch("""
        async def cleans_up():
            try: await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                print("clean")
        async def main():
            asyncio.create_task(cleans_up())
            print("ready", flush=True)
            await swallow()
        run(main, shutdown_timeout=TIMEOUT)
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done)) == (-signal.SIGTERM, ["ready", "clean"])


# ------------------------------------------------------------------ at the deadline

READY = 'print("ready", flush=True)\n    print("buffered")\n'
STUCK = {
    "a task": (
        f"""
async def main():
    tasks = [asyncio.create_task(swallow(), name="stubborn") for _ in range(5)]
    {READY}
    await asyncio.sleep(60)
""",
        r"stuck: 5 x stubborn, stubborn, stubborn, \.\.\.\n.* in swallow\n",
    ),
    "a registered task": (
        f"""
async def main(coordinator, registry):
    registry.register(swallow(), "feed")
    {READY}
    await coordinator.wait_for_shutdown()
""",
        r"stuck: feed \(age .* s, silent .* s\)\n.* in swallow\n",
    ),
    "main": (
        f"""
async def main():
    {READY}
    await swallow()
""",
        r"stuck: Task-1\n(.*\n)+.* in swallow\n",
    ),
    "a callback": (
        f"""
async def main():
    {READY}
    while True: pass
""",
        r"thread: MainThread\n(.*\n)+.* in main\n",
    ),
    "a blocking call": (
        f"""
async def main():
    {READY}
    time.sleep(60)
""",
        r"thread: MainThread\n(.*\n)+.* in main\n",
    ),
    "a thread of the executor": (
        f"""
async def main():
    {READY}
    await asyncio.to_thread(time.sleep, 60)
""",
        r"thread: (asyncio|uvloop)_0\n",
    ),
    "a thread of another executor": (
        f"""
async def main():
    pool = ThreadPoolExecutor(1)
    pool.submit(time.sleep, 60)
    {READY}
    await asyncio.sleep(60)
""",
        r"thread: ThreadPoolExecutor-0_0\n",
    ),
    "a generator": (
        f"""
async def generate():
    try: yield
    finally: await asyncio.sleep(60)
async def main():
    generator = generate()
    await anext(generator)
    {READY}
    await asyncio.sleep(60)
""",
        r"in generate\n",
    ),
    "a request": (
        f"""
async def main(coordinator, registry):
    registry.register(swallow(), "feed")
    coordinator.request_shutdown()
    {READY}
""",
        r"stuck: feed",
    ),
}


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stuck", STUCK)
def test_what_is_stuck_is_reported_and_the_process_ends_by_the_signal(
    launch: Launch, stuck: str, signum: signal.Signals
) -> None:
    main, expected = STUCK[stuck]
    with launch(
        """
        logged = logging.StreamHandler(sys.stdout)
        logging.getLogger("app").addHandler(
            logging.handlers.MemoryHandler(100, target=logged)
        )
        logging.getLogger("app").warning("logged")
        atexit.register(print, "at exit")
        """
        + "\n"
        + textwrap.indent(main, "        ")
        + "\n        run(main, shutdown_timeout=TIMEOUT)\n"
    ) as child:
        child.wait_for("ready")
        sent = time.monotonic()
        if stuck == "a request":
            signum = signal.SIGTERM
        else:
            child.send_signal(signum)
        done = child.finish()
    assert done.returncode == -signum, done.stderr
    assert stuck == "a request" or time.monotonic() - sent >= TIMEOUT - 0.001
    first = done.stderr.split("\n")[0]
    assert re.fullmatch(  # on a machine that stalls it runs for longer
        rf"pyasynclife: the process still runs [\d.]+ s after {signum.name}: it is "
        rf"ended by {signum.name}",
        first,
    )
    assert re.search(expected, done.stderr), done.stderr
    assert lines(done) == ["ready", "buffered", "logged", "at exit"]


def test_c_code_that_holds_the_gil_does_not_hold_the_end_up(launch: Launch) -> None:
    with launch("""
        async def main():
            reader, writer = os.pipe()
            print("ready", flush=True)
            ctypes.PyDLL(None).read(reader, ctypes.create_string_buffer(1), 1)
        run(main, shutdown_timeout=TIMEOUT)
    """) as child:
        done = stop(child)
    assert done.returncode == -signal.SIGTERM
    assert "(most recent call first):" in done.stderr


@pytest.mark.parametrize(
    "hang",
    [
        "atexit.register(time.sleep, 60)",
        "logging.getLogger().addHandler(h := logging.Handler())\n"
        "h.flush = lambda: time.sleep(60)",
        "sys.stderr = None",
        "sys.stdout.close(); os.close(2)",
        "atexit.register(sys.exit, 3)",
    ],
)
def test_nothing_holds_the_forced_end_up(launch: Launch, hang: str) -> None:
    with launch(f"""
        async def main():
            asyncio.create_task(swallow())
            print("ready", flush=True)
            hold_up()
            await asyncio.sleep(60)
        def hold_up():
{textwrap.indent(hang, " " * 12)}
        run(main, shutdown_timeout=TIMEOUT)
    """) as child:
        done = stop(child)
    assert done.returncode == -signal.SIGTERM


def test_a_thread_that_ends_in_time_is_waited_for(launch: Launch) -> None:
    with launch("""
        async def main():
            pool = ThreadPoolExecutor(1)
            pool.submit(lambda: (time.sleep(0.3), print("thread")))
            print("ready", flush=True)
            await asyncio.sleep(60)
        run(main, shutdown_timeout=30)
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done), done.stderr) == (0, ["ready", "thread"], "")


def test_a_thread_from_before_does_not_prolong_the_deadline(launch: Launch) -> None:
    with launch("""
        async def main():
            print("ready", flush=True)
            await asyncio.sleep(60)
        over = threading.Event()
        threading.Thread(target=over.wait).start()
        run(main, shutdown_timeout=2)
        time.sleep(2.5)
        print("goes on")
        over.set()
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done)) == (0, ["ready", "goes on"])


def test_without_a_limit_it_waits(launch: Launch) -> None:
    with launch("""
        async def slow():
            try: await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.5)
                print("clean")
        async def main():
            asyncio.create_task(slow())
            print("ready", flush=True)
            await asyncio.sleep(60)
        run(main, shutdown_timeout=float("inf"))
    """) as child:
        done = stop(child)
    assert (done.returncode, lines(done)) == (0, ["ready", "clean"])


@pytest.mark.skipif(
    importlib.util.find_spec("coverage") is None, reason="coverage is not installed"
)
def test_the_data_of_coverage_is_saved(tmp_path: Path) -> None:
    source = program(NAMES)[1] + textwrap.dedent("""
        async def main():
            asyncio.create_task(swallow())
            kill(signal.SIGTERM)
            await asyncio.sleep(60)
        run(main, shutdown_timeout=TIMEOUT)
    """)
    (tmp_path / "app.py").write_text(source)
    env = {"LOOP": "asyncio", "COVERAGE_FILE": str(tmp_path / "data")}
    done = run_child(["-m", "coverage", "run", str(tmp_path / "app.py")], env=env)
    assert done.returncode == -signal.SIGTERM
    assert (tmp_path / "data").stat().st_size


# ------------------------------------------------------------------ main ends by itself


def test_main_may_return_with_tasks_that_do_not_stop(launch: Launch) -> None:
    with launch("""
        async def main():
            asyncio.create_task(swallow(), name="stubborn")
            await asyncio.sleep(0)
            return 7
        print(run(main, shutdown_timeout=TIMEOUT))
        print(actions() == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL])
    """) as child:
        done = child.finish()
    assert (done.returncode, lines(done)) == (0, ["7", "True"])
    first, second, third = done.stderr.split("\n")[:3]
    assert re.fullmatch(r"pyasynclife: main has ended [\d.]+ s ago", first)
    assert second == "stuck: stubborn"
    assert third.endswith(" in swallow")


@pytest.mark.parametrize(
    ("statement", "status", "words"),
    [
        ("raise ValueError('of main')", 1, "ValueError: of main"),
        ("raise SystemExit(3)", 3, ""),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("raise asyncio.CancelledError", 1, "CancelledError"),
        ("asyncio.create_task(exits()); await asyncio.sleep(60)", 4, ""),
    ],
)
@pytest.mark.parametrize("takes", ["", "coordinator, registry"])
def test_what_main_raises_propagates_after_the_cleanup(
    launch: Launch, takes: str, statement: str, status: int, words: str
) -> None:
    with launch(f"""
        async def cleans_up():
            try: await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.01)
                print("clean")
        async def exits():
            raise SystemExit(4)
        async def main({takes}):
            asyncio.create_task(cleans_up())
            await asyncio.sleep(0.01)
            {statement}
        run(main)
    """) as child:
        done = child.finish()
    assert (done.returncode, lines(done)) == (status, ["clean"]), done.stderr
    assert words in done.stderr


def test_an_exit_with_a_task_that_does_not_stop_keeps_the_deadline(
    launch: Launch,
) -> None:
    with launch("""
        async def exits():
            raise SystemExit(4)
        async def main():
            asyncio.create_task(swallow(), name="stubborn")
            asyncio.create_task(exits())
            await asyncio.sleep(60)
        run(main, shutdown_timeout=TIMEOUT)
    """) as child:
        done = child.finish()
    assert done.returncode == 4
    assert "stuck: stubborn" in done.stderr


def test_main_has_its_report_although_a_task_is_stuck() -> None:
    done = run_child(
        program(
            NAMES
            + textwrap.dedent("""
            from pyasynclife.testing import VirtualTimeLoop
            async def main(coordinator, registry):
                registry.register(swallow(), "feed")
                await asyncio.sleep(0)
                began = asyncio.get_running_loop().time()
                coordinator.request_shutdown()
                report = await coordinator.graceful_shutdown()
                seconds = asyncio.get_running_loop().time() - began
                print(report.stuck[0].task_id, report.deadline_met, 18 < seconds < 20)
            pyasynclife.run(main, shutdown_timeout=30, loop_factory=VirtualTimeLoop)
        """)
        )
    )
    assert (done.returncode, lines(done)) == (-signal.SIGTERM, ["feed False True"])
    assert "stuck: feed" in done.stderr


# ------------------------------------------------------------------ misuse


def coroutine_that_is_closed(made: list[Any]) -> Coroutine[Any, Any, None]:
    made.append(asyncio.sleep(0))
    return made[-1]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shutdown_timeout": 0}, ValueError, "shutdown_timeout must be more than 0"),
        ({"shutdown_timeout": -1}, ValueError, "shutdown_timeout"),
        ({"shutdown_timeout": float("nan")}, ValueError, "shutdown_timeout"),
        ({"shutdown_timeout": "1"}, TypeError, "shutdown_timeout"),
        ({"drain": -1}, ValueError, "drain"),
        ({"drain": True}, TypeError, "drain"),
        ({"force_exit": "no"}, TypeError, "force_exit"),
        ({"drain": 25}, ValueError, "drain must be less than shutdown_timeout"),
    ],
)
def test_a_wrong_option_is_refused_and_the_coroutine_closed(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    made: list[Any] = []
    with pytest.raises(error, match=words):
        pyasynclife.run(coroutine_that_is_closed(made), **options)
    assert made[0].cr_frame is None


async def takes_one(argument: object) -> None: ...


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (None, "async function or a coroutine"),
        (42, "async function or a coroutine"),
        (takes_one, "must take nothing, or .coordinator, registry."),
        (lambda: 5, "main must return a coroutine, got int 5"),
    ],
)
def test_what_is_no_main_is_refused(main: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        pyasynclife.run(main)


def test_a_coroutine_that_has_started_is_refused_and_left_alone() -> None:
    async def steps() -> None:
        await asyncio.sleep(0)

    coro = steps()
    coro.send(None)
    with pytest.raises(TypeError, match="has been started already"):
        pyasynclife.run(coro)
    assert coro.cr_frame is not None
    coro.close()


async def test_it_is_refused_in_a_running_loop() -> None:
    made: list[Any] = []
    with pytest.raises(RuntimeError, match="await main"):
        pyasynclife.run(coroutine_that_is_closed(made))
    assert made[0].cr_frame is None


def test_it_is_refused_off_the_main_thread() -> None:
    errors: list[BaseException] = []

    def target() -> None:
        try:
            pyasynclife.run(asyncio.sleep(0))
        except SignalSetupError as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert "request_shutdown() instead" in str(errors[0]) or "request" in str(errors[0])


def test_a_loop_factory_that_fails_closes_main() -> None:
    made: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        pyasynclife.run(coroutine_that_is_closed(made), loop_factory=lambda: 1 // 0)
    assert made[0].cr_frame is None


def test_a_loop_factory_that_is_no_function_is_named() -> None:
    made: list[Any] = []
    with pytest.raises(TypeError, match="loop_factory must be a function or None, got"):
        pyasynclife.run(coroutine_that_is_closed(made), loop_factory=3)  # type: ignore[arg-type]
    assert made[0].cr_frame is None


@pytest.mark.parametrize("loop", [5, None, asyncio.SelectorEventLoop])
def test_a_loop_factory_that_makes_no_loop_is_named(loop: Any) -> None:
    made: list[Any] = []
    with pytest.raises(TypeError, match="loop_factory must return an event loop") as e:
        pyasynclife.run(coroutine_that_is_closed(made), loop_factory=lambda: loop)
    assert f"got {type(loop).__name__} {loop!r}" in str(e.value)
    assert made[0].cr_frame is None


class NoSignals(asyncio.SelectorEventLoop):
    """A loop without signal handlers, as on Windows."""

    def add_signal_handler(self, *_: Any) -> None:
        raise NotImplementedError


def test_a_loop_without_signals_is_refused() -> None:
    made: list[Any] = []
    with pytest.raises(SignalSetupError):
        pyasynclife.run(coroutine_that_is_closed(made), loop_factory=NoSignals)
    assert made[0].cr_frame is None


def test_options_of_the_runner_are_passed_on() -> None:
    async def main(coordinator: SignalCoordinator, registry: TaskRegistry) -> bool:
        assert registry is coordinator._registry
        loop = asyncio.get_running_loop()
        return loop.get_debug() and type(loop) is asyncio.SelectorEventLoop

    assert pyasynclife.run(main, debug=True, loop_factory=asyncio.SelectorEventLoop)


def test_the_current_event_loop_is_set_as_by_asyncio() -> None:
    async def main() -> bool:
        return asyncio.get_event_loop() is asyncio.get_running_loop()

    assert pyasynclife.run(main)


# ------------------------------------------------------------------ the shell

APP = """
import asyncio
async def main(coordinator, registry):
    print("ready", flush=True)
    await coordinator.wait_for_shutdown()
class Service:
    async def three(self): return 3
    async def true(self): return True
    async def stuck(self):
        print(asyncio.get_running_loop().__class__.__module__)
        print("ready", flush=True)
        while True:
            try: await asyncio.sleep(60)
            except asyncio.CancelledError: pass
service = Service()
number = 5
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import no_such_module")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", PATH["PYTHONPATH"])


COMMAND = ["-m", "pyasynclife", "run"]


@pytest.mark.usefixtures("app")
def test_the_command_runs_a_function_of_a_module_in_the_working_directory() -> None:
    with start_child([*COMMAND, "app:main"]) as child:
        done = stop(child)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ready\n", "")


@pytest.mark.usefixtures("app")
def test_the_command_keeps_the_deadline() -> None:
    uvloop = ["--uvloop"] if importlib.util.find_spec("uvloop") else []
    command = [*COMMAND, "--shutdown-timeout", "0.3", *uvloop, "app:service.stuck"]
    with start_child(command) as child:
        done = stop(child)
    assert done.returncode == -signal.SIGTERM
    assert ("uvloop" in done.stdout) == bool(uvloop)
    assert re.search(r" [\d.]+ s after SIGTERM", done.stderr)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(("name", "status"), [("three", 3), ("true", 0)])
def test_an_int_of_the_function_is_the_exit_status(name: str, status: int) -> None:
    done = run_child([*COMMAND, f"app:service.{name}"])
    assert (done.returncode, done.stderr) == (status, "")


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["app"], "expected module:main, got 'app'"),
        ([":main"], "expected module:main, got ':main'"),
        (["nowhere:main"], "there is no module 'nowhere'"),
        (["app.inner:main"], "there is no module 'app.inner'"),
        (["app:nothing"], "module 'app' has no 'nothing'"),
        (["app:service.nothing"], "module 'app' has no 'service.nothing'"),
        (["app:number"], "app:number is not a function, but of type int"),
        (["app:main", "--shutdown-timeout", "0"], "must be above 0"),
        ([], "required: module:main"),
    ],
)
def test_a_wrong_target_has_a_clear_error_and_status_2(
    arguments: list[str], words: str
) -> None:
    done = run_child([*COMMAND, *arguments])
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("app")
def test_an_error_inside_the_module_is_shown_as_it_is() -> None:
    done = run_child([*COMMAND, "broken:main"])
    assert done.returncode == 1
    assert "No module named 'no_such_module'" in done.stderr


def test_without_a_command_there_is_help_and_status_2() -> None:
    done = run_child(["-m", "pyasynclife"])
    assert (done.returncode, done.stdout) == (2, "")
    for command in ("run", "demo"):
        assert re.search(rf"^ +{command} +\w+", done.stderr, re.MULTILINE)


def test_the_version_is_printed() -> None:
    done = run_child(["-m", "pyasynclife", "--version"])
    assert (done.returncode, done.stdout) == (
        *(0, f"pyasynclife {pyasynclife.__version__}\n"),
    )
