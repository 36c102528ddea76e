"""Programs that handle signals, on the standard loop and on uvloop."""

import subprocess

import pytest

from pyasynclife import SignalCoordinator
from support.children import run_child, start_child
from support.signals import Run, Start, program


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


@pytest.fixture
def run(loop_name: str) -> Run:
    """Run a program to its end; it must not write to stderr."""

    def run(source: str) -> subprocess.CompletedProcess[str]:
        done = run_child(program(source), env={"LOOP": loop_name})
        assert done.stderr == ""
        return done

    return run


@pytest.fixture
def start(loop_name: str) -> Start:
    return lambda source: start_child(program(source), env={"LOOP": loop_name})


@pytest.fixture
def no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shutdown begins at the loop's time, without the real seconds since its signal.

    For virtual time, in which a machine that stalls would move the deadline.
    """
    begin = SignalCoordinator._begin

    def begin_now(
        self: SignalCoordinator, signum: int | None, seconds_ago: float
    ) -> None:
        begin(self, signum, 0.0)

    monkeypatch.setattr(SignalCoordinator, "_begin", begin_now)
