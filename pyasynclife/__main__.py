"""The command line: `python -m pyasynclife demo`."""

import argparse
import importlib.util
import math
import sys
from collections.abc import Callable, Sequence

from pyasynclife._demo.options import Options


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within bounds, for argparse."""

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
    parser = argparse.ArgumentParser(prog="python -m pyasynclife")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="live market feeds on loopback",
        description="Follow live market feeds from a server in a process of its own.",
    )
    add = demo.add_argument
    add("--symbols", type=integer(1, 10_000), default=500, help="default: 500")
    add(
        "--rate",
        type=integer(0, 10_000_000),
        default=50_000,
        help="updates a second, all symbols together; 0: find the highest that holds;"
        " default: 50000",
    )
    add("--seconds", type=seconds, help="default: 10; with --rate 0: until it is found")
    add("--uvloop", action="store_true", help="run on uvloop")
    add("--plain", action="store_true", help="one line a second, no live table")
    return parser


def missing_packages(options: Options) -> list[str]:
    """Return the names of the packages that this run needs and that are missing."""
    from pyasynclife._demo.view import wants_live_view

    needed = ["websockets"]
    if wants_live_view(options.plain):
        needed.append("rich")
    if options.uvloop:
        needed.append("uvloop")
    return [name for name in needed if importlib.util.find_spec(name) is None]


def demo(options: Options) -> int:
    """Run the demo and return the exit code."""
    if missing := missing_packages(options):
        names = " ".join(missing)
        print(f"the demo needs {names}: pip install {names}", file=sys.stderr)
        return 2
    from pyasynclife._demo.app import allow_sockets, run_demo

    try:
        allow_sockets(options.symbols)
    except ValueError:
        print(
            f"--symbols {options.symbols}: the limit of open files is too low;"
            " see `ulimit -Hn`",
            file=sys.stderr,
        )
        return 2
    try:
        run_demo(options)
    except KeyboardInterrupt:  # before the coordinator handled signals
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    given = build_parser().parse_args(argv)
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


if __name__ == "__main__":
    sys.exit(main())
