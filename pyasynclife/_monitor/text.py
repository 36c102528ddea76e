"""Tasks as lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyasynclife._arguments import counted

COUNTS = ("alive", "pending", "healthy", "stale", "unknown")
TOTALS = ("done", "failed", "cancelled")


def printable(text: str) -> str:
    """Escape what a terminal would take for a command: an id may hold anything."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


def shorten(text: str, width: int) -> str:
    """Return a text with its control characters escaped, of at most so many columns."""
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 1]}…"


def duration(seconds: float | None) -> str:
    """Return seconds as a person reads them: ``0.3 s``, ``2 m 5 s``, ``3 h 20 m``."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    if not hours:
        return f"{minutes} m {rest} s"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} m"


def summary(stats: dict[str, Any]) -> str:
    """Return the counts in one line."""
    now = ", ".join(f"{stats[name]} {name}" for name in COUNTS if stats.get(name))
    ever = ", ".join(f"{stats[name]} {name}" for name in TOTALS if stats.get(name))
    text = f"{now or 'no task alive'}; ended: {ever or 'none'}"
    restarts = stats.get("restarts")
    return f"{text}; restarts: {restarts}" if restarts else text


def table(tasks: Iterable[dict[str, Any]]) -> str:
    """Return a table, one task a line."""
    rows = [("ID", "STATE", "HEALTH", "AGE", "SILENCE", "BEATS", "RESTARTS", "ERROR")]
    rows += [
        (
            shorten(task["task_id"], 60),
            task["state"],
            task["health"],
            duration(task["age"]),
            duration(None if task["finished_at"] else task["silence"]),
            str(task["heartbeats"]),
            str(task.get("restarts", 0)),
            shorten(task["error_text"] or "", 60),
        )
        for task in tasks
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def lag_line(lag: dict[str, Any]) -> str:
    """Return what a LoopWatch has seen in one line."""
    p99 = "more" if lag["p99"] is None else f"{lag['p99'] * 1e3:.1f} ms"
    blocked = lag["blocked"]
    longest = "" if not blocked else f", longest {lag['longest']:.2f} s"
    return f"loop lag p99 {p99}; blocked {counted(blocked, 'time')}{longest}"


def work_line(work: dict[str, Any]) -> str:
    """Return the progress of a batch or a pool in one line."""
    total = "" if work["total"] is None else f" of {work['total']}"
    ended = work["done"] + work["failed"] + work["cancelled"]
    parts = [f"{ended}{total} ended", f"{work['running']} running"]
    parts += [f"{work[n]} {n}" for n in ("failed", "cancelled") if work[n]]
    parts += ["paused"] if work["paused"] else []
    return f"{work['kind']} of {work['limit']}: {', '.join(parts)}"
