"""A host that displaces our handler: we are notified once, and may come back."""

import importlib.util
import logging
import os
import signal
import textwrap

import pytest

from pyasynclife import SignalCoordinator
from support.loops import settle
from support.signals import Run, Start, needs_posix

pytestmark = needs_posix

LOG = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message).40s")

@contextlib.contextmanager
def capture_signals(handle):
    '''What uvicorn.Server.serve() does, by hand.'''
    captured = []
    def note(signum, frame):
        captured.append(signum)
        handle(signum)
    found = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in found.items():
            signal.signal(signum, handler)
    for signum in reversed(captured):
        signal.raise_signal(signum)
"""


@pytest.fixture
def run(run: Run) -> Run:
    """Run a program that logs to stdout, and has uvicorn's capture_signals()."""
    return lambda source: run("import contextlib" + LOG + textwrap.dedent(source))


def test_a_signal_reaches_us_past_a_handler_set_by_signal_signal(run: Run) -> None:
    done = run("""
        async def main():
            seen = []
            with SignalCoordinator() as c:
                theirs = lambda signum, frame: seen.append(signum)
                signal.signal(signal.SIGTERM, theirs)
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5), seen)
                print(c.received[signal.SIGTERM])
            print(signal.getsignal(signal.SIGTERM) is theirs)
            kill(signal.SIGTERM)
            print(seen)
        run(main())
    """)
    warning, *lines = done.stdout.splitlines()
    assert warning.startswith("WARNING SIGTERM: <function main")
    assert lines == ["15 [15]", "1", "True", "[15, 15]"]


async def test_a_displaced_handler_is_logged_once_when_a_signal_shows_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "pyasynclife")

    def warnings() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == logging.WARNING
        ]

    def theirs(*args: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    with SignalCoordinator(reload_signals=[signal.SIGHUP]) as coordinator:
        os.kill(os.getpid(), signal.SIGHUP)
        await coordinator.wait_for_reload()
        signal.signal(signal.SIGTERM, theirs)
        await settle()
        assert not warnings()  # it has cost nothing yet
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await coordinator.wait_for_reload()
        (warning,) = warnings()
        assert warning.startswith("SIGTERM: <function test_a_displaced")
        assert "setup_handlers(), called again" in warning
        coordinator.setup_handlers()
        signal.signal(signal.SIGTERM, theirs)
        os.kill(os.getpid(), signal.SIGHUP)
        await coordinator.wait_for_reload()
        assert len(warnings()) == 2
    assert signal.getsignal(signal.SIGTERM) is theirs
    signal.signal(signal.SIGTERM, before)


async def test_a_handler_of_another_coordinator_on_top_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        SignalCoordinator(reload_signals=[signal.SIGHUP]) as outer,
        SignalCoordinator(reload_signals=[signal.SIGHUP]),
    ):
        os.kill(os.getpid(), signal.SIGHUP)
        await outer.wait_for_reload()
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


@pytest.mark.parametrize("way", ["signal.signal", "add_signal_handler"])
def test_setup_again_puts_ours_back_on_top_and_calls_the_other(
    run: Run, way: str
) -> None:
    done = run(f"""
        async def main():
            loop = asyncio.get_running_loop()
            before = actions()
            seen = []
            with SignalCoordinator() as c:
                c.setup_handlers()              # no effect
                ours = actions()
                if {way == "signal.signal"}:
                    signal.signal(signal.SIGTERM, lambda *_: seen.append("theirs"))
                else:
                    loop.add_signal_handler(signal.SIGTERM, seen.append, "theirs")
                theirs = actions()
                c.setup_handlers()
                print([a is b for a, b in zip(actions(), ours)])
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
                await until(lambda: seen)
                print(seen, c.received[signal.SIGTERM])
            print([a == b for a, b in zip(actions(), theirs)][2])
            kill(signal.SIGTERM)
            await until(lambda: len(seen) == 2)
            print(actions()[:2] == before[:2])
            if {way != "signal.signal"}:
                print(loop.remove_signal_handler(signal.SIGTERM))
        run(main())
    """)
    warning, *lines = done.stdout.splitlines()
    assert warning.startswith("WARNING SIGTERM: ")
    assert lines[:5] == ["[True, True, False]", "15", "['theirs'] 1", "True", "True"]
    assert lines[5:] == ([] if way == "signal.signal" else ["True"])


