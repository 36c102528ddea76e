"""The arguments of a SignalCoordinator: which signals it handles, and their check."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyasynclife import _signals
from pyasynclife._arguments import check_hook, close_unstarted, short

Callbacks = dict[int, Callable[[int], object]]


class Options:
    """What a `SignalCoordinator` was created with, once it is checked.

    Attributes:
        reloads_asked: Whether the reload signals were chosen by the caller.
    """

    def __init__(
        self,
        *,
        shutdown_timeout: float,
        drain: float,
        lame_duck: float,
        kill_after: float | None,
        on_signal: Callable[[int, int], object] | None,
        shutdown_signals: frozenset[int],
        reload_signals: frozenset[int],
        reloads_asked: bool,
        callbacks: Callbacks,
        required: bool,
        force_exit: bool,
        take_ignored: bool,
        cancel_on_signal: bool,
    ) -> None:
        self.shutdown_timeout = shutdown_timeout
        self.drain = drain
        self.lame_duck = lame_duck
        self.kill_after = kill_after
        self.on_signal = on_signal
        self.shutdown_signals = shutdown_signals
        self.reload_signals = reload_signals
        self.reloads_asked = reloads_asked
        self.callbacks = callbacks
        self.required = required
        self.force_exit = force_exit
        self.take_ignored = take_ignored
        self.cancel_on_signal = cancel_on_signal


def choose_signals(
    shutdown_signals: Iterable[int] | None,
    reload_signals: Iterable[int] | None,
    callbacks: Mapping[int, Callable[[int], object]] | None,
) -> tuple[frozenset[int], frozenset[int], Callbacks]:
    """Return the signals that shut down, those that reload, and the callbacks.

    Raises:
        TypeError: An argument is of another type.
        ValueError: A signal has two meanings.
    """
    called = _checked_callbacks(callbacks)
    shutdown = _signal_set(
        shutdown_signals, "shutdown_signals", (signal.SIGTERM, signal.SIGINT)
    )
    hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
    reload = _signal_set(
        reload_signals,
        "reload_signals",
        (signum for signum in hangup if signum not in shutdown | called.keys()),
    )
    for signum in shutdown & reload:
        name = _signals.name_of(signum)
        raise ValueError(f"{name} cannot both shut down and reload: choose one")
    for signum in called.keys() & (shutdown | reload):
        name = _signals.name_of(signum)
        raise ValueError(
            f"{name} cannot have a callback and also shut down or reload: choose one"
        )
    return shutdown, reload, called


def _signal_set(signals: Any, name: str, default: Iterable[int]) -> frozenset[int]:
    if not isinstance(signals, Iterable | None):
        close_unstarted(signals)
        raise TypeError(f"{name} must be a list of signals, got {short(signals)}")
    chosen = tuple(default if signals is None else signals)
    for signum in chosen:
        if isinstance(signum, bool) or not isinstance(signum, int):
            raise TypeError(f"{name} must hold signal numbers, got {short(signum)}")
    return frozenset(chosen)


def _checked_callbacks(callbacks: Any) -> Callbacks:
    if callbacks is None:
        return {}
    if not isinstance(callbacks, Mapping):
        raise TypeError(
            f"callbacks must map signals to functions, got {short(callbacks)}"
        )
    for function in callbacks.values():
        if not callable(function):
            close_unstarted(function)
            raise TypeError(f"a callback must be a function, got {short(function)}")
        check_hook("a callback", function)
    signals = _signal_set(callbacks.keys(), "callbacks", ())
    return {signum: callbacks[signum] for signum in signals}
