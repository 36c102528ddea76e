"""The command `bench`, which runs the benchmarks of a checkout."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyasynclife._command_line import add_command, ends_quietly

ROOT = Path(__file__).parent.parent
DESCRIPTION = """\
Measure pyasynclife on this machine, beside asyncio, workers by hand and the
other libraries that are installed. It takes some minutes; with --quick the
figures are rougher. The benchmarks are in the source distribution and in the
repository, but not in an installed package.
"""
EXAMPLES = """\
examples:
  python -m pyasynclife bench --quick
  python -m pyasynclife bench --quick --plot cost.svg
"""


def add_bench(commands: Any) -> None:
    """Add the command `bench` to the parser."""
    command = add_command(
        commands,
        "bench",
        bench,
        help="measure it beside other libraries, in a checkout",
        description=DESCRIPTION,
        epilog=EXAMPLES,
    )
    command.add_argument(
        "--quick", action="store_true", help="3 rounds instead of 11, less memory"
    )
    command.add_argument(
        "--plot",
        type=_picture,
        metavar="FILE",
        help="draw the cost of an item against the number of items: .svg or .png",
    )


def _picture(text: str) -> Path:
    """Parse the name of a picture that can be written, for argparse."""
    path = Path(text).absolute()
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"must end in .svg or .png, not {text!r}")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return path


@ends_quietly
def bench(given: argparse.Namespace) -> int:
    """Run the benchmarks as the command line says and return their exit status."""
    if not (ROOT / "benchmarks" / "__main__.py").exists():
        print(
            "there are no benchmarks in an installed package: clone the repository "
            "or unpack the source distribution, and run `make bench` there",
            file=sys.stderr,
        )
        return 2
    if given.plot is not None and importlib.util.find_spec("matplotlib") is None:
        print("--plot needs matplotlib: pip install matplotlib", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "benchmarks"]
    command += ["--quick"] if given.quick else []
    if given.plot is not None:
        command += ["--plot", str(given.plot)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode
