"""The live table of `top`: what it shows of ids that hold anything."""

import pytest

pytest.importorskip("rich")

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
