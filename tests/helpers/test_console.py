"""track(): a bar on a terminal, lines elsewhere, and the batch's own result."""

import asyncio
import contextlib
import gc
import inspect
import io
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pyasynclife import BatchError, BatchProgress, BatchStatus, bounded_gather
from support.children import run_child
from support.coroutines import forever
from support.loops import settle

console = pytest.importorskip("pyasynclife.console", reason="rich is not installed")
from rich.cells import cell_len  # noqa: E402
from rich.console import Console  # noqa: E402

from pyasynclife import _progress_bar as bars  # noqa: E402

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


async def work(x: int) -> int:
    await asyncio.sleep(0.001)
    return x


async def work_but_3(x: int) -> int:
    await asyncio.sleep(0.001)
    if x == 3:
        raise ValueError(x)
    return x


class Terminal:
    """A pseudo-terminal and what was written to it."""

    def __init__(self, width: int = 120) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (40, width))
        self.file = os.fdopen(theirs, "w", buffering=1)
        self.console = Console(
            file=self.file, force_terminal=True, force_interactive=True, width=width
        )
        self._pieces: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(self._ours, 65536):
                self._pieces.append(piece)

    def finish(self) -> str:
        self.file.close()
        self._thread.join(10)
        os.close(self._ours)
        return b"".join(self._pieces).decode()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    if not made.file.closed:
        made.finish()


@pytest.fixture
def plain() -> Console:
    """A console that is no terminal; its file has what was written."""
    return Console(file=io.StringIO(), width=120)


def last_frame(raw: str) -> str:
    return ESCAPES.sub("", raw).replace("\r", "\n").strip().split("\n")[-1]


# ------------------------------------------------------- used like the batch


async def test_awaiting_gives_the_batchs_result(plain: Console) -> None:
    batch = bounded_gather(work_but_3, range(10))
    result = await console.track(batch, "fetching", console=plain)
    assert result is await batch
    assert len(result) == 10
    line = plain.file.getvalue()
    assert re.fullmatch(r"fetching: 10 of 10, [\d,]+/s, 1 failed, in \d+\.\d s\n", line)


async def test_iterating_gives_the_batchs_results(plain: Console) -> None:
    tracked = console.track(bounded_gather(work, range(5)), console=plain)
    assert [result.item async for result in tracked] == [0, 1, 2, 3, 4]
    assert plain.file.getvalue().startswith("items: 5 of 5")
    assert plain.file.getvalue().count("\n") == 1


async def test_a_block_that_is_left_cancels_and_waits(plain: Console) -> None:
    async def fn(x: int) -> int | None:
        return await (forever(x) if x else work(x))

    batch = bounded_gather(fn, range(1000), max_concurrent=2)
    async with console.track(batch, console=plain) as stream:
        async for _ in stream:
            break
    assert batch.status is BatchStatus.CANCELLED
    assert re.search(r"\d cancelled, in", plain.file.getvalue())


async def test_a_block_without_await_or_loop_waits(plain: Console) -> None:
    async with console.track(bounded_gather(work, range(5)), console=plain) as tracked:
        pass
    assert tracked.batch.progress.done == 5
    assert "5 of 5" in plain.file.getvalue()


async def test_nothing_is_shown_before_the_first_use(plain: Console) -> None:
    tracked = console.track(bounded_gather(work, range(5)), console=plain)
    await settle()
    assert not plain.file.getvalue()
    assert not tracked.batch.progress.started


async def test_a_cancellation_reaches_items_and_caller(plain: Console) -> None:
    ended: list[int] = []

    async def fn(x: int) -> None:
        try:
            await forever(x)
        finally:
            ended.append(x)

    async def fetch_all() -> None:
        await console.track(bounded_gather(fn, [1, 2]), "fetching", console=plain)

    task = asyncio.create_task(fetch_all())
    await settle(5)
    task.cancel("stop")
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task
    assert ended == [1, 2]
    assert "fetching: 2 of 2" in plain.file.getvalue()
    assert "2 cancelled" in plain.file.getvalue()


async def test_what_the_batch_raises_propagates(plain: Console) -> None:
    with pytest.raises(BatchError):
        await console.track(
            bounded_gather(work_but_3, range(9), max_errors=0), console=plain
        )
    assert "1 failed" in plain.file.getvalue()
    with pytest.raises(BatchError):
        batch = bounded_gather(work_but_3, range(9), max_errors=0)
        async for _ in console.track(batch, console=plain):
            pass
    assert plain.file.getvalue().count("\n") == 2


# --------------------------------------------------------- on no terminal


async def test_a_line_is_written_every_interval_and_at_the_end(
    plain: Console,
) -> None:
    async def fn(x: int) -> None:
        await asyncio.sleep(0.01)

    batch = bounded_gather(fn, range(20), max_concurrent=1)
    await console.track(batch, "slow", interval=0.04, console=plain)
    lines = plain.file.getvalue().splitlines()
    assert len(lines) >= 3
    assert re.fullmatch(r"slow: \d+ of 20, \d+/s, \d+ s left", lines[1])
    assert re.fullmatch(r"slow: 20 of 20, \d+/s, in \d+\.\d s", lines[-1])
    assert "\x1b" not in plain.file.getvalue()