def test_a_coordinator_that_is_deaf_is_logged_when_another_signal_comes(
    run: Run,
) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                loop.add_signal_handler(signal.SIGTERM, print, "theirs")
                kill(signal.SIGTERM)
                await asyncio.sleep(0.05)
                print(c.ready)
                kill(signal.SIGHUP)
                await c.wait_for_reload()
            loop.remove_signal_handler(signal.SIGTERM)
        run(main())
    """)
    *lines, warning = done.stdout.splitlines()
    assert lines == ["theirs", "True"]
    assert warning.startswith("WARNING SIGTERM: ")


@pytest.mark.parametrize("restored", [True, False])
def test_all_is_put_back_after_a_second_setup(run: Run, restored: bool) -> None:
    done = run(f"""
        async def main():
            before = actions()
            with SignalCoordinator() as c:
                host = lambda *_: None
                found = signal.signal(signal.SIGTERM, host)
                c.setup_handlers()
                if {restored}:
                    signal.signal(signal.SIGTERM, found)    # as a host does at its end
                    kill(signal.SIGTERM)
                    print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
                    print(c.received[signal.SIGTERM])
            print(actions()[2] is (before[2] if {restored} else host))
            print(actions()[:2] == before[:2])
        run(main())
    """)
    lines = done.stdout.splitlines()[1:]
    assert lines == ["15", "1", "True", "True"][0 if restored else 2 :]


async def test_a_second_setup_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, host = signal.siginterrupt, lambda *_: None
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def failing(signum: int, flag: bool) -> None:
        if signum == signal.SIGTERM:
            raise OSError("no more")
        real(signum, flag)

    with SignalCoordinator() as coordinator:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, host)
        monkeypatch.setattr(signal, "siginterrupt", failing)
        with pytest.raises(RuntimeError, match="SIGTERM"):
            coordinator.setup_handlers()
        for signum in (signal.SIGINT, signal.SIGTERM):
            assert signal.getsignal(signum) is host
        monkeypatch.setattr(signal, "siginterrupt", real)
        coordinator.setup_handlers()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await coordinator.wait_for_shutdown() == signal.SIGTERM
    for signum, was in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
        signal.signal(signum, was)


# ------------------------------------------------------------------ whoever asks

ASK = {
    "wait_for_shutdown() begins": """
        with SignalCoordinator() as c:
            displace()
            waiting = asyncio.ensure_future(c.wait_for_shutdown())
            await asyncio.sleep(0)
            print("asked")
            waiting.cancel()
    """,
    "wait_for_shutdown() returns": """
        with SignalCoordinator() as c:
            waiting = asyncio.ensure_future(c.wait_for_shutdown())
            await asyncio.sleep(0)
            displace()
            c.shutdown_event.set()
            await waiting
            print("asked")
    """,
    "wait_for_shutdown() is cancelled": """
        with SignalCoordinator() as c:
            waiting = asyncio.ensure_future(c.wait_for_shutdown())
            await asyncio.sleep(0)
            displace()
            waiting.cancel()
            await asyncio.wait([waiting])
            print("asked")
    """,
    "wait_for_reload() begins": """
        with SignalCoordinator() as c:
            displace()
            waiting = asyncio.ensure_future(c.wait_for_reload())
            await asyncio.sleep(0)
            print("asked")
            waiting.cancel()
    """,
    "reloads() begins": """
        with SignalCoordinator() as c:
            displace()
            waiting = asyncio.ensure_future(anext(c.reloads()))
            await asyncio.sleep(0)
            print("asked")
            waiting.cancel()
    """,
    "graceful_shutdown()": """
        with SignalCoordinator() as c:
            displace()
            await c.graceful_shutdown([])
            print("asked")
    """,
    "setup_handlers()": """
        with SignalCoordinator() as c:
            displace()
            c.setup_handlers()
            print("asked")
    """,
    "remove_handlers()": """
        c = SignalCoordinator()
        c.setup_handlers()
        displace()
        c.remove_handlers()
        print("asked")
    """,
    "the end of the block": """
        with SignalCoordinator() as c:
            displace()
        print("asked")
    """,
    "the monitor of an attached registry": """
        from pyasynclife import TaskRegistry
        registry = TaskRegistry(heartbeat_interval=0.01)
        warned = asyncio.Event()
        class Note(logging.Handler):
            def emit(self, record):
                warned.set()
        logging.getLogger("pyasynclife").addHandler(Note())
        async with SignalCoordinator(registry=registry) as c, registry:
            displace()
            await asyncio.wait_for(warned.wait(), 10)
            print("asked")
    """,
}


def functions(programs: dict[str, str], kind: str) -> str:
    """Return a program that has a function for each of some, and a list of them."""
    parts = [
        f"{kind} f{number}():\n{textwrap.indent(textwrap.dedent(source), '    ')}"
        for number, source in enumerate(programs.values())
    ]
    names = ", ".join(f"f{number}" for number in range(len(programs)))
    return "\n".join([*parts, f"functions = [{names}]\n"])


@pytest.mark.parametrize("way", ["signal.signal", "add_signal_handler"])
def test_a_displaced_handler_is_logged_once_to_whoever_asks(run: Run, way: str) -> None:
    if way == "signal.signal":
        displace = "signal.signal(signal.SIGTERM, lambda *_: None)"
    else:
        displace = "loop.add_signal_handler(signal.SIGTERM, lambda: None)"
    done = run(
        functions(ASK, "async def")
        + textwrap.dedent(f"""
        def displace():
            loop = asyncio.get_running_loop()
            {displace}
        for function in functions:
            run(function())
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            print("next")
        """)
    )
    asks = [case.splitlines() for case in done.stdout.split("next\n")[:-1]]
    for name, lines in zip(ASK, asks, strict=True):
        assert [line[:16] for line in lines] == ["WARNING SIGTERM:", "asked"], name


def test_a_coordinator_that_missed_its_sigterm_is_logged_when_it_is_left(
    run: Run,
) -> None:
    done = run("""
        async def main():
            seen = []
            loop = asyncio.get_running_loop()
            async with SignalCoordinator() as c:
                loop.add_signal_handler(signal.SIGTERM, seen.append, 15)
                for press in (1, 2):
                    kill(signal.SIGTERM)
                    await until(lambda: len(seen) == press)
                print(c.ready, c.shutdown_event.is_set(), dict(c.received))
        run(main())
    """)
    line, warning = done.stdout.splitlines()
    assert line == "True False {}"
    assert warning.startswith("WARNING SIGTERM: a handler of loop.add")


def test_each_displacement_is_logged_once(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator() as c:
                for host in ("first", "second"):
                    ours = signal.signal(signal.SIGTERM, lambda *_: None)
                    for _ in range(3):
                        await c.graceful_shutdown([])
                    print(host)
                    signal.signal(signal.SIGTERM, ours)     # as a host does at its end
                    await c.graceful_shutdown([])
        run(main())
    """)
    lines = [line.split()[0] for line in done.stdout.splitlines()]
    assert lines == ["WARNING", "first", "WARNING", "second"]


