"""SignalCoordinator inside one process: its events, its words, what it refuses."""

import asyncio
import contextvars
import gc
import inspect
import math
import os
import signal
import sys
import threading
import weakref
from typing import Any

import pytest

from pyasynclife import (
    PyAsyncLifeError,
    SignalCoordinator,
    SignalSetupError,
    TaskRegistry,
)
from pyasynclife._core import SignalHandler
from support.coroutines import forever
from support.loops import settle

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def actions() -> list[Any]:
    return [signal.getsignal(signum) for signum in SIGNALS]


# --------------------------------------------------------------- making one


def test_constructing_needs_no_loop_and_touches_no_signal() -> None:
    before = actions()
    coordinator = SignalCoordinator()
    assert before == actions()
    assert ("running", True, None, {}) == (
        coordinator.phase,
        coordinator.ready,
        coordinator.deadline,
        coordinator.received,
    )


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
        ({"reload_signals": [1.0]}, TypeError, "1.0"),
        ({"shutdown_signals": [1], "reload_signals": [1]}, ValueError, "SIGHUP"),
        ({"on_signal": 3}, TypeError, "3"),
        ({"registry": object()}, TypeError, "registry"),
        ({"drain": 1.0}, TypeError, "drain"),
        ({"force_exit": True}, TypeError, "force_exit"),
    ],
)
def test_bad_options_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        SignalCoordinator(**options)


def test_a_coroutine_function_is_no_on_signal() -> None:
    async def on_signal(signum: int, count: int) -> None: ...

    with pytest.raises(TypeError, match="plain function"):
        SignalCoordinator(on_signal=on_signal)


def test_a_shutdown_signal_is_no_longer_a_reload_signal_by_default() -> None:
    coordinator = SignalCoordinator(shutdown_signals=[signal.SIGHUP])
    assert {signal.SIGHUP} == coordinator._shutdown_signals
    assert not coordinator._reload_signals


def test_signature_is_the_contract() -> None:
    assert (
        "shutdown_timeout",
        "shutdown_signals",
        "reload_signals",
        "take_ignored",
        "registry",
        "on_signal",
    ) == tuple(inspect.signature(SignalCoordinator).parameters)


# ------------------------------------------------------------------ signals


async def test_a_signal_sets_the_event_and_nothing_is_cancelled() -> None:
    with SignalCoordinator(7) as coordinator:
        before = asyncio.get_running_loop().time()
        os.kill(os.getpid(), signal.SIGTERM)
        assert ("draining", False) == (coordinator.phase, coordinator.ready)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        assert coordinator.shutdown_event.is_set()
        assert coordinator.deadline == pytest.approx(before + 7, abs=0.1)
        assert {signal.SIGTERM: 1} == coordinator.received
        assert len(asyncio.all_tasks()) == 1


async def test_received_outlives_the_handlers() -> None:
    coordinator = SignalCoordinator()
    for _ in range(2):
        with coordinator:
            os.kill(os.getpid(), signal.SIGHUP)
            await coordinator.wait_for_reload()
    assert {signal.SIGHUP: 2} == coordinator.received


async def test_a_signal_just_before_removal_is_told_after_it() -> None:
    with SignalCoordinator() as coordinator:
        os.kill(os.getpid(), signal.SIGTERM)
    assert await coordinator.wait_for_shutdown() == signal.SIGTERM


async def test_on_signal_is_called_in_the_loop_and_in_the_context_of_setup() -> None:
    where = contextvars.ContextVar("where", default="nowhere")
    where.set("setup")
    calls: list[Any] = []

    def on_signal(signum: int, count: int) -> None:
        loop = asyncio.get_running_loop()
        calls.append((signum, count, loop is this, where.get()))

    this = asyncio.get_running_loop()
    with SignalCoordinator(on_signal=on_signal) as coordinator:
        where.set("interrupted")
        os.kill(os.getpid(), signal.SIGHUP)
        assert not calls
        await coordinator.wait_for_reload()
    assert [(signal.SIGHUP, 1, True, "setup")] == calls


async def test_on_signal_that_raises_goes_to_the_loops_exception_handler(
    loop_errors: list[dict[str, Any]],
) -> None:
    def on_signal(signum: int, count: int) -> None:
        raise ValueError("mine")

    with SignalCoordinator(on_signal=on_signal) as coordinator:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
        await settle()
    assert ["on_signal failed for SIGTERM"] == [e["message"] for e in loop_errors]
    assert "mine" == str(loop_errors[0]["exception"])


