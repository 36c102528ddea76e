"""Python children in a pseudo-terminal of their own, where Ctrl-C can be typed."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

CTRL_C = "\x03"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class TerminalChild:
    """A Python child whose stdin, stdout and stderr are one terminal."""

    def __init__(
        self, command: Sequence[str], rows: int, columns: int, env: dict[str, str]
    ) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (rows, columns))
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR")
        }
        self._output = b""
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=inherited | {"TERM": "xterm-256color"} | env,
            preexec_fn=lambda: os.login_tty(theirs),
        )
        os.close(theirs)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def raw(self) -> str:
        """All that was written so far."""
        return self._output.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without the sequences that move the cursor or set a colour."""
        return _ESCAPES.sub("", self.raw).replace("\r", "")

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def _read(self, deadline: float) -> bool:
        """Read what comes next; False if the child has closed the terminal."""
        left = max(0.0, deadline - time.monotonic())
        if not select.select([self._ours], [], [], left)[0]:
            raise TimeoutError(f"the terminal is silent: {self.text!r}")
        try:
            piece = os.read(self._ours, 65536)
        except OSError:
            return False
        self._output += piece
        return bool(piece)

    def wait_for(self, words: str, timeout: float = 20.0, *, times: int = 1) -> None:
        deadline = time.monotonic() + timeout
        while self.text.count(words) < times:
            assert self._read(deadline), f"ended without {words!r}: {self.text!r}"

    def finish(self, timeout: float = 20.0) -> int:
        """Wait for its end and return its exit status."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)


@contextmanager
def start_in_terminal(
    command: Sequence[str],
    *,
    rows: int = 24,
    columns: int = 80,
    env: dict[str, str] | None = None,
) -> Iterator[TerminalChild]:
    """Start a Python child in a terminal; killed at the end if it still runs."""
    child = TerminalChild(command, rows, columns, env or {})
    try:
        yield child
    finally:
        child.close()
