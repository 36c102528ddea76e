"""Each asynchronous test runs on the standard loop and on uvloop, and leaves nothing
behind: no task, signal handler, thread, unraisable exception or loop error."""

import asyncio
import functools
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from pytest_asyncio import is_async_test

pytest.register_assert_rewrite("support")

from support.faults import forget_last_memory_error  # noqa: E402
from support.loops import SEED  # noqa: E402

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]
LoopErrors = list[dict[str, Any]]
PROGRAMS = {
    "examples",
    "test_command_line.py",
    "test_commands.py",
    "test_demo.py",
    "test_docs.py",
    "test_hosts.py",
    "test_sessions.py",
}
"""Folders and modules whose tests run programs: most of the time of a whole run."""
collect_ignore = ["regrtest"]  # for CPython's own runner

_loop_errors: LoopErrors = []

# The options of this run are not for those that tests start.
os.environ.pop("PYTEST_ADDOPTS", None)

# A shell ignores SIGINT for background processes, nohup ignores SIGHUP, and children
# inherit that. The package leaves an ignored signal ignored; the tests need a default.
for _signum in SIGNALS:
    if signal.getsignal(_signum) is signal.SIG_IGN:
        _interrupts = _signum == signal.SIGINT
        signal.signal(
            _signum, signal.default_int_handler if _interrupts else signal.SIG_DFL
        )


def _new_loop(factory: Callable[[], asyncio.AbstractEventLoop]) -> Any:
    def make() -> asyncio.AbstractEventLoop:
        loop = factory()
        loop.set_exception_handler(lambda _, context: _loop_errors.append(context))
        return loop

    return make


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Any:
    factories = {"asyncio": _new_loop(asyncio.SelectorEventLoop)}
    if uvloop is not None and not item.get_closest_marker("standard_loop_only"):
        factories["uvloop"] = _new_loop(uvloop.new_event_loop)
    return factories


def pytest_report_header() -> list[str]:
    return [
        f"uvloop: {version('uvloop') if uvloop else 'not installed, not tested'}",
        f"seed: {SEED}",
    ]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int
) -> None:
    """Print the seed of a random failure again: `-q` hides the header."""
    if exitstatus:
        terminalreporter.write_line(f"PYASYNCLIFE_SEED={SEED}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the programs; put last what checks the faults injected by the others."""
    for item in items:
        if not PROGRAMS.isdisjoint((item.path.name, item.path.parent.name)):
            item.add_marker("programs")
    items.sort(key=lambda item: item.path.name == "test_fault_sites.py")


@pytest.fixture
def loop_errors() -> LoopErrors:
    """The contexts passed to the loop's exception handler, which may then be called."""
    return _loop_errors


@pytest.fixture
def freed_memory_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the MemoryErrors of a test be freed: nothing of ours is logged.

    pytest keeps the records, and so the errors in them. CPython has 16 spare
    MemoryErrors. While all of them live, each further failure raises the same one,
    whose traceback grows: to log it takes seconds, and its frames are never freed.
    """
    monkeypatch.setattr(logging.getLogger("pyasynclife"), "disabled", True)
    yield
    forget_last_memory_error()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that sets BOTH_WAYS with a Task for each item too."""
    if getattr(metafunc.module, "BOTH_WAYS", False):
        ways = ["workers", "tasks"]
        if metafunc.definition.get_closest_marker("workers_only"):
            ways.remove("tasks")
        metafunc.parametrize("way", ways, indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the module's bounded_gather runs its items."""
    way = getattr(request, "param", "workers")
    if way == "tasks":
        monkeypatch.setattr(
            request.module,
            "bounded_gather",
            functools.partial(request.module.bounded_gather, task_per_item=True),
        )
    return str(way)


class _ErrorLog(logging.Handler):
    """The errors that the default handler of a test's own loop has logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# A closing loop cancels its tasks and restores signal handlers: these are checked while
# it is open. It ends its threads and reports errors: these are checked at the end.


@pytest.fixture
def nothing_left_after_loop(request: pytest.FixtureRequest) -> Iterator[None]:
    threads = set(threading.enumerate())
    logged = _ErrorLog()
    logging.getLogger("asyncio").addHandler(logged)
    yield
    # pytest turns an unraisable exception into an error: it must be this test's.
    gc.collect()
    gc.freeze()  # the next collections skip the objects that exist by now
    logging.getLogger("asyncio").removeHandler(logged)
    reported, _loop_errors[:] = list(_loop_errors), []
    left = [thread for thread in threading.enumerate() if thread not in threads]
    for thread in left:
        thread.join(1.0)
    assert not any(thread.is_alive() for thread in left), f"threads left: {left}"
    if "loop_errors" not in request.fixturenames:
        assert not reported, f"the loop's exception handler was called: {reported}"
        assert not logged.messages, f"asyncio logged: {logged.messages}"


@pytest.fixture
async def no_task_left(nothing_left_after_loop: None) -> AsyncIterator[None]:
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks left: {left}"


@pytest.fixture(autouse=True)
def nothing_left(
    request: pytest.FixtureRequest, nothing_left_after_loop: None
) -> Iterator[None]:
    """Fail a test that leaves something behind."""
    if is_async_test(request.node):
        request.getfixturevalue("no_task_left")
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    left = {}
    for signum, handler in before.items():
        if signal.getsignal(signum) != handler:
            left[signum] = signal.getsignal(signum)
            signal.signal(signum, handler)
    assert not left, f"signal handlers left: {left}"
