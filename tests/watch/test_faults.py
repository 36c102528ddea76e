"""Every allocation of a LoopWatch's native half fails once."""

import contextvars
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import LoopWatch
from pyasynclife._core import LoopPulse
from support.faults import (
    fail_each_allocation,
    ignores_what_cannot_be_raised,
    needs_faults,
)

pytestmark = needs_faults


async def makes_and_leaves_a_watch() -> None:
    watch = LoopWatch(60.0)
    async with watch:
        assert watch.lag.count == 0
    assert watch.lag.count == 0


async def looks(patience: float) -> None:
    """One look, by this thread itself, which is late at once."""
    pulse = LoopPulse(1e-9, 1e-9, patience, None)
    try:
        time.sleep(0.001)
        look: Any = contextvars.copy_context().run(pulse.wait)
        assert look is not None
        assert look[4]
        assert pulse.due == look[0]
        assert pulse.beat(True) > 0.0
        assert pulse.lag.count == 1
    finally:
        pulse.close()
        assert pulse.wait() is None


async def looks_with_the_gil() -> None:
    await looks(60.0)


async def looks_without_the_gil() -> None:
    await looks(-1.0)


@pytest.mark.parametrize(
    "scenario",
    [makes_and_leaves_a_watch, looks_with_the_gil, looks_without_the_gil],
    ids=lambda scenario: scenario.__name__,
)
@ignores_what_cannot_be_raised
async def test_every_allocation_may_fail(
    scenario: Callable[[], Awaitable[None]], loop_errors: list[dict[str, Any]]
) -> None:
    await fail_each_allocation(scenario, loop_errors)
