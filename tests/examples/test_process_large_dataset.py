"""examples/process_large_dataset.py: each row once, whatever ends the program."""

import json
import signal
import zlib
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from support.example_programs import (
    LOOPS,
    checkpoint_of,
    finish,
    number_in,
    start,
    wait_until,
)
from support.marks import SANITIZED

NAME = "process_large_dataset"


def checksum(rows: int) -> str:
    """What the program computes, by a loop."""
    value = 0
    for number in range(rows):
        if number % 9_999 != 9_998:
            orders = 2_000 if number % 1_000 == 0 else 1
            value = zlib.crc32(b"%d" % (number % 97 * 3 * orders), value)
    return f"complete: checksum {value:08x}"


def arguments(path: Path, rows: int) -> tuple[str, str, str]:
    return NAME, f"--checkpoint={path}", f"--rows={rows}"


def saved(path: Path) -> int:
    text = checkpoint_of(path)
    return int(json.loads(text)["rows"]) if text else 0


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """The environment of a program that cannot import rich."""
    package = tmp_path / "no_rich" / "rich"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not installed')")
    return {"PYTHONPATH": str(package.parent)}


def test_all_rows_are_processed_and_the_progress_is_shown(
    tmp_path: Path, without_rich: dict[str, str]
) -> None:
    with ExitStack() as stack:
        rows, children = 50_000, []
        for loop, env in zip(cycle(LOOPS), (None, without_rich), strict=False):
            path = tmp_path / f"state{len(children)}.json"
            options = (*arguments(path, rows), *loop)
            children.append(stack.enter_context(start(*options, env=env)))
        for child in children:
            done = finish(child)
            assert f"rows: {rows}, failed: {rows // 9_999}" in done.stdout
            assert checksum(rows) in done.stdout
        assert "50,000 of 50,000" in children[0].stderr  # the progress
        assert children[1].stderr == ""
    assert not list(tmp_path.glob("*.json"))


def test_a_run_that_was_stopped_or_killed_goes_on_later(tmp_path: Path) -> None:
    signals = (signal.SIGINT, signal.SIGKILL)
    paths = [tmp_path / f"{signum}.json" for signum in signals]
    with ExitStack() as stack:
        children = [
            stack.enter_context(start(*arguments(path, 10**9), *loop))
            for path, loop in zip(paths, cycle(LOOPS), strict=False)
        ]
        for child, path, signum in zip(children, paths, signals, strict=True):
            wait_until(child, lambda: saved(path) >= 100_000)  # noqa: B023
            status = Path(f"/proc/{child.pid}/status").read_text()
            if not SANITIZED:
                memory = number_in(status, r"VmHWM:\s+(\d+) kB")
                assert memory < 45_000  # however many rows there have been
            child.send_signal(signum)
            if signum == signal.SIGKILL:
                assert child.finish().returncode == -signum
                assert saved(path) % 20_000 == 0
            else:
                done = finish(child)
                assert "deadline met" in done.stdout
                assert "run it again" in done.stdout
                assert number_in(done.stdout, r"rows: (\d+)") == saved(path)
    for path, loop in zip(paths, cycle(LOOPS), strict=False):
        before = saved(path)
        with start(*arguments(path, before + 1000), *loop) as child:
            done = finish(child)
        assert f"from row {before:,} on" in done.stdout
        assert checksum(before + 1000) in done.stdout