async def test_setup_and_removal_twice_have_no_effect() -> None:
    before = actions()
    coordinator = SignalCoordinator()
    coordinator.remove_handlers()
    coordinator.setup_handlers()
    ours = actions()
    coordinator.setup_handlers()
    assert ours == actions()
    coordinator.remove_handlers()
    coordinator.remove_handlers()
    assert before == actions()


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP, 0, -1, 32, 1000])
async def test_an_impossible_signal_is_one_error_and_installs_nothing(
    signum: int,
) -> None:
    before = actions()
    coordinator = SignalCoordinator(shutdown_signals=[signal.SIGTERM, signum])
    with pytest.raises(SignalSetupError) as caught:
        coordinator.setup_handlers()
    assert isinstance(caught.value, PyAsyncLifeError)
    assert isinstance(caught.value, RuntimeError)
    assert any(
        word in str(caught.value) for word in ("SIGKILL", "SIGSTOP", str(signum))
    )
    assert before == actions()


async def test_setup_that_fails_in_the_middle_leaves_nothing() -> None:
    loop, before = asyncio.get_running_loop(), actions()
    # SIGRTMAX is set last, and something else fails there.
    coordinator = SignalCoordinator(reload_signals=[signal.SIGRTMAX])
    real = signal.siginterrupt

    def failing(signum: int, flag: bool) -> None:
        if signum == signal.SIGRTMAX:
            raise OSError("no more")
        real(signum, flag)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "siginterrupt", failing)
        with pytest.raises(SignalSetupError, match="SIGRTMAX"):
            coordinator.setup_handlers()
    assert before == actions()
    assert signal.getsignal(signal.SIGRTMAX) == signal.SIG_DFL
    assert not loop.remove_signal_handler(signal.SIGTERM)
    coordinator.setup_handlers()  # and it works when it can
    coordinator.remove_handlers()
    assert before == actions()


async def test_off_the_main_thread_setup_is_refused_with_a_remedy() -> None:
    coordinator = SignalCoordinator()
    with pytest.raises(SignalSetupError, match=r"thread.*request_shutdown\(\)"):
        await asyncio.to_thread(coordinator.setup_handlers)
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_the_coordinator_is_freed_once_removed() -> None:
    coordinator = SignalCoordinator()
    with coordinator:
        os.kill(os.getpid(), signal.SIGHUP)
        await coordinator.wait_for_reload()
    await settle(8)
    gone = weakref.ref(coordinator)
    del coordinator
    gc.collect()
    assert gone() is None


# ----------------------------------------------------------------- requests


async def test_request_shutdown_is_seen_at_once_in_the_loops_thread() -> None:
    coordinator = SignalCoordinator(5)
    assert not coordinator.shutdown_event.is_set()
    coordinator.request_shutdown("no more work")
    assert coordinator.shutdown_event.is_set()
    assert ("draining", "no more work") == (coordinator.phase, coordinator.reason)
    assert await coordinator.wait_for_shutdown() is None
    assert coordinator.deadline is not None


async def test_request_shutdown_from_a_thread_wakes_the_loop() -> None:
    coordinator = SignalCoordinator()
    thread = threading.Timer(0.05, coordinator.request_shutdown)
    thread.start()
    async with asyncio.timeout(5):
        assert await coordinator.wait_for_shutdown() is None
    thread.join()


async def test_request_before_a_loop_is_bound_is_seen_later() -> None:
    coordinator = SignalCoordinator()
    thread = threading.Thread(target=coordinator.request_shutdown, args=["early"])
    thread.start()
    thread.join()
    assert "draining" == coordinator.phase
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
        assert ("first", deadline) == (coordinator.reason, coordinator.deadline)


async def test_a_cancelled_wait_consumes_no_reload() -> None:
    with SignalCoordinator() as coordinator:
        wait = asyncio.create_task(coordinator.wait_for_reload())
        await settle()
        wait.cancel()
        await asyncio.wait([wait])
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(5):
            await coordinator.wait_for_reload()
        assert not coordinator.reload_event.is_set()


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


# ---------------------------------------------------------- graceful_shutdown


async def stubborn(until: asyncio.Event) -> str:
    """Swallow every cancellation until the event is set."""
    while not until.is_set():
        try:
            await until.wait()
        except asyncio.CancelledError:
            pass
    return "at last"


def start(*coros: Any) -> list[asyncio.Task[Any]]:
    return [asyncio.create_task(coro) for coro in coros]


def names(exits: list[Any]) -> set[str]:
    return {one.name for one in exits}


