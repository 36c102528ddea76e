"""The live table of `top`: what it shows of ids that hold anything."""

import pytest

pytest.importorskip("rich")

from pyasynclife._monitor.text import lag_line
from pyasynclife._monitor.view import View


@pytest.mark.parametrize(
    ("task_id", "shown"),
    [
        ("feed-1", "'feed-1'"),
        ("idle-1\x1b[31m", r"'idle-1\x1b[31m'"),
        (r"c:\feeds", r"'c:\feeds'"),
        ("x" * 99, f"'{'x' * 59}…'"),
    ],
)
def test_an_id_is_escaped_once_in_the_question(task_id: str, shown: str) -> None:
    view = View(asking=task_id)
    assert view._status() == f"cancel {shown}? y / n"


def test_a_filter_is_shown_as_it_was_typed() -> None:
    assert r" with 'c:\it's', by" in View(filter=r"c:\it's")._status()


@pytest.mark.parametrize(
    ("blocked", "shown"),
    [(0, "0 times"), (1, "1 time, longest 0.25 s"), (2, "2 times, longest 0.25 s")],
)
def test_the_line_of_the_lag_counts_the_blocks(blocked: int, shown: str) -> None:
    line = lag_line({"p99": 0.001, "blocked": blocked, "longest": 0.25})
    assert line == f"loop lag p99 1.0 ms; blocked {shown}"
