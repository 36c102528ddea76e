"""What a process does before it is ended: report what still runs, and flush."""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

from pyasynclife._await_chain import await_chain
from pyasynclife._registry import TaskRegistry


def describe_tasks(
    tasks: Iterable[asyncio.Task[Any]], registry: TaskRegistry
) -> list[str]:
    """Describe tasks; those that wait at the same place are described together."""
    places: dict[tuple[str, ...], list[str]] = {}
    for task in tasks:
        meta = registry._find(task)
        name = task.get_name()
        if meta is not None:
            name += f" (age {meta.age:.1f} s, silent {meta.silence:.1f} s)"
        places.setdefault(tuple(await_chain(task)), []).append(name)
    lines = []
    for chain, names in places.items():
        count = f"{len(names)} x " if len(names) > 1 else ""
        more = ", ..." if len(names) > 3 else ""
        lines.append(f"stuck: {count}{', '.join(names[:3])}{more}")
        lines += [f"    {line}" for line in chain]
    return lines


def other_threads() -> list[threading.Thread]:
    """Return the threads that the interpreter waits for at its end."""
    return [
        thread
        for thread in threading.enumerate()
        if not thread.daemon and thread is not threading.main_thread()
    ]


def describe_threads(threads: Iterable[threading.Thread]) -> list[str]:
    """Describe threads: where each of them is."""
    frames = sys._current_frames()
    lines = []
    for thread in threads:
        lines.append(f"thread: {thread.name}")
        frame = frames.get(thread.ident or 0)
        lines += [f"    {line}" for line in _stack(frame)]
    return lines


def _stack(frame: FrameType | None) -> list[str]:
    lines = []
    while frame is not None:
        code = frame.f_code
        lines.append(f"{code.co_filename}:{frame.f_lineno} in {code.co_qualname}")
        frame = frame.f_back
    return lines[::-1]


def flush_everything() -> None:
    """Flush logging and stdio, save coverage, and call the functions of atexit."""
    logging.shutdown()
    _save_coverage()
    atexit._run_exitfuncs()
    flush_stdio()


def _save_coverage() -> None:
    """Save the data of `coverage run`, which does so itself only at a normal end."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and (current := coverage.Coverage.current()) is not None:
        current.save()


def flush_stdio() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or nobody reads it


def print_error(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except (AttributeError, OSError, ValueError):
        pass  # closed, or nobody reads it
