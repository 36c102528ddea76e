"""Measure the rows of TaskGroup, register and cancel_all on every CPython there is.

python tools/bench_versions.py [--only 3.13,3.14] [--install]

One version after the other, where tools/pythons.py finds or makes it, and nothing else
beside it. --install lets apt-get install mmdebstrap, which Debian's versions take.
Writes docs/benchmarks-versions.md.
"""

import argparse
import json
import sys
from typing import Any

import pythons
from debian_tree import ROOT, WORK, Unavailable

VERSIONS = sorted(v for v in pythons.VERSIONS if not v.endswith("d"))
ROWS = ["group", "register", "cancel_all"]
PAGE = ROOT / "docs/benchmarks-versions.md"
HEAD = """# The rows of TaskGroup, `register` and `cancel_all`, on every version

Written by `make bench-versions`. How many times faster than the running version's own
`asyncio.TaskGroup`, or than the articles' registry: the ratio of the best rounds, in
brackets the median of the rounds' ratios. A row with `*` is below what we set out to
reach in the best of its rounds. [How to read it](../benchmarks/README.md).
"""


def measure(version: str, may_install: bool) -> list[dict[str, Any]]:
    """The reports of the rows on one version, with where they were taken."""
    place = pythons.find_place(version, may_install)
    print(f"{version}: {pythons.install(place) or 'installed'}", flush=True)
    reports = []
    for row in ROWS:
        print(f"{version}: {row}", flush=True)
        file = "rows.json"
        if place.run("-m", "benchmarks", "--only", row, "--json", file) != 0:
            raise RuntimeError(f"it failed: see {place.log}")
        reports.append(json.loads((place.path / "src" / file).read_text()))
    return reports


def cell(row: dict[str, Any]) -> str:
    (ratio,) = row["ratios"].values()
    mark = " `*`" if row["short"] else ""
    return f"{ratio['best']:.2f} ({ratio['median']:.2f}){mark}"


def write(measured: dict[str, list[dict[str, Any]]]) -> None:
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
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="versions, with commas between", default="")
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
            print(f"{version}: not to be had: {why}", file=sys.stderr)
    if measured:
        write(measured)
        print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
