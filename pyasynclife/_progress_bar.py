"""The bars of `console.track` on a terminal; needs rich."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pyasynclife._results import BatchProgress
from pyasynclife._terminal import is_terminal

_BAR = 40  # characters of a bar, if there is room
_LEAST = 10  # characters that a bar and a description keep as long as possible


def ended(now: BatchProgress) -> int:
    """Return the number of items that have ended, however."""
    return now.started - now.running


def rate(now: BatchProgress) -> float:
    """Return the number of items per second."""
    return ended(now) / now.elapsed if now.elapsed > 0 else 0.0


def figures(now: BatchProgress, *, short: bool = False) -> str:
    """Return the counts and the rate as text."""
    words = f"{ended(now):,}"
    if now.total is not None:
        words += f" of {now.total:,}"
    words += f", {rate(now):,.0f}/s"
    if now.failed:
        words += f", {now.failed:,} failed"
        if now.timed_out and not short:
            words += f" ({now.timed_out:,} timed out)"
    if now.cancelled:
        words += f", {now.cancelled:,} cancelled"
    return words


@dataclass(frozen=True, slots=True)
class _Widths:
    """The width of each part of a line, in characters; 0: the part is left out."""

    description: int
    bar: int
    figures: int
    time: int

    @property
    def total(self) -> int:
        parts = (self.description, self.bar, self.figures, self.time)
        return sum(parts) + sum(map(bool, parts)) - 1


def _fit(room: int, full: _Widths, short: int) -> tuple[_Widths, bool]:
    """Return the widths for a terminal, and whether the figures are the short ones.

    The bar shrinks first, and then the description. If that is not enough, the figures
    get short, and then bar, description and time go.
    """
    description = min(full.description, _LEAST)
    narrowest = [
        _Widths(description, _LEAST, full.figures, full.time),
        _Widths(description, _LEAST, short, full.time),
        _Widths(description, 0, short, full.time),
        _Widths(0, 0, short, full.time),
        _Widths(0, 0, min(short, room), 0),
    ]
    for number, least in enumerate(narrowest):
        spare = room - least.total
        if spare < 0:
            continue
        more = min(spare, full.description - least.description)
        more = more if least.description else 0
        bar = min(full.bar, least.bar + spare - more) if least.bar else 0
        wider = _Widths(least.description + more, bar, least.figures, least.time)
        return wider, number > 0
    raise AssertionError("the last line fits")


class _Progress(Progress):
    """A line for each batch, which never takes a second one."""

    def __init__(self, console: Console) -> None:
        self._console = console  # for the lines that super().__init__() makes
        self._bar = BarColumn()
        self._time = TimeRemainingColumn(elapsed_when_finished=True)
        super().__init__(
            console=console,
            auto_refresh=False,
            # the output of print() goes above the bars, unless it goes to a file
            redirect_stdout=is_terminal(sys.stdout),
            redirect_stderr=is_terminal(sys.stderr),
        )

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        """Make the lines, whose parts are as wide as the terminal allows."""
        lines = [(task, task.fields["now"]) for task in tasks]
        names = [Text(" ".join(task.description.split())) for task, _ in lines]
        times = [self._time.render(task) for task, _ in lines]
        long, short = (
            [Text(figures(now, short=short) if now else "") for _, now in lines]
            for short in (False, True)
        )
        full = _Widths(_widest(names), _BAR, _widest(long), _widest(times))
        widths, is_short = _fit(self._console.width, full, _widest(short))
        self._bar.bar_width = widths.bar
        bars = [self._bar.render(task) for task, _ in lines]
        parts = [
            (widths.description, names),
            (widths.bar, bars),
            (widths.figures, short if is_short else long),
            (widths.time, times),
        ]
        shown = [(width, column) for width, column in parts if width]
        table = Table.grid(padding=(0, 1))
        for width, _ in shown:
            table.add_column(width=width, no_wrap=True, overflow="ellipsis")
        for row in zip(*(column for _, column in shown), strict=True):
            table.add_row(*row)
        return table


def _widest(texts: list[Text]) -> int:
    return max((text.cell_len for text in texts), default=0)


class _Screen:
    """The bars of one terminal, one for each running batch."""

    def __init__(self, console: Console) -> None:
        self.file = console.file  # that of a Console(stderr=True) may change
        self.progress = _Progress(console)
        self.bars = 0


_screens: dict[int, _Screen] = {}  # by the id() of the file


def _screen_of(console: Console) -> _Screen:
    file = console.file
    screen = _screens.get(id(file))
    if screen is None:
        screen = _Screen(console)
        try:
            screen.progress.start()
        except BaseException:
            with contextlib.suppress(Exception):  # the file is broken
                screen.progress.stop()
            raise
        _screens[id(file)] = screen
    return screen


class Bar:
    """Shows a batch as a bar."""

    def __init__(self, console: Console, description: str) -> None:
        self._screen = screen = _screen_of(console)
        screen.bars += 1
        self._task = screen.progress.add_task(description, total=None, now=None)

    def show(self, now: BatchProgress | None, over: bool) -> None:
        """Show the progress, if it is known, for the last time if it is over."""
        progress = self._screen.progress
        if now is not None:
            done = ended(now)
            total = done if over and now.total is None else now.total
            progress.update(
                self._task, completed=done, total=total, now=now, refresh=True
            )
        if over:
            progress.stop_task(self._task)

    def close(self) -> None:
        """Leave the bar on the screen as it is."""
        screen = self._screen
        screen.bars -= 1
        if screen.bars == 0:
            _screens.pop(id(screen.file), None)
            screen.progress.stop()