async def test_a_source_of_unknown_length_has_no_time_left(plain: Console) -> None:
    async def source() -> AsyncIterator[int]:
        yield 0
        while not plain.file.getvalue():
            await asyncio.sleep(0.01)
        for x in range(1, 6):
            yield x

    batch = bounded_gather(work, source())
    await console.track(batch, "feed", interval=0.02, console=plain)
    lines = plain.file.getvalue().splitlines()
    assert " of " not in lines[0]
    assert "left" not in lines[0]
    assert lines[-1].startswith("feed: 6, ") or lines[-1].startswith("feed: 6 of 6, ")


async def test_a_closed_file_does_not_affect_the_batch(
    loop_errors: list[dict[str, Any]],
) -> None:
    file = io.StringIO()
    closed = Console(file=file)
    tracked = console.track(bounded_gather(work, range(5)), console=closed)
    file.close()
    assert len((await tracked).by_id()) == 5
    assert [context["message"] for context in loop_errors] == [
        "the progress of a batch cannot be shown"
    ]


async def test_a_terminal_that_is_gone_does_not_affect_the_batch(
    loop_errors: list[dict[str, Any]],
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    for kind in (Console(file=Gone(), force_terminal=True) for _ in range(2)):
        async with console.track(
            bounded_gather(work, range(5)), console=kind
        ) as stream:
            assert len([result async for result in stream]) == 5
    assert [context["message"] for context in loop_errors] == [
        "the progress of a batch cannot be shown"
    ] * 2


@pytest.mark.standard_loop_only
async def test_no_timer_is_left(plain: Console) -> None:
    await console.track(bounded_gather(work, range(5)), console=plain)
    timers = asyncio.get_running_loop()._scheduled
    assert not [timer for timer in timers if not timer.cancelled()]


async def test_stderr_that_is_no_terminal_gets_lines_even_with_force_color(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    await console.track(bounded_gather(work, range(5)), "x")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("x: 5 of 5")
    assert "\x1b" not in err


# ---------------------------------------------------------------- on a terminal


async def test_a_terminal_gets_a_bar_with_rate_failures_and_time(
    terminal: Terminal,
) -> None:
    async def fn(x: int) -> int:
        await asyncio.sleep(0.002)
        return await work_but_3(x)

    batch = bounded_gather(fn, range(100), max_concurrent=1)
    result = await console.track(batch, "fetch [a]", console=terminal.console)
    assert len(result.failures()) == 1
    raw = terminal.finish()
    assert raw.count("100 of 100") >= 1
    frames = re.findall(r"(\d+) of 100", raw)
    assert len(set(frames)) >= 3, "the bar did not move"
    assert re.match(
        r"fetch \[a\] ━+ 100 of 100, [\d,]+/s, 1 failed 0:00:\d\d", last_frame(raw)
    )
    assert raw.count(HIDE) == raw.count(SHOW) == 1


LONG = "fetching the prices of symbols"
MANY = 1_350, 50, 1_250, 19, 31, 16  # started, running, done, failed, cancelled, ...


def progress(started: int, *others: int) -> BatchProgress:
    names = ("running", "done", "failed", "cancelled", "timed_out")
    counts = dict(zip(names, others, strict=True))
    return BatchProgress._make(total=10_000, started=started, elapsed=5.0, **counts)


def drawn(width: int, *batches: tuple[str, BatchProgress]) -> list[str]:
    """The lines of some bars on a terminal of this width, without its escapes."""
    made = Terminal(width)
    try:
        shown = [bars.Bar(made.console, description) for description, _ in batches]
        for bar, (_, now) in zip(shown, batches, strict=True):
            bar.show(now, over=False)
        for bar in shown:
            bar.close()
    finally:
        raw = made.finish()
    last = raw.split("\x1b[2K")[-1]  # what follows the last erased line
    return [line for line in ESCAPES.sub("", last).splitlines() if line.strip()]


@pytest.mark.parametrize("width", [1, 7, 20, 38, 39, 40, 41, 60, 70, 80, 100, 200])
@pytest.mark.parametrize("description", ["", "crawling", LONG, "two\nlines", "表" * 20])
def test_a_bar_never_takes_a_second_line(width: int, description: str) -> None:
    (line,) = drawn(width, (description, progress(*MANY)))
    assert cell_len(line) <= width


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (200, rf"{LONG} ━{{40}} FAILED \(16 timed out\), 31 cancelled -:--:--"),
        (
            110,
            r"fetching the prices of symb… ━{10} FAILED \(16 timed out\), .* -:--:--",
        ),
        (100, r"fetching the pric… ━{10} FAILED \(16 timed out\), .* -:--:--"),
        (80, r"fetching the… ━{10} FAILED, 31 cancelled -:--:--"),
        (70, r"fetching the … FAILED, 31 cancelled -:--:--"),
        (57, r"FAILED, 31 cancelled -:--:--"),
        (40, r"FAILED, 31 c…"),
    ],
)
def test_the_bar_shrinks_first_then_the_description_then_the_timeouts_go(
    width: int, shown: str
) -> None:
    (line,) = drawn(width, (LONG, progress(*MANY)))
    pattern = shown.replace("FAILED", "1,300 of 10,000, 260/s, 19 failed")
    assert re.fullmatch(pattern, line.rstrip().replace("╺", "━").replace("╸", "━"))


