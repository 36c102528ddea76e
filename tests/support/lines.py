"""Run something at a given line of the package, as a signal or a thread may."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pyasynclife

PACKAGE = os.path.dirname(pyasynclife.__file__)


@contextmanager
def at_each_line(look: Callable[[], object]) -> Iterator[None]:
    """Call a function before each line of the package in this thread."""

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            look()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def interrupted(
    call: Callable[[], object], line: int, interruption: Callable[[], object]
) -> bool:
    """Make a call with an interruption before its nth line, from 1.

    Returns False if the call has fewer lines.
    """
    left = line

    def look() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            interruption()

    with at_each_line(look):
        call()
    return left <= 0
