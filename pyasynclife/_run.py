"""run(): asyncio.run() with a coordinator, a registry, and a deadline."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from pyasynclife import _signals
from pyasynclife._arguments import (
    check_flag,
    check_hook,
    check_optional_seconds,
    check_seconds,
    close_unstarted,
    is_coroutine,
    is_started,
    short,
)
from pyasynclife._program import Program

R = TypeVar("R")
Main = Callable[..., Coroutine[Any, Any, R]] | Coroutine[Any, Any, R]


def run(
    main: Main[R],
    *,
    shutdown_timeout: float = 25.0,
    drain: float | None = None,
    force_exit: bool = True,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
    debug: bool | None = None,
) -> R | None:
    """Run a program in a new loop, and end its process by a deadline.

    The first SIGTERM or SIGINT, or `SignalCoordinator.request_shutdown`, begins the
    shutdown. ``main`` is cancelled, then all other tasks; asynchronous generators are
    closed and the threads of the default executor joined. A program that stops has the
    exit status 0.

    A SIGINT that comes more than 0.3 s after the first signal ends ``drain``: ``main``
    and the tasks of the registry are cancelled at once, and if the loop is blocked,
    KeyboardInterrupt is raised in it. SIGTERM after the first signal has no effect.

    At the deadline a program that does not stop is ended by the signal, or by SIGTERM
    after a request. A report on stderr names each task and thread that still runs, and
    where. Then logging, stdout and stderr are flushed, the data of coverage is saved,
    and the functions that are registered with atexit are called. All of this may take
    one second.

    If ``main`` ends by itself, the same shutdown of the other tasks begins. The process
    is not ended then: at the deadline the report is printed, and `run` returns.

    A deadline that a signal or request has set outlives `run` if a thread is left that
    was started meanwhile and is not a daemon: the interpreter waits for it at exit, and
    is ended if that takes too long. Otherwise the process may go on after `run`.

    Args:
        main: A function that takes nothing, or takes a `SignalCoordinator` and a
            `TaskRegistry` that has been entered; or a coroutine.
        shutdown_timeout: Seconds from the signal to the end of the process. If no
            Python code can run, because C code holds the GIL, the process is ended a
            quarter of a second later, without the flush, and the stack of each thread
            is written to stderr.
        drain: Seconds from the signal until ``main`` is cancelled. None: two thirds of
            ``shutdown_timeout`` if ``main`` takes the coordinator, which notifies it;
            otherwise 0. The other tasks are cancelled when ``main`` has ended, or when
            half of the time from its cancellation to the deadline has passed.
        force_exit: End the process at the third SIGINT, by that signal, after a dump of
            all threads and tasks on stderr. If False, it raises KeyboardInterrupt in
            the main thread, unless a `graceful_shutdown` is under way: that goes on, at
            most until the deadline.
        loop_factory: Makes the loop, as for `asyncio.Runner`.
        debug: Debug mode of the loop, as for `asyncio.Runner`.

    Returns:
        The value of ``main``, or None if it was cancelled by the shutdown.

    Raises:
        TypeError, ValueError: An argument is wrong, or ``loop_factory`` made no loop.
        SignalSetupError: This is not the main thread, or the loop has no signal
            handlers.
        RuntimeError: A loop runs in this thread.
        BaseException: Whatever ``main`` raises.

    An example::

        async def main(coordinator, registry):
            registry.register(feed(), "feed")
            await coordinator.wait_for_shutdown()

        run(main)
    """
    try:
        timeout = check_seconds("shutdown_timeout", shutdown_timeout, zero=False)
        delay = check_optional_seconds("drain", drain, None)
        if delay is not None and delay >= timeout:
            raise ValueError(
                f"drain must be less than shutdown_timeout, got {drain} and "
                f"{shutdown_timeout}"
            )
        force = check_flag("force_exit", force_exit)
        check_hook("loop_factory", loop_factory)
        both = takes_both(main)
        _check_no_loop()
        _signals.check_place("run()")
    except BaseException:
        close_unstarted(main)
        raise
    if delay is None:
        delay = timeout * 2 / 3 if both else 0.0
    program = Program(main, both, timeout, delay, force)
    body = program.body()
    factory = None if loop_factory is None else _checked(loop_factory)
    runner = asyncio.Runner(debug=debug, loop_factory=factory)
    try:
        value: R | None = runner.run(body)
        return value
    finally:
        try:
            program.close(runner, loop_factory is None)
        finally:
            close_unstarted(body, main)


def takes_both(main: Any) -> bool:
    """Tell whether ``main`` takes the coordinator and the registry.

    Raises:
        TypeError: It is no function or coroutine, or takes something else.
    """
    if is_coroutine(main):
        if is_started(main):
            raise TypeError(f"main has been started already: {short(main)}")
        return False
    if not callable(main):
        raise TypeError(
            f"main must be an async function or a coroutine, got {short(main)}"
        )
    try:
        signature = inspect.signature(main)
    except (TypeError, ValueError):
        return False  # a builtin, for example
    for arguments in ((), (None, None)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise TypeError(
        f"main must take nothing, or (coordinator, registry), but takes {signature}"
    )


def _checked(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[], asyncio.AbstractEventLoop]:
    """Return a factory that raises TypeError if the given one makes no loop."""

    def make_loop() -> asyncio.AbstractEventLoop:
        loop: Any = loop_factory()
        if isinstance(loop, asyncio.AbstractEventLoop):
            return loop
        close_unstarted(loop)
        raise TypeError(
            "loop_factory must return an event loop, as asyncio.new_event_loop does, "
            f"got {short(loop)}"
        )

    return make_loop


def _check_no_loop() -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        f"run() makes a loop of its own, and {loop!r} runs in this thread: await main "
        "in it, with a SignalCoordinator"
    )
