"""Allocations of the core that fail on purpose.

Only a build with PYASYNCLIFE_FAULTS has fault points; tools/sanitize.sh makes one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyasynclife import _core

fail_allocation: Callable[[int], int] | None = getattr(_core, "fail_allocation", None)
needs_faults = pytest.mark.skipif(fail_allocation is None, reason="no fault points")


@contextmanager
def failing(nth: int) -> Iterator[list[int]]:
    """The nth allocation from here fails; the list gets how many it still was off."""
    assert fail_allocation is not None
    left: list[int] = []
    fail_allocation(nth)
    try:
        yield left
    finally:
        left.append(fail_allocation(0))
