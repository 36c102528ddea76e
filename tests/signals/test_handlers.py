"""setup_handlers() and remove_handlers(): earlier handlers are called and restored."""

import asyncio
import gc
import os
import signal
import sys
import weakref

import pytest

from pyasynclife import PyAsyncLifeError, SignalCoordinator, SignalSetupError
from support.children import run_child
from support.loops import settle
from support.signals import Run, Start, actions, finish, needs_posix, program

pytestmark = needs_posix


async def test_setup_and_removal_twice_have_no_effect() -> None:
    before = actions()
    coordinator = SignalCoordinator()
    coordinator.remove_handlers()
    coordinator.setup_handlers()
    ours = actions()
    coordinator.setup_handlers()
    assert actions() == ours
    coordinator.remove_handlers()
    coordinator.remove_handlers()
    assert actions() == before


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
        assert finish(child).stdout == "ready\n15\n"


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
        assert finish(child).stdout == "ready\n15\n"


def test_a_signal_in_the_middle_of_setup_reaches_us_and_the_host(
    run: Run,
) -> None:
    done = run("""
        from pyasynclife import _handler_install
        put_on_top = _handler_install._put_on_top
        def signalled_before(handler):
            if handler.signum == signal.SIGTERM:    # as if another thread received it
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                kill(signal.SIGTERM)
            put_on_top(handler)
        _handler_install._put_on_top = signalled_before
        async def main():
            seen = []
            signal.signal(signal.SIGTERM, lambda *args: seen.append(args))
            with SignalCoordinator() as c:
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5), seen)
                print(c.received[signal.SIGTERM])
        run(main())
    """)
    assert done.stdout == "15 [(15, None)]\n1\n"


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
    assert done.stdout == "5 6\n"


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
    assert done.stdout == "True\ncancelled by the Runner\nKeyboardInterrupt\n"


def test_what_was_found_ignored_stays_so_unless_asked_for(run: Run) -> None:
    done = run("""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        async def main():
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                kill(signal.SIGHUP)
                await asyncio.sleep(0.02)
                print(c.received, signal.getsignal(signal.SIGHUP).name)
            c = SignalCoordinator(take_ignored=True, reload_signals=[signal.SIGHUP])
            with c:
                kill(signal.SIGHUP)
                await asyncio.wait_for(c.wait_for_reload(), 5)
            print(signal.getsignal(signal.SIGHUP).name)
            kill(signal.SIGHUP)
            print("alive")
        run(main())
    """)
    assert done.stdout == "Counter() SIG_IGN\nSIG_IGN\nalive\n"


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
    assert done.stdout == "True\n"


def test_ctrl_c_raises_nothing_and_cancels_nothing_while_handled(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator() as c:
                kill(signal.SIGINT)
                await asyncio.sleep(0.05)
                print(c.shutdown_event.is_set(), asyncio.current_task().cancelling())
        run(main())
    """)
    assert done.stdout == "True 0\n"


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
    assert done.stdout == "True\nTrue\n"


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
            print("received")
        run(main())
    """)
    assert done.stdout == "received\n"


@pytest.mark.parametrize("order", ["inner first", "outer first"])
def test_two_coordinators_are_removed_in_either_order(run: Run, order: str) -> None:
    done = run(f"""
        async def main():
            before = actions()
            outer, inner = (SignalCoordinator(reload_signals=[1]) for _ in "12")
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
    assert done.stdout == "0 1\nTrue\n"


def test_a_handler_of_ours_restored_after_removal_has_no_effect(run: Run) -> None:
    done = run("""
        import logging
        logging.disable()  # that ours was replaced
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
    assert done.returncode == -signal.SIGTERM


def test_a_dropped_coordinator_leaves_signals_their_effect(run: Run) -> None:
    done = run("""
        async def main():
            SignalCoordinator().setup_handlers()
        run(main())
        kill(signal.SIGTERM)
        time.sleep(5)
    """)
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize("closed", [False, True])
def test_what_was_there_is_restored_after_the_loop_has_stopped(
    run: Run, closed: bool
) -> None:
    done = run(f"""
        def host(*_): print("host")
        signal.signal(signal.SIGTERM, host)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        loop = new_loop()
        c = SignalCoordinator(take_ignored=True, reload_signals=[signal.SIGHUP])
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
    assert done.stdout == "True\nhost\n"


def test_interrupted_calls_restart_as_before(run: Run) -> None:
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
            with SignalCoordinator(reload_signals=[signal.SIGHUP]):
                print([restarts(s) for s in (1, 2, 15)])
            print([restarts(s) for s in (1, 15)])
        run(main())
    """)
    assert done.stdout == "[True, True, True]\n[True, False]\n"


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
    assert done.stdout == "15 [15]\n[15, 15]\n"


async def test_the_coordinator_is_freed_once_removed() -> None:
    coordinator = SignalCoordinator(reload_signals=[signal.SIGHUP])
    with coordinator:
        os.kill(os.getpid(), signal.SIGHUP)
        await coordinator.wait_for_reload()
    await settle(8)
    gone = weakref.ref(coordinator)
    del coordinator
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("signum", "message"),
    [
        (signal.SIGKILL, "SIGKILL cannot be handled; leave it out"),
        (signal.SIGSTOP, "SIGSTOP cannot be handled; leave it out"),
        (0, "there is no signal 0; leave it out"),
        (-1, "there is no signal -1; leave it out"),
        (32, "there is no signal 32; leave it out"),  # the C library's own
        (99, "there is no signal 99; leave it out"),
        (1000, "there is no signal 1000; leave it out"),
    ],
)
async def test_an_impossible_signal_is_one_error_and_installs_nothing(
    signum: int, message: str
) -> None:
    before = actions()
    coordinator = SignalCoordinator(shutdown_signals=[signal.SIGTERM, signum])
    with pytest.raises(SignalSetupError) as caught:
        coordinator.setup_handlers()
    assert isinstance(caught.value, PyAsyncLifeError)
    assert isinstance(caught.value, RuntimeError)
    assert str(caught.value) == message
    assert actions() == before


