"""Count the instructions per item, ours and others'; hold ours to committed figures.

python tools/instructions.py [--only TEXT] [--check] [--write]

Cachegrind counts each program of tools/counted.py twice, over few and over many items.
The figure is the difference between the two counts, divided by the difference in items,
so one-time costs cancel out. It includes the creation of the item, which takes about
1,700 instructions.

Each program runs in a fresh process with the garbage collector off, PYTHONHASHSEED=0,
only the environment that it needs, and the clock of tools/steady_clock.c. So the
figures depend only on the interpreter, the compiler and the code;
benchmarks/instructions.json has them for each version. Without valgrind, nothing is
counted, and the script succeeds.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from counted import COLUMNS, OURS, ROWS  # also makes benchmarks importable

from benchmarks.counts import write_section
from benchmarks.machine import describe

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "tools"
FIGURES = ROOT / "benchmarks/instructions.json"
FEW, MANY = 1000, 3000  # items
ALLOWED = 1.02  # times the committed figure
CACHEGRIND = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--branch-sim=no"]

Figures = Mapping[str, int]
"""The instructions per item of a row, by column."""


# ------------------------------------------------------------------- counting


def c_compiler() -> list[str]:
    """Return the command of the compiler that builds extensions for this Python."""
    return shlex.split(sysconfig.get_config_var("CC") or "cc")


def build_clock(folder: Path) -> Path:
    """Compile the steady clock into a folder; return the library."""
    library = folder / "steady_clock.so"
    command = [*c_compiler(), "-O2", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(TOOLS / "steady_clock.c")], check=True)
    return library


def run(command: Sequence[str], clock: Path) -> None:
    """Run a command on the steady clock; exit with its output if it fails."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONHASHSEED": "0",
        "LD_PRELOAD": str(clock),
    }
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        failed = f"{shlex.join(command)}: exit status {done.returncode}"
        sys.exit(f"{failed}\n{done.stdout}")


def count(command: Sequence[str], clock: Path) -> int:
    """Return how many instructions a command executes."""
    log = clock.with_name("cachegrind.log")
    files = [f"--log-file={log}", "--cachegrind-out-file=/dev/null"]
    run([*CACHEGRIND, *files, *command], clock)
    return read_count(log.read_text())


def read_count(log: str) -> int:
    """Return the count from cachegrind's log."""
    found = re.search(r"I +refs: +([\d,]+)", log)
    if found is None:
        sys.exit(f"no count in cachegrind's log:\n{log}")
    return int(found[1].replace(",", ""))


def count_per_item(row: str, column: str, clock: Path) -> int:
    """Return the instructions that one more item costs the program of a cell."""
    program = [sys.executable, str(TOOLS / "counted.py"), row, column]
    run([*program, str(FEW)], clock)  # Python has cached its bytecode after this
    few = count([*program, str(FEW)], clock)
    many = count([*program, str(MANY)], clock)
    return round((many - few) / (MANY - FEW))


def count_row(row: str, columns: Iterable[str], clock: Path) -> dict[str, int]:
    """Return the figures of a row, in those of the columns that the row has."""
    there = [column for column in columns if column in ROWS[row]]
    return {column: count_per_item(row, column, clock) for column in there}


# -------------------------------------------------------- committed figures


def read_committed(python: str) -> dict[str, dict[str, int]]:
    """Return the committed figures of a Python, by row; empty if there are none."""
    versions = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    rows: dict[str, dict[str, int]] = versions.get(python, {}).get("rows", {})
    return rows


def write_committed(where: Mapping[str, str], rows: Mapping[str, Figures]) -> None:
    """Write the figures of a Python, and where they were taken, into the file."""
    versions = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    facts = {name: where[name] for name in ("commit", "compiler", "machine")}
    versions[where["python"]] = {**facts, "rows": rows}
    FIGURES.write_text(json.dumps(versions, indent=1, sort_keys=True) + "\n")


def is_above(figures: Figures, committed: Figures) -> bool:
    """Tell whether our figure exceeds the committed one by more than is allowed."""
    return OURS in committed and figures[OURS] > committed[OURS] * ALLOWED


# ---------------------------------------------------------------------- output


def describe_place() -> dict[str, str]:
    """Return commit, Python, compiler and machine, on which the figures depend."""
    command = [*c_compiler(), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {**describe(), "compiler": done.stdout.splitlines()[0]}


def show_line(name: str, cells: Iterable[str], remark: str = "") -> None:
    """Print a line of the table."""
    line = name.ljust(30) + "".join(cell.rjust(12) for cell in cells)
    print(f"{line}  {remark}".rstrip(), flush=True)


def show_row(row: str, figures: Figures, committed: Figures) -> None:
    """Print a row: its figures, and our committed figure with the ratio to it."""
    cells = [f"{figures[c]:,}" if c in figures else "" for c in COLUMNS]
    if OURS in committed:
        ratio = figures[OURS] / committed[OURS]
        cells += [f"{committed[OURS]:,}", f"{ratio:.3f}"]
    remark = "<-- ABOVE" if is_above(figures, committed) else ""
    show_line(row, cells, remark)


def show_head(where: Mapping[str, str], known: bool) -> None:
    """Print where the figures are taken, and the heading of the table."""
    for name in ("commit", "python", "compiler", "machine"):
        print(f"{name}: {where[name]}")
    if not known:
        print(f"{where['python']} has no committed figures: nothing to compare with")
    print()
    show_line("instructions per item", [*COLUMNS, "committed", "ratio"])


# ------------------------------------------------------------------------ main


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how = parser.add_mutually_exclusive_group()
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only rows whose name contains it"
    )
    how.add_argument(
        "--check",
        action="store_true",
        help="count ours alone; fail if a row is more than 2 %% above its figure",
    )
    how.add_argument(
        "--write",
        action="store_true",
        help="replace the committed figures of this Python, and the section of the "
        "page; not with --only",
    )
    options = parser.parse_args(arguments)
    if not any(options.only in row for row in ROWS):
        parser.error(f"no row has {options.only!r}; there are: {'; '.join(ROWS)}")
    if options.write and options.only:
        parser.error("--write replaces all rows: not with --only")
    return options


def count_rows(
    rows: Iterable[str], columns: Iterable[str], committed: Mapping[str, Figures]
) -> dict[str, Figures]:
    """Count the rows and print each when it is ready; return their figures."""
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        clock = build_clock(Path(folder))
        for row in rows:
            figures[row] = count_row(row, columns, clock)
            show_row(row, figures[row], committed.get(row, {}))
    return figures


def main() -> int:
    """Count, print, and write or check the figures; return the exit status."""
    options = parse()
    if shutil.which("valgrind") is None:
        print("valgrind is missing: no instructions counted")
        return 0
    where = describe_place()
    committed = read_committed(where["python"])
    show_head(where, bool(committed))
    rows = [row for row in ROWS if options.only in row]
    figures = count_rows(rows, [OURS] if options.check else COLUMNS, committed)
    if options.write:
        write_committed(where, figures)
        write_section()
    above = [row for row in rows if is_above(figures[row], committed.get(row, {}))]
    return int(options.check and bool(above))


if __name__ == "__main__":
    sys.exit(main())
