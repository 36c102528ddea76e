"""What a signal does: events, counts, on_signal, reloads; and requests."""

import asyncio
import contextvars
import functools
import inspect
import math
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pyasynclife import SignalCoordinator
from support.loops import settle
from support.signals import Run, Start, actions, finish, needs_posix

pytestmark = needs_posix


def test_constructing_needs_no_loop_and_touches_no_signal() -> None:
    before = actions()
    coordinator = SignalCoordinator()
    assert actions() == before
    assert (
        coordinator.phase,
        coordinator.ready,
        coordinator.deadline,
        coordinator.received,
    ) == ("running", True, None, {})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shutdown_timeout": -1}, ValueError, "-1"),
        ({"shutdown_timeout": math.nan}, ValueError, "nan"),
        ({"shutdown_timeout": "30"}, TypeError, "'30'"),
        ({"shutdown_timeout": None}, TypeError, "None"),
        ({"shutdown_timeout": True}, TypeError, "True"),
        ({"shutdown_signals": ["SIGTERM"]}, TypeError, "'SIGTERM'"),
        ({"shutdown_signals": [True]}, TypeError, "True"),
        ({"shutdown_signals": signal.SIGTERM}, TypeError, "list"),
        ({"shutdown_signals": 1.5}, TypeError, "shutdown_signals must be a list"),
        ({"callbacks": {10: 3}}, TypeError, "must be a function, got int 3"),
        ({"reload_signals": [1.0]}, TypeError, "1.0"),
        ({"shutdown_signals": [1], "reload_signals": [1]}, ValueError, "SIGHUP"),
        ({"on_signal": 3}, TypeError, "3"),
        ({"registry": object()}, TypeError, "registry"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SignalCoordinator(**options)


def test_on_signal_cannot_be_a_coroutine_function() -> None:
    async def on_signal(signum: int, count: int) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        SignalCoordinator(on_signal=on_signal)


def test_a_shutdown_signal_is_no_longer_a_reload_signal_by_default() -> None:
    coordinator = SignalCoordinator(shutdown_signals=[signal.SIGHUP])
    assert coordinator._options.shutdown_signals == {signal.SIGHUP}
    assert not coordinator._options.reload_signals


def test_the_constructors_parameters_and_their_order() -> None:
    assert tuple(inspect.signature(SignalCoordinator).parameters) == (
        "shutdown_timeout",
        "shutdown_signals",
        "reload_signals",
        "callbacks",
        "take_ignored",
        "registry",
        "required",
        "lame_duck",
        "drain",
        "cancel_on_signal",
        "force_exit",
        "kill_after",
        "on_signal",
    )


async def test_a_signal_sets_the_event_and_nothing_is_cancelled() -> None:
    with SignalCoordinator(7) as coordinator:
        loop = asyncio.get_running_loop()
        before = loop.time()
        os.kill(os.getpid(), signal.SIGTERM)
        assert (coordinator.phase, coordinator.ready) == ("draining", False)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        assert coordinator.shutdown_event.is_set()
        assert coordinator.deadline is not None
        assert before + 7 - 0.002 <= coordinator.deadline <= loop.time() + 7.002
        assert coordinator.received == {signal.SIGTERM: 1}
        assert len(asyncio.all_tasks()) == 1


async def test_received_outlives_the_handlers() -> None:
    coordinator = SignalCoordinator(reload_signals=[signal.SIGHUP])
    for _ in range(2):
        with coordinator:
            os.kill(os.getpid(), signal.SIGHUP)
            await coordinator.wait_for_reload()
    assert coordinator.received == {signal.SIGHUP: 2}


async def test_on_signal_is_called_in_the_loop_and_in_the_context_of_setup() -> None:
    where = contextvars.ContextVar("where", default="nowhere")
    where.set("setup")
    calls: list[Any] = []

    def on_signal(signum: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        calls.append((signum, count, loop is this, where.get()))

    this = asyncio.get_running_loop()
    with SignalCoordinator(
        on_signal=on_signal, reload_signals=[signal.SIGHUP]
    ) as coordinator:
        where.set("interrupted")
        os.kill(os.getpid(), signal.SIGHUP)
        assert not calls
        await coordinator.wait_for_reload()
    assert calls == [(signal.SIGHUP, 1, True, "setup")]


async def test_on_signal_that_raises_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    def on_signal(signum: int, count: int) -> None:
        raise ValueError("mine")

    with SignalCoordinator(on_signal=on_signal) as coordinator:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        await settle()
    assert [e["message"] for e in loop_errors] == ["on_signal failed for SIGTERM"]
    assert str(loop_errors[0]["exception"]) == "mine"


WAIT = """
    async def main():
        async with SignalCoordinator() as coordinator:
            print("ready")
            signum = await coordinator.wait_for_shutdown()
            print(signum and signal.Signals(signum).name, coordinator.phase)
        print("end")
    run(main())
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_of_an_idle_loop(start: Start, signum: int) -> None:
    with start(WAIT) as child:
        child.wait_for("ready")
        child.send_signal(signum)
        done = finish(child)
    name = signal.Signals(signum).name
    assert (done.returncode, done.stdout) == (0, f"ready\n{name} draining\nend\n")


def test_two_signals_at_once_shut_down_once(run: Run) -> None:
    done = run("""
        async def main():
            calls = []
            with SignalCoordinator(on_signal=lambda *call: calls.append(call)) as c:
                kill(signal.SIGTERM)
                kill(signal.SIGINT)
                first = await c.wait_for_shutdown()
                deadline = c.deadline
                kill(signal.SIGINT)
                await until(lambda: len(calls) == 3)
                print(first, c.phase, c.deadline == deadline)
                print(c.received == {15: 1, 2: 2}, calls[-1] == (2, 2))
        run(main())
    """)
    assert done.stdout == "15 draining True\nTrue True\n"


def test_the_deadline_counts_from_the_signal_not_from_its_delivery(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator(10) as c:
                assert c.deadline is None
                await asyncio.sleep(0)
                before = time.monotonic()
                kill(signal.SIGTERM)
                after = time.monotonic()
                time.sleep(0.5)
                await c.wait_for_shutdown()
                print(before - 0.25 < c.deadline - 10 < after + 0.25)
        run(main())
    """)
    assert done.stdout == "True\n"


def test_sigterm_after_a_storm_of_sighup_is_seen_by_a_blocked_loop(run: Run) -> None:
    done = run("""
        calls = []
        async def main():
            def on_signal(*call):
                calls.append(call)
            with SignalCoordinator(reload_signals=[1], on_signal=on_signal) as c:
                for _ in range(1000):
                    kill(signal.SIGHUP)
                kill(signal.SIGTERM)
                assert not c.shutdown_event.is_set()    # the loop has not run
                assert c.phase == "draining" and not c.ready
                await asyncio.wait_for(c.wait_for_shutdown(), 5)
                await asyncio.wait_for(c.wait_for_reload(), 5)
                print(c.received == {signal.SIGHUP: 1000, signal.SIGTERM: 1})
                print(calls == [(signal.SIGHUP, 1000), (signal.SIGTERM, 1)])
        run(main())
    """)
    assert done.stdout == "True\nTrue\n"


def test_a_storm_from_another_process_leaves_stderr_empty(start: Start) -> None:
    with start("""
        async def main():
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                print("ready")
                while c.ready:      # busy: the loop reads nothing
                    pass
                print(await c.wait_for_shutdown(), c.received[signal.SIGHUP] > 300)
        run(main())
    """) as child:
        child.wait_for("ready")
        for _ in range(3000):
            child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        done = finish(child)
    assert (done.returncode, done.stdout.split()[1]) == (0, "15")


def test_thread_pool_traffic_that_fills_the_self_pipe_hides_no_signal(
    run: Run,
) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            with SignalCoordinator() as c:
                def flood():
                    for _ in range(2000):
                        loop.call_soon_threadsafe(lambda: None)
                thread = threading.Thread(target=flood)
                thread.start()
                thread.join()
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
        run(main())
    """)
    assert done.stdout == "15\n"


def test_a_signal_between_two_runs_of_a_loop_is_delivered_at_the_start(
    run: Run,
) -> None:
    done = run("""
        loop = new_loop()
        c = SignalCoordinator()
        async def begin():
            c.setup_handlers()
        async def go_on():
            print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
            c.remove_handlers()
        loop.run_until_complete(begin())
        kill(signal.SIGTERM)
        loop.run_until_complete(go_on())
        loop.close()
    """)
    assert done.stdout == "15\n"


def test_a_signal_before_the_loop_runs_is_delivered_at_the_start(run: Run) -> None:
    done = run("""
        async def main():
            await asyncio.wait_for(c.shutdown_event.wait(), 5)
            print(await c.wait_for_shutdown(), c.reload_event.is_set())
            kill(signal.SIGHUP)     # the loop now wakes for it
            await asyncio.wait_for(c.wait_for_reload(), 5)
        with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
            kill(signal.SIGTERM)
            run(main())
        print(actions() == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL])
    """)
    assert done.stdout == "15 False\nTrue\n"


async def test_a_signal_just_before_removal_is_delivered_after_it() -> None:
    with SignalCoordinator() as coordinator:
        os.kill(os.getpid(), signal.SIGTERM)
    assert await coordinator.wait_for_shutdown() == signal.SIGTERM


def test_a_reload_is_consumed_and_two_during_it_give_one_more(run: Run) -> None:
    done = run("""
        async def main():
            reloads = 0
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                over = asyncio.Event()
                async def work():
                    nonlocal reloads
                    while True:
                        await c.wait_for_reload()
                        reloads += 1
                        await over.wait()
                task = asyncio.create_task(work())
                await asyncio.sleep(0)
                kill(signal.SIGHUP)
                await until(lambda: reloads == 1)
                kill(signal.SIGHUP)
                await asyncio.sleep(0.02)
                kill(signal.SIGHUP)
                await until(lambda: c.received[signal.SIGHUP] == 3)
                await asyncio.sleep(0.02)
                over.set()
                await until(lambda: reloads == 2)
                await asyncio.sleep(0.2)
                print(reloads, c.reload_event.is_set(), c.ready)
                task.cancel()
        run(main())
    """)
    assert done.stdout == "2 False True\n"


async def test_a_cancelled_wait_consumes_no_reload() -> None:
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        wait = asyncio.create_task(coordinator.wait_for_reload())
        await settle()
        wait.cancel()
        await asyncio.wait([wait])
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(5):
            await coordinator.wait_for_reload()
        assert not coordinator.reload_event.is_set()


async def test_request_shutdown_is_seen_at_once_in_the_loops_thread() -> None:
    coordinator = SignalCoordinator(5)
    assert not coordinator.shutdown_event.is_set()
    coordinator.request_shutdown("no more work")
    assert coordinator.shutdown_event.is_set()
    assert (coordinator.phase, coordinator.reason) == ("draining", "no more work")
    assert await coordinator.wait_for_shutdown() is None
    assert coordinator.deadline is not None


async def test_the_end_of_a_task_can_request_the_shutdown() -> None:
    async def feed() -> None:
        raise ConnectionError("refused")

    coordinator = SignalCoordinator()
    task = asyncio.create_task(feed(), name="feed")
    task.add_done_callback(coordinator.request_shutdown)
    assert await coordinator.wait_for_shutdown() is None
    assert coordinator.reason == str(task)
    assert "name='feed'" in coordinator.reason
    assert "ConnectionError('refused')" in coordinator.reason
    with pytest.raises(ConnectionError):
        await task


def at_once(call: Callable[[], object]) -> None:
    call()


def in_a_thread(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


class Unspeakable:
    def __str__(self) -> str:
        raise LookupError("no words")


@pytest.mark.parametrize("somewhere", [at_once, in_a_thread])
async def test_a_reason_that_is_no_text_becomes_one(somewhere: Any) -> None:
    for reason, text in ((5, "5"), (Unspeakable(), "Unspeakable object at"), (0, "0")):
        coordinator = SignalCoordinator()
        somewhere(functools.partial(coordinator.request_shutdown, reason))
        assert coordinator.phase == "draining"
        assert text in str(coordinator.reason)
        assert type(coordinator.reason) is str
        assert await coordinator.wait_for_shutdown() is None
        assert text in str(coordinator.reason)


async def test_request_shutdown_from_a_thread_wakes_the_loop() -> None:
    coordinator = SignalCoordinator()
    thread = threading.Timer(0.05, coordinator.request_shutdown)
    thread.start()
    async with asyncio.timeout(5):
        assert await coordinator.wait_for_shutdown() is None
    thread.join()


async def test_a_request_before_a_loop_is_bound_is_seen_later() -> None:
    coordinator = SignalCoordinator()
    thread = threading.Thread(target=coordinator.request_shutdown, args=["early"])
    thread.start()
    thread.join()
    assert coordinator.phase == "draining"
    assert await coordinator.wait_for_shutdown() is None
    assert coordinator.shutdown_event.is_set()


async def test_the_first_cause_stays() -> None:
    with SignalCoordinator() as coordinator:
        coordinator.request_shutdown("first")
        deadline = coordinator.deadline
        coordinator.request_shutdown("second")
        os.kill(os.getpid(), signal.SIGTERM)
        await settle()
        assert await coordinator.wait_for_shutdown() is None
        assert (coordinator.reason, coordinator.deadline) == ("first", deadline)


def test_another_open_loop_is_refused_and_a_later_one_is_not() -> None:
    coordinator = SignalCoordinator()
    first, second = asyncio.SelectorEventLoop(), asyncio.SelectorEventLoop()
    try:

        async def use() -> None:
            assert not coordinator.shutdown_event.is_set()

        async def begin() -> None:
            coordinator.request_shutdown()

        first.run_until_complete(use())
        with pytest.raises(RuntimeError, match=r"belongs to .* make one for each loop"):
            second.run_until_complete(coordinator.wait_for_shutdown())
        first.run_until_complete(begin())
        first.close()
        assert second.run_until_complete(coordinator.wait_for_shutdown()) is None
    finally:
        first.close()
        second.close()
