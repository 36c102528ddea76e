"""`python -m pyasynclife` at its edges: help, pipes that close, Ctrl-C, terminals."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pyasynclife.__main__ import main
from support.children import PATH, run_child, start_child
from support.terminal import CTRL_C, start_in_terminal

needs_demo = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("websockets", "rich"))),
    reason="the demo's packages are not installed",
)
COMMANDS = ["demo", "run", "top", "tasks", "bench"]
SMALL = ["--symbols", "20", "--rate", "1000"]
DEMO = ["-W", "error::ResourceWarning", "-m", "pyasynclife", "demo", *SMALL]
LIVE = "20 subscriptions are live"
SERVICE = """
import asyncio

async def main(coordinator, registry):
    for number in range({tasks}):
        registry.register(asyncio.sleep(60), f"feed-{{number}}-" + "x" * 100)
    print("ready", flush=True)
    await coordinator.wait_for_shutdown()
"""


CLOSED = "import os, sys; os.closerange(0, 2); os.execv(sys.executable, sys.argv[1:])"


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_says_what_it_does_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert re.search(rf"^  python -m pyasynclife {command}( \S|$)", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    description = text.split("\n\n")[1]
    assert len(description.split()) > 10


def test_bench_runs_the_benchmarks_of_the_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(command[1:])
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    path = tmp_path / "cost.svg"
    assert main(["bench"]) == 3
    assert main(["bench", "--quick", "--plot", str(path)]) == 3
    plain = ["-m", "benchmarks"]
    assert ran == [plain, [*plain, "--quick", "--plot", str(path)]]


def test_bench_says_what_is_missing_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path, why in (
        (tmp_path / "cost.txt", "must end in .svg or .png"),
        (tmp_path / "none" / "cost.svg", "there is no folder"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["bench", "--plot", str(path)])
        assert why in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["bench", "--plot", str(tmp_path / "cost.svg")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    monkeypatch.setattr("pyasynclife._bench.ROOT", tmp_path)
    assert main(["bench"]) == 2
    assert "make bench" in capsys.readouterr().err


def test_without_a_command_the_help_shows_where_to_begin() -> None:
    done = run_child(["-m", "pyasynclife"])
    assert (done.returncode, done.stdout) == (2, "")
    assert "python -m pyasynclife demo " in done.stderr
    for command in COMMANDS:
        assert re.search(rf"^ +{command} +\w+", done.stderr, re.MULTILINE)


# ---------------------------------------------------------------- a reader that leaves


def read_lines(command: Sequence[str], count: int) -> tuple[list[str], int, str]:
    """Read some lines of a child as `head` does: the lines, its status, its stderr."""
    with subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | PATH,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline() for _ in range(count)]
        process.stdout.close()
        errors = process.stderr.read()  # also at the end of the server's process
        return lines, process.wait(30), errors


@needs_demo
@pytest.mark.parametrize("count", [0, 2])
def test_the_demo_ends_quietly_when_nobody_reads_it(count: int) -> None:
    lines, status, errors = read_lines([*DEMO, "--seconds", "60"], count)
    assert all(lines)
    assert errors == ""
    assert status == 128 + signal.SIGPIPE


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_tasks_ends_quietly_when_nobody_reads_it(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "service.py").write_text(SERVICE.format(tasks=2_000))
    path = os.path.relpath(tmp_path / "s")  # a socket's path has a short limit
    command = ["-m", "pyasynclife", "run", "service:main", "--monitor", path]
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PATH['PYTHONPATH']}"}
    with start_child(command, env=env) as child:
        child.wait_for("ready")
        ask = ["-m", "pyasynclife", "tasks", path, *options]
        _, status, errors = read_lines(ask, 0 if options else 1)
        assert errors == ""
        assert status == 128 + signal.SIGPIPE


# ---------------------------------------------------------------- an early Ctrl-C

# Sends SIGINT, as Ctrl-C does, when a module is about to be imported.
INTERRUPT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("pyasynclife._articles_await", ["demo"]),
        ("pyasynclife._core", ["tasks", "nowhere"]),
        ("pyasynclife._watch", ["top", "nowhere"]),
        ("argparse", ["run", "service:main"]),
        ("pyasynclife._monitor.command", ["run", "service:main"]),
        pytest.param("websockets.asyncio.client", ["demo"], marks=needs_demo),
        pytest.param("pyasynclife._demo.view", ["demo"], marks=needs_demo),
        ("service", ["run", "service:main"]),
    ],
)
def test_ctrl_c_during_an_import_ends_the_command_without_a_word(
    module: str, arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    (tmp_path / "service.py").write_text(SERVICE.format(tasks=1))
    path = f"{tmp_path}{os.pathsep}{PATH['PYTHONPATH']}"
    env = {"PYTHONPATH": path, "INTERRUPT_AT": module}
    done = run_child(["-m", "pyasynclife", *arguments], env=env)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode in (-signal.SIGINT, 128 + signal.SIGINT)


@pytest.mark.parametrize(
    "before",
    [
        "pass",
        "del sys.argv",
        "sys.argv = []",
        "sys.argv = ['-m']",
        "sys.argv = ['-m', 'demo']",
        "sys.argv = ['-m'] * 100",
    ],
)
def test_the_import_of_the_package_leaves_ctrl_c_alone(before: str) -> None:
    done = run_child(f"""
        import signal, sys
        {before}
        import pyasynclife
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    """)
    assert (done.returncode, done.stderr) == (0, "")


@needs_demo
def test_ctrl_c_while_the_server_starts_ends_the_demo_without_a_traceback() -> None:
    # Without errors for ResourceWarning: it may interrupt the constructor of Popen.
    with start_in_terminal([*DEMO[2:], "--seconds", "60"], env=PATH) as child:
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        while not children.read_text():
            assert child.process.poll() is None
        child.type(CTRL_C)  # the terminal interrupts all of its processes
        status = child.finish()
    assert "Traceback" not in child.text
    assert "Exception" not in child.text
    assert status in (0, 128 + signal.SIGINT)


@needs_demo
def test_ctrl_c_in_a_terminal_ends_the_demo_with_a_report() -> None:
    with start_in_terminal([*DEMO, "--seconds", "60"], env=PATH) as child:
        child.wait_for("updates a second")
        child.type(CTRL_C)
        status = child.finish()
    assert status == 0
    assert "Traceback" not in child.text
    last = child.text.splitlines()[-1]
    assert re.search(r"symbols=20 .* lost=0 .* stuck=0$", last)


# ---------------------------------------------------------------- terminals


@needs_demo
@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_the_demo_prints_lines_on_a_terminal_that_cannot_move_its_cursor(
    term: str,
) -> None:
    with start_in_terminal(
        [*DEMO, "--seconds", "60"], env=PATH | {"TERM": term}
    ) as child:
        child.wait_for("\nt=", times=2)
        child.type(CTRL_C)
        assert child.finish() == 0
    assert "\x1b" not in child.raw
    assert "┏" not in child.raw


def test_top_refuses_a_terminal_that_cannot_move_its_cursor() -> None:
    pytest.importorskip("rich")
    command = ["-m", "pyasynclife", "top", "nowhere"]
    with start_in_terminal(command, env=PATH | {"TERM": "dumb"}) as child:
        assert child.finish() == 2
    assert "TERM is dumb: use `tasks` instead" in child.text


@needs_demo
@pytest.mark.parametrize(
    ("rows", "columns", "triples", "used"),
    [(48, 160, 3, 150), (24, 80, 1, 75), (10, 40, 0, 36)],
)
def test_the_table_of_the_demo_uses_the_width_of_the_terminal(
    rows: int, columns: int, triples: int, used: int
) -> None:
    with start_in_terminal(
        [*DEMO, "--seconds", "60"], rows=rows, columns=columns, env=PATH
    ) as child:
        child.wait_for("stale")
        child.type(CTRL_C)
        assert child.finish() == 0
    lines = re.findall("^[┏┃│].*", child.text, re.MULTILINE)
    (header, *_) = [line for line in lines if "all symbols" in line]
    assert header.count("slowest") == triples
    assert used <= max(map(len, lines)) <= columns


def test_ctrl_c_in_the_last_moment_of_run_prints_no_traceback(tmp_path: Path) -> None:
    program = """
async def main(coordinator, registry):
    raise KeyboardInterrupt  # where asyncio's own handler raises it
"""
    (tmp_path / "service.py").write_text(program)
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{PATH['PYTHONPATH']}"}
    done = run_child(["-m", "pyasynclife", "run", "service:main"], env=env)
    assert (done.stdout, done.stderr) == ("", "")
    assert done.returncode == 128 + signal.SIGINT


# ---------------------------------------------------------------- no stdin, no stdout


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["tasks", "no.sock"], 1, "cannot connect to no.sock"),
        (["top", "no.sock"], 2, "top needs a terminal"),
        pytest.param(["demo", *SMALL, "--seconds=0.2"], 0, "", marks=needs_demo),
    ],
)
def test_a_command_ends_as_usual_if_stdin_and_stdout_are_closed(
    arguments: list[str], status: int, error: str
) -> None:
    command = [sys.executable, "-m", "pyasynclife", *arguments]
    done = run_child(["-c", CLOSED, *command], env=PATH)
    assert "Traceback" not in done.stderr
    assert error in done.stderr
    assert done.returncode == status
