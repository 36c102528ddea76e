"""Every allocation of a coordinator's setup fails once."""

import sys

import pytest

from pyasynclife import (
    SignalCoordinator,
)
from support.signals import actions, needs_posix

pytestmark = needs_posix


async def test_no_allocation_that_fails_breaks_setup_or_removal() -> None:
    fail = getattr(sys.modules["pyasynclife._core"], "fail_allocation", None)
    if fail is None:
        pytest.skip("needs a build with fault points")
    before = actions()
    for nth in range(1, 30):
        coordinator = SignalCoordinator()
        fail(nth)
        try:
            coordinator.setup_handlers()
        except MemoryError:
            assert before == actions()
            assert not coordinator._handlers
        finally:
            left = fail(0)
        coordinator.remove_handlers()
        assert before == actions()
        if left:
            return
    pytest.fail("the faults never ended")