def test_reading_the_state_does_not_look_at_the_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(signum: int) -> None:
        raise AssertionError

    with SignalCoordinator() as c:
        monkeypatch.setattr(signal, "getsignal", refuse)
        state = (c.ready, c.phase, c.deadline, c.received, c.reason)
        monkeypatch.undo()
    assert state == (True, "running", None, {}, None)


def test_setup_again_covers_the_default_action_that_a_host_has_left(run: Run) -> None:
    done = run("""
        async def main():
            loop = asyncio.get_running_loop()
            with SignalCoordinator() as c:
                loop.add_signal_handler(signal.SIGTERM, print)
                loop.remove_signal_handler(signal.SIGTERM)
                c.setup_handlers()
                kill(signal.SIGTERM)
                print(await asyncio.wait_for(c.wait_for_shutdown(), 5))
            print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        run(main())
    """)
    warning, *lines = done.stdout.splitlines()
    assert warning.startswith("WARNING SIGTERM: <Handlers.SIG_DFL: 0")
    assert lines == ["15", "True"]


QUIET = {
    "removed by ourselves": """
        async def main():
            c = SignalCoordinator()
            c.setup_handlers()
            c.remove_handlers()
            await c.graceful_shutdown([])
            await c.wait_for_shutdown()
            c.remove_handlers()
        run(main())
    """,
    "the loop is closed in the block": """
        async def main():
            kill(signal.SIGTERM)
            await c.wait_for_shutdown()
        with SignalCoordinator() as c:
            run(main())
    """,
    "the loop with a host's handler is closed in the block": """
        async def main():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
            c.setup_handlers()
            kill(signal.SIGINT)
            await c.wait_for_shutdown()
        c = SignalCoordinator()
        run(main())
        c.remove_handlers()
    """,
    "two loops, one after the other": """
        async def main():
            asyncio.get_running_loop().call_soon(c.request_shutdown)
            await c.wait_for_shutdown()
        with SignalCoordinator() as c:
            run(main())
            run(main())
    """,
    "the loop has stopped": """
        async def main():
            kill(signal.SIGTERM)
            await c.wait_for_shutdown()
        loop = new_loop()
        with SignalCoordinator() as c:
            loop.run_until_complete(main())
        loop.close()
    """,
    "no handlers in another thread": """
        async def main():
            async with SignalCoordinator(required=False) as c:
                c.request_shutdown()
                await c.wait_for_shutdown()
                await c.graceful_shutdown([])
        thread = threading.Thread(target=run, args=[main()])
        thread.start()
        thread.join()
    """,
    "the loop runs in another thread": """
        async def main():
            ready.set()
            await c.wait_for_shutdown()
            await c.graceful_shutdown([])
        ready = threading.Event()
        with SignalCoordinator() as c:
            thread = threading.Thread(target=run, args=[main()])
            thread.start()
            ready.wait(10)
            c.setup_handlers()
            kill(signal.SIGTERM)
            thread.join()
    """,
    "a forked child has handlers of its own": """
        import warnings
        warnings.simplefilter("ignore")
        async def main():
            c.request_shutdown()
            await c.wait_for_shutdown()
        with SignalCoordinator() as c:
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, lambda *_: None)
                c.remove_handlers()
                run(main())
                sys.stdout.flush()
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
    "other code has the wake-up descriptor": """
        async def main():
            reader, writer = os.pipe()
            os.set_blocking(writer, False)
            with SignalCoordinator() as c:
                before = signal.set_wakeup_fd(writer)
                await c.graceful_shutdown([])
                signal.set_wakeup_fd(before)
        run(main())
    """,
    "another coordinator is on top, or left first": """
        async def main():
            outer, inner = SignalCoordinator(), SignalCoordinator()
            outer.setup_handlers()
            inner.setup_handlers()
            await outer.graceful_shutdown([])
            outer.remove_handlers()
            await inner.graceful_shutdown([])
            inner.remove_handlers()
        run(main())
    """,
    "a host has ended before us": """
        async def main():
            with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                await c.wait_for_shutdown()
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                await c.graceful_shutdown([])
        run(main())
    """,
    "a host has put the Ctrl-C of asyncio.run back": """
        async def main():
            theirs = signal.getsignal(signal.SIGINT)
            with SignalCoordinator() as c:
                kill(signal.SIGTERM)
                await c.wait_for_shutdown()
                signal.signal(signal.SIGINT, theirs)
                await c.graceful_shutdown([])
        run(main())
    """,
    "a host has put ours back": """
        async def main():
            with SignalCoordinator() as c:
                with capture_signals(print):
                    pass
                c.request_shutdown()
                await c.wait_for_shutdown()
        run(main())
    """,
}


def test_a_handler_that_is_not_displaced_is_not_logged(run: Run) -> None:
    done = run(
        functions(QUIET, "def")
        + textwrap.dedent("""
        for function in functions:
            function()
            print("next")
        """)
    )
    cases = done.stdout.split("next\n")[:-1]
    for name, lines in zip(QUIET, cases, strict=True):
        assert lines == ("0\n" if "forked" in name else ""), name


# ------------------------------------------------------------------ raised again


@pytest.mark.parametrize("presses", [1, 2])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_host_raises_again_counts_once(
    run: Run, signum: int, presses: int
) -> None:
    done = run(f"""
        calls = []
        async def main():
            with SignalCoordinator(on_signal=lambda *call: calls.append(call)) as c:
                handled = []
                with capture_signals(handled.append):
                    for press in range({presses}):
                        kill({int(signum)})
                        await until(lambda: c.received[{int(signum)}] == press + 1)
                    await asyncio.wait_for(c.wait_for_shutdown(), 5)
                await asyncio.sleep(0.05)
                print(c.received[{int(signum)}], [number for _, number in calls])
                kill({int(signum)})         # a new one
                await until(lambda: c.received[{int(signum)}] == {presses + 1})
        run(main())
    """)
    numbers = list(range(1, presses + 1))
    assert done.stdout.splitlines()[1:] == [f"{presses} {numbers}"]


def test_a_signal_raised_again_still_reaches_the_handler_before_us(run: Run) -> None:
    done = run("""
        seen = []
        async def main():
            signal.signal(signal.SIGTERM, lambda signum, _: seen.append(signum))
            with SignalCoordinator() as c:
                with capture_signals(lambda _: None):
                    kill(signal.SIGTERM)
                    await asyncio.wait_for(c.wait_for_shutdown(), 5)
                print(seen, c.received[signal.SIGTERM])
        run(main())
    """)
    assert done.stdout.splitlines()[1:] == ["[15] 1"]


def test_it_counts_once_with_ours_back_on_top_of_the_host(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator() as c:
                handled = []
                with capture_signals(handled.append):
                    c.setup_handlers()
                    kill(signal.SIGTERM)
                    await asyncio.wait_for(c.wait_for_shutdown(), 5)
                await asyncio.sleep(0.05)
                print([int(s) for s in handled], c.received[signal.SIGTERM])
                kill(signal.SIGTERM)
                await until(lambda: c.received[signal.SIGTERM] == 2)
        run(main())
    """)
    assert done.stdout.splitlines()[1:] == ["[15] 1"]