def test_the_bars_of_a_narrow_terminal_stay_aligned() -> None:
    few = progress(7, 0, 7, 0, 0, 0)
    first, second = drawn(100, (LONG, progress(*MANY)), ("short", few))
    assert first.index("1,300 of") == second.index("7 of")


async def test_two_batches_have_two_bars_on_one_screen(terminal: Terminal) -> None:
    async def show(name: str, n: int) -> None:
        batch = bounded_gather(work, range(n), max_concurrent=1)
        await console.track(batch, name, console=terminal.console)

    await asyncio.gather(show("first", 20), show("second", 60))
    raw = terminal.finish()
    assert raw.count(HIDE) == raw.count(SHOW) == 1
    lines = ESCAPES.sub("", raw).replace("\r", "\n").split("\n")
    end = [line for line in lines if line][-2:]
    assert end[0].startswith("first")
    assert end[1].startswith("second")
    assert not bars._screens


async def test_an_error_of_the_terminal_ends_one_bar_and_not_the_next(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))

    def fail(*_: Any) -> None:
        raise BlockingIOError  # a child has made the terminal non-blocking

    with monkeypatch.context() as patch:
        patch.setattr(bars.Bar, "show", fail)
        await console.track(bounded_gather(work, [1]), console=terminal.console)
    assert [type(context["exception"]) for context in errors] == [BlockingIOError]
    assert not bars._screens
    await console.track(bounded_gather(work, [1]), "next", console=terminal.console)
    raw = terminal.finish()
    assert "next" in last_frame(raw)
    assert raw.count(HIDE) == raw.count(SHOW) == 2


async def test_a_bar_ends_on_the_file_that_it_began_on(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal.console, "_file", None)
    terminal.console.stderr = True
    monkeypatch.setattr(sys, "stderr", terminal.file)
    async with console.track(bounded_gather(work, [1]), console=terminal.console):
        sys.stderr = io.StringIO()
    assert not bars._screens


async def test_a_cancelled_bar_gives_the_cursor_back(terminal: Terminal) -> None:
    async def fetch_all() -> None:
        batch = bounded_gather(forever, range(5))
        await console.track(batch, console=terminal.console)

    task = asyncio.create_task(fetch_all())
    await asyncio.sleep(0.15)
    task.cancel()
    await asyncio.wait([task])
    raw = terminal.finish()
    assert "5 of 5" in raw
    assert raw.count(HIDE) == raw.count(SHOW) == 1


async def test_an_iteration_that_is_dropped_gives_the_cursor_back(
    terminal: Terminal,
) -> None:
    with pytest.warns(ResourceWarning, match="was dropped while it ran"):
        async for _ in console.track(
            bounded_gather(work, range(1000)), console=terminal.console
        ):
            break
        gc.collect()
    await settle(10)
    raw = terminal.finish()
    assert raw.count(HIDE) == raw.count(SHOW) == 1
    assert not bars._screens


def test_in_a_program_the_bar_is_on_stderr_and_print_goes_where_it_should() -> None:
    code = """
import asyncio
from pyasynclife import bounded_gather
from pyasynclife.console import track

async def work(x):
    await asyncio.sleep(0.15)
    print("item", x)

asyncio.run(track(bounded_gather(work, range(3)), "fetching").collect())
"""
    made = Terminal()
    child = subprocess.run(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=made.file,
        timeout=30,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
        check=False,
    )
    raw = made.finish()
    assert child.returncode == 0, raw
    assert child.stdout == b"item 0\nitem 1\nitem 2\n"
    assert "3 of 3" in last_frame(raw)
    assert SHOW in raw


# ---------------------------------------------------------------- refusals


async def test_only_a_batch_can_be_tracked() -> None:
    result = await bounded_gather(work, [1])
    with pytest.raises(TypeError, match="takes the batch itself"):
        console.track(result)
    coro = work(1)
    with pytest.raises(TypeError, match="takes the batch itself"):
        console.track(coro)
    assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
    batch = bounded_gather(work, [1])
    for interval in (0, -1, "5", None, True):
        with pytest.raises((TypeError, ValueError), match="interval"):
            console.track(batch, interval=interval)
    with pytest.raises(TypeError, match="console"):
        console.track(batch, console=sys.stderr)


def test_without_rich_the_remedy_is_named() -> None:
    code = """
import sys
sys.modules["rich.console"] = None
import pyasynclife
try:
    import pyasynclife.console
except ImportError as error:
    print(error)
"""
    assert "pip install 'pyasynclife[console]'" in run_child(code).stdout
