"""The command line: `python -m pyasynclife COMMAND`."""

import argparse
import asyncio
import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pyasynclife import __version__, run
from pyasynclife._bench import add_bench
from pyasynclife._command_line import (
    INTERRUPTED,
    add_command,
    seconds,
)
from pyasynclife._demo.command import add_demo
from pyasynclife._interrupts import raise_interrupts
from pyasynclife._monitor.command import add_tasks, add_top, monitored
from pyasynclife._run import takes_both

DESCRIPTION = """\
One lifecycle for asyncio tasks: see it under load, run a program with it, and
look into a running one. `COMMAND --help` explains a command.
"""
EXAMPLES = """\
examples:
  python -m pyasynclife demo                    a first look; Ctrl-C ends it
  python -m pyasynclife run service:main --monitor ./service.sock
  python -m pyasynclife top ./service.sock      what its tasks are doing
  python -m pyasynclife tasks ./service.sock --stale
"""
RUN_DESCRIPTION = """\
Import a module and run a function of it with pyasynclife.run(): SIGTERM and
SIGINT shut the program down, in the given time at most. The exit status is 0,
or the int that the function returns.
"""
RUN_EXAMPLES = """\
examples:
  python -m pyasynclife run service:main        main() of ./service.py
  python -m pyasynclife run service:main --shutdown-timeout 10
  python -m pyasynclife run service:main --monitor ./service.sock
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pyasynclife",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"pyasynclife {__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add_demo(commands)
    add_run(commands)
    add_top(commands)
    add_tasks(commands)
    add_bench(commands)
    return parser


def add_run(commands: Any) -> None:
    """Add the command `run` to the parser."""
    command = add_command(
        commands,
        "run",
        run_program,
        help="run an asynchronous function, and end its process by a deadline",
        description=RUN_DESCRIPTION,
        epilog=RUN_EXAMPLES,
    )
    command.add_argument(
        "target",
        metavar="module:main",
        help="an async function that takes nothing, or (coordinator, registry)",
    )
    command.add_argument(
        "--shutdown-timeout",
        type=seconds,
        default=25.0,
        metavar="S",
        help="seconds from the signal to the end of the process; default: 25",
    )
    command.add_argument("--uvloop", action="store_true", help="run on uvloop")
    command.add_argument(
        "--monitor",
        metavar="SOCKET",
        help="serve `top` and `tasks` on this socket: the function must take"
        " (coordinator, registry)",
    )


class TargetError(Exception):
    """There is no such function to run."""


def find_function(target: str) -> Callable[..., Any]:
    """Return the function that ``module:name`` means; the name may have dots.

    Raises:
        TargetError: The text is no such pair, there is no such module or name, or it
            is not a function. An error inside the module propagates as it is.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise TargetError(f"expected module:main, got {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module was found, and imports one that is missing
        raise TargetError(f"there is no module {error.name!r}") from None
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        raise TargetError(f"module {module_name!r} has no {name!r}") from None
    if not callable(found):
        kind = type(found).__name__
        raise TargetError(f"{target} is not a function, but of type {kind}")
    return found


def run_program(given: argparse.Namespace) -> int:
    """Run the function of the command line and return the exit status."""
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if given.uvloop:
        if importlib.util.find_spec("uvloop") is None:
            print("--uvloop needs uvloop: pip install uvloop", file=sys.stderr)
            return 2
        loop_factory = importlib.import_module("uvloop").new_event_loop
    raise_interrupts()
    try:
        function = find_function(given.target)
    except KeyboardInterrupt:
        return INTERRUPTED
    except TargetError as error:
        print(f"python -m pyasynclife run: {error}", file=sys.stderr)
        return 2
    if given.monitor is not None:
        if not takes_both(function):
            print(
                f"python -m pyasynclife run: --monitor shows the tasks of a registry,"
                f" and {given.target} takes none: let it take (coordinator, registry),"
                " or call registry.serve()",
                file=sys.stderr,
            )
            return 2
        function = monitored(function, given.monitor)
    try:
        value = run(
            function,
            shutdown_timeout=given.shutdown_timeout,
            loop_factory=loop_factory,
        )
    except KeyboardInterrupt:  # before run() handles signals, or after that
        return INTERRUPTED
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = build_parser()
    given = parser.parse_args(argv)
    if given.command is None:
        parser.print_help(sys.stderr)
        return 2
    status: int = given.call(given)
    return status


if __name__ == "__main__":
    sys.exit(main())
