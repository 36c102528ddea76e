"""Signals for real: child processes that are sent them, and hosts that had them first.

A child prints "ready" and is then signalled from here; what it prints, how it ends and
that it says nothing on stderr is what a user sees.
"""

import importlib.util
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from support.children import Child, run_child, start_child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

PREAMBLE = """
import asyncio, functools, gc, os, signal, sys, threading, time
from pyasynclife import SignalCoordinator, SignalSetupError

def new_loop():
    if os.environ["LOOP"] == "uvloop":
        import uvloop
        return uvloop.new_event_loop()
    return asyncio.SelectorEventLoop()

def run(coro):
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(coro)

def kill(signum):
    os.kill(os.getpid(), signum)

def actions():
    return [signal.getsignal(s) for s in (1, 2, 15)]

async def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
"""

Run = Callable[[str], subprocess.CompletedProcess[str]]
Start = Callable[[str], AbstractContextManager[Child]]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_name(request: pytest.FixtureRequest) -> str:
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    return str(request.param)


def _program(source: str) -> list[str]:
    return ["-c", PREAMBLE + textwrap.dedent(source)]


@pytest.fixture
def run(loop_name: str) -> Run:
    """Run a program to its end; it must not write to stderr."""

    def run(source: str) -> subprocess.CompletedProcess[str]:
        done = run_child(_program(source), env={"LOOP": loop_name})
        assert done.stderr == ""
        return done

    return run


@pytest.fixture
def start(loop_name: str) -> Start:
    return lambda source: start_child(_program(source), env={"LOOP": loop_name})


def finish(child: Child) -> subprocess.CompletedProcess[str]:
    done = child.finish()
    assert done.stderr == ""
    return done


WAIT = """
    async def main():
        async with SignalCoordinator() as coordinator:
            print("ready")
            signum = await coordinator.wait_for_shutdown()
            print(signum and signal.Signals(signum).name, coordinator.phase)
        print("end")
    run(main())
"""

# ------------------------------------------------------------- never lost


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_of_an_idle_loop(start: Start, signum: int) -> None:
    with start(WAIT) as child:
        child.wait_for("ready")
        child.send_signal(signum)
        done = finish(child)
    name = signal.Signals(signum).name
    assert (0, f"ready\n{name} draining\nend\n") == (done.returncode, done.stdout)


def test_sigterm_after_a_storm_of_sighup_is_seen_by_a_blocked_loop(run: Run) -> None:
    done = run("""
        calls = []
        async def main():
            with SignalCoordinator(on_signal=lambda *call: calls.append(call)) as c:
                for _ in range(1000):
                    kill(signal.SIGHUP)
                kill(signal.SIGTERM)
                assert not c.shutdown_event.is_set()    # the loop had no turn
                assert c.phase == "draining" and not c.ready
                await asyncio.wait_for(c.wait_for_shutdown(), 5)
                await asyncio.wait_for(c.wait_for_reload(), 5)
                print(c.received == {signal.SIGHUP: 1000, signal.SIGTERM: 1})
                print(calls == [(signal.SIGHUP, 1000), (signal.SIGTERM, 1)])
        run(main())
    """)
    assert "True\nTrue\n" == done.stdout


def test_a_storm_from_another_process_leaves_stderr_empty(start: Start) -> None:
    with start("""
        async def main():
            with SignalCoordinator() as c:
                print("ready")
                while c.ready:      # busy: the loop takes nothing
                    pass
                print(await c.wait_for_shutdown(), c.received[signal.SIGHUP] > 300)
        run(main())
    """) as child:
        child.wait_for("ready")
        for _ in range(3000):
            child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        done = finish(child)
    assert (0, "15") == (done.returncode, done.stdout.split()[1])


def test_a_signal_in_the_middle_of_setup_is_told_to_us_and_to_the_host(
    run: Run,
) -> None:
    done = run("""
        from pyasynclife import _signals
        lay_over = _signals._lay_over
        def signalled_before(handler):
            if handler.signum == signal.SIGTERM:    # as if another thread took it
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                kill(signal.SIGTERM)
            lay_over(handler)
        _signals._lay_over = signalled_before
        async def main():
            told = []
            signal.signal(signal.SIGTERM, lambda *args: told.append(args))
            with SignalCoordinator() as c:
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5), told)
                print(c.received[signal.SIGTERM])
        run(main())
    """)
    assert "15 [(15, None)]\n1\n" == done.stdout


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
    assert "15\n" == done.stdout


