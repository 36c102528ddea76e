"""The command `demo`."""

import argparse
import importlib.util
import sys
from typing import Any

from pyasynclife._command_line import add_command, ends_quietly, integer, seconds
from pyasynclife._demo.options import Options, wants_live_view

DESCRIPTION = """\
Follow live market feeds on one event loop, to see the package under load.

A server in a second process sends updates over one WebSocket per symbol, drops
some connections and stalls others. Each subscription is a task that sends a
heartbeat with every update, and that TaskRegistry.supervise() starts again when
its connection breaks. A table shows the rate, health, restarts, latency and the
lag of the loop; a pipe, a file or a dumb terminal gets a line a second. Ctrl-C
or SIGTERM ends it with a report.
"""
EXAMPLES = """\
examples:
  python -m pyasynclife demo
  python -m pyasynclife demo --symbols 2000 --rate 20000 --seconds 60 --uvloop
  python -m pyasynclife demo --rate 0     find the highest rate of this machine
"""


def add_demo(commands: Any) -> None:
    """Add the command `demo` to the parser."""
    command = add_command(
        commands,
        "demo",
        demo,
        help="follow 500 live market feeds on this machine",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    add = command.add_argument
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


def missing_packages(options: Options) -> list[str]:
    """Return the names of the packages that this run needs but that are missing."""
    needed = ["websockets"]
    if wants_live_view(options.plain):
        needed.append("rich")
    if options.uvloop:
        needed.append("uvloop")
    return [name for name in needed if importlib.util.find_spec(name) is None]


@ends_quietly
def demo(given: argparse.Namespace) -> int:
    """Run the demo as the command line says and return the exit status."""
    options = Options(
        symbols=given.symbols,
        rate=given.rate,
        seconds=given.seconds or (10.0 if given.rate else None),
        uvloop=given.uvloop,
        plain=given.plain,
    )
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
    run_demo(options)
    return 0
