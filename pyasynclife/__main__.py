"""The command line: `python -m pyasynclife COMMAND`."""

import argparse
import asyncio
import functools
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pyasynclife import __version__, run
from pyasynclife._demo.options import Options
from pyasynclife._monitor.command import add_tasks, add_top, monitored
from pyasynclife._run import takes_both


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers between two bounds, for argparse."""

    def parse(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"must be from {low} to {high}, not {value}"
            )
        return value

    parse.__name__ = "whole number"
    return parse


def seconds(text: str) -> float:
    """Parse a positive number of seconds, for argparse."""
    value = float(text)
    if not (value > 0.0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, not {text}")
    return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pyasynclife",
        description="One lifecycle for asyncio tasks. `COMMAND --help` lists options.",
    )
    version = f"pyasynclife {__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    add_demo(commands)
    add_run(commands)
    add_top(commands)
    add_tasks(commands)
    return parser


def add_run(commands: Any) -> None:
    """Add the command `run` to the parser."""
    command = commands.add_parser(
        "run",
        help="run an asynchronous function, and end its process by a deadline",
        description="Import a module and run a function of it with pyasynclife.run():"
        " SIGTERM and SIGINT shut the program down, in the given time at most. The exit"
        " status is 0, or the int that the function returns.",
    )
    command.set_defaults(call=run_program)
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


def add_demo(commands: Any) -> None:
    """Add the command `demo` to the parser."""
    demo = commands.add_parser(
        "demo",
        help="follow live market feeds on loopback",
        description="Follow live market feeds from a server in a separate process.",
    )
    demo.set_defaults(call=run_demo_command)
    add = demo.add_argument
    add("--symbols", type=integer(1, 10_000), default=500, help="default: 500")
    add(
        "--rate",
        type=integer(0, 10_000_000),
        default=50_000,
        help="updates per second, all symbols together; 0: find the highest rate that"
        " can be sustained; default: 50000",
    )
    add(
        "--seconds",
        type=seconds,
        help="default: 10; with --rate 0: until the rate is found",
    )
    add("--uvloop", action="store_true", help="run on uvloop")
    add("--plain", action="store_true", help="one line a second, no live table")


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
    try:
        function = find_function(given.target)
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
    value = run(
        function,
        shutdown_timeout=given.shutdown_timeout,
        loop_factory=loop_factory,
    )
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def missing_packages(options: Options) -> list[str]:
    """Return the names of the packages that this run needs but that are missing."""
    from pyasynclife._demo.view import wants_live_view

    needed = ["websockets"]
    if wants_live_view(options.plain):
        needed.append("rich")
    if options.uvloop:
        needed.append("uvloop")
    return [name for name in needed if importlib.util.find_spec(name) is None]


def demo(options: Options) -> int:
    """Run the demo and return the exit status."""
    if missing := missing_packages(options):
        names = " ".join(missing)
        print(f"the demo needs {names}: pip install {names}", file=sys.stderr)
        return 2
    from pyasynclife._demo.app import allow_sockets, run_demo

    try:
        allow_sockets(options.symbols)
    except ValueError:
        print(
            f"--symbols {options.symbols}: the limit on open files is too low;"
            " see `ulimit -Hn`",
            file=sys.stderr,
        )
        return 2
    try:
        run_demo(options)
    except KeyboardInterrupt:  # before the coordinator handled signals
        return 130
    return 0


def run_demo_command(given: argparse.Namespace) -> int:
    """Run the demo with the options of the command line."""
    default_seconds = 10.0 if given.rate else None
    return demo(
        Options(
            symbols=given.symbols,
            rate=given.rate,
            seconds=given.seconds or default_seconds,
            uvloop=given.uvloop,
            plain=given.plain,
        )
    )


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
