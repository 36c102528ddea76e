"""What a handler that was there before ours raises does not hit the main thread."""

import asyncio
import os
import signal
from typing import Any

import pytest

from pyasynclife import SignalCoordinator
from support.loops import settle
from support.signals import Run, needs_posix

pytestmark = needs_posix


@pytest.fixture
def handler_that_raises(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a handler that raises what is given to it."""
    before = {signum: signal.getsignal(signum) for signum in (1, 15)}

    def install(signum: int, error: BaseException) -> None:
        def handler(number: int, frame: object) -> None:
            raise error

        signal.signal(signum, handler)

    yield install
    for signum, was in before.items():
        signal.signal(signum, was)


async def test_a_host_sees_signals_that_come_at_once_in_their_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second one comes in the middle of the wake-up of the loop by the first."""
    seen: list[int] = []
    signals = (signal.SIGHUP, signal.SIGTERM)
    before = [signal.signal(s, lambda *call: seen.append(call[0])) for s in signals]
    wake_loop = SignalCoordinator._wake_loop

    def wake_loop_late(coordinator: SignalCoordinator) -> bool:
        if not coordinator.received.get(signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
        return wake_loop(coordinator)

    monkeypatch.setattr(SignalCoordinator, "_wake_loop", wake_loop_late)
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        signal.raise_signal(signal.SIGHUP)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        assert coordinator.reload_event.is_set()
    for signum, handler in zip(signals, before, strict=True):
        signal.signal(signum, handler)
    assert seen == [signal.SIGHUP, signal.SIGTERM]


@pytest.mark.parametrize("error", [ValueError("host"), asyncio.CancelledError("host")])
async def test_an_exception_goes_to_the_loops_exception_handler(
    error: BaseException, handler_that_raises: Any, loop_errors: list[dict[str, Any]]
) -> None:
    handler_that_raises(signal.SIGTERM, error)
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        os.kill(os.getpid(), signal.SIGTERM)  # raises nothing here
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        await settle()
    assert [context["exception"] for context in loop_errors] == [error]
    assert loop_errors[0]["message"] == "the previous handler of SIGTERM failed"


async def test_each_of_many_exceptions_is_reported(
    handler_that_raises: Any, loop_errors: list[dict[str, Any]]
) -> None:
    handler_that_raises(signal.SIGHUP, ValueError("host"))
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        await coordinator.wait_for_reload()
    assert len(loop_errors) == 3
    assert coordinator.ready


@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt("host")])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
async def test_an_exit_begins_the_shutdown_and_leaves_wait_for_shutdown(
    error: BaseException, signum: int, handler_that_raises: Any
) -> None:
    handler_that_raises(signum, error)
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        os.kill(os.getpid(), signum)
        # A Task that raises an exit stops the loop, so it is caught in a coroutine.
        with pytest.raises(type(error)) as caught:
            await coordinator.wait_for_shutdown()
        assert caught.value is error
        assert (coordinator.phase, coordinator.received) == ("draining", {signum: 1})
        assert await coordinator.wait_for_shutdown() == signum  # raised once


@pytest.mark.parametrize("way", ["with", "async with"])
async def test_an_exit_that_nobody_waited_for_leaves_the_block(
    way: str, handler_that_raises: Any
) -> None:
    handler_that_raises(signal.SIGTERM, SystemExit(7))
    with pytest.raises(SystemExit):
        if way == "with":
            with SignalCoordinator():
                os.kill(os.getpid(), signal.SIGTERM)
                await settle()
        else:
            async with SignalCoordinator():
                os.kill(os.getpid(), signal.SIGTERM)
                await settle()


async def test_an_exit_does_not_replace_the_exception_of_the_block(
    handler_that_raises: Any,
) -> None:
    handler_that_raises(signal.SIGTERM, SystemExit(7))
    with pytest.raises(LookupError):
        async with SignalCoordinator():
            os.kill(os.getpid(), signal.SIGTERM)
            raise LookupError


def test_a_host_that_exits_from_its_handler_ends_with_its_status(run: Run) -> None:
    done = run("""
        async def main():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                try:
                    kill(signal.SIGTERM)
                    print("goes on")
                    await c.wait_for_shutdown()
                finally:
                    print(c.received[signal.SIGTERM])
        run(main())
    """)
    assert (done.returncode, done.stdout) == (7, "goes on\n1\n")


def test_an_exit_before_the_loop_runs_is_raised_in_it(run: Run) -> None:
    done = run("""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        async def main():
            try:
                await c.wait_for_shutdown()
            finally:
                print("cleaned up")
        with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
            kill(signal.SIGTERM)
            print("goes on")
            run(main())
    """)
    assert (done.returncode, done.stdout) == (7, "goes on\ncleaned up\n")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_without_a_loop_an_exit_leaves_the_block(run: Run, signum: int) -> None:
    done = run(f"""
        signal.signal({int(signum)}, lambda *_: sys.exit(7))
        try:
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                kill({int(signum)})
                print("goes on")
        finally:
            print(c.phase)
    """)
    assert (done.returncode, done.stdout) == (7, "goes on\ndraining\n")


def test_without_a_loop_an_exception_is_logged_at_the_removal(run: Run) -> None:
    done = run("""
        import logging
        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        def host(*_):
            raise ValueError("host")
        signal.signal(signal.SIGTERM, host)
        with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
            kill(signal.SIGTERM)
        print(c.phase)
    """)
    assert done.stdout.startswith("the previous handler of SIGTERM failed\nTraceback")
    assert done.stdout.endswith("ValueError: host\ndraining\n")


def test_main_is_not_hit_wherever_it_is(run: Run) -> None:
    done = run("""
        errors = []
        def host(*_):
            raise RuntimeError("host")
        async def main():
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: errors.append(str(context["exception"])))
            signal.signal(signal.SIGTERM, host)
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                pid = os.getpid()
                thread = threading.Thread(target=lambda: [
                    (time.sleep(0.001), os.kill(pid, signal.SIGTERM))
                    for _ in range(50)])
                thread.start()
                while thread.is_alive():
                    sum(range(1000))        # between any two bytecodes
                    await asyncio.sleep(0)
                await until(lambda: len(errors) == c.received[signal.SIGTERM])
            print(set(errors))
        run(main())
    """)
    assert (done.returncode, done.stdout) == (0, "{'host'}\n")
