"""_core.SignalHandler by itself."""

import signal

import pytest

from pyasynclife._core import SignalHandler


def test_bad_arguments_are_refused() -> None:
    for arguments in ((), (15,), ("15", None, bool), (10_000, None, bool)):
        with pytest.raises((TypeError, OSError)):
            SignalHandler(*arguments)  # type: ignore[arg-type]
    handler = SignalHandler(signal.SIGUSR1, None, bool)
    with pytest.raises(TypeError):
        handler()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        handler.take_over(handler)
    with pytest.raises(TypeError):
        handler.take_over(3)  # type: ignore[arg-type]


def test_the_loop_is_woken_once_until_the_count_is_taken() -> None:
    wake_ups: list[int] = []
    handler = SignalHandler(signal.SIGUSR1, None, lambda: wake_ups.append(1) or True)
    handler.arm(False)
    for _ in range(3):
        handler(signal.SIGUSR1, None)
    assert (wake_ups, handler.take()) == ([1], 3)
    assert handler.take() == 0
    handler(signal.SIGUSR1, None)
    assert (wake_ups, handler.count) == ([1, 1], 4)


def test_a_wake_up_that_fails_is_tried_again_and_raises_nothing() -> None:
    wake_ups: list[int] = []

    def wake_up() -> bool:
        wake_ups.append(1)
        raise RecursionError("deep down")

    handler = SignalHandler(signal.SIGUSR1, None, wake_up)
    handler.arm(False)
    handler(signal.SIGUSR1, None)
    handler(signal.SIGUSR1, None)
    assert (wake_ups, handler.take()) == ([1, 1], 2)


def test_an_interrupt_in_the_middle_of_a_wake_up_is_not_swallowed() -> None:
    def wake_up() -> bool:
        raise KeyboardInterrupt

    handler = SignalHandler(signal.SIGUSR1, None, wake_up)
    handler.arm(False)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGUSR1, None)
    assert handler.take() == 1


def test_the_previous_handler_may_raise_through_ours() -> None:
    def found(signum: int, frame: object) -> None:
        raise SystemExit(signum)

    handler = SignalHandler(signal.SIGUSR1, found, bool)
    handler.arm(True)
    with pytest.raises(SystemExit):
        handler(signal.SIGUSR1, None)
    handler.disarm()
    with pytest.raises(SystemExit):
        handler(signal.SIGUSR1, None)
    assert handler.count == 1
