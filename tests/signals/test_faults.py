"""Every allocation of a coordinator's handlers fails once."""

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pyasynclife import SignalCoordinator
from pyasynclife._core import SignalHandler, Watchdog
from support.faults import (
    fail_each_allocation,
    failing,
    ignores_what_cannot_be_raised,
    needs_faults,
)
from support.signals import actions, needs_posix

pytestmark = [needs_posix, needs_faults]


async def test_no_allocation_that_fails_breaks_setup_or_removal() -> None:
    before = actions()
    for nth in range(1, 30):
        coordinator = SignalCoordinator(kill_after=60.0)
        with failing(nth) as left:
            try:
                coordinator.setup_handlers()
            except MemoryError:
                assert actions() == before
                assert not coordinator._handlers.by_signal
        coordinator.remove_handlers()
        assert actions() == before
        if left[0]:
            return
    pytest.fail("the faults never ended")


async def reads_a_handler() -> None:
    handler = SignalHandler(signal.SIGUSR1, None, bool)
    handler.arm(False)
    handler(signal.SIGUSR1, None)
    try:
        assert handler.count
        assert handler.since
        assert handler.signum == signal.SIGUSR1
        assert handler.take() == 1
    finally:
        handler.disarm()


async def keeps_an_error() -> None:
    """What a chained handler raises is kept or, without memory, raised."""

    def found(signum: int, frame: object) -> None:
        raise ValueError("host")

    handler = SignalHandler(signal.SIGUSR1, found, lambda: True)
    handler.arm(True)
    raised = 0
    try:
        handler(signal.SIGUSR1, None)
    except ValueError:
        raised = 1
    finally:
        handler.disarm()
    assert len(handler.take_errors()) == 1 - raised
    assert handler.take_errors() == []


@ignores_what_cannot_be_raised
@pytest.mark.parametrize("scenario", [reads_a_handler, keeps_an_error])
async def test_each_allocation_of_a_handler_fails_once(
    scenario: Callable[[], Awaitable[None]], loop_errors: list[dict[str, Any]]
) -> None:
    await fail_each_allocation(scenario, loop_errors)


async def reads_a_watchdog() -> None:
    dog = Watchdog(60.0, [signal.SIGUSR1])
    dog.begin(signal.SIGUSR1, 0.0)
    try:
        assert dog.signum == signal.SIGUSR1
        assert dog.due
    finally:
        dog.cancel()


async def test_each_allocation_of_a_watchdog_fails_once(
    loop_errors: list[dict[str, Any]],
) -> None:
    await fail_each_allocation(reads_a_watchdog, loop_errors)
