"""The programs of examples/ as child processes, and a feed that a test stops."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from support.children import PATH, ROOT, Child, start_child
from support.marks import HAS_UVLOOP

EXAMPLES = ROOT / "examples"
LIMIT = 60.0
"""Seconds for anything: a line, an end. CI's machines may stall."""
LOOPS: list[list[str]] = [[], ["--uvloop"]] if HAS_UVLOOP else [[]]
"""The options that choose the standard loop and uvloop."""

SOON = """
plain = m.Backoff
m.Backoff = lambda *_, **__: plain(0.1, max_delay=0.5)
m.STALE = 1.0
m.STATUS = 0.2
"""
"""A change of a program: it replaces and connects soon, and prints often."""


class Feed:
    """examples/feed_server.py, as a process."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self._port = "0"
        self.start()

    def start(self) -> None:
        """Start it; again: at the same address."""
        command = [str(EXAMPLES / "feed_server.py"), "--port", self._port]
        self._child = Child([*command, *self._options], PATH)
        try:
            self.address = self._child.read_line(LIMIT)
        except BaseException:
            self._child.close()
            raise
        self._port = self.address.rpartition(":")[2]

    def hang(self) -> None:
        """Keep the connections open, and do nothing any more."""
        self._child.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Drop all connections and accept no more."""
        self._child.close()


@contextmanager
def start_feed(*options: str) -> Iterator[Feed]:
    """Start a feed, and kill it at the end."""
    feed = Feed(*options)
    try:
        yield feed
    finally:
        feed.kill()


_LEFT = (
    "never awaited",
    "was destroyed",
    "never retrieved",
    "Unclosed",
    "ResourceWarn",
)


def start(
    name: str, *options: str, env: dict[str, str] | None = None
) -> AbstractContextManager[Child]:
    """Start a program as a user does; killed at the end if it still runs."""
    return start_child([str(EXAMPLES / f"{name}.py"), *options], env=PATH | (env or {}))


def start_changed(
    name: str, change: str, *arguments: str
) -> AbstractContextManager[Child]:
    """Start the main() of a program after a change of its module, called m."""
    program = f"import sys, {name} as m\n{change}\nsys.exit(m.main())"
    path = {"PYTHONPATH": os.pathsep.join([str(EXAMPLES), *PATH.values()])}
    return start_child(["-c", program, *arguments], env=path)


def read_until(child: Child, pattern: str) -> re.Match[str]:
    """Read lines until one has the pattern; they are no more in its stdout."""
    deadline = time.monotonic() + LIMIT
    while not (match := re.search(pattern, child.read_line(LIMIT))):
        assert time.monotonic() < deadline, f"no line with {pattern!r}"
    return match


def read_number(child: Child, pattern: str, least: int) -> int:
    """Read lines until the number that the pattern captures is large enough."""
    deadline = time.monotonic() + LIMIT
    while (number := int(read_until(child, pattern)[1])) < least:
        assert time.monotonic() < deadline, f"{pattern!r} is only {number}"
    return number


def child_of(process: int) -> int:
    """The process id of the only child."""
    (child,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(child)


def wait_until_gone(process: int) -> None:
    deadline = time.monotonic() + LIMIT
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < deadline, f"process {process} is still there"
        time.sleep(0.02)


def wait_until(child: Child, condition: Callable[[], object]) -> None:
    """Wait until something holds; the program must run meanwhile."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert child.process.poll() is None, (child.stdout, child.stderr)
        assert time.monotonic() < deadline, (child.stdout, child.stderr)
        time.sleep(0.02)


def finish(child: Child) -> CompletedProcess[str]:
    """Wait for the end, which has the status 0, and leaves nothing behind."""
    done = child.finish(LIMIT)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert not [text for text in _LEFT if text in done.stderr], done.stderr
    return done


def number_in(text: str, pattern: str) -> int:
    """Return the number that a pattern's group matches."""
    found = re.search(pattern, text)
    assert found, (pattern, text)
    return int(found[1])


def checkpoint_of(path: Path) -> str:
    """Return the text of a file, or nothing while there is none."""
    return path.read_text() if path.exists() else ""
