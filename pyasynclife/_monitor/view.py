"""`top`: a live table of a process's tasks, for a terminal."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pyasynclife._monitor.answers import ORDERS, ROWS
from pyasynclife._monitor.client import Connection
from pyasynclife._monitor.text import (
    duration,
    lag_line,
    printable,
    shorten,
    summary,
    work_line,
)

SORTS = list(ORDERS)
WORK = 3  # batches and pools shown
STYLES = {"stale": "yellow", "failed": "red", "healthy": "green", "pending": "dim"}
HELP = "q quit  s sort  / filter  g places  ↑↓ select  c cancel"
ARROWS = {"\x1b[A": "up", "\x1b[B": "down", "\x1bOA": "up", "\x1bOB": "down"}


@dataclass
class View:
    """What is on the screen, and what a key changes."""

    sort: str = "silence"
    filter: str = ""
    places: bool = False
    selected: int = 0
    typing: bool = False  # a filter
    asking: str | None = None  # the id of a task to be cancelled after a "y"
    note: str = ""
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The tasks of the last answer."""
        rows: list[dict[str, Any]] = self.answer.get("rows", [])
        return rows

    def press(self, key: str, connection: Connection) -> bool:
        """React to a key; return False if the view is to end.

        Raises:
            MonitorError: The process has ended.
        """
        self.note = ""
        if self.asking is not None:
            task_id, self.asking = self.asking, None
            if key == "y":
                was_alive = connection.cancel(task_id)
                self.note = "cancelled" if was_alive else "it has ended already"
        elif self.typing:
            self._type(key)
        elif key in ("q", "\x03"):
            return False
        elif key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "/":
            self.typing = True
        elif key == "g":
            self.places = not self.places
        elif ARROWS.get(key) == "up":
            self.selected -= 1
        elif ARROWS.get(key) == "down":
            self.selected += 1
        elif key == "c" and self.rows and not self.places:
            self.asking = self.rows[self._place()]["id"]
        return True

    def _type(self, key: str) -> None:
        if key in ("\r", "\n"):
            self.typing = False
        elif key == "\x1b":
            self.typing, self.filter = False, ""
        elif key in ("\x7f", "\b"):
            self.filter = self.filter[:-1]
        elif key.isprintable():
            self.filter += key

    def _place(self) -> int:
        self.selected = max(0, min(self.selected, len(self.rows) - 1))
        return self.selected

    def render(self, width: int, height: int) -> Group:
        """Return the whole screen."""
        process = self.answer.get("process", {})
        program = shorten(str(process.get("program", "")), max(10, width - 40))
        title = f"{program}  pid {process.get('pid')}  Python {process.get('python')}"
        head = [Text(title, style="bold", no_wrap=True)]
        head.append(Text(summary(self.answer.get("stats", {})), no_wrap=True))
        if self.answer.get("lag"):
            head.append(Text(lag_line(self.answer["lag"]), no_wrap=True))
        work = self.answer.get("work", [])
        head += [Text(work_line(one), no_wrap=True) for one in work[:WORK]]
        head.append(Text(self._status(), style="dim", no_wrap=True))
        room = max(1, height - len(head) - 3)
        body = self._places(room) if self.places else self._table(room)
        return Group(*head, body)

    def _status(self) -> str:
        if self.asking is not None:
            return f"cancel '{shorten(self.asking, 60)}'? y / n"
        if self.typing:
            return f"filter: {printable(self.filter)}_   (Enter: done, Esc: none)"
        shown = f"{len(self.rows)} of {self.answer.get('matching', 0)}"
        if self.filter:
            shown += f" with '{shorten(self.filter, 30)}'"
        return f"{self.note or HELP}   {shown}, by {self.sort}"

    def _table(self, room: int) -> Table:
        table = Table(box=None, expand=True, pad_edge=False, header_style="reverse")
        table.add_column("task", ratio=2, no_wrap=True, overflow="ellipsis")
        table.add_column("state", no_wrap=True)
        table.add_column("health", no_wrap=True)
        for name in ("age", "silence", "beats", "restarts"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("waits at", ratio=3, no_wrap=True, overflow="ellipsis")
        place = self._place()
        first = max(0, place - room + 1)
        for number, row in enumerate(self.rows[first : first + room], first):
            table.add_row(
                Text(printable(row["id"])),
                row["state"],
                Text(row["health"], style=STYLES.get(row["health"], "")),
                duration(row["age"]),
                duration(row["silence"]),
                str(row["heartbeats"]),
                str(row["restarts"]),
                Text(_short_line(row["where"])),
                style="on grey30" if number == place else "",
            )
        return table

    def _places(self, room: int) -> Group:
        lines: list[Text] = []
        matching, sampled = (self.answer.get(n, 0) for n in ("matching", "sampled"))
        if sampled < matching:
            lines.append(Text(f"estimated from {sampled} of {matching} tasks", "dim"))
        for group in self.answer.get("groups", ()):
            some = ", ".join(shorten(task_id, 30) for task_id in group["some"])
            lines.append(Text(f"{group['count']} x {some}", "bold", no_wrap=True))
            lines += [
                Text(f"  {printable(line)}", no_wrap=True) for line in group["where"]
            ]
        return Group(*lines[:room])


def _short_line(where: str) -> str:
    """Return "file:line in function" with the last part of the file's path."""
    path, colon, rest = printable(where.strip()).rpartition(":")
    return f"{os.path.basename(path)}{colon}{rest}"


@contextlib.contextmanager
def _keys() -> Iterator[int]:
    """Let keys be read one by one from standard input; yields its descriptor."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _pressed(descriptor: int) -> list[str]:
    """Return the keys that were pressed; an arrow is one key."""
    text = os.read(descriptor, 1024).decode(errors="replace")
    if not text:
        return ["q"]  # the terminal is gone
    keys: list[str] = []
    while text:
        size = 3 if text[:3] in ARROWS else 1
        keys.append(text[:size])
        text = text[size:]
    return keys


def _size() -> ConsoleDimensions:
    width, height = os.get_terminal_size(sys.stdout.fileno())
    return ConsoleDimensions(max(1, width), max(1, height))


def show(connection: Connection, interval: float = 1.0) -> None:
    """Show a live table until the user quits.

    Raises:
        MonitorError: The process has ended, or does not answer.
    """
    console = Console()
    view = View()
    with (
        _keys() as keyboard,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            # Of the terminal: COLUMNS and LINES may be those of another one.
            width, height = console.size = _size()
            view.answer = connection.top(view.sort, view.filter, min(height, ROWS))
            live.update(view.render(width, height), refresh=True)
            if select.select([keyboard], [], [], interval)[0]:
                for key in _pressed(keyboard):
                    if not view.press(key, connection):
                        return