async def test_sigchld_is_refused_where_uvloop_handles_it() -> None:
    before = actions()
    coordinator = SignalCoordinator(shutdown_signals=[signal.SIGTERM, signal.SIGCHLD])
    if type(asyncio.get_running_loop()).__module__.startswith("uvloop"):
        with pytest.raises(SignalSetupError, match="SIGCHLD"):
            coordinator.setup_handlers()
    else:
        coordinator.setup_handlers()
        coordinator.remove_handlers()
    assert actions() == before


async def test_setup_that_fails_in_the_middle_leaves_nothing() -> None:
    loop, before = asyncio.get_running_loop(), actions()
    # SIGRTMAX is set last, and siginterrupt() fails there.
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
    assert actions() == before
    assert signal.getsignal(signal.SIGRTMAX) == signal.SIG_DFL
    assert not loop.remove_signal_handler(signal.SIGTERM)
    coordinator.setup_handlers()  # setup works once siginterrupt() does
    coordinator.remove_handlers()
    assert actions() == before


async def test_off_the_main_thread_setup_is_refused_with_a_remedy() -> None:
    coordinator = SignalCoordinator()
    with pytest.raises(SignalSetupError, match=r"thread.*request_shutdown\(\)"):
        await asyncio.to_thread(coordinator.setup_handlers)
    await asyncio.get_running_loop().shutdown_default_executor()


def test_on_a_loop_off_the_main_thread_only_requests_work(run: Run) -> None:
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
    assert done.stdout == "True True\nNone\n"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="private module differs")
def test_setup_in_a_sub_interpreter_is_refused() -> None:
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
    assert done.stdout == "refused\nNone\n"


def test_setup_on_a_loop_without_signal_handlers_is_refused() -> None:
    done = run_child(
        program("""
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


def test_a_forked_child_is_inert_and_dies_of_the_signal(run: Run) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
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
    assert done.stdout == "-1 True Counter()\nFalse\n"


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
    assert done.stdout == "-15 True\n"


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
    assert (done.returncode, done.stdout) == (0, "end\n")


def test_signals_during_interpreter_exit_crash_nothing(run: Run) -> None:
    done = run("""
        import atexit
        c = SignalCoordinator(reload_signals=[signal.SIGHUP])
        c.setup_handlers()
        class Late:
            def __del__(self):
                kill(1)
        atexit.register(lambda: [kill(1) for _ in range(100)])
        late = Late()
        print("end")
    """)
    assert done.stdout == "end\n"
    assert done.returncode in (0, -signal.SIGHUP)


@pytest.mark.parametrize("when", ["setup", "removal"])
def test_no_descriptors_left_is_no_error_of_ours(run: Run, when: str) -> None:
    done = run(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        taken = []
        def take_all():
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
        async def main():
            before = actions()
            c = SignalCoordinator()
            if {when == "setup"}:
                take_all()
            async with c:
                if {when == "removal"}:
                    take_all()
                kill(signal.SIGTERM)
                print(await c.wait_for_shutdown())
            while taken:
                os.close(taken.pop())
            print(actions() == before, any(c._handlers.by_signal), c._handlers.armed)
        run(main())
    """)
    assert done.stdout == "15\nTrue False False\n"