def test_signal_between_two_runs_of_a_loop_is_told_at_the_start(run: Run) -> None:
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
    assert "15\n" == done.stdout


def test_signal_before_the_loop_runs_is_told_at_the_start(run: Run) -> None:
    done = run("""
        async def main():
            await asyncio.wait_for(c.shutdown_event.wait(), 5)
            print(await c.wait_for_shutdown(), c.reload_event.is_set())
            kill(signal.SIGHUP)     # and now the loop is woken for it
            await asyncio.wait_for(c.wait_for_reload(), 5)
        with SignalCoordinator() as c:
            kill(signal.SIGTERM)
            run(main())
        print(actions() == [signal.SIG_DFL, signal.default_int_handler, signal.SIG_DFL])
    """)
    assert "15 False\nTrue\n" == done.stdout


def test_handlers_set_before_the_loop_wake_an_idle_loop(start: Start) -> None:
    with start("""
        c = SignalCoordinator()
        async def main():
            print("ready")
            print(await c.wait_for_shutdown())
        with c:
            run(main())
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        assert "ready\n15\n" == finish(child).stdout


def test_a_host_that_displaces_us_by_signal_signal_is_heard_past(run: Run) -> None:
    done = run("""
        async def main():
            told = []
            with SignalCoordinator() as c:
                theirs = lambda signum, frame: told.append(signum)
                signal.signal(signal.SIGTERM, theirs)
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5), told)
                print(c.received[signal.SIGTERM])
            print(signal.getsignal(signal.SIGTERM) is theirs)
            kill(signal.SIGTERM)
            print(told)
        run(main())
    """)
    assert "15 [15]\n1\nTrue\n[15, 15]\n" == done.stdout


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
    assert "15 draining True\nTrue True\n" == done.stdout


def test_the_deadline_counts_from_the_signal_not_from_its_telling(run: Run) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            with SignalCoordinator(10) as c:
                assert c.deadline is None
                await asyncio.sleep(0)
                before = loop.time()
                kill(signal.SIGTERM)
                time.sleep(0.09)
                await c.wait_for_shutdown()
                print(abs(c.deadline - before - 10) < 0.05)
        run(main())
    """)
    assert "True\n" == done.stdout


def test_a_reload_is_consumed_and_two_during_it_give_one_more(run: Run) -> None:
    done = run("""
        async def main():
            reloads = 0
            with SignalCoordinator() as c:
                async def work():
                    nonlocal reloads
                    while True:
                        await c.wait_for_reload()
                        reloads += 1
                        await asyncio.sleep(0.1)
                task = asyncio.create_task(work())
                await asyncio.sleep(0)
                kill(signal.SIGHUP)
                await until(lambda: reloads == 1)
                kill(signal.SIGHUP)
                await asyncio.sleep(0.02)
                kill(signal.SIGHUP)
                await until(lambda: reloads == 2)
                await asyncio.sleep(0.3)
                print(reloads, c.reload_event.is_set(), c.ready)
                task.cancel()
        run(main())
    """)
    assert "2 False True\n" == done.stdout


def test_a_signal_in_the_middle_of_our_own_handler_is_counted(run: Run) -> None:
    done = run("""
        async def main():
            depth = 0
            def host(signum, frame):
                nonlocal depth
                if depth < 5:
                    depth += 1
                    kill(signum)
            signal.signal(signal.SIGTERM, host)
            with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                await c.wait_for_shutdown()
                print(depth, c.received[signal.SIGTERM])
        run(main())
    """)
    assert "5 6\n" == done.stdout


# --------------------------------------------------------- never made deaf


def test_the_runners_ctrl_c_and_all_else_is_put_back(run: Run) -> None:
    done = run("""
        async def main():
            before = actions()
            assert isinstance(before[1], functools.partial)
            c = SignalCoordinator()
            c.setup_handlers()
            c.setup_handlers()
            assert actions() != before
            kill(signal.SIGINT)
            await c.wait_for_shutdown()
            c.remove_handlers()
            c.remove_handlers()
            print(actions() == before)
            try:
                kill(signal.SIGINT)
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                print("cancelled by the Runner")
                raise
        try:
            run(main())
        except KeyboardInterrupt:
            print("KeyboardInterrupt")
    """)
    assert "True\ncancelled by the Runner\nKeyboardInterrupt\n" == done.stdout


