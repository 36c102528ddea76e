"""The commands `top` and `tasks`, and `run --monitor`."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

from pyasynclife._command_line import add_command, ends_quietly
from pyasynclife._interrupts import raise_interrupts
from pyasynclife._monitor.client import MonitorError
from pyasynclife._monitor.process import connect
from pyasynclife._monitor.server import serve
from pyasynclife._monitor.text import summary, table
from pyasynclife._terminal import is_dumb, is_terminal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pyasynclife import SignalCoordinator, TaskRegistry

TARGET = (
    "the socket of TaskRegistry.serve() or `run --monitor`; or, on CPython 3.14 and"
    " newer, the PID of a process of the same user"
)
TOP_DESCRIPTION = """\
Show a live table of the tasks of a running process: state, health, age,
silence, restarts and the place where each one waits, and the lag of its loop.
Keys sort, filter, group by place, and cancel a task after asking. Needs rich
and a terminal.
"""
TOP_EXAMPLES = """\
examples:
  python -m pyasynclife top ./service.sock
  python -m pyasynclife top 4711                on CPython 3.14 and newer
"""
TASKS_DESCRIPTION = """\
List the tasks of a running process, or cancel one. The exit status is 1 if the
process does not answer or no such task is alive.
"""
TASKS_EXAMPLES = """\
examples:
  python -m pyasynclife tasks ./service.sock --stale
  python -m pyasynclife tasks ./service.sock --cancel feed-17
"""


def add_top(commands: Any) -> None:
    """Add the command `top` to the parser."""
    command = add_command(
        commands,
        "top",
        top,
        help="watch the tasks of a running process",
        description=TOP_DESCRIPTION,
        epilog=TOP_EXAMPLES,
    )
    command.add_argument("target", metavar="SOCKET|PID", help=TARGET)


def add_tasks(commands: Any) -> None:
    """Add the command `tasks` to the parser."""
    command = add_command(
        commands,
        "tasks",
        tasks,
        help="list the tasks of a running process",
        description=TASKS_DESCRIPTION,
        epilog=TASKS_EXAMPLES,
    )
    command.add_argument("target", metavar="SOCKET|PID", help=TARGET)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--stale", action="store_true", help="only stale tasks")
    command.add_argument("--cancel", metavar="ID", help="cancel this task")


@ends_quietly
def top(given: argparse.Namespace) -> int:
    """Show the live table until the user quits; return the exit status."""
    if importlib.util.find_spec("rich") is None:
        print("top needs rich: pip install rich", file=sys.stderr)
        return 2
    if not (is_terminal(sys.stdin) and is_terminal(sys.stdout)):
        print("top needs a terminal: use `tasks` instead", file=sys.stderr)
        return 2
    if is_dumb():
        term = os.environ["TERM"]
        print(
            f"top needs a terminal that can move its cursor, and TERM is {term}:"
            " use `tasks` instead",
            file=sys.stderr,
        )
        return 2
    from pyasynclife._monitor.view import show

    raise_interrupts()
    try:
        with closing(connect(given.target)) as connection:
            show(connection)
    except MonitorError as error:
        print(f"python -m pyasynclife top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # one of the two ways to leave the table
        pass
    return 0


@ends_quietly
def tasks(given: argparse.Namespace) -> int:
    """Print the tasks, or cancel one; return the exit status."""
    raise_interrupts()
    try:
        with closing(connect(given.target)) as connection:
            if given.cancel is not None:
                if connection.cancel(given.cancel):
                    return 0
                print(f"no task {given.cancel!r} is alive", file=sys.stderr)
                return 1
            stats, found = connection.tasks(given.stale)
    except MonitorError as error:
        print(f"python -m pyasynclife tasks: {error}", file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({"stats": stats, "tasks": found}))
    else:
        print(summary(stats))
        if found:
            print(table(found))
    return 0


def monitored(
    function: Callable[..., Coroutine[Any, Any, Any]], path: str
) -> Callable[[SignalCoordinator, TaskRegistry], Coroutine[Any, Any, Any]]:
    """Return a function that serves the registry while another one runs.

    Args:
        function: It takes a coordinator and a registry.
        path: The path of the socket.
    """

    async def main(coordinator: SignalCoordinator, registry: TaskRegistry) -> Any:
        async with _serving(registry, path) as error:
            if error is not None:
                print(f"python -m pyasynclife run: --monitor: {error}", file=sys.stderr)
                return 2
            return await function(coordinator, registry)

    return main


@asynccontextmanager
async def _serving(
    registry: TaskRegistry, path: str
) -> AsyncIterator[BaseException | None]:
    """Serve during the block, which gets the error if nobody can serve there."""
    ready = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve([registry], path, ready=lambda: ready.set_result(None)),
        name="pyasynclife serve",
    )
    try:
        await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
        yield serving.exception() if serving.done() else None
    finally:
        serving.cancel()
        await asyncio.wait([serving])
