"""_core.SignalHandler by itself."""

import signal
from functools import partial

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


def test_a_wake_up_that_is_answered_before_it_returns_does_not_stop_the_next() -> None:
    wake_ups: list[int] = []

    def wake_up() -> bool:
        wake_ups.append(handler.take())  # a loop in another thread is faster
        return True

    handler = SignalHandler(signal.SIGUSR1, None, wake_up)
    handler.arm(False)
    for _ in range(3):
        handler(signal.SIGUSR1, None)
    assert wake_ups == [1, 1, 1]


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


def found(signum: int, frame: object) -> None:
    raise SystemExit(signum)


def test_what_the_previous_handler_raises_is_kept_while_there_is_a_loop() -> None:
    handler = SignalHandler(signal.SIGUSR1, found, lambda: True)
    handler.arm(True)
    for _ in range(2):
        handler(signal.SIGUSR1, None)
    errors = handler.take_errors()
    assert [error.args for error in errors] == [(signal.SIGUSR1,)] * 2
    assert handler.take_errors() == []


@pytest.mark.parametrize("when", ["wake-up", "notice"])
def test_the_hosts_handlers_see_the_signals_in_their_order(when: str) -> None:
    """A second signal comes while Python code of ours handles the first one."""
    seen: list[int] = []
    come: list[SignalHandler] = []

    def comes(at: str) -> bool:
        if at == when and come:
            come.pop()(signal.SIGUSR2, None)
        return True

    first, second = (
        SignalHandler(signum, lambda *call: seen.append(call[0]), partial(comes, at))
        for signum, at in ((signal.SIGUSR1, "wake-up"), (signal.SIGUSR2, ""))
    )
    first.notice = lambda signum: comes("notice")
    for handler in (first, second):
        handler.arm(True)
    come.append(second)
    first(signal.SIGUSR1, None)
    assert (seen, come) == ([signal.SIGUSR1, signal.SIGUSR2], [])
    assert (first.take(), second.take()) == (1, 1)


@pytest.mark.parametrize("then", ["wake-up", "notice"])
def test_an_interrupt_after_an_error_of_the_host_hides_neither(then: str) -> None:
    def interrupt(at: str) -> bool:
        if at == then:
            raise KeyboardInterrupt
        return True

    handler = SignalHandler(signal.SIGUSR1, found, lambda: interrupt("wake-up"))
    handler.notice = lambda signum: interrupt("notice")
    handler.arm(True)
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGUSR1, None)
    assert [type(error) for error in handler.take_errors()] == [SystemExit]


def test_the_loop_is_woken_for_an_error_too() -> None:
    wake_ups: list[int] = []

    def wake_up() -> bool:
        wake_ups.append(1)
        handler.take()  # a loop in another thread is faster
        return True

    handler = SignalHandler(signal.SIGUSR1, found, wake_up)
    handler.arm(True)
    handler(signal.SIGUSR1, None)
    assert (len(wake_ups), len(handler.take_errors())) == (2, 1)


@pytest.mark.parametrize("why", ["disarmed", "no loop", "disarmed meanwhile"])
def test_without_us_the_previous_handler_raises_as_before(why: str) -> None:
    def disarms(signum: int, frame: object) -> None:
        handler.disarm()
        raise SystemExit(signum)

    previous = disarms if why == "disarmed meanwhile" else found
    handler = SignalHandler(signal.SIGUSR1, previous, lambda: why != "no loop")
    handler.arm(True)
    if why == "disarmed":
        handler.disarm()
    with pytest.raises(SystemExit):
        handler(signal.SIGUSR1, None)
    assert handler.take_errors() == []


def test_a_signal_counts_once_that_comes_again_to_one_that_was_displaced() -> None:
    handler = SignalHandler(signal.SIGUSR1, None, lambda: True)
    handler.arm(False)
    handler.replayable = True
    for _ in range(2):
        handler.on_loop_wakeup(False)
    counts = []
    for _ in range(3):
        handler(signal.SIGUSR1, None)
        handler.on_loop_wakeup(True)
        counts.append(handler.count)
    assert counts == [2, 2, 3]


