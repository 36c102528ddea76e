"""_core.SignalHandler by itself."""

import signal

import pytest

from pyasynclife._core import SignalHandler


def test_the_native_handler_refuses_what_makes_no_sense() -> None:
    for arguments in ((), (15,), ("15", None, bool), (10_000, None, bool)):
        with pytest.raises((TypeError, OSError)):
            SignalHandler(*arguments)  # type: ignore[arg-type]
    handler = SignalHandler(signal.SIGUSR1, None, bool)
    with pytest.raises(TypeError):
        handler()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        handler.inherit(handler)
    with pytest.raises(TypeError):
        handler.inherit(3)  # type: ignore[arg-type]


def test_the_native_handler_pokes_once_until_it_is_asked() -> None:
    pokes: list[int] = []
    handler = SignalHandler(signal.SIGUSR1, None, lambda: pokes.append(1) or True)
    handler.arm(False)
    for _ in range(3):
        handler(signal.SIGUSR1, None)
    assert (pokes, handler.take()) == ([1], 3)
    assert handler.take() == 0
    handler(signal.SIGUSR1, None)
    assert (pokes, handler.count) == ([1, 1], 4)


def test_a_poke_that_fails_is_tried_again_and_raises_nothing() -> None:
    pokes: list[int] = []

    def poke() -> bool:
        pokes.append(1)
        raise RecursionError("deep down")

    handler = SignalHandler(signal.SIGUSR1, None, poke)
    handler.arm(False)
    handler(signal.SIGUSR1, None)
    handler(signal.SIGUSR1, None)
    assert (pokes, handler.take()) == ([1, 1], 2)


def test_an_interrupt_in_the_middle_of_a_poke_is_not_swallowed() -> None:
    def poke() -> bool:
        raise KeyboardInterrupt

    handler = SignalHandler(signal.SIGUSR1, None, poke)
    handler.arm(False)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGUSR1, None)
    assert handler.take() == 1


def test_what_was_found_may_raise_through_the_native_handler() -> None:
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