def test_what_was_found_ignored_stays_so_unless_asked_for(run: Run) -> None:
    done = run("""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        async def main():
            with SignalCoordinator() as c:
                kill(signal.SIGHUP)
                await asyncio.sleep(0.02)
                print(c.received, signal.getsignal(signal.SIGHUP).name)
            with SignalCoordinator(take_ignored=True) as c:
                kill(signal.SIGHUP)
                await asyncio.wait_for(c.wait_for_reload(), 5)
            print(signal.getsignal(signal.SIGHUP).name)
            kill(signal.SIGHUP)
            print("alive")
        run(main())
    """)
    assert "Counter() SIG_IGN\nSIG_IGN\nalive\n" == done.stdout


def test_a_python_handler_is_called_after_ours_and_comes_back(run: Run) -> None:
    done = run("""
        seen = []
        def host(signum, frame):
            seen.append(signum)
        async def main():
            signal.signal(signal.SIGTERM, host)
            with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                assert seen == [15]
                await c.wait_for_shutdown()
            print(signal.getsignal(signal.SIGTERM) is host)
        run(main())
    """)
    assert "True\n" == done.stdout


def test_a_host_that_exits_from_its_handler_still_can(run: Run) -> None:
    done = run("""
        async def main():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
            with SignalCoordinator() as c:
                try:
                    kill(signal.SIGTERM)
                    await asyncio.sleep(5)
                finally:
                    print(c.received[signal.SIGTERM])
        run(main())
    """)
    assert (7, "1\n") == (done.returncode, done.stdout)


def test_ctrl_c_raises_nothing_and_cancels_nothing_under_us(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator() as c:
                kill(signal.SIGINT)
                await asyncio.sleep(0.05)
                print(c.shutdown_event.is_set(), asyncio.current_task().cancelling())
        run(main())
    """)
    assert "True 0\n" == done.stdout


def test_the_loops_own_handler_is_covered_not_replaced(run: Run) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            host = asyncio.Event()
            loop.add_signal_handler(signal.SIGTERM, host.set)
            before = actions()
            with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                await asyncio.wait_for(host.wait(), 5)
                await asyncio.wait_for(c.wait_for_shutdown(), 5)
            print(actions() == before)
            host.clear()
            kill(signal.SIGTERM)
            await asyncio.wait_for(host.wait(), 5)
            print(loop.remove_signal_handler(signal.SIGTERM))
        run(main())
    """)
    assert "True\nTrue\n" == done.stdout