def test_it_counts_once_with_a_host_that_calls_the_handler_below(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator() as c:
                def host(signum, frame):
                    below(signum, frame)
                below = signal.signal(signal.SIGTERM, host)
                c.setup_handlers()
                kill(signal.SIGTERM)
                await asyncio.wait_for(c.wait_for_shutdown(), 5)
                await asyncio.sleep(0.05)
                print(c.received[signal.SIGTERM])
        run(main())
    """)
    assert done.stdout.splitlines()[1:] == ["1"]


def test_a_reload_while_displaced_hides_no_later_one(run: Run) -> None:
    done = run("""
        async def main():
            with SignalCoordinator(reload_signals=[signal.SIGHUP]) as c:
                ours = signal.signal(signal.SIGHUP, lambda *_: None)
                kill(signal.SIGHUP)
                await asyncio.wait_for(c.wait_for_reload(), 5)
                signal.signal(signal.SIGHUP, ours)      # and raises nothing again
                kill(signal.SIGHUP)
                await asyncio.wait_for(c.wait_for_reload(), 5)
                print(c.received[signal.SIGHUP])
        run(main())
    """)
    assert done.stdout.splitlines()[1:] == ["2"]


@pytest.mark.skipif(
    importlib.util.find_spec("uvicorn") is None, reason="not installed: uvicorn"
)
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_to_uvicorn_inside_a_coordinator_counts_once(
    start: Start, signum: int
) -> None:
    with start(f"""
        import logging, uvicorn
        logging.disable()
        async def app(scope, receive, send): ...
        calls = []
        async def main():
            note = lambda *call: calls.append(call)
            async with SignalCoordinator(on_signal=note) as c:
                config = uvicorn.Config(app, port=0, log_level="critical",
                                        lifespan="off")
                server = uvicorn.Server(config)
                serving = asyncio.create_task(server.serve())
                await until(lambda: server.started)
                print("ready")
                await serving
                await asyncio.sleep(0.05)
                print(c.received[{int(signum)}], [number for _, number in calls])
        run(main())
    """) as child:
        child.wait_for("ready")
        child.send_signal(signum)
        done = child.finish()
    assert (done.returncode, done.stdout) == (0, "ready\n1 [1]\n")
