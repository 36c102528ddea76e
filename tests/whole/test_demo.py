"""The demo at small scale: how it ends, and the summary that it prints."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from support.children import PATH, run_child, start_child
from support.marks import needs_uvloop
from support.terminal import start_in_terminal

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads the server's process from /proc"
)

SYMBOLS = 20
RATE = 1000
DEMO = [
    *("-W", "error::ResourceWarning", "-m", "pyasynclife", "demo"),
    *("--symbols", str(SYMBOLS), "--rate", str(RATE)),
]
LIVE = f"{SYMBOLS} subscriptions are live"
SUMMARY = [
    "symbols",
    "updates",
    "updates_per_second",
    "reconnects",
    "stale_seen",
    "lost",
    "shutdown_seconds",
    "stuck",
]

both_loops = pytest.mark.parametrize(
    "loop",
    [
        pytest.param([], id="asyncio"),
        pytest.param(["--uvloop"], id="uvloop", marks=needs_uvloop),
    ],
)


def summary(stdout: str) -> dict[str, float]:
    """The pairs of the last line, whose names and order are fixed."""
    pairs = [pair.split("=") for pair in stdout.splitlines()[-1].split()]
    assert [name for name, _ in pairs] == SUMMARY
    return {name: float(value) for name, value in pairs}


def server_of(client: int) -> int:
    """The process id of the client's only child."""
    (child,) = Path(f"/proc/{client}/task/{client}/children").read_text().split()
    return int(child)


def assert_gone(process: int, *, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline, f"process {process} is still there"
        time.sleep(0.02)


def is_in_time(totals: dict[str, float]) -> bool:
    """Whether the numbers are those of a machine that did not stall."""
    return (
        0.7 * RATE < totals["updates_per_second"] < 1.3 * RATE
        and totals["updates"] > 3 * 0.7 * RATE
        and 1 <= totals["reconnects"] <= 10
        and 1 <= totals["stale_seen"] <= 10
        and 0 <= totals["shutdown_seconds"] < 1
    )


@both_loops
def test_the_demo_ends_after_its_seconds(loop: list[str]) -> None:
    for _ in range(3):
        totals = totals_of_3_seconds(loop)
        if is_in_time(totals):
            break
    assert is_in_time(totals), totals


def totals_of_3_seconds(loop: list[str]) -> dict[str, float]:
    began = time.monotonic()
    with start_child([*DEMO, "--seconds", "3", *loop]) as child:
        child.wait_for(LIVE)
        server = server_of(child.pid)
        done = child.finish()
    whole_seconds = int(time.monotonic() - began)
    assert done.stderr == ""
    assert done.returncode == 0
    assert_gone(server)
    totals = summary(done.stdout)
    assert totals["symbols"] == SYMBOLS
    assert totals["lost"] == 0
    assert totals["stuck"] == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("t=")]
    # The third of three seconds ends only milliseconds before the run.
    assert 1 <= len(lines) <= whole_seconds
    assert f"alive={SYMBOLS} " in lines[-1]
    return totals


@both_loops
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_demo(signum: signal.Signals, loop: list[str]) -> None:
    with start_child([*DEMO, "--seconds", "60", *loop]) as child:
        child.wait_for(LIVE)
        server = server_of(child.pid)
        child.send_signal(signum)
        done = child.finish()
    assert done.stderr == ""
    assert done.returncode == 0
    assert_gone(server)
    totals = summary(done.stdout)
    assert totals["symbols"] == SYMBOLS
    assert totals["stuck"] == 0
    assert totals["shutdown_seconds"] < 5


def test_a_signal_before_the_snapshots_ends_the_demo() -> None:
    command = [*DEMO, "--symbols", "500", "--plain"]
    with start_child(command) as child:
        children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
        while not children.read_text():
            time.sleep(0.01)
        server = server_of(child.pid)
        while not _catches(child.pid, signal.SIGTERM):
            time.sleep(0.01)
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert done.stderr == ""
    assert done.returncode == 0
    assert_gone(server)
    assert summary(done.stdout)["stuck"] == 0


def _catches(process: int, signum: int) -> bool:
    """Whether the process has a handler for this signal."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (signum - 1) & 1)


def test_the_terminals_interrupt_does_not_reach_the_server() -> None:
    with start_child([*DEMO, "--seconds", "60"]) as child:
        child.wait_for(LIVE)
        server = server_of(child.pid)
        assert os.getpgid(server) != os.getpgid(child.pid)


def test_the_server_dies_with_a_client_that_is_killed() -> None:
    with start_child([*DEMO, "--seconds", "60"]) as child:
        child.wait_for(LIVE)
        server = server_of(child.pid)
        child.send_signal(signal.SIGKILL)
        assert_gone(server)


def test_rate_0_prints_the_last_rate_held() -> None:
    done = run_child([*DEMO, "--symbols", "4", "--rate", "0", "--seconds", "3"])
    assert done.stderr == ""
    assert done.returncode == 0
    assert summary(done.stdout)["symbols"] == 4
    (line,) = [s for s in done.stdout.splitlines() if s.startswith("last rate held: ")]
    assert "updates a second" in line


def test_a_terminal_shows_the_live_table() -> None:
    with start_in_terminal([*DEMO, "--seconds", "2"], columns=100, env=PATH) as child:
        assert child.finish() == 0
    text = child.text
    for name in ("updates a second", "alive", "healthy", "stale", "restarts"):
        assert name in text
    assert "loop lag" in text
    assert "slowest" in text
    assert summary(text)["symbols"] == SYMBOLS


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--symbols", "0"),
        ("--symbols", "ten"),
        ("--symbols", "10001"),
        ("--rate", "-1"),
        ("--rate", "1.5"),
        ("--seconds", "0"),
        ("--seconds", "-3"),
        ("--seconds", "nan"),
        ("--seconds", "inf"),
    ],
)
def test_a_wrong_value_is_refused_by_name(option: str, value: str) -> None:
    done = run_child(["-m", "pyasynclife", "demo", f"{option}={value}"])
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert option in last
    assert value in last


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("websockets", ["demo"]),
        ("rich", ["demo"]),
        ("uvloop", ["demo", "--uvloop"]),
    ],
)
def test_a_missing_package_is_named_in_one_line(
    missing: str, arguments: list[str]
) -> None:
    done = run_child(f"""
        import sys
        sys.modules[{missing!r}] = None
        sys.stdout.isatty = lambda: True
        from pyasynclife.__main__ import main
        sys.exit(main({arguments!r}))
    """)
    assert done.stderr == f"the demo needs {missing}: pip install {missing}\n"
    assert done.stdout == ""
    assert done.returncode == 2


def test_plain_output_does_not_need_rich() -> None:
    done = run_child(f"""
        import sys
        sys.modules["rich"] = None
        sys.stdout.isatty = lambda: True
        from pyasynclife.__main__ import main
        sys.exit(main({DEMO[4:]!r} + ["--plain", "--seconds", "1"]))
    """)
    assert done.stderr == ""
    assert done.returncode == 0
    assert summary(done.stdout)["symbols"] == SYMBOLS