def test_a_handler_covers_another_and_never_itself() -> None:
    below, middle, top = (
        SignalHandler(signal.SIGUSR1, None, lambda: True) for _ in range(3)
    )
    middle.cover(below)
    top.cover(middle)
    for bad in (top, middle, below, 3):
        if bad is not below:
            with pytest.raises(TypeError):
                middle.cover(bad)  # type: ignore[arg-type]
    for handler in (below, middle, top):
        handler.replayable = True
        handler.arm(False)
    for handler in (top, middle, below, below):
        handler(signal.SIGUSR1, None)
    assert [top.count, middle.count, below.count] == [1, 0, 1]


def noticed(answer: object) -> tuple[SignalHandler, list[int], list[int]]:
    """A handler that is not chained; the calls of notice, and of the one below."""
    notices: list[int] = []
    calls: list[int] = []

    def notice(signum: int) -> int:
        notices.append(signum)
        if isinstance(answer, BaseException):
            raise answer
        return answer  # type: ignore[return-value]

    def previous(signum: int, frame: object) -> None:
        calls.append(signum)

    handler = SignalHandler(signal.SIGUSR1, previous, lambda: True)
    handler.notice = notice
    handler.arm(False)
    return handler, notices, calls


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_notice_decides_how_often_the_previous_handler_is_called(answer: int) -> None:
    handler, notices, calls = noticed(answer)
    handler(signal.SIGUSR1, None)
    assert (len(notices), len(calls), handler.count) == (1, answer, 1)


def test_signals_of_one_press_are_noticed_once() -> None:
    handler, notices, calls = noticed(1)
    for _ in range(5):
        handler(signal.SIGUSR1, None)
    assert (len(notices), len(calls), handler.count) == (1, 1, 5)


@pytest.mark.parametrize("answer", [None, "1", MemoryError(), 2**80])
def test_a_notice_that_fails_counts_for_nothing(answer: object) -> None:
    handler, notices, calls = noticed(answer)
    handler(signal.SIGUSR1, None)
    assert (len(notices), calls, handler.take()) == (1, [], 1)


def test_an_interrupt_in_the_middle_of_a_notice_is_not_swallowed() -> None:
    handler, _, calls = noticed(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        handler(signal.SIGUSR1, None)
    assert (calls, handler.take()) == ([], 1)


def test_a_disarmed_handler_notices_nothing() -> None:
    handler, notices, calls = noticed(0)
    handler.disarm()
    assert handler.notice is None
    handler(signal.SIGUSR1, None)
    assert (notices, len(calls)) == ([], 1)


def test_a_held_handler_is_called_once_at_the_release() -> None:
    calls: list[object] = []
    handler = SignalHandler(
        signal.SIGUSR1, lambda *call: calls.append(call), lambda: True
    )
    handler.holds = True
    handler.arm(True)
    for _ in range(3):
        handler(signal.SIGUSR1, None)
    assert calls == []
    for _ in range(2):
        handler.release()
    assert calls == [(signal.SIGUSR1, None)]
    handler(signal.SIGUSR1, None)
    assert len(calls) == 2


def test_what_a_held_handler_raises_is_kept() -> None:
    handler = SignalHandler(signal.SIGUSR1, found, lambda: True)
    handler.holds = True
    handler.arm(True)
    handler(signal.SIGUSR1, None)
    handler.release()
    assert [type(error) for error in handler.take_errors()] == [SystemExit]


def test_without_a_loop_a_chained_handler_is_called_once() -> None:
    calls: list[object] = []
    for holds in (False, True):
        handler = SignalHandler(
            signal.SIGUSR1, lambda *call: calls.append(call), lambda: False
        )
        handler.holds = holds
        handler.arm(True)
        handler(signal.SIGUSR1, None)
        handler.release()
    assert calls == [(signal.SIGUSR1, None)] * 2


def test_without_a_loop_nothing_is_held() -> None:
    handler = SignalHandler(signal.SIGUSR1, found, lambda: False)
    handler.holds = True
    handler.arm(True)
    with pytest.raises(SystemExit):
        handler(signal.SIGUSR1, None)


def test_a_handler_of_ours_below_is_never_held_and_may_raise() -> None:
    below = SignalHandler(signal.SIGUSR1, found, lambda: True)
    below.notice = lambda signum: 1
    below.arm(False)
    handler = SignalHandler(signal.SIGUSR1, below, lambda: True)
    handler.holds = True
    handler.arm(True)
    with pytest.raises(SystemExit):
        handler(signal.SIGUSR1, None)
    assert (handler.count, below.count) == (1, 1)
    assert handler.take_errors() == []