def test_other_handlers_of_the_loop_lose_nothing(run: Run) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            for when in "before", "within":
                got = asyncio.Event()
                if when == "before":
                    loop.add_signal_handler(signal.SIGUSR1, got.set)
                with SignalCoordinator() as c:
                    if when == "within":
                        loop.add_signal_handler(signal.SIGUSR1, got.set)
                    kill(signal.SIGUSR1)
                    await asyncio.wait_for(got.wait(), 5)
                    if when == "within":
                        loop.remove_signal_handler(signal.SIGUSR1)
                        kill(signal.SIGTERM)
                        await asyncio.wait_for(c.wait_for_shutdown(), 5)
                if when == "before":
                    got.clear()
                    kill(signal.SIGUSR1)
                    await asyncio.wait_for(got.wait(), 5)
                    loop.remove_signal_handler(signal.SIGUSR1)
            print("heard")
        run(main())
    """)
    assert "heard\n" == done.stdout


@pytest.mark.parametrize("order", ["inner first", "outer first"])
def test_two_coordinators_are_removed_in_either_order(run: Run, order: str) -> None:
    done = run(f"""
        async def main():
            before = actions()
            outer, inner = SignalCoordinator(), SignalCoordinator()
            outer.setup_handlers()
            inner.setup_handlers()
            kill(signal.SIGTERM)
            await asyncio.wait_for(inner.wait_for_shutdown(), 5)
            await asyncio.wait_for(outer.wait_for_shutdown(), 5)
            first, last = inner, outer
            if {order == "outer first"}:
                first, last = outer, inner
            first.remove_handlers()
            kill(signal.SIGHUP)
            await asyncio.wait_for(last.wait_for_reload(), 5)
            print(first.received[1], last.received[1])
            last.remove_handlers()
            print(actions() == before)
        run(main())
    """)
    assert "0 1\nTrue\n" == done.stdout


def test_a_handler_brought_back_after_removal_is_as_if_not_there(run: Run) -> None:
    done = run("""
        async def main():
            c = SignalCoordinator()
            c.setup_handlers()
            ours = signal.signal(signal.SIGTERM, lambda *_: None)   # as uvicorn does
            c.remove_handlers()
            signal.signal(signal.SIGTERM, ours)
            kill(signal.SIGTERM)
            await asyncio.sleep(5)
        run(main())
    """)
    assert -signal.SIGTERM == done.returncode


def test_a_forgotten_coordinator_does_not_make_the_process_deaf(run: Run) -> None:
    done = run("""
        async def main():
            SignalCoordinator().setup_handlers()
        run(main())
        kill(signal.SIGTERM)
        time.sleep(5)
    """)
    assert -signal.SIGTERM == done.returncode


@pytest.mark.parametrize("closed", [False, True])
def test_what_was_there_comes_back_though_the_loop_has_stopped(
    run: Run, closed: bool
) -> None:
    done = run(f"""
        def host(*_): print("host")
        signal.signal(signal.SIGTERM, host)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        loop = new_loop()
        c = SignalCoordinator(take_ignored=True)
        before = actions()
        async def begin():
            c.setup_handlers()
        loop.run_until_complete(begin())
        if {closed}:
            loop.close()
        c.remove_handlers()
        print(actions() == before)
        kill(signal.SIGTERM)
        loop.close()
    """)
    assert "True\nhost\n" == done.stdout


def test_restart_of_interrupted_calls_is_as_it_was(run: Run) -> None:
    done = run("""
        import ctypes
        class Action(ctypes.Structure):
            _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16),
                        ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
        libc = ctypes.CDLL(None)
        def restarts(signum):
            action = Action()
            libc.sigaction(signum, None, ctypes.byref(action))
            return bool(action.flags & 0x10000000)
        async def main():
            signal.signal(signal.SIGTERM, lambda *_: None)
            signal.signal(signal.SIGHUP, lambda *_: None)
            signal.siginterrupt(signal.SIGHUP, False)
            with SignalCoordinator():
                print([restarts(s) for s in (1, 2, 15)])
            print([restarts(s) for s in (1, 15)])
        run(main())
    """)
    assert "[True, True, True]\n[True, False]\n" == done.stdout


def test_a_handler_set_by_c_code_is_called_and_comes_back(run: Run) -> None:
    done = run("""
        import ctypes
        libc = ctypes.CDLL(None)
        called = []
        native = ctypes.CFUNCTYPE(None, ctypes.c_int)(called.append)
        libc.signal.restype = ctypes.c_void_p
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal(15, ctypes.cast(native, ctypes.c_void_p))
        async def main():
            with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                print(await c.wait_for_shutdown(), called)
            libc.raise_ = libc["raise"]
            libc.raise_(15)
            print(called)
        run(main())
    """)
    assert "15 [15]\n[15, 15]\n" == done.stdout


# -------------------------------------------------------- where it cannot work


def test_half_a_setup_leaves_nothing_installed(run: Run) -> None:
    done = run("""
        async def main():
            loop, before = asyncio.get_running_loop(), actions()
            add = loop.add_signal_handler
            class Refusing(SignalCoordinator):
                pass
            for signals in ([15, signal.SIGKILL], [15, signal.SIGSTOP], [15, 99],
                            [15, 0], [15, -1], [15, 32]):
                try:
                    SignalCoordinator(shutdown_signals=signals).setup_handlers()
                except SignalSetupError as error:
                    print(error)
                assert actions() == before
            try:
                SignalCoordinator(shutdown_signals=[15, 17]).setup_handlers()
            except SignalSetupError as error:
                assert os.environ["LOOP"] == "uvloop"
                assert "SIGCHLD" in str(error), error
            else:
                assert os.environ["LOOP"] == "asyncio"
                return
            assert actions() == before
        run(main())
    """)
    kill, stop, big, zero, negative, reserved = done.stdout.splitlines()
    assert "SIGKILL cannot be handled; leave it out" == kill
    assert "SIGSTOP" in stop
    assert "there is no signal 99; leave it out" == big
    assert all("no signal" in text for text in (zero, negative, reserved))


def test_off_the_main_thread_it_says_so_and_a_request_works(run: Run) -> None:
    done = run("""
        c = SignalCoordinator()
        async def main():
            try:
                c.setup_handlers()
            except SignalSetupError as error:
                print("in thread 'worker'" in str(error),
                      "request_shutdown()" in str(error))
            print(await c.wait_for_shutdown())
        thread = threading.Thread(target=lambda: run(main()), name="worker")
        thread.start()
        time.sleep(0.1)
        c.request_shutdown("from the main thread")
        thread.join()
    """)
    assert "True True\nNone\n" == done.stdout


def test_handlers_of_the_main_thread_serve_a_loop_in_another(start: Start) -> None:
    with start("""
        c = SignalCoordinator()
        async def main():
            print("ready")
            print(await c.wait_for_shutdown())
        c.setup_handlers()
        thread = threading.Thread(target=lambda: run(main()))
        thread.start()
        while thread.is_alive():    # join() of 3.13 lets no handler run
            time.sleep(0.02)
        c.remove_handlers()
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        assert "ready\n15\n" == finish(child).stdout