async def test_all_are_cancelled_at_once_and_reported() -> None:
    async def failing() -> None:
        try:
            await forever()
        finally:
            raise ValueError("at the end")

    async def once() -> int:
        try:
            await forever()
        except asyncio.CancelledError:
            return 3
        return 4

    async def done() -> int:
        return 5

    coordinator = SignalCoordinator(5)
    tasks = start(forever(), failing(), once(), done())
    await settle()
    assert ("running", None) == (coordinator.phase, coordinator.deadline)
    report = await coordinator.graceful_shutdown([*tasks, *tasks])
    assert ("stopped", False) == (coordinator.phase, coordinator.ready)
    assert coordinator.shutdown_event.is_set()
    got = [report.cancelled, report.failed, report.swallowed, report.finished]
    assert [{task.get_name()} for task in tasks] == [names(exits) for exits in got]
    assert not report.stuck
    assert (False, True) == (report.ok, report.deadline_met)
    assert report.duration < 1


async def test_a_stubborn_task_does_not_move_the_deadline() -> None:
    loop, until = asyncio.get_running_loop(), asyncio.Event()
    coordinator = SignalCoordinator(30)
    tasks = start(*(stubborn(until) for _ in range(3)), *(forever() for _ in range(7)))
    await settle()
    before = loop.time()
    report = await coordinator.graceful_shutdown(tasks, timeout=0.1)
    assert 0.09 <= loop.time() - before < 0.5
    assert (7, 3) == (len(report.cancelled), len(report.stuck))
    assert (False, False) == (report.ok, report.deadline_met)
    assert all("stubborn" in " ".join(one.where) for one in report.stuck)
    assert coordinator.phase == "stopped"
    until.set()
    await asyncio.wait(tasks)


async def test_after_a_signal_the_deadline_is_the_signals() -> None:
    loop, until = asyncio.get_running_loop(), asyncio.Event()
    with SignalCoordinator(0.3) as coordinator:
        tasks = start(stubborn(until))
        await settle()
        os.kill(os.getpid(), signal.SIGTERM)
        await coordinator.wait_for_shutdown()
        await asyncio.sleep(0.1)
        assert not tasks[0].cancelling()  # nothing is cancelled by itself
        report = await coordinator.graceful_shutdown(tasks)
        assert coordinator.deadline == pytest.approx(loop.time(), abs=0.1)
        assert (1, "stopped") == (len(report.stuck), coordinator.phase)
    until.set()
    await asyncio.wait(tasks)


async def test_a_deadline_that_has_passed_leaves_obedient_tasks_their_turns() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator(0)
    coordinator.request_shutdown()
    await asyncio.sleep(0.01)
    tasks = start(stubborn(until), *(forever() for _ in range(100)))
    await settle()
    report = await coordinator.graceful_shutdown(tasks)
    assert (1, 100) == (len(report.stuck), len(report.cancelled))
    until.set()
    await asyncio.wait(tasks)


async def test_a_second_call_without_a_signal_has_its_own_time() -> None:
    coordinator, until = SignalCoordinator(0.2), asyncio.Event()
    for _ in range(2):
        before = asyncio.get_running_loop().time()
        tasks = start(stubborn(until))
        await settle()
        report = await coordinator.graceful_shutdown(tasks)
        assert len(report.stuck) == 1
        assert asyncio.get_running_loop().time() - before > 0.19
        until.set()
        await asyncio.wait(tasks)
        until.clear()


async def test_without_a_limit_it_waits_as_long_as_it_takes() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator(0.01)
    tasks = start(stubborn(until))
    await settle()
    asyncio.get_running_loop().call_later(0.1, until.set)
    report = await coordinator.graceful_shutdown(tasks, timeout=math.inf)
    assert (1, True) == (len(report.swallowed), report.ok)


async def test_the_calling_task_is_spared() -> None:
    coordinator = SignalCoordinator()
    me = asyncio.current_task()
    assert me is not None
    report = await coordinator.graceful_shutdown([me, *start(forever())])
    assert (0, 1, 0) == (me.cancelling(), len(report.cancelled), len(report.stuck))


@pytest.mark.parametrize("count", [0, 1, 100_000])
async def test_none_one_and_a_hundred_thousand(count: int) -> None:
    coordinator = SignalCoordinator()
    tasks = start(*(forever() for _ in range(count)))
    await settle()
    report = await coordinator.graceful_shutdown(iter(tasks))
    assert (count, True) == (len(report.cancelled), report.ok)


