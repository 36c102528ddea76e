"""Measure all rows on two builds of CPython, and write docs/benchmarks/index.md.

python tools/bench_builds.py [--only 3.14,3.13] [--install] [arguments for benchmarks]

The builds are Debian's 3.14, which is optimised, and the 3.13 of this machine, one
after the other. The plots show the first. --install lets apt-get install mmdebstrap,
which makes the tree of Debian's version. A build that is not available is named and
left out.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pythons
from debian_tree import ROOT, WORK, Unavailable

BUILDS = "3.14,3.13"
FOLDER = "plots"  # beside the places of the suite, which may run at the same time


def measure(version: str, may_install: bool, arguments: list[str]) -> Path:
    """Measure on one version; return the path of its report."""
    place = pythons.find_place(version, may_install, FOLDER)
    (WORK / FOLDER).mkdir(exist_ok=True)
    print(f"{version}: {pythons.install(place) or 'installed'}", flush=True)
    if place.run("-m", "pip", "install", "-qq", "--editable", ".[bench]") != 0:
        raise RuntimeError(f"the libraries could not be installed: see {place.log}")
    if place.run("-m", "benchmarks", *arguments, "--json", "rows.json") != 0:
        raise RuntimeError(f"the benchmarks failed: see {place.log}")
    path = place.path / "src/rows.json"
    # The copy of the sources has no history.
    commit = pythons.capture("git", "-C", ROOT, "describe", "--always", "--dirty")
    report = json.loads(path.read_text()) | {"commit": commit or "unknown"}
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def main() -> None:
    """Measure the builds that the command line names, and write the page."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="versions with commas between", default=BUILDS)
    parser.add_argument(
        "--install", help="apt-get may install mmdebstrap", action="store_true"
    )
    options, arguments = parser.parse_known_args()
    WORK.mkdir(exist_ok=True)
    reports = []
    for version in options.only.split(","):
        try:
            reports.append(measure(version, options.install, arguments))
        except Unavailable as why:
            print(f"{version}: not available: {why}", file=sys.stderr)
    if not reports:
        sys.exit("no build is available")
    page = ["-m", "benchmarks.page", ROOT / "docs/benchmarks", *reports]
    subprocess.run([sys.executable, *page], cwd=ROOT, check=True)
    print("docs/benchmarks/index.md")


if __name__ == "__main__":
    main()
