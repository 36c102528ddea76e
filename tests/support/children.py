"""Child processes whose output the tests read."""

import os
import select
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATH = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
"""For a child that imports the package from here."""

Command = str | Sequence[str]
"""Source text for `python -c` (dedented), or the arguments after `python`."""


def _argv(command: Command) -> list[str]:
    if isinstance(command, str):
        return [sys.executable, "-c", textwrap.dedent(command)]
    return [sys.executable, *command]


def _environment(env: dict[str, str] | None) -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "1"} | (env or {})


def run_child(
    command: Command, *, timeout: float = 30.0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python child to its end; returncode, stdout and stderr tell how it went."""
    return subprocess.run(
        _argv(command),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=_environment(env),
        check=False,
    )


class Child:
    """A running Python child whose output can be waited for, piece by piece."""

    def __init__(self, command: Command, env: dict[str, str] | None) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._output = b""
        self.process = subprocess.Popen(
            _argv(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env=_environment(env),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdout(self) -> str:
        """All that was read so far."""
        return self._output.decode()

    @property
    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def _read(self, deadline: float) -> bool:
        """Read what comes next; False at the end of the output."""
        assert self.process.stdout is not None
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self.process.stdout], [], [], left)[0]:
            raise TimeoutError(
                f"child is silent; out: {self.stdout!r}; err: {self.stderr!r}"
            )
        piece = self.process.stdout.read(65536)
        self._output += piece
        return bool(piece)

    def wait_for(self, marker: str = "ready", timeout: float = 20.0) -> None:
        """Read lines until one is the marker."""
        deadline = time.monotonic() + timeout
        while marker not in self.stdout.split("\n")[:-1]:
            if not self._read(deadline):
                raise AssertionError(
                    f"child ended without {marker!r}; "
                    f"out: {self.stdout!r}; err: {self.stderr!r}"
                )

    def read_line(self, timeout: float = 20.0) -> str:
        """The next line, which is not kept."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._output:
            if not self._read(deadline):
                raise AssertionError(f"child ended; err: {self.stderr!r}")
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def send_signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def finish(self, timeout: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        left = max(0.1, deadline - time.monotonic())
        returncode = self.process.wait(left)
        return subprocess.CompletedProcess(
            self.process.args, returncode, self.stdout, self.stderr
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._stderr.close()


@contextmanager
def start_child(
    command: Command, *, env: dict[str, str] | None = None
) -> Iterator[Child]:
    """Start a Python child and do not wait; killed at the end if it still runs."""
    child = Child(command, env)
    try:
        yield child
    finally:
        child.close()