async def test_what_is_no_task_of_this_loop_is_refused_before_anything_is_done() -> (
    None
):
    coordinator = SignalCoordinator()
    tasks = start(forever())
    await settle()
    coro = forever()
    other = asyncio.SelectorEventLoop()
    foreign = other.create_task(forever())
    future = asyncio.get_running_loop().create_future()
    for bad, error in (
        (coro, TypeError),
        (future, TypeError),
        ("task", TypeError),
        (foreign, RuntimeError),
    ):
        with pytest.raises(error) as caught:
            await coordinator.graceful_shutdown([*tasks, bad])
        assert repr(bad) in str(caught.value)
    for bad in (tasks[0], 3, None):
        if bad is None:
            with pytest.raises(ValueError, match="registry="):
                await coordinator.graceful_shutdown(bad)
        else:
            with pytest.raises(TypeError, match="list"):
                await coordinator.graceful_shutdown(bad)  # type: ignore[arg-type]
    for timeout, error in ((-1, ValueError), (math.nan, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout"):
            await coordinator.graceful_shutdown(tasks, timeout=timeout)  # type: ignore[arg-type]
    assert ("running", 0) == (coordinator.phase, tasks[0].cancelling())
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    foreign.cancel()
    tasks[0].cancel()
    await asyncio.wait(tasks)
    _run_to_the_end(other, foreign)


def _run_to_the_end(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
    def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


async def test_its_caller_cancelled_gets_that_very_error_and_tasks_stay_told() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator()
    tasks = start(stubborn(until), forever())
    await settle()
    caught: list[BaseException] = []

    async def call() -> None:
        try:
            await coordinator.graceful_shutdown(tasks)
        except asyncio.CancelledError as error:
            caught.append(error)
            raise

    caller = asyncio.create_task(call())
    await settle()
    caller.cancel("enough")
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert ["enough"] == [error.args[0] for error in caught]
    assert (1, True) == (tasks[0].cancelling(), tasks[1].cancelled())
    assert coordinator.phase == "cancelling"
    until.set()
    report = await coordinator.graceful_shutdown(tasks)  # and again is no harm
    assert report.deadline_met
    assert coordinator.phase == "stopped"


async def test_called_twice_at_once_nothing_is_cancelled_twice() -> None:
    until = asyncio.Event()
    coordinator = SignalCoordinator()
    tasks = start(stubborn(until), forever())
    await settle()
    calls = start(
        coordinator.graceful_shutdown(tasks), coordinator.graceful_shutdown(tasks)
    )
    await settle()
    assert (1, "cancelling") == (tasks[0].cancelling(), coordinator.phase)
    until.set()
    first, second = await asyncio.gather(*calls)
    assert first is not second
    for report in (first, second):
        assert (1, 1) == (len(report.swallowed), len(report.cancelled))
    assert coordinator.phase == "stopped"


async def test_the_registrys_tasks_are_meant_when_none_are_passed() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry)
    other = start(forever())
    for name in ("a", "b"):
        registry.register(forever(), name)
    await settle()
    report = await coordinator.graceful_shutdown()
    assert {"a", "b"} == {one.task_id for one in report.cancelled}
    assert not other[0].cancelling()
    other[0].cancel()
    await asyncio.wait(other)


async def test_tasks_that_are_passed_are_named_as_the_registry_knows_them() -> None:
    registry = TaskRegistry()
    coordinator = SignalCoordinator(registry=registry)
    task, _ = registry.register(forever(), "feed").result()
    await settle()
    report = await coordinator.graceful_shutdown([task])
    assert ["feed"] == [one.task_id for one in report.cancelled]
    assert report.cancelled[0].age is not None


async def test_leaving_the_block_ends_the_registry_and_puts_all_back() -> None:
    before = actions()
    registry = TaskRegistry()
    with pytest.raises(LookupError):
        async with SignalCoordinator(registry=registry) as coordinator:
            registry.register(forever(), "a")
            await settle()
            raise LookupError("in the block")
    assert ("stopped", 0, before) == (coordinator.phase, len(registry), actions())


async def test_a_block_that_leaves_a_task_stuck_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    until, registry = asyncio.Event(), TaskRegistry()
    async with SignalCoordinator(0.05, registry=registry):
        task, _ = registry.register(stubborn(until), "mule").result()
        await settle()
    assert "stuck: mule" in caplog.text
    until.set()
    await asyncio.wait([task])


async def test_a_block_without_registry_cancels_nothing() -> None:
    tasks = start(forever())
    async with SignalCoordinator() as coordinator:
        await settle()
    assert ("running", 0) == (coordinator.phase, tasks[0].cancelling())
    tasks[0].cancel()
    await asyncio.wait(tasks)


# ------------------------------------------------------- the native handler


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
    assert ([1], 3) == (pokes, handler.take())
    assert handler.take() == 0
    handler(signal.SIGUSR1, None)
    assert ([1, 1], 4) == (pokes, handler.count)


def test_a_poke_that_fails_is_tried_again_and_raises_nothing() -> None:
    pokes: list[int] = []

    def poke() -> bool:
        pokes.append(1)
        raise RecursionError("deep down")

    handler = SignalHandler(signal.SIGUSR1, None, poke)
    handler.arm(False)
    handler(signal.SIGUSR1, None)
    handler(signal.SIGUSR1, None)
    assert ([1, 1], 2) == (pokes, handler.take())


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


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
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
