"""`tasks`, `top` and `run --monitor`, as processes; `top` in a real terminal."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyasynclife._monitor.client import MonitorError
from pyasynclife._monitor.process import connect
from support.children import PATH, Child, run_child, start_child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")

PROGRAM = """
import asyncio
from pyasynclife import LoopWatch, TaskPool

async def feed():
    while True:
        await asyncio.sleep(0.05)
        registry.heartbeat()

async def broken():
    raise ValueError("no price")

async def main(coordinator, given):
    global registry
    registry = given
    registry.register(feed(), "feed-0")
    registry.register(feed(), "feed-1")
    registry.register(asyncio.sleep(1000), "silent", stale_after=0.001)
    registry.register(broken(), "bad\\x1b[31m")
    async with LoopWatch(60.0), TaskPool(4) as pool:
        coordinator.attach(pool)
        pool.submit(asyncio.sleep, 0)
        await asyncio.sleep(0.2)
        print("ready")
        await coordinator.wait_for_shutdown()

async def restarting(coordinator, registry):
    registry.supervise(broken, "bad", max_restarts=1)
    await registry.join("bad")
    print("ready")
    await coordinator.wait_for_shutdown()

async def alone():
    pass
"""
COMMAND = ["-m", "pyasynclife"]


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pal-") as directory:
        Path(directory, "service.py").write_text(PROGRAM)
        yield Path(directory)


@pytest.fixture
def environment(directory: Path) -> dict[str, str]:
    return PATH | {"PYTHONPATH": f"{directory}{os.pathsep}{PATH['PYTHONPATH']}"}


@pytest.fixture
def path(directory: Path) -> str:
    return str(directory / "m.sock")


@pytest.fixture
def service(path: str, environment: dict[str, str]) -> Iterator[Child]:
    """A process that serves its registry."""
    command = [*COMMAND, "run", "service:main", "--monitor", path]
    with start_child(command, env=environment) as child:
        child.wait_for("ready")
        yield child


def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_child([*COMMAND, *arguments], env=PATH)


def test_tasks_are_printed_as_a_table(service: Child, path: str) -> None:
    done = ask("tasks", path)
    assert (done.returncode, done.stderr) == (0, "")
    counts, header, *lines = done.stdout.splitlines()
    assert counts == "3 alive, 2 healthy, 1 stale; ended: 1 failed"
    assert header.split()[:4] == ["ID", "STATE", "HEALTH", "AGE"]
    assert [line.split()[0] for line in lines] == [
        "feed-0",
        "feed-1",
        "silent",
        "bad\\x1b[31m",
    ]
    assert lines[-1].endswith("ValueError: no price")
    assert "\x1b" not in done.stdout


def test_the_line_of_counts_has_the_restarts(
    path: str, environment: dict[str, str]
) -> None:
    command = [*COMMAND, "run", "service:restarting", "--monitor", path]
    with start_child(command, env=environment) as child:
        child.wait_for("ready")
        done = ask("tasks", path)
    assert done.stdout.splitlines()[0] == "no task alive; ended: 1 failed; restarts: 1"


def test_tasks_are_printed_as_json(service: Child, path: str) -> None:
    printed = json.loads(ask("tasks", path, "--json").stdout)
    assert printed["stats"]["alive"] == 3
    assert [task["task_id"] for task in printed["tasks"]] == [
        "feed-0",
        "feed-1",
        "silent",
        "bad\x1b[31m",
    ]
    stale = json.loads(ask("tasks", path, "--json", "--stale").stdout)["tasks"]
    assert [task["task_id"] for task in stale] == ["silent"]


def test_a_task_is_cancelled_by_its_id(service: Child, path: str) -> None:
    assert ask("tasks", path, "--cancel", "feed-0").returncode == 0
    again = ask("tasks", path, "--cancel", "feed-0")
    assert (again.returncode, again.stderr) == (1, "no task 'feed-0' is alive\n")


def test_the_service_ends_by_a_signal_as_without_a_monitor(
    service: Child, path: str
) -> None:
    service.send_signal(signal.SIGTERM)
    done = service.finish()
    assert done.returncode == 0
    assert not os.path.exists(path)


def test_a_blocked_loop_is_named(path: str, environment: dict[str, str]) -> None:
    program = f"""
        import asyncio, os, time
        from pyasynclife import TaskRegistry
        async def main():
            registry = TaskRegistry()
            serving = asyncio.create_task(registry.serve({path!r}))
            while not os.path.exists({path!r}):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            print("ready")
            time.sleep(60)
        asyncio.run(main())
    """
    with start_child(program, env=environment) as child:
        child.wait_for("ready")
        done = ask("tasks", path)
    assert done.returncode == 1
    assert "has not answered for 5 s: its loop is blocked" in done.stderr


def test_a_target_where_nobody_serves_is_an_error(path: str) -> None:
    done = ask("tasks", path)
    assert done.returncode == 1
    assert f"cannot connect to {path}: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("file", "it is not a socket: pass the path that"),
        ("directory", "it is a directory: pass the path that"),
        ("dead", "nobody serves there any more: the process that did has ended"),
        ("datagram", "it is the socket of another program"),
    ],
)
def test_why_a_target_cannot_be_connected_to_is_said(
    kind: str, why: str, path: str
) -> None:
    if kind == "file":
        Path(path).touch(0)
    elif kind == "directory":
        Path(path).mkdir()
    datagram = kind == "datagram"
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM if datagram else socket.SOCK_STREAM
    ) as other:
        if kind in ("dead", "datagram"):
            other.bind(path)
        if not datagram:
            other.close()
        with pytest.raises(MonitorError, match=why):
            connect(path)


def test_a_target_that_no_socket_can_have_is_an_error(
    path: str, environment: dict[str, str]
) -> None:
    longer = path + "x" * 200
    for command in (["tasks", longer], ["run", "service:main", "--monitor", longer]):
        done = run_child([*COMMAND, *command], env=environment)
        assert done.returncode == {"tasks": 1, "run": 2}[command[0]]
        (line,) = done.stderr.splitlines()
        assert longer in line
        assert f"bytes, got {len(longer)}: use a shorter one" in line


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", []),
        (b"[]\n", []),
        (b"\xff\n", []),
        (b'{"answer": 42}\n', ["--cancel", "feed-1"]),
    ],
)
def test_a_socket_of_another_program_is_an_error(
    path: str, answer: bytes, options: list[str]
) -> None:
    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(1000)
            peer.sendall(answer)
            peer.recv(1000)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        done = ask("tasks", path, *options)
    assert done.returncode == 1
    assert done.stderr.startswith("python -m pyasynclife tasks: what answers there")


def test_a_function_without_a_registry_cannot_be_monitored(
    path: str, environment: dict[str, str]
) -> None:
    command = [*COMMAND, "run", "service:alone", "--monitor", path]
    done = run_child(command, env=environment)
    assert done.returncode == 2
    assert "let it take (coordinator, registry)" in done.stderr


def test_a_path_that_is_taken_ends_the_program_with_the_error(
    directory: Path, path: str, environment: dict[str, str]
) -> None:
    Path(path).write_text("precious")
    command = [*COMMAND, "run", "service:main", "--monitor", path]
    done = run_child(command, env=environment)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "left alone" in line
    assert Path(path).read_text() == "precious"


# ------------------------------------------------------------ by PID


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="a PID is taken")
def test_before_3_14_a_pid_is_refused_with_the_remedy() -> None:
    done = ask("tasks", str(os.getpid()))
    assert done.returncode == 1
    assert "needs CPython 3.14" in done.stderr


needs_remote_exec = pytest.mark.skipif(
    not hasattr(sys, "remote_exec"), reason="sys.remote_exec() is new in 3.14"
)


def test_a_pid_that_no_process_can_have_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def remote_exec(pid: int, script: str) -> None:
        raise OverflowError("Python int too large to convert to C int")

    monkeypatch.setattr(sys, "remote_exec", remote_exec, raising=False)
    with pytest.raises(MonitorError, match="cannot look into process 9999"):
        connect("9" * 30)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@needs_remote_exec
def test_a_process_that_prepared_nothing_is_looked_into(
    environment: dict[str, str],
) -> None:
    command = [*COMMAND, "run", "service:main"]
    with start_child(command, env=environment) as child:
        child.wait_for("ready")
        done = ask("tasks", str(child.pid))
        if "Operation not permitted" in done.stderr:
            pytest.skip("this system lets no process look into another")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("3 alive, 2 healthy, 1 stale")
        child.send_signal(signal.SIGTERM)
        assert child.finish().returncode == 0


@needs_remote_exec
def test_a_process_without_a_registry_says_so(environment: dict[str, str]) -> None:
    program = """
        import asyncio
        async def main():
            print("ready")
            for _ in range(1000):
                await asyncio.sleep(0.02)
        asyncio.run(main())
    """
    with start_child(program, env=environment) as child:
        child.wait_for("ready")
        done = ask("tasks", str(child.pid))
        if "Operation not permitted" in done.stderr:
            pytest.skip("this system lets no process look into another")
    assert done.returncode == 1
    assert "it has no TaskRegistry whose loop runs" in done.stderr


@needs_remote_exec
def test_an_idle_process_is_said_to_be_idle(environment: dict[str, str]) -> None:
    program = """
        import time
        print("ready")
        time.sleep(60)
    """
    with start_child(program, env=environment) as child:
        child.wait_for("ready")
        done = ask("tasks", str(child.pid))
        if "Operation not permitted" in done.stderr:
            pytest.skip("this system lets no process look into another")
    assert done.returncode == 1
    assert "has run no Python code for 5 s" in done.stderr


# ------------------------------------------------------------ top


class Terminal:
    """A program in a terminal of tmux's."""

    def __init__(self, directory: Path, command: str) -> None:
        self._tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        size = ["-x", "110", "-y", "14"]
        self._run("new-session", "-d", *size, f"{command}; echo left $?; sleep 60")

    def _run(self, *arguments: str) -> str:
        command = [*self._tmux, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    def press(self, *keys: str) -> None:
        self._run("send-keys", *keys)

    @property
    def screen(self) -> str:
        return self._run("capture-pane", "-p")

    def shows(self, pattern: str) -> None:
        """Wait until the screen shows something."""
        deadline = time.monotonic() + 20
        while not re.search(pattern, self.screen):
            assert time.monotonic() < deadline, self.screen
            time.sleep(0.05)

    def close(self) -> None:
        self._run("kill-server")


@pytest.fixture
def terminal(
    service: Child, directory: Path, path: str
) -> Iterator[Callable[[], Terminal]]:
    pytest.importorskip("rich")
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    opened: list[Terminal] = []

    def open_top() -> Terminal:
        environment = f"PYTHONPATH={PATH['PYTHONPATH']} TERM=xterm-256color"
        command = f"{environment} {sys.executable} -m pyasynclife top {path}"
        opened.append(Terminal(directory, command))
        return opened[-1]

    yield open_top
    for one in opened:
        one.close()


def test_top_shows_sorts_filters_and_quits(
    terminal: Callable[[], Terminal],
) -> None:
    top = terminal()
    top.shows(r"pid \d+  Python 3")
    top.shows("3 alive, 2 healthy, 1 stale; ended: 1 failed")
    top.shows(r"silent +running +stale")
    top.shows("loop lag p99")
    top.shows("TaskPool of 4: 1 of 1 ended, 0 running")
    top.shows("3 of 3, by silence")
    top.press("s")
    top.shows("3 of 3, by age")
    top.press("/", "f", "e", "e", "Enter")
    top.shows("2 of 2 with 'fee'")
    top.press("g")
    top.shows(r"2 x feed-\d, feed-\d")
    top.press("q")
    top.shows("left 0")


def test_top_cancels_a_task_after_asking(terminal: Callable[[], Terminal]) -> None:
    top = terminal()
    top.shows("silent")
    top.press("c")
    top.shows(r"cancel 'silent'\? y / n")
    top.press("n")
    top.shows("q quit")
    top.press("c", "y")
    top.shows("2 alive, 2 healthy")
    top.press("q")
    top.shows("left 0")


def test_top_says_when_the_process_has_ended(
    terminal: Callable[[], Terminal], service: Child
) -> None:
    top = terminal()
    top.shows("silent")
    service.send_signal(signal.SIGTERM)
    top.shows("the process has ended|cannot connect|the connection broke")
    top.shows("left 1")


def test_top_without_a_terminal_is_refused(service: Child, path: str) -> None:
    pytest.importorskip("rich")
    done = ask("top", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr
