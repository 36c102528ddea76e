"""Measure the rows of TaskGroup, register and cancel_all on every available CPython.

python tools/bench_versions.py [--only 3.13,3.14] [--install]

The versions run one after another, where tools/pythons.py finds or makes them, and
nothing else runs at that time. --install lets apt-get install mmdebstrap, which makes
the tree of Debian's versions. Writes docs/benchmarks/versions.md.
"""

import argparse
import json
import sys
from typing import Any

import pythons
from debian_tree import ROOT, WORK, Unavailable

VERSIONS = sorted(v for v in pythons.VERSIONS if not v.endswith("d"))
ROWS = ["group", "register", "cancel_all"]
PAGE = ROOT / "docs/benchmarks/versions.md"
HEAD = """# `TaskGroup`, `register` and `cancel_all` on every version

Written by `make bench-versions`. Each figure says how many times faster ours is than
the running version's own `asyncio.TaskGroup`, or than the `TaskRegistry` that the
article "A Complete Guide to asyncio Task Lifecycle" prints: the ratio of the best
rounds, and in brackets the median of the rounds' ratios. A figure with `*` is below its
target in the best of its rounds. [How to read it](../../benchmarks/README.md).
"""


def measure(version: str, may_install: bool) -> list[dict[str, Any]]:
    """Measure the rows on one version; return the reports, machine included."""
    place = pythons.find_place(version, may_install)
    print(f"{version}: {pythons.install(place) or 'installed'}", flush=True)
    reports = []
    for row in ROWS:
        print(f"{version}: {row}", flush=True)
        file = "rows.json"
        if place.run("-m", "benchmarks", "--only", row, "--json", file) != 0:
            raise RuntimeError(f"the benchmarks failed: see {place.log}")
        reports.append(json.loads((place.path / "src" / file).read_text()))
    return reports


def cell(row: dict[str, Any]) -> str:
    """Return a row's best ratio and median, with a mark if it is below its target."""
    ratio = next(iter(row["ratios"].values()))  # others are of further contenders
    mark = " `*`" if row["short"] else ""
    return f"{ratio['best']:.2f} ({ratio['median']:.2f}){mark}"


def write(measured: dict[str, list[dict[str, Any]]]) -> None:
    """Write the page from the reports of each version."""
    commit = pythons.capture("git", "-C", ROOT, "describe", "--always", "--dirty")
    machine = next(iter(measured.values()))[0]["machine"]
    facts = [f"- commit {commit or 'unknown'}; {machine}"]
    for reports in measured.values():
        where = reports[0]
        facts.append(f"- {where['python']}, {where['date']}")
    parts = [HEAD, *facts]
    for loop in ("asyncio", "uvloop"):
        cells: dict[tuple[str, int], dict[str, str]] = {}
        for version, reports in measured.items():
            for row in (row for report in reports for row in report["rows"]):
                if row["loop"] == loop and row["ratios"]:
                    name = row["what"], row["n"]
                    cells.setdefault(name, {})[version] = cell(row)
        parts += ["", f"## {loop}", "", f"| | n | {' | '.join(measured)} |"]
        parts.append(f"| --- | ---: |{' ---: |' * len(measured)}")
        for (what, n), there in cells.items():
            line = " | ".join(there.get(version, "-") for version in measured)
            parts.append(f"| {what} | {n:,} | {line} |")
    PAGE.write_text("\n".join(parts) + "\n")


def main() -> None:
    """Measure the versions that the command line names, and write the page."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="versions, separated by commas", default="")
    parser.add_argument(
        "--install", help="apt-get may install mmdebstrap", action="store_true"
    )
    options = parser.parse_args()
    measured = {}
    WORK.mkdir(exist_ok=True)
    for version in options.only.split(",") if options.only else VERSIONS:
        try:
            measured[version] = measure(version, options.install)
        except Unavailable as why:
            print(f"{version}: not available: {why}", file=sys.stderr)
    if measured:
        write(measured)
        print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
