"""The programs in examples/, run as child processes."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess

from support.children import PATH, ROOT, Child, start_child

LIMIT = 60.0
"""Seconds for anything: a line, an end. CI's machines may stall."""

LOOPS = ((), ("--uvloop",))
"""The options that choose the standard loop and uvloop."""

_LEFT = (
    "never awaited",
    "was destroyed",
    "never retrieved",
    "Unclosed",
    "ResourceWarn",
)


@contextmanager
def start(
    name: str, *options: str, env: dict[str, str] | None = None
) -> Iterator[Child]:
    """Start a program; killed at the end if it still runs."""
    path = ROOT / "examples" / f"{name}.py"
    with start_child([str(path), *options], env=PATH | (env or {})) as child:
        yield child


def read_until(child: Child, wanted: str | Callable[[str], object]) -> str:
    """Read lines of stdout until one matches, and return that one."""
    matches = re.compile(wanted).search if isinstance(wanted, str) else wanted
    deadline = time.monotonic() + LIMIT
    while not matches(line := child.read_line(LIMIT)):
        assert time.monotonic() < deadline, f"last line: {line}"
    return line


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
