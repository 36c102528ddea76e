"""Ctrl-C again and again: each press does more, and twice always ends a program."""

import asyncio
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from pyasynclife import SignalCoordinator, TaskRegistry
from support.children import start_child
from support.signals import PRESS, Run, Start, needs_posix, press, program

pytestmark = needs_posix

MAINS = {
    "sleeps": "await asyncio.sleep(60)",
    "is blocked": "time.sleep(60)",
    "spins": "while True: pass",
    "has looked at the event": "await c.wait_for_shutdown(); await asyncio.sleep(60)",
    "has shut down": """await c.wait_for_shutdown()
        await c.graceful_shutdown([])
        await asyncio.sleep(60)""",
}


@pytest.mark.parametrize("main", MAINS)
@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_twice_ends_a_program_whatever_it_does(
    start: Start, main: str, first: int
) -> None:
    with start(f"""
    async def main():
        async with SignalCoordinator() as c:
            print("ready")
            {MAINS[main].replace(chr(10), chr(10) + "    ")}
    run(main())
    """) as child:
        child.wait_for("ready")
        press(child, first)
        assert child.process.poll() is None
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize("blocked", [True, False])
def test_without_a_runner_it_raises_keyboard_interrupt(
    start: Start, blocked: bool
) -> None:
    with start(f"""
    async def main():
        with SignalCoordinator():
            print("ready")
            {"time.sleep(60)" if blocked else "await asyncio.sleep(60)"}
    try:
        new_loop().run_until_complete(main())
    except KeyboardInterrupt:
        print("interrupted")
    """) as child:
        child.wait_for("ready")
        press(child)
        press(child)
        done = child.finish()
    assert done.stdout == "ready\ninterrupted\n"


def test_before_the_loop_runs_too(start: Start) -> None:
    with start("""
    c = SignalCoordinator()
    c.setup_handlers()
    print("ready")
    time.sleep(60)
    """) as child:
        child.wait_for("ready")
        press(child)
        child.send_signal(signal.SIGINT)
        assert child.finish().returncode == -signal.SIGINT


def test_the_second_press_passes_through_nested_coordinators(start: Start) -> None:
    with start("""
    async def main():
        with SignalCoordinator(), SignalCoordinator():
            print("ready")
            time.sleep(60)
    try:
        new_loop().run_until_complete(main())
    except KeyboardInterrupt:
        print("interrupted")
    """) as child:
        child.wait_for("ready")
        press(child)
        press(child)
        assert child.finish().stdout == "ready\ninterrupted\n"


def test_two_within_a_moment_are_one_press(start: Start) -> None:
    with start("""
    async def main():
        async with SignalCoordinator() as c:
            kill(2)
            await asyncio.sleep(0)
            kill(2)
            await until(lambda: c.received.get(2) == 2)
            await asyncio.sleep(0.1)
            print("goes on")
    run(main())
    """) as child:
        done = child.finish()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "goes on\n"


@pytest.mark.parametrize("signals", [(15, 15, 15), (2, 15, 15)])
def test_sigterm_climbs_no_step(start: Start, signals: tuple[int, ...]) -> None:
    with start(f"""
    async def main():
        async with SignalCoordinator(force_exit=True) as c:
            print("ready")
            await until(lambda: sum(c.received.values()) == {len(signals)})
            await asyncio.sleep(0.1)
            print(c.phase)
    run(main())
    """) as child:
        child.wait_for("ready")
        for signum in signals:
            press(child, signum)
        done = child.finish()
    assert (done.returncode, done.stdout) == (0, "ready\ndraining\n")
    assert done.stderr == ""


SHUTS_DOWN = """
    from pyasynclife import TaskRegistry
    async def mule():
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("cancelled")
    async def main():
        registry = TaskRegistry()
        async with SignalCoordinator({options}, registry=registry) as c:
            registry.register(mule(), "mule")
            await asyncio.sleep(0.01)
            print("ready")
            await c.wait_for_shutdown()
            report = await c.graceful_shutdown()
            print(len(report.stuck), report.deadline_met)
            os._exit(3)
    run(main())
"""