@pytest.mark.skipif(sys.version_info < (3, 12), reason="private module differs")
def test_in_a_sub_interpreter_it_says_so() -> None:
    module = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    done = run_child(f"""
        import {module} as interpreters, textwrap
        sub = interpreters.create("legacy") if {sys.version_info >= (3, 13)} else (
            interpreters.create(isolated=False))
        failed = interpreters.run_string(sub, textwrap.dedent('''
            import asyncio
            from pyasynclife import SignalCoordinator, SignalSetupError
            async def main():
                c = SignalCoordinator()
                try:
                    c.setup_handlers()
                except SignalSetupError as error:
                    assert "main interpreter" in str(error)
                    print("refused", flush=True)
                c.request_shutdown()
                assert await c.wait_for_shutdown() is None
            asyncio.run(main())
        '''))
        print(failed)
        interpreters.destroy(sub)
    """)
    assert "refused\nNone\n" == done.stdout


def test_a_loop_without_signal_handlers_says_so() -> None:
    done = run_child(
        _program("""
        class Bare(asyncio.SelectorEventLoop):
            def add_signal_handler(self, *args):
                raise NotImplementedError
        async def main():
            before = actions()
            try:
                SignalCoordinator().setup_handlers()
            except SignalSetupError as error:
                print(error)
            print(actions() == before)
        with asyncio.Runner(loop_factory=Bare) as runner:
            runner.run(main())
    """)
    )
    assert "the loop has no signal handlers" in done.stdout
    assert done.stdout.endswith("\nTrue\n")


# ------------------------------------------------------- processes and their end


def test_a_forked_child_is_inert_and_dies_of_the_signal(run: Run) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            with SignalCoordinator() as c:
                pid = os.fork()
                if pid == 0:
                    time.sleep(10)
                    os._exit(0)
                await asyncio.sleep(0.1)
                os.kill(pid, signal.SIGHUP)
                _, status = os.waitpid(pid, 0)
                await asyncio.sleep(0.1)
                print(os.waitstatus_to_exitcode(status), c.ready, c.received)
                print(c.reload_event.is_set())
        run(main())
    """)
    assert "-1 True Counter()\nFalse\n" == done.stdout


def test_a_forked_child_may_have_a_coordinator_of_its_own(run: Run) -> None:
    done = run("""
        async def child():
            async with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                await asyncio.wait_for(c.wait_for_shutdown(), 5)
            kill(signal.SIGTERM)
        c = SignalCoordinator()
        with c:
            pid = os.fork()
            if pid == 0:
                run(child())
                os._exit(0)
            _, status = os.waitpid(pid, 0)
            print(os.waitstatus_to_exitcode(status), c.ready)
    """)
    assert "-15 True\n" == done.stdout


def test_exit_with_armed_handlers_prints_nothing(run: Run) -> None:
    done = run("""
        kept = SignalCoordinator()
        kept.setup_handlers()
        async def main():
            global other
            other = SignalCoordinator()
            other.setup_handlers()
        run(main())
        print("end")
    """)
    assert (0, "end\n") == (done.returncode, done.stdout)


def test_signals_during_interpreter_exit_crash_nothing(run: Run) -> None:
    done = run("""
        import atexit
        c = SignalCoordinator()
        c.setup_handlers()
        class Late:
            def __del__(self):
                kill(1)
        atexit.register(lambda: [kill(1) for _ in range(100)])
        late = Late()
        print("end")
    """)
    assert "end\n" == done.stdout
    assert done.returncode in (0, -signal.SIGHUP)


# ------------------------------------------------------------------- real hosts


def _needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}")


@_needs("aiohttp")
def test_aiohttp_run_app_still_ends_by_sigterm(start: Start) -> None:
    with start("""
        from aiohttp import web
        async def coordinate(app):
            async with SignalCoordinator(on_signal=lambda *_: print("told")) as c:
                yield
            print("cleaned up")
        app = web.Application()
        app.cleanup_ctx.append(coordinate)
        async def started(app):
            asyncio.get_running_loop().call_later(0.1, print, "ready")
        app.on_startup.append(started)
        web.run_app(app, host="127.0.0.1", port=0, print=None, loop=new_loop())
        print("end")
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert (0, ["ready", "told", "cleaned up", "end"]) == (
        done.returncode,
        done.stdout.split("\n")[:-1],
    )


