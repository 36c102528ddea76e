"""Measure pyasynclife against the articles' code and hand-written workers."""

import argparse
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Row, Settings, row_from_dict, show_progress
from benchmarks.machine import ROOT, describe
from benchmarks.page import write_page
from benchmarks.plots import plot_cost
from benchmarks.report import Report, read_report
from benchmarks.table import render


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="3 rounds instead of 11, less memory"
    )
    parser.add_argument("--loop", choices=["asyncio", "uvloop", "both"], default="both")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows, too")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write page and plots, too"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the cost of an item, too"
    )
    parser.add_argument(
        "--beside", type=Path, metavar="REPORT", action="append", default=[],
        help="a file of --json, from another build, for the page; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, metavar="N", help="instead of 11, or of 3 with --quick"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="multiply every n, for a trial"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only rows with this in their name"
    )
    options = parser.parse_args(arguments)
    if not 0 < options.scale <= 10:
        parser.error(f"--scale must be above 0 and at most 10, got {options.scale}")
    if options.rounds is None:
        options.rounds = 3 if options.quick else 11
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if options.loop == "uvloop" and not has_uvloop():
        parser.error("uvloop is not installed: pip install uvloop")
    return options


def has_uvloop() -> bool:
    return importlib.util.find_spec("uvloop") is not None


def run_loop(settings: Settings) -> list[Row]:
    """Measure in a child process; exit the program if it fails."""
    command = [sys.executable, "-m", "benchmarks.one_loop"]
    done = subprocess.run(
        [*command, json.dumps(asdict(settings))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(
            f"the benchmarks on {settings.loop} failed: exit status {done.returncode}"
        )
    return [row_from_dict(json.loads(line)) for line in done.stdout.splitlines()]


def main() -> None:
    options = parse()
    loops = ["asyncio", "uvloop"] if options.loop == "both" else [options.loop]
    if options.loop == "both" and not has_uvloop():
        print("uvloop is not installed: not measured", file=sys.stderr)
        loops.remove("uvloop")
    where = describe() | {"rounds": str(options.rounds)}
    print("pyasynclife", *(f"{name}: {fact}" for name, fact in where.items()), sep="\n")
    if options.scale != 1:
        where["scale"] = f"{options.scale:g}"
        print(f"scale: {options.scale:g}, to which the targets do not apply")
    measured: dict[str, list[Row]] = {}
    for loop in loops:
        settings = Settings(
            loop, options.rounds, options.quick, options.scale, options.only
        )
        rows = measured[loop] = run_loop(settings)
        if sys.stderr.isatty():
            show_progress("")
        how = f"best of {settings.rounds} rounds (in brackets the median ratio)"
        print(f"\n{loop}, {where['python']}, {how}", render(rows), sep="\n", flush=True)
    report = Report(where, measured)
    if options.plot is not None:
        plot_cost(options.plot, report)
    if options.json is not None:
        report.write(options.json)
    if options.write is not None:
        beside = [read_report(path) for path in options.beside]
        write_page(options.write, [report, *beside])


if __name__ == "__main__":
    main()