def test_the_second_press_ends_drain_and_leaves_a_graceful_shutdown_alone(
    start: Start,
) -> None:
    source = SHUTS_DOWN.format(options="3.0, drain=2.9")
    with start(source) as child:
        child.wait_for("ready")
        began = time.monotonic()
        press(child)
        assert child.stdout == "ready\n"
        press(child)
        child.wait_for("cancelled")
        assert time.monotonic() - began < 2.5
        press(child)  # has no effect any more
        done = child.finish()
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "ready\ncancelled\n1 False\n"


@pytest.mark.parametrize("blocked", [True, False])
def test_force_exit_dumps_and_ends_by_the_third_press(
    start: Start, blocked: bool
) -> None:
    then = "time.sleep(60)" if blocked else "await asyncio.sleep(60)"
    with start(f"""
    async def feed_of_prices():
        await asyncio.sleep(60)
    async def swallows():
        while True:
            try:
                {then}
            except (KeyboardInterrupt, asyncio.CancelledError):
                print("swallowed")
    async def main():
        with SignalCoordinator(force_exit=True):
            task = asyncio.create_task(feed_of_prices(), name="prices")
            await asyncio.sleep(0)
            print("ready")
            await swallows()
    run(main())
    """) as child:
        child.wait_for("ready")
        press(child)
        press(child)
        child.wait_for("swallowed")
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.returncode == -signal.SIGINT
    assert "in swallows" in done.stderr
    assert "prices" in done.stderr
    assert "in feed_of_prices" in done.stderr


def test_force_exit_ends_a_graceful_shutdown(start: Start) -> None:
    with start(SHUTS_DOWN.format(options="30.0, force_exit=True")) as child:
        child.wait_for("ready")
        press(child)
        press(child)
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.returncode == -signal.SIGINT
    assert "in mule" in done.stderr


def test_a_closed_stderr_holds_nothing_up(start: Start) -> None:
    source = SHUTS_DOWN.format(options="30.0, force_exit=True")
    with start("    os.close(2)" + source) as child:
        child.wait_for("ready")
        for _ in range(3):
            press(child)
        assert child.finish().returncode == -signal.SIGINT


def test_the_handler_of_a_host_gets_each_press(start: Start) -> None:
    with start("""
    async def main():
        signal.signal(signal.SIGINT, lambda *_: print("host"))
        async with SignalCoordinator() as c:
            print("ready")
            await until(lambda: c.received.get(2) == 2)
            await asyncio.sleep(0.1)
    run(main())
    """) as child:
        child.wait_for("ready")
        press(child)
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.returncode, done.stdout) == (0, "ready\nhost\nhost\n")


def test_an_old_shutdown_is_no_first_press(start: Start) -> None:
    with start("""
    c = SignalCoordinator()
    async def main(marker):
        async with c:
            print(marker)
            await c.wait_for_shutdown()
    run(main("ready"))
    run(main("again"))
    print("end")
    """) as child:
        child.wait_for("ready")
        press(child)
        child.wait_for("again")
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.returncode, done.stderr) == (0, "")


async def test_after_a_request_one_press_is_the_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    registry = TaskRegistry()
    coordinator = SignalCoordinator(60, drain=60, registry=registry)
    with coordinator:
        task, _ = registry.register(asyncio.sleep(3600)).result()
        coordinator.request_shutdown()
        waiting = asyncio.create_task(coordinator.graceful_shutdown())
        await asyncio.sleep(0)
        clock += 1
        os.kill(os.getpid(), signal.SIGINT)
        report = await asyncio.wait_for(waiting, 10)
    assert task.cancelled()
    assert [len(report.cancelled), report.ok] == [1, True]


async def test_a_press_in_the_drain_of_other_tasks_cancels_what_is_attached_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    registry = TaskRegistry()
    coordinator = SignalCoordinator(60, drain=60, registry=registry)
    with coordinator:
        attached, _ = registry.register(asyncio.sleep(3600)).result()
        passed = asyncio.create_task(asyncio.sleep(3600))
        coordinator.request_shutdown()
        waiting = asyncio.create_task(coordinator.graceful_shutdown([passed]))
        await asyncio.sleep(0)
        clock += 1
        os.kill(os.getpid(), signal.SIGINT)
        report = await asyncio.wait_for(waiting, 10)
        await asyncio.wait([attached], timeout=10)
    assert len(report.cancelled) == 1
    assert (passed.cancelled(), attached.cancelled()) == (True, True)


def test_a_press_after_the_shutdown_changes_no_phase(start: Start) -> None:
    with start("""
    async def main():
        with SignalCoordinator() as c:
            print("ready")
            await c.wait_for_shutdown()
            await c.graceful_shutdown([])
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print(c.phase)
                raise
    run(main())
    """) as child:
        child.wait_for("ready")
        press(child)
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert (done.returncode, done.stdout) == (-signal.SIGINT, "ready\nstopped\n")


def read_until(descriptor: int, marker: bytes, output: bytes = b"") -> bytes:
    deadline = time.monotonic() + 20
    while marker not in output:
        left = max(0.0, deadline - time.monotonic())
        assert select.select([descriptor], [], [], left)[0], output
        try:
            output += os.read(descriptor, 1000)
        except OSError:  # the other end is closed
            raise AssertionError(output) from None
    return output


def on_a_terminal(source: str) -> tuple[int, int]:
    pid, descriptor = pty.fork()
    if pid == 0:
        os.environ["LOOP"] = "asyncio"
        os.execv(sys.executable, [sys.executable, *program(source)])
    return pid, descriptor


@pytest.mark.parametrize(
    ("options", "third"),
    [
        ("30.0, force_exit=True", b"ends the process"),
        ("30.0", b"the deadline is in"),
    ],
)
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # pty.fork()
def test_each_press_says_on_a_terminal_what_the_next_one_does(
    options: str, third: bytes
) -> None:
    pid, terminal = on_a_terminal(SHUTS_DOWN.format(options=options))
    try:
        output = read_until(terminal, b"ready")
        os.write(terminal, b"\x03")
        output = read_until(terminal, b"Ctrl-C again cancels everything", output)
        time.sleep(PRESS)
        os.write(terminal, b"\x03")
        read_until(terminal, third, output)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_elsewhere_it_is_logged_at_info(run: Run) -> None:
    done = run("""
    import logging
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    async def main():
        with SignalCoordinator() as c:
            kill(signal.SIGTERM)
            await c.wait_for_shutdown()
            await asyncio.sleep(0)
    run(main())
    """)
    assert done.stdout.splitlines() == [
        "SIGTERM: shutting down",
        "Ctrl-C again cancels everything at once",
    ]


def test_in_pytest_ctrl_c_twice_ends_the_run(tmp_path: Path) -> None:
    pytest.importorskip("pytest_asyncio")
    (tmp_path / "test_hung.py").write_text(
        "import asyncio, pytest\n"
        "from pyasynclife import SignalCoordinator\n"
        "@pytest.mark.asyncio\n"
        "async def test_hung():\n"
        "    async with SignalCoordinator():\n"
        "        print('ready', flush=True)\n"
        "        await asyncio.sleep(60)\n"
        "def test_next():\n"
        "    print('next')\n"
    )
    command = ["-m", "pytest", "-s", "-q", "-p", "no:cacheprovider"]
    command += [f"--confcutdir={tmp_path}", str(tmp_path)]
    with start_child(command) as child:
        child.wait_for("ready")
        press(child)
        child.send_signal(signal.SIGINT)
        done = child.finish()
    assert done.returncode == 2
    assert "next" not in done.stdout
