"""fork(): the parent hears nothing of its children; a child may begin anew."""

import importlib.util
import signal
import textwrap

import pytest

from support.signals import Run, needs_posix

pytestmark = needs_posix


@pytest.fixture
def run(run: Run) -> Run:
    """Run a program with some names more."""
    more = """
import logging, warnings
logging.disable()       # a host that displaces us is logged
warnings.simplefilter("ignore", DeprecationWarning)     # fork() beside a thread

def counts(coordinator):
    return {int(signum): count for signum, count in coordinator.received.items()}

def sleeping_child():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, b".")
        time.sleep(10)
        os._exit(0)
    os.read(read, 1)
    return pid
"""
    return lambda source: run(more + textwrap.dedent(source))


@pytest.mark.parametrize("host", [True, False])
def test_a_terminated_child_does_not_shut_the_parent_down(run: Run, host: bool) -> None:
    done = run(f"""
        async def main():
            async with SignalCoordinator() as c:
                if {host}:      # uvicorn.Server.serve() does this
                    old = signal.signal(signal.SIGTERM, lambda *_: None)
                pid = sleeping_child()
                os.kill(pid, signal.SIGTERM)
                await asyncio.sleep(0.1)
                print(c.ready, counts(c))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                if {host}:
                    signal.signal(signal.SIGTERM, old)
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
        run(main())
    """)
    assert done.stdout == "True {}\n15\n"


def test_a_child_terminated_during_setup_does_not_shut_the_parent_down(
    run: Run,
) -> None:
    done = run("""
        async def main():
            async with SignalCoordinator() as c:
                pid = sleeping_child()  # within the first iterations of the loop
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
                await asyncio.sleep(0.1)
                print(c.ready, counts(c))
        run(main())
    """)
    assert done.stdout == "True {}\n"


@pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="not installed: uvicorn"
)
def test_a_child_of_a_request_handler_does_not_stop_uvicorn(run: Run) -> None:
    done = run("""
        import uvicorn
        async def app(scope, receive, send): ...
        async def main():
            async with SignalCoordinator() as c:
                config = uvicorn.Config(app, port=0, log_level="critical",
                                        lifespan="off")
                server = uvicorn.Server(config)
                serving = asyncio.create_task(server.serve())
                await until(lambda: server.started)
                pid = sleeping_child()
                os.kill(pid, signal.SIGTERM)
                await asyncio.sleep(0.1)
                print(c.ready, counts(c))
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                server.should_exit = True
                await serving
        run(main())
    """)
    assert done.stdout == "True {}\n"


@pytest.mark.parametrize("way", ["async with", "setup_handlers()"])
@pytest.mark.parametrize("armed", ["before the loop", "in the loop"])
def test_a_coordinator_armed_before_a_fork_works_in_the_child(
    run: Run, way: str, armed: str
) -> None:
    done = run(f"""
        c = SignalCoordinator(5, reload_signals=[signal.SIGHUP])
        async def worker():
            if {way == "async with"}:
                async with c:
                    print(c.phase, counts(c))
                    kill(signal.SIGTERM)
                    print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
            else:
                c.setup_handlers()
                print(c.phase, counts(c))
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
                c.remove_handlers()
        def child():
            asyncio.events._set_running_loop(None)
            run(worker())
            print(actions())
            os._exit(3)
        before = actions()
        def parent():
            kill(signal.SIGHUP)
            pid = os.fork()
            if pid == 0:
                child()
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            print(c.ready, counts(c))
        async def main():
            c.setup_handlers()
            parent()
            c.remove_handlers()
        if {armed == "in the loop"}:
            run(main())
        else:
            c.setup_handlers()
            parent()
            c.remove_handlers()
        print(actions() == before)
    """)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["running {}", "15"]
    assert lines[3:] == ["3", "True {1: 1}", "True"]


def test_a_preloaded_coordinator_is_told_in_each_worker(run: Run) -> None:
    done = run("""
        c = SignalCoordinator(5)
        c.setup_handlers()              # a module that gunicorn --preload imports
        async def worker():
            async with c:
                os.write(write, b".")
                os._exit(int(await asyncio.wait_for(c.wait_for_shutdown(), 5)))
        read, write = os.pipe()
        pids = []
        for _ in range(2):
            pid = os.fork()
            if pid == 0:
                run(worker())
            pids.append(pid)
        for pid in pids:
            os.read(read, 1)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        print(c.phase)
        c.remove_handlers()
    """)
    assert done.stdout == "15\n15\nrunning\n"


def test_a_request_in_a_child_stays_there(run: Run) -> None:
    done = run("""
        async def main():
            async with SignalCoordinator() as c:
                pid = os.fork()
                if pid == 0:
                    c.request_shutdown("in the child")
                    os._exit(0 if c.phase == "draining" else 1)
                print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                await asyncio.sleep(0.05)
                print(c.phase)
        run(main())
    """)
    assert done.stdout == "0\nrunning\n"


def test_a_child_that_leaves_the_parents_block_has_its_handlers_back(run: Run) -> None:
    done = run("""
        before = actions()
        with SignalCoordinator() as c:
            pid = os.fork()
        if pid == 0:
            os._exit(0 if actions() == before else 1)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), actions() == before)
    """)
    assert done.stdout == "0 True\n"


def test_nothing_is_registered_for_a_fork_before_handlers_are_set(run: Run) -> None:
    done = run("""
        calls = []
        os.register_at_fork = lambda **hooks: calls.append(hooks)
        for _ in range(2):
            c = SignalCoordinator()
            print(len(calls))
            with c:
                pass
        print(len(calls))
    """)
    assert done.stdout.split() == ["0", "1", "1"]


@pytest.mark.parametrize("call", ["os.read(read, 1)", "lock.acquire()"])
@pytest.mark.parametrize("kill_after", [None, 60.0])
def test_a_signal_ends_a_child_that_waits_in_a_system_call(
    run: Run, call: str, kill_after: float | None
) -> None:
    done = run(f"""
        import multiprocessing

        async def main():
            lock = multiprocessing.get_context("fork").Lock()
            lock.acquire()
            read, write = os.pipe()
            ready, begin = os.pipe()
            async with SignalCoordinator(kill_after={kill_after}) as c:
                pid = os.fork()
                if pid == 0:
                    os.write(begin, b".")
                    {call}
                    os._exit(1)
                os.read(ready, 1)
                for _ in range(500):
                    # The first one may come before the call.
                    os.kill(pid, signal.SIGTERM)
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        break
                    await asyncio.sleep(0.02)
                else:
                    os.kill(pid, signal.SIGKILL)
                    _, status = os.waitpid(pid, 0)
                print(os.waitstatus_to_exitcode(status), counts(c))
        run(main())
    """)
    assert done.stdout == f"{-signal.SIGTERM} {{}}\n"


def test_a_signal_of_the_child_is_its_own(run: Run) -> None:
    done = run("""
        async def child():
            async with c:
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
            kill(signal.SIGTERM)
        c = SignalCoordinator()
        with c:
            pid = os.fork()
            if pid == 0:
                run(child())
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), c.ready)
    """)
    assert done.stdout == f"15\n{-signal.SIGTERM} True\n"