UVICORN = """
    import uvicorn
    from contextlib import asynccontextmanager
    from starlette.applications import Starlette
    def serve(lifespan=None):
        app = Starlette(lifespan=lifespan)
        config = uvicorn.Config(app, port=0, log_level="critical")
        return uvicorn.Server(config)
"""


@_needs("uvicorn", "starlette")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_uvicorn_drains_with_a_coordinator_in_its_lifespan(
    start: Start, signum: int
) -> None:
    with start(
        textwrap.dedent(UVICORN)
        + textwrap.dedent("""
        @asynccontextmanager
        async def lifespan(app):
            async with SignalCoordinator(on_signal=lambda *_: print("told")) as c:
                asyncio.get_running_loop().call_later(0.2, print, "ready")
                yield
                print(c.phase)
        try:
            run(serve(lifespan).serve())
        except KeyboardInterrupt:
            pass
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signum)
        done = child.finish()
    # uvicorn raises the signal again when it is done, so the process dies of it;
    # SIGINT is the Runner's by then.
    assert ["ready", "told", "draining"] == done.stdout.split()
    assert done.returncode in (-signum, 0)


@_needs("uvicorn", "starlette")
def test_uvicorn_inside_a_coordinator_tells_both(start: Start) -> None:
    with start(
        textwrap.dedent(UVICORN)
        + textwrap.dedent("""
        async def main():
            async with SignalCoordinator() as c:
                asyncio.get_running_loop().call_later(0.3, print, "ready")
                await serve().serve()
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
        run(main())
        """)
    ) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert (0, "ready\n15\n") == (done.returncode, done.stdout)


@_needs("hypercorn", "starlette")
def test_hypercorn_drains_with_a_coordinator_in_its_lifespan(start: Start) -> None:
    with start("""
        from contextlib import asynccontextmanager
        from hypercorn.asyncio import serve
        from hypercorn.config import Config
        from starlette.applications import Starlette
        @asynccontextmanager
        async def lifespan(app):
            async with SignalCoordinator() as c:
                asyncio.get_running_loop().call_later(0.2, print, "ready")
                yield
                print(c.phase)
        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.loglevel = "critical"
        run(serve(Starlette(lifespan=lifespan), config))
        print("end")
    """) as child:
        child.wait_for("ready")
        child.send_signal(signal.SIGTERM)
        done = child.finish()
    assert (0, "ready\ndraining\nend\n") == (done.returncode, done.stdout)


@_needs("anyio")
def test_anyio_open_signal_receiver_hears_too(run: Run) -> None:
    done = run("""
        import anyio
        async def main():
            with anyio.open_signal_receiver(signal.SIGTERM) as signals:
                with SignalCoordinator() as c:
                    kill(signal.SIGTERM)
                    async for signum in signals:
                        print("anyio", int(signum))
                        break
                    print("ours", await c.wait_for_shutdown())
                kill(signal.SIGTERM)
                async for signum in signals:
                    print("anyio", int(signum))
                    break
        run(main())
    """)
    assert "anyio 15\nours 15\nanyio 15\n" == done.stdout
